"""A run that is stopped and resumed is equal, to the last bit, to one that never stopped."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from mmx.hooks.hook import Hook
from mmx.runner import Runner
from mmx.runner.resume import capture_random_state, restore_random_state


class StopAfter(Hook):
    """Ends the run with an error after a number of iterations, as a crash would."""

    priority = "LOWEST"

    def __init__(self, iters):
        self.iters = iters

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.iters:
            raise KeyboardInterrupt


class DrawsNumbers(Hook):
    """Draws from all random streams in each iteration, as augmentation in the main process does."""

    def __init__(self):
        self.drawn = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.drawn.append((random.random(), float(np.random.rand()), float(torch.rand(()))))


def same_state(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_state(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same_state(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def saving(by_epoch, interval=1, **more):
    return {
        "checkpoint": {
            "type": "CheckpointHook",
            "by_epoch": by_epoch,
            "interval": interval,
            "save_last": False,
            **more,
        }
    }


EPOCHS = {
    "train_cfg": {"by_epoch": True, "max_epochs": 4},
    "param_scheduler": {"type": "CosineAnnealingLR", "T_max": 20, "by_epoch": False},
}
ITERS = {
    "train_cfg": {"by_epoch": False, "max_iters": 20, "val_interval": 6},
    "param_scheduler": {"type": "CosineAnnealingLR", "T_max": 20, "by_epoch": False},
}


def run(make_runner, parts, work_dir, *, workers=0, stop=None, kind=EPOCHS, **changes):
    recorder, draws = parts.Recorder(), DrawsNumbers()
    hooks = [draws, recorder] + ([StopAfter(stop)] if stop else [])
    arguments = {
        "train_dataloader": parts.loader(20, augment=True, workers=workers),
        "custom_hooks": hooks,
        "default_hooks": saving(by_epoch=False),
        **kind,
        **changes,
    }
    runner = make_runner(work_dir=work_dir, dropout=0.3, **arguments)
    if stop:
        with pytest.raises(KeyboardInterrupt):
            runner.train()
    else:
        runner.train()
    return runner, recorder, draws


def compare(make_runner, parts, tmp_path, stop, whole_work=None, **settings):
    whole, seen, drawn = run(make_runner, parts, tmp_path / "whole", **settings)
    run(make_runner, parts, tmp_path / "parted", stop=stop, **settings)
    # A resumed run knows nothing of the first one but its files.
    settings = {**settings, "randomness": {"seed": None}}
    resumed, rest, drawn_rest = run(
        make_runner, parts, tmp_path / "parted", resume=True, **settings
    )
    return whole, seen, drawn, resumed, rest, drawn_rest


def assert_equal_runs(whole, seen, drawn, resumed, rest, drawn_rest):
    n = len(rest.samples)
    assert 0 < n < len(seen.samples)
    assert seen.samples[-n:] == rest.samples
    assert seen.losses[-n:] == rest.losses
    assert drawn.drawn[-n:] == drawn_rest.drawn
    assert same_state(whole.model.state_dict(), resumed.model.state_dict())
    assert same_state(whole.optim_wrapper.state_dict(), resumed.optim_wrapper.state_dict())
    assert [s.state_dict() for s in whole.param_schedulers] == [
        s.state_dict() for s in resumed.param_schedulers
    ]
    assert (whole.epoch, whole.iter) == (resumed.epoch, resumed.iter)


def test_training_twice_gives_the_same_losses_to_the_last_bit(make_runner, parts, tmp_path):
    first = run(make_runner, parts, tmp_path / "a")
    second = run(make_runner, parts, tmp_path / "b")
    assert first[1].losses == second[1].losses
    assert same_state(first[0].model.state_dict(), second[0].model.state_dict())


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_after_epoch_2_of_4(make_runner, parts, tmp_path, workers):
    assert_equal_runs(
        *compare(
            make_runner,
            parts,
            tmp_path,
            stop=12,
            workers=workers,
            default_hooks=saving(by_epoch=True),
        )
    )


@pytest.mark.parametrize("stop", [3, 5, 6, 13])
def test_resuming_from_any_iteration_of_an_epoch_loop(make_runner, parts, tmp_path, stop):
    assert_equal_runs(*compare(make_runner, parts, tmp_path, stop=stop))


def test_resuming_inside_an_epoch_with_workers(make_runner, parts, tmp_path):
    assert_equal_runs(*compare(make_runner, parts, tmp_path, stop=8, workers=2))


@pytest.mark.parametrize("stop", [4, 6, 11])
@pytest.mark.parametrize("sampler", ["InfiniteSampler", "DefaultSampler"])
def test_resuming_an_iteration_loop(make_runner, parts, tmp_path, stop, sampler):
    loader = parts.loader(20, augment=True)
    loader["sampler"] = {"type": sampler, "shuffle": True}
    assert_equal_runs(
        *compare(make_runner, parts, tmp_path, stop=stop, kind=ITERS, train_dataloader=loader)
    )


def test_resuming_with_a_data_loader_of_ones_own(make_runner, parts, tmp_path):
    """torch's own shuffling draws its permutation from the global random stream."""

    def own():
        return torch.utils.data.DataLoader(parts.Points(20, augment=True), 4, shuffle=True)

    settings = {"train_dataloader": own(), "randomness": {"seed": 3}}
    whole = run(make_runner, parts, tmp_path / "whole", **settings)
    run(make_runner, parts, tmp_path / "parted", stop=8, **settings)
    saved = torch.load(tmp_path / "parted" / "iter_7.pth", weights_only=True)
    resumed = run(make_runner, parts, tmp_path / "parted", resume=True, **settings)
    assert_equal_runs(*whole, *resumed)

    # The negative control: without the stream's state at the beginning of the pass it is another.
    del saved["engine"]["pass_random"]
    torch.save(saved, tmp_path / "changed.pth")
    settings.update(resume=True, load_from=str(tmp_path / "changed.pth"))
    _, other, _ = run(make_runner, parts, tmp_path / "parted", **settings)
    assert whole[1].samples[-len(other.samples) :] != other.samples


def test_resuming_in_the_middle_of_gradient_accumulation(make_runner, parts, tmp_path):
    wrapper = {"optimizer": {"type": "Adam", "lr": 0.01}, "accumulative_counts": 4}
    assert_equal_runs(*compare(make_runner, parts, tmp_path, stop=7, optim_wrapper=wrapper))


def test_nothing_is_read_while_skipping(make_runner, parts, tmp_path):
    run(make_runner, parts, tmp_path / "run", stop=8)
    loader = parts.loader(20, augment=True)
    runner, recorder, _ = run(
        make_runner, parts, tmp_path / "run", resume=True, train_dataloader=loader
    )
    assert sum(map(len, recorder.samples)) == runner.train_dataloader.dataset.reads


def test_the_checkpoint_of_a_stopped_validation_is_followed_by_that_validation(
    make_runner, parts, tmp_path
):
    """A schedule that listens to the metric needs every validation."""
    plateau = {"type": "ReduceOnPlateauLR", "monitor": "acc/top1", "patience": 0, "factor": 0.5}
    kind = {"train_cfg": {"by_epoch": True, "max_epochs": 4}, "param_scheduler": plateau}

    class StopInValidation(Hook):
        def before_val_iter(self, runner, batch_idx, data_batch=None):
            if runner.epoch == 2:
                raise KeyboardInterrupt

    whole = run(make_runner, parts, tmp_path / "whole", kind=kind)
    arguments = {**kind, "custom_hooks": [DrawsNumbers(), StopInValidation()]}
    runner = make_runner(
        work_dir=tmp_path / "parted",
        dropout=0.3,
        train_dataloader=parts.loader(20, augment=True),
        default_hooks=saving(by_epoch=True),
        **arguments,
    )
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    resumed = run(make_runner, parts, tmp_path / "parted", kind=kind, resume=True)
    assert_equal_runs(*whole, *resumed)


@pytest.mark.parametrize(
    "train_cfg",
    [
        {"by_epoch": True, "max_epochs": 3},
        {"by_epoch": False, "max_iters": 6, "val_interval": 2},
    ],
)
def test_a_validation_that_is_owed_draws_the_numbers_that_it_would_have_drawn(
    make_runner, parts, tmp_path, train_cfg
):
    """A validation set may be read with noise."""

    class ValidationDraws(Hook):
        def __init__(self, stops_at=None):
            self.drawn, self.validations, self.stops_at = [], 0, stops_at

        def before_val_iter(self, runner, batch_idx, data_batch=None):
            if batch_idx == 0:
                self.validations += 1
                if self.validations == self.stops_at:
                    raise KeyboardInterrupt
            self.drawn.append(float(torch.rand(())))

    def train(folder, hook, **more):
        runner = make_runner(
            work_dir=tmp_path / folder,
            dropout=0.3,
            train_cfg=train_cfg,
            default_hooks=saving(by_epoch=train_cfg["by_epoch"]),
            custom_hooks=[hook],
            **more,
        )
        runner.train()

    whole, stopped, resumed = ValidationDraws(), ValidationDraws(stops_at=2), ValidationDraws()
    train("whole", whole)
    with pytest.raises(KeyboardInterrupt):
        train("parted", stopped)
    train("parted", resumed, resume=True)
    assert whole.drawn == stopped.drawn + resumed.drawn


def test_validation_does_not_change_what_training_draws(make_runner, parts, tmp_path):
    with_val = run(make_runner, parts, tmp_path / "with")
    without = run(
        make_runner,
        parts,
        tmp_path / "without",
        val_dataloader=None,
        val_cfg=None,
        val_evaluator=None,
    )
    assert with_val[1].losses == without[1].losses


def leave_out_optimizer(saved):
    for state in saved["optimizer"]["state"].values():
        state["momentum_buffer"].zero_()


def leave_out_position(saved):
    saved["engine"]["loop"].update(batches=0, samples=0)


def leave_out_epoch(saved):
    saved["engine"]["loop"].update(epoch=0)


def leave_out_random(saved):
    del saved["engine"]["random"]


def leave_out_seed(saved):
    """Of the order of samples; a run without a seed of its own takes the checkpoint's."""
    saved["meta"]["seed"] = None
    saved["engine"]["sampler_seed"] = None


@pytest.mark.parametrize(
    "leave_out",
    [leave_out_random, leave_out_position, leave_out_epoch, leave_out_seed, leave_out_optimizer],
)
def test_leaving_out_a_part_of_the_state_breaks_the_equality(
    make_runner, parts, tmp_path, leave_out
):
    """The negative control: the tests above would notice."""
    whole = run(make_runner, parts, tmp_path / "whole")
    run(make_runner, parts, tmp_path / "parted", stop=8)
    saved = torch.load(tmp_path / "parted" / "iter_7.pth", weights_only=True)
    assert saved["engine"]["loop"]["epoch"] == 1
    leave_out(saved)
    torch.save(saved, tmp_path / "changed.pth")
    resumed = run(
        make_runner,
        parts,
        tmp_path / "parted",
        resume=True,
        load_from=str(tmp_path / "changed.pth"),
        randomness={"seed": None},
    )
    assert not same_state(whole[0].model.state_dict(), resumed[0].model.state_dict())


@pytest.mark.parametrize("kind", [EPOCHS, ITERS])
def test_resuming_a_run_that_had_ended_changes_nothing(make_runner, parts, tmp_path, kind):
    """Not even the random state that it leaves behind."""
    saves = {"checkpoint": {"type": "CheckpointHook", "by_epoch": False, "interval": 1}}
    whole, *_ = run(make_runner, parts, tmp_path / "w", kind=kind, default_hooks=saves)
    after = torch.get_rng_state()
    arguments = {"kind": kind, "default_hooks": saves, "resume": True}
    resumed, rest, _ = run(make_runner, parts, tmp_path / "w", **arguments)
    assert rest.samples == []
    assert torch.equal(after, torch.get_rng_state())
    assert same_state(whole.model.state_dict(), resumed.model.state_dict())


def test_random_states_come_back_exactly():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    random.gauss(0, 1), np.random.randn()  # leaves half a pair behind
    state = capture_random_state()
    first = random.gauss(0, 1), np.random.randn(), torch.rand(3).tolist()
    random.random(), np.random.rand(5), torch.rand(5)
    restore_random_state(state)
    assert (random.gauss(0, 1), np.random.randn(), torch.rand(3).tolist()) == first


def test_captured_random_states_are_plain_data(tmp_path):
    torch.save(capture_random_state(), tmp_path / "state.pth")
    restore_random_state(torch.load(tmp_path / "state.pth", weights_only=True))


@pytest.mark.parametrize(
    ("settings", "draws"),
    [({"by_epoch": False, "max_iters": 2}, 1), ({"by_epoch": True, "max_epochs": 1}, 0)],
)
def test_building_a_loop_draws_what_it_draws_in_mmengine(tmp_path, settings, draws):
    runner = Runner(
        model=torch.nn.Linear(1, 1),
        work_dir=str(tmp_path),
        train_dataloader=DataLoader(TensorDataset(torch.ones(4, 1)), batch_size=2),
        train_cfg=settings,
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.1}},
        randomness={"seed": 1},
    )
    begin = torch.get_rng_state()
    runner.build_train_loop(settings)
    end = torch.get_rng_state()
    torch.set_rng_state(begin)
    for _ in range(draws):
        torch.empty((), dtype=torch.int64).random_()
    assert torch.equal(torch.get_rng_state(), end)
