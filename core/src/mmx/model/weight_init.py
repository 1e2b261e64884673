"""Initialisers of weights, as functions on modules and as registered classes for ``init_cfg``."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmx.logging import print_log
from mmx.registry import WEIGHT_INITIALIZERS, build_from_cfg
from mmx.utils.errors import InvalidTypeError, InvalidValueError


def mean_value(param: Tensor) -> float | complex:
    """Return the mean of a tensor of any type, 0 if it is empty or has no data yet."""
    if param.numel() == 0 or param.is_meta or isinstance(param, nn.UninitializedParameter):
        return 0.0
    data = param.detach()
    if not (data.is_floating_point() or data.is_complex()):
        data = data.double()
    value: float | complex = data.mean().item()
    # Not-a-number is equal to itself here: nobody has changed it.
    return 0.0 if value != value else value


def update_init_info(module: nn.Module, init_info: str) -> None:
    """Note what initialised those parameters of a module whose values have changed.

    Args:
        module: Module with the record that :meth:`BaseModule.init_weights` keeps.
        init_info: Description.

    Raises:
        ValueError: The module has no record, or parameters were added after it was made.
    """
    table = getattr(module, "_params_init_info", None)
    if table is None:
        raise InvalidValueError(f"Can not find `_params_init_info` in {module}")
    for name, param in module.named_parameters():
        if param not in table:
            raise InvalidValueError(
                f"Find a new :obj:`Parameter` named `{name}` during executing the `init_weights` of "
                f"`{module.__class__.__name__}`. Please do not add or replace parameters during executing "
                "the `init_weights`."
            )
        # The mean changes whenever the values do, but for a set of measure zero.
        mean = mean_value(param)
        if table[param]["tmp_mean_value"] != mean:
            table[param]["init_info"] = init_info
            table[param]["tmp_mean_value"] = mean


def _constant_bias(module: nn.Module, bias: float) -> None:
    if getattr(module, "bias", None) is not None:
        nn.init.constant_(module.bias, bias)  # type: ignore[arg-type]  # a parameter


def _weight(module: nn.Module) -> Tensor | None:
    weight: Tensor | None = getattr(module, "weight", None)
    return weight


def constant_init(module: nn.Module, val: float, bias: float = 0) -> None:
    """Fill weight and bias with constants."""
    if (weight := _weight(module)) is not None:
        nn.init.constant_(weight, val)
    _constant_bias(module, bias)


def xavier_init(
    module: nn.Module, gain: float = 1, bias: float = 0, distribution: str = "normal"
) -> None:
    """Glorot and Bengio's initialisation (2010), with a uniform or normal distribution."""
    _check_distribution(distribution)
    if (weight := _weight(module)) is not None:
        if distribution == "uniform":
            nn.init.xavier_uniform_(weight, gain=gain)
        else:
            nn.init.xavier_normal_(weight, gain=gain)
    _constant_bias(module, bias)


def normal_init(module: nn.Module, mean: float = 0, std: float = 1, bias: float = 0) -> None:
    """Draw the weight from a normal distribution."""
    if (weight := _weight(module)) is not None:
        nn.init.normal_(weight, mean, std)
    _constant_bias(module, bias)


def trunc_normal_init(
    module: nn.Module, mean: float = 0, std: float = 1, a: float = -2, b: float = 2, bias: float = 0
) -> None:
    """Draw the weight from a normal distribution cut off at ``a`` and ``b``."""
    if (weight := _weight(module)) is not None:
        trunc_normal_(weight, mean, std, a, b)
    _constant_bias(module, bias)


def uniform_init(module: nn.Module, a: float = 0, b: float = 1, bias: float = 0) -> None:
    """Draw the weight uniformly from ``a`` to ``b``."""
    if (weight := _weight(module)) is not None:
        nn.init.uniform_(weight, a, b)
    _constant_bias(module, bias)


def kaiming_init(
    module: nn.Module,
    a: float = 0,
    mode: str = "fan_out",
    nonlinearity: str = "relu",
    bias: float = 0,
    distribution: str = "normal",
) -> None:
    """He et al.'s initialisation (2015), with a uniform or normal distribution."""
    _check_distribution(distribution)
    if (weight := _weight(module)) is not None:
        draw = nn.init.kaiming_uniform_ if distribution == "uniform" else nn.init.kaiming_normal_
        draw(weight, a=a, mode=mode, nonlinearity=nonlinearity)  # type: ignore[arg-type]  # torch checks the text
    _constant_bias(module, bias)


def caffe2_xavier_init(module: nn.Module, bias: float = 0) -> None:
    """``XavierFill`` of Caffe2, which is He's uniform initialisation with fan-in."""
    kaiming_init(
        module, a=1, mode="fan_in", nonlinearity="leaky_relu", bias=bias, distribution="uniform"
    )


def bias_init_with_prob(prior_prob: float) -> float:
    """Return the bias with which a sigmoid gives a probability at the start of training."""
    return float(-np.log((1 - prior_prob) / prior_prob))


def _check_distribution(distribution: str) -> None:
    if distribution not in ("uniform", "normal"):
        raise InvalidValueError(f"distribution must be 'uniform' or 'normal', got {distribution!r}")


def _get_bases_name(module: nn.Module) -> list[str]:
    return [base.__name__ for base in module.__class__.__bases__]


class BaseInit:
    """Base class of initialisers.

    Args:
        bias: Value of biases.
        bias_prob: Set biases so that a sigmoid gives this probability, instead.
        layer: Class name, or list of such, of the layers to initialise; None is all, with
            ``override`` only what that names.

    Raises:
        TypeError: An argument is of another type.
    """

    def __init__(
        self,
        *,
        bias: float = 0,
        bias_prob: float | None = None,
        layer: str | list[str] | None = None,
    ) -> None:
        self.wholemodule = False
        if not isinstance(bias, (int, float)):
            raise InvalidTypeError(f"bias must be a number, but got a {type(bias)}")
        if bias_prob is not None and not isinstance(bias_prob, float):
            raise InvalidTypeError(f"bias_prob type must be float, but got {type(bias_prob)}")
        if layer is not None and not isinstance(layer, (str, list)):
            raise InvalidTypeError(f"layer must be a str or a list of str, but got a {type(layer)}")
        self.layer: Sequence[str] = [layer] if isinstance(layer, str) else (layer or [])
        self.bias = bias if bias_prob is None else bias_init_with_prob(bias_prob)

    def _get_init_info(self) -> str:
        return f"{self.__class__.__name__}, bias={self.bias}"

    def _init(self, module: nn.Module) -> None:
        """Initialise one layer."""
        raise NotImplementedError

    def __call__(self, module: nn.Module) -> None:
        def init(m: nn.Module) -> None:
            if self.wholemodule:
                self._init(m)
                return
            names = (m.__class__.__name__, *_get_bases_name(m))
            if any(layer in names for layer in self.layer):
                self._init(m)

        module.apply(init)
        if hasattr(module, "_params_init_info"):
            update_init_info(module, init_info=self._get_init_info())


@WEIGHT_INITIALIZERS.register_module(name="Constant")
class ConstantInit(BaseInit):
    """See :func:`constant_init`.

    Args:
        val: Value of weights.
        **kwargs: As for :class:`BaseInit`.
    """

    def __init__(self, val: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.val = val

    def _init(self, module: nn.Module) -> None:
        constant_init(module, self.val, self.bias)

    def _get_init_info(self) -> str:
        return f"{self.__class__.__name__}: val={self.val}, bias={self.bias}"


@WEIGHT_INITIALIZERS.register_module(name="Xavier")
class XavierInit(BaseInit):
    """See :func:`xavier_init`.

    Args:
        gain: Scale.
        distribution: ``'normal'`` or ``'uniform'``.
        **kwargs: As for :class:`BaseInit`.
    """

    def __init__(self, gain: float = 1, distribution: str = "normal", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gain = gain
        self.distribution = distribution

    def _init(self, module: nn.Module) -> None:
        xavier_init(module, self.gain, self.bias, self.distribution)

    def _get_init_info(self) -> str:
        return f"{self.__class__.__name__}: gain={self.gain}, distribution={self.distribution}, bias={self.bias}"


@WEIGHT_INITIALIZERS.register_module(name="Normal")
class NormalInit(BaseInit):
    """See :func:`normal_init`.

    Args:
        mean: Mean.
        std: Standard deviation.
        **kwargs: As for :class:`BaseInit`.
    """

    def __init__(self, mean: float = 0, std: float = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mean = mean
        self.std = std

    def _init(self, module: nn.Module) -> None:
        normal_init(module, self.mean, self.std, self.bias)

    def _get_init_info(self) -> str:
        return f"{self.__class__.__name__}: mean={self.mean}, std={self.std}, bias={self.bias}"


@WEIGHT_INITIALIZERS.register_module(name="TruncNormal")
class TruncNormalInit(BaseInit):
    """See :func:`trunc_normal_init`.

    Args:
        mean: Mean.
        std: Standard deviation.
        a: Lower bound.
        b: Upper bound.
        **kwargs: As for :class:`BaseInit`.
    """

    def __init__(
        self, mean: float = 0, std: float = 1, a: float = -2, b: float = 2, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.mean = mean
        self.std = std
        self.a = a
        self.b = b

    def _init(self, module: nn.Module) -> None:
        trunc_normal_init(module, self.mean, self.std, self.a, self.b, self.bias)

    def _get_init_info(self) -> str:
        return f"{self.__class__.__name__}: a={self.a}, b={self.b}, mean={self.mean}, std={self.std}, bias={self.bias}"


@WEIGHT_INITIALIZERS.register_module(name="Uniform")
class UniformInit(BaseInit):
    """See :func:`uniform_init`.

    Args:
        a: Lower bound.
        b: Upper bound.
        **kwargs: As for :class:`BaseInit`.
    """

    def __init__(self, a: float = 0, b: float = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.a = a
        self.b = b

    def _init(self, module: nn.Module) -> None:
        uniform_init(module, self.a, self.b, self.bias)

    def _get_init_info(self) -> str:
        return f"{self.__class__.__name__}: a={self.a}, b={self.b}, bias={self.bias}"


@WEIGHT_INITIALIZERS.register_module(name="Kaiming")
class KaimingInit(BaseInit):
    """See :func:`kaiming_init`.

    Args:
        a: Slope of the leaky rectifier behind the layer.
        mode: ``'fan_in'`` or ``'fan_out'``.
        nonlinearity: ``'relu'`` or ``'leaky_relu'``.
        distribution: ``'normal'`` or ``'uniform'``.
        **kwargs: As for :class:`BaseInit`.
    """

    def __init__(
        self,
        a: float = 0,
        mode: str = "fan_out",
        nonlinearity: str = "relu",
        distribution: str = "normal",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.a = a
        self.mode = mode
        self.nonlinearity = nonlinearity
        self.distribution = distribution

    def _init(self, module: nn.Module) -> None:
        kaiming_init(module, self.a, self.mode, self.nonlinearity, self.bias, self.distribution)

    def _get_init_info(self) -> str:
        return (
            f"{self.__class__.__name__}: a={self.a}, mode={self.mode}, nonlinearity={self.nonlinearity}, "
            f"distribution ={self.distribution}, bias={self.bias}"
        )


@WEIGHT_INITIALIZERS.register_module(name="Caffe2Xavier")
class Caffe2XavierInit(KaimingInit):
    """See :func:`caffe2_xavier_init`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            a=1, mode="fan_in", nonlinearity="leaky_relu", distribution="uniform", **kwargs
        )


@WEIGHT_INITIALIZERS.register_module(name="Pretrained")
class PretrainedInit:
    """Load the weights of a checkpoint.

    Args:
        checkpoint: Path or address.
        prefix: Load only the part whose keys start with this, without it.
        map_location: Where tensors are loaded to.
    """

    def __init__(
        self, checkpoint: str, prefix: str | None = None, map_location: str | None = "cpu"
    ) -> None:
        self.checkpoint = checkpoint
        self.prefix = prefix
        self.map_location = map_location

    def __call__(self, module: nn.Module) -> None:
        from mmx.checkpoint import _load_checkpoint_with_prefix, load_checkpoint, load_state_dict

        if self.prefix is None:
            print_log(f"load model from: {self.checkpoint}", logger="current")
            load_checkpoint(
                module,
                self.checkpoint,
                map_location=self.map_location,
                strict=False,
                logger="current",
            )
        else:
            print_log(f"load {self.prefix} in model from: {self.checkpoint}", logger="current")
            state_dict = _load_checkpoint_with_prefix(
                self.prefix, self.checkpoint, map_location=self.map_location
            )
            load_state_dict(module, state_dict, strict=False, logger="current")
        if hasattr(module, "_params_init_info"):
            update_init_info(module, init_info=self._get_init_info())

    def _get_init_info(self) -> str:
        return f"{self.__class__.__name__}: load from {self.checkpoint}"


def _initialize(module: nn.Module, cfg: dict[str, Any], wholemodule: bool = False) -> None:
    func = build_from_cfg(cfg, WEIGHT_INITIALIZERS)
    # An override names a module, all of which is meant.
    func.wholemodule = wholemodule
    func(module)


def _initialize_override(
    module: nn.Module, override: dict[str, Any] | list[Any], cfg: dict[str, Any]
) -> None:
    if not isinstance(override, (dict, list)):
        raise InvalidTypeError(
            f"override must be a dict or a list of dict, but got {type(override)}"
        )
    for override_ in [override] if isinstance(override, dict) else override:
        cp_override = copy.deepcopy(override_)
        name = cp_override.pop("name", None)
        if name is None:
            raise InvalidValueError(
                f'`override` must contain the key "name", but got {cp_override}'
            )
        if not cp_override:
            # Only a name: initialise it as `cfg` says.
            cp_override.update(cfg)
        elif "type" not in cp_override:
            raise InvalidValueError(f'`override` need "type" key, but got {cp_override}')
        if not hasattr(module, name):
            raise RuntimeError(
                f"module did not have attribute {name}, but init_cfg is {cp_override}."
            )
        _initialize(getattr(module, name), cp_override, wholemodule=True)


def initialize(module: nn.Module, init_cfg: dict[str, Any] | list[dict[str, Any]]) -> None:
    """Initialise a module as a config says.

    Args:
        module: Module.
        init_cfg: Config of an initialiser, or a list of them. ``layer`` names the classes of the
            layers that it concerns, ``override`` parts of the module that get another treatment.
            With ``override`` and no ``layer``, only the overrides are initialised.

    Raises:
        TypeError: ``init_cfg`` is of another type.
    """
    if not isinstance(init_cfg, (dict, list)):
        raise InvalidTypeError(
            f"init_cfg must be a dict or a list of dict, but got {type(init_cfg)}"
        )
    for cfg in [init_cfg] if isinstance(init_cfg, dict) else init_cfg:
        cp_cfg = copy.deepcopy(dict(cfg))
        override = cp_cfg.pop("override", None)
        _initialize(module, cp_cfg)
        if override is not None:
            cp_cfg.pop("layer", None)
            _initialize_override(module, override, cp_cfg)


def trunc_normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0
) -> Tensor:
    """Fill a tensor from a normal distribution cut off at ``a`` and ``b``, in place.

    By the inverse of the distribution function; see
    https://people.sc.fsu.edu/~jburkardt/presentations/truncated_normal.pdf
    """

    def cdf(x: float) -> float:
        return (1.0 + math.erf(x / math.sqrt(2.0))) / 2.0

    if mean < a - 2 * std or mean > b + 2 * std:
        warnings.warn(
            "mean is more than 2 std from [a, b] in nn.init.trunc_normal_. "
            "The distribution of values may be incorrect.",
            stacklevel=2,
        )
    with torch.no_grad():
        lower, upper = cdf((a - mean) / std), cdf((b - mean) / std)
        tensor.uniform_(2 * lower - 1, 2 * upper - 1)
        tensor.erfinv_()
        tensor.mul_(std * math.sqrt(2.0))
        tensor.add_(mean)
        return tensor.clamp_(min=a, max=b)
