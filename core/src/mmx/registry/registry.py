"""`Registry`, under the name of module that projects import it from."""

from mmx_registry.registry import Registry

__all__ = ["Registry"]
