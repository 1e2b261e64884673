"""How long a function takes, averaged over calls."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, ClassVar, TypeVar

from mmx.utils.errors import InvalidValueError

F = TypeVar("F", bound=Callable[..., Any])


class TimeCounter:
    """A decorator or context manager that prints the average time of a function or block.

    Instances of one ``tag`` share their counters.

    Args:
        log_interval: Print every so many calls.
        warmup_interval: Leave out so many first calls.
        with_sync: Wait for the accelerator before reading the clock.
        tag: Name of what is measured.
        logger: Where to print; None is standard output.

    Raises:
        ValueError: ``warmup_interval`` is not positive.
    """

    names: ClassVar[set[str]] = set()
    instance_dict: ClassVar[dict[str, TimeCounter]] = {}

    log_interval: int
    warmup_interval: int
    logger: Any

    def __new__(
        cls,
        log_interval: int = 1,
        warmup_interval: int = 1,
        with_sync: bool = True,
        tag: str | None = None,
        logger: Any = None,
    ) -> TimeCounter:
        if warmup_interval <= 0:
            raise InvalidValueError(
                f"warmup_interval should be greater than 0, got {warmup_interval}"
            )
        if tag is not None and tag in cls.instance_dict:
            return cls.instance_dict[tag]
        instance = super().__new__(cls)
        instance.log_interval = log_interval
        instance.warmup_interval = warmup_interval
        instance.with_sync = with_sync
        instance.tag = tag
        instance.logger = logger
        instance._count = 0
        instance._pure_inf_time = 0.0
        if tag is not None:
            cls.instance_dict[tag] = instance
        return instance

    with_sync: bool
    tag: str | None
    _count: int
    _pure_inf_time: float

    def _now(self) -> float:
        if self.with_sync:
            import torch

            if torch.accelerator.is_available():
                torch.accelerator.synchronize()
        return time.perf_counter()

    def __call__(self, fn: F) -> F:
        if self.tag is None:
            self.tag = fn.__name__

        @functools.wraps(fn)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            start = self._now()
            result = fn(*args, **kwargs)
            self._add(self._now() - start)
            return result

        return wrapper  # type: ignore[return-value]  # the same signature

    def __enter__(self) -> None:
        if self.tag is None:
            raise InvalidValueError(
                "In order to clearly distinguish printing information in different contexts, please specify the tag "
                "parameter"
            )
        self._start = self._now()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._add(self._now() - self._start)

    def _add(self, elapsed: float) -> None:
        self._count += 1
        if self._count >= self.warmup_interval:
            self._pure_inf_time += elapsed
            if self._count % self.log_interval == 0:
                self.print_time(elapsed)

    def print_time(self, elapsed: float | int) -> None:
        """Print the average of all calls since the warm-up, in milliseconds."""
        times = 1000 * self._pure_inf_time / max(1, self._count - self.warmup_interval + 1)
        message = (
            f"[{self.tag}]-time per run averaged in the past {self._count} runs: {times:.1f} ms"
        )
        if self.logger is None:
            print(message, flush=True)
        elif hasattr(self.logger, "info"):
            self.logger.info(message)
        else:
            import logging

            logging.getLogger(str(self.logger)).info(message)
