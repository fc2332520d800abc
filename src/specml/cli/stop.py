"""``specml stop``: stop what is live."""

from __future__ import annotations

import json
from pathlib import Path

import click

from specml.cli.arguments import folder_of, parse, spec_and_overrides

RECORD = ".specml/serving.json"
"""Where the target ``local`` keeps what it started."""


@click.command("stop")
@spec_and_overrides
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def command(arguments: tuple[str, ...], as_json: bool) -> None:
    """Stop what `specml deploy` started, with all its processes."""
    from specml import ledger
    from specml.errors import SpecError
    from specml.load import load

    path, overrides = parse(arguments)
    try:
        loaded = load(path, overrides)
    except SpecError:
        from specml.targets.local import Local

        folder = _with_record(path)
        if folder is None:
            raise
        click.echo(f"The spec can't be read; stopping what {folder / RECORD} names.", err=True)
        name, ran = folder.name, Local().end(folder)
    else:
        folder = loaded.folder
        name, ran = loaded.spec.name, loaded.spec.deployment.target.stop(loaded.spec, folder)
    if ran:  # recorded afterwards: a full disk must not keep anybody from stopping a model
        ledger.append(folder, "stop")
    if as_json:
        print(json.dumps({"schema_version": 1, "name": name, "stopped": ran}))
        return
    print(f"{name}: stopped." if ran else f"{name}: nothing was running.")


def _with_record(path: Path | None) -> Path | None:
    """The project's folder, if a server was started for it; its spec may be broken or gone."""
    folder = folder_of(path)
    return folder if (folder / RECORD).exists() else None
