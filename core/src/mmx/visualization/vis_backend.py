"""Where a run's scalars, pictures and config go: local files and experiment trackers.

Each tracker's library is imported on first use. A back end writes on the main process only: that
is the visualizer's concern, not its own.
"""

from __future__ import annotations

import functools
import importlib
import json
import logging
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import IO, TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from mmx.logging import print_log
from mmx.registry import VISBACKENDS
from mmx.utils.errors import InvalidTypeError, InvalidValueError

if TYPE_CHECKING:
    from mmx.config import Config

F = TypeVar("F", bound=Callable[..., Any])
Suffixes = Sequence[str] | str
Scalar = int | float | torch.Tensor | np.ndarray[Any, Any]


class MissingExtraError(ImportError):
    """The library of a back end is not installed.

    Args:
        library: Its name.
        extra: The extra of mmx that installs it.
        user: Who needs it.
    """

    def __init__(self, library: str, extra: str, user: str) -> None:
        super().__init__(f"{user} needs {library}; install it with: pip install 'mmx[{extra}]'")
        self.library = library
        self.extra = extra


def force_init_env(old_func: F) -> F:
    """Decorate a method of a back end so that its environment is set up before the first call.

    The class has ``_init_env``; the attribute ``_env_initialized`` tells whether it has run.

    Raises:
        AttributeError: The class has no ``_init_env``.
    """

    @functools.wraps(old_func)
    def wrapper(obj: Any, *args: Any, **kwargs: Any) -> Any:
        if not hasattr(obj, "_init_env"):
            raise AttributeError(f"{type(obj)} does not have _init_env method.")
        if not getattr(obj, "_env_initialized", False):
            print_log(
                f"{type(obj).__name__} is used for the first time: `_init_env` is called",
                logger="current",
                level=logging.DEBUG,
            )
            obj._init_env()
            obj._env_initialized = True
        return old_func(obj, *args, **kwargs)

    return wrapper  # type: ignore[return-value]  # same signature


class BaseVisBackend(ABC):
    """Base of the back ends: what a :class:`~mmx.visualization.Visualizer` hands its records to.

    Args:
        save_dir: Directory of its files.
    """

    #: A resumed run goes on with the record of the run before. What it needs to find that is in
    #: ``state_dict``, so the record is opened only when the checkpoint has been read.
    resumable = False

    def __init__(self, save_dir: str) -> None:
        self._save_dir = save_dir
        self._env_initialized = False

    @property
    @abstractmethod
    def experiment(self) -> Any:
        """The object of the back end's library, for calls that this interface does not have."""

    @abstractmethod
    def _init_env(self) -> Any:
        """Set up what the back end needs."""

    def add_config(self, config: Config, **kwargs: Any) -> None:  # noqa: B027 optional
        """Record the config."""

    def add_graph(self, model: torch.nn.Module, data_batch: Sequence[Any], **kwargs: Any) -> None:  # noqa: B027 optional
        """Record the model's graph."""

    def add_image(  # noqa: B027 optional
        self, name: str, image: np.ndarray[Any, Any], step: int = 0, **kwargs: Any
    ) -> None:
        """Record an image: ``(H, W, 3)``, uint8, RGB."""

    def add_scalar(self, name: str, value: Scalar, step: int = 0, **kwargs: Any) -> None:  # noqa: B027 optional
        """Record a number."""

    def add_scalars(  # noqa: B027 optional
        self,
        scalar_dict: dict[str, Any],
        step: int = 0,
        file_path: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Record several numbers; an entry ``step`` among them replaces the argument."""

    def close(self) -> None:  # noqa: B027 optional
        """Finish the record. Closing twice, or what was never opened, is fine."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to go on with this record: plain data."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 optional
        """Go on with the record that ``state`` is about; before the back end's first use."""

    def resume_at(self, step: int) -> None:  # noqa: B027 optional
        """Told on resume: what was recorded after this step will be recorded again."""

    def _items(self, scalar_dict: dict[str, Any], step: int) -> tuple[dict[str, Any], int]:
        if not isinstance(scalar_dict, Mapping):
            raise InvalidTypeError(
                f"scalar_dict should be a dict, but got {type(scalar_dict).__name__}"
            )
        items = dict(scalar_dict)
        return items, items.pop("step", step)

    def _numbers(self, items: Mapping[str, Any]) -> dict[str, int | float]:
        """Return the entries that are single numbers; others are warned about, once each."""
        numbers = {}
        for name, value in items.items():
            number = to_number(value)
            if number is None:
                warnings.warn(
                    f"{type(self).__name__} records numbers, arrays and tensors of one element, "
                    f"but {name!r} is {type(value).__name__}; skip it!",
                    stacklevel=4,
                )
            else:
                numbers[name] = number
        return numbers

    def _import(self, library: str, extra: str) -> Any:
        try:
            return importlib.import_module(library)
        except ImportError as error:
            if error.name is not None and error.name.split(".")[0] != library.split(".")[0]:
                raise
            raise MissingExtraError(library.split(".")[0], extra, type(self).__name__) from error


def to_number(value: Any) -> int | float | None:
    """Return a single number as int or float, None for anything else."""
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        size = value.numel() if isinstance(value, torch.Tensor) else value.size
        value = value.item() if size == 1 else None
    return value if isinstance(value, int | float) else None


# What JSON writes as it is; np.float64 is a float.
_JSON_TYPES = frozenset((float, int, str, bool, type(None), np.float64))


def to_plain(value: Any) -> Any:
    """Return a value as JSON can hold it: arrays and tensors become numbers and lists."""
    if type(value) in _JSON_TYPES:
        return value
    if isinstance(value, Mapping):
        return {str(k): v if type(v) in _JSON_TYPES else to_plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_plain(v) for v in value]
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return value.item() if value.dim() == 0 or value.numel() == 1 else value.tolist()
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return str(value)


def check_picture(image: Any) -> None:
    """Raise unless ``image`` is ``(H, W)`` or ``(H, W, C)``.

    Raises:
        TypeError: It is no array.
        ValueError: It has another shape.
    """
    if not isinstance(image, np.ndarray):
        raise InvalidTypeError(f"image should be a NumPy array, but got {type(image).__name__}")
    if image.ndim not in (2, 3):
        raise InvalidValueError(f"image should be (H, W) or (H, W, C), but got {image.shape}")


def check_image(image: Any) -> None:
    """Raise unless ``image`` is ``(H, W)`` or ``(H, W, C)`` in uint8.

    Raises:
        TypeError: It is no array.
        ValueError: It has another dtype or shape.
    """
    if isinstance(image, np.ndarray) and image.dtype != np.uint8:
        raise InvalidValueError(f"image should have the dtype uint8, but got {image.dtype}")
    check_picture(image)


def to_picture(image: Any) -> np.ndarray[Any, Any]:
    """Return an image as trackers take it: integers as uint8, floats as they are.

    Raises:
        TypeError: It is no array.
        ValueError: It has another shape than ``(H, W)`` or ``(H, W, C)``, or integers beyond
            0–255.
    """
    check_picture(image)
    picture: np.ndarray[Any, Any] = image
    if picture.dtype == np.bool_:
        return picture.astype(np.uint8) * 255
    if picture.dtype.kind in "iu" and picture.dtype != np.uint8:
        if picture.size and not 0 <= picture.min() <= picture.max() <= 255:
            raise InvalidValueError(
                "an image of integers should have values of 0 to 255, but got "
                f"{picture.min()} to {picture.max()}"
            )
        return picture.astype(np.uint8)
    return picture


@VISBACKENDS.register_module()
class LocalVisBackend(BaseVisBackend):
    """Writes to local files: scalars as JSON lines, images as PNG, the config as it is.

    Args:
        save_dir: Directory; made on first use.
        img_save_dir: Folder of the images in it.
        config_save_file: File of the config: ``.py``, ``.json``, ``.yaml`` or ``.yml``.
        scalar_save_file: File of the scalars: ``.json``.

    Raises:
        ValueError: A file has another ending.

    Examples:
        >>> import tempfile
        >>> from mmx.visualization import LocalVisBackend
        >>> backend = LocalVisBackend(save_dir=tempfile.mkdtemp())
        >>> backend.add_scalar('mAP', 0.6, step=1)
        >>> backend.close()
    """

    def __init__(
        self,
        save_dir: str,
        img_save_dir: str = "vis_image",
        config_save_file: str = "config.py",
        scalar_save_file: str = "scalars.json",
    ) -> None:
        if not config_save_file.endswith((".py", ".json", ".yaml", ".yml")):
            raise InvalidValueError(
                f"config_save_file should end in .py, .json, .yaml or .yml: {config_save_file!r}"
            )
        if not scalar_save_file.endswith(".json"):
            raise InvalidValueError(f"scalar_save_file should end in .json: {scalar_save_file!r}")
        super().__init__(save_dir)
        self._img_save_dir = img_save_dir
        self._config_save_file = config_save_file
        self._scalar_save_file = scalar_save_file
        # Kept open: a record each few iterations should not open and close files.
        self._files: dict[str, IO[str]] = {}
        # Paths of the second files, by the names that were asked for.
        self._second_files: dict[str, str] = {}

    def _init_env(self) -> None:
        os.makedirs(self._save_dir, exist_ok=True)
        self._img_save_dir = os.path.join(self._save_dir, self._img_save_dir)
        self._config_save_file = os.path.join(self._save_dir, self._config_save_file)
        self._scalar_save_file = os.path.join(self._save_dir, self._scalar_save_file)

    @property
    @force_init_env
    def experiment(self) -> LocalVisBackend:
        """The back end itself."""
        return self

    @force_init_env
    def add_config(self, config: Config, **kwargs: Any) -> None:
        """Write the config."""
        if not hasattr(config, "dump"):
            raise InvalidTypeError(f"config should be a Config, but got {type(config).__name__}")
        config.dump(self._config_save_file)

    @force_init_env
    def add_image(
        self, name: str, image: np.ndarray[Any, Any], step: int = 0, **kwargs: Any
    ) -> None:
        """Write an image as ``<img_save_dir>/<name>_<step>.png``.

        Args:
            name: May hold folders, ``val/confusion``.
            image: ``(H, W)`` or ``(H, W, 3)``, uint8, RGB.
            step: Part of the file's name.
        """
        check_image(image)
        path = os.path.join(self._img_save_dir, f"{name}_{step}.png")
        if not os.path.realpath(path).startswith(os.path.realpath(self._img_save_dir) + os.sep):
            raise InvalidValueError(f"the image's name {name!r} leads out of {self._img_save_dir}")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write_png(path, image)

    @force_init_env
    def add_scalar(self, name: str, value: Scalar, step: int = 0, **kwargs: Any) -> None:
        """Write a number.

        Raises:
            ValueError: ``value`` is a tensor of more than one element.
        """
        if isinstance(value, torch.Tensor) and value.numel() != 1:
            raise InvalidValueError(
                f"{name!r} should be a single number, but is a tensor of shape {tuple(value.shape)}"
            )
        self._dump({name: value, "step": step}, self._scalar_save_file)

    @force_init_env
    def add_scalars(
        self,
        scalar_dict: dict[str, Any],
        step: int = 0,
        file_path: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Write several numbers on one line.

        Args:
            scalar_dict: Name -> number, or anything that JSON can hold.
            step: Joins them, unless they have ``step``.
            file_path: A second file to write them to, in ``save_dir``, ending in ``.json``.

        Raises:
            TypeError: ``scalar_dict`` is no dict.
            ValueError: ``file_path`` has another ending, or is the scalars' file itself.
        """
        if not isinstance(scalar_dict, Mapping):
            raise InvalidTypeError(
                f"scalar_dict should be a dict, but got {type(scalar_dict).__name__}"
            )
        record = {**scalar_dict}
        record.setdefault("step", step)
        if file_path is None:
            self._dump(record, self._scalar_save_file)
            return
        second = self._second_files.get(file_path)
        if second is None:
            second = self._second_files[file_path] = self._second_file(file_path)
        self._dump(record, second, self._scalar_save_file)

    def _second_file(self, file_path: str) -> str:
        """Return the path of a file that gets scalars beside their own file."""
        if not file_path.endswith(".json"):
            raise InvalidValueError(f"file_path should end in .json: {file_path!r}")
        second = os.path.join(self._save_dir, file_path)
        if os.path.abspath(second) == os.path.abspath(self._scalar_save_file):
            raise InvalidValueError(
                "``file_path`` and ``scalar_save_file`` have the same name, please set "
                "``file_path`` to another value"
            )
        return second

    def _dump(self, record: Mapping[str, Any], *paths: str) -> None:
        line = json.dumps(to_plain(record)) + "\n"
        for path in paths:
            file = self._files.get(path)
            if file is None:
                file = self._files[path] = open(path, "a", encoding="utf-8")  # noqa: SIM115 kept
            # Whole lines only: whoever reads along never sees half a record.
            file.write(line)
            file.flush()

    def close(self) -> None:
        """Close the files; the next record opens them again."""
        while self._files:
            self._files.popitem()[1].close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}

    def __del__(self) -> None:
        # Not at interpreter exit, when what closing needs may be gone already.
        for file in getattr(self, "_files", {}).values():
            file.close()


def write_png(path: str, image: np.ndarray[Any, Any]) -> None:
    """Write an image, ``(H, W)`` or ``(H, W, C)``, uint8, RGB, with Pillow or matplotlib."""
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    try:
        from PIL import Image
    except ImportError:
        raise MissingExtraError("pillow", "plot", "writing images") from None
    Image.fromarray(np.ascontiguousarray(image)).save(path)


@VISBACKENDS.register_module()
class TensorboardVisBackend(BaseVisBackend):
    """Writes TensorBoard event files.

    A resumed run goes on in the directory of the run before, if that is still there, and
    TensorBoard drops what had been written after the checkpoint.

    Args:
        save_dir: Directory of the event files.
    """

    resumable = True

    def __init__(self, save_dir: str) -> None:
        super().__init__(save_dir)
        self._purge_step: int | None = None

    def _init_env(self) -> None:
        self._import("tensorboard", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        os.makedirs(self._save_dir, exist_ok=True)
        self._tensorboard: Any = SummaryWriter(self._save_dir, purge_step=self._purge_step)

    @property
    @force_init_env
    def experiment(self) -> Any:
        """The ``SummaryWriter``."""
        return self._tensorboard

    @force_init_env
    def add_config(self, config: Config, **kwargs: Any) -> None:
        """Record the config as text."""
        self._tensorboard.add_text("config", config.pretty_text)

    @force_init_env
    def add_graph(self, model: torch.nn.Module, data_batch: Sequence[Any], **kwargs: Any) -> None:
        """Record the model's graph, traced on a batch; without one there is nothing to trace."""
        if data_batch is not None:
            self._tensorboard.add_graph(model, data_batch, **kwargs)

    @force_init_env
    def add_image(
        self, name: str, image: np.ndarray[Any, Any], step: int = 0, **kwargs: Any
    ) -> None:
        """Record an image: ``(H, W)`` or ``(H, W, C)``, RGB; integers are 0–255."""
        image = to_picture(image)
        layout = "HW" if image.ndim == 2 else "HWC"
        self._tensorboard.add_image(name, image, step, dataformats=layout)

    @force_init_env
    def add_scalar(self, name: str, value: Scalar, step: int = 0, **kwargs: Any) -> None:
        """Record a number; anything else is skipped with a warning."""
        for key, number in self._numbers({name: value}).items():
            self._tensorboard.add_scalar(key, number, step)

    @force_init_env
    def add_scalars(
        self,
        scalar_dict: dict[str, Any],
        step: int = 0,
        file_path: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Record several numbers; what is no number is skipped with a warning."""
        items, step = self._items(scalar_dict, step)
        for name, number in self._numbers(items).items():
            self._tensorboard.add_scalar(name, number, step)

    def close(self) -> None:
        """Close the event file; the next record begins another one."""
        if hasattr(self, "_tensorboard"):
            self._tensorboard.close()

    def state_dict(self) -> dict[str, Any]:
        """Return where the event files are."""
        return {"save_dir": os.path.abspath(self._save_dir)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on in the directory of the run before."""
        if os.path.isdir(str(state.get("save_dir"))):
            self._save_dir = str(state["save_dir"])

    def resume_at(self, step: int) -> None:
        """Let TensorBoard drop what was written after ``step``."""
        self._purge_step = step + 1


@VISBACKENDS.register_module()
class WandbVisBackend(BaseVisBackend):
    """Records to Weights & Biases, also offline (``init_kwargs=dict(mode='offline')``).

    Each record carries its ``step``, and all metrics are drawn over it, so that a resumed run,
    which takes up the id of the run before, continues the curves.

    Args:
        save_dir: Directory of its local files.
        init_kwargs: Arguments of ``wandb.init``.
        define_metric_cfg: Name -> summary, or a list of arguments, for ``wandb.define_metric``.
        commit: Whether each record is sent at once.
        log_code_name: Name of the artifact that holds the code.
        watch_kwargs: Arguments of ``wandb.watch``.
    """

    resumable = True

    def __init__(
        self,
        save_dir: str,
        init_kwargs: dict[str, Any] | None = None,
        define_metric_cfg: dict[str, str] | list[dict[str, Any]] | None = None,
        commit: bool | None = True,
        log_code_name: str | None = None,
        watch_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(save_dir)
        self._init_kwargs = init_kwargs
        self._define_metric_cfg = define_metric_cfg
        self._commit = commit
        self._log_code_name = log_code_name
        self._watch_kwargs = dict(watch_kwargs or {})
        self._run_id: str | None = None

    def _init_env(self) -> None:
        wandb = self._import("wandb", "wandb")
        os.makedirs(self._save_dir, exist_ok=True)
        options = {"dir": self._save_dir, **(self._init_kwargs or {})}
        if self._run_id is not None:
            options.setdefault("id", self._run_id)
            options.setdefault("resume", "allow")
        self._run = wandb.init(**options)
        self._run_id = getattr(self._run, "id", None)
        self._wandb = wandb
        # The module's functions speak to the run that has just begun, unless it runs beside another.
        current: Any = self._run if options.get("reinit") == "create_new" else wandb
        current.define_metric("*", step_metric="step", step_sync=True)
        chosen = self._define_metric_cfg
        if isinstance(chosen, Mapping):
            for metric, summary in chosen.items():
                # What a name is given does not come from "*"; two calls are merged.
                current.define_metric(metric, step_metric="step")
                current.define_metric(metric, summary=summary)
        elif isinstance(chosen, list):
            for arguments in chosen:
                if not isinstance(arguments, Mapping):
                    raise InvalidTypeError(
                        f"define_metric_cfg should hold dicts, but got {arguments!r}"
                    )
                current.define_metric(**arguments)
        elif chosen is not None:
            raise InvalidValueError(
                f"define_metric_cfg should be dict or list, but got {type(chosen).__name__}"
            )

    @property
    @force_init_env
    def experiment(self) -> Any:
        """The module ``wandb``."""
        return self._wandb

    @force_init_env
    def add_config(self, config: Config, **kwargs: Any) -> None:
        """Record the config and the code."""
        self._run.config.update(to_plain(config.to_dict()), allow_val_change=True)
        if self._log_code_name is not None:
            self._run.log_code(name=self._log_code_name)

    @force_init_env
    def add_graph(self, model: torch.nn.Module, data_batch: Sequence[Any], **kwargs: Any) -> None:
        """Watch the model: gradients and, if asked for, parameters."""
        self._run.watch(model, **self._watch_kwargs)

    @force_init_env
    def add_image(
        self, name: str, image: np.ndarray[Any, Any], step: int = 0, **kwargs: Any
    ) -> None:
        """Record an image: ``(H, W)`` or ``(H, W, C)``, RGB; integers are 0–255."""
        image = to_picture(image)
        picture = self._wandb.Image(image)
        self._run.log({name: picture, "step": step}, commit=self._commit)

    @force_init_env
    def add_scalar(self, name: str, value: Scalar, step: int = 0, **kwargs: Any) -> None:
        """Record a number."""
        self._run.log({name: to_plain(value), "step": step}, commit=self._commit)

    @force_init_env
    def add_scalars(
        self,
        scalar_dict: dict[str, Any],
        step: int = 0,
        file_path: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Record several numbers."""
        items, step = self._items(scalar_dict, step)
        self._run.log({**to_plain(items), "step": step}, commit=self._commit)

    def close(self) -> None:
        """Finish the run."""
        if self._env_initialized:
            self._run.finish()
            self._env_initialized = False

    def state_dict(self) -> dict[str, Any]:
        """Return the run's id."""
        return {"run_id": self._run_id}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the run of the state's id."""
        self._run_id = state.get("run_id")


@VISBACKENDS.register_module()
class MLflowVisBackend(BaseVisBackend):
    """Records to MLflow.

    Args:
        save_dir: Directory of the database, unless ``tracking_uri`` is given.
        exp_name: Name of the experiment, by default ``Default``.
        run_name: Name of the run.
        tags: Tags of the run.
        params: Parameters to record besides the config.
        tracking_uri: Where MLflow keeps its records; by default ``<save_dir>/mlflow.db``
            (SQLite).
        artifact_suffix: Endings of the work directory's files that are kept as artifacts at the
            end.
        tracked_config_keys: Top-level keys of the config that are recorded; None is all.
        artifact_location: Where artifacts go; by default where MLflow decides, or
            ``<save_dir>/mlartifacts`` with the default database.
    """

    resumable = True

    # MLflow's own limits for parameters.
    _MAX_VALUE, _MAX_BATCH = 500, 100

    def __init__(
        self,
        save_dir: str,
        exp_name: str | None = None,
        run_name: str | None = None,
        tags: dict[str, Any] | None = None,
        params: dict[str, Any] | None = None,
        tracking_uri: str | None = None,
        artifact_suffix: Suffixes = (".json", ".log", ".py", "yaml"),
        tracked_config_keys: Sequence[str] | dict[str, Any] | None = None,
        artifact_location: str | None = None,
    ) -> None:
        super().__init__(save_dir)
        self._exp_name = exp_name
        self._run_name = run_name
        self._tags = tags
        self._params = params
        self._tracking_uri = tracking_uri
        self._artifact_suffix = artifact_suffix
        self._tracked_config_keys = tracked_config_keys
        self._artifact_location = artifact_location
        self._run_id: str | None = None

    def _init_env(self) -> None:
        mlflow = self._import("mlflow", "mlflow")
        os.makedirs(self._save_dir, exist_ok=True)
        folder = os.path.abspath(self._save_dir)
        if self._tracking_uri is None:
            self._tracking_uri = f"sqlite:///{os.path.join(folder, 'mlflow.db')}"
            if self._artifact_location is None:
                self._artifact_location = os.path.join(folder, "mlartifacts")
        mlflow.set_tracking_uri(self._tracking_uri)
        name = self._exp_name or "Default"
        known = mlflow.get_experiment_by_name(name)
        # The experiment "Default" exists from the start, without a place of our choice.
        experiment_id = (
            mlflow.create_experiment(name, artifact_location=self._artifact_location)
            if known is None
            else known.experiment_id
        )
        if self._run_id is not None:
            run = mlflow.start_run(run_id=self._run_id)
        else:
            run = mlflow.start_run(experiment_id=experiment_id, run_name=self._run_name)
        self._run_id = run.info.run_id
        self._mlflow = mlflow
        self._client = mlflow.MlflowClient(tracking_uri=self._tracking_uri)
        if self._tags is not None:
            mlflow.set_tags(self._tags)
        if self._params is not None:
            self._log_params(self._params)

    @property
    @force_init_env
    def experiment(self) -> Any:
        """The module ``mlflow``."""
        return self._mlflow

    @force_init_env
    def add_config(self, config: Config, **kwargs: Any) -> None:
        """Record the config: its keys as parameters, its text as an artifact."""
        self.cfg = config
        chosen = config.to_dict()
        if self._tracked_config_keys is not None:
            chosen = {key: chosen[key] for key in self._tracked_config_keys}
        self._log_params(self._flatten(chosen))
        self._mlflow.log_text(config.pretty_text, "config.py")

    def _log_params(self, params: Mapping[str, Any]) -> None:
        texts = {str(k): str(to_plain(v))[: self._MAX_VALUE] for k, v in params.items()}
        # A parameter cannot be changed: what a resumed run has already is left alone.
        known = self._mlflow.get_run(self._run_id).data.params
        items = [(k, v) for k, v in texts.items() if k not in known]
        for start in range(0, len(items), self._MAX_BATCH):
            self._mlflow.log_params(dict(items[start : start + self._MAX_BATCH]))

    def _flatten(
        self, d: MutableMapping[str, Any] | list[Any], parent_key: str = "", sep: str = "."
    ) -> dict[str, Any]:
        """Return a nested dict as ``{'model.backbone.depth': 50}``; lists count from 0."""
        items: dict[str, Any] = {}
        pairs = d.items() if isinstance(d, Mapping) else enumerate(d)
        for key, value in pairs:
            name = f"{parent_key}{sep}{key}" if parent_key else str(key)
            if isinstance(value, Mapping):
                items.update(self._flatten(value, name, sep=sep))  # type: ignore[arg-type]  # read only
            elif isinstance(value, list) and any(isinstance(v, Mapping) for v in value):
                items.update(self._flatten(value, name, sep=sep))
            else:
                items[name] = value
        return items

    @force_init_env
    def add_image(
        self, name: str, image: np.ndarray[Any, Any], step: int = 0, **kwargs: Any
    ) -> None:
        """Record an image as the artifact ``<name>_<step>.png``."""
        image = to_picture(image)
        stem, suffix = os.path.splitext(name)
        self._mlflow.log_image(image, f"{stem}_{step}{suffix or '.png'}")

    @force_init_env
    def add_scalar(self, name: str, value: Scalar, step: int = 0, **kwargs: Any) -> None:
        """Record a number; anything else is skipped with a warning."""
        for key, number in self._numbers({name: value}).items():
            self._mlflow.log_metric(key, number, step)

    @force_init_env
    def add_scalars(
        self,
        scalar_dict: dict[str, Any],
        step: int = 0,
        file_path: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Record several numbers; what is no number is skipped with a warning."""
        items, step = self._items(scalar_dict, step)
        numbers = self._numbers(items)
        if numbers:
            self._mlflow.log_metrics(numbers, step)

    def close(self) -> None:
        """Keep the work directory's text files as artifacts, and end the run."""
        if not self._env_initialized:
            return
        if hasattr(self, "cfg"):
            folder = self.cfg.get("work_dir")
            for path in _files_ending_in(folder, self._artifact_suffix):
                self._mlflow.log_artifact(path)
        self._mlflow.end_run()
        self._env_initialized = False

    def state_dict(self) -> dict[str, Any]:
        """Return the run's id and where it is kept."""
        return {"run_id": self._run_id, "tracking_uri": self._tracking_uri}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the run of the state's id."""
        self._run_id = state.get("run_id")
        self._tracking_uri = state.get("tracking_uri", self._tracking_uri)


def _files_ending_in(folder: str | None, suffixes: Suffixes) -> Iterator[str]:
    endings = suffixes if isinstance(suffixes, str) else tuple(suffixes)
    for directory, _, names in os.walk(folder or os.devnull):
        for name in sorted(names):
            if name.endswith(endings):
                yield os.path.join(directory, name)


@VISBACKENDS.register_module()
class ClearMLVisBackend(BaseVisBackend):
    """Records to ClearML.

    Args:
        save_dir: Unused.
        init_kwargs: Arguments of ``clearml.Task.init``.
        artifact_suffix: Endings of the work directory's files that are uploaded at the end.
    """

    resumable = True

    def __init__(
        self,
        save_dir: str | None = None,
        init_kwargs: dict[str, Any] | None = None,
        artifact_suffix: Suffixes = (".py", ".pth"),
    ) -> None:
        super().__init__(save_dir)  # type: ignore[arg-type]  # it has no files
        self._init_kwargs = init_kwargs
        self._artifact_suffix = artifact_suffix
        self._task_id: str | None = None

    def _init_env(self) -> None:
        clearml = self._import("clearml", "clearml")
        options = dict(self._init_kwargs or {})
        if self._task_id is not None:
            options.setdefault("continue_last_task", self._task_id)
            # Steps are given explicitly; ClearML must not shift them.
            options.setdefault("reuse_last_task_id", self._task_id)
        self._clearml = clearml
        self._task = clearml.Task.init(**options)
        if self._task_id is not None:
            self._task.set_initial_iteration(0)
        self._task_id = self._task.id
        self._logger = self._task.get_logger()

    @property
    @force_init_env
    def experiment(self) -> Any:
        """The module ``clearml``."""
        return self._clearml

    @force_init_env
    def add_config(self, config: Config, **kwargs: Any) -> None:
        """Record the config."""
        self.cfg = config
        self._task.connect_configuration(to_plain(config.to_dict()))

    @force_init_env
    def add_image(
        self, name: str, image: np.ndarray[Any, Any], step: int = 0, **kwargs: Any
    ) -> None:
        """Record an image: ``(H, W)`` or ``(H, W, C)``, RGB; integers are 0–255."""
        image = to_picture(image)
        self._logger.report_image(name, name, iteration=step, image=image)

    @force_init_env
    def add_scalar(self, name: str, value: Scalar, step: int = 0, **kwargs: Any) -> None:
        """Record a number; anything else is skipped with a warning."""
        self.add_scalars({name: value}, step)

    @force_init_env
    def add_scalars(
        self,
        scalar_dict: dict[str, Any],
        step: int = 0,
        file_path: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Record several numbers; what is no number is skipped with a warning."""
        items, step = self._items(scalar_dict, step)
        for name, number in self._numbers(items).items():
            self._logger.report_scalar(title=name, series=name, value=number, iteration=step)

    def close(self) -> None:
        """Upload the artifacts and close the task."""
        if not self._env_initialized:
            return
        if hasattr(self, "cfg"):
            for path in _files_ending_in(self.cfg.get("work_dir"), self._artifact_suffix):
                self._task.upload_artifact(os.path.basename(path), path)
        self._task.close()
        self._env_initialized = False

    def state_dict(self) -> dict[str, Any]:
        """Return the task's id."""
        return {"task_id": self._task_id}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the task of the state's id."""
        self._task_id = state.get("task_id")


@VISBACKENDS.register_module()
class NeptuneVisBackend(BaseVisBackend):
    """Records to Neptune.

    Args:
        save_dir: Unused.
        init_kwargs: Arguments of ``neptune.init_run``. Without ``project`` and ``api_token``,
            there or in the environment, the run is kept offline.
    """

    resumable = True

    def __init__(
        self, save_dir: str | None = None, init_kwargs: dict[str, Any] | None = None
    ) -> None:
        super().__init__(save_dir)  # type: ignore[arg-type]  # it has no files
        self._init_kwargs = init_kwargs
        self._run_id: str | None = None

    def _init_env(self) -> None:
        neptune = self._import("neptune", "neptune")
        options = dict(self._init_kwargs or {})
        project = options.get("project", os.getenv("NEPTUNE_PROJECT"))
        token = options.get("api_token", os.getenv("NEPTUNE_API_TOKEN"))
        if project is None or token is None:
            options.setdefault("mode", "offline")
        is_offline = options.get("mode") == "offline"
        if self._run_id is not None and not is_offline:
            options.setdefault("with_id", self._run_id)
        self._neptune = neptune.init_run(**options)
        if not is_offline:
            self._run_id = str(self._neptune["sys/id"].fetch())

    @property
    @force_init_env
    def experiment(self) -> Any:
        """The run."""
        return self._neptune

    @force_init_env
    def add_config(self, config: Config, **kwargs: Any) -> None:
        """Record the config's text."""
        types = self._import("neptune.types", "neptune")
        self._neptune["config"].upload(types.File.from_content(config.pretty_text))

    @force_init_env
    def add_image(
        self, name: str, image: np.ndarray[Any, Any], step: int = 0, **kwargs: Any
    ) -> None:
        """Record an image: ``(H, W)`` or ``(H, W, C)``, RGB; integers are 0–255."""
        image = to_picture(image)
        types = self._import("neptune.types", "neptune")
        # Neptune takes floats from 0 to 1.
        picture = types.File.as_image(image.astype(np.float32) / 255)
        self._neptune[name].append(picture, step=step)

    @force_init_env
    def add_scalar(self, name: str, value: Scalar, step: int = 0, **kwargs: Any) -> None:
        """Record a number; anything else is skipped with a warning."""
        for key, number in self._numbers({name: value}).items():
            self._neptune[key].append(number, step=step)

    @force_init_env
    def add_scalars(
        self,
        scalar_dict: dict[str, Any],
        step: int = 0,
        file_path: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Record several numbers; what is no number is skipped with a warning."""
        items, step = self._items(scalar_dict, step)
        for name, number in self._numbers(items).items():
            self._neptune[name].append(number, step=step)

    def close(self) -> None:
        """Stop the run."""
        if self._env_initialized:
            self._neptune.stop()
            self._env_initialized = False

    def state_dict(self) -> dict[str, Any]:
        """Return the run's id; an offline run has none."""
        return {"run_id": self._run_id}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the run of the state's id."""
        self._run_id = state.get("run_id")


@VISBACKENDS.register_module()
class DVCLiveVisBackend(BaseVisBackend):
    """Records with DVCLive.

    Args:
        save_dir: Directory of its files.
        artifact_suffix: Endings of the work directory's files that are kept at the end.
        init_kwargs: Arguments of ``dvclive.Live``.
    """

    resumable = True

    def __init__(
        self,
        save_dir: str,
        artifact_suffix: Suffixes = (".json", ".py", "yaml"),
        init_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(save_dir)
        self._artifact_suffix = artifact_suffix
        self._init_kwargs = init_kwargs
        self._resumes = False

    def _init_env(self) -> None:
        dvclive = self._import("dvclive", "dvclive")
        os.makedirs(self._save_dir, exist_ok=True)
        options = {"dir": self._save_dir, "save_dvc_exp": True, **(self._init_kwargs or {})}
        if self._resumes:
            options.setdefault("resume", True)
        self._dvclive = dvclive.Live(**options)

    @property
    @force_init_env
    def experiment(self) -> Any:
        """The ``dvclive.Live``."""
        return self._dvclive

    @force_init_env
    def add_config(self, config: Config, **kwargs: Any) -> None:
        """Record the config as parameters."""
        self.cfg = config
        self._dvclive.log_params(self._to_dvc_paramlike(config.to_dict()))

    def _to_dvc_paramlike(self, value: Any) -> Any:
        """Return a value as DVC's parameters can be: dicts, lists, text, numbers."""
        return to_plain(value)

    @force_init_env
    def add_image(
        self, name: str, image: np.ndarray[Any, Any], step: int = 0, **kwargs: Any
    ) -> None:
        """Record an image: ``(H, W)`` or ``(H, W, C)``, RGB; integers are 0–255."""
        image = to_picture(image)
        if not os.path.splitext(name)[1]:
            name = f"{name}.png"
        self._dvclive.step = step
        self._dvclive.log_image(name, image)

    @force_init_env
    def add_scalar(self, name: str, value: Scalar, step: int = 0, **kwargs: Any) -> None:
        """Record a number; anything else is skipped with a warning."""
        self.add_scalars({name: value}, step)

    @force_init_env
    def add_scalars(
        self,
        scalar_dict: dict[str, Any],
        step: int = 0,
        file_path: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Record several numbers; what is no number is skipped with a warning."""
        items, step = self._items(scalar_dict, step)
        self._dvclive.step = step
        for name, number in self._numbers(items).items():
            self._dvclive.log_metric(name, number)

    def close(self) -> None:
        """Keep the artifacts and end the record."""
        if not self._env_initialized:
            return
        if hasattr(self, "cfg"):
            for path in _files_ending_in(self.cfg.get("work_dir"), self._artifact_suffix):
                self._dvclive.log_artifact(path)
        self._dvclive.end()
        self._env_initialized = False

    def state_dict(self) -> dict[str, Any]:
        """Return where the record is."""
        return {"save_dir": os.path.abspath(self._save_dir)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the record of the run before, if it is still there."""
        if os.path.isdir(str(state.get("save_dir"))):
            self._save_dir, self._resumes = str(state["save_dir"]), True


@VISBACKENDS.register_module()
class AimVisBackend(BaseVisBackend):
    """Records to Aim.

    Args:
        save_dir: Directory of the repository, unless ``init_kwargs`` has ``repo``.
        init_kwargs: Arguments of ``aim.Run``.
    """

    resumable = True

    def __init__(
        self, save_dir: str | None = None, init_kwargs: dict[str, Any] | None = None
    ) -> None:
        super().__init__(save_dir)  # type: ignore[arg-type]  # Aim then takes its own
        self._init_kwargs = init_kwargs
        self._repo: str | None = None
        self._run_hash: str | None = None

    def _init_env(self) -> None:
        aim = self._import("aim", "aim")
        options = dict(self._init_kwargs or {})
        repo = self._repo or self._save_dir
        if repo is not None and "repo" not in options:
            os.makedirs(repo, exist_ok=True)
            options["repo"] = self._repo = os.path.abspath(repo)
        if self._run_hash is not None:
            options.setdefault("run_hash", self._run_hash)
        self._aim = aim
        self._aim_run = aim.Run(**options)
        self._run_hash = getattr(self._aim_run, "hash", None)

    @property
    @force_init_env
    def experiment(self) -> Any:
        """The ``aim.Run``."""
        return self._aim_run

    @force_init_env
    def add_config(self, config: Config, **kwargs: Any) -> None:
        """Record the config."""
        self._aim_run["hparams"] = to_plain(config.to_dict())

    @force_init_env
    def add_image(
        self, name: str, image: np.ndarray[Any, Any], step: int = 0, **kwargs: Any
    ) -> None:
        """Record an image: ``(H, W)`` or ``(H, W, C)``, RGB; integers are 0–255."""
        image = to_picture(image)
        self._aim_run.track(name=name, value=self._aim.Image(image), step=step)

    @force_init_env
    def add_scalar(self, name: str, value: Scalar, step: int = 0, **kwargs: Any) -> None:
        """Record a number; anything else is skipped with a warning."""
        for key, number in self._numbers({name: value}).items():
            self._aim_run.track(name=key, value=number, step=step)

    @force_init_env
    def add_scalars(
        self,
        scalar_dict: dict[str, Any],
        step: int = 0,
        file_path: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Record several numbers; what is no number is skipped with a warning."""
        items, step = self._items(scalar_dict, step)
        for name, number in self._numbers(items).items():
            self._aim_run.track(name=name, value=number, step=step)

    def close(self) -> None:
        """Close the run."""
        if self._env_initialized:
            self._aim_run.close()
            self._env_initialized = False

    def state_dict(self) -> dict[str, Any]:
        """Return the run's hash and its repository."""
        return {"run_hash": self._run_hash, "repo": self._repo}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the run of the state's hash."""
        self._run_hash, self._repo = state.get("run_hash"), state.get("repo")
