"""Train a small ResNet on real handwritten digits: `mmx train mmx_vision::digits_resnet.py`.

It takes its parts from three scopes. Names without a prefix are looked up in `mmx_vision`, the
default scope, then in the root (`DefaultSampler`, `SGD`, …); `mmx_toy.` is an explicit prefix; and
`_scope_` switches the scope for one dict and all that is in it.
"""

default_scope = "mmx_vision"
work_dir = "work_dirs/digits_resnet"

epochs = 20

model = dict(
    type="ImageClassifier",
    data_preprocessor=dict(type="ImgDataPreprocessor", mean=[77.0], std=[95.0]),
    backbone=dict(type="ResNet", depth=[1, 1, 1], in_channels=1, base_channels=32, stem="small"),
    head=dict(type="LinearHead", in_channels=128, num_classes=10, dropout=0.1),
)

train_dataloader = dict(
    dataset=dict(
        type="Digits",
        split="train",
        pipeline=[
            dict(type="RandomAffine", degrees=12, translate=0.1, scale=(0.9, 1.1), shear=8),
            dict(type="PackInputs"),
        ],
    ),
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="default_collate"),
    batch_size=64,
    num_workers=0,
    drop_last=True,
)
val_dataloader = dict(
    dataset=dict(type="Digits", split="val", pipeline=[dict(type="PackInputs")]),
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
    batch_size=360,
    num_workers=0,
)
test_dataloader = val_dataloader

# The loop is mmx_toy's: `_scope_` looks `type` up there.
train_cfg = dict(
    type="TimeLimitTrainLoop", _scope_="mmx_toy", max_minutes=10, max_epochs=epochs, val_interval=1
)
val_cfg = dict()
test_cfg = dict()

val_evaluator = [
    dict(type="TopKAccuracy", topk=(1, 2)),
    dict(type="ConfusionMatrix", out_file=f"{work_dir}/confusion.png"),
]
test_evaluator = val_evaluator

optim_wrapper = dict(
    optimizer=dict(type="SGD", lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(
        type="LinearLR", start_factor=0.1, by_epoch=True, begin=0, end=2, convert_to_iter_based=True
    ),
    dict(
        type="CosineAnnealingLR",
        by_epoch=True,
        begin=2,
        end=epochs,
        eta_min=1e-4,
        convert_to_iter_based=True,
    ),
]

default_hooks = dict(
    logger=dict(type="LoggerHook", interval=10),
    checkpoint=dict(type="CheckpointHook", max_keep_ckpts=2, save_best="accuracy/top1"),
)
custom_hooks = [dict(type="mmx_toy.WeightNormHook")]

randomness = dict(seed=0)
