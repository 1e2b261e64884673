"""The real mmengine beside this package: two owners of one folder."""

from importlib import metadata

OWNER = "mmx-mmengine"

# Distributions that hold the real package.
RIVALS = ("mmengine", "mmengine-lite")


def check() -> None:
    """Refuse to work beside the real mmengine, whose files would mix with ours.

    Raises:
        ImportError: A distribution of the real package is installed.
    """
    for name in RIVALS:
        for found in metadata.distributions(name=name):
            if (found.read_text("PROVIDED_BY") or "").strip() == OWNER:
                continue
            raise ImportError(
                f"both {name} {found.version} (in {found.locate_file('')}) and {OWNER} are "
                "installed, and both provide the import package 'mmengine'. Uninstall both, then "
                f"install the one you want: `pip uninstall -y {name} {OWNER}`, then "
                f"`pip install {OWNER}`"
            )
