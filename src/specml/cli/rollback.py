"""``specml rollback``: an earlier release in the place of what is live."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click

from specml.cli.arguments import parse


@click.command("rollback")
@click.argument("arguments", nargs=-1, metavar="[RELEASE] [SPEC] [KEY=VALUE]...")
@click.option("--reason", default="", metavar="TEXT", help="Why; kept with the release that is rolled back from.")
@click.option("-q", "--quiet", is_flag=True, help="No progress; only the outcome, and errors.")
@click.option("--json", "as_json", is_flag=True, help="The outcome as one JSON document on standard output.")
def command(arguments: tuple[str, ...], reason: str, quiet: bool, as_json: bool) -> None:
    """Serve an earlier release, with the spec's present serving options; no request is lost.

    RELEASE is a number that `specml releases` lists or the beginning of a bundle's digest; without it, the release
    that was live before. What is rolled back from is not deployed again, unless by `specml deploy --again`.
    """
    from specml import rollout
    from specml.cli.deploy import announce, document
    from specml.load import load

    def say(text: str) -> None:
        if not (quiet or as_json):
            click.echo(text, err=True)

    wanted = next((one for one in arguments if _names_release(one)), "")
    rest = list(arguments)
    if wanted:
        rest.remove(wanted)
    loaded = load(*parse(tuple(rest)))
    left, live = rollout.roll_back(loaded.spec, loaded.folder, wanted, reason, say)
    if as_json:
        print(json.dumps({**document(live), "rolled_back": left}, indent=1))
        return
    print(f"{loaded.spec.name}: rolled back from release {left} to release {live.release.entry.number}.")
    print(announce(live, loaded))


def _names_release(argument: str) -> bool:
    return bool(re.fullmatch(r"\d+|(sha256:)?[0-9a-fA-F]{4,64}", argument)) and not Path(argument).exists()
