"""Write what MMEngine counts and prints to golden.json. Run it where MMEngine is installed."""

import importlib
import json
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from analysis_models import CASES, make


def figures(package, name):
    """Return all figures and texts of one model, by either package."""
    analysis = importlib.import_module(f"{package}.analysis")
    helper = importlib.import_module(f"{package}.analysis.print_helper")
    model, inputs = make(name)
    result = {}
    counters = {}
    for kind, cls in (("flops", analysis.FlopAnalyzer), ("acts", analysis.ActivationAnalyzer)):
        for mode in ("owner", "caller"):
            counter = cls(model, inputs).ancestor_mode(mode)
            result[f"{kind} {mode}"] = {
                "total": counter.total(),
                "by_operator": dict(counter.by_operator()),
                "by_module": dict(counter.by_module()),
                "both": {k: dict(v) for k, v in counter.by_module_and_operator().items()},
                "unsupported": dict(counter.unsupported_ops()),
                "uncalled": sorted(counter.uncalled_modules()),
            }
        counters[kind] = cls(model, inputs)
    result["parameters"] = dict(analysis.parameter_count(model))
    result["parameter tables"] = [
        analysis.parameter_count_table(model, max_depth=depth) for depth in (1, 2, 3)
    ]
    flops, acts = counters["flops"], counters["acts"]
    result["tables"] = [
        helper.complexity_stats_table(flops),
        helper.complexity_stats_table(flops, activations=acts),
        helper.complexity_stats_table(flops, max_depth=1, show_param_shapes=False),
    ]
    result["listings"] = [
        helper.complexity_stats_str(flops),
        helper.complexity_stats_str(flops, activations=acts),
    ]
    info = analysis.get_model_complexity_info(model, inputs=inputs)
    result["info"] = {key: info[key] for key in sorted(info)}
    return result


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    golden = {name: figures("mmengine", name) for name in CASES}
    path = Path(__file__).parent / "golden.json"
    path.write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n")
