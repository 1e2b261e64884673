"""Convolution and evaluated batch normalisation in one go (You et al., 2023, arXiv:2305.11624)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
CONV_FORWARDS = (nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward)
NORM_FORWARDS = tuple(norm.forward for norm in NORMS)


def efficient_conv_bn_eval_forward(bn: Any, conv: Any, x: Tensor) -> Tensor:
    """Run a convolution whose weights have been joined with a normalisation in evaluation mode.

    The joined weights are made anew at each call, so that both layers go on learning.
    """
    weight = conv.weight
    bias = conv.bias if conv.bias is not None else torch.zeros_like(bn.running_var)
    bn_weight = bn.weight if bn.weight is not None else torch.ones_like(bn.running_var)
    bn_bias = bn.bias if bn.bias is not None else torch.zeros_like(bn.running_var)
    scale = bn_weight * torch.rsqrt(bn.running_var + bn.eps)
    weight = weight * scale.reshape([-1] + [1] * (weight.ndim - 1))
    bias = bn_bias + scale * (bias - bn.running_mean)
    return conv._conv_forward(x, weight, bias)


def bn_once_identity_next(bn: Any, x: Tensor) -> Tensor:
    """Do what the normalisation would, unless the convolution before it has done so."""
    if getattr(bn, "_joined", False):
        return x
    return type(bn).forward(bn, x)


def _joined_forward(conv: Any, bn: Any, x: Tensor) -> Tensor:
    if bn.training:
        bn._joined = False
        return conv._conv_forward(x, conv.weight, conv.bias)
    bn._joined = True
    return efficient_conv_bn_eval_forward(bn, conv, x)


def turn_on_efficient_conv_bn_eval_for_single_model(model: nn.Module) -> None:
    """Join each convolution of a model with the normalisation that alone follows it.

    The model is traced by :mod:`torch.fx` to find such pairs.
    """
    graph = fx.symbolic_trace(model).graph
    modules = dict(model.named_modules())
    calls: dict[Any, int] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            calls[node.target] = calls.get(node.target, 0) + 1
    for node in graph.nodes:
        if node.op != "call_module" or not isinstance(modules.get(node.target), NORMS):
            continue
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node) or source.op != "call_module":
            continue
        conv: Any = modules[str(source.target)]
        bn: Any = modules[str(node.target)]
        # Either being used twice, or the convolution's output elsewhere, would change results.
        alone = calls[source.target] == calls[node.target] == 1 and len(source.users) == 1
        # A subclass with a computation of its own is left alone.
        plain = type(conv).forward in CONV_FORWARDS and type(bn).forward in NORM_FORWARDS
        if plain and alone and bn.track_running_stats:
            conv_: Any = conv
            conv_.forward = partial(_joined_forward, conv, bn)  # for this instance alone
            bn_: Any = bn
            bn_.forward = partial(bn_once_identity_next, bn)  # for this instance alone


def turn_on_efficient_conv_bn_eval(model: nn.Module, modules: list[str] | str) -> None:
    """Join convolutions and normalisations in parts of a model.

    Args:
        model: Model.
        modules: Names of the parts, for example ``'backbone'``.
    """
    for name in [modules] if isinstance(modules, str) else modules:
        part = model.get_submodule(name)
        turn_on_efficient_conv_bn_eval_for_single_model(part)
