"""Which parameters an optimizer gets, and with which settings."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.optim import Optimizer

from mmx.logging import print_log
from mmx.optim.optimizer.optimizer_wrapper import OptimWrapper
from mmx.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS
from mmx.utils.errors import InvalidTypeError, InvalidValueError

_NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm)
# By name: the packages that have them are not ours to import.
_DEFORMABLE = frozenset({"DeformConv2d", "ModulatedDeformConv2d"})


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class DefaultOptimWrapperConstructor:
    """Builds the optimizer of a model, with settings by kind and name of parameter, and wraps it.

    Without ``paramwise_cfg`` all parameters share the optimizer's settings. With it each
    parameter that requires a gradient has a group of its own, whose learning rate and weight
    decay are those of the optimizer times a coefficient. The first that applies counts:

    - ``custom_keys``: text -> dict. It applies to parameters whose full name contains the text;
      the longest text that matches wins, then the first in alphabetical order. The dict has
      ``lr_mult``, ``decay_mult`` and any other setting of the group.
    - ``dcn_offset_lr_mult``: learning rate of the offset layer of deformable convolutions.
    - ``bias_lr_mult``: learning rate of biases, except those of norms and in deformable
      convolutions.
    - ``norm_decay_mult``: weight decay of weights and biases of batch, instance, group and layer
      norms.
    - ``bias_decay_mult``: weight decay of other biases, except in deformable convolutions.
    - ``dwconv_decay_mult``: weight decay of depth-wise 2-d convolutions.
    - ``flat_decay_mult``: weight decay of other 1-d parameters, except in deformable convolutions.
    - ``lr_mult``, ``decay_mult``: learning rate and weight decay of the rest.

    Two more keys are switches, off by default:

    - ``bypass_duplicate``: skip parameters that occur a second time, which else are an error.
    - ``merge_groups``: parameters with equal settings share a group. The updates are the same;
      with fewer groups they are faster.

    Args:
        optim_wrapper_cfg: Settings of the optimizer wrapper: ``type`` (default
            ``'OptimWrapper'``), ``optimizer`` (a dict with the ``type`` and arguments of the
            optimizer) and arguments of the wrapper.
        paramwise_cfg: See above.

    Raises:
        TypeError: An argument is no dict.
        ValueError: ``optimizer`` is missing, or a coefficient has nothing to multiply.
    """

    #: What ``paramwise_cfg`` may have. A subclass that sets its own has its users warned of others.
    keys: ClassVar[frozenset[str]] = frozenset(
        {
            "lr_mult",
            "decay_mult",
            "bias_lr_mult",
            "bias_decay_mult",
            "norm_decay_mult",
            "flat_decay_mult",
            "dwconv_decay_mult",
            "dcn_offset_lr_mult",
            "bypass_duplicate",
            "custom_keys",
            "merge_groups",
        }
    )

    def __init__(
        self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None
    ) -> None:
        if not isinstance(optim_wrapper_cfg, dict):
            raise InvalidTypeError(
                f"optimizer_cfg should be a dict, but got {type(optim_wrapper_cfg)}"
            )
        if "optimizer" not in optim_wrapper_cfg:
            raise InvalidValueError(
                '`optim_wrapper_cfg` must contain "optimizer" config, for example '
                f"optimizer=dict(type='SGD', lr=0.1), but has {sorted(optim_wrapper_cfg)}"
            )
        self.optim_wrapper_cfg = dict(optim_wrapper_cfg)
        self.optimizer_cfg = self.optim_wrapper_cfg.pop("optimizer")
        if not isinstance(self.optimizer_cfg, dict):
            raise InvalidTypeError(
                "optimizer should be a dict with the type and arguments of an optimizer, but got "
                f"{type(self.optimizer_cfg)}"
            )
        self.paramwise_cfg = {} if paramwise_cfg is None else paramwise_cfg
        self.base_lr = self.optimizer_cfg.get("lr", None)
        self.base_wd = self.optimizer_cfg.get("weight_decay", None)
        self._validate_cfg()
        # Of a walk through the model that is under way.
        self._lines: list[str] | None = None
        self._seen: tuple[list[dict[str, Any]], int, set[int]] = ([], 0, set())

    def _validate_cfg(self) -> None:
        if not isinstance(self.paramwise_cfg, dict):
            raise InvalidTypeError(
                f"paramwise_cfg should be None or a dict, but got {type(self.paramwise_cfg)}"
            )
        custom_keys = self.paramwise_cfg.get("custom_keys", {})
        if not isinstance(custom_keys, dict):
            raise InvalidTypeError(
                f"If specified, custom_keys must be a dict, but got {type(custom_keys)}"
            )
        for key, settings in custom_keys.items():
            if not isinstance(settings, dict):
                raise InvalidTypeError(
                    f"custom_keys[{key!r}] should be a dict such as dict(lr_mult=0.1), but got "
                    f"{settings!r}"
                )
        decays = ("bias_decay_mult", "norm_decay_mult", "dwconv_decay_mult")
        self._need("weight_decay", "base_wd", self.base_wd, (*decays, "decay_mult"))
        if self.base_wd is None and self.paramwise_cfg.get("flat_decay_mult") is not None:
            print_log(
                "flat_decay_mult does nothing: it multiplies the optimizer's weight_decay, and that "
                "is not set",
                logger="current",
                level=logging.WARNING,
            )
        rates = ("bias_lr_mult", "dcn_offset_lr_mult")
        self._need("lr", "base_lr", self.base_lr, (*rates, "lr_mult"))
        if "keys" in vars(type(self)):
            unknown = sorted(set(self.paramwise_cfg) - self.keys)
            if unknown:
                print_log(
                    f"paramwise_cfg has keys that do nothing: {unknown}. Known are "
                    f"{sorted(self.keys)}",
                    logger="current",
                    level=logging.WARNING,
                )

    def _need(self, setting: str, name: str, base: Any, coefficients: tuple[str, ...]) -> None:
        """Raise if there are coefficients, the last of which also in custom keys, and no base."""
        if base is not None:
            return
        used = [key for key in coefficients if self.paramwise_cfg.get(key) is not None]
        used += [
            f"custom_keys[{key!r}]"
            for key, settings in self.paramwise_cfg.get("custom_keys", {}).items()
            if coefficients[-1] in settings
        ]
        if used:
            raise InvalidValueError(
                f"{name} should not be None: paramwise_cfg has {', '.join(used)}, which multiplies "
                f"the optimizer's {setting}, and that is not set"
            )

    def _is_in(self, param_group: dict[str, Any], param_group_list: list[dict[str, Any]]) -> bool:
        """Tell whether a parameter of the group is in one of the groups of the list."""
        groups, number, ids = self._seen
        if groups is not param_group_list or number > len(param_group_list):
            number, ids = 0, set()
        for group in param_group_list[number:]:
            ids.update(map(id, group["params"]))
        self._seen = (param_group_list, len(param_group_list), ids)
        return not ids.isdisjoint(map(id, param_group["params"]))

    def add_params(
        self,
        params: list[dict[str, Any]],
        module: nn.Module,
        prefix: str = "",
        is_dcn_module: int | float | None = None,
    ) -> None:
        """Append the groups of all parameters of a module to ``params``.

        Args:
            params: The list of groups, changed in place.
            module: The module.
            prefix: Name of the module in the model.
            is_dcn_module: Whether the module is part of a deformable convolution.
        """
        outermost = self._lines is None
        if self._lines is None:
            self._lines = []
        try:
            self._add_own_params(params, module, prefix, bool(is_dcn_module))
            is_dcn = any(cls.__name__ in _DEFORMABLE for cls in type(module).__mro__)
            for name, child in module.named_children():
                child_prefix = f"{prefix}.{name}" if prefix else name
                self.add_params(params, child, prefix=child_prefix, is_dcn_module=is_dcn)
        finally:
            if outermost:
                # A record each, as MMEngine logs them, unless they are many: a thousand records take
                # longer than building the optimizer.
                records = self._lines if len(self._lines) <= _MANY else ["\n".join(self._lines)]
                self._lines = None
                for record in records:
                    print_log(record, logger="current")

    def _add_own_params(
        self, params: list[dict[str, Any]], module: nn.Module, prefix: str, is_dcn: bool
    ) -> None:
        bypass_duplicate = self.paramwise_cfg.get("bypass_duplicate", False)
        for name, param in module.named_parameters(recurse=False):
            group: dict[str, Any] = {"params": [param]}
            full_name = f"{prefix}.{name}" if prefix else name
            if bypass_duplicate and self._is_in(group, params):
                print_log(
                    f"{prefix} is duplicate. It is skipped since "
                    f"bypass_duplicate={bypass_duplicate} ({full_name})",
                    logger="current",
                    level=logging.WARNING,
                )
                continue
            if not param.requires_grad:
                print_log(
                    f"{full_name} is skipped since its requires_grad={param.requires_grad}",
                    logger="current",
                    level=logging.WARNING,
                )
                continue
            settings = self._custom_settings(f"{prefix}.{name}")
            if settings is None:
                settings = self._settings_by_kind(name, param, module, prefix, is_dcn)
            settings = self._adjusted(full_name, settings)
            if settings:
                group.update(settings)
                if self._lines is not None:
                    self._lines += [
                        f"paramwise_options -- {full_name}:{key}={value}"
                        for key, value in settings.items()
                    ]
            params.append(group)

    def _adjusted(self, full_name: str, settings: dict[str, Any]) -> dict[str, Any]:
        """Return the settings of a parameter's group; for subclasses to change them."""
        return settings

    def _custom_settings(self, full_name: str) -> dict[str, Any] | None:
        custom_keys = self.paramwise_cfg.get("custom_keys")
        if not custom_keys:
            return None
        matches = [key for key in custom_keys if key in full_name]
        if not matches:
            return None
        chosen = custom_keys[min(matches, key=lambda key: (-len(key), key))]
        settings: dict[str, Any] = {}
        if self.base_lr is not None:
            settings["lr"] = self.base_lr * chosen.get("lr_mult", 1.0)
        if self.base_wd is not None:
            settings["weight_decay"] = self.base_wd * chosen.get("decay_mult", 1.0)
        return {**settings, **chosen}

    def _settings_by_kind(
        self, name: str, param: torch.Tensor, module: nn.Module, prefix: str, is_dcn: bool
    ) -> dict[str, Any]:
        coefficient = self.paramwise_cfg.get
        is_norm = isinstance(module, _NORMS)
        settings: dict[str, Any] = {}

        lr_mult = coefficient("lr_mult")
        bias_lr_mult = coefficient("bias_lr_mult")
        if name == "bias" and not is_norm and not is_dcn and bias_lr_mult is not None:
            lr_mult = bias_lr_mult
        offset_lr_mult = coefficient("dcn_offset_lr_mult")
        if (
            is_dcn
            and offset_lr_mult is not None
            and "conv_offset" in prefix
            and isinstance(module, nn.Conv2d)
        ):
            lr_mult = offset_lr_mult
        if lr_mult is not None:
            settings["lr"] = self.base_lr * lr_mult

        if self.base_wd is None:
            return settings
        norm, bias = coefficient("norm_decay_mult"), coefficient("bias_decay_mult")
        depthwise, flat = coefficient("dwconv_decay_mult"), coefficient("flat_decay_mult")
        if is_norm and norm is not None:
            decay_mult = norm
        elif name == "bias" and not is_dcn and bias is not None:
            decay_mult = bias
        elif (
            depthwise is not None
            and isinstance(module, nn.Conv2d)
            and module.in_channels == module.groups
        ):
            decay_mult = depthwise
        elif param.ndim == 1 and not is_dcn and flat is not None:
            decay_mult = flat
        else:
            decay_mult = coefficient("decay_mult")
        if decay_mult is not None:
            settings["weight_decay"] = self.base_wd * decay_mult
        return settings

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer of the model and wrap it.

        Args:
            model: The model, or a wrapper that holds it as ``module``.
        """
        model = getattr(model, "module", model)
        wrapper_cfg = {"type": "OptimWrapper", **self.optim_wrapper_cfg}
        optimizer_cfg = copy.copy(self.optimizer_cfg)
        cls = self._optimizer_class()
        # Not every optimizer calls it `params`.
        argument = next(iter(inspect.signature(cls).parameters), "params")
        if self.paramwise_cfg:
            groups: list[dict[str, Any]] = []
            self.add_params(groups, model)
            if self.paramwise_cfg.get("merge_groups", False):
                groups = self._merged(groups)
            optimizer_cfg[argument] = groups
            if len(groups) > _MANY and _adds_groups_as_torch_does(cls):
                optimizer_cfg["type"] = _builder_of_many_groups(cls)
        else:
            optimizer_cfg[argument] = model.parameters()
        optimizer = OPTIMIZERS.build(optimizer_cfg)
        wrapper: OptimWrapper = OPTIM_WRAPPERS.build(
            wrapper_cfg, default_args={"optimizer": optimizer}
        )
        return wrapper

    def _optimizer_class(self) -> Any:
        kind = self.optimizer_cfg.get("type")
        if callable(kind):
            return kind
        if not isinstance(kind, str):
            raise InvalidValueError(
                "optimizer should have a `type`, for example dict(type='SGD', lr=0.1), but is "
                f"{self.optimizer_cfg}"
            )
        with OPTIMIZERS.switch_scope_and_registry(self.optimizer_cfg.get("_scope_")) as registry:
            return registry.resolve(kind)

    def _merged(self, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
        base = {"lr": self.base_lr, "weight_decay": self.base_wd}
        base = {name: value for name, value in base.items() if value is not None}
        merged: dict[str, dict[str, Any]] = {}
        for group in groups:
            settings = {**base, **{k: v for k, v in group.items() if k != "params"}}
            # The coefficients have done their work, and would tell equal groups apart.
            settings.pop("lr_mult", None)
            settings.pop("decay_mult", None)
            key = repr(sorted(settings.items()))
            if key in merged:
                merged[key]["params"].extend(group["params"])
            else:
                merged[key] = {"params": list(group["params"]), **settings}
        return list(merged.values())


# From this many groups on, torch's own check for duplicates, whose time grows with the square of
# their number, takes longer than building the optimizer; and so do as many records in the log.
_MANY = 64


def _adds_groups_as_torch_does(cls: Any) -> bool:
    return (
        isinstance(cls, type)
        and issubclass(cls, Optimizer)
        and cls.add_param_group is Optimizer.add_param_group
    )


def _builder_of_many_groups(cls: type[Optimizer]) -> Callable[..., Optimizer]:
    """Return a function that builds the optimizer in time linear in the number of groups."""

    def build(*args: Any, **kwargs: Any) -> Optimizer:
        optimizer: Any = cls.__new__(cls)
        seen: set[int] = set()

        def add(group: dict[str, Any]) -> None:
            # torch compares a new group to all earlier ones: it gets to see none.
            earlier = optimizer.param_groups
            optimizer.param_groups = []
            try:
                Optimizer.add_param_group(optimizer, group)
                added = optimizer.param_groups
            finally:
                optimizer.param_groups = earlier
            ids = {id(param) for item in added for param in item["params"]}
            if not seen.isdisjoint(ids):
                raise InvalidValueError("some parameters appear in more than one parameter group")
            seen.update(ids)
            earlier.extend(added)

        optimizer.__dict__["add_param_group"] = add
        try:
            optimizer.__init__(*args, **kwargs)
        finally:
            del optimizer.__dict__["add_param_group"]
        built: Optimizer = optimizer
        return built

    build.__name__ = build.__qualname__ = cls.__name__
    build.__module__ = cls.__module__
    return build
