"""The dict that configs consist of."""

import copy
import pickle
from collections import OrderedDict

import pytest

from mmx.config import Config, ConfigDict, LazyObject
from mmx.config.config_dict import MissingKeyError


def test_is_a_dict_at_all_depths():
    cfg = ConfigDict(a=dict(b=[dict(c=1), (dict(d=2),)]), e=OrderedDict(f=3))
    assert isinstance(cfg, dict)
    assert type(cfg.a) is type(cfg.a.b[0]) is type(cfg.a.b[1][0]) is type(cfg.e) is ConfigDict
    assert (1, 2, 3) == (cfg.a.b[0].c, cfg.a.b[1][0].d, cfg["e"]["f"])


def test_dicts_of_a_class_of_their_own_stay():
    class Own(dict):
        pass

    assert type(ConfigDict(a=Own(x=1)).a) is Own


def test_the_source_is_copied():
    source = {"a": {"b": [1]}}
    cfg = ConfigDict(source)
    cfg.a.b.append(2)
    assert source == {"a": {"b": [1]}}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), {}),
        ((None,), {}),
        (([("a", 1)],), {"a": 1}),
        ((("a", 1),), {"a": 1}),
        (({"a": 1}, {"b": 2}), {"a": 1, "b": 2}),
        (({1: 2},), {1: 2}),
    ],
)
def test_is_made_from_what_dicts_are_made_from(arguments, expected):
    assert expected == ConfigDict(*arguments)


@pytest.mark.parametrize("argument", [3, [1]])
def test_other_arguments_are_type_errors(argument):
    with pytest.raises(TypeError):
        ConfigDict(argument)


def test_a_missing_attribute_and_a_missing_key_have_their_errors():
    cfg = ConfigDict(model=dict(depth=1))
    with pytest.raises(AttributeError, match="'ConfigDict' object has no attribute 'modl'"):
        _ = cfg.modl
    with pytest.raises(MissingKeyError) as caught:
        _ = cfg["modl"]
    assert caught.value.args == ("modl",)
    assert caught.value.__notes__ == ["did you mean 'model'?"]
    assert not hasattr(cfg, "nothing")


def test_a_key_with_a_methods_name_leaves_the_method_alone():
    cfg = ConfigDict(type="Collect", keys=["img"], items=1, pop=2, update=3, copy=4)
    assert ["type", "keys", "items", "pop", "update", "copy"] == list(cfg.keys())
    assert ["img"] == cfg["keys"]
    assert {**cfg} == dict(cfg) == cfg.to_dict()
    assert cfg.copy() == copy.deepcopy(cfg) == pickle.loads(pickle.dumps(cfg)) == cfg
    assert 2 == cfg.pop("pop")


def test_a_methods_name_cannot_be_set_as_attribute():
    with pytest.raises(AttributeError, match=r"'items' is read-only.*cfg\['items'\]"):
        ConfigDict().items = 3


def test_attributes_and_items_are_one():
    cfg = ConfigDict()
    cfg.a = {"b": [{"c": 1}]}
    cfg["d"] = {"e": 2}
    assert (1, 2) == (cfg["a"].b[0].c, cfg.d.e)
    del cfg.a
    assert "a" not in cfg
    del cfg["d"]
    assert not hasattr(cfg, "d")
    with pytest.raises(AttributeError, match="no attribute 'd'"):
        del cfg.d
    with pytest.raises(KeyError, match=r"^'ConfigDict' object has no attribute 'd'"):
        del cfg.d  # as in MMEngine
    with pytest.raises(KeyError):
        del cfg["d"]


def test_every_way_out_takes_the_attribute_along():
    cfg = ConfigDict(a=1, b=2, c=3, d=4)
    assert 1 == cfg.pop("a")
    assert ("d", 4) == cfg.popitem()
    assert not hasattr(cfg, "a")
    assert not hasattr(cfg, "d")
    cfg.clear()
    assert not hasattr(cfg, "b")
    assert {} == cfg


def test_every_way_in_brings_the_attribute_along():
    cfg = ConfigDict()
    cfg.update({"a": {"x": 1}}, b=2)
    cfg |= {"c": {"y": 3}}
    assert {"z": 4} == cfg.setdefault("d", {"z": 4})
    assert (1, 2, 3, 4) == (cfg.a.x, cfg.b, cfg.c.y, cfg.d.z)
    cfg.update([("e", {"w": 5})])
    assert 5 == cfg.e.w


def test_pop_and_get_have_none_as_default():
    cfg = ConfigDict(a=1)
    assert (None, None, 3) == (cfg.get("x"), cfg.pop("x"), cfg.pop("x", 3))


def test_update_goes_into_dicts():
    cfg = ConfigDict(a=dict(x=1, y=dict(z=1)))
    cfg.update(a=dict(y=dict(w=2)))
    assert {"a": {"x": 1, "y": {"z": 1, "w": 2}}} == cfg
    with pytest.raises(TypeError, match="update only accept one positional argument"):
        cfg.update({}, {})


def test_union_makes_a_config_dict():
    cfg = ConfigDict(a=dict(x=1))
    assert {"a": {"x": 1}, "b": {"y": 2}} == cfg | {"b": {"y": 2}}
    assert 2 == (cfg | {"b": {"y": 2}}).b.y
    assert ConfigDict is type({"b": 1} | cfg)
    assert {"a": {"x": 1}} == cfg


def test_merge_follows_the_rules_of_inheritance():
    cfg = ConfigDict(a=dict(x=1, y=dict(z=1)), b=[1])
    cfg.merge(dict(a=dict(y=dict(w=2)), b=[2]))
    assert {"a": {"x": 1, "y": {"z": 1, "w": 2}}, "b": [2]} == cfg
    cfg.merge(dict(a=dict(_delete_=True, q=1)))
    assert {"a": {"q": 1}, "b": [2]} == cfg
    cfg.merge(dict(_delete_=True, c=dict(_delete_=True, d=1)))
    assert {"c": {"d": 1}} == cfg
    with pytest.raises(TypeError, match="merged with a dict, but got int"):
        cfg.merge(3)


def test_a_shallow_copy_shares_and_a_deep_copy_does_not():
    cfg = ConfigDict(a=dict(b=[1]))
    assert cfg.copy().a is cfg.a
    assert copy.copy(cfg).a is cfg.a
    deep = cfg.deepcopy()
    deep.a.b.append(2)
    assert [1] == cfg.a.b


def test_deep_copies_and_pickles_keep_what_is_shared():
    shared = ConfigDict(x=1)
    cfg = ConfigDict()
    dict.update(cfg, a=shared, b=shared, c=[shared])
    for twin in (copy.deepcopy(cfg), pickle.loads(pickle.dumps(cfg))):
        assert twin["a"] is twin["b"] is twin["c"][0]


def test_deep_copies_of_cycles_end():
    cfg = ConfigDict(a=[])
    cfg.a.append(cfg)
    twin = copy.deepcopy(cfg)
    assert twin.a[0] is twin


def test_items_may_change_while_one_goes_over_them():
    cfg = ConfigDict(a=1, b=2)
    for key, _ in cfg.items():
        cfg.pop(key)
    assert {} == cfg


def test_there_is_no_hash():
    with pytest.raises(TypeError, match="unhashable"):
        hash(ConfigDict())


def test_fromkeys_makes_config_dicts():
    assert 1 == ConfigDict.fromkeys(["a"], {"x": 1}).a.x


def test_subclasses_are_kept():
    class Mine(ConfigDict):
        def total(self):
            return sum(self.values())

    cfg = Mine(a=1, b=2)
    assert 3 == cfg.total() == cfg.copy().total() == copy.deepcopy(cfg).total()
    assert type(Mine(a=dict(b=1)).a) is Mine
    cfg.lazy = LazyObject("json")
    assert isinstance(cfg, Mine)
    assert "json" == cfg.lazy.__name__


# ------------------------------------------------------------------------ lazy objects


@pytest.fixture
def lazy():
    return ConfigDict(
        a=LazyObject("json", "loads"),
        b=[LazyObject("json", "dumps")],
        c=dict(t=LazyObject("json")),
        n=1,
    )


def test_a_lazy_object_is_imported_on_access(lazy):
    import json

    assert json.loads is lazy.a is lazy["a"] is lazy.get("a") is dict(lazy)["a"] is {**lazy}["a"]
    assert json.loads is dict(lazy.items())["a"] is next(iter(lazy.values()))
    assert json is lazy.c.t
    assert json.loads is lazy.setdefault("a")
    assert json.loads is lazy.pop("a")
    assert "a" not in lazy
    assert 1 == lazy.n


def test_a_lazy_object_in_a_list_stays(lazy):
    assert LazyObject("json", "dumps") == lazy.b[0]


def test_lazy_objects_survive_copies_and_updates(lazy):
    other = ConfigDict(x=dict(y=2))
    other.update(lazy)
    twins = [lazy.copy(), copy.deepcopy(lazy), ConfigDict(lazy), pickle.loads(pickle.dumps(lazy))]
    for twin in [*twins, other]:
        assert LazyObject("json", "loads") == twin._to_lazy_dict()["a"]
        assert LazyObject("json") == twin._to_lazy_dict()["c"]["t"]
    assert all(lazy == twin for twin in twins)


def test_to_dict_gives_dotted_paths(lazy):
    expected = {"a": "json.loads", "b": ["json.dumps"], "c": {"t": "json"}, "n": 1}
    assert expected == lazy.to_dict()
    assert type(lazy.to_dict()["c"]) is dict


def test_nothing_is_imported_by_setting_and_copying():
    cfg = ConfigDict(a=LazyObject("no_such_module_zzz", "X", "here.py, line 3"))
    cfg.b = LazyObject("no_such_module_zzz")
    copy.deepcopy(cfg).update(c=1)
    with pytest.raises(
        ImportError, match=r"Failed to import no_such_module_zzz in here.py, line 3"
    ):
        _ = cfg.a
    with pytest.raises(AttributeError, match="no attribute 'x'"):
        _ = cfg.x


def test_a_missing_object_says_where_it_is_asked_for():
    with pytest.raises(ImportError, match="Failed to import nothing from json in here"):
        LazyObject("json", "nothing", "here").build()
    with pytest.raises(ImportError, match=r"Failed to import json\.nothing"):
        LazyObject("json").nothing.build()


def test_a_lazy_object_cannot_be_called():
    with pytest.raises(RuntimeError, match=r"json\.loads is called.*dict\(type=loads"):
        LazyObject("json", "loads")("1")
    with pytest.raises(RuntimeError, match=r"json\.decoder is called"):
        LazyObject("json").decoder()


@pytest.mark.parametrize("arguments", [(1,), ([1],), ([],), ("a", ["x"])])
def test_a_lazy_object_is_made_of_names(arguments):
    with pytest.raises(TypeError, match="should be"):
        LazyObject(*arguments)


def test_lazy_attributes_name_their_path():
    import xml.dom.minidom

    attribute = LazyObject(["xml", "xml.dom.minidom"]).dom.minidom.parse
    assert ("xml.dom.minidom", "xml.dom.minidom.parse", "parse") == (
        attribute.module,
        attribute.dotted_path,
        str(attribute),
    )
    assert xml.dom.minidom.parse is attribute.build()
    assert attribute == copy.deepcopy(attribute) == pickle.loads(pickle.dumps(attribute))
    assert hash(attribute) == hash(copy.deepcopy(attribute))


def test_a_config_sees_what_its_dict_becomes():
    cfg = Config(dict(a=1))
    cfg.b = LazyObject("json", "loads")
    cfg._cfg_dict.c = 3
    import json

    assert (json.loads, 3) == (cfg.b, cfg.c)
