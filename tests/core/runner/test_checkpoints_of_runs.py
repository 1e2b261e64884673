"""The checkpoint hook in runs, with each of its settings."""

from __future__ import annotations

import errno
from concurrent import futures
from pathlib import Path

import pytest
import torch

from mmx.checkpoint import CheckpointError, find_latest_checkpoint, save
from mmx.evaluator import BaseMetric
from mmx.fileio import list_dir_or_file
from mmx.fileio.backends import FsspecBackend
from mmx.hooks import CheckpointHook, Hook


class Told(BaseMetric):
    """Says at each validation what it was told to say."""

    def __init__(self, **values: list[float]) -> None:
        super().__init__()
        self.values = values
        self.count = 0

    def process(self, data_batch, data_samples) -> None:
        self.results.append(0)

    def compute_metrics(self, results) -> dict[str, float]:
        self.count += 1
        return {name: values[self.count - 1] for name, values in self.values.items()}


def checkpoints(folder) -> list[str]:
    return sorted(path.name for path in Path(folder).glob("*.pth"))


def saving(**options):
    return {
        "train_cfg": {"by_epoch": True, "max_epochs": 4},
        "default_hooks": {"checkpoint": {"type": "CheckpointHook", "interval": 1, **options}},
    }


def weights(path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def test_the_best_of_several_metrics_are_kept_by_their_rules(make_runner):
    told = Told(score=[0.1, 0.9, 0.4, 0.9], loss_a=[3.0, 4.0, 1.0, 2.0], own=[5.0, 6.0, 7.0, 8.0])
    runner = make_runner(
        val_evaluator=[told],
        **saving(
            save_best=["score", "loss_a", "own"],
            greater_keys=["score"],
            less_keys=["loss_a", "own"],
            max_keep_ckpts=1,
            filename_tmpl="e{}.pth",
        ),
    )
    runner.train()
    expected = ["best_loss_a_e3.pth", "best_own_e1.pth", "best_score_e2.pth", "e4.pth"]
    assert expected == checkpoints(runner.work_dir)


def test_rules_are_those_given_or_follow_from_the_name(make_runner):
    told = Told(acc=[0.1, 0.9, 0.4, 0.5], error=[3.0, 4.0, 1.0, 2.0])
    best = saving(save_best=["acc", "error"], rule=[None, "less"])
    runner = make_runner(val_evaluator=[told], **best)
    runner.train()
    found = [name for name in checkpoints(runner.work_dir) if "best" in name]
    assert ["best_acc_epoch_2.pth", "best_error_epoch_3.pth"] == found


def test_a_run_goes_on_from_its_best_checkpoint_to_the_same_bits(make_runner, tmp_path):
    def run(name, **more):
        # The best is saved within the validation of its epoch, which is done again.
        told = Told(acc=[0.9, 0.4, 0.5] if more else [0.1, 0.9, 0.4, 0.5])
        runner = make_runner(
            val_evaluator=[told], work_dir=str(tmp_path / name), **saving(save_best="acc"), **more
        )
        runner.train()
        return weights(tmp_path / name / "epoch_4.pth")

    straight = run("straight")
    best = tmp_path / "straight" / "best_acc_epoch_2.pth"
    resumed = run("resumed", load_from=str(best), resume=True)
    assert all(torch.equal(value, resumed[key]) for key, value in straight.items())
    assert any(not torch.equal(value, weights(best)[key]) for key, value in straight.items())


@pytest.mark.parametrize("keys", [["acc"], ["acc", "own"]])
def test_the_best_of_another_run_stays_and_that_of_a_moved_run_is_replaced(
    make_runner, tmp_path, keys
):
    def run(name, scores, **more):
        told = Told(acc=scores, own=scores)
        settings = saving(save_best=keys, rule="greater", published_keys=["state_dict"])
        make_runner(
            val_evaluator=[told], work_dir=str(tmp_path / name), resume=True, **settings, **more
        ).train()
        best = [file for file in checkpoints(tmp_path / name) if file.startswith("best_acc")]
        return [file for file in best if "-" not in file], [file for file in best if "-" in file]

    assert run("old", [0.1, 0.9, 0.4, 0.5])[0] == ["best_acc_epoch_2.pth"]
    before = checkpoints(tmp_path / "old")
    # Another run goes on from the middle of it, and finds a better one.
    kept, published = run("fork", [0.5, 0.95], load_from=str(tmp_path / "old" / "epoch_3.pth"))
    assert kept == ["best_acc_epoch_4.pth"]
    assert len(published) == 1
    assert checkpoints(tmp_path / "old") == before
    # And one that finds none; it has nothing of its own to publish.
    worse = run("worse", [0.5, 0.6], load_from=str(tmp_path / "old" / "epoch_3.pth"))
    assert worse == ([], [])
    assert checkpoints(tmp_path / "old") == before
    # The run itself, after it was moved.
    (tmp_path / "old").rename(tmp_path / "new")
    (tmp_path / "new" / "epoch_4.pth").unlink()
    (tmp_path / "new" / "last_checkpoint").unlink()
    assert run("new", [0.5, 0.95])[0] == ["best_acc_epoch_4.pth"]


def test_published_files_hold_the_keys_asked_for(make_runner):
    runner = make_runner(**saving(published_keys=["state_dict", "meta"], save_last=True))
    runner.train()
    published = [name for name in checkpoints(runner.work_dir) if "epoch_4-" in name]
    assert 1 == len(published)
    content = torch.load(Path(runner.work_dir, published[0]), weights_only=True)
    assert {"state_dict", "meta"} <= set(content)
    assert "optimizer" not in content


def stored(address) -> list[str]:
    found = list_dir_or_file(address, list_dir=False, recursive=True)
    return sorted(Path(name).name for name in found if name.endswith(".pth"))


@pytest.mark.parametrize("asynchronous", [False, True])
def test_checkpoints_in_another_place_are_replaced_there(make_runner, asynchronous, monkeypatch):
    removed = []
    remove = CheckpointHook._remove

    def remove_and_tell(self, runner, path):
        removed.append(Path(path).name)
        return remove(self, runner, path)

    monkeypatch.setattr(CheckpointHook, "_remove", remove_and_tell)
    address = f"memory://rotated{asynchronous}"
    told = Told(acc=[0.1, 0.9, 0.4, 0.5], loss=[4.0, 3.0, 2.0, 5.0])
    runner = make_runner(
        val_evaluator=[told],
        **saving(
            out_dir=address,
            max_keep_ckpts=2,
            save_best=["acc", "loss"],
            async_save=asynchronous,
        ),
    )
    runner.train()
    assert [] == checkpoints(runner.work_dir)
    expected = ["best_acc_epoch_2.pth", "best_loss_epoch_3.pth", "epoch_3.pth", "epoch_4.pth"]
    assert expected == stored(address)
    # One path deletes them all.
    gone = ["best_acc_epoch_1.pth", "best_loss_epoch_1.pth", "best_loss_epoch_2.pth"]
    assert [*gone, "epoch_1.pth", "epoch_2.pth"] == sorted(removed)
    # What is left in the other place is whole, and found again.
    assert f"{address}/{Path(runner.work_dir).name}/epoch_4.pth" == find_latest_checkpoint(
        runner.work_dir
    )
    resumed = make_runner(load_from=find_latest_checkpoint(runner.work_dir), resume=True)
    resumed.load_or_resume()
    assert 4 == resumed.epoch


def test_what_another_place_does_not_delete_is_tried_again(make_runner, monkeypatch):
    refused = []
    remove = FsspecBackend.remove

    def refuse_once(self, filepath):
        if not refused:
            refused.append(filepath)
            raise PermissionError("not now")
        remove(self, filepath)

    monkeypatch.setattr(FsspecBackend, "remove", refuse_once)
    runner = make_runner(**saving(out_dir="memory://refused", max_keep_ckpts=1))
    runner.train()
    assert ["epoch_1.pth"] == [Path(name).name for name in refused]
    assert ["epoch_4.pth"] == stored("memory://refused")
    log = next(Path(runner.work_dir).rglob("*.log")).read_text()
    assert "Could not delete the old checkpoint memory://refused/" in log


def fails_for(name, function):
    """Return a function that finds the disk full if one of its arguments ends in `name`."""

    def fail_or_go_on(*args):
        if any(str(arg).endswith(name) for arg in args):
            raise OSError(errno.ENOSPC, "No space left on device")
        return function(*args)

    return fail_or_go_on


@pytest.mark.parametrize("place", ["here", "memory://failing"])
def test_an_error_of_asynchronous_saving_ends_the_next_iteration(make_runner, monkeypatch, place):
    if place == "here":
        monkeypatch.setattr(save, "atomic_writer", fails_for("iter_2.pth", save.atomic_writer))
    else:
        monkeypatch.setattr(FsspecBackend, "put", fails_for("iter_2.pth", FsspecBackend.put))

    class WaitForFile(Hook):
        """Lets no iteration begin before the file of the last one is there, or has failed."""

        priority = "LOWEST"

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            saver = next(h for h in runner.hooks if isinstance(h, CheckpointHook))._saver
            if saver is not None and saver._pending is not None:
                assert futures.wait([saver._pending], timeout=60).done

    runner = make_runner(
        custom_hooks=[WaitForFile()],
        train_cfg={"by_epoch": False, "max_iters": 9},
        val_dataloader=None,
        val_cfg=None,
        val_evaluator=None,
        default_hooks={
            "checkpoint": {
                "type": "CheckpointHook",
                "interval": 2,
                "by_epoch": False,
                "async_save": True,
                "out_dir": None if place == "here" else place,
            }
        },
    )
    with pytest.raises(CheckpointError, match=r"iter_2\.pth could not be written: .*No space left"):
        runner.train()
    # Saved after iteration 1, counted from 0; raised in iteration 2, before it was counted.
    assert 2 == runner.iter


@pytest.mark.parametrize("save_best", ["acc", ["acc"]])
def test_validation_alone_works_beside_saving_the_best(make_runner, save_best):
    runner = make_runner(val_evaluator=[Told(acc=[0.5])], **saving(save_best=save_best))
    assert {"acc": 0.5} == runner.val()
    assert [] == checkpoints(runner.work_dir)
