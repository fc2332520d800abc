"""``specml status``: what is live."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from specml.cli.arguments import parse, spec_and_overrides


@click.command("status")
@spec_and_overrides
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def command(arguments: tuple[str, ...], as_json: bool) -> None:
    """Say what is live, as told by the server itself."""
    from specml.files import digest
    from specml.load import load

    loaded = load(*parse(arguments))
    live = loaded.spec.deployment.target.status(loaded.spec, loaded.folder)
    manifest = loaded.folder / "artifacts/bundle/manifest.json"
    released = digest(manifest) if manifest.exists() else ""
    if as_json:
        told = {"schema_version": 1, "name": loaded.spec.name, "bundle_in_project": released}
        print(json.dumps({**told, "live": asdict(live) if live else None}, indent=1))
        return
    if live is None:
        print(f"{loaded.spec.name}: nothing is live. `specml deploy` starts it.")
        return
    devices = ", ".join(sorted({device.removesuffix("ExecutionProvider") for device in live.devices}))
    print(f"{loaded.spec.name}: live at {live.url}")
    print(f"  bundle    {live.bundle}")
    print(f"  replicas  {live.replicas} on {devices}")
    for socket in live.unguarded:
        print(f"  open      {socket}")
    if released not in ("", live.bundle):
        print(f"  The project's bundle is another, {released[7:19]}: `specml deploy` puts it in its place.")
