"""The log processor: documented lines, statistics, windows."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mmx.logging import HistoryBuffer, MessageHub
from mmx.model import BaseModel
from mmx.runner import LogProcessor, Runner

pytestmark = pytest.mark.usefixtures("isolated")


@pytest.fixture
def runner():
    loops = {
        name: SimpleNamespace(dataloader=[0] * size)
        for name, size in (("train_loop", 25), ("val_loop", 1250), ("test_loop", 5))
    }
    return SimpleNamespace(
        **loops,
        _train_loop=loops["train_loop"],
        epoch=1,
        iter=10,
        max_epochs=100,
        max_iters=5000,
        world_size=1,
        model=torch.nn.Linear(1, 1),
        message_hub=MessageHub("processor"),
    )


def log(runner, **scalars):
    for name, value in scalars.items():
        runner.message_hub.update_scalar(name.replace("__", "/"), value)


def log_training(runner):
    log(runner, train__lr=0.01, train__time=0.1, train__data_time=0.05, train__loss=1.5)
    log(runner, train__acc=0.3, train__n=3)
    runner.message_hub.update_info("eta", 100000.9)


# The lines are those of MMEngine 0.10.7 for the same numbers.
LINES = {
    (True, "train"): "Epoch(train)   [2][ 2/25]  lr: 1.0000e-02  eta: 1 day, 3:46:40  "
    "time: 0.1000  data_time: 0.0500  loss: 1.5000  acc: 0.3000  n: 3",
    (True, "val"): "Epoch(val)   [1][   2/1250]    eta: 1 day, 3:46:40  time: 0.1000  "
    "data_time: 0.0500  ",
    (True, "test"): "Epoch(test) [2/5]    eta: 1 day, 3:46:40  time: 0.1000  data_time: 0.0500  ",
    (False, "train"): "Iter(train) [  11/5000]  lr: 1.0000e-02  eta: 1 day, 3:46:40  "
    "time: 0.1000  data_time: 0.0500  loss: 1.5000  acc: 0.3000  n: 3",
    (False, "val"): "Iter(val) [   2/1250]    eta: 1 day, 3:46:40  time: 0.1000  "
    "data_time: 0.0500  ",
    (False, "test"): "Iter(test) [2/5]    eta: 1 day, 3:46:40  time: 0.1000  data_time: 0.0500  ",
}


@pytest.mark.parametrize("hierarchy", [False, True])
@pytest.mark.parametrize(("by_epoch", "mode"), LINES)
def test_lines_after_an_iteration(runner, by_epoch, mode, hierarchy):
    log_training(runner)
    log(runner, val__time=0.1, val__data_time=0.05, test__time=0.1, test__data_time=0.05)
    processor = LogProcessor(by_epoch=by_epoch, log_with_hierarchy=hierarchy)
    tag, line = processor.get_log_after_iter(runner, 1, mode)
    assert line == LINES[by_epoch, mode]
    prefix = f"{mode}/" if hierarchy else ""
    names = ["lr", "time", "data_time", "loss", "acc", "n"] if mode == "train" else []
    names = names or ["time", "data_time"]
    counters = ["epoch", "iter"] if by_epoch and mode != "test" else ["iter"]
    assert list(tag) == [f"{prefix}{name}" for name in names] + counters
    assert tag["iter"] == 11
    assert tag.get("epoch") == {"train": 2, "val": 1}.get(mode if by_epoch else "")


def test_all_learning_rates_stand_first(runner):
    log(runner, train__momentum=0.9, train__base_lr=0.1, train__loss=1.0)
    runner.message_hub.update_scalar("train/gen.lr", 0.2)
    _, line = LogProcessor(num_digits=2).get_log_after_iter(runner, 1, "train")
    assert line == (
        "Epoch(train)   [2][ 2/25]  base_lr: 1.00e-01 gen.lr: 2.00e-01  momentum: 0.90  loss: 1.00"
    )


def test_memory_is_shown_where_it_is_known(runner, monkeypatch):
    log_training(runner)
    monkeypatch.setattr("mmx.runner.log_processor.LogProcessor._counts_memory", lambda self: True)
    processor = LogProcessor()
    processor._get_max_memory = lambda runner: 100
    tag, line = processor.get_log_after_iter(runner, 1, "train")
    assert "data_time: 0.0500  memory: 100  loss: 1.5000" in line
    assert tag["memory"] == 100


def test_memory_is_the_peak_since_the_last_line(runner, monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device=None: 3 << 20)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", calls.append)
    assert LogProcessor()._get_max_memory(runner) == 3
    assert calls == [None]


def test_without_a_timer_there_is_no_time_left(runner):
    log(runner, train__time=0.1, train__loss=1.0)
    _, line = LogProcessor().get_log_after_iter(runner, 1, "train")
    assert line == "Epoch(train)   [2][ 2/25]    time: 0.1000  loss: 1.0000"


@pytest.mark.parametrize("loop", [None, {"by_epoch": True}])
def test_a_validation_without_training_counts_from_nothing(runner, loop):
    log(runner, val__acc=0.5, val__time=0.1, val__data_time=0.1)
    runner._train_loop = loop
    tag, line = LogProcessor().get_log_after_iter(runner, 1, "val")
    assert line == "Epoch(val)[0][   2/1250]    "
    assert (tag["epoch"], tag["iter"]) == (0, 0)
    _, line = LogProcessor().get_log_after_epoch(runner, 1250, "val")
    assert line.startswith("Epoch(val) [0][1250/1250]    acc: 0.5000")


@pytest.mark.parametrize(
    ("by_epoch", "mode", "head"),
    [
        (True, "val", "Epoch(val) [1][1250/1250]"),
        (True, "test", "Epoch(test) [5/5]"),
        (False, "val", "Iter(val) [1250/1250]"),
        (False, "test", "Iter(test) [5/5]"),
    ],
)
def test_lines_after_an_evaluation(runner, by_epoch, mode, head):
    hub = runner.message_hub
    hub.update_scalars({f"{mode}/data_time": 0.05, f"{mode}/time": 0.1, f"{mode}/acc": 0.3})
    matrix = torch.tensor([[1, 2], [3, 4]])
    for name, value in (("cm", matrix), ("d", {"a": 1.5}), ("np", np.ones(2)), ("s", "x")):
        hub.update_info(f"{mode}/{name}", value)
    processor = LogProcessor(by_epoch=by_epoch)
    tag, line = processor.get_log_after_epoch(runner, 4, mode)
    assert line == (
        f"{head}    acc: 0.3000  cm: \ntensor([[1, 2],\n        [3, 4]])\n  d: {{'a': 1.5}}  "
        "np: \n[1. 1.]\n  s: x  data_time: 0.0500  time: 0.1000"
    )
    assert list(tag) == ["acc", "data_time", "time"]
    tag, same = processor.get_log_after_epoch(runner, 4, mode, with_non_scalar=True)
    assert same == line
    assert list(tag) == ["acc", "cm", "d", "np", "s", "data_time", "time"]
    assert tag["cm"] is matrix


def test_with_hierarchy_metrics_keep_their_prefix(runner):
    log(runner, val__acc=0.3, val__time=0.1, val__data_time=0.05)
    tag, line = LogProcessor(log_with_hierarchy=True).get_log_after_epoch(runner, 4, "val")
    assert list(tag) == ["val/acc", "val/time", "val/data_time"]
    assert line.endswith("val/acc: 0.3000  val/time: 0.1000  val/data_time: 0.0500")


def test_modes_are_checked(runner):
    with pytest.raises(ValueError, match="one of train, val, test, but got 'foo'"):
        LogProcessor().get_log_after_iter(runner, 1, "foo")
    with pytest.raises(ValueError, match="one of val, test, but got 'train'"):
        LogProcessor().get_log_after_epoch(runner, 1, "train")


def test_losses_and_times_are_averaged_and_others_current(runner):
    rng = np.random.default_rng(0)
    columns = {name: rng.normal(size=100) for name in ("time", "loss_cls", "grad_norm", "lr")}
    for name, values in columns.items():
        buffer = HistoryBuffer(values, np.ones(100))
        runner.message_hub._log_scalars[f"train/{name}"] = buffer
    runner.message_hub._log_scalars["val/metric"] = HistoryBuffer(columns["lr"], np.ones(100))
    custom = [dict(data_src="time", method_name="max", log_name="time_max")]
    processor = LogProcessor(window_size=10, custom_cfg=custom)
    tag = processor._collect_scalars(custom, runner, "train")
    assert list(tag) == ["time", "loss_cls", "grad_norm", "lr", "time_max"]
    for name in ("time", "loss_cls", "grad_norm"):
        assert tag[name] == columns[name][-10:].mean()
    assert tag["lr"] == columns["lr"][-1]
    assert tag["time_max"] == columns["time"].max()
    tag = processor._collect_scalars(custom, runner, "train", reserve_prefix=True)
    assert list(tag)[-1] == "train/time_max"
    assert list(processor._collect_scalars(custom, runner, "val")) == ["metric"]


def test_the_pattern_of_averaged_names_can_be_changed(runner):
    for value in (1.0, 2.0):
        log(runner, train__acc=value, train__loss=value)
    tag = LogProcessor(mean_pattern=".*acc.*")._collect_scalars([], runner, "train")
    assert dict(tag) == {"acc": 1.5, "loss": 2.0}


def test_custom_statistics_replace_or_join(runner):
    for value in range(1, 31):
        log(runner, train__loss=float(value))
    runner.iter = 29

    def shown(batch_idx=29, **cfg):
        processor = LogProcessor(custom_cfg=[dict(data_src="loss", **cfg)])
        return dict(processor._collect_scalars(
            processor._parse_windows_size(runner, batch_idx), runner, "train"
        ))  # fmt: skip

    assert shown(method_name="max") == {"loss": 30.0}
    assert shown(method_name="mean", window_size="global", log_name="g")["g"] == 15.5
    assert shown(4, method_name="mean", window_size="epoch", log_name="e")["e"] == 28.0
    assert shown(method_name="min", window_size=3, log_name="m") == {"loss": 25.5, "m": 28.0}
    assert shown(method_name="current")["loss"] == 30.0
    with pytest.raises(KeyError, match="nope has not been registered"):
        shown(method_name="nope")
    processor = LogProcessor(custom_cfg=[dict(data_src="absent", method_name="max")])
    assert list(processor._collect_scalars(processor.custom_cfg, runner, "train")) == ["loss"]


def test_statistics_over_the_whole_run_survive_the_ring(runner):
    runner.message_hub.max_length = 50
    for value in range(3000):
        log(runner, train__loss=float(value))
    runner.iter = 2999
    custom = [dict(data_src="loss", log_name="g", method_name="mean", window_size="global")]
    tag, _ = LogProcessor(custom_cfg=custom).get_log_after_iter(runner, 1, "train")
    assert tag["g"] == 1499.5


def test_the_hub_keeps_as_much_as_the_windows_need(runner):
    runner.message_hub.max_length = 10
    log(runner, train__loss=1.0)
    custom = [
        dict(data_src="loss", log_name="a", method_name="mean", window_size=40),
        dict(data_src="loss", log_name="b", method_name="mean", window_size="epoch"),
    ]
    LogProcessor(custom_cfg=custom).get_log_after_iter(runner, 1, "train")
    assert runner.message_hub.get_scalar("train/loss").max_length == 40


@pytest.mark.parametrize(
    ("custom", "options", "error", "message"),
    [
        ([dict(data_src="loss", window_size="epoch")], dict(by_epoch=False), ValueError, "got it for 'loss'"),
        ([dict(data_src="a", log_name="x"), dict(data_src="b", log_name="x")], {}, ValueError, "duplicate x for b"),
        ([dict(data_src="a"), dict(data_src="a")], {}, ValueError, "Found duplicate a for a"),
        ([dict(data_src="a", log_name="b"), dict(data_src="b")], {}, ValueError, "Found duplicate b for b"),
        ([dict(log_name="a")], {}, TypeError, "a dict with `data_src`"),
        (["loss"], {}, TypeError, "a dict with `data_src`"),
        (dict(data_src="a"), {}, TypeError, "custom_cfg should be a list of dicts, but got dict"),
        ("loss", {}, TypeError, "custom_cfg should be a list of dicts, but got str"),
    ],
)  # fmt: skip
def test_custom_statistics_are_checked_when_they_are_given(custom, options, error, message):
    with pytest.raises(error, match=message):
        LogProcessor(custom_cfg=custom, **options)


def test_one_number_may_have_several_names():
    custom = [dict(data_src="loss", log_name="a"), dict(data_src="loss", log_name="b")]
    assert LogProcessor(custom_cfg=[*custom, dict(data_src="loss")]).custom_cfg[0] == custom[0]


def test_windows_become_numbers_in_a_copy(runner):
    custom = [dict(data_src="a", window_size=w) for w in ("epoch", "global", 7)]
    processor = LogProcessor()
    parsed = processor._parse_windows_size(runner, 1, custom)
    assert [cfg["window_size"] for cfg in parsed] == [2, 11, 7]
    assert custom[0]["window_size"] == "epoch"
    for wrong in ("foo", [], 1.5, True):
        with pytest.raises(TypeError, match="window_size should be int, epoch or global"):
            processor._parse_windows_size(runner, 1, [dict(data_src="a", window_size=wrong)])


def test_counting(runner):
    processor = LogProcessor()
    assert processor._get_iter(runner, 1) == 2
    assert LogProcessor(by_epoch=False)._get_iter(runner, 1) == 11
    assert (processor._get_epoch(runner, "train"), processor._get_epoch(runner, "val")) == (2, 1)
    with pytest.raises(ValueError, match="should be 'train' or 'val', but got test"):
        processor._get_epoch(runner, "test")
    for mode in ("train", "val", "test"):
        loop = getattr(runner, f"{mode}_loop")
        assert processor._get_cur_loop(runner, mode) is loop
        assert processor._get_dataloader_size(runner, mode) == len(loop.dataloader)


def test_results_that_are_no_numbers_lose_their_prefix(runner):
    metric = np.ones(3)
    runner.message_hub._runtime_info = {"test/a": metric, "test/b/c": 1, "iter": 3}
    found = LogProcessor()._collect_non_scalars(runner, "test")
    assert list(found) == ["a", "b/c"]
    assert found["a"] is metric


class DocumentedModel(BaseModel):
    """The model of the logging chapter."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(1, 1)

    def forward(self, img, label, mode):
        error = (self.linear(img) - label).abs()
        MessageHub.get_current_instance().update_scalar("train/loss_tmp", error.sum())
        return dict(loss1=error.pow(2), loss2=error)


NUMBER = r"\d+\.\d{4}"
TIMES = rf"lr: 1\.0000e-02  eta: 0:00:0\d  time: {NUMBER}  data_time: {NUMBER}"


@pytest.mark.parametrize(
    ("custom", "names"),
    [
        (None, ["loss_tmp", "loss", "loss1", "loss2"]),
        (
            [dict(data_src="loss1", log_name="loss1_global", method_name="mean", window_size="global")],
            ["loss_tmp", "loss", "loss1", "loss2", "loss1_global"],
        ),
        (
            [
                dict(data_src="loss1", log_name="loss1_local_max", window_size=10, method_name="max"),
                dict(data_src="loss1", log_name="loss1_global_max", method_name="max", window_size="global"),
            ],
            ["loss_tmp", "loss", "loss1", "loss2", "loss1_local_max", "loss1_global_max"],
        ),
    ],
)  # fmt: skip
def test_the_documented_examples_log_the_documented_lines(tmp_path, custom, names):
    data = [(torch.ones(1), torch.ones(1))] * 50
    runner = Runner(
        model=DocumentedModel(),
        work_dir=str(tmp_path),
        train_dataloader=torch.utils.data.DataLoader(data, batch_size=2),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.01)),
        log_processor=dict(custom_cfg=custom),
    )
    runner.train()
    (log,) = tmp_path.glob("*/*.log")
    lines = [line for line in log.read_text().splitlines() if "Epoch(train)" in line]
    assert len(lines) == 2
    values = "  ".join(rf"{name}: ({NUMBER})" for name in names)
    shown = []
    for line, done in zip(lines, ("10", "20"), strict=True):
        head = rf"\d{{4}}/\d\d/\d\d [\d:]{{8}} - mmx - INFO - Epoch\(train\) \[1\]\[{done}/25\]  "
        match = re.fullmatch(f"{head}{TIMES}  {values}", line)
        assert match, line
        shown.append(dict(zip(names, map(float, match.groups()), strict=True)))
    history = runner.message_hub.get_scalar("train/loss1").data[0]
    assert len(history) == 25
    for row, done in zip(shown, (10, 20), strict=True):
        assert row["loss1"] == pytest.approx(history[done - 10 : done].mean(), abs=1e-4)
        if "loss1_global" in row:
            assert row["loss1_global"] == pytest.approx(history[:done].mean(), abs=1e-4)
        if "loss1_global_max" in row:
            assert row["loss1_global_max"] == pytest.approx(history[:done].max(), abs=1e-4)
            assert row["loss1_local_max"] == pytest.approx(
                history[done - 10 : done].max(), abs=1e-4
            )
