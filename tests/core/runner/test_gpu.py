"""Between log lines nobody waits for the device: on a GPU, and on a device that cannot be read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmx.evaluator import ReducedMetric
from mmx.hooks import Hook
from mmx.model import BaseDataPreprocessor, BaseModel
from mmx.runner import Runner
from mmx.runner.quiet import QuietEvaluation, QuietTraining

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
# torch warns once that its check finds most waits, but not all.
a_prototype = pytest.mark.filterwarnings("ignore:Synchronization debug mode")

BATCHES, INTERVAL = 25, 10


class SeveralLosses(BaseModel):
    """A classifier with batch normalisation and dropout, whose losses change their names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.norm = nn.BatchNorm1d(8)
        self.dropout = nn.Dropout(0.1)
        self.last = nn.Linear(8, 2)
        self.calls = 0

    def forward(self, x: Any, y: Any = None, i: Any = None, mode: str = "tensor") -> Any:
        out = self.last(self.dropout(self.norm(self.first(x)).relu()))
        if mode == "loss":
            self.calls += 1
            losses = {"loss_cls": nn.functional.cross_entropy(out, y)}
            if self.calls % 3 == 0:
                losses["loss_aux"] = out.pow(2)
            return losses
        return (out, y) if mode == "predict" else out


class Accuracy(ReducedMetric):
    """Share of right answers, counted on the device."""

    reductions = {"right": "sum", "all": "sum"}

    def measure(self, data_batch: Any, data_samples: Any) -> dict[str, torch.Tensor]:
        if isinstance(data_samples, list):
            scores = torch.stack([sample["score"] for sample in data_samples])
            labels = torch.stack([sample["y"] for sample in data_samples])
        else:
            scores, labels = data_samples
        return {"right": scores.argmax(1) == labels, "all": torch.ones_like(labels)}

    def compute(self, states: dict[str, torch.Tensor]) -> dict[str, Any]:
        return {"top1": float(states["right"] / states["all"])}


class Watch(Hook):
    """Forbids to wait for the device, but in iterations in which a log line is due.

    The first iteration of each pass warms up. The hook sleeps in between, so that it takes no
    iteration out of the quiet loops.

    Args:
        forbid: Called with whether waiting is forbidden from now on.
    """

    priority = 0

    def __init__(self, forbid: Callable[[bool], None]) -> None:
        self.forbid = forbid

    def _is_free(self, batch_idx: int) -> bool:
        return batch_idx == 0 or (batch_idx + 1) % INTERVAL == 0 or batch_idx + 1 == BATCHES

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self.forbid(not self._is_free(batch_idx))

    def before_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self.forbid(not self._is_free(batch_idx))

    def idle_iters(self, runner: Any, batch_idx: int, mode: str) -> int:
        at = batch_idx
        while at and self._is_free(at) == self._is_free(at - 1):
            at += 1
        return at - batch_idx

    def after_train_epoch(self, runner: Any) -> None:
        self.forbid(False)

    def after_run(self, runner: Any) -> None:
        self.forbid(False)


class ReadsLoss(Hook):
    """Reads each loss."""

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        outputs["loss"].item()


WAYS = {
    "one loss": {},
    "plain": {"model": SeveralLosses},
    "clipped, accumulated and averaged": {
        "model": SeveralLosses,
        "wrapper": {"clip_grad": {"max_norm": 1.0}, "accumulative_counts": 3},
        "hooks": [{"type": "EMAHook", "momentum": 0.1}],
    },
    "bfloat16": {"wrapper": {"type": "AmpOptimWrapper", "dtype": "bfloat16"}},
    "bfloat16, clipped, accumulated and averaged": {
        "model": SeveralLosses,
        "wrapper": {
            "type": "AmpOptimWrapper",
            "dtype": "bfloat16",
            "clip_grad": {"max_norm": 1.0},
            "accumulative_counts": 3,
        },
        "hooks": [{"type": "EMAHook", "momentum": 0.1}],
    },
}


@pytest.fixture
def train(
    make_runner: Callable[..., Runner], parts: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Runner]:
    """Return a function that trains and validates in one of the ways above."""

    def run(way: str, forbid: Callable[[bool], None], *, quiet: bool = True, **more: Any) -> Runner:
        options = WAYS[way]
        done = {}
        for part in (QuietTraining, QuietEvaluation):
            done[part] = []
            monkeypatch.setattr(part, "run", counted(part.run, done[part]) if quiet else skipped)
        optimizer = {"type": "SGD", "lr": 0.1, "momentum": 0.9}
        hooks = [Watch(forbid), *options.get("hooks", []), *more.pop("hooks", [])]
        loaders = {
            f"{mode}_dataloader": {**parts.loader(4 * BATCHES), **more.get("loader", {})}
            for mode in ("train", "val")
        }
        runner = make_runner(
            model=options.get("model", parts.Net)(),
            **loaders,
            optim_wrapper={"optimizer": optimizer, **options.get("wrapper", {})},
            train_cfg={"by_epoch": True, "max_epochs": 1},
            val_evaluator=[more.get("metric", Accuracy)()],
            param_scheduler={"type": "LinearLR", "by_epoch": False, "begin": 0, "end": 10},
            default_hooks={
                "logger": {"type": "LoggerHook", "interval": INTERVAL},
                "checkpoint": {"type": "CheckpointHook", "save_last": False},
            },
            custom_hooks=hooks,
        )
        runner.train()
        for numbers in done.values():
            # The first ones, in which hooks find their ways, never are.
            assert sum(numbers) >= BATCHES - 3 if quiet else not numbers
        return runner

    return run


def counted(run: Callable[..., int], numbers: list[int]) -> Callable[..., int]:
    def run_and_count(self: Any, *args: Any) -> int:
        numbers.append(run(self, *args))
        return numbers[-1]

    return run_and_count


def skipped(self: Any, *args: Any) -> int:
    return 0


def logged(runner: Runner) -> list[dict[str, Any]]:
    """Return the records of training's log lines."""
    path = next(Path(runner.work_dir).rglob("vis_data/scalars.json"))
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [record for record in records if "loss" in record]


def lines_due() -> list[int]:
    """Return the iterations, counted from 0, in which a line is due."""
    return [i for i in range(BATCHES) if (i + 1) % INTERVAL == 0]


# On a GPU -----------------------------------------------------------------------------------


def forbid_synchronisation(is_forbidden: bool) -> None:
    torch.cuda.set_sync_debug_mode("error" if is_forbidden else "default")


@pytest.fixture
def _synchronisation_allowed() -> Iterator[None]:
    yield
    if torch.cuda.is_available():
        torch.cuda.set_sync_debug_mode("default")


@needs_cuda
@a_prototype
@pytest.mark.gpu
@pytest.mark.usefixtures("_synchronisation_allowed")
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("quiet", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_between_log_lines_nobody_waits_for_the_gpu(
    train: Callable[..., Runner], way: str, quiet: bool, workers: int
) -> None:
    loader = {"pin_memory": True, "num_workers": workers}
    runner = train(way, forbid_synchronisation, quiet=quiet, loader=loader)
    assert next(runner.model.parameters()).is_cuda
    assert [i + 1 for i in lines_due()] == [record["step"] for record in logged(runner)]
    history = runner.message_hub.get_scalar("train/loss").data[0]
    assert BATCHES == len(history)
    assert torch.isfinite(torch.from_numpy(history)).all()


@needs_cuda
@a_prototype
@pytest.mark.gpu
@pytest.mark.usefixtures("_synchronisation_allowed")
def test_who_reads_a_loss_on_the_gpu_is_caught(train: Callable[..., Runner]) -> None:
    with pytest.raises(RuntimeError, match="synchroniz"):
        train("plain", forbid_synchronisation, hooks=[ReadsLoss()])


# On a device that cannot be read ------------------------------------------------------------


class Copies(TorchDispatchMode):
    """Notes copies to the device that are waited for, and what would need values from it."""

    reading = {
        torch.ops.aten.nonzero.default,
        torch.ops.aten.masked_select.default,
        torch.ops.aten.equal.default,
        torch.ops.aten.bincount.default,
    }

    def __init__(self) -> None:
        super().__init__()
        self.is_watching = False
        self.found: list[str] = []
        self.num_copies = 0

    def watch(self, is_forbidden: bool) -> None:
        self.is_watching = is_forbidden

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        is_copy = func is torch.ops.aten._to_copy.default and str(kwargs.get("device")) == "meta"
        if is_copy and not args[0].is_meta:
            self.num_copies += 1
            if self.is_watching and not kwargs.get("non_blocking", False):
                self.found.append("a copy that is waited for")
        if self.is_watching and func in self.reading and args[0].is_meta:
            self.found.append(str(func))
        return func(*args, **kwargs)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Let runs take torch's device without memory, ``meta``, for their accelerator.

    To read a value of it, which on an accelerator waits, is an error; log lines alone get numbers,
    and it is noted for which iterations.
    """
    copies = Copies()
    found = SimpleNamespace(reads=[], runner=None, copies=copies, forbid=copies.watch)

    def read_tensors(tensors: list[torch.Tensor]) -> list[float]:
        assert all(tensor.is_meta and tensor.numel() == 1 for tensor in tensors)
        found.reads.append(found.runner().iter)
        if copies.is_watching:
            copies.found.append("a transfer of logged numbers")
        return [0.5] * len(tensors)

    for place in ("mmx.logging._rows", "mmx.logging.history_buffer"):
        monkeypatch.setattr(f"{place}.read_tensors", read_tensors)
    for place in ("mmx.logging.message_hub", "mmx.runner.log_processor"):
        monkeypatch.setattr(f"{place}.tensors_live_on_cpu", lambda: False)
    for place in ("base", "single_device"):
        monkeypatch.setattr(f"mmx.strategy.{place}.get_device", lambda: "meta")
    # torch knows no mixed precision of this device: the context is there, and changes nothing.
    autocast = torch.autocast
    monkeypatch.setattr(torch, "autocast", lambda kind, **options: autocast("cpu", **options))
    monkeypatch.setattr(torch.amp, "is_autocast_available", lambda kind: True)
    with found.copies:
        yield found


class Tells(Hook):
    """Tells the fixture which run is under way, whose weights have no values to begin with."""

    def __init__(self, device: SimpleNamespace) -> None:
        self.device = device

    def before_run(self, runner: Any) -> None:
        self.device.runner = lambda: runner


class Unread(Accuracy):
    """Counts, and at the end gives a number without reading what was counted."""

    def evaluate(self, size: int) -> dict[str, Any]:
        assert all(state.is_meta for state in self._states.values())
        return {"top1": 0.5}


@pytest.mark.parametrize(
    ("way", "quiet"), [(way, True) for way in WAYS] + [(way, False) for way in list(WAYS)[::2]]
)
def test_between_log_lines_nothing_is_read_from_a_device(
    train: Callable[..., Runner], device: SimpleNamespace, way: str, quiet: bool
) -> None:
    runner = train(way, device.forbid, quiet=quiet, hooks=[Tells(device)], metric=Unread)
    assert next(runner.model.parameters()).is_meta
    assert [] == device.copies.found
    # Three tensors of a batch, in training and in the validation.
    assert 3 * 2 * BATCHES <= device.copies.num_copies
    # One transfer for each line; the validation's first takes what training has left.
    assert [*lines_due(), BATCHES] == device.reads
    assert [i + 1 for i in lines_due()] == [record["step"] for record in logged(runner)]
    assert BATCHES == len(runner.message_hub.get_scalar("train/loss").data[0])


def test_who_reads_a_loss_on_the_device_is_caught(
    train: Callable[..., Runner], device: SimpleNamespace
) -> None:
    with pytest.raises(RuntimeError, match="cannot be called on meta tensors"):
        train("plain", device.forbid, hooks=[Tells(device), ReadsLoss()], metric=Unread)


class Flushes(Hook):
    """Asks for all numbers in an iteration in which no line is due."""

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        if batch_idx == 5:
            runner.message_hub.read()


def test_copies_and_transfers_that_are_waited_for_are_caught(
    train: Callable[..., Runner], device: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BaseDataPreprocessor, "_waits_not", lambda self: False)
    train("one loss", device.forbid, hooks=[Tells(device), Flushes()], metric=Unread)
    kinds = {"a copy that is waited for", "a transfer of logged numbers"}
    assert kinds == set(device.copies.found)
    assert 1 == device.copies.found.count("a transfer of logged numbers")
