"""The index: what parsing sees, what it imports, and its cache."""

import json
import multiprocessing.pool
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mmx_registry import NotDeliveredError, Registry, index
from mmx_registry.isolation import Site


def found(source: str, module: str = "pkg.mod") -> dict[str, str]:
    """Return name -> target of the registrations in a source."""
    return {row[0]: row[1] for row in index.scan_source(source, module, False)["found"]}


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("@MODELS.register_module()\nclass A: pass", {"A"}),
        ("@MODELS.register_module('B')\nclass A: pass", {"B"}),
        ("@MODELS.register_module(name='B', force=True)\nclass A: pass", {"B"}),
        ("@MODELS.register_module(name=['B', 'C'])\nclass A: pass", {"B", "C"}),
        ("@MODELS.register_module(('B', 'C'))\ndef f(): pass", {"B", "C"}),
        ("@MODELS.register_module(name=None)\nasync def f(): pass", {"f"}),
        ("@x\n@MODELS.register_module()\n@y\nclass A: pass", {"A"}),
        ("class A: pass\nMODELS.register_module(module=A)", {"A"}),
        ("class A: pass\nMODELS.register_module(name='B', module=A)", {"B"}),
        ("class A: pass\nMODELS.register_module('B', True, A)", {"B"}),
        ("from x import A\nMODELS.register_module('B', module=A)", {"B"}),
        ("class A: pass\nMODELS.register_module()(A)", {"A"}),
        ("class A: pass\nMODELS.register_module('B')(A)", {"B"}),
        ("class A: pass\nB = MODELS.register_module('B')(A)", {"B"}),
        ("class A: pass\nMODELS._register_module(A)", {"A"}),
        ("class A: pass\nMODELS._register_module(module=A, module_name=['B', 'C'])", {"B", "C"}),
        ("NAME = 'B'\n@MODELS.register_module(NAME)\nclass A: pass", {"B"}),
        ("NAMES = ['B', 'C']\n@MODELS.register_module(name=NAMES)\nclass A: pass", {"B", "C"}),
        ("reg = MODELS.register_module\n@reg()\nclass A: pass", {"A"}),
        ("M = MODELS\n@M.register_module()\nclass A: pass", {"A"}),
        ("if x:\n    @MODELS.register_module()\n    class A: pass", {"A"}),
        (
            "try:\n    import x\nexcept ImportError:\n    x = 0\nelse:\n    @MODELS.register_module()\n    class A: 0",
            {"A"},
        ),
        ("if TYPE_CHECKING:\n    @MODELS.register_module()\n    class A: pass", set()),
        ("# @MODELS.register_module()\nclass A: pass", set()),
    ],
)
def test_literal_registrations_are_seen(source, names):
    source = "from pkg.registry import MODELS\n" + source
    seen = found(source)
    assert names == set(seen)
    assert set(seen.values()) <= {"pkg.registry:MODELS"}


@pytest.mark.parametrize(
    ("line", "target"),
    [
        ("from pkg.registry import MODELS", "pkg.registry:MODELS"),
        ("from .registry import MODELS", "pkg.registry:MODELS"),
        ("from ..registry import MODELS", "registry:MODELS"),
        ("from pkg.registry import OTHER as MODELS", "pkg.registry:OTHER"),
        ("from . import MODELS", "pkg:MODELS"),
        ("MODELS = Registry('model')", "pkg.mod:MODELS"),
        ("import pkg.registry\nMODELS = pkg.registry.MODELS", "pkg:registry.MODELS"),
        ("import pkg.registry as r\nMODELS = r.MODELS", "pkg.registry:MODELS"),
    ],
)
def test_the_registry_of_a_registration_is_known(line, target):
    assert {"A": target} == found(f"{line}\n@MODELS.register_module()\nclass A: pass")


@pytest.mark.parametrize(
    "source",
    [
        "for n in dir(torch.optim):\n    MODELS.register_module(n, module=getattr(torch.optim, n))",
        "def register():\n    MODELS.register_module(module=X)\nregister()",
        "MODELS.register_module(module=make())",
        "MODELS.register_module(f'{x}', module=X)",
        "MODELS.register_module(name=names(), module=X)",
        "[MODELS.register_module(module=x) for x in things]",
        "register_all(MODELS)",
        "MODELS.register_module(**options)",
        "from x import A as B\nMODELS.register_module(module=B)",
    ],
)
def test_computed_registrations_make_a_file_opaque(source):
    scan = index.scan_source(f"from pkg.registry import MODELS\n{source}", "pkg.mod", False)
    assert "pkg.registry:MODELS" in {target for target, _ in scan["opaque"]}


def test_a_file_that_does_not_parse_is_reported_and_left_to_the_import():
    scan = index.scan_source("MODELS.register_module(\n", "pkg.mod", False)
    assert "SyntaxError" in scan["error"]
    assert scan["opaque"] == [["", 1]]


def test_only_the_file_of_the_name_is_imported(site, root):
    site.write({"rootpkg/parts/other.py": "raise RuntimeError('must not be imported')"})
    assert root.names() == ["Base"]
    assert "rootpkg.parts.base" not in sys.modules
    assert "Base" in root
    assert "rootpkg.parts.base" not in sys.modules, "`in` imports nothing that parsing can tell"
    assert root.build(dict(type="Base", width=4)).width == 4
    assert "rootpkg.parts.base" in sys.modules
    assert "rootpkg.parts.other" not in sys.modules


def test_dropping_a_file_into_a_location_registers_it(site, root):
    site.write(
        {
            "rootpkg/parts/deep/__init__.py": "",
            "rootpkg/parts/deep/new.py": """
            from ...registry import MODELS as M
            @M.register_module(name=['New', 'Alias'])
            class New: pass
            """,
        }
    )
    assert root.names() == ["Alias", "Base", "New"]
    assert root.get("Alias").__name__ == "New"


def test_two_registries_may_share_a_location(site, root):
    site.write(
        {
            "rootpkg/parts/both.py": """
            from rootpkg.registry import HOOKS, MODELS
            @MODELS.register_module()
            class M: pass
            @HOOKS.register_module()
            class H: pass
            """
        }
    )
    from rootpkg.registry import HOOKS

    assert HOOKS.names() == ["H"]
    assert root.names() == ["Base", "M"]
    assert HOOKS.get("M") is None
    assert HOOKS.get("H").__name__ == "H"


def test_computed_names_are_found_by_importing_their_file_only(site, root):
    site.write(
        {
            "rootpkg/parts/computed.py": """
            from rootpkg.registry import MODELS
            for name in ('One', 'Two'):
                MODELS.register_module(name, module=type(name, (), {}))
            """,
            "rootpkg/parts/silent.py": "raise RuntimeError('must not be imported')",
        }
    )
    assert root.names() == ["Base"]
    assert "Two" in root
    assert root.get("One").__name__ == "One"
    assert root.names() == ["Base", "One", "Two"]


def test_registrations_without_a_trace_are_found_by_importing_the_location(site, root):
    site.write(
        {
            "rootpkg/parts/__init__.py": "import rootpkg.helper",
            "rootpkg/helper.py": """
            import rootpkg.registry as r
            def go(reg, **kw):
                getattr(reg, 'register' + '_module')(**kw)
            class Hidden: pass
            go(r.MODELS, module=Hidden)
            """,
        }
    )
    assert root.get("Hidden").__name__ == "Hidden"


def test_a_location_may_be_one_file(site):
    site.package(
        "single",
        {
            "registry.py": """
            from mmx_registry import Registry
            PARTS = Registry('part', scope='single', locations=['single.parts'])
            """,
            "parts.py": "from single.registry import PARTS\n@PARTS.register_module()\nclass P: pass",
        },
    )
    from single.registry import PARTS

    assert PARTS.names() == ["P"]
    assert PARTS.get("P").__name__ == "P"


def test_registries_and_parts_in_one_file_work(site):
    site.package(
        "alone",
        {
            "parts.py": """
            from mmx_registry import Registry
            PARTS = Registry('part', locations=['alone.parts'])
            @PARTS.register_module()
            class P: pass
            """
        },
    )
    from alone.parts import PARTS

    assert PARTS.scope == "alone"
    assert PARTS.get("P").__name__ == "P"
    assert PARTS.get("Q") is None


def test_zipped_packages_have_an_index(tmp_path, monkeypatch):
    archive = tmp_path / "zipped.zip"
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("zipped/__init__.py", "")
        out.writestr(
            "zipped/registry.py",
            "from mmx_registry import Registry\n"
            "PARTS = Registry('part', scope='zipped', locations=['zipped.parts'])",
        )
        out.writestr("zipped/parts/__init__.py", "")
        out.writestr(
            "zipped/parts/a.py",
            "from zipped.registry import PARTS\n@PARTS.register_module()\nclass P: pass",
        )
    monkeypatch.syspath_prepend(str(archive))
    from zipped.registry import PARTS

    try:
        assert PARTS.names() == ["P"]
        assert "zipped.parts.a" not in sys.modules
        assert PARTS.get("P").__name__ == "P"
    finally:
        for name in [n for n in sys.modules if n.partition(".")[0] == "zipped"]:
            del sys.modules[name]


def test_a_location_that_does_not_exist_raises_the_import_error():
    registry = Registry("part", scope="zz_none", locations=["zz_no_such_package.parts"])
    with pytest.raises(ModuleNotFoundError, match="zz_no_such_package"):
        registry.get("Anything")


def test_a_promise_that_the_import_does_not_keep_is_an_error(site, root):
    site.write(
        {
            "rootpkg/parts/liar.py": """
            from rootpkg.registry import MODELS
            @MODELS.register_module()
            class Liar: pass
            MODELS.module_dict.pop('Liar')
            """
        }
    )
    with pytest.raises(
        NotDeliveredError, match=r"liar.py:3 registers 'Liar' in the 'model'"
    ) as caught:
        root.get("Liar")
    assert caught.value.line == 3
    assert isinstance(caught.value, KeyError)


def test_a_conditional_registration_that_did_not_happen_says_so(site, root):
    site.write(
        {
            "rootpkg/parts/optional.py": """
            from rootpkg.registry import MODELS
            try:
                import zz_not_installed
            except ImportError:
                pass
            else:
                @MODELS.register_module()
                class Optional: pass
            """
        }
    )
    assert "Optional" not in root
    for _ in range(2):
        with pytest.raises(NotDeliveredError, match="is an optional package missing"):
            root.build(dict(type="Optional"))
    # A child with the same missing name does not hide the parent's.
    child = Registry("model", parent=root, scope="zz_c", locations=["rootpkg.parts"])
    assert child.get("Base").__name__ == "Base"


def test_an_import_error_in_the_file_is_raised_and_its_registrations_are_undone(site, root):
    site.write(
        {
            "rootpkg/parts/half.py": """
            from rootpkg.registry import MODELS
            @MODELS.register_module()
            class First: pass
            import zz_not_installed
            @MODELS.register_module()
            class Second: pass
            """
        }
    )
    for name in ("Second", "First", "First"):
        with pytest.raises(ModuleNotFoundError, match="zz_not_installed"):
            root.get(name)
    assert "First" not in root.module_dict
    assert root.get("Base").__name__ == "Base"


def test_a_broken_opaque_file_does_not_hide_other_names(site, root, caplog):
    site.write(
        {
            "rootpkg/parts/broken.py": "from rootpkg.registry import MODELS\nMODELS.register_module(\n"
        }
    )
    child = Registry("model", parent=root, scope="zz_c", locations=["rootpkg.parts"])
    root.register_module("There", module=dict)
    assert child.get("There") is dict
    assert "failed to import" in caplog.text
    with pytest.raises(SyntaxError):
        root.get("NotThere")


# --------------------------------------------------------------------------- the cache


def cache_files() -> list[Path]:
    return sorted(index.cache_directory().glob("*.json"))


def test_the_cache_is_used_and_follows_changes(site, root, monkeypatch):
    assert root.names() == ["Base"]
    assert len(cache_files()) == 1
    index.forget()
    scans = []
    scan = index.scan_source
    monkeypatch.setattr(index, "scan_source", lambda *a: scans.append(a[1]) or scan(*a))
    assert root.names() == ["Base"]
    assert scans == []
    site.write(
        {
            "rootpkg/parts/base.py": """
            from rootpkg.registry import MODELS
            MODELS.register_module('Changed', module=dict)
            """
        }
    )
    assert root.names() == ["Changed"]
    assert scans == ["rootpkg.parts.base"]
    (site.folder / "rootpkg/parts/base.py").unlink()
    index.forget()
    assert root.names() == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe\x00",
        b'{"x": 1}',
        b'{"x": [1, 2, {}]}',
        b'{"x": [1, 2, {"found": [["A", 1]], "opaque": [], "error": ""}]}',
        b'{"x": [1, 2, {"found": [[1,2,3,4,5]], "opaque": [], "error": ""}]}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_cache_is_only_slower(site, root, content):
    assert root.names() == ["Base"]
    (file,) = cache_files()
    file.write_bytes(content)
    index.forget()
    assert root.names() == ["Base"]
    json.loads(file.read_bytes())


def test_a_cache_that_cannot_be_written_is_only_slower(site, root, monkeypatch, tmp_path):
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the folder should be")
    monkeypatch.setenv("MMX_CACHE_DIR", str(blocked))
    assert root.names() == ["Base"]
    assert root.get("Base").__name__ == "Base"


def test_the_cache_directory_follows_the_environment(monkeypatch):
    monkeypatch.setenv("MMX_CACHE_DIR", "/somewhere")
    assert Path("/somewhere/registry-index") == index.cache_directory()
    monkeypatch.delenv("MMX_CACHE_DIR")
    if sys.platform.startswith("linux"):
        monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
        assert Path("/xdg/mmx/registry-index") == index.cache_directory()


def _index_in_process(folder: str, cache: str) -> list[str]:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from rootpkg.registry import MODELS\n"
        "print(','.join(MODELS.names()), MODELS.get('Part7').__name__)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, folder],
        capture_output=True,
        text=True,
        env={**os.environ, "MMX_CACHE_DIR": cache},
        check=True,
    )
    return result.stdout.split()


def test_several_processes_share_the_cache(site, root, tmp_path):
    site.write(
        {
            f"rootpkg/parts/part{i}.py": "from rootpkg.registry import MODELS\n"
            f"@MODELS.register_module()\nclass Part{i}: pass"
            for i in range(20)
        }
    )
    names = sorted(["Base", *(f"Part{i}" for i in range(20))])
    with multiprocessing.pool.ThreadPool(3) as pool:
        results = pool.starmap(
            _index_in_process, [(str(site.folder), str(tmp_path / "shared"))] * 6
        )
    assert [[",".join(names), "Part7"]] * 6 == results
    assert list((tmp_path / "shared").glob("**/*.tmp")) == []


def test_finding_a_module_imports_no_parent(site):
    site.package(
        "loud",
        {"__init__.py": "raise RuntimeError('imported')", "sub/__init__.py": "", "sub/mod.py": ""},
    )
    assert index.find_spec("loud.sub.mod").origin.endswith("mod.py")
    assert index.find_spec("loud.sub.none") is None
    assert index.find_spec("zz_none.sub") is None
    assert index.find_spec("json.decoder").name == "json.decoder"
    assert "loud" not in sys.modules


def test_namespace_packages_have_an_index(site):
    site.write(
        {
            "zzspace/inner/registry.py": """
            from mmx_registry import Registry
            PARTS = Registry('part', scope='zzspace', locations=['zzspace.inner.parts'])
            """,
            "zzspace/inner/parts/a.py": """
            from zzspace.inner.registry import PARTS
            @PARTS.register_module()
            class P: pass
            """,
        }
    )
    assert index.find_spec("zzspace.inner.parts.a").origin.endswith("a.py")
    assert set(index.index_of("zzspace.inner.parts").entries) == {"P"}
    assert "zzspace" not in sys.modules
    index.forget()
    from zzspace.inner.registry import PARTS

    assert PARTS.names() == ["P"]
    assert PARTS.get("P").__name__ == "P"


def test_packages_that_an_import_hook_finds_have_an_index(tmp_path, monkeypatch):
    """Editable installs of setuptools work so."""
    from importlib.util import spec_from_file_location

    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "registry.py").write_text(
        "from mmx_registry import Registry\n"
        "PARTS = Registry('part', scope='zzedit', locations=['zzedit.parts'])\n"
    )
    (folder / "parts.py").write_text(
        "from zzedit.registry import PARTS\n@PARTS.register_module()\nclass P: pass\n"
    )

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "zzedit":
                return spec_from_file_location(name, folder / "__init__.py")
            return None

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    assert set(index.index_of("zzedit.parts").entries) == {"P"}
    assert "zzedit" not in sys.modules
    from zzedit.registry import PARTS

    assert PARTS.get("P").__name__ == "P"
    for name in ("zzedit", "zzedit.registry", "zzedit.parts"):
        del sys.modules[name]


def test_site_is_left_as_it_was(tmp_path):
    before = list(sys.path)
    with Site(tmp_path) as site:
        site.package("passing", {"__init__.py": "X = 1"})
        import passing

        assert passing.X == 1
    assert before == sys.path
    assert "passing" not in sys.modules


def test_a_name_of_another_packages_registry_is_not_taken_for_ours(site, root):
    site.package(
        "zzforeign",
        {
            "registry.py": """
            from mmx_registry import Registry
            MODELS = Registry('model', scope='zzforeign')
            """
        },
    )
    site.write(
        {
            "rootpkg/parts/foreign.py": """
            from zzforeign.registry import MODELS
            @MODELS.register_module()
            class Foreign: pass
            """,
            "rootpkg/parts/star.py": """
            from rootpkg.registry import *
            @MODELS.register_module()
            class Star: pass
            """,
        }
    )
    assert root.names() == ["Base", "Star"]
    assert root.get("Foreign") is None
    assert root.get("Star").__name__ == "Star"
