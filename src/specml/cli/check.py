"""``specml check``: whether a spec is valid."""

from __future__ import annotations

import json
import sys

import click

from specml.cli.arguments import parse, spec_and_overrides


@click.command("check")
@spec_and_overrides
@click.option("--json", "as_json", is_flag=True, help="One JSON document, problems included.")
def command(arguments: tuple[str, ...], as_json: bool) -> None:
    """Say whether a spec is valid, and every problem if not."""
    from specml.errors import SpecError
    from specml.load import load

    path, overrides = parse(arguments)
    try:
        loaded = load(path, overrides)
    except SpecError as error:
        if not as_json:
            raise
        problems = [vars(problem) for problem in error.problems]
        print(json.dumps({"schema_version": 1, "valid": False, "problems": problems}, indent=1))
        raise click.exceptions.Exit(error.status) from None
    above = {keys[:-1] for keys in loaded.origins}
    leaves = [keys for keys in loaded.origins if keys not in above]
    if as_json:
        told = {"schema_version": 1, "valid": True, "name": loaded.spec.name, "files": loaded.files, "problems": []}
        print(json.dumps({**told, "keys": len(leaves)}, indent=1))
        return
    keys = f"{len(leaves)} key{'s' * (len(leaves) != 1)} set"
    print(f"ok: {loaded.spec.name}: {keys}, {len(loaded.files)} file{'s' * (len(loaded.files) != 1)}", file=sys.stdout)
