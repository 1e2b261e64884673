"""Reading files: inheritance, templates, packages, formats, errors."""

import json
import pickle
import warnings

import pytest
import yaml

from mmx.config import Config, ConfigError, ConfigParsingError, list_configs, resolve_config_path


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_path_and_text_are_those_of_the_file(write):
    base = write("b/base.py", "a = 1\n")
    path = write("c.py", "_base_ = 'b/base.py'\nb = 2\n")
    cfg = Config.fromfile(path)
    assert str(path) == cfg.filename
    assert f"{base}\na = 1\n\n{path}\n_base_ = 'b/base.py'\nb = 2\n" == cfg.text


def test_a_home_directory_may_be_named(write, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    write("c.py", "a = 1\n")
    write("sub/d.py", "_base_ = '~/c.py'\n")
    assert 1 == Config.fromfile("~/sub/d.py").a


def test_a_base_may_use_what_stands_above_it(write):
    write("one.py", "a = 1\n")
    path = write(
        "c.py",
        "name = 'one'\nkinds = [name]\n_base_ = [f'./{k}.py' for k in kinds]\nb = _base_.a\n",
    )
    assert {"a": 1, "name": "one", "kinds": ["one"], "b": 1} == Config.fromfile(path).to_dict()


def test_code_above_the_base_runs_once(write):
    write("one.py", "a = 1\n")
    code = "import warnings\nwarnings.warn('ran')\n_base_ = 'one.py'\n"
    with pytest.warns(UserWarning, match="ran") as caught:
        Config.fromfile(write("c.py", code))
    assert 1 == len(caught)


def test_a_template_may_stand_above_the_base(write):
    write("one.py", "a = dict(b=[1, 2])\n")
    path = write("c.py", "x = {{_base_.a.b}}\ny = _base_.a.b[1]\n_base_ = 'one.py'\n")
    assert ([1, 2], 2) == (Config.fromfile(path).x, Config.fromfile(path).y)


def test_an_unbound_name_in_a_base_is_named(write):
    with pytest.raises(ConfigParsingError, match=r"c\.py:1: _base_ uses a name .* 'later'"):
        Config.fromfile(write("c.py", "_base_ = later\nlater = 'x.py'\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("_base_ = 3\n", r"c\.py:1: _base_ must be a path or a list of paths, but got 3"),
        ("_base_ = ['a.py', 4]\n", r"_base_ must be a path or a list of paths"),
        ("x = 1\n_base_ = 'c.py'\n", r"the file inherits from itself: .*c\.py -> .*c\.py"),
        ("_base_ = 'a.py'\n_base_ = 'b.py'\n", r"c\.py:2: _base_ is set twice, in line 1 too"),
        ("_base_ = 'http://x/y.py'\n", r"is remote; configs are read from local files only"),
        ("_base_ = 'a.txt'\n", r"its base 'a\.txt' does not exist"),
        ("a = {{_base_.x}}\n", r"\{\{_base_\.x\}\} is used, but the config has no _base_"),
        ("a = 1\x00\n", r"this is no valid Python"),
    ],
)
def test_wrong_files_say_what_is_wrong_where(write, text, message):
    with pytest.raises((ConfigError), match=message):
        Config.fromfile(write("c.py", text))


def test_bases_that_set_one_key_twice_are_both_named(write):
    write("one.py", "a = 1\n")
    write("two.py", "a = 2\n")
    with pytest.raises(KeyError, match=r"Duplicate keys: a; .*one\.py and .*two\.py both set 'a'"):
        Config.fromfile(write("c.py", "_base_ = ['one.py', 'two.py']\n"))


def test_a_missing_file_says_who_asked(write):
    with pytest.raises(FileNotFoundError, match=r"c\.py:2: its base '\./x\.py' does not exist"):
        Config.fromfile(write("c.py", "a = 1\n_base_ = './x.py'\n"))
    with pytest.raises(FileNotFoundError, match=r'nothing\.py" does not exist'):
        Config.fromfile("nothing.py")
    with pytest.raises(OSError, match="Only py/yml/yaml/json/toml type are supported now"):
        Config.fromfile(write("c.txt", "a"))


def test_errors_of_a_configs_code_say_where(write):
    with pytest.raises(ZeroDivisionError) as caught:
        Config.fromfile(write("c.py", "a = 1\n\nb = a / 0\n"))
    assert caught.value.__notes__[0].endswith("c.py:3")


def test_errors_of_merging_say_which_files(write):
    write("one.py", "a = dict(b=[1])\n")
    with pytest.raises(TypeError, match=r"b=\{'c': 1\} in child config .*\(At a\.b\.\)") as caught:
        Config.fromfile(write("c.py", "_base_ = 'one.py'\na = dict(b=dict(c=1))\n"))
    assert "onto one.py" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.json", '{"a": 1,\n b}', r"c\.json:2: this is no valid JSON"),
        ("c.yaml", "a: 1\nb: [", r"c\.yaml:\d: this is no valid YAML"),
        ("c.toml", "a = 1\nb = ", r"c\.toml: this is no valid TOML"),
        ("c.py", "a = 1\nb = (\n", r"c\.py:2: this is no valid Python: '\(' was never closed"),
    ],
)
def test_text_that_does_not_parse_is_a_syntax_error(write, name, text, message):
    with pytest.raises(SyntaxError, match=message) as caught:
        Config.fromfile(write(name, text))
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, RuntimeError)


# ------------------------------------------------------------------------ merging


def test_delete_never_stays(write):
    write("one.py", "a = dict(b=1, c=dict(d=1))\n")
    path = write(
        "c.py",
        "_base_ = 'one.py'\n"
        "a = dict(_delete_=True, e=dict(_delete_=True, f=[dict(_delete_=True, g=1)]))\n"
        "new = dict(x=dict(_delete_=True, y=1))\n_delete_ = True\n",
    )
    assert {"a": {"e": {"f": [{"g": 1}]}}, "new": {"x": {"y": 1}}} == (
        Config.fromfile(path).to_dict()
    )


def test_deprecated_configs_warn_and_name_the_new_one(write):
    write("old.py", "_deprecation_ = dict(expected='new.py', reference='https://x.org')\na = 1\n")
    path = write("c.py", "_base_ = 'old.py'\n")
    message = r"old\.py will be deprecated.*Please use new\.py instead.*https://x\.org"
    with pytest.warns(DeprecationWarning, match=message):
        cfg = Config.fromfile(path)
    assert {"a": 1} == cfg.to_dict()


# ------------------------------------------------------------------------ templates


@pytest.mark.parametrize(
    "value", ["it's", 'a "b"', "C:\\new\\table", "{x}}", "{{", "\\d+.*?[a-z]{2}", "ü"]
)
def test_environment_values_are_never_source_text(write, monkeypatch, value):
    monkeypatch.setenv("MMX_TEST_VALUE", value)
    for name, text in (
        ("c.py", "a = '{{$MMX_TEST_VALUE:}}/x'\nb = {{ $MMX_TEST_VALUE: 1 }}\n"),
        ("c.yaml", "a: '{{$MMX_TEST_VALUE:}}/x'\n"),
        ("c.json", '{"a": "{{$MMX_TEST_VALUE:}}/x"}'),
        ("c.toml", 'a = "{{$MMX_TEST_VALUE:}}/x"\n'),
    ):
        cfg = Config.fromfile(write(name, text))
        assert f"{value}/x" == cfg.a
        assert {"MMX_TEST_VALUE": value} == cfg.env_variables


def test_defaults_may_have_regex_characters_and_braces(write):
    text = "a = '{{$MMX_NOT_SET:s3://b/(.*)+\\d{2}}}'\nb = {{ $MMX_NOT_SET:{'x': {'y': 1}} }}\n"
    cfg = Config.fromfile(write("c.py", text))
    assert ("s3://b/(.*)+\\d{2}", {"x": {"y": 1}}) == (cfg.a, cfg.b.to_dict())


def test_templates_work_in_every_kind_of_string(write):
    text = (
        "a = r'{{ fileBasename }}\\n'\nb = f'{1}{{ fileExtname }}'\nc = '''\n{{fileBasename}}'''\n"
        "# {{ $MMX_NOT_SET_EITHER: }}\nd = {'{{ fileExtname }}': '{{fileExtname}}-{{fileExtname}}'}\n"
        "e = 'no {{ such }} thing'\n"
    )
    cfg = Config.fromfile(write("c.py", text))
    assert ("c.py\\n", "1.py", "\nc.py") == (cfg.a, cfg.b, cfg.c)
    assert {".py": ".py-.py"} == cfg.d.to_dict()
    assert "no {{ such }} thing" == cfg.e


def test_a_bases_value_may_be_part_of_a_text(write):
    write("one.py", "a = dict(b='x', n=3)\n")
    cfg = Config.fromfile(
        write("c.py", "_base_ = 'one.py'\nc = '{{_base_.a.b}}/{{ _base_.a.n }}'\n")
    )
    assert "x/3" == cfg.c
    cfg = Config.fromfile(write("c.yaml", "_base_: one.py\nc: '{{_base_.a.b}}/{{ _base_.a.n }}'\n"))
    assert "x/3" == cfg.c


def test_templates_can_be_left_alone(write, monkeypatch):
    monkeypatch.setenv("MMX_TEST_VALUE", "v")
    path = write("c.yaml", "a: '{{ fileBasename }}'\nb: '{{$MMX_TEST_VALUE:}}'\n")
    assert "{{ fileBasename }}" == Config.fromfile(path, use_predefined_variables=False).a
    assert "{{$MMX_TEST_VALUE:}}" == Config.fromfile(path, use_environment_variables=False).b


def test_a_template_in_a_base_path_is_replaced(write):
    write("sub/one.py", "a = 1\n")
    assert 1 == Config.fromfile(write("c.py", "_base_ = '{{fileDirname}}/sub/one.py'\n")).a
    assert 1 == Config.fromfile(write("c.yaml", "_base_: '{{fileDirname}}/sub/one.py'\n")).a


def test_bare_toml_and_json_templates_have_types(write):
    toml = "a = {{ $MMX_NOT_SET: 80 }}\nb = '{{ fileExtname }}'\nc = {{ fileExtname }}\n"
    assert (80, ".toml", ".toml") == tuple(Config.fromfile(write("c.toml", toml)).values())


def test_an_unset_variable_without_default_is_an_error(write):
    with pytest.raises(KeyError, match=r"`MMX_NOT_SET` cannot be found in `os\.environ`"):
        Config.fromfile(write("c.py", "a = '{{$MMX_NOT_SET:}}'\n"))


# ------------------------------------------------------------------------ strings


def test_text_is_read_in_every_format():
    for suffix, text in (
        (".py", "a = 1"),
        (".json", '{"a": 1}'),
        (".yaml", "a: 1"),
        (".yml", "a: 1"),
        (".toml", "a = 1"),
    ):
        cfg = Config.fromstring(text, suffix)
        assert (1, None) == (cfg.a, cfg.filename)


def test_an_unknown_format_is_an_os_error():
    for name in (".txt", "py"):
        with pytest.raises(OSError, match="Only py/yml/yaml/json/toml type are supported now"):
            Config.fromstring("a=1", name)


def test_python_text_under_another_format_is_noticed():
    with (
        pytest.warns(UserWarning, match='Please check "file_format"'),
        pytest.raises(SyntaxError) as caught,
    ):
        Config.fromstring("a = dict(b=1)", ".json")
    assert ['Please check "file_format", the file format may be .py'] == caught.value.__notes__


# ------------------------------------------------------------------------ packages


@pytest.fixture
def packages(write, tmp_path, monkeypatch):
    write("site/pkg_a/__init__.py", "raise RuntimeError('imported')\n")
    write(
        "site/pkg_a/configs/_base_/model.py",
        "model = dict(type='R', inner=dict(type='B'), own=dict(type='K', _scope_='other'))\n"
        "steps = [dict(type='P'), 3]\nplain = dict(a=dict(b=dict(type='Q')))\n",
    )
    write("site/pkg_a/configs/whole.py", "_base_ = './_base_/model.py'\nextra = dict(type='E')\n")
    write("site/pkg_b/__init__.py", "")
    write("site/pkg_b/.mim/configs/r/r18.py", "model = dict(type='M')\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    return tmp_path / "site"


def test_a_packages_config_is_found_without_importing_it(packages):
    assert str(packages / "pkg_a/configs/whole.py") == resolve_config_path("pkg_a::whole.py")
    assert resolve_config_path("pkg_a::whole.py") == resolve_config_path("pkg_a::whole")
    assert str(packages / "pkg_b/.mim/configs/r/r18.py") == resolve_config_path("pkg_b::r/r18")
    assert ["_base_/model.py", "whole.py"] == list_configs("pkg_a")
    assert "R" == Config.fromfile("pkg_a::whole.py").model.type


def test_another_packages_config_brings_its_scope(packages, write):
    path = write("c.py", "_base_ = 'pkg_a::whole.py'\nmodel = dict(inner=dict(depth=1))\n")
    cfg = Config.fromfile(path)
    assert {
        "type": "R",
        "inner": {"type": "B", "depth": 1},
        "own": {"type": "K", "_scope_": "other"},
        "_scope_": "pkg_a",
    } == cfg.model
    assert [{"type": "P", "_scope_": "pkg_a"}, 3] == cfg.steps
    assert {"type": "Q", "_scope_": "pkg_a"} == cfg.plain.a.b
    assert {"type": "E", "_scope_": "pkg_a"} == cfg.extra
    # As the main config it is in its own scope.
    assert "_scope_" not in Config.fromfile("pkg_a::whole.py").model


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("pkg_zz::a.py", ModuleNotFoundError, "'pkg_zz' is not installed"),
        (
            "pkg_a::hole.py",
            FileNotFoundError,
            r"pkg_a ships no config 'hole\.py'; did you mean pkg_a::whole",
        ),
        ("pkg_a::../__init__.py", FileNotFoundError, "is a path inside the package's configs"),
        ("pkg_a::/etc/x.py", FileNotFoundError, "is a path inside the package's configs"),
        ("::a.py", ConfigParsingError, "is no address of a package's config"),
    ],
)
def test_wrong_addresses_are_explained(packages, address, error, message):
    with pytest.raises(error, match=message):
        Config.fromfile(address)


def test_custom_imports_are_imported_unless_told_not_to(write, tmp_path, monkeypatch):
    write("my_parts_zz.py", "")
    monkeypatch.syspath_prepend(tmp_path)
    import sys

    path = write("c.py", "custom_imports = dict(imports=['my_parts_zz'])\n")
    Config.fromfile(path, import_custom_modules=False)
    assert "my_parts_zz" not in sys.modules
    Config.fromfile(path)
    assert sys.modules.pop("my_parts_zz")


def test_custom_imports_that_fail_say_so(write):
    text = "custom_imports = dict(imports=['no_zz'], allow_failed_imports=False)\n"
    with pytest.raises(ImportError, match="Failed to import custom modules from"):
        Config.fromfile(write("c.py", text))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Config.fromfile(write("c.py", text.replace("False", "True")))
    assert "no_zz" in str(caught[0].message)
    with pytest.raises(TypeError, match="custom_imports is a dict"):
        Config.fromfile(write("c.py", "custom_imports = ['json']\n"))


# ------------------------------------------------------------------------ as in MMEngine


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{'$MMX_UNSET:3'}}", 3),
        ('{{"$MMX_UNSET:3"}}', 3),
        ("{{'$MMX_UNSET:\"3\"'}}", "3"),
        ("{{ '$MMX_UNSET : some text' }}", "some text"),
        ("{{'$MMX_SET:3'}}", 5),
        ("{{'$MMX_SET:'}}", 5),
        ("'{{$MMX_SET:3}}'", "5"),
    ],
)
def test_a_variable_in_its_own_quotes_is_a_value(write, monkeypatch, text, expected):
    monkeypatch.setenv("MMX_SET", "5")
    monkeypatch.delenv("MMX_UNSET", raising=False)
    assert expected == Config.fromfile(write("c.py", f"a = {text}\n")).a


def test_a_variable_in_its_own_quotes_is_a_value_in_data_too(write, monkeypatch):
    monkeypatch.delenv("MMX_UNSET", raising=False)
    assert 3 == Config.fromfile(write("c.json", '{"a": {{"$MMX_UNSET:3"}}}')).a
    assert 3 == Config.fromfile(write("c.yaml", "a: {{'$MMX_UNSET:3'}}\n")).a


def test_double_braces_with_other_quoted_text_are_python(write):
    assert {"a"} == Config.fromfile(write("c.py", "k = {'b': {'a'}}\na = {*{'a'}}\n")).a
    with pytest.raises(TypeError, match="unhashable"):
        Config.fromfile(write("d.py", "a = {{'x'}}\n"))


def test_data_that_does_not_parse_raises_what_its_parser_raises(write):
    with pytest.raises(json.JSONDecodeError, match=r"c\.json:1: this is no valid JSON") as caught:
        Config.fromfile(write("c.json", "{"))
    assert ("{", 1, 2) == (caught.value.doc, caught.value.pos, caught.value.colno)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(caught.value), str(caught.value)) == (type(again), str(again))
    with pytest.raises(yaml.YAMLError, match=r"c\.yaml:1: this is no valid YAML"):
        Config.fromfile(write("c.yaml", "a: [1"))


@pytest.mark.parametrize("text", ["import base", "x = 1", "from . import base"])
def test_what_is_no_import_of_a_base_is_a_failed_assertion_too(write, text):
    path = write("c.py", f"from mmx.config import read_base\nwith read_base():\n    {text}\n")
    with pytest.raises(AssertionError, match=r"c\.py:3: "):
        Config.fromfile(path)


def test_days_survive_yaml_and_toml(write, tmp_path):
    cfg = Config.fromfile(write("c.yaml", "day: 2020-01-02\n"))
    for name in ("d.yaml", "d.toml"):
        cfg.dump(tmp_path / name)
        assert cfg == Config.fromfile(tmp_path / name)


def test_what_the_formatting_was_to_be_is_remembered(write):
    path = write("c.py", "a = 1\n")
    assert not Config.fromfile(path, format_python_code=False)._format_python_code
    assert Config.fromfile(path)._format_python_code
