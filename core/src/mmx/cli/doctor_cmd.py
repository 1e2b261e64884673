"""``mmx doctor``: look for what is wrong before a run."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.option(
    "--mmengine",
    "path",
    metavar="PATH",
    required=True,
    type=click.Path(exists=True, path_type=Path),
    help="A code base, or one of its files, written for MMEngine.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(path: Path, as_json: bool) -> int:
    """Look through code and configs written for MMEngine for what does not run on mmx.

    Nothing of them is imported. Exit with 1 if something does not run.
    """
    from mmx.cli.doctor.examine import examine
    from mmx.cli.doctor.names import NotInstalledError

    try:
        report = examine(path)
    except NotInstalledError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        facts = {
            "files": report.num_files,
            "errors": report.num_errors,
            "findings": [finding.facts() for finding in report.findings],
        }
        click.echo(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        for finding in report.findings:
            click.echo(str(finding))
        others = len(report.findings) - report.num_errors
        click.echo(
            f"{_counted(report.num_files, 'file')} read: {_counted(report.num_errors, 'error')}, "
            f"{_counted(others, 'warning')}"
        )
    return 1 if report.num_errors else 0


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
