"""The scope ``mmengine``: another name of the scope of mmx.

Imported with the package, and by the registry where a config names the scope in a process that
has not imported the package.
"""

import sys

from mmengine._compat import conflict
from mmx.checkpoint.schemes import announce_scheme
from mmx.registry import HOOKS, OPTIM_WRAPPERS, STRATEGIES
from mmx.registry.plugins import REFUSED
from mmx_registry import trust
from mmx_registry.scope import alias_scope

if not hasattr(sys.modules["mmengine"], "__mmx_version__"):
    # The real package was installed over this one: its files lie in our folder.
    conflict.check()

alias_scope("mmengine", "mmx")

# Parts that only old configs name.
HOOKS.add_locations("mmengine._compat.npu")
OPTIM_WRAPPERS.add_locations("mmengine._compat.deepspeed")
STRATEGIES.add_locations("mmengine._compat.colossalai")

# Dotted paths such as ``type='mmengine.model.ImgDataPreprocessor'`` lead to objects of mmx; what may
# not be reached there may not be reached under this name.
trust.add(
    "mmengine",
    refuse=[f"mmengine.{name.removeprefix('mmx.')}" for name in REFUSED if name.startswith("mmx.")],
    lasting=True,
)

for prefix in ("open-mmlab://", "openmmlab://"):
    announce_scheme(prefix, "mmengine._compat.model_urls:load_from_openmmlab")
announce_scheme("mmcls://", "mmengine._compat.model_urls:load_from_mmcls")
