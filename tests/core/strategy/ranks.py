"""Runs a named scenario on two processes: ``python ranks.py SCENARIO DIRECTORY``."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path

import torch
import torch.multiprocessing as mp
from torch import nn

WORLD = 2


class Data(torch.utils.data.Dataset):
    def __init__(self):
        self.x = torch.randn(32, 4, generator=torch.Generator().manual_seed(1))

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return {"x": self.x[index], "y": int(self.x[index].sum() > 0)}


NOTHING_SAVED = {
    "default_hooks": {"checkpoint": {"type": "CheckpointHook", "interval": -1, "save_last": False}}
}


def make_model():
    from mmx.model import BaseModel

    class Net(BaseModel):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
            self.head = nn.Linear(4, 2)

        def forward(self, x, y, mode):
            for block in self.blocks:
                x = block(x).relu()
            x = self.head(x)
            if mode == "loss":
                return {"loss": nn.functional.cross_entropy(x, y)}
            return x

    return Net()


def make_runner(directory, *, epochs=2, launcher="pytorch", batch_size=4, flexible=False, **more):
    from mmx.runner import FlexibleRunner, Runner

    more.setdefault("optim_wrapper", dict(optimizer=dict(type="Adam", lr=0.01)))
    return (FlexibleRunner if flexible else Runner)(
        make_model(),
        work_dir=directory,
        train_dataloader=dict(
            dataset=Data(),
            sampler=dict(type="DefaultSampler", shuffle=True),
            batch_size=batch_size,
            collate_fn=dict(type="default_collate"),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        randomness=dict(seed=2),
        launcher=launcher,
        env_cfg=dict(dist_cfg=dict(backend="gloo")),
        **more,
    )


def whole_weights(runner):
    from mmx.runner.checkpointing import _strategy

    return {k: v.tolist() for k, v in _strategy(runner).model_state_dict().items()}


def ddp(directory, rank):
    runner = make_runner(directory)
    runner.train()
    return {
        "wrapper": type(runner.model).__name__,
        "weights": whole_weights(runner),
        "rank": runner.rank,
        "world": runner.world_size,
        "distributed": runner.distributed,
        "random_states": len(_engine(directory)["random"]) if rank == 0 else None,
    }


def _engine(directory):
    return torch.load(os.path.join(directory, "epoch_2.pth"), weights_only=True)["engine"]


def fsdp(directory, rank):
    strategy = dict(type="FSDPStrategy")
    runner = make_runner(directory, strategy=strategy)
    runner.train()
    weights = whole_weights(runner)
    longer = make_runner(directory, epochs=4, strategy=strategy, resume=True)
    longer.train()
    straight = make_runner(directory + "-straight", epochs=4, strategy=strategy)
    straight.train()
    return {
        "sharded": type(runner.model.head.weight).__name__,
        "weights": weights,
        "resumed": whole_weights(longer),
        "straight": whole_weights(straight),
    }


def flexible(directory, rank):
    """The launcher is what the environment says, and the strategy the one that was asked for."""
    found = {}
    for kind in ("DDPStrategy", "FSDPStrategy"):
        asked = dict(launcher=None, flexible=True, strategy=dict(type=kind))
        runner = make_runner(f"{directory}-{kind}", **asked)
        runner.train()
        found[kind] = {
            "used": type(runner.strategy).__name__,
            "world": runner.world_size,
            "weights": whole_weights(runner),
        }
        resumed = make_runner(f"{directory}-{kind}", epochs=3, resume=True, **asked)
        resumed.train()
        found[kind]["resumed at"] = resumed.iter
    return found


def wrapped_by_config(directory, rank):
    found = {}
    wrappers = {
        "MMDistributedDataParallel": dict(find_unused_parameters=True, static_graph=False),
        "MMFullyShardedDataParallel": {},
    }
    for kind, options in wrappers.items():
        cfg = dict(model_wrapper_cfg=dict(type=kind, **options))
        runner = make_runner(f"{directory}-{kind}", cfg=cfg, **NOTHING_SAVED)
        runner.train()
        found[kind] = {
            "used": type(runner.model).__name__,
            "looks": getattr(runner.model, "find_unused_parameters", None),
            "losses": runner.message_hub.get_scalar("train/loss").data[0].tolist(),
        }
    return found


def accumulating(directory, rank):
    """Stopped and resumed in the middle of an accumulation, where ranks have different sums."""
    settings = dict(
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1), accumulative_counts=4),
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=1)),
    )

    from mmx.hooks import Hook

    class Stop(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter == 6:
                raise ZeroDivisionError

    straight = make_runner(directory + "-straight", **settings)
    straight.train()
    with contextlib.suppress(ZeroDivisionError):
        make_runner(directory, custom_hooks=[Stop()], **settings).train()
    resumed = make_runner(directory, resume=True, **settings)
    resumed.train()
    return {"straight": whole_weights(straight), "resumed": whole_weights(resumed)}


def worker(rank, scenario, directory, port):
    os.environ.update(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(WORLD),
        LOCAL_WORLD_SIZE=str(WORLD),
    )
    torch.set_num_threads(1)
    result = globals()[scenario](os.path.join(directory, "work"), rank)
    Path(directory, f"{rank}.json").write_text(json.dumps(result))
    torch.distributed.destroy_process_group()


def free_port():
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


if __name__ == "__main__":
    mp.start_processes(worker, (sys.argv[1], sys.argv[2], free_port()), WORLD, start_method="fork")
