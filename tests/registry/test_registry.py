"""The table: registering, the tree, and arguments of wrong types."""

import pytest

from mmx_registry import (
    ArgumentTypeError,
    DuplicateError,
    DuplicateScopeError,
    Registry,
    build_from_cfg,
)


@pytest.fixture
def cats() -> Registry:
    return Registry("cat", scope="zoo")


def test_scope_is_that_of_the_defining_package_by_default():
    namespace = {"__name__": "farm.models.registry"}
    exec("from mmx_registry import Registry\nR = Registry('cow')", namespace)
    assert namespace["R"].scope == "farm"
    assert Registry("cat").scope == __name__.partition(".")[0]
    assert Registry.infer_scope() == __name__.partition(".")[0]


def test_decorator_without_a_name_registers_the_class_name(cats):
    @cats.register_module()
    class Siamese:
        pass

    assert Siamese is cats.get("Siamese")
    assert {"Siamese": Siamese} == cats.module_dict
    assert len(cats) == 1
    assert "Siamese" in cats
    assert "Persian" not in cats


def test_names_may_be_given_one_or_several(cats):
    @cats.register_module(name="one")
    @cats.register_module(name=["two", "three"])
    @cats.register_module(name=("four",))
    class Cat:
        pass

    assert cats.names() == ["four", "one", "three", "two"]
    assert "Cat" not in cats


def test_call_form_returns_the_object(cats):
    class Cat:
        pass

    assert cats.register_module(module=Cat) is Cat
    assert cats.register_module("Alias", module=Cat) is Cat
    assert cats.register_module("Other")(Cat) is Cat
    assert cats.names() == ["Alias", "Cat", "Other"]


def test_functions_are_registered_too(cats):
    @cats.register_module()
    def make(a=1):
        return a

    assert cats.build(dict(type="make", a=5)) == 5


def test_duplicate_names_both_owners_and_force_replaces(cats):
    class Cat:
        pass

    class Other:
        pass

    cats.register_module(module=Cat)
    with pytest.raises(DuplicateError, match=r"Cat is already registered in cat at .*") as caught:
        cats.register_module("Cat", module=Other)
    assert isinstance(caught.value, KeyError)
    assert (
        caught.value.key,
        caught.value.registry,
        caught.value.scope,
    ) == ("Cat", "cat", "zoo")
    assert "force=True" in str(caught.value)
    assert cats.get("Cat") is Cat
    cats.register_module("Cat", force=True, module=Other)
    assert cats.get("Cat") is Other


def test_a_list_with_a_taken_name_registers_nothing(cats):
    cats.register_module("taken", module=dict)
    with pytest.raises(DuplicateError):
        cats.register_module(["new", "taken"], module=list)
    assert cats.names() == ["taken"]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(name=1, module=dict), "name must be None, an instance of str, or a sequence of str"),
        (dict(name=["a", 1], module=dict), "name must be None, an instance of str"),
        (dict(force=1, module=dict), "force must be a boolean, but got <class 'int'>"),
        (dict(module=0), "module must be Callable, but got <class 'int'>"),
        (dict(module="Cat"), "module must be Callable, but got <class 'str'>"),
    ],
)
def test_registering_rejects_arguments_of_wrong_types(cats, kwargs, message):
    with pytest.raises(TypeError, match=message):
        cats.register_module(**kwargs)


def test_a_bare_decorator_is_rejected(cats):
    with pytest.raises(TypeError, match="name must be None"):

        @cats.register_module
        class Cat:
            pass


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(name=1), "name must be a str"),
        (dict(name="x", parent="MODELS"), "parent must be a Registry or None"),
        (dict(name="x", scope=1), "scope must be a str or None"),
        (dict(name="x", locations="pkg.models"), "locations must be a list of dotted module names"),
        (dict(name="x", locations=[1]), "locations must hold str only"),
        (dict(name="x", build_func=1), "build_func must be callable"),
    ],
)
def test_creating_rejects_arguments_of_wrong_types(kwargs, message):
    with pytest.raises(ArgumentTypeError, match=message) as caught:
        Registry(**kwargs)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, AssertionError)


def test_a_scope_with_a_dot_is_rejected():
    with pytest.raises(ValueError, match="holds a dot"):
        Registry("x", scope="a.b")


def test_two_children_of_one_scope_are_an_error_that_names_both(cats):
    Registry("cat", parent=cats, scope="wild")
    with pytest.raises(DuplicateScopeError, match="scope wild exists in cat registry") as caught:
        Registry("cat", parent=cats, scope="wild")
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, AssertionError)
    assert (__name__, __name__) == caught.value.owners


def test_tree_properties(cats):
    wild = Registry("cat", parent=cats, scope="wild")
    big = Registry("cat", parent=wild, scope="big")
    assert {"wild": wild} == cats.children
    assert wild is big.parent
    assert cats is big.root is cats.root
    assert cats.parent is None
    assert (big.name, big.scope) == ("cat", "big")
    assert big is cats._search_child("big")
    assert cats._search_child("none") is None


def test_child_inherits_the_build_function(cats):
    def build_cat(cfg, registry, *args, **kwargs):
        return cfg, registry

    parent = Registry("cat", build_func=build_cat, scope="p")
    child = Registry("cat", parent=parent, scope="c")
    assert build_cat is child.build_func
    assert ({"type": "x"}, child) == child.build({"type": "x"})
    assert build_from_cfg is cats.build_func
    own = Registry("cat", parent=parent, scope="own", build_func=build_from_cfg)
    assert build_from_cfg is own.build_func


def test_split_scope_key():
    assert Registry.split_scope_key("scope.Name") == ("scope", "Name")
    assert Registry.split_scope_key("a.b.C") == ("a", "b.C")
    assert Registry.split_scope_key("Name") == (None, "Name")


def test_repr_lists_names_and_objects(cats):
    cats.register_module("dict", module=dict)
    assert "Registry of cat" in repr(cats)
    # Of the form that MMEngine shows.
    assert (
        "     Registry of cat      \n"
        "┏━━━━━━━┳━━━━━━━━━━━━━━━━┓\n"
        "┃ Names ┃ Objects        ┃\n"
        "┡━━━━━━━╇━━━━━━━━━━━━━━━━┩\n"
        "│ dict  │ <class 'dict'> │\n"
        "└───────┴────────────────┘\n"
    ) == repr(cats)


def test_repr_breaks_a_long_name():
    long = Registry("optimizer wrapper constructor", scope="repr_scope")
    assert ["Registry of", "optimizer wrapper", "constructor"] == [
        line.strip() for line in repr(long).splitlines()[:3]
    ]


def test_get_rejects_what_is_no_string(cats):
    with pytest.raises(TypeError, match=r"The key argument of `Registry.get` must be a str"):
        cats.get(1)
    with pytest.raises(TypeError, match="must be a str"):
        cats.get([])
    assert 1 not in cats
    assert [] not in cats


def test_a_registration_made_later_shadows_what_was_found_before(cats):
    wild = Registry("cat", parent=cats, scope="wild")
    cats.register_module("Cat", module=dict)
    assert wild.get("Cat") is dict
    assert wild.build(dict(type="Cat")) == {}
    wild.register_module("Cat", module=list)
    assert wild.get("Cat") is list
    assert wild.build(dict(type="Cat")) == []
    assert cats.get("Cat") is dict
