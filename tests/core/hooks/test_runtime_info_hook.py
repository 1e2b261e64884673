"""What the message hub is told of a run."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mmx.hooks import RuntimeInfoHook
from mmx.logging import MessageHub
from mmx.optim import OptimWrapper, OptimWrapperDict
from mmx.version import __version__

pytestmark = pytest.mark.usefixtures("isolated")


def optim_wrapper(lr=0.01, **kwargs):
    return OptimWrapper(torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=lr), **kwargs)


@pytest.fixture
def runner():
    dataset = SimpleNamespace(metainfo={"classes": ("cat",)})
    return SimpleNamespace(
        message_hub=MessageHub("runtime"),
        cfg=SimpleNamespace(pretty_text="model = dict()"),
        seed=7,
        experiment_name="exp",
        epoch=2,
        iter=9,
        max_epochs=4,
        max_iters=40,
        train_dataloader=SimpleNamespace(dataset=dataset),
        optim_wrapper=optim_wrapper(),
    )


def test_the_run_is_described_at_its_start(runner):
    RuntimeInfoHook().before_run(runner)
    assert dict(runner.message_hub.runtime_info) == {
        "cfg": "model = dict()",
        "seed": 7,
        "experiment_name": "exp",
        "mmx_version": __version__,
    }


def test_training_tells_where_it_is(runner):
    hook, hub = RuntimeInfoHook(), runner.message_hub
    hook.before_train(runner)
    assert dict(hub.runtime_info) == {
        "loop_stage": "train", "epoch": 2, "iter": 9, "max_epochs": 4, "max_iters": 40,
        "dataset_meta": {"classes": ("cat",)},
    }  # fmt: skip
    runner.epoch, runner.iter = 3, 30
    hook.before_train_epoch(runner)
    hook.before_train_iter(runner, 0)
    assert (hub.get_info("epoch"), hub.get_info("iter")) == (3, 30)
    hook.after_train(runner)
    assert hub.get_info("loop_stage") is None


def test_a_data_set_without_metainfo_has_none_to_tell(runner):
    runner.train_dataloader = [1, 2]
    RuntimeInfoHook().before_train(runner)
    assert "dataset_meta" not in runner.message_hub.runtime_info


def test_the_learning_rate_of_every_iteration_is_kept(runner):
    hook = RuntimeInfoHook()
    for lr in (0.1, 0.2, 0.3):
        runner.optim_wrapper.param_groups[0]["lr"] = lr
        hook.before_train_iter(runner, 0)
    assert runner.message_hub.get_scalar("train/lr").data[0].tolist() == [0.1, 0.2, 0.3]


def test_a_loaded_optimizer_state_counts(runner):
    hook = RuntimeInfoHook()
    hook.before_train_iter(runner, 0)
    runner.optim_wrapper.load_state_dict(optim_wrapper(lr=0.5).state_dict())
    hook.before_train_iter(runner, 0)
    assert runner.message_hub.get_scalar("train/lr").data[0].tolist() == [0.01, 0.5]


def test_several_optimizers_have_several_rates(runner):
    runner.optim_wrapper = OptimWrapperDict(gen=optim_wrapper(0.1), disc=optim_wrapper(0.2))
    RuntimeInfoHook().before_train_iter(runner, 0)
    found = {k: b.current() for k, b in runner.message_hub.log_scalars.items()}
    assert found == {"train/gen.lr": 0.1, "train/disc.lr": 0.2}


def test_a_wrapper_of_ones_own_is_asked(runner):
    class Own(OptimWrapper):
        def get_lr(self):
            return {"lr": [0.7], "other_lr": [0.9]}

    runner.optim_wrapper = Own(runner.optim_wrapper.optimizer)
    RuntimeInfoHook().before_train_iter(runner, 0)
    assert set(runner.message_hub.log_scalars) == {"train/lr", "train/other_lr"}
    runner.optim_wrapper = SimpleNamespace(get_lr=lambda: [0.1])
    with pytest.raises(TypeError, match=r"should return a dict of learning rate .* got list"):
        RuntimeInfoHook().before_train_iter(runner, 0)


def test_losses_reach_the_hub(runner):
    hook = RuntimeInfoHook()
    hook.after_train_iter(runner, 0, outputs={"loss": torch.tensor(0.5), "acc": 0.25})
    hook.after_train_iter(runner, 1, outputs=None)
    hub = runner.message_hub
    assert hub.get_scalar("train/loss").current() == 0.5
    assert hub.get_scalar("train/acc").data[0].tolist() == [0.25]
    with pytest.raises(TypeError, match="'train/loss': a logged value should be"):
        hook.after_train_iter(runner, 0, outputs={"loss": "x"})


@pytest.mark.parametrize("mode", ["val", "test"])
def test_metrics_are_numbers_or_facts(runner, mode):
    metrics = {
        "a": 1, "b": np.float32(3), "d": torch.tensor(1.0), "h": np.ones(1), "g": True,
        "c": [1], "e": torch.ones(2), "f": "s", "i": None, "j": np.ones(2),
    }  # fmt: skip
    record = getattr(RuntimeInfoHook(), f"after_{mode}_epoch")
    record(runner, metrics=metrics)
    record(runner)
    hub = runner.message_hub
    assert list(hub.log_scalars) == [f"{mode}/{name}" for name in "abdhg"]
    assert list(hub.runtime_info) == [f"{mode}/{name}" for name in "cefij"]


def test_stages_are_nested(runner):
    hook, hub = RuntimeInfoHook(), runner.message_hub
    stages = []
    hook.before_train(runner)
    hook.before_val(runner)
    stages.append(hub.get_info("loop_stage"))
    hook.after_val(runner)
    stages.append(hub.get_info("loop_stage"))
    hook.after_train(runner)
    hook.before_test(runner)
    stages.append(hub.get_info("loop_stage"))
    hook.after_test(runner)
    assert stages == ["val", "train", "test"]
    assert hub.get_info("loop_stage") is None
