"""What a test does to shared state is undone."""

import pytest

from mmx import fileio
from mmx.fileio.backends import backends
from mmx.logging import MessageHub
from mmx.registry import MODELS, DefaultScope
from mmx.testing import isolate


class Part:
    pass


class Backend(fileio.LocalBackend):
    pass


def test_registrations_instances_and_back_ends_go() -> None:
    kept = MessageHub.get_instance("kept")
    with isolate():
        MODELS.register_module(module=Part)
        MessageHub.get_instance("mine")
        DefaultScope.get_instance("mine", scope_name="mmx")
        fileio.register_backend("mine", Backend, prefixes="mine")
        assert "Part" in MODELS
    assert "Part" not in MODELS
    assert not MessageHub.check_instance_created("mine")
    assert kept is MessageHub.get_instance("kept")
    assert not DefaultScope.check_instance_created("mine")
    assert "mine" not in backends


def test_an_error_is_undone_as_well() -> None:
    with pytest.raises(ValueError, match="inside"), isolate():
        MODELS.register_module(module=Part)
        raise ValueError("inside")
    assert "Part" not in MODELS


def test_blocks_may_be_nested() -> None:
    with isolate():
        MODELS.register_module(module=Part)
        with isolate():
            fileio.register_backend("inner", Backend)
        assert "Part" in MODELS
        assert "inner" not in backends
