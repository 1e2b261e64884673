"""Checkpoint functions under the name that MMEngine's users know; see :mod:`mmx.checkpoint`."""

from mmx.checkpoint import AsyncCheckpointSaver as AsyncCheckpointSaver
from mmx.checkpoint import CheckpointLoader as CheckpointLoader
from mmx.checkpoint import _load_checkpoint as _load_checkpoint
from mmx.checkpoint import _load_checkpoint_to_model as _load_checkpoint_to_model
from mmx.checkpoint import _load_checkpoint_with_prefix as _load_checkpoint_with_prefix
from mmx.checkpoint import find_latest_checkpoint as find_latest_checkpoint
from mmx.checkpoint import get_state_dict as get_state_dict
from mmx.checkpoint import load_checkpoint as load_checkpoint
from mmx.checkpoint import load_state_dict as load_state_dict
from mmx.checkpoint import save_checkpoint as save_checkpoint
from mmx.checkpoint import weights_to_cpu as weights_to_cpu
