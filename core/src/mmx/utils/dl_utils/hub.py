"""Downloading weights."""

from __future__ import annotations

from typing import Any


def load_url(
    url: str,
    model_dir: str | None = None,
    map_location: Any = None,
    progress: bool = True,
    check_hash: bool = False,
    file_name: str | None = None,
    weights_only: bool = True,
) -> Any:
    """Download a file of weights once and load it; see :func:`torch.hub.load_state_dict_from_url`.

    Only tensors and plain data are ever loaded; ``weights_only`` is there because old code passes it.

    Raises:
        ValueError: ``weights_only`` is false.
    """
    if not weights_only:
        raise ValueError(
            "load_url loads tensors and plain data only: weights_only cannot be turned off"
        )
    import torch

    return torch.hub.load_state_dict_from_url(
        url, model_dir, map_location, progress, check_hash, file_name, weights_only=True
    )
