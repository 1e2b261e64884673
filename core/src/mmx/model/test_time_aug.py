"""Predictions merged over several augmented copies of each input."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import nn

from mmx.model.base_model import BaseModel
from mmx.registry import MODELS
from mmx.structures import BaseDataElement
from mmx.utils.errors import InvalidTypeError

DATA_BATCH = list[dict[str, Any]] | dict[str, list[Any]] | tuple[Any, ...]


@MODELS.register_module()
class BaseTTAModel(BaseModel):
    """Base class of models for test-time augmentation.

    A batch holds several augmented copies of each sample; each set of copies goes through the
    wrapped model's ``test_step``, and :meth:`merge_preds` merges what comes out, sample by sample.

    Args:
        module: The wrapped model, or its config.
        data_preprocessor: Config that is put into the model's, if that is a config.

    Raises:
        TypeError: ``module`` is of another type, or has no ``test_step``.
    """

    module: Any
    #: Weights are those of the wrapped model: checkpoints are loaded into that.
    loads_into_module = True

    def __init__(
        self,
        module: dict[str, Any] | nn.Module,
        data_preprocessor: dict[str, Any] | nn.Module | None = None,
    ) -> None:
        super().__init__()
        if isinstance(module, nn.Module):
            self.module = module
        elif isinstance(module, dict):
            if data_preprocessor is not None:
                module = {**module, "data_preprocessor": data_preprocessor}
            self.module = MODELS.build(module)
        else:
            raise InvalidTypeError(
                f"The type of module should be a `nn.Module` instance or a dict, but got {module}"
            )
        if not hasattr(self.module, "test_step"):
            raise InvalidTypeError("Model wrapped by BaseTTAModel must implement `test_step`!")

    @abstractmethod
    def merge_preds(self, data_samples_list: list[list[BaseDataElement]]) -> list[BaseDataElement]:
        """Merge predictions.

        Args:
            data_samples_list: For each sample, the predictions of its copies.

        Returns:
            One prediction for each sample.
        """

    def test_step(self, data: Any) -> Any:
        """Return merged predictions.

        Args:
            data: For two copies of each of two samples ``{'inputs': [[a0, b0], [a1, b1]],
                'data_samples': [[...], [...]]}``, where ``a1`` is the second copy of the first; or
                a list or tuple of such lists.

        Raises:
            TypeError: The batch is none of these.
        """
        data_list: list[Any]
        if isinstance(data, dict):
            count = len(data[next(iter(data))])
            data_list = [{key: value[i] for key, value in data.items()} for i in range(count)]
        elif isinstance(data, (tuple, list)) and not isinstance(data, str):
            count = len(data[0])
            data_list = [[value[i] for value in data] for i in range(count)]
        else:
            raise InvalidTypeError(
                f"data given by dataLoader should be a dict, tuple or a list, but got {type(data)}"
            )
        predictions = [self.module.test_step(part) for part in data_list]
        # By copies first, as they were run; merging wants them by samples.
        return self.merge_preds([list(copies) for copies in zip(*predictions, strict=True)])

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = "tensor") -> Any:
        """Not for direct use.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            "`BaseTTAModel.forward` will not be called during training or testing. "
            "Please call `test_step`."
        )
