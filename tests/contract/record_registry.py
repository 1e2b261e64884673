"""Record what MMEngine's registry finds on random trees; run where mmengine 0.10.7 is installed.

    python tests/contract/record_registry.py > tests/contract/registry_lookups.json

`tests/registry/test_contract.py` replays the trees: whatever MMEngine finds, we find too.
"""

import json
import logging
import random
import warnings

logging.disable(logging.WARNING)
warnings.simplefilter("ignore")

SCOPES = [f"zz_{letter}" for letter in "abcde"]
NAMES = list("XYZ")


def make_tree(rng):
    """Rows (parent, scope, names); scopes are unique, as they are among real packages."""
    scopes = rng.sample(SCOPES, rng.randint(1, 5))
    rows = []
    for i, scope in enumerate(scopes):
        parent = -1 if i == 0 else rng.randrange(i)
        rows.append([parent, scope, sorted(rng.sample(NAMES, rng.randint(0, 3)))])
    return rows


def make_questions(rng, rows):
    """Rows (node, key, default scope or None, `_scope_` or None)."""
    known = [row[1] for row in rows]
    result = []
    for _ in range(25):
        parts = [rng.choice(known) for _ in range(rng.choice([0, 0, 1, 1, 1, 2, 3]))]
        result.append(
            [
                rng.randrange(len(rows)),
                ".".join([*parts, rng.choice(NAMES)]),
                rng.choice([None, None, *known]),
                rng.choice([None, None, *known]),
            ]
        )
    return result


def answer(rows, questions, registry_class, scope_class):
    """Return for each question (owner of what `get` finds, owner of what is built) or None."""
    registries = []
    for parent, scope, names in rows:
        registry = registry_class(
            "part", parent=registries[parent] if parent >= 0 else None, scope=scope
        )
        for name in names:
            cls = type(name, (), {"owner": f"{scope}.{name}"})
            registry.register_module(name=name, module=cls)
        registries.append(registry)
    answers = []
    for node, key, default, own in questions:
        found = registries[node].get(key)
        cfg = {"type": key} if own is None else {"type": key, "_scope_": own}
        with scope_class.overwrite_default_scope(default):
            try:
                built = registries[node].build(cfg).owner
            except KeyError:
                built = None
        answers.append([None if found is None else found.owner, built])
    return answers


def main():
    from mmengine.registry import DefaultScope, Registry

    rng = random.Random(0)
    cases = []
    while len(cases) < 120:
        rows = make_tree(rng)
        questions = make_questions(rng, rows)
        try:
            answers = answer(rows, questions, Registry, DefaultScope)
        except RecursionError:
            continue
        cases.append({"rows": rows, "questions": questions, "answers": answers})
    print(json.dumps(cases, separators=(",", ":")))


if __name__ == "__main__":
    main()
