"""Dotted paths: what a text config may name, and a corpus of what it may not."""

import builtins
import os
import subprocess
import sys

import pytest

from mmx_registry import Registry, UntrustedError, trust
from mmx_registry.errors import NotFoundError


@pytest.fixture
def registry() -> Registry:
    return Registry("part", scope="zz_trust")


@pytest.fixture
def trusted(site):
    """A trusted package that re-exports dangerous things in many ways."""
    site.package(
        "zztrusted",
        {
            "__init__.py": """
            import builtins
            import functools
            import importlib
            import os
            import subprocess
            from os import system as alias
            from subprocess import Popen, getoutput

            run = os.system
            half = functools.partial(os.system, "true")
            double = functools.partial(half)
            table = {"run": os.system}
            evaluate = eval
            bound = __import__("shutil").rmtree

            def good(x=1):
                return x

            @functools.wraps(good)
            def wrapped(*args):
                return good(*args)

            disguised = functools.wraps(good)(lambda: 0)

            class Good:
                @classmethod
                def make(cls):
                    return cls()

                def method(self):
                    pass

            class Holder:
                run = staticmethod(os.system)
                popen = Popen
                inner = functools.partial(getoutput)

            class Callable:
                __module__ = "os"

                def __call__(self):
                    pass

            called = Callable()
            good_partial = functools.partial(good, 2)
            instance = Good()
            value = 3
            _private = good
            """,
            "sub.py": "class Part: pass",
            "dangerous.py": "def load(path): pass\nclass Loader: pass",
            "broken.py": "import zz_not_installed",
        },
    )
    trust.add("zztrusted", refuse=["zztrusted.dangerous"])
    return site


@pytest.mark.parametrize(
    "path",
    [
        "good",
        "wrapped",
        "Good",
        "Good.make",
        "Good.method",
        "good_partial",
        "instance",
        "value",
        "sub",
        "sub.Part",
    ],
)
def test_objects_of_a_trusted_package_are_found(trusted, registry, path):
    import zztrusted
    import zztrusted.sub

    expected = zztrusted
    for name in path.split("."):
        expected = getattr(expected, name)
    assert expected == registry.get(f"zztrusted.{path}")
    assert expected == registry.get(f"zztrusted.{path}"), "the second time from the cache"


CORPUS = [
    # Straight out of the standard library.
    "os.system",
    "os.popen",
    "os.execv",
    "subprocess.getoutput",
    "subprocess.Popen",
    "subprocess.run",
    "builtins.eval",
    "builtins.exec",
    "builtins.__import__",
    "builtins.open",
    "importlib.import_module",
    "runpy.run_path",
    "pickle.loads",
    "shutil.rmtree",
    "ctypes.CDLL",
    "code.interact",
    "pty.spawn",
    "posix.system",
    "nt.system",
    "webbrowser.open",
    "timeit.timeit",
    "pydoc.locate",
    "logging.os.system",
    "logging.config.dictConfig",
    "functools.partial",
    "operator.methodcaller",
    "types.FunctionType",
    "antigravity.geohash",
    # Installed packages that nobody trusts.
    "numpy.load",
    "yaml.unsafe_load",
    "pip.main",
    "setuptools.setup",
    # Through a trusted package.
    "zztrusted.os.system",
    "zztrusted.os",
    "zztrusted.os.path.join",
    "zztrusted.subprocess.getoutput",
    "zztrusted.builtins.eval",
    "zztrusted.importlib.import_module",
    "zztrusted.alias",
    "zztrusted.run",
    "zztrusted.Popen",
    "zztrusted.getoutput",
    "zztrusted.half",
    "zztrusted.double",
    "zztrusted.evaluate",
    "zztrusted.bound",
    "zztrusted.Holder.run",
    "zztrusted.Holder.popen",
    "zztrusted.Holder.inner",
    "zztrusted.called",
    "zztrusted.table.get",
    # What runs code at the word of an argument.
    "zztrusted.dangerous.load",
    "zztrusted.dangerous.Loader",
    # Python's own back doors.
    "zztrusted.good.__globals__",
    "zztrusted.good.__globals__.os",
    "zztrusted.Good.__init__.__globals__",
    "zztrusted.Good.__class__.__base__.__subclasses__",
    "zztrusted.Good.__mro__",
    "zztrusted.__builtins__.eval",
    "zztrusted.__loader__.load_module",
    "zztrusted._private",
    # Strings that are no paths.
    "zztrusted..os.system",
    "zztrusted.os.system\n",
    "zztrusted.os.system()",
    "zztrusted.good;import os",
    ".os.system",
    "os.system.",
    "zztrusted/../os.system",
    "zztrusted.good\x00",
    "__import__('os').system",
]


@pytest.fixture
def watched(monkeypatch):
    """Record every way that an attack would show."""
    calls = []
    for module, name in [
        (os, "system"),
        (os, "popen"),
        (subprocess, "Popen"),
        (subprocess, "getoutput"),
        (builtins, "eval"),
        (builtins, "exec"),
    ]:
        monkeypatch.setattr(module, name, lambda *a, _n=name, **k: calls.append(_n))
    return calls


@pytest.mark.parametrize("path", CORPUS)
def test_the_corpus_of_attacks_is_refused_without_side_effects(trusted, registry, path):
    import zztrusted  # noqa: F401 - the package itself is harmless

    before = set(sys.modules)
    assert registry.get(path) is None
    assert path not in registry
    for cfg in (
        dict(type=path),
        dict(type=path, _scope_="zz_trust"),
        dict(type=f"zz_trust.{path}"),
    ):
        with pytest.raises((KeyError, NotFoundError)):
            registry.build(cfg)
    new = {name.partition(".")[0] for name in set(sys.modules) - before}
    assert not new & {
        "antigravity",
        "webbrowser",
        "pty",
        "code",
        "yaml",
        "pip",
        "setuptools",
        "ctypes",
    }


def test_refused_calls_are_never_made(trusted, registry, request):
    import zztrusted  # noqa: F401 - importing it runs `exec`, which is watched from now on

    watched = request.getfixturevalue("watched")
    for path in ("os.system", "zztrusted.run", "zztrusted.half", "builtins.eval"):
        with pytest.raises(KeyError):
            registry.build(dict(type=path, command="touch /tmp/zz"))
    assert watched == []


def test_the_error_says_why_and_what_to_do(trusted, registry):
    with pytest.raises(UntrustedError, match=r"--trust os or MMX_TRUST=os") as caught:
        registry.build(dict(type="os.system"))
    assert (caught.value.path, caught.value.package) == ("os.system", "os")
    with pytest.raises(UntrustedError, match="it leads to the module 'os', which is not trusted"):
        registry.build(dict(type="zztrusted.os.system"))
    with pytest.raises(UntrustedError, match=r"it leads to 'system' of 'posix'|'nt'"):
        registry.build(dict(type="zztrusted.run"))
    with pytest.raises(UntrustedError, match="can run code or programs at the word of an argument"):
        registry.build(dict(type="zztrusted.dangerous.load"))
    with pytest.raises(NotFoundError, match="'zztrusted' has no 'nothing'"):
        registry.build(dict(type="zztrusted.nothing"))


def test_classes_themselves_need_no_trust(registry):
    assert registry.build(dict(type=str, object=3)) == "3"


def test_the_user_adds_packages(site, registry, monkeypatch):
    site.package("zzmine", {"models.py": "class Net: pass", "private.py": "class P: pass"})
    assert registry.get("zzmine.models.Net") is None
    monkeypatch.setenv("MMX_TRUST", "other, zzmine")
    assert registry.get("zzmine.models.Net").__name__ == "Net"
    assert type(registry.build(dict(type="zzmine.models.Net"))).__name__ == "Net"
    monkeypatch.delenv("MMX_TRUST")
    assert registry.get("zzmine.models.Net") is None, "trust by the environment ends with it"
    with pytest.raises(UntrustedError):
        registry.build(dict(type="zzmine.models.Net"))
    trust.add("zzmine.models")
    assert registry.get("zzmine.models.Net").__name__ == "Net"
    assert registry.get("zzmine.private.P") is None


@pytest.mark.parametrize("name", ["", "a b", "a;b", ".a", "a.", "../x", 1])
def test_only_package_names_can_be_trusted(name):
    with pytest.raises(ValueError, match="is not the name of a package"):
        trust.add(name)


def test_an_import_error_inside_a_trusted_package_is_raised(trusted, registry):
    with pytest.raises(ModuleNotFoundError, match="zz_not_installed"):
        registry.get("zztrusted.broken.Thing")


def test_disguised_functions_are_judged_by_where_they_were_written(site, registry):
    site.package("zzevil", {"__init__.py": "def attack(): pass\nattack.__module__ = 'zzfine'"})
    site.package("zzfine", {"__init__.py": "from zzevil import attack"})
    trust.add("zzfine")
    assert registry.get("zzfine.attack") is None
