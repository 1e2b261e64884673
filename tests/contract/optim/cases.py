"""What is recorded of MMEngine and compared with mmx: schedules, parameter groups, saved states.

Nothing here imports an engine at module level; the functions take the package's name.
"""

from __future__ import annotations

import importlib
import itertools
import warnings
from typing import Any

import torch
from torch import nn

STEPS = 26

# Family -> settings to go through.
FAMILIES: dict[str, list[dict[str, Any]]] = {
    "Constant": [
        dict(factor=0.3),
        dict(factor=0.5, end=1),
        dict(factor=0.5, end=2),
        dict(factor=0.7, begin=3, end=9),
        dict(factor=1.0, end=5),
    ],
    "CosineAnnealing": [
        dict(T_max=7),
        dict(T_max=1),
        dict(T_max=2, eta_min=0.1),
        dict(T_max=3, eta_min_ratio=0.1),
        dict(begin=2, end=12),
        dict(T_max=20, begin=4, end=18, eta_min=0.01),
        dict(T_max=5, begin=1, eta_min_ratio=0.02),
    ],
    "CosineRestart": [
        dict(periods=[3, 4, 30], restart_weights=[1, 0.5, 0.7], eta_min=0.001),
        dict(periods=[5], eta_min_ratio=0.01),
        dict(periods=[5, 6], restart_weights=[1, 2], eta_min_ratio=0.1, begin=3, end=12),
    ],
    "Exponential": [dict(gamma=0.9), dict(gamma=1.1, begin=5, end=9), dict(gamma=0.5, end=3)],
    "Linear": [
        dict(end=10),
        dict(start_factor=0.001, begin=2, end=12),
        dict(start_factor=0.5, end=1),
        dict(start_factor=1.0, end_factor=0.0, end=6),
        dict(start_factor=0.1, end_factor=0.6, begin=1, end=3),
        dict(),
    ],
    "MultiStep": [
        dict(milestones=[3, 8]),
        dict(milestones=[0, 2, 2, 2, 9], gamma=0.5),
        dict(milestones=[2, 4, 30], gamma=0.3, begin=4, end=9),
    ],
    "OneCycle": [
        dict(eta_max=0.8, total_steps=30),
        dict(eta_max=0.8, end=40, anneal_strategy="linear"),
        dict(eta_max=0.8, total_steps=27, three_phase=True, pct_start=0.35),
        dict(eta_max=0.3, total_steps=26, div_factor=10.0, final_div_factor=7.0, begin=3),
        dict(eta_max=0.3, end=15, anneal_strategy="linear", three_phase=True),
    ],
    "Poly": [
        dict(end=12),
        dict(end=1, eta_min=0.1),
        dict(end=2),
        dict(power=0.9, eta_min=0.01, begin=2, end=20),
        dict(power=2.5, begin=1, end=8),
    ],
    "Step": [
        dict(step_size=4),
        dict(step_size=1, gamma=0.8),
        dict(step_size=3, gamma=2.0, begin=2, end=9),
    ],
}

# In MMEngine.
ONLY_OF_LR = "OneCycle"

# Lists of schedulers of the same setting, which overlap or follow each other.
OVERLAPS: list[list[tuple[str, dict[str, Any]]]] = [
    [("LinearLR", dict(start_factor=0.01, end=6)), ("CosineAnnealingLR", dict(T_max=20))],
    [
        ("LinearLR", dict(start_factor=0.01, end=6)),
        ("CosineAnnealingLR", dict(T_max=14, begin=6, end=20, eta_min=0.003)),
        ("StepLR", dict(step_size=2, begin=20)),
    ],
    [("ExponentialLR", dict(gamma=0.95)), ("MultiStepLR", dict(milestones=[4, 9, 13]))],
    [
        ("MultiStepLR", dict(milestones=[4, 9])),
        ("ConstantLR", dict(factor=0.4, begin=2, end=12)),
        ("PolyLR", dict(power=0.8, eta_min=0.02, begin=5, end=19)),
    ],
    [
        ("CosineRestartLR", dict(periods=[8, 30], restart_weights=[1, 0.4], eta_min=0.0)),
        ("LinearLR", dict(start_factor=0.2, end=5)),
        ("ExponentialLR", dict(gamma=0.99)),
    ],
    [
        ("LinearLR", dict(start_factor=0.2, end=5)),
        ("CosineRestartLR", dict(periods=[8, 4, 3], restart_weights=[0.6, 0.4, 1], eta_min=0.01)),
        ("CosineRestartLR", dict(periods=[7, 9], restart_weights=[1, 1], eta_min_ratio=0.1)),
    ],
    [
        ("ExponentialLR", dict(gamma=0.95)),
        ("OneCycleLR", dict(eta_max=0.5, total_steps=40)),
        ("StepLR", dict(step_size=3, gamma=0.5)),
    ],
    [
        ("CosineAnnealingLR", dict(T_max=3)),
        ("CosineAnnealingLR", dict(T_max=5, eta_min_ratio=0.2)),
        ("LinearMomentum", dict(start_factor=0.5, end=10)),
        ("StepMomentum", dict(step_size=4, gamma=0.9)),
    ],
]

PLATEAUS: list[dict[str, Any]] = [
    dict(),
    dict(patience=1),
    dict(patience=1, cooldown=2),
    dict(rule="greater", patience=0),
    dict(threshold_rule="abs", patience=0, threshold=0.05),
    dict(rule="greater", threshold_rule="abs", patience=1, threshold=0.05, factor=0.5),
    dict(min_value=[0.04, 0.001], patience=0, factor=0.5),
    dict(patience=0, factor=0.5, eps=0.2),
    dict(patience=0, begin=2, end=7),
]
METRICS = [1, 0.9, 0.9, 0.9, 0.95, 0.8, 0.7, 0.8, 0.8, 0.8, 0.8, 0.81, 0.82]


def optimizer(kind: str = "SGD") -> torch.optim.Optimizer:
    params = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": [params[0]], "lr": 0.5}, {"params": [params[1]]}]
    if kind == "SGD":
        return torch.optim.SGD(groups, lr=0.05, momentum=0.9, weight_decay=0.01)
    return torch.optim.AdamW(groups, lr=0.05, betas=(0.8, 0.99))


def _values(groups: Any, name: str) -> list[float]:
    return [group[name] for group in groups]


def _run(package: str, wrapped: bool, kind: str, configs: Any, names: tuple[str, ...]) -> Any:
    """Return the values of all groups at each step, and the saved states at the end."""
    schedulers_of = importlib.import_module(f"{package}.optim.scheduler")
    target: Any = optimizer(kind)
    if wrapped:
        target = importlib.import_module(f"{package}.optim").OptimWrapper(target)
    schedulers = [getattr(schedulers_of, name)(target, **kwargs) for name, kwargs in configs]
    trace = [[_values(target.param_groups, name) for name in names]]
    for _ in range(STEPS):
        target.step()
        for scheduler in schedulers:
            scheduler.step()
        trace.append([_values(target.param_groups, name) for name in names])
    states = [_plain(scheduler.state_dict()) for scheduler in schedulers]
    if kind != "SGD":
        states.append({"betas": [list(group["betas"]) for group in target.param_groups]})
    return {"trace": trace, "states": states}


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {str(k): v for k, v in value.items()} if isinstance(value, dict) else value
        for name, value in state.items()
        if not callable(value)
    }


def schedules(package: str) -> dict[str, Any]:
    """Return the traces of all families alone, and of those that overlap."""
    result = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "(?s).*optimizer.step")
        for family, settings in FAMILIES.items():
            for number, kwargs in enumerate(settings):
                name = f"{family}{number}"
                result[f"{name}/lr"] = _run(
                    package, False, "SGD", [(f"{family}LR", kwargs)], ("lr",)
                )
                if family == ONLY_OF_LR:
                    continue
                decay = [(f"{family}ParamScheduler", dict(param_name="weight_decay", **kwargs))]
                result[f"{name}/decay"] = _run(package, True, "SGD", decay, ("weight_decay",))
                momentum = [(f"{family}Momentum", kwargs)]
                kind = "SGD" if number % 2 else "AdamW"
                result[f"{name}/momentum/{kind}"] = _run(
                    package, False, kind, momentum, ("momentum",)
                )
        for number, configs in enumerate(OVERLAPS):
            for wrapped in (False, True):
                result[f"overlap{number}/{wrapped}"] = _run(
                    package, wrapped, "SGD", configs, ("lr", "momentum")
                )
    return result


def plateaus(package: str) -> list[Any]:
    """Return the traces of schedulers that go by a metric; an epoch, then a validation."""
    scheduler_of = importlib.import_module(f"{package}.optim.scheduler").ReduceOnPlateauLR
    result = []
    for kwargs in PLATEAUS:
        target = optimizer()
        scheduler = scheduler_of(target, **kwargs)
        trace = []
        for metric in METRICS:
            target.step()
            scheduler.step()
            scheduler.step({"loss": metric})
            trace.append(_values(target.param_groups, "lr"))
        result.append({"trace": trace, "state": _plain(scheduler.state_dict())})
    return result


EPOCHS = [
    ("StepLR", dict(step_size=3, begin=1, end=7)),
    ("MultiStepLR", dict(milestones=[3, 3, 5])),
    ("ConstantLR", dict(end=4)),
    ("LinearLR", dict(begin=1, end=10)),
    ("CosineAnnealingLR", dict(T_max=5)),
    ("CosineAnnealingLR", dict(end=5)),
    ("PolyLR", dict(end=10)),
    ("ExponentialLR", dict(gamma=0.9)),
    ("OneCycleLR", dict(eta_max=0.5, total_steps=10)),
    ("OneCycleLR", dict(eta_max=0.5, end=10)),
    ("CosineRestartLR", dict(periods=[3, 4], restart_weights=[1, 0.5], eta_min=0.001)),
]


def by_iteration(package: str) -> list[dict[str, Any]]:
    """Return the states of schedulers by iteration, built from settings in epochs of 7."""
    schedulers_of = importlib.import_module(f"{package}.optim.scheduler")
    return [
        _plain(
            getattr(schedulers_of, name)
            .build_iter_from_epoch(optimizer(), epoch_length=7, **kwargs)
            .state_dict()
        )
        for name, kwargs in EPOCHS
    ]


# Parameter groups -------------------------------------------------------------------------------


class Mixed(nn.Module):
    """One of everything that is told apart by kind."""

    def __init__(self) -> None:
        super().__init__()
        self.param1 = nn.Parameter(torch.ones(1))
        self.conv1 = nn.Conv2d(3, 4, 1, bias=False)
        self.conv2 = nn.Conv2d(4, 2, 1)
        self.bn = nn.BatchNorm2d(2)
        self.dw = nn.Conv2d(2, 2, 1, groups=2)
        self.frozen = nn.Linear(2, 2)
        self.frozen.weight.requires_grad_(False)
        self.ln = nn.LayerNorm(2)
        self.dw1 = nn.Conv1d(2, 2, 1, groups=2)
        self.sub = nn.Sequential(nn.Linear(2, 2), nn.GroupNorm(1, 2), nn.InstanceNorm1d(2))
        self.conv11 = nn.Conv2d(1, 1, 1)


class Encoder(nn.Module):
    """A small transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, 4, 8))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 8))
        self.embed = nn.Linear(3, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16)
        self.backbone = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 2)


class Nested(nn.Module):
    """Modules in modules, with a parameter that two of them share."""

    def __init__(self, shared: bool = False) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict(
            {f"layer{i}": nn.Sequential(nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2)) for i in range(3)}
        )
        self.neck = nn.ModuleList([nn.Linear(2, 2), nn.ModuleList([nn.Linear(2, 2)])])
        self.head = nn.Linear(2, 2)
        if shared:
            self.tied = nn.Linear(2, 2)
            self.tied.weight = self.head.weight
            self.again = self.head


MODELS = {"Mixed": Mixed, "Encoder": Encoder, "Nested": Nested}

_ALL = dict(
    bias_lr_mult=2,
    bias_decay_mult=0.5,
    norm_decay_mult=0.3,
    dwconv_decay_mult=0.7,
    flat_decay_mult=0.2,
)
PARAMWISE: list[dict[str, Any]] = [
    *({key: value} for key, value in _ALL.items()),
    *(dict(pair) for pair in itertools.combinations(_ALL.items(), 2)),
    _ALL,
    dict(dcn_offset_lr_mult=0.1),
    dict(bypass_duplicate=True),
    dict(custom_keys={"conv1": dict(lr_mult=2), "conv": dict(lr_mult=9)}, bias_lr_mult=3),
    dict(
        custom_keys={
            "backbone.layer0": dict(lr_mult=0, decay_mult=0),
            "backbone": dict(lr_mult=1),
            "head": dict(lr_mult=0.1),
            ".param1": dict(lr_mult=5),
        }
    ),
    dict(
        custom_keys={
            "pos_embed": dict(decay_mult=0.0),
            "cls_token": dict(decay_mult=0.0),
            "weight": dict(lr_mult=0.5, betas=(0.5, 0.9)),
            "hgieww": dict(lr_mult=3),
            "linear": dict(lr_mult=0.25),
            "attn.o": dict(lr_mult=0.75),
        },
        norm_decay_mult=0,
        flat_decay_mult=0.1,
    ),
]
# The optimizer's own settings.
_SETTINGS = ("lr", "weight_decay", "lr_mult", "decay_mult", "betas")


def groups(package: str) -> dict[str, Any]:
    """Return names and settings of all groups, for each model and each ``paramwise_cfg``."""
    constructor = importlib.import_module(f"{package}.optim").DefaultOptimWrapperConstructor
    result = {}
    for name, model_class in MODELS.items():
        for number, paramwise_cfg in enumerate(PARAMWISE):
            model = model_class()
            names = {id(param): key for key, param in model.named_parameters()}
            config = dict(optimizer=dict(type="AdamW", lr=0.03, weight_decay=0.07))
            wrapper = constructor(config, dict(paramwise_cfg))(model)
            result[f"{name}/{number}"] = [
                [
                    [names[id(param)] for param in group["params"]],
                    {
                        key: list(group[key]) if key == "betas" else group[key]
                        for key in _SETTINGS
                        if key in group
                    },
                ]
                for group in wrapper.optimizer.param_groups
            ]
    return result


# Accumulation -------------------------------------------------------------------------------------


def accumulation(package: str) -> list[Any]:
    """Return what an optimizer wrapper decides in each iteration."""
    optim = importlib.import_module(f"{package}.optim")
    result = []
    for counts, begin, length in itertools.product((1, 2, 3, 4), (0, 2, 3), (-1, 5, 8, 12)):
        if length > 0 and begin >= length:
            continue
        model = nn.Linear(1, 1)
        wrapper = optim.OptimWrapper(
            torch.optim.SGD(model.parameters(), lr=0.1), accumulative_counts=counts
        )
        if length > 0:
            wrapper.initialize_count_status(model, begin, length)
        rows = []
        for _ in range(begin, length if length > 0 else 10):
            sync = wrapper.should_sync()
            factor = wrapper.scale_loss(torch.tensor(1.0)).item()
            wrapper.update_params(model(torch.ones(1)).sum())
            cleared = model.weight.grad is None
            rows.append([sync, factor, wrapper.should_update(), cleared, wrapper.inner_count])
        result.append([counts, begin, length, rows])
    return result
