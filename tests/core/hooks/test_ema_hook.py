"""Averages kept while training. What is saved and loaded is compared with MMEngine's, too, in
tests/contract/model."""

from __future__ import annotations

import types

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from mmx.checkpoint import CheckpointLoader
from mmx.cli.checkpoint_cmd import command
from mmx.evaluator import BaseMetric
from mmx.hooks import EMAHook
from mmx.model import BaseModel, averaged_state_dict, source_state_dict
from mmx.runner import Runner
from mmx.testing.distributed import run_distributed


class Net(BaseModel):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.linear = nn.Linear(2, 3)
        self.norm = nn.BatchNorm1d(3)
        self.seen = []

    def forward(self, x, mode="tensor"):
        out = self.norm(self.linear(x))
        if mode == "loss":
            return {"loss": out.square().mean()}
        self.seen.append({k: v.clone() for k, v in self.state_dict().items()})
        return [out]


class Count(BaseMetric):
    default_prefix = "x"

    def process(self, data_batch, data_samples):
        self.results.append(1)

    def compute_metrics(self, results):
        return {"count": len(results)}


def data():
    torch.manual_seed(5)
    return [{"x": torch.randn(2)} for _ in range(12)]


def loader(shuffle=False):
    return dict(
        dataset=data(),
        batch_size=4,
        sampler=dict(type="DefaultSampler", shuffle=shuffle),
        collate_fn=dict(type="default_collate"),
    )


def make_runner(work_dir, *, epochs=2, ema=None, name="run", val=True, **options):
    hooks = [] if ema is False else [dict(type="EMAHook", momentum=0.3, **(ema or {}))]
    if val:
        options |= dict(val_dataloader=loader(), val_cfg={}, val_evaluator=Count())
    return Runner(
        model=Net(),
        work_dir=str(work_dir),
        train_dataloader=loader(True),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.5, momentum=0.9)),
        custom_hooks=hooks,
        default_hooks=dict(logger=None, runtime_info=None, timer=None),
        randomness=dict(seed=1),
        experiment_name=name,
        **options,
    )


def states_differ(a, b):
    return [key for key in a if not torch.equal(a[key], b[key])]


def hook_of(runner):
    return next(hook for hook in runner.hooks if isinstance(hook, EMAHook))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two epochs with an average, and one without."""
    from mmx.testing.isolation import isolate

    root = tmp_path_factory.mktemp("ema")
    with isolate():
        runner = make_runner(root / "with", name="with")
        runner.train()
        make_runner(root / "without", ema=False, name="without").train()
    return runner, root


def load(file):
    return CheckpointLoader.load_checkpoint(str(file), "cpu", logger="silent")


def test_checkpoints_hold_the_average_as_weights_and_the_weights_beside_it(trained):
    runner, root = trained
    checkpoint = load(root / "with" / "epoch_2.pth")
    assert states_differ(runner.model.state_dict(), source_state_dict(checkpoint)) == []
    average = hook_of(runner).ema_model
    assert states_differ(average.module.state_dict(), averaged_state_dict(checkpoint)) == []
    assert checkpoint["ema_state_dict"]["steps"].item() == 6
    assert states_differ(checkpoint["state_dict"], source_state_dict(checkpoint))


def test_the_average_does_not_change_training(trained):
    runner, root = trained
    assert (
        states_differ(runner.model.state_dict(), load(root / "without/epoch_2.pth")["state_dict"])
        == []
    )


def test_validation_sees_the_average(trained):
    runner, root = trained
    seen = runner.model.seen[-1]
    assert states_differ(load(root / "with" / "epoch_2.pth")["state_dict"], seen) == []


def test_validating_after_training_still_sees_the_average(tmp_path):
    runner = make_runner(tmp_path)
    runner.train()
    weights = {k: v.clone() for k, v in runner.model.state_dict().items()}
    runner.val()
    assert states_differ(hook_of(runner).ema_model.module.state_dict(), runner.model.seen[-1]) == []
    assert states_differ(weights, runner.model.state_dict()) == []


@pytest.mark.parametrize("explicitly", [False, True])
def test_a_resumed_run_ends_with_the_same_weights_and_average(trained, tmp_path, explicitly):
    straight = make_runner(tmp_path / "straight", epochs=4, name="straight")
    straight.train()
    _, root = trained
    file = str(root / "with" / "epoch_2.pth")
    if explicitly:
        resumed = make_runner(tmp_path / "resumed", epochs=4, name="resumed")
        resumed.resume(file)
    else:
        resumed = make_runner(tmp_path / "r", epochs=4, name="r", resume=True, load_from=file)
    resumed.train()
    assert states_differ(straight.model.state_dict(), resumed.model.state_dict()) == []
    ours, theirs = (hook_of(r).ema_model.state_dict() for r in (straight, resumed))
    assert states_differ(ours, theirs) == []


def test_a_checkpoint_without_an_average_can_be_resumed_with_one(trained, tmp_path, capsys):
    _, root = trained
    file = root / "without" / "epoch_2.pth"
    runner = make_runner(tmp_path, epochs=2, resume=True, load_from=str(file))
    runner.train()  # which has ended: only loads
    assert "There is no `ema_state_dict` in checkpoint." in capsys.readouterr().out
    weights = load(file)["state_dict"]
    assert states_differ(weights, runner.model.state_dict()) == []
    assert states_differ(weights, hook_of(runner).ema_model.module.state_dict()) == []


def test_resuming_an_average_without_the_hook_warns(trained, tmp_path, capsys):
    _, root = trained
    file = str(root / "with" / "epoch_2.pth")
    make_runner(tmp_path / "bare", epochs=2, ema=False, resume=True, load_from=file).train()
    assert "this run has no `EMAHook`" in capsys.readouterr().out
    make_runner(tmp_path / "hook", epochs=2, resume=True, load_from=file).train()
    assert "this run has no `EMAHook`" not in capsys.readouterr().out


@pytest.mark.parametrize("ema", [None, False])
@pytest.mark.parametrize("origin", ["with", "without"])
def test_loaded_weights_are_what_is_validated(trained, tmp_path, ema, origin):
    _, root = trained
    file = root / origin / "epoch_2.pth"
    runner = make_runner(tmp_path, ema=ema, load_from=str(file))
    runner.val()
    assert states_differ(load(file)["state_dict"], runner.model.seen[-1]) == []


def test_a_resumed_validation_sees_the_average(trained, tmp_path):
    _, root = trained
    file = root / "with" / "epoch_2.pth"
    runner = make_runner(tmp_path, resume=True, load_from=str(file))
    runner.val()
    assert states_differ(load(file)["state_dict"], runner.model.seen[-1]) == []


def test_bare_weights_can_be_loaded(trained, tmp_path):
    _, root = trained
    weights = load(root / "without" / "epoch_2.pth")["state_dict"]
    torch.save({f"module.{key}": value for key, value in weights.items()}, tmp_path / "bare.pth")
    runner = make_runner(tmp_path, load_from=str(tmp_path / "bare.pth"))
    runner.val()
    assert states_differ(weights, runner.model.seen[-1]) == []


@pytest.mark.parametrize("option", [None, "--ema", "--raw"])
def test_averaged_weights_are_exported_unless_the_others_are_asked_for(trained, tmp_path, option):
    runner, root = trained
    target = tmp_path / "weights.pth"
    arguments = ["convert", str(root / "with" / "epoch_2.pth"), str(target)]
    result = CliRunner().invoke(command, arguments + ([option] if option else []))
    assert result.exit_code == 0, result.output
    kept = runner.model if option == "--raw" else hook_of(runner).ema_model.module
    assert states_differ(kept.state_dict(), load(target)["state_dict"]) == []


def test_a_checkpoint_without_an_average_has_none_to_export(trained, tmp_path):
    _, root = trained
    source = str(root / "without" / "epoch_2.pth")
    result = CliRunner().invoke(command, ["convert", source, str(tmp_path / "x.pth"), "--ema"])
    assert result.exit_code == 1
    assert "holds no averaged weights (no 'ema_state_dict')" in result.output


# Sharded over ranks ---------------------------------------------------------------------------


def train_sharded(directory, strategy):
    """Train for two epochs, and for two more after resuming; return whole states."""
    from mmx.runner.checkpointing import _strategy

    options = dict(
        ema={"update_buffers": True},
        launcher="pytorch",
        strategy=strategy,
        env_cfg=dict(dist_cfg=dict(backend="gloo")),
    )
    make_runner(directory, name="first", **options).train()
    resumed = make_runner(directory, name="second", epochs=4, resume=True, **options)
    resumed.train()
    loaded = make_runner(directory, name="third", load_from=f"{directory}/epoch_4.pth", **options)
    loaded.val()
    shards = {type(p).__name__ for p in hook_of(resumed).ema_model.module.parameters()}
    return {
        "shards": sorted(shards),
        "trained": {k: v.tolist() for k, v in _strategy(resumed).model_state_dict().items()},
        "loaded": {k: v.tolist() for k, v in _strategy(loaded).model_state_dict().items()},
    }


def test_sharded_models_are_averaged_like_whole_ones(tmp_path):
    results = {}
    for name in ("FSDPStrategy", "DDPStrategy"):
        ranks = run_distributed(train_sharded, 2, str(tmp_path / name), dict(type=name), init=False)
        file = load(tmp_path / name / "epoch_4.pth")
        results[name] = (ranks[0], file["state_dict"], file["ema_state_dict"])
        assert ranks[0]["loaded"] == {k: v.tolist() for k, v in file["state_dict"].items()}
    sharded, whole = results.values()
    assert (sharded[0]["shards"], whole[0]["shards"]) == (["DTensor"], ["Parameter"])
    for ours, theirs in ((sharded[1], whole[1]), (sharded[2], whole[2])):
        assert list(ours) == list(theirs)
        for key in ours:
            torch.testing.assert_close(ours[key], theirs[key], msg=key)


# Without a runner -----------------------------------------------------------------------------


def stub(net, **more):
    return types.SimpleNamespace(
        **(dict(model=net, iter=0, epoch=0, max_iters=20, max_epochs=4, _resume=False) | more)
    )


def step(hook, runner, value):
    with torch.no_grad():
        for param in runner.model.parameters():
            param.fill_(value)
    hook.after_train_iter(runner, 0)
    return hook.ema_model.module.weight.item()


def test_averaging_begins_with_the_iteration_that_is_named():
    hook, runner = EMAHook(momentum=0.5, begin_iter=3), stub(nn.Linear(1, 1))
    hook.before_run(runner)
    seen = []
    for runner.iter in range(5):
        seen.append(step(hook, runner, float(runner.iter)))
    # Copies up to the third iteration, whose update is the first; averages from the fourth.
    assert seen == [0, 1, 2, 2.5, 3.25]


def test_averaging_begins_with_the_epoch_that_is_named():
    hook, runner = EMAHook(momentum=0.5, begin_epoch=2), stub(nn.Linear(1, 1))
    hook.before_run(runner)
    counts = []
    for i in range(4):
        runner.epoch = i // 2
        step(hook, runner, 1.0)
        counts.append(int(hook.ema_model.steps))
    assert counts == [0, 0, 1, 2]


def test_weights_that_were_initialised_after_the_run_began_are_taken_over():
    hook, runner = EMAHook(), stub(nn.Linear(1, 1))
    hook.before_run(runner)
    nn.init.constant_(runner.model.weight, 9.0)
    hook.before_train(runner)
    assert hook.ema_model.module.weight.item() == 9
    hook.before_val_epoch(runner)
    assert runner.model.weight.item() == 9


def test_a_checkpoint_of_a_swapped_model_has_the_same_layout():
    hook, runner = EMAHook(momentum=0.5), stub(nn.Linear(1, 1, bias=False))
    hook.before_run(runner)
    step(hook, runner, 1.0)
    step(hook, runner, 3.0)
    for swapped in (False, True):
        if swapped:
            hook.before_val_epoch(runner)
        checkpoint = {"state_dict": runner.model.state_dict()}
        hook.before_save_checkpoint(runner, checkpoint)
        assert checkpoint["state_dict"]["weight"].item() == 2
        assert checkpoint["ema_state_dict"]["module.weight"].item() == 3
    hook.abort_val(runner)
    hook.abort_val(runner)
    assert runner.model.weight.item() == 3


def test_a_wrapped_model_is_averaged_without_its_wrapper():
    net = nn.Linear(1, 1)
    hook, runner = EMAHook(), stub(nn.DataParallel(net))
    hook.before_run(runner)
    assert hook.src_model is net
    assert list(hook.ema_model.state_dict()) == ["steps", "module.weight", "module.bias"]


def test_strict_loading_insists_on_every_entry():
    for strict in (False, True):
        hook, runner = EMAHook(strict_load=strict), stub(nn.Linear(1, 1), _resume=True)
        hook.before_run(runner)
        checkpoint = {
            "state_dict": {"weight": torch.ones(1, 1)},
            "ema_state_dict": {"steps": torch.tensor(1), "module.weight": torch.ones(1, 1) * 2},
        }
        if strict:
            with pytest.raises(RuntimeError, match=r"module\.bias"):
                hook.after_load_checkpoint(runner, checkpoint)
        else:
            hook.after_load_checkpoint(runner, checkpoint)
            assert checkpoint["state_dict"]["weight"].item() == 2
            assert hook.ema_model.module.weight.item() == 1
    hook, runner = EMAHook(strict_load=True), stub(nn.Linear(1, 1))
    hook.before_run(runner)
    with pytest.raises(RuntimeError, match="missing keys in source state_dict: bias"):
        hook.after_load_checkpoint(runner, {"state_dict": {"weight": torch.ones(1, 1)}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(begin_iter=-1), "`begin_iter` must be larger than or equal to 0.*begin_iter: -1"),
        (dict(begin_epoch=-1), "`begin_epoch` must be larger than or equal to 0"),
        (dict(begin_iter=1, begin_epoch=1), "should not be both set"),
    ],
)
def test_a_wrong_beginning_is_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        EMAHook(**options)


def test_a_beginning_after_the_end_is_an_error():
    runner = stub(nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"runner.max_iters: 20, but got begin_iter: 21"):
        EMAHook(begin_iter=21).before_train(runner)
    with pytest.raises(ValueError, match=r"runner.max_epochs: 4, but got begin_epoch: 5"):
        EMAHook(begin_epoch=5).before_train(runner)
