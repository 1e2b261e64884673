"""Iterations in which hooks do no more than record: one function for training, one for evaluation.

Between two real steps hardly anything of the engine stays in the processor's caches, so that each
function, object and page that an iteration touches costs several times what it costs in a tight
loop. What happens in nearly all iterations is therefore done here without the calls in between:
what :class:`~mmx.hooks.RuntimeInfoHook` and :class:`~mmx.hooks.IterTimerHook` record, and what
:class:`~mmx.model.BaseModel`, :class:`~mmx.optim.OptimWrapper` and :class:`~mmx.evaluator.Evaluator`
do where there is nothing to move, normalise, add up, accumulate or clip. Other hooks are called as
ever, unless they say for how many iterations they have nothing to do
(:meth:`Hook.idle_iters <mmx.hooks.Hook.idle_iters>`). Anything unusual is left to the parts
themselves, so that both ways leave the same behind.

A hook that replaces a part of the run (the model, a method, another hook) finds it replaced at
once. What a model or a data set replaces while it runs counts from the next log line on, if that is
half a second later or more, and after 4,096 iterations in any case.
"""

from mmx.runner.quiet.evaluation import QuietEvaluation
from mmx.runner.quiet.training import QuietTraining

__all__ = ["QuietEvaluation", "QuietTraining"]
