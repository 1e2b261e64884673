"""The back ends, each with its real library where that is installed, and read back by it."""

import json
import os
import sys
import types
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from mmx.visualization import (
    AimVisBackend,
    ClearMLVisBackend,
    DVCLiveVisBackend,
    LocalVisBackend,
    MLflowVisBackend,
    NeptuneVisBackend,
    TensorboardVisBackend,
    Visualizer,
    WandbVisBackend,
)
from mmx.visualization.vis_backend import MissingExtraError, force_init_env

pytestmark = pytest.mark.usefixtures("isolated")

IMAGE = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)


class Config(dict):
    """As much of a config as back ends use."""

    pretty_text = "model = dict(depth=50)\n"
    filename = None

    def to_dict(self):
        return dict(self)

    def dump(self, path):
        with open(path, "w") as file:
            file.write(self.pretty_text)


@pytest.fixture
def config(tmp_path):
    work_dir = tmp_path / "work"
    work_dir.mkdir()
    (work_dir / "run.log").write_text("a line")
    (work_dir / "weights.bin").write_text("x")
    return Config(model={"depth": 50, "parts": [{"a": 1}, {"b": [1, 2]}]}, lr=0.1, work_dir=str(work_dir))  # fmt: skip


def test_the_environment_is_set_up_on_first_use():
    class Lazy:
        calls = 0

        def _init_env(self):
            self.calls += 1

        @force_init_env
        def add(self, value):
            return value + 1

    lazy = Lazy()
    assert (lazy.add(1), lazy.add(2), lazy.calls) == (2, 3, 1)

    class Without:
        @force_init_env
        def add(self):
            """Never reached."""

    with pytest.raises(AttributeError, match="does not have _init_env method"):
        Without().add()


# Local files -----------------------------------------------------------------------------------


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_local_scalars_are_lines_of_json(tmp_path):
    backend = LocalVisBackend(str(tmp_path / "a"))
    assert not (tmp_path / "a").exists()
    assert backend.experiment is backend
    for value in (1, 1.5, torch.tensor(2.0), np.array(3), np.float32(4), torch.ones(1), True, "x"):
        backend.add_scalar("m", value, step=3)
    assert lines(tmp_path / "a" / "scalars.json") == [
        {"m": m, "step": 3} for m in (1, 1.5, 2.0, 3, 4.0, 1.0, True, "x")
    ]
    with pytest.raises(ValueError, match=r"'m' should be a single number, .* shape \(2,\)"):
        backend.add_scalar("m", torch.ones(2))


def test_local_records_may_go_into_a_second_file(tmp_path):
    backend = LocalVisBackend(str(tmp_path))
    record = {"a": 1, "b": [1, 2], "c": torch.tensor(1.0), "d": np.float32(2), "e": {"x": None}}
    backend.add_scalars(record, step=5, file_path="second.json")
    backend.add_scalars({"a": 2, "step": 9}, step=5)
    expected = {"a": 1, "b": [1, 2], "c": 1.0, "d": 2.0, "e": {"x": None}, "step": 5}
    assert lines(tmp_path / "scalars.json") == [expected, {"a": 2, "step": 9}]
    assert lines(tmp_path / "second.json") == [expected]
    assert list(record) == ["a", "b", "c", "d", "e"]
    with pytest.raises(ValueError, match="have the same name, please set"):
        backend.add_scalars({"a": 1}, file_path="scalars.json")
    with pytest.raises(ValueError, match=r"file_path should end in .json: 'b.txt'"):
        backend.add_scalars({"a": 1}, file_path="b.txt")
    with pytest.raises(TypeError, match="scalar_dict should be a dict, but got list"):
        backend.add_scalars([1])


def test_local_files_can_be_read_while_they_grow_and_go_on_after_closing(tmp_path):
    backend = LocalVisBackend(str(tmp_path))
    backend.add_scalar("a", 1)
    assert len(lines(tmp_path / "scalars.json")) == 1
    backend.close()
    backend.close()
    backend.add_scalar("a", 2)
    assert len(lines(tmp_path / "scalars.json")) == 2
    backend.close()


def test_local_images_are_files(tmp_path):
    from PIL import Image

    backend = LocalVisBackend(str(tmp_path))
    backend.add_image("val/im", IMAGE, step=2)
    backend.add_image("grey", IMAGE[..., 0])
    folder = tmp_path / "vis_image"
    assert np.array_equal(np.asarray(Image.open(folder / "val" / "im_2.png")), IMAGE)
    assert np.asarray(Image.open(folder / "grey_0.png")).shape == (4, 5)
    with pytest.raises(ValueError, match="leads out of"):
        backend.add_image("../../im", IMAGE)
    with pytest.raises(ValueError, match="dtype uint8, but got float64"):
        backend.add_image("im", IMAGE.astype(float))
    with pytest.raises(ValueError, match=r"should be \(H, W\) or \(H, W, C\)"):
        backend.add_image("im", IMAGE[0, 0])


def test_local_config(tmp_path, config):
    backend = LocalVisBackend(str(tmp_path))
    backend.add_config(config)
    assert (tmp_path / "config.py").read_text() == config.pretty_text
    with pytest.raises(TypeError, match="config should be a Config, but got dict"):
        backend.add_config({})


@pytest.mark.parametrize("option", ["config_save_file", "scalar_save_file"])
def test_local_endings_are_checked(tmp_path, option):
    with pytest.raises(ValueError, match=f"{option} should end in"):
        LocalVisBackend(str(tmp_path), **{option: "a.txt"})


# TensorBoard -----------------------------------------------------------------------------------


def events_of(folder):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    accumulator = reader.EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_what_was_written(tmp_path, config):
    pytest.importorskip("tensorboard", reason="needs mmx[tensorboard]")
    backend = TensorboardVisBackend(str(tmp_path))
    backend.add_config(config)
    backend.add_image("im", IMAGE, step=1)
    backend.add_image("grey", IMAGE[..., 0], step=1)
    backend.add_scalar("m", torch.tensor(0.5), step=2)
    backend.add_scalars({"loss": 1.5, "acc": np.float32(0.25), "step": 7}, step=3)
    with pytest.warns(UserWarning, match="'names' is list; skip it!"):
        backend.add_scalars({"names": ["a"], "loss": 1.0}, step=8)
    assert backend.experiment is backend._tensorboard
    backend.close()
    backend.close()
    events = events_of(tmp_path)
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(7, 1.5), (8, 1.0)]
    assert [(e.step, e.value) for e in events.Scalars("m")] == [(2, 0.5)]
    assert events.Images("im")[0].width == 5
    assert (
        "depth=50" in events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_resumed_tensorboard_curve_is_one_curve(tmp_path):
    pytest.importorskip("tensorboard", reason="needs mmx[tensorboard]")

    def visualizer(name):
        return Visualizer(
            name, vis_backends=[dict(type="TensorboardVisBackend")], save_dir=str(tmp_path / name)
        )

    first = visualizer("first")
    state = None
    for step in range(1, 9):  # killed after step 8, saved after step 5
        first.add_scalars({"loss": float(step)}, step)
        if step == 5:
            state = first.state_dict()
    first._vis_backends["TensorboardVisBackend"].experiment.flush()
    second = visualizer("second")
    second.load_state_dict(state, step=5)
    for step in range(6, 11):
        second.add_scalars({"loss": step + 0.5}, step)
    second.close()
    assert not (tmp_path / "second").exists()
    loss = events_of(tmp_path / "first" / "vis_data").Scalars("loss")
    expected = [(s, float(s)) for s in range(1, 6)] + [(s, s + 0.5) for s in range(6, 11)]
    assert [(e.step, e.value) for e in loss] == expected
    first.close()


# MLflow ----------------------------------------------------------------------------------------


@pytest.fixture
def quiet():
    """Experiment trackers warn about their own dependencies."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.slow
def test_mlflow_reads_what_was_written_and_continues_a_run(tmp_path, config, quiet):
    mlflow = pytest.importorskip("mlflow", reason="needs mmx[mlflow]")
    options = dict(exp_name="exp", run_name="run", tags={"t": "1"}, params={"extra": 5})
    visualizer = Visualizer(
        vis_backends=[dict(type="MLflowVisBackend", **options)], save_dir=str(tmp_path / "one")
    )
    visualizer.add_config(config)
    visualizer.add_image("im", IMAGE, step=3)
    for step in (1, 2, 3):
        visualizer.add_scalars({"loss": float(step), "lr": torch.tensor(0.1)}, step)
    backend = visualizer.get_backend("MLflowVisBackend")
    assert backend.experiment is mlflow
    state = visualizer.state_dict()
    mlflow.end_run("KILLED")

    resumed = Visualizer(
        vis_backends=[dict(type="MLflowVisBackend", **options)], save_dir=str(tmp_path / "two")
    )
    resumed.add_config(Config(config, lr=0.2, more=1))
    resumed.load_state_dict(state, step=3)
    resumed.add_scalar("loss", 4.0, 4)
    resumed.close()
    resumed.close()

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/one/vis_data/mlflow.db")
    experiment = client.get_experiment_by_name("exp")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "run"
    assert run.data.tags["t"] == "1"
    params = run.data.params
    assert (params["model.depth"], params["model.parts.0.a"], params["model.parts.1.b"]) == (
        "50", "1", "[1, 2]",
    )  # fmt: skip
    assert (params["lr"], params["extra"], params["more"]) == ("0.1", "5", "1")
    history = client.get_metric_history(run.info.run_id, "loss")
    assert sorted((m.step, m.value) for m in history) == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]
    artifacts = {a.path for a in client.list_artifacts(run.info.run_id)}
    assert {"config.py", "im_3.png", "run.log"} <= artifacts
    assert "weights.bin" not in artifacts
    assert not (tmp_path / "two").exists() or not list((tmp_path / "two").rglob("*.db"))


def test_only_chosen_keys_are_tracked(config):
    backend = MLflowVisBackend("x", tracked_config_keys=["lr"])
    assert backend._flatten({"a": {"b": 1, "c": [{"d": 2}, 3]}}) == {
        "a.b": 1, "a.c.0.d": 2, "a.c.1": 3,
    }  # fmt: skip
    backend._env_initialized = True
    backend._mlflow, backend._run_id = MagicMock(), "id"
    backend._mlflow.get_run.return_value.data.params = {}
    backend.add_config(config)
    backend._mlflow.log_params.assert_called_once_with({"lr": "0.1"})


# Weights & Biases ------------------------------------------------------------------------------


@pytest.mark.slow
def test_wandb_reads_what_was_written_offline(tmp_path, config, quiet, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="needs mmx[wandb]")
    monkeypatch.setenv("WANDB_SILENT", "true")

    def run(name, state=None, steps=()):
        init = dict(mode="offline", project="p", name="n")
        visualizer = Visualizer(
            vis_backends=[
                dict(type="WandbVisBackend", init_kwargs=init, define_metric_cfg={"acc": "max"})
            ],
            save_dir=str(tmp_path / name),
        )
        visualizer.add_config(config)
        if state is not None:
            visualizer.load_state_dict(state, step=2)
        visualizer.add_image("im", IMAGE, step=1)
        for step in steps:
            visualizer.add_scalars({"loss": step / 2, "acc": torch.tensor(0.5)}, step)
        state = visualizer.state_dict()
        assert visualizer.get_backend("WandbVisBackend").experiment is wandb
        visualizer.close()
        visualizer.close()
        return state

    state = run("one", steps=(1, 2))
    assert run("two", state, steps=(3, 4)) == state
    wandb.teardown()  # its service writes the files to their end
    found = {name: read_wandb(tmp_path / name) for name in ("one", "two")}
    for name, steps in (("one", [1, 2]), ("two", [3, 4])):
        records, run_id, settings = found[name]
        assert run_id == state["backends"]["WandbVisBackend"]["run_id"]
        assert [r["step"] for r in records if "loss" in r] == steps
        assert [r["loss"] for r in records if "loss" in r] == [s / 2 for s in steps]
        assert settings["lr"] == 0.1


def wandb_records(path):
    """Yield the messages of a ``.wandb`` file: LevelDB's log format after 7 bytes of header."""
    import struct

    data, position, parts = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:  # the rest of a block that is too short for a header
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def read_wandb(folder):
    """Return the history, the id and the config of the offline run in a folder."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.rglob("run-*.wandb")
    records, run_id, settings = [], None, {}
    for data in wandb_records(path):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "history":
            records.append(
                {(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in record.history.item}
            )  # fmt: skip
        elif kind == "run":
            run_id = record.run.run_id
            settings.update({u.key: json.loads(u.value_json) for u in record.run.config.update})
        elif kind == "config":
            settings.update({u.key: json.loads(u.value_json) for u in record.config.update})
    return records, run_id, settings


@pytest.fixture
def fake(monkeypatch):
    """Install a stand-in for a library."""

    def install(name, **attributes):
        module = types.ModuleType(name)
        stand_in = MagicMock(**attributes)
        module.__getattr__ = lambda attribute: getattr(stand_in, attribute)
        monkeypatch.setitem(sys.modules, name, module)
        return stand_in

    return install


def test_trackers_take_images_of_other_types(tmp_path, fake):
    wandb = fake("wandb")
    backend = WandbVisBackend(str(tmp_path))
    for image in (np.full((2, 2, 3), 255), np.ones((2, 2), bool), np.full((2, 2), 0.5)):
        backend.add_image("a", image)
    shown = [call.args[0] for call in wandb.Image.call_args_list]
    assert ["uint8", "uint8", "float64"] == [str(image.dtype) for image in shown]
    assert [255, 255, 0.5] == [image.max() for image in shown]
    with pytest.raises(ValueError, match="values of 0 to 255, but got 0 to 256"):
        backend.add_image("a", np.array([[0, 256]]))


def test_wandb_settings_reach_the_library(tmp_path, config, fake):
    wandb = fake("wandb")
    run = wandb.init.return_value
    run.id = "abc"
    backend = WandbVisBackend(
        str(tmp_path),
        init_kwargs=dict(project="p"),
        define_metric_cfg=[dict(name="a", step_metric="epoch")],
        commit=False,
        log_code_name="code",
        watch_kwargs=dict(log="all"),
    )
    backend.load_state_dict({"run_id": "abc"})
    backend.add_config(config)
    backend.add_graph("model", None)
    backend.add_scalar("m", np.float32(1), step=2)
    wandb.init.assert_called_once_with(dir=str(tmp_path), project="p", id="abc", resume="allow")
    wandb.define_metric.assert_any_call(name="a", step_metric="epoch")
    run.log_code.assert_called_once_with(name="code")
    run.watch.assert_called_once_with("model", log="all")
    run.log.assert_called_once_with({"m": 1.0, "step": 2}, commit=False)
    WandbVisBackend(str(tmp_path), define_metric_cfg={"acc": "max"}).add_scalar("a", 1)
    wandb.define_metric.assert_any_call("acc", summary="max")
    for wrong, error, message in (
        (3, ValueError, "should be dict or list"),
        ([3], TypeError, "should hold dicts"),
    ):
        with pytest.raises(error, match=message):
            WandbVisBackend(str(tmp_path), define_metric_cfg=wrong).add_scalar("a", 1)


# Trackers that need a server or are not packaged for every platform: what they are told ---------


def test_clearml_is_told_everything(config, fake):
    clearml = fake("clearml")
    task = clearml.Task.init.return_value
    task.id = "t1"
    backend = ClearMLVisBackend(init_kwargs=dict(project_name="p"), artifact_suffix=".log")
    backend.add_config(config)
    backend.add_image("im", IMAGE, step=1)
    backend.add_scalar("m", 1.5, step=2)
    backend.add_scalars({"loss": torch.tensor(2.0), "step": 5})
    clearml.Task.init.assert_called_once_with(project_name="p")
    logger = task.get_logger.return_value
    assert [c.kwargs["iteration"] for c in logger.report_scalar.call_args_list] == [2, 5]
    logger.report_image.assert_called_once_with("im", "im", iteration=1, image=IMAGE)
    backend.close()
    backend.close()
    task.close.assert_called_once_with()
    assert [c.args[0] for c in task.upload_artifact.call_args_list] == ["run.log"]
    resumed = ClearMLVisBackend(init_kwargs=dict(project_name="p"))
    resumed.load_state_dict(backend.state_dict())
    resumed.add_scalar("m", 1, step=3)
    assert clearml.Task.init.call_args.kwargs["continue_last_task"] == "t1"
    task.set_initial_iteration.assert_called_once_with(0)


def test_neptune_is_told_everything(config, fake, monkeypatch):
    for name in ("NEPTUNE_PROJECT", "NEPTUNE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    neptune, neptune_types = fake("neptune"), fake("neptune.types")
    run = MagicMock()
    neptune.init_run.return_value = run
    backend = NeptuneVisBackend()
    backend.add_config(config)
    backend.add_image("im", IMAGE, step=1)
    backend.add_scalar("m", 1.5, step=2)
    backend.add_scalars({"loss": 2.0}, step=3)
    neptune.init_run.assert_called_once_with(mode="offline")
    assert run["m"].append.call_args_list[-1].args == (2.0,)
    assert float(neptune_types.File.as_image.call_args.args[0].max()) <= 1
    backend.close()
    backend.close()
    run.stop.assert_called_once_with()
    online = NeptuneVisBackend(init_kwargs=dict(project="p", api_token="t"))
    online.load_state_dict({"run_id": "P-1"})
    online.add_scalar("m", 1)
    neptune.init_run.assert_called_with(project="p", api_token="t", with_id="P-1")


def test_dvclive_is_told_everything(tmp_path, config, fake):
    live = fake("dvclive").Live.return_value
    backend = DVCLiveVisBackend(str(tmp_path), artifact_suffix=(".log",))
    backend.add_config(config)
    backend.add_image("im", IMAGE, step=1)
    backend.add_scalar("m", np.array(1.5), step=2)
    assert live.step == 2
    live.log_params.assert_called_once_with(dict(config))
    live.log_image.assert_called_once_with("im.png", IMAGE)
    live.log_metric.assert_called_once_with("m", 1.5)
    backend.close()
    backend.close()
    assert os.path.basename(live.log_artifact.call_args.args[0]) == "run.log"
    live.end.assert_called_once_with()
    resumed = DVCLiveVisBackend(str(tmp_path / "other"))
    resumed.load_state_dict(backend.state_dict())
    resumed.add_scalar("m", 1)
    assert sys.modules["dvclive"].Live.call_args.kwargs["resume"] is True


def test_aim_is_told_everything(tmp_path, config, fake):
    aim = fake("aim")
    run = MagicMock(hash="h1")
    aim.Run.return_value = run
    backend = AimVisBackend(str(tmp_path / "aim"), init_kwargs=dict(experiment="e"))
    backend.add_config(config)
    backend.add_image("im", IMAGE, step=1)
    backend.add_scalars({"loss": 2.0, "names": 3}, step=3)
    aim.Run.assert_called_once_with(experiment="e", repo=str(tmp_path / "aim"))
    run.track.assert_called_with(name="names", value=3, step=3)
    run.__setitem__.assert_called_once_with("hparams", dict(config))
    backend.close()
    backend.close()
    run.close.assert_called_once_with()
    resumed = AimVisBackend(str(tmp_path / "other"))
    resumed.load_state_dict(backend.state_dict())
    resumed.add_scalar("m", 1)
    aim.Run.assert_called_with(repo=str(tmp_path / "aim"), run_hash="h1")


@pytest.mark.parametrize(
    ("kind", "library"),
    [
        (TensorboardVisBackend, "tensorboard"),
        (WandbVisBackend, "wandb"),
        (MLflowVisBackend, "mlflow"),
        (ClearMLVisBackend, "clearml"),
        (NeptuneVisBackend, "neptune"),
        (DVCLiveVisBackend, "dvclive"),
        (AimVisBackend, "aim"),
    ],
)
def test_a_missing_library_names_the_extra(tmp_path, monkeypatch, kind, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'mmx\[{library}\]'"):
        kind(str(tmp_path)).add_scalar("a", 1)


@pytest.mark.parametrize(
    "kind",
    [TensorboardVisBackend, WandbVisBackend, MLflowVisBackend, ClearMLVisBackend,
     NeptuneVisBackend, DVCLiveVisBackend, AimVisBackend, LocalVisBackend],
)  # fmt: skip
def test_closing_what_was_never_used_is_fine(kind):
    backend = kind("unused")
    backend.close()
    backend.close()
    assert not os.path.exists("unused")
    assert isinstance(backend.state_dict(), dict)
