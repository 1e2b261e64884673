"""Checkpoints that each rank writes its part of: on gloo processes, from N ranks to M."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from mmx.checkpoint import (
    CheckpointError,
    CorruptCheckpointError,
    find_latest_checkpoint,
    is_sharded,
    read_sharded,
    verify_checkpoint,
)
from mmx.dist import PeerError
from mmx.evaluator import BaseMetric
from mmx.hooks import Hook
from mmx.model import BaseModel
from mmx.testing.distributed import DistributedTestError, run_distributed

GLOBAL_BATCH = 8
MIDDLE = 6  # in the second epoch of 4 iterations
# On 1, 2 and 4 ranks the samples of a step are the same, the order of their sum is not: float32
# sums of 8 terms differ by some ulp, and Adam divides by the root of the small second moment.
TOLERANCE = dict(rtol=1e-4, atol=1e-5)


class Samples(torch.utils.data.Dataset):
    def __init__(self):
        self.x = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return {"x": self.x[index], "y": int(self.x[index].sum() > 0), "index": index}


class Net(BaseModel):
    def __init__(self, seen=None):
        super().__init__()
        torch.manual_seed(0)
        self.seen = seen
        self.blocks = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
        self.head = nn.Linear(6, 2)  # its rows are too few for 4 ranks
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x, y, index, mode):
        self.calls += 1
        if self.seen is not None:
            self.seen.extend(index.tolist())
        for block in self.blocks:
            x = block(x).relu()
        logits = self.head(x)
        if mode == "loss":
            return {"loss": nn.functional.cross_entropy(logits, y)}
        return [int(answer) for answer in logits.argmax(1)]


def make_runner(directory, launcher, *, strategy=None, epochs=2, ema=False, seen=None, **more):
    from mmx.runner import Runner

    world = int(os.environ.get("WORLD_SIZE", "1")) if launcher != "none" else 1
    checkpoint = dict(type="CheckpointHook", interval=1) | more.pop("checkpoint", {})
    if ema:
        more["custom_hooks"] = [dict(type="EMAHook")]
    return Runner(
        Net(seen),
        str(directory),
        train_dataloader=dict(
            dataset=Samples(),
            sampler=dict(type="DefaultSampler", shuffle=True),
            batch_size=GLOBAL_BATCH // world,
            collate_fn=dict(type="default_collate"),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type="Adam", lr=0.01)),
        param_scheduler=dict(type="MultiStepLR", milestones=[1], gamma=0.5),
        default_hooks=dict(checkpoint=checkpoint, logger=dict(type="LoggerHook", interval=100)),
        randomness=dict(seed=2),
        launcher=launcher,
        strategy=strategy,
        env_cfg=dict(dist_cfg=dict(backend="gloo")),
        experiment_name=Path(str(directory)).name + f"-{os.getpid()}-{epochs}",
        **more,
    )


def whole_state(runner):
    """Return weights and optimizer state of the whole model, by the names of weights."""
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_model_state_dict,
        get_optimizer_state_dict,
    )

    from mmx.checkpoint import unwrap

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = get_model_state_dict(unwrap(runner.model), options=options)
    optimizer = get_optimizer_state_dict(
        unwrap(runner.model), runner.optim_wrapper.optimizer, options=options
    )
    return {
        # Copies: on one device the state itself is returned.
        "weights": {k: v.clone() for k, v in weights.items()},
        "optimizer": {
            name: {k: v.clone() for k, v in entry.items()}
            for name, entry in optimizer.get("state", {}).items()
        },
        "lr": runner.optim_wrapper.get_lr()["lr"],
        "iter": runner.iter,
    }


def assert_same(expected, found, exact=True):
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        if isinstance(value, dict):
            assert_same(value, found[key], exact)
        elif isinstance(value, torch.Tensor):
            if exact:
                assert torch.equal(value, found[key]), key
            else:
                torch.testing.assert_close(value, found[key], **TOLERANCE)
        else:
            assert value == found[key], key


FSDP = dict(type="FSDPStrategy", state_dict_cfg="sharded")
DDP = dict(type="DDPStrategy", state_dict_cfg="sharded")


def train_and_save(directory):
    """Two ranks write all kinds of checkpoints, that other numbers of ranks go on from."""
    out = {}
    for name, strategy in {
        "fsdp": FSDP,
        "ddp": DDP,
        "full": dict(type="FSDPStrategy", state_dict_cfg="full"),
    }.items():
        runner = make_runner(Path(directory, name), "pytorch", strategy=strategy)
        runner.train()
        out[name] = whole_state(runner)
    # In the background, with rotation.
    runner = make_runner(
        Path(directory, "async"),
        "pytorch",
        strategy=FSDP,
        epochs=3,
        checkpoint=dict(async_save=True, max_keep_ckpts=2),
        ema=True,
    )
    runner.train()
    out["async"] = whole_state(runner)
    # What never stopped, for those that go on, also from the middle of an epoch.
    for name, strategy in {"straight": FSDP, "straight, whole": dict(type="DDPStrategy")}.items():
        seen, middle = [], {}

        class Look(Hook):
            def after_train_iter(self, runner, batch_idx, *args, _into=middle, **kwargs):
                if runner.iter + 1 == MIDDLE:
                    _into.update(whole_state(runner))

        runner = make_runner(
            Path(directory, name),
            "pytorch",
            strategy=strategy,
            epochs=3,
            checkpoint=dict(by_epoch=False, interval=MIDDLE),
            seen=seen,
            custom_hooks=[Look()],
        )
        runner.train()
        out[name] = whole_state(runner)
        out[f"{name}, in the middle"] = middle | {"iter": MIDDLE}
        out[f"{name}, seen"] = seen
    return out


def resume_and_go_on(directory, names, epochs=3):
    """Resume each run, with the strategy of the other kind too; return the states then and after."""
    out = {}
    for name, strategy, source in names:
        seen = []
        runner = make_runner(
            Path(directory, f"{name}-on-{os.environ.get('WORLD_SIZE', 1)}"),
            "pytorch" if "WORLD_SIZE" in os.environ else "none",
            strategy=strategy,
            epochs=epochs,
            resume=True,
            load_from=str(
                Path(
                    directory,
                    source,
                    f"iter_{MIDDLE}.pth" if "straight" in source else "epoch_2.pth",
                )
            ),
            seen=seen,
        )
        resumed = {}
        start = runner.call_hook

        def watch(point, _start=start, _runner=runner, _out=resumed, **kwargs):
            if point == "before_train":
                _out.update(whole_state(_runner))
            _start(point, **kwargs)

        runner.call_hook = watch
        runner.train()
        out[name] = {"resumed": resumed, "after": whole_state(runner), "seen": seen}
    return out


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("sharded")
    return directory, run_distributed(train_and_save, 2, str(directory), timeout_s=120)


def test_each_rank_writes_its_part_and_the_folder_is_whole(saved):
    directory, _ = saved
    for kind in ("fsdp", "ddp", "async"):
        folder = Path(find_latest_checkpoint(directory / kind))
        assert is_sharded(folder)
        files = sorted(p.name for p in folder.iterdir())
        assert files == ["index.json", "rank_0.safetensors", "rank_1.safetensors", "rest.pth"]
        verify_checkpoint(folder)
        assert not list((directory / kind).glob(".*.tmp"))
    index = json.loads((directory / "fsdp/epoch_2.pth/index.json").read_text())
    chunks = index["tensors"]["state_dict/blocks.0.weight"]["chunks"]
    assert [(c["offset"], c["shape"]) for c in chunks] == [([0, 0], [3, 6]), ([3, 0], [3, 6])]
    # Rotation removes folders as it removes files.
    assert sorted(p.name for p in (directory / "async").glob("*.pth")) == [
        "epoch_2.pth",
        "epoch_3.pth",
    ]


def test_what_two_ranks_saved_reads_back_equal_in_one_process(saved):
    directory, (first, _) = saved
    for kind in ("fsdp", "async"):
        checkpoint = read_sharded(find_latest_checkpoint(directory / kind))
        assert_same(first[kind]["optimizer"], checkpoint["optimizer"]["state"])
        if kind == "fsdp":
            assert_same(first[kind]["weights"], dict(checkpoint["state_dict"]))
        else:  # exchanged with the average, as in a file
            average = {
                k.removeprefix("module."): v for k, v in checkpoint["ema_state_dict"].items()
            }
            assert_same(first[kind]["weights"], {k: average[k] for k in first[kind]["weights"]})
    assert_same(first["fsdp"], first["full"])


class Answers(BaseMetric):
    default_prefix = "m"

    def process(self, data_batch, data_samples):
        self.results.extend(data_samples)

    def compute_metrics(self, results):
        return {"answers": results}


def run_test(directory, strategy):
    """Test by a config without anything to train; return the answers and which tensors were read."""
    import mmx.checkpoint.sharded as module
    from mmx.runner import Runner

    opened, read = module._opened, []

    class Noted:
        def __init__(self, data, file):
            self.data, self.file = data, file

        def __getattr__(self, name):
            def call(key):
                read.append((self.file, key))
                return getattr(self.data, name)(key)

            return call

    @contextlib.contextmanager
    def noting(path):
        with opened(path) as data:
            yield Noted(data, Path(path).name)

    ranks = "WORLD_SIZE" in os.environ
    runner = Runner(
        Net(),
        f"{directory}/test",
        test_dataloader=dict(
            dataset=Samples(),
            sampler=dict(type="DefaultSampler", shuffle=False),
            batch_size=4,
            collate_fn=dict(type="default_collate"),
        ),
        test_cfg=dict(),
        test_evaluator=Answers(),
        load_from=str(Path(directory, "fsdp", "epoch_2.pth")),
        launcher="pytorch" if ranks else "none",
        strategy=strategy,
        env_cfg=dict(dist_cfg=dict(backend="gloo")),
        experiment_name=f"test-{os.getpid()}",
    )
    module._opened = noting
    try:
        metrics = runner.test()
    finally:
        module._opened = opened
    return metrics["m/answers"], read, runner.optim_wrapper


# Name -> strategy that goes on, and the run whose checkpoint it takes.
ON_FOUR = {
    "fsdp": (FSDP, "fsdp"),
    "fsdp from whole": (dict(type="FSDPStrategy"), "full"),
    "ddp from fsdp": (DDP, "fsdp"),
    "fsdp from ddp": (dict(type="FSDPStrategy"), "ddp"),
    "fsdp, middle": (FSDP, "straight"),
    "fsdp, middle, from whole": (FSDP, "straight, whole"),
    "ddp, middle": (DDP, "straight"),
    "ddp, middle, from whole": (dict(type="DDPStrategy"), "straight, whole"),
}
ON_ONE = {
    "alone": (None, "fsdp"),
    "alone, ddp": (None, "ddp"),
    "alone, middle": (None, "straight"),
    "alone, middle, from whole": (None, "straight, whole"),
}


@pytest.fixture(scope="module")
def resumed(saved):
    directory, _ = saved
    cases = [(name, *case) for name, case in ON_FOUR.items()]
    on_four = run_distributed(go_on_and_test, 4, str(directory), cases, timeout_s=120)
    cases = [(name, *case) for name, case in ON_ONE.items()]
    return {4: on_four, 1: [resume_and_go_on(str(directory), cases)]}


def go_on_and_test(directory, cases):
    found = resume_and_go_on(directory, cases)
    found["tests"] = [run_test(directory, dict(type=s)) for s in ("FSDPStrategy", "DDPStrategy")]
    return found


def in_order(ranks):
    """Return which samples the ranks have seen in the order of the whole batches."""
    return [index for row in zip(*ranks, strict=True) for index in row]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "name"), [*((4, name) for name in ON_FOUR), *((1, name) for name in ON_ONE)]
)
def test_saved_on_two_ranks_a_run_goes_on_on_four_and_on_one(saved, resumed, ranks, name):
    _, (first, second) = saved
    source = {**ON_FOUR, **ON_ONE}[name][1]
    found = resumed[ranks][0][name]
    middle = "straight" in source
    # Exactly what was saved is resumed, and what never stopped is what comes out.
    assert_same(first[f"{source}, in the middle" if middle else source], found["resumed"])
    assert_same(first["straight"], found["after"], exact=False)
    # The rest has the same samples in the same order.
    order = in_order([rank["straight, seen"] for rank in (first, second)])
    assert 3 * 32 == len(order)
    assert order != sorted(order)
    rest = order[GLOBAL_BATCH * (MIDDLE if middle else 8) :]
    assert rest == in_order([rank[name]["seen"] for rank in resumed[ranks]])


@pytest.mark.slow
def test_testing_needs_no_optimizer_and_reads_nothing_of_one(saved, resumed):
    directory, (first, _) = saved
    model, data = Net(), Samples()
    model.load_state_dict(first["fsdp"]["weights"])
    expected = model(data.x, None, None, "predict")
    index = json.loads((directory / "fsdp/epoch_2.pth/index.json").read_text())
    kinds = {
        (chunk["file"], chunk["key"]): name.partition("/")[0]
        for name, entry in index["tensors"].items()
        for chunk in entry["chunks"]
    }
    assert {"state_dict", "optimizer"} == set(kinds.values())
    tests = [found for rank in resumed[4] for found in rank["tests"]]
    for answers, read, optim_wrapper in [run_test(directory, None), *tests]:
        assert expected == answers
        assert optim_wrapper is None
        assert {"state_dict"} == {kinds[place] for place in read}
    assert {0, 1} == set(expected)


@pytest.mark.parametrize("damage", ["dropped shard", "flipped bit", "truncated", "no index"])
def test_damage_is_noticed_and_the_newest_whole_one_is_used(saved, tmp_path, damage):
    import shutil

    work = tmp_path / "work"
    shutil.copytree(saved[0] / "fsdp", work)
    (work / "last_checkpoint").write_text(str(work / "epoch_2.pth"))
    part = work / "epoch_2.pth" / "rank_1.safetensors"
    data = bytearray(part.read_bytes())
    if damage == "dropped shard":
        part.unlink()
    elif damage == "flipped bit":
        data[-3] ^= 4
        part.write_bytes(data)
    elif damage == "truncated":
        part.write_bytes(data[:-8])
    else:
        (work / "epoch_2.pth" / "index.json").unlink()
    with pytest.raises(CheckpointError, match=r"damaged|is a directory"):
        verify_checkpoint(work / "epoch_2.pth")
    assert str(work / "epoch_1.pth") == find_latest_checkpoint(work)
    (work / "epoch_1.pth" / "rest.pth").write_bytes(b"")
    with pytest.raises(CorruptCheckpointError, match="every checkpoint"):
        find_latest_checkpoint(work)


def fail_on_rank_1(directory, asynchronous):
    import mmx.checkpoint.sharded as module

    write = module._write_tensors

    def broken(tensors, path):
        if int(os.environ["RANK"]) == 1 and "epoch_2" in path:
            raise OSError(28, "No space left on device", path)
        return write(tensors, path)

    module._write_tensors = broken
    runner = make_runner(
        directory, "pytorch", strategy=FSDP, epochs=4, checkpoint=dict(async_save=asynchronous)
    )
    try:
        runner.train()
    # Beside the loop the ranks hear of it in different iterations; who is later hears of the other.
    except (CheckpointError, PeerError) as error:
        return str(error), sorted(p.name for p in Path(directory).glob("*epoch*"))
    return None


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_part_that_cannot_be_written_fails_on_all_ranks_and_leaves_the_last_whole(
    tmp_path, asynchronous
):
    try:
        results = run_distributed(fail_on_rank_1, 2, str(tmp_path), asynchronous, init=False)
    except DistributedTestError as error:
        pytest.fail(str(error))
    for text, files in results:
        assert "rank 1: " in text
        assert "No space left on device" in text
        assert files == ["epoch_1.pth"]
    assert str(tmp_path / "epoch_1.pth") == find_latest_checkpoint(tmp_path)


def test_a_pickle_in_the_folder_runs_nothing(saved, tmp_path):
    import pickle
    import shutil

    from mmx.checkpoint import UnsafeCheckpointError

    folder = tmp_path / "bomb.pth"
    shutil.copytree(saved[0] / "fsdp" / "epoch_2.pth", folder)

    class Bomb:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path}/hit",))

    (folder / "rest.pth").write_bytes(pickle.dumps({"state_dict": Bomb()}, protocol=2))
    with pytest.raises((UnsafeCheckpointError, CorruptCheckpointError)):
        read_sharded(folder)
    assert not (tmp_path / "hit").exists()


def convert(*arguments):
    from click.testing import CliRunner

    from mmx.cli.checkpoint_cmd import command

    result = CliRunner().invoke(command, ["convert", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def test_conversion_between_all_forms_keeps_every_bit(saved, tmp_path, monkeypatch):
    from mmx.checkpoint import CheckpointLoader

    # So that small tensors, too, go through a mapped scratch file.
    monkeypatch.setattr("mmx.checkpoint.sharded_convert._MAPPED_FROM", 1)
    directory, (first, _) = saved
    folder = directory / "fsdp" / "epoch_2.pth"
    weights = first["fsdp"]["weights"]
    assert f"{len(weights)} tensors" in convert(folder, tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "b")
    assert is_sharded(tmp_path / "b")
    convert(tmp_path / "b", tmp_path / "c.pth")
    for name in ("a.safetensors", "b", "c.pth"):
        verify_checkpoint(tmp_path / name)
        found = CheckpointLoader.load_checkpoint(str(tmp_path / name))
        assert_same(weights, dict(found["state_dict"]))
    # All of it, there and back.
    convert(folder, tmp_path / "whole.pth", "--all")
    convert(tmp_path / "whole.pth", tmp_path / "again.pth", "--all", "--to", "sharded")
    for name in ("whole.pth", "again.pth"):
        found = CheckpointLoader.load_checkpoint(str(tmp_path / name))
        assert_same(first["fsdp"]["optimizer"], found["optimizer"]["state"])
        assert found["meta"]["epoch"] == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "a.safetensors",
        "again.pth",
        "b",
        "c.pth",
        "whole.pth",
    ]


def test_conversion_says_what_does_not_fit(saved, tmp_path):
    from click.testing import CliRunner

    from mmx.cli.checkpoint_cmd import command

    folder = str(saved[0] / "fsdp" / "epoch_2.pth")
    for arguments, text in [
        ([folder, str(tmp_path / "a.safetensors"), "--all"], "holds weights only"),
        ([folder, str(tmp_path / "a.pth"), "--to", "safetensors"], "ends in .safetensors"),
        ([str(tmp_path / "absent.pth"), str(tmp_path / "b.pth")], "can not be found"),
        ([folder, str(tmp_path / "b.pth"), "--ema"], "holds no averaged weights"),
    ]:
        result = CliRunner().invoke(command, ["convert", *arguments])
        assert result.exit_code != 0
        assert text in result.output
