"""``specml explore``: what there is to know of the training rows, as one HTML file."""

from __future__ import annotations

from pathlib import Path

import click

from specml.cli.arguments import parse, spec_and_overrides

STAGE = "explore"


@click.command("explore")
@spec_and_overrides
@click.option("-o", "out", type=click.Path(path_type=Path, dir_okay=False), help="Where to; artifacts/explore.html.")
@click.option("--open", "browse", is_flag=True, help="Show it in the browser.")
@click.option("-q", "--quiet", is_flag=True, help="Only where the page is, and errors.")
def command(arguments: tuple[str, ...], out: Path | None, browse: bool, quiet: bool) -> None:
    """Read, check and describe the rows, as far as they are not yet, and draw what was found; nothing is trained."""
    from specml.cli.progress import console
    from specml.cli.report import draw_exploration
    from specml.cli.run import Outcome, Way, carry
    from specml.load import load

    loaded = load(*parse(arguments))
    way = Way(STAGE, single=False, force=False, wait=True, quiet=quiet)
    carry(loaded, Outcome(), console(), way)
    written = draw_exploration(loaded.folder, out)
    print(written)
    if browse:
        click.launch(str(written))
