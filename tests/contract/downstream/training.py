"""Short training runs of mmpretrain from its own config files, traced to the last bit.

The same file runs under the reference engine (to record) and under ours (to compare).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import configs
import numpy as np
import shims

SIZE = 32
CLASSES = 3

# Overrides make a model small enough for a test; everything else is what the file says.
SCENARIOS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet": ("resnet/resnet18_8xb32_in1k.py", {}),
    "resnet_mixup": (
        "resnet/resnet50_8xb32-mixup_in1k.py",
        {"model.backbone.depth": 18, "model.head.in_channels": 512},
    ),
    "vit_layer_decay": (
        "mae/benchmarks/vit-base-p16_8xb128-coslr-100e_in1k.py",
        {
            "model.backbone.arch": dict(
                _delete_=True, embed_dims=24, num_layers=3, num_heads=4, feedforward_channels=48
            ),
            "model.backbone.img_size": SIZE,
            "model.backbone.patch_size": 8,
            "model.backbone.init_cfg": None,
            "model.head.in_channels": 24,
        },
    ),
    "beit_layer_decay": (
        "beit/benchmarks/beit-base-p16_8xb128-coslr-100e_in1k.py",
        {
            "model.backbone.arch": dict(
                _delete_=True, embed_dims=24, num_layers=3, num_heads=4, feedforward_channels=48
            ),
            "model.backbone.img_size": SIZE,
            "model.backbone.patch_size": 8,
            "model.backbone.init_cfg": None,
            "model.head.in_channels": 24,
        },
    ),
    "convnext_ema": (
        "convnext/convnext-tiny_32xb128_in1k.py",
        {
            "model.backbone.arch": dict(
                _delete_=True, depths=[1, 1, 2, 1], channels=[8, 16, 24, 32]
            ),
            "model.head.in_channels": 32,
        },
    ),
}


def prepare() -> None:
    """What a process does before anything of the packages is imported."""
    import torch

    shims.quiet()
    shims.declare_torchvision_operators()
    shims.pretend_compiled_operators()
    torch.set_num_threads(1)


def make_images(folder: Path) -> None:
    """Write ``train`` (18 images) and ``val`` (9) with a folder for each class."""
    from PIL import Image

    generator = np.random.RandomState(7)
    for part, each in (("train", 6), ("val", 3)):
        for label in range(CLASSES):
            target = folder / part / f"class_{label}"
            target.mkdir(parents=True, exist_ok=True)
            for number in range(each):
                pixels = generator.randint(0, 256, (40 + number, 44, 3))
                pixels[..., label] //= 2
                Image.fromarray(pixels.astype(np.uint8)).save(target / f"{number}.png")


def _shrink(value: Any) -> Any:
    """Image sizes of a pipeline brought down to SIZE; the rest is kept."""
    if isinstance(value, dict):
        out = {key: _shrink(item) for key, item in value.items()}
        for key in ("scale", "crop_size"):
            if isinstance(out.get(key), int):
                out[key] = SIZE
        return out
    if isinstance(value, list):
        return [_shrink(item) for item in value]
    return value


def build_config(name: str, images: Path, work_dir: Path, workers: int, epochs: int) -> Any:
    """The package's config with paths, sizes and lengths of this test."""
    from mmengine.config import Config

    file, overrides = SCENARIOS[name]
    cfg = Config.fromfile(configs.config_root("mmpretrain") / file)
    for loader, part in (("train", "train"), ("val", "val"), ("test", "val")):
        dataset = cfg[f"{loader}_dataloader"]["dataset"]
        changes = {
            f"{loader}_dataloader.batch_size": 4,
            f"{loader}_dataloader.num_workers": workers,
            f"{loader}_dataloader.persistent_workers": workers > 0,
            f"{loader}_dataloader.pin_memory": False,
            f"{loader}_dataloader.dataset": dict(
                _delete_=True,
                type="CustomDataset",
                data_root=str(images),
                data_prefix=part,
                pipeline=_shrink(dataset.to_dict()["pipeline"]),
            ),
        }
        cfg.merge_from_dict(changes)
    cfg.merge_from_dict(
        {
            "work_dir": str(work_dir),
            "train_cfg.max_epochs": epochs,
            "train_cfg.by_epoch": True,
            "randomness.seed": 3,
            "default_hooks.logger.interval": 2,
            "default_hooks.checkpoint.interval": 1,
            "env_cfg.mp_cfg.mp_start_method": "fork",
            "log_level": "ERROR",
            "param_scheduler": schedules(cfg),
            **overrides,
        }
    )
    return cfg


def schedules(cfg: Any) -> list[Any]:
    """The schedules with a warm-up of one epoch: longer ones do not fit the test."""
    schedules = cfg.to_dict()["param_scheduler"]
    schedules = schedules if isinstance(schedules, list) else [schedules]
    for schedule in schedules:
        for key in ("begin", "end"):
            if 1 < schedule.get(key, 0) < 100:
                schedule[key] = 1
    return schedules


def _text(value: Any) -> Any:
    """Numbers with all their bits."""
    if isinstance(value, Mapping):
        return {str(key): _text(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_text(item) for item in value]
    if hasattr(value, "detach"):
        return [_text(item) for item in value.detach().double().flatten().tolist()]
    if isinstance(value, int | float | np.number):
        return float(value).hex()
    return repr(value)


def tensors_digest(state: Mapping[str, Any]) -> str:
    """Fingerprint of a state dict: names, their order, and every bit."""
    sha = hashlib.sha256()
    for key, value in state.items():
        sha.update(key.encode())
        if hasattr(value, "detach"):
            sha.update(value.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()[:16]


def random_digest() -> dict[str, str]:
    """Where the three random generators of this process stand."""
    import torch

    def short(data: bytes) -> str:
        return hashlib.sha256(data).hexdigest()[:12]

    state = np.random.get_state()
    return {
        "torch": short(torch.get_rng_state().numpy().tobytes()),
        "numpy": short(state[1].tobytes() + str(state[2]).encode()),
        "python": short(repr(random.getstate()).encode()),
    }


def tracer(trace: dict[str, Any], randomness: bool = True) -> Any:
    """A hook that writes down what each iteration did."""
    from mmengine.hooks import Hook

    class Tracer(Hook):
        priority = "LOWEST"

        def before_train(self, runner: Any) -> None:
            trace["initial"] = tensors_digest(runner.model.state_dict())
            trace["start_iter"] = runner.iter
            groups = runner.optim_wrapper.param_groups
            trace["groups"] = [
                len(groups),
                [[_text(group["lr"]), _text(group["weight_decay"])] for group in groups],
            ]
            trace["random_before"] = random_digest()

        def after_train_iter(
            self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
        ) -> None:
            labels = [
                int(sample.gt_label[0])
                for sample in data_batch["data_samples"]
                if hasattr(sample, "gt_label")
            ]
            trace["iterations"].append(
                {
                    "outputs": _text(outputs),
                    "lr": _text(
                        {key: item[:2] for key, item in runner.optim_wrapper.get_lr().items()}
                    ),
                    "labels": labels,
                    "inputs": tensors_digest({"x": data_batch["inputs"][0]}),
                }
            )

        def after_val_epoch(self, runner: Any, metrics: Any = None) -> None:
            trace["validations"].append(_text(metrics))

        def after_test_epoch(self, runner: Any, metrics: Any = None) -> None:
            trace["tests"].append(_text(metrics))

    return Tracer()


def run(
    name: str,
    images: Path,
    work_dir: Path,
    workers: int = 0,
    epochs: int = 2,
    resume_from: Path | None = None,
    validate: bool = True,
) -> dict[str, Any]:
    """Train, validate and save one scenario; returns its trace (plain data)."""
    from mmengine.runner import Runner

    cfg = build_config(name, images, work_dir, workers, epochs)
    if resume_from is not None:
        cfg.merge_from_dict({"load_from": str(resume_from), "resume": True})
    if not validate:
        cfg.merge_from_dict({"train_cfg.val_interval": 100})
    cfg.merge_from_dict({"experiment_name": f"{name}-{work_dir.name}"})
    trace: dict[str, Any] = {"iterations": [], "validations": [], "tests": []}
    runner = Runner.from_cfg(cfg)
    runner.register_hook(tracer(trace), "LOWEST")
    runner.train()
    trace["random_after"] = random_digest()
    trace["final"] = tensors_digest(runner.model.state_dict())
    trace["optimizer"] = tensors_digest(
        {
            f"{index}.{key}": value
            for index, slots in runner.optim_wrapper.state_dict()["state"].items()
            for key, value in slots.items()
        }
    )
    return trace


def test(name: str, images: Path, work_dir: Path, checkpoint: Path) -> list[Any]:
    """Metrics of a test run that loads ``checkpoint``."""
    from mmengine.runner import Runner

    cfg = build_config(name, images, work_dir, 0, 2)
    cfg.merge_from_dict({"load_from": str(checkpoint), "experiment_name": f"{name}-test"})
    trace: dict[str, Any] = {"tests": []}
    runner = Runner.from_cfg(cfg)
    runner.register_hook(tracer(trace), "LOWEST")
    runner.test()
    return trace["tests"]


# -- what is recorded -------------------------------------------------------------------------

RESUMED = ("vit_layer_decay", "convnext_ema")


def trajectories(folder: Path) -> dict[str, Any]:
    """Traces of all scenarios: each from the start, without validation, and with two workers."""
    images = folder / "images"
    make_images(images)
    out: dict[str, Any] = {}
    for name in SCENARIOS:
        out[name] = run(name, images, folder / name)
        last = folder / name / "epoch_2.pth"
        out[name]["tests"] = test(name, images, folder / f"{name}_test", last)
        out[f"{name}/no_validation"] = run(name, images, folder / f"{name}_nv", validate=False)
    out["vit_layer_decay/workers"] = run(
        "vit_layer_decay", images, folder / "vit_workers", workers=2
    )
    return out


def continuation(name: str, folder: Path, checkpoint: Path) -> dict[str, Any]:
    """Trace of the second epoch, resumed from a checkpoint of the first."""
    images = folder / "images"
    if not images.exists():
        make_images(images)
    return run(name, images, folder / f"{name}_resumed", resume_from=checkpoint, validate=False)


def first_difference(expected: Any, actual: Any, where: str = "") -> str | None:
    """Path and values of the first place where two traces part, or None."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        for key in [*expected, *(key for key in actual if key not in expected)]:
            if key not in expected or key not in actual:
                return f"{where}.{key}: in one trace only"
            found = first_difference(expected[key], actual[key], f"{where}.{key}")
            if found:
                return found
        return None
    if isinstance(expected, list) and isinstance(actual, list):
        for index, (one, other) in enumerate(zip(expected, actual, strict=False)):
            found = first_difference(one, other, f"{where}[{index}]")
            if found:
                return found
        if len(expected) != len(actual):
            return f"{where}: {len(expected)} entries expected, {len(actual)} found"
        return None
    return None if expected == actual else f"{where}: expected {expected!r}, found {actual!r}"


def kernel_fingerprint() -> str:
    """Fingerprint of this machine's CPU kernels: only where it is equal can all bits be."""
    import torch

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 16, 12, 12, generator=generator, requires_grad=True)
    w = torch.randn(24, 16, 3, 3, generator=generator, requires_grad=True)
    y = torch.nn.functional.gelu(torch.nn.functional.conv2d(x, w, padding=1))
    y = torch.nn.functional.batch_norm(y, None, None, training=True)
    z = torch.nn.functional.layer_norm(y.flatten(2), (144,))
    z = torch.nn.functional.scaled_dot_product_attention(z, z, z) @ z.transpose(1, 2)
    loss = torch.nn.functional.cross_entropy(z.mean(1), torch.arange(4))
    loss.backward()
    return tensors_digest({"loss": loss, "x": x.grad, "w": w.grad}) + "-" + torch.__version__
