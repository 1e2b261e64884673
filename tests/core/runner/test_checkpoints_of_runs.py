"""The checkpoint hook in runs, with each of its settings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmx.evaluator import BaseMetric
from mmx.fileio import list_dir_or_file


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


def test_published_files_hold_the_keys_asked_for(make_runner):
    runner = make_runner(**saving(published_keys=["state_dict", "meta"], save_last=True))
    runner.train()
    published = [name for name in checkpoints(runner.work_dir) if "epoch_4-" in name]
    assert 1 == len(published)
    content = torch.load(Path(runner.work_dir, published[0]), weights_only=True)
    assert {"state_dict", "meta"} <= set(content)
    assert "optimizer" not in content


def test_checkpoints_in_another_place_are_rotated_there(make_runner):
    runner = make_runner(**saving(out_dir="memory://rotated", max_keep_ckpts=2))
    runner.train()
    assert [] == checkpoints(runner.work_dir)
    found = list_dir_or_file("memory://rotated", list_dir=False, recursive=True)
    names = sorted(Path(name).name for name in found if name.endswith(".pth"))
    assert ["epoch_3.pth", "epoch_4.pth"] == names


@pytest.mark.parametrize("save_best", ["acc", ["acc"]])
def test_validation_alone_works_beside_saving_the_best(make_runner, save_best):
    runner = make_runner(val_evaluator=[Told(acc=[0.5])], **saving(save_best=save_best))
    assert {"acc": 0.5} == runner.val()
    assert [] == checkpoints(runner.work_dir)
