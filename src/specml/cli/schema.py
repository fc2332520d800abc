"""``specml schema``: the JSON Schema of specs, for editors."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command("schema")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write it to a file.")
def command(output: Path | None) -> None:
    """Print the JSON Schema of specs; the line '# yaml-language-server: $schema=FILE' tells editors of it."""
    from specml.files import write_atomic
    from specml.load.schema import schema

    text = json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"
    if output is None:
        print(text, end="")
        return
    write_atomic(output, text)
    print(f"wrote {output}")
