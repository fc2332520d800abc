"""``specml deploy``: serve the released model."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from specml.cli.arguments import parse, spec_and_overrides

if TYPE_CHECKING:
    from collections.abc import Callable

    from specml.kinds import Deployment
    from specml.load import Loaded


@click.command("deploy")
@spec_and_overrides
@click.option("-q", "--quiet", is_flag=True, help="No progress; only the outcome, and errors.")
@click.option("--json", "as_json", is_flag=True, help="The outcome as one JSON document on standard output.")
def command(arguments: tuple[str, ...], quiet: bool, as_json: bool) -> None:
    """Serve the project's bundle; what is live already is left alone."""
    from specml.load import load

    def say(text: str) -> None:
        if not (quiet or as_json):
            click.echo(text, err=True)

    loaded = load(*parse(arguments))
    live = serve(loaded, say)
    print(json.dumps({"schema_version": 1, **asdict(live)}, indent=1) if as_json else announce(live, loaded))


def serve(loaded: Loaded, say: Callable[[str], None]) -> Deployment:
    """Serve the released bundle, and record it."""
    from specml import ledger

    with ledger.recorded(loaded.folder, "deploy") as facts:
        live = loaded.spec.deployment.target.deploy(loaded.spec, loaded.folder, say)
        facts |= {"bundle": live.bundle, "replicas": live.replicas}
    return live


def announce(live: Deployment, loaded: Loaded) -> str:
    """The lines that tell a person what is live, how to ask it and how to stop it."""
    from specml.bundle import read_contract
    from specml.serving.announce import announcement

    auth, capture = loaded.spec.serving.auth, loaded.spec.monitoring.capture
    told = announcement(
        live,
        read_contract(loaded.folder / "artifacts/bundle"),
        token_variable=auth.tokens.name if auth else "",
    )
    if capture is None:
        return told
    share, until = f"{100 * capture.share:.4g} %", f"until `specml watch` finds them {capture.retention} old"
    return f"{told}\nCaptured: {share} of its requests, in .specml/captures, {until}"
