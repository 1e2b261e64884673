"""Parameter groups with learning rates and weight decays of their own."""

from __future__ import annotations

import copy
import logging
from typing import Any, cast

import torch
from torch import nn
from torch.nn import GroupNorm, LayerNorm

from mmx.logging import print_log
from mmx.optim.optimizer.base import BaseOptimWrapper
from mmx.optim.optimizer.optimizer_wrapper import OptimWrapper
from mmx.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS
from mmx.utils import is_list_of
from mmx.utils.dl_utils import mmcv_full_available

_KEYS = (
    "custom_keys",
    "lr_mult",
    "bias_lr_mult",
    "bias_decay_mult",
    "norm_decay_mult",
    "flat_decay_mult",
    "dwconv_decay_mult",
    "dcn_offset_lr_mult",
    "bypass_duplicate",
    "merge_groups",
    "decay_mult",
)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class DefaultOptimWrapperConstructor:
    """Build an optimizer wrapper, with one parameter group for each parameter that has settings.

    ``paramwise_cfg`` may hold

    - ``custom_keys``: part of a parameter's name -> dict with ``lr_mult``, ``decay_mult`` or other
      settings of its group. Of several keys that fit the longest counts, and among equally long
      ones the first in alphabetical order; other rules then do not apply to the parameter.
    - ``bias_lr_mult``, ``bias_decay_mult``: for biases, but for those of normalisation layers and of
      offset layers of deformable convolutions.
    - ``norm_decay_mult``: decay of weights and biases of normalisation layers.
    - ``flat_decay_mult``: decay of other parameters with one dimension.
    - ``dwconv_decay_mult``: decay of depth-wise convolutions.
    - ``dcn_offset_lr_mult``: learning rate of offset layers of deformable convolutions.
    - ``bypass_duplicate``: take a parameter that appears twice only once; else torch raises.
    - ``merge_groups``: put parameters of equal settings into one group: the same update, with
      fewer and faster steps.

    Args:
        optim_wrapper_cfg: Config of the wrapper: ``optimizer`` and its other arguments.
        paramwise_cfg: Rules; None puts all parameters into one group.

    Raises:
        TypeError: An argument is of another type.
        ValueError: The optimizer is missing, or a rule needs a learning rate or decay that is not given.
    """

    def __init__(
        self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None
    ) -> None:
        if not isinstance(optim_wrapper_cfg, dict):
            raise TypeError(f"optimizer_cfg should be a dict, but got {type(optim_wrapper_cfg)}")
        if "optimizer" not in optim_wrapper_cfg:
            raise ValueError('`optim_wrapper_cfg` must contain "optimizer" config')
        self.optim_wrapper_cfg = dict(optim_wrapper_cfg)
        self.optimizer_cfg = self.optim_wrapper_cfg.pop("optimizer")
        self.paramwise_cfg = {} if paramwise_cfg is None else paramwise_cfg
        is_built = isinstance(self.optimizer_cfg, torch.optim.Optimizer)
        self.base_lr = None if is_built else self.optimizer_cfg.get("lr", None)
        self.base_wd = None if is_built else self.optimizer_cfg.get("weight_decay", None)
        self._validate_cfg()

    def _validate_cfg(self) -> None:
        if not isinstance(self.paramwise_cfg, dict):
            raise TypeError(
                f"paramwise_cfg should be None or a dict, but got {type(self.paramwise_cfg)}"
            )
        unknown = [key for key in self.paramwise_cfg if key not in _KEYS]
        if unknown:
            from difflib import get_close_matches

            near = get_close_matches(unknown[0], _KEYS, n=1)
            print_log(
                f"paramwise_cfg has the unknown key {unknown[0]!r}, which does nothing"
                + (f"; did you mean {near[0]!r}?" if near else ""),
                logger="current",
                level=logging.WARNING,
            )
        if "custom_keys" in self.paramwise_cfg:
            custom = self.paramwise_cfg["custom_keys"]
            if not isinstance(custom, dict):
                raise TypeError(
                    "If specified, custom_keys must be a dict, "
                    f"but got {type(self.paramwise_cfg['custom_keys'])}"
                )
            if self.base_wd is None:
                for key, settings in custom.items():
                    if "decay_mult" in settings:
                        raise ValueError(
                            f"base_wd should not be None: custom_keys[{key!r}] sets decay_mult, so the optimizer needs "
                            "a weight_decay"
                        )
        for name in ("bias_decay_mult", "norm_decay_mult", "flat_decay_mult", "dwconv_decay_mult"):
            if name in self.paramwise_cfg and self.base_wd is None:
                raise ValueError(
                    f"base_wd should not be None: {name} is set, so the optimizer needs a weight_decay"
                )

    def _is_in(self, param_group: dict[str, Any], param_group_list: list[dict[str, Any]]) -> bool:
        if not is_list_of(param_group_list, dict):
            raise TypeError("param_group_list must be a list of dicts")
        param = set(param_group["params"])
        return any(not param.isdisjoint(group["params"]) for group in param_group_list)

    def add_params(
        self,
        params: list[dict[str, Any]],
        module: nn.Module,
        prefix: str = "",
        is_dcn_module: bool | int | float | None = None,
    ) -> None:
        """Add the parameters of a module and of its parts to a list of groups.

        Args:
            params: Groups, extended in place.
            module: Module.
            prefix: Its name in the model.
            is_dcn_module: Whether it is part of a deformable convolution.
        """
        seen = {param for group in params for param in group["params"]}
        self._add_params(params, module, prefix, is_dcn_module, seen)

    def _add_params(
        self,
        params: list[dict[str, Any]],
        module: nn.Module,
        prefix: str,
        is_dcn_module: Any,
        seen: set[Any],
    ) -> None:
        custom_keys: dict[str, dict[str, Any]] = self.paramwise_cfg.get("custom_keys", {})
        # Alphabetically, then stably by length: the longest first.
        sorted_keys = sorted(sorted(custom_keys), key=len, reverse=True)
        bias_lr_mult = self.paramwise_cfg.get("bias_lr_mult")
        bias_decay_mult = self.paramwise_cfg.get("bias_decay_mult")
        norm_decay_mult = self.paramwise_cfg.get("norm_decay_mult")
        dwconv_decay_mult = self.paramwise_cfg.get("dwconv_decay_mult")
        flat_decay_mult = self.paramwise_cfg.get("flat_decay_mult")
        bypass_duplicate = self.paramwise_cfg.get("bypass_duplicate", False)
        dcn_offset_lr_mult = self.paramwise_cfg.get("dcn_offset_lr_mult")
        is_norm = isinstance(
            module,
            (
                nn.modules.batchnorm._BatchNorm,
                nn.modules.instancenorm._InstanceNorm,
                GroupNorm,
                LayerNorm,
            ),
        )
        is_dwconv = isinstance(module, nn.Conv2d) and module.in_channels == module.groups
        for name, param in module.named_parameters(recurse=False):
            group: dict[str, Any] = {"params": [param]}
            full_name = f"{prefix}.{name}" if prefix else name
            if bypass_duplicate and param in seen:
                print_log(
                    f"{prefix} is duplicate. It is skipped since bypass_duplicate={bypass_duplicate}",
                    logger="current",
                    level=logging.WARNING,
                )
                continue
            seen.add(param)
            if not param.requires_grad:
                # Kept, so that it is updated once it is unfrozen.
                params.append(group)
                continue
            key = next((key for key in sorted_keys if key in full_name), None)
            if key is not None:
                settings = custom_keys[key]
                if self.base_lr is not None:
                    group["lr"] = self.base_lr * settings.get("lr_mult", 1.0)
                if self.base_wd is not None:
                    group["weight_decay"] = self.base_wd * settings.get("decay_mult", 1.0)
                # Multipliers stay in the group too: schedulers of one's own may read them.
                group.update(settings)
            else:
                if name == "bias" and not (is_norm or is_dcn_module) and bias_lr_mult is not None:
                    group["lr"] = self.base_lr * bias_lr_mult
                if (
                    "conv_offset" in prefix
                    and is_dcn_module
                    and dcn_offset_lr_mult is not None
                    and isinstance(module, nn.Conv2d)
                ):
                    group["lr"] = self.base_lr * dcn_offset_lr_mult
                if self.base_wd is not None:
                    if is_norm and norm_decay_mult is not None:
                        group["weight_decay"] = self.base_wd * norm_decay_mult
                    elif name == "bias" and not is_dcn_module and bias_decay_mult is not None:
                        group["weight_decay"] = self.base_wd * bias_decay_mult
                    elif is_dwconv and dwconv_decay_mult is not None:
                        group["weight_decay"] = self.base_wd * dwconv_decay_mult
                    elif param.ndim == 1 and not is_dcn_module and flat_decay_mult is not None:
                        group["weight_decay"] = self.base_wd * flat_decay_mult
            params.append(group)
            for setting, value in group.items():
                if setting != "params":
                    print_log(
                        f"paramwise_options -- {full_name}:{setting}={value}",
                        logger="current",
                        level=logging.DEBUG,
                    )
        if mmcv_full_available():
            from mmcv.ops import DeformConv2d, ModulatedDeformConv2d  # type: ignore[import-not-found,unused-ignore]

            is_dcn_module = isinstance(module, (DeformConv2d, ModulatedDeformConv2d))
        else:
            is_dcn_module = False
        for child_name, child in module.named_children():
            child_prefix = f"{prefix}.{child_name}" if prefix else child_name
            self._add_params(params, child, child_prefix, is_dcn_module, seen)

    def __call__(self, model: nn.Module) -> BaseOptimWrapper:
        """Build the wrapper for a model, wrapped or not."""
        if hasattr(model, "module"):
            model = cast(nn.Module, model.module)
        settings = dict(self.optim_wrapper_cfg)
        settings.setdefault("type", OptimWrapper)
        if isinstance(self.optimizer_cfg, torch.optim.Optimizer):
            wrapper: BaseOptimWrapper = OPTIM_WRAPPERS.build(
                settings, default_args={"optimizer": self.optimizer_cfg}
            )
            return wrapper
        optimizer_cfg: dict[str, Any] = dict(copy.deepcopy(self.optimizer_cfg))
        if not self.paramwise_cfg or set(self.paramwise_cfg) == {"merge_groups"}:
            optimizer_cfg["params"] = model.parameters()
            optimizer = OPTIMIZERS.build(optimizer_cfg)
        else:
            params: list[dict[str, Any]] = []
            self.add_params(params, model)
            if self.paramwise_cfg.get("merge_groups", False):
                params = merge_groups(params)
            optimizer_cfg["params"] = params
            optimizer = OPTIMIZERS.build(optimizer_cfg)
        wrapper = OPTIM_WRAPPERS.build(settings, default_args={"optimizer": optimizer})
        if self.paramwise_cfg:
            # Groups have learning rates of their own: logs show the one that was asked for.
            wrapper.base_param_settings = {"params": torch.tensor([0.0]), **optimizer.defaults}
        return wrapper


def merge_groups(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return groups in which parameters of equal settings are together, in order of first appearance."""
    merged: dict[str, dict[str, Any]] = {}
    for group in groups:
        settings = {k: v for k, v in group.items() if k != "params"}
        key = repr(sorted(settings.items()))
        if key in merged:
            merged[key]["params"] = [*merged[key]["params"], *group["params"]]
        else:
            merged[key] = {**settings, "params": list(group["params"])}
    return list(merged.values())
