"""Drawing, showing, and what the visualizer does with its back ends."""

import logging
import warnings

import numpy as np
import pytest
import torch

from mmx.logging import MMLogger
from mmx.registry import VISBACKENDS, VISUALIZERS
from mmx.visualization import BaseVisBackend, LocalVisBackend, Visualizer
from mmx.visualization.vis_backend import MissingExtraError, force_init_env

pytestmark = pytest.mark.usefixtures("isolated")

HEIGHT, WIDTH = 40, 60


@pytest.fixture
def visualizer():
    return Visualizer(image=np.zeros((HEIGHT, WIDTH, 3), np.uint8))


class Recorder(BaseVisBackend):
    """Keeps what it is told."""

    def __init__(self, save_dir=None, resumable=False, fails=()):
        super().__init__(save_dir)
        self.calls, self.resumable, self.fails = [], resumable, fails
        self.resumed = None

    def _init_env(self):
        if "_init_env" in self.fails:
            raise ConnectionError("no server")
        if "extra" in self.fails:
            raise MissingExtraError("tracker", "tracker", "Recorder")
        self.calls.append(("init", self.resumed))

    @property
    @force_init_env
    def experiment(self):
        return self

    @force_init_env
    def _take(self, name, *args, **kwargs):
        if name in self.fails:
            raise RuntimeError(f"{name} is broken")
        self.calls.append((name, *args))

    def add_config(self, config, **kwargs):
        self._take("add_config", config)

    def add_graph(self, model, data_batch, **kwargs):
        self._take("add_graph", model)

    def add_image(self, name, image, step=0, **kwargs):
        self._take("add_image", name, step)

    def add_scalar(self, name, value, step=0, **kwargs):
        self._take("add_scalar", name, value, step)

    def add_scalars(self, scalar_dict, step=0, file_path=None, **kwargs):
        self._take("add_scalars", dict(scalar_dict), step, file_path)

    def close(self):
        self._take("close")

    def state_dict(self):
        return {"run_id": 7}

    def load_state_dict(self, state):
        self.resumed = state["run_id"]

    def resume_at(self, step):
        self.calls.append(("resume_at", step))


# Drawing ---------------------------------------------------------------------------------------


def test_without_drawing_the_image_comes_back():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    assert np.array_equal(Visualizer(image=image).get_image(), image)


@pytest.mark.parametrize("as_array", [np.array, torch.tensor])
@pytest.mark.parametrize(
    ("method", "arguments", "pixel"),
    [
        ("draw_bboxes", ([5, 5, 30, 20],), (5, 12)),
        ("draw_bboxes", ([[5, 5, 30, 20], [1, 1, 10, 10]],), (1, 5)),
        ("draw_lines", ([5, 30], [10, 10]), (15, 10)),
        ("draw_lines", ([[5, 30], [1, 9]], [[10, 10], [3, 3]]), (15, 10)),
        ("draw_circles", ([20, 20], [8]), (12, 20)),
        ("draw_circles", ([[20, 20], [40, 20]], [8, 5]), (35, 20)),
        ("draw_polygons", ([[5, 5], [40, 5], [20, 30]],), (20, 5)),
        ("draw_points", ([20, 20],), (20, 20)),
        ("draw_points", ([[20, 20], [3, 3]],), (3, 3)),
    ],
)
def test_shapes_appear_where_they_belong(visualizer, as_array, method, arguments, pixel):
    drawn = getattr(visualizer, method)(*(as_array(a) for a in arguments))
    assert drawn is visualizer
    image = visualizer.get_image()
    assert (image.shape, image.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
    x, y = pixel
    assert image[y, x, 1] > 60  # green
    assert image[y, x, 0] < image[y, x, 1]
    assert image[35, 55].sum() == 0


@pytest.mark.parametrize("positions", [np.array([20, 20]), torch.tensor([[20, 20]])])
def test_texts_appear(visualizer, positions):
    visualizer.draw_texts("x", positions, font_sizes=20, colors=(255, 0, 0))
    image = visualizer.get_image()
    assert image[..., 0].max() > 200
    assert image[..., 1].max() < 100
    assert image[:15].sum() == 0


def test_styles_may_differ_by_shape(visualizer):
    boxes = np.array([[2, 2, 12, 12], [30, 2, 50, 30]])
    visualizer.draw_bboxes(
        boxes, edge_colors=["r", (0, 0, 255)], line_widths=[1, 3], line_styles=["-", "--"],
        face_colors=["none", "g"], alpha=1,
    )  # fmt: skip
    image = visualizer.get_image()
    assert image[7, 2].argmax() == 0
    assert image[15, 40].argmax() == 1
    assert image[7, 7].sum() == 0


def test_calls_can_be_chained(visualizer):
    image = (
        visualizer.draw_bboxes(torch.tensor([1, 1, 20, 20]))
        .draw_texts(["a", "b"], torch.tensor([[3, 3], [9, 9]]), font_sizes=[8, 9])
        .draw_circles(torch.tensor([10, 10]), torch.tensor([3]))
        .draw_lines(torch.tensor([1, 5]), torch.tensor([1, 9]))
        .draw_polygons([np.array([[1, 1], [9, 9], [3, 8]]), torch.tensor([[1, 1], [9, 9], [3, 8]])])
        .draw_points(torch.tensor([5, 5]), sizes=np.array([9]), marker="x")
        .draw_binary_masks(np.ones((HEIGHT, WIDTH), bool))
        .get_image()
    )
    assert image.mean() > 0


def test_masks_colour_their_pixels(visualizer):
    masks = np.zeros((2, HEIGHT, WIDTH), bool)
    masks[0, :10, :10] = masks[1, 20:30, 20:30] = True
    visualizer.draw_binary_masks(
        torch.from_numpy(masks), colors=["r", (0, 0, 255)], alphas=[1, 0.5]
    )
    image = visualizer.get_image()
    assert image[5, 5].tolist() == [255, 0, 0]
    assert image[25, 25].tolist() == [0, 0, 128]
    assert image[15, 15].tolist() == [0, 0, 0]


def test_no_shapes_draw_nothing(visualizer):
    visualizer.draw_bboxes(torch.zeros(0, 4)).draw_polygons([])
    assert visualizer.get_image().sum() == 0


WRONG = [
    ("draw_bboxes", ([1, 1, 2, 2],), TypeError, "`bboxes` should be"),
    ("draw_bboxes", (torch.tensor([1, 1, 2]),), ValueError, r"should be \(N, 4\), but got \(1, 3\)"),
    ("draw_bboxes", (torch.tensor([5, 1, 2, 2]),), ValueError, "with x1 <= x2 and y1 <= y2"),
    ("draw_texts", (3, torch.tensor([5, 5])), TypeError, "`texts` should be"),
    ("draw_texts", ("a", [5, 5]), TypeError, "`positions` should be"),
    ("draw_texts", (["a", "b"], torch.tensor([[5, 5]])), ValueError, r"shape of \(2, 2\), but got \(1, 2\)"),
    ("draw_lines", ([1, 5], [2, 6]), TypeError, "`x_datas` should be"),
    ("draw_lines", (torch.tensor([1, 5, 2]), torch.tensor([2, 6])), ValueError, "should have the same shape"),
    ("draw_lines", (torch.tensor([1, 5, 2]), torch.tensor([2, 6, 2])), ValueError, r"should be \(N, 2\)"),
    ("draw_circles", ([1, 5], torch.tensor([1])), TypeError, "`center` should be"),
    ("draw_circles", (torch.tensor([[1, 5], [2, 6]]), torch.tensor([1])), ValueError, r"\(radius.shape, 2\)"),
    ("draw_polygons", (3,), TypeError, "`polygons` should be"),
    ("draw_polygons", (torch.tensor([1, 1]),), ValueError, r"should be \(M, 2\), but got \(2,\)"),
    ("draw_points", ([1, 2],), TypeError, "`positions` should be"),
    ("draw_points", (torch.tensor([1, 2, 3]),), ValueError, r"should be \(N, 2\), but got \(1, 3\)"),
    ("draw_binary_masks", (np.ones((40, 60)),), ValueError, "should be np.bool_, but got float64"),
    ("draw_binary_masks", (np.ones((4, 6), bool),), ValueError, "must have the same shape with image"),
    ("draw_binary_masks", ([1],), TypeError, "`binary_masks` should be"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "arguments", "error", "message"), WRONG)
def test_wrong_shapes_are_explained(visualizer, method, arguments, error, message):
    with pytest.raises(error, match=message):
        getattr(visualizer, method)(*arguments)


def test_lists_of_styles_must_be_long_enough(visualizer):
    with pytest.raises(ValueError, match="length of colors must equal with or greater than 2"):
        visualizer.draw_texts(["a", "b"], torch.tensor([[5, 5], [6, 6]]), colors=["r"])
    with pytest.raises(ValueError, match="a mask's color should be 3 numbers"):
        visualizer.draw_binary_masks(np.ones((HEIGHT, WIDTH), bool), colors=(300, 0, 0))


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("draw_bboxes", (torch.tensor([-1, 1, 2, 2]),)),
        ("draw_texts", ("a", torch.tensor([500, 5]))),
        ("draw_lines", (torch.tensor([1, 500]), torch.tensor([2, 6]))),
        ("draw_circles", (torch.tensor([500, 5]), torch.tensor([1]))),
        ("draw_polygons", (torch.tensor([[1, 1], [2, 2], [300, 4]]),)),
    ],
)
def test_what_lies_outside_is_warned_about(visualizer, method, arguments):
    with pytest.warns(UserWarning, match="is out of bounds"):
        getattr(visualizer, method)(*arguments)


def test_drawing_needs_an_image():
    visualizer = Visualizer()
    for call in (visualizer.get_image, lambda: visualizer.draw_points(np.array([1, 1]))):
        with pytest.raises(ValueError, match="please set image using `set_image`"):
            call()
    with pytest.raises(TypeError, match="should be a NumPy array, but got NoneType"):
        visualizer.set_image(None)
    with pytest.raises(ValueError, match=r"should be \(H, W\) or \(H, W, 3\)"):
        visualizer.set_image(np.zeros(3))


def test_a_new_image_forgets_what_was_drawn(visualizer):
    visualizer.draw_bboxes(np.array([1, 1, 9, 9]))
    visualizer.set_image(np.full((20, 30), 7.0))
    assert (visualizer.width, visualizer.height) == (30, 20)
    assert np.unique(visualizer.get_image()).tolist() == [7]


# Feature maps ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (8, 10)),
        (dict(channel_reduction="select_max"), (8, 10)),
        (dict(channel_reduction=None, topk=4, arrangement=(2, 2)), (16, 20)),
        (dict(channel_reduction=None), (32, 50)),
        (dict(channel_reduction=None, topk=4, arrangement=(2, 2), resize_shape=(16, 20)), (32, 40)),
        (dict(resize_shape=(16, 20)), (16, 20)),
        (dict(overlaid_image=np.zeros((8, 10, 3), np.uint8)), (8, 10)),
        (dict(overlaid_image=np.zeros((8, 10), np.uint8)), (8, 10)),
        (dict(overlaid_image=np.zeros((8, 10, 1), np.uint8)), (8, 10)),
        (dict(overlaid_image=np.zeros((16, 20, 3), np.uint8), resize_shape=(32, 40)), (32, 40)),
    ],
)
def test_feature_maps_become_pictures(options, shape):
    picture = Visualizer.draw_featmap(torch.rand(6, 8, 10), **options)
    assert (picture.shape, picture.dtype) == ((*shape, 3), np.uint8)


def test_the_smallest_value_is_blue_and_the_largest_red():
    featmap = torch.arange(480.0).reshape(6, 8, 10)
    picture = Visualizer.draw_featmap(featmap)
    assert picture[0, 0].tolist() == [0, 0, 128]
    assert picture[-1, -1].tolist() == [128, 0, 0]
    on_white = Visualizer.draw_featmap(featmap, np.full((8, 10, 3), 255, np.uint8), alpha=0.25)
    assert on_white[0, 0].tolist() == [191, 191, 223]
    assert len(np.unique(Visualizer.draw_featmap(torch.ones(2, 4, 4)).reshape(-1, 3), axis=0)) == 1


def test_select_max_shows_the_strongest_channel():
    featmap = torch.zeros(3, 4, 4)
    featmap[1, 0, 0] = 5
    featmap[2] = torch.eye(4) * 3
    picture = Visualizer.draw_featmap(featmap, channel_reduction="select_max")
    assert np.array_equal(picture, Visualizer.draw_featmap(featmap[2:]))


def test_maps_of_one_or_three_channels_are_images():
    for channels in (1, 3):
        featmap = torch.rand(channels, 8, 10)
        picture = Visualizer.draw_featmap(featmap, channel_reduction=None, topk=-1)
        assert picture.shape == (8, 10, 3)
    image = np.zeros((8, 10, 3), np.uint8)
    over = Visualizer.draw_featmap(featmap, image, channel_reduction=None, topk=0, alpha=0.5)
    assert np.abs(over.astype(int) * 2 - picture).max() <= 1


def test_a_map_is_stretched_to_its_image():
    with pytest.warns(UserWarning, match="the feature map will be interpolated"):
        picture = Visualizer.draw_featmap(torch.rand(2, 4, 5), np.zeros((8, 10, 3), np.uint8))
    assert picture.shape == (8, 10, 3)


@pytest.mark.parametrize(
    ("featmap", "options", "error", "message"),
    [
        (np.ones((2, 3, 4)), {}, TypeError, "`featmap` should be torch.Tensor"),
        (torch.ones(1, 2, 3, 4), {}, ValueError, "Input dimension must be 3, but got 4"),
        (torch.ones(2, 3, 4), dict(channel_reduction="x"), ValueError, "but got x"),
        (
            torch.ones(2, 3, 4),
            dict(channel_reduction=None, topk=4, arrangement=(1, 2)),
            ValueError,
            "less than topk.* 1 x 2 < 4",
        ),
        (
            torch.ones(2, 3, 4),
            dict(channel_reduction=None, topk=-1),
            ValueError,
            "must be 1 or 3 when topk is less than 1",
        ),
    ],
)
def test_wrong_feature_maps_are_explained(featmap, options, error, message):
    with pytest.raises(error, match=message):
        Visualizer.draw_featmap(featmap, **options)


# Showing ---------------------------------------------------------------------------------------


def test_without_a_screen_pictures_go_to_files(tmp_path, capsys):
    MMLogger.get_instance("test_show")
    visualizer = Visualizer(image=np.zeros((8, 9, 3), np.uint8), save_dir=str(tmp_path))
    first = visualizer.show(win_name="my window")
    second = visualizer.show(drawn_img=np.ones((3, 4, 3), np.uint8), win_name="my window")
    assert first == str(tmp_path / "shown" / "my_window_0.png")
    assert second.endswith("my_window_1.png")
    assert first in capsys.readouterr().out
    from PIL import Image

    assert np.asarray(Image.open(first)).shape == (8, 9, 3)


def test_unknown_ways_to_show_are_refused(visualizer):
    with pytest.raises(ValueError, match='"matplotlib" or "cv2", but got foo instead'):
        visualizer.show(backend="foo")


def test_closing_twice_is_fine(visualizer):
    visualizer.draw_points(np.array([1, 1]))
    visualizer.close()
    visualizer.close()
    visualizer.set_image(np.zeros((4, 4, 3), np.uint8))
    assert visualizer.get_image().shape == (4, 4, 3)


# Back ends -------------------------------------------------------------------------------------


def test_backends_are_built_and_found_by_name(tmp_path):
    visualizer = Visualizer(
        vis_backends=[dict(type="LocalVisBackend", name="a"), dict(type="LocalVisBackend")],
        save_dir=str(tmp_path),
    )
    a = visualizer.get_backend("a")
    assert isinstance(a, LocalVisBackend)
    assert isinstance(visualizer.get_backend("LocalVisBackend"), LocalVisBackend)
    assert visualizer.get_backend("b") is None
    assert a._save_dir == str(tmp_path / "vis_data")
    own = Visualizer(vis_backends=dict(type="LocalVisBackend", save_dir="x"))
    assert own.get_backend("LocalVisBackend")._save_dir == "x"


def test_backends_may_be_objects():
    recorder = Recorder()
    assert Visualizer(vis_backends=[recorder]).get_backend("Recorder") is recorder
    assert Visualizer(vis_backends=recorder).get_backend("Recorder") is recorder


def test_wrong_backends_are_refused(tmp_path):
    for wrong in ([3], "LocalVisBackend", 3):
        with pytest.raises(TypeError, match="must be a list of dicts or a list of BaseBackend"):
            Visualizer(vis_backends=wrong, save_dir=str(tmp_path))
    with pytest.raises(RuntimeError, match="vis_backend name LocalVisBackend already exists"):
        Visualizer(vis_backends=[dict(type="LocalVisBackend")] * 2, save_dir=str(tmp_path))


def test_a_backend_without_a_directory_is_left_out():
    with pytest.warns(UserWarning, match="Failed to add LocalVisBackend, please provide"):
        visualizer = Visualizer(vis_backends=[dict(type="LocalVisBackend")])
    assert visualizer.get_backend("LocalVisBackend") is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other = Visualizer(vis_backends=[dict(type="NeptuneVisBackend")])
    assert other.get_backend("NeptuneVisBackend") is not None


def test_everything_reaches_every_backend():
    first, second = Recorder(), Recorder()
    visualizer = Visualizer(vis_backends=[first])
    visualizer._vis_backends["second"] = second
    image = np.zeros((2, 2, 3), np.uint8)
    visualizer.add_config("cfg")
    visualizer.add_graph("model", None)
    visualizer.add_image("im", image, step=3)
    visualizer.add_scalar("a", 1, step=4)
    visualizer.add_scalars({"b": 2}, step=5, file_path="x.json")
    visualizer.add_datasample("sample", image)
    assert first.calls == second.calls
    assert first.calls == [
        ("init", None), ("add_config", "cfg"), ("add_graph", "model"), ("add_image", "im", 3),
        ("add_scalar", "a", 1, 4), ("add_scalars", {"b": 2}, 5, "x.json"),
    ]  # fmt: skip


def test_a_failing_backend_is_logged_once_and_hurts_nobody(caplog, capsys):
    MMLogger.get_instance("test_fail")
    broken, fine = Recorder(fails=("add_scalar",)), Recorder()
    visualizer = Visualizer(vis_backends=[broken])
    visualizer._vis_backends["fine"] = fine
    for step in range(3):
        visualizer.add_scalar("a", 1, step)
    visualizer.add_scalars({"b": 1})
    assert len(fine.calls) == 5
    assert broken.calls == [("init", None), ("add_scalars", {"b": 1}, 0, None)]
    out = capsys.readouterr().out
    assert out.count("add_scalar is broken") == 1
    assert "Recorder failed in add_scalar; the run goes on. RuntimeError" in out


def test_a_backend_that_cannot_start_is_left_out(capsys):
    MMLogger.get_instance("test_dead")
    dead = Recorder(fails=("_init_env",))
    attempts = []
    original = dead._init_env
    dead._init_env = lambda: (attempts.append(1), original())
    visualizer = Visualizer(vis_backends=[dead])
    for step in range(3):
        visualizer.add_scalar("a", 1, step)
    visualizer.close()
    assert len(attempts) == 1
    assert "left out from now on. ConnectionError: no server" in capsys.readouterr().out


def test_a_missing_library_is_an_error_before_training():
    visualizer = Visualizer(vis_backends=[Recorder(fails=("extra",))])
    with pytest.raises(ImportError, match=r"Recorder needs tracker; .* 'mmx\[tracker\]'"):
        visualizer.add_scalar("a", 1)


def test_images_are_checked_before_they_are_recorded(tmp_path):
    visualizer = Visualizer(vis_backends=[Recorder()])
    visualizer.add_image("a", np.zeros((2, 2, 3)))  # trackers take other types too
    files = Visualizer(vis_backends=[dict(type="LocalVisBackend", save_dir=str(tmp_path))])
    with pytest.raises(AssertionError, match="dtype uint8, but got float64"):
        files.add_image("a", np.zeros((2, 2, 3)))
    with pytest.raises(TypeError, match="NumPy array, but got list"):
        visualizer.add_image("a", [1])


def test_only_the_main_process_records(monkeypatch):
    monkeypatch.setattr("mmx.dist.utils.get_rank", lambda group=None: 1)
    recorder = Recorder()
    visualizer = Visualizer(vis_backends=[recorder])
    visualizer.add_config("cfg")
    visualizer.add_scalar("a", 1)
    visualizer.add_scalars({"a": 1})
    visualizer.add_image("a", np.zeros((2, 2, 3), np.uint8))
    visualizer.close()
    assert recorder.calls == []


def test_trackers_start_when_it_is_known_what_to_go_on_with():
    before = Visualizer(vis_backends=[Recorder(resumable=True)])
    tracker = Recorder(resumable=True)
    visualizer = Visualizer(vis_backends=[tracker])
    visualizer.add_config("cfg")
    assert tracker.calls == []
    visualizer.load_state_dict(before.state_dict(), step=40)
    visualizer.add_scalar("loss", 1.0, 41)
    assert tracker.calls == [
        ("resume_at", 40), ("init", 7), ("add_config", "cfg"), ("add_scalar", "loss", 1.0, 41),
    ]  # fmt: skip
    tracker.calls.clear()
    visualizer.close()
    assert tracker.calls == [("close",)]


def test_a_run_without_records_still_records_its_config():
    tracker = Recorder(resumable=True)
    visualizer = Visualizer(vis_backends=[tracker])
    visualizer.add_config("cfg")
    visualizer.close()
    assert [name for name, *_ in tracker.calls] == ["init", "add_config", "close"]


# Instances -------------------------------------------------------------------------------------


def test_an_instance_of_a_subclass_is_found_by_its_bases():
    class DetVisualizer(Visualizer):
        pass

    instance = DetVisualizer.get_instance("det")
    assert Visualizer.get_instance("det") is instance
    assert Visualizer.get_current_instance() is instance
    assert DetVisualizer.get_current_instance() is instance
    other = Visualizer.get_instance("plain")
    assert Visualizer.get_current_instance() is other
    with instance.as_current():
        assert Visualizer.get_current_instance() is instance
        assert DetVisualizer.get_current_instance() is instance
    assert Visualizer.get_current_instance() is other


def test_registries_build_visualizers_by_name(tmp_path):
    config = dict(type="Visualizer", name="built", save_dir=str(tmp_path))
    built = VISUALIZERS.build(config)
    assert Visualizer.get_instance("built") is built
    assert "LocalVisBackend" in VISBACKENDS


def test_what_is_known_of_the_data_set():
    visualizer = Visualizer()
    assert visualizer.dataset_meta is None
    visualizer.dataset_meta = {"classes": ("a",)}
    assert visualizer.dataset_meta == {"classes": ("a",)}
    assert logging.getLogger().handlers is not None


def test_drawing_is_not_imported_before_it_is_used():
    import subprocess
    import sys

    code = (
        "import sys; from mmx.visualization import Visualizer\n"
        "v = Visualizer(vis_backends=[dict(type='LocalVisBackend')], save_dir=sys.argv[1])\n"
        "v.add_scalars({'a': 1.0}, step=1); v.close()\n"
        "print([m for m in ('matplotlib', 'PIL', 'tensorboard') if m in sys.modules])"
    )
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        result = subprocess.run(
            [sys.executable, "-c", code, folder], capture_output=True, text=True
        )
    assert result.stdout == "[]\n", result.stderr
