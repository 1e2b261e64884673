"""The visualizer: draws on images, and hands scalars and pictures to the back ends."""

from __future__ import annotations

import inspect
import logging
import math
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
import torch.nn.functional as F

from mmx.dist import master_only
from mmx.logging import print_log
from mmx.registry import VISBACKENDS, VISUALIZERS
from mmx.utils.errors import InvalidTypeError, InvalidValueError
from mmx.utils.manager import ManagerMixin
from mmx.visualization.utils import (
    check_type,
    check_type_and_length,
    color_str2rgb,
    color_val_matplotlib,
    convert_overlay_heatmap,
    events_backends,
    img_from_canvas,
    require_matplotlib,
    tensor2ndarray,
    value2list,
    wait_continue,
)
from mmx.visualization.vis_backend import (
    BaseVisBackend,
    LocalVisBackend,
    MissingExtraError,
    check_image,
    check_picture,
    write_png,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

    from mmx.config import Config
    from mmx.structures import BaseDataElement

Array = np.ndarray[Any, Any]
ArrayLike = Array | torch.Tensor
Colors = str | tuple[float, ...] | list[str] | list[tuple[float, ...]]
Styles = str | list[str]
Widths = int | float | list[int | float]
VisBackends = list[dict[str, Any]] | list[BaseVisBackend] | dict[str, Any] | BaseVisBackend | None

_ARRAYS = (np.ndarray, torch.Tensor)
_REDUCTIONS = ("squeeze_mean", "select_max")


class DuplicateBackendError(RuntimeError, ValueError):
    """Two back ends have one name; MMEngine raises a RuntimeError."""


@VISUALIZERS.register_module()
class Visualizer(ManagerMixin):
    """Draws on an image and records scalars, images and the config in its back ends.

    Drawing methods return the visualizer, so that calls can be chained. Positions are in pixels,
    ``(x, y)`` from the upper left corner. Each style may be one value for all shapes or a list
    with one per shape; colours are names, hexadecimal, or tuples of 0–255.

    A failing back end is logged and never ends a run. Back ends record on the main process only.

    Args:
        name: Name of the instance.
        image: First image to draw on, see :meth:`set_image`.
        vis_backends: Back ends, or dicts to build them from; the key ``name`` of a dict is what
            :meth:`get_backend` knows it by, by default its class.
        save_dir: Directory of the back ends' files, ``<save_dir>/vis_data``; without it back ends
            that need one are left out with a warning.
        fig_save_cfg: Arguments of the matplotlib figure that is drawn on.
        fig_show_cfg: Arguments of the figure that is shown.

    Raises:
        TypeError: ``vis_backends`` are neither back ends nor dicts.
        ValueError: Two of them have the same name.

    Examples:
        >>> import numpy as np
        >>> from mmx.visualization import Visualizer
        >>> visualizer = Visualizer(image=np.zeros((40, 60, 3), dtype=np.uint8))
        >>> boxes = np.array([[1, 1, 20, 20], [10, 5, 50, 35]])
        >>> drawn = visualizer.draw_bboxes(boxes, edge_colors=['g', 'r']).get_image()
        >>> drawn.shape
        (40, 60, 3)
    """

    def __init__(
        self,
        name: str = "visualizer",
        image: Array | None = None,
        vis_backends: VisBackends = None,
        save_dir: str | None = None,
        fig_save_cfg: dict[str, Any] = {"frameon": False},  # noqa: B006 never changed
        fig_show_cfg: dict[str, Any] = {"frameon": False},  # noqa: B006 never changed
    ) -> None:
        super().__init__(name)
        self._dataset_meta: dict[str, Any] | None = None
        self._save_dir = save_dir
        self.fig_save_cfg = dict(fig_save_cfg)
        self.fig_show_cfg = dict(fig_show_cfg)
        # Made when something is drawn: most runs never draw, and matplotlib is slow to import.
        self._figure: tuple[Any, Figure, Axes] | None = None
        self._image: Array | None = None
        self._vis_backends: dict[str, BaseVisBackend] = {}
        # Back ends that could not be set up, and messages that have been logged.
        self._disabled: set[str] = set()
        self._reported: set[tuple[str, str]] = set()
        # What waits until a resumed run knows which record to go on with.
        self._pending_config: Config | None = None
        self._add_backends(vis_backends, save_dir)
        if image is not None:
            self.set_image(image)

    def _add_backends(self, vis_backends: VisBackends, save_dir: str | None) -> None:
        if vis_backends is None:
            return
        if isinstance(vis_backends, Mapping | BaseVisBackend):
            vis_backends = [vis_backends]  # type: ignore[assignment]  # one is as good as a list
        if not isinstance(vis_backends, Sequence) or not all(
            isinstance(backend, Mapping | BaseVisBackend) for backend in vis_backends
        ):
            raise InvalidTypeError(
                "vis_backends must be a list of dicts or a list of BaseBackend instances"
            )
        for given in vis_backends:
            name = None
            if isinstance(given, Mapping):
                config = dict(given)
                name = config.pop("name", None)
                if config.get("save_dir") is None:
                    if save_dir is not None:
                        config["save_dir"] = os.path.join(save_dir, "vis_data")
                    elif self._needs_directory(config):
                        warnings.warn(
                            f"Failed to add {config.get('type')}, please provide the `save_dir` "
                            "argument.",
                            stacklevel=3,
                        )
                        continue
                backend: BaseVisBackend = VISBACKENDS.build(config)
            else:
                backend = given
            name = type(backend).__name__ if name is None else name
            if name in self._vis_backends:
                raise DuplicateBackendError(
                    f"vis_backend name {name} already exists; give one of them another `name`"
                )
            self._vis_backends[name] = backend

    def _needs_directory(self, config: Mapping[str, Any]) -> bool:
        kind = config.get("type")
        kind = VISBACKENDS.get(kind) if isinstance(kind, str) else kind
        if kind is None:
            return False  # building it raises, and says why
        parameter = inspect.signature(kind).parameters.get("save_dir")
        return parameter is not None and parameter.default is parameter.empty

    # Instances --------------------------------------------------------------------------------

    @classmethod
    def get_instance(cls, name: str, **kwargs: Any) -> Self:
        """Return the instance of this name; one of a subclass is found by its bases as well.

        Code that needs the visualizer asks ``Visualizer.get_current_instance()`` and need not
        know which subclass the run uses.
        """
        instance = super().get_instance(name, **kwargs)
        for base in cls.__mro__[1:]:
            if isinstance(base, type) and issubclass(base, Visualizer):
                base._instance_dict[name] = instance
        return instance

    @contextmanager
    def as_current(self) -> Iterator[Self]:
        """Make this the current instance of its class and of its bases for a block."""
        with ExitStack() as stack:
            for base in type(self).__mro__:
                if issubclass(base, Visualizer):
                    token = base._bound.set(self)
                    stack.callback(base._bound.reset, token)
            yield self

    @property
    def dataset_meta(self) -> dict[str, Any] | None:
        """What is known of the data set, for example its classes."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict[str, Any] | None) -> None:
        self._dataset_meta = dataset_meta

    # The image --------------------------------------------------------------------------------

    def _initialize_fig(self, fig_cfg: dict[str, Any]) -> tuple[Any, Figure, Axes]:
        """Return canvas, figure and axes without frame or margin."""
        agg = require_matplotlib("matplotlib.backends.backend_agg")
        figure = require_matplotlib("matplotlib.figure").Figure(**fig_cfg)
        axes = figure.add_subplot()
        axes.axis(False)
        figure.subplots_adjust(left=0, right=1, bottom=0, top=1)
        return agg.FigureCanvasAgg(figure), figure, axes

    def _figure_parts(self) -> tuple[Any, Figure, Axes]:
        if self._figure is None:
            self._figure = self._initialize_fig(self.fig_save_cfg)
        return self._figure

    @property
    def fig_save_canvas(self) -> Any:
        """Canvas of the figure that is drawn on."""
        return self._figure_parts()[0]

    @property
    def fig_save(self) -> Figure:
        """The figure that is drawn on."""
        return self._figure_parts()[1]

    @property
    def ax_save(self) -> Axes:
        """Axes of the figure that is drawn on."""
        return self._figure_parts()[2]

    @property
    def dpi(self) -> float:
        """Dots per inch of the figure that is drawn on."""
        return self.fig_save.get_dpi()

    def set_image(self, image: Array) -> None:
        """Set the image to draw on.

        Args:
            image: ``(H, W, 3)`` or ``(H, W)``, RGB or grey, 0–255.

        Raises:
            TypeError: It is no array.
            ValueError: It has another shape.
        """
        if not isinstance(image, np.ndarray):
            raise InvalidTypeError(f"image should be a NumPy array, but got {type(image).__name__}")
        if image.ndim not in (2, 3) or 0 in image.shape:
            raise InvalidValueError(f"image should be (H, W) or (H, W, 3), but got {image.shape}")
        self._image = image = image.astype("uint8")
        self.width, self.height = image.shape[1], image.shape[0]
        self._default_font_size = max(int(math.sqrt(self.height * self.width)) // 90, 10)
        # Without the small addition rounding may cost a pixel.
        self.fig_save.set_size_inches(
            (self.width + 1e-2) / self.dpi, (self.height + 1e-2) / self.dpi
        )
        self.ax_save.cla()
        self.ax_save.axis(False)
        self._show_on_axes(image, "none")

    def _show_on_axes(self, image: Array, interpolation: str) -> None:
        self.ax_save.imshow(
            image,
            extent=(0, self.width, self.height, 0),
            interpolation=interpolation,
            cmap="gray" if image.ndim == 2 else None,
            vmin=0,
            vmax=255,
        )

    def get_image(self) -> Array:
        """Return the image with what was drawn: ``(H, W, 3)``, uint8, RGB.

        Raises:
            ValueError: There is none.
        """
        self._need_image()
        return img_from_canvas(self.fig_save_canvas)

    def _need_image(self) -> None:
        if self._image is None:
            raise InvalidValueError(
                "there is no image to draw on; please set image using `set_image`"
            )

    def show(
        self,
        drawn_img: Array | None = None,
        win_name: str = "image",
        wait_time: float = 0.0,
        continue_key: str = " ",
        backend: str = "matplotlib",
    ) -> Any:
        """Show an image in a window and wait; where there is no screen, write it to a file.

        Args:
            drawn_img: The image, by default :meth:`get_image`.
            win_name: Title of the window.
            wait_time: Seconds to wait; 0 waits for the key.
            continue_key: Key that ends the waiting.
            backend: ``matplotlib``, or ``cv2`` where OpenCV is installed.

        Returns:
            In a notebook the figure; where there is no screen the path of the file.

        Raises:
            ValueError: The back end is unknown.
        """
        if backend not in ("matplotlib", "cv2"):
            raise InvalidValueError(
                f'backend should be "matplotlib" or "cv2", but got {backend} instead'
            )
        image = self.get_image() if drawn_img is None else drawn_img
        if backend == "cv2":
            return self._show_in_opencv(image, win_name, wait_time)
        pyplot = require_matplotlib("matplotlib.pyplot")
        name = pyplot.get_backend()
        is_inline = "inline" in name
        if not is_inline and name.lower() not in {b.lower() for b in events_backends()}:
            return self._show_in_file(image, win_name)
        self._init_manager(win_name)
        figure = self.manager.canvas.figure
        figure.subplots_adjust(left=0, right=1, bottom=0, top=1)
        figure.clf()
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.axis(False)
        axes.imshow(image)
        self.manager.canvas.draw()
        if is_inline:
            return figure
        wait_continue(figure, timeout=wait_time, continue_key=continue_key)
        return None

    def _init_manager(self, win_name: str) -> None:
        """Make the window, or name the one there is."""
        pyplot = require_matplotlib("matplotlib.pyplot")
        manager = getattr(self, "manager", None)
        if manager is None or not pyplot.fignum_exists(manager.num):
            self.manager: Any = pyplot.figure(**self.fig_show_cfg).canvas.manager
        self.manager.set_window_title(win_name)

    def _show_in_opencv(self, image: Array, win_name: str, wait_time: float) -> None:
        try:
            import cv2
        except ImportError:
            raise ImportError(
                "Visualizer.show(backend='cv2') needs OpenCV; install opencv-python, or use "
                "backend='matplotlib'"
            ) from None
        cv2.namedWindow(win_name, 0)
        cv2.imshow(win_name, image[..., ::-1] if image.ndim == 3 else image)
        cv2.waitKey(math.ceil(wait_time * 1000))

    def _show_in_file(self, image: Array, win_name: str) -> str:
        folder = self._save_dir or tempfile.gettempdir()
        stem = "".join(c if c.isalnum() or c in "-_." else "_" for c in win_name)
        number = 0
        while os.path.exists(path := os.path.join(folder, "shown", f"{stem}_{number}.png")):
            number += 1
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write_png(path, image)
        print_log(f"There is no screen to show {win_name!r} on; it is in {path}", "current")
        return path

    # Drawing ----------------------------------------------------------------------------------

    def _is_posion_valid(self, position: Array) -> bool:
        """Tell whether all ``(..., 2)`` positions lie in the image."""
        x, y = position[..., 0], position[..., 1]
        return bool(((x >= 0) & (x < self.width) & (y >= 0) & (y < self.height)).all())

    def _warn_unless_inside(self, positions: Array, what: str) -> None:
        if positions.size and not self._is_posion_valid(positions):
            warnings.warn(
                f"Warning: The {what} is out of bounds, the drawn {what} may not be in the image",
                UserWarning,
                stacklevel=3,
            )

    def draw_points(
        self,
        positions: ArrayLike,
        colors: Colors = "g",
        marker: str | None = None,
        sizes: ArrayLike | None = None,
    ) -> Self:
        """Draw points.

        Args:
            positions: ``(2,)`` or ``(N, 2)``.
            colors: One or N.
            marker: Marker style of matplotlib.
            sizes: Areas in points squared, ``(N,)``.
        """
        self._need_image()
        check_type("positions", positions, _ARRAYS)
        points = tensor2ndarray(positions)
        points = points[None] if points.ndim == 1 else points
        if points.shape[-1] != 2:
            raise InvalidValueError(
                f"The shape of `positions` should be (N, 2), but got {points.shape}"
            )
        colors = color_val_matplotlib(colors)  # type: ignore[arg-type,assignment]  # lists of one kind
        area = None if sizes is None else tensor2ndarray(sizes)
        self.ax_save.scatter(points[:, 0], points[:, 1], c=colors, s=area, marker=marker)
        return self

    def draw_texts(
        self,
        texts: str | list[str],
        positions: ArrayLike,
        font_sizes: int | list[int] | None = None,
        colors: Colors = "g",
        vertical_alignments: Styles = "top",
        horizontal_alignments: Styles = "left",
        font_families: Styles = "sans-serif",
        bboxes: dict[str, Any] | list[dict[str, Any]] | None = None,
        font_properties: FontProperties | list[FontProperties] | None = None,
    ) -> Self:
        """Draw texts.

        Args:
            texts: One or N.
            positions: ``(2,)`` or ``(N, 2)``.
            font_sizes: In points; None depends on the image's size.
            colors: One or N.
            vertical_alignments: ``top``, ``bottom``, ``center`` or ``baseline``.
            horizontal_alignments: ``left``, ``right`` or ``center``.
            font_families: For example ``serif``.
            bboxes: Arguments of matplotlib's box around each text.
            font_properties: Fonts of matplotlib, for example for Chinese text.
        """
        self._need_image()
        check_type("texts", texts, (str, list))
        texts = [texts] if isinstance(texts, str) else texts
        count = len(texts)
        check_type("positions", positions, _ARRAYS)
        points = tensor2ndarray(positions)
        points = points[None] if points.ndim == 1 else points
        if points.shape != (count, 2):
            raise InvalidValueError(
                f"`positions` should have the shape of ({count}, 2), but got {points.shape}"
            )
        self._warn_unless_inside(points, "text")
        check_type_and_length("font_sizes", font_sizes, (int, float, list, type(None)), count)
        if font_sizes is None:
            font_sizes = self._default_font_size
        check_type_and_length("colors", colors, (str, tuple, list), count)
        check_type_and_length("vertical_alignments", vertical_alignments, (str, list), count)
        check_type_and_length("horizontal_alignments", horizontal_alignments, (str, list), count)
        check_type_and_length("font_families", font_families, (str, list), count)
        sizes = value2list(font_sizes, (int, float), count)
        shades = color_val_matplotlib(value2list(colors, (str, tuple), count))
        vertical = value2list(vertical_alignments, str, count)
        horizontal = value2list(horizontal_alignments, str, count)
        families = value2list(font_families, str, count)
        boxes = [None] * count if bboxes is None else value2list(bboxes, dict, count)
        check_type_and_length("bboxes", boxes, list, count)
        if font_properties is None:
            fonts: list[Any] = [None] * count
        else:
            kind = require_matplotlib("matplotlib.font_manager").FontProperties
            check_type_and_length("font_properties", font_properties, (kind, list), count)
            fonts = value2list(font_properties, kind, count)
        for i, text in enumerate(texts):
            self.ax_save.text(
                points[i][0],
                points[i][1],
                text,
                fontsize=sizes[i],
                bbox=boxes[i],
                verticalalignment=vertical[i],
                horizontalalignment=horizontal[i],
                family=families[i] if fonts[i] is None else None,
                fontproperties=fonts[i],
                color=shades[i],
            )
        return self

    def draw_lines(
        self,
        x_datas: ArrayLike,
        y_datas: ArrayLike,
        colors: Colors = "g",
        line_styles: Styles = "-",
        line_widths: Widths = 2,
    ) -> Self:
        """Draw line segments.

        Args:
            x_datas: x of start and end, ``(2,)`` or ``(N, 2)``.
            y_datas: y of start and end, of the same shape.
            colors: One or N.
            line_styles: One or N.
            line_widths: One or N, in points.
        """
        self._need_image()
        collections = require_matplotlib("matplotlib.collections")
        check_type("x_datas", x_datas, _ARRAYS)
        check_type("y_datas", y_datas, _ARRAYS)
        x, y = tensor2ndarray(x_datas), tensor2ndarray(y_datas)
        if x.shape != y.shape:
            raise InvalidValueError(
                f"`x_datas` and `y_datas` should have the same shape, but got {x.shape} and "
                f"{y.shape}"
            )
        if x.shape[-1] != 2:
            raise InvalidValueError(f"The shape of `x_datas` should be (N, 2), but got {x.shape}")
        x, y = (x[None], y[None]) if x.ndim == 1 else (x, y)
        lines = np.stack([x, y], axis=2)
        self._warn_unless_inside(lines, "line")
        self.ax_save.add_collection(
            collections.LineCollection(
                list(lines),
                colors=color_val_matplotlib(colors),  # type: ignore[arg-type]  # lists of one kind
                linestyles=line_styles,
                linewidths=line_widths,
            )
        )
        return self

    def draw_circles(
        self,
        center: ArrayLike,
        radius: ArrayLike,
        edge_colors: Colors = "g",
        line_styles: Styles = "-",
        line_widths: Widths = 2,
        face_colors: Colors = "none",
        alpha: float | int = 0.8,
    ) -> Self:
        """Draw circles.

        Args:
            center: ``(2,)`` or ``(N, 2)``.
            radius: In pixels, ``(1,)`` or ``(N,)``.
            edge_colors: One or N.
            line_styles: One or N.
            line_widths: One or N, in points.
            face_colors: One or N; ``none`` leaves the inside as it is.
            alpha: Opacity.
        """
        self._need_image()
        patches = require_matplotlib("matplotlib.patches")
        check_type("center", center, _ARRAYS)
        check_type("radius", radius, _ARRAYS)
        centers = tensor2ndarray(center)
        centers = centers[None] if centers.ndim == 1 else centers
        radii = np.atleast_1d(tensor2ndarray(radius))
        if centers.shape != (radii.shape[0], 2):
            raise InvalidValueError(
                f"The shape of `center` should be (radius.shape, 2), but got {centers.shape}"
            )
        reach = radii[:, None]
        self._warn_unless_inside(np.concatenate([centers - reach, centers + reach]), "circle")
        circles = [patches.Circle(tuple(c), float(r)) for c, r in zip(centers, radii, strict=True)]
        self._add_patches(circles, edge_colors, line_styles, line_widths, face_colors, alpha)
        return self

    def draw_bboxes(
        self,
        bboxes: ArrayLike,
        edge_colors: Colors = "g",
        line_styles: Styles = "-",
        line_widths: Widths = 2,
        face_colors: Colors = "none",
        alpha: int | float = 0.8,
    ) -> Self:
        """Draw boxes.

        Args:
            bboxes: ``(x1, y1, x2, y2)`` each, ``(4,)`` or ``(N, 4)``.
            edge_colors: One or N.
            line_styles: One or N.
            line_widths: One or N, in points.
            face_colors: One or N; ``none`` leaves the inside as it is.
            alpha: Opacity.
        """
        self._need_image()
        check_type("bboxes", bboxes, _ARRAYS)
        boxes = tensor2ndarray(bboxes)
        boxes = boxes[None] if boxes.ndim == 1 else boxes
        if boxes.shape[-1] != 4:
            raise InvalidValueError(
                f"The shape of `bboxes` should be (N, 4), but got {boxes.shape}"
            )
        if not ((boxes[:, 0] <= boxes[:, 2]) & (boxes[:, 1] <= boxes[:, 3])).all():
            raise InvalidValueError(
                "`bboxes` should be (x1, y1, x2, y2) with x1 <= x2 and y1 <= y2, but got "
                f"{boxes.tolist()}"
            )
        self._warn_unless_inside(boxes.reshape(-1, 2), "bbox")
        corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
        return self._draw_polygons(
            list(corners), edge_colors, line_styles, line_widths, face_colors, alpha
        )

    def draw_polygons(
        self,
        polygons: ArrayLike | list[ArrayLike],
        edge_colors: Colors = "g",
        line_styles: Styles = "-",
        line_widths: Widths = 2,
        face_colors: Colors = "none",
        alpha: int | float = 0.8,
    ) -> Self:
        """Draw polygons.

        Args:
            polygons: Corners, ``(M, 2)``; several as a list, each with its own M.
            edge_colors: One or one per polygon.
            line_styles: The same.
            line_widths: The same, in points.
            face_colors: The same; ``none`` leaves the inside as it is.
            alpha: Opacity.
        """
        self._need_image()
        check_type("polygons", polygons, (list, *_ARRAYS))
        listed = polygons if isinstance(polygons, list) else [polygons]
        corners = [np.asarray(tensor2ndarray(polygon)) for polygon in listed]
        for polygon in corners:
            if polygon.ndim != 2 or polygon.shape[1] != 2:
                raise InvalidValueError(
                    f"The shape of each polygon in `polygons` should be (M, 2), but got "
                    f"{polygon.shape}"
                )
            self._warn_unless_inside(polygon, "polygon")
        return self._draw_polygons(
            corners, edge_colors, line_styles, line_widths, face_colors, alpha
        )

    def _draw_polygons(
        self,
        corners: list[Array],
        edge_colors: Colors,
        line_styles: Styles,
        line_widths: Widths,
        face_colors: Colors,
        alpha: float,
    ) -> Self:
        collections = require_matplotlib("matplotlib.collections")
        widths = self._scaled_widths(line_widths, len(corners))
        self.ax_save.add_collection(
            collections.PolyCollection(
                corners,
                alpha=alpha,
                facecolors=color_val_matplotlib(face_colors),  # type: ignore[arg-type]  # lists of one kind
                linestyles=line_styles,
                edgecolors=color_val_matplotlib(edge_colors),  # type: ignore[arg-type]  # lists of one kind
                linewidths=widths,
            )
        )
        return self

    def _add_patches(
        self,
        patches: list[Any],
        edge_colors: Colors,
        line_styles: Styles,
        line_widths: Widths,
        face_colors: Colors,
        alpha: float,
    ) -> None:
        collections = require_matplotlib("matplotlib.collections")
        self.ax_save.add_collection(
            collections.PatchCollection(
                patches,
                alpha=alpha,
                facecolors=color_val_matplotlib(face_colors),  # type: ignore[arg-type]  # lists of one kind
                edgecolors=color_val_matplotlib(edge_colors),  # type: ignore[arg-type]  # lists of one kind
                linewidths=self._scaled_widths(line_widths, len(patches)),
                linestyles=line_styles,
            )
        )

    def _scaled_widths(self, line_widths: Widths, count: int) -> list[float]:
        # A line may be no thicker than the default font is high.
        widths = value2list(line_widths, (int, float), count)
        return [min(max(width, 1), self._default_font_size / 4) for width in widths]

    def draw_binary_masks(
        self,
        binary_masks: ArrayLike,
        colors: Colors = "g",
        alphas: float | list[float] = 0.8,
    ) -> Self:
        """Colour the pixels of masks.

        Args:
            binary_masks: ``(H, W)`` or ``(N, H, W)``, bool, of the image's size.
            colors: One or N.
            alphas: Opacity, one or N.
        """
        self._need_image()
        check_type("binary_masks", binary_masks, _ARRAYS)
        masks = tensor2ndarray(binary_masks)
        if masks.dtype != np.bool_:
            raise InvalidValueError(
                f"The dtype of binary_masks should be np.bool_, but got {masks.dtype}"
            )
        masks = masks[None] if masks.ndim == 2 else masks
        image = self.get_image()
        if masks.ndim != 3 or masks.shape[1:] != image.shape[:2]:
            raise InvalidValueError(
                "`binary_masks` must have the same shape with image: "
                f"{image.shape[:2]}, but got {masks.shape[-2:]}"
            )
        count = len(masks)
        check_type_and_length("colors", colors, (str, tuple, list), count)
        check_type_and_length("alphas", alphas, (int, float, list), count)
        shades = [
            color_str2rgb(color) if isinstance(color, str) else color
            for color in value2list(colors, (str, tuple), count)
        ]
        for color in shades:
            if len(color) != 3 or not all(0 <= channel <= 255 for channel in color):
                raise InvalidValueError(f"a mask's color should be 3 numbers of 0 to 255: {color}")
        blended = image.astype(np.float32)
        opacities = value2list(alphas, (int, float), count)
        for mask, color, opacity in zip(masks, shades, opacities, strict=False):
            # Masks that overlap blend whole numbers, one after the other.
            blended[mask] = (blended[mask] * (1 - opacity) + np.array(color) * opacity).round()
        self._show_on_axes(blended.astype(np.uint8), "nearest")
        return self

    # Feature maps -----------------------------------------------------------------------------

    @staticmethod
    def draw_featmap(
        featmap: torch.Tensor,
        overlaid_image: Array | None = None,
        channel_reduction: str | None = "squeeze_mean",
        topk: int = 20,
        arrangement: tuple[int, int] = (4, 5),
        resize_shape: tuple[int, int] | None = None,
        alpha: float = 0.5,
    ) -> Array:
        """Return a picture of a feature map.

        Args:
            featmap: ``(C, H, W)``.
            overlaid_image: Image under the map, ``(H', W', 3)`` or ``(H', W')``, uint8; the map is
                stretched to its size.
            channel_reduction: ``squeeze_mean`` shows the mean of the channels, ``select_max`` the
                channel with the largest sum, None several channels or, with ``topk <= 0``, a map
                of 1 or 3 channels as an image.
            topk: How many channels, those with the largest sums; only without reduction.
            arrangement: Rows and columns of the channels.
            resize_shape: ``(H, W)`` of the picture (of each channel).
            alpha: Weight of the map over the image.

        Returns:
            ``(H, W, 3)``, uint8, RGB.

        Raises:
            TypeError: ``featmap`` is no tensor.
            ValueError: Shapes, ``channel_reduction`` or ``arrangement`` do not fit.
        """
        if not isinstance(featmap, torch.Tensor):
            raise InvalidTypeError(f"`featmap` should be torch.Tensor, but got {type(featmap)}")
        if featmap.ndim != 3:
            raise InvalidValueError(f"Input dimension must be 3, but got {featmap.ndim}")
        if channel_reduction is not None and channel_reduction not in _REDUCTIONS:
            raise InvalidValueError(
                f'Mode only support "squeeze_mean", "select_max", but got {channel_reduction}'
            )
        featmap = featmap.detach().cpu().float()
        if overlaid_image is not None:
            if overlaid_image.ndim == 2 or overlaid_image.shape[2] == 1:
                grey = overlaid_image.reshape(overlaid_image.shape[:2])
                overlaid_image = np.repeat(grey[..., None], 3, axis=2)
            if resize_shape is not None:
                overlaid_image = _resized_image(overlaid_image, resize_shape)
            elif tuple(overlaid_image.shape[:2]) != tuple(featmap.shape[1:]):
                warnings.warn(
                    "Since the spatial dimensions of overlaid_image: "
                    f"{overlaid_image.shape[:2]} and featmap: {tuple(featmap.shape[1:])} are not "
                    "same, the feature map will be interpolated. This may cause mismatch problems!",
                    stacklevel=2,
                )
                resize_shape = (overlaid_image.shape[0], overlaid_image.shape[1])
        if resize_shape is not None:
            featmap = F.interpolate(
                featmap[None], resize_shape, mode="bilinear", align_corners=False
            )[0]

        if channel_reduction == "squeeze_mean":
            return convert_overlay_heatmap(featmap.mean(dim=0), overlaid_image, alpha)
        if channel_reduction == "select_max":
            best = int(featmap.sum(dim=(1, 2)).argmax())
            return convert_overlay_heatmap(featmap[best], overlaid_image, alpha)
        if topk <= 0:
            return _featmap_as_image(featmap, overlaid_image, alpha)
        rows, columns = arrangement
        if rows * columns < topk:
            raise InvalidValueError(
                "The product of row and col in the `arrangement` is less than topk, please set "
                f"the `arrangement` correctly: {rows} x {columns} < {topk}"
            )
        return _channels_as_grid(
            featmap, overlaid_image, min(topk, len(featmap)), rows, columns, alpha
        )

    # Recording --------------------------------------------------------------------------------

    @property
    def _is_pending(self) -> bool:
        return self._pending_config is not None

    def _each(self, method: str, *args: Any, **kwargs: Any) -> None:
        """Call a method of each back end; what goes wrong is logged, and the others go on."""
        if self._pending_config is not None and method != "add_config":
            self._flush_config()
        for name, backend in self._vis_backends.items():
            self._call(name, backend, method, *args, **kwargs)

    def _call(
        self, name: str, backend: BaseVisBackend, method: str, *args: Any, **kwargs: Any
    ) -> None:
        if name in self._disabled:
            return
        try:
            getattr(backend, method)(*args, **kwargs)
        except Exception as error:
            is_dead = not getattr(backend, "_env_initialized", True)
            if is_dead and isinstance(error, MissingExtraError):
                raise  # a mistake in the set-up, seen before training begins
            # A back end that cannot even start would be tried, and waited for, at each record.
            if is_dead:
                self._disabled.add(name)
            message = f"{type(error).__name__}: {error}"
            if (name, message) in self._reported:
                return
            if len(self._reported) < 1000:
                self._reported.add((name, message))
            consequence = "it is left out from now on" if is_dead else "the run goes on"
            print_log(
                f"the visualization back end {name} failed in {method}; {consequence}. {message}",
                logger="current",
                level=logging.ERROR,
            )

    def _flush_config(self) -> None:
        config, self._pending_config = self._pending_config, None
        for name, backend in self._vis_backends.items():
            if getattr(backend, "resumable", False):
                self._call(name, backend, "add_config", config)

    @master_only
    def add_config(self, config: Config, **kwargs: Any) -> None:
        """Record the config.

        Trackers get it with the first record, when it is known whether the run was resumed.
        """
        for name, backend in self._vis_backends.items():
            if getattr(backend, "resumable", False):
                self._pending_config = config
            else:
                self._call(name, backend, "add_config", config, **kwargs)

    @master_only
    def add_graph(self, model: torch.nn.Module, data_batch: Sequence[Any], **kwargs: Any) -> None:
        """Record the model's graph, traced on a batch where the back end does that."""
        self._each("add_graph", model, data_batch, **kwargs)

    @master_only
    def add_image(self, name: str, image: Array, step: int = 0) -> None:
        """Record an image.

        Args:
            name: Its name; slashes make folders.
            image: ``(H, W)`` or ``(H, W, 3)``, RGB, of integers from 0 to 255; files need uint8.
            step: Iteration or epoch.

        Raises:
            TypeError: ``image`` is no array.
            ValueError: It has another shape, or a dtype that a back end cannot write.
        """
        check_picture(image)
        if any(isinstance(backend, LocalVisBackend) for backend in self._vis_backends.values()):
            check_image(image)
        self._each("add_image", name, image, step)

    @master_only
    def add_scalar(self, name: str, value: int | float, step: int = 0, **kwargs: Any) -> None:
        """Record a number."""
        self._each("add_scalar", name, value, step, **kwargs)

    @master_only
    def add_scalars(
        self,
        scalar_dict: dict[str, Any],
        step: int = 0,
        file_path: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Record several numbers.

        Args:
            scalar_dict: Name -> number; an entry ``step`` replaces the argument.
            step: Iteration or epoch.
            file_path: A second file for local back ends.
            **kwargs: Handed on.
        """
        self._each("add_scalars", scalar_dict, step, file_path, **kwargs)

    @master_only
    def add_datasample(
        self,
        name: str,
        image: Array,
        data_sample: BaseDataElement | None = None,
        draw_gt: bool = True,
        draw_pred: bool = True,
        show: bool = False,
        wait_time: int = 0,
        step: int = 0,
    ) -> None:
        """Draw a sample with its annotations and predictions, and show or record it.

        For subclasses: what a sample looks like depends on the task. Here nothing is drawn.

        Args:
            name: Name of the image.
            image: ``(H, W, 3)``, uint8, RGB.
            data_sample: Annotations and predictions.
            draw_gt: Draw annotations.
            draw_pred: Draw predictions.
            show: Show the picture instead of recording it.
            wait_time: Seconds to show it.
            step: Iteration or epoch.
        """

    def get_backend(self, name: str) -> BaseVisBackend | None:
        """Return the back end of a name, None if there is none."""
        return self._vis_backends.get(name)

    def close(self) -> None:
        """Finish all records and close the figures. Closing twice is fine."""
        self._close_backends()
        manager = getattr(self, "manager", None)
        if manager is not None:
            require_matplotlib("matplotlib.pyplot").close(manager.canvas.figure)
            del self.manager
        self._figure = None
        self._image = None

    @master_only
    def _close_backends(self) -> None:
        self._each("close")

    # State ------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to go on with the back ends' records: plain data."""
        states = {n: b.state_dict() for n, b in self._stateful_backends()}
        return {"version": 1, "backends": {n: s for n, s in states.items() if s}}

    def load_state_dict(self, state: Mapping[str, Any], step: int | None = None) -> None:
        """Let each back end go on with the record that it had when the state was saved.

        Args:
            state: What :meth:`state_dict` returned.
            step: Iteration to which the run goes back; None if unknown.
        """
        saved = state.get("backends", {})
        for name, backend in self._stateful_backends():
            if name in saved:
                backend.load_state_dict(saved[name])
                if step is not None:
                    backend.resume_at(step)

    def _stateful_backends(self) -> Iterator[tuple[str, BaseVisBackend]]:
        for name, backend in self._vis_backends.items():
            if hasattr(backend, "state_dict"):
                yield name, backend


def _resized_image(image: Array, shape: tuple[int, int]) -> Array:
    chw = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float()
    resized = F.interpolate(chw[None], tuple(shape), mode="bilinear", align_corners=False)[0]
    return resized.permute(1, 2, 0).round().clamp(0, 255).byte().numpy()


def _featmap_as_image(featmap: torch.Tensor, image: Array | None, alpha: float) -> Array:
    channels = featmap.shape[0]
    if channels not in (1, 3):
        raise InvalidValueError(
            "The input tensor channel dimension must be 1 or 3 when topk is less than 1, but the "
            f"channel dimension you input is {channels}, you can use the channel_reduction "
            "parameter or set topk greater than 0 to solve the error"
        )
    if channels == 1:
        return convert_overlay_heatmap(featmap, image, alpha)
    low, high = float(featmap.min()), float(featmap.max())
    scale = 255 / (high - low) if high > low else 0.0
    picture = ((featmap - low) * scale).permute(1, 2, 0).numpy()
    if image is not None:
        picture = picture * alpha + image * (1 - alpha)
    return picture.round().clip(0, 255).astype(np.uint8)


def _channels_as_grid(
    featmap: torch.Tensor,
    image: Array | None,
    count: int,
    rows: int,
    columns: int,
    alpha: float,
) -> Array:
    agg = require_matplotlib("matplotlib.backends.backend_agg")
    figure = require_matplotlib("matplotlib.figure").Figure(frameon=False)
    canvas = agg.FigureCanvasAgg(figure)
    figure.subplots_adjust(left=0, right=1, bottom=0, top=1, wspace=0, hspace=0)
    height, width = featmap.shape[1:]
    dpi = figure.get_dpi()
    figure.set_size_inches((width * columns + 1e-2) / dpi, (height * rows + 1e-2) / dpi)
    _, chosen = torch.topk(featmap.sum(dim=(1, 2)), count)
    for place, channel in enumerate(chosen.tolist(), start=1):
        axes = figure.add_subplot(rows, columns, place)
        axes.axis("off")
        axes.text(2, 15, f"channel: {channel}", fontsize=10)
        axes.imshow(convert_overlay_heatmap(featmap[channel], image, alpha))
    return img_from_canvas(canvas)
