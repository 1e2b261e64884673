"""``mmx report``: a run's report as one HTML page."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("work_dir")
@click.option("--out", metavar="FILE", help="The page; by default report.html in WORK_DIR.")
@click.option(
    "--config",
    metavar="CONFIG",
    help="The run's config: the page then says which file and line set each key.",
)
def command(work_dir: str, out: str | None, config: str | None) -> int:
    """Write a report of the run in WORK_DIR: one HTML page that needs nothing else.

    It shows curves, final metrics, checkpoints, the config, the environment and what is
    registered.
    """
    from mmx.visualization.report import write_report

    try:
        path = write_report(
            work_dir,
            out,
            registry_tree=_registry_tree(),
            origins=None if config is None else _origins(config),
            checkpoints=_checkpoints(work_dir),
        )
    except FileNotFoundError as error:
        raise click.ClickException(str(error)) from error
    click.echo(path)
    return 0


def _checkpoints(work_dir: str) -> list[dict[str, Any]]:
    """Return name, size and time of the checkpoints, oldest first; they are not opened."""
    rows = []
    for path in sorted(Path(work_dir).glob("*.pth"), key=lambda p: p.stat().st_mtime):
        facts = path.stat()
        time = datetime.fromtimestamp(facts.st_mtime)
        rows.append(
            {
                "name": path.name,
                "size": f"{facts.st_size / 2**20:.2f} MB",
                "written": f"{time:%Y-%m-%d %H:%M:%S}",
            }
        )
    last = Path(work_dir, "last_checkpoint")
    if last.is_file():
        name = os.path.basename(last.read_text(encoding="utf-8").strip())
        for row in rows:
            row["note"] = "latest" if row["name"] == name else ""
    return rows


def _registry_tree() -> str:
    from mmx.registry import count_registered_modules

    counted = count_registered_modules(save_path=None, verbose=False)["registries"]
    lines = []
    for registry, scopes in counted.items():
        lines.append(registry)
        for entry in scopes:
            lines.append(f"  {entry['scope']}: {entry['num_modules']}")
            for place, names in entry.items():
                if place not in ("scope", "num_modules") and names:
                    lines.append(f"    {place}: {', '.join(names)}")
    return "\n".join(lines)


def _origins(config: str) -> str:
    """Return each setting of a config on a line, with the file and line that set it."""
    from mmx.cli.options import load_config
    from mmx.config.origin import origin_of

    loaded = load_config(config)
    lines = []
    for path, value in _leaves(loaded.to_dict()):
        origin = origin_of(loaded, path)
        text = f"{'.'.join(map(str, path))} = {value!r}"
        lines.append(f"{text}  # {origin}" if origin is not None else text)
    return "\n".join(lines)


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield path and value of everything in a config that is no dict with entries."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, (*path, key))
    else:
        yield path, value
