"""``mmx plot log``: curves of one or several runs as a picture."""

from __future__ import annotations

import click


@click.command()
@click.argument("work_dirs", nargs=-1, required=True, metavar="WORK_DIR...")
@click.option(
    "--keys",
    help="Curves to draw, separated by commas: names of scalars, or loss, lr, accuracy "
    "(which are the default).",
)
@click.option("--out", metavar="FILE", help="Picture to write: .png, .svg or .pdf.")
@click.option("--list", "list_only", is_flag=True, help="List the curves that there are.")
def command(work_dirs: tuple[str, ...], keys: str | None, out: str | None, list_only: bool) -> int:
    """Draw curves of the runs in WORK_DIR... into a picture, a panel per key.

    Several runs are compared; the parts of a run that was resumed are one curve.
    """
    from mmx.visualization.curves import CurveNotFoundError, plot_curves, read_scalars

    chosen = [key.strip() for key in keys.split(",") if key.strip()] if keys else None
    try:
        if list_only:
            for work_dir in work_dirs:
                for name, points in read_scalars(work_dir).items():
                    click.echo(f"{work_dir}: {name} ({len(points)} points)")
            return 0
        path = plot_curves(work_dirs, chosen, out)
    except (FileNotFoundError, CurveNotFoundError, ImportError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(path)
    return 0
