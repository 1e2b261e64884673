"""Record what the modules of mmengine 0.10.7 define: run where that package is installed.

    python tests/contract/layout/record.py

Writes ``layout.json``: module -> name -> a list of parameters (functions), a dict from members to
such lists or to their kind (classes), or "value". Parameters read ``name``, ``name=``, ``*name``,
``**name``; after a bare ``*`` they are keyword-only.
"""

import importlib
import inspect
import json
import pkgutil
import types
import warnings
from pathlib import Path

import mmengine

OUT = Path(__file__).with_name("layout.json")
# Special methods that callers meet.
SPECIAL = {"__init__", "__call__", "__getitem__", "__len__", "__iter__", "__contains__"}


def parameters(function: object) -> list[str] | str:
    try:
        signature = inspect.signature(function)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return "value"
    found: list[str] = []
    for parameter in signature.parameters.values():
        name = parameter.name + ("" if parameter.default is parameter.empty else "=")
        if parameter.kind is parameter.VAR_POSITIONAL:
            name = f"*{name}"
        elif parameter.kind is parameter.VAR_KEYWORD:
            name = f"**{name}"
        elif parameter.kind is parameter.KEYWORD_ONLY and not any(p.startswith("*") for p in found):
            found.append("*")
        found.append(name)
    return found


def members(cls: type) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in vars(cls).items():
        if (name.startswith("__") and name not in SPECIAL) or name.startswith("_abc_"):
            continue
        function = value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
        if isinstance(value, property):
            found[name] = "property"
        elif inspect.isfunction(function):
            found[name] = parameters(function)
        else:
            found[name] = "value"
    return dict(sorted(found.items()))


def main() -> None:
    warnings.simplefilter("ignore")
    layout: dict[str, dict[str, object]] = {}
    names = [m.name for m in pkgutil.walk_packages(mmengine.__path__, "mmengine.")]
    for name in sorted(names):
        module = importlib.import_module(name)
        table = layout[name] = {}
        for key, value in sorted(vars(module).items()):
            if key.startswith("__") or isinstance(value, types.ModuleType):
                continue
            home = getattr(value, "__module__", None)
            if isinstance(value, type) or inspect.isfunction(value):
                if home == name:
                    table[key] = members(value) if isinstance(value, type) else parameters(value)
                elif str(home).startswith("mmengine"):
                    table[key] = "value"
            elif not str(type(value).__module__).startswith(("typing", "__future__")):
                table[key] = "value"
    rows = [
        json.dumps(name)
        + ": {\n"
        + ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in table.items())
        + "\n}"
        for name, table in layout.items()
    ]
    OUT.write_text("{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    main()
