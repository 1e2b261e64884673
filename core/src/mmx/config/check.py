"""Checking a config before anything is built."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from mmx import registry as roots
from mmx.config.errors import ConfigError

# Keys of a runner's config -> the root registry of their `type`.
_ROOTS = {
    "model": "MODELS",
    "data_preprocessor": "MODELS",
    "visualizer": "VISUALIZERS",
    "log_processor": "LOG_PROCESSORS",
    "param_scheduler": "PARAM_SCHEDULERS",
    "custom_hooks": "HOOKS",
    "train_cfg": "LOOPS",
    "val_cfg": "LOOPS",
    "test_cfg": "LOOPS",
    "optim_wrapper": "OPTIM_WRAPPERS",
}
_KNOWN_KEYS = frozenset(
    """
    model work_dir train_dataloader val_dataloader test_dataloader train_cfg val_cfg test_cfg
    auto_scale_lr optim_wrapper param_scheduler val_evaluator test_evaluator default_hooks custom_hooks
    data_preprocessor load_from resume launcher env_cfg log_processor log_level visualizer
    default_scope randomness experiment_name runner_type compile custom_imports strategy tta_model
    tta_pipeline vis_backends model_wrapper_cfg
    """.split()  # noqa: SIM905  # a table to read
)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a config.

    Attributes:
        path: Dotted key.
        message: What is wrong and what to try.
        is_error: Whether a run would fail; else a warning.
    """

    path: str
    message: str
    is_error: bool = True

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class ConfigCheckError(ConfigError):
    """A config has errors; ``findings`` lists all of them."""

    def __init__(self, findings: list[Finding], filename: str = "") -> None:
        count = f"{len(findings)} error" + ("s" if len(findings) > 1 else "")
        lines = "\n".join(f"  {finding}" for finding in findings)
        super().__init__(f"the config has {count}:\n{lines}", filename=filename)
        self.findings = findings


def check_config(cfg: Any, strict: bool = False) -> list[Finding]:
    """Return all that is wrong with a runner's config, without building anything.

    Checked are the names of types, with the rules of scopes, the completeness of the settings for
    training, validation and testing, and unknown top-level keys.

    Args:
        cfg: Config or dict.
        strict: Unknown top-level keys are errors, not warnings.
    """
    settings = cfg.to_dict() if hasattr(cfg, "to_dict") else dict(cfg)
    findings = [*_check_triplets(settings), *_check_keys(settings, strict)]
    scope = settings.get("default_scope") or "mmx"
    for path, node, root_name in _typed_nodes(settings):
        finding = _check_type(path, node, root_name, scope)
        if finding is not None:
            findings.append(finding)
    return findings


def raise_on_errors(cfg: Any, strict: bool = False) -> list[Finding]:
    """Check a config; return the warnings.

    Raises:
        ConfigCheckError: It has errors; all are in the message.
    """
    findings = check_config(cfg, strict)
    errors = [finding for finding in findings if finding.is_error]
    if errors:
        raise ConfigCheckError(errors, filename=getattr(cfg, "filename", None) or "")
    return findings


def _check_triplets(settings: dict[str, Any]) -> Iterator[Finding]:
    for mode, parts in (
        ("train", ("train_dataloader", "train_cfg", "optim_wrapper")),
        ("val", ("val_dataloader", "val_cfg", "val_evaluator")),
        ("test", ("test_dataloader", "test_cfg", "test_evaluator")),
    ):
        absent = [part for part in parts if settings.get(part) is None]
        if absent and len(absent) < len(parts):
            present = [part for part in parts if part not in absent]
            yield Finding(
                absent[0],
                f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} not set, but {' and '.join(present)} "
                f"{'is' if len(present) == 1 else 'are'}; set all three to run {mode}, or none",
            )


def _check_keys(settings: dict[str, Any], strict: bool) -> Iterator[Finding]:
    for key in settings:
        if key in _KNOWN_KEYS or key.startswith("_"):
            continue
        near = get_close_matches(key, _KNOWN_KEYS, n=1, cutoff=0.8)
        # A config may have variables of its own: only what looks like a slip is worth a word.
        if near and near[0] not in settings:
            yield Finding(
                key, f"this key means nothing to the runner; did you mean {near[0]!r}?", strict
            )
        elif strict:
            yield Finding(key, "this key means nothing to the runner")


def _typed_nodes(settings: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield ``(path, dict with a type, name of its root registry)``."""
    for key, value in settings.items():
        if key in _ROOTS:
            yield from _items(key, value, _ROOTS[key])
            if key == "optim_wrapper" and isinstance(value, dict):
                yield from _items(f"{key}.optimizer", value.get("optimizer"), "OPTIMIZERS")
        elif key in ("val_evaluator", "test_evaluator"):
            if isinstance(value, dict) and "metrics" in value:
                yield from _items(f"{key}.metrics", value["metrics"], "METRICS")
            else:
                yield from _items(key, value, "METRICS")
        elif key == "default_hooks" and isinstance(value, dict):
            for name, hook in value.items():
                yield from _items(f"{key}.{name}", hook, "HOOKS")
        elif key in ("train_dataloader", "val_dataloader", "test_dataloader") and isinstance(
            value, dict
        ):
            dataset = value.get("dataset")
            yield from _items(f"{key}.dataset", dataset, "DATASETS")
            yield from _items(f"{key}.sampler", value.get("sampler"), "DATA_SAMPLERS")
            yield from _items(f"{key}.batch_sampler", value.get("batch_sampler"), "DATA_SAMPLERS")
            yield from _items(f"{key}.collate_fn", value.get("collate_fn"), "FUNCTIONS")
            if isinstance(dataset, dict):
                yield from _items(f"{key}.dataset.pipeline", dataset.get("pipeline"), "TRANSFORMS")


def _items(path: str, value: Any, root_name: str) -> Iterator[tuple[str, dict[str, Any], str]]:
    if isinstance(value, dict):
        if "type" in value:
            yield path, value, root_name
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            if isinstance(item, dict) and "type" in item:
                yield f"{path}.{index}", item, root_name


def _check_type(path: str, node: dict[str, Any], root_name: str, scope: str) -> Finding | None:
    kind = node["type"]
    if not isinstance(kind, str):
        return None
    registry: Any = getattr(roots, root_name)
    try:
        with registry.switch_scope_and_registry(node.get("_scope_", scope)) as current:
            current.resolve(kind)
            return None
    except (KeyError, ImportError, LookupError) as error:
        text = str(error.args[0]) if error.args else str(error)
        return Finding(f"{path}.type", text)
