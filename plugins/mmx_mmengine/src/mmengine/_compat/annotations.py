"""Names of types that old code annotates with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mmx.config import Config, ConfigDict
from mmx.optim import BaseOptimWrapper, OptimWrapperDict
from mmx.optim.scheduler.param_scheduler import _ParamScheduler
from mmx.structures import BaseDataElement
from mmx.visualization import BaseVisBackend

ConfigType = dict[str, Any] | Config | ConfigDict
ParamSchedulerType = list[_ParamScheduler] | dict[str, list[_ParamScheduler]]
OptimWrapperType = BaseOptimWrapper | OptimWrapperDict

SUFFIX_TYPE = Sequence[str] | str
DATA_BATCH = dict[str, Any] | tuple[Any, ...] | list[Any] | None
CastData = (
    tuple[Any, ...]
    | dict[Any, Any]
    | BaseDataElement
    | torch.Tensor
    | list[Any]
    | bytes
    | str
    | None
)

EnhancedBatchInputs = list[torch.Tensor | list[torch.Tensor]]
EnhancedBatchDataSamples = list[list[BaseDataElement]]
MergedDataSamples = list[BaseDataElement]

BoolTypeTensor = torch.BoolTensor | torch.cuda.BoolTensor  # type: ignore[attr-defined]  # made at run time
LongTypeTensor = torch.LongTensor | torch.cuda.LongTensor  # type: ignore[attr-defined]  # made at run time
IndexType = str | slice | int | list[Any] | LongTypeTensor | BoolTypeTensor | np.ndarray

VisBackendsType = list[list[Any] | BaseVisBackend] | BaseVisBackend | dict[str, Any] | None
