"""Quiet iterations leave behind what iterations with all their calls leave."""

from __future__ import annotations

import copy
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mmx.hooks import Hook, IterTimerHook, ParamSchedulerHook, RuntimeInfoHook
from mmx.logging import MessageHub, MMLogger
from mmx.model import BaseDataPreprocessor, BaseModel
from mmx.runner.quiet import QuietEvaluation, QuietTraining
from mmx.structures import BaseDataElement


class Watcher(Hook):
    """Reads the hub in each iteration, after all other hooks."""

    priority = "LOWEST"

    def __init__(self) -> None:
        self.seen = []
        self.etas = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self._look(runner, ["iter"], ["lr", "data_time"])

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self._look(runner, ["iter"], ["lr", "loss"])
        self.etas.append(runner.message_hub.get_info("eta"))

    def _look(self, runner, facts, scalars):
        hub = runner.message_hub
        found = [hub.get_info(name) for name in facts]
        for name in scalars:
            logs = hub.get_scalar(f"train/{name}").data[0]
            found.append((len(logs), None if "time" in name else float(logs[-1])))
        self.seen.append(found)


class Between(Hook):
    """Stands between the hooks that record, so that nothing is quiet."""

    priority = 30

    def before_train_iter(self, runner, batch_idx, data_batch=None): ...
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None): ...


@pytest.fixture
def quiet(monkeypatch) -> dict[str, list[tuple[int, int]]]:
    """The quiet stretches of all runs of a test: first batch and number of each, by mode."""
    seen: dict[str, list[tuple[int, int]]] = {"train": [], "val": [], "test": []}
    for cls in (QuietTraining, QuietEvaluation):

        def run(self, batches, first, limit, run=cls.run):
            done = run(self, batches, first, limit)
            if done:
                seen[self._mode].append((first, done))
            return done

        monkeypatch.setattr(cls, "run", run)
    return seen


def total(stretches) -> int:
    return sum(done for _, done in stretches)


def watched(make_runner, *others, **changes):
    watcher = Watcher()
    runner = make_runner(custom_hooks=[watcher, *others], **changes)
    runner.train()
    return runner, watcher


def test_quiet_iterations_leave_what_iterations_with_all_calls_leave(make_runner, quiet):
    runner, seen = watched(make_runner)
    number = total(quiet["train"])
    assert number > 0
    loud, expected = watched(make_runner, Between())
    assert total(quiet["train"]) == number
    assert expected.seen == seen.seen
    assert set(loud.message_hub.log_scalars) == set(runner.message_hub.log_scalars)
    assert set(loud.message_hub.runtime_info) == set(runner.message_hub.runtime_info)
    for key, buffer in loud.message_hub.log_scalars.items():
        assert len(buffer) == len(runner.message_hub.log_scalars[key]), key


def test_eta_shrinks_to_nothing(make_runner):
    _, seen = watched(make_runner)
    assert all(eta >= 0 for eta in seen.etas)
    assert seen.etas[0] > 0
    assert seen.etas[-1] == 0


def test_facts_are_right_though_nobody_reads_them_until_the_end(make_runner):
    runner = make_runner()
    runner.train()
    assert runner.iter - 1 == runner.message_hub.get_info("iter")
    assert runner.message_hub.get_info("eta") is not None
    assert not runner.message_hub._late_facts


def test_a_fact_that_was_set_since_is_not_overwritten(make_runner, quiet):
    class Sets(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            runner.message_hub.update_info("eta", -1.0)
            runner.message_hub.update_info("iter", -2)
            assert runner.message_hub.get_info("eta") == -1.0
            assert runner.message_hub.get_info("iter") == -2

    make_runner(custom_hooks=[Sets()]).train()
    assert total(quiet["train"]) > 0


def test_a_hook_that_joins_in_the_middle_takes_part_from_there(make_runner, quiet):
    class Joins(Hook):
        priority = "LOW"

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter == 2:
                runner.register_hook(Between())
            assert runner.message_hub.get_info("iter") == runner.iter
            assert len(runner.message_hub.get_scalar("train/loss").data[0]) == runner.iter + 1
            assert len(runner.message_hub.get_scalar("train/time").data[0]) == runner.iter + 1

    runner = make_runner(custom_hooks=[Joins()])
    runner.train()
    assert [(1, 2)] == quiet["train"]
    assert runner.iter > 3


def test_a_subclass_is_called_as_it_is(make_runner, quiet):
    class Timer(IterTimerHook):
        calls = 0

        def _after_iter(self, runner, batch_idx, data_batch=None, outputs=None, mode="train"):
            super()._after_iter(runner, batch_idx, data_batch, outputs, mode)
            Timer.calls += 1

    runner = make_runner(default_hooks={"timer": Timer()})
    runner.train()
    assert not quiet["train"]
    assert Timer.calls >= runner.iter


def test_a_method_replaced_on_the_instance_is_called(make_runner):
    calls = []
    info = RuntimeInfoHook()
    info.after_train_iter = lambda runner, **kwargs: calls.append(runner.iter)
    runner = make_runner(default_hooks={"runtime_info": info})
    runner.train()
    assert list(range(runner.iter)) == calls


def without_times(text: str) -> str:
    text = re.sub(r"\d\d/\d\d \d\d:\d\d:\d\d|\d{8}_\d{6}\S*", "<when>", text)
    text = re.sub(r"/\S*", "<path>", text)
    return re.sub(r'(eta|time|data_time)("?: )[\d:.e-]+', r"\1\2<t>", text)


def log_of(runner) -> list[str]:
    """The lines of the log that iterations and hooks write, without their times."""
    text = without_times(next(Path(runner.log_dir).glob("*.log")).read_text())
    lines = (line.split("INFO - ")[-1] for line in text.splitlines())
    return [s for s in lines if re.match(r"(Epoch|Iter)\(|Saving|Exp name|step \d", s)]


def remains_of(runner) -> dict[str, Any]:
    """All that a run leaves behind, without what depends on the clock."""
    hub = runner.message_hub
    records = Path(runner.log_dir, "vis_data")
    optimizer = runner.optim_wrapper.state_dict()
    return {
        "weights": {k: v.tolist() for k, v in runner.model.state_dict().items()},
        "optimizer": str(optimizer),
        "inner_count": runner.optim_wrapper.inner_count,
        "scalars": {
            key: len(buffer) if "time" in key else buffer.data[0].tolist()
            for key, buffer in hub.log_scalars.items()
        },
        "facts": {
            k: v for k, v in hub.runtime_info.items() if k in ("iter", "epoch", "loop_stage")
        },
        "records": [without_times(p.read_text()) for p in sorted(records.glob("*.json"))],
        "log": log_of(runner),
        "random": torch.get_rng_state().sum().item(),
    }


class TwoLosses:
    def forward(self, x, y=None, i=None, mode="tensor"):
        out = super().forward(x, y, i, mode)
        if mode == "loss":
            return {
                "loss_a": out["loss"],
                "loss_b": [out["loss"] * 0.5, x.mean() * 0],
                "acc": y.sum(),
            }
        return out


class VectorLoss:
    def forward(self, x, y=None, i=None, mode="tensor"):
        out = super().forward(x, y, i, mode)
        return {"loss": out["loss"] * torch.ones(3)} if mode == "loss" else out


class ReportsInValidation:
    def forward(self, x, y=None, i=None, mode="tensor"):
        if mode == "predict":
            out = super().forward(x, y, i, mode)
            return [*out, BaseDataElement(loss={"loss": torch.tensor(2.0)})]
        return super().forward(x, y, i, mode)


class Elements:
    def forward(self, x, y=None, i=None, mode="tensor"):
        out = super().forward(x, y, i, mode)
        return [BaseDataElement(**one) for one in out] if mode == "predict" else out


class OwnLosses:
    def parse_losses(self, losses):
        total, log_vars = super().parse_losses(losses)
        return total * 2, {**log_vars, "twice": total.detach() * 2}


class Scales(BaseDataPreprocessor):
    def forward(self, data, training=False):
        data = self.cast_data(data)
        return {**data, "x": data["x"] * 2}


class Preprocesses:
    def __init__(self) -> None:
        super().__init__(data_preprocessor=Scales())


class Talks:
    """Writes to the log, and to the message hub and reads it, in the middle of an iteration."""

    steps = 0

    def forward(self, x, y=None, i=None, mode="tensor"):
        hub = MessageHub.get_current_instance()
        if mode == "loss":
            self.steps += 1
            if self.steps % 4 == 2:
                MMLogger.get_current_instance().info(f"step {self.steps}")
            if self.steps % 5 == 3:
                hub.update_scalar("train/own", float(self.steps))
            if self.steps % 6 == 4:
                hub.update_scalars({"train/own": self.steps, "train/other_loss": 0.5})
            if self.steps % 7 == 6:
                mean = hub.get_scalar("train/loss").mean(3)
                hub.update_info(f"train/seen_{self.steps}", float(mean))
                MMLogger.get_current_instance().info(f"step {self.steps}: {mean}")
        return super().forward(x, y, i, mode)


class Meddles(Hook):
    """Replaces parts of the run while it is under way, at the stage and iteration given."""

    def __init__(self, what, stage, at=3, priority="NORMAL") -> None:
        self.what, self.at = what, at
        self.priority = priority
        setattr(self, stage, self._meddle)

    def _meddle(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == self.at:
            self.what(runner)


def doubles_the_loss(runner) -> None:
    model = runner.model
    own = type(model).parse_losses

    def parse_losses(losses):
        total, log_vars = own(model, losses)
        return total * 2, log_vars

    model.parse_losses = parse_losses


def clips(runner) -> None:
    runner.optim_wrapper.clip_func = nn.utils.clip_grad_norm_
    runner.optim_wrapper.clip_grad_kwargs = {"max_norm": 1e-3}


def accumulates(runner) -> None:
    runner.optim_wrapper._accumulative_counts = 2


def steps_half(runner) -> None:
    wrapper = runner.optim_wrapper
    wrapper.step = lambda **kwargs: wrapper._inner_count % 2 or wrapper.optimizer.step()


def hooks_the_model(runner) -> None:
    def halve(module, args, kwargs, output):
        return {"loss": output["loss"] / 2} if isinstance(output, dict) else output

    runner.model.register_forward_hook(halve, with_kwargs=True)


def hooks_the_preprocessor(runner) -> None:
    def halve(module, args, output):
        return {**output, "x": output["x"] / 2}

    runner.model.data_preprocessor.register_forward_hook(halve)


def replaces_forward(runner) -> None:
    own = runner.model.forward
    runner.model.forward = lambda x, **kwargs: own(x * 0.5, **kwargs)


def replaces_the_optimizer(runner) -> None:
    wrapper = runner.optim_wrapper
    wrapper.optimizer = torch.optim.SGD(runner.model.parameters(), lr=0.5)


def freezes(runner) -> None:
    runner.model.norm.eval()


def stops(runner) -> None:
    runner.train_loop.stop_training = True


def registers(runner) -> None:
    runner.register_hook(Meddles(doubles_the_loss, "before_train_iter", at=runner.iter + 2))


def removes(runner) -> None:
    runner.hooks[:] = [h for h in runner.hooks if not isinstance(h, ParamSchedulerHook)]


MEDDLING = [
    doubles_the_loss,
    clips,
    accumulates,
    steps_half,
    hooks_the_model,
    hooks_the_preprocessor,
    replaces_forward,
    replaces_the_optimizer,
    freezes,
    stops,
    registers,
    removes,
]

LOG_EACH = {"logger": {"type": "LoggerHook", "interval": 7, "interval_exp_name": 11}}
LONG = {"default_hooks": LOG_EACH}
BY_ITER = {"type": "IterBasedTrainLoop", "max_iters": 23, "val_interval": 6}
SCHEDULER = {"type": "LinearLR", "start_factor": 0.1, "end": 12}
SGD = {"type": "SGD", "lr": 0.1}
VARIANTS = {
    "plain": {},
    "a line each iteration": {"default_hooks": {"logger": {"type": "LoggerHook", "interval": 1}}},
    "every third": {"default_hooks": {"logger": {"type": "LoggerHook", "interval": 3}}},
    "last line too": {
        "default_hooks": {"logger": {"type": "LoggerHook", "interval": 3, "ignore_last": False}}
    },
    "by iteration": {"train_cfg": BY_ITER},
    "by iteration, begun late": {"train_cfg": {**BY_ITER, "val_begin": 9, "val_interval": 5}},
    "intervals that change": {"train_cfg": {**BY_ITER, "dynamic_intervals": [(10, 3)]}},
    "validation within epochs": {
        "train_cfg": {"by_epoch": True, "max_epochs": 3, "val_every_iters": 2}
    },
    "saves by iteration": {
        "default_hooks": {
            **LOG_EACH,
            "checkpoint": {
                "type": "CheckpointHook",
                "by_epoch": False,
                "interval": 4,
                "save_begin": 6,
            },
        }
    },
    "schedule by iteration": {"param_scheduler": {**SCHEDULER, "by_epoch": False}},
    "schedule by epoch": {"param_scheduler": {**SCHEDULER, "by_epoch": True}},
    "accumulation": {"optim_wrapper": {"optimizer": SGD, "accumulative_counts": 3}},
    "clipping": {"optim_wrapper": {"optimizer": SGD, "clip_grad": {"max_norm": 0.1}}},
    "several groups": {
        "optim_wrapper": {
            "optimizer": SGD,
            "paramwise_cfg": {"bias_lr_mult": 2},
        }
    },
    "average": {"custom_hooks": [{"type": "EMAHook"}]},
    "two losses": {"model": TwoLosses},
    "a loss of elements": {"model": VectorLoss},
    "losses in validation": {"model": ReportsInValidation},
    "data elements": {"model": Elements},
    "own parse_losses": {"model": OwnLosses},
    "own preprocessor": {"model": Preprocesses},
    "talk": {"model": Talks},
    "talk between lines of each iteration": {
        "model": Talks,
        "default_hooks": {"logger": {"type": "LoggerHook", "interval": 1}},
    },
    "dropout": {"dropout": 0.5},
    "validation loss": {"val_cfg": {"with_loss": True}},
}


@pytest.fixture
def run_both(make_runner, monkeypatch, parts):
    """Return a function that runs with quiet iterations and without.

    It returns what each has left. A model is given as what it does otherwise than the usual one.
    """

    def run(changes, hooks=()):
        return _run_both(make_runner, monkeypatch, parts, changes, hooks)

    return run


def _run_both(make_runner, monkeypatch, parts, changes, hooks):
    found = []
    for is_quiet in (True, False):
        own = {**LONG, **copy.deepcopy({k: v for k, v in changes.items() if k != "model"})}
        if "model" in changes:
            torch.manual_seed(7)
            mixin = changes["model"]
            own["model"] = type(mixin.__name__, (mixin, parts.Net), {})()
        own["custom_hooks"] = [*own.get("custom_hooks", ()), *(make() for make in hooks)]
        data, val = parts.loader(68, augment=True), parts.loader(60, seed=1)
        with monkeypatch.context() as patch:
            if not is_quiet:
                for cls in (QuietTraining, QuietEvaluation):
                    patch.setattr(cls, "run", lambda *args: 0)
            runner = make_runner(train_dataloader=data, val_dataloader=val, **own)
            runner.train()
        found.append(remains_of(runner))
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_tells_quiet_iterations_from_others(run_both, quiet, variant):
    found, expected = run_both(VARIANTS[variant])
    assert expected == found
    # More than one learning rate is left to the hook.
    assert (total(quiet["train"]) > 0) == (variant != "several groups")
    assert total(quiet["val"]) > 0


@pytest.mark.parametrize("seconds", [0, 3600])
@pytest.mark.parametrize(
    "variant", ["every third", "talk", "talk between lines of each iteration", "two losses"]
)
def test_lines_are_the_same_however_long_they_wait(run_both, quiet, monkeypatch, variant, seconds):
    for module in ("mmx.logging.logger", "mmx.runner.quiet.base"):
        monkeypatch.setattr(f"{module}.TOGETHER_S", seconds)
    found, expected = run_both(VARIANTS[variant])
    assert expected == found
    assert len(found["log"]) > 10
    assert total(quiet["train"]) > 0


@pytest.mark.parametrize("stage", ["before_train_iter", "after_train_iter"])
@pytest.mark.parametrize("priority", ["HIGHEST", "LOWEST"])
@pytest.mark.parametrize("meddle", MEDDLING)
def test_what_a_hook_replaces_counts_at_once(run_both, quiet, meddle, priority, stage):
    def hook():
        return Meddles(meddle, stage, at=4, priority=priority)

    found, expected = run_both({}, [hook])
    plain, _ = run_both({})
    assert expected == found
    assert total(quiet["train"]) > 0
    assert plain["scalars"] != found["scalars"] or meddle is removes


def test_a_stretch_ends_with_the_data(make_runner, parts, quiet):
    class Short(list):
        """Says that it is longer than it is."""

        def __len__(self):
            return 20

    batches = Short(torch.utils.data.default_collate([one, one]) for one in parts.Points(9))
    model = parts.Net()
    make_runner(**without_val(model=model, train_dataloader=batches, **LONG)).train()
    assert [(1, 8)] == quiet["train"][:1]


def test_records_of_a_long_run_nobody_reads_are_handed_over(make_runner, monkeypatch, parts):
    monkeypatch.setattr("mmx.runner.quiet.base.Quiet.longest", 8)
    hooks = {"logger": None, "checkpoint": None}
    runner = make_runner(train_dataloader=parts.loader(200), **without_val(default_hooks=hooks))
    waiting = []

    class Looks(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            waiting.append(len(runner.message_hub._lanes.get("train/lr", ())))

    runner.register_hook(Looks())
    runner.train()
    assert max(waiting) < 20
    assert 100 == len(runner.message_hub.get_scalar("train/lr").data[0])


class Changing(BaseModel):
    """Losses whose names and kinds change from step to step."""

    def __init__(self, steps) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.steps = iter(steps)

    def forward(self, x, y=None, i=None, mode="tensor"):
        return self.layer(x)

    def train_step(self, data, optim_wrapper):
        loss = self.layer(data["x"]).mean()
        optim_wrapper.update_params(loss)
        return next(self.steps)


def without_val(**changes):
    return {"val_dataloader": None, "val_cfg": None, "val_evaluator": None, **changes}


def test_losses_of_other_names_and_kinds_are_logged(make_runner):
    one = torch.tensor(1.0)
    steps = [{"loss": one}] * 3 + [{"loss": 2.0}] + [{"loss": one, "acc": one * 3}] * 2
    steps += [{"loss": one}] * 2 + [{}, {"loss": one * 5}]
    model = Changing(steps)
    runner = make_runner(
        **without_val(model=model, train_cfg={"type": "IterBasedTrainLoop", "max_iters": 10})
    )
    runner.train()
    hub = runner.message_hub
    assert [1, 1, 1, 2, 1, 1, 1, 1, 5] == hub.get_scalar("train/loss").data[0].tolist()
    assert [3, 3] == hub.get_scalar("train/acc").data[0].tolist()
    assert 10 == len(hub.get_scalar("train/time").data[0])


def test_a_loss_of_several_elements_is_named(make_runner):
    one = torch.tensor(1.0)
    model = Changing([{"loss": one, "b": one}] * 3 + [{"loss": one, "b": torch.ones(2)}])
    runner = make_runner(**without_val(model=model))
    with pytest.raises(ValueError, match="train/b"):
        runner.train()
    assert 3 == len(runner.message_hub.get_scalar("train/loss").data[0])


def test_a_learning_rate_may_become_a_tensor(make_runner):
    class Switch(Hook):
        def before_train_epoch(self, runner):
            if runner.epoch == 1:
                group = runner.optim_wrapper.optimizer.param_groups[0]
                group["lr"] = torch.tensor(0.5)

    runner, seen = watched(make_runner, Switch())
    rates = runner.message_hub.get_scalar("train/lr").data[0].tolist()
    assert runner.iter == len(rates)
    assert 0.5 == rates[-1]
    assert runner.iter * 2 == len(seen.seen)


def test_a_second_training_counts_its_own_iterations(make_runner):
    runner = make_runner()
    runner.train()
    done = runner.iter
    again = make_runner(work_dir=runner.work_dir)
    again.train()
    assert done == again.iter
    assert done == len(again.message_hub.get_scalar("train/time").data[0])


def test_a_hook_registered_in_a_stage_takes_part_in_it_once(make_runner):
    calls = []

    class Late(Hook):
        priority = "VERY_HIGH"

        def before_train(self, runner):
            calls.append("late")

    class Registers(Hook):
        def before_train(self, runner):
            calls.append("registers")
            runner.register_hook(Late())

    make_runner(custom_hooks=[Registers()]).train()
    assert ["registers", "late"] == calls


def test_registering_in_a_stage_of_a_custom_loop_calls_nobody_twice(make_runner):
    calls = []

    class Own(Hook):
        def before_own_stage(self):
            calls.append("own")

    class Registers(Hook):
        priority = "HIGH"

        def before_own_stage(self, runner):
            calls.append("registers")
            runner.register_hook(Between())

    runner = make_runner(custom_hooks=[Own(), Registers()])
    runner.call_hook("before_own_stage")
    assert ["registers", "own"] == calls


def test_times_of_a_validation_are_those_of_its_iterations(make_runner, parts, quiet):
    """Stamps become the same numbers, line by line, as times taken one by one."""
    runner = make_runner(
        val_dataloader=parts.loader(120, seed=1, shuffle=False),
        default_hooks={"logger": {"type": "LoggerHook", "interval": 4}},
    )
    runner.train()
    hub = runner.message_hub
    waits, times = (hub.get_scalar(f"val/{name}").data[0] for name in ("data_time", "time"))
    assert 60 == len(waits) == len(times)
    assert (waits >= 0).all()
    assert (times >= waits).all()
    log = next(Path(runner.log_dir).glob("*.log")).read_text()
    shown = re.findall(r"Epoch\(val\)\s+\[1\]\[ ?(\d+)/30\]  .*time: ([\d.]+)  data_time", log)
    assert [str(n) for n in range(4, 30, 4)] == [n for n, _ in shown]
    for number, text in shown:
        window = times[: int(number)][-10:]
        assert abs(window.mean() - float(text)) < 1e-4


@pytest.mark.parametrize("mode", ["train", "val"])
def test_the_lines_of_a_loop_that_fails_are_written(make_runner, parts, mode):
    class Breaks(parts.Net):
        calls = 0

        def forward(self, x, y=None, i=None, mode="tensor"):
            Breaks.calls += 1
            if Breaks.calls == 20:  # whose line is due
                raise ArithmeticError("broken")
            return super().forward(x, y, i, mode)

    runner = make_runner(
        model=Breaks(),
        train_dataloader=parts.loader(120, seed=1),
        val_dataloader=parts.loader(120, seed=1),
        default_hooks={"logger": {"type": "LoggerHook", "interval": 4}},
    )
    with pytest.raises(ArithmeticError, match="broken"):
        getattr(runner, mode)()
    log = next(Path(runner.log_dir).glob("*.log")).read_text()
    lines = re.findall(rf"\({mode}\)\s*\[\d\]\[ ?(\d+)/30\]", log)
    assert ["4", "8", "12", "16"] == lines
    assert 19 == len(runner.message_hub.get_scalar(f"{mode}/time").data[0])
    if mode == "train":
        records = Path(runner.log_dir, "vis_data", "scalars.json").read_text().splitlines()
        assert [4, 8, 12, 16] == [json.loads(line)["step"] for line in records]
        assert 19 == len(runner.message_hub.get_scalar("train/loss").data[0]) == runner.iter


def test_times_are_right_where_a_line_finds_the_model_changed(make_runner, parts, monkeypatch):
    monkeypatch.setattr("mmx.runner.quiet.base.TOGETHER_S", 0)

    class Changes(parts.Net):
        calls = 0

        def forward(self, x, y=None, i=None, mode="tensor"):
            self.calls += 1
            if self.calls == 9:
                self.register_forward_pre_hook(lambda module, args: None)
                time.sleep(0.3)
            return super().forward(x, y, i, mode)

    runner = make_runner(
        model=Changes(),
        train_dataloader=parts.loader(60, seed=1),
        default_hooks={"logger": {"type": "LoggerHook", "interval": 3}},
        **without_val(),
    )
    runner.train()
    hub = runner.message_hub
    waits, times = (hub.get_scalar(f"train/{name}").data[0] for name in ("data_time", "time"))
    assert max(waits) < 0.3 <= times[8]


def test_a_line_that_cannot_be_recorded_ends_the_run_and_loses_no_number(make_runner, parts):
    runner = make_runner(
        train_dataloader=parts.loader(120, seed=1),
        default_hooks={"logger": {"type": "LoggerHook", "interval": 4}},
        **without_val(),
    )

    def fails(*args, **kwargs):
        raise ArithmeticError("full")

    runner.visualizer.add_scalars = fails
    with pytest.raises(ArithmeticError, match="full"):
        runner.train()
    done = runner.iter
    assert done == len(runner.message_hub.get_scalar("train/loss").data[0])
    assert done == len(runner.message_hub.get_scalar("train/time").data[0])


def test_lines_wait_for_no_longer_than_the_next_message(make_runner, monkeypatch):
    monkeypatch.setattr("mmx.logging.logger.TOGETHER_S", 3600)
    seen = []

    class Reads(Hook):
        priority = "LOWEST"

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if batch_idx == 3:
                runner.logger.info("a message")
                seen.append(next(Path(runner.log_dir).glob("*.log")).read_text())

    runner = make_runner(custom_hooks=[Reads()], **without_val())
    runner.train()
    for epoch, text in enumerate(seen, 1):
        lines = text.splitlines()
        assert f"Epoch(train) [{epoch}][4/5]" in lines[-2]
        assert "a message" in lines[-1]
    records = Path(runner.log_dir, "vis_data", "scalars.json").read_text().splitlines()
    assert [2, 4, 7, 9] == [json.loads(line)["step"] for line in records]
