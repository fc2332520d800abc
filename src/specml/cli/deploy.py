"""``specml deploy``: serve the released model."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from specml.cli.arguments import parse, spec_and_overrides

if TYPE_CHECKING:
    from specml.load import Loaded
    from specml.rollout import Live


@click.command("deploy")
@spec_and_overrides
@click.option("--again", is_flag=True, help="Also a release that was rolled back from.")
@click.option("-q", "--quiet", is_flag=True, help="No progress; only the outcome, and errors.")
@click.option("--json", "as_json", is_flag=True, help="The outcome as one JSON document on standard output.")
def command(arguments: tuple[str, ...], again: bool, quiet: bool, as_json: bool) -> None:
    """Serve the project's bundle; what is live already is left alone."""
    from specml import rollout
    from specml.load import load

    def say(text: str) -> None:
        if not (quiet or as_json):
            click.echo(text, err=True)

    loaded = load(*parse(arguments))
    live = rollout.go_live(loaded.spec, loaded.folder, say, again=again)
    print(json.dumps(document(live), indent=1) if as_json else announce(live, loaded))


def document(live: Live) -> dict[str, Any]:
    """What is live, as JSON values."""
    return {"schema_version": 1, **asdict(live.deployment), "release": live.release.entry.number}


def announce(live: Live, loaded: Loaded) -> str:
    """The lines that tell a person what is live, how to ask it and how to stop it."""
    from specml.bundle import read_contract
    from specml.serving.announce import announcement

    auth, capture = loaded.spec.serving.auth, loaded.spec.monitoring.capture
    told = announcement(
        live.deployment,
        read_contract(live.release.bundle),
        release=live.release.entry.number,
        token_variable=auth.variable("predict") if auth else "",
    )
    for one in loaded.spec.obligations:
        told += f"\nOwed: {one.name}: {one}"
    if capture is None:
        return told
    share, until = f"{100 * capture.share:.4g} %", f"until `specml watch` finds them {capture.retention} old"
    return f"{told}\nCaptured: {share} of its requests, in .specml/captures, {until}"
