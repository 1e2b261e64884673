"""Training, validation and test loops."""

from __future__ import annotations

import json

import pytest
import torch

from mmx.evaluator import Evaluator
from mmx.hooks.hook import Hook
from mmx.logging import HistoryBuffer
from mmx.runner import EpochBasedTrainLoop, IterBasedTrainLoop, TestLoop, ValLoop
from mmx.runner.eval_loops import _parse_losses, _update_losses
from mmx.runner.train_loops import _InfiniteDataloaderIterator
from mmx.runner.utils import calc_dynamic_intervals
from mmx.structures import BaseDataElement

NO_VAL = {"val_dataloader": None, "val_cfg": None, "val_evaluator": None}


class WhenValidated(Hook):
    """Writes down after which epoch and iteration each validation ran."""

    def __init__(self):
        self.at = []

    def after_val_epoch(self, runner, metrics=None):
        self.at.append((runner.epoch, runner.iter))


def validated(make_runner, **train_cfg):
    hook = WhenValidated()
    runner = make_runner(train_cfg=train_cfg, custom_hooks=[hook])
    runner.train()
    return hook.at


# Moments of validation -----------------------------------------------------------------------


def test_an_epoch_loop_validates_at_the_interval_and_after_the_last_epoch(make_runner):
    at = validated(make_runner, by_epoch=True, max_epochs=5, val_begin=2, val_interval=2)
    assert [epoch for epoch, _ in at] == [2, 4, 5]


def test_dynamic_intervals_of_an_epoch_loop(make_runner):
    at = validated(
        make_runner, by_epoch=True, max_epochs=8, val_interval=3, dynamic_intervals=[(5, 1)]
    )
    assert [epoch for epoch, _ in at] == [3, 4, 5, 6, 7, 8]


def test_an_iteration_loop_validates_at_the_interval_and_after_the_last_iteration(make_runner):
    at = validated(make_runner, by_epoch=False, max_iters=11, val_begin=5, val_interval=4)
    assert [iteration for _, iteration in at] == [8, 11]


def test_dynamic_intervals_of_an_iteration_loop(make_runner):
    at = validated(
        make_runner, by_epoch=False, max_iters=14, val_interval=4, dynamic_intervals=[(10, 1)]
    )
    assert [iteration for _, iteration in at] == [4, 8, 9, 10, 11, 12, 13, 14]


def test_validation_every_n_iterations_inside_an_epoch_loop(make_runner):
    at = validated(make_runner, by_epoch=True, max_epochs=2, val_every_iters=2)
    assert at == [(0, 2), (0, 4), (1, 5), (1, 6), (1, 8), (2, 10)]


def test_validation_every_n_epochs_in_an_iteration_loop(make_runner):
    at = validated(make_runner, by_epoch=False, max_iters=12, val_every_epochs=1)
    assert [iteration for _, iteration in at] == [5, 10, 12]


@pytest.mark.parametrize(
    "kind", [dict(by_epoch=True, max_epochs=1), dict(by_epoch=False, max_iters=5)]
)
def test_validation_before_training(make_runner, kind):
    at = validated(make_runner, val_before_train=True, **kind)
    assert [iteration for _, iteration in at] == [0, 5]


@pytest.mark.parametrize(
    "kind", [dict(by_epoch=True, max_epochs=2), dict(by_epoch=False, max_iters=10)]
)
def test_a_resumed_run_does_not_validate_before_training_again(make_runner, tmp_path, kind):
    hook = WhenValidated()
    saving = dict(checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=3))
    more = dict(train_cfg=dict(kind, val_before_train=True), default_hooks=saving)
    make_runner(work_dir=tmp_path / "w", **more).train()
    resumed = str(tmp_path / "w" / "iter_3.pth")
    make_runner(load_from=resumed, resume=True, custom_hooks=[hook], **more).train()
    assert [iteration for _, iteration in hook.at] == ([5, 10] if kind["by_epoch"] else [10])


@pytest.mark.parametrize(
    ("saved", "kind", "moments"),
    [
        (
            "epoch_4.pth",
            dict(by_epoch=True, max_epochs=8, val_interval=3, dynamic_intervals=[(6, 2)]),
            [6, 8],
        ),
        (
            "iter_8.pth",
            dict(by_epoch=False, max_iters=14, val_interval=4, dynamic_intervals=[(10, 3)]),
            # That of iteration 8 was still to come.
            [8, 9, 12, 14],
        ),
        (
            "iter_8.pth",
            dict(by_epoch=True, max_epochs=3, val_every_iters=2, val_begin=3),
            [8, 12, 14, 15],
        ),
    ],
)
def test_a_resumed_run_validates_when_an_undisturbed_one_does(
    make_runner, tmp_path, saved, kind, moments
):
    by_epoch = saved.startswith("epoch")
    saving = dict(checkpoint=dict(type="CheckpointHook", by_epoch=by_epoch, interval=4))
    whole, resumed = WhenValidated(), WhenValidated()
    make_runner(
        work_dir=tmp_path / "w", train_cfg=kind, default_hooks=saving, custom_hooks=[whole]
    ).train()
    make_runner(
        load_from=str(tmp_path / "w" / saved),
        resume=True,
        train_cfg=kind,
        default_hooks=saving,
        custom_hooks=[resumed],
    ).train()
    found = [epoch if by_epoch else iteration for epoch, iteration in resumed.at]
    assert moments == found
    assert whole.at[-len(moments) :] == resumed.at


@pytest.mark.parametrize(
    "kind", [dict(by_epoch=True, max_epochs=2), dict(by_epoch=False, max_iters=9, val_interval=3)]
)
def test_training_mode_is_restored_after_validation_module_by_module(make_runner, kind):
    wrong = []

    class Looks(Hook):
        def before_train(self, runner):
            # The engine calls train(); a module that is frozen afterwards stays frozen.
            runner.model.train()
            runner.model.norm.eval()

        def after_val(self, runner):
            wrong.append((runner.model.training, runner.model.first.training))

        def before_val_iter(self, runner, batch_idx, data_batch=None):
            if runner.model.training or runner.model.norm.training:
                wrong.append("training while validating")

    make_runner(train_cfg=kind, custom_hooks=[Looks()]).train()
    assert set(wrong) == {(True, True)}


def test_a_hook_can_stop_training_after_an_epoch_or_an_iteration(make_runner):
    class Stops(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter == 6:
                runner.train_loop.stop_training = True

    epochs = make_runner(train_cfg=dict(by_epoch=True, max_epochs=5), custom_hooks=[Stops()])
    epochs.train()
    assert (epochs.epoch, epochs.iter) == (2, 10)
    iters = make_runner(train_cfg=dict(by_epoch=False, max_iters=50), custom_hooks=[Stops()])
    iters.train()
    assert iters.iter == 7


EPOCHS = dict(by_epoch=True, max_epochs=3)
ITERS = dict(by_epoch=False, max_iters=12, val_interval=6)


@pytest.mark.parametrize(
    ("stage", "since", "after_epochs", "after_iters"),
    [
        ("before_train", 0, 0, 0),
        # An epoch that has begun is brought to its end; the other loop has a single one.
        ("before_train_epoch", 0, 5, 0),
        ("before_train_iter", 5, 10, 6),
        ("after_train_iter", 4, 5, 5),
        ("after_train_epoch", 4, 5, 12),
        ("before_val", 0, 5, 6),
        ("before_val_epoch", 0, 5, 6),
        ("before_val_iter", 0, 5, 6),
        ("after_val_iter", 0, 5, 6),
        ("after_val_epoch", 0, 5, 6),
        ("after_val", 0, 5, 6),
    ],
)
def test_a_hook_can_stop_training_in_any_stage(
    make_runner, stage, since, after_epochs, after_iters
):
    class Stops(Hook):
        def after_train(self, runner):
            ended.append(runner.iter)

    def stop(self, runner, *args, **kwargs):
        if runner.iter >= since:
            runner.train_loop.stop_training = True

    setattr(Stops, stage, stop)
    ended = []
    for train_cfg in (EPOCHS, ITERS):
        make_runner(
            train_cfg=train_cfg,
            custom_hooks=[Stops()],
            default_hooks=dict(logger=None, checkpoint=None),
        ).train()
    assert [after_epochs, after_iters] == ended


# Arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1.5, "2", None, True])
def test_max_epochs_and_max_iters_are_whole_numbers(make_runner, value):
    runner = make_runner()
    with pytest.raises(ValueError, match="`max_epochs` should be an integer number, but got"):
        EpochBasedTrainLoop(runner, runner.train_dataloader, value)
    with pytest.raises(ValueError, match="`max_iters` should be an integer number, but got"):
        IterBasedTrainLoop(runner, runner.train_dataloader, value)


def test_a_whole_number_given_as_float_is_accepted(make_runner):
    runner = make_runner()
    loop = EpochBasedTrainLoop(runner, runner.train_dataloader, 3.0)
    assert (loop.max_epochs, loop.max_iters) == (3, 15)


def test_loops_are_built_with_dicts_of_loaders_and_know_their_runner(make_runner, parts):
    runner = make_runner()
    loop = IterBasedTrainLoop(runner, parts.loader(), max_iters=4)
    assert loop.runner is runner
    assert (loop.max_epochs, loop.max_iters, loop.epoch, loop.iter) == (1, 4, 0, 0)
    assert (loop.val_begin, loop.val_interval) == (1, 1000)


@pytest.mark.parametrize("kind", [ValLoop, TestLoop])
def test_an_evaluator_of_another_type_is_an_error(make_runner, parts, kind):
    with pytest.raises(TypeError, match="evaluator must be one of dict, list, metric or Evaluator"):
        kind(make_runner(), parts.loader(), 3)
    assert isinstance(kind(make_runner(), parts.loader(), parts.Accuracy()).evaluator, Evaluator)


def test_dynamic_intervals_are_pairs():
    assert calc_dynamic_intervals(3) == ([0], [3])
    assert calc_dynamic_intervals(3, [(5, 2), [8, 1]]) == ([0, 5, 8], [3, 2, 1])
    with pytest.raises(TypeError, match=r"\(milestone, interval\) pairs, but it contains 5"):
        calc_dynamic_intervals(3, [5])


# Evaluation ----------------------------------------------------------------------------------


def test_no_gradients_in_validation_also_when_an_iteration_is_run_by_hand(make_runner):
    seen = []

    class Looks(Hook):
        def before_val_iter(self, runner, batch_idx, data_batch=None):
            seen.append(torch.is_grad_enabled())

    runner = make_runner(custom_hooks=[Looks()])
    runner.val()
    runner.val_loop.run_iter(0, next(iter(runner.val_dataloader)))
    assert seen == [False] * 4
    assert torch.is_grad_enabled()


def test_metainfo_reaches_evaluator_and_visualizer(make_runner, parts):
    runner = make_runner()
    assert runner.val_evaluator.dataset_meta == parts.Points.metainfo
    assert runner.visualizer.dataset_meta == parts.Points.metainfo


def test_fp16_validates_in_mixed_precision(make_runner, parts):
    dtypes = []

    class Net(parts.Net):
        def val_step(self, data):
            dtypes.append(self.first(data["x"]).dtype)
            return super().val_step(data)

    make_runner(model=Net(), val_cfg=dict(fp16=True)).val()
    make_runner(model=Net()).val()
    assert dtypes[0] == torch.bfloat16
    assert dtypes[-1] == torch.float32


def test_validation_loss_with_one_flag(make_runner, parts):
    runner = make_runner(val_cfg=dict(with_loss=True))
    metrics = runner.val()
    loader = runner.val_dataloader
    runner.model.eval()
    with torch.no_grad():
        losses = [float(runner.model(**batch, mode="loss")["loss"]) for batch in loader]
    assert metrics["loss"] == pytest.approx(sum(losses) / len(losses))
    assert metrics["val_loss"] == pytest.approx(metrics["loss"])
    assert runner.val_dataloader.dataset.reads == 20


def test_losses_of_validations_while_training_and_of_a_test(make_runner, parts):
    runner = make_runner(
        val_cfg=dict(with_loss=True),
        test_dataloader=parts.loader(6, shuffle=False, seed=2),
        test_cfg=dict(with_loss=True),
        test_evaluator=[parts.Accuracy()],
    )
    kept = []

    class Keeps(Hook):
        def after_val(self, runner):
            runner.model.eval()
            with torch.no_grad():
                losses = [
                    float(runner.model(**batch, mode="loss")["loss"])
                    for batch in runner.val_dataloader
                ]
            runner.model.train()
            kept.append(sum(losses) / len(losses))

    runner.register_hook(Keeps())
    runner.train()
    assert len(kept) == 2
    assert list(runner.message_hub.get_scalar("val/val_loss").data[0]) == pytest.approx(kept)
    # The losses of training are others: of batches of another set, before each step.
    assert runner.message_hub.get_scalar("train/loss").data[0].size == 10
    metrics = runner.test()
    assert metrics["test_loss"] == metrics["loss"] > 0
    assert metrics["acc/count"] == 6


def test_losses_that_a_model_adds_to_its_predictions_become_metrics(make_runner, parts):
    class Net(parts.Net):
        def val_step(self, data):
            extra = BaseDataElement(
                loss={"loss_a": torch.tensor(2.0), "other": [torch.tensor(1.0)]}
            )
            return [*super().val_step(data), extra]

    metrics = make_runner(model=Net()).val()
    assert metrics["loss_a"] == 2.0
    assert metrics["other"] == 1.0
    assert metrics["val_loss"] == 2.0
    assert metrics["acc/count"] == 10


def test_update_and_parse_losses_as_recorded_from_mmengine():
    """mmengine 0.10.7 gives these numbers for the same input."""
    losses: dict[str, HistoryBuffer] = {}
    last = BaseDataElement(
        loss=dict(l1=torch.tensor(1.0), l2=[torch.tensor(1.0), torch.tensor(2.0)])
    )
    for _ in range(2):
        outputs, losses = _update_losses([BaseDataElement(x=1), last], losses)
        assert len(outputs) == 1
    assert _parse_losses(losses, "val") == {"l1": 1.0, "l2": 1.5, "val_loss": 0}
    kept, losses = _update_losses([BaseDataElement(loss=3, x=1)], {})
    assert len(kept) == 1
    assert losses == {}


def test_named_validation_sets_have_prefixed_metrics(make_runner, parts):
    hook = WhenValidated()
    runner = make_runner(
        val_dataloader=dict(
            easy=parts.loader(10, shuffle=False, seed=1),
            hard=parts.loader(6, shuffle=False, seed=2),
        ),
        val_evaluator=[parts.Accuracy()],
        custom_hooks=[hook],
    )
    metrics = runner.val()
    assert sorted(metrics) == [
        "easy/acc/count",
        "easy/acc/top1",
        "hard/acc/count",
        "hard/acc/top1",
    ]
    assert (metrics["easy/acc/count"], metrics["hard/acc/count"]) == (10, 6)
    assert len(hook.at) == 1
    single = make_runner(val_dataloader=parts.loader(6, shuffle=False, seed=2)).val()
    assert metrics["hard/acc/top1"] == single["acc/top1"]


def test_metrics_of_named_sets_are_logged_saved_by_and_stopped_by_in_training(
    make_runner, parts, tmp_path
):
    runner = make_runner(
        train_cfg=dict(by_epoch=True, max_epochs=6),
        val_dataloader=dict(
            easy=parts.loader(10, shuffle=False, seed=1),
            hard=parts.loader(6, shuffle=False, seed=2),
        ),
        work_dir=tmp_path / "w",
        default_hooks=dict(
            checkpoint=dict(type="CheckpointHook", save_best=["easy/acc/top1", "hard/acc/count"])
        ),
        # A number of samples gets no better.
        custom_hooks=[dict(type="EarlyStoppingHook", monitor="hard/acc/count", rule="greater")
                      | dict(patience=2)],
    )  # fmt: skip
    runner.train()
    assert runner.epoch == 3
    hub = runner.message_hub
    assert list(hub.get_scalar("val/hard/acc/count").data[0]) == [6] * 3
    assert list(hub.get_scalar("val/easy/acc/count").data[0]) == [10] * 3
    best = {path.name for path in (tmp_path / "w").glob("best_*")}
    assert "best_hard_acc_count_epoch_1.pth" in best
    assert len([name for name in best if name.startswith("best_easy_acc_top1_epoch_")]) == 1
    scalars = (tmp_path / "w" / runner.timestamp / "vis_data" / "scalars.json").read_text()
    validated = [json.loads(line) for line in scalars.splitlines() if "easy/acc/top1" in line]
    assert [line["step"] for line in validated] == [1, 2, 3]
    assert [line["hard/acc/count"] for line in validated] == [6, 6, 6]
    log = (tmp_path / "w" / runner.timestamp / f"{runner.timestamp}.log").read_text()
    assert log.count("  hard/acc/count: 6") == 3


def test_named_validation_sets_may_have_an_evaluator_each(make_runner, parts):
    class Other(parts.Accuracy):
        default_prefix = "other"

    runner = make_runner(
        val_dataloader=dict(a=parts.loader(10, shuffle=False), b=parts.loader(6, shuffle=False)),
        val_evaluator=dict(a=[parts.Accuracy()], b=Evaluator(Other())),
    )
    assert sorted(runner.val()) == ["a/acc/count", "a/acc/top1", "b/other/count", "b/other/top1"]


def test_an_evaluator_exchanged_on_the_loop_counts(make_runner, parts):
    class Other(parts.Accuracy):
        default_prefix = "other"

    runner = make_runner()
    runner.val_loop.evaluator = Evaluator(Other())
    assert "other/top1" in runner.val_loop.run()


def test_a_hook_can_undo_what_it_did_for_a_validation_that_failed(make_runner):
    calls = []

    class Swaps(Hook):
        def before_val_epoch(self, runner):
            calls.append("swap")

        def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            raise ZeroDivisionError

        def abort_val(self, runner):
            calls.append("swap back")

    runner = make_runner(custom_hooks=[Swaps()])
    with pytest.raises(ZeroDivisionError):
        runner.val()
    assert calls == ["swap", "swap back"]


# Endless data --------------------------------------------------------------------------------


def test_the_endless_iterator_starts_anew_and_sets_the_samplers_epoch(parts, make_runner):
    runner = make_runner()
    loader = runner.train_dataloader
    iterator = _InfiniteDataloaderIterator(loader)
    assert iter(iterator) is iterator
    first = [next(iterator)["i"].tolist() for _ in range(5)]
    second = [next(iterator)["i"].tolist() for _ in range(5)]
    assert iterator._epoch == 1
    assert first != second
    for samples in (first, second):
        assert sorted(index for batch in samples for index in batch) == list(range(20))
    assert loader.sampler.epoch == 1


def test_an_empty_loader_is_an_error_and_not_an_endless_loop():
    with pytest.raises(ValueError, match="has no batches: its data set is empty"):
        next(_InfiniteDataloaderIterator(torch.utils.data.DataLoader([])))


# Subclasses ----------------------------------------------------------------------------------


def test_a_subclass_that_overrides_run_iter_keeps_position_and_validation(make_runner, parts):
    class Twice(EpochBasedTrainLoop):
        def run_iter(self, idx, data_batch):
            self.runner.call_hook("before_train_iter", batch_idx=idx, data_batch=data_batch)
            for _ in range(2):
                outputs = self.runner.model.train_step(data_batch, self.runner.optim_wrapper)
            self.runner.call_hook(
                "after_train_iter", batch_idx=idx, data_batch=data_batch, outputs=outputs
            )
            self._iter += 1

    recorder = parts.Recorder()
    runner = make_runner(train_cfg=dict(type=Twice, max_epochs=2), custom_hooks=[recorder])
    runner.train()
    assert (runner.epoch, runner.iter, len(recorder.samples)) == (2, 10, 10)


def test_a_subclass_may_decide_the_interval(make_runner):
    class Often(IterBasedTrainLoop):
        def _decide_current_val_interval(self):
            self.val_interval = 2 if self._iter >= 4 else 100

    hook = WhenValidated()
    make_runner(train_cfg=dict(type=Often, max_iters=7), custom_hooks=[hook]).train()
    assert [iteration for _, iteration in hook.at] == [4, 6, 7]


@pytest.mark.parametrize(
    "settings", [{"by_epoch": False, "max_iters": 2}, {"by_epoch": True, "max_epochs": 1}]
)
def test_models_that_freeze_parts_when_put_into_training_mode_do_so(make_runner, settings):
    seen = []

    class Watch(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            seen.append(runner.model.norm.training)

    runner = make_runner(train_cfg=settings, custom_hooks=[Watch()], **NO_VAL)
    model, usual = runner.model, runner.model.train

    def train(mode=True):
        usual(mode)
        model.norm.eval()
        return model

    model.train = train
    runner.train()
    assert seen
    assert not any(seen)
