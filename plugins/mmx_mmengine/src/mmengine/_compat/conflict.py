"""The real mmengine beside this package: two owners of one folder."""

from importlib import metadata

OWNER = "mmx-mmengine"


def check() -> None:
    """Refuse to work beside the real mmengine, whose files would mix with ours.

    Raises:
        ImportError: Another distribution called mmengine is installed.
    """
    for found in metadata.distributions(name="mmengine"):
        if (found.read_text("PROVIDED_BY") or "").strip() == OWNER:
            continue
        place = found.locate_file("")
        raise ImportError(
            f"both mmengine {found.version} (in {place}) and mmx-mmengine are installed, and both "
            "provide the import package 'mmengine'. Uninstall both, then install the one you want: "
            "`pip uninstall -y mmengine mmx-mmengine`, then `pip install mmx-mmengine`"
        )
