"""Annotations are held once: workers read them without copying them."""

import json
import subprocess
import sys
import textwrap

import pytest

SCRIPT = """
import gc, json, os, sys, warnings
warnings.simplefilter("ignore")
import torch
from mmx.dataset import BaseDataset, build_dataloader, iterate_from
torch.set_num_threads(1)
annotations, workers, serialize = json.loads(sys.argv[1])


def take_label(info):
    return info["label"]


class Many(BaseDataset):
    def load_data_list(self):
        return [{"img_path": f"{i:08}.jpg", "label": i % 10} for i in range(annotations)]


def pss_mb(pids):
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            total += sum(int(line.split()[1]) for line in file if line.startswith("Pss:"))
    return total / 1024


if __name__ == "__main__":
    loader = build_dataloader({
        "dataset": Many(pipeline=[take_label], serialize_data=serialize),
        "batch_size": 1000,
        "num_workers": workers,
        "persistent_workers": True,
        "sampler": {"type": "DefaultSampler"},
        "collate_fn": len,
    }, seed=0)
    batches = iterate_from(loader, epoch=0, seed=0)
    for _ in range(4 * workers):
        next(batches)
    pids = [os.getpid(), *(worker.pid for worker in loader._iterator._workers)]
    gc.collect()
    before = pss_mb(pids)
    assert sum(batches) == annotations - 4 * workers * 1000
    for epoch in (1, 2):
        assert sum(iterate_from(loader, epoch=epoch, seed=0)) == annotations
    gc.collect()
    print(json.dumps([before, pss_mb(pids)]))
"""


def grown(tmp_path, annotations, workers, serialize=True):
    """Return the PSS in MB of all processes at the beginning of the first of 3 epochs, and after them."""
    script = tmp_path / "memory.py"
    script.write_text(textwrap.dedent(SCRIPT))
    arguments = json.dumps([annotations, workers, serialize])
    result = subprocess.run(
        [sys.executable, str(script), arguments], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="PSS is read from /proc"),
]


def test_a_million_annotations_cost_four_workers_nothing(tmp_path):
    before, after = grown(tmp_path, 1_000_000, 4)
    assert after < 1.05 * before


def test_a_plain_list_grows(tmp_path):
    """The negative control: without serialisation, reading copies."""
    before, after = grown(tmp_path, 400_000, 4, serialize=False)
    assert after > 1.2 * before
