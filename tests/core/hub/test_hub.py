import sys

import pytest
import torch
from torch import nn

from mmx.config import ConfigDict
from mmx.config.model_index import find_model, indexed_models, package_of_scope
from mmx.hub import get_config, get_model
from mmx.infer import PipelineInferencer
from mmx.registry import MODELS

pytestmark = pytest.mark.usefixtures("isolated")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package that ships two configs and publishes weights for one."""
    root = tmp_path / "zoo_pkg"
    (root / "configs" / "nets").mkdir(parents=True)
    (root / "__init__.py").write_text("")
    (root / "configs" / "nets" / "small.py").write_text(
        "default_scope = 'mmx'\nmodel = dict(type='ZooNet')\ntest_pipeline = []\n"
    )
    (root / "configs" / "nets" / "other.py").write_text("x = 1\n")
    weights = tmp_path / "small.pth"
    torch.save({"state_dict": {"weight": torch.ones(1, 1)}}, weights)
    (root / "configs" / "nets" / "metafile.yml").write_text(
        "Models:\n"
        "  - Name: small_net\n"
        "    Alias: [small, tiny]\n"
        "    Config: configs/nets/small.py\n"
        f"    Weights: {weights}\n"
        "  - Name: other_net\n"
        "    Alias: other\n"
    )
    (root / "model-index.yml").write_text("Import:\n  - configs/nets/metafile.yml\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    @MODELS.register_module()
    class ZooNet(nn.Module):
        def __init__(self, bias=False):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1, 1))
            self.has_bias = bias

    yield root
    sys.modules.pop("zoo_pkg", None)


def test_configs_of_packages_are_found(package):
    cfg = get_config("zoo_pkg::nets/small.py")
    assert cfg.model == ConfigDict(type="ZooNet")
    assert "model_path" not in cfg
    assert get_config("zoo_pkg::nets/small", pretrained=True).model_path.endswith("small.pth")


def test_models_of_packages_are_built(package):
    assert get_model("zoo_pkg::nets/small.py").weight.item() == 0
    model = get_model("zoo_pkg::nets/small.py", pretrained=True, bias=True)
    assert model.weight.item() == 1
    assert model.has_bias


@pytest.mark.parametrize(
    ("path", "pretrained", "error", "text"),
    [
        (
            "nets/small.py",
            False,
            ValueError,
            "please specify the package name and relative config path",
        ),
        ("zoo_pkg::nets/smal.py", False, FileNotFoundError, "did you mean zoo_pkg::nets/small.py"),
        ("absent_pkg::nets/small.py", False, ModuleNotFoundError, "pip install absent-pkg"),
        ("zoo_pkg::nets/other.py", True, ValueError, "lists no weights for .*other.py"),
        (
            "zoo_pkg::../secret.py",
            False,
            FileNotFoundError,
            "is a path inside the package's configs",
        ),
    ],
)
def test_wrong_addresses_are_explained(package, path, pretrained, error, text):
    with pytest.raises(error, match=text):
        get_config(path, pretrained)


def test_a_config_without_a_model_is_no_model(package):
    with pytest.raises(ValueError, match="has no `model`"):
        get_model("zoo_pkg::nets/other.py")


def test_models_are_listed_and_found_by_name(package):
    assert PipelineInferencer.list_models("zoo_pkg") == [
        "small_net",
        "small",
        "tiny",
        "other_net",
        "other",
    ]
    assert PipelineInferencer.list_models("zoo_pkg", r"small") == ["small_net", "small"]
    with pytest.raises(
        ValueError, match="scope should be initialized if you want to list the models"
    ):
        PipelineInferencer.list_models()
    assert find_model("zoo_pkg", "tiny").name == "small_net"
    with pytest.raises(ValueError, match="Cannot find model: smal in zoo_pkg; did you mean small"):
        find_model("zoo_pkg", "smal")


def test_an_inferencer_takes_a_models_name(package, monkeypatch):
    monkeypatch.setattr("mmx.infer.infer.package_of_scope", lambda scope: "zoo_pkg")
    inferencer = PipelineInferencer("tiny", device="cpu", scope="mmx")
    assert inferencer.model.weight.item() == 1
    with pytest.raises(ValueError, match="names no Config for other_net"):
        PipelineInferencer("other", device="cpu", scope="mmx")


def test_packages_without_an_index_say_so(package):
    (package / "model-index.yml").unlink()
    with pytest.raises(FileNotFoundError, match=r"zoo_pkg has no model-index.yml"):
        list(indexed_models("zoo_pkg"))
    with pytest.raises(ModuleNotFoundError, match="pip install absent-pkg"):
        list(indexed_models("absent_pkg"))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("Models: 5", "Models must be a list, got int"),
        ("Models: [5]", "a model must be a dict with a Name, got 5"),
        ("Import: [../outside.yml]", "../outside.yml lies outside the package"),
    ],
)
def test_a_wrong_index_is_explained(package, text, error):
    (package / "model-index.yml").write_text(text)
    with pytest.raises(ValueError, match=error):
        list(indexed_models("zoo_pkg"))


def test_a_scope_belongs_to_its_plugins_package():
    assert package_of_scope("mmx_toy") == "mmx_toy"
    assert package_of_scope("unknown") == "unknown"
