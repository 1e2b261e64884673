"""The command line as a person uses it: real processes, a real terminal, real mistakes."""

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
import torch

MMX = [sys.executable, "-m", "mmx"]
SMALL = ["train_dataloader.dataset.size=640", "train_cfg.max_epochs=2"]


def mmx(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MMX, *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A copy of the toy plugin's config, to make mistakes in."""
    import mmx_toy

    source = Path(mmx_toy.__file__).parent / "configs/two_rings.py"
    target = tmp_path / "mine.py"
    target.write_text(source.read_text())
    return target


@pytest.mark.slow
def test_train_resume_validate_and_test(tmp_path: Path) -> None:
    run = mmx(
        "train",
        "mmx_toy::two_rings.py",
        "--work-dir",
        "run",
        "--seed",
        "3",
        "--cfg-options",
        *SMALL,
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr
    assert "Epoch(train) [1][10/10]" in run.stdout + run.stderr
    assert (tmp_path / "run" / "epoch_2.pth").is_file()

    more = mmx(
        "train",
        "mmx_toy::two_rings.py",
        "--work-dir",
        "run",
        "--seed",
        "3",
        "--resume",
        "--cfg-options",
        SMALL[0],
        "train_cfg.max_epochs=3",
        cwd=tmp_path,
    )
    assert more.returncode == 0, more.stderr
    assert "epoch_2.pth" in more.stdout + more.stderr
    assert (tmp_path / "run" / "epoch_3.pth").is_file()

    whole = mmx(
        "train",
        "mmx_toy::two_rings.py",
        "--work-dir",
        "whole",
        "--seed",
        "3",
        "--cfg-options",
        SMALL[0],
        "train_cfg.max_epochs=3",
        cwd=tmp_path,
    )
    assert whole.returncode == 0, whole.stderr
    resumed, uninterrupted = (
        torch.load(tmp_path / folder / "epoch_3.pth", weights_only=True)["state_dict"]
        for folder in ("run", "whole")
    )
    assert all(torch.equal(resumed[key], value) for key, value in uninterrupted.items())

    checked = mmx("val", "mmx_toy::two_rings.py", "run/epoch_3.pth", cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr
    assert re.search(r"accuracy: \d+\.\d{4}", checked.stdout)


@pytest.mark.slow
def test_a_checkpoint_can_be_looked_into_and_converted(tmp_path: Path) -> None:
    run = mmx(
        "train",
        "mmx_toy::two_rings.py",
        "--work-dir",
        "run",
        "--amp",
        "--cfg-options",
        SMALL[0],
        "train_cfg.max_epochs=1",
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr
    shown = json.loads(mmx("checkpoint", "show", "run/epoch_1.pth", "--json", cwd=tmp_path).stdout)
    assert shown["meta"]["epoch"] == 1
    assert shown["parameters"] == 4482
    assert (
        mmx("checkpoint", "verify", "run/epoch_1.pth", cwd=tmp_path).stdout
        == "run/epoch_1.pth: ok\n"
    )
    converted = mmx("checkpoint", "convert", "run/epoch_1.pth", "weights.safetensors", cwd=tmp_path)
    assert converted.stdout == "weights.safetensors: 6 tensors\n"


def mistake(config: Path, old: str, new: str, *options: str) -> str:
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))
    run = mmx("train", str(config), "--work-dir", "run", *options, cwd=config.parent)
    assert run.returncode != 0
    assert (
        not list((config.parent / "run").glob("*.pth"))
        if (config.parent / "run").exists()
        else True
    )
    return run.stderr


class TestMistakes:
    def test_a_wrong_type(self, config: Path) -> None:
        told = mistake(config, 'type="MLP"', 'type="MPL"')
        assert "model.type" in told or "model:" in told
        assert "MPL" in told
        assert "MLP" in told, "the near name is missing"

    def test_a_wrong_argument(self, config: Path) -> None:
        told = mistake(config, "layers=2", "layer=2")
        assert "layer" in told
        assert "layers" in told
        assert "MLP" in told

    def test_an_incomplete_validation(self, config: Path) -> None:
        told = mistake(config, "val_cfg = dict()\n", "")
        assert "val_cfg" in told
        assert "val_dataloader" in told
        assert "val_evaluator" in told

    def test_what_is_odd_is_told_with_its_line_beside_errors_and_without(
        self, config: Path
    ) -> None:
        config.write_text(config.read_text() + "load_form = None\n")
        line = len(config.read_text().splitlines())
        odd = f"load_form ({config.name}:{line}): this key means nothing to a run; did you mean"
        run = mmx("train", config.name, "--fast-dev-run", "1", cwd=config.parent)
        assert run.returncode == 0, run.stderr
        assert 1 == run.stderr.count(odd) == run.stderr.count("load_form")
        assert odd in mistake(config, "layers=2", "layer=2")

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        run = mmx("train", "nowhere.py", cwd=tmp_path)
        assert run.returncode != 0
        assert "nowhere.py" in run.stderr
        assert "Traceback" not in run.stderr

    def test_a_shipped_config_that_is_misspelled(self, tmp_path: Path) -> None:
        run = mmx("train", "mmx_toy::two_ring.py", cwd=tmp_path)
        assert "mmx_toy::two_rings.py" in run.stderr
        assert "Traceback" not in run.stderr

    def test_a_loss_that_is_not_finite(self, config: Path) -> None:
        told = mistake(
            config,
            'custom_hooks = [dict(type="WeightNormHook")]',
            'custom_hooks = [dict(type="mmx.NonFiniteHook")]',
            "--cfg-options",
            "optim_wrapper.optimizer.lr=1e30",
            *SMALL,
        )
        assert "not finite" in told
        assert "iteration" in told

    def test_a_checkpoint_that_is_not_there(self, tmp_path: Path) -> None:
        run = mmx("test", "mmx_toy::two_rings.py", "nowhere.pth", cwd=tmp_path)
        assert "there is no checkpoint 'nowhere.pth'" in run.stderr

    def test_a_misspelled_command(self, tmp_path: Path) -> None:
        run = mmx("trian", cwd=tmp_path)
        assert run.returncode == 2
        assert "Did you mean 'train'?" in run.stderr


class Terminal:
    """A program on a pseudo-terminal."""

    def __init__(self, arguments: list[str], cwd: Path, columns: int) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(cwd)
            os.environ.update(TERM="xterm-256color", COLUMNS=str(columns))
            os.execv(sys.executable, [*MMX, *arguments])
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self.output = b""

    def read_until(self, pattern: bytes | None, timeout_s: float = 90) -> None:
        deadline = time.monotonic() + timeout_s
        while pattern is None or not re.search(pattern, self.output):
            assert time.monotonic() < deadline, self.output.decode(errors="replace")[-2000:]
            try:
                chunk = os.read(self.fd, 65536)
            except OSError:
                break
            if not chunk:
                break
            self.output += chunk

    def wait(self) -> int:
        self.read_until(None)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    @property
    def lines(self) -> list[str]:
        text = re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", self.output).decode(errors="replace")
        return [line for line in re.split(r"[\r\n]+", text) if line.strip()]


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 200])
def test_a_terminal_shows_progress_and_whole_log_lines(tmp_path: Path, columns: int) -> None:
    terminal = Terminal(
        ["train", "mmx_toy::two_rings.py", "--work-dir", "run", "--cfg-options", *SMALL],
        tmp_path,
        columns,
    )
    assert terminal.wait() == 0
    progress = [line for line in terminal.lines if "it/s" in line]
    assert progress
    assert any("left" in line for line in progress)
    logged = [line for line in terminal.lines if "Epoch(train)" in line]
    assert logged
    assert all(line.startswith(tuple("0123456789")) for line in logged), (
        "a bar and a log line mixed"
    )


@pytest.mark.slow
def test_ctrl_c_ends_cleanly_with_a_checkpoint(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [
            *MMX,
            "train",
            "mmx_toy::two_rings.py",
            "--work-dir",
            "run",
            "--cfg-options",
            "train_cfg.max_epochs=10000",
        ],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if "Epoch(train)" in line:
            break
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130, rest
    assert "Interrupted." in rest
    assert "Traceback" not in rest
    assert list((tmp_path / "run").glob("*.pth"))
    assert (tmp_path / "run" / "last_checkpoint").is_file()


def test_an_import_that_fails_is_told_with_the_config(config: Path) -> None:
    with config.open("a") as file:
        file.write("\ncustom_imports = dict(imports=['no_such_module_of_mine'])\n")
    shown = mmx("config", "show", config.name, cwd=config.parent)
    assert shown.returncode == 1
    assert f"Error: {config.name}: Failed to import custom modules" in shown.stderr
    assert "no_such_module_of_mine" in shown.stderr
    assert "Traceback" not in shown.stderr
