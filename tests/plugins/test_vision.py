import collections
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmx.evaluator import Evaluator
from mmx.registry import DATASETS, METRICS, MODELS, TRANSFORMS

pytestmark = pytest.mark.usefixtures("isolated")


def transform(name: str, **options: object):  # type: ignore[no-untyped-def]  # any transform
    return TRANSFORMS.build(dict(type=f"mmx_vision.{name}", **options))


def digits(**options: object):  # type: ignore[no-untyped-def]  # a data set
    return DATASETS.build(dict(type="mmx_vision.Digits", **options))


class TestDigits:
    def test_the_split_is_fixed_and_stratified(self) -> None:
        train, val, everything = (digits(split=s) for s in ("train", "val", "all"))
        assert (len(train), len(val), len(everything)) == (1437, 360, 1797)
        images = {
            split: {d["img"].tobytes() for d in data} for split, data in (("t", train), ("v", val))
        }
        assert not images["t"] & images["v"]
        share = collections.Counter(d["gt_label"] for d in val)
        assert set(share.values()) <= {35, 36, 37}
        assert [d["gt_label"] for d in digits(split="val")] == [d["gt_label"] for d in val]

    def test_samples_are_grey_images(self) -> None:
        sample = digits(split="val")[0]
        assert sample["img"].shape == (8, 8, 1)
        assert sample["img"].dtype == np.uint8
        assert digits().metainfo["classes"] == tuple("0123456789")

    def test_a_wrong_split_is_named(self) -> None:
        with pytest.raises(ValueError, match="split must be 'train', 'val' or 'all', got 'valid'"):
            digits(split="valid")


class TestImageFolder:
    def test_folders_are_classes(self, tmp_path: Path) -> None:
        for name, value in (("cat", 10), ("ant", 200)):
            (tmp_path / name).mkdir()
            for index in range(2):
                Image.new("RGB", (5, 4), (value, 0, 0)).save(tmp_path / name / f"{index}.png")
        data = DATASETS.build(
            dict(
                type="mmx_vision.ImageFolder",
                root=str(tmp_path),
                pipeline=[dict(type="mmx_vision.LoadImage"), dict(type="mmx_vision.PackInputs")],
            )
        )
        assert data.metainfo["classes"] == ("ant", "cat")
        assert len(data) == 4
        assert data[0]["inputs"].shape == (3, 4, 5)
        assert data[0]["inputs"][0].unique().item() == 200
        assert [int(d["data_samples"]) for d in data] == [0, 0, 1, 1]

    def test_an_empty_root_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="has no folders"):
            DATASETS.build(dict(type="mmx_vision.ImageFolder", root=str(tmp_path)))


def picture(height: int = 6, width: int = 8, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def apply(name: str, img: np.ndarray, **options: object) -> np.ndarray:
    return transform(name, **options)({"img": img.copy()})["img"]


@pytest.mark.parametrize("channels", [1, 3])
class TestTransforms:
    def test_resize(self, channels: int) -> None:
        assert apply("Resize", picture(channels=channels), scale=(3, 5)).shape == (3, 5, channels)
        assert apply("Resize", picture(channels=channels), scale=12).shape == (12, 16, channels)

    def test_center_crop(self, channels: int) -> None:
        img = picture(channels=channels)
        assert np.array_equal(apply("CenterCrop", img, size=(2, 4)), img[2:4, 2:6])

    def test_random_crop_is_a_window_of_the_padded_image(self, channels: int) -> None:
        img = picture(channels=channels)
        padded = np.pad(img, ((1, 1), (1, 1), (0, 0)))
        seen = set()
        random.seed(0)
        for _ in range(200):
            crop = apply("RandomCrop", img, size=(6, 8), padding=1)
            places = [
                (t, left)
                for t in range(3)
                for left in range(3)
                if np.array_equal(padded[t : t + 6, left : left + 8], crop)
            ]
            assert places
            seen.update(places)
        assert len(seen) == 9

    def test_random_resized_crop(self, channels: int) -> None:
        assert apply("RandomResizedCrop", picture(channels=channels), size=4).shape == (
            4,
            4,
            channels,
        )

    def test_flip(self, channels: int) -> None:
        img = picture(channels=channels)
        assert np.array_equal(apply("RandomFlip", img, prob=1), img[:, ::-1])
        assert np.array_equal(apply("RandomFlip", img, prob=1, direction="vertical"), img[::-1])
        assert np.array_equal(apply("RandomFlip", img, prob=0), img)

    def test_affine_of_nothing_changes_nothing(self, channels: int) -> None:
        img = picture(channels=channels)
        assert np.array_equal(apply("RandomAffine", img), img)

    def test_affine_keeps_the_middle(self, channels: int) -> None:
        img = np.zeros((9, 9, channels), dtype=np.uint8)
        img[4, 4] = 255
        for _ in range(10):
            turned = apply("RandomAffine", img, degrees=180, shear=20)
            assert np.unravel_index(turned[..., 0].argmax(), (9, 9)) == (4, 4)

    def test_affine_shifts_by_whole_pixels_exactly(
        self, channels: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        img = picture(8, 8, channels)
        monkeypatch.setattr(random, "uniform", lambda low, high: high)
        moved = apply("RandomAffine", img, translate=1 / 8)
        assert np.array_equal(moved[1:, 1:], img[:-1, :-1])

    def test_erasing_blanks_a_rectangle(self, channels: int) -> None:
        img = np.full((10, 10, channels), 9, dtype=np.uint8)
        blank = apply("RandomErasing", img, prob=1, area=(0.1, 0.2))
        rows, columns, _ = np.nonzero(blank == 0)
        window = blank[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert (window == 0).all()
        assert 0 < (blank == 0).mean() < 0.35

    def test_jitter_keeps_shape_and_type(self, channels: int) -> None:
        img = apply(
            "ColorJitter", picture(channels=channels), brightness=0.5, contrast=0.5, saturation=0.5
        )
        assert img.shape == (6, 8, channels)
        assert img.dtype == np.uint8

    def test_the_random_state_decides(self, channels: int) -> None:
        results = []
        for _ in range(2):
            random.seed(5)
            results.append(
                apply("RandomAffine", picture(channels=channels), degrees=30, translate=0.2)
            )
        assert np.array_equal(*results)


def test_a_crop_larger_than_the_image_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"cannot cut \(9, 9\) pixels out of an image of \(6, 8\)"):
        apply("CenterCrop", picture(), size=9)


class TestResNet:
    @pytest.mark.parametrize(
        ("depth", "parameters"),
        # The published sizes, less the 1000-class layer: He et al., and torchvision's tables.
        [
            (18, 11_176_512),
            (34, 21_284_672),
            (50, 23_508_032),
            (101, 42_500_160),
            (152, 58_143_808),
        ],
    )
    def test_the_family_has_the_published_sizes(self, depth: int, parameters: int) -> None:
        with torch.device("meta"):
            net = MODELS.build(dict(type="mmx_vision.ResNet", depth=depth))
        assert sum(p.numel() for p in net.parameters()) == parameters

    def test_resolutions_and_channels(self) -> None:
        net = MODELS.build(dict(type="mmx_vision.ResNet", depth=18, out_indices=(0, 1, 2, 3)))
        shapes = [tuple(f.shape) for f in net(torch.zeros(1, 3, 64, 64))]
        assert shapes == [(1, 64, 16, 16), (1, 128, 8, 8), (1, 256, 4, 4), (1, 512, 2, 2)]

    def test_a_wrong_depth_is_named(self) -> None:
        with pytest.raises(
            ValueError, match="depth must be one of 18, 34, 50, 101, 152, or a list"
        ):
            MODELS.build(dict(type="mmx_vision.ResNet", depth=20))


def classifier(**options: object):  # type: ignore[no-untyped-def]  # a model
    return MODELS.build(
        dict(
            type="mmx_vision.ImageClassifier",
            backbone=dict(
                type="mmx_vision.ResNet", depth=[1], in_channels=1, base_channels=4, stem="small"
            ),
            head=dict(type="mmx_vision.LinearHead", in_channels=4, num_classes=3),
            **options,
        )
    )


def test_the_classifier_has_three_modes() -> None:
    model = classifier()
    imgs, labels = torch.randn(2, 1, 8, 8), torch.tensor([0, 2])
    assert model(imgs).shape == (2, 3)
    assert model(imgs, labels, mode="loss")["loss"].shape == ()
    scores, same = model(imgs, labels, mode="predict")
    assert torch.allclose(scores.sum(dim=1), torch.ones(2))
    assert same is labels
    with pytest.raises(ValueError, match="mode must be"):
        model(imgs, labels, mode="train")


class TestMetrics:
    def evaluate(
        self, config: dict, scores: torch.Tensor, labels: torch.Tensor, batch: int = 7
    ) -> dict:
        metric = METRICS.build(config)
        evaluator = Evaluator(metric)
        for start in range(0, len(labels), batch):
            evaluator.process(
                data_samples=(scores[start : start + batch], labels[start : start + batch])
            )
        return evaluator.evaluate(len(labels))

    def test_accuracy_agrees_with_scikit_learn(self) -> None:
        from sklearn.metrics import top_k_accuracy_score

        generator = torch.Generator().manual_seed(0)
        scores, labels = (
            torch.rand(100, 5, generator=generator),
            torch.randint(0, 5, (100,), generator=generator),
        )
        result = self.evaluate(dict(type="mmx_vision.TopKAccuracy", topk=(1, 3)), scores, labels)
        for k in (1, 3):
            expected = 100 * top_k_accuracy_score(labels, scores, k=k, labels=range(5))
            assert result[f"accuracy/top{k}"] == pytest.approx(expected)

    def test_scores_that_are_not_numbers_are_wrong_answers(self) -> None:
        scores = torch.full((4, 3), torch.nan)
        result = self.evaluate(
            dict(type="mmx_vision.TopKAccuracy"), scores, torch.zeros(4, dtype=torch.long)
        )
        assert result == {"accuracy/top1": 0.0}

    @pytest.mark.parametrize("name", ["mmx_vision.TopKAccuracy", "mmx_toy.Accuracy"])
    def test_no_batch_is_read_from_its_device(self, name: str) -> None:
        # Tensors without data: whatever reads one raises.
        samples = torch.rand(7, 5, device="meta"), torch.zeros(7, device="meta").long()
        evaluator = Evaluator(METRICS.build(dict(type=name)))
        for _ in range(2):
            evaluator.process(data_samples=samples)
        with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
            evaluator.evaluate(14)

    def test_more_k_than_classes_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="needs as many classes; there are 3"):
            self.evaluate(
                dict(type="mmx_vision.TopKAccuracy", topk=5),
                torch.rand(4, 3),
                torch.zeros(4).long(),
            )

    def test_confusion_agrees_with_scikit_learn_and_is_drawn(self, tmp_path: Path) -> None:
        from sklearn.metrics import balanced_accuracy_score, confusion_matrix

        generator = torch.Generator().manual_seed(0)
        scores, labels = (
            torch.rand(100, 4, generator=generator),
            torch.randint(0, 4, (100,), generator=generator),
        )
        metric = METRICS.build(
            dict(type="mmx_vision.ConfusionMatrix", out_file=str(tmp_path / "a" / "c.png"))
        )
        evaluator = Evaluator(metric)
        evaluator.process(data_samples=(scores, labels))
        result = evaluator.evaluate(100)
        predicted = scores.argmax(dim=1)
        assert np.array_equal(metric.matrix.numpy(), confusion_matrix(labels, predicted))
        expected = 100 * balanced_accuracy_score(labels, predicted)
        assert result == {"confusion/balanced_accuracy": pytest.approx(expected)}
        with Image.open(tmp_path / "a" / "c.png") as img:
            assert min(img.size) > 200
