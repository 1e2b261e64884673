import pytest
import torch
from torch.utils.data import DataLoader

from mmx.dataset import DevicePrefetcher
from mmx.structures import BaseDataElement

DATA = [
    {"x": torch.full((3,), float(i)), "n": i, "s": BaseDataElement(t=torch.ones(1) * i)}
    for i in range(5)
]


def loader(**kwargs):
    return DataLoader(DATA, batch_size=2, collate_fn=list, **kwargs)


def test_on_the_cpu_batches_pass_through():
    plain = loader()
    prefetched = DevicePrefetcher(plain, "cpu")
    assert len(prefetched) == 3
    assert prefetched.batch_size == 2
    batches = list(prefetched)
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert batches[0][0] is DATA[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.accelerator.is_available(), reason="there is no accelerator")
@pytest.mark.parametrize("pinned", [False, True])
def test_batches_arrive_on_the_device_in_order(pinned):
    device = torch.accelerator.current_accelerator()
    data = [(torch.full((1 << 20,), float(i)), [i]) for i in range(8)]
    source = DataLoader(data, batch_size=2, pin_memory=pinned)
    seen = []
    for images, (numbers,) in DevicePrefetcher(source, device):
        assert images.device.type == device.type
        # Work on the current stream, while the next batch is copied on the other.
        total = images
        for _ in range(20):
            total = total * 1.0
        seen.append((total.mean(dim=1), numbers))
    assert [mean.tolist() for mean, _ in seen] == [number.tolist() for _, number in seen]
    elements = list(DevicePrefetcher(loader(), device))
    assert elements[0][0]["s"].t.device.type == device.type
    assert [row["n"] for batch in elements for row in batch] == [0, 1, 2, 3, 4]
