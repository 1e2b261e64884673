"""The runner: arguments, properties, hooks, building, running, checkpoints."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from torch import nn

from mmx.config import Config
from mmx.evaluator import Evaluator
from mmx.hooks.hook import Hook
from mmx.logging import MessageHub, MMLogger, print_log
from mmx.optim import OptimWrapper, OptimWrapperDict
from mmx.registry import HOOKS, LOOPS, MODELS, RUNNERS, DefaultScope
from mmx.runner import BaseLoop, LogProcessor, Runner
from mmx.runner.spec import RunnerValueErrors
from mmx.visualization import Visualizer

NO_VAL = {"val_dataloader": None, "val_cfg": None, "val_evaluator": None}
NO_TRAIN = {"train_dataloader": None, "train_cfg": None, "optim_wrapper": None}


# Arguments ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("absent", "others"),
    [
        ("train_cfg", "train_dataloader and optim_wrapper"),
        ("optim_wrapper", "train_dataloader and train_cfg"),
        ("val_evaluator", "val_dataloader and val_cfg"),
        ("val_cfg", "val_dataloader and val_evaluator"),
    ],
)
def test_an_incomplete_triplet_says_which_part_is_missing_and_how_to_mend_it(
    make_runner, absent, others
):
    with pytest.raises(ValueError, match="should be either all None or not None") as info:
        make_runner(**{absent: None})
    text = str(info.value)
    assert f"{absent} is None while {others} are set" in text
    assert f"Either also give {absent}=dict(" in text


def test_an_incomplete_triplet_of_a_config_names_the_files_that_set_the_others(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)  # files are named from here
    (tmp_path / "base.py").write_text(
        "model = dict(type='Net')\nval_dataloader = dict(dataset=3)\n"
    )
    file = tmp_path / "config.py"
    file.write_text("_base_ = 'base.py'\nwork_dir = '.'\n\nval_cfg = dict()\n")
    with pytest.raises(ValueError, match="val_evaluator is None while") as info:
        Runner.from_cfg(Config.fromfile(file))
    assert "(val_dataloader by base.py:2, val_cfg by config.py:4)" in str(info.value)
    # In code there is no file.
    with pytest.raises(ValueError, match=r"are set\. Either also give val_evaluator="):
        Runner.from_cfg(dict(Config.fromfile(file)._cfg_dict))


def test_all_wrong_arguments_are_reported_together_before_anything_is_built(tmp_path):
    with pytest.raises(ValueError, match="4 arguments of the runner are wrong") as info:
        Runner(
            model=3,
            work_dir=tmp_path / "never",
            val_cfg={},
            launcher="nobody",
            param_scheduler="StepLR",
        )
    assert isinstance(info.value, RunnerValueErrors)
    text = str(info.value)
    for part in (
        "model should be a nn.Module object or dict, but got 3",
        "val_dataloader and val_evaluator are None",
        "param_scheduler should be None when optim_wrapper is None",
        "Invalid launcher type: 'nobody'",
    ):
        assert part in text
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"model": 3}, TypeError, "model should be a nn.Module object or dict, but got 3"),
        ({"model": {"layers": 3}}, ValueError, "model is a dict without the key 'type'"),
        ({"param_scheduler": "x"}, TypeError, "`param_scheduler` should be a `_ParamScheduler`"),
        ({"param_scheduler": {"a": 1}}, TypeError, "Each value of `param_scheduler` should be"),
        ({"param_scheduler": [{"a": 1}]}, ValueError, "should contain the key type"),
        ({"default_hooks": [1]}, TypeError, "default_hooks should be a dict"),
        ({"custom_hooks": {"type": "Hook"}}, TypeError, "custom_hooks should be a list"),
        ({"custom_hooks": [3]}, TypeError, "hook should be an instance of Hook or dict"),
        ({"randomness": {"sed": 1}}, TypeError, "randomness takes seed, .* but it has sed"),
        ({"launcher": "abc"}, ValueError, "Invalid launcher type: 'abc'"),
        ({"log_processor": 3}, TypeError, "log processor should be a LogProcessor object or dict"),
        ({"visualizer": 3}, TypeError, "visualizer should be Visualizer object, a dict or None"),
        ({"cfg": 3}, TypeError, "cfg should be a Config, a dict or None"),
        ({"train_cfg": {"max_epochs": 1}}, KeyError, "train_cfg needs 'by_epoch'"),
        ({"train_cfg": {"by_epoch": True, "type": "X"}}, RuntimeError, "Only one of `type` or"),
        ({"auto_scale_lr": {"enable": True}}, ValueError, "Lack of `base_batch_size`"),
        ({"strategy": 3}, TypeError, "strategy should be a strategy object or a dict"),
    ],
)
def test_a_wrong_argument_is_an_error_that_says_what_is_expected(make_runner, change, error, text):
    with pytest.raises(error, match=text):
        make_runner(**change)


def test_an_unknown_argument_of_a_loop_lists_those_it_has(make_runner):
    runner = make_runner(train_cfg={"by_epoch": True, "max_epoch": 2, "max_epochs": 2})
    with pytest.raises(TypeError, match="max_epoch") as info:
        runner.train()
    assert any("train_cfg takes max_epochs, val_begin" in note for note in info.value.__notes__)


def test_arguments_are_copied(make_runner, parts):
    train_cfg, loader = {"by_epoch": True, "max_epochs": 1}, parts.loader()
    wrapper = {"optimizer": {"type": "SGD", "lr": 0.1}}
    before = [dict(train_cfg), dict(loader), {"optimizer": dict(wrapper["optimizer"])}]
    make_runner(train_cfg=train_cfg, train_dataloader=loader, optim_wrapper=wrapper).train()
    assert before == [train_cfg, loader, wrapper]


def test_a_config_is_copied_and_not_changed(tmp_path, parts):
    MODELS.register_module("RunnerTestNet", force=True, module=parts.Net)
    cfg = Config(
        dict(
            model=dict(type="RunnerTestNet"),
            work_dir=str(tmp_path),
            train_cfg=dict(by_epoch=True, max_epochs=1),
            train_dataloader=parts.loader(),
            optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
            experiment_name="named",
        )
    )
    keys, train_cfg = sorted(cfg), dict(cfg.train_cfg)
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert (sorted(cfg), dict(cfg.train_cfg)) == (keys, train_cfg)
    assert runner.experiment_name.startswith("named_")
    assert runner.cfg is not cfg


def test_a_misspelled_key_of_a_config_warns_with_the_near_name(tmp_path, parts):
    cfg = dict(model=parts.Net(), work_dir=str(tmp_path), custom_hook=[], dataset_type="X")
    with pytest.warns(UserWarning, match="'custom_hook' is not used .* 'custom_hooks'"):
        Runner.from_cfg(cfg)


def test_a_config_without_a_model_says_so(tmp_path):
    with pytest.raises(KeyError, match="the config has no 'model'"):
        Runner.from_cfg({"work_dir": str(tmp_path)})


def test_the_data_preprocessor_goes_into_a_models_dict(tmp_path, parts):
    MODELS.register_module("RunnerTestNet", force=True, module=parts.Net)
    given = nn.Identity()
    runner = Runner(dict(type="RunnerTestNet"), str(tmp_path), data_preprocessor=given)
    assert runner.model.data_preprocessor is given


# Properties ---------------------------------------------------------------------------------


def test_properties_before_and_after_training(make_runner):
    runner = make_runner(experiment_name="exp")
    assert (runner.epoch, runner.iter) == (0, 0)
    assert (runner.max_epochs, runner.max_iters) == (2, 10)
    assert (runner.val_interval, runner.val_begin) == (1, 1)
    assert (runner.rank, runner.world_size, runner.distributed) == (0, 1, False)
    assert (runner.launcher, runner.deterministic, runner.seed) == ("none", False, 3)
    assert runner.model_name == "Net"
    assert runner.experiment_name == f"exp_{runner.timestamp}"
    assert os.path.join(runner.work_dir, runner.timestamp) == runner.log_dir
    assert isinstance(runner.logger, MMLogger)
    assert isinstance(runner.message_hub, MessageHub)
    assert isinstance(runner.visualizer, Visualizer)
    assert isinstance(runner.log_processor, LogProcessor)
    runner.train()
    assert (runner.epoch, runner.iter) == (2, 10)
    assert isinstance(runner.val_evaluator, Evaluator)
    assert runner.train_dataloader is runner.train_loop.dataloader


def test_parts_that_were_not_given_are_none(make_runner):
    runner = make_runner(**NO_TRAIN, **NO_VAL)
    for name in ("train_loop", "val_loop", "test_loop", "train_dataloader", "val_dataloader"):
        assert getattr(runner, name) is None
    for name in ("test_dataloader", "val_evaluator", "test_evaluator"):
        assert getattr(runner, name) is None
    assert 0 == runner.max_epochs == runner.max_iters
    assert runner.val_interval is runner.val_begin is None


def test_loops_and_loaders_are_built_on_first_use(make_runner):
    runner = make_runner()
    assert isinstance(runner._train_loop, dict)
    assert isinstance(runner._val_loop, dict)
    loop = runner.train_loop
    assert isinstance(loop, BaseLoop)
    assert runner.train_loop is loop
    assert isinstance(runner._val_loop, dict)


def test_the_work_directory_holds_config_log_and_checkpoints(make_runner, tmp_path):
    runner = make_runner(work_dir=tmp_path / "w", cfg={"some": dict(key=1)})
    runner.train()
    files = sorted(os.listdir(tmp_path / "w"))
    assert files == sorted(
        [
            runner.timestamp,
            f"{runner.timestamp}.py",
            "epoch_1.pth",
            "epoch_2.pth",
            "last_checkpoint",
        ]
    )
    log = (tmp_path / "w" / runner.timestamp / f"{runner.timestamp}.log").read_text()
    assert "Epoch(train) [2][4/5]" in log
    assert "System environment" in log


# Hooks --------------------------------------------------------------------------------------


class Low(Hook):
    priority = "LOW"


def test_hooks_are_ordered_by_priority_and_then_by_registration(make_runner):
    runner = make_runner(custom_hooks=[Low(), dict(type=Low, priority=5), dict(type=Low)])
    kinds = [(type(hook).__name__, hook.priority) for hook in runner.hooks]
    assert kinds[0] == ("Low", 5)
    assert kinds[-4:] == [
        ("ParamSchedulerHook", "LOW"),
        ("Low", "LOW"),
        ("Low", "LOW"),
        ("CheckpointHook", "VERY_LOW"),
    ]


def test_the_priority_given_at_registration_wins(make_runner):
    runner = make_runner()
    runner.register_hook(dict(type=Low, priority="HIGH"), priority="HIGHEST")
    assert isinstance(runner.hooks[0], Low)
    runner.register_hook(Low(), priority=100)
    assert isinstance(runner.hooks[-1], Low)


def test_default_hooks_can_be_left_out_replaced_and_joined(make_runner):
    runner = make_runner(
        default_hooks=dict(
            timer=None, checkpoint=dict(type="CheckpointHook", interval=7), mine=Low()
        )
    )
    kinds = [type(hook).__name__ for hook in runner.hooks]
    assert "IterTimerHook" not in kinds
    assert "Low" in kinds
    assert next(h for h in runner.hooks if type(h).__name__ == "CheckpointHook").interval == 7


@pytest.mark.parametrize("hook", [3, "Hook", None])
def test_registering_anything_but_a_hook_is_an_error(make_runner, hook):
    with pytest.raises(TypeError, match="hook should be an instance of Hook or dict"):
        make_runner().register_hook(hook)


def test_a_hook_registered_by_name_is_built(make_runner):
    HOOKS.register_module("RunnerTestLow", force=True, module=Low)
    assert any(
        isinstance(h, Low) for h in make_runner(custom_hooks=[dict(type="RunnerTestLow")]).hooks
    )


def test_a_misspelled_hook_method_warns_when_the_hook_is_registered(make_runner):
    class Typo(Hook):
        def after_train_itre(self, runner, batch_idx): ...

    with pytest.warns(UserWarning, match="did you mean 'after_train_iter'"):
        make_runner(custom_hooks=[Typo()])


def test_call_hook_reaches_stages_of_ones_own_and_ignores_unknown_ones(make_runner):
    calls = []

    class Extra(Hook):
        def before_valloader2_iter(self, runner, batch_idx):
            calls.append((runner, batch_idx))

    class Earlier(Hook):
        priority = "HIGH"

        def before_valloader2_iter(self, runner, batch_idx):
            calls.append("earlier")

    runner = make_runner(custom_hooks=[Extra(), Earlier()])
    runner.call_hook("before_valloader2_iter", batch_idx=4)
    runner.call_hook("a_stage_that_nobody_has")
    assert calls == ["earlier", (runner, 4)]


def test_an_argument_that_a_hook_does_not_take_is_an_error_that_names_the_hook(make_runner):
    class Strict(Hook):
        def before_run(self, runner): ...

    runner = make_runner(custom_hooks=[Strict()])
    with pytest.raises(TypeError, match="unexpected keyword argument 'unknown'"):
        runner.call_hook("before_run", unknown=1)


def test_a_hook_may_register_another_one_during_the_run(make_runner):
    calls = []

    class Second(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            calls.append(runner.iter)

    class First(Hook):
        def before_train(self, runner):
            runner.register_hook(Second())

    make_runner(custom_hooks=[First()]).train()
    assert calls == list(range(10))


# Building -----------------------------------------------------------------------------------


def test_build_optim_wrapper_accepts_all_documented_forms(make_runner):
    runner = make_runner()
    sgd = torch.optim.SGD(runner.model.parameters(), lr=0.1)
    built = runner.build_optim_wrapper(dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=1)))
    assert isinstance(built, OptimWrapper)
    assert runner.build_optim_wrapper(built) is built
    assert runner.build_optim_wrapper(dict(optimizer=sgd)).optimizer is sgd
    several = runner.build_optim_wrapper(dict(a=built, b=OptimWrapper(sgd)))
    assert isinstance(several, OptimWrapperDict)
    with pytest.raises(
        TypeError, match="optimizer wrapper should be an OptimWrapper object or dict"
    ):
        runner.build_optim_wrapper(3)
    with pytest.raises(ValueError, match="each item must be an optimizer object when"):
        runner.build_optim_wrapper(dict(a=3))


def test_build_param_scheduler_accepts_all_documented_forms(make_runner):
    runner = make_runner()
    with pytest.raises(RuntimeError, match="`build_optim_wrapper` should be called before"):
        runner.build_param_scheduler(dict(type="MultiStepLR", milestones=[1]))
    one = dict(type="MultiStepLR", milestones=[1])
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    built = runner.build_param_scheduler(one)
    assert len(built) == 1
    assert built[0].end == 2
    assert runner.build_param_scheduler(built[0]) == built
    by_iter = runner.build_param_scheduler([one, dict(type="LinearLR", by_epoch=False)])
    assert by_iter[1].end == 10
    converted = runner.build_param_scheduler(dict(one, convert_to_iter_based=True))
    assert (converted[0].by_epoch, dict(converted[0].milestones)) == (False, {5: 1})
    sgd = torch.optim.SGD(runner.model.parameters(), lr=0.1)
    runner.optim_wrapper = OptimWrapperDict(a=OptimWrapper(sgd), b=OptimWrapper(sgd))
    assert {k: len(v) for k, v in runner.build_param_scheduler(one).items()} == {"a": 1, "b": 1}
    named = runner.build_param_scheduler(dict(a=one, b=[one, one]))
    assert {k: len(v) for k, v in named.items()} == {"a": 1, "b": 2}


def test_build_evaluator_accepts_all_documented_forms(make_runner, parts):
    runner = make_runner()
    evaluator = Evaluator(parts.Accuracy())
    assert runner.build_evaluator(evaluator) is evaluator
    for form in (
        [parts.Accuracy()],
        dict(type=parts.Accuracy),
        [dict(type=parts.Accuracy)],
        dict(metrics=parts.Accuracy()),
        dict(metrics=[dict(type=parts.Accuracy)]),
    ):
        built = runner.build_evaluator(form)
        assert isinstance(built, Evaluator)
        assert isinstance(built.metrics[0], parts.Accuracy)
    with pytest.raises(TypeError, match="evaluator should be one of dict, list of dict"):
        runner.build_evaluator(3)


def test_build_dataloader_builds_set_sampler_and_loader(parts):
    loader = Runner.build_dataloader(parts.loader(20, batch_size=5, shuffle=False), seed=4)
    assert next(batch["i"].tolist() for batch in loader) == [0, 1, 2, 3, 4]
    assert loader.sampler.seed == 4
    assert Runner.build_dataloader(loader) is loader
    with pytest.raises(TypeError, match="dataloader should be a DataLoader object or a dict"):
        Runner.build_dataloader(3)
    with pytest.raises(KeyError, match=r"dataloader\.dataset is missing"):
        Runner.build_dataloader({"batch_size": 3})


def test_num_batch_per_epoch_shortens_the_data_set(parts):
    loader = Runner.build_dataloader(dict(parts.loader(20, batch_size=5), num_batch_per_epoch=2))
    assert len(loader) == 2
    assert sorted(i for batch in loader for i in batch["i"].tolist()) == list(range(10))
    assert loader.dataset.metainfo == parts.Points.metainfo


def test_a_batch_sampler_and_collate_function_by_dict(parts):
    config = parts.loader(10)
    config["batch_sampler"] = dict(type="BatchSampler", drop_last=True)
    from torch.utils.data import BatchSampler

    from mmx.registry import DATA_SAMPLERS

    DATA_SAMPLERS.register_module("BatchSampler", force=True, module=BatchSampler)
    config["collate_fn"] = dict(type=lambda batch, extra: (len(batch), extra), extra="e")
    assert list(Runner.build_dataloader(config)) == [(4, "e"), (4, "e")]


def test_auto_scale_lr_scales_with_the_batch_size(make_runner):
    runner = make_runner(auto_scale_lr=dict(enable=True, base_batch_size=16), param_scheduler=None)
    runner.train()
    assert runner.optim_wrapper.get_lr()["lr"] == [pytest.approx(0.025)]


def test_auto_scale_lr_scales_the_logged_base_rate_of_several_groups(make_runner):
    runner = make_runner(
        auto_scale_lr=dict(enable=True, base_batch_size=16),
        param_scheduler=None,
        optim_wrapper=dict(
            optimizer=dict(type="SGD", lr=0.1), paramwise_cfg=dict(bias_lr_mult=2.0)
        ),
    )
    runner.train()
    assert runner.optim_wrapper.get_lr()["base_lr"] == [pytest.approx(0.025)]


def test_scale_lr_needs_a_built_wrapper_and_unbuilt_schedulers(make_runner):
    scale = dict(enable=True, base_batch_size=16)
    runner = make_runner(param_scheduler=dict(type="MultiStepLR", milestones=[1]))
    with pytest.raises(TypeError, match="should be called after building OptimWrapper"):
        runner.scale_lr(runner.optim_wrapper, scale)
    runner.train()
    with pytest.raises(RuntimeError, match="should be called before building ParamScheduler"):
        runner.scale_lr(runner.optim_wrapper, scale)


def test_wrap_model_uses_the_wrapper_of_the_config(make_runner):
    from mmx.model import is_model_wrapper
    from mmx.registry import MODEL_WRAPPERS

    @MODEL_WRAPPERS.register_module(force=True)
    class TestWrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    runner = make_runner(cfg=dict(model_wrapper_cfg=dict(type="TestWrapper")))
    assert type(runner.model) is TestWrapper
    assert is_model_wrapper(runner.model)
    assert runner.wrap_model(None, runner.model) is runner.model
    with pytest.raises(TypeError, match='"model_wrapper_cfg" should be None'):
        runner.wrap_model(dict(type="TestWrapper"), runner.model)


def test_a_model_without_type_is_told_as_the_registry_does(make_runner):
    with pytest.raises(KeyError, match="model is a dict without the key 'type'"):
        make_runner(model={"layers": 3})


def test_a_config_for_several_ranks_serves_for_one(make_runner):
    wrapper = dict(type="MMDistributedDataParallel", find_unused_parameters=True)
    runner = make_runner(cfg=dict(model_wrapper_cfg=wrapper))
    assert "Net" == type(runner.model).__name__
    assert runner.model is runner.wrap_model({}, runner.model)


def test_hooks_that_are_replaced_or_changed_in_place_are_called(make_runner):
    calls = []

    class Telling(Hook):
        def before_val(self, runner):
            calls.append("val")

    runner = make_runner()
    runner._hooks.append(Telling())
    runner.call_hook("before_val")
    assert ["val"] == calls
    runner._hooks = []
    runner.call_hook("before_val")
    assert ["val"] == calls
    stand_in = MagicMock(spec=Hook)
    runner.hooks.append(stand_in)
    runner.call_hook("before_val")
    stand_in.before_val.assert_called_once_with(runner)


def test_compile_from_the_config_runs_the_compiled_model_and_changes_nothing(make_runner):
    graphs = []

    def counted(graph, example_inputs):
        def run(*inputs):
            graphs.append(len(inputs))
            return graph.forward(*inputs)

        return run

    torch._dynamo.register_backend(counted, name="runner_test_counted")
    try:
        runner = make_runner(cfg=dict(compile=dict(backend="runner_test_counted")), **NO_VAL)
        keys = list(runner.model.state_dict())
        runner.train()
    finally:
        torch._dynamo.backends.registry._COMPILER_FNS.pop("runner_test_counted")
        torch._dynamo.reset()
    # Forward, at least, in each of the ten iterations.
    assert len(graphs) >= 10
    assert list(runner.model.state_dict()) == keys
    plain = make_runner(cfg=dict(compile=False), **NO_VAL)
    plain.train()
    assert plain.model._compiled_call_impl is None
    for key, value in plain.model.state_dict().items():
        torch.testing.assert_close(runner.model.state_dict()[key], value)


# Custom parts -------------------------------------------------------------------------------


def test_a_custom_runner_from_the_registry(tmp_path, parts):
    class CustomRunner(Runner):
        def setup_env(self):
            """The documented example takes no config."""
            self.was_set_up = True

    RUNNERS.register_module("TestCustomRunner", force=True, module=CustomRunner)
    cfg = Config(dict(runner_type="TestCustomRunner", model=parts.Net(), work_dir=str(tmp_path)))
    runner = RUNNERS.build(cfg)
    assert type(runner) is CustomRunner
    assert runner.was_set_up


def test_a_custom_validation_loop_with_a_second_loader_and_its_own_stage(make_runner, parts):
    seen = []

    class CustomValLoop(BaseLoop):
        def __init__(self, runner, dataloader, evaluator, dataloader2):
            super().__init__(runner, dataloader, evaluator)
            self.dataloader2 = runner.build_dataloader(dataloader2)

        def run(self):
            self.runner.call_hook("before_val_epoch")
            self.runner.model.eval()
            for batch in self.dataloader:
                self.evaluator.process(self.runner.model.val_step(batch), batch)
            metrics = self.evaluator.evaluate(len(self.dataloader.dataset))
            for idx, batch in enumerate(self.dataloader2):
                self.runner.call_hook("before_valloader2_iter", batch_idx=idx, data_batch=batch)
            self.runner.call_hook("after_val_epoch", metrics=metrics)
            return metrics

    class CustomValHook(Hook):
        def before_valloader2_iter(self, runner, batch_idx, data_batch):
            seen.append((batch_idx, len(data_batch["y"])))

    LOOPS.register_module("TestCustomValLoop", force=True, module=CustomValLoop)
    runner = make_runner(
        val_cfg=dict(type="TestCustomValLoop", dataloader2=parts.loader(6, shuffle=False)),
        custom_hooks=[CustomValHook()],
    )
    assert "acc/top1" in runner.val()
    assert seen == [(0, 4), (1, 2)]


def test_a_training_loop_that_counts_by_itself(make_runner):
    class Own(BaseLoop):
        def __init__(self, runner, dataloader, steps):
            super().__init__(runner, dataloader)
            self._epoch, self._iter, self.max_epochs, self.max_iters = 0, 0, 1, steps

        epoch = property(lambda self: self._epoch)
        iter = property(lambda self: self._iter)

        def run(self):
            self.runner.call_hook("before_train")
            for idx, batch in zip(range(self.max_iters), self.dataloader, strict=False):
                outputs = self.runner.model.train_step(batch, self.runner.optim_wrapper)
                self.runner.call_hook(
                    "after_train_iter", batch_idx=idx, data_batch=batch, outputs=outputs
                )
                self._iter += 1
            self.runner.call_hook("after_train")
            return self.runner.model

    runner = make_runner(
        train_cfg=dict(type=Own, steps=3),
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=2)),
        **NO_VAL,
    )
    runner.train()
    saved = torch.load(os.path.join(runner.work_dir, "iter_2.pth"), weights_only=True)
    assert (runner.iter, saved["meta"]["iter"]) == (3, 2)


# Running ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["train", "val", "test"])
def test_running_without_the_arguments_names_them(make_runner, mode):
    runner = make_runner(**NO_TRAIN, **NO_VAL)
    with pytest.raises(RuntimeError, match=f"`self._{mode}_loop` should not be None when calling"):
        getattr(runner, mode)()


def test_a_model_without_train_step_is_an_error_that_says_so(make_runner):
    runner = make_runner(model=nn.Linear(2, 2), **NO_VAL)
    with pytest.raises(TypeError, match="has implemented `train_step`; Linear has not"):
        runner.train()


def test_val_and_test_alone(make_runner, parts):
    runner = make_runner(
        test_dataloader=parts.loader(6, shuffle=False),
        test_cfg={},
        test_evaluator=[parts.Accuracy()],
        **NO_TRAIN,
    )
    assert runner.val()["acc/count"] == 10
    assert runner.test()["acc/count"] == 6


def test_training_returns_the_model_and_changes_its_weights(make_runner):
    runner = make_runner()
    before = runner.model.first.weight.clone()
    assert runner.train() is runner.model
    assert not torch.equal(before, runner.model.first.weight)


def test_after_run_is_called_and_the_error_unchanged_when_training_fails(make_runner):
    calls, error = [], ZeroDivisionError("mine")

    class Fails(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter == 6:
                raise error

        def after_run(self, runner):
            calls.append("first")
            raise ValueError("second error")

    class Second(Hook):
        def after_run(self, runner):
            calls.append("second")

    runner = make_runner(custom_hooks=[Fails(), Second()])
    with pytest.raises(ZeroDivisionError) as info:
        runner.train()
    assert info.value is error
    assert calls == ["first", "second"]
    notes = " ".join(error.__notes__)
    assert "epoch 2, iteration 7, hooks of after_train_iter" in notes
    assert "second error" in notes


def test_the_run_binds_its_logger_hub_and_visualizer(make_runner):
    seen = []

    class Looks(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            seen.append(
                MessageHub.get_current_instance() is runner.message_hub
                and MMLogger.get_current_instance() is runner.logger
                and Visualizer.get_current_instance() is runner.visualizer
            )

    first = make_runner(custom_hooks=[Looks()])
    make_runner(custom_hooks=[Looks()])  # the latest created
    first.train()
    assert seen == [True] * 10


def test_runners_made_in_the_same_second_share_nothing(make_runner, tmp_path):
    a = make_runner(work_dir=tmp_path / "w", experiment_name="same")
    b = make_runner(work_dir=tmp_path / "w", experiment_name="same")
    assert a.message_hub is not b.message_hub
    assert a.logger is not b.logger
    assert a.visualizer is not b.visualizer


class Marks(Hook):
    """Writes into the current log, and down whose parts are the current ones."""

    def __init__(self, mark):
        self.mark, self.wrong = mark, 0

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        print_log(f"mark {self.mark} at {runner.iter}", logger="current")
        current = [kind.get_current_instance() for kind in (MessageHub, MMLogger, Visualizer)]
        own = [runner.message_hub, runner.logger, runner.visualizer]
        scope = DefaultScope.get_current_instance().scope_name
        self.wrong += any(a is not b for a, b in zip(current, own, strict=True))
        self.wrong += scope != runner.default_scope.scope_name


def assert_apart(runners, hooks):
    """Each has only its own lines and its own losses, all of them."""
    for runner, hook in zip(runners, hooks, strict=True):
        assert hook.wrong == 0
        log = Path(runner.log_dir, f"{runner.timestamp}.log").read_text()
        lines = [line for line in log.splitlines() if " mark " in line]
        assert len(lines) == 10
        assert all(f" mark {hook.mark} at " in line for line in lines)
        assert runner.message_hub.get_scalar("train/loss").data[0].size == 10


def test_two_runners_in_two_threads_see_only_their_own_parts_and_train_as_alone(make_runner):
    hooks = [Marks("one"), Marks("two"), Marks("alone")]
    seeds = [dict(seed=seed) for seed in (3, 4, 3)]
    first, second, alone = (
        make_runner(custom_hooks=[hook], randomness=seed, default_scope=scope, **NO_VAL)
        for hook, seed, scope in zip(hooks, seeds, ("mmx", "mmx_toy", "mmx"), strict=True)
    )
    threads = [threading.Thread(target=runner.train) for runner in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone.train()
    assert_apart([first, second, alone], hooks)
    for key, value in alone.model.state_dict().items():
        assert torch.equal(value, first.model.state_dict()[key])
    assert not torch.equal(second.model.first.weight, first.model.first.weight)


def test_a_runner_that_trains_inside_of_another_ones_run_leaves_it_alone(make_runner):
    class Trains(Hook):
        """Trains a second runner after an iteration of the first one."""

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter == 4:
                inner.train()

    hooks = [Marks("outer"), Marks("inner")]
    inner = make_runner(custom_hooks=[hooks[1]], default_scope="mmx_toy", **NO_VAL)
    outer = make_runner(custom_hooks=[hooks[0], Trains()], **NO_VAL)
    outer.train()
    assert_apart([outer, inner], hooks)
    assert (outer.iter, inner.iter) == (10, 10)


# Randomness ---------------------------------------------------------------------------------


def test_a_seed_decides_weights_order_and_what_is_drawn(tmp_path, parts):
    MODELS.register_module("RunnerTestNet", force=True, module=parts.Net)

    def run(name, **randomness):
        recorder = parts.Recorder()
        runner = Runner(
            dict(type="RunnerTestNet", dropout=0.5),
            str(tmp_path / name),
            train_dataloader=parts.loader(augment=True),
            train_cfg=dict(by_epoch=True, max_epochs=1),
            optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
            default_hooks=dict(checkpoint=None),
            custom_hooks=[recorder],
            randomness=randomness or None,
        )
        runner.train()
        return runner.seed, recorder.samples, recorder.losses

    first, again, other = run("a", seed=5), run("b", seed=5), run("c", seed=6)
    assert first == again
    assert first[0] == 5
    assert first[1] != other[1]
    assert first[2] != other[2]
    # Without a seed one is drawn, which would give the same run again.
    drawn = run("d")
    assert drawn == run("e", seed=drawn[0])
    assert drawn[0] != run("f")[0]


def test_deterministic_holds_while_the_run_is_under_way(make_runner):
    seen = []

    class Looks(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            seen.append(
                (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic)
            )
            # One of the few that have no deterministic way on a CPU.
            with pytest.raises(RuntimeError, match="does not have a deterministic implementation"):
                torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2), accumulate=False)

    runner = make_runner(
        randomness=dict(seed=3, deterministic=True),
        train_cfg=dict(by_epoch=False, max_iters=2),
        custom_hooks=[Looks()],
        **NO_VAL,
    )
    assert runner.deterministic
    try:
        runner.train()
    finally:
        torch.backends.cudnn.deterministic = False
    assert seen == [(True, True)] * 2


def test_sigterm_finishes_the_step_saves_and_exits_with_143(make_runner, tmp_path):
    class Kill(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter == 6:
                os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    runner = make_runner(work_dir=tmp_path / "w", custom_hooks=[Kill()])
    with pytest.raises(SystemExit) as info:
        runner.train()
    assert info.value.code == 143
    assert (tmp_path / "w" / "iter_7.pth").exists()
    assert (tmp_path / "w" / "last_checkpoint").read_text().endswith("iter_7.pth")
    assert signal.getsignal(signal.SIGTERM) is before


def test_of_the_files_that_signals_leave_only_the_latest_is_kept(make_runner, tmp_path):
    class Kill(Hook):
        def __init__(self, at):
            self.at = at

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter == self.at:
                os.kill(os.getpid(), signal.SIGTERM)

    for at in (1, 3, 7):
        with pytest.raises(SystemExit):
            make_runner(work_dir=tmp_path / "w", custom_hooks=[Kill(at)], resume=True).train()
    files = {name for name in os.listdir(tmp_path / "w") if name.endswith(".pth")}
    assert files == {"epoch_1.pth", "iter_8.pth"}


def test_sigint_finishes_the_step_saves_and_is_a_keyboard_interrupt(make_runner, tmp_path):
    class Interrupt(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter == 2:
                os.kill(os.getpid(), signal.SIGINT)

    runner = make_runner(work_dir=tmp_path / "w", custom_hooks=[Interrupt()])
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    assert (tmp_path / "w" / "iter_3.pth").exists()


def test_a_second_signal_stops_at_once(make_runner, tmp_path):
    class Twice(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter == 2:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)

    runner = make_runner(work_dir=tmp_path / "w", custom_hooks=[Twice()])
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    assert runner.iter == 2
    assert not (tmp_path / "w" / "iter_2.pth").exists()


def test_sigterm_during_validation_saves_and_the_resumed_run_is_equal(make_runner, parts, tmp_path):
    class Kill(Hook):
        def before_val_iter(self, runner, batch_idx, data_batch=None):
            if runner.epoch == 1 and batch_idx == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    whole = make_runner(work_dir=tmp_path / "whole", dropout=0.2)
    whole.train()
    with pytest.raises(SystemExit):
        make_runner(work_dir=tmp_path / "w", dropout=0.2, custom_hooks=[Kill()]).train()
    resumed = make_runner(work_dir=tmp_path / "w", dropout=0.2, resume=True)
    resumed.train()
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key])


# Checkpoints --------------------------------------------------------------------------------


def test_a_checkpoint_holds_plain_data_and_says_where_the_run_was(make_runner):
    runner = make_runner(cfg=dict(a=1), param_scheduler=dict(type="MultiStepLR", milestones=[1]))
    runner.train()
    saved = torch.load(os.path.join(runner.work_dir, "epoch_1.pth"), weights_only=True)
    assert sorted(saved) == [
        "engine",
        "message_hub",
        "meta",
        "optimizer",
        "param_schedulers",
        "state_dict",
    ]
    meta = saved["meta"]
    assert (meta["epoch"], meta["iter"], meta["seed"]) == (1, 5, 3)
    assert meta["experiment_name"] == runner.experiment_name
    assert meta["dataset_meta"] == {"classes": ("left", "right")}
    assert "a = 1" in meta["cfg"]
    assert saved["engine"]["loop"]["batches"] == 0


def test_hooks_may_change_a_checkpoint_before_it_is_saved_and_after_it_is_loaded(make_runner):
    class Writes(Hook):
        def before_save_checkpoint(self, runner, checkpoint):
            checkpoint["mine"] = 5

        def after_load_checkpoint(self, runner, checkpoint):
            self.found = checkpoint["mine"]

    hook = Writes()
    runner = make_runner(custom_hooks=[hook])
    runner.train()
    runner.load_checkpoint(os.path.join(runner.work_dir, "epoch_1.pth"))
    assert hook.found == 5


def test_save_checkpoint_rejects_bad_arguments(make_runner, tmp_path):
    runner = make_runner()
    with pytest.raises(TypeError, match="meta should be a dict or None"):
        runner.save_checkpoint(str(tmp_path), "a.pth", meta=3)
    with pytest.raises(ValueError, match="cannot be set at the same time"):
        runner.save_checkpoint(str(tmp_path), "a.pth", file_client_args={}, backend_args={})
    with pytest.raises(TypeError, match="should be an OptimWrapper or OptimWrapperDict"):
        runner.save_checkpoint(str(tmp_path), "a.pth")


def test_saving_by_hand_before_training(make_runner, tmp_path):
    runner = make_runner()
    runner.save_checkpoint(
        str(tmp_path), "hand_{}.pth", save_optimizer=False, save_param_scheduler=False
    )
    saved = torch.load(tmp_path / "hand_0.pth", weights_only=True)
    assert (saved["meta"]["epoch"], saved["meta"]["iter"]) == (0, 0)


def test_load_from_loads_weights_only(make_runner, tmp_path):
    first = make_runner(work_dir=tmp_path / "a")
    first.train()
    second = make_runner(
        work_dir=tmp_path / "b",
        model_seed=8,
        load_from=str(tmp_path / "a" / "epoch_2.pth"),
        **NO_TRAIN,
    )
    second.val()
    for key, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[key])
    assert (second.epoch, second.iter) == (0, 0)


def test_load_checkpoint_revises_keys_and_reports_strictly(make_runner, tmp_path):
    runner = make_runner()
    state = {f"backbone.{k}": v + 1 for k, v in runner.model.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "prefixed.pth")
    runner.load_checkpoint(str(tmp_path / "prefixed.pth"), revise_keys=[(r"^backbone\.", "")])
    assert torch.equal(runner.model.first.bias, state["backbone.first.bias"])
    with pytest.raises(RuntimeError, match="missing keys"):
        runner.load_checkpoint(str(tmp_path / "prefixed.pth"), strict=True)


def test_resuming_without_a_checkpoint_starts_anew(make_runner, tmp_path):
    runner = make_runner(work_dir=tmp_path / "new", resume=True)
    runner.train()
    assert runner.epoch == 2


def test_resuming_with_another_seed_warns_and_takes_the_checkpoints(make_runner, tmp_path):
    make_runner(work_dir=tmp_path / "w").train()
    runner = make_runner(
        work_dir=tmp_path / "w",
        resume=True,
        randomness=dict(seed=9),
        train_cfg=dict(by_epoch=True, max_epochs=3),
    )
    runner.train()
    assert runner.seed == 3
    assert runner.train_dataloader.sampler.seed == 3
    log = os.path.join(runner.log_dir, f"{runner.timestamp}.log")
    with open(log) as file:
        assert "The value of random seed in the checkpoint (3) is different" in file.read()


def test_a_run_can_be_extended(make_runner, tmp_path):
    make_runner(work_dir=tmp_path / "w").train()
    longer = dict(by_epoch=True, max_epochs=4)
    runner = make_runner(work_dir=tmp_path / "w", resume=True, train_cfg=longer)
    runner.train()
    assert (runner.epoch, runner.iter) == (4, 20)


def test_validation_of_a_resumable_checkpoint_needs_no_optimizer(make_runner, tmp_path):
    make_runner(work_dir=tmp_path / "w").train()
    runner = make_runner(work_dir=tmp_path / "w", resume=True, **NO_TRAIN)
    assert "acc/top1" in runner.val()


def test_states_of_hooks_are_saved_and_given_back(make_runner, tmp_path):
    class Counts(Hook):
        def __init__(self):
            self.count = 0

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            self.count += 1

        def state_dict(self):
            return {"count": self.count}

        def load_state_dict(self, state):
            self.count = state["count"]

    make_runner(work_dir=tmp_path / "w", custom_hooks=[Counts(), Counts()]).train()
    hooks = [Counts(), Counts()]
    longer = dict(by_epoch=True, max_epochs=3)
    make_runner(work_dir=tmp_path / "w", custom_hooks=hooks, resume=True, train_cfg=longer).train()
    assert [hook.count for hook in hooks] == [15, 15]


def test_a_checkpoint_of_a_newer_engine_is_refused(make_runner, tmp_path):
    make_runner(work_dir=tmp_path / "w").train()
    saved = torch.load(tmp_path / "w" / "epoch_2.pth", weights_only=True)
    saved["engine"]["version"] = 99
    torch.save(saved, tmp_path / "newer.pth")
    runner = make_runner(resume=True, load_from=str(tmp_path / "newer.pth"))
    with pytest.raises(ValueError, match="saved by a newer mmx"):
        runner.train()


def test_no_warning_is_raised_by_an_ordinary_run(make_runner):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_runner().train()
