"""Examples of the chapters about logging."""

from __future__ import annotations

import torch
from playing import example
from torch import nn
from torch.utils.data import DataLoader


def toy_model():
    from mmengine.model import BaseModel

    class ToyModel(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(1, 1)

        def forward(self, img, label, mode):
            feat = self.linear(img)
            loss1 = (feat - label).pow(2)
            loss2 = (feat - label).abs()
            return dict(loss1=loss1, loss2=loss2)

    return ToyModel()


def train(play, model=None, **settings):
    from mmengine.runner import Runner

    train_dataset = [(torch.ones(1, 1), torch.ones(1, 1))] * 50
    train_dataloader = DataLoader(train_dataset, batch_size=2)
    runner = Runner(
        model=toy_model() if model is None else model,
        work_dir="tmp_dir",
        train_dataloader=train_dataloader,
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.01)),
        **settings,
    )
    play(runner, "train")


@example
def log_lines(play):
    train(play)


@example
def log_of_a_global_mean(play):
    train(
        play,
        log_processor=dict(
            custom_cfg=[
                dict(
                    data_src="loss1",  # original loss name: loss1
                    method_name="mean",  # statistical method: mean
                    window_size="global",
                )
            ]
        ),  # window_size: global
    )


@example
def log_of_two_means(play):
    train(
        play,
        log_processor=dict(
            custom_cfg=[
                # log_name means the second name of loss1
                dict(
                    data_src="loss1",
                    log_name="loss1_global",
                    method_name="mean",
                    window_size="global",
                )
            ]
        ),
    )


@example
def log_of_maxima(play):
    """And of the other statistics that the chapter lists."""
    train(
        play,
        log_processor=dict(
            custom_cfg=[
                # Statistic loss1 with the local maximum value
                dict(
                    data_src="loss1",
                    log_name="loss1_local_max",
                    window_size=10,
                    method_name="max",
                ),
                # Statistic loss1 with the global maximum value
                dict(
                    data_src="loss1",
                    log_name="loss1_global_max",
                    method_name="max",
                    window_size="global",
                ),
                dict(
                    data_src="loss2", log_name="loss2_min", method_name="min", window_size="epoch"
                ),
                dict(data_src="loss2", log_name="loss2_now", method_name="current"),
                dict(data_src="loss2", log_name="loss2_max", method_name="max"),
            ]
        ),
    )


def model_that_logs():
    from mmengine.logging import MessageHub
    from mmengine.model import BaseModel

    class ToyModel(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(1, 1)

        def forward(self, img, label, mode):
            feat = self.linear(img)
            loss_tmp = (feat - label).abs()
            loss = loss_tmp.pow(2)

            message_hub = MessageHub.get_current_instance()
            # update the intermediate `loss_tmp` in the message hub
            message_hub.update_scalar("train/loss_tmp", loss_tmp.sum())
            return dict(loss=loss)

    return ToyModel()


@example
def log_of_a_field_of_ones_own(play):
    train(
        play,
        model_that_logs(),
        log_processor=dict(
            custom_cfg=[
                # statistic the loss_tmp with the averaged value
                dict(data_src="loss_tmp", window_size=10, method_name="mean")
            ]
        ),
    )


@example
def log_of_a_library(play):
    train(
        play,
        model_that_logs(),
        log_processor=dict(
            type="LogProcessor",
            window_size=20,
            by_epoch=True,
            custom_cfg=[
                # statistic the loss_tmp with the averaged value
                dict(data_src="loss_tmp", window_size=20, method_name="mean")
            ],
        ),
    )


@example
def log_by_iteration(play):
    """The warning of the chapter: lines and loop should count alike."""
    from mmengine.runner import Runner

    runner = Runner(
        model=toy_model(),
        work_dir="tmp_dir",
        train_dataloader=dict(
            dataset=[(torch.ones(1, 1), torch.ones(1, 1))] * 10,
            sampler=dict(type="InfiniteSampler", shuffle=True),
            batch_size=2,
            collate_fn=dict(type="default_collate"),
        ),
        train_cfg=dict(by_epoch=False, max_iters=24),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.01)),
        log_processor=dict(by_epoch=False, window_size=5, log_with_hierarchy=True),
        default_hooks=dict(
            checkpoint=dict(type="CheckpointHook", interval=10, by_epoch=False),
            logger=dict(type="LoggerHook", interval=5, interval_exp_name=15),
        ),
        randomness=dict(seed=2),
    )
    play(runner, "train")


@example
def log_at_debug_level(play):
    train(play, log_level="DEBUG")


@example
def log_processor_of_ones_own(play):
    from mmengine.registry import LOG_PROCESSORS
    from mmengine.runner import LogProcessor

    @LOG_PROCESSORS.register_module()
    class CustomLogProcessor(LogProcessor):
        def get_log_after_iter(self, runner, batch_idx, mode):
            tag, line = super().get_log_after_iter(runner, batch_idx, mode)
            tag["half"] = tag["loss1"] / 2
            return tag, f"{line}  half: {tag['half']:.1f}"

    train(play, log_processor=dict(type="CustomLogProcessor", num_digits=2))
