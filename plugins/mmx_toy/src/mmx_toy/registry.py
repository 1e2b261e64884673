"""The registries of this plugin: children of mmx's, in the scope ``mmx_toy``.

``locations`` says which modules define their parts; they are imported when one is asked for.
"""

from mmx.registry import DATASETS as MMX_DATASETS
from mmx.registry import HOOKS as MMX_HOOKS
from mmx.registry import LOOPS as MMX_LOOPS
from mmx.registry import METRICS as MMX_METRICS
from mmx.registry import MODELS as MMX_MODELS
from mmx.registry import Registry

DATASETS = Registry("dataset", parent=MMX_DATASETS, scope="mmx_toy", locations=["mmx_toy.dataset"])
HOOKS = Registry("hook", parent=MMX_HOOKS, scope="mmx_toy", locations=["mmx_toy.hook"])
LOOPS = Registry("loop", parent=MMX_LOOPS, scope="mmx_toy", locations=["mmx_toy.loop"])
METRICS = Registry("metric", parent=MMX_METRICS, scope="mmx_toy", locations=["mmx_toy.metric"])
MODELS = Registry("model", parent=MMX_MODELS, scope="mmx_toy", locations=["mmx_toy.model"])
