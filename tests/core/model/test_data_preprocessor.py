"""Moving, normalising, padding and stacking batches. Values: see tests/contract/model."""

from __future__ import annotations

from collections import OrderedDict, UserDict, defaultdict, namedtuple
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from mmx.model import BaseDataPreprocessor, BaseModel, ImgDataPreprocessor, stack_batch
from mmx.registry import MODELS
from mmx.structures import BaseDataElement

Pair = namedtuple("Pair", "first second")


def on_meta(data):
    return BaseDataPreprocessor().to("meta").cast_data(data)


def test_tensors_within_containers_are_moved_and_the_containers_keep_their_types():
    x = torch.ones(1)
    data = {
        "list": [x, "text"],
        "tuple": (x, 1),
        "named": Pair(x, None),
        "ordered": OrderedDict(a=x),
        "default": defaultdict(list, a=x),
        "user": UserDict(a=x),
    }
    moved = on_meta(data)
    assert moved["list"][0].is_meta
    assert moved["tuple"][0].is_meta
    assert moved["named"].first.is_meta
    assert {key: type(value) for key, value in data.items()} == {
        key: type(value) for key, value in moved.items()
    }
    assert all(moved[key]["a"].is_meta for key in ("ordered", "default", "user"))
    assert moved["default"].default_factory is list
    assert data["list"][0] is x


def test_data_elements_and_packed_sequences_move_by_their_own_method():
    element = BaseDataElement(a=torch.ones(1))
    assert on_meta(element).a.is_meta
    packed = pack_sequence([torch.ones(2), torch.ones(1)])
    moved = on_meta(packed)
    assert moved.data.is_meta
    assert moved.batch_sizes.device.type == "cpu"


class Asked(torch.Tensor):
    """Writes down whether a move is to be waited for, and moves nowhere."""

    def to(self, device, non_blocking=False):
        return device.type, non_blocking


@pytest.mark.parametrize(
    ("non_blocking", "device", "expected"),
    [
        (False, "cuda", False),
        (True, "cuda", True),
        (None, "cuda", True),
        (None, "npu", True),
        (None, "mps", False),
        (True, "mps", True),
    ],
)
def test_copies_are_waited_for_as_told_or_where_that_is_needed(non_blocking, device, expected):
    preprocessor = BaseDataPreprocessor(non_blocking)
    preprocessor._device = SimpleNamespace(type=device)
    assert (device, expected) == preprocessor(torch.zeros(1).as_subclass(Asked))


def test_copies_to_the_cpu_are_waited_for():
    preprocessor = BaseDataPreprocessor(None)
    batch = torch.zeros(1, device="meta").as_subclass(Asked)
    assert ("cpu", False) == preprocessor({"x": batch})["x"]


def test_a_model_without_a_preprocessor_of_its_own_does_not_wait():
    class Net(BaseModel):
        def forward(self, x, mode="tensor"):
            return x

    assert Net().data_preprocessor._non_blocking is None
    assert Net({"type": "BaseDataPreprocessor"}).data_preprocessor._non_blocking is False


def test_everything_else_is_returned_as_it_is():
    for value in ("text", b"bytes", None, 1, 1.5, np.ones(1), {1, 2}, range(3), object()):
        assert on_meta(value) is value


def test_tensors_that_are_there_already_are_not_copied():
    x = torch.ones(1)
    assert BaseDataPreprocessor().cast_data({"x": [x]})["x"][0] is x


def test_the_batch_itself_is_not_changed():
    data = {"inputs": [torch.zeros(3, 2, 2)]}
    out = ImgDataPreprocessor()(data)
    assert list(data) == ["inputs"]
    assert isinstance(data["inputs"], list)
    assert out["data_samples"] is None


def test_images_given_are_not_changed_by_normalising():
    image = torch.full((3, 2, 2), 4.0)
    batch = torch.full((1, 3, 2, 2), 4.0)
    preprocessor = ImgDataPreprocessor(mean=[1.0], std=[3.0])
    assert preprocessor({"inputs": [image]})["inputs"].eq(1).all()
    assert preprocessor({"inputs": batch})["inputs"].eq(1).all()
    assert image.eq(4).all()
    assert batch.eq(4).all()


def test_equal_and_unequal_images_are_normalised_alike():
    torch.manual_seed(0)
    images = [torch.randint(0, 256, (3, 4, 5), dtype=torch.uint8) for _ in range(2)]
    preprocessor = ImgDataPreprocessor([1, 2, 3], [4, 5, 6], 4, 9, bgr_to_rgb=True)
    together = preprocessor({"inputs": images})["inputs"]
    mixed = preprocessor({"inputs": [*images, torch.zeros(3, 8, 8, dtype=torch.uint8)]})["inputs"]
    assert together.shape == (2, 3, 4, 8)
    assert torch.equal(together[..., :4, :5], mixed[:2, :, :4, :5])
    assert together[..., 5:].eq(9).all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float16, torch.float64])
@pytest.mark.parametrize("mean", [[1.3], [1.3, 2.7, 0.1], None])
def test_images_of_every_type_are_normalised_in_float32(dtype, mean):
    torch.manual_seed(0)
    images = [(torch.rand(3, size, 4) * 255).to(dtype) for size in (3, 3, 5)]
    preprocessor = ImgDataPreprocessor(mean, mean, pad_value=0.5)
    expected = [image.float() for image in images]
    if mean is not None:
        values = torch.tensor(mean).view(-1, 1, 1)
        expected = [(image - values) / values for image in expected]
    for chosen in ([0, 1], [0, 2]):
        out = preprocessor({"inputs": [images[i] for i in chosen]})["inputs"]
        wanted = stack_batch([expected[i] for i in chosen], 1, 0.5)
        assert out.dtype == torch.float32
        assert torch.equal(wanted, out)
    batch = preprocessor({"inputs": torch.stack(images[:2])})["inputs"]
    assert torch.equal(torch.stack(expected[:2]), batch)


def test_normalisation_lets_gradients_through():
    image = torch.ones(3, 2, 2, requires_grad=True)
    ImgDataPreprocessor([0, 0, 0], [2, 2, 2])({"inputs": [image]})["inputs"].sum().backward()
    assert image.grad.eq(0.5).all()


def test_channels_of_videos_are_swapped_along_their_own_axis():
    video = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 5, 2, 2)
    out = ImgDataPreprocessor(bgr_to_rgb=True)({"inputs": [video]})["inputs"]
    assert out[0, :, 0, 0, 0].tolist() == [2, 1, 0]


def test_statistics_move_but_are_not_saved():
    preprocessor = ImgDataPreprocessor([1, 2, 3], [1, 1, 1])
    assert preprocessor.state_dict() == {}
    assert preprocessor.to("meta").mean.is_meta


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(mean=[0]), "mean and std should be both None or both given"),
        (dict(mean=[0, 0], std=[1, 1]), "`mean` should have 1 or 3 values"),
        (dict(mean=[0], std=[1, 1]), "`std` should have 1 or 3 values"),
        (dict(bgr_to_rgb=True, rgb_to_bgr=True), "cannot be set to True at the same time"),
    ],
)
def test_wrong_arguments_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        ImgDataPreprocessor(**options)


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ("x", TypeError, "Output of `cast_data` should be a dict of list/tuple"),
        (torch.zeros(3, 2, 2), ValueError, "should be a NCHW tensor or a list of tensor"),
        ([torch.zeros(1, 2, 2)], ValueError, r"should in shape of \(3, H, W\).*\(1, 2, 2\)"),
        ([], ValueError, "`tensor_list` could not be an empty list"),
    ],
)
def test_wrong_images_are_errors(inputs, error, message):
    with pytest.raises(error, match=message):
        ImgDataPreprocessor([0, 0, 0], [1, 1, 1])({"inputs": inputs})


def test_grey_images_have_no_channels_to_swap():
    with pytest.raises(ValueError, match="swap the first and third channel, but got images with 1"):
        ImgDataPreprocessor(rgb_to_bgr=True)({"inputs": [torch.zeros(1, 2, 2)]})


def test_a_batch_without_inputs_is_an_error():
    for data in ([torch.ones(1)], {"img": 1}):
        with pytest.raises(TypeError, match="expects a dict with the key 'inputs'"):
            ImgDataPreprocessor()(data)


@pytest.mark.parametrize(
    ("tensors", "error", "message"),
    [
        (torch.ones(1), TypeError, "Expected input type to be list"),
        ([], ValueError, "could not be an empty list"),
        (
            [torch.ones(1), torch.ones(1, 1)],
            ValueError,
            "dimensions of all tensors must be the same",
        ),
    ],
)
def test_stacking_checks_what_it_gets(tensors, error, message):
    with pytest.raises(error, match=message):
        stack_batch(tensors)


# Batch augmentation ---------------------------------------------------------------------------

KINDS = ["MixUpDataPreprocessor", "CutMixDataPreprocessor"]


def batch(count=6, size=16):
    """Images each of whose pixels is the image's class, so that shares can be read off."""
    labels = torch.arange(count)
    return labels.view(-1, 1, 1, 1).float().expand(-1, 3, size, size).contiguous(), labels


@pytest.mark.parametrize("kind", KINDS)
def test_labels_have_the_shares_that_images_have(kind, isolated):
    torch.manual_seed(0)
    np.random.seed(0)
    preprocessor = MODELS.build(dict(type=kind, num_classes=6))
    for _ in range(30):
        imgs, labels = batch()
        mixed, scores = preprocessor((imgs, labels), training=True)
        assert scores.sum(1).allclose(torch.ones(6))
        expected = (scores * torch.arange(6)).sum(1)
        assert expected.allclose(mixed.mean((1, 2, 3)), atol=1e-5)
        assert imgs.equal(batch()[0])


def test_the_pasted_box_has_about_the_share_that_was_drawn(isolated):
    torch.manual_seed(0)
    np.random.seed(0)
    preprocessor = MODELS.build(dict(type="CutMixDataPreprocessor", num_classes=6))
    imgs, _ = batch(size=64)
    index = torch.tensor([1, 2, 3, 4, 5, 0])
    for lam in (0.0, 0.3, 0.9, 1.0):
        mixed, kept = preprocessor.mix(imgs, index, lam)
        assert kept >= lam - 1e-9
        changed = (mixed != imgs).float().mean((1, 2, 3))
        assert changed.allclose(torch.full((6,), 1 - kept), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_mixed_outside_of_training(kind):
    preprocessor = MODELS.build(dict(type=kind, num_classes=6))
    imgs, labels = batch()
    out = preprocessor([imgs, labels], training=False)
    assert out[0] is imgs
    assert out[1] is labels


def test_dicts_and_other_preprocessors_work_together(isolated):
    preprocessor = MODELS.build(
        dict(
            type="MixUpDataPreprocessor",
            num_classes=6,
            labels_key="data_samples",
            data_preprocessor=dict(type="ImgDataPreprocessor", mean=[1.0], std=[2.0]),
        )
    )
    data = {
        "inputs": [torch.ones(3, 4, 4, dtype=torch.uint8)] * 2,
        "data_samples": [torch.tensor(1), torch.tensor(4)],
    }
    out = preprocessor(data, True)
    assert out["inputs"].shape == (2, 3, 4, 4)
    assert out["data_samples"].shape == (2, 6)
    assert preprocessor.to("meta").data_preprocessor.device.type == "meta"


def test_without_chance_labels_are_probabilities_all_the_same():
    preprocessor = MODELS.build(dict(type="MixUpDataPreprocessor", num_classes=6, prob=0.0))
    imgs, labels = batch()
    out = preprocessor((imgs, labels, "name"), True)
    assert torch.equal(imgs, out[0])
    assert torch.equal(labels, out[1].argmax(1))
    assert out[2] == "name"


def test_mixing_is_reproducible(isolated):
    preprocessor = MODELS.build(dict(type="MixUpDataPreprocessor", num_classes=6))

    def run():
        torch.manual_seed(3)
        np.random.seed(3)
        return preprocessor(batch(), True)[0]

    assert torch.equal(run(), run())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(num_classes=1), "num_classes should be at least 2"),
        (dict(num_classes=2, alpha=0), "alpha should be positive, but got 0"),
        (dict(num_classes=2, prob=2), "prob should be between 0 and 1"),
    ],
)
def test_wrong_arguments_of_mixing_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        MODELS.get("MixUpDataPreprocessor")(**options)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ("x", TypeError, "mixes batches that are a dict, or a tuple or list"),
        ({"inputs": 1}, KeyError, "needs 'labels' in the batch"),
        (([torch.ones(3, 2, 2)], torch.ones(1).long()), ValueError, r"one tensor \(N, C"),
        ((torch.ones(2, 3, 2, 2), torch.ones(1).long()), ValueError, "2 images but 1 labels"),
        ((torch.ones(1, 3, 2, 2), torch.ones(1)), ValueError, r"classes \(N,\) or probabilities"),
        ((torch.ones(1, 3, 2), torch.ones(1).long()), ValueError, r"images \(N, C, H, W\)"),
    ],
)
def test_batches_that_cannot_be_mixed_are_errors(data, error, message):
    with pytest.raises(error, match=message):
        MODELS.build(dict(type="CutMixDataPreprocessor", num_classes=2))(data, True)


@pytest.mark.parametrize("as_list", [True, False])
@pytest.mark.parametrize(
    "options", [{}, {"mean": [1, 2, 3], "std": [1, 1, 1], "bgr_to_rgb": True, "pad_value": 3}]
)
def test_nothing_is_read_from_the_device_to_prepare_images(as_list, options, isolated):
    # To read a value of torch's device without memory is an error.
    images = ImgDataPreprocessor(**options, pad_size_divisor=8).to("meta")
    batch = [torch.zeros(3, 9, 12), torch.zeros(3, 10, 7)] if as_list else torch.zeros(2, 3, 9, 7)
    prepared = images({"inputs": batch, "labels": torch.zeros(2, dtype=torch.long)})
    assert (2, 3, 16, 16 if as_list else 8) == prepared["inputs"].shape
    for kind in KINDS:
        mixing = MODELS.build({"type": kind, "num_classes": 5}).to("meta")
        mixed = mixing(prepared, training=True)
        assert mixed["inputs"].is_meta
        assert (2, 5) == mixed["labels"].shape
