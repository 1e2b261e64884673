"""A scope with two names."""

from collections.abc import Iterator

import pytest

from mmx_registry import (
    ArgumentTypeError,
    DefaultScope,
    DuplicateScopeError,
    Registry,
    build_from_cfg,
    init_default_scope,
    scope,
)


@pytest.fixture(autouse=True)
def _aliased(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(scope, "_aliases", {})
    scope.alias_scope("old_root", "root")
    return


class Part:
    def __init__(self, inner: object = None) -> None:
        self.inner = inner


class Other(Part):
    pass


def tree() -> tuple[Registry[Part], Registry[Part]]:
    root: Registry[Part] = Registry("part", scope="root")
    child: Registry[Part] = Registry("part", scope="child", parent=root)
    root.register_module(name="Part", module=Part)
    child.register_module(name="Part", module=Other)
    return root, child


def test_a_prefix_may_be_either_name() -> None:
    root, child = tree()
    assert root.get("old_root.Part") is Part
    assert child.get("old_root.Part") is Part
    assert child.get("root.Part") is Part
    assert child.get("old_root.child.Part") is Other
    assert "old_root.Part" in child
    assert "old_root.Nothing" not in child


def test_a_config_may_bind_either_name() -> None:
    root, child = tree()
    assert type(root.build(dict(type="Part", _scope_="old_root"))) is Part
    assert type(child.build(dict(type="Part", _scope_="old_root"))) is Part
    assert type(build_from_cfg(dict(type="Part", _scope_="child"), root)) is Other


def test_the_default_scope_may_be_either_name_and_reads_as_written() -> None:
    root, child = tree()
    init_default_scope("old_root")
    bound = DefaultScope.get_current_instance()
    assert bound is not None
    assert "old_root" == bound.scope_name
    assert type(child.build(dict(type="Part"))) is Part
    with child.switch_scope_and_registry("old_root") as node:
        assert node is root
    with root.switch_scope_and_registry("old_root") as node:
        assert node is root


def test_a_registry_may_have_either_name_and_reads_as_written() -> None:
    root: Registry[Part] = Registry("part", scope="old_root")
    root.register_module(module=Part)
    assert "old_root" == root.scope
    assert root.get("root.Part") is root.get("old_root.Part") is Part
    parent: Registry[Part] = Registry("part", scope="above")
    child: Registry[Part] = Registry("part", scope="old_root", parent=parent)
    child.register_module(module=Other, name="Part")
    assert parent.get("root.Part") is parent.get("old_root.Part") is Other
    with child.switch_scope_and_registry("old_root") as node:
        assert node is child
    with pytest.raises(DuplicateScopeError, match="scope root exists in part registry"):
        Registry("part", scope="root", parent=parent)


def test_a_scope_may_answer_by_its_other_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scope, "_shown", {})
    root, child = tree()
    with pytest.raises(DuplicateScopeError, match="'child' does not stand for the scope 'root'"):
        scope.show_scope_as("root", "child")
    assert "root" == root.scope
    scope.show_scope_as("root", "old_root")
    assert ("old_root", "child") == (root.scope, child.scope)
    assert root.get("root.Part") is root.get("old_root.Part") is Part
    with pytest.raises(KeyError, match="Nothing is not in the old_root::part registry"):
        root.build(dict(type="Nothing"))


def test_declaring_the_same_again_is_nothing_new() -> None:
    scope.alias_scope("old_root", "root")
    assert ["old_root"] == scope.names_of_scope("root")
    assert "root" == scope.true_scope("old_root")
    assert "child" == scope.true_scope("child")


@pytest.mark.parametrize(
    ("name", "target", "message"),
    [
        ("old_root", "child", "stands for 'root' already, and cannot stand for 'child' too"),
        ("root", "child", "'root' cannot stand for 'child': a scope stands for another that"),
        ("child", "old_root", "'child' cannot stand for 'old_root'"),
        ("child", "child", "'child' cannot stand for 'child'"),
    ],
)
def test_names_do_not_form_chains(name: str, target: str, message: str) -> None:
    with pytest.raises(DuplicateScopeError, match=message):
        scope.alias_scope(name, target)


@pytest.mark.parametrize("bad", [None, "", 1])
def test_names_are_strings(bad: object) -> None:
    with pytest.raises(ArgumentTypeError, match="a scope must be a non-empty str"):
        scope.alias_scope(bad, "root")  # type: ignore[arg-type]  # the point
