"""Distributed data parallel training: what travels, when, and what it learns."""

from __future__ import annotations

import logging
import warnings

import pytest
import torch
import torch.distributed as dist
from torch import nn

from mmx.model import BaseModel, MMDistributedDataParallel
from mmx.model.wrappers import UnusedParametersError
from mmx.optim import OptimWrapper
from mmx.testing.distributed import run_distributed

STEPS = 6


class Net(BaseModel):
    def __init__(self, idle: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(3, 8)
        self.idle = nn.Linear(2, 2) if idle else None
        self.second = nn.Linear(8, 1)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x, mode="tensor"):
        self.seen += 1
        out = self.second(self.first(x).tanh())
        return {"loss": out.square().mean()} if mode == "loss" else out


def batch(step: int, half: int) -> dict[str, torch.Tensor]:
    data = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
    return {"x": data[4 * half : 4 * half + 4]}


def wrapper_of(model: nn.Module, **options) -> OptimWrapper:
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), **options)
    wrapper.initialize_count_status(model, 0, 2 * STEPS)
    return wrapper


def learn(wrapped: nn.Module) -> list[float]:
    wrapper = wrapper_of(wrapped)
    rank = dist.get_rank()
    return [wrapped.train_step(batch(i, rank), wrapper)["loss"].item() for i in range(STEPS)]


def count_syncs() -> list[int]:
    """Return how many gradient buckets have travelled after each of 6 accumulated steps."""
    wrapped = MMDistributedDataParallel(Net())
    wrapper = wrapper_of(wrapped, accumulative_counts=3)
    counted, after = [0], []

    def hook(state, bucket):
        counted[0] += 1
        return (
            dist.all_reduce(bucket.buffer(), async_op=True)
            .get_future()
            .then(lambda done: done.value()[0])
        )

    wrapped.register_comm_hook(None, hook)
    for step in range(6):
        wrapped.train_step(batch(step, dist.get_rank()), wrapper)
        after.append(counted[0])
    return after


def everything() -> dict:
    warnings.simplefilter("error")
    found: dict = {"losses": learn(MMDistributedDataParallel(Net(), broadcast_buffers=False))}
    found["static"] = learn(MMDistributedDataParallel(Net(), static_graph=True))
    found["unused found"] = learn(
        MMDistributedDataParallel(Net(idle=True), find_unused_parameters=True)
    )
    found["fp16"] = learn(MMDistributedDataParallel(Net(), gradient_compression="fp16"))
    found["powerSGD"] = learn(
        MMDistributedDataParallel(
            Net(), gradient_compression=dict(type="powerSGD", start_powerSGD_iter=3)
        )
    )
    found["syncs"] = count_syncs()
    for wrong in ("zip", "batched_powerSGD", dict(type="fp16", rank=1)):
        try:
            MMDistributedDataParallel(Net(), gradient_compression=wrong)
        except (ValueError, TypeError) as error:
            found[str(wrong)] = f"{type(error).__name__}: {error}"
    # Forward passes differ in number by rank; with broadcast_buffers the first rank's counts.
    for synced in (True, False):
        wrapped = MMDistributedDataParallel(Net(), broadcast_buffers=synced)
        with torch.no_grad():
            wrapped.module.seen.fill_(10.0 * dist.get_rank())
        learn(wrapped)
        found[f"seen {synced}"] = wrapped.module.seen.item()
    wrapped = MMDistributedDataParallel(Net(idle=True))
    try:
        learn(wrapped)
    except UnusedParametersError as error:
        found["unused"] = (error.names, str(error))
    return found


@pytest.fixture(scope="module")
def ranks() -> list[dict]:
    return run_distributed(everything, 2)


def test_two_ranks_learn_bit_for_bit_what_one_process_accumulates(ranks) -> None:
    """Halves are weighted by one half before they are added, in both."""
    model = Net()
    wrapper = wrapper_of(model, accumulative_counts=2)
    expected: list[list[float]] = [[], []]
    for step in range(STEPS):
        for half in range(2):
            loss = model.train_step(batch(step, half), wrapper)["loss"].item()
            expected[half].append(loss)
    assert expected == [rank["losses"] for rank in ranks]
    assert expected == [rank["static"] for rank in ranks]


def learn_a_quarter() -> list[float]:
    wrapped = MMDistributedDataParallel(Net())
    wrapper, rank = wrapper_of(wrapped), dist.get_rank()
    rows = slice(2 * (rank % 2), 2 * (rank % 2) + 2)
    return [
        wrapped.train_step({"x": batch(i, rank // 2)["x"][rows]}, wrapper)["loss"].item()
        for i in range(STEPS)
    ]


def test_four_ranks_learn_what_one_process_learns_from_the_whole_batch() -> None:
    model = Net()
    wrapper = wrapper_of(model)
    means = torch.tensor(run_distributed(learn_a_quarter, 4)).mean(0)
    expected = [
        model.train_step({"x": torch.cat([batch(i, half)["x"] for half in (0, 1)])}, wrapper)[
            "loss"
        ]
        for i in range(STEPS)
    ]
    # The sum over a batch of 8 is not in the order of four sums over 2.
    torch.testing.assert_close(means, torch.stack(expected), rtol=1e-6, atol=1e-7)


def test_two_ranks_learn_what_one_process_learns_from_the_whole_batch(ranks) -> None:
    model = Net()
    wrapper = wrapper_of(model)
    means = torch.tensor([rank["losses"] for rank in ranks]).mean(0)
    expected = [
        model.train_step({"x": torch.cat([batch(i, half)["x"] for half in (0, 1)])}, wrapper)[
            "loss"
        ]
        for i in range(STEPS)
    ]
    # The sum over a batch of 8 is not in the order of two sums over 4.
    torch.testing.assert_close(means, torch.stack(expected), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("kind", "tolerance"), [("fp16", 1e-3), ("powerSGD", 0.2)])
def test_compressed_gradients_teach_nearly_the_same(ranks, kind, tolerance) -> None:
    for rank in ranks:
        torch.testing.assert_close(
            torch.tensor(rank[kind]), torch.tensor(rank["losses"]), rtol=tolerance, atol=tolerance
        )
        assert rank[kind] != rank["losses"]


def test_unknown_compressions_are_errors(ranks) -> None:
    expected = "ValueError: gradient_compression should be one of fp16, bf16, powerSGD, but got "
    assert expected + "'zip'" == ranks[0]["zip"]
    assert (
        expected + "'batched_powerSGD', torch's hook for which fails"
        == ranks[0]["batched_powerSGD"]
    )
    text = ranks[0][str(dict(type="fp16", rank=1))]
    assert "TypeError: gradient_compression 'fp16' takes no arguments, but got {'rank': 1}" == text


def test_gradients_travel_only_where_weights_are_updated(ranks) -> None:
    assert [0, 0, 1, 1, 1, 2] == ranks[0]["syncs"] == ranks[1]["syncs"]


def test_parameters_without_gradient_are_named(ranks) -> None:
    names, text = ranks[1]["unused"]
    assert ["idle.weight", "idle.bias"] == names
    assert text.startswith("idle.weight, idle.bias had no part in the loss of the iteration before")
    assert "find_unused_parameters=True" in text
    assert STEPS == len(ranks[1]["unused found"])


def test_buffers_of_the_first_rank_count_only_where_they_are_broadcast(ranks) -> None:
    assert [STEPS, STEPS] == [rank["seen True"] for rank in ranks]
    assert [STEPS, 10 + STEPS] == [rank["seen False"] for rank in ranks]


@pytest.mark.parametrize(
    ("environment", "warns"),
    [
        (dict(TORCHELASTIC_RUN_ID="x"), True),
        (dict(RANK="1", WORLD_SIZE="2"), True),
        (dict(), False),
        (dict(RANK="0", WORLD_SIZE="1"), False),
        (dict(WORLD_SIZE="2"), False),
        (dict(RANK="0", WORLD_SIZE="many"), False),
    ],
)
def test_a_run_without_launcher_among_several_processes_is_warned(
    environment, warns, monkeypatch
) -> None:
    from mmx.strategy import environment as module

    shown: list[tuple[str, dict]] = []
    monkeypatch.setattr(module, "print_log", lambda text, **kwargs: shown.append((text, kwargs)))
    for name in ("TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    module.setup_process("none")
    assert warns == bool(shown)
    for text, options in shown:
        assert text.startswith("this process was started by torchrun, but launcher is 'none': ")
        assert "each process will train a model of its own. Pass launcher='pytorch'" in text
        assert logging.WARNING == options["level"]
    # In a process group, which someone else made, all is well.
    shown.clear()
    monkeypatch.setattr(module, "is_distributed", lambda: True)
    module.setup_process("none")
    assert [] == shown
