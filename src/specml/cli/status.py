"""``specml status``: what is live."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from specml.cli.arguments import parse, spec_and_overrides

if TYPE_CHECKING:
    from specml.kinds import Deployment
    from specml.spec import Spec


@click.command("status")
@spec_and_overrides
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def command(arguments: tuple[str, ...], as_json: bool) -> None:
    """Say what is live, as told by the server itself."""
    from specml import releases
    from specml.files import digest
    from specml.load import load
    from specml.verdicts import opened, openings_in_words

    loaded = load(*parse(arguments))
    live = loaded.spec.deployment.target.status(loaded.spec, loaded.folder)
    manifest = loaded.folder / "artifacts/bundle/manifest.json"
    ours = digest(manifest) if manifest.exists() else ""
    known = {row["bundle"]: row for row in releases.told(loaded.folder, live.bundle if live else "")}
    held_out = opened(loaded.folder, ours) if ours else None
    if as_json:
        told = {"schema_version": 1, "name": loaded.spec.name, "bundle_in_project": ours, "held_out": held_out}
        release = known.get(live.bundle) if live else None
        number = release["number"] if release else None
        print(json.dumps({**told, "live": asdict(live) if live else None, "release": number}, indent=1))
        return
    if live is None:
        print(f"{loaded.spec.name}: nothing is live. `specml deploy` starts it.")
    else:
        _show(loaded.spec.name, live, known.get(live.bundle))
        _show_knobs(live, loaded.spec)
        if ours not in ("", live.bundle):
            print(f"  {_other(ours, known.get(ours))}")
    if held_out is not None:
        changed = f" {len(held_out['changes'])} thresholds were changed meanwhile." if held_out["changes"] else ""
        print(f"  {openings_in_words(held_out)}{changed}")


def _show(name: str, live: Deployment, release: dict[str, Any] | None) -> None:
    from specml.serving.announce import in_words

    if live.scored:
        print(f"{name}: {in_words(live.scored)}")
    elif live.archive:
        how = "by kubectl" if live.commands else "on devices"
        print(f"{name}: packed, to be started {how}: {live.archive}")
    else:
        print(f"{name}: live at {live.url}")
    if release:
        since = f", live since {release['went_live'][:16].replace('T', ' ')} UTC" if release["went_live"] else ""
        print(f"  release   {release['number']}{since}")
        if release["rolled_back"]:
            print("            It was to be rolled back from, which was interrupted: `specml rollback` does it.")
    print(f"  bundle    {live.bundle}")
    if live.archive or live.scored:
        return
    devices = ", ".join(sorted({device.removesuffix("ExecutionProvider") for device in live.devices}))
    print(f"  replicas  {live.replicas}{f' on {devices}' if devices else ''}")
    for address in live.grpc:
        print(f"  gRPC      {address}")
    for socket in live.unguarded:
        print(f"  open      {socket}")


def _show_knobs(live: Deployment, spec: Spec) -> None:
    """Those that the spec has otherwise, whether by ``specml tune`` or because it was changed since."""
    from specml.application import beside, knobs

    differing, asked = beside(live.knobs, spec), knobs(spec)
    for key, value in differing.items():
        print(
            f"  knob      {key} is {value}{f', in the spec {asked[key]}' if key in asked else ', unlike in the spec'}"
        )
    if differing:
        print("            `specml deploy` puts the spec's values in their place; no replica restarts for that.")


def _other(ours: str, release: dict[str, Any] | None) -> str:
    if release and (back := release["rolled_back"]):
        because = f" ({back['reason']})" if back["reason"] else ""
        told = f"The project's bundle is release {release['number']}, rolled back from on {back['at'][:10]}{because}."
        return f"{told}\n  `specml deploy --again` serves it all the same."
    return f"The project's bundle is another, {ours[7:19]}: `specml deploy` puts it in its place."
