"""What plugins do for the engine beyond registering, and how a user chooses among them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from mmx_registry import plugins, trust

if TYPE_CHECKING:
    import click

logger = logging.getLogger("mmx_registry")

# Modules of torch and of mmx that load pickles, compile or import what a string says, start
# programs, or write files: no config may name their classes and functions by a dotted path.
REFUSED = (
    *(
        f"torch.{name}"
        for name in (
            "autograd.profiler",
            "autograd.profiler_util",
            "backends.xeon",
            "classes",
            "compiler",
            "cuda.jiterator",
            "cuda.memory",
            "cuda.tunable",
            "distributed.checkpoint",
            "distributed.distributed_c10d",
            "distributed.elastic",
            "distributed.flight_recorder",
            "distributed.launch",
            "distributed.launcher",
            "distributed.rpc",
            "distributed.run",
            "distributed.nn",
            "distributed.rendezvous",
            "export",
            "from_file",
            "fx",
            "hub",
            "jit",
            "library",
            "load",
            "mps",
            "multiprocessing",
            "numa",
            "onnx",
            "ops",
            "package",
            "profiler",
            "save",
            "serialization",
            "storage",
            "testing",
            "utils.backend_registration",
            "utils.benchmark",
            "utils.bottleneck",
            "utils.bundled_inputs",
            "utils.collect_env",
            "utils.cpp_backtrace",
            "utils.cpp_extension",
            "utils.data.datapipes",
            "utils.file_baton",
            "utils.hipify",
            "utils.jit",
            "utils.mobile_optimizer",
            "utils.model_dump",
            "utils.model_zoo",
            "utils.serialization",
            "utils.show_pickle",
            "utils.tensorboard",
            "utils.viz",
            "xpu.memory",
            "_classes",
            "_compile",
            "_dynamo",
            "_export",
            "_inductor",
            "_library",
            "_logging",
            "_ops",
            "_sources",
            "_vendor",
        )
    ),
    *(
        f"mmx.{name}"
        for name in ("checkpoint", "cli", "config", "fileio", "hub", "registry", "testing", "utils")
    ),
)


def trust_packages(*packages: str) -> None:
    """Let configs name objects of these packages by their dotted path, from now on.

    Raises:
        ValueError: A name is not that of a package.
    """
    trust.add(*packages)


def is_trusted_package(name: str) -> bool:
    """Whether a config that is only text may import or name parts of a package.

    Trusted are mmx, torch, the plugins that may be used, and what the user trusts (``--trust``,
    ``MMX_TRUST``, `trust_packages`). Nothing is imported.

    Args:
        name: A package or module, such as ``"mmx_vision.models"``.
    """
    if trust.is_trusted(name):
        return True
    package = name.partition(".")[0]
    return any(
        plugin.package == package and plugin.state in ("enabled", "active")
        for plugin in plugins.states()
    )


def configure_plugins(cfg: Mapping[str, Any] | None) -> None:
    """Choose plugins as the ``plugins`` entry of a config says.

    Args:
        cfg: ``only``: a list of scopes or distributions to allow; ``disable``: a list to leave out;
            ``prefer``: a dict from what two plugins claim (a scope, or ``"scope.Name"``) to the
            distribution that shall have it; ``strict``: raise what a plugin's import raised, as it
            is. None changes nothing.

    Raises:
        ValueError: There is another key.
    """
    if cfg is None:
        return
    allowed = ("only", "disable", "prefer", "strict")
    unknown = sorted(set(cfg) - set(allowed))
    if unknown:
        raise ValueError(
            f"plugins has no {', '.join(map(repr, unknown))}; its keys are {', '.join(allowed)}"
        )
    plugins.configure(**dict(cfg))
    for name in plugins.unknown_choices():
        logger.warning("no installed plugin is called %r, which the choice of plugins names", name)


def plugin_commands() -> dict[str, click.Command]:
    """Return the commands that plugins add to ``mmx``, by name.

    A plugin that fails is left out, with a warning in the log.
    """
    found: dict[str, click.Command] = {}
    for plugin in plugins.with_hook("mmx_cli_commands"):
        for hook in plugins._implementations("mmx_cli_commands", plugin):
            try:
                for name, command in dict(hook()).items():
                    if name in found:
                        logger.warning(
                            "plugin %r adds the command %r again: ignored", plugin.scope, name
                        )
                    else:
                        found[name] = command
            except Exception as error:
                if plugins.is_strict():
                    raise
                logger.warning("plugin %r: mmx_cli_commands raised %r", plugin.scope, error)
    return found


def adjust_runner_spec(spec: MutableMapping[str, Any]) -> None:
    """Let plugins adjust the arguments of a runner, in place, before anything is built.

    Raises:
        Exception: What a plugin raised, with a note that names it.
    """
    plugins.call_hook("mmx_runner_spec", spec=spec)


def plugin_default_hooks(spec: Mapping[str, Any]) -> list[Any]:
    """Return the hooks (objects or configs) that plugins add to every run.

    Args:
        spec: The arguments of the runner.

    Raises:
        Exception: What a plugin raised, with a note that names it.
    """
    return [
        hook
        for _, hooks in plugins.call_hook("mmx_default_hooks", spec=spec)
        for hook in hooks or ()
    ]
