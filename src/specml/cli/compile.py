"""``specml compile``: write what DVC and Ray Serve read."""

from __future__ import annotations

import sys

import click

from specml.cli.arguments import parse, spec_and_overrides
from specml.errors import StaleCompile


@click.command("compile")
@spec_and_overrides
@click.option("--check", is_flag=True, help="Write nothing; exit with 3 when a file is out of date.")
@click.option("--force", is_flag=True, help="Give up values that were changed in params.yaml itself.")
def command(arguments: tuple[str, ...], check: bool, force: bool) -> None:
    """Write dvc.yaml, params.yaml, .gitignore and the target's files (serve.yaml, deploy/) from the spec."""
    from specml import repro
    from specml.compile.write import compiled
    from specml.load import load

    loaded = load(*parse(arguments))
    result = compiled(loaded, force=force)
    changed, left = result.changed, result.left
    if check:
        if changed or left:
            raise StaleCompile(f"out of date: {', '.join((*changed, *left))}.", hint="Run `specml compile`.")
        print("up to date")
        return
    with repro.alone(loaded.folder):
        result.write()
    done = [f"{how} {', '.join(names)}" for how, names in (("wrote", changed), ("removed", left)) if names]
    print("; ".join(done) or "up to date; nothing written", file=sys.stderr)
