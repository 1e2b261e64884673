"""What happens when a loss or a gradient is NaN or infinite."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from mmx.dist import all_reduce, get_world_size
from mmx.hooks.hook import Hook
from mmx.registry import HOOKS

if TYPE_CHECKING:
    from mmx.hooks._protocol import RunnerLike

ACTIONS = ("raise", "skip", "rollback")


class NonFiniteError(ArithmeticError, ValueError):
    """A loss or gradient is NaN or infinite.

    Args:
        message: What was found, and where.
        names: Names of the losses or parameters concerned.
    """

    def __init__(self, message: str, names: list[str]) -> None:
        super().__init__(message)
        self.names = names


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """Check losses and gradients before each optimizer step, the same on every rank.

    The check reads one number from the device per optimizer step, which waits for the device to
    finish the backward pass; training without this hook never waits.

    With automatic loss scaling, gradients that overflow are normal: the scaler skips the step and
    lowers its factor. Then only losses are checked.

    Args:
        action: ``'raise'`` ends the run with :class:`NonFiniteError`; ``'skip'`` leaves out the
            step and goes on with the next batch; ``'rollback'`` also puts weights, buffers and
            optimizer back to a copy that is taken every ``interval`` iterations.
        check_gradients: Check gradients as well as losses.
        max_skips: Raise after so many skipped steps in a row; a model that is broken for good
            would otherwise train for nothing.
        interval: Iterations between two copies for ``'rollback'``, kept in the memory of the CPU.

    Raises:
        ValueError: An argument is out of range.
    """

    priority = "VERY_HIGH"

    def __init__(
        self,
        action: str = "raise",
        check_gradients: bool = True,
        max_skips: int = 10,
        interval: int = 100,
    ) -> None:
        if action not in ACTIONS:
            raise ValueError(f"action should be one of {', '.join(ACTIONS)}, but got {action!r}")
        if max_skips < 1 or interval < 1:
            raise ValueError(
                f"max_skips and interval should be at least 1, but got {max_skips} and {interval}"
            )
        self.action = action
        self.check_gradients = check_gradients
        self.max_skips = max_skips
        self.interval = interval
        self.skipped = 0
        self._in_a_row = 0
        self._copy: dict[str, Any] | None = None
        self._undo: list[Callable[[], None]] = []

    def state_dict(self) -> dict[str, Any]:
        """Return how many steps were skipped; the copy is taken anew after a resume."""
        return {"version": 1, "skipped": self.skipped, "in_a_row": self._in_a_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the counts of a resumed run."""
        self.skipped, self._in_a_row = state["skipped"], state["in_a_row"]

    def before_train(self, runner: RunnerLike) -> None:
        """Put the check in front of the optimizer's step."""
        wrappers = (
            dict(runner.optim_wrapper.items())
            if hasattr(runner.optim_wrapper, "items")
            else {"": runner.optim_wrapper}
        )
        for name, wrapper in wrappers.items():
            self._guard(runner, name, wrapper)
        if self.action == "rollback":
            self._take_copy(runner)

    def after_train_iter(
        self,
        runner: RunnerLike,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Any = None,
    ) -> None:
        """Take a copy to roll back to, every ``interval`` iterations."""
        if self.action == "rollback" and self.every_n_train_iters(runner, self.interval):
            self._take_copy(runner)

    def after_run(self, runner: RunnerLike) -> None:
        """Take the check away again."""
        while self._undo:
            self._undo.pop()()
        self._copy = None

    # The check ------------------------------------------------------------------------------

    def _guard(self, runner: RunnerLike, name: str, wrapper: Any) -> None:
        backward, step = wrapper.backward, wrapper.step
        parameters = [p for group in wrapper.optimizer.param_groups for p in group["params"]]
        scaled = getattr(wrapper, "loss_scaler", None) is not None
        # Whether all losses since the last step were finite: stays on the device until the step.
        finite: list[torch.Tensor] = []

        def checked_backward(loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
            finite.append(torch.isfinite(loss.detach()).all())
            backward(loss, *args, **kwargs)

        @functools.wraps(step)  # keeps the mark by which schedulers know that steps are counted
        def checked_step(*args: Any, **kwargs: Any) -> None:
            losses_ok = list(finite)
            finite.clear()
            checks = list(losses_ok)
            if self.check_gradients and not scaled:
                checks += _gradients_are_finite(parameters)
            if _all_ranks_agree(checks):
                self._in_a_row = 0
                step(*args, **kwargs)
                return
            self._act(runner, name, parameters, losses_ok)

        wrapper.backward, wrapper.step = checked_backward, checked_step

        def undo() -> None:
            del wrapper.backward, wrapper.step

        self._undo.append(undo)

    def _act(
        self,
        runner: RunnerLike,
        name: str,
        parameters: list[torch.Tensor],
        losses_ok: list[torch.Tensor],
    ) -> None:
        self.skipped += 1
        self._in_a_row += 1
        message, names = _describe(runner, name, parameters, losses_ok)
        if self.action == "raise":
            raise NonFiniteError(
                f"{message}. The weights are as before this step. Lower the learning rate, clip "
                "gradients (optim_wrapper=dict(clip_grad=dict(max_norm=...))), or let the run go "
                "on with NonFiniteHook(action='skip')",
                names,
            )
        if self._in_a_row >= self.max_skips:
            raise NonFiniteError(f"{message}, for the {self._in_a_row}th time in a row", names)
        if self.action == "rollback":
            self._put_back(runner)
            runner.logger.warning(f"{message}; rolled back to an earlier state")
        else:
            runner.logger.warning(f"{message}; skipped the optimizer's step")

    # Rolling back ---------------------------------------------------------------------------

    def _take_copy(self, runner: RunnerLike) -> None:
        self._copy = {
            "model": _cloned(runner.model.state_dict()),
            "optimizer": _cloned(runner.optim_wrapper.state_dict()),
        }

    def _put_back(self, runner: RunnerLike) -> None:
        if self._copy is None:
            return
        runner.model.load_state_dict(self._copy["model"])
        runner.optim_wrapper.load_state_dict(_cloned(self._copy["optimizer"]))


def _gradients_are_finite(parameters: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return one flag per device and type, without looking at each gradient on the CPU."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return []
    # A norm is NaN or infinite if any element is; overflow of the sum of squares itself is
    # possible only where the gradient would be useless as well.
    norms = torch._foreach_norm(gradients, float("inf"))
    return [torch.isfinite(norm).all() for norm in norms]


def _all_ranks_agree(checks: list[torch.Tensor]) -> bool:
    if not checks and get_world_size() == 1:
        return True
    device = checks[0].device if checks else torch.device("cpu")
    ok = torch.stack([check.to(device) for check in checks]).all() if checks else torch.tensor(True)
    if get_world_size() > 1:
        value = ok.to(torch.int32)
        all_reduce(value, op="min")
        return bool(value.item())
    return bool(ok.item())


def _describe(
    runner: RunnerLike,
    name: str,
    parameters: list[torch.Tensor],
    losses_ok: list[torch.Tensor],
) -> tuple[str, list[str]]:
    where = f"at iteration {runner.iter + 1}" + (f", optimizer {name!r}" if name else "")
    if not all(bool(ok) for ok in losses_ok):
        return f"the loss is not finite {where}", ["loss"]
    own = {id(p) for p in parameters}
    bad = [
        n
        for n, p in runner.model.named_parameters()
        if id(p) in own and p.grad is not None and not bool(torch.isfinite(p.grad).all())
    ]
    if not bad:
        return f"a loss or gradient of another rank is not finite {where}", []
    shown = ", ".join(bad[:5]) + (f" and {len(bad) - 5} more" if len(bad) > 5 else "")
    return f"the gradients of {shown} are not finite {where}", bad


def _cloned(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return type(value)((k, _cloned(v)) for k, v in value.items())
    if isinstance(value, list | tuple):
        return type(value)(_cloned(v) for v in value)
    return value
