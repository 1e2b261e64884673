"""What holds for every config."""

import copy
import math
import pickle
import string
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mmx.config import Config, ConfigDict, apply, content_hash, diff
from mmx.config.config_dict import CONFIG_METHODS
from mmx.config.merge import merge

QUICK = settings(max_examples=60, deadline=None)

names = st.text(string.ascii_letters + "_", min_size=1, max_size=6).filter(
    lambda name: name not in ("text", "filename") and not name.startswith("_")
)
keys = st.one_of(names, st.text(min_size=1, max_size=4).filter(lambda key: key.isprintable()))
floats = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(
    st.characters(
        blacklist_categories=("Cs", "Cc", "Co"), blacklist_characters="\u2028\u2029\x85\ufeff"
    ),
    max_size=12,
)
scalars = st.one_of(st.booleans(), st.integers(-(2**60), 2**60), floats, texts, st.just("{x}"))
with_none = st.one_of(scalars, st.none())


def nested(leaves, keys=keys, tuples=False):
    def containers(inner):
        options = [st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3)]
        if tuples:
            options.append(st.lists(inner, max_size=3).map(tuple))
        return st.one_of(*options)

    return st.recursive(leaves, containers, max_leaves=12)


def configs(leaves=with_none, tuples=False, keys=keys):
    return st.dictionaries(names, nested(leaves, keys, tuples), max_size=4)


def round_trip(settings_, suffix):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"c{suffix}")
        Config(settings_).dump(path)
        return Config.fromfile(path, use_environment_variables=False).to_dict()


def test_a_key_that_python_would_read_as_another_is_written_as_a_string():
    value = {"a": {"\u00b5": 1, "\ufb01": 2, "\u03bc": 3}, "\u00b5": 4, "\u03bc": 5}
    assert value == round_trip(value, ".py")


@QUICK
@given(configs(tuples=True, leaves=st.one_of(with_none, st.binary(max_size=4), st.just(math.inf))))
def test_python_reads_back(value):
    assert value == round_trip(value, ".py")


@QUICK
@given(configs(tuples=True))
def test_yaml_reads_back(value):
    assert value == round_trip(value, ".yaml")


@QUICK
@given(configs())
def test_json_reads_back(value):
    assert value == round_trip(value, ".json")


@QUICK
@given(configs(scalars))
def test_toml_reads_back(value):
    assert value == round_trip(value, ".toml")


@QUICK
@given(configs(tuples=True))
def test_copies_and_pickles_are_equal_and_apart(value):
    cfg = Config(value)
    for twin in (copy.deepcopy(cfg), pickle.loads(pickle.dumps(cfg)), Config(cfg.to_dict())):
        assert value == twin.to_dict() == cfg.to_dict()
        assert cfg == twin
        assert content_hash(cfg) == content_hash(twin)


@QUICK
@given(configs(tuples=True), configs(tuples=True))
def test_a_difference_applied_gives_the_other(first, second):
    assert Config(second) == apply(Config(first), diff(Config(first), Config(second)))
    assert second == apply(first, diff(first, second))
    assert [] == diff(first, copy.deepcopy(first))


@QUICK
@given(configs(), configs(), configs())
def test_merging_is_associative_where_it_is_defined(first, second, third):
    try:
        left = merge(third, merge(second, first))
        right = merge(merge(third, second), first)
    except TypeError:
        return
    if _kinds_agree(first, second, third):
        assert left == right


def _kinds_agree(*dicts):
    """A value that replaces a dict and is replaced by one makes the order count."""
    for key in set().union(*dicts):
        values = [d[key] for d in dicts if key in d]
        if len({isinstance(value, dict) for value in values}) > 1:
            return False
        if isinstance(values[0], dict) and not _kinds_agree(*values):
            return False
    return True


@QUICK
@given(configs(), configs())
def test_merging_changes_neither_side(first, second):
    before = copy.deepcopy((first, second))
    try:
        merged = merge(second, first)
    except TypeError:
        return
    assert before == (first, second)
    assert set(first) | set(second) == set(merged)


@QUICK
@given(configs())
def test_merging_nothing_changes_nothing(value):
    assert value == merge({}, value) == merge(value, {}) == merge(value, value)


@QUICK
@given(configs(tuples=True))
def test_attributes_are_items(value):
    cfg = ConfigDict(value)
    for key, item in value.items():
        assert item == cfg[key]
        if key not in dir(ConfigDict):
            assert item == getattr(cfg, key)


actions = st.lists(
    st.one_of(
        st.tuples(st.just("set"), names, nested(with_none)),
        st.tuples(
            st.just("attr"), names.filter(lambda n: n not in dir(ConfigDict)), nested(with_none)
        ),
        st.tuples(st.just("del"), names, st.none()),
        st.tuples(st.just("pop"), names, st.none()),
        st.tuples(st.just("setdefault"), names, nested(with_none)),
    ),
    max_size=12,
)


@QUICK
@given(actions)
@example([("set", "dump", "{x}")])
def test_a_config_dict_does_what_a_dict_does(actions):
    cfg, plain = ConfigDict(), {}
    for action, key, value in actions:
        if action == "set":
            cfg[key] = value
            plain[key] = value
        elif action == "attr":
            setattr(cfg, key, value)
            plain[key] = value
        elif action == "pop":
            assert plain.pop(key, None) == cfg.pop(key)
        elif action == "setdefault":
            assert plain.setdefault(key, value) == cfg.setdefault(key, value)
        elif key in plain:
            del cfg[key], plain[key]
    assert plain == cfg.to_dict() == dict(cfg)
    assert list(plain) == list(cfg)
    reachable = {key for key in plain if key not in dir(ConfigDict)}
    assert all(cfg[key] == getattr(cfg, key) for key in reachable)
    assert reachable - CONFIG_METHODS <= set(names_of(cfg))
    assert not [key for key in names_of(cfg) if key not in plain]


def names_of(cfg):
    return list(vars(cfg))


@pytest.mark.parametrize(
    "text", ["{{", "}}", "{{ fileDirname }}", "a: b", "- x", "1e-3", "null", "yes", ""]
)
def test_texts_that_look_like_something_else_read_back(text):
    for suffix in (".py", ".yaml", ".json", ".toml"):
        value = {"a": text, "b": [text], "c": {"d": text}}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"c{suffix}")
            Config(value).dump(path)
            again = Config.fromfile(path, use_predefined_variables=False)
        assert value == again.to_dict()
