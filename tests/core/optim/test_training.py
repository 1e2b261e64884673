"""Losses of a small CNN are those of a loop written by hand, to the last bit."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn
from torch.nn import functional

from mmx.model import BaseModel
from mmx.optim import build_optim_wrapper
from mmx.registry import PARAM_SCHEDULERS

ITERATIONS = 20


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU()
        )
        self.head = nn.Linear(8, 4)

    def forward(self, images):
        return self.head(self.features(images).mean((2, 3)))


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.net = Net()

    def forward(self, images, labels, mode="loss"):
        return {"loss": functional.cross_entropy(self.net(images), labels)}


def batches():
    generator = torch.Generator().manual_seed(1)
    for _ in range(ITERATIONS):
        images = torch.randn(8, 1, 10, 10, generator=generator)
        yield images, (images.mean((1, 2, 3)) * 40).long().clamp(-2, 1) + 2


RECIPES = {
    "plain": dict(),
    "accumulated": dict(accumulative_counts=3),
    "clipped": dict(clip_grad=dict(max_norm=0.2)),
    "bf16": dict(type="AmpOptimWrapper", dtype="bfloat16"),
    "all": dict(
        type="AmpOptimWrapper",
        dtype="bfloat16",
        accumulative_counts=3,
        clip_grad=dict(max_norm=0.2),
    ),
}


def by_hand(recipe):
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    counts = recipe.get("accumulative_counts", 1)
    half = recipe.get("dtype") == "bfloat16"
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=ITERATIONS)
    losses = []
    for number, (images, labels) in enumerate(batches()):
        context = torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext()
        with context:
            loss = functional.cross_entropy(net(images), labels)
        losses.append(loss.item())
        size = counts if number < ITERATIONS // counts * counts else ITERATIONS % counts
        (loss / size).backward()
        if (number + 1) % counts == 0 or number + 1 == ITERATIONS:
            if "clip_grad" in recipe:
                nn.utils.clip_grad_norm_(net.parameters(), **recipe["clip_grad"])
            optimizer.step()
            optimizer.zero_grad()
        if number or counts == 1:
            cosine.step()
        else:
            # torch warns of a scheduler before the first step; the rate is the same.
            optimizer._opt_called = True
            cosine.step()
    return losses, [p.detach() for p in net.parameters()]


@pytest.mark.parametrize("name", RECIPES)
def test_losses_and_weights_are_those_of_a_loop_by_hand(name):
    recipe = RECIPES[name]
    model = Model()
    wrapper = build_optim_wrapper(
        model,
        dict(optimizer=dict(type="SGD", lr=0.1, momentum=0.9, weight_decay=1e-4), **recipe),
    )
    wrapper.initialize_count_status(model, 0, ITERATIONS)
    scheduler = PARAM_SCHEDULERS.build(
        dict(type="CosineAnnealingLR", T_max=ITERATIONS, by_epoch=False),
        default_args=dict(optimizer=wrapper),
    )
    losses = []
    for images, labels in batches():
        log_vars = model.train_step(dict(images=images, labels=labels), wrapper)
        losses.append(float(log_vars["loss"]))
        scheduler.step()
    expected, weights = by_hand(recipe)
    assert expected == losses
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    assert ITERATIONS == len(set(losses))
