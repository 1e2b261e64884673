"""The scope that names without a prefix are looked up in."""

from mmx_registry.scope import DefaultScope

__all__ = ["DefaultScope"]
