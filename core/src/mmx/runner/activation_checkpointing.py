"""Activation checkpointing under the name that callers of the runner use."""

from mmx.strategy.activation_checkpointing import (
    turn_on_activation_checkpointing as turn_on_activation_checkpointing,
)
