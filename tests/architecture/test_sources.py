"""Rules about the sources themselves."""

import ast
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    p for base in ("registry/src", "core/src", "plugins") for p in (ROOT / base).rglob("*.py")
)
PACKAGES = sorted(p for p in (ROOT / "core/src/mmx").rglob("__init__.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def exported_for_type_checkers(tree: ast.Module) -> dict[str, str] | None:
    """Name -> sub-module of the `if TYPE_CHECKING:` block of a lazy package; None if it is not lazy."""
    for node in tree.body:
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            return {
                alias.asname or alias.name: statement.module or ""
                for statement in node.body
                if isinstance(statement, ast.ImportFrom)
                for alias in statement.names
            }
    return None


def exported_lazily(tree: ast.Module) -> dict[str, str] | None:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "lazy_exports":
            table = ast.literal_eval(node.args[1])
            return {name: module for module, names in table.items() for name in names}
    return None


@pytest.mark.parametrize("path", PACKAGES, ids=name_of)
def test_lazy_names_are_the_names_that_type_checkers_see(path: Path) -> None:
    tree = ast.parse(path.read_text())
    lazy = exported_lazily(tree)
    if lazy is None:
        return
    package = ".".join(path.parent.relative_to(ROOT / "core/src").parts)
    typed = exported_for_type_checkers(tree) or {}
    expected = {n: f"{package}.{module}" if module else package for n, module in lazy.items()}
    assert {n: m for n, m in typed.items() if n in expected or m.startswith(package)} == expected


def test_every_lazy_name_exists() -> None:
    packages = [".".join(p.parent.relative_to(ROOT / "core/src").parts) for p in PACKAGES]
    code = f"""
import importlib, warnings
warnings.simplefilter("ignore")
for package in {packages}:
    module = importlib.import_module(package)
    for name in getattr(module, "__all__", ()):
        getattr(module, name)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "statement",
    [
        "import mmx",
        "import mmx_registry",
        "import mmx.registry",
        "import mmx.config",
        "import mmx.fileio",
        "import mmx.logging",
        "import mmx.utils",
        "import mmx.cli.main",
        "import mmx_toy, mmx_vision",
    ],
)
def test_this_import_does_not_import_torch(statement: str) -> None:
    code = (
        f"import sys; {statement}; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_does_not_import_torch() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from mmx.cli.main import cli;"
        "result = CliRunner().invoke(cli, ['--help']); assert result.exit_code == 0, result.output;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def calls(tree: ast.Module, name: str) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == name
    ]


def test_torch_load_is_called_with_weights_only_alone() -> None:
    found = 0
    for path in SOURCES:
        for node in calls(ast.parse(path.read_text()), "load"):
            if ast.unparse(node.func) != "torch.load":
                continue
            found += 1
            given = {k.arg: ast.unparse(k.value) for k in node.keywords}
            assert given.get("weights_only") == "True", f"{name_of(path)}:{node.lineno}"
    assert found >= 1


def test_no_source_turns_weights_only_off() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "weights_only":
                assert ast.unparse(node.value) != "False", f"{name_of(path)}:{node.value.lineno}"


def test_no_file_names_a_machine_path() -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    if not tracked:
        pytest.skip("not a git checkout")
    home = ["/" + "work/", "/" + "root/", "/" + "home/"]
    for file in tracked:
        path = ROOT / file
        if (
            path == Path(__file__)
            or not path.is_file()
            or path.suffix in (".png", ".pth", ".pt", ".pkl", ".npz", ".gz")
        ):
            continue
        text = path.read_text(errors="ignore")
        for start in home:
            assert f'"{start}' not in text, f"{file} names {start}"
            assert f" {start}" not in text, f"{file} names {start}"


def test_the_sources_have_no_stray_prints() -> None:
    for path in SOURCES:
        if "/cli/" in str(path) or "utils" in path.parts or path.name in ("count.py", "demo.py"):
            continue
        for node in calls(ast.parse(path.read_text()), "print"):
            if ast.unparse(node.func) == "print":
                pytest.fail(f"{name_of(path)}:{node.lineno} prints; use print_log")


def test_the_distributions_have_one_version() -> None:
    import tomllib

    versions = {
        tomllib.loads(p.read_text())["project"]["version"]
        for p in [*ROOT.glob("*/pyproject.toml"), *ROOT.glob("plugins/*/pyproject.toml")]
    }
    import mmx

    assert versions == {mmx.__version__}
    assert os.path.isdir(ROOT / "plugins")


# Unpickling runs what the bytes say. Reference -> None if it always does, else the keyword, and its
# only value, with which it does not.
READERS = {
    **{
        f"{module}.{name}": None
        for module in ("pickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal")
        for name in ("load", "loads", "Unpickler", "_Unpickler")
    },
    **dict.fromkeys(
        (
            "shelve.open",
            "shelve.Shelf",
            "shelve.DbfilenameShelf",
            "multiprocessing.connection.Client",
            "multiprocessing.connection.Listener",
            "multiprocessing.managers.BaseManager",
            "multiprocessing.reduction.ForkingPickler.loads",
            "logging.config.listen",
            "pandas.read_pickle",
            "torch.hub.load",
            "torch.package.PackageImporter",
            "torch.serialization.load",
            "torch.distributed.checkpoint.FileSystemReader",
            "torch.distributed.checkpoint.filesystem.FileSystemReader",
        )
    ),
    # Of torch: they read the objects of other ranks, and ours count and bound what they send.
    **dict.fromkeys(
        f"torch.distributed.{name}"
        for name in (
            "all_gather_object",
            "broadcast_object_list",
            "gather_object",
            "recv_object_list",
            "scatter_object_list",
        )
    ),
    "torch.load": ("weights_only", True),
    "torch.hub.load_state_dict_from_url": ("weights_only", True),
    "torch.utils.model_zoo.load_url": ("weights_only", True),
    "numpy.load": ("allow_pickle", False),
    "numpy.lib.format.read_array": ("allow_pickle", False),
}
# A whole module that is handed about, or imported by its name, can be read with as well.
READING_MODULES = {name.split(".")[0] for name in READERS} - {
    *("torch", "numpy", "multiprocessing", "logging", "pandas")
}

# (file, function or class, what it reads with) -> where the bytes come from.
UNPICKLING = {
    ("core/src/mmx/dist/packing.py", "unpack", "pickle.loads"): "a rank of our process group",
    ("core/src/mmx/dist/packing.py", "_TensorUnpickler", "pickle.Unpickler"): "the same",
    (
        "core/src/mmx/dataset/annotations.py",
        "deserialize",
        "pickle.loads",
    ): "memory that this process or its parent filled",
    (
        "core/src/mmx/fileio/handlers/pickle_handler.py",
        "PickleHandler.load_from_fileobj",
        "pickle.load",
    ): "a file that the caller vouches for with trusted=True",
    (
        "core/src/mmx/fileio/handlers/pickle_handler.py",
        "PlainUnpickler",
        "pickle.Unpickler",
    ): "anywhere: it finds no names but those of plain data",
    (
        "core/src/mmx/fileio/handlers/npy_handler.py",
        "NpyHandler.load_from_fileobj",
        "numpy.load",
    ): "anywhere: allow_pickle is False, whatever else is given",
    ("core/src/mmx/testing/distributed.py", "_gather", "recv"): "a process that it has started",
    ("core/src/mmx/testing/distributed.py", "_gather", "pickle.loads"): "the same",
    ("core/src/mmx/testing/distributed.py", "_call", "pickle.loads"): "the process that started it",
}


def unpickling(tree: ast.Module) -> list[tuple[str, str, int]]:
    """Return (function or class, what it reads with, line) wherever a source could unpickle."""
    modules: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name if alias.asname else alias.name.split(".")[0]
                modules[alias.asname or top] = top
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                modules[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    found = []

    def dotted(node: ast.AST) -> str | None:
        if isinstance(node, ast.Name):
            return modules.get(node.id)
        if isinstance(node, ast.Attribute) and (base := dotted(node.value)):
            return f"{base}.{node.attr}"
        return None

    def is_safe(name: str, call: ast.Call) -> bool:
        if READERS[name] is None:
            return False
        keyword, value = READERS[name]
        given = [k.value for k in call.keywords if k.arg == keyword]
        return [value] == [g.value for g in given if isinstance(g, ast.Constant)]

    def look(node: ast.AST, where: str, parent: ast.AST | None) -> None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            where = f"{where}.{node.name}".lstrip(".")
        name = dotted(node)
        if name in READERS:
            called = isinstance(parent, ast.Call) and parent.func is node
            if not (called and is_safe(name, parent)):
                found.append((where, name, node.lineno))
            return
        if name in READING_MODULES and not isinstance(parent, ast.Attribute):
            found.append((where, f"{name} itself", node.lineno))
        if isinstance(node, ast.ImportFrom) and node.module in READING_MODULES:
            stars = [alias for alias in node.names if alias.name == "*"]
            found.extend((where, f"{node.module}.*", node.lineno) for _ in stars)
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func).split(".")[-1]
            first = ast.unparse(node.args[0]).strip("'").split(".")[0] if node.args else ""
            if called in ("import_module", "__import__") and first in READING_MODULES:
                found.append((where, f"{first} by its name", node.lineno))
            # Of connections between processes. Of torch.distributed it fills a tensor.
            if (
                called == "recv"
                and isinstance(node.func, ast.Attribute)
                and not (dotted(node.func) or "").startswith("torch.distributed.")
            ):
                found.append((where, "recv", node.lineno))
        for child in ast.iter_child_nodes(node):
            look(child, where, node)

    look(tree, "", None)
    return found


def test_what_came_from_outside_is_never_unpickled() -> None:
    found = [
        (name_of(path), line, where, what)
        for path in SOURCES
        for where, what, line in unpickling(ast.parse(path.read_text()))
    ]
    new = [f"{file}:{line} {where}: {what}" for file, line, where, what in found
           if (file, where, what) not in UNPICKLING]  # fmt: skip
    assert [] == new, "say in UNPICKLING where the bytes come from, or read them in another way"
    assert Counter(UNPICKLING.keys()) == Counter(
        (file, where, what) for file, _, where, what in found
    )


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import pickle\ndef f(b):\n    return pickle.loads(b)", ("f", "pickle.loads")),
        ("import pickle as p\nread = p.load", ("", "pickle.load")),
        ("from pickle import loads as read\nread(b'')", ("", "pickle.loads")),
        (
            "def f():\n    from _pickle import Unpickler\n    Unpickler(1)",
            ("f", "_pickle.Unpickler"),
        ),
        ("import pickle\nclass A(pickle.Unpickler): ...", ("A", "pickle.Unpickler")),
        ("import pickle\ngetattr(pickle, 'lo' + 'ads')", ("", "pickle itself")),
        ("from pickle import *", ("", "pickle.*")),
        ("import importlib\nimportlib.import_module('dill')", ("", "dill by its name")),
        ("__import__('marshal').loads(b'')", ("", "marshal by its name")),
        ("import shelve\nshelve.open('x')", ("", "shelve.open")),
        ("import cloudpickle\ncloudpickle.loads(b'')", ("", "cloudpickle.loads")),
        ("import torch\ntorch.load('x')", ("", "torch.load")),
        ("import torch\ntorch.load('x', weights_only=False)", ("", "torch.load")),
        ("import torch\ntorch.load('x', weights_only=flag)", ("", "torch.load")),
        ("import torch\nread = torch.load", ("", "torch.load")),
        ("from torch import load\nload('x')", ("", "torch.load")),
        ("import torch.hub\ntorch.hub.load('a', 'b')", ("", "torch.hub.load")),
        ("import numpy as np\nnp.load('x')", ("", "numpy.load")),
        ("import numpy as np\nnp.load('x', allow_pickle=True)", ("", "numpy.load")),
        ("def f(connection):\n    return connection.recv()", ("f", "recv")),
        (
            "from torch import distributed as d\nd.all_gather_object([], 1)",
            ("", "torch.distributed.all_gather_object"),
        ),
        (
            "from multiprocessing.connection import Client\nClient('x')",
            ("", "multiprocessing.connection.Client"),
        ),
    ],
)
def test_unpickling_is_found(source: str, expected: tuple[str, str]) -> None:
    assert [expected] == [finding[:2] for finding in unpickling(ast.parse(source))]


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.dumps(1)",
        "import json\njson.loads('1')",
        "import torch\ntorch.load('x', weights_only=True)",
        "import numpy as np\nnp.load('x', allow_pickle=False)",
        "from torch import distributed as d\nd.recv(t, 1)",
        "from mmx.dist import all_gather_object\nall_gather_object(1)",
    ],
)
def test_what_does_not_unpickle_is_let_through(source: str) -> None:
    assert [] == unpickling(ast.parse(source))
