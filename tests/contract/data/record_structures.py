"""Record what MMEngine's data elements print and do; run it where mmengine 0.10.7 is installed.

    python record_structures.py > structures.json

``cases`` is what both engines run; ``tests/core/structures/test_golden.py`` compares.
"""

import json
import re
import sys

import numpy as np
import torch


def cases(structures):
    """Yield (name, text or value) for an engine's ``structures`` package."""
    element, instances = structures.BaseDataElement, structures.InstanceData

    def printed(value):
        return re.sub(r"0x[0-9a-f]+", "0x", repr(value))

    yield "repr empty", printed(element())
    yield "repr meta", printed(element(metainfo={"img_shape": (800, 1196, 3)}))
    yield "repr meta dict", printed(element(metainfo={"d": {"x": {"y": 1}, "z": np.ones((2, 2))}}))
    yield "repr meta empty dict", printed(element(metainfo={"d": {}}))
    yield "repr tensor", printed(element(a=torch.ones(2, 2)))
    yield "repr string", printed(element(a="multi\nline"))
    yield "repr list", printed(element(a=[torch.ones(2, 2), 2]))
    yield "repr list of dicts", printed(element(a=[{"b": 1, "c": [2]}, {}]))
    yield "repr tuple", printed(element(a=(torch.ones(2, 2), {"b": 1})))
    yield "repr dict of lists", printed(element(a={"b": [torch.ones(2, 2)], "c": "d"}))
    yield "repr nested", printed(element(a=element(b=element(c=torch.ones(2, 2)))))
    yield (
        "repr nested meta",
        printed(element(metainfo={"m": {"n": 1}}, a=element(metainfo={"k": 2}, b=3))),
    )
    yield "repr list of elements", printed(element(a=[element(b=1), element(c=torch.ones(2, 2))]))
    yield "repr instances", printed(instances(metainfo={"m": 1}, a=torch.ones(2, 2)))

    data = instances(
        metainfo={"m": 1},
        a=torch.arange(8).view(4, 2),
    )
    data.b = np.arange(4)
    data.c = [1, 2, 3, 4]
    data.d = "abcd"
    data.e = (1, 2, 3, 4)
    indices = {
        "0": 0,
        "-1": -1,
        "3": 3,
        "1:3": slice(1, 3),
        "::2": slice(None, None, 2),
        "-3:": slice(-3, None),
        "5:": slice(5, None),
        "[0, 2]": [0, 2],
        "[-1, 0, 0]": [-1, 0, 0],
        "[T, F, T, F]": [True, False, True, False],
        "array": np.array([0, 3]),
        "array bool": np.array([True, False, False, True]),
        "array int32": np.array([0, 1], dtype=np.int32),
        "tensor": torch.tensor([3, 0]),
        "tensor bool": torch.tensor([False, False, False, True]),
        "tensor no": torch.zeros(4, dtype=torch.bool),
        "tensor empty": torch.zeros(0, dtype=torch.int64),
    }
    for name, index in indices.items():
        yield f"index {name}", plain(data[index])
    yield "cat", plain(instances.cat([data, data[:2]]))
    yield "cat one", plain(instances.cat([data]))
    label = structures.LabelData
    yield "onehot", label.label_to_onehot(torch.tensor([0, 2]), 4).tolist()
    yield "label", label.onehot_to_label(torch.tensor([1, 0, 1])).tolist()
    pixel = structures.PixelData(metainfo={"m": 1}, a=torch.arange(24).view(2, 3, 4))
    for name, window in {
        "1, 2": (1, 2),
        "-1, 0": (-1, 0),
        "0:2, 1:": (slice(0, 2), slice(1, None)),
        "5, 1": (5, 1),
        "::2, -2": (slice(None, None, 2), -2),
    }.items():
        cut = pixel[window]
        yield f"pixel {name}", [list(cut.shape), cut.a.tolist()]


def plain(element):
    """Return an element's length, meta and data fields as JSON."""
    fields = {}
    for key, value in sorted(element.items()):
        content = value.tolist() if hasattr(value, "tolist") else list(value)
        fields[key] = [type(value).__name__, content]
    return [len(element), element.metainfo, fields]


if __name__ == "__main__":
    import mmengine.structures

    json.dump(dict(cases(mmengine.structures)), sys.stdout, indent=1)
