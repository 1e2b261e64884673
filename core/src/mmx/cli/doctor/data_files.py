"""Reading configs in YAML and JSON."""

from __future__ import annotations

from pathlib import Path

import yaml

from mmx.cli.doctor import parts, sources
from mmx.cli.doctor.findings import WARNING, Report
from mmx.cli.doctor.tables import OLD_KEYS

# Larger files are annotations or results.
MAX_BYTES = 1 << 20


def read(file: Path, text: str, around: parts.Surroundings, report: Report) -> bool:
    """Add the findings of a file if it is a config; return whether it is one."""
    if not any(key in text for key in sources.CONFIG_KEYS):
        return False
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        # JSON is YAML, but for tabs between its tokens.
        root = yaml.compose(text.replace("\t", " "), Loader=loader)
    except yaml.YAMLError:
        return False
    if not isinstance(root, yaml.MappingNode):
        return False
    top = {key.value: key.start_mark.line + 1 for key, _ in root.value if _is_text(key)}
    if not top.keys() & sources.CONFIG_KEYS:
        return False
    for name in top.keys() & OLD_KEYS.keys():
        sources.add_old_key(file, top[name], name, report)
    for key, value in root.value:
        if isinstance(value, yaml.MappingNode):
            lines = {k.value: k.start_mark.line + 1 for k, _ in value.value if _is_text(k)}
            sources.add_settings(file, str(key.value), lines, report)
    pending: list[yaml.Node] = [root]
    while pending:
        node = pending.pop()
        if isinstance(node, yaml.SequenceNode):
            pending += node.value
        elif isinstance(node, yaml.MappingNode):
            pending += [value for _, value in node.value]
            _mapping(file, node, around, report)
    _imports(file, root, report)
    return True


def _mapping(
    file: Path, node: yaml.MappingNode, around: parts.Surroundings, report: Report
) -> None:
    values = {key.value: value for key, value in node.value if _is_text(key)}
    lines = {key.value: key.start_mark.line + 1 for key, _ in node.value if _is_text(key)}
    scope = values.get("_scope_")
    for key in ("_scope_", "default_scope"):
        if key in values and _is_text(values[key]):
            sources.check_scope(file, lines[key], values[key].value, around, report)
    kind = values.get("type")
    if kind is not None and _is_text(kind):
        foreign = scope is not None and scope.value not in ("mmengine", "mmx")
        sources.check_part(file, kind.value, lines, foreign, around, report)


def _imports(file: Path, root: yaml.MappingNode, report: Report) -> None:
    """Look for imports of packages that a config which cannot run code may not import."""
    from mmx.registry import is_trusted_package

    for key, value in root.value:
        if key.value != "custom_imports" or not isinstance(value, yaml.MappingNode):
            continue
        for name, modules in value.value:
            nodes = modules.value if isinstance(modules, yaml.SequenceNode) else [modules]
            for node in nodes if name.value == "imports" else ():
                if is_trusted_package(str(node.value)):
                    continue
                top = str(node.value).partition(".")[0]
                report.add(
                    file,
                    node.start_mark.line + 1,
                    "config",
                    "custom_imports",
                    f"custom_imports names {node.value!r}, and a {file.suffix} config cannot run "
                    "the code of a package that is not trusted",
                    f"Trust it (mmx --trust {top}, or MMX_TRUST={top}), or write the config in Python",
                    WARNING,
                )


def _is_text(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:str"
