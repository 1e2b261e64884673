"""The live display, in a real pseudo-terminal."""

import functools
import io
import os
import re
import subprocess
import sys

import pytest

from mmx.logging import terminal
from mmx.logging.live import LiveProgress, Progress, format_rate, format_seconds

pty = pytest.importorskip("pty", reason="pseudo-terminals are a matter of Unix")

# Trains a few slow steps, so that the display is drawn several times between log lines.
SCRIPT = """
import sys, time
from types import SimpleNamespace
from mmx.hooks.progress_hook import ProgressHook
from mmx.logging import MessageHub, MMLogger

hub, logger = MessageHub.get_instance('live'), MMLogger.get_instance('live')
runner = SimpleNamespace(
    message_hub=hub, logger=logger, epoch=0, iter=0, max_epochs=3, max_iters=30,
    train_dataloader=[0] * 10, val_dataloader=[0] * 4, test_dataloader=[0] * 4,
    log_processor=SimpleNamespace(by_epoch=True))
hub.update_info_dict({'epoch': 0, 'max_epochs': 3, 'eta': 3725.0})
hook = ProgressHook(refresh_per_second=20)
print('enabled', hook.enabled)
hook.before_run(runner)
try:
    hook.before_train(runner)
    hook.before_train_epoch(runner)
    for i in range(10):
        time.sleep(0.04)
        hub.update_scalar('train/time', 0.04)
        hub.update_scalar('train/data_time', 0.01)
        hub.update_scalar('train/lr', 0.001)
        hub.update_scalar('train/loss', 0.5)
        if hook.enabled:
            hook.after_train_iter(runner, i)
        if i % 5 == 4:
            logger.info(f'line {i} ' + 'x' * 100)
            print('a print of the user')
    hook.before_val(runner)
    time.sleep(0.1)
    hook.after_val(runner)
    if 'fail' in sys.argv:
        raise ValueError('broken')
finally:
    hook.after_run(runner)
logger.info('after')
"""


@functools.cache  # starting Python takes seconds
def run_in_terminal(columns, *arguments):
    """Return what a program writes to a terminal of a width, and its exit status."""
    import fcntl
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    env = {**os.environ, "TERM": "xterm-256color"}
    env.pop("NO_COLOR", None)
    env.pop("COLUMNS", None)
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments], stdout=slave, stderr=slave, env=env
    ) as process:
        os.close(slave)
        parts = []
        while True:
            try:
                part = os.read(master, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            parts.append(part)
        status = process.wait()
    os.close(master)
    return b"".join(parts).decode(), status


def screen(text, columns):
    """Return what stays on a screen after all cursor movements: a terminal in 30 lines."""
    rows, row, column = [[]], 0, 0
    for token in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|.", text):
        if token == "\r":
            column = 0
        elif token == "\n":
            row += 1
        elif token.startswith("\x1b["):
            if token.endswith("A"):
                row = max(row - int(token[2:-1] or 1), 0)
            elif token == "\x1b[2K":
                rows[row] = []
            continue
        else:
            if column == columns:
                row, column = row + 1, 0
            while len(rows) <= row:
                rows.append([])
            rows[row] += [" "] * (column + 1 - len(rows[row]))
            rows[row][column] = token
            column += 1
        while len(rows) <= row:
            rows.append([])
    return ["".join(line).rstrip() for line in rows]


@pytest.mark.parametrize("columns", [80, 200])
def test_lines_and_display_never_mix(columns):
    text, status = run_in_terminal(columns)
    assert status == 0
    left = "".join(screen(text, columns))
    # Only lines remain, whole and in order; the display is gone.
    assert left.startswith("enabled True")
    for number in (4, 9):
        assert f"line {number} " + "x" * 100 + "a print of the user" in left
    assert left.endswith("INFO - after")
    assert "it/s" not in left
    assert "\x1b[?25h" in text  # the cursor is back


def test_display_shows_what_matters_in_80_columns():
    text, _ = run_in_terminal(80)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert re.search(r"Epoch 1/3 .*\d+/10 25\.0 it/s 1:02:05 left", plain)
    for fact in ("data 25%", "loss 0.5000", "lr 1.000e-03", "memory "):
        assert fact in plain
    assert re.search(r"Validation .*0/4", plain)
    drawn = [line for line in re.split(r"[\r\n]", plain) if "it/s" in line or "data 25%" in line]
    assert drawn
    assert all(len(line) <= 80 for line in drawn)


def test_a_failing_run_leaves_the_terminal_in_order():
    text, status = run_in_terminal(80, "fail")
    assert status == 1
    assert "ValueError: broken" in text
    assert "it/s" not in "".join(screen(text, 80))
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


@pytest.mark.parametrize(
    ("variable", "value", "enabled"),
    [("MMX_PROGRESS", "0", False), ("TERM", "dumb", False), ("MMX_PROGRESS", "1", True)],
)
def test_the_display_can_be_switched_off(monkeypatch, variable, value, enabled):
    from mmx.hooks.progress_hook import ProgressHook

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("MMX_PROGRESS", raising=False)
    monkeypatch.setenv(variable, value)
    hook = ProgressHook()
    assert hook.enabled is enabled
    # What is off takes part in no iteration.
    assert ("after_train_iter" in vars(hook)) is enabled


def test_files_get_plain_lines():
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "enabled False"
    assert "\x1b" not in result.stdout
    assert re.fullmatch(r"\d\d/\d\d [\d:]{8} - mmx - INFO - line 4 x{100}", lines[1])
    assert lines[2] == "a print of the user"


def test_one_display_owns_the_terminal(capsys):
    from rich.console import Console

    def display():
        console = Console(file=io.StringIO(), force_terminal=True, width=80)
        return LiveProgress(lambda: Progress("x", 1, 2), console=console), console

    (first, console), (second, _) = display(), display()
    assert first.start()
    assert first.start()
    try:
        assert not second.start()
        second.stop()
        assert terminal.live_display() is first
        terminal.write("above\n")
    finally:
        first.stop()
        first.stop()
    assert terminal.live_display() is None
    assert "above" in console.file.getvalue()
    terminal.write("plain\n")
    assert capsys.readouterr().out == "plain\n"


def test_unknown_totals_and_rates_are_shown_as_such():
    from rich.console import Console

    console = Console(file=io.StringIO(), width=60)
    live = LiveProgress(lambda: Progress("Training", 7), console=console)
    console.print(live._render())
    assert re.search(r"Training .* 7 - it/s -:--:-- left", console.file.getvalue())


def test_facts_that_do_not_fit_are_left_out():
    from rich.console import Console

    console = Console(file=io.StringIO(), width=40)
    facts = {"loss": "0.1234", "lr": "1e-3", "memory": "x" * 40}
    live = LiveProgress(lambda: Progress("E", 1, 2, facts=facts), console=console)
    console.print(live._render())
    out = console.file.getvalue()
    assert "loss 0.1234  lr 1e-3" in out
    assert "memory" not in out


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-:--:--"), (-1, "-:--:--"), (5, "0:00:05"), (3725, "1:02:05"), (90061, "1d 1:01:01")],
)
def test_durations(seconds, text):
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("rate", "text"),
    [(None, "- it/s"), (0, "- it/s"), (0.25, "4.0 s/it"), (12.34, "12.3 it/s"), (5e3, "5000 it/s")],
)
def test_rates(rate, text):
    assert format_rate(rate) == text
