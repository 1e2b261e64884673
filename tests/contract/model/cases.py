"""What MMEngine and mmx both do, case by case; ``engine`` is the name of the package.

Results are plain data. Tensors become lists of numbers, so that a difference can be read.
"""

from __future__ import annotations

import importlib
import tempfile
import types
from pathlib import Path

import torch
from torch import nn


def numbers(value):
    """Return a nested structure with tensors as lists."""
    if isinstance(value, torch.Tensor):
        return value.detach().double().flatten().tolist()
    if isinstance(value, dict):
        return {key: numbers(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [numbers(item) for item in value]
    return value


# Initialisation -------------------------------------------------------------------------------

BOTH = ["Conv2d", "Linear"]
INIT_CFGS = {
    "none": None,
    "constant": dict(type="Constant", val=2.0, bias=1, layer="Conv2d"),
    "bias_prob": dict(type="Constant", val=2.0, bias_prob=0.01, layer=BOTH),
    "list": [
        dict(type="Constant", val=2.0, layer="Conv2d"),
        dict(type="Normal", std=0.1, mean=0.5, layer="Linear"),
    ],
    "later_wins": [
        dict(type="Constant", val=2.0, layer=BOTH),
        dict(type="Constant", val=3.0, layer="Linear"),
    ],
    "xavier_uniform": dict(type="Xavier", gain=2, distribution="uniform", layer=BOTH),
    "xavier_normal": dict(type="Xavier", layer=BOTH),
    "uniform": dict(type="Uniform", a=-1, b=3, layer=BOTH),
    "trunc_normal": dict(type="TruncNormal", std=0.5, a=-0.1, b=0.3, layer=BOTH),
    "kaiming_normal": dict(type="Kaiming", layer=BOTH),
    "kaiming_uniform": dict(
        type="Kaiming",
        a=1,
        mode="fan_in",
        nonlinearity="leaky_relu",
        distribution="uniform",
        bias=0.5,
        layer="Conv2d",
    ),
    "caffe2_xavier": dict(type="Caffe2Xavier", layer=BOTH),
    "base_class": dict(type="Constant", val=3, layer="_BatchNorm"),
    "grandparent_class": dict(type="Constant", val=3, layer="_NormBase"),
    "override_only": dict(
        type="Constant", val=1, override=dict(type="Constant", name="reg", val=3)
    ),
    "layer_and_override": dict(
        type="Constant", val=1, layer="Conv2d", override=dict(type="Constant", name="reg", val=3)
    ),
    "override_without_type": dict(
        type="Constant", val=1, bias=2, layer="Conv2d", override=dict(name="reg")
    ),
    "two_overrides": dict(
        type="Constant",
        val=1,
        layer="Conv2d",
        override=[dict(name="reg"), dict(type="Normal", name="linear", std=0.1)],
    ),
    "nothing_meant": dict(type="Constant", val=1),
}


def init_weights(engine):
    """State and log text of one module under each config, and of a tree of modules."""
    model = importlib.import_module(f"{engine}.model")
    logger = importlib.import_module(f"{engine}.logging").MMLogger

    class Net(model.BaseModule):
        def __init__(self, init_cfg=None):
            super().__init__(init_cfg)
            self.conv = nn.Conv2d(1, 2, 3)
            self.linear = nn.Linear(2, 2)
            self.norm = nn.BatchNorm2d(2)
            self.reg = nn.Linear(2, 1)

    class Custom(model.BaseModule):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 1)

        def init_weights(self):
            nn.init.constant_(self.linear.weight, 9.0)

    class Tree(model.BaseModule):
        def __init__(self):
            super().__init__(dict(type="Constant", val=1, bias=2, layer="Linear"))
            self.plain = nn.Linear(1, 1)
            self.own = Net(dict(type="Constant", val=5, layer="Conv2d"))
            self.custom = Custom()
            self.sequence = model.Sequential(
                nn.Linear(1, 1), init_cfg=dict(type="Constant", val=7, layer="Linear")
            )
            self.list = model.ModuleList(
                [Custom(), nn.Conv2d(1, 1, 1)],
                init_cfg=dict(type="Constant", val=0.5, layer="Conv2d"),
            )
            self.dict = model.ModuleDict(dict(x=nn.Linear(1, 1)))

    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, make in {
            **{name: (lambda cfg=cfg: Net(cfg)) for name, cfg in INIT_CFGS.items()},
            "tree": Tree,
        }.items():
            file = Path(folder) / f"{name}.log"
            log = logger.get_instance(f"init_{name}", log_file=str(file))
            torch.manual_seed(0)
            net = make()
            net.init_weights()
            for handler in log.handlers:
                handler.close()
            results[name] = {"state": numbers(net.state_dict()), "log": file.read_text()}
    return results


# Losses ---------------------------------------------------------------------------------------


def losses(engine):
    """Sum and logged values for dicts of losses."""
    model = importlib.import_module(f"{engine}.model")

    class Net(model.BaseModel):
        def forward(self, *args, **kwargs):
            return None

    given = {
        "one": {"loss": torch.tensor(1.5)},
        "one_vector": {"loss": torch.tensor([1.0, 2.0])},
        "two": {"loss_cls": torch.tensor(1.0), "loss_box": torch.tensor([2.0, 4.0])},
        "other": {"acc": torch.tensor([0.5, 1.0]), "loss": torch.tensor(2.0)},
        "list": {"loss_levels": [torch.ones(2), torch.tensor([3.0])], "x": [torch.ones(1)]},
        "inside": {"aux_loss_0": torch.tensor(1.0), "lossless": torch.tensor(1.0)},
        "loss_and_part": {"loss_a": torch.tensor(1.0), "loss": torch.tensor(2.0)},
        "none": {"acc": torch.tensor(1.0)},
        "empty_list": {"loss_a": [], "loss_b": torch.tensor(1.0)},
    }
    results = {}
    for name, value in given.items():
        total, logged = Net().parse_losses(value)
        results[name] = [numbers(total), numbers(list(map(list, logged.items())))]
    return results


# Preprocessing --------------------------------------------------------------------------------


def preprocessing(engine):
    """Batches that image preprocessors make."""
    model = importlib.import_module(f"{engine}.model")
    generator = torch.Generator().manual_seed(3)

    def image(*shape):
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)

    norm = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
    cases = {
        "plain_list": ({}, [image(3, 2, 3), image(3, 2, 3)]),
        "sizes": (dict(pad_value=7), [image(3, 2, 3), image(3, 3, 1)]),
        "norm": (dict(**norm, pad_size_divisor=2), [image(3, 2, 3), image(3, 3, 1)]),
        "norm_equal": (norm, [image(3, 2, 3), image(3, 2, 3)]),
        "swap": (dict(**norm, bgr_to_rgb=True, pad_size_divisor=4, pad_value=1), [image(3, 2, 3)]),
        "swap_sizes": (dict(rgb_to_bgr=True), [image(3, 2, 3), image(3, 1, 4)]),
        "grey": (dict(mean=[128], std=[64]), [image(1, 2, 3)]),
        "one_mean": (dict(mean=[128], std=[64]), [image(3, 2, 3)]),
        "batch": (dict(**norm, pad_size_divisor=4, pad_value=2), image(2, 3, 2, 3)),
        "batch_swap": (dict(bgr_to_rgb=True), image(2, 3, 2, 3)),
        "float": (norm, torch.rand(1, 3, 2, 2, generator=generator) * 255),
    }
    results = {}
    for name, (options, inputs) in cases.items():
        out = model.ImgDataPreprocessor(**options)({"inputs": inputs, "data_samples": ["a"]})
        results[name] = {
            "keys": sorted(out),
            "shape": list(out["inputs"].shape),
            "dtype": str(out["inputs"].dtype),
            "values": numbers(out["inputs"]),
        }
    for name, (tensors, options) in {
        "stack": ([torch.arange(6.0).view(1, 2, 3), torch.ones(1, 3, 1)], {}),
        "stack_divisor": ([torch.ones(1, 3, 5)], dict(pad_size_divisor=4, pad_value=2)),
        "stack_line": ([torch.ones(2, 3), torch.ones(2, 4)], dict(pad_size_divisor=3)),
        "stack_video": ([torch.ones(1, 2, 3, 1), torch.ones(1, 1, 2, 2)], {}),
    }.items():
        out = model.stack_batch(tensors, **options)
        results[name] = {"shape": list(out.shape), "values": numbers(out)}
    return results


# Averages -------------------------------------------------------------------------------------

AVERAGES = {
    "ema": ("ExponentialMovingAverage", dict(momentum=0.1)),
    "ema_interval": ("ExponentialMovingAverage", dict(momentum=0.3, interval=3)),
    "ema_buffers": ("ExponentialMovingAverage", dict(momentum=0.05, update_buffers=True)),
    "annealing": ("MomentumAnnealingEMA", dict(momentum=0.02, gamma=10)),
    "annealing_interval": ("MomentumAnnealingEMA", dict(momentum=0.02, gamma=10, interval=2)),
    "swa": ("StochasticWeightAverage", {}),
    "swa_interval": ("StochasticWeightAverage", dict(interval=7, update_buffers=True)),
}


def net_with_buffers():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))


def train_a_little(net, step):
    """Change parameters and statistics as training would, without an optimizer."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for param in net.parameters():
            param.add_(torch.randn(param.shape, generator=generator), alpha=0.1)
    net(torch.randn(4, 2, generator=generator))


def averages(engine, steps=100):
    """State of each kind of average after so many updates."""
    model = importlib.import_module(f"{engine}.model")
    results = {}
    for name, (kind, options) in AVERAGES.items():
        net = net_with_buffers()
        average = getattr(model, kind)(net, **options)
        for step in range(steps):
            train_a_little(net, step)
            average.update_parameters(net)
        results[name] = numbers(average.state_dict())
    return results


# The hook -------------------------------------------------------------------------------------


def runner_of(net, **more):
    return types.SimpleNamespace(
        model=net, iter=0, epoch=0, max_iters=100, max_epochs=10, _resume=False, **more
    )


def hook(engine):
    """What the EMA hook writes into checkpoints, and what it makes of them."""
    hooks = importlib.import_module(f"{engine}.hooks")
    results = {}
    for name, options in {
        "ema": dict(momentum=0.2),
        "late": dict(momentum=0.2, begin_iter=3),
        "by_epoch": dict(momentum=0.2, begin_epoch=2),
        "swa": dict(ema_type="StochasticWeightAverage"),
    }.items():
        net = net_with_buffers()
        runner = runner_of(net)
        ema = hooks.EMAHook(**options)
        ema.before_run(runner)
        ema.before_train(runner)
        for step in range(6):
            runner.iter, runner.epoch = step, step // 3
            train_a_little(net, step)
            ema.after_train_iter(runner, step)
        ema.before_val_epoch(runner)
        validated = numbers(net.state_dict())
        ema.after_val_epoch(runner)
        checkpoint = {"state_dict": net.state_dict()}
        ema.before_save_checkpoint(runner, checkpoint)
        results[name] = {
            "validated": validated,
            "saved": numbers(checkpoint),
            "trained": numbers(net.state_dict()),
        }
    with_average = {k: {n: t.clone() for n, t in v.items()} for k, v in checkpoint.items()}
    without = {"state_dict": with_average["state_dict"]}
    for name, content, resume in (
        ("load_with", with_average, False),
        ("load_without", without, False),
        ("resume_with", with_average, True),
        ("resume_without", without, True),
    ):
        net = net_with_buffers()
        runner = runner_of(net)
        runner._resume = resume
        ema = hooks.EMAHook()
        ema.before_run(runner)
        content = {key: dict(value) for key, value in content.items()}
        ema.after_load_checkpoint(runner, content)
        net.load_state_dict(content["state_dict"])
        results[name] = {
            "model": numbers(net.state_dict()),
            "average": numbers(ema.ema_model.state_dict()),
        }
    return results


ALL = (init_weights, losses, preprocessing, averages, hook)
