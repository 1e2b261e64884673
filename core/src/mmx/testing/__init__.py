"""Helpers for tests, of this engine and of what is built on it."""

from typing import TYPE_CHECKING

from mmx._lazy import lazy_exports

if TYPE_CHECKING:
    from mmx.testing.distributed import DistributedTestError as DistributedTestError
    from mmx.testing.distributed import run_distributed as run_distributed
    from mmx.testing.isolation import isolate as isolate
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "distributed": ["DistributedTestError", "run_distributed"],
            "isolation": ["isolate"],
        },
    )
