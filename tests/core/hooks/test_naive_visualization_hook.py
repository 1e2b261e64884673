"""The drawing of test samples."""

from unittest.mock import MagicMock

import numpy as np
import torch

from mmx.hooks import NaiveVisualizationHook
from mmx.structures import BaseDataElement


def test_the_graph_is_recorded_before_training():
    runner = MagicMock()
    NaiveVisualizationHook().before_train(runner)
    runner.visualizer.add_graph.assert_called_once_with(runner.model, None)


def test_padding_is_cut_off_and_the_size_restored():
    runner = MagicMock()
    sample = BaseDataElement(
        metainfo=dict(img_path="a/b.jpg", ori_height=12, ori_width=16, pad_shape=(10, 10), scale=(8, 6))
    )  # fmt: skip
    inputs = torch.zeros(3, 10, 10)
    inputs[:, :6, :8] = 200
    prediction = BaseDataElement()
    hook = NaiveVisualizationHook(draw_gt=False)
    hook.after_test_iter(runner, 0, [dict(inputs=inputs, data_sample=sample)], [prediction])
    name, image, *others = runner.visualizer.add_datasample.call_args.args
    assert name == "b.jpg"
    assert image.shape == (12, 16, 3)
    assert (image == 200).all()
    assert others == [sample, prediction, False, True]


def test_only_every_so_many_batches_are_drawn():
    runner = MagicMock()
    sample = BaseDataElement(metainfo=dict(img_path="b.jpg", ori_height=4, ori_width=4))
    batch = [dict(inputs=torch.full((1, 4, 4), 9.0), data_sample=sample)]
    hook = NaiveVisualizationHook(interval=2)
    for index in range(4):
        hook.after_test_iter(runner, index, batch, [sample])
    assert runner.visualizer.add_datasample.call_count == 2
    hook.after_test_iter(runner, 1, None, None)
    assert runner.visualizer.add_datasample.call_count == 2


def test_unpad_takes_width_and_height():
    image = np.zeros((10, 10, 3))
    assert NaiveVisualizationHook()._unpad(image, (8, 6)).shape == (6, 8, 3)
