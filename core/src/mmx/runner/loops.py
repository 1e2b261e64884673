"""All loops, in the place where MMEngine has them."""

from mmx.evaluator import Evaluator as Evaluator
from mmx.logging import HistoryBuffer as HistoryBuffer
from mmx.logging import print_log as print_log
from mmx.registry import LOOPS as LOOPS
from mmx.runner.amp import autocast as autocast
from mmx.runner.base_loop import BaseLoop as BaseLoop
from mmx.runner.eval_loops import TestLoop as TestLoop
from mmx.runner.eval_loops import ValLoop as ValLoop
from mmx.runner.eval_loops import _parse_losses as _parse_losses
from mmx.runner.eval_loops import _update_losses as _update_losses
from mmx.runner.train_loops import EpochBasedTrainLoop as EpochBasedTrainLoop
from mmx.runner.train_loops import IterBasedTrainLoop as IterBasedTrainLoop
from mmx.runner.train_loops import _InfiniteDataloaderIterator as _InfiniteDataloaderIterator
from mmx.runner.utils import calc_dynamic_intervals as calc_dynamic_intervals
from mmx.structures import BaseDataElement as BaseDataElement
