"""Visualization: drawing on images, and the places where scalars and pictures of a run go."""

from typing import TYPE_CHECKING

from mmx._lazy import lazy_exports

if TYPE_CHECKING:
    from mmx.visualization.curves import plot_curves as plot_curves
    from mmx.visualization.curves import read_scalars as read_scalars
    from mmx.visualization.vis_backend import AimVisBackend as AimVisBackend
    from mmx.visualization.vis_backend import BaseVisBackend as BaseVisBackend
    from mmx.visualization.vis_backend import ClearMLVisBackend as ClearMLVisBackend
    from mmx.visualization.vis_backend import DVCLiveVisBackend as DVCLiveVisBackend
    from mmx.visualization.vis_backend import LocalVisBackend as LocalVisBackend
    from mmx.visualization.vis_backend import MLflowVisBackend as MLflowVisBackend
    from mmx.visualization.vis_backend import NeptuneVisBackend as NeptuneVisBackend
    from mmx.visualization.vis_backend import TensorboardVisBackend as TensorboardVisBackend
    from mmx.visualization.vis_backend import WandbVisBackend as WandbVisBackend
    from mmx.visualization.visualizer import Visualizer as Visualizer
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "curves": ["plot_curves", "read_scalars"],
            "vis_backend": [
                "AimVisBackend",
                "BaseVisBackend",
                "ClearMLVisBackend",
                "DVCLiveVisBackend",
                "LocalVisBackend",
                "MLflowVisBackend",
                "NeptuneVisBackend",
                "TensorboardVisBackend",
                "WandbVisBackend",
            ],
            "visualizer": ["Visualizer"],
        },
    )
