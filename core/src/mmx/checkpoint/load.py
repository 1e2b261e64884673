"""Reading checkpoint files: by scheme, always with ``weights_only=True``."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import os
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch

from mmx.checkpoint import schemes
from mmx.checkpoint.durable import located
from mmx.checkpoint.errors import (
    CheckpointError,
    CorruptCheckpointError,
    MissingPrefixError,
    UnsafeCheckpointError,
)
from mmx.checkpoint.sharded_index import is_sharded, verify_sharded
from mmx.logging import HistoryBuffer, print_log
from mmx.utils.errors import InvalidTypeError

Logger = logging.Logger | str | None
MapLocation = str | torch.device | Callable[..., Any] | dict[str, str] | None
Loader = Callable[..., Any]
_L = TypeVar("_L", bound=Loader)


class _LegacyHistoryBuffer:
    """Stands in for the pickled smoothing buffers in checkpoints of MMEngine."""

    _log_history: Any
    _count_history: Any
    _max_length: int

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._log_history = state.get("_log_history", ())
        self._count_history = state.get("_count_history", ())
        self._max_length = int(state.get("_max_length", 1_000_000))

    def modern(self) -> HistoryBuffer:
        return HistoryBuffer(list(self._log_history), list(self._count_history), self._max_length)


class _LegacyDict(dict[str, Any]):
    """Stands in for the config dictionaries in checkpoints of MMEngine; they are data, never built."""


def _numpy_globals() -> list[Any]:
    import numpy._core.multiarray as multiarray

    allowed: list[Any] = [np.ndarray, np.dtype]
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        allowed.append((multiarray._reconstruct, f"{module}._reconstruct"))
        allowed.append((multiarray.scalar, f"{module}.scalar"))
    # A dtype unpickles through its class; only those of plain numbers, booleans and text are allowed.
    for code in "?bhilqBHILQefdgFDSU":
        allowed.append(type(np.dtype(code)))
    return allowed


def _encode(text: str, encoding: str) -> bytes:
    # NumPy pickles the bytes of a scalar as text in this encoding under protocol 2.
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding!r} is not allowed in a checkpoint")
    return text.encode("latin1")


class _LegacyOneCycle:
    """Stands in for the scheduler whose curve, a function of its own, MMEngine pickles by name."""


def _method_name(owner: Any, name: str) -> str:
    """Stand in for ``getattr``, through which MMEngine's objects pickle their own methods."""
    if owner is not _LegacyHistoryBuffer and owner is not _LegacyOneCycle:
        raise pickle.UnpicklingError(
            "GLOBAL builtins.getattr is allowed on smoothing buffers and schedulers only"
        )
    return name


# Fixed. Each entry either builds plain data or is one of our stand-ins, so that none can run code
# that a file brings along.
_ALLOWED: list[Any] = [
    *_numpy_globals(),
    (_encode, "_codecs.encode"),
    (_method_name, "builtins.getattr"),
    (_method_name, "__builtin__.getattr"),
    (_LegacyHistoryBuffer, "mmengine.logging.history_buffer.HistoryBuffer"),
    (_LegacyOneCycle, "mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler"),
    (_LegacyDict, "mmengine.config.config.ConfigDict"),
    (_LegacyDict, "mmcv.utils.config.ConfigDict"),
    (_LegacyDict, "addict.addict.Dict"),
]


def _modernise(value: Any) -> Any:
    """Replace stand-ins of old classes in ``value``; containers without any are kept as they are."""
    if isinstance(value, _LegacyHistoryBuffer):
        return value.modern()
    if isinstance(value, _LegacyDict):
        return {k: _modernise(v) for k, v in value.items()}
    if isinstance(value, dict):
        for key, item in value.items():
            changed = _modernise(item)
            if changed is not item:
                value[key] = changed
        return value
    if isinstance(value, list):
        for index, item in enumerate(value):
            changed = _modernise(item)
            if changed is not item:
                value[index] = changed
        return value
    if type(value) is tuple:
        changed_items = tuple(_modernise(item) for item in value)
        same = all(a is b for a, b in zip(changed_items, value, strict=True))
        return value if same else changed_items
    return value


@contextlib.contextmanager
def _explained(filename: str) -> Iterator[None]:
    """Turn what ``torch.load`` raises into an error that says what to do about the file."""
    try:
        yield
    except (FileNotFoundError, PermissionError):
        raise
    except pickle.UnpicklingError as error:
        found = re.search(r"(?:GLOBAL|global|class|function) ['`]?([\w.]+)", str(error))
        name = found[1] if found else ""
        what = (
            f"asks for the Python object {name!r}"
            if name
            else "holds more than tensors and plain data"
        )
        raise UnsafeCheckpointError(
            f"{filename} {what}, so that loading it could run code, and it was not loaded. "
            "If you trust where it comes from, load it once where it was written and save its "
            "'state_dict' alone.",
            filename=filename,
            global_name=name,
        ) from error
    except (
        RuntimeError,
        EOFError,
        OSError,
        zipfile.BadZipFile,
        KeyError,
        ValueError,
        AttributeError,
    ) as error:
        if isinstance(error, CheckpointError):
            raise
        if "map_location" in str(error) or "CUDA" in str(error):
            raise  # a device that is absent here says nothing about the file
        raise CorruptCheckpointError(
            f"{filename} is not a readable checkpoint; it may be truncated or damaged ({error}).",
            filename=filename,
        ) from error


def torch_load(
    file: Any, map_location: MapLocation = None, *, mmap: bool = False, name: str = ""
) -> Any:
    """Load a file by ``torch.load`` with ``weights_only=True`` and the fixed allow-list.

    Args:
        file: Path or binary file object.
        map_location: As for ``torch.load``.
        mmap: Map the file into memory instead of reading it; needs a path.
        name: What errors call the file, where it is not a path.

    Raises:
        UnsafeCheckpointError: The file holds other objects than tensors and plain data.
        CorruptCheckpointError: The file is truncated or damaged.
    """
    label = name or str(file)
    with _explained(label), torch.serialization.safe_globals(_ALLOWED):
        return _modernise(
            torch.load(file, map_location=map_location, weights_only=True, mmap=mmap or None)
        )


def verify_checkpoint(filename: str | os.PathLike[str]) -> None:
    """Check every checksum in a local checkpoint file, reading it once and loading nothing.

    Raises:
        FileNotFoundError: There is no such file.
        CorruptCheckpointError: The file is truncated, or the CRC-32 of one of its records is wrong.
    """
    path = located(filename)
    if path.endswith(".safetensors"):
        _read_safetensors(path, None)  # its header states the exact size of the data
        return
    if is_sharded(path):
        verify_sharded(path)
        return
    if os.path.isdir(path):
        raise CheckpointError(f"{path} is a directory, not a checkpoint file", filename=path)
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
            names = archive.namelist()
    except FileNotFoundError:
        raise
    except (
        zipfile.BadZipFile,
        EOFError,
        OSError,
        NotImplementedError,
        UnicodeDecodeError,
        OverflowError,
    ) as error:
        if not isinstance(error, OSError) and _is_legacy_format(path):
            torch_load(
                path, "cpu"
            )  # the format of torch < 1.6 has no checksums: reading is the check
            return
        raise CorruptCheckpointError(f"{path} is damaged: {error}", filename=path) from error
    if bad is not None:
        raise CorruptCheckpointError(
            f"{path} is damaged: wrong checksum of its record {bad!r}", filename=path
        )
    if not any(n.endswith("/data.pkl") for n in names):
        raise CorruptCheckpointError(
            f"{path} is damaged: it has no 'data.pkl' record", filename=path
        )


def _is_legacy_format(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"\x80\x02"  # the opcode that starts a pickle of protocol 2


def _read_safetensors(path: str, map_location: MapLocation) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    device = str(map_location) if isinstance(map_location, (str, torch.device)) else "cpu"
    try:
        with safe_open(path, framework="pt", device=device) as file:
            meta = dict(file.metadata() or {})
            state = OrderedDict((key, file.get_tensor(key)) for key in file.keys())  # noqa: SIM118  # not a mapping
    except SafetensorError as error:
        raise CorruptCheckpointError(
            f"{path} is not a readable safetensors file: {error}", filename=path
        ) from error
    return {"meta": meta, "state_dict": state}


class CheckpointLoader:
    """Loads checkpoints by the scheme of their address.

    ``''`` (a local path), ``http(s)://``, ``torchvision://``, ``modelzoo://``, ``s3://``,
    ``petrel://`` and whatever :func:`mmx.fileio.get` reads are known; others are added by
    :meth:`register_scheme`.
    """

    _schemes: dict[str, Loader] = {}

    @classmethod
    def _register_scheme(
        cls, prefixes: str | Iterable[str], loader: Loader, force: bool = False
    ) -> None:
        if isinstance(prefixes, str):
            prefixes = [prefixes]
        elif not isinstance(prefixes, (list, tuple)):
            raise InvalidTypeError(
                f"prefixes must be a str, list or tuple, got {type(prefixes).__name__}"
            )
        for prefix in prefixes:
            if prefix in cls._schemes and not force:
                raise KeyError(
                    f"{prefix!r} is already registered as a loader backend; add force=True to override it"
                )
            cls._schemes[prefix] = loader
        # The longest prefix wins; '' matches everything and comes last.
        cls._schemes = dict(sorted(cls._schemes.items(), key=lambda item: item[0], reverse=True))

    @classmethod
    def register_scheme(
        cls, prefixes: str | Iterable[str], loader: Loader | None = None, force: bool = False
    ) -> Callable[[_L], _L]:
        """Register a loader for addresses with one of the prefixes; usable as a decorator.

        Args:
            prefixes: Prefix or prefixes, as regular expressions matched at the start of the address.
            loader: Called with ``(filename, map_location)``. None returns a decorator.
            force: Replace a loader that is registered for the same prefix.

        Raises:
            KeyError: A prefix is taken and ``force`` is false.
        """
        if loader is not None:
            cls._register_scheme(prefixes, loader, force=force)

        def decorate(function: _L) -> _L:
            cls._register_scheme(prefixes, function, force=force)
            return function

        return decorate

    @classmethod
    def _get_checkpoint_loader(cls, path: str) -> Loader:
        for prefix, place in schemes.announced().items():
            if prefix not in cls._schemes:
                cls._register_scheme(prefix, schemes.imported_on_use(place))
        for prefix, loader in cls._schemes.items():
            if re.match(prefix, path) is not None:
                return loader
        raise CheckpointError(f"no loader knows the address {path!r}", filename=path)

    @classmethod
    def load_checkpoint(
        cls,
        filename: str | os.PathLike[str],
        map_location: MapLocation = None,
        logger: Logger = "current",
        verify: bool = False,
    ) -> Any:
        """Load a checkpoint through the loader of its scheme.

        Args:
            filename: Path, URL or address.
            map_location: As for ``torch.load``.
            logger: For a message of where it comes from.
            verify: Read all of it first and check each checksum that it has. Without it the tensors
                are mapped from a local file and not read yet; all else is checked, sizes included.
                Loaders of other schemes get it if they take an argument ``verify``.

        Returns:
            What the file holds: usually a dict with ``state_dict`` and ``meta``, or a bare state dict.
        """
        name = os.fspath(filename)
        loader = cls._get_checkpoint_loader(name)
        kind = loader.__name__.removeprefix("load_from_")
        print_log(f"Loads checkpoint by {kind} backend from path: {name}", logger=logger)
        if verify and _takes_verify(loader):
            return loader(name, map_location, verify=True)
        return loader(name, map_location)


def _takes_verify(loader: Loader) -> bool:
    try:
        return "verify" in inspect.signature(loader).parameters
    except (TypeError, ValueError):  # not written in Python
        return False


@CheckpointLoader.register_scheme(prefixes="")
def load_from_local(filename: str, map_location: MapLocation = None, verify: bool = False) -> Any:
    """Load a local file (``~`` is expanded), memory-mapped where its format allows it.

    The folder of a sharded checkpoint is put together to whole tensors.

    Args:
        filename: The file or folder.
        map_location: As for ``torch.load``.
        verify: Check the tensors' data as well; see :meth:`CheckpointLoader.load_checkpoint`.

    Raises:
        FileNotFoundError: There is no such file.
        CorruptCheckpointError: It is damaged; the text names a whole one beside it.
    """
    path = located(os.path.expanduser(filename))
    if "://" in path:
        return load_from_backend(path, map_location, verify)
    if is_sharded(path):
        from mmx.checkpoint.sharded import read_sharded

        return read_sharded(path, map_location, verify=verify)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{filename} can not be found.")
    from mmx.checkpoint.verification import naming_whole_sibling

    with naming_whole_sibling(path):
        return _load_file(path, map_location, verify)


def _load_file(path: str, map_location: MapLocation, verify: bool) -> Any:
    from mmx.checkpoint.verification import check_file

    if path.endswith(".safetensors"):
        return _read_safetensors(path, map_location)
    is_archive = zipfile.is_zipfile(path)
    if is_archive:
        check_file(path, verify)
    return torch_load(path, map_location, mmap=is_archive and os.name != "nt")


def load_from_backend(filename: str, map_location: MapLocation = None, verify: bool = False) -> Any:
    """Load through the file back end of the address (``s3://``, ``gs://``, ``memory://``, …)."""
    from mmx.fileio import get

    file = io.BytesIO(get(filename))
    if verify:
        from mmx.checkpoint.verification import check_bytes

        check_bytes(file, filename)
    return torch_load(file, map_location, name=filename)


@CheckpointLoader.register_scheme(prefixes=[r"(\S+\:)?s3://", r"(\S+\:)?petrel://"])
def load_from_ceph(
    filename: str, map_location: MapLocation = None, backend: str = "petrel", verify: bool = False
) -> Any:
    """Load from object storage; ``petrel://`` addresses are mapped to ``s3://`` by the back end."""
    return load_from_backend(filename, map_location, verify)


@CheckpointLoader.register_scheme(prefixes=("http://", "https://"))
def load_from_http(
    filename: str,
    map_location: MapLocation = None,
    model_dir: str | None = None,
    progress: bool = False,
    verify: bool = False,
) -> Any:
    """Download a file once into the cache directory of ``torch.hub`` and load it.

    A name that ends in ``-<hash>.pth`` (8 or more hex digits, the beginning of its SHA-256) is
    checked, also when the file is there already. Of several ranks of a machine one downloads.

    Args:
        filename: The address.
        map_location: As for ``torch.load``.
        model_dir: The directory to keep it in; None is ``checkpoints`` in that of ``torch.hub``.
        progress: Show a bar.
        verify: Check the tensors' data as well; see :meth:`CheckpointLoader.load_checkpoint`.

    Raises:
        DownloadError: It could not be downloaded; nothing is left behind.
        WrongHashError: It is not the file that its name states; nothing is left behind.
        CorruptCheckpointError: It is damaged, and its name states no hash.
    """
    from mmx.checkpoint.download import download

    directory = model_dir or os.path.join(torch.hub.get_dir(), "checkpoints")
    target = download(filename, os.path.expanduser(directory), progress)
    try:
        return _load_file(target, map_location, verify)
    except CorruptCheckpointError as error:
        raise CorruptCheckpointError(
            f"{str(error).rstrip('.')}. It is the copy of {filename} that was downloaded first; "
            "remove it to have it downloaded anew.",
            filename=target,
        ) from error


@CheckpointLoader.register_scheme(prefixes=("modelzoo://", "torchvision://"))
def load_from_torchvision(filename: str, map_location: MapLocation = None) -> Any:
    """Load the weights of a torchvision model by its name.

    ``torchvision://resnet50`` stands for its first weights, ``torchvision://resnet50.imagenet1k_v2``
    for others; ``.default`` are those that torchvision recommends. ``modelzoo://`` is the old name
    of the scheme.

    Raises:
        ImportError: torchvision is not installed.
        KeyError: torchvision has no such model, or no such weights of it.
    """
    try:
        from torchvision.models import get_model_weights, list_models
    except ImportError as error:
        raise ImportError(
            f"{filename} needs torchvision: pip install torchvision, in the version made for your torch"
        ) from error
    scheme, _, address = filename.partition("://")
    if scheme == "modelzoo":
        print_log(
            f"modelzoo:// is an old name; write torchvision://{address} instead",
            logger="current",
            level=logging.WARNING,
        )
    name, _, variant = address.partition(".")
    if name not in list_models():
        raise KeyError(
            f"torchvision has no model {name!r}; it has {', '.join(list_models()[:8])}, …"
        )
    # MMEngine writes variants in small letters, torchvision in capitals.
    members = {key.lower(): value for key, value in get_model_weights(name).__members__.items()}
    chosen = members.get(variant.lower()) if variant else next(iter(members.values()))
    if chosen is None:
        raise KeyError(
            f"torchvision has no weights {variant!r} of {name}; it has {', '.join(members)}"
        )
    return load_from_http(chosen.url, map_location=map_location)


def _load_checkpoint(
    filename: str | os.PathLike[str],
    map_location: MapLocation = None,
    logger: Logger = None,
    verify: bool = False,
) -> Any:
    """Load a checkpoint from anywhere; the name that MMEngine users know."""
    return CheckpointLoader.load_checkpoint(filename, map_location, logger, verify)


def _load_checkpoint_with_prefix(
    prefix: str, filename: str | os.PathLike[str], map_location: MapLocation = None
) -> OrderedDict[str, Any]:
    """Load the part of a state dict whose keys start with ``prefix``, without it.

    Raises:
        ValueError: No key starts with the prefix.
    """
    checkpoint = _load_checkpoint(filename, map_location=map_location)
    state_dict = checkpoint.get("state_dict", checkpoint)
    if not prefix.endswith("."):
        prefix += "."
    part = OrderedDict((k[len(prefix) :], v) for k, v in state_dict.items() if k.startswith(prefix))
    if not part:
        heads = sorted({k.split(".", 1)[0] for k in state_dict})
        raise MissingPrefixError(
            f"{prefix} is not in the pretrained model {filename}: its keys start with {', '.join(heads[:10])}",
            filename=str(filename),
        )
    return part
