"""``specml stop``: stop what is live."""

from __future__ import annotations

import json

import click

from specml.cli.arguments import parse, spec_and_overrides


@click.command("stop")
@spec_and_overrides
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def command(arguments: tuple[str, ...], as_json: bool) -> None:
    """Stop what `specml deploy` started, with all its processes."""
    from specml.load import load

    loaded = load(*parse(arguments))
    ran = loaded.spec.deployment.target.stop(loaded.folder)
    if as_json:
        print(json.dumps({"schema_version": 1, "name": loaded.spec.name, "stopped": ran}))
        return
    print(f"{loaded.spec.name}: stopped." if ran else f"{loaded.spec.name}: nothing was running.")
