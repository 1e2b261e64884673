"""Counting, listing and the console script."""

import json
import subprocess
import sys

import pytest

from mmx_registry import Registry, count_registries, json_schema, traverse_registry_tree
from mmx_registry.count import main, table, unread


@pytest.fixture
def tree(site, root):
    site.plugin(
        "zzalpha",
        {
            "registry.py": """
            from mmx_registry import Registry
            from rootpkg.registry import MODELS as ROOT
            MODELS = Registry('model', parent=ROOT, scope='zzalpha', locations=['zzalpha.models'])
            """,
            "models/__init__.py": "",
            "models/net.py": """
            from zzalpha.registry import MODELS
            @MODELS.register_module()
            class Net: pass
            """,
        },
    )
    site.distribution("rootpkg", entry_points={"rootpkg": "rootpkg.registry"})
    return root


def test_a_tree_is_counted_without_imports(tree, capsys):
    import zzalpha.registry  # noqa: F401

    rows = traverse_registry_tree(tree)
    assert rows == [
        {"num_modules": 1, "scope": "rootpkg", "rootpkg/parts": ["Base"]},
        {"num_modules": 1, "scope": "zzalpha", "zzalpha/models": ["Net"]},
    ]
    assert capsys.readouterr().out.splitlines() == [
        "Find 1 modules in rootpkg's 'model' registry",
        "Find 1 modules in zzalpha's 'model' registry",
    ]
    assert "zzalpha.models.net" not in sys.modules


def test_a_child_stands_for_its_whole_tree(tree):
    import zzalpha.registry

    assert traverse_registry_tree(zzalpha.registry.MODELS, verbose=False) == traverse_registry_tree(
        tree, verbose=False
    )


def test_counts_are_saved_as_json(tree, tmp_path):
    result = count_registries({"MODELS": tree}, str(tmp_path / "new"), verbose=False)
    saved = json.loads((tmp_path / "new" / "modules_statistic_results.json").read_text())
    assert saved == result
    assert set(saved) == {"scan_date", "registries"}
    assert saved["registries"]["MODELS"][0]["num_modules"] == 1


def test_the_table_has_a_column_for_each_scope(tree):
    import zzalpha.registry  # noqa: F401

    result = count_registries({"MODELS": tree}, verbose=False)
    lines = table(result).splitlines()
    assert lines[0].split() == ["registry", "rootpkg", "zzalpha", "total"]
    assert lines[2].split() == ["MODELS", "1", "1", "2"]
    assert lines[-1].split() == ["total", "1", "1", "2"]


def test_the_script_counts_every_plugin(tree, capsys, tmp_path):
    assert main(["--save", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert "Find 1 modules in rootpkg's 'model' registry\n" in out
    assert "Find 1 modules in zzalpha's 'model' registry\n" in out
    assert "Result has been saved to" in err
    assert main(["--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    trees = [nodes for nodes in data["registries"].values() if nodes[0]["scope"] == "rootpkg"]
    assert [node for nodes in trees for node in nodes if node["scope"] == "zzalpha"] == [
        {"num_modules": 1, "scope": "zzalpha", "zzalpha/models": ["Net"]}
    ]


def test_the_script_reports_broken_plugins(tree, site, capsys):
    site.plugin("zzbroken", {"registry.py": "raise ValueError('no luck')"})
    assert main([]) == 0
    out, err = capsys.readouterr()
    assert "'model' registry" in out
    assert "plugin 'zzbroken' is failed: ValueError: no luck" in err


def test_files_that_compute_names_are_pointed_out(tree, site):
    assert unread({"MODELS": tree}) == []
    site.write(
        {
            "rootpkg/parts/loop.py": """
            from rootpkg.registry import MODELS
            for n in 'ab':
                MODELS.register_module(n, module=dict)
            """
        }
    )
    assert [file.rpartition("/")[2] for file in unread({"MODELS": tree})] == ["loop.py"]
    assert tree.get("a") is dict
    assert unread({"MODELS": tree}) == []


def test_the_script_imports_everything_when_told_to(tree, site, capsys):
    site.write(
        {
            "rootpkg/parts/loop.py": "from rootpkg.registry import MODELS\n"
            "for n in 'ab':\n    MODELS.register_module(n, module=dict)",
            "rootpkg/parts/broken.py": "from rootpkg.registry import MODELS\nimport zz_none\n"
            "MODELS.register_module('c', module=dict)",
        }
    )
    # Only this tree: the core's parts take seconds to import.
    from mmx_registry import count

    count._import_everything({"MODELS": tree})
    assert "ModuleNotFoundError: No module named 'zz_none'" in capsys.readouterr().err
    assert set(tree.module_dict) == {"a", "b", "Base"}


def test_the_script_needs_no_torch():
    code = (
        "import sys\nsys.modules['torch'] = None\n"
        "from mmx_registry.count import main\nsys.exit(main([]))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    assert "modules in mmx's 'hook' registry" in out.stdout


# --------------------------------------------------------------------------- JSON Schema


def test_the_schema_has_arguments_types_defaults_and_docs(tree):
    from typing import Literal

    registry = Registry("part", scope="zz_schema")

    @registry.register_module()
    class Conv:
        """Convolve.

        More.
        """

        def __init__(
            self,
            width: int,
            mode: Literal["a", "b"] = "a",
            sizes: tuple[int, int] = (1, 2),
            names: list[str] | None = None,
            ratio: float = 0.5,
            cfg: dict | None = None,
            other: object = object(),
        ):
            pass

    @registry.register_module()
    def free(**kwargs):
        pass

    schema = json_schema(registry, prefixed=False)
    conv = schema["$defs"]["Conv"]
    assert conv["description"] == "Convolve."
    assert conv["properties"] == {
        "type": {"const": "Conv"},
        "_scope_": {"type": "string"},
        "width": {"type": "integer"},
        "mode": {"enum": ["a", "b"], "default": "a"},
        "sizes": {
            "type": "array",
            "prefixItems": [{"type": "integer"}, {"type": "integer"}],
            "minItems": 2,
            "maxItems": 2,
            "default": [1, 2],
        },
        "names": {
            "anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}],
            "default": None,
        },
        "ratio": {"type": "number", "default": 0.5},
        "cfg": {"anyOf": [{"type": "object"}, {"type": "null"}], "default": None},
        "other": {},
    }
    assert conv["x-required"] == ["width"]
    assert conv["additionalProperties"] is False
    assert schema["$defs"]["free"]["additionalProperties"] is True
    assert schema["properties"]["type"]["enum"] == ["Conv", "free"]
    json.dumps(schema)


def test_the_schema_has_ancestors_and_prefixed_names(tree):
    import zzalpha.registry

    schema = json_schema(zzalpha.registry.MODELS)
    assert sorted(schema["$defs"]) == ["Base", "Net", "rootpkg.Base", "zzalpha.Net"]
    assert schema["$defs"]["Base"]["properties"]["width"] == {"default": 1}


def test_the_schema_tells_what_cannot_be_imported(tree, site):
    site.write(
        {
            "rootpkg/parts/broken.py": """
            from rootpkg.registry import MODELS
            import zz_not_installed
            @MODELS.register_module()
            class Broken: pass
            """
        }
    )
    schema = json_schema(tree)
    assert "zz_not_installed" in schema["$defs"]["Broken"]["description"]
    assert "width" in schema["$defs"]["Base"]["properties"]
