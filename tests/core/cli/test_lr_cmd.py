"""``mmx plot lr`` and ``mmx lr-find``."""

from __future__ import annotations

import math

import pytest
from click.testing import CliRunner

from mmx.cli.lr_cmd import lr_find, planned_curves, plot_lr, terminal_chart
from mmx.config import Config

WARM_UP = dict(type="LinearLR", start_factor=0.1, end=10, by_epoch=False)
CONFIG = dict(
    train_cfg=dict(by_epoch=True, max_epochs=10),
    optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.4, momentum=0.9)),
    param_scheduler=[WARM_UP, dict(type="MultiStepLR", milestones=[4, 8])],
)


def curves(names=("lr",), epoch_length=20, **changes):
    return planned_curves(Config({**CONFIG, **changes}), list(names), epoch_length)


def values(points):
    return {int(step): value for step, value in points}


def test_the_planned_rate_is_that_of_the_schedulers():
    found = values(curves()["lr"])
    assert 200 == len(found)
    assert 0.04 == pytest.approx(found[0])
    assert 0.4 == pytest.approx(found[10])
    assert 0.4 == pytest.approx(found[79])
    assert 0.04 == pytest.approx(found[80])
    assert 0.004 == pytest.approx(found[199])


def test_epochs_become_iterations():
    cosine = dict(type="CosineAnnealingLR", T_max=10, convert_to_iter_based=True)
    found = values(curves(param_scheduler=cosine)["lr"])
    assert 0.4 * (1 + math.cos(math.pi * 50 / 200)) / 2 == pytest.approx(found[50])


def test_iterations_need_no_data():
    found = curves(
        train_cfg=dict(by_epoch=False, max_iters=50),
        param_scheduler=dict(type="StepLR", step_size=20, by_epoch=False),
        epoch_length=None,
    )
    assert 0.004 == pytest.approx(values(found["lr"])[49])


def test_other_settings_and_several_optimizers():
    momentum = [dict(type="StepMomentum", step_size=5, gamma=0.5)]
    assert 0.45 == values(curves(["momentum"], param_scheduler=momentum)["momentum"])[199]
    found = curves(
        optim_wrapper=dict(
            constructor="Mine",
            gen=dict(optimizer=dict(type="SGD", lr=1.0)),
            disc=dict(optimizer=dict(type="Adam", lr=2.0)),
        ),
        param_scheduler=dict(gen=[dict(type="StepLR", step_size=5)]),
    )
    assert {"gen.lr": 0.1, "disc.lr": 2.0} == {k: values(v)[199] for k, v in found.items()}


def test_scaling_by_batch_size_is_planned_too():
    found = curves(
        param_scheduler=None,
        auto_scale_lr=dict(enable=True, base_batch_size=8),
        train_dataloader=dict(batch_size=16),
    )
    assert 0.8 == values(found["lr"])[0]


def test_a_long_run_is_thinned_out():
    found = curves(train_cfg=dict(by_epoch=False, max_iters=100_000), param_scheduler=[WARM_UP])
    assert len(found["lr"]) < 4100
    assert 99_999 == found["lr"][-1][0]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (dict(train_cfg=None), "no train_cfg"),
        (dict(optim_wrapper=None), "no optim_wrapper"),
        (dict(optim_wrapper=dict(a=1)), "optim_wrapper has no optimizer"),
        (dict(names=["beta"]), "SGD has no number 'beta' in its settings; it has dampening, "),
        (dict(epoch_length=None), "no train_dataloader; give --epoch-length"),
        (
            dict(epoch_length=None, train_dataloader=dict(dataset=dict(type="NoSuchData"))),
            "Give --epoch-length",
        ),
    ],
)
def test_what_cannot_be_planned_says_why(changes, text):
    import click

    with pytest.raises(click.ClickException) as info:
        curves(**changes)
    assert text in info.value.message


def test_a_chart_has_the_ends_of_both_axes():
    text = terminal_chart([(i, i * i) for i in range(100)], "square", width=20, height=5)
    lines = text.splitlines()
    assert "square" == lines[0]
    assert lines[1].split() == ["9.8e+03", "│", "••"]
    assert lines[5].startswith("         0 │•••")
    assert ["0", "99"] == lines[-1].split()
    assert "flat: no points" == terminal_chart([], "flat")
    assert "•" * 8 in terminal_chart([(i, 1.0) for i in range(8)], "flat", width=8)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.py"
    path.write_text("\n".join(f"{name} = {value!r}" for name, value in CONFIG.items()))
    return str(path)


def test_the_command_draws_a_picture(isolated, config, tmp_path):
    pytest.importorskip("matplotlib")
    out = str(tmp_path / "lr.png")
    done = CliRunner().invoke(
        plot_lr,
        [config, "--epoch-length", "20", "--out", out, "--param", "lr", "--param", "momentum"],
    )
    assert 0 == done.exit_code, done.output
    assert "momentum\n" in done.output
    assert done.output.endswith(f"{out}\n")
    assert (tmp_path / "lr.png").stat().st_size > 5000


def test_the_command_draws_in_the_terminal_only(isolated, config, tmp_path):
    done = CliRunner().invoke(plot_lr, [config, "--epoch-length", "20", "--text-only"])
    assert 0 == done.exit_code, done.output
    assert not (tmp_path / "lr.png").exists()
    assert "•••" in done.output


def test_a_rate_is_found_for_a_config(isolated, tmp_path):
    pytest.importorskip("mmx_toy")
    work_dir = tmp_path / "work"
    done = CliRunner().invoke(
        lr_find,
        ["mmx_toy::two_rings.py", "--work-dir", str(work_dir), "--num-steps", "60", "--seed", "0"],
    )
    assert 0 == done.exit_code, done.output
    suggestion = float(done.output.splitlines()[-1])
    assert 1e-4 < suggestion < 1
    assert 1 == len(list(work_dir.rglob("lr_find.json")))
    assert [] == list(work_dir.rglob("*.pth"))


def test_a_wrong_range_is_named(isolated, config):
    done = CliRunner().invoke(lr_find, [config, "--start-lr", "3", "--end-lr", "1"])
    assert 2 == done.exit_code
    assert "0 < start_lr < end_lr is needed" in done.output
