"""Curves and reports of runs, and their commands."""

import json
import re
import shutil
import subprocess

import pytest
from click.testing import CliRunner

from mmx.cli.plot_log_cmd import command as plot_log
from mmx.cli.report_cmd import command as report
from mmx.visualization import plot_curves, read_scalars
from mmx.visualization.curves import CurveNotFoundError, choose_curves


def write_run(work_dir, name, records, log=""):
    folder = work_dir / name / "vis_data"
    folder.mkdir(parents=True)
    (folder / "scalars.json").write_text("".join(json.dumps(r) + "\n" for r in records))
    (folder.parent / f"{name}.log").write_text(log)
    return folder / "scalars.json"


def training(start, stop, offset=0.0):
    records = []
    for step in range(start, stop + 1, 10):
        epoch = (step - 1) // 20 + 1
        record = {"lr": 0.1, "loss": 1 / step + offset, "time": 0.2, "epoch": epoch, "iter": step}
        records.append({**record, "step": step})
        if step % 20 == 0:
            records.append({"top1/accuracy": step / 100, "time": 0.1, "step": epoch})
    return records


@pytest.fixture
def work_dir(tmp_path):
    log = (
        "x\nSystem environment:\n    Python: 3.11\n\nRuntime environment:\n    seed: 1\n-----\nend"
    )
    write_run(tmp_path / "run a", "20260101_000000", training(10, 60), log)
    write_run(tmp_path / "run a", "20260101_010000", training(50, 80, offset=1.0), log)
    (tmp_path / "run a" / "config.py").write_text("model = dict(depth='<50>')\n")
    (tmp_path / "run a" / "epoch_1.pth").write_bytes(b"x" * 1000)
    (tmp_path / "run a" / "epoch_2.pth").write_bytes(b"x" * 1000)
    (tmp_path / "run a" / "last_checkpoint").write_text("/elsewhere/epoch_2.pth")
    return tmp_path / "run a"


def test_parts_of_a_resumed_run_are_one_curve(work_dir):
    curves = read_scalars(work_dir)
    assert [step for step, _ in curves["loss"]] == [10, 20, 30, 40, 50, 60, 70, 80]
    values = dict(curves["loss"])
    assert values[40] == 1 / 40
    assert values[50] == 1 / 50 + 1  # recorded again: the later one counts


def test_metrics_by_epoch_stand_at_the_iteration_where_the_epoch_ended(work_dir):
    curves = read_scalars(work_dir)
    assert curves["top1/accuracy"] == [(20, 0.2), (40, 0.4), (60, 0.6), (80, 0.8)]
    assert dict(curves["val/time"])[20] == 0.1
    assert dict(curves["time"])[20] == 0.2


def test_a_line_cut_off_by_a_kill_is_skipped(tmp_path):
    path = write_run(tmp_path, "r", [{"loss": 1.0, "step": 1}, {"loss": "x", "step": 2}])
    with open(path, "a") as file:
        file.write('{"loss": 3.0, "st')
    assert read_scalars(path) == {"loss": [(1, 1.0)]}


def test_without_scalars_it_says_what_is_needed(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no vis_data/scalars.json"):
        read_scalars(tmp_path)


@pytest.mark.parametrize(
    ("keys", "panels"),
    [
        (None, {"loss": ["loss", "loss_cls"], "lr": ["lr"], "accuracy": ["top1/accuracy"]}),
        (["loss_cls"], {"loss_cls": ["loss_cls"]}),
        (["accuracy"], {"accuracy": ["top1/accuracy"]}),
        (["top1/accuracy", "nope"], {"top1/accuracy": ["top1/accuracy"], "nope": []}),
    ],
)
def test_short_keys_stand_for_curves(keys, panels):
    names = ["loss_cls", "lr", "top1/accuracy", "time"]
    if keys is None:
        names.insert(0, "loss")
        panels = {**panels, "loss": ["loss"]}
    assert choose_curves(names, keys) == panels


def test_pictures_of_one_and_several_runs(work_dir, tmp_path):
    write_run(tmp_path / "run b", "20260102_000000", training(10, 40))
    path = plot_curves(work_dir)
    assert path == str(work_dir / "curves.png")
    assert (work_dir / "curves.png").read_bytes().startswith(b"\x89PNG")
    out = tmp_path / "new" / "both.svg"
    plot_curves([work_dir, tmp_path / "run b"], ["loss", "time"], out)
    text = out.read_text()
    assert "<!-- run a -->" in text
    assert "<!-- run b -->" in text
    with pytest.raises(CurveNotFoundError, match="no curve is named 'nope'; there are lr, loss"):
        plot_curves(work_dir, ["loss", "nope"])
    with pytest.raises(ValueError, match="at least one work directory"):
        plot_curves([])


def test_command_plot_log(work_dir, tmp_path):
    run = CliRunner().invoke
    out = tmp_path / "c.png"
    result = run(plot_log, [str(work_dir), "--keys", "loss, lr,accuracy", "--out", str(out)])
    assert (result.exit_code, result.output) == (0, f"{out}\n")
    assert out.exists()
    result = run(plot_log, [str(work_dir), "--list"])
    assert "top1/accuracy (4 points)" in result.output
    result = run(plot_log, [str(work_dir), "--keys", "nope"])
    assert result.exit_code == 1
    assert "no curve is named 'nope'; there are" in result.output
    assert run(plot_log, [str(tmp_path / "absent")]).exit_code == 1


def test_command_report(work_dir, tmp_path):
    result = CliRunner().invoke(report, [str(work_dir)])
    assert result.exit_code == 0, result.output
    page = (work_dir / "report.html").read_text()
    assert result.output == f"{work_dir / 'report.html'}\n"
    for text in ("depth=&#x27;&lt;50&gt;&#x27;", "epoch_2.pth", "Python: 3.11", "HOOKS", "0.8"):
        assert text in page
    assert "<50>" not in page
    # Self-contained: it loads nothing.
    assert not re.findall(r"(?:src|href)=|url\(|@import|https?://", page)
    assert CliRunner().invoke(report, [str(tmp_path / "absent")]).exit_code == 1


def test_the_report_says_where_settings_come_from(work_dir, tmp_path):
    (tmp_path / "base.py").write_text("lr = 0.1\nmodel = dict(depth=50)\n")
    (tmp_path / "config.py").write_text("_base_ = 'base.py'\n\nmodel = dict(width=2)\n")
    options = [str(work_dir), "--config", str(tmp_path / "config.py")]
    result = CliRunner().invoke(report, options)
    assert result.exit_code == 0, result.output
    page = (work_dir / "report.html").read_text()
    assert re.search(r"model\.depth = 50  # \S*base\.py:2", page)
    assert re.search(r"model\.width = 2  # \S*config\.py:3", page)


def test_a_constant_and_numbers_that_are_none_still_make_a_page(tmp_path):
    write_run(tmp_path, "r", [{"a": 1.0, "b": float("nan"), "step": s} for s in (1, 2)])
    assert CliRunner().invoke(report, [str(tmp_path)]).exit_code == 0


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs the browser chromium")
@pytest.mark.slow
def test_the_report_works_in_a_browser(work_dir, tmp_path):
    CliRunner().invoke(report, [str(work_dir)], catch_exceptions=False)
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    result = subprocess.run(
        [*command, profile, f"file://{work_dir}/report.html".replace(" ", "%20")],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    page = result.stdout
    assert 'data-ready="yes"' in page, result.stderr  # the script has run to its end
    assert page.count("<polyline") == 5
    assert "<h1>run a</h1>" in page
