"""Hook priorities under the name that callers of the runner use."""

from mmx.hooks.priority import Priority as Priority
from mmx.hooks.priority import UnknownPriorityError as UnknownPriorityError
from mmx.hooks.priority import get_priority as get_priority
