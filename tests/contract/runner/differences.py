"""Where recorded runs differ from MMEngine's on purpose: by name, with the reason.

A difference changes what MMEngine recorded into what ours should do. All else is equal.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Run = dict[str, Any]

DIFFERENCES: dict[str, Difference] = {}

# What ours has besides: where -> what -> why.
ADDITIONS = {
    "keys": {"engine": "what an exact resume takes: position, random states, states of hooks"},
    "meta": {"torch_version": "for reports"},
    "message_hub": {"version": "saved state is versioned"},
    "optimizer": {"accumulation": "gradients of an accumulation that is under way"},
}


@dataclass(frozen=True)
class Difference:
    """A difference.

    Attributes:
        reason: Why ours is different.
        change: Changes what a run recorded, given its name and all that was recorded, in place.
    """

    reason: str
    change: Callable[[str, Run, dict[str, Run]], None]


def expected(name: str, golden: dict[str, Run], but: str = "") -> Run:
    """Return what a run of ours should record.

    Args:
        name: The run.
        golden: What MMEngine recorded of all runs.
        but: A difference that is left out.
    """
    run = copy.deepcopy(golden[name])
    for key, difference in DIFFERENCES.items():
        if key != but:
            difference.change(name, run, golden)
    return run


def without_additions(files: dict[str, Run]) -> dict[str, Run]:
    """Return what checkpoints of ours hold, without ADDITIONS."""
    return {
        name: {
            key: [v for v in value if v not in ADDITIONS[key]] if key in ADDITIONS else value
            for key, value in file.items()
        }
        for name, file in files.items()
    }


def difference(reason: str) -> Callable[[Callable[[str, Run, dict[str, Run]], None]], None]:
    def add(change: Callable[[str, Run, dict[str, Run]], None]) -> None:
        DIFFERENCES[change.__name__] = Difference(reason, change)

    return add


@difference("The engine goes by its own name, unless a program imports it by the old one.")
def name_in_lines(name: str, run: Run, golden: dict[str, Run]) -> None:
    if run["source"] == "tests":
        run["lines"] = [re.sub(r"\bmmengine( - |\.)", r"mmx\1", line) for line in run["lines"]]


@difference("A checkpoint says which engine's version wrote it.")
def name_of_the_version(name: str, run: Run, golden: dict[str, Run]) -> None:
    for file in run["files"].values():
        for key in {"meta", "infos"} & file.keys():
            file[key] = sorted(v.replace("mmengine_version", "mmx_version") for v in file[key])


@difference("MMEngine's own parts use names of it that are on their way out, and it warns of them.")
def warnings_of_own_names(name: str, run: Run, golden: dict[str, Run]) -> None:
    own = re.compile(r'WARNING - "(FileClient|HardDiskBackend)" ')
    run["lines"] = [line for line in run["lines"] if not own.search(line)]


@difference(
    "Nothing is said of what is not there: schedules to save, with each checkpoint of a run without "
    "any, and layers that synchronise batch statistics."
)
def lines_about_nothing(name: str, run: Run, golden: dict[str, Run]) -> None:
    nothing = re.compile(r"`save_param_scheduler` is True but|all SyncBatchNorm \(SyncBN\) layers")
    run["lines"] = [line for line in run["lines"] if not nothing.search(line)]


@difference("Whole numbers of a test's results are null in MMEngine's file.")
def numbers_of_a_test(name: str, run: Run, golden: dict[str, Run]) -> None:
    for file, records in run["records"].items():
        if file.endswith("<timestamp>/<timestamp>.json"):
            for record in records:
                record.update({k: run["test"][k] for k, v in record.items() if v is None})


@difference("All validations of a run that counts iterations are at step 0, which makes no curve.")
def step_of_validations(name: str, run: Run, golden: dict[str, Run]) -> None:
    if not any(" - Iter(train)" in line for line in run["lines"]):
        return
    steps = iter([entry[2] for entry in run["trace"] if entry[0] == "after_val_epoch"])
    for file, records in run["records"].items():
        for record in records:
            if "vis_data" in file and "iter" not in record:
                assert record["step"] == 0
                record["step"] = next(steps)


@difference("The best checkpoint can be resumed from; MMEngine's holds weights alone.")
def best_checkpoint(name: str, run: Run, golden: dict[str, Run]) -> None:
    whole = [file for file in run["files"].values() if "optimizer" in file["keys"]]
    for file, content in run["files"].items():
        if "best_" in file and "infos" in content:
            for key in ("keys", "optimizer", "steps"):
                content[key] = whole[-1][key]
    for entry in run["trace"]:
        if entry[0] == "before_save_checkpoint" and "optimizer" not in entry[3]:
            entry[3] = whole[0]["keys"]


@difference(
    "A run that is resumed makes its last validation again, and so finds what was best; MMEngine "
    "saves the epoch's checkpoint a second time for that."
)
def second_save(name: str, run: Run, golden: dict[str, Run]) -> None:
    trace = run["trace"]
    twice = {
        entry[1]
        for before, entry in itertools.pairwise(trace)
        if before[0] == entry[0] == "before_save_checkpoint"
    }
    run["trace"] = trace[:1] + [
        entry
        for before, entry in itertools.pairwise(trace)
        if not (before[0] == entry[0] == "before_save_checkpoint")
    ]
    # What a checkpoint from before the first validation does not know.
    first = next((entry[1] for entry in trace if entry[0] == "after_val_epoch"), None)
    for path, file in run["files"].items():
        if file.get("epoch") == first and first in twice and "best_" not in path:
            file["scalars"] = [v for v in file["scalars"] if not v.startswith("val/")]
            file["infos"] = [v for v in file["infos"] if not v.startswith("best_")]


@difference("What is left out of a published checkpoint is more, as there is more in checkpoints.")
def keys_that_are_left_out(name: str, run: Run, golden: dict[str, Run]) -> None:
    whole = ["message_hub", "optimizer", "param_schedulers"]
    for i, line in enumerate(run["lines"]):
        for keys in (whole, whole[:1]):
            line = line.replace(f"{keys} will be", f"{[*whole, 'engine']} will be")
            line = line.replace(f"`{keys}` in pub", f"`{[*whole, 'engine']}` in pub")
        run["lines"][i] = line


@difference("What is validated after training, in one process, is the average that was trained.")
def average_that_was_trained(name: str, run: Run, golden: dict[str, Run]) -> None:
    if not any(line.endswith("EMAHook") for line in run["hooks"].get("before_run", [])):
        return
    results = [entry for entry in run["trace"] if entry[0] == "after_val_epoch"]
    results[-1][3] = results[-2][3]
    run["test"] = results[-2][3]
    said = [i for i, line in enumerate(run["lines"]) if "    accuracy: " in line]
    run["lines"][said[-1]] = run["lines"][said[-2]]
    for file, records in run["records"].items():
        if "vis_data" in file:
            records[-1].update(results[-2][3])


@difference("Weights that were loaded for a test are trained on; MMEngine initialises them anew.")
def weights_that_were_loaded(name: str, run: Run, golden: dict[str, Run]) -> None:
    tested = [i for i, line in enumerate(run["lines"]) if " - Epoch(test) " in line]
    if tested and any(" - Load checkpoint from " in line for line in run["lines"][: tested[0]]):
        run["lines"] = [line for line in run["lines"] if not line.startswith("Name of parameter")]


@difference(
    "Checkpoints are saved before the validation that follows them: it is made good on resuming, so "
    "that the run ends as if it had not been stopped."
)
def validation_that_was_due(name: str, run: Run, golden: dict[str, Run]) -> None:
    if name != "resume_and_load_from.3":
        return
    whole = golden["resume_and_load_from"]  # the run that was not stopped
    epoch = run["trace"][0][1] or 2
    stages = [entry[:2] for entry in whole["trace"]]
    begin, end = stages.index(["before_val", epoch]), stages.index(["after_val", epoch])
    at = [entry[0] for entry in run["trace"]].index("before_train") + 1
    run["trace"][at:at] = whole["trace"][begin : end + 1]
    head = "<date> - mmengine - INFO - "
    at = next(i for i, line in enumerate(run["lines"]) if "Checkpoints will be saved" in line) + 1
    run["lines"][at:at] = [
        f"{head}The checkpoint was saved before a validation that was due; running it now.",
        *(line for line in whole["lines"] if line.startswith(f"{head}Epoch(val) [{epoch}][6/6]")),
    ]
    for file, records in run["records"].items():
        where = file.replace("a_third", "work_dir")
        made_good = [r for r in whole["records"][where] if r["step"] == epoch and "iter" not in r]
        run["records"][file] = made_good + records
    for path, file in run["files"].items():
        if "a_third" in path:
            validated = [f"val/{key}" for key in ("acc", "data_time", "time", "worst")]
            file["scalars"] = sorted({*file["scalars"], *validated})
