"""Test-time augmentation without a change of the training config."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from mmx.hooks.hook import Hook
from mmx.registry import HOOKS, MODELS, RUNNERS

if TYPE_CHECKING:
    from mmx.hooks._protocol import RunnerLike


@HOOKS.register_module()
class PrepareTTAHook(Hook):
    """Wrap the runner's model in a model for test-time augmentation before testing.

    The model stays wrapped after the test; the next test does not wrap it again.

    Args:
        tta_cfg: Config of the wrapping model, a :class:`~mmx.model.BaseTTAModel`, without ``module``.
    """

    def __init__(self, tta_cfg: dict[str, Any]) -> None:
        self.tta_cfg = tta_cfg
        self._wrapped: Any = None

    def before_test(self, runner: RunnerLike) -> None:
        """Wrap the model."""
        if self._wrapped is not None and runner.model is self._wrapped:
            return
        self._wrapped = MODELS.build({**self.tta_cfg, "module": runner.model})
        runner.model = self._wrapped


def build_runner_with_tta(cfg: Any) -> Any:
    """Return a runner that tests with augmented copies of each sample.

    Args:
        cfg: Config of a run, with ``tta_pipeline``, which takes the place of the test data set's
            pipeline, and ``tta_model``, the config of the wrapping model. It is not changed.

    Raises:
        KeyError: One of the two, or the test data set, is absent.
    """
    for key, what in (
        ("tta_pipeline", "the pipeline that makes the augmented copies"),
        ("tta_model", "the model that merges their predictions"),
        ("test_dataloader", "what to test on"),
    ):
        if cfg.get(key) is None:
            raise KeyError(f"the config should have {key!r}, {what}")
    cfg = copy.deepcopy(cfg)
    dataset = cfg["test_dataloader"]["dataset"]
    # Wrappers such as RepeatDataset hold the data set that has the pipeline.
    while "dataset" in dataset:
        dataset = dataset["dataset"]
    dataset["pipeline"] = cfg["tta_pipeline"]
    runner: Any = RUNNERS.build(cfg)
    runner.register_hook(PrepareTTAHook(tta_cfg=cfg["tta_model"]))
    return runner
