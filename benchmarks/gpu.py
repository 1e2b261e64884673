"""What the engine costs on a GPU: ResNet-50 and a small transformer beside hand-written loops.

    python benchmarks/gpu.py                        # needs a CUDA device
    python benchmarks/gpu.py --only transformer --batch 8
    python benchmarks/gpu.py --device cpu --small   # tiny networks: only shows that it works

Both train in bfloat16 on batches that lie on the device: ResNet-50 on 224 x 224 images in
channels_last with SGD, and a transformer (6 layers of 512 channels, 256 tokens) with AdamW and
clipped gradients, whose many small kernels leave little time to an engine. The engine runs with its
default hooks and a log line each 50 iterations; the hand-written loop reads the loss as often.

Both live in one process and take turns of 50 iterations, in the middle of which a line is due (see
pairs.py). The device is waited for at both ends of a turn and the clock on the wall is read, so that
a turn is what its kernels take, or what starting them takes where that is longer. `ratio` is the
median over pairs of turns of engine to hand; `low` and `high` are their quartiles. `hand_again` is
the hand-written loop beside itself: what it shows is the error of measurement.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings

# Iterations of a turn, and between lines of the log; pairs of turns until all is warm.
EVERY, WARM = 50, 2
POOL = 4


# Networks -------------------------------------------------------------------------------------


def resnet(small):
    """Return ResNet-50 (He et al., 2015), with the stride in the 3 x 3 convolution."""
    from torch import nn

    def conv(inputs, outputs, size, stride=1):
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False),
            nn.BatchNorm2d(outputs),
        )

    class Bottleneck(nn.Module):
        def __init__(self, inputs, width, stride):
            super().__init__()
            self.reduce = conv(inputs, width, 1)
            self.spatial = conv(width, width, 3, stride)
            self.expand = conv(width, 4 * width, 1)
            same = stride == 1 and inputs == 4 * width
            self.shortcut = nn.Identity() if same else conv(inputs, 4 * width, 1, stride)
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x):
            out = self.relu(self.reduce(x))
            out = self.relu(self.spatial(out))
            return self.relu(self.expand(out) + self.shortcut(x))

    depths, width, classes = ((1, 1), 8, 10) if small else ((3, 4, 6, 3), 64, 1000)
    layers = [conv(3, width, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    inputs = width
    for stage, depth in enumerate(depths):
        for block in range(depth):
            stride = 2 if stage and not block else 1
            layers.append(Bottleneck(inputs, width << stage, stride))
            inputs = 4 * (width << stage)
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)]
    return nn.Sequential(*layers)


def transformer(small):
    """Return a decoder like GPT-2's (Radford et al., 2019), normalised before each part."""
    import torch
    from torch import nn
    from torch.nn import functional

    layers, channels, heads, tokens, words = (2, 32, 2, 16, 50) if small else (6, 512, 8, 256, 8192)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
            self.qkv = nn.Linear(channels, 3 * channels)
            self.project = nn.Linear(channels, channels)
            self.mlp = nn.Sequential(
                nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels)
            )

        def forward(self, x):
            batch, length, _ = x.shape
            qkv = self.qkv(self.norm1(x)).view(batch, length, 3, heads, channels // heads)
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            out = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.project(out.transpose(1, 2).reshape(batch, length, channels))
            return x + self.mlp(self.norm2(x))

    class Transformer(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(words, channels)
            self.places = nn.Parameter(torch.randn(tokens, channels) * 0.02)
            self.blocks = nn.Sequential(*(Block() for _ in range(layers)))
            self.norm = nn.LayerNorm(channels)
            self.head = nn.Linear(channels, words, bias=False)

        def forward(self, x):
            return self.head(self.norm(self.blocks(self.words(x) + self.places))).flatten(0, 1)

    return Transformer()


def images(batch, small, generator):
    import torch

    size, classes = (32, 10) if small else (224, 1000)
    x = torch.randn(batch, 3, size, size, generator=generator)
    y = torch.randint(0, classes, (batch,), generator=generator)
    return {"x": x.to(memory_format=torch.channels_last), "y": y}


def sentences(batch, small, generator):
    import torch

    tokens, words = (16, 50) if small else (256, 8192)
    x = torch.randint(0, words, (batch, tokens), generator=generator)
    return {"x": x, "y": x.roll(-1, 1).flatten()}


# Name -> network, batches, size of a batch, optimizer, greatest norm of gradients.
TASKS = {
    "resnet50": (resnet, images, 128, {"type": "SGD", "lr": 1e-3, "momentum": 0.9}, None),
    "transformer": (transformer, sentences, 16, {"type": "AdamW", "lr": 1e-4}, 1.0),
}


class Task:
    """One of TASKS on a device; each part that it makes is the same as the last."""

    def __init__(self, name, args):
        self.network, self.make_batch, batch, self.optimizer, self.max_norm = TASKS[name]
        self.device, self.small = args.device, args.small
        self.batch = args.batch or (4 if args.small else batch)

    def net(self):
        import torch

        torch.manual_seed(0)
        return self.network(self.small).to(self.device, memory_format=torch.channels_last)

    def pool(self):
        import torch

        generator = torch.Generator().manual_seed(0)
        batches = [self.make_batch(self.batch, self.small, generator) for _ in range(POOL)]
        return [{k: v.to(self.device) for k, v in batch.items()} for batch in batches]


# Competitors ----------------------------------------------------------------------------------


class Hand:
    """The loop that all are compared with."""

    def __init__(self, task):
        import torch

        self.task, self.net = task, task.net()
        options = dict(task.optimizer)
        self.optimizer = getattr(torch.optim, options.pop("type"))(self.net.parameters(), **options)

    def run(self, loader):
        import torch

        net, optimizer, max_norm = self.net, self.optimizer, self.task.max_norm
        loss_of, device = torch.nn.functional.cross_entropy, self.task.device
        shown = 0.0
        for i, batch in enumerate(loader, 1):
            with torch.autocast(device, dtype=torch.bfloat16):
                loss = loss_of(net(batch["x"]), batch["y"])
            loss.backward()
            if max_norm is not None:
                torch.nn.utils.clip_grad_norm_(net.parameters(), max_norm)
            optimizer.step()
            optimizer.zero_grad()
            if i % EVERY == EVERY // 2:
                shown = loss.item()
        assert shown == shown


def train_hand_again(task, turns):
    hand = Hand(task)
    # Lines in the middle of its turns as well, and none in the half turn before the first.
    batches = iter(turns)
    hand.run(itertools.islice(batches, EVERY // 2))
    for _ in range(len(turns) // EVERY - 1):
        hand.run(itertools.islice(batches, EVERY))
    hand.run(batches)
    return hand.net


def train_mmx(task, turns):
    import torch

    from mmx.model import BaseModel
    from mmx.runner import Runner

    class Net(BaseModel):
        def __init__(self):
            super().__init__()
            self.net = task.net()

        def forward(self, x, y, mode):
            return {"loss": torch.nn.functional.cross_entropy(self.net(x), y)}

    clip_grad = None if task.max_norm is None else {"max_norm": task.max_norm}
    with (
        tempfile.TemporaryDirectory() as folder,
        open(f"{folder}/terminal", "w") as terminal,  # lines are written, but not to ours
        contextlib.redirect_stdout(terminal),
        contextlib.redirect_stderr(terminal),
    ):
        runner = Runner(
            model=Net(),
            work_dir=folder,
            train_dataloader=turns,
            train_cfg={"by_epoch": False, "max_iters": len(turns)},
            optim_wrapper={
                "type": "AmpOptimWrapper",
                "dtype": "bfloat16",
                "optimizer": task.optimizer,
                "clip_grad": clip_grad,
            },
            default_hooks={
                "logger": {"type": "LoggerHook", "interval": EVERY},
                "checkpoint": {"type": "CheckpointHook", "interval": -1, "save_last": False},
            },
            experiment_name=f"gpu-{time.time_ns()}",
        )
        runner.train()
        for handler in runner.logger.handlers:
            handler.close()
        assert next(runner.model.parameters()).device.type == task.device
        return runner.model.net


COMPETITORS = {"hand_again": train_hand_again, "mmx": train_mmx}


# Measuring ------------------------------------------------------------------------------------


class Turns:
    """A data loader that, before it hands out a block of batches, lets the other loop have it.

    Args:
        task: The task.
        pairs: Turns of each, after the half ones at both ends.
    """

    def __init__(self, task, pairs):
        self.hand, self.device = Hand(task), task.device
        self.pool = task.pool()
        self.number = (pairs + 1) * EVERY
        self.by_hand, self.by_engine = [], []  # seconds of the turns
        # What engines ask a data loader for.
        self.dataset, self.batch_size = Samples(self.number * task.batch), task.batch
        self.sampler, self.batch_sampler = None, self

    def __len__(self):
        return self.number

    def __iter__(self):
        import torch

        edges = [0, *range(EVERY // 2, self.number, EVERY), self.number]
        for begin, end in itertools.pairwise(edges):
            # The engine may ask for batches while it keeps no graph.
            with torch.inference_mode(False), torch.enable_grad():
                since = self.now()
                self.hand.run(self.block(begin, end))
                now = self.now()
            self.by_hand.append(now - since)
            yield from self.block(begin, end)
            # The last turn has no end where nobody asks for more.
            self.by_engine.append(self.now() - now)

    def block(self, begin, end):
        for i in range(begin, end):
            yield self.pool[i % POOL]

    def now(self):
        """Return the time when the device has done all that it was asked for."""
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()
        return time.perf_counter()

    def figures(self):
        whole = len(self.by_hand) - 1  # the last turn, as the first, is no whole block
        pairs = list(zip(self.by_hand[WARM:whole], self.by_engine[WARM:whole], strict=True))
        ratios = [engine / hand for hand, engine in pairs]
        low, ratio, high = statistics.quantiles(ratios, n=4)
        return {
            "hand_ms": round(statistics.median(h for h, _ in pairs) / EVERY * 1e3, 3),
            "ms": round(statistics.median(e for _, e in pairs) / EVERY * 1e3, 3),
            "ratio": round(ratio, 4),
            "low": round(low, 4),
            "high": round(high, 4),
            "pairs": len(ratios),
        }


class Samples:
    """Stands for the data set: engines ask for its length and its metainfo."""

    metainfo: dict = {}

    def __init__(self, number):
        self.number = number

    def __len__(self):
        return self.number


def weights(net):
    return float(sum(p.detach().double().abs().sum() for p in net.parameters()))


def measure(task, name, pairs, tolerance):
    """Let a competitor train beside the hand-written loop, and return the figures.

    Both must end with the same weights. On a GPU sums may be taken in another order each time.
    """
    turns = Turns(task, pairs)
    ours, theirs = weights(COMPETITORS[name](task, turns)), weights(turns.hand.net)
    if abs(ours - theirs) > tolerance * theirs:
        raise SystemExit(f"{name} computes something else: {ours} against {theirs}")
    return turns.figures()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny networks, to see that it works")
    parser.add_argument("--only", nargs="*", choices=list(TASKS), default=list(TASKS))
    parser.add_argument(
        "--batch", type=int, help="samples of a batch; default 128 images, 16 texts"
    )
    parser.add_argument("--pairs", type=int, help="turns of each loop; default 20, small 4")
    args = parser.parse_args()
    if args.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the engine takes a GPU where there is one
    import torch

    if args.device == "cuda" and not torch.cuda.is_available():
        print(
            "skipped: gpu (no CUDA device; --device cpu --small shows that it works)",
            file=sys.stderr,
        )
        return
    warnings.filterwarnings("ignore", message=".*metainfo")
    pairs = WARM + max(args.pairs or (4 if args.small else 20), 2)
    on = torch.cuda.get_device_name() if args.device == "cuda" else platform.processor() or "cpu"
    print(f"# torch {torch.__version__} on {on}, bfloat16", file=sys.stderr)
    for task_name, name in itertools.product(args.only, COMPETITORS):
        task = Task(task_name, args)
        line = {"benchmark": "gpu", "task": task_name, "batch": task.batch, "competitor": name}
        line.update(measure(task, name, pairs, 1e-9 if args.device == "cpu" else 1e-3))
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
