"""Helpers of the visualizer: checks of its arguments, colours, heat maps, waiting for a key."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmx.utils.errors import InvalidTypeError, InvalidValueError

if TYPE_CHECKING:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

Types = type | tuple[type, ...]
Color = str | tuple[float, ...]


def require_matplotlib(name: str = "matplotlib") -> Any:
    """Import matplotlib, or a module of it.

    Raises:
        ImportError: It is not installed; the message names the extra.
    """
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        from mmx.visualization.vis_backend import MissingExtraError

        raise MissingExtraError("matplotlib", "plot", "drawing") from error


def tensor2ndarray(value: np.ndarray[Any, Any] | torch.Tensor) -> np.ndarray[Any, Any]:
    """Return a tensor as an array; anything else as it is."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
    return value


def value2list(value: Any, valid_type: Types, expand_dim: int) -> list[Any]:
    """Return ``value`` repeated ``expand_dim`` times if it is of ``valid_type``, else as it is."""
    if isinstance(value, valid_type):
        return [value] * expand_dim
    return value


def check_type(name: str, value: Any, valid_type: Types) -> None:
    """Raise unless ``value`` is of ``valid_type``.

    Raises:
        TypeError: It is not.
    """
    if not isinstance(value, valid_type):
        raise InvalidTypeError(f"`{name}` should be {valid_type}  but got {type(value)}")


def check_length(name: str, value: Any, valid_length: int) -> None:
    """Raise if ``value`` is a list that is shorter than ``valid_length``.

    Raises:
        ValueError: It is.
    """
    if isinstance(value, list) and len(value) < valid_length:
        raise InvalidValueError(
            f"The length of {name} must equal with or greater than {valid_length}, but got "
            f"{len(value)}"
        )


def check_type_and_length(name: str, value: Any, valid_type: Types, valid_length: int) -> None:
    """Raise unless ``value`` is of ``valid_type`` and, as a list, long enough.

    Raises:
        TypeError: The type is wrong.
        ValueError: The list is too short.
    """
    check_type(name, value, valid_type)
    check_length(name, value, valid_length)


def color_val_matplotlib(colors: Color | list[Color]) -> Color | list[Color]:
    """Return colours as matplotlib takes them: tuples of 0–255 become floats of 0–1.

    Raises:
        TypeError: A colour is neither text nor a tuple.
        ValueError: A number lies outside of 0–255.
    """
    if isinstance(colors, str):
        return colors
    if isinstance(colors, tuple):
        if not all(0 <= channel <= 255 for channel in colors):
            raise InvalidValueError(f"the channels of a color should be 0 to 255, but got {colors}")
        return tuple(channel / 255 for channel in colors)
    if isinstance(colors, list):
        return [color_val_matplotlib(color) for color in colors]  # type: ignore[misc]  # no lists in lists
    raise InvalidTypeError(f"Invalid type for color: {type(colors)}")


def color_str2rgb(color: str) -> tuple[int, ...]:
    """Return a named or hexadecimal colour as three numbers of 0–255; transparency is dropped."""
    rgb = require_matplotlib("matplotlib.colors").to_rgb(color)
    return tuple(int(channel * 255) for channel in rgb)


def convert_overlay_heatmap(
    feat_map: np.ndarray[Any, Any] | torch.Tensor,
    img: np.ndarray[Any, Any] | None = None,
    alpha: float = 0.5,
) -> np.ndarray[Any, Any]:
    """Return a map as a heat map, over an image if there is one.

    Args:
        feat_map: ``(H, W)`` or ``(1, H, W)``; its smallest value becomes blue, its largest red.
        img: ``(H, W, 3)``, RGB, 0–255.
        alpha: Weight of the heat map.

    Returns:
        ``(H, W, 3)``, uint8, RGB.

    Raises:
        ValueError: ``feat_map`` has another shape.
    """
    heat = np.asarray(tensor2ndarray(feat_map), dtype=np.float64)
    if heat.ndim == 3 and heat.shape[0] == 1:
        heat = heat[0]
    if heat.ndim != 2:
        raise InvalidValueError(f"feat_map should be (H, W) or (1, H, W), but got {heat.shape}")
    # As OpenCV does it, rounded once to single precision: fractions of a level are cut off.
    low, high = float(heat.min()), float(heat.max())
    scale = float(np.float32(255 * (1 / (high - low)))) if high > low else 0.0
    levels = (heat * scale - float(np.float32(low * scale))).astype(np.float32)
    colored = _jet()[levels.clip(0, 255).astype(np.uint8)]
    if img is None:
        return colored
    blended = img.astype(np.float32) * (1 - alpha) + colored.astype(np.float32) * alpha
    return blended.round().clip(0, 255).astype(np.uint8)


@functools.cache
def _jet() -> np.ndarray[Any, Any]:
    """Return OpenCV's colour map JET: ``(256, 3)``, uint8, RGB."""
    level = np.arange(256)
    red = np.minimum(4 * level - 382, 1148 - 4 * level)
    green = np.minimum(4 * level - 128, 892 - 4 * level)
    blue = np.minimum(4 * level + 128, 638 - 4 * level)
    table = np.stack([red, green, blue], axis=1).clip(0, 255).astype(np.uint8)
    table[159, 2] = 1  # OpenCV's, by rounding
    return table


def img_from_canvas(canvas: FigureCanvasAgg) -> np.ndarray[Any, Any]:
    """Return what a canvas shows: ``(H, W, 3)``, uint8, RGB."""
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def wait_continue(figure: Figure, timeout: float = 0, continue_key: str = " ") -> int:
    """Show a figure and wait for the user.

    Args:
        figure: The figure.
        timeout: Seconds to wait; 0 is for ever.
        continue_key: Key that ends the waiting.

    Returns:
        0 after the key or the time, 1 if the window was closed.
    """
    events = require_matplotlib("matplotlib.backend_bases")
    pyplot = require_matplotlib("matplotlib.pyplot")
    is_interactive = pyplot.get_backend().lower() in {name.lower() for name in events_backends()}
    manager = figure.canvas.manager
    if manager is None:
        return 0
    if is_interactive:
        # A window whose figure belongs to no manager cannot be shown.
        manager.show()
    closed = False

    def handle(event: Any) -> None:
        nonlocal closed
        if isinstance(event, events.CloseEvent):
            closed = True
        if closed or getattr(event, "key", None) == continue_key:
            figure.canvas.stop_event_loop()

    names = ("key_press_event", "close_event")
    connect: Any = figure.canvas.mpl_connect
    cids = [connect(name, handle) for name in names]
    try:
        figure.canvas.start_event_loop(timeout)
    finally:
        for cid in cids:
            figure.canvas.mpl_disconnect(cid)
    return int(closed)


def events_backends() -> list[str]:
    """Return matplotlib's back ends that show windows."""
    registry = require_matplotlib("matplotlib.backends")
    listed: list[str] = registry.backend_registry.list_builtin(registry.BackendFilter.INTERACTIVE)
    return listed
