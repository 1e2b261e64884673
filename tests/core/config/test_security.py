"""Text formats cannot run code (S1)."""

import json

import pytest

from mmx.config import Config, ConfigError, ConfigParsingError


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def canary(tmp_path):
    return tmp_path / "canary"


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system ['touch {}']",
        "!!python/object/new:os.system ['touch {}']",
        "!!python/name:os.system",
        "!!python/module:os",
        "!!python/object:builtins.object {{}}",
    ],
)
def test_yaml_tags_run_nothing(write, canary, tag):
    with pytest.raises(ConfigParsingError, match="no valid YAML, or more than data"):
        Config.fromfile(write("c.yaml", f"a: {tag.format(canary)}\n"))
    assert not canary.exists()


CODE = [
    "import os\nos.system('touch {}')\n",
    "x = __import__('os').system('touch {}')\n",
    "x = open('{}', 'w')\n",
    "x = [open('{}', 'w') for _ in [1]]\n",
    "x = (lambda: open('{}', 'w'))()\n",
    "x = dict(a=open('{}', 'w'))\n",
    "x = f\"{{open('{}', 'w')}}\"\n",
    "x = f\"{{''.__class__}}\"\n",
    "x = ().__class__.__bases__[0].__subclasses__()\n",
    "dict = open\nx = dict('{}', 'w')\n",
    "def f():\n    pass\n",
    "class A:\n    open('{}', 'w')\n",
    "with open('{}', 'w'):\n    pass\n",
    "x = 9 ** 9 ** 9\n",
    "x = [0] * 10 ** 9\n",
    "x = 'a' * 1000000000\n",
    "x = (y := 3)\n",
    "x = __builtins__\n",
    "x = __mmx_template__\n",
    "assert open('{}', 'w')\n",
    "x: open('{}', 'w') = y\n",
    "@open\ndef f(): pass\n",
    "from mmx.config import read_base\nwith read_base():\n    from .evil import *\n",
]


@pytest.mark.parametrize("code", CODE)
@pytest.mark.parametrize("suffix", [".json", ".yaml", ".toml"])
def test_a_python_base_of_a_text_config_is_not_run(write, canary, code, suffix):
    write("base.py", code.format(canary))
    write("evil.py", f"open({str(canary)!r}, 'w')\n")
    text = {
        ".json": '{"_base_": "base.py"}',
        ".yaml": "_base_: base.py",
        ".toml": '_base_ = "base.py"',
    }
    with pytest.raises(ConfigError):
        Config.fromfile(write(f"c{suffix}", text[suffix]))
    assert not canary.exists()


def test_code_behind_several_bases_is_not_run(write, canary):
    write("evil.py", f"open({str(canary)!r}, 'w')\n")
    write("b.py", "_base_ = 'evil.py'\na = 1\n")
    write("a.yaml", "_base_: ./b.py\n")
    with pytest.raises(ConfigParsingError, match=r"evil\.py:1: this is code .*may hold data only"):
        Config.fromfile(write("c.json", '{"_base_": "a.yaml"}'))
    assert not canary.exists()


def test_a_base_that_is_data_may_be_python(write):
    write(
        "base.py",
        '"""What it is."""\n'
        "_base_ = ['root.py']\nlr: float = 0.1 * 2\nname = f'x{3}'\n"
        "steps = [dict(type='A', n=-1), *[1, 2]]\n"
        "model = dict(dict(a=1), b=(1, ), **dict(c={'d': None}))\n"
        "path = '{{ fileBasename }}'\nfrom_root = {{_base_.r.x}}\nother = _base_.r\n"
        "pick = steps[0]['type'] if True else 3\nlong = [0] * 3 + [1]\n",
    )
    write("root.py", "r = dict(x=5)\n")
    cfg = Config.fromfile(write("c.yaml", "_base_: base.py\nmodel: {b: 7}\n"))
    assert (0.2, "x3", "A", 5, "base.py") == (cfg.lr, cfg.name, cfg.pick, cfg.from_root, cfg.path)
    assert {"a": 1, "b": 7, "c": {"d": None}} == cfg.model
    assert ([{"type": "A", "n": -1}, 1, 2], [0, 0, 0, 1]) == (cfg.steps, cfg.long)


def test_the_same_base_runs_under_a_python_config(write):
    write("base.py", "import os\nx = os.sep\n")
    assert "/" == Config.fromfile(write("c.py", "_base_ = 'base.py'\n")).x


@pytest.mark.parametrize("module", ["os", "my_project.models", "subprocess", "logging.os"])
@pytest.mark.parametrize("suffix", [".json", ".yaml", ".py"])
def test_a_text_config_imports_trusted_packages_only(write, module, suffix):
    settings = {"custom_imports": {"imports": [module]}}
    text = {
        ".json": json.dumps(settings),
        ".yaml": f"custom_imports: {{imports: [{module}]}}",
        ".py": f"custom_imports = {settings['custom_imports']}",
    }
    path = write(f"b{suffix}", text[suffix])
    if suffix == ".py":
        path = write("c.yaml", "_base_: b.py\n")
    with pytest.raises(ConfigParsingError, match=f"custom_imports names '{module}', .*MMX_TRUST="):
        Config.fromfile(path)
    # Nor does a Python config that inherits it.
    if suffix != ".py":
        with pytest.raises(ConfigParsingError, match="custom_imports names"):
            Config.fromfile(write("d.py", f"_base_ = 'b{suffix}'\n"))


def test_trusted_packages_may_be_imported(write, monkeypatch):
    path = write("c.json", '{"custom_imports": {"imports": "mmx.utils"}}')
    assert "mmx.utils" == Config.fromfile(path).custom_imports.imports
    path = write("d.json", '{"custom_imports": {"imports": ["json"]}}')
    monkeypatch.setenv("MMX_TRUST", "json")
    assert ["json"] == Config.fromfile(path).custom_imports.imports


def test_environment_values_inject_nothing(write, monkeypatch, canary):
    evil = (
        '1}, "_base_": "evil.py", "x": {"y": "\n_base_: evil.py\n'
        f"!!python/object/apply:os.system ['touch {canary}']"
    )
    monkeypatch.setenv("MMX_TEST_VALUE", evil)
    write("evil.py", f"open({str(canary)!r}, 'w')\n")
    for name, text in (
        ("c.json", '{"a": {{ $MMX_TEST_VALUE:1 }}, "b": "{{$MMX_TEST_VALUE:}}"}'),
        ("c.yaml", "a: {{ $MMX_TEST_VALUE:1 }}\nb: '{{$MMX_TEST_VALUE:}}'\n"),
        ("c.toml", "a = {{ $MMX_TEST_VALUE:1 }}\nb = '{{$MMX_TEST_VALUE:}}'\n"),
        ("c.py", "a = {{ $MMX_TEST_VALUE:1 }}\nb = '{{$MMX_TEST_VALUE:}}'\n"),
    ):
        cfg = Config.fromfile(write(name, text))
        assert (evil, evil, {"a", "b"}) == (cfg.a, cfg.b, set(cfg))
    assert not canary.exists()


def test_a_dotted_type_of_a_text_config_is_only_text(write):
    cfg = Config.fromfile(write("c.json", '{"model": {"type": "os.system", "command": "true"}}'))
    assert "os.system" == cfg.model.type
    from mmx.config.check import check_config

    assert any("os.system" in str(finding) for finding in check_config(cfg) if finding.is_error)


def test_billions_of_laughs_are_only_references(write):
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 12)]
    assert 2 == len(Config.fromfile(write("c.yaml", "\n".join(lines))).a11)
