"""Many threads building across scopes while the tree grows: no wrong result."""

import sys
import threading
from collections import Counter

import pytest

from mmx_registry import DefaultScope, Registry

THREADS = 32
BUILDS = 100_000


@pytest.fixture
def quick_switches():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("quick_switches")
def test_threads_building_across_scopes_never_get_another_scopes_class():
    root = Registry("part", scope="zz_root")
    scopes = [f"zz_s{i}" for i in range(4)]
    nodes = {scope: Registry("part", parent=root, scope=scope) for scope in scopes}

    def make(owner):
        class Part:
            def __init__(self, inner=None):
                self.owner = owner
                bound = DefaultScope.get_current_instance()
                self.bound = None if bound is None else bound.scope_name
                self.inner = None if inner is None else root.build(inner)

        return Part

    root.register_module("Part", module=make("zz_root"))
    for scope, node in nodes.items():
        node.register_module("Part", module=make(scope))
    wrong = Counter()
    errors = []
    start = threading.Barrier(THREADS + 1)

    def work(seed):
        start.wait()
        try:
            for i in range(BUILDS // THREADS):
                scope = scopes[(seed + i) % 4]
                other = scopes[(seed + i + 1) % 4]
                form = i % 4
                if form == 0:
                    built = root.build(dict(type=f"{scope}.Part"))
                    wrong["prefix"] += built.owner != scope or built.bound is not None
                elif form == 1:
                    built = root.build(dict(type="Part", _scope_=scope, inner=dict(type="Part")))
                    wrong["scope"] += (built.owner, built.bound, built.inner.owner) != (scope,) * 3
                elif form == 2:
                    with DefaultScope.overwrite_default_scope(scope):
                        built = nodes[other].build(dict(type="Part"))
                    wrong["default"] += (built.owner, built.bound) != (scope, scope)
                else:
                    built = nodes[scope].build(dict(type="Part"))
                    wrong["own"] += built.owner != scope or built.bound is not None
        except BaseException as error:
            errors.append(error)

    def grow():
        start.wait()
        for i in range(200):
            nodes[scopes[i % 4]].register_module(f"New{i}", module=dict)
            Registry("part", parent=root, scope=f"zz_new{i}")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(THREADS)]
    threads.append(threading.Thread(target=grow))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert +wrong == Counter()


@pytest.mark.usefixtures("quick_switches")
def test_a_replaced_name_is_seen_by_builds_that_begin_afterwards():
    root = Registry("part", scope="zz_root")
    child = Registry("part", parent=root, scope="zz_child")
    latest = [0]
    root.register_module("Part", module=lambda: 0)
    stale = []
    done = threading.Event()

    def read():
        while not done.is_set():
            before = latest[0]
            value = child.build(dict(type="Part"))
            if value < before:
                stale.append((value, before))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for i in range(1, 1500):
        root.register_module("Part", force=True, module=lambda i=i: i)
        latest[0] = i
    done.set()
    for thread in threads:
        thread.join()
    assert stale == []
