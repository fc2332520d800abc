"""``specml report``: what the last run came to, as one HTML file."""

from __future__ import annotations

from pathlib import Path

import click

from specml.cli.arguments import parse, spec_and_overrides


@click.command("report")
@spec_and_overrides
@click.option("-o", "out", type=click.Path(path_type=Path, dir_okay=False), help="Where to; artifacts/report.html.")
@click.option("--open", "browse", is_flag=True, help="Show it in the browser.")
def command(arguments: tuple[str, ...], out: Path | None, browse: bool) -> None:
    """Draw the report on the last run from its files; nothing is run."""
    from specml.load import load

    written = draw(load(*parse(arguments)).folder, out)
    print(written)
    if browse:
        click.launch(str(written))


def draw(folder: Path, out: Path | None = None) -> Path:
    """Write the report on the project in ``folder``; returns where it is.

    Raises:
        SpecmlError: no run got as far as the gates' verdicts.
    """
    from specml import report
    from specml.files import write_atomic

    path = out or folder / report.OUT
    write_atomic(path, report.html(folder))
    return path


def draw_exploration(folder: Path, out: Path | None = None) -> Path:
    """Write the page about the training rows of the project in ``folder``; returns where it is.

    Raises:
        SpecmlError: the stage ``explore`` has not run.
    """
    from specml import report
    from specml.files import write_atomic

    path = out or folder / report.EXPLORATION
    write_atomic(path, report.exploration(folder))
    return path
