"""``mmx plan``: memory and traffic of a run on many ranks, before there are any."""

from __future__ import annotations

import json
from typing import Any

import click

from mmx.cli.options import ManyOptionsCommand, cfg_options, load_config


@click.command(cls=ManyOptionsCommand)
@click.argument("config")
@click.option("--ranks", type=click.IntRange(min=1), required=True, help="Number of processes.")
@click.option("--input-shape", help="Shape of one sample, for activations and times: 3,224,224.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Of a rank; else the config tells.")
@click.option("--link", type=float, default=12.5, show_default=True, help="GB/s to other machines.")
@click.option(
    "--local-link", type=float, default=300.0, show_default=True, help="GB/s in a machine."
)
@click.option("--ranks-per-machine", type=click.IntRange(min=1), default=8, show_default=True)
@click.option("--latency", type=float, default=10.0, show_default=True, help="Of a message, in µs.")
@click.option(
    "--tflops", type=float, default=100.0, show_default=True, help="A rank really reaches."
)
@click.option("--min-efficiency", type=float, default=0.5, show_default=True, help="To go on with.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@cfg_options
def command(
    config: str,
    ranks: int,
    input_shape: str | None,
    batch_size: int | None,
    link: float,
    local_link: float,
    ranks_per_machine: int,
    latency: float,
    tflops: float,
    min_efficiency: float,
    as_json: bool,
    cfg_options: tuple[str, ...],
) -> None:
    """Print what training CONFIG takes on many ranks: memory, bytes sent, and where it stops scaling.

    The model is built on the meta device: nothing is allocated, trained or sent.
    """
    from mmx.analysis.plan import Links

    cfg = load_config(config, cfg_options)
    if min(link, local_link, tflops) <= 0 or latency < 0:
        raise click.UsageError(
            "--link, --local-link and --tflops are positive, --latency is not negative"
        )
    links = Links(link * 1e9, local_link * 1e9, ranks_per_machine, latency * 1e-6, tflops * 1e12)
    try:
        plan = plan_of(cfg, ranks, input_shape, batch_size, links, min_efficiency)
    except (ValueError, TypeError, KeyError, NotImplementedError) as error:
        raise click.ClickException(f"{config} cannot be planned: {error}") from error
    if as_json:
        click.echo(json.dumps(plan.as_dict(), indent=2))
        return
    _show(plan)


def plan_of(
    cfg: Any,
    ranks: int,
    input_shape: str | None,
    batch_size: int | None,
    links: Any,
    min_efficiency: float,
) -> Any:
    """Return the plan of a config, see :func:`mmx.analysis.plan.make_plan`."""
    import torch
    from torch.optim import Optimizer

    from mmx.analysis.plan import gathered_itemsizes, make_plan, optimizer_state
    from mmx.registry import OPTIMIZERS
    from mmx.strategy.building import model_from

    if cfg.get("model") is None:
        raise ValueError("it has no model")
    with torch.device("meta"):
        model = model_from(cfg["model"]).to("meta").train()
    strategy = dict(cfg.get("strategy") or {})
    kind = str(strategy.get("type", "DDPStrategy")).rpartition(".")[2]
    if strategy.get("tensor_parallel"):
        raise ValueError("layers split over ranks (tensor_parallel) cannot be planned yet")
    wrapper = dict(strategy.get("model_wrapper") or cfg.get("model_wrapper_cfg") or {})
    options: dict[str, Any] = {}
    if kind == "FSDPStrategy":
        from mmx.strategy.fsdp import _choice

        gathered, reduced = gathered_itemsizes(wrapper.get("mixed_precision"))
        options = {
            "strategy": "fsdp",
            "chosen": _choice(wrapper, model),
            "reshard_after_forward": bool(wrapper.get("reshard_after_forward", True)),
            "gathered_itemsize": gathered,
            "reduced_itemsize": reduced,
        }
    elif kind in ("DDPStrategy", "SingleDeviceStrategy"):
        options = {
            "bucket_cap": int(wrapper.get("bucket_cap_mb") or 25) << 20,
            "bucket_view": bool(wrapper.get("gradient_as_bucket_view", False)),
        }
    else:
        raise ValueError(f"strategy {kind} is not known here; DDPStrategy and FSDPStrategy are")
    state = (0.0, 0)
    optimizer = (cfg.get("optim_wrapper") or {}).get("optimizer")
    if optimizer is not None:

        def build(parameters: list[Any]) -> Optimizer:
            return OPTIMIZERS.build({**optimizer, "params": parameters})

        state = optimizer_state(build)
    inputs = None
    if input_shape is not None:
        try:
            shape = [int(size) for size in input_shape.replace("x", ",").split(",")]
        except ValueError:
            raise ValueError(f"--input-shape is like 3,224,224, but got {input_shape!r}") from None
        size = batch_size or (cfg.get("train_dataloader") or {}).get("batch_size", 1)
        inputs = [torch.empty(size, *shape, device="meta")]
    return make_plan(
        model,
        ranks,
        state=state,
        inputs=inputs,
        links=links,
        min_efficiency=min_efficiency,
        **options,
    )


def _show(plan: Any) -> None:
    click.echo(f"{plan.parameters:,} parameters, {plan.strategy} on {plan.ranks} ranks")
    click.echo("memory of a rank:")
    for name, value in plan.as_dict()["memory"].items():
        click.echo(f"  {name:<12} {_bytes(value)}")
    click.echo(f"sent by a rank in a step, over each link: {_bytes(plan.traffic.sent)}")
    for name, (calls, size) in plan.traffic.collectives.items():
        click.echo(f"  {name:<14} {calls} calls, {_bytes(size)}")
    click.echo(f"  sending takes {plan.send_s * 1e3:.3f} ms in {plan.traffic.messages} messages")
    if plan.step_s is not None:
        hidden, plain = plan.step_s
        click.echo(f"computing takes {plan.compute_s * 1e3:.3f} ms")
        click.echo(
            f"a step takes {hidden * 1e3:.3f} ms if sending hides behind computing, "
            f"{plain * 1e3:.3f} ms if not ({plan.efficiency:.0%} of it computing)"
        )
        for ranks, efficiency, samples in plan.scaling:
            click.echo(f"  {ranks:>7} ranks  {efficiency:>4.0%}  {samples:,.0f} samples/s")
        if plan.stops_at is None:
            click.echo("it scales as far as this table goes")
        else:
            click.echo(f"it stops scaling at {plan.stops_at} ranks")
    for note in plan.notes:
        click.echo(f"note: {note}")


def _bytes(value: int | None) -> str:
    if value is None:
        return "unknown"
    size = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
