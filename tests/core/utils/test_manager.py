"""Named instances, and which one is current."""

import threading
from typing import Any

import pytest

from mmx.utils import ManagerMixin


@pytest.fixture
def cls() -> Any:
    class Thing(ManagerMixin):
        def __init__(self, name: str = "", x: int = 0) -> None:
            super().__init__(name)
            self.x = x

    return Thing


def test_one_name_is_one_instance(cls: Any) -> None:
    first = cls.get_instance("a", x=1)
    assert first is cls.get_instance("a")
    assert ("a", 1) == (first.instance_name, first.x)
    assert cls.check_instance_created("a")
    assert not cls.check_instance_created("b")
    with pytest.warns(UserWarning, match="instance named of a has been created"):
        assert first is cls.get_instance("a", x=2)


def test_the_latest_created_is_current_without_a_binding(cls: Any) -> None:
    with pytest.raises(RuntimeError, match=r"Before calling Thing.get_current_instance\(\)"):
        cls.get_current_instance()
    cls.get_instance("a")
    second = cls.get_instance("b")
    cls.get_instance("a")
    assert second is cls.get_current_instance()


def test_a_bound_instance_is_current_in_its_context(cls: Any) -> None:
    a, b = cls.get_instance("a"), cls.get_instance("b")
    seen: list[Any] = []
    with a.as_current() as same:
        assert a is same is cls.get_current_instance()
        with b.as_current():
            assert b is cls.get_current_instance()
        assert a is cls.get_current_instance()
        thread = threading.Thread(target=lambda: seen.append(cls.get_current_instance()))
        thread.start()
        thread.join()
        with pytest.raises(ValueError, match="inside"), b.as_current():
            raise ValueError("inside")
        assert a is cls.get_current_instance()
    assert [b] == seen
    assert b is cls.get_current_instance()


def test_classes_do_not_share_instances(cls: Any) -> None:
    class Other(cls):  # type: ignore[misc]  # a class made by the fixture
        pass

    a = cls.get_instance("a")
    assert not Other.check_instance_created("a")
    with a.as_current():
        assert "a" == Other.get_instance("a").instance_name
        assert Other.get_current_instance() is not a


@pytest.mark.parametrize("name", ["", 1, None])
def test_a_name_is_a_text(name: Any, cls: Any) -> None:
    with pytest.raises(ValueError, match="name argument must be a non-empty str"):
        cls(name)


def test_an_instance_is_asked_for_by_text(cls: Any) -> None:
    with pytest.raises(TypeError, match="type of name should be str, but got int"):
        cls.get_instance(1)


def test_a_class_without_a_name_argument_is_refused() -> None:
    with pytest.raises(TypeError, match="must have the name argument"):

        class Nameless(ManagerMixin):
            def __init__(self) -> None: ...


def test_threads_that_ask_for_one_name_get_one_instance(cls: Any) -> None:
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append(cls.get_instance("a"))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 == len(set(map(id, found)))


def test_a_registry_builds_by_name_or_makes_one_up(cls: Any) -> None:
    a = cls.build_from_registry(name="a", x=3)
    assert a is cls.build_from_registry(name="a", x=3)
    assert a is not cls.build_from_registry(x=3)
