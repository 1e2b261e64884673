"""Modules that know how to initialise themselves."""

from __future__ import annotations

import copy
import logging
from abc import ABCMeta
from collections import defaultdict
from collections.abc import Iterable
from contextlib import nullcontext
from logging import FileHandler
from typing import Any

from torch import nn

from mmx.dist import master_only
from mmx.logging import MMLogger, print_log
from mmx.model.weight_init import PretrainedInit, initialize, mean_value, update_init_info
from mmx.model.wrappers.utils import is_model_wrapper
from mmx.utils.errors import InvalidTypeError

InitCfg = dict[str, Any] | list[dict[str, Any]] | None


def _checked(init_cfg: Any, owner: str) -> list[dict[str, Any]]:
    """Return the configs of a module's initialisers.

    Raises:
        TypeError: ``init_cfg`` is neither a dict nor a list of dicts.
        KeyError: One names no initialiser.
    """
    configs = [init_cfg] if isinstance(init_cfg, dict) else init_cfg
    if not isinstance(configs, (list, tuple)) or not all(isinstance(c, dict) for c in configs):
        raise InvalidTypeError(
            f"init_cfg of {owner} must be a dict or a list of dict, but got {init_cfg!r}"
        )
    for cfg in configs:
        if "type" not in cfg:
            raise KeyError(f'init_cfg of {owner} should have the key "type", but got {cfg}')
    return list(configs)


class BaseModule(nn.Module, metaclass=ABCMeta):
    """A module whose ``init_cfg`` says how its parameters, and those of its parts, are initialised.

    :meth:`init_weights` of the outermost module initialises everything once, from the outside in:
    first what its own ``init_cfg`` says, then each child's own ``init_weights``. What initialised
    each parameter is recorded and written to the log file.

    Args:
        init_cfg: One config of an initialiser, or a list of them, applied in order.
    """

    def __init__(self, init_cfg: InitCfg = None) -> None:
        super().__init__()
        self._is_init = False
        self.init_cfg = copy.deepcopy(init_cfg)

    @property
    def is_init(self) -> bool:
        """Whether :meth:`init_weights` has been called."""
        return self._is_init

    @is_init.setter
    def is_init(self, value: bool) -> None:
        self._is_init = value

    def init_weights(self) -> None:
        """Initialise the parameters, once; a second call warns and does nothing."""
        # Only the outermost module has no record yet: it makes one for all parameters.
        is_top_level_module = not hasattr(self, "_params_init_info")
        if is_top_level_module:
            self._params_init_info: defaultdict[nn.Parameter, dict[str, Any]] = defaultdict(dict)
            for name, param in self.named_parameters():
                self._params_init_info[param]["init_info"] = (
                    f"The value is the same before and after calling `init_weights` of {self.__class__.__name__} "
                )
                self._params_init_info[param]["tmp_mean_value"] = mean_value(param)
                self._params_init_info[param]["param_name"] = name
            # One table for the whole tree, which initialisers of children write into.
            for module in self.modules():
                module._params_init_info = self._params_init_info  # type: ignore[assignment]  # a plain attribute
        module_name = self.__class__.__name__
        pretrained: list[dict[str, Any]] = []
        if not self._is_init:
            if self.init_cfg:
                print_log(
                    f"initialize {module_name} with init_cfg {self.init_cfg}",
                    logger="current",
                    level=logging.DEBUG,
                )
                # Pretrained weights come last, over whatever else an initialiser would do.
                others: list[dict[str, Any]] = []
                for cfg in _checked(self.init_cfg, module_name):
                    is_pretrained = cfg["type"] in ("Pretrained", PretrainedInit)
                    (pretrained if is_pretrained else others).append(cfg)
                initialize(self, others)
            for child in self.children():
                if is_model_wrapper(child) and not hasattr(child, "init_weights"):
                    child = child.module  # type: ignore[assignment]  # wrappers have one
                init_weights = getattr(child, "init_weights", None)
                if init_weights is not None and not getattr(child, "is_init", False):
                    init_weights()
                    # Noted only where the values changed without an initialiser's own note.
                    update_init_info(
                        child,
                        init_info=f"Initialized by user-defined `init_weights` in {child.__class__.__name__} ",
                    )
            if self.init_cfg and pretrained:
                initialize(self, pretrained)
            self._is_init = True
        else:
            print_log(
                f"init_weights of {self.__class__.__name__} has been called more than once.",
                logger="current",
                level=logging.WARNING,
            )
        if is_top_level_module:
            self._dump_init_info()
            for module in self.modules():
                del module._params_init_info

    @master_only
    def _dump_init_info(self) -> None:
        """Write what initialised each parameter to the log files, or else to the log."""
        logger = MMLogger.get_current_instance()
        notes = [
            f"\n{name} - {param.shape}: \n{self._params_init_info[param]['init_info']} \n"
            for name, param in self.named_parameters()
        ]
        text = "".join(["Name of parameter - Initialization information\n", *notes])
        files = [handler for handler in logger.handlers if isinstance(handler, FileHandler)]
        for handler in files:
            # As plain text: with time and level before each line it could not be read.
            with handler.lock or nullcontext():
                if handler.stream is None:  # opened with delay=True
                    handler.stream = handler._open()
                handler.stream.write(text)
                handler.stream.flush()
        if not files:
            for note in notes:
                logger.info(note + " ")

    def __repr__(self) -> str:
        text = super().__repr__()
        if self.init_cfg:
            text += f"\ninit_cfg={self.init_cfg}"
        return text


class Sequential(BaseModule, nn.Sequential):
    """:class:`torch.nn.Sequential` with ``init_cfg``."""

    def __init__(self, *args: Any, init_cfg: InitCfg = None) -> None:
        BaseModule.__init__(self, init_cfg)
        nn.Sequential.__init__(self, *args)
        self._is_init, self.init_cfg = False, copy.deepcopy(init_cfg)


class ModuleList(BaseModule, nn.ModuleList):
    """:class:`torch.nn.ModuleList` with ``init_cfg``."""

    def __init__(
        self, modules: Iterable[nn.Module] | None = None, init_cfg: InitCfg = None
    ) -> None:
        BaseModule.__init__(self, init_cfg)
        nn.ModuleList.__init__(self, modules)
        self._is_init, self.init_cfg = False, copy.deepcopy(init_cfg)


class ModuleDict(BaseModule, nn.ModuleDict):
    """:class:`torch.nn.ModuleDict` with ``init_cfg``."""

    def __init__(
        self, modules: dict[str, nn.Module] | None = None, init_cfg: InitCfg = None
    ) -> None:
        BaseModule.__init__(self, init_cfg)
        nn.ModuleDict.__init__(self, modules)
        self._is_init, self.init_cfg = False, copy.deepcopy(init_cfg)
