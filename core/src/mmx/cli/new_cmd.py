"""``mmx new``: write a new plugin to start from."""

from __future__ import annotations

import keyword
import re
import sys
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import click

from mmx.version import __version__


@click.group()
def command() -> None:
    """Write a new plugin to start from."""


@command.command()
@click.argument("name")
@click.option(
    "--directory",
    "-d",
    metavar="DIR",
    default=".",
    help="Where to make the plugin's folder; the current one by default.",
)
def plugin(name: str, directory: str) -> None:
    """Write a complete plugin called NAME: registries, parts, config, tests and CI file."""
    package = package_name(name)
    target = Path(directory) / name
    if target.exists() and any(target.iterdir() if target.is_dir() else [target]):
        raise click.ClickException(f"{target} exists already: nothing was written")
    for file, text in plugin_files(name, package).items():
        path = target / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    click.echo(f"{target} written. To try it:\n")
    click.echo(f'  cd {target}\n  pip install -e ".[test]"\n  pytest')
    click.echo(f"  mmx train {package}::first.py")


def package_name(name: str) -> str:
    """Return the package, which is the scope too, of a plugin's name.

    Raises:
        click.ClickException: The name cannot be that of a package, or is taken.
    """
    from mmx_registry import index, plugins

    package = re.sub(r"[-.]+", "_", name.lower())
    if (
        not re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]*", name)
        or not package.isidentifier()
        or keyword.iskeyword(package)
    ):
        raise click.ClickException(
            f"{name!r} cannot be the name of a package: use letters, digits, '-' and '_', such as "
            "'my-plugin'"
        )
    if package in sys.stdlib_module_names:
        raise click.ClickException(f"{package!r} is a module of Python itself: choose another name")
    if package in plugins.discovered():
        raise click.ClickException(
            f"the scope {package!r} is taken by {plugins.discovered()[package].distribution}, which "
            "is installed: choose another name"
        )
    if index.find_spec(package) is not None:
        raise click.ClickException(
            f"there is a package {package!r} in this environment: choose another name"
        )
    return package


def plugin_files(name: str, package: str) -> dict[str, str]:
    """Return the files of a new plugin: path relative to its folder -> text."""
    values = {
        "distribution": re.sub(r"[_.]+", "-", name),
        "package": package,
        "version": ".".join(__version__.split(".")[:2]),
    }
    found: dict[str, str] = {}
    for path, text in _templates(files("mmx.cli") / "templates" / "plugin", ""):
        path = path.removesuffix(".txt").replace("package", package)
        if path == "gitignore":
            path = ".gitignore"
        found[path] = re.sub(r"@(\w+)@", lambda match: values[match[1]], text)
    return found


def _templates(folder: Traversable, prefix: str) -> list[tuple[str, str]]:
    result = []
    for item in sorted(folder.iterdir(), key=lambda i: i.name):
        if item.is_dir():
            result += _templates(item, f"{prefix}{item.name}/")
        elif item.name.endswith(".txt"):
            result.append((f"{prefix}{item.name}", item.read_text(encoding="utf-8")))
    return result
