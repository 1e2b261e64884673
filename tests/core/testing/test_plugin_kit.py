"""The test kit for authors of plugins."""

import sys

import pytest

from mmx.registry import MODELS
from mmx.testing import plugins as kit
from mmx.testing.plugins import PluginConformance, conformance

pytest_plugins = ["pytester"]

# As a plugin author has them by `pytest_plugins = ["mmx.testing.plugins"]` in `conftest.py`.
isolated_registries = kit.isolated_registries
plugin_site = kit.plugin_site
temporary_plugin = kit.temporary_plugin

REGISTRY = """
from mmx.registry import MODELS as ROOT, Registry
MODELS = Registry('model', parent=ROOT, scope='zzkit', locations=['zzkit.parts'])
"""

PARTS = '''
from zzkit.registry import MODELS

@MODELS.register_module()
class Good:
    """A good part."""

@MODELS.register_module()
class Needs:
    """Needs a width."""
    def __init__(self, width): pass

@MODELS.register_module()
def function():
    """Make one."""
'''


def test_fixtures_leave_nothing_behind(pytester):
    pytester.makeconftest('pytest_plugins = ["mmx.testing.plugins"]')
    pytester.makepyfile(
        """
        from mmx.registry import MODELS
        import sys

        def test_register(isolated_registries):
            MODELS.register_module("ZzOne", module=dict)
            assert "ZzOne" in MODELS

        def test_gone():
            assert "ZzOne" not in MODELS

        def test_plugin(temporary_plugin):
            temporary_plugin("zzkit", '''
        from mmx.registry import MODELS as ROOT, Registry
        MODELS = Registry('model', parent=ROOT, scope='zzkit')
        @MODELS.register_module()
        class Net: pass
        ''')
            assert MODELS.get("zzkit.Net").__name__ == "Net"

        def test_plugin_gone():
            assert "zzkit" not in MODELS.children
            assert "zzkit.registry" not in sys.modules
            assert MODELS.get("zzkit.Net") is None
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-q")
    result.assert_outcomes(passed=4)


def test_a_good_plugin_conforms(temporary_plugin):
    temporary_plugin("zzkit", {"registry.py": REGISTRY, "parts.py": PARTS}, requires=["mmx"])
    assert conformance("zzkit") == []
    assert conformance("zzkit", samples={"Needs": dict(width=3)}) == []


BAD = {
    "import": (PARTS + "    pass\nraise OSError('no disk')\n", "OSError: no disk"),
    "docstring": (PARTS.replace('"""A good part."""', "pass"), "model 'Good' has no docstring"),
    "building": (
        PARTS + "    pass\n@MODELS.register_module()\nclass Bad:\n    '''Bad.'''\n"
        "    def __init__(self): raise RuntimeError('no luck')\n",
        "model 'Bad' does not build: RuntimeError: no luck",
    ),
    "scope": (
        PARTS + "    pass\nfrom mmx.registry import HOOKS\n@HOOKS.register_module()\nclass Stray:\n"
        "    '''Elsewhere.'''\n",
        "registers 'Stray' in the scope 'mmx', not in its own",
    ),
    "dependency": (
        PARTS + "    pass\nimport hypothesis\n",
        "imports hypothesis, which no dependency",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_each_fault_of_a_plugin_is_found(temporary_plugin, kind):
    source, message = BAD[kind]
    temporary_plugin("zzkit", {"registry.py": REGISTRY, "parts.py": source}, requires=["mmx"])
    problems = conformance("zzkit", not_built=frozenset({"Needs"}))
    assert message in "\n".join(problems)
    assert len(problems) == 1, problems


def test_more_faults(temporary_plugin):
    source = REGISTRY.replace("zzkit.parts", "zzkit.empty").replace(
        "scope='zzkit'", "scope='zzkat'"
    )
    temporary_plugin("zzkit", {"registry.py": source, "empty.py": ""})
    text = "\n".join(conformance("zzkit", samples={"Nothing": {}}))
    assert "importing zzkit.registry makes no registry in the scope 'zzkit'" in text
    assert "'Nothing' is listed, but the plugin does not register it" in text
    assert "zzkit does not require mmx" in text


def test_optional_imports_need_no_declaration(temporary_plugin):
    source = PARTS + (
        "    import hypothesis\n"
        "try:\n    import yaml2\nexcept ImportError:\n    yaml2 = None\n"
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pluggy2\n"
    )
    temporary_plugin("zzkit", {"registry.py": REGISTRY, "parts.py": source}, requires=["mmx"])
    assert conformance("zzkit") == []


def test_a_plugin_that_is_not_installed_is_an_error():
    with pytest.raises(LookupError, match="no installed plugin has the scope 'zz_none'"):
        conformance("zz_none")


def test_a_class_without_a_scope_says_so():
    with pytest.raises(TypeError, match="must set `scope`"):
        PluginConformance().test_everything_announced_imports()


def test_names_of_a_temporary_plugin_are_found(temporary_plugin):
    temporary_plugin("zzkit", {"registry.py": REGISTRY, "parts.py": PARTS})
    assert MODELS.get("zzkit.Good").__name__ == "Good"
    assert "zzkit.parts" in sys.modules


class TestToy(PluginConformance):
    """Our own plugins pass what we ask of others."""

    scope = "mmx_toy"


class TestVision(PluginConformance):
    """As above."""

    scope = "mmx_vision"
