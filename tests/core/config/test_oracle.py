"""The corpus of configs is read as mmengine 0.10.7 reads it, apart from what differs on purpose."""

import argparse
import builtins
import json
import os
import warnings
from pathlib import Path

import pytest

from mmx.config import Config, DictAction

CONTRACT = Path(__file__).parents[2] / "contract"
CORPUS = CONTRACT / "config_corpus"
GOLDEN = json.loads((CONTRACT / "data" / "config.json").read_text())

# Why these differ from mmengine.
DIFFERENT = {
    "base_code.py": "names above `_base_` may be used in it",
    "base_value_index.py": "a list in a base is indexed",
    "code.py": "functions are no settings",
    "delete_new_key.py": "`_delete_` never stays in a config",
    "delete_without_base.py": "`_delete_` never stays in a config",
    "empty.yaml": "an empty file has no settings",
    "environment.py": "a bare template may have a quoted default",
    "import_then_base.py": "a text config may import",
    "inherit_tuple.py": "a tuple of bases is as good as a list",
    "lazy/code.py": "functions are no settings",
    "lazy/local_import.py": "functions are no settings",
    "lazy/relative_outside.py": "a relative import outside of read_base is an error at once",
    "lazy/stdlib.py": "modules are no settings",
    "lazy/text_base_inherits.py": "pure-Python configs may build on text configs",
    "lazy/two_blocks.py": "several blocks of read_base",
    "lazy_inherit_text.py": "text configs may build on pure-Python configs",
    "list.json": "what is no mapping is told so",
}


def plain(value):
    if isinstance(value, dict):
        return ["dict", [[plain(k), plain(v)] for k, v in dict.items(value)]]
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, [plain(item) for item in value]]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return [type(value).__name__, repr(value) if not callable(value) else "callable"]


def unordered(value):
    """Order of keys is no part of equality."""
    if isinstance(value, list):
        if value[:1] == ["dict"]:
            return ["dict", sorted(([unordered(k), unordered(v)] for k, v in value[1]), key=str)]
        return [unordered(item) for item in value]
    return value


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch):
    monkeypatch.chdir(CORPUS)
    monkeypatch.setenv("MMX_CORPUS_A", "env a")
    monkeypatch.setenv("MMX_CORPUS_N", "7")


def read(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Config.fromfile(name)


@pytest.mark.parametrize("name", sorted(set(GOLDEN["files"]) - set(DIFFERENT)))
def test_a_config_is_read_as_mmengine_reads_it(name):
    expected = GOLDEN["files"][name]
    if "error" in expected:
        # The nearest built-in class of the error, which `except` clauses of users name.
        kind = getattr(builtins, expected["error"][0])
        with pytest.raises(kind):
            read(name)
        return
    cfg = read(name)
    text = json.dumps(plain(cfg.to_dict())).replace(str(CORPUS), "<corpus>")
    assert unordered(expected["values"]) == unordered(json.loads(text))
    assert expected["env"] == cfg.env_variables
    assert expected["text"] == cfg.text.replace(str(CORPUS), "<corpus>")


@pytest.mark.parametrize("name", sorted(DIFFERENT))
def test_what_differs_on_purpose_does_differ(name):
    expected = GOLDEN["files"][name]
    try:
        cfg = read(name)
    except Exception as error:
        kinds = [k.__name__ for k in type(error).__mro__]
        assert "error" not in expected or expected["error"][0] not in kinds
        return
    if "error" not in expected:
        assert unordered(expected["values"]) != unordered(plain(cfg.to_dict()))


@pytest.mark.parametrize("text", sorted(GOLDEN["options"]))
def test_options_are_read_as_mmengine_reads_them(text):
    parser = argparse.ArgumentParser()
    parser.add_argument("--options", nargs="+", action=DictAction)
    assert GOLDEN["options"][text] == plain(parser.parse_args(["--options", text]).options)


@pytest.mark.parametrize("case", GOLDEN["merges"], ids=lambda case: str(case["options"]))
def test_options_are_merged_as_mmengine_merges_them(case):
    cfg = Config(case["base"])
    if "error" in case:
        kind = getattr(builtins, case["error"][0])
        with pytest.raises(kind):
            cfg.merge_from_dict(case["options"])
        return
    cfg.merge_from_dict(case["options"])
    assert unordered(case["values"]) == unordered(plain(cfg.to_dict()))


def test_all_of_the_corpus_was_recorded():
    files = {
        path.relative_to(CORPUS).as_posix()
        for path in CORPUS.rglob("*")
        if path.is_file() and path.name != "__init__.py" and path.suffix != ".pyc"
    }
    assert files == set(GOLDEN["files"])
    assert os.environ["MMX_CORPUS_N"] == "7"
