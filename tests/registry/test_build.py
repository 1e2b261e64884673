"""Building from configs: arguments, scopes, own build functions, errors with their place."""

import abc
import asyncio
import contextvars
import logging
import threading
from collections import UserDict

import pytest

from mmx_registry import (
    ArgumentTypeError,
    ConfigKeyError,
    DefaultScope,
    NotFoundError,
    Registry,
    UnknownScopeError,
    build_from_cfg,
    config_path,
    init_default_scope,
)


class Part:
    def __init__(self, width=1, child=None):
        self.width = width
        self.child = child
        bound = DefaultScope.get_current_instance()
        self.scope = None if bound is None else bound.scope_name


@pytest.fixture
def parts() -> Registry:
    registry = Registry("part", scope="zz_root")
    registry.register_module(module=Part)
    return registry


@pytest.fixture
def child(parts) -> Registry:
    registry = Registry("part", parent=parts, scope="zz_child")
    registry.register_module("Own", module=type("Own", (Part,), {}))
    return registry


def notes(error: BaseException) -> str:
    return "\n".join(getattr(error, "__notes__", ()))


# --------------------------------------------------------------------------- arguments


def test_type_may_be_a_name_a_class_or_a_function(parts):
    assert parts.build(dict(type="Part", width=3)).width == 3
    assert parts.build(dict(type=Part, width=3)).width == 3
    assert parts.build(dict(type=lambda **kw: kw, a=1)) == {"a": 1}


def test_the_config_is_not_changed(parts):
    cfg = dict(type="Part", width=3, _scope_="zz_root")
    parts.build(cfg)
    assert dict(type="Part", width=3, _scope_="zz_root") == cfg


def test_default_args_fill_in_what_is_missing(parts):
    assert (
        (
            built := build_from_cfg(dict(type="Part", width=2), parts, dict(width=9, child="x"))
        ).width,
        built.child,
    ) == (2, "x")
    assert build_from_cfg({}, parts, dict(type="Part", width=9)).width == 9
    assert parts.build(dict(width=9), default_args=dict(type="Part")).width == 9


def test_any_mapping_is_a_config(parts):
    assert parts.build(UserDict(type="Part", width=4)).width == 4


def test_wrong_types_are_rejected(parts):
    with pytest.raises(
        TypeError, match="cfg should be a dict, ConfigDict or Config, but got <class 'int'>"
    ):
        parts.build(1)
    with pytest.raises(TypeError, match="cfg should be a dict"):
        parts.build("Part")
    with pytest.raises(
        TypeError, match=r"registry must be a mmx.Registry object, but got <class 'str'>"
    ):
        build_from_cfg(dict(type="Part"), "parts")
    with pytest.raises(
        TypeError, match="default_args should be a dict, ConfigDict, Config or None"
    ):
        build_from_cfg(dict(type="Part"), parts, default_args=1)
    with pytest.raises(TypeError, match="type must be a str or valid type, but got <class 'int'>"):
        parts.build(dict(type=1))
    with pytest.raises(
        ArgumentTypeError, match="type must be a str or valid type, but got <class 'NoneType'>"
    ):
        parts.build(dict(type=None))
    with pytest.raises(TypeError, match="scope_name should be a string"):
        parts.build(dict(type="Part", _scope_=1))


def test_a_config_without_type_is_rejected(parts):
    with pytest.raises(KeyError, match='must contain the key "type", but got') as caught:
        parts.build(dict(typ="Part"))
    assert isinstance(caught.value, ConfigKeyError)
    with pytest.raises(KeyError, match='must contain the key "type"'):
        parts.build({})


def test_a_class_may_say_how_it_is_built(parts):
    @parts.register_module()
    class Managed(Part):
        made = {}

        @classmethod
        def build_from_registry(cls, name, **kwargs):
            return cls.made.setdefault(name, cls(**kwargs))

    first = parts.build(dict(type="Managed", name="a", width=2))
    assert first is parts.build(dict(type="Managed", name="a"))
    assert first is parts.build(dict(type=Managed, name="a"))
    assert first.width == 2


def test_own_build_function_gets_the_registry():
    seen = []

    def build_part(cfg, registry, **kwargs):
        seen.append((registry.name, kwargs))
        cfg = cfg.copy()
        return registry.get(cfg.pop("type"))(**cfg)

    registry = Registry("part", build_func=build_part, scope="zz_own")
    registry.register_module(module=Part)
    assert registry.build(dict(type="Part", width=5), a=2).width == 5
    assert seen == [("part", {"a": 2})]


def test_the_node_switched_to_builds_in_its_own_way(parts):
    def build_part(cfg, registry, **kwargs):
        return ("mine", registry.scope, dict(cfg))

    other = Registry("part", parent=parts, scope="zz_other", build_func=build_part)
    assert ("mine", "zz_other", dict(type="X")) == other.build(dict(type="X"))
    assert ("mine", "zz_other", dict(type="X")) == parts.build(dict(type="X", _scope_="zz_other"))
    with DefaultScope.overwrite_default_scope("zz_other"):
        assert ("mine", "zz_other", dict(type="X")) == parts.build(dict(type="X"))
    assert parts.build(dict(type="Part")).width == 1
    assert other.build(dict(type="Part", _scope_="zz_root")).width == 1


# --------------------------------------------------------------------------- scopes


def test_scope_key_switches_for_this_object_and_what_it_builds(parts, child):
    @parts.register_module()
    class Outer:
        def __init__(self, inner):
            self.inner = parts.build(inner)

    cfg = dict(type="Outer", inner=dict(type="Own"), _scope_="zz_child")
    assert parts.build(cfg).inner.scope == "zz_child"
    assert DefaultScope.get_current_instance() is None
    with pytest.raises(NotFoundError, match="Own is not in the zz_root::part registry"):
        parts.build(dict(type="Outer", inner=dict(type="Own")))


def test_nested_scope_keys_come_back_in_order(parts, child):
    other = Registry("part", parent=parts, scope="zz_third")
    other.register_module("Third", module=type("Third", (Part,), {}))

    @parts.register_module()
    class Outer:
        def __init__(self, inner):
            self.before = DefaultScope.get_current_instance().scope_name
            self.inner = parts.build(inner)
            self.after = DefaultScope.get_current_instance().scope_name

    built = parts.build(
        dict(type="Outer", _scope_="zz_child", inner=dict(type="Third", _scope_="zz_third"))
    )
    assert (built.before, built.inner.scope, built.after) == ("zz_child", "zz_third", "zz_child")


def test_the_scope_is_restored_after_an_exception(parts, child):
    @child.register_module()
    class Breaks:
        def __init__(self):
            raise ValueError("broken")

    with DefaultScope.overwrite_default_scope("zz_root"):
        with pytest.raises(ValueError, match="broken"):
            parts.build(dict(type="Breaks", _scope_="zz_child"))
        assert DefaultScope.get_current_instance().scope_name == "zz_root"


def test_type_as_a_class_takes_the_scope_key(parts, child):
    assert parts.build(dict(type=Part, _scope_="zz_child")).scope == "zz_child"


def test_default_scope_decides_where_names_are_looked_up(parts, child):
    init_default_scope("zz_child")
    assert type(parts.build(dict(type="Own"))).__name__ == "Own"
    assert type(parts.build(dict(type="Part"))).__name__ == "Part"
    sibling = Registry("part", parent=parts, scope="zz_sibling")
    assert type(sibling.build(dict(type="Own"))).__name__ == "Own"
    assert type(sibling.build(dict(type="zz_child.Own"))).__name__ == "Own"


def test_a_scope_without_a_node_in_this_tree_changes_nothing(parts, child):
    unrelated = Registry("unrelated", scope="zz_unrelated")
    unrelated.register_module(module=Part)
    with DefaultScope.overwrite_default_scope("zz_child"):
        assert unrelated.build(dict(type="Part")).width == 1


def test_an_unknown_scope_is_an_error_that_lists_the_known_ones(parts, child):
    with pytest.raises(UnknownScopeError, match="there is no scope 'zz_chld'") as caught:
        parts.build(dict(type="Own", _scope_="zz_chld"))
    assert "Did you mean 'zz_child'?" in str(caught.value)
    assert "zz_root" in caught.value.known
    with (
        DefaultScope.overwrite_default_scope("zz_nowhere"),
        pytest.raises(KeyError, match="no installed plugin, package or registry declares it"),
    ):
        parts.build(dict(type="Part"))


def test_switch_scope_and_registry_yields_the_node(parts, child):
    with parts.switch_scope_and_registry("zz_child") as node:
        assert child is node
        assert DefaultScope.get_current_instance().scope_name == "zz_child"
        with child.switch_scope_and_registry("zz_root") as inner:
            assert parts is inner
        assert DefaultScope.get_current_instance().scope_name == "zz_child"
    with parts.switch_scope_and_registry(None) as node:
        assert parts is node


def test_default_scope_instances():
    assert DefaultScope.get_current_instance() is None
    first = DefaultScope.get_instance("zz_first", scope_name="a")
    assert (first.instance_name, first.scope_name) == ("zz_first", "a")
    assert first is DefaultScope.get_current_instance()
    second = DefaultScope.get_instance("zz_second", scope_name="b")
    assert second is DefaultScope.get_current_instance()
    assert first is DefaultScope.get_instance("zz_first")
    assert DefaultScope.check_instance_created("zz_first")
    assert not DefaultScope.check_instance_created("zz_none")
    with DefaultScope.overwrite_default_scope("c"):
        assert DefaultScope.get_current_instance().scope_name == "c"
    assert second is DefaultScope.get_current_instance()
    with pytest.raises(AssertionError, match="scope_name should be a string, but got 1"):
        DefaultScope.get_instance("zz_bad", scope_name=1)
    with pytest.raises(TypeError):
        DefaultScope("zz_only_a_name")


def test_emptying_the_table_of_scopes_unbinds_them(parts, child, monkeypatch):
    DefaultScope.get_instance("zz_first", scope_name="zz_child")
    monkeypatch.setattr(DefaultScope, "_instance_dict", {})
    assert DefaultScope.get_current_instance() is None
    with pytest.raises(KeyError, match="zz_root::part"):
        parts.build(dict(type="Own"))
    with DefaultScope.overwrite_default_scope("zz_child"):
        assert type(parts.build(dict(type="Own"))).__name__ == "Own"


def test_an_instance_that_exists_keeps_its_scope_with_a_warning():
    DefaultScope.get_instance("zz_first", scope_name="a")
    with pytest.warns(UserWarning, match="scope_name='b' is ignored"):
        assert DefaultScope.get_instance("zz_first", scope_name="b").scope_name == "a"


def test_init_default_scope_twice_changes_the_scope(caplog):
    init_default_scope("zz_one")
    init_default_scope("zz_two")
    assert DefaultScope.get_current_instance().scope_name == "zz_two"
    assert caplog.messages == []
    init_default_scope("zz_one")
    assert DefaultScope.get_current_instance().scope_name == "zz_one"
    assert 'The current default scope "zz_two" is not "zz_one"' in caplog.text


def test_threads_do_not_see_each_others_scope(parts, child):
    init_default_scope("zz_child")
    seen = {}

    def work(scope):
        seen[scope, "before"] = DefaultScope.get_current_instance()
        with DefaultScope.overwrite_default_scope(scope):
            seen[scope] = parts.build(dict(type="Part")).scope

    threads = [threading.Thread(target=work, args=(s,)) for s in ("zz_root", "zz_child")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen["zz_root"] == "zz_root"
    assert seen["zz_child"] == "zz_child"
    assert seen["zz_root", "before"] is None
    # A thread that shall inherit the scope is given a copy of the context.
    inherited = []
    context = contextvars.copy_context()
    thread = threading.Thread(
        target=lambda: inherited.append(context.run(lambda: parts.build(dict(type="Own")).scope))
    )
    thread.start()
    thread.join()
    assert inherited == ["zz_child"]


def test_asyncio_tasks_do_not_see_each_others_scope(parts, child):
    async def work(scope, name):
        with DefaultScope.overwrite_default_scope(scope):
            await asyncio.sleep(0)
            first = parts.build(dict(type=name)).scope
            await asyncio.sleep(0)
            return first, parts.build(dict(type=name)).scope

    async def main():
        return await asyncio.gather(work("zz_root", "Part"), work("zz_child", "Own"))

    assert asyncio.run(main()) == [("zz_root", "zz_root"), ("zz_child", "zz_child")]


def test_registries_of_one_name_under_different_roots_are_strangers():
    roots = [Registry("model", scope=s) for s in ("zz_r1", "zz_r2")]
    children = [Registry("model", parent=r, scope="zz_same") for r in roots]
    children[0].register_module("A", module=dict)
    children[1].register_module("A", module=list)
    for root, child, kind in zip(roots, children, (dict, list), strict=True):
        assert kind is root.get("zz_same.A")
        assert kind is type(root.build(dict(type="A", _scope_="zz_same")))
        assert child is root._search_child("zz_same")


# --------------------------------------------------------------------------- errors


def test_wrong_arguments_keep_the_type_error_and_say_what_is_accepted(parts):
    with pytest.raises(TypeError, match="unexpected keyword argument 'wdth'") as caught:
        parts.build(dict(type="Part", wdth=3))
    assert type(caught.value) is TypeError
    text = notes(caught.value)
    assert "while building the config: zz_root.Part" in text
    assert f"class {__name__}.Part ({__file__}:" in text
    assert "it accepts (width=1, child=None)" in text
    assert "it does not take 'wdth': did you mean 'width'?" in text


def test_missing_arguments_are_named(parts):
    def needs(a, b, *, c=3):
        return a

    parts.register_module(module=needs)
    with pytest.raises(TypeError) as caught:
        parts.build(dict(type="needs", a=1))
    assert "it needs 'b'" in notes(caught.value)
    assert "function" in notes(caught.value)


def test_an_abstract_class_cannot_be_built(parts):
    @parts.register_module()
    class Abstract(abc.ABC):
        @abc.abstractmethod
        def forward(self): ...

    with pytest.raises(TypeError, match="abstract") as caught:
        parts.build(dict(type="Abstract"))
    assert "zz_root.Abstract" in notes(caught.value)


@pytest.fixture
def nested(parts):
    @parts.register_module()
    class Model:
        def __init__(self, backbone, heads=()):
            self.backbone = parts.build(backbone)
            self.heads = [parts.build(head) for head in heads]

    @parts.register_module()
    class Backbone:
        def __init__(self, init_cfg=None):
            # A copy, as real code makes it.
            parts.build(dict(init_cfg))

    @parts.register_module()
    class Init:
        def __init__(self, value=0.0):
            if value != value:
                raise ValueError("value is not a number")

    return parts


def test_an_error_deep_in_a_config_shows_the_whole_path(nested):
    cfg = dict(type="Model", backbone=dict(type="Backbone", init_cfg=dict(type="Init", val=1)))
    with pytest.raises(TypeError) as caught, config_path("model"):
        nested.build(cfg)
    assert (
        "while building 'model.backbone.init_cfg' of the config: "
        "zz_root.Model > zz_root.Backbone > zz_root.Init" in notes(caught.value)
    )
    assert len(caught.value.__notes__) == 1, "one note that grows, not one for each level"


def test_the_line_of_a_python_config_is_told(nested, tmp_path):
    file = tmp_path / "config.py"
    file.write_text(
        "x = 1\n"
        "model = dict(\n"
        "    type='Model',\n"
        "    backbone=dict(type='Backbone', init_cfg=dict(type='Init')),\n"
        "    heads=[\n"
        "        dict(type='Backbone', init_cfg=dict(type='Init')),\n"
        "        {'type': 'Backbone',\n"
        "         'init_cfg': dict(type='Init', val=1)},\n"
        "    ],\n"
        ")\n"
    )
    namespace = {}
    exec(file.read_text(), namespace)
    with pytest.raises(TypeError) as caught, config_path("model", str(file)):
        nested.build(namespace["model"])
    assert "'model.heads[1].init_cfg'" in notes(caught.value)
    assert f"written in {file}:8" in notes(caught.value)
    with pytest.raises(TypeError) as caught, config_path("model", "config.yaml"):
        nested.build(namespace["model"])
    assert "written in config.yaml" in notes(caught.value)


def test_items_of_lists_have_their_index_in_the_path(nested):
    good = dict(type="Backbone", init_cfg=dict(type="Init"))
    bad = dict(type="Backbone", init_cfg=dict(type="Init", value=float("nan")))
    with pytest.raises(ValueError, match="not a number") as caught:
        nested.build(dict(type="Model", backbone=good, heads=[good, bad]))
    assert "'heads[1].init_cfg'" in notes(caught.value)


def test_a_name_not_found_deep_in_a_config_has_its_path_as_an_attribute(nested):
    cfg = dict(type="Model", backbone=dict(type="Backbne"))
    with pytest.raises(NotFoundError) as caught:
        nested.build(cfg)
    assert caught.value.config_path == "backbone"
    assert ("zz_root", "Backbone") in caught.value.near


def test_the_search_order_and_close_names_of_all_scopes_are_told(parts, child):
    child.register_module("ResNet", module=dict)
    with pytest.raises(NotFoundError) as caught:
        child.build(dict(type="Prt"))
    assert caught.value.searched == ("zz_child", "zz_root")
    assert "searched the scopes in this order: zz_child, zz_root" in str(caught.value)
    with pytest.raises(NotFoundError) as caught:
        parts.build(dict(type="ResNet"))
    assert "The name exists in another scope: write 'zz_child.ResNet'" in str(caught.value)
    with pytest.raises(
        NotFoundError, match="Reset is not in the zz_child::part registry"
    ) as caught:
        parts.build(dict(type="zz_child.Reset"))
    assert caught.value.near[0] == ("zz_child", "ResNet")


def test_what_is_not_callable_cannot_be_built(parts):
    from mmx_registry import trust

    trust.add("json")
    with pytest.raises(TypeError, match="which is neither a class nor a function"):
        parts.build(dict(type="json.decoder"))


def test_builds_are_logged_at_debug_only(parts, caplog):
    with caplog.at_level(logging.INFO, "mmx_registry"):
        parts.build(dict(type="Part"))
    assert caplog.messages == []
    parts.register_module("Fresh", module=Part)
    with caplog.at_level(logging.DEBUG, "mmx_registry"):
        parts.build(dict(type="Fresh"))
    assert [
        'Get class `Part` from "part" registry in "zz_root"',
        "An `Part` instance is built from registry, and its implementation can be found in "
        + __name__,
    ] == caplog.messages
