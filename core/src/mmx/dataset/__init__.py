"""Data sets, samplers, collate functions and data loaders."""

from typing import TYPE_CHECKING

from mmx._lazy import lazy_exports

if TYPE_CHECKING:
    from mmx.dataset.base_dataset import BaseDataset as BaseDataset
    from mmx.dataset.base_dataset import Compose as Compose
    from mmx.dataset.base_dataset import force_full_init as force_full_init
    from mmx.dataset.batch_sampler import AspectRatioBatchSampler as AspectRatioBatchSampler
    from mmx.dataset.batch_sampler import ClassBalancedBatchSampler as ClassBalancedBatchSampler
    from mmx.dataset.batch_sampler import MultiSourceBatchSampler as MultiSourceBatchSampler
    from mmx.dataset.dataset_wrapper import ClassBalancedDataset as ClassBalancedDataset
    from mmx.dataset.dataset_wrapper import ConcatDataset as ConcatDataset
    from mmx.dataset.dataset_wrapper import RepeatDataset as RepeatDataset
    from mmx.dataset.iteration import DataWorkerError as DataWorkerError
    from mmx.dataset.iteration import dataloader_state as dataloader_state
    from mmx.dataset.iteration import iterate_from as iterate_from
    from mmx.dataset.iteration import load_dataloader_state as load_dataloader_state
    from mmx.dataset.loader import build_dataloader as build_dataloader
    from mmx.dataset.prefetch import DevicePrefetcher as DevicePrefetcher
    from mmx.dataset.sampler import DefaultSampler as DefaultSampler
    from mmx.dataset.sampler import InfiniteSampler as InfiniteSampler
    from mmx.dataset.utils import COLLATE_FUNCTIONS as COLLATE_FUNCTIONS
    from mmx.dataset.utils import default_collate as default_collate
    from mmx.dataset.utils import pseudo_collate as pseudo_collate
    from mmx.dataset.utils import worker_init_fn as worker_init_fn
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "base_dataset": ["BaseDataset", "Compose", "force_full_init"],
            "batch_sampler": [
                "AspectRatioBatchSampler",
                "ClassBalancedBatchSampler",
                "MultiSourceBatchSampler",
            ],
            "dataset_wrapper": ["ClassBalancedDataset", "ConcatDataset", "RepeatDataset"],
            "iteration": [
                "DataWorkerError",
                "dataloader_state",
                "iterate_from",
                "load_dataloader_state",
            ],
            "loader": ["build_dataloader"],
            "prefetch": ["DevicePrefetcher"],
            "sampler": ["DefaultSampler", "InfiniteSampler"],
            "utils": ["COLLATE_FUNCTIONS", "default_collate", "pseudo_collate", "worker_init_fn"],
        },
    )
