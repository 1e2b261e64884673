"""``mmx train``, ``mmx val`` and ``mmx test``."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmx.cli.options import ManyOptionsCommand, cfg_options, load_config
from mmx.registry import configure_plugins

if TYPE_CHECKING:
    from mmx.runner import Runner


BATCHES = click.IntRange(min=1)


@click.command(cls=ManyOptionsCommand)
@click.argument("config")
@click.option("--work-dir", metavar="DIR", help="Where logs and checkpoints go.")
@click.option(
    "--resume",
    is_flag=False,
    flag_value="auto",
    metavar="[auto|PATH]",
    help="Go on from a checkpoint; 'auto', or no value, takes the latest one in the work directory.",
)
@click.option("--amp", is_flag=True, help="Train in mixed precision.")
@click.option("--auto-scale-lr", is_flag=True, help="Scale the learning rate with the batch size.")
@click.option("--seed", type=int, help="Seed of all random numbers.")
@click.option("--load-from", metavar="PATH", help="Start from the weights of a checkpoint.")
@click.option(
    "--launcher",
    type=click.Choice(["none", "pytorch", "slurm", "mpi"]),
    help="How the processes of a distributed run were started.",
)
@click.option("--strict", is_flag=True, help="Treat unknown keys of the config as errors.")
@click.option("--no-check", is_flag=True, help="Do not check the config before it runs.")
@click.option(
    "--fast-dev-run",
    type=BATCHES,
    is_flag=False,
    flag_value=1,
    metavar="[N]",
    help="Train, validate, save, resume and test on N batches (1 without a number); keep nothing.",
)
@click.option(
    "--overfit-batches",
    type=BATCHES,
    metavar="N",
    help="Train and validate on the same N batches.",
)
@click.option(
    "--limit-train-batches", type=BATCHES, metavar="N", help="Train on N batches an epoch."
)
@click.option("--limit-val-batches", type=BATCHES, metavar="N", help="Validate on N batches.")
@cfg_options
def train(
    config: str,
    work_dir: str | None,
    resume: str | None,
    amp: bool,
    auto_scale_lr: bool,
    seed: int | None,
    load_from: str | None,
    launcher: str | None,
    strict: bool,
    no_check: bool,
    fast_dev_run: int | None,
    overfit_batches: int | None,
    limit_train_batches: int | None,
    limit_val_batches: int | None,
    cfg_options: tuple[str, ...],
) -> int:
    """Train the model of CONFIG: a file, or PACKAGE::FILE that a plugin ships."""
    cfg = load_config(config, cfg_options)
    configure_plugins(cfg.get("plugins"))
    _set_work_dir(cfg, work_dir, config)
    if amp:
        _use_amp(cfg)
    if auto_scale_lr:
        _use_auto_scale_lr(cfg, config)
    if seed is not None:
        cfg.randomness = {**cfg.get("randomness", {}), "seed": seed}
    if launcher is not None:
        cfg.launcher = launcher
    if load_from is not None:
        cfg.load_from = load_from
    if resume == "auto":
        cfg.resume, cfg.load_from = True, None
    elif resume is not None:
        cfg.resume, cfg.load_from = True, resume
    if not no_check:
        check(cfg, strict=strict)
    trial = {
        "fast_dev_run": fast_dev_run,
        "overfit_batches": overfit_batches,
        "limit_train_batches": limit_train_batches,
        "limit_val_batches": limit_val_batches,
    }
    chosen = {key: value for key, value in trial.items() if value is not None}
    if chosen:
        from mmx.runner.trial import TrialError, run_trial

        try:
            run_trial(cfg, **chosen)
        except TrialError as error:
            raise click.ClickException(str(error)) from error
        return 0
    runner = build_runner(cfg)
    show_on_terminal(runner, cfg)
    runner.train()
    return 0


@click.command(cls=ManyOptionsCommand)
@click.argument("config")
@click.argument("checkpoint", required=False)
@click.option("--work-dir", metavar="DIR", help="Where logs and results go.")
@click.option("--no-check", is_flag=True, help="Do not check the config before it runs.")
@click.option("--limit-val-batches", type=BATCHES, metavar="N", help="Validate on N batches.")
@cfg_options
def val(
    config: str,
    checkpoint: str | None,
    work_dir: str | None,
    no_check: bool,
    limit_val_batches: int | None,
    cfg_options: tuple[str, ...],
) -> int:
    """Validate the model of CONFIG, with the weights of CHECKPOINT, on the validation set."""
    limits = {"val": limit_val_batches}
    runner = _evaluation_runner(
        config, checkpoint, work_dir, cfg_options, limits=limits, no_check=no_check
    )
    _print_metrics(runner.val())
    return 0


@click.command(cls=ManyOptionsCommand)
@click.argument("config")
@click.argument("checkpoint")
@click.option("--work-dir", metavar="DIR", help="Where logs and results go.")
@click.option("--out", metavar="FILE", help="Save the predictions to this .pkl file.")
@click.option("--tta", is_flag=True, help="Average over augmented copies of each input.")
@click.option("--no-check", is_flag=True, help="Do not check the config before it runs.")
@click.option("--limit-test-batches", type=BATCHES, metavar="N", help="Test on N batches.")
@cfg_options
def test(
    config: str,
    checkpoint: str,
    work_dir: str | None,
    out: str | None,
    tta: bool,
    no_check: bool,
    limit_test_batches: int | None,
    cfg_options: tuple[str, ...],
) -> int:
    """Test the model of CONFIG with the weights of CHECKPOINT on the test set."""
    limits = {"test": limit_test_batches}
    runner = _evaluation_runner(
        config,
        checkpoint,
        work_dir,
        cfg_options,
        limits=limits,
        no_check=no_check,
        out=out,
        tta=tta,
    )
    _print_metrics(runner.test())
    return 0


def _evaluation_runner(
    config: str,
    checkpoint: str | None,
    work_dir: str | None,
    overrides: tuple[str, ...],
    *,
    limits: dict[str, int | None],
    no_check: bool,
    out: str | None = None,
    tta: bool = False,
) -> Runner:
    cfg = load_config(config, overrides)
    configure_plugins(cfg.get("plugins"))
    _set_work_dir(cfg, work_dir, config)
    if checkpoint is not None:
        if "://" not in checkpoint and not os.path.exists(checkpoint):
            raise click.ClickException(f"there is no checkpoint {checkpoint!r}")
        cfg.load_from = checkpoint
    cfg.resume = False
    if out is not None:
        if not out.endswith((".pkl", ".pickle")):
            raise click.ClickException(f"--out writes a pickle file: name it *.pkl, not {out!r}")
        evaluator = cfg.get("test_evaluator") or []
        evaluators = evaluator if isinstance(evaluator, list) else [evaluator]
        cfg.test_evaluator = [*evaluators, dict(type="mmx.DumpResults", out_file_path=out)]
    if tta:
        if "tta_model" not in cfg or "tta_pipeline" not in cfg:
            raise click.ClickException(
                f"{config} sets no tta_model and tta_pipeline, which --tta needs"
            )
        cfg.model = {**cfg.tta_model, "module": cfg.model}
        if cfg.get("test_dataloader") is None:
            raise click.ClickException(f"{config} sets no test_dataloader")
        dataset = cfg.test_dataloader["dataset"]
        # Wrappers such as RepeatDataset hold the data set that has the pipeline.
        while "dataset" in dataset:
            dataset = dataset["dataset"]
        dataset["pipeline"] = cfg.tta_pipeline
    if not no_check:
        check(cfg, strict=False)
    if any(limits.values()):
        from mmx.runner import limit_batches

        cfg = limit_batches(cfg, **limits)
    return build_runner(cfg)


def check(cfg: Any, *, strict: bool) -> None:
    """Check a config before anything is built, say what is odd about it, and exit if it is wrong.

    Raises:
        click.ClickException: There are errors; the report names key, file, line and near names,
            and has the warnings as well.
    """
    from mmx.config.check import ConfigCheckError, check_config, report
    from mmx.config.keys import UnknownKeyWarning

    findings = check_config(cfg, strict)
    name = getattr(cfg, "filename", None) or "config"
    if any(finding.is_error for finding in findings):
        raise click.ClickException(str(ConfigCheckError(findings, filename=name)))
    if findings and _is_first_process():
        click.echo(f"{name}: {report(findings)}", err=True)
    # The report has said it, and where.
    warnings.simplefilter("ignore", UnknownKeyWarning)


def _is_first_process() -> bool:
    """Tell by the variables of launchers, as the processes do not know of each other yet."""
    ranks = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK")
    return all(os.environ.get(rank, "0") == "0" for rank in ranks)


def build_runner(cfg: Any) -> Runner:
    """Build the runner that ``runner_type`` names, or the usual one."""
    if "runner_type" in cfg:
        from mmx.registry import RUNNERS

        return RUNNERS.build(cfg)
    from mmx.runner import Runner

    return Runner.from_cfg(cfg)


def show_on_terminal(runner: Runner, cfg: Any) -> None:
    """Greet a person at a terminal with the run's facts, and show its progress; else do nothing."""
    from mmx.logging import terminal

    if not terminal.is_terminal() or runner.rank != 0:
        return
    import shutil

    import torch

    from mmx.device import get_device
    from mmx.logging.banner import model_summary, run_facts, startup_banner
    from mmx.version import __version__

    width = shutil.get_terminal_size().columns
    wrapper = cfg.get("optim_wrapper") or {}
    kind = wrapper.get("type", "OptimWrapper") if isinstance(wrapper, dict) else ""
    facts = run_facts(
        version=__version__,
        torch_version=torch.__version__,
        experiment=runner.experiment_name,
        work_dir=runner.work_dir,
        device=get_device(),
        world_size=runner.world_size,
        precision="mixed" if "Amp" in str(kind) else "float32",
        seed=runner.seed,
    )
    click.echo(startup_banner(facts, width=width))
    click.echo(model_summary(runner.model, width=width))
    if "progress" not in (cfg.get("default_hooks") or {}):
        runner.register_hook({"type": "mmx.ProgressHook"})


def _set_work_dir(cfg: Any, work_dir: str | None, config: str) -> None:
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get("work_dir") is None:
        cfg.work_dir = os.path.join("work_dirs", Path(config.rpartition("::")[2]).stem)


def _use_amp(cfg: Any) -> None:
    wrapper = cfg.get("optim_wrapper") or {}
    kind = wrapper.get("type", "OptimWrapper")
    if kind not in ("OptimWrapper", "AmpOptimWrapper"):
        raise click.ClickException(
            f"--amp replaces OptimWrapper, but optim_wrapper.type is {kind!r}"
        )
    settings = {"type": "AmpOptimWrapper"}
    if kind == "OptimWrapper":
        settings["loss_scale"] = "dynamic"
    cfg.optim_wrapper = {**wrapper, **settings}


def _use_auto_scale_lr(cfg: Any, config: str) -> None:
    if "base_batch_size" not in (cfg.get("auto_scale_lr") or {}):
        raise click.ClickException(
            f"{config} sets no auto_scale_lr.base_batch_size, which --auto-scale-lr scales by"
        )
    cfg.auto_scale_lr = {**cfg.auto_scale_lr, "enable": True}


def _print_metrics(metrics: dict[str, Any] | None) -> None:
    for name, value in (metrics or {}).items():
        click.echo(f"{name}: {value:.4f}" if isinstance(value, float) else f"{name}: {value}")
