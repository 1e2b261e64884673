"""A small task, and how to measure what an engine adds to it: blocks of both in turn.

Two processes that do the same differ by several per cent, whichever loop they run, because memory
lies elsewhere in each. So a competitor and the hand-written loop live in one process, and a data
loader gives them turns: before it hands out a block of batches, it trains another network on the
same block by hand. What an engine adds is the median of the difference over the quieter quarter of
these pairs of blocks: of those that took the least together, which favours neither.

What an engine does every 50 iterations (a log line) lies in the middle of each of its blocks: what
comes after it is slower, for caches hold other things, and that is the engine's cost, not that of
the hand-written loop whose turn is next. Asking for batches ahead of time only shifts the border.
What an engine does more rarely is not in the median but in the mean over all blocks, which is
returned as well. What it does by the clock (lines of several blocks that are written together, say)
comes up to twice as often here as it would alone, for the hand-written loop takes time as well: so
the cost lies between median and mean. What is left out is what an engine does to the whole process,
hand-written loop included: to see that, measure processes apart.
"""

from __future__ import annotations

import itertools
import statistics
import time

# Iterations between turns, and between lines of the log; blocks until caches and allocators are warm.
EVERY, WARM = 50, 6


class Batches:
    """A data loader whose batches exist already."""

    def __init__(self, number):
        import torch

        generator = torch.Generator().manual_seed(0)
        self.pool = [
            {
                "x": torch.randn(64, 32, generator=generator),
                "y": torch.randint(0, 10, (64,), generator=generator),
            }
            for _ in range(16)
        ]
        self.number = number
        self.batch_size = 64
        self.dataset = Samples(number * 64)
        self.sampler = None
        self.batch_sampler = self  # MMEngine asks it for its sampler

    def __len__(self):
        return self.number

    def __iter__(self):
        return self.part(0, self.number)

    def part(self, begin, end):
        pool, size = self.pool, len(self.pool)
        for i in range(begin, end):
            yield pool[i % size]


class Samples:
    """Stands for the data set: engines ask for its length and its metainfo."""

    metainfo: dict = {}

    def __init__(self, number):
        self.number = number

    def __len__(self):
        return self.number


def network():
    import torch
    from torch import nn

    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
    )


def weights(net):
    return float(sum(p.detach().double().abs().sum() for p in net.parameters()))


class HandTraining:
    """What all are compared with; ``wrap`` may be DistributedDataParallel."""

    def __init__(self, wrap=None):
        import torch

        self.net = network()
        self.wrapped = wrap(self.net) if wrap else self.net
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.01, momentum=0.9)

    def run(self, loader):
        import torch

        net, optimizer = self.wrapped, self.optimizer
        loss_of = torch.nn.functional.cross_entropy
        shown = 0.0
        for i, batch in enumerate(loader):
            loss = loss_of(net(batch["x"]), batch["y"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if i % EVERY == EVERY - 1:
                shown = loss.item()
        assert shown == shown

    def result(self):
        return weights(self.net)


class HandValidation:
    def __init__(self):
        self.net = network().eval()
        self.right = self.total = 0

    def run(self, loader):
        import torch

        net = self.net
        right = total = 0
        with torch.no_grad():
            for batch in loader:
                scores = net(batch["x"])
                right += int((scores.argmax(1) == batch["y"]).sum())
                total += len(scores)
        self.right += right
        self.total += total

    def result(self):
        return self.right / self.total


class Turns(Batches):
    """Batches before each block of which a hand-written loop has that block.

    Args:
        number: Batches in all, whole blocks.
        hand: Its ``run(batches)`` is the hand-written loop.
        clocks: Functions that tell a time in nanoseconds.
    """

    def __init__(self, number, hand, clocks=(time.process_time_ns,)):
        super().__init__(number)
        self.hand, self.clocks = hand, clocks
        self.by_hand, self.by_engine = [], []  # begin and end of turns

    def __iter__(self):
        import torch

        pool, size = self.pool, len(self.pool)
        edges = [0, *range(EVERY // 2, self.number, EVERY), self.number]
        for begin, end in itertools.pairwise(edges):
            # The engine may ask for batches while it keeps no graph.
            with torch.inference_mode(False), torch.enable_grad():
                self.hand.run(self.turn_by_hand(begin, end))
            now = self.now()
            for i in range(begin, end):
                yield pool[i % size]
            # The last turn has no end where nobody asks for more.
            self.by_engine.append((now, self.now()))

    def turn_by_hand(self, begin, end):
        # Looks at the clock where the engine's turn does: between batches.
        pool, size = self.pool, len(self.pool)
        now = self.now()
        for i in range(begin, end):
            yield pool[i % size]
        self.by_hand.append((now, self.now()))

    def now(self):
        return [clock() for clock in self.clocks]

    def figures(self):
        """Return what each clock tells, in microseconds per iteration."""
        return [self._figures(i) for i in range(len(self.clocks))]

    def _figures(self, i):
        whole = len(self.by_hand) - 1  # the last turn, as the first, is no whole block
        hand, engine = (
            [(end[i] - begin[i]) / EVERY / 1e3 for begin, end in turns[WARM:whole]]
            for turns in (self.by_hand, self.by_engine)
        )
        pairs = sorted(zip(hand, engine, strict=True), key=sum)
        quiet = pairs[: len(pairs) // 4]
        return {
            "hand": statistics.median(h for h, _ in quiet),
            "extra": statistics.median(e - h for h, e in quiet),
            "mean": statistics.fmean(e - h for h, e in pairs),
        }
