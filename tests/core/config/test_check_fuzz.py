"""Mutations of the configs that are shipped: what breaks one is found, and one as it is has no fault."""

import copy
import random
from pathlib import Path

import pytest

from mmx.config import Config
from mmx.config.check import check_config
from mmx.config.check.parts import PartChecker

ROOT = Path(__file__).parents[3]
SHIPPED = sorted(
    path
    for folder in ("plugins/*/src/*/configs", "tests/core/config/shipped")
    for suffix in ("py", "yaml", "json", "toml")
    for path in ROOT.glob(f"{folder}/**/*.{suffix}")
    if "_base_" not in path.parts and path.name != "__init__.py"
)
NAMES = [path.relative_to(ROOT).as_posix() for path in SHIPPED]
# Data about data, and names that a config makes up, mean what they like.
CHECKED = {
    "train_dataloader",
    "val_dataloader",
    "test_dataloader",
    "optim_wrapper.clip_grad",
    "optim_wrapper.paramwise_cfg",
    "randomness",
    "auto_scale_lr",
    "env_cfg",
}
FREE = {"_check_ignore_", "metainfo", "custom_keys", "custom_imports", "plugins"}


def load(path):
    cfg = Config.fromfile(path)
    # The command line gives it where a config does not.
    cfg.setdefault("work_dir", "runs")
    return cfg


class Recorder(PartChecker):
    """Knows which dicts are built, and by what."""

    def __init__(self):
        super().__init__()
        self.built = {}

    def part(self, cfg, place):
        target = super().part(cfg, place)
        self.built[place.path] = (place, target)
        return target


def typo(name, rng):
    """Return a name with one letter dropped, doubled, changed or swapped."""
    for _ in range(100):
        i = rng.randrange(len(name))
        kind = rng.randrange(4)
        if kind == 0:
            new = name[:i] + name[i + 1 :]
        elif kind == 1:
            new = name[:i] + name[i] + name[i:]
        elif kind == 2:
            new = name[:i] + rng.choice("abcdefghijklmnop") + name[i + 1 :]
        else:
            new = name[:i] + name[i + 1 : i + 2] + name[i : i + 1] + name[i + 2 :]
        if new not in ("", name) and new.isidentifier():
            return new
    return name + "x"


def mutations(settings, rng):
    """Yield (what was done, its path, settings) for each mutation that breaks a config."""
    recorder = Recorder()
    check_config(settings, checker=recorder)
    known_top = {path.partition(".")[0] for path in recorder.built}

    def walk(value, path):
        if isinstance(value, dict):
            for key in list(value):
                if key not in FREE:
                    yield from visit(value, key, (*path, key))
        elif isinstance(value, list):
            for i in range(len(value)):
                yield from visit(value, i, (*path, i))

    def visit(holder, key, path):
        above = ".".join(map(str, path[:-1]))
        is_built = above in recorder.built
        value = holder[key]
        is_checked = is_built or above in CHECKED or (not path[:-1] and key in known_top)
        if isinstance(key, str) and is_checked:
            yield "key", path, typo(key, rng)
        if key == "type" and is_built and isinstance(value, str):
            yield "type", path, typo(value, rng)
        elif is_built and key not in ("type", "_scope_") and wrong(value) is not None:
            _, target = recorder.built[above]
            if is_annotated(target, key):
                yield "value", path, wrong(value)
        yield from walk(value, path)

    for kind, path, new in list(walk(settings, ())):
        mutant = copy.deepcopy(settings)
        holder = mutant
        for part in path[:-1]:
            holder = holder[part]
        if kind == "key":
            holder[new] = holder.pop(path[-1])
            yield kind, (*path[:-1], new), mutant
        else:
            holder[path[-1]] = new
            yield kind, path, mutant


def wrong(value):
    """Return a value of a kind that no annotation which takes this one takes, or None."""
    if isinstance(value, (bool, int, float)):
        return {"wrong": 1}
    if isinstance(value, str):
        return {"wrong": [1]}
    return None


def is_annotated(target, key):
    from mmx.config.check.signatures import accepted_by
    from mmx.config.check.values import fits

    accepted = accepted_by(target) if target is not None else None
    hint = accepted.hints.get(key) if accepted is not None else None
    # Where a dict may stand, a wrong dict is for the class itself to refuse.
    return hint is not None and not fits({"wrong": 1}, hint)


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_config_has_no_findings(name):
    assert [] == check_config(load(ROOT / name))


@pytest.mark.parametrize("name", NAMES)
def test_mutations_that_break_a_shipped_config_are_found(name):
    settings = load(ROOT / name).to_dict()
    rng = random.Random(0)
    missed, number = [], 0
    for kind, path, mutant in mutations(settings, rng):
        number += 1
        found = check_config(mutant)
        if not found:
            missed.append((kind, ".".join(map(str, path))))
    assert number > 20
    assert len(missed) <= 0.05 * number, f"{len(missed)} of {number}: {missed}"


def test_there_are_shipped_configs():
    assert any("mmx_vision" in name for name in NAMES)
    assert any("mmx_toy" in name for name in NAMES)
