"""Pure-Python configs: bases by import, other imports when they are used."""

import subprocess
import sys
import textwrap

import pytest

from mmx.config import Config, ConfigParsingError, LazyObject


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    write(
        "base.py",
        """\
        from no_such_module_zzz import Thing

        part = dict(type=Thing, n=1, inner=dict(type=Thing))
        items = [1]


        def double(x):
            return 2 * x
        """,
    )
    return write


HEAD = "from mmx.config import read_base\n\n"


def test_nothing_is_imported_by_reading(write):
    path = write("c.py", HEAD + "with read_base():\n    from .base import *\npart.update(n=2)\n")
    cfg = Config.fromfile(path)
    expected = {"type": "no_such_module_zzz.Thing", "n": 2}
    assert {**expected, "inner": {"type": "no_such_module_zzz.Thing"}} == cfg.part.to_dict()
    assert LazyObject("no_such_module_zzz", "Thing") == cfg._to_lazy_dict()["part"]["type"]
    with pytest.raises(
        ImportError, match=r"Failed to import no_such_module_zzz in .*base\.py, line 1"
    ):
        _ = cfg.part.type


def test_torch_is_not_imported_by_a_config_that_names_it(tmp_path):
    path = tmp_path / "c.py"
    path.write_text("import torch.nn as nn\nfrom torch.optim import SGD\nm = dict(type=nn.ReLU)\n")
    code = (
        f"import sys; from mmx.config import Config; c = Config.fromfile({str(path)!r})\n"
        "c.pretty_text; import copy, pickle; pickle.loads(pickle.dumps(copy.deepcopy(c)))\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_imported_names_are_no_settings_but_can_be_had(write):
    path = write(
        "c.py", "import json\nimport xml.dom\nfrom no_zz import error_obj\nx = dict(t=1)\n"
    )
    cfg = Config.fromfile(path)
    assert ["x"] == list(cfg) == list(cfg.to_dict())
    assert {"error_obj": "no_zz.error_obj", "x": {"t": 1}} == cfg.to_dict(keep_imported=True)
    assert {"error_obj"} == cfg._imported_names
    with pytest.raises(ImportError, match="Failed to import no_zz in"):
        _ = cfg.error_obj
    with pytest.raises(AttributeError, match="no attribute 'y'"):
        _ = cfg.y


def test_a_top_level_lazy_object_is_imported_on_access(write):
    cfg = Config.fromfile(
        write("c.py", "import mmx\nloads = mmx.config.Config\nbad = mmx.nothing\n")
    )
    assert Config is cfg.loads is cfg["loads"]
    with pytest.raises(ImportError, match=r"Failed to import mmx\.nothing"):
        _ = cfg.bad


def test_helpers_of_bases_can_be_called(write):
    path = write("c.py", HEAD + "with read_base():\n    from .base import *\nx = double(4)\n")
    cfg = Config.fromfile(path)
    assert 8 == cfg.x
    assert "double" not in cfg
    path = write(
        "d.py", HEAD + "with read_base():\n    from .base import double as twice\nx = twice(1)\n"
    )
    assert {"x": 2} == Config.fromfile(path).to_dict()


def test_several_blocks_and_aliases(write):
    write("other.py", "a = dict(x=1)\nb = 2\n")
    path = write(
        "c.py",
        HEAD
        + "with read_base():\n    from .other import a as one\n    from .other import a\n"
        + "with read_base():\n    from .base import items\n"
        + "one.x = 5\nitems.append(a.x)\n",
    )
    assert {"one": {"x": 5}, "a": {"x": 5}, "items": [1, 5]} == Config.fromfile(path).to_dict()


def test_bases_in_packages_and_folders_above(write, tmp_path, monkeypatch):
    write("pkg_lazy_zz/__init__.py", "raise RuntimeError('imported')\n")
    write("pkg_lazy_zz/configs/base.py", "p = 1\n")
    write("pkg_lazy_zz/.mim/configs/mim.py", "q = 2\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = write(
        "deep/er/c.py",
        HEAD
        + "with read_base():\n    from pkg_lazy_zz.configs.base import *\n"
        + "    from pkg_lazy_zz.configs.mim import q\n    from ...base import items\n",
    )
    assert {"p": 1, "q": 2, "items": [1]} == Config.fromfile(path).to_dict()


def test_text_and_pure_python_configs_mix(write):
    write("text.py", "_base_ = 'text_base.py'\na = dict(y=2)\n")
    write("text_base.py", "a = dict(x=1)\n")
    lazy = write("c.py", HEAD + "with read_base():\n    from .text import *\na.z = 3\n")
    assert {"a": {"x": 1, "y": 2, "z": 3}} == Config.fromfile(lazy).to_dict()
    text = write("d.py", "_base_ = 'base.py'\npart = dict(n=7)\nitems = _base_.items + [2]\n")
    # `items` is a method of dicts, so it is had by its key.
    text.write_text(text.read_text().replace("_base_.items", "_base_['items']"))
    cfg = Config.fromfile(text)
    assert (7, [1, 2]) == (cfg.part.n, cfg["items"])
    assert LazyObject("no_such_module_zzz", "Thing") == cfg._to_lazy_dict()["part"]["type"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "with read_base():\n    from .base import *\n_base_ = 'x.py'\n",
            r"c\.py:3: `with read_base\(\):` and `_base_ =` \(line 5\) do not go together",
        ),
        ("with read_base():\n    x = 1\n", r"c\.py:4: Illegal syntax in config file! Only `from"),
        ("with read_base():\n    from .zz import a\n", r"c\.py:4: .*zz\.py not found! It means"),
        ("with read_base():\n    from no.zz import a\n", r"c\.py:4: .*incorrect module is defined"),
        ("from torch.nn import *\n", r"c\.py:3: Illegal syntax in config! `from xxx import \*`"),
        ("from .base import part\n", r"c\.py:3: `from \.base import .*belongs into"),
        (
            "def f():\n    with read_base():\n        from .base import *\nimport torch\n",
            r"c\.py:4: `with read_base\(\):` must stand at the top level",
        ),
        ("with read_base():\n    from .c import a\n", "the file inherits from itself"),
    ],
)
def test_imports_where_they_mean_nothing_name_line_and_rewrite(write, text, message):
    with pytest.raises(ConfigParsingError, match=message):
        Config.fromfile(write("c.py", HEAD + text))


def test_a_missing_name_of_a_base_has_a_near_one(write):
    text = HEAD + "with read_base():\n    from .base import prt\n"
    with pytest.raises(
        KeyError, match=r"c\.py:4: the base config \.base sets no 'prt'; did you mean 'part'"
    ):
        Config.fromfile(write("c.py", text))


def test_calling_what_is_not_imported_is_explained(write):
    text = "from torch.nn import Linear\nx = Linear(1, 2)\n"
    with pytest.raises(
        RuntimeError, match=r"torch\.nn\.Linear is called in .*dict\(type=Linear"
    ) as e:
        Config.fromfile(write("c.py", text))
    assert e.value.__notes__[0].endswith("c.py:2")


def test_the_kind_of_config_can_be_forced(write):
    path = write("c.py", "import mmx\nx = mmx.__version__\n")
    assert isinstance(Config.fromfile(path, lazy_import=False).x, str)
    lazy = write("d.py", HEAD + "with read_base():\n    from .base import *\n")
    with pytest.raises(
        ConfigParsingError, match=r"d\.py:3: `with read_base\(\):` needs lazy_import"
    ):
        Config.fromfile(lazy, lazy_import=False)
    text = write("e.py", "_base_ = 'base.py'\n")
    with pytest.raises(
        ConfigParsingError, match=r"`_base_ =` means nothing in a pure-Python config"
    ):
        Config.fromfile(text, lazy_import=True)


def test_a_dumped_config_reads_back_and_builds_the_same(write, tmp_path):
    cfg = Config.fromfile(
        write(
            "c.py", "from json import JSONDecoder\nimport mmx\nx = dict(type=mmx.config.Config)\n"
        )
    )
    cfg.dump(tmp_path / "out.py")
    assert {"x": {"type": "mmx.config.Config"}} == Config.fromfile(tmp_path / "out.py").to_dict()


def test_reading_with_a_bases_attributes_imports_nothing(write):
    text = "with read_base():\n    from .base import *\nkind = part.type\ncopy = dict(**part)\n"
    cfg = Config.fromfile(write("c.py", HEAD + text))
    assert LazyObject("no_such_module_zzz", "Thing") == cfg._to_lazy_dict()["kind"]
    assert LazyObject("no_such_module_zzz", "Thing") == cfg._to_lazy_dict()["copy"]["type"]
