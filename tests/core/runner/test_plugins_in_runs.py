"""What plugins may do to a run, and what a config may say about plugins."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from mmx.config import Config
from mmx.hooks import Hook
from mmx.model import BaseModel
from mmx.registry import MODELS
from mmx.runner import Runner
from mmx_registry import hookimpl, plugins


class Net(BaseModel):
    def __init__(self, width: int = 1) -> None:
        super().__init__()
        self.linear = nn.Linear(1, width)

    def forward(self, x, mode="tensor"):
        return {"loss": self.linear(x).mean()} if mode == "loss" else self.linear(x)


class Noted(Hook):
    seen = 0

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        Noted.seen += 1


class Host:
    @hookimpl
    def mmx_runner_spec(self, spec):
        spec["train_cfg"]["max_epochs"] = 2

    @hookimpl
    def mmx_default_hooks(self, spec):
        return [Noted()]


def test_plugins_adjust_a_run_and_add_hooks(tmp_path, monkeypatch):
    manager = plugins.hook_manager()
    host = Host()
    manager.register(host, name="host")
    plugin = type("Announced", (), {"scope": "host", "name": "host"})()
    monkeypatch.setattr(plugins, "with_hook", lambda hook: [plugin])
    train_cfg = dict(by_epoch=True, max_epochs=1)
    try:
        Noted.seen = 0
        runner = Runner(
            model=Net(),
            work_dir=str(tmp_path),
            train_dataloader=dict(
                dataset=[torch.ones(1)] * 4,
                batch_size=2,
                sampler=dict(type="DefaultSampler", shuffle=False),
                collate_fn=lambda samples: {"x": torch.stack(samples)},
            ),
            train_cfg=train_cfg,
            optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
        )
        runner.train()
    finally:
        manager.unregister(host)
    assert runner.epoch == 2
    assert Noted.seen == 4
    assert train_cfg == dict(by_epoch=True, max_epochs=1), "the caller's dict was changed"


def test_a_config_leaves_a_plugin_out(tmp_path):
    """In a process of its own: a plugin that is in use already cannot be taken back."""
    code = f"""
from mmx.config import Config
from mmx.runner import Runner
Runner.from_cfg(Config(dict(
    model=dict(type="mmx_toy.MLP"), work_dir={str(tmp_path)!r}, plugins=dict(disable=["mmx_toy"])
)))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "the plugin 'mmx_toy' (mmx-toy" in run.stderr
    assert "is disabled: the config leaves it out" in run.stderr


def test_an_unknown_choice_of_plugins_is_named(tmp_path):
    config = Config(
        dict(model=dict(type="mmx_toy.MLP"), work_dir=str(tmp_path), plugins=dict(off=[]))
    )
    with pytest.raises(
        ValueError, match="plugins has no 'off'; its keys are only, disable, prefer, strict"
    ):
        Runner.from_cfg(config)


def test_a_failed_build_says_where_in_the_config(tmp_path):
    @MODELS.register_module()
    class Outer(BaseModel):
        def __init__(self, inner):
            super().__init__()
            self.inner = MODELS.build(inner)

        def forward(self, x, mode="tensor"):
            return self.inner(x)

    MODELS.register_module(name="Inner", module=Net)
    path = tmp_path / "deep.py"
    path.write_text(
        f"work_dir = {str(tmp_path)!r}\nmodel = dict(\n    type='Outer',\n    inner=dict(type='Inner', widht=3),\n)\n"
    )
    with pytest.raises(TypeError) as caught:
        Runner.from_cfg(Config.fromfile(path))
    notes = "\n".join(caught.value.__notes__)
    assert "model.inner" in notes
    assert "deep.py:4" in notes
    assert "width" in notes


def test_trust_is_given_when_a_config_is_read(tmp_path):
    (tmp_path / "a.json").write_text('{"model": {"type": "json.JSONDecoder"}}')
    config = Config.fromfile(tmp_path / "a.json")
    with pytest.raises(LookupError, match="trust"):
        MODELS.build(config.model)
    config = Config.fromfile(tmp_path / "a.json", trust=["json"])
    assert type(MODELS.build(config.model)).__name__ == "JSONDecoder"
