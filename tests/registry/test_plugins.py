"""The lifecycle of plugins: found, chosen, checked, imported, rolled back, and their hooks."""

import subprocess
import sys
import threading

import pytest

from mmx_registry import (
    DuplicateError,
    NotFoundError,
    PluginError,
    UnknownScopeError,
    plugins,
    trust,
)
from mmx_registry.plugins import configure, discovered, states


def child(name: str, *, root: str = "rootpkg") -> str:
    """Return the source of a registry module of one child."""
    return (
        f"from mmx_registry import Registry\n"
        f"from {root}.registry import MODELS as ROOT\n"
        f"MODELS = Registry('model', parent=ROOT, scope={name!r}, locations=[{name + '.models'!r}])\n"
    )


def part(package: str, name: str) -> str:
    return (
        f"from {package}.registry import MODELS\n"
        f"@MODELS.register_module()\nclass {name}:\n    '''A part.'''\n"
    )


@pytest.fixture
def alpha(site, root):
    site.plugin("zzalpha", {"registry.py": child("zzalpha"), "models.py": part("zzalpha", "A")})
    return root


@pytest.fixture
def beta(site, alpha):
    site.plugin("zzbeta", {"registry.py": child("zzbeta"), "models.py": part("zzbeta", "B")})
    return alpha


def state(scope: str) -> tuple[str, str]:
    plugin = next(p for p in states() if p.scope == scope)
    return plugin.state, plugin.reason


# --------------------------------------------------------------------------- discovery


def test_scopes_are_known_without_imports(alpha):
    assert "zzalpha" in discovered()
    assert state("zzalpha") == ("enabled", "")
    plugin = discovered()["zzalpha"]
    assert (
        plugin.distribution,
        plugin.version,
        plugin.module,
    ) == ("zzalpha", "0.1", "zzalpha.registry")
    assert "zzalpha" not in sys.modules


def test_a_prefix_activates_the_plugin_and_imports_one_file(alpha, site):
    site.write({"zzalpha/other.py": "raise RuntimeError('not asked for')"})
    assert alpha.get("zzalpha.A").__name__ == "A"
    assert state("zzalpha")[0] == "active"
    assert discovered()["zzalpha"].import_time_s > 0
    assert trust.is_trusted("zzalpha.models")


def test_a_plugin_that_draws_random_numbers_when_imported_leaves_the_seed_alone(site, root):
    import random

    draw = "import random\nrandom.random()\n"
    files = {"registry.py": draw + child("zzdraw"), "models.py": draw + part("zzdraw", "A")}
    site.plugin("zzdraw", files)
    random.seed(3)
    before = random.getstate()

    assert root.get("zzdraw.A").__name__ == "A"

    assert before == random.getstate()


def test_a_default_scope_activates_the_plugin(alpha):
    with alpha.switch_scope_and_registry("zzalpha") as node:
        assert node.scope == "zzalpha"
    assert type(alpha.build(dict(type="A", _scope_="zzalpha"))).__name__ == "A"


def test_siblings_find_each_other_through_the_root(beta):
    assert beta.get("zzbeta.B").__name__ == "B"
    node = beta.children["zzbeta"]
    assert node.get("zzalpha.A").__name__ == "A"
    assert type(node.build(dict(type="A", _scope_="zzalpha"))).__name__ == "A"


def test_a_plugin_imported_by_hand_is_active(alpha):
    import zzalpha.registry  # noqa: F401

    assert state("zzalpha")[0] == "active"


def test_facts_are_plain_data(alpha):
    facts = next(p for p in states() if p.scope == "zzalpha").facts()
    assert facts == {
        "scope": "zzalpha",
        "distribution": "zzalpha",
        "version": "0.1",
        "module": "zzalpha.registry",
        "state": "enabled",
        "reason": "",
        "import_time_s": None,
        "requires": [],
        "managed": True,
    }


# --------------------------------------------------------------------------- choice


@pytest.mark.parametrize(
    ("value", "enabled"),
    [
        ("", set()),
        ("zzalpha", {"zzalpha"}),
        ("zzalpha,zzbeta", {"zzalpha", "zzbeta"}),
        ("-zzalpha", {"zzbeta"}),
        (" -zzalpha , -zzbeta ", set()),
        ("zzalpha,zzbeta,-zzbeta", {"zzalpha"}),
        ("-ZZ_Alpha", {"zzalpha", "zzbeta"}),
    ],
)
def test_the_environment_chooses(beta, monkeypatch, value, enabled):
    monkeypatch.setenv("MMX_PLUGINS", value)
    chosen = {p.scope for p in states() if p.state == "enabled" and p.scope.startswith("zz")}
    assert enabled == chosen
    core = next((p for p in states() if p.scope == "mmx"), None)
    assert core is None or core.state in ("enabled", "active"), "nobody can do without the core"


def test_a_distribution_may_be_named_instead_of_a_scope(site, root, monkeypatch):
    site.plugin("zzgamma", {"registry.py": child("zzgamma")}, distribution="Some-Dist")
    monkeypatch.setenv("MMX_PLUGINS", "-some_dist")
    assert state("zzgamma")[0] == "disabled"


def test_a_disabled_plugin_says_so_when_it_is_asked_for(alpha, monkeypatch):
    monkeypatch.setenv("MMX_PLUGINS", "-zzalpha")
    with pytest.raises(
        PluginError, match=r"'zzalpha' \(zzalpha 0.1\) is disabled: MMX_PLUGINS="
    ) as caught:
        alpha.get("zzalpha.A")
    assert (caught.value.scope, caught.value.state) == ("zzalpha", "disabled")
    assert isinstance(caught.value, KeyError)
    assert "zzalpha.A" not in alpha
    with pytest.raises(NotFoundError) as caught:
        alpha.build(dict(type="A"))
    assert "registers it for the plugin 'zzalpha', which is disabled" in str(caught.value)
    assert len(caught.value.problems) == 1
    monkeypatch.delenv("MMX_PLUGINS")
    assert alpha.get("zzalpha.A").__name__ == "A"


def test_the_config_chooses(beta):
    configure(only=["zzbeta"])
    assert state("zzalpha") == ("disabled", "the config's list of plugins does not name it")
    assert state("zzbeta")[0] == "enabled"
    configure(disable=["zzbeta"])
    assert state("zzalpha")[0] == "enabled"
    assert state("zzbeta") == ("disabled", "the config leaves it out")
    configure()
    assert state("zzbeta")[0] == "enabled"
    with pytest.raises(TypeError, match="only must be a list of plugin names"):
        configure(only="zzalpha")


def test_names_that_no_plugin_has_are_reported(alpha, monkeypatch):
    monkeypatch.setenv("MMX_PLUGINS", "-zz-none")
    assert plugins.unknown_choices() == ["zz-none"]


# --------------------------------------------------------------------------- requirements


def test_an_unmet_requirement_on_mmx_makes_a_plugin_incompatible(site, root):
    site.plugin("zzold", {"registry.py": "raise RuntimeError('imported')"}, requires=["mmx>=99"])
    assert state("zzold")[0] == "incompatible"
    with pytest.raises(
        PluginError, match=r"is incompatible: it requires mmx>=99, but .* is installed"
    ):
        root.get("zzold.X")


def test_markers_of_requirements_count(site, root):
    site.plugin(
        "zzmark",
        {"registry.py": child("zzmark")},
        requires=[
            "mmx>=99; python_version<'3'",
            "mmx>=99; extra=='dev'",
            "numpy>=1",
            "mmx-registry",
        ],
    )
    assert state("zzmark")[0] == "enabled"


def test_requirements_on_other_plugins_are_checked(alpha, site, monkeypatch):
    site.plugin("zzneeds", {"registry.py": child("zzneeds")}, requires=["zzalpha>=2"])
    assert state("zzneeds") == ("incompatible", "it requires zzalpha>=2, but 0.1 is installed")
    site.plugin("zzother", {"registry.py": child("zzother")}, requires=["zzalpha>=0.1"])
    assert state("zzother")[0] == "enabled"
    monkeypatch.setenv("MMX_PLUGINS", "-zzalpha")
    plugins.reset()
    assert state("zzother")[0] == "incompatible"
    assert "it requires the plugin zzalpha, which is disabled" in state("zzother")[1]


def test_requirements_may_be_told_by_a_hook(alpha, site):
    source = child("zzhook") + (
        "from mmx_registry import hookimpl\n@hookimpl\ndef mmx_requires(): return ['zzalpha>=9']\n"
    )
    site.plugin("zzhook", {"registry.py": source})
    with pytest.raises(PluginError, match=r"it requires zzalpha>=9, but 0.1 is installed"):
        alpha.get("zzhook.X")
    assert state("zzhook")[0] == "incompatible"
    assert "zzhook" not in alpha.children


def test_requirements_that_cannot_be_met_or_read_are_told(site, root):
    source = child("zzhook") + (
        "from mmx_registry import hookimpl\n@hookimpl\ndef mmx_requires(): return ['zz-none>=1']\n"
    )
    site.plugin("zzhook", {"registry.py": source})
    with pytest.raises(
        PluginError, match="it requires the plugin zz-none>=1, which is not install"
    ):
        root.get("zzhook.X")
    site.plugin("zzodd", {"registry.py": child("zzodd")}, requires=["=="])
    assert state("zzodd") == ("incompatible", "its requirement '==' cannot be parsed")


def test_a_plugin_without_this_kind_of_registry_is_told(alpha):
    from rootpkg.registry import HOOKS

    with pytest.raises(NotFoundError, match="the plugin 'zzalpha' has no 'hook' registry"):
        HOOKS.build(dict(type="zzalpha.A"))
    with pytest.raises(NotFoundError, match="Base is not in the rootpkg::hook registry"):
        HOOKS.build(dict(type="Base", _scope_="zzalpha"))


# --------------------------------------------------------------------------- failures


BROKEN = {
    "syntax": ("def (\n", "SyntaxError"),
    "missing": ("import zz_not_installed\n", "ModuleNotFoundError"),
    "raising": ("raise ValueError('no luck')\n", "ValueError: no luck"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_plugin_is_rolled_back_and_harms_no_other(beta, site, kind):
    source, reason = BROKEN[kind]
    files = {
        "registry.py": child("zzbroken") + "import zzbroken.good\nimport zzbroken.bad\n",
        "good.py": part("zzbroken", "Good")
        + "from rootpkg.registry import MODELS\n@MODELS.register_module()\nclass Leaked: pass\n",
        "bad.py": source,
    }
    site.plugin("zzbroken", files)
    for _ in range(2):
        with pytest.raises(PluginError, match="the plugin 'zzbroken'") as caught:
            beta.get("zzbroken.Good")
        assert reason.partition(":")[0] == type(caught.value.__cause__).__name__
    assert state("zzbroken")[0] == "failed"
    assert reason in state("zzbroken")[1]
    assert "zzbroken" not in beta.children
    assert "Leaked" not in beta.module_dict
    assert [name for name in sys.modules if name.startswith("zzbroken.")] == []
    assert beta.get("zzalpha.A").__name__ == "A"
    with pytest.raises(PluginError):
        beta.build(dict(type="A", _scope_="zzbroken"))
    # Repaired, it works: nothing of the first try is in the way.
    site.write({"zzbroken/bad.py": "FIXED = True\n"})
    assert beta.get("zzbroken.Good").__name__ == "Good"
    assert "Leaked" in beta.module_dict


def test_a_missing_name_owned_by_a_failed_plugin_tells_its_cause(beta, site):
    site.plugin(
        "zzbroken",
        {
            "registry.py": child("zzbroken") + "raise OSError('gone')",
            "models.py": part("zzbroken", "Owned"),
        },
    )
    with pytest.raises(PluginError):
        beta.get("zzbroken.Owned")
    with pytest.raises(NotFoundError) as caught:
        beta.build(dict(type="Owned"))
    assert "which is failed: OSError: gone" in caught.value.problems[0]


def test_strict_mode_raises_what_the_plugin_raised(beta, site, monkeypatch):
    site.plugin("zzbroken", {"registry.py": "raise ValueError('no luck')"})
    monkeypatch.setenv("MMX_PLUGINS_STRICT", "1")
    for _ in range(2):
        with pytest.raises(ValueError, match="no luck"):
            beta.get("zzbroken.X")
    with pytest.raises(ValueError, match="no luck"):
        plugins.activate_all()
    configure(strict=False)
    plugins.reset()
    assert "failed" in {p.state for p in plugins.activate_all()}


# --------------------------------------------------------------------------- conflicts


def test_two_plugins_of_one_scope_are_an_error_until_one_is_preferred(site, root, monkeypatch):
    site.plugin("zzone", {"registry.py": child("zzsame")}, scope="zzsame")
    site.plugin("zztwo", {"registry.py": child("zzsame")}, scope="zzsame", version="2.0")
    with pytest.raises(PluginError) as caught:
        root.get("zzsame.X")
    text = str(caught.value)
    assert "zzone 0.1" in text
    assert "zztwo 2.0" in text
    assert "both claim the scope 'zzsame'" in text
    configure(prefer={"zzsame": "zztwo"})
    plugins.activate("zzsame")
    assert "zztwo" in sys.modules
    assert "zzone" not in sys.modules
    assert discovered()["zzsame"].distribution == "zztwo"


def test_leaving_one_of_two_plugins_out_settles_the_scope(site, root, monkeypatch):
    site.plugin("zzone", {"registry.py": child("zzsame")}, scope="zzsame")
    site.plugin("zztwo", {"registry.py": child("zzsame")}, scope="zzsame")
    monkeypatch.setenv("MMX_PLUGINS", "-zztwo")
    assert plugins.activate("zzsame")
    assert discovered()["zzsame"].distribution == "zzone"


def rival(name: str, *, force: str = "") -> str:
    return child(name) + f"@ROOT.register_module({force})\nclass Shared:\n    owner = {name!r}\n"


def test_two_plugins_of_one_name_are_an_error_that_names_both(site, root):
    site.plugin("zzone", {"registry.py": rival("zzone")}, distribution="dist-one")
    site.plugin("zztwo", {"registry.py": rival("zztwo")}, distribution="dist-two")
    plugins.activate("zzone")
    with pytest.raises(PluginError, match="dist-one") as caught:
        plugins.activate("zztwo")
    assert isinstance(caught.value.__cause__, DuplicateError)
    assert caught.value.__cause__.owners == ("dist-one", "dist-two")
    assert root.get("Shared").owner == "zzone"


@pytest.mark.parametrize("winner", ["zzone", "zztwo"])
def test_a_preference_settles_a_name(site, root, winner):
    site.plugin("zzone", {"registry.py": rival("zzone")})
    site.plugin("zztwo", {"registry.py": rival("zztwo")})
    configure(prefer={"rootpkg.Shared": winner})
    plugins.activate("zzone")
    plugins.activate("zztwo")
    assert winner == root.get("Shared").owner


def test_force_settles_a_name(site, root):
    site.plugin("zzone", {"registry.py": rival("zzone")})
    site.plugin("zztwo", {"registry.py": rival("zztwo", force="force=True")})
    plugins.activate("zzone")
    plugins.activate("zztwo")
    assert root.get("Shared").owner == "zztwo"


# --------------------------------------------------------------------------- packages without entry points


def test_a_package_with_a_registry_module_is_found_by_its_name(site, root):
    site.package("zzdet", {"registry.py": child("zzdet"), "models.py": part("zzdet", "Det")})
    assert type(root.build(dict(type="Det", _scope_="zzdet"))).__name__ == "Det"
    assert root.get("zzdet.Det").__name__ == "Det"
    assert not discovered()["zzdet"].managed


def test_register_all_modules_is_called_where_there_are_no_locations(site, root):
    site.package(
        "zzpose",
        {
            "registry.py": child("zzpose").replace("locations=['zzpose.models']", "locations=[]"),
            "models.py": part("zzpose", "Pose"),
            "utils.py": """
            CALLS = []
            def register_all_modules(init_default_scope=True):
                CALLS.append(init_default_scope)
                import zzpose.models
            """,
        },
    )
    assert type(root.build(dict(type="Pose", _scope_="zzpose"))).__name__ == "Pose"
    from zzpose.utils import CALLS

    assert CALLS == [False]


@pytest.mark.parametrize("name", ["zzplain", "zznoregistry", "json", "this", "antigravity"])
def test_a_package_without_registries_is_not_imported(site, root, name):
    site.package(
        "zzplain", {"__init__.py": "raise RuntimeError('imported')", "registry.py": "X = 1"}
    )
    site.package("zznoregistry", {"__init__.py": "raise RuntimeError('imported')"})
    before = set(sys.modules)
    with pytest.raises(UnknownScopeError):
        root.build(dict(type="X", _scope_=name))
    assert root.get(f"{name}.X") is None
    assert name not in set(sys.modules) - before


# --------------------------------------------------------------------------- hooks


HOOKS = """
from mmx_registry import hookimpl

@hookimpl
def mmx_cli_commands():
    return {"zz": "command"}

@hookimpl
def mmx_scopes():
    return {"zzextra": "zzhooks.extra"}

@hookimpl
def mmx_runner_spec(spec):
    spec["seen"] = True

@hookimpl
def mmx_default_hooks():
    return [dict(type="X")]
"""


def test_hooks_of_plugins_are_called(site, root):
    site.plugin("zzhooks", {"registry.py": child("zzhooks") + HOOKS, "extra.py": child("zzextra")})
    spec = {}
    assert [
        r for p, r in plugins.call_hook("mmx_runner_spec", spec=spec) if p.scope == "zzhooks"
    ] == [None]
    assert spec == {"seen": True}
    assert [[dict(type="X")]] == [
        r for p, r in plugins.call_hook("mmx_default_hooks", spec=spec) if p.scope == "zzhooks"
    ]


def test_a_plugin_may_announce_more_scopes(site, root):
    site.plugin("zzhooks", {"registry.py": child("zzhooks") + HOOKS, "extra.py": child("zzextra")})
    with root.switch_scope_and_registry("zzextra") as node:
        assert node.scope == "zzextra"


def test_a_plugin_without_the_hook_is_not_imported_for_it(alpha):
    assert "zzalpha" not in {p.scope for p in plugins.with_hook("mmx_cli_commands")}
    assert "zzalpha" not in sys.modules


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        ("def mmx_no_such_hook(): pass", "unknown hook 'mmx_no_such_hook'"),
        ("def mmx_runner_spec(spec, nonsense): pass", "nonsense"),
    ],
)
def test_wrong_hooks_are_rejected_when_the_plugin_comes_alive(site, root, hook, message):
    source = child("zzbad") + f"from mmx_registry import hookimpl\n@hookimpl\n{hook}\n"
    site.plugin("zzbad", {"registry.py": source})
    with pytest.raises(PluginError, match=message):
        plugins.activate("zzbad")
    assert state("zzbad")[0] == "failed"
    assert "zzbad" not in root.children
    plugins.hook_manager().check_pending()


def test_an_error_in_a_hook_names_the_plugin(site, root):
    source = child("zzbad") + (
        "from mmx_registry import hookimpl\n@hookimpl\ndef mmx_runner_spec(spec): raise ValueError('x')\n"
    )
    site.plugin("zzbad", {"registry.py": source})
    with pytest.raises(ValueError, match="x") as caught:
        plugins.call_hook("mmx_runner_spec", spec={})
    assert caught.value.__notes__ == ["raised by mmx_runner_spec of the plugin 'zzbad' (zzbad)"]


# --------------------------------------------------------------------------- threads


def test_threads_that_activate_one_plugin_at_once_agree(beta):
    results = []
    barrier = threading.Barrier(8)

    def work(i):
        barrier.wait()
        results.append(beta.get("zzalpha.A" if i % 2 else "zzbeta.B").__name__)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["A"] * 4 + ["B"] * 4


def test_importing_the_mechanism_imports_no_plugin_and_nothing_heavy():
    code = (
        "import sys, mmx_registry\n"
        "heavy = {'torch', 'numpy', 'yaml', 'rich', 'click', 'importlib_metadata', 'pluggy', 'mmx'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
