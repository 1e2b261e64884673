"""``mmx launch``: ranks that are started, watched, stopped and started anew."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from mmx.cli import launch_cmd
from mmx.cli.launch_cmd import with_launcher
from mmx.cli.main import cli
from mmx.dist import PeerError, failures

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


def failure(folder: Path, rank: int, code: int, error: Exception | None = None, at: int = 50):
    """Return how a rank ended, as torchrun's agent hands it on, with what the rank noted."""
    file = folder / f"error-{rank}.json"
    if error is not None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
            patch.setenv("RANK", str(rank))
            patch.setattr(failures.time, "time", lambda: 1_000_000.0 + at)
            failures.record_for_launcher(error)
    return ProcessFailure(local_rank=rank, pid=100 + rank, exitcode=code, error_file=str(file))


FOLLOWS = PeerError([1], "rank 1 failed: ValueError: no\nOn rank 1: …")


@pytest.mark.parametrize(
    ("ranks", "code", "said"),
    [
        pytest.param(
            {0: (1, FOLLOWS, 10), 1: (1, ValueError("no"), 20)},
            1,
            ["rank 1 failed:", "ValueError: no", "then rank 0 stopped: PeerError: rank 1 failed: ValueError: no"],
            id="the cause before what follows from it, whatever the times",
        ),
        pytest.param(
            {0: (1, ValueError("late"), 20), 1: (3, KeyError("early"), 10), 2: (1, FOLLOWS, 5)},
            3,
            ["rank 1 failed:", "KeyError: 'early'", "rank 0 then failed:", "ValueError: late",
             "then rank 2 stopped: PeerError: rank 1 failed: ValueError: no"],
            id="the earliest of several causes",
        ),
        pytest.param(
            {0: (-15, None, 0), 1: (-9, None, 0), 2: (143, None, 0)},
            137,
            ["rank 1 failed: killed by SIGKILL (process 101)"],
            id="not those that were stopped because of it",
        ),
        pytest.param(
            {0: (1, FOLLOWS, 10), 1: (7, None, 0)},
            7,
            ["rank 1 failed: exit code 7 (process 101)",
             "then rank 0 stopped: PeerError: rank 1 failed: ValueError: no"],
            id="one that ended without a word",
        ),
        pytest.param({0: (143, None, 0), 1: (-15, None, 0)}, 143, [], id="as asked for"),
        pytest.param({0: (-2, None, 0), 1: (130, None, 0)}, 130, [], id="by Ctrl-C"),
        pytest.param(
            {0: (-15, ValueError("no"), 0), 1: (-15, None, 0)},
            1,
            ["rank 0 failed:", "ValueError: no"],
            id="one that had failed when it was stopped",
        ),
    ],
)  # fmt: skip
def test_errors_are_reported_with_the_cause_first(
    ranks: dict, code: int, said: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {rank: failure(tmp_path, rank, *how) for rank, how in ranks.items()}
    assert code == launch_cmd._report(ChildFailedError("mmx", found), tmp_path)
    shown = capsys.readouterr().err.splitlines()
    assert said == [line for line in shown if line]


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
