"""Hooks: what happens at fixed points of a run beside the computation itself."""

from typing import TYPE_CHECKING

from mmx._lazy import lazy_exports

if TYPE_CHECKING:
    from mmx.hooks.checkpoint_hook import CheckpointHook as CheckpointHook
    from mmx.hooks.early_stopping_hook import EarlyStoppingHook as EarlyStoppingHook
    from mmx.hooks.ema_hook import EMAHook as EMAHook
    from mmx.hooks.empty_cache_hook import EmptyCacheHook as EmptyCacheHook
    from mmx.hooks.hook import Hook as Hook
    from mmx.hooks.iter_timer_hook import IterTimerHook as IterTimerHook
    from mmx.hooks.logger_hook import LoggerHook as LoggerHook
    from mmx.hooks.lr_finder_hook import LRFinderHook as LRFinderHook
    from mmx.hooks.naive_visualization_hook import NaiveVisualizationHook as NaiveVisualizationHook
    from mmx.hooks.non_finite_hook import NonFiniteHook as NonFiniteHook
    from mmx.hooks.param_scheduler_hook import ParamSchedulerHook as ParamSchedulerHook
    from mmx.hooks.prepare_tta_hook import PrepareTTAHook as PrepareTTAHook
    from mmx.hooks.priority import Priority as Priority
    from mmx.hooks.priority import get_priority as get_priority
    from mmx.hooks.profiler_hook import ProfilerHook as ProfilerHook
    from mmx.hooks.progress_hook import ProgressHook as ProgressHook
    from mmx.hooks.runtime_info_hook import RuntimeInfoHook as RuntimeInfoHook
    from mmx.hooks.sampler_seed_hook import DistSamplerSeedHook as DistSamplerSeedHook
    from mmx.hooks.sync_buffer_hook import SyncBuffersHook as SyncBuffersHook
    from mmx.hooks.throughput_hook import ThroughputHook as ThroughputHook
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "checkpoint_hook": ["CheckpointHook"],
            "early_stopping_hook": ["EarlyStoppingHook"],
            "ema_hook": ["EMAHook"],
            "empty_cache_hook": ["EmptyCacheHook"],
            "hook": ["Hook"],
            "iter_timer_hook": ["IterTimerHook"],
            "logger_hook": ["LoggerHook"],
            "lr_finder_hook": ["LRFinderHook"],
            "naive_visualization_hook": ["NaiveVisualizationHook"],
            "non_finite_hook": ["NonFiniteHook"],
            "param_scheduler_hook": ["ParamSchedulerHook"],
            "prepare_tta_hook": ["PrepareTTAHook"],
            "priority": ["Priority", "get_priority"],
            "profiler_hook": ["ProfilerHook"],
            "progress_hook": ["ProgressHook"],
            "runtime_info_hook": ["RuntimeInfoHook"],
            "sampler_seed_hook": ["DistSamplerSeedHook"],
            "sync_buffer_hook": ["SyncBuffersHook"],
            "throughput_hook": ["ThroughputHook"],
        },
    )
