"""The search order, by example and against a slow and obvious reference."""

import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmx_registry import Registry


class Tree:
    """Dogs: root, hounds and samoyeds below it, two small ones below hounds."""

    def __init__(self) -> None:
        self.dogs = Registry("dog", scope="dog")
        self.hounds = Registry("hound", parent=self.dogs, scope="hound")
        self.samoyeds = Registry("samoyed", parent=self.dogs, scope="samoyed")
        self.little_hounds = Registry("little", parent=self.hounds, scope="little_hound")
        self.mid_hounds = Registry("mid", parent=self.hounds, scope="mid_hound")
        self.little_samoyeds = Registry("little", parent=self.samoyeds, scope="little_samoyed")
        for registry, name in [
            (self.dogs, "Retriever"),
            (self.hounds, "Bloodhound"),
            (self.samoyeds, "Pedigree"),
            (self.little_hounds, "Dachshund"),
            (self.mid_hounds, "Beagle"),
            (self.little_samoyeds, "Tiny"),
        ]:
            registry.register_module(name, module=type(name, (), {}))


@pytest.fixture
def tree() -> Tree:
    return Tree()


@pytest.mark.parametrize(
    ("start", "key", "owner", "name"),
    [
        ("dogs", "Retriever", "dogs", "Retriever"),
        ("dogs", "hound.Bloodhound", "hounds", "Bloodhound"),
        ("hounds", "hound.Bloodhound", "hounds", "Bloodhound"),
        ("hounds", "Retriever", "dogs", "Retriever"),
        ("hounds", "dog.Retriever", "dogs", "Retriever"),
        ("little_hounds", "hound.Bloodhound", "hounds", "Bloodhound"),
        ("hounds", "little_hound.Dachshund", "little_hounds", "Dachshund"),
        ("dogs", "hound.little_hound.Dachshund", "little_hounds", "Dachshund"),
        ("little_hounds", "Bloodhound", "hounds", "Bloodhound"),
        ("little_hounds", "Retriever", "dogs", "Retriever"),
        ("little_hounds", "hound.mid_hound.Beagle", "mid_hounds", "Beagle"),
        ("little_hounds", "samoyed.Pedigree", "samoyeds", "Pedigree"),
        ("little_hounds", "samoyed.little_samoyed.Tiny", "little_samoyeds", "Tiny"),
        ("hounds", "samoyed.little_samoyed.Tiny", "little_samoyeds", "Tiny"),
        # A foreign prefix searches from that scope upwards.
        ("samoyeds", "hound.Retriever", "dogs", "Retriever"),
    ],
)
def test_keys_that_are_found(tree, start, key, owner, name):
    expected = getattr(tree, owner).module_dict[name]
    assert key in getattr(tree, start)
    assert expected is getattr(tree, start).get(key)
    assert expected is getattr(tree, start).get(key), "the second look-up takes the cache"


@pytest.mark.parametrize(
    ("start", "key"),
    [
        ("little_hounds", "Retrieverer"),
        ("dogs", "samoyedddd.Pedigree"),
        ("dogs", "samoyed.Tiny"),
        ("little_hounds", "mid_hound.Pedigree"),
        # The own prefix means here and nowhere else.
        ("hounds", "hound.Retriever"),
        ("hounds", "dog.Bloodhound"),
        ("dogs", "Bloodhound"),
        ("dogs", ""),
        ("dogs", "."),
        ("dogs", "hound."),
        ("dogs", ".Retriever"),
    ],
)
def test_keys_that_are_not_found(tree, start, key):
    assert getattr(tree, start).get(key) is None
    assert key not in getattr(tree, start)


# --------------------------------------------------------------------------- reference

# Few names, so that shadowing and repeated scopes happen.
SCOPES = st.sampled_from(list("abcd"))
NAMES = st.sampled_from(list("XYZ"))


@st.composite
def trees(draw: st.DrawFn) -> list[tuple[int, str, tuple[str, ...]]]:
    """Rows (parent index, scope, names); the first is the root."""
    rows = [(-1, draw(SCOPES), tuple(sorted(draw(st.sets(NAMES)))))]
    for _ in range(draw(st.integers(0, 7))):
        parent = draw(st.integers(0, len(rows) - 1))
        scope = draw(SCOPES)
        if any(p == parent and s == scope for p, s, _ in rows):
            continue
        rows.append((parent, scope, tuple(sorted(draw(st.sets(NAMES))))))
    return rows


def ancestors(rows: Any, node: int) -> list[int]:
    chain = [node]
    while rows[chain[-1]][0] >= 0:
        chain.append(rows[chain[-1]][0])
    return chain


def children(rows: Any, node: int) -> list[int]:
    return [i for i, row in enumerate(rows) if row[0] == node]


def depth_first(rows: Any, node: int) -> list[int]:
    return [node] + [x for child in children(rows, node) for x in depth_first(rows, child)]


def reference(rows: Any, node: int, key: str) -> tuple[int, str] | None:
    """Return (owner, name) by the rules as the documentation states them."""
    scope, dot, rest = key.partition(".")
    if not dot:
        for other in ancestors(rows, node):
            if key in rows[other][2]:
                return other, key
        return None
    if scope == rows[node][1]:
        if "." in rest:
            below, _, last = rest.partition(".")
            named = [c for c in children(rows, node) if rows[c][1] == below]
            return reference(rows, named[0], last) if named else None
        return (node, rest) if rest in rows[node][2] else None
    target = None
    for other in ancestors(rows, node):
        named = [c for c in children(rows, other) if rows[c][1] == scope]
        if rows[other][1] == scope:
            target = other
        elif named:
            target = named[0]
        if target is not None:
            break
    if target is None:
        target = next((x for x in depth_first(rows, 0) if rows[x][1] == scope), None)
    if target is None:
        return None
    if target == 0 and "." not in rest:
        return (0, rest) if rest in rows[0][2] else None
    return reference(rows, target, rest)


@settings(max_examples=150, deadline=None)
@given(trees(), st.data())
def test_lookup_agrees_with_the_reference(rows, data):
    registries: list[Registry] = []
    # Scopes that no other test and no plugin has.
    scopes = {letter: f"zz_{letter}" for letter in string.ascii_lowercase[:4]}
    for parent, scope, names in rows:
        registry = Registry(
            "part", parent=registries[parent] if parent >= 0 else None, scope=scopes[scope]
        )
        for name in names:
            registry.register_module(name, module=type(name, (), {}))
        registries.append(registry)
    for _ in range(12):
        node = data.draw(st.integers(0, len(rows) - 1))
        parts = data.draw(st.lists(SCOPES, max_size=3))
        name = data.draw(NAMES)
        expected = reference(rows, node, ".".join([*parts, name]))
        key = ".".join([*(scopes[p] for p in parts), name])
        wanted = None if expected is None else registries[expected[0]].module_dict[expected[1]]
        assert wanted is registries[node].get(key), (key, node)
        assert (key in registries[node]) is (wanted is not None)
