"""The base class of inferencers."""

from __future__ import annotations

import copy
import os
import re
import warnings
from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from mmx.checkpoint import CheckpointLoader
from mmx.checkpoint.state_dict import _load_checkpoint_to_model
from mmx.config import Config, ConfigDict, resolve_config_path
from mmx.config.model_index import find_model, indexed_models, package_of_scope
from mmx.dataset import pseudo_collate
from mmx.device import get_device
from mmx.fileio import get_file_backend, join_path, list_dir_or_file
from mmx.infer.config_text import parse_config_text
from mmx.registry import FUNCTIONS, MODELS, VISUALIZERS, DefaultScope
from mmx.structures import InstanceData
from mmx.utils.errors import InvalidTypeError, InvalidValueError
from mmx.visualization import Visualizer

InstanceList = list[InstanceData]
InputType = str | np.ndarray | torch.Tensor
InputsType = InputType | Sequence[InputType]
ImgType = np.ndarray | Sequence[np.ndarray]
ResType = dict[str, Any] | list[dict[str, Any]]
ConfigType = Config | ConfigDict
ModelType = dict[str, Any] | Config | ConfigDict | str

_STAGES = ("preprocess", "forward", "visualize", "postprocess")


class InferencerMeta(ABCMeta):
    """Check, when a class is defined, that each argument belongs to one stage."""

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> None:
        super().__init__(name, bases, namespace)
        owners: dict[str, str] = {}
        for stage in _STAGES:
            keys = getattr(cls, f"{stage}_kwargs")
            if not isinstance(keys, (set, frozenset)):
                raise InvalidTypeError(
                    f"{name}.{stage}_kwargs must be a set of names, got {type(keys)}"
                )
            for key in sorted(keys):
                if key in owners:
                    raise InvalidValueError(
                        f"Class define error! {name} should not define duplicated keys for "
                        "`preprocess_kwargs`, `forward_kwargs`, `visualize_kwargs` and "
                        f"`postprocess_kwargs`: {key!r} is in {owners[key]}_kwargs and {stage}_kwargs"
                    )
                owners[key] = stage


class BaseInferencer(metaclass=InferencerMeta):
    """Base class of inferencers: preprocess, forward, visualize, postprocess.

    A subclass defines :meth:`_init_pipeline`, :meth:`visualize` and :meth:`postprocess`, and lists the
    keyword arguments of each stage in ``preprocess_kwargs``, ``forward_kwargs``, ``visualize_kwargs`` and
    ``postprocess_kwargs``, so that a call can hand each to the stage that takes it.

    Args:
        model: Path of a config, ``package::path``, a config, or the name of a model in the index of the
            scope's package. None: the config that the weights were saved with; it is read as data, and
            no code in it runs.
        weights: Path or address of a checkpoint. None: that of the model index, if the model is found
            there by name.
        device: Device to run on. None: the accelerator, if there is one.
        scope: Scope in which the model is built and its name looked up. None: the current default scope.
        show_progress: Show a progress bar.

    Raises:
        TypeError: ``model`` is of another type.
        ValueError: Neither ``model`` nor ``weights`` is given, or no model has the name.
    """

    preprocess_kwargs: ClassVar[set[str]] = set()
    forward_kwargs: ClassVar[set[str]] = set()
    visualize_kwargs: ClassVar[set[str]] = set()
    postprocess_kwargs: ClassVar[set[str]] = set()

    def __init__(
        self,
        model: ModelType | None = None,
        weights: str | None = None,
        device: str | None = None,
        scope: str | None = None,
        show_progress: bool = True,
    ) -> None:
        if scope is None:
            current = DefaultScope.get_current_instance()
            scope = current.scope_name if current is not None else None
        self.scope = scope
        cfg, indexed_weights = self._load_config(model, weights)
        self.cfg = cfg
        if weights is None:
            weights = indexed_weights
        self.model = self._init_model(cfg, weights, device or get_device())
        with self._in_scope():
            self.pipeline = self._init_pipeline(cfg)
            self.collate_fn = self._init_collate(cfg)
            self.visualizer = self._init_visualizer(cfg)
        self.show_progress = show_progress

    def _load_config(
        self, model: ModelType | None, weights: str | None
    ) -> tuple[ConfigType, str | None]:
        """Return the config, and the weights that a model index gives for it."""
        if isinstance(model, str):
            if os.path.isfile(model):
                return Config.fromfile(model), None
            if "::" in model:
                return Config.fromfile(resolve_config_path(model)), None
            return self._load_model_from_metafile(model)
        if isinstance(model, (Config, ConfigDict)):
            return copy.deepcopy(model), None
        if isinstance(model, Mapping):
            return copy.deepcopy(ConfigDict(model)), None
        if model is not None:
            raise InvalidTypeError(
                f"model must be a filepath or any ConfigType object, but got {type(model)}"
            )
        if weights is None:
            raise InvalidValueError(
                "If model is None, the weights must be specified since the config needs to be loaded "
                "from the weights"
            )
        return ConfigDict(), None

    def _in_scope(self) -> Any:
        """Return a context in which names are looked up in this inferencer's scope."""
        return MODELS.switch_scope_and_registry(self._scope_for(self.cfg))

    def _scope_for(self, cfg: ConfigType) -> str | None:
        return self.scope or cfg.get("default_scope")

    # -- the workflow -------------------------------------------------------------------------

    def __call__(
        self,
        inputs: InputsType,
        return_datasamples: bool = False,
        batch_size: int = 1,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return predictions and visualisations of the inputs.

        Args:
            inputs: A path, address, folder (all files in it), array or tensor, or a list of these.
            return_datasamples: Return predictions as data elements, not as plain dicts.
            batch_size: Inputs that the model gets at once.
            **kwargs: Arguments of the stages.

        Raises:
            ValueError: An argument belongs to no stage.
        """
        for_preprocess, for_forward, for_visualize, for_postprocess = self._dispatch_kwargs(
            **kwargs
        )
        with self._in_scope():
            originals = self._inputs_to_list(inputs)
            batches = self.preprocess(originals, batch_size=batch_size, **for_preprocess)
            total = -(-len(originals) // batch_size)
            preds: list[Any] = []
            for batch in self._with_progress(batches, total):
                preds.extend(self.forward(batch, **for_forward))
            visualization = self.visualize(originals, preds, **for_visualize)
            return self.postprocess(preds, visualization, return_datasamples, **for_postprocess)

    def _with_progress(self, batches: Iterable[Any], total: int) -> Iterable[Any]:
        if not self.show_progress:
            return batches
        from rich.progress import track

        return track(batches, description="Inference", total=total)

    def _inputs_to_list(self, inputs: InputsType) -> list[Any]:
        """Return the inputs as a list; a folder stands for the files in it, sorted by name."""
        if isinstance(inputs, str):
            backend = get_file_backend(inputs)
            if hasattr(backend, "isdir") and backend.isdir(inputs):
                names = list_dir_or_file(inputs, list_dir=False)
                return [join_path(inputs, name) for name in sorted(names)]
        if isinstance(inputs, (list, tuple)):
            return list(inputs)
        return [inputs]

    def preprocess(self, inputs: InputsType, batch_size: int = 1, **kwargs: Any) -> Iterator[Any]:
        """Yield batches for the model: the pipeline's results, put together by the collate function."""
        samples = map(self.pipeline, inputs)
        yield from map(self.collate_fn, self._get_chunk_data(samples, batch_size))

    @torch.no_grad()
    def forward(self, inputs: Any, **kwargs: Any) -> Any:
        """Return the model's predictions for a batch, one for each input."""
        model: Any = self.model
        return model.test_step(inputs)

    @abstractmethod
    def visualize(self, inputs: list[Any], preds: Any, show: bool = False, **kwargs: Any) -> Any:
        """Return pictures of the predictions, or None.

        Args:
            inputs: The inputs, as :meth:`_inputs_to_list` gives them.
            preds: Predictions of the model.
            show: Show the pictures in a window.
        """

    @abstractmethod
    def postprocess(
        self,
        preds: Any,
        visualization: Any,
        return_datasample: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return a dict with ``predictions`` and ``visualization``.

        Args:
            preds: Predictions of the model.
            visualization: What :meth:`visualize` returned.
            return_datasample: Leave the predictions as data elements. Otherwise they become plain data
                that JSON can hold.
        """

    # -- parts --------------------------------------------------------------------------------

    def _load_model_from_metafile(self, model: str) -> tuple[Config, str | None]:
        """Return config and weights of a model that the scope's package publishes under a name."""
        if not self.scope:
            raise InvalidValueError(
                f"{model!r} is no file, and without a scope there is no model index to look the name "
                "up in: scope should be initialized if you want to load config from metafile"
            )
        found = find_model(package_of_scope(self.scope), model)
        if found.config is None:
            raise InvalidValueError(f"{found.metafile} names no Config for {found.name}")
        return Config.fromfile(str(found.config)), found.weights

    def _init_model(self, cfg: ConfigType, weights: str | None, device: str = "cpu") -> nn.Module:
        """Build the model of a config, load its weights and put it on the device, in evaluation mode."""
        checkpoint = None
        if weights is not None:
            checkpoint = CheckpointLoader.load_checkpoint(weights, map_location="cpu")
        if not cfg:
            cfg.update(_config_of(checkpoint, weights))
        settings = copy.deepcopy(cfg["model"])
        # Weights are loaded from the checkpoint; none are fetched before.
        if settings.get("pretrained") is not None:
            del settings["pretrained"]
        with MODELS.switch_scope_and_registry(self._scope_for(cfg)) as registry:
            model: nn.Module = registry.build(settings)
        model.cfg = cfg  # type: ignore[assignment]  # as MMEngine's users expect
        self._load_weights_to_model(model, checkpoint, cfg)
        model.to(device)
        model.eval()
        return model

    def _load_weights_to_model(
        self, model: nn.Module, checkpoint: dict[str, Any] | None, cfg: ConfigType | None
    ) -> None:
        """Load the weights; a subclass may take more from checkpoint and config, classes for example."""
        if checkpoint is not None:
            _load_checkpoint_to_model(model, checkpoint)
        else:
            warnings.warn(
                "Checkpoint is not loaded, and the inference result is calculated by the randomly "
                "initialized model!",
                stacklevel=2,
            )

    @abstractmethod
    def _init_pipeline(self, cfg: ConfigType) -> Callable[..., Any]:
        """Return a callable that makes of one input what the collate function takes."""

    def _init_collate(self, cfg: ConfigType) -> Callable[..., Any]:
        """Return the test data loader's collate function; by default :func:`pseudo_collate`."""
        loader = cfg.get("test_dataloader") or {}
        collate_fn = loader.get("collate_fn") if isinstance(loader, Mapping) else None
        if collate_fn is None:
            return pseudo_collate
        if callable(collate_fn):
            return collate_fn
        if isinstance(collate_fn, str):
            collate_fn = {"type": collate_fn}
        arguments = dict(collate_fn)
        kind = arguments.pop("type")
        function: Any = FUNCTIONS.get(kind) if isinstance(kind, str) else kind
        if not callable(function):
            raise InvalidTypeError(f"test_dataloader.collate_fn.type {kind!r} is no function")
        return partial(function, **arguments) if arguments else function

    def _init_visualizer(self, cfg: ConfigType) -> Visualizer | None:
        """Return the config's visualizer, None if it has none."""
        if cfg.get("visualizer") is None:
            return None
        settings = dict(cfg["visualizer"])
        timestamp = str(datetime.timestamp(datetime.now()))
        name = settings.get("name", timestamp)
        if Visualizer.check_instance_created(name):
            name = f"{name}-{timestamp}"
        settings["name"] = name
        return VISUALIZERS.build(settings)

    def _get_chunk_data(self, inputs: Iterable[Any], chunk_size: int) -> Iterator[list[Any]]:
        """Yield the inputs in lists of ``chunk_size``; the last may be shorter."""
        if chunk_size < 1:
            raise InvalidValueError(f"batch_size must be positive, got {chunk_size}")
        chunk: list[Any] = []
        for item in inputs:
            chunk.append(item)
            if len(chunk) == chunk_size:
                yield chunk
                chunk = []
        if chunk:
            yield chunk

    def _dispatch_kwargs(self, **kwargs: Any) -> tuple[dict[str, Any], ...]:
        """Return the arguments of preprocess, forward, visualize and postprocess."""
        stages = [getattr(self, f"{stage}_kwargs") for stage in _STAGES]
        unknown = set(kwargs).difference(*stages)
        if unknown:
            known = sorted(set().union(*stages))
            raise InvalidValueError(
                f"unknown argument {sorted(unknown)} for `preprocess`, `forward`, `visualize` and "
                f"`postprocess`; known are {known}"
            )
        return tuple({k: v for k, v in kwargs.items() if k in keys} for keys in stages)

    # -- the model index ----------------------------------------------------------------------

    @staticmethod
    def list_models(scope: str | None = None, patterns: str = r".*") -> list[str]:
        """Return the names and aliases of the models that a scope's package publishes.

        Args:
            scope: The scope. None: the current default scope.
            patterns: Regular expression that a name must match from its beginning.

        Raises:
            ValueError: There is no scope.
            ModuleNotFoundError: The scope's package is not installed.
            FileNotFoundError: It publishes no models.
        """
        if scope is None:
            current = DefaultScope.get_current_instance()
            scope = current.scope_name if current is not None else None
        if not scope:
            raise InvalidValueError(
                "scope should be initialized if you want to list the models of a package"
            )
        models = indexed_models(package_of_scope(scope))
        return [name for model in models for name in model.names if re.match(patterns, name)]


def _config_of(checkpoint: Any, weights: str | None) -> dict[str, Any]:
    """Return the config that a checkpoint was saved with, as data."""
    holder = checkpoint if isinstance(checkpoint, Mapping) else {}
    text = (holder.get("meta") or {}).get("cfg")
    if not text:
        hub = holder.get("message_hub") or {}
        text = (hub.get("runtime_info") or {}).get("cfg")
    if not isinstance(text, str) or not text:
        raise InvalidValueError(
            f"Cannot find the config in the checkpoint {weights}: it was not saved by a runner with a "
            "config; pass model=..."
        )
    return parse_config_text(text, str(weights))
