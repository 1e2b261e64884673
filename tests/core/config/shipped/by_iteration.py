"""Training by iteration, with most settings in use."""

_base_ = ["./_base_/runtime.py"]

model = dict(
    type="ImageClassifier",
    data_preprocessor=dict(type="ImgDataPreprocessor", mean=[77.0], std=[95.0], pad_size_divisor=1),
    backbone=dict(
        type="ResNet",
        depth=[1, 1, 1],
        in_channels=1,
        base_channels=16,
        stem="small",
        init_cfg=dict(type="Kaiming", layer="Conv2d", mode="fan_out", nonlinearity="relu"),
    ),
    head=dict(type="LinearHead", in_channels=64, num_classes=10),
)
pipeline = [dict(type="RandomAffine", degrees=5), dict(type="PackInputs")]
train_dataloader = dict(
    dataset=dict(
        type="RepeatDataset", times=2, dataset=dict(type="Digits", split="train", pipeline=pipeline)
    ),
    sampler=dict(type="InfiniteSampler", shuffle=True),
    collate_fn=dict(type="default_collate"),
    batch_size=32,
    num_workers=2,
    persistent_workers=True,
)
val_dataloader = dict(
    dataset=dict(type="Digits", split="val", pipeline=[dict(type="PackInputs")]),
    sampler=dict(type="DefaultSampler", shuffle=False, round_up=False),
    batch_size=32,
)
train_cfg = dict(by_epoch=False, max_iters=1000, val_interval=100, dynamic_intervals=[(900, 10)])
val_cfg = dict(fp16=False)
val_evaluator = dict(type="TopKAccuracy", topk=(1, 5))
optim_wrapper = dict(
    type="AmpOptimWrapper",
    loss_scale="dynamic",
    accumulative_counts=2,
    optimizer=dict(type="AdamW", lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=10.0)), bias_decay_mult=0.0),
    clip_grad=dict(max_norm=1.0, norm_type=2),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type="PolyLR", power=0.9, eta_min=1e-5, by_epoch=False, begin=100, end=1000),
]
custom_hooks = [
    dict(
        type="EMAHook",
        ema_type="ExponentialMovingAverage",
        momentum=0.001,
        begin_iter=10,
        priority=49,
    ),
    dict(type="EmptyCacheHook", after_epoch=True),
]
auto_scale_lr = dict(enable=False, base_batch_size=64)
randomness = dict(seed=1, deterministic=False, diff_rank_seed=False)
