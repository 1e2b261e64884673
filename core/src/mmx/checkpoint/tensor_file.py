"""Writing safetensors files one tensor after the other."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

import torch

# https://huggingface.co/docs/safetensors: 8 bytes of header length, JSON header, data without gaps.
_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
}


def write_tensors(
    tensors: Mapping[str, torch.Tensor], file: Any, metadata: dict[str, str] | None = None
) -> tuple[int, str]:
    """Write tensors as a safetensors file; at most one of them is copied at a time.

    Args:
        tensors: Of any device and strides. Memory that two share is written twice.
        file: An open binary file.
        metadata: Text for the header.

    Returns:
        The bytes written and their CRC-32 as 8 hex digits.

    Raises:
        TypeError: The format has no name for a tensor's dtype.
    """
    # By falling width, so that every tensor is aligned.
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name in names:
        tensor = tensors[name]
        if tensor.dtype not in _NAMES:
            raise TypeError(f"{name} is of {tensor.dtype}, which the safetensors format has not")
        begin, end = end, end + tensor.numel() * tensor.dtype.itemsize
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    file.write(head)
    checksum = zlib.crc32(head)
    for name in names:
        flat = tensors[name].detach().cpu().contiguous().reshape(-1)
        if flat.numel():
            data = flat.view(torch.uint8).numpy().data
            file.write(data)
            checksum = zlib.crc32(data, checksum)
    return len(head) + end, f"{checksum:08x}"
