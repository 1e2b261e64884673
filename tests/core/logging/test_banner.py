"""Start-up banner and model summary."""

import torch
from torch import nn

from mmx.logging.banner import count_parameters, model_summary, run_facts, startup_banner


def test_banner_is_a_box_of_facts():
    facts = run_facts(
        version="1.0", torch_version="2.13", experiment="exp", work_dir="w", device="cuda:0",
        world_size=8, strategy="DDPStrategy", precision="bfloat16", seed=3,
    )  # fmt: skip
    lines = startup_banner(facts).splitlines()
    assert lines[0].startswith("╭─ mmx ─")
    assert len({len(line) for line in lines}) == 1
    assert "│ version     mmx 1.0, torch 2.13 " in lines[1]
    assert any("device      cuda:0, 8 processes, DDPStrategy" in line for line in lines)
    assert not any("resumed from" in line for line in lines)


def test_banner_keeps_a_width():
    text = startup_banner({"work dir": "x" * 200}, width=80)
    assert max(map(len, text.splitlines())) == 80
    assert "…" in text


def test_summary_lists_modules_with_their_parameters():
    model = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Linear(4, 2), nn.ReLU()))
    model[0].requires_grad_(False)
    lines = model_summary(model).splitlines()
    assert lines[0].split() == ["module", "type", "parameters"]
    assert lines[2].split() == ["(model)", "Sequential", "26", "partly", "frozen"]
    assert lines[3].split() == ["0", "Linear", "16", "frozen"]
    assert lines[5].split() == ["0", "Linear", "10"]
    assert lines[6].split() == ["1", "ReLU", "-"]
    assert lines[-1] == "26 parameters, 10 trainable, 0.0 MB"
    assert "ReLU" not in model_summary(model, max_depth=1)
    assert max(map(len, model_summary(model, width=20).splitlines()[:-1])) <= 20


def test_parameters_that_do_not_exist_yet_count_nothing():
    assert count_parameters(nn.LazyLinear(3)) == (0, 0)
    assert "0 parameters" in model_summary(nn.LazyLinear(3))


def test_shared_parameters_count_once():
    layer = nn.Linear(2, 2)
    assert count_parameters(nn.Sequential(layer, layer)) == (6, 6)
    assert torch.is_tensor(layer.weight)
