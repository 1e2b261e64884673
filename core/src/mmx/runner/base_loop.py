"""The base class of loops."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from mmx.runner.runner import Runner


class BaseLoop(metaclass=ABCMeta):
    """Base class of loops: holds the runner and the data loader; subclasses define :meth:`run`.

    Args:
        runner: The runner that the loop belongs to.
        dataloader: A data loader, or a dict to build one from (with the runner's seed).
        evaluator: For loops that evaluate: an evaluator or what to build one from; becomes the
            attribute ``evaluator``.
    """

    evaluator: Any

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader[Any] | dict[str, Any],
        evaluator: Any = None,
    ) -> None:
        self._runner = runner
        if evaluator is not None:
            self.evaluator = runner.build_evaluator(evaluator)
        self.dataloader = self._build_dataloader(dataloader)

    def _build_dataloader(self, dataloader: Any) -> Any:
        if not isinstance(dataloader, dict):
            return dataloader
        runner = self._runner
        return runner.build_dataloader(
            dataloader,
            seed=runner.seed,
            diff_rank_seed=runner._randomness_cfg.get("diff_rank_seed", False),
        )

    @property
    def runner(self) -> Runner:
        """The runner that the loop belongs to."""
        return self._runner

    @abstractmethod
    def run(self) -> Any:
        """Execute the loop."""
