"""What a plugin may do beyond registering: the pluggy hooks of the lifecycle.

A plugin implements a hook in the module that its entry point names::

    from mmx_registry import hookimpl

    @hookimpl
    def mmx_cli_commands():
        return {"hello": hello}

Hooks run when plugins come alive and when a run is set up, never per iteration. They are checked
when the plugin is imported: an unknown name or argument makes the plugin ``failed``.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import click

hookspec = pluggy.HookspecMarker("mmx")
hookimpl = pluggy.HookimplMarker("mmx")


@hookspec
def mmx_scopes() -> Mapping[str, str]:  # type: ignore[empty-body]  # a specification
    """Announce further scopes: scope -> module that declares its registries.

    A scope with an entry point of its own is found faster: without importing this plugin.
    """


@hookspec
def mmx_requires() -> Sequence[str]:  # type: ignore[empty-body]  # a specification
    """Return requirements on other plugins, such as ``["mmx-toy>=0.1"]``, checked on activation.

    Requirements in the distribution's metadata are checked without importing it.
    """


@hookspec
def mmx_cli_commands() -> Mapping[str, click.Command]:  # type: ignore[empty-body]  # a specification
    """Add commands to ``mmx``: name -> click command."""


@hookspec
def mmx_runner_spec(spec: MutableMapping[str, Any]) -> None:
    """Adjust the arguments of a runner, in place, before anything is built.

    Args:
        spec: The keyword arguments of `Runner`, such as ``model`` and ``default_hooks``.
    """


@hookspec
def mmx_default_hooks(spec: Mapping[str, Any]) -> Sequence[Any]:  # type: ignore[empty-body]  # a specification
    """Return hooks (objects or configs) that every run shall have.

    Args:
        spec: The keyword arguments of `Runner`; not to be changed.
    """
