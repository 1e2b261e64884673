"""``mmx plan``: memory and traffic of a run on many ranks, before there are any."""

from __future__ import annotations

import json
import logging
from typing import Any

import click

from mmx.cli.options import ManyOptionsCommand, cfg_options, load_config

_POSITIVE = click.FloatRange(min=0, min_open=True)

_MEMORY = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "buffers": "for sending",
    "activations": "activations",
    "total": "together",
}
_TRAFFIC = {
    "data": "gradients and weights",
    "copies": "gradients between copies",
    "statistics": "batch statistics",
    "tensor": "activations of split layers",
    "optimizer": "clipping and stepping",
}


@click.command(cls=ManyOptionsCommand)
@click.argument("config")
@click.option("--ranks", type=click.IntRange(min=1), required=True, help="Number of processes.")
@click.option(
    "--input-shape",
    "input_shapes",
    multiple=True,
    metavar="SHAPE[:DTYPE]",
    help="Shape of one sample, for activations and times: 3,224,224 or 512:int64. Once for each "
    "input of the model.",
)
@click.option("--data", is_flag=True, help="Take samples of train_dataloader, and the real loss.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Of a rank; else the config tells.")
@click.option("--memory-gb", type=_POSITIVE, help="Memory of a device: does it fit?")
@click.option(
    "--link", type=_POSITIVE, default=12.5, show_default=True, help="GB/s of a rank to others."
)
@click.option(
    "--local-link", type=_POSITIVE, default=300.0, show_default=True, help="GB/s in a machine."
)
@click.option(
    "--host-link", type=_POSITIVE, default=25.0, show_default=True, help="GB/s to the host (PCIe)."
)
@click.option("--ranks-per-machine", type=click.IntRange(min=1), default=8, show_default=True)
@click.option(
    "--latency",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    help="Of a message, in µs.",
)
@click.option(
    "--tflops", type=_POSITIVE, default=100.0, show_default=True, help="A rank really reaches."
)
@click.option(
    "--min-efficiency",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Part of the time computing below which scaling has stopped.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@cfg_options
def command(
    config: str,
    ranks: int,
    input_shapes: tuple[str, ...],
    data: bool,
    batch_size: int | None,
    memory_gb: float | None,
    link: float,
    local_link: float,
    host_link: float,
    ranks_per_machine: int,
    latency: float,
    tflops: float,
    min_efficiency: float,
    as_json: bool,
    cfg_options: tuple[str, ...],
) -> None:
    """Print what training CONFIG takes on many ranks: memory, bytes sent, and where it stops scaling.

    The model is built without memory for its weights: nothing is trained or sent.
    """
    from mmx.analysis.plan import Links, plan_config
    from mmx.logging import MMLogger

    links = Links(
        link=link * 1e9,
        local_link=local_link * 1e9,
        ranks_per_machine=ranks_per_machine,
        latency_s=latency * 1e-6,
        flops=tflops * 1e12,
        host_link=host_link * 1e9,
    )
    # Those who build models and optimizers tell of it as if training began, where JSON is to stand.
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel("ERROR")
    logging.disable(logging.WARNING)
    try:
        cfg = load_config(config, cfg_options)
        plan = plan_config(
            cfg,
            ranks,
            input_shapes=input_shapes,
            data=data,
            batch_size=batch_size,
            links=links,
            min_efficiency=min_efficiency,
            memory_limit=None if memory_gb is None else int(memory_gb * 1e9),
        )
    except (ValueError, TypeError, LookupError, ImportError) as error:
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        raise click.ClickException(f"{config} cannot be planned: {text}") from error
    finally:
        logger.setLevel(level)
        logging.disable(logging.NOTSET)
    click.echo(json.dumps(plan.as_dict(), indent=2) if as_json else "\n".join(lines_of(plan)))


def lines_of(plan: Any) -> list[str]:
    """Return a plan as text."""
    lines = [
        _heading(plan),
        "",
        f"Memory of a rank{'' if plan.host is None else chr(39) + 's device'}",
    ]
    lines += _memory(plan.memory)
    if plan.host is not None:
        lines += ["", "Memory of its host", *_memory(plan.host)]
    if plan.memory_limit is not None:
        lines.append(f"  {_fit(plan)}")
    lines += ["", "Sent by a rank in a step, over each link of its ring"]
    for name, traffic in plan.traffic.items():
        lines.append(
            f"  {_TRAFFIC[name]:<28}{_bytes(traffic.sent)}, {_times(traffic.messages, 'message')}"
        )
        for kind, (calls, size) in traffic.collectives.items():
            lines.append(f"    {kind:<26}{_times(calls, 'call')} on {_bytes(size)}")
    if not plan.traffic:
        lines.append("  nothing")
    if plan.transfers is not None:
        to_device, to_host = (_bytes(plan.transfers[key]) for key in ("to_device", "to_host"))
        lines.append(f"  host to device              {to_device}")
        lines.append(f"  device to host              {to_host}")
    if plan.step_s is not None:
        lines += ["", *_time(plan)]
    if plan.notes:
        lines += ["", *(f"note: {note}" for note in plan.notes)]
    return lines


def _heading(plan: Any) -> str:
    text = f"{plan.parameters:,} parameters, {plan.strategy} on {_times(plan.ranks, 'rank')}"
    if plan.tensor_ranks > 1:
        text += f" ({plan.data_ranks} times {plan.tensor_ranks} that share layers)"
    if plan.batch_size is not None:
        text += f", {_times(plan.batch_size, 'sample')} each"
        if plan.accumulation > 1:
            text += f" in each of {plan.accumulation} iterations of a step"
    return text


def _memory(memory: Any) -> list[str]:
    values = {name: getattr(memory, name) for name in _MEMORY}
    return [f"  {_MEMORY[name]:<28}{_bytes(value)}" for name, value in values.items()]


def _fit(plan: Any) -> str:
    limit = _bytes(plan.memory_limit)
    least = (
        "no number of ranks is enough"
        if plan.least_ranks is None
        else f"it does from {_times(plan.least_ranks, 'rank')} on"
    )
    if plan.memory.activations is None:
        if plan.fits is False:
            return f"does not fit into {limit}, even without activations; {least} without them"
        return f"fits into {limit} if activations take no more than what is left; {least} at best"
    return f"{'fits' if plan.fits else 'does not fit'} into {limit}; {least}"


def _time(plan: Any) -> list[str]:
    hidden, plain = plan.step_s
    lines = [
        "Time of a step",
        f"  {'computing':<28}{_seconds(plan.compute_s)} for {_count(plan.flops)} operations",
        f"  {'sending':<28}{_seconds(plan.send_s)}",
    ]
    if plan.recomputed_flops is not None:
        lines.insert(
            2,
            f"    {'of it again':<26}{plan.recomputed_flops / plan.flops:.0%}, to keep "
            f"{_bytes(plan.saved_activations)} less",
        )
    if plan.transfers is not None:
        lines.append(f"  {'host and device':<28}{_seconds(plan.transfer_s)}")
    lines += [
        f"  {'together':<28}{_seconds(plain)}, {plan.efficiency:.0%} of it computing",
        f"  {'if sending hides':<28}{_seconds(hidden)}",
        "",
        "Scaling         computing     samples/s",
    ]
    for point in plan.scaling:
        reached = f"{point.samples_per_s:,.{0 if point.samples_per_s >= 100 else 1}f}"
        lines.append(
            f"  {point.ranks:>7,} {'rank ' if point.ranks == 1 else 'ranks'}  "
            f"{point.efficiency:>8.0%}  {reached:>12}{'  does not fit' * (point.fits is False)}"
        )
    if plan.stops_at is not None:
        lines.append(f"  it stops scaling at {_times(plan.stops_at, 'rank')}")
    elif len(plan.scaling) > 1:
        lines.append("  it scales as far as this table goes")
    return lines


def _times(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _scaled(value: float, units: tuple[str, ...]) -> str:
    for unit in units[:-1]:
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} {units[-1]}"


def _bytes(value: int | None) -> str:
    return "unknown" if value is None else _scaled(value, ("B", "kB", "MB", "GB", "TB"))


def _count(value: int) -> str:
    return _scaled(value, ("single", "thousand", "million", "billion", "trillion"))


def _seconds(value: float) -> str:
    return _scaled(value * 1e6, ("µs", "ms", "s"))
