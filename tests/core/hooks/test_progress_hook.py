"""What the live display is told."""

from types import SimpleNamespace

import pytest

from mmx.hooks import ProgressHook
from mmx.logging import MessageHub

pytestmark = pytest.mark.usefixtures("isolated")


@pytest.fixture
def runner():
    hub = MessageHub("progress")
    hub.update_info_dict({"epoch": 1, "max_epochs": 3, "eta": 60.0})
    return SimpleNamespace(
        message_hub=hub, epoch=1, iter=100, max_epochs=3, max_iters=300, rank=0,
        train_dataloader=[0] * 10, val_dataloader=[0] * 4, test_dataloader=iter([1]),
        log_processor=SimpleNamespace(by_epoch=True),
    )  # fmt: skip


@pytest.fixture
def hook(runner, monkeypatch):
    hook = ProgressHook(enabled=True)
    monkeypatch.setattr(hook._display, "start", lambda: True)
    hook.before_run(runner)
    return hook


def test_epochs_validations_and_back(hook, runner):
    hook.before_train(runner)
    hook.before_train_epoch(runner)
    hook.after_train_iter(runner, 6)
    progress = hook._read()
    assert (progress.title, progress.done, progress.total) == ("Epoch 2/3", 7, 10)
    hook.before_val(runner)
    hook.after_val_iter(runner, 1)
    progress = hook._read()
    assert (progress.title, progress.done, progress.total) == ("Validation", 2, 4)
    hook.after_val(runner)
    progress = hook._read()
    assert (progress.title, progress.done, progress.total) == ("Epoch 2/3", 7, 10)
    hook.before_test(runner)
    hook.after_test_iter(runner, 0)
    progress = hook._read()
    assert (progress.title, progress.done, progress.total) == ("Test", 1, None)
    hook.after_run(runner)
    assert hook._read().title == ""


def test_training_by_iterations(hook, runner):
    runner.max_epochs, runner.log_processor.by_epoch = 1, False
    hook.before_train(runner)
    hook.before_train_epoch(runner)
    progress = hook._read()
    assert (progress.title, progress.done, progress.total) == ("Training", 100, 300)


def test_numbers_are_those_of_the_last_iterations(hook, runner):
    hub = runner.message_hub
    assert hook._read().rate is None
    for _ in range(3):
        hub.update_scalar("train/time", 0.5)
        hub.update_scalar("train/data_time", 0.1)
        hub.update_scalar("train/lr", 0.01)
        hub.update_row("train/", {"loss": 0.25})
    progress = hook._read()
    assert (progress.rate, progress.left_s) == (2.0, 60.0)
    assert progress.facts["data"] == "20%"
    assert progress.facts["lr"] == "1.000e-02"
    assert "loss" not in progress.facts  # nobody has read it yet
    hub.flush()
    assert hook._read().facts["loss"] == "0.2500"


def test_off_means_off(runner):
    hook = ProgressHook(enabled=False)
    hook.before_run(runner)
    hook.before_train(runner)
    hook.before_train_epoch(runner)
    hook.before_val(runner)
    hook.after_val(runner)
    hook.before_test(runner)
    assert hook._runner is None
    assert hook._total is None
    hook.after_run(runner)


def test_the_rate_is_checked():
    with pytest.raises(ValueError, match="refresh_per_second should be positive, but got 0"):
        ProgressHook(refresh_per_second=0)
