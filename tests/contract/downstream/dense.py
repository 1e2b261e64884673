"""A few iterations of detectors and segmentors from their packages' own configs, on made data.

``dense.py FOLDER`` writes ``FOLDER/dense.json``, under the reference engine or under ours.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import configs
import training

SCENARIOS = {
    "fcn": ("mmseg", "fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py"),
    "pspnet": ("mmseg", "pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py"),
    "retinanet": ("mmdet", "retinanet/retinanet_r50_fpn_1x_coco.py"),
    "fcos": ("mmdet", "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py"),
}
CHANGES: dict[str, dict[str, Any]] = {
    "mmseg": {
        "model.pretrained": None,
        "model.backbone.norm_cfg.type": "BN",
        "model.decode_head.norm_cfg.type": "BN",
        "model.auxiliary_head.norm_cfg.type": "BN",
        "model.backbone.depth": 18,
        "model.decode_head.in_channels": 512,
        "model.auxiliary_head.in_channels": 256,
        "model.data_preprocessor.size": (64, 64),
    },
    "mmdet": {
        "model.backbone.init_cfg": None,
        "model.backbone.depth": 18,
        "model.neck.in_channels": [64, 128, 256, 512],
    },
}


def samples(package: str) -> list[dict[str, Any]]:
    """Eight images (3, 64, 64) of bytes with a label map or two boxes each."""
    import torch

    generator = torch.Generator().manual_seed(5)
    out = []
    for number in range(8):
        image = torch.randint(0, 256, (3, 64, 64), generator=generator, dtype=torch.uint8)
        meta = dict(
            img_shape=(64, 64), ori_shape=(64, 64), pad_shape=(64, 64), scale_factor=(1.0, 1.0)
        )
        if package == "mmseg":
            from mmseg.structures import SegDataSample

            from mmengine.structures import PixelData

            sample = SegDataSample(metainfo=meta)
            labels = torch.randint(0, 19, (1, 64, 64), generator=generator)
            sample.gt_sem_seg = PixelData(data=labels)
        else:
            from mmdet.structures import DetDataSample

            from mmengine.structures import InstanceData

            sample = DetDataSample(metainfo=meta)
            boxes = torch.tensor([[4.0, 4.0, 30.0 + number, 40.0], [20.0, 10.0, 60.0, 50.0]])
            sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([number, 3]))
        out.append({"inputs": image, "data_samples": sample})
    return out


def run(name: str, work_dir: Path) -> dict[str, Any]:
    """Losses of four iterations, and the fingerprint of the weights before and after."""
    from mmengine.config import Config
    from mmengine.hooks import Hook
    from mmengine.runner import Runner

    package, file = SCENARIOS[name]
    cfg = Config.fromfile(configs.config_root(package) / file)
    cfg.merge_from_dict(CHANGES[package])
    trace: dict[str, Any] = {"iterations": []}

    class Tracer(Hook):
        def before_train(self, runner: Any) -> None:
            trace["initial"] = training.tensors_digest(runner.model.state_dict())

        def after_train_iter(
            self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
        ) -> None:
            trace["iterations"].append(training._text(outputs))

    loader = dict(
        batch_size=2,
        num_workers=0,
        dataset=samples(package),
        sampler=dict(type="DefaultSampler", shuffle=True),
        collate_fn=dict(type="pseudo_collate"),
    )
    runner = Runner(
        model=cfg.model,
        work_dir=str(work_dir),
        train_dataloader=loader,
        train_cfg=dict(by_epoch=False, max_iters=4),
        optim_wrapper=cfg.optim_wrapper,
        param_scheduler=cfg.param_scheduler,
        default_hooks=dict(checkpoint=None),
        default_scope=cfg.default_scope,
        randomness=dict(seed=0),
        log_level="ERROR",
        experiment_name=f"{name}-{work_dir.name}",
    )
    runner.register_hook(Tracer())
    runner.train()
    trace["final"] = training.tensors_digest(runner.model.state_dict())
    return trace


def traces(folder: Path) -> dict[str, Any]:
    """Traces of all scenarios."""
    return {name: run(name, folder / name) for name in SCENARIOS}


if __name__ == "__main__":
    import json

    training.prepare()
    result = {"kernels": training.kernel_fingerprint(), "traces": traces(Path(sys.argv[1]))}
    Path(sys.argv[1], "dense.json").write_text(json.dumps(result))
