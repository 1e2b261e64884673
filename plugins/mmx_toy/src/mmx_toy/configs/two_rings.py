"""Tell two rings of points apart: `mmx train mmx_toy::two_rings.py`, a few seconds."""

default_scope = "mmx_toy"

model = dict(type="MLP", layers=2, activation="relu")

train_dataloader = dict(
    dataset=dict(type="TwoRings", size=10_000, seed=0),
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="default_collate"),
    batch_size=64,
    num_workers=0,
)
val_dataloader = dict(
    dataset=dict(type="TwoRings", size=1_000, seed=3407),
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
    batch_size=1_000,
    num_workers=0,
)

train_cfg = dict(type="TimeLimitTrainLoop", max_minutes=10, max_epochs=5)
val_cfg = dict()
val_evaluator = dict(type="Accuracy")

optim_wrapper = dict(optimizer=dict(type="Adam", lr=1e-3))
param_scheduler = dict(type="MultiStepLR", milestones=[3, 4], gamma=0.1)

custom_hooks = [dict(type="WeightNormHook")]
randomness = dict(seed=0)
