"""Checking a config before anything is built: types, arguments, values, and what contradicts itself.

No model is built and no data is read; of the packages that a config names, the files that define
its types are imported.
"""

from mmx.config.check.api import (
    ConfigCheckError,
    Finding,
    check_config,
    raise_on_errors,
    report,
)

__all__ = ["ConfigCheckError", "Finding", "check_config", "raise_on_errors", "report"]
