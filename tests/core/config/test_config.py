"""A config as a container: access, copies, overrides, text."""

import copy
import pickle
import sys
from pathlib import Path

import pytest

from mmx.config import (
    ABSENT,
    Config,
    ConfigDict,
    ConfigError,
    apply,
    content_hash,
    diff,
    parse_overrides,
)


@pytest.fixture
def cfg():
    return Config(
        dict(
            model=dict(type="ResNet", depth=18, stages=[dict(k=1), dict(k=2)]),
            work_dir="runs",
            lr=0.1,
            scale=(1, 2),
        )
    )


def test_settings_are_attributes_and_items(cfg):
    assert (18, 18, 2) == (cfg.model.depth, cfg["model"]["depth"], cfg.model.stages[1].k)
    assert ["model", "work_dir", "lr", "scale"] == list(cfg) == list(cfg.keys())
    assert 4 == len(cfg)
    assert "model" in cfg
    assert {**cfg} == dict(cfg.items()) == cfg.to_dict()
    assert (None, 3) == (cfg.get("x"), cfg.get("x", 3))


def test_what_is_missing_has_the_usual_errors(cfg):
    with pytest.raises(AttributeError, match="no attribute 'modle'"):
        _ = cfg.modle
    with pytest.raises(KeyError, match="modle"):
        _ = cfg["modle"]
    with pytest.raises(AttributeError):
        del cfg.modle


def test_settings_may_change(cfg):
    cfg.new = dict(a=[dict(b=1)])
    cfg["other"] = dict(c=2)
    assert (1, 2) == (cfg.new.a[0].b, cfg.other.c)
    del cfg.new
    del cfg["other"]
    assert "new" not in cfg
    assert not hasattr(cfg, "other")
    cfg.update(dict(x=1), y=2)
    cfg.merge(dict(model=dict(depth=34)))
    assert (1, 2, 34, "ResNet") == (cfg.x, cfg.y, cfg.model.depth, cfg.model.type)
    assert 1 == cfg.pop("x")
    assert 5 == cfg.setdefault("z", 5) == cfg.z


@pytest.mark.parametrize("name", ["dump", "diff", "fromfile", "merge_from_dict", "items", "text"])
def test_a_setting_with_the_name_of_a_method_does_not_hide_it(name):
    cfg = Config(dict(a=1, b={name: 5}))
    cfg["c"] = {name: 6}
    assert (5, 6) == (cfg.b[name], cfg.c[name])
    if name != "text":
        cfg[name] = 7
        assert 7 == cfg[name]
        assert callable(getattr(cfg, name))
        assert callable(getattr(copy.deepcopy(cfg), name))


@pytest.mark.parametrize("key", ["filename", "text", "pretty_text", "env_variables"])
def test_reserved_keys_are_refused_at_the_top_only(key):
    with pytest.raises(KeyError, match=f"{key} is reserved for config file"):
        Config({key: 1})
    assert 1 == Config(dict(a={key: 1})).a[key]


def test_a_config_is_made_of_a_dict():
    with pytest.raises(TypeError, match="cfg_dict must be a dict, but got <class 'list'>"):
        Config([1])
    assert {} == Config().to_dict()
    inner = ConfigDict(a=1)
    assert inner is Config(inner)._cfg_dict


def test_the_representation_shows_path_and_settings():
    assert "Config (path: None): {'a': 1}" == repr(Config(dict(a=1)))


def test_copies(cfg):
    shallow, deep, pickled = copy.copy(cfg), copy.deepcopy(cfg), pickle.loads(pickle.dumps(cfg))
    assert cfg == shallow == deep == pickled == cfg.copy()
    assert shallow.model is cfg.model
    shallow.new = 1
    assert "new" not in cfg
    deep.model.depth = 1
    assert 18 == cfg.model.depth


def test_copies_know_file_and_text(tmp_path):
    path = tmp_path / "a.py"
    path.write_text("a = 1\n")
    cfg = Config.fromfile(path)
    for twin in (copy.copy(cfg), copy.deepcopy(cfg), pickle.loads(pickle.dumps(cfg))):
        assert (str(path), f"{path}\na = 1\n") == (twin.filename, twin.text)


def test_subclasses_are_kept():
    class Mine(Config):
        pass

    cfg = Mine(dict(a=1))
    assert type(copy.deepcopy(cfg)) is type(copy.copy(cfg)) is Mine


def test_there_is_no_hash_but_one_of_content(cfg):
    with pytest.raises(TypeError):
        hash(cfg)
    other = Config(dict(reversed(list(cfg.to_dict().items()))))
    assert content_hash(cfg) == content_hash(other) == content_hash(cfg.to_dict())
    other.lr = 0.2
    assert content_hash(cfg) != content_hash(other)


# ------------------------------------------------------------------------ overrides


def test_options_are_merged(cfg):
    cfg.merge_from_dict({"model.depth": 50, "model.stages.1.k": 7, "model.new.deep": 1})
    assert (50, 1, 7, 1) == (
        cfg.model.depth,
        cfg.model.stages[0].k,
        cfg.model.stages[1].k,
        cfg.model.new.deep,
    )
    cfg.merge_from_dict({"model.stages.-1": 5})
    assert 5 == cfg.model.stages[1]
    cfg.merge_from_dict({"model": dict(_delete_=True, type="VGG")})
    assert {"type": "VGG"} == cfg.model
    assert "VGG" == cfg.model.type


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lr.a": 1}, TypeError, r"lr=\{'a': 1\} in child config cannot inherit from base"),
        ({"model.stages.9.k": 1}, KeyError, r"Index 9 exceeds the length of list"),
        ({"model.stages.x": 1}, TypeError, r"model\.stages\.x: the base config has a list here"),
        ({"a.b": 1, "a.b.c": 2}, TypeError, r"'a\.b\.c' goes into 'b'"),
    ],
)
def test_options_that_do_not_fit_say_why(cfg, options, error, message):
    before = cfg.to_dict()
    with pytest.raises(error, match=message):
        cfg.merge_from_dict(options)
    assert before == cfg.to_dict()


def test_list_indices_can_be_switched_off(cfg):
    with pytest.raises(TypeError, match="cannot inherit from base"):
        cfg.merge_from_dict({"model.stages.0.k": 1}, allow_list_keys=False)


def test_overriding_leaves_the_options_and_copies_alone(cfg):
    twin = copy.copy(cfg)
    options = {"model.new": {"a": [1]}}
    cfg.merge_from_dict(options)
    cfg.model.new.a.append(2)
    assert {"model.new": {"a": [1]}} == options
    assert "new" not in twin.model


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ("model.depth=50", 50),
        ("model.type=50", "50"),
        ("model.type=a,b", "a,b"),
        ("model.type=[a,b]", ["a", "b"]),
        ("model.type='x y'", "x y"),
        ("model.type=None", None),
        ("lr=1", 1.0),
        ("lr=1e-3", 0.001),
        ("scale=3,4", (3, 4)),
        ("scale=[3,4]", (3, 4)),
        ("scale=5", (5,)),
        ("model.stages=1", [1]),
        ("model.stages.0.k=3", 3),
        ("brand_new=a,2", ["a", 2]),
        ("model.zzz.y=true", True),
    ],
)
def test_overrides_take_the_type_of_what_they_override(cfg, pair, expected):
    value = next(iter(parse_overrides(cfg, [pair]).values()))
    assert expected == value
    assert type(expected) is type(value)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("model.dpeth=1", r"'model\.dpeth': model has no 'dpeth'; did you mean 'depth'\?"),
        ("modle.depth=1", r"the config has no 'modle'; did you mean 'model'\?"),
        ("model.stages.7.k=1", r"model\.stages has 2 elements, so none with index 7"),
        ("model", r"an override is KEY=VALUE"),
        ("lr=[1,2", r"lr: Imbalanced brackets exist in \[1,2"),
    ],
)
def test_overrides_that_mean_nothing_are_errors(cfg, pair, message):
    with pytest.raises(ValueError, match=message):
        parse_overrides(cfg, [pair])


def test_a_new_argument_is_typed_by_its_annotation():
    cfg = Config(dict(hook=dict(type="CheckpointHook", interval=1)))
    options = parse_overrides(cfg, ["hook.out_dir=12", "hook.max_keep_ckpts=3"])
    assert {"hook.out_dir": "12", "hook.max_keep_ckpts": 3} == options
    with pytest.raises(KeyError, match="did you mean 'max_keep_ckpts'"):
        parse_overrides(cfg, ["hook.max_kep_ckpts=3"])


# ------------------------------------------------------------------------ text

TEXT = """\
model = dict(
    type='ResNet',
    depth=18,
    norm=dict(type='BN', requires_grad=True),
    stages=[
        dict(channels=64, blocks=3, stride=1, dilation=1),
        dict(channels=128, blocks=4, stride=2, dilation=1),
    ])
scale = (1333, 800)
single = (1, )
empty = dict()
nothing = None
odd = dict({1: 'x', 'a b': 2})
"""


def test_pretty_text_is_a_python_config():
    cfg = Config.fromstring(TEXT, ".py")
    assert TEXT == cfg.pretty_text == cfg.dump()


def test_values_without_a_literal_are_written_as_text_that_reads_back():
    cfg = Config(
        dict(a=float("inf"), b=float("-inf"), c={1, 2}, d=set(), e=frozenset({1}), f=b"x", g=1j)
    )
    assert cfg == Config.fromstring(cfg.pretty_text, ".py")


def test_names_that_are_no_python_names_are_written():
    cfg = Config({"a b": 1, "class": dict(x=1), "1": [2]})
    assert cfg == Config.fromstring(cfg.pretty_text, ".py")


@pytest.mark.parametrize("suffix", [".py", ".json", ".yaml", ".yml", ".toml"])
def test_a_dumped_file_reads_back(tmp_path, suffix):
    cfg = Config(dict(a=1, b=dict(c=[1.5, "x\ny", True], d=dict(e="ü'\"")), l=[]))
    path = tmp_path / f"out{suffix}"
    assert cfg.dump(path) is None
    again = Config.fromfile(path)
    assert cfg == again
    assert path.read_text(encoding="utf-8") == again.dump()


def test_yaml_keeps_tuples_and_json_makes_them_lists(tmp_path):
    cfg = Config(dict(a=(1, (2,)), s={1}))
    cfg.dump(tmp_path / "a.yaml")
    assert cfg == Config.fromfile(tmp_path / "a.yaml")
    cfg.dump(tmp_path / "a.json")
    assert {"a": [1, [2]], "s": [1]} == Config.fromfile(tmp_path / "a.json").to_dict()


@pytest.mark.parametrize(
    ("settings", "name", "message"),
    [
        (dict(a=dict(b=None)), "x.toml", r"a\.b is None, which TOML cannot express"),
        (dict(a=[object()]), "x.json", r"a\.0 is a object, which JSON cannot express"),
        (dict(a={(1, 2): 3}), "x.json", r"a has the key \(1, 2\), but keys in JSON are strings"),
    ],
)
def test_what_a_format_cannot_express_is_named(tmp_path, settings, name, message):
    with pytest.raises(ConfigError, match=message):
        Config(settings).dump(tmp_path / name)


def test_an_unknown_format_is_refused(tmp_path):
    with pytest.raises(TypeError, match="Unsupported format: txt"):
        Config(dict(a=1)).dump(tmp_path / "x.txt")


def test_diff_shows_lines():
    first, second = Config(dict(b=2, a=1)), Config(dict(a=1, b=3))
    expected = "--- \n\n+++ \n\n@@ -1,3 +1,3 @@\n\n a = 1\n-b = 2\n+b = 3\n \n\n"
    assert expected == Config.diff(first, second)
    assert "\n" == Config.diff(first, first)


def test_changes_are_values_with_keys(cfg):
    other = copy.deepcopy(cfg)
    other.model.depth = 50
    other.model.stages[1].k = "x"
    del other.lr
    other.new = dict(a=1)
    changes = diff(cfg, other)
    assert [
        ("model.depth", 18, 50),
        ("model.stages.1.k", 2, "x"),
        ("lr", 0.1, ABSENT),
        ("new", ABSENT, {"a": 1}),
    ] == [(change.key, change.old, change.new) for change in changes]
    assert ["~ model.depth = 18 -> 50", "- lr = 0.1", "+ new = {'a': 1}"] == [
        str(changes[i]) for i in (0, 2, 3)
    ]
    patched = apply(cfg, changes)
    assert other == patched
    assert 1 == patched.new.a


def test_kinds_of_numbers_and_sequences_are_told_apart():
    assert 3 == len(diff(dict(a=1, b=(1,), c=1), dict(a=True, b=[1], c=1.0)))
    assert [] == diff(dict(a=float("nan")), dict(a=float("nan")))


# ------------------------------------------------------------------------ auto_argparser


def test_the_arguments_of_a_config_are_options(tmp_path, monkeypatch):
    path = tmp_path / "a.py"
    path.write_text("a=1\nb=dict(c=2.5,d='x',e=True,f=[1,2],g=None,i=[])\nj=False\n")
    argv = ["prog", str(path), "--a", "5", "--b.c", "3", "--b.f", "4", "5", "--j"]
    monkeypatch.setattr(sys, "argv", argv)
    parser, cfg = Config.auto_argparser("what it does")
    assert 1 == cfg.a
    expected = {"config": str(path), "a": 5, "b.c": 3.0, "b.d": None, "b.e": False, "b.f": [4, 5]}
    assert {**expected, "j": True} == vars(parser.parse_args())
    assert "what it does" == parser.description


def test_mmengines_names_of_stages_work(tmp_path):
    path = tmp_path / "a.py"
    path.write_text("a = dict(b='{{ fileBasename }}')\n")
    assert ({"a": {"b": "a.py"}}, f"{path}\n{path.read_text()}", {}) == Config._file2dict(str(path))
    assert not Config._is_lazy_import(str(path))
    assert {"obj": {"a": 2}} == Config._merge_a_into_b(dict(obj=dict(a=2)), dict(obj=dict(a=1)))
    assert (str(Path("x", "b.py")), None) == Config._get_cfg_path("b.py", str(Path("x", "a.py")))


def test_the_public_names_are_documented_ones():
    from mmx.config.config import DictAction, LazyObject, read_base
    from mmx.config.utils import MODULE2PACKAGE, _get_package_and_cfg_path

    assert all((DictAction, LazyObject, read_base))
    assert "mmsegmentation" == MODULE2PACKAGE["mmseg"]
    assert ("mmdet", "x/y.py") == _get_package_and_cfg_path("mmdet::x/y.py")
    for address in ("x/y", "a::b::c", "::x", "a::"):
        with pytest.raises(ValueError, match="_get_package_and_cfg_path"):
            _get_package_and_cfg_path(address)


def test_a_bracket_that_encloses_nothing_is_text():
    from mmx.config import DictAction

    parse = DictAction._parse_iterable
    assert ["[1", "1]", "img(1).jpg", "a[0"] == [
        parse(text) for text in ("[1", "1]", "img(1).jpg", "a[0")
    ]
    for text in ("[1,2", "1,2)", "[(1]", "(1,]"):
        with pytest.raises(AssertionError, match="Imbalanced brackets"):
            parse(text)
