"""How much a model computes, how much memory it needs, how large it is."""

from typing import TYPE_CHECKING

from mmx._lazy import lazy_exports

if TYPE_CHECKING:
    from mmx.analysis.complexity_analysis import ActivationAnalyzer as ActivationAnalyzer
    from mmx.analysis.complexity_analysis import FlopAnalyzer as FlopAnalyzer
    from mmx.analysis.complexity_analysis import activation_count as activation_count
    from mmx.analysis.complexity_analysis import flop_count as flop_count
    from mmx.analysis.complexity_analysis import parameter_count as parameter_count
    from mmx.analysis.complexity_analysis import parameter_count_table as parameter_count_table
    from mmx.analysis.print_helper import get_model_complexity_info as get_model_complexity_info
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "complexity_analysis": [
                "ActivationAnalyzer",
                "FlopAnalyzer",
                "activation_count",
                "flop_count",
                "parameter_count",
                "parameter_count_table",
            ],
            "print_helper": ["get_model_complexity_info"],
        },
    )
