"""The steps of reading a config under their MMEngine names."""

import ast

import pytest

from mmx.config import Config, ConfigParsingError


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def test_predefined_variables_are_replaced_in_a_copy(write, tmp_path):
    path = write("c.py", "a = '{{ fileDirname }}'\nb = '{{fileBasename}}{{ $X:1 }}'\n")
    Config._substitute_predefined_vars(path, str(tmp_path / "new.py"))
    assert f"a = '{tmp_path}'\nb = 'c.py{{{{ $X:1 }}}}'\n" == (tmp_path / "new.py").read_text()


def test_environment_variables_are_replaced_in_a_copy(write, tmp_path, monkeypatch):
    monkeypatch.setenv("MMX_SET", "5")
    monkeypatch.delenv("MMX_UNSET", raising=False)
    path = write("c.py", "a = '{{$MMX_SET:1}}'\nb = {{'$MMX_UNSET:2'}}\n")
    assert {"MMX_SET": "5"} == Config._substitute_env_variables(path, str(tmp_path / "new.py"))
    assert "a = '5'\nb = 2\n" == (tmp_path / "new.py").read_text()
    with pytest.raises(KeyError, match="`MMX_UNSET` cannot be found"):
        Config._substitute_env_variables(write("d.py", "a = '{{$MMX_UNSET:}}'"), "unused")


def test_values_of_bases_are_replaced_by_names_and_back(write, tmp_path):
    path = write("c.py", "a = {{_base_.x}}\nb = ['{{ _base_.y.z }}', 'n{{_base_.x}}']\n")
    names = Config._pre_substitute_base_vars(path, str(tmp_path / "new.py"))
    assert ["x", "x", "y.z"] == sorted(names.values())
    settings = {}
    exec((tmp_path / "new.py").read_text(), {}, settings)
    base = {"x": 5, "y": {"z": [1]}}
    assert {"a": 5, "b": [[1], "n5"]} == Config._substitute_base_vars(settings, names, base)
    assert (1,) == Config._substitute_base_vars((1,), names, base)


def test_base_files_are_listed(write):
    assert ["./a.py"] == Config._get_base_files(write("c.py", "_base_ = './a.py'\n"))
    assert ["a.py", "b.py"] == Config._get_base_files(write("d.py", "_base_ = ['a.py', 'b.py']\n"))
    assert [] == Config._get_base_files(write("e.py", "a = 1\n"))
    assert ["a.py"] == Config._get_base_files(write("c.json", '{"_base_": "a.py"}'))
    assert ["a.py"] == Config._get_base_files(write("c.yaml", "_base_: a.py\n"))
    with pytest.raises(ConfigParsingError, match=r"but got \.txt"):
        Config._get_base_files(write("c.txt", ""))


def test_syntax_is_validated(write):
    Config._validate_py_syntax(write("c.py", "a = 1\n"))
    with pytest.raises(SyntaxError, match="There are syntax errors in config file"):
        Config._validate_py_syntax(write("d.py", "a = (\n"))


def test_a_pure_python_config_is_parsed(write):
    write("base.py", "x = 1\n")
    path = write(
        "c.py",
        "from mmx.config import read_base\nwith read_base():\n    from .base import *\n"
        "import nowhere\na = dict(type=nowhere.Thing)\n",
    )
    settings, names = Config._parse_lazy_import(path)
    assert {"nowhere"} == names
    assert "nowhere.Thing" == settings._to_lazy_dict()["a"]["type"].dotted_path
    assert 1 == settings.x
    with open(path) as file:
        assert [".base"] == Config._get_base_modules(ast.parse(file.read()).body)


def test_dicts_become_config_dicts():
    assert 1 == Config._dict_to_config_dict({"a": [{"b": 1}]}).a[0].b
    assert 1 == Config._dict_to_config_dict_lazy({"a": [{"b": 1}]}).a[0].b
    scoped = Config._dict_to_config_dict({"a": {"type": "X"}}, "mmdet", has_scope=False)
    assert {"a": {"type": "X", "_scope_": "mmdet"}} == scoped
    Config._parse_scope(scoped)
    assert "mmdet" == scoped.a._scope_
