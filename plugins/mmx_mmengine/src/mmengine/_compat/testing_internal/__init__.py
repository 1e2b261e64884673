"""``mmengine.testing._internal``: test cases that run in several processes."""

from mmengine._compat.testing_internal.distributed import MultiProcessTestCase

__all__ = ["MultiProcessTestCase"]
