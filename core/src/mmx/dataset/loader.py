"""Data loaders built from dicts."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from mmx.dataset.utils import worker_init_fn as default_worker_init_fn
from mmx.dist import data_share, get_rank, get_world_size
from mmx.registry import DATA_SAMPLERS, DATASETS, FUNCTIONS
from mmx.utils.errors import InvalidTypeError, InvalidValueError

# Keys of ours beside the arguments of torch's DataLoader.
_OWN_KEYS = ("num_batch_per_epoch", "disable_subprocess_warning")


class _SlicedDataset:
    """The first samples of a data set; other attributes are those of the data set.

    Args:
        dataset: The data set.
        length: Number of samples.
    """

    def __init__(self, dataset: Any, length: int) -> None:
        self._dataset = dataset
        self._length = min(length, len(dataset))

    def __getattr__(self, name: str) -> Any:
        # Unpickling asks before there is a data set.
        if name == "_dataset":
            raise AttributeError(name)
        return getattr(self._dataset, name)

    def __getitem__(self, idx: int) -> Any:
        return self._dataset[idx]

    def __len__(self) -> int:
        return self._length


def build_dataloader(
    dataloader: DataLoader[Any] | Mapping[str, Any],
    seed: int | None = None,
    diff_rank_seed: bool = False,
) -> DataLoader[Any]:
    """Return a data loader built from a dict of torch's ``DataLoader`` arguments.

    Beside objects, these may be dicts: ``dataset`` (of :data:`DATASETS`), ``sampler`` and
    ``batch_sampler`` (of :data:`DATA_SAMPLERS`), ``collate_fn`` (of :data:`FUNCTIONS`, other keys are
    its arguments; by default :func:`pseudo_collate`) and ``worker_init_fn`` (likewise; by default
    :func:`worker_init_fn`, if there is a seed).
    ``num_batch_per_epoch`` cuts the data set to so many batches on all ranks together, for trials.

    Args:
        dataloader: The dict, which is not changed. A finished loader is returned as it is.
        seed: Seed of samplers and workers.
        diff_rank_seed: The random state differs between ranks, so the seed must not reach the
            sampler: it takes one that the ranks agree on.

    Raises:
        TypeError: The dict has an unknown key, or a value of a wrong type.
        KeyError: ``dataset`` or ``sampler`` is missing.
    """
    if not isinstance(dataloader, Mapping):
        return dataloader
    cfg = dict(dataloader)
    _check_keys(cfg)

    dataset = cfg.pop("dataset")
    if isinstance(dataset, Mapping):
        dataset = DATASETS.build(dataset)
    if hasattr(dataset, "full_init"):
        dataset.full_init()
    iterable = isinstance(dataset, IterableDataset)
    # Ranks that hold one copy of the model together get the same samples, changed in the same way.
    share, shares = data_share(get_rank(), get_world_size())

    num_batch_per_epoch = cfg.pop("num_batch_per_epoch", None)
    if num_batch_per_epoch is not None:
        if iterable:
            raise InvalidTypeError(
                "dataloader.num_batch_per_epoch cuts data sets with a length, but "
                f"{type(dataset).__name__} is iterable: end its iteration earlier instead"
            )
        dataset = _SlicedDataset(dataset, num_batch_per_epoch * _batch_size(cfg) * shares)

    if "sampler" not in cfg and not iterable and not _is_built(cfg.get("batch_sampler")):
        hint = "shuffle=True" if cfg.get("shuffle") else "shuffle=False"
        raise KeyError(
            "dataloader.sampler is missing: a dataloader dict names its sampler, for example "
            f"sampler=dict(type='DefaultSampler', {hint}), in place of shuffle"
        )
    sampler = cfg.pop("sampler", None)
    if isinstance(sampler, Mapping):
        sampler = DATA_SAMPLERS.build(
            sampler,
            default_args={"dataset": dataset, "seed": None if diff_rank_seed else seed},
        )
    batch_sampler = cfg.pop("batch_sampler", None)
    if isinstance(batch_sampler, Mapping):
        default_args = {"sampler": sampler}
        if "batch_size" in cfg:
            default_args["batch_size"] = cfg.pop("batch_size")
        batch_sampler = DATA_SAMPLERS.build(batch_sampler, default_args=default_args)
        # A batch sampler contains its sampler; torch takes one of them.
        sampler = None
    elif batch_sampler is not None:
        cfg.pop("batch_size", None)
        sampler = None

    disable_warning = cfg.pop("disable_subprocess_warning", False)
    if "worker_init_fn" in cfg:
        init_fn = _function(cfg.pop("worker_init_fn"), "worker_init_fn")
    elif seed is not None:
        init_fn = partial(
            default_worker_init_fn,
            num_workers=cfg.get("num_workers", 0),
            rank=share,
            seed=seed,
            disable_subprocess_warning=disable_warning,
        )
    else:
        init_fn = None
    collate_fn = _function(cfg.pop("collate_fn", {"type": "pseudo_collate"}), "collate_fn")
    try:
        return DataLoader(
            dataset=dataset,
            sampler=sampler,
            batch_sampler=batch_sampler,
            collate_fn=collate_fn,
            worker_init_fn=init_fn,
            **cfg,
        )
    except (TypeError, ValueError) as e:
        e.add_note(f"while building the data loader of {type(dataset).__name__} with {cfg}")
        raise


def _is_built(batch_sampler: Any) -> bool:
    return batch_sampler is not None and not isinstance(batch_sampler, Mapping)


def _check_keys(cfg: Mapping[str, Any]) -> None:
    if "dataset" not in cfg:
        raise KeyError(
            f"dataloader.dataset is missing: the dict has {sorted(cfg)} and needs a data set, as an "
            "object or a dict"
        )
    known = [*inspect.signature(DataLoader.__init__).parameters, *_OWN_KEYS]
    known.remove("self")
    for key in cfg:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise InvalidTypeError(
                f"dataloader.{key} is no argument of a data loader"
                + (f"; did you mean {near[0]!r}?" if near else "")
                + f" Known are {', '.join(known)}"
            )


def _batch_size(cfg: Mapping[str, Any]) -> int:
    """Return the batch size of one rank."""
    if "batch_size" in cfg:
        return int(cfg["batch_size"])
    batch_sampler = cfg.get("batch_sampler")
    if isinstance(batch_sampler, Mapping) and "batch_size" in batch_sampler:
        return int(batch_sampler["batch_size"])
    size = getattr(batch_sampler, "batch_size", None)
    if size is not None:
        return int(size)
    raise InvalidValueError(
        "dataloader.num_batch_per_epoch needs batch_size, in the loader or its batch_sampler"
    )


def _function(cfg: Any, key: str) -> Callable[..., Any] | None:
    """Return the function that a dict, a registered name, a callable or None stands for."""
    if cfg is None or callable(cfg):
        return cfg
    if isinstance(cfg, str):
        cfg = {"type": cfg}
    if not isinstance(cfg, Mapping):
        raise InvalidTypeError(
            f"{key} should be a dict or callable object, but got {cfg!r} (dataloader.{key})"
        )
    arguments = dict(cfg)
    kind = arguments.pop("type", None)
    with FUNCTIONS.switch_scope_and_registry(arguments.pop("_scope_", None)) as functions:
        function: Any = functions.get(kind) if isinstance(kind, str) else kind
    if not callable(function):
        raise InvalidTypeError(
            f"type of {key} should be string or callable object, but got {type(kind)} "
            f"({kind!r}, dataloader.{key}.type)"
        )
    return partial(function, **arguments) if arguments else function
