"""Hook order, losses, schedules, checkpoints, metrics, log lines and records are MMEngine 0.10.7's.

``record.py`` beside this file recorded them, from scenarios of our own (``scenarios.py``) and from
the examples of the documents (``examples_*.py``). Where ours differ on purpose, ``differences.py``
says so, each with its reason.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path

import pytest
import torch

from mmx_registry.registry import all_registries
from mmx_registry.scope import show_scope_as

HERE = Path(__file__).parent
GOLDEN = {path.stem: json.loads(path.read_text()) for path in (HERE / "golden").glob("*.json")}

# One worker runs each scenario once.
pytestmark = pytest.mark.xdist_group("runner_golden")


def _modules():
    names = ("differences", "playing", "scenarios")
    sys.path.insert(0, str(HERE))
    try:
        modules = [importlib.import_module(name) for name in names]
        modules[1].load_all()
        return modules
    finally:
        sys.path.remove(str(HERE))


DIFFERENCES, PLAYING, SCENARIOS = _modules()
EXPECTED = {name: DIFFERENCES.expected(name, GOLDEN) for name in sorted(GOLDEN)}

# These draw the order of samples, or augmentations, from the global random stream. MMEngine's validation draws from it
# too; after ours the stream is put back, so that a checkpoint that is saved before it resumes to the
# same bits. They are compared with the stream left as validation leaves it.
DRAW_FROM_THE_STREAM = {"fifteen_minutes", "beginner_friendly", "steps_and_preprocessor"}

DEBUG = "<date> - mmengine - DEBUG - "
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.(\d+))?(?:e[+-]\d+)?(?![\w.])")


def without_debug(lines):
    return [line for line in lines if not line.startswith(DEBUG)]


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
    with pytest.raises(AssertionError):
        assert_close([{"a": 1.0}], [changed])


@pytest.mark.parametrize("key", DIFFERENCES.DIFFERENCES)
def test_each_difference_on_purpose_is_seen_in_some_run(key):
    changed = [n for n in EXPECTED if DIFFERENCES.expected(n, GOLDEN, but=key) != EXPECTED[n]]
    assert changed, f"no recorded run shows {key!r}; take it from the list"


def test_all_that_is_played_has_been_recorded():
    assert {*SCENARIOS.SCENARIOS, *PLAYING.EXAMPLES} == {name.split(".")[0] for name in GOLDEN}


def test_recordings_do_not_say_where_they_were_made():
    for path in (HERE / "golden").glob("*.json"):
        assert not re.search(r'[" ]/(?:home|tmp|root|work|usr|Users)\b', path.read_text()), path
    for path in HERE.glob("*.pth"):
        assert b"/tmp/" not in path.read_bytes(), path


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """Each scenario is run once; the tests look at different sides of it."""
    done = {}

    def result(name):
        if name not in done:
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            directory = str(tmp_path_factory.mktemp(name))
            whole = name.split(".")[0]
            try:
                with pytest.MonkeyPatch.context() as patch:
                    if whole in DRAW_FROM_THE_STREAM:
                        patch.setattr("mmx.runner.resume.restore_random_state", lambda state: None)
                    if whole in PLAYING.EXAMPLES:
                        _go_by_the_old_name(patch)
                        done.update(PLAYING.run(whole, directory))
                    else:
                        done[name] = SCENARIOS.run(name, "mmx", directory)
            finally:
                torch.set_num_threads(threads)
        return done[name]

    return result


def _go_by_the_old_name(patch):
    """Do what importing modules by the old name does to a process, the first time."""
    importlib.import_module("mmengine")
    patch.setattr("mmx._engine_name._name", "mmengine")
    show_scope_as("mmx", "mmengine")
    for registry in all_registries():
        registry._makers.clear()  # what is found anew is told at level DEBUG


@pytest.mark.parametrize("name", EXPECTED)
def test_hooks_are_called_in_the_same_order_with_the_same_counters(ours, name):
    for expected, actual in zip(EXPECTED[name]["trace"], ours(name)["trace"], strict=False):
        assert_close(expected, actual)
    assert len(EXPECTED[name]["trace"]) == len(ours(name)["trace"])


@pytest.mark.parametrize("name", EXPECTED)
def test_losses_learning_rates_and_weights_follow_the_same_trajectory(ours, name):
    assert_close(EXPECTED[name]["losses"], ours(name)["losses"])
    assert_close(EXPECTED[name]["weights"], ours(name)["weights"])


@pytest.mark.parametrize("name", EXPECTED)
def test_checkpoints_have_the_same_names_keys_and_counters(ours, name):
    files = DIFFERENCES.without_additions(ours(name)["files"])
    assert EXPECTED[name]["files"].keys() == files.keys()
    for file, expected in EXPECTED[name]["files"].items():
        assert expected == files[file], file


@pytest.mark.parametrize("name", EXPECTED)
def test_metrics_and_totals_are_the_same(ours, name):
    for key in EXPECTED[name].keys() - {"hooks", "trace", "losses", "weights", "files", "lines"}:
        if key != "records":
            assert_close(EXPECTED[name][key], ours(name)[key])


@pytest.mark.parametrize("name", EXPECTED)
def test_log_lines_read_the_same(ours, name):
    told, found = without_debug(EXPECTED[name]["lines"]), without_debug(ours(name)["lines"])
    for expected, actual in zip(told, found, strict=False):
        assert_reads_the_same(expected, actual)
    assert len(told) == len(found)


def test_debug_lines_say_of_each_part_what_mmengine_says(ours):
    """What is built, and how often it is looked up, is each engine's own affair; so is where."""
    told = EXPECTED["log_at_debug_level"]["lines"]
    told = [re.sub(r"(found in )mmengine\.", r"\1mmx.", line) for line in told]
    told = [line for line in told if line.startswith(DEBUG) and "_env_initialized" not in line]
    assert len(told) > 15
    found = ours("log_at_debug_level")["lines"]
    assert [] == [line for line in told if line not in found]


@pytest.mark.parametrize("name", EXPECTED)
def test_records_for_programs_say_the_same(ours, name):
    assert_close(EXPECTED[name]["records"], ours(name)["records"])


@pytest.mark.parametrize("name", EXPECTED)
def test_the_list_of_hooks_reads_the_same(ours, name):
    """Ours has all lines of MMEngine's in its order, and more: some hooks use further stages."""
    told, found = EXPECTED[name]["hooks"], ours(name)["hooks"]
    assert list(told) == [stage for stage in found if stage in told]
    for stage, expected in told.items():
        lines = iter(found[stage])
        for line in expected:
            assert line in lines, (stage, line)


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
