"""Compiled models: that something is compiled, and that it trains as the uncompiled model does."""

from __future__ import annotations

import copy
import os
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from mmx.strategy import SingleDeviceStrategy
from mmx.testing.distributed import run_distributed

# The compiler fuses operations, which leaves the last bits of float32 to it.
TOLERANCE = dict(rtol=1e-4, atol=1e-5)
HAS_COMPILER = any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++")))


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 2), nn.ReLU())

    def forward(self, x):
        return self.layers(x)


@pytest.mark.parametrize(
    "make",
    [
        Own,
        lambda: nn.Linear(2, 2),
        lambda: nn.Sequential(nn.Linear(2, 2), nn.ReLU()),
        lambda: nn.Sequential(nn.Sequential(nn.Linear(2, 2)), nn.ReLU()),
    ],
    ids=["own class", "layer", "sequence", "nested"],
)
def test_a_model_that_is_said_to_be_compiled_is_whole_in_one_graph(tmp_path, make):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    model = make()
    x = torch.ones(1, 2)
    expected = model(x)
    names, copied = list(model.state_dict()), copy.deepcopy(model)
    seen = []
    model.register_forward_hook(lambda *args: seen.append(1))
    SingleDeviceStrategy(work_dir=str(tmp_path)).compile_model(model, dict(backend=backend))
    assert torch.equal(expected, model(x))
    assert len(graphs) == 1
    assert seen == [1]
    assert names == list(model.state_dict())
    # A copy is as good as the model, compiled or not.
    assert torch.equal(expected, copy.deepcopy(model)(x))
    assert torch.equal(expected, copied(x))


class Samples(torch.utils.data.Dataset):
    def __init__(self):
        self.x = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return {"x": self.x[index], "y": int(self.x[index].sum() > 0)}


def make_model():
    from mmx.model import BaseModel

    class Net(BaseModel):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
            self.head = nn.Linear(4, 2)

        def forward(self, x, y, mode):
            for layer in self.layers:
                x = layer(x).tanh()
            return {"loss": nn.functional.cross_entropy(self.head(x), y)}

    return Net()


def train(directory, strategy, compiled):
    from torch._dynamo.utils import counters

    from mmx.runner import Runner

    counters.clear()
    runner = Runner(
        make_model(),
        str(directory),
        train_dataloader=dict(
            dataset=Samples(),
            sampler=dict(type="DefaultSampler", shuffle=True),
            batch_size=2,
            collate_fn=dict(type="default_collate"),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(
            optimizer=dict(type="SGD", lr=0.5, momentum=0.9), clip_grad=dict(max_norm=1.0)
        ),
        default_hooks=dict(checkpoint=None, logger=dict(type="LoggerHook", interval=100)),
        randomness=dict(seed=2),
        launcher="pytorch",
        strategy=strategy,
        cfg=dict(compile=compiled),
        env_cfg=dict(dist_cfg=dict(backend="gloo")),
        experiment_name=f"{Path(str(directory)).name}-{os.getpid()}",
    )
    runner.train()
    found = {}
    for name, value in runner.model.state_dict().items():
        whole = value.full_tensor() if hasattr(value, "full_tensor") else value
        found[name.removeprefix("module.")] = whole.detach().clone()
    return found, dict(counters["stats"])


# C++ code of several graphs takes long to compile.
COMPILED = {"DDPStrategy": True, "FSDPStrategy": dict(backend="aot_eager")}
# The whole model; each of the modules of a list, which are sharded one by one, without what is
# between them in a loop.
GRAPHS = {"DDPStrategy": 1, "FSDPStrategy": 2}


def train_each_way(directory):
    out = {}
    for name, options in COMPILED.items():
        for compiled in (False, options):
            folder = Path(directory, f"{name}-{bool(compiled)}")
            out[name, bool(compiled)] = train(folder, dict(type=name), compiled)
    return out


@pytest.mark.slow
@pytest.mark.skipif(not HAS_COMPILER, reason="torch.compile needs a C++ compiler on the CPU")
def test_compiled_runs_on_two_ranks_train_as_uncompiled_ones(tmp_path):
    env = {
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        # Which vectors the processor has is found out by compiling a program for each kind; and
        # headers that are compiled once for many graphs are more work than these few.
        "TORCHINDUCTOR_VEC_ISA_OK": "0",
        "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0",
    }
    ranks = run_distributed(train_each_way, 2, str(tmp_path), timeout_s=240, env=env)
    for found in ranks:
        for name, graphs in GRAPHS.items():
            expected, none = found[name, False]
            after, stats = found[name, True]
            assert "unique_graphs" not in none
            assert graphs == stats["unique_graphs"]
            assert expected.keys() == after.keys()
            for key, value in expected.items():
                torch.testing.assert_close(value, after[key], **TOLERANCE)
                assert torch.equal(after[key], ranks[0][name, True][0][key])
