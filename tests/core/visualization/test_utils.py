"""Helpers of the visualizer."""

import numpy as np
import pytest
import torch

from mmx.visualization import LocalVisBackend, Visualizer
from mmx.visualization.utils import (
    check_length,
    check_type,
    check_type_and_length,
    color_str2rgb,
    color_val_matplotlib,
    convert_overlay_heatmap,
    tensor2ndarray,
    value2list,
    wait_continue,
)


def test_checks():
    check_type("a", 1, int)
    check_length("a", [1, 2], 2)
    check_length("a", 1, 2)
    check_type_and_length("a", [1, 2], list, 1)
    with pytest.raises(TypeError, match="`a` should be <class 'str'>  but got <class 'int'>"):
        check_type("a", 1, str)
    with pytest.raises(
        ValueError, match="length of a must equal with or greater than 2, but got 1"
    ):
        check_type_and_length("a", [1], list, 2)


def test_values_become_lists():
    assert value2list(1, int, 3) == [1, 1, 1]
    assert value2list((1, 2), (str, tuple), 2) == [(1, 2), (1, 2)]
    assert value2list([1, 2], int, 3) == [1, 2]


def test_colours():
    assert color_val_matplotlib("r") == "r"
    assert color_val_matplotlib((255, 0, 51)) == (1.0, 0.0, 0.2)
    assert color_val_matplotlib([(255, 0, 0), "g"]) == [(1.0, 0.0, 0.0), "g"]
    assert color_str2rgb("g") == (0, 127, 0)
    assert color_str2rgb("#ff000080") == (255, 0, 0)
    with pytest.raises(TypeError, match="Invalid type for color: <class 'int'>"):
        color_val_matplotlib(3)
    with pytest.raises(ValueError, match="should be 0 to 255"):
        color_val_matplotlib((300, 0, 0))


def test_tensors_become_arrays():
    assert tensor2ndarray(torch.ones(2, requires_grad=True)).tolist() == [1, 1]
    array = np.ones(2)
    assert tensor2ndarray(array) is array


def test_heat_maps_need_two_axes():
    assert convert_overlay_heatmap(np.zeros((1, 3, 4))).shape == (3, 4, 3)
    with pytest.raises(ValueError, match=r"should be \(H, W\) or \(1, H, W\), but got \(2, 3, 4\)"):
        convert_overlay_heatmap(np.zeros((2, 3, 4)))


def test_waiting_ends_with_the_key_the_time_or_the_window():
    from matplotlib.backend_bases import CloseEvent, FigureCanvasBase, KeyEvent
    from matplotlib.figure import Figure

    class Canvas(FigureCanvasBase):
        events = ()

        def start_event_loop(self, timeout=0):
            for event in self.events:
                self.callbacks.process(event.name, event)

        def stop_event_loop(self):
            self.stopped = True

    canvas = Canvas(Figure())
    assert wait_continue(canvas.figure) == 0  # no window
    canvas.manager = object()
    assert wait_continue(canvas.figure, timeout=0.01) == 0
    canvas.events = [KeyEvent("key_press_event", canvas, key=" ")]
    assert wait_continue(canvas.figure) == 0
    assert canvas.stopped
    canvas.events = [CloseEvent("close_event", canvas)]
    assert wait_continue(canvas.figure) == 1


def test_heat_maps_have_the_colours_of_opencv():
    ramp = convert_overlay_heatmap(np.arange(256, dtype=np.float32).reshape(16, 16)).reshape(-1, 3)
    expected = {0: [0, 0, 128], 33: [0, 4, 255], 96: [2, 255, 254], 159: [254, 255, 1]}
    assert expected == {level: ramp[level].tolist() for level in expected}
    # Fractions of a level are cut off.
    assert convert_overlay_heatmap(np.array([[0, 0.999, 255]]))[0, 1].tolist() == [0, 0, 128]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: check_type_and_length("x", [1], list, 2),
        lambda: color_val_matplotlib((0, 0, 300)),
        lambda: convert_overlay_heatmap(np.zeros((2, 2, 2, 2))),
        lambda: Visualizer(image=np.zeros((9, 9, 3))).draw_bboxes(np.array([1, 1, 2])),
        lambda: Visualizer.draw_featmap(np.zeros((2, 3, 4))),
        lambda: LocalVisBackend("d", scalar_save_file="a.yaml"),
        lambda: LocalVisBackend("d", config_save_file="a.txt"),
    ],
)
def test_wrong_arguments_are_failed_assertions_to_old_code(wrong):
    with pytest.raises(AssertionError):
        wrong()
