"""Whatever the form of a registration: looking up by index finds what importing everything does."""

import importlib
import multiprocessing.pool
import threading

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmx_registry import index
from mmx_registry.isolation import Site

FORMS = {
    "decorator": "@{r}.register_module()\nclass {n}: pass",
    "named": "@{r}.register_module('{n}')\nclass Other{n}: pass",
    "list": "@{r}.register_module(name=['{n}', '{n}2'])\nclass {n}: pass",
    "call": "class {n}: pass\n{r}.register_module(module={n})",
    "constant": "NAME = '{n}'\n{r}.register_module(NAME, module=dict)",
    "function": "@{r}.register_module()\ndef {n}(): pass",
    "alias": "reg = {r}.register_module\n@reg()\nclass {n}: pass",
    "loop": "for i in range(2):\n    {r}.register_module(f'{n}{{i}}', module=dict)",
    "in a function": "def go():\n    {r}.register_module('{n}', module=dict)\ngo()",
    "in a class": "class Outer:\n    @{r}.register_module()\n    class {n}: pass",
    "by a helper": "def go(reg): reg.register_module('{n}', module=dict)\ngo({r})",
    "rebound": "M = {r}\n@M.register_module()\nclass {n}: pass",
    "holds": "if True:\n    @{r}.register_module()\n    class {n}: pass",
    "does not hold": "if False:\n    @{r}.register_module()\n    class {n}: pass",
    "with": "import contextlib\nwith contextlib.nullcontext():\n    "
    "{r}.register_module('{n}', module=dict)",
    "raises": "try:\n    import zz_none\nexcept ImportError:\n    "
    "{r}.register_module('{n}', module=dict)",
    "comment": "# @{r}.register_module()\nclass {n}: pass",
    "text": 'TEXT = """\n@{r}.register_module()\nclass {n}: pass\n"""',
    "renamed": "class {n}: pass\n{n}.__name__ = 'Renamed{n}'\n{r}.register_module(module={n})",
    "wrapped": "class {n}: pass\n{n} = type('New{n}', ({n},), {{}})\n{r}.register_module()({n})",
    "imported": "from collections import OrderedDict as {n}\n{r}.register_module('{n}', module={n})",
}
IMPORTS = {
    "from rootpkg.registry import {r}": "{r}",
    "from ..registry import {r} as R": "R",
    "import rootpkg.registry as reg_module": "reg_module.{r}",
    "import rootpkg.registry": "rootpkg.registry.{r}",
    "from rootpkg import registry": "registry.{r}",
    "from rootpkg.registry import *": "{r}",
    "from rootpkg import registry as again\nR2 = again.{r}": "R2",
}
REGISTRY = """
from mmx_registry import Registry
MODELS = Registry('model', scope='rootpkg', locations=['rootpkg.parts'])
HOOKS = Registry('hook', scope='rootpkg', locations=['rootpkg.parts'])
"""


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(sorted(FORMS)),
            st.sampled_from(sorted(IMPORTS)),
            st.sampled_from(["MODELS", "HOOKS"]),
        ),
        min_size=1,
        max_size=6,
    ),
    st.randoms(use_true_random=False),
)
def test_lookup_by_index_finds_what_importing_everything_registers(tmp_path_factory, files, random):
    with Site(tmp_path_factory.mktemp("forms")) as site:
        sources = {
            "rootpkg/__init__.py": "",
            "rootpkg/registry.py": REGISTRY,
            "rootpkg/parts/__init__.py": "",
        }
        for i, (form, line, registry) in enumerate(files):
            code = FORMS[form].format(r=IMPORTS[line].format(r=registry), n=f"Part{i}")
            sources[f"rootpkg/parts/file{i}.py"] = f"{line.format(r=registry)}\n{code}\n"
        site.write(sources)

        def fresh():
            site.forget()
            index.forget()
            from rootpkg.registry import HOOKS, MODELS

            return {"MODELS": MODELS, "HOOKS": HOOKS}

        everything = fresh()
        for i in range(len(files)):
            importlib.import_module(f"rootpkg.parts.file{i}")
        expected = {name: set(registry.module_dict) for name, registry in everything.items()}
        asked = [(r, n) for r in expected for n in (*expected["MODELS"], *expected["HOOKS"])]
        random.shuffle(asked)
        lazy = fresh()
        for registry, name in asked:
            if name in expected[registry]:
                assert name in lazy[registry], (registry, name)
                assert lazy[registry].get(name) is lazy[registry].module_dict[name]
            else:
                assert name not in lazy[registry]
        for registry, names in expected.items():
            lazy[registry].import_from_location()
            assert set(lazy[registry].module_dict) == names


def test_threads_that_ask_a_location_at_once_get_their_classes(site, root):
    site.write(
        {
            f"rootpkg/parts/part{i}.py": "import time\nfrom rootpkg.registry import MODELS\n"
            f"@MODELS.register_module()\nclass Part{i}: pass\ntime.sleep(0.001)\n"
            for i in range(40)
        }
    )
    barrier = threading.Barrier(16)

    def work(seed):
        barrier.wait()
        names = [f"Part{(seed * 7 + i) % 40}" for i in range(40)]
        return [type(root.build(dict(type=name))).__name__ == name for name in names]

    with multiprocessing.pool.ThreadPool(16) as pool:
        assert all(all(row) for row in pool.map(work, range(16), chunksize=1))
