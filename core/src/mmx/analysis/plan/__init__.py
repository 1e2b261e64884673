"""Plans of training on many ranks: memory, traffic, time, and where it stops scaling."""

from typing import TYPE_CHECKING

from mmx._lazy import lazy_exports

if TYPE_CHECKING:
    from mmx.analysis.plan.build import CannotPlanError as CannotPlanError
    from mmx.analysis.plan.from_config import plan_config as plan_config
    from mmx.analysis.plan.layout import Layout as Layout
    from mmx.analysis.plan.memory import Memory as Memory
    from mmx.analysis.plan.planning import Plan as Plan
    from mmx.analysis.plan.planning import make_plan as make_plan
    from mmx.analysis.plan.traffic import Links as Links
    from mmx.analysis.plan.traffic import Traffic as Traffic
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "build": ["CannotPlanError"],
            "from_config": ["plan_config"],
            "layout": ["Layout"],
            "memory": ["Memory"],
            "planning": ["Plan", "make_plan"],
            "traffic": ["Links", "Traffic"],
        },
    )
