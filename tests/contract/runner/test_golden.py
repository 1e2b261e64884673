"""Hook order, losses, schedules, checkpoints, metrics, log lines and records are MMEngine 0.10.7's.

``record.py`` beside this file recorded them. Where ours differ on purpose, `LINES_THAT_DIFFER` and
`expected_records` say so.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
GOLDEN = {path.stem: json.loads(path.read_text()) for path in (HERE / "golden").glob("*.json")}

# One worker runs each scenario once.
pytestmark = pytest.mark.xdist_group("runner_golden")


def _modules():
    sys.path.insert(0, str(HERE))
    try:
        return [importlib.import_module(name) for name in ("scenarios", "traces")]
    finally:
        sys.path.remove(str(HERE))


SCENARIOS, TRACES = _modules()

# What reads differently on purpose: reason -> what to do with an expected line (None: none).
LINES_THAT_DIFFER = {
    "MMEngine warns of names that it uses itself and that are on their way out": lambda line: (
        None if re.search(r'WARNING - "(FileClient|HardDiskBackend)" ', line) else line
    ),
    "ours goes by its own name": lambda line: re.sub(r"\bmmengine( - |\.)", r"mmx\1", line),
}

# What checkpoints of ours hold besides: where -> key -> why.
ADDITIONS = {
    "keys": {"engine": "what an exact resume takes: position, random states, states of hooks"},
    "meta": {"torch_version": "for reports"},
    "message_hub": {"version": "saved state is versioned"},
    "optimizer": {"accumulation": "gradients of an accumulation that is under way"},
}

_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.(\d+))?(?:e[+-]\d+)?(?![\w.])")


def expected_lines(golden):
    lines = golden["lines"]
    for change in LINES_THAT_DIFFER.values():
        lines = [line for line in map(change, lines) if line is not None]
    return lines


def expected_files(golden):
    """Return what checkpoints should hold: the engine's version goes by our name."""
    own = {"mmengine_version": "mmx_version"}
    return {
        name: {**file, "meta": sorted(own.get(key, key) for key in file["meta"])}
        for name, file in golden["files"].items()
    }


def without_additions(files):
    return {
        name: {
            key: [v for v in value if v not in ADDITIONS[key]] if key in ADDITIONS else value
            for key, value in file.items()
        }
        for name, file in files.items()
    }


def expected_records(golden):
    """Return the records, as they should be where MMEngine's say nothing.

    - Whole numbers of a test's results are null in MMEngine's JSON.
    - All validations of lines that count iterations are at step 0, which makes no curve.
    """
    counts_epochs = not any(" - Iter(" in line for line in golden["lines"])
    found = {}
    for name, records in golden["records"].items():
        validated = iter([e[2] for e in golden["trace"] if e[0] == "after_val_epoch"])
        found[name] = records = [dict(record) for record in records]
        for record in records:
            if "vis_data" not in name:
                record.update({k: golden["test"][k] for k, v in record.items() if v is None})
            elif "iter" not in record and not counts_epochs:
                assert record["step"] == 0
                record["step"] = next(validated)
    return found


def assert_reads_the_same(expected, actual):
    """Compare two lines: text and format to the letter, numbers up to one in their last digit."""
    found = [list(_NUMBER.finditer(line)) for line in (expected, actual)]
    shape = [
        _NUMBER.sub(lambda m: "0" * len(m[1] or "") + ("e" if "e" in m[0] else ""), line)
        for line in (expected, actual)
    ]
    assert shape[0] == shape[1]
    for left, right in zip(*found, strict=True):
        if left[1] is None:
            assert left[0] == right[0], (expected, actual)
        else:
            last = 10.0 ** -len(left[1]) * 1.5
            assert pytest.approx(float(left[0]), rel=last, abs=last) == float(right[0]), (
                expected,
                actual,
            )


def assert_close(expected, actual):
    """Compare JSON values: floats approximately, all else exactly; the order of keys is free."""
    if isinstance(expected, dict):
        assert expected.keys() == actual.keys()
        for key, value in expected.items():
            assert_close(value, actual[key])
    elif isinstance(expected, list):
        assert len(expected) == len(actual)
        for left, right in zip(expected, actual, strict=True):
            assert_close(left, right)
    elif isinstance(expected, float):
        assert pytest.approx(expected, rel=1e-5, abs=1e-6) == actual
    else:
        assert expected == actual


LINE = "<date> - mmx - INFO - Epoch(train) [1][2/5]  lr: 1.0000e-01  loss: 0.9941  spread: 0.4118"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0.9941", "0.9943"),
        ("0.9941", "0.99410"),
        ("[2/5]", "[3/5]"),
        ("1.0000e-01", "1.0000e-02"),
        ("  lr", " lr"),
        ("spread: 0.4118", "spread: 0.4118  "),
        ("loss: 0.9941  spread: 0.4118", "spread: 0.9941  loss: 0.4118"),
        (" INFO ", " WARNING "),
    ],
)
def test_a_line_that_differs_would_be_noticed(old, new):
    assert_reads_the_same(LINE, LINE.replace("0.9941", "0.9942"))  # rounding
    with pytest.raises(AssertionError):
        assert_reads_the_same(LINE, LINE.replace(old, new))


@pytest.mark.parametrize("changed", [{"a": 1.1}, {"a": 1.0, "b": 2}, {}, {"a": [1.0]}])
def test_a_record_that_differs_would_be_noticed(changed):
    assert_close([{"a": 1.0}], [{"a": 1.0 + 1e-9}])
    with pytest.raises((AssertionError, KeyError)):
        assert_close([{"a": 1.0}], [changed])


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """Each scenario is run once; the tests look at different sides of it."""
    done = {}

    def result(name):
        if name not in done:
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            try:
                done[name] = SCENARIOS.run(name, "mmx", str(tmp_path_factory.mktemp(name)))
            finally:
                torch.set_num_threads(threads)
        return done[name]

    return result


@pytest.mark.parametrize("name", GOLDEN)
def test_hooks_are_called_in_the_same_order_with_the_same_counters(ours, name):
    for expected, actual in zip(GOLDEN[name]["trace"], ours(name)["trace"], strict=True):
        assert_close(expected, actual)


@pytest.mark.parametrize("name", GOLDEN)
def test_losses_learning_rates_and_weights_follow_the_same_trajectory(ours, name):
    assert_close(GOLDEN[name]["losses"], ours(name)["losses"])
    assert_close(GOLDEN[name]["weights"], ours(name)["weights"])


@pytest.mark.parametrize("name", GOLDEN)
def test_checkpoints_have_the_same_names_keys_and_counters(ours, name):
    assert expected_files(GOLDEN[name]) == without_additions(ours(name)["files"])


@pytest.mark.parametrize("name", GOLDEN)
def test_metrics_and_totals_are_the_same(ours, name):
    assert_close(GOLDEN[name]["test"], ours(name)["test"])
    assert GOLDEN[name]["max"] == ours(name)["max"]


@pytest.mark.parametrize("name", GOLDEN)
def test_log_lines_read_the_same(ours, name):
    lines = ours(name)["lines"]
    for expected, actual in zip(expected_lines(GOLDEN[name]), lines, strict=False):
        assert_reads_the_same(expected, actual)
    assert len(expected_lines(GOLDEN[name])) == len(lines)


@pytest.mark.parametrize("name", GOLDEN)
def test_records_for_programs_say_the_same(ours, name):
    assert_close(expected_records(GOLDEN[name]), ours(name)["records"])


@pytest.mark.parametrize("name", GOLDEN)
def test_the_list_of_hooks_reads_the_same(ours, name):
    """Ours has all lines of MMEngine's in its order, and more: some hooks use further stages."""
    lines = iter(ours(name)["hooks_info"])
    for expected in GOLDEN[name]["hooks_info"]:
        assert expected in lines, expected


@pytest.mark.parametrize(
    ("name", "file", "begin"), [("epochs", "epoch_2.pth", 10), ("iterations", "iter_5.pth", 5)]
)
def test_a_checkpoint_of_mmengine_is_resumed_as_mmengine_would_go_on(tmp_path, name, file, begin):
    resumed = SCENARIOS.run(name, "mmx", str(tmp_path), str(HERE / f"mmengine_{file}"))
    golden = GOLDEN[name]
    assert golden["max"] == resumed["max"]
    assert len(resumed["losses"]) == len(golden["losses"]) - begin
    for expected, actual in zip(golden["losses"][begin:], resumed["losses"], strict=True):
        assert pytest.approx(expected[0], abs=1e-5) == actual[0]
        assert_close(expected[1], actual[1])
    for key, expected in golden["weights"].items():
        actual = torch.tensor(resumed["weights"][key])
        torch.testing.assert_close(actual, torch.tensor(expected), rtol=1e-4, atol=1e-5)
