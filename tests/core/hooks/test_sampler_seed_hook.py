"""The sampler is told which epoch begins."""

from types import SimpleNamespace
from typing import Any

from mmx.hooks import DistSamplerSeedHook


class Sampler:
    epoch: int | None = None

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


def run(**loader: Any) -> None:
    runner: Any = SimpleNamespace(
        epoch=3, train_loop=SimpleNamespace(dataloader=SimpleNamespace(**loader))
    )
    DistSamplerSeedHook().before_train_epoch(runner)


def test_the_sampler_is_told() -> None:
    sampler, other = Sampler(), Sampler()
    run(sampler=sampler, batch_sampler=SimpleNamespace(sampler=other))
    assert (3, None) == (sampler.epoch, other.epoch)


def test_the_sampler_of_the_batch_sampler_is_told() -> None:
    sampler = Sampler()
    run(sampler=object(), batch_sampler=SimpleNamespace(sampler=sampler))
    assert 3 == sampler.epoch


def test_samplers_without_epochs_are_left_alone() -> None:
    run(sampler=object(), batch_sampler=None)
    run()
    assert ["before_train_epoch"] == DistSamplerSeedHook().get_triggered_stages()
