"""mmx: a training engine for PyTorch whose parts come from pip-installable plugins.

Importing this package imports neither torch nor any plugin.
"""

from mmx.version import __version__, version_info

__all__ = ["__version__", "version_info"]
