"""``mmx launch``: ranks that are started, watched, stopped and started anew."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner

from mmx.cli.launch_cmd import with_launcher
from mmx.cli.main import cli

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))
from launching import assert_equal, ended, ends_of_ranks, folder_of, result, start

sys.path.pop(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(tmp_path_factory.mktemp("launch"))


def launch(folder: Path, work: str, *options: str, trouble: str = "") -> tuple[int, str]:
    ends_of_ranks(folder)
    return ended(start(folder, work, "--nproc", "2", *options, TROUBLE=trouble))


@pytest.fixture(scope="module")
def whole(folder: Path) -> dict[str, torch.Tensor]:
    code, said = launch(folder, "whole", "--all-ranks")
    assert 0 == code, said
    # torch has nothing to warn of on any rank, at the end neither, as of a group that is still open.
    assert "" == said
    assert ["closed", "closed"] == ends_of_ranks(folder)
    return result(folder, "whole")


@pytest.mark.slow
def test_a_killed_rank_is_started_anew_and_ends_with_the_same_bits(folder, whole) -> None:
    code, said = launch(folder, "killed", "--max-restarts", "1", trouble="KILL")
    assert 0 == code, said
    assert "mmx launch: " in said
    assert "will restart worker group" in said
    assert_equal(whole, result(folder, "killed"))


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["TERM one", "TERM all"])
def test_a_terminated_run_saves_exits_143_and_resumes_exactly(folder, whole, trouble) -> None:
    work = trouble.replace(" ", "-")
    code, said = launch(folder, work, trouble=trouble)
    assert 143 == code, said
    assert "Traceback" not in said
    assert ["closed", "closed"] == ends_of_ranks(folder)
    assert not (folder / work / "iter_24.pth").exists()
    code, said = launch(folder, work)
    assert 0 == code, said
    assert_equal(whole, result(folder, work))


@pytest.mark.slow
def test_the_first_error_is_shown_once_and_the_others_follow(folder) -> None:
    code, said = launch(folder, "failed", "--log-dir", "logs", trouble="raise")
    assert 1 == code
    # The other one may have been ended by torchrun's agent before it could tell.
    assert {"closed"} <= set(ends_of_ranks(folder)) <= {"closed", ""}
    assert 1 == said.count("ZeroDivisionError: in the hook\nat epoch")
    assert "\nrank 1 failed:\nTraceback" in said
    assert said.rstrip().endswith(
        "then rank 0 stopped: PeerError: rank 1 failed: ZeroDivisionError: in the hook"
    )
    assert list((folder / "logs").glob("*/attempt_0/1/stderr.log"))


def test_runs_get_the_launcher() -> None:
    extra = ["--cfg-options", "launcher=pytorch"]
    assert ["train", "c.py", *extra] == with_launcher(("train", "c.py"))
    assert ["test", "c.py", "x.pth", *extra] == with_launcher(("mmx", "test", "c.py", "x.pth"))
    given = ["train", "c.py", "--launcher", "pytorch"]
    assert given == with_launcher(tuple(given))
    assert ["plugins", "list"] == with_launcher(("plugins", "list"))
    with pytest.raises(click.UsageError, match="but the command says 'slurm'"):
        with_launcher(("train", "c.py", "--launcher=slurm"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--nnodes", "2"], "--nnodes needs --rdzv-endpoint HOST:PORT"),
        (["--node-rank", "1"], "--node-rank is of use with --nnodes and --rdzv-endpoint only"),
        (["--nproc", "many"], "many"),
    ],
)
def test_options_that_do_not_fit_are_errors(options: list[str], message: str) -> None:
    result = CliRunner().invoke(cli, ["launch", *options, "train", "c.py"])
    assert 2 == result.exit_code
    assert message in result.output
