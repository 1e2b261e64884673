"""Running trained models on inputs."""

from typing import TYPE_CHECKING

from mmx._lazy import lazy_exports

if TYPE_CHECKING:
    from mmx.infer.infer import BaseInferencer as BaseInferencer
    from mmx.infer.pipeline import PipelineInferencer as PipelineInferencer
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__, {"infer": ["BaseInferencer"], "pipeline": ["PipelineInferencer"]}
    )
