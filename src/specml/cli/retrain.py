"""``specml retrain``: a challenger on the new data, against the champion."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from specml.cli.arguments import parse, spec_and_overrides
from specml.errors import GateRefused, SpecmlError

if TYPE_CHECKING:
    from rich.console import Console

    from specml.cli.run import Outcome, Way
    from specml.load import Loaded
    from specml.releases import Release
    from specml.watch.raised import Raised


@click.command("retrain")
@spec_and_overrides
@click.option("--if-raised", is_flag=True, help="Only when a signal of monitoring.retrain was raised on what is live.")
@click.option("--no-deploy", is_flag=True, help="Stop at the release.")
@click.option("--no-wait", is_flag=True, help="Refuse at once while another run is at work here.")
@click.option("-q", "--quiet", is_flag=True, help="Only the outcome, and errors.")
@click.option("--json", "as_json", is_flag=True, help="The outcome as one JSON document on standard output.")
def command(
    arguments: tuple[str, ...], if_raised: bool, no_deploy: bool, no_wait: bool, quiet: bool, as_json: bool
) -> None:
    """Train on what the sources hold now, and release the challenger only if it is not worse than what is live.

    As `specml run`, with a gate of type champion in force whether the spec names one or not. A challenger that is
    refused leaves the live release alone, with exit status 4; when nothing has changed, nothing is done.
    """
    from specml.cli.progress import console
    from specml.cli.run import Outcome, Way, told

    way = Way(None, single=False, force=False, wait=not no_wait, quiet=quiet or as_json)
    outcome, out = Outcome(), console()
    with told(outcome, as_json=as_json):
        loaded = _with_gate(arguments, out)
        outcome.name = loaded.spec.name
        if _due(loaded, outcome, out, if_raised=if_raised):
            _retrain(loaded, outcome, out, way, deployed=not no_deploy)


def _with_gate(arguments: tuple[str, ...], out: Console) -> Loaded:
    """The spec, with a gate that asks for the champion."""
    from specml.load import load

    path, overrides = parse(arguments)
    loaded = load(path, overrides)
    if any(gate.against_champion for gate in loaded.spec.gates.values()):
        return loaded
    name = "champion" if "champion" not in loaded.spec.gates else "against_champion"
    added = f"gates.{name}={{type: champion}}"
    told = f"the spec has no gate against the champion: added {added!r} for this run; `specml run` compares with none"
    out.print(told, markup=False, soft_wrap=True)
    return load(path, (*overrides, added))


def _due(loaded: Loaded, outcome: Outcome, out: Console, *, if_raised: bool) -> bool:
    """Whether there is a reason to retrain; kept as the outcome's ``cause``."""
    from specml import rollout
    from specml.watch.raised import raised

    if not if_raised:
        outcome.cause = "asked for"
        return True
    wanted = loaded.spec.monitoring.retrain
    if wanted is None:
        hint = "Name some, as  monitoring: {retrain: {on: [drift]}}"
        raise SpecmlError("names no signals to retrain on.", where=str(loaded.path), hint=hint)
    champion = rollout.current(loaded.spec, loaded.folder)
    found = raised(loaded.folder, champion, wanted.on) if champion is not None else []
    if champion is None or not found:
        about = f"release {champion.entry.number} since it went live" if champion else "anything: nothing was ever live"
        out.print(f"not retrained: none of {', '.join(wanted.on)} was raised on {about}", markup=False, soft_wrap=True)
        return False
    outcome.cause = _cause(found)
    out.print(f"retraining: release {champion.entry.number}: {outcome.cause}", markup=False, soft_wrap=True)
    return True


def _cause(found: list[Raised]) -> str:
    latest = {one.signal: one for one in found}
    return "; ".join(f"{one.signal} raised in {one.window}, {one.judged}" for one in latest.values())


def _retrain(loaded: Loaded, outcome: Outcome, out: Console, way: Way, *, deployed: bool) -> None:
    from specml import ledger, rollout
    from specml.cli.run import carry, deploy, standing

    champion = rollout.current(loaded.spec, loaded.folder)
    live = {"release": champion.entry.number, "bundle": champion.entry.bundle} if champion else None
    try:
        with ledger.recorded(loaded.folder, "retrain", cause=outcome.cause, champion=live):
            carry(loaded, outcome, out, way)
            if not outcome.stages_run and _known(loaded, champion):
                out.print("nothing is new since the last run: there is no challenger", markup=False, soft_wrap=True)
            elif deployed:
                deploy(loaded, outcome, out, quiet=way.quiet)
            else:
                standing(loaded.folder, out, quiet=way.quiet)
    except SpecmlError as error:
        if error.status == GateRefused.status and champion is not None:
            left = f"release {champion.entry.number} stays: the challenger is refused"
            out.print(left, markup=False, soft_wrap=True)
        raise


def _known(loaded: Loaded, champion: Release | None) -> bool:
    """Whether the project's bundle is the champion, or was rolled back from."""
    from specml import releases
    from specml.files import digest

    ours = releases.of_bundle(loaded.folder, digest(loaded.folder / "artifacts/bundle/manifest.json"))
    if ours is None or champion is None:
        return False
    return ours.entry.number in {champion.entry.number, *releases.withdrawn(loaded.folder)}
