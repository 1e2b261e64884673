"""Checkpoint files: written whole or not at all, checked, and read without running code.

A checkpoint is a dict of tensors and plain data in torch's zip format. Writing goes through a
temporary file in the same directory, fsync, rename and an fsync of the directory; reading always
uses ``weights_only=True``. Callers that resume a run verify the checksums first
(:func:`verify_checkpoint`; :func:`find_latest_checkpoint` does it by itself).
"""

from typing import TYPE_CHECKING

from mmx._lazy import lazy_exports

if TYPE_CHECKING:
    from mmx.checkpoint.durable import atomic_writer as atomic_writer
    from mmx.checkpoint.durable import fsync_directory as fsync_directory
    from mmx.checkpoint.durable import remove_stale_temporaries as remove_stale_temporaries
    from mmx.checkpoint.errors import CheckpointError as CheckpointError
    from mmx.checkpoint.errors import CorruptCheckpointError as CorruptCheckpointError
    from mmx.checkpoint.errors import DownloadError as DownloadError
    from mmx.checkpoint.errors import UnsafeCheckpointError as UnsafeCheckpointError
    from mmx.checkpoint.errors import WrongHashError as WrongHashError
    from mmx.checkpoint.find import find_latest_checkpoint as find_latest_checkpoint
    from mmx.checkpoint.find import write_last_checkpoint as write_last_checkpoint
    from mmx.checkpoint.load import CheckpointLoader as CheckpointLoader
    from mmx.checkpoint.load import _load_checkpoint as _load_checkpoint
    from mmx.checkpoint.load import _load_checkpoint_with_prefix as _load_checkpoint_with_prefix
    from mmx.checkpoint.load import verify_checkpoint as verify_checkpoint
    from mmx.checkpoint.plain import to_plain as to_plain
    from mmx.checkpoint.save import AsyncCheckpointSaver as AsyncCheckpointSaver
    from mmx.checkpoint.save import save_checkpoint as save_checkpoint
    from mmx.checkpoint.sharded import read_sharded as read_sharded
    from mmx.checkpoint.sharded import save_sharded as save_sharded
    from mmx.checkpoint.sharded_index import is_sharded as is_sharded
    from mmx.checkpoint.sharded_index import remove_checkpoint as remove_checkpoint
    from mmx.checkpoint.state_dict import _load_checkpoint_to_model as _load_checkpoint_to_model
    from mmx.checkpoint.state_dict import get_state_dict as get_state_dict
    from mmx.checkpoint.state_dict import load_checkpoint as load_checkpoint
    from mmx.checkpoint.state_dict import load_state_dict as load_state_dict
    from mmx.checkpoint.state_dict import unwrap as unwrap
    from mmx.checkpoint.state_dict import weights_to_cpu as weights_to_cpu
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "durable": ["atomic_writer", "fsync_directory", "remove_stale_temporaries"],
            "errors": [
                "CheckpointError",
                "CorruptCheckpointError",
                "DownloadError",
                "UnsafeCheckpointError",
                "WrongHashError",
            ],
            "find": ["find_latest_checkpoint", "write_last_checkpoint"],
            "load": [
                "CheckpointLoader",
                "_load_checkpoint",
                "_load_checkpoint_with_prefix",
                "verify_checkpoint",
            ],
            "plain": ["to_plain"],
            "save": ["AsyncCheckpointSaver", "save_checkpoint"],
            "sharded": ["read_sharded", "save_sharded"],
            "sharded_index": ["is_sharded", "remove_checkpoint"],
            "state_dict": [
                "_load_checkpoint_to_model",
                "get_state_dict",
                "load_checkpoint",
                "load_state_dict",
                "unwrap",
                "weights_to_cpu",
            ],
        },
    )
