"""The models that installed packages publish in a ``model-index.yml``."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INDEX_NAME = "model-index.yml"


@dataclass(frozen=True)
class IndexedModel:
    """One model of a package's index.

    Attributes:
        name: Its name.
        aliases: Other names.
        config: Path of its config file.
        weights: Address of its weights, None if none are published.
        metafile: The file that lists it.
    """

    name: str
    aliases: tuple[str, ...]
    config: Path | None
    weights: str | None
    metafile: Path

    @property
    def names(self) -> tuple[str, ...]:
        """Name and aliases."""
        return self.name, *self.aliases


def package_of_scope(scope: str) -> str:
    """Return the import name of the package that a scope belongs to: a plugin's, or its own name."""
    for entry in importlib.metadata.entry_points(group="mmx.plugins", name=scope):
        return entry.module.partition(".")[0]
    return scope


def find_model_index(package: str) -> Path:
    """Return the model index of an installed package, without importing it.

    It stands in the package, in its ``.mim`` folder, or beside it in a source tree.

    Raises:
        ModuleNotFoundError: The package is not installed.
        FileNotFoundError: It has no index.
    """
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            f"{package!r} is not installed, so its models cannot be looked up: "
            f"pip install {package.replace('_', '-')}",
            name=package,
        )
    for location in map(Path, spec.submodule_search_locations):
        for folder in (location / ".mim", location, location.parent):
            if (folder / INDEX_NAME).is_file():
                return folder / INDEX_NAME
    raise FileNotFoundError(
        f"{package} has no {INDEX_NAME}, so it publishes no models by name; pass the path of a config"
    )


def indexed_models(package: str) -> Iterator[IndexedModel]:
    """Yield the models of a package's index, in its order.

    Raises:
        ModuleNotFoundError: The package is not installed.
        FileNotFoundError: It has no index, or the index names a file that is not there.
        ValueError: A file of the index has another form.
    """
    index = find_model_index(package)
    root = index.parent
    content = _load(index)
    imports = content.get("Import", []) if isinstance(content, dict) else []
    metafiles = [index, *(_inside(root, name) for name in imports)]
    for metafile in metafiles:
        content = _load(metafile)
        models = content.get("Models") if isinstance(content, dict) else content
        if models is None:
            continue
        if not isinstance(models, list):
            raise ValueError(f"{metafile}: Models must be a list, got {type(models).__name__}")
        for model in models:
            yield _read(model, metafile, root)


def find_model(package: str, name: str) -> IndexedModel:
    """Return the model of a name or alias.

    Raises:
        ValueError: The index has no such model; the message lists near names.
    """
    known: list[str] = []
    for model in indexed_models(package):
        if name in model.names:
            return model
        known += model.names
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=3, cutoff=0.4) or known[:5]
    raise ValueError(
        f"Cannot find model: {name} in {package}; "
        + (f"did you mean {', '.join(near)}?" if near else "its index is empty")
    )


def weights_of_config(package: str, config: str | os.PathLike[str]) -> str:
    """Return the address of the weights that the index lists for a config file.

    Raises:
        ValueError: The index lists none.
    """
    path = Path(config).resolve()
    for model in indexed_models(package):
        if model.config is not None and model.weights and model.config.resolve() == path:
            return model.weights
    raise ValueError(f"the model index of {package} lists no weights for {config}")


def _load(path: Path) -> Any:
    from mmx.fileio import load

    return load(str(path), file_format="yaml")


def _inside(root: Path, name: Any) -> Path:
    path = root / str(name)
    if not path.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"{root / INDEX_NAME}: {name} lies outside the package")
    return path


def _read(model: Any, metafile: Path, root: Path) -> IndexedModel:
    if not isinstance(model, dict) or "Name" not in model:
        raise ValueError(f"{metafile}: a model must be a dict with a Name, got {model!r}")
    aliases = model.get("Alias") or []
    config = model.get("Config")
    return IndexedModel(
        name=str(model["Name"]),
        aliases=tuple([aliases] if isinstance(aliases, str) else map(str, aliases)),
        config=_inside(root, config) if config else None,
        weights=model.get("Weights"),
        metafile=metafile,
    )
