"""``mmx config`` on the command line."""

import json

import pytest
from click.testing import CliRunner

from mmx.cli.config_cmd import command


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.py").write_text("model = dict(\n    type='ExponentialMovingAverage', n=1)\n")
    (tmp_path / "c.py").write_text(
        "_base_ = 'base.py'\nmodel = dict(n=2)\nlog_level = 'INFO'\nlst = [1, dict(a=(2,))]\n"
    )
    (tmp_path / "good.yaml").write_text(
        "model: {type: BaseTTAModel, module: {type: BaseTTAModel}}\n"
    )

    def run(*arguments, code=0):
        result = CliRunner().invoke(command, arguments)
        assert code == result.exit_code, result.output
        return result.output

    return run


def test_show_prints_what_a_run_sees(run):
    assert (
        "model = dict(type='ExponentialMovingAverage', n=2)\n"
        == run("show", "c.py").splitlines(True)[0]
    )


def test_show_takes_overrides_bare_and_as_option(run):
    for arguments in (
        ["model.n=5", "log_level=DEBUG"],
        ["--cfg-options", "model.n=5", "log_level=DEBUG"],
        ["--cfg-options", "model.n=5", "--origin", "log_level=DEBUG"],
    ):
        output = run("show", "c.py", *arguments)
        assert "5" in output
        assert "'DEBUG'" in output


def test_show_origin_gives_file_and_line_of_each_value(run):
    lines = run("show", "c.py", "--origin", "log_level=DEBUG").splitlines()
    assert [
        "model.type = 'ExponentialMovingAverage'  # base.py:2",
        "model.n = 2                              # c.py:2",
        "log_level = 'DEBUG'                      # override",
        "lst.0 = 1                                # c.py:4",
        "lst.1.a = (2,)                           # c.py:4",
    ] == lines


def test_show_diff_gives_what_the_other_sets_differently(run):
    output = run("show", "base.py", "--diff", "c.py")
    assert [
        "~ model.n = 1 -> 2",
        "+ log_level = 'INFO'",
        "+ lst = [1, {'a': (2,)}]",
    ] == output.splitlines()
    assert "~ model.n = 1 -> 2  # base.py:2 -> c.py:2" in run(
        "show", "base.py", "--diff", "c.py", "--origin"
    )


def test_diff_exits_with_one_if_there_is_any(run):
    assert "~ model.n = 1 -> 2" in run("diff", "base.py", "c.py", code=1)
    assert "" == run("diff", "c.py", "c.py")


def test_show_resolve_names_the_classes(run):
    output = run("show", "c.py", "--resolve")
    line = next(line for line in output.splitlines() if line.startswith("model.type"))
    assert "# mmx.model.averaged_model.ExponentialMovingAverage (" in line


def test_check_exits_by_what_it_finds(run):
    assert "good.yaml: the config has no errors\n" == run("check", "good.yaml")
    output = run("check", "c.py", "log_level=LOUD", code=1)
    assert "c.py: the config has 3 errors:" in output
    assert "error: model.n (c.py:2): ExponentialMovingAverage takes no argument 'n'" in output
    assert "error: log_level (override): 'LOUD' is none of" in output
    assert "no errors" in run("check", "c.py", "--ignore", "model*", "--ignore", "lst")


def test_check_takes_several_configs_and_prints_json(run):
    output = run("check", "good.yaml", "c.py", "--json", code=1)
    rows = [json.loads(line) for line in output.splitlines()]
    assert {"c.py"} == {row["config"] for row in rows}
    first = next(row for row in rows if row["key"] == "model.n")
    assert ("error", "c.py:2") == (first["level"], first["origin"])
    output = run("check", "good.yaml", "no.py", code=1)
    assert 'no.py: no.py: file "' in output


def test_strict_makes_errors_of_unknown_keys(run):
    assert "no errors" in run("check", "good.yaml", "mine=1")
    assert "this key means nothing to a run" in run(
        "check", "good.yaml", "mine=1", "--strict", code=1
    )


def test_mistakes_of_the_command_line_are_explained(run):
    assert "did you mean 'log_level'?" in run("show", "c.py", "log_levle=1", code=1)
    assert 'nothing.py" does not exist' in run("show", "nothing.py", code=1)
