"""What old code that catches failed assertions goes on catching."""

import pytest

from mmx.evaluator import Evaluator
from mmx.hooks import CheckpointHook, EMAHook, LoggerHook, ProfilerHook
from mmx.logging import HistoryBuffer, MessageHub
from mmx.runner import LogProcessor
from mmx.utils import is_method_overridden, is_seq_of, slice_list, track_progress


@pytest.mark.parametrize(
    ("call", "meant"),
    [
        (lambda: HistoryBuffer([1], []), ValueError),
        (lambda: MessageHub("x", log_scalars=1), TypeError),
        (lambda: MessageHub.get_instance(1), TypeError),
        (lambda: MessageHub.get_instance("x").update_scalars(1), TypeError),
        (lambda: LogProcessor(by_epoch=False, custom_cfg=[dict(data_src="loss", window_size="epoch")]), ValueError),
        (lambda: CheckpointHook(save_best="acc", rule="best"), (ValueError, KeyError)),
        (lambda: EMAHook(begin_epoch=-1), ValueError),
        (lambda: LoggerHook(interval=0), ValueError),
        (lambda: ProfilerHook(by_epoch="x"), TypeError),
        (lambda: Evaluator([]).offline_evaluate([1, 2], [1]), ValueError),
        (lambda: slice_list([1], [2]), ValueError),
        (lambda: is_seq_of([1], int, seq_type=1), TypeError),
        (lambda: is_method_overridden("x", 1, int), TypeError),
        (lambda: track_progress(len, 1), TypeError),
    ],
)  # fmt: skip
def test_wrong_arguments_are_failed_assertions_too(call, meant):
    with pytest.raises(meant) as told:
        call()
    if meant in (TypeError, ValueError):
        assert isinstance(told.value, AssertionError)
