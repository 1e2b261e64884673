import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from mmx.config import Config, ConfigDict
from mmx.infer import BaseInferencer, PipelineInferencer
from mmx.infer.config_text import parse_config_text
from mmx.model import BaseModel
from mmx.registry import INFERENCERS, MODELS, TRANSFORMS
from mmx.structures import InstanceData

pytestmark = pytest.mark.usefixtures("isolated")


class Scores(BaseModel):
    """Two scores of the mean of an input of two numbers."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.scale = scale
        self.batches = []

    def forward(self, inputs, data_samples=None, mode="tensor"):
        inputs = torch.stack(list(inputs)).float()
        self.batches.append(len(inputs))
        return self.linear(inputs) * self.scale


class LoadNumbers:
    def __call__(self, sample):
        return {**sample, "img": np.array(json.loads(Path(sample["img_path"]).read_text()))}


class Pack:
    def __call__(self, sample):
        return {"inputs": torch.as_tensor(sample["img"])}


CONFIG = {
    "model": {"type": "Scores"},
    "test_dataloader": {
        "dataset": {"type": "X", "pipeline": [{"type": "LoadNumbers"}, {"type": "Pack"}]}
    },
}


class Doubling(BaseInferencer):
    preprocess_kwargs = {"offset"}
    forward_kwargs = {"times"}
    visualize_kwargs = {"colour"}
    postprocess_kwargs = {"name"}

    def _init_pipeline(self, cfg):
        return lambda x: {"inputs": torch.as_tensor(x)}

    def preprocess(self, inputs, batch_size=1, offset=0):
        return super().preprocess([i + offset for i in inputs], batch_size)

    def forward(self, inputs, times=1):
        return super().forward(inputs) * times

    def visualize(self, inputs, preds, show=False, colour=None):
        return [colour] * len(inputs)

    def postprocess(self, preds, visualization, return_datasample=False, name="p"):
        return {name: preds, "visualization": visualization, "as_data": return_datasample}


@pytest.fixture(autouse=True)
def parts(isolated):
    MODELS.register_module(module=Scores)
    TRANSFORMS.register_module(module=LoadNumbers)
    TRANSFORMS.register_module(module=Pack)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Checkpoint is not loaded")
        yield


@pytest.fixture
def weights(tmp_path):
    model = Scores()
    nn.init.eye_(model.linear.weight)
    nn.init.zeros_(model.linear.bias)
    checkpoint = {
        "state_dict": model.state_dict(),
        "meta": {"cfg": Config(CONFIG).pretty_text, "dataset_meta": {"classes": ["low", "high"]}},
    }
    path = tmp_path / "weights.pth"
    torch.save(checkpoint, path)
    return str(path)


def test_a_call_goes_through_all_stages_with_their_arguments(weights):
    inferencer = Doubling(CONFIG, weights, device="cpu", show_progress=False)
    inputs = [torch.tensor([1.0, 2.0])] * 3
    out = inferencer(
        inputs, return_datasamples=True, batch_size=2, offset=1, times=2, colour="red", name="found"
    )
    assert [p.tolist() for p in out["found"]] == [[4.0, 6.0]] * 3
    assert out["visualization"] == ["red"] * 3
    assert out["as_data"] is True
    assert inferencer.model.batches == [2, 1]
    assert not inferencer.model.training
    assert not out["found"][0].requires_grad
    assert inferencer.model.cfg == inferencer.cfg


def test_progress_is_shown_on_request(weights, capsys):
    Doubling(CONFIG, weights, device="cpu")(torch.ones(2))
    assert "Inference" in capsys.readouterr().out


def test_an_argument_belongs_to_one_stage(weights):
    with pytest.raises(
        ValueError, match=r"unknown argument \['wrong'\] .*known are \['colour', 'name'"
    ):
        Doubling(CONFIG, weights, device="cpu", show_progress=False)(torch.ones(2), wrong=1)
    with pytest.raises(
        ValueError, match="Class define error! Twice should not define duplicated keys"
    ):

        class Twice(Doubling):
            preprocess_kwargs = {"times"}

    with pytest.raises(TypeError, match=r"Listed.preprocess_kwargs must be a set of names"):

        class Listed(Doubling):
            preprocess_kwargs = ["a"]


def test_the_base_class_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        BaseInferencer(CONFIG)


@pytest.mark.parametrize("kind", [Config, ConfigDict, dict])
def test_a_model_is_given_as_a_config(kind):
    config = kind({**CONFIG, "model": {"type": "Scores", "scale": 3, "pretrained": "x"}})
    inferencer = Doubling(config, device="cpu")
    assert inferencer.model.scale == 3
    assert config["model"]["pretrained"] == "x"
    assert inferencer.cfg is not config


def test_a_model_is_given_as_a_file_or_by_its_weights_alone(tmp_path, weights):
    path = tmp_path / "config.py"
    path.write_text("model = dict(type='Scores', scale=4)")
    assert Doubling(str(path), device="cpu").model.scale == 4
    inferencer = Doubling(weights=weights, device="cpu")
    assert inferencer.cfg["model"]["type"] == "Scores"
    assert torch.equal(inferencer.model.linear.weight, torch.eye(2))


def test_without_weights_there_is_a_warning():
    with pytest.warns(UserWarning, match="Checkpoint is not loaded, and the inference result"):
        Doubling(CONFIG, device="cpu")


def test_wrong_models_are_refused(tmp_path, weights):
    with pytest.raises(
        TypeError, match="model must be a filepath or any ConfigType object, but got"
    ):
        Doubling(5)
    with pytest.raises(ValueError, match="If model is None, the weights must be specified"):
        Doubling()
    with pytest.raises(ValueError, match="'resnet' is no file, and without a scope"):
        Doubling("resnet")
    path = tmp_path / "bare.pth"
    torch.save({"state_dict": {}}, path)
    with pytest.raises(ValueError, match=r"Cannot find the config in the checkpoint .*bare.pth"):
        Doubling(weights=str(path))


def test_a_config_in_a_checkpoint_does_not_run(tmp_path):
    path, victim = tmp_path / "evil.pth", tmp_path / "made"
    text = f"import pathlib\npathlib.Path({str(victim)!r}).touch()\nmodel = dict(type='Scores')"
    torch.save({"state_dict": {}, "meta": {"cfg": text}}, path)
    with pytest.raises(
        ValueError, match=r"has code in line 1 \('import pathlib'\), which is not run"
    ):
        Doubling(weights=str(path))
    assert not victim.exists()


@pytest.mark.parametrize(
    "text",
    [
        "a = __import__('os').system('true')",
        "a = [x for x in (1,)]",
        "a = open('x')",
        "a = dict.fromkeys('ab')",
        "a.b = 1",
        "a, b = 1, 2",
        "del a",
        "a = f'{1}'",
        "a = -'x'",
        "a = b",
        "a = list(x=1)",
    ],
)
def test_only_literals_are_read(text):
    with pytest.raises(ValueError, match="the config in x has code in line 1"):
        parse_config_text(text, "x")


def test_a_printed_config_is_read_back():
    config = {
        "a": {
            "type": "X",
            "b": [1, -2.5, None, True],
            "c": (1,),
            "d": {1, 2},
            "e-f": {"g": "h"},
            3: 4,
        },
        "i": math.inf,
        "j": "it's\n",
        "k": [],
    }
    assert parse_config_text(Config(config).pretty_text, "x") == config
    assert parse_config_text("'''doc'''\na = dict(dict(b=1), c=2, **{'d': 3})", "x") == {
        "a": {"b": 1, "c": 2, "d": 3}
    }
    with pytest.raises(ValueError, match="the config in x is no Python text"):
        parse_config_text("a = = 1", "x")


def test_inputs_may_be_a_folder_a_list_or_one_thing(tmp_path):
    for name in ("b.txt", "a.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / "sub").mkdir()
    inferencer = Doubling.__new__(Doubling)
    assert inferencer._inputs_to_list(str(tmp_path)) == [f"{tmp_path}/a.txt", f"{tmp_path}/b.txt"]
    assert inferencer._inputs_to_list("http://host/a.jpg") == ["http://host/a.jpg"]
    assert inferencer._inputs_to_list((1, 2)) == [1, 2]
    array = np.ones(2)
    assert inferencer._inputs_to_list(array)[0] is array
    with pytest.raises(ValueError, match="batch_size must be positive, got 0"):
        list(inferencer._get_chunk_data([1], 0))


@pytest.mark.parametrize(
    "collate", ["default_collate", {"type": "default_collate"}, torch.utils.data.default_collate]
)
def test_the_collate_function_is_the_test_loaders(collate):
    config = {**CONFIG, "test_dataloader": {"collate_fn": collate}}
    batch = Doubling(config, device="cpu").collate_fn([{"a": 1}, {"a": 2}])
    assert batch["a"].tolist() == [1, 2]
    assert Doubling(CONFIG, device="cpu").collate_fn([{"a": 1}]) == {"a": [1]}


def test_any_input_goes_through_the_test_pipeline(tmp_path, weights):
    inferencer = PipelineInferencer(CONFIG, weights, device="cpu", show_progress=False)
    text, array = tmp_path / "x.json", tmp_path / "x.npy"
    text.write_text("[1, 2]")
    np.save(array, np.array([4.0, 3.0]))
    out = inferencer(
        [
            str(text),
            str(array),
            np.array([0.0, 1.0]),
            torch.tensor([2.0, 0.0]),
            {"img_path": str(text)},
        ],
        batch_size=2,
    )
    expected = [("high", 2.0), ("low", 4.0), ("high", 1.0), ("low", 2.0), ("high", 2.0)]
    assert [(p["pred_class"], p["pred_score"]) for p in out["predictions"]] == expected
    assert out["predictions"][0]["pred_scores"] == [1.0, 2.0]
    assert out["visualization"] is None
    raw = inferencer(np.array([0.0, 1.0]), return_datasamples=True)["predictions"]
    assert torch.equal(raw[0], torch.tensor([0.0, 1.0]))


def test_predictions_become_plain_data(weights):
    inferencer = PipelineInferencer(CONFIG, weights, device="cpu", show_progress=False)
    element = InstanceData(metainfo={"size": (1, 2)}, boxes=torch.ones(1, 4), names=["a"])
    plain = inferencer.postprocess([element, (torch.tensor(1), {2})], None)["predictions"]
    assert plain == [{"size": [1, 2], "boxes": [[1.0] * 4], "names": ["a"]}, [1, [2]]]
    assert json.dumps(plain)


def test_a_pipeline_without_a_loader_takes_arrays_only(weights):
    config = {**CONFIG, "test_pipeline": [{"type": "Pack"}]}
    inferencer = PipelineInferencer(config, weights, device="cpu", show_progress=False)
    with pytest.raises(ValueError, match=r"the test pipeline has no transform that loads a.jpg"):
        inferencer("a.jpg")
    with pytest.raises(ValueError, match="the config has no test pipeline"):
        PipelineInferencer({"model": {"type": "Scores"}}, weights)
    wrapped = {"dataset": {"dataset": {"datasets": [{"pipeline": [{"type": "Pack"}]}]}}}
    config = {"model": {"type": "Scores"}, "val_dataloader": wrapped}
    assert len(PipelineInferencer(config, weights)(np.ones(2))["predictions"]) == 1


def test_mmx_predict_prints_a_line_for_each_input(tmp_path, weights):
    from mmx.cli.predict_cmd import command

    config = tmp_path / "config.py"
    config.write_text("\n".join(f"{key} = {value!r}" for key, value in CONFIG.items()))
    folder = tmp_path / "inputs"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.json").write_text(f"[{number}, 1]")
    arguments = [str(config), weights, str(folder), "--batch-size", "2", "--device", "cpu"]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.output.splitlines() if line.startswith("{")]
    assert [row["prediction"]["pred_label"] for row in rows] == [1, 0, 0]
    assert rows[0]["input"] == f"{folder}/0.json"
    out = tmp_path / "out.json"
    result = CliRunner().invoke(command, [*arguments, "--out", str(out)], catch_exceptions=False)
    assert f"3 predictions are in {out}." in result.output
    assert json.loads(out.read_text()) == rows
    for wrong, text in (
        ([str(config), "none.pth", str(folder)], "there is no checkpoint 'none.pth'"),
        ([str(config), weights, "none"], "there is no input 'none'"),
    ):
        result = CliRunner().invoke(command, wrong)
        assert result.exit_code == 1
        assert text in result.output


def test_the_inferencer_of_a_config_is_used(tmp_path, weights):
    from mmx.cli.predict_cmd import command

    @INFERENCERS.register_module()
    class Constant(PipelineInferencer):
        def postprocess(self, preds, visualization, return_datasample=False, **kwargs):
            return {"predictions": ["same"] * len(preds)}

    config = tmp_path / "config.py"
    config.write_text(
        "\n".join(f"{key} = {value!r}" for key, value in CONFIG.items())
        + "\ninferencer = dict(type='Constant')"
    )
    (tmp_path / "a.json").write_text("[1, 2]")
    arguments = [str(config), weights, str(tmp_path / "a.json"), "--device", "cpu"]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert '"prediction": "same"' in result.output
