"""Record what mmengine 0.10.7 reads from the configs in ``config_corpus``.

    ORACLE_PYTHON tests/contract/record_config.py

Run by a Python that has mmengine, not mmx. Writes ``data/config.json``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import sys
import warnings
from pathlib import Path

HERE = Path(__file__).parent
CORPUS = HERE / "config_corpus"

# What is passed to DictAction, and what is merged into what.
OPTIONS = [
    "a=1", "a=1.5", "a=true", "a=False", "a=None", "a=none", "a=x", "a=1,2", "a=[1,2]", "a=[1]",
    "a=(1,)", "a=(1)", "a=[]", "a=()", "a=[(1,2),(3,4)]", "a=[[a,b],c]", "a='1'", 'a="a,b"',
    "a=1e-3", "a=-1", "a=a b", "a=b=c", "a=", "a=[ 1, 2 ]", "a={b:1}", "a=1,", "a=0x10", "a=1_000",
    "a=[1,None,true]", "a=(),[]", "a=((1,2),)", "a= 1", "a=x,y",
]  # fmt: skip
MERGES = [
    ({"a": {"b": 1}}, {"a.b": 2}),
    ({"a": {"b": 1}}, {"a.c.d": 2}),
    ({"a": [{"x": 1}, 2]}, {"a.0.x": 5}),
    ({"a": [1]}, {"a": [2, 3]}),
    ({"a": {"x": 1}}, {"a": {"_delete_": True, "y": 1}}),
    ({"a": {"x": 1}}, {"a": {"y": 1}}),
    ({"a": {"x": 1}}, {"a": 3}),
    ({"a": [{"x": 1}]}, {"a.0": {"y": 1}}),
    ({}, {"a.0": 2}),
    ({"a": 1}, {"a.b": 2}),
    ({"a": None}, {"a.b": 3}),
    ({"a": [1]}, {"a.5": 5}),
    ({"a": [1]}, {"a": {"b": 1}}),
]


def plain(value):
    if isinstance(value, dict):
        return ["dict", [[plain(k), plain(v)] for k, v in dict.items(value)]]
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, [plain(item) for item in value]]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return [type(value).__name__, repr(value) if not callable(value) else "callable"]


def files():
    found = sorted(p.relative_to(CORPUS).as_posix() for p in CORPUS.rglob("*") if p.is_file())
    return [name for name in found if "__pycache__" not in name and "__init__" not in name]


def main():
    os.environ.update(MMX_CORPUS_A="env a", MMX_CORPUS_N="7")
    os.chdir(CORPUS)
    import mmengine.config.utils as utils
    from mmengine.config import Config, DictAction

    # It takes the standard library's modules for others where Python is in a folder of its own.
    is_builtin = utils._is_builtin_module
    utils._is_builtin_module = lambda name: (
        name.partition(".")[0] in sys.stdlib_module_names or is_builtin(name)
    )
    golden = {"files": {}, "options": {}, "merges": []}
    for name in files():
        try:
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                config = Config.fromfile(name)
            entry = {"values": plain(config.to_dict()), "env": config.env_variables}
            entry["text"] = config.text.replace(str(CORPUS), "<corpus>")
        except BaseException as error:
            kinds = [k.__name__ for k in type(error).__mro__ if k.__module__ == "builtins"]
            entry = {"error": kinds, "message": str(error).replace(str(CORPUS), "<corpus>")}
        golden["files"][name] = json.loads(json.dumps(entry).replace(str(CORPUS), "<corpus>"))
    parser = argparse.ArgumentParser()
    parser.add_argument("--options", nargs="+", action=DictAction)
    for text in OPTIONS:
        golden["options"][text] = plain(parser.parse_args(["--options", text]).options)
    for base, options in MERGES:
        config = Config(json.loads(json.dumps(base)))
        try:
            config.merge_from_dict(json.loads(json.dumps(options)))
            result = {"values": plain(config._cfg_dict)}
        except Exception as error:
            result = {"error": [k.__name__ for k in type(error).__mro__]}
        golden["merges"].append({"base": base, "options": options, **result})
    (HERE / "data").mkdir(exist_ok=True)
    text = json.dumps(golden, indent=1, sort_keys=True)
    # Messages that list where this machine keeps its packages say nothing to compare with.
    text = re.sub(r"(the current sys\.path is: )(?:(?!You should set).)*", r"\1<paths>\\n", text)
    text = re.sub(r"<module '(\w+)' from '[^']*'>", r"<module '\1'>", text)
    (HERE / "data" / "config.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
