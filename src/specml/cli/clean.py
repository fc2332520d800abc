"""``specml clean``: remove what crashes left and what can be made again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from specml.cli.arguments import folder_of, parse, spec_and_overrides

if TYPE_CHECKING:
    from specml.clean import Item

KEPT = {
    "artifacts": "--artifacts",
    "state": "--all",
    "captures": "--captures",
    "releases": "--releases",
}
"""What each group needs to go; without one it goes always."""


@click.command("clean")
@spec_and_overrides
@click.option("--artifacts", is_flag=True, help="Also what a run makes again: artifacts, metrics, plots.")
@click.option("--all", "everything", is_flag=True, help="Also searches, durations and other state of runs.")
@click.option("--captures", is_flag=True, help="Also captured requests, late labels, and what they were judged to be.")
@click.option("--releases", is_flag=True, help="Also the releases that `specml rollback` goes back to.")
@click.option("--yes", is_flag=True, help="Do it; without it, only say what would go.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def command(arguments: tuple[str, ...], yes: bool, as_json: bool, **wanted: bool) -> None:
    """Remove what crashes left and logs, and more when it is named; only with --yes.

    Nothing brings captures and releases back: they go only when each is named. The ledger stays.
    """
    from specml.clean import AGAIN, ALWAYS, NEVER_BY_ITSELF, chosen, clean, items, lost_servers

    folder = _folder(*parse(arguments))
    groups = [*ALWAYS, *(name for name in ("artifacts", *NEVER_BY_ITSELF) if wanted.get(name))]
    groups += [name for name in AGAIN if wanted["everything"] and name not in groups]
    before, lost = items(folder), lost_servers(folder)
    going = clean(folder, groups) if yes else chosen(before, groups)
    staying = [item for item in before if item.group not in groups]
    if as_json:
        told = {"schema_version": 1, "done": yes, "bytes": sum(item.size for item in going), "servers_ended": lost}
        print(json.dumps({**told, "removed": _list(going, folder), "kept": _list(staying, folder)}, indent=1))
        return
    _tell(going, staying, lost, folder, yes=yes)


def _folder(path: Path | None, overrides: tuple[str, ...]) -> Path:
    """The project's; its spec may be broken or gone."""
    from specml.load import project_folder

    if overrides:
        raise click.UsageError("overrides change nothing here.")
    folder = folder_of(path)
    return folder if (folder / ".specml").is_dir() else project_folder(path)  # neither spec nor run: it says so


def _list(found: list[Item], folder: Path) -> list[dict[str, object]]:
    return [{"group": one.group, "path": str(one.path.relative_to(folder)), "bytes": one.size} for one in found]


def _tell(going: list[Item], staying: list[Item], lost: list[int], folder: Path, *, yes: bool) -> None:
    verb = "removed" if yes else "would go"
    for pid in lost:
        print(f"{'ended' if yes else 'would end'}  server process {pid}, whose record is lost")
    for one in going:
        print(f"{verb}  {one.path.relative_to(folder)}  ({_bytes(one.size)})")
    for one in staying:
        print(f"stays    {one.path.relative_to(folder)}  ({_bytes(one.size)}): {KEPT[one.group]}")
    total = _bytes(sum(item.size for item in going))
    if not (going or lost):
        print("nothing is left over")
    elif yes:
        print(f"{total} freed")
    else:
        print(f"{total} would be freed: say --yes to do it")


def _bytes(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
