"""When checkpoints are saved, and what the hook needs of a runner."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from mmx.hooks import CheckpointHook
from mmx.logging import MessageHub

pytestmark = pytest.mark.usefixtures("isolated")


def _stand_in(tmp_path: Path) -> Any:
    runner = Mock(epoch=9, iter=9, max_epochs=20, max_iters=20, work_dir=str(tmp_path))
    runner.message_hub = MessageHub("checkpoints")
    return runner


def test_a_stand_in_for_the_runner_is_enough_to_save(tmp_path: Path) -> None:
    hook, runner = CheckpointHook(interval=2, max_keep_ckpts=1), _stand_in(tmp_path)
    hook.before_train(runner)
    hook.after_train_epoch(runner)
    assert str(tmp_path / "epoch_10.pth") == runner.message_hub.get_info("last_ckpt")
    assert "Saving checkpoint at 10 epochs" == runner.logger.info.call_args.args[0]
    assert hook.file_client is hook.file_backend


def test_the_best_checkpoint_can_be_resumed(tmp_path: Path) -> None:
    hook, runner = CheckpointHook(interval=2, save_best="acc"), _stand_in(tmp_path)
    hook.before_train(runner)
    hook.after_val_epoch(runner, {"acc": 0.5})
    options = runner.save_checkpoint.call_args.kwargs
    assert "best_acc_epoch_9.pth" == options["filename"]
    assert options["save_optimizer"] is options["save_param_scheduler"] is True
    hook.after_val_epoch(runner, {})
    assert "`metrics` is an empty dict" in runner.logger.warning.call_args.args[0]
