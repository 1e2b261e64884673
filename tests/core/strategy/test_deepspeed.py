"""DeepSpeed's own engine on two CPU processes; run where the package is installed."""

from __future__ import annotations

import copy
import os
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from mmx.hooks import Hook
from mmx.model import BaseModel
from mmx.testing.distributed import run_distributed

pytest.importorskip("deepspeed", reason="DeepSpeedStrategy needs the package deepspeed")
pytestmark = pytest.mark.slow

# ZeRO adds gradients in buckets of its own, and Adam divides by the root of small second moments.
TOLERANCE = dict(rtol=1e-4, atol=1e-5)
STAGES = (0, 1, 2, 3)
ENV = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}


class Samples(torch.utils.data.Dataset):
    def __init__(self):
        self.x = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return {"x": self.x[index], "y": int(self.x[index].sum() > 0)}


class Net(BaseModel):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
        self.fixed = nn.Linear(6, 6).requires_grad_(False)
        self.head = nn.Linear(6, 2)
        self.register_buffer("calls", torch.zeros(()))

    def init_weights(self):
        nn.init.constant_(self.head.bias, 0.25)

    def forward(self, x, y, mode):
        self.calls += self.training
        for block in self.blocks:
            x = self.fixed(block(x)).relu()
        logits = self.head(x)
        if mode == "loss":
            return {"loss": nn.functional.cross_entropy(logits.float(), y)}
        return logits


def zero(stage, **more):
    return dict(type="DeepSpeedStrategy", zero_optimization=dict(stage=stage), **more)


def train(directory, strategy, *, epochs=2, **more):
    from mmx.runner import Runner

    losses, begin = [], {}

    class Losses(Hook):
        def before_train(self, runner):
            begin.update(whole(runner))

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            losses.append(float(outputs["loss"].detach()))

    runner = Runner(
        Net(),
        str(directory),
        train_dataloader=dict(
            dataset=Samples(),
            sampler=dict(type="DefaultSampler", shuffle=True),
            batch_size=4,
            collate_fn=dict(type="default_collate"),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=more.pop("optim_wrapper", dict(optimizer=dict(type="Adam", lr=0.01))),
        param_scheduler=dict(type="MultiStepLR", milestones=[1], gamma=0.5),
        default_hooks=dict(logger=dict(type="LoggerHook", interval=100)),
        custom_hooks=[Losses()],
        randomness=dict(seed=2),
        launcher="pytorch",
        strategy=copy.deepcopy(strategy),
        env_cfg=dict(dist_cfg=dict(backend="gloo")),
        experiment_name=f"{Path(str(directory)).name}-{os.getpid()}-{epochs}",
        **more,
    )
    runner.train()
    runner.model.eval()
    with torch.no_grad():
        answers = runner.model.test_step(torch.utils.data.default_collate([*Samples()]))
    return {
        "losses": losses,
        "begin": begin,
        "end": whole(runner),
        "iter": runner.iter,
        "answers": answers,
    }


def whole(runner):
    """Return the weights and the optimizer's state by name, on rank 0."""
    from mmx.runner.checkpointing import _strategy

    strategy = _strategy(runner)
    found = {f"weight {k}": v.clone() for k, v in strategy.model_state_dict().items()}
    for name, entry in strategy.optim_state_dict()["state"].items():
        found |= {f"{key} of {name}": torch.as_tensor(v).clone() for key, v in entry.items()}
    return found


def train_and_resume(directory):
    warnings.filterwarnings("error", message="Detected call of `scheduler.step")
    out = {}
    clipped = dict(optimizer=dict(type="Adam", lr=0.01), clip_grad=dict(max_norm=0.1))
    out["ddp"] = train(Path(directory, "ddp"), dict(type="DDPStrategy"))
    out["ddp clipped"] = train(
        Path(directory, "clipped"), dict(type="DDPStrategy"), optim_wrapper=clipped
    )
    out["ddp, longer"] = train(Path(directory, "longer"), dict(type="DDPStrategy"), epochs=3)
    out["ddp, accumulated"] = train(
        Path(directory, "accumulated"),
        dict(type="DDPStrategy"),
        optim_wrapper=dict(optimizer=dict(type="Adam", lr=0.01), accumulative_counts=2),
    )
    for stage in STAGES:
        out[stage] = train(Path(directory, str(stage)), zero(stage))
        out[f"{stage} clipped"] = train(
            Path(directory, f"{stage} clipped"), zero(stage, gradient_clipping=0.1)
        )
        out[f"{stage} accumulated"] = train(
            Path(directory, f"{stage} accumulated"), zero(stage, gradient_accumulation_steps=2)
        )
    for stage in STAGES:
        # From its own checkpoint, from that of another stage, and from that of DDP.
        for source in (stage, (stage + 1) % 4, "ddp"):
            out[f"{stage} from {source}"] = train(
                Path(directory, f"{stage} from {source}"),
                zero(stage),
                epochs=3,
                resume=True,
                load_from=str(Path(directory, str(source), "epoch_2.pth")),
            )
        out[f"ddp from {stage}"] = train(
            Path(directory, f"ddp from {stage}"),
            dict(type="DDPStrategy"),
            epochs=3,
            resume=True,
            load_from=str(Path(directory, str(stage), "epoch_2.pth")),
        )
    for stage in STAGES:
        bf16 = zero(stage, bf16=dict(enabled=True))
        out[f"{stage} in bfloat16"] = train(Path(directory, f"{stage} bf16"), bf16)
        out[f"{stage} in bfloat16, longer"] = train(
            Path(directory, f"{stage} bf16 longer"), bf16, epochs=3
        )
        out[f"{stage} in bfloat16, resumed"] = train(
            Path(directory, f"{stage} bf16 resumed"),
            bf16,
            epochs=3,
            resume=True,
            load_from=str(Path(directory, f"{stage} bf16", "epoch_2.pth")),
        )
    return out


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("deepspeed"))
    return run_distributed(train_and_resume, 2, directory, timeout_s=400, env=ENV)


def assert_close(expected, found, **tolerance):
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            value, found[name], **(tolerance or TOLERANCE), msg=lambda text, n=name: f"{n}: {text}"
        )


def by_name(state):
    """Return DDP's state, in which weights have numbers, by name."""
    trained = [name for name, p in Net().named_parameters()]
    return {
        f"{key.partition(' of ')[0]} of {trained[int(key.partition(' of ')[2])]}"
        if " of " in key
        else key: value
        for key, value in state.items()
    }


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", ["{}", "{} clipped", "{} accumulated"])
def test_each_stage_trains_as_data_parallel_ranks_do(ranks, stage, kind):
    first, second = ranks
    other = {"{}": "ddp", "{} clipped": "ddp clipped", "{} accumulated": "ddp, accumulated"}[kind]
    name = stage if kind == "{}" else kind.format(stage)
    for rank in ranks:
        torch.testing.assert_close(
            torch.tensor(rank[other]["losses"]), torch.tensor(rank[name]["losses"]), **TOLERANCE
        )
        torch.testing.assert_close(rank[other]["answers"], rank[name]["answers"], **TOLERANCE)
    assert_close(by_name(first[other]["end"]), first[name]["end"])
    assert {} == second[name]["end"]


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_goes_on_from_every_other_and_from_data_parallel_training(ranks, stage):
    first, _ = ranks
    expected = by_name(first["ddp, longer"]["end"])
    for source in (stage, (stage + 1) % 4, "ddp"):
        found = first[f"{stage} from {source}"]
        begin = first[source]["end"]
        assert_close(by_name(begin) if source == "ddp" else begin, found["begin"], rtol=0, atol=0)
        assert_close(expected, found["end"])
        assert 12 == found["iter"]
    other = first[f"ddp from {stage}"]
    assert_close(first[stage]["end"], by_name(other["begin"]), rtol=0, atol=0)
    assert_close(expected, by_name(other["end"]))


@pytest.mark.parametrize("stage", STAGES)
def test_in_lower_precision_a_resumed_run_has_the_weights_that_the_optimizer_steps_on(ranks, stage):
    first, _ = ranks
    saved = first[f"{stage} in bfloat16"]["end"]
    resumed = first[f"{stage} in bfloat16, resumed"]
    assert_close(saved, resumed["begin"], rtol=0, atol=0)
    straight = first[f"{stage} in bfloat16, longer"]
    assert straight["losses"][8:] == resumed["losses"]
    assert_close(straight["end"], resumed["end"], rtol=0, atol=0)
    # More than what bfloat16 holds.
    head = saved["weight head.weight"]
    assert torch.float32 == head.dtype
    assert not torch.equal(head, head.bfloat16().float())
