"""Where values are written."""

import copy
import pickle
import sys
import textwrap

import pytest

from mmx.config import Config, origin_of
from mmx.config.check import check_config


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    return write


def places(cfg, *keys):
    return [str(origin_of(cfg, key)) for key in keys]


def test_values_know_their_file_and_line_through_inheritance(write):
    write(
        "base.py",
        """\
        model = dict(
            type='R',
            depth=1,
            norm=dict(type='BN',
                      eps=1))
        lr = 1
        """,
    )
    path = write(
        "c.py",
        """\
        _base_ = 'base.py'
        model = dict(depth=2,
                     norm=dict(eps=3))
        new = [1,
               dict(a=2)]
        """,
    )
    cfg = Config.fromfile(path)
    keys = ["model.type", "model.depth", "model.norm.type", "model.norm.eps", "lr", "new.1.a"]
    assert ["base.py:2", "c.py:2", "base.py:4", "c.py:3", "base.py:6", "c.py:5"] == places(
        cfg, *keys
    )
    assert ["c.py:4", "c.py:5"] == places(cfg, "new[0]", ("new", 1))
    assert origin_of(cfg, "nothing") is None
    # What is computed has the line of what it is in.
    assert ["c.py:2"] == places(cfg, "model.depth.x")


def test_delete_forgets_the_base(write):
    write("base.py", "a = dict(b=1, c=2)\n")
    cfg = Config.fromfile(write("c.py", "_base_ = 'base.py'\n\na = dict(_delete_=True, b=3)\n"))
    assert ["c.py:3", "c.py:3"] == places(cfg, "a.b", "a.c")


def test_names_and_statements_are_followed(write):
    path = write(
        "c.py",
        """\
        pipeline = [dict(type='A'),
                    dict(type='B')]
        base = dict(x=1,
                    y=2)
        data = dict(
            pipeline=pipeline,
            more=dict(base,
                      y=3),
            both={**base, 'z': 4})
        data['k'] = 5
        data.update(
            m=6)
        pipeline.append(
            dict(type='C'))
        joined = pipeline + [
            7]
        first, second = (8,
            9)
        if True:
            cond = 10
        else:
            cond = 11
        del base['x']
        """,
    )
    cfg = Config.fromfile(path)
    keys = ["data.pipeline", "data.pipeline.1.type", "data.more.x", "data.more.y", "data.both.y"]
    assert ["c.py:6", "c.py:2", "c.py:3", "c.py:8", "c.py:4"] == places(cfg, *keys)
    keys = ["data.k", "data.m", "pipeline.2.type", "joined.3", "second", "cond", "data.both.z"]
    expected = ["c.py:10", "c.py:12", "c.py:14", "c.py:16", "c.py:18", "c.py:20", "c.py:9"]
    assert expected == places(cfg, *keys)


def test_values_taken_from_bases_keep_their_lines(write):
    write("base.py", "a = dict(\n    b=[1,\n       2])\n")
    cfg = Config.fromfile(write("c.py", "_base_ = 'base.py'\nx = {{_base_.a}}\ny = _base_.a.b\n"))
    assert ["c.py:2", "base.py:2", "base.py:3"] == places(cfg, "x", "x.b", "y.1")


def test_pure_python_configs_have_origins(write):
    write("base.py", "opt = dict(\n    lr=1,\n    m=2)\nother = 3\n")
    path = write(
        "c.py",
        """\
        from mmx.config import read_base

        with read_base():
            from .base import opt as o
            from .base import *
        o.update(dict(
            lr=4))
        o.m = 5
        """,
    )
    # Both names stand for one dict.
    cfg = Config.fromfile(path)
    assert 4 == cfg.opt.lr
    keys = ["o.lr", "o.m", "other", "opt.lr"]
    assert ["c.py:7", "c.py:8", "base.py:4", "c.py:7"] == places(cfg, *keys)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.yaml", "_base_: base.py\na:\n  b: 1\n  c:\n    - d: 2\n    - 3\ne: {f: 4,\n  g: 5}\n"),
        (
            "c.json",
            '{"_base_": "base.py",\n"a": {\n\t"b": 1,\n"c":\n[{"d": 2},\n3]}, "e":\n{"f": 4, "g": 5}}',
        ),
    ],
)
def test_yaml_and_json_have_lines(write, name, text):
    write("base.py", "a = dict(z=0)\n")
    cfg = Config.fromfile(write(name, text))
    lines = {"a.z": "base.py:1", "a.b": f"{name}:3", "a.c.0.d": f"{name}:5", "a.c.1": f"{name}:6"}
    assert list(lines.values()) == places(cfg, *lines)


def test_toml_has_lines(write):
    text = '_base_ = "base.py"\n[a]\nb = 1\nc.d = 2\ns = """\nq = 3\n"""\n[[a.t]]\ne = 4\n[[a.t]]\ne = 5\n'
    write("base.py", "a = dict(z=0)\n")
    cfg = Config.fromfile(write("c.toml", text))
    keys = ["a.b", "a.c.d", "a.t.0.e", "a.t.1.e", "a.z"]
    assert ["c.toml:3", "c.toml:4", "c.toml:9", "c.toml:11", "base.py:1"] == places(cfg, *keys)


def test_overrides_are_told(write):
    cfg = Config.fromfile(write("c.py", "a = dict(b=1,\n         c=[dict(d=1), 2])\n"))
    cfg.merge_from_dict({"a.b": 2, "a.c.0.d": 3})
    assert ["override", "override", "c.py:2"] == places(cfg, "a.b", "a.c.0.d", "a.c.1")
    assert origin_of(Config(dict(a=1)), "a") is None


def test_findings_cite_origins(write):
    write("base.py", "model = dict(\n    type='NoSuchModel')\n")
    cfg = Config.fromfile(write("c.py", "_base_ = 'base.py'\nlog_level = 'LOUD'\n"))
    found = {finding.path: str(finding.origin) for finding in check_config(cfg)}
    assert ("base.py:2", "c.py:2") == (found["model.type"], found["log_level"])


def test_a_config_from_text_has_origins_too():
    cfg = Config.fromstring("a = 1\nb = 2\n", ".py")
    assert str(origin_of(cfg, "b")).endswith("<string>.py:2")


def test_origins_are_not_recorded_but_found(write):
    path = write("c.py", "a = 1\n")
    cfg = Config.fromfile(path)
    path.unlink()
    assert ["c.py:1"] == places(cfg, "a")


def test_a_failed_build_says_where_the_part_is_written(write):
    from mmx.registry import MODELS

    write(
        "base.py",
        "model = dict(\n    type='BaseTTAModel',\n    module=dict(\n        type='No'))\n",
    )
    cfg = Config.fromfile(write("c.py", "_base_ = 'base.py'\nmodel = dict(x=1)\n"))
    cfg.merge_from_dict({"y": [dict(type="No")]})
    for part, place in (
        (cfg.model, "c.py:2"),
        (cfg.model.module, "base.py:3"),
        (cfg.copy().model.module, "base.py:3"),
        (copy.deepcopy(cfg).model.module, "base.py:3"),
        (cfg["y"][0], "override"),
    ):
        with pytest.raises((KeyError, TypeError)) as caught:
            MODELS.build(part)
        assert f"written in {place}" in "".join(caught.value.__notes__)
    with pytest.raises(KeyError) as caught:
        MODELS.build(Config(dict(a=dict(type="No"))).a)
    assert "written in" not in "".join(caught.value.__notes__)


def test_a_runner_knows_the_files_of_its_config(write):
    from mmx.runner.spec import as_config

    cfg = Config.fromfile(write("c.py", "import mmx\nmodel = dict(\n    a=dict(b=1))\n"))
    full = as_config(cfg)
    assert ["c.py:3"] == places(full, "model.a")
    assert "c.py:3" == full.model.a.__config_source__()
    full.model.a.b = 2
    assert (1, cfg.text, cfg.filename) == (cfg.model.a.b, full.text, full.filename)


# ------------------------------------------------------------------------ set in code

TEXT = (
    "model = dict(\n    depth=1,\n    inner=dict(type='No', x=1))\nlr = 3\nsteps = [1, dict(a=1)]\n"
)


def line_here():
    return sys._getframe(1).f_lineno


def test_what_code_sets_is_said_to_be_set_there(write):
    cfg = Config.fromfile(write("c.py", TEXT))
    cfg.model.inner.x = 3
    line = line_here()
    cfg["model"]["depth"] = 7
    cfg.lr = dict(a=dict(b=1))
    cfg.new = [dict(a=1)]
    cfg.model.update(width=2)
    cfg.merge(dict(model=dict(height=2)))
    cfg.setdefault("other", 1)
    keys = ["model.inner.x", "model.depth", "lr.a.b", "new.0.a", "model.width", "model.height"]
    lines = [line - 1, *range(line + 1, line + 6)]
    for number, place in zip(lines, places(cfg, *keys), strict=True):
        assert place.endswith(f"test_origin.py:{number} (set in code)")
    assert str(origin_of(cfg, "other")).endswith(f":{line + 6} (set in code)")
    assert ["c.py:3", "c.py:5", "c.py:1"] == places(cfg, "model.inner.type", "steps.0", "model")


def test_an_override_after_code_is_an_override(write):
    cfg = Config.fromfile(write("c.py", TEXT))
    cfg.model.depth = 7
    cfg.new = dict(a=1, b=2)
    cfg.merge_from_dict({"model.depth": 8, "new.a": 3})
    assert ["override", "override"] == places(cfg, "model.depth", "new.a")
    assert "set in code" in places(cfg, "new.b")[0]
    cfg.model.depth = 9
    assert "set in code" in places(cfg, "model.depth")[0]


@pytest.mark.parametrize(
    "again", [copy.deepcopy, copy.copy, lambda c: pickle.loads(pickle.dumps(c))]
)
def test_copies_and_pickles_know_what_code_has_set(write, again):
    cfg = Config.fromfile(write("c.py", TEXT))
    cfg.model.depth = 7
    new = again(cfg)
    assert "set in code" in places(new, "model.depth")[0]
    assert ["c.py:4"] == places(new, "lr")
    new.lr = 5
    assert "set in code" in places(new, "lr")[0]
    assert "set in code" in places(cfg, "model.depth")[0]
    if again is not copy.copy:
        assert ["c.py:3"] == places(new, "model.inner.x")
        new.model.inner.x = 2
        assert ["c.py:3"] == places(cfg, "model.inner.x")


def test_lists_that_code_changes_give_no_wrong_line(write):
    cfg = Config.fromfile(write("c.py", "steps = [\n    1,\n    dict(a=1),\n]\nb = 1\n"))
    assert ["c.py:2", "c.py:3"] == places(cfg, "steps.0", "steps.1.a")
    cfg.steps[1].a = 2
    assert "set in code" in places(cfg, "steps.1.a")[0]
    cfg.steps.insert(0, 5)
    assert ["c.py:1"] == places(cfg, "steps.0")
    cfg.steps.pop()
    cfg.steps[1] = dict(a=1)
    assert ["set in code"] == places(cfg, "steps.1.a")


def test_errors_cite_what_code_has_set(write):
    from mmx.registry import MODELS

    cfg = Config.fromfile(write("c.py", TEXT))
    cfg.second = cfg.model  # the same part again is still written where it is
    cfg.first = dict(type="No", inner=[dict(type="No")])
    line = line_here() - 1
    cfg.model.inner["type"] = "Nein"
    for part, place in (
        (cfg.first, f":{line} (set in code)"),
        (cfg.first.inner[0], f":{line} (set in code)"),
        (copy.deepcopy(cfg).first, f":{line} (set in code)"),
        (cfg.model.inner, f":{line + 2} (set in code)"),
    ):
        with pytest.raises(KeyError) as caught:
            MODELS.build(part)
        assert place in "".join(caught.value.__notes__)
    assert "c.py:1" == cfg.second.__config_source__()
    alone = pickle.loads(pickle.dumps(cfg.model))
    assert "" == alone.__config_source__()  # absent, not wrong


def test_the_command_and_the_check_name_code(write):
    cfg = Config.fromfile(write("c.py", "log_level = 'INFO'\n"))
    cfg.log_level = "LOUD"
    (finding,) = [f for f in check_config(cfg) if f.path == "log_level"]
    assert "set in code" in str(finding.origin)
