"""Wrappers of models, on one and on two processes."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from torch import nn

from mmx.model import (
    BaseModel,
    MMDistributedDataParallel,
    MMFullyShardedDataParallel,
    MMSeparateDistributedDataParallel,
    is_model_wrapper,
)
from mmx.optim import OptimWrapper, OptimWrapperDict
from mmx.testing.distributed import run_distributed


class Net(BaseModel):
    def __init__(self, idle=False):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(2, 4)
        self.second = nn.Linear(4, 1)
        self.idle = nn.Linear(1, 1) if idle else None

    def forward(self, x, mode="tensor"):
        out = self.second(self.first(x).relu())
        return {"loss": out.mean()} if mode == "loss" else out


class Gan(BaseModel):
    """Two parts with an optimizer each, and one without gradients."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.generator = nn.Linear(2, 2)
        self.critic = nn.Linear(2, 1)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)

    def forward(self, x, mode="tensor"):
        return self.critic(self.frozen(self.generator(x)))

    def train_step(self, data, optim_wrapper):
        x = self.data_preprocessor(data, True)["x"]
        with optim_wrapper["critic"].optim_context(self.critic):
            loss = self.critic(x).mean()
        optim_wrapper["critic"].update_params(loss)
        with optim_wrapper["generator"].optim_context(self.generator):
            out = self.generator(x).square().mean()
        optim_wrapper["generator"].update_params(out)
        return {"critic": loss.detach(), "generator": out.detach()}


def batch(rows):
    data = torch.randn(8, 2, generator=torch.Generator().manual_seed(2))
    return {"x": data[rows]}


def half():
    rank = dist.get_rank()
    return slice(4 * rank, 4 * rank + 4)


def sgd(parameters, **options):
    return OptimWrapper(torch.optim.SGD(parameters, lr=0.1), **options)


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def train_wrapped(accumulate):
    wrapped = MMDistributedDataParallel(Net())
    assert is_model_wrapper(wrapped)
    wrapper = sgd(wrapped.parameters(), accumulative_counts=accumulate)
    wrapper.initialize_count_status(wrapped, 0, 4)
    for _ in range(4):
        logged = wrapped.train_step(batch(half()), wrapper)
    assert list(logged) == ["loss"]
    predicted = wrapped.val_step(batch(half()))
    assert torch.equal(predicted, wrapped.test_step(batch(half())))
    return weights(wrapped).tolist()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_ranks_learn_what_one_process_learns(accumulate):
    on_ranks = run_distributed(train_wrapped, 2, accumulate)
    assert on_ranks[0] == on_ranks[1]
    net = Net()
    wrapper = sgd(net.parameters(), accumulative_counts=accumulate)
    wrapper.initialize_count_status(net, 0, 4)
    for _ in range(4):
        net.train_step(batch(slice(None)), wrapper)
    torch.testing.assert_close(weights(net), torch.tensor(on_ranks[0]))


def anomalous():
    wrapped = MMDistributedDataParallel(
        Net(idle=True), detect_anomalous_params=True, find_unused_parameters=True
    )
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        wrapped.train_step(batch(half()), sgd(wrapped.parameters()))
    return out.getvalue()


def test_idle_parameters_are_named():
    text = run_distributed(anomalous, 2)[0]
    assert "module.idle.weight with shape torch.Size([1, 1]) is not in the computational" in text
    assert "module.first" not in text


def train_separately():
    wrapped = MMSeparateDistributedDataParallel(Gan())
    inner = wrapped.module
    assert is_model_wrapper(wrapped)
    assert isinstance(inner.generator, MMDistributedDataParallel)
    assert isinstance(inner.frozen, nn.Linear)
    wrapper = OptimWrapperDict(
        generator=sgd(inner.generator.parameters()), critic=sgd(inner.critic.parameters())
    )
    for _ in range(3):
        logged = wrapped.train_step(batch(half()), wrapper)
    wrapped.eval()
    assert [m.training for m in (wrapped, inner, inner.critic.module)] == [False] * 3
    assert wrapped.val_step(batch(half())).shape == wrapped.test_step(batch(half())).shape
    with wrapped.no_sync():
        assert not inner.critic.require_backward_grad_sync
    assert inner.critic.require_backward_grad_sync
    return weights(wrapped).tolist(), sorted(logged)


def test_parts_with_optimizers_of_their_own_learn_what_one_process_learns():
    on_ranks = run_distributed(train_separately, 2)
    assert on_ranks[0] == on_ranks[1]
    net = Gan()
    wrapper = OptimWrapperDict(
        generator=sgd(net.generator.parameters()), critic=sgd(net.critic.parameters())
    )
    for _ in range(3):
        net.train_step(batch(slice(None)), wrapper)
    torch.testing.assert_close(weights(net), torch.tensor(on_ranks[0][0]))
    assert on_ranks[0][1] == ["critic", "generator"]


def train_sharded():
    wrapped = MMFullyShardedDataParallel(
        Net(),
        sharding_strategy="FULL_SHARD",
        auto_wrap_policy=dict(
            type="torch.distributed.fsdp.wrap.size_based_auto_wrap_policy", min_num_params=1
        ),
        backward_prefetch="BACKWARD_PRE",
        cpu_offload=False,
    )
    assert is_model_wrapper(wrapped)
    wrapper = sgd(wrapped.parameters())
    for _ in range(3):
        wrapped.train_step(batch(half()), wrapper)
    assert wrapped.val_step(batch(half())).shape == wrapped.test_step(batch(half())).shape
    # Not by `state_dict`, which crashes on the CPU in torch 2.13.
    with MMFullyShardedDataParallel.summon_full_params(wrapped):
        return weights(wrapped).tolist()


def test_a_sharded_model_learns_what_one_process_learns():
    on_ranks = run_distributed(train_sharded, 2)
    assert on_ranks[0] == on_ranks[1]
    net = Net()
    wrapper = sgd(net.parameters())
    for _ in range(3):
        net.train_step(batch(slice(None)), wrapper)
    torch.testing.assert_close(weights(net), torch.tensor(on_ranks[0]))


def errors_of_sharding():
    texts = []
    for options in (
        dict(sharding_strategy="x"),
        dict(sharding_strategy=1),
        dict(cpu_offload=1),
        dict(backward_prefetch="x"),
        dict(mixed_precision=1),
        dict(mixed_precision=dict(param_dtype="nn")),
        dict(process_group=1),
        dict(auto_wrap_policy=1),
        dict(auto_wrap_policy="nope"),
        dict(param_init_fn=dict(x=1)),
        dict(ignored_modules="first"),
        dict(ignored_parameters=1),
    ):
        try:
            MMFullyShardedDataParallel(Net(), **options)
        except (TypeError, ValueError) as error:
            texts.append(f"{type(error).__name__}: {error}")
    return texts


def test_wrong_arguments_of_sharding_are_errors():
    begins = [
        "ValueError: `sharding_strategy` should be one of FULL_SHARD",
        "TypeError: `sharding_strategy` should be `None`, a name of `ShardingStrategy`",
        "TypeError: `cpu_offload` should be `None`, `bool` or `CPUOffload`",
        "ValueError: `backward_prefetch` should be one of BACKWARD_PRE, BACKWARD_POST",
        "TypeError: `mixed_precision` should be `None`, `dict` or `MixedPrecision`",
        "ValueError: `mixed_precision` has param_dtype='nn', which is no dtype of torch",
        "TypeError: `process_group` should be `None`, a dict",
        "TypeError: `auto_wrap_policy` should be a str, a callable, a dict or None",
        "ValueError: `auto_wrap_policy` is 'nope', which is not registered in FUNCTIONS",
        'ValueError: `param_init_fn` as a dict should have the key "type"',
        "TypeError: `ignored_modules` should be `None`, `Iterable[str]`",
        "TypeError: `ignored_parameters` should be `None`, `Iterable[str]`",
    ]
    texts = run_distributed(errors_of_sharding, 1)[0]
    assert [t.startswith(b) for t, b in zip(texts, begins, strict=True)] == [True] * 12, texts


# In a process of its own, in which nothing has imported the compiler.
WRAPPED_BEFORE_THE_COMPILER_IS_IMPORTED = """
import sys

import torch
from torch import nn

from mmx.model import MMDistributedDataParallel
from mmx.model.wrappers import distributed

torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)


class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        # Of a megabyte each: torch's first bucket of gradients.
        self.layers = nn.Sequential(*(nn.Linear(512, 512) for _ in range(4)))

    def forward(self, x):
        return self.layers(x)


def weights_and_graphs(model):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    model.module.compile(backend=backend)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        model(torch.ones(2, 512)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return torch.cat([p.detach().flatten() for p in model.parameters()]), len(graphs)


def unimported():
    return "torch._dynamo" not in sys.modules and "_dynamo" not in vars(torch)


model = MMDistributedDataParallel(Deep(), bucket_cap_mb=1)
assert unimported()
try:
    MMDistributedDataParallel(nn.ReLU())
except RuntimeError as error:  # it has no parameters
    assert unimported()
with distributed._compiler_stays_unimported():
    shown = torch._dynamo.utils.get_optimize_ddp_mode()
    assert torch._dynamo.config.optimize_ddp is True  # anything else imports it
    assert "torch._dynamo" in sys.modules
    assert torch._dynamo is sys.modules["torch._dynamo"]
assert torch._dynamo is sys.modules["torch._dynamo"]
assert shown == torch._dynamo.utils.get_optimize_ddp_mode()

# Compiled models go on to be split where buckets of gradients end.
weights, graphs = weights_and_graphs(model)
expected = nn.parallel.DistributedDataParallel(Deep(), bucket_cap_mb=1)
expected_weights, expected_graphs = weights_and_graphs(expected)
assert torch.equal(expected_weights, weights)
assert expected_graphs == graphs > 1, (expected_graphs, graphs)

torch._dynamo.config.optimize_ddp = "python_reducer"
assert MMDistributedDataParallel(Deep())._use_python_reducer
torch.distributed.destroy_process_group()
"""


def test_wrapping_does_not_import_the_compiler_and_compiled_models_train_as_ever():
    subprocess.run([sys.executable, "-c", WRAPPED_BEFORE_THE_COMPILER_IS_IMPORTED], check=True)


class Asking(Net):
    """Notes which model torch's compiler is told of."""

    def __init__(self):
        super().__init__()
        self.told = []

    def forward(self, x, mode="tensor"):
        self.told[:] = [torch.nn.parallel.DistributedDataParallel._active_ddp_module]
        return super().forward(x, mode)


def train_with_and_without_compiler():
    wrapped = MMDistributedDataParallel(Asking())
    wrapper = sgd(wrapped.parameters())
    wrapped.train_step(batch(half()), wrapper)
    assert wrapped.module.told == [None]
    compiled = torch.compile(lambda x: x + 1, backend="eager")
    wrapped.train_step(batch(half()), wrapper)
    assert wrapped.module.told[0] is wrapped
    del compiled
    torch._dynamo.reset()
    wrapped.train_step(batch(half()), wrapper)
    assert wrapped.module.told == [None]


def test_the_compiler_is_told_of_the_model_where_anything_is_compiled():
    run_distributed(train_with_and_without_compiler, 2)
