"""``specml render``: the full spec, with every default and where each value came from."""

from __future__ import annotations

import json

import click

from specml.cli.arguments import parse, spec_and_overrides


@click.command("render")
@spec_and_overrides
@click.option("--json", "as_json", is_flag=True, help="One JSON document, without the comments.")
def command(arguments: tuple[str, ...], as_json: bool) -> None:
    """Print the full spec, with every default and where each value came from; it is itself a valid spec."""
    from specml.load import load
    from specml.load.render import render, values

    loaded = load(*parse(arguments))
    print(
        json.dumps(values(loaded.spec), indent=1, ensure_ascii=False) if as_json else render(loaded),
        end="\n" if as_json else "",
    )
