"""Record the orders of MMEngine's samplers; run it where mmengine 0.10.7 is installed.

python record_samplers.py > samplers.json
"""

import itertools
import json
from unittest import mock

from mmengine.dataset import DefaultSampler, InfiniteSampler


def main():
    cases = []
    for kind, kwargs, size, dist, epoch in itertools.chain(
        itertools.product(
            [DefaultSampler],
            [{"seed": 7}, {"seed": 7, "shuffle": False}, {"seed": 7, "round_up": False}],
            [5, 8],
            [(0, 1), (1, 3), (2, 3)],
            [0, 2],
        ),
        itertools.product(
            [InfiniteSampler],
            [{"seed": 7}, {"seed": 7, "shuffle": False}],
            [5, 8],
            [(0, 1), (1, 3)],
            [0],
        ),
    ):
        with mock.patch("mmengine.dataset.sampler.get_dist_info", lambda dist=dist: dist):
            sampler = kind(range(size), **kwargs)
        sampler.set_epoch(epoch)
        count = 20 if kind is InfiniteSampler else size
        cases.append(
            {
                "name": f"{kind.__name__} {kwargs} {size} {dist} {epoch}",
                "type": kind.__name__,
                "kwargs": kwargs,
                "size": size,
                "dist": dist,
                "epoch": epoch,
                "length": len(sampler),
                "order": list(itertools.islice(sampler, count)),
            }
        )
    print("[" + ",\n".join(map(json.dumps, cases)) + "]")


if __name__ == "__main__":
    main()
