"""``specml tune``: change knobs of what is live, restarting nothing."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from specml.cli.arguments import parse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from specml.errors import Problem
    from specml.kinds import Deployment


@click.command("tune")
@click.argument("arguments", nargs=-1, metavar="[SPEC] KEY=VALUE...")
@click.option("-q", "--quiet", is_flag=True, help="No progress; only the outcome, and errors.")
@click.option("--json", "as_json", is_flag=True, help="The outcome as one JSON document on standard output.")
def command(arguments: tuple[str, ...], quiet: bool, as_json: bool) -> None:
    """Change knobs of what is live, as in `specml tune serving.slo=200ms`; no replica restarts.

    The other knobs stay as they are live. Neither the spec nor the release changes: the next `specml deploy` puts the
    spec's own values back.
    """
    from specml import application, ledger, releases
    from specml.errors import DeployFailed, SpecError
    from specml.load import load

    def say(text: str) -> None:
        if not (quiet or as_json):
            click.echo(text, err=True)

    path, overrides = parse(arguments)
    if not overrides:
        raise click.UsageError("say what to change, as in: specml tune serving.slo=200ms")
    if problems := list(_fixed(overrides)):
        load(path, overrides)  # what is no key at all is told as such
        raise SpecError(problems)
    loaded = load(path)
    spec, project = loaded.spec, loaded.folder
    target = spec.deployment.target
    with releases.alone(project):
        live = target.status(spec, project)
        # What stays as it is live counts in what fits it, not what the spec has by now.
        kept = [f"{key}={value}" for key, value in application.beside(live.knobs, spec).items()] if live else []
        wanted = load(path, [*kept, *overrides]).spec
        if live is None:
            raise DeployFailed("nothing is live.", where=spec.name, hint="`specml deploy` starts it.")
        changed = _differing(live.knobs, application.knobs(wanted))
        facts = {"changed": {key: {"from": before, "to": now} for key, (before, now) in changed.items()}}
        if changed or not live.knobs:  # one that has none says so itself
            say(f"Changing knobs of {spec.name} in place …")
            with ledger.recorded(project, "tune", **facts):
                live = target.tune(wanted, project, say)
    if as_json:
        print(json.dumps({"schema_version": 1, "name": spec.name, **facts, "live": asdict(live)}, indent=1))
        return
    _show(spec.name, live, changed)
    if beside := application.beside(live.knobs, spec):
        values = ", ".join(f"{key}: {value}" for key, value in beside.items())
        print(f"{loaded.path.name} has otherwise: {values}.")
        print("Write it there to keep it: the next `specml deploy` puts the spec's own values back.")


def _differing(before: dict[str, str], after: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Both values of what differs; a block that one of the two has not is null there."""
    keys = dict.fromkeys([*before, *after])
    both = {key: (before.get(key, "null"), after.get(key, "null")) for key in keys}
    return {key: (one, other) for key, (one, other) in both.items() if one != other}


def _fixed(overrides: tuple[str, ...]) -> Iterator[Problem]:
    """What can't be changed while it is live."""
    from specml.application import LIVE
    from specml.errors import Problem
    from specml.load.overrides import named

    for text in overrides:
        key = text.lstrip("~+").partition("=")[0]
        if not any(key == one or key.startswith(f"{one}.") for one in LIVE):
            hint = f"Live are {', '.join(LIVE)}. For all else, change the spec and deploy it."
            yield Problem(named(text), key, "is no knob that replicas take over as they run.", hint)


def _show(name: str, live: Deployment, changed: dict[str, tuple[str, str]]) -> None:
    if not changed:
        print(f"{name}: its knobs have these values already.")
        return
    many = f"{live.replicas} replica{'' if live.replicas == 1 else 's'}"
    print(f"{name}: taken over by {many} at {live.url}; none restarted.")
    for key, (before, now) in changed.items():
        print(f"  {key}  {before} → {now}")
