"""``specml diff``: what changes from one spec to another."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from specml.compile.diff import Diff, Rerun, Value
    from specml.load import Loaded
    from specml.strictness import Change

SHOWN = 3
"""Changed values that are told of one stage."""
LONGEST = 60
"""Characters of a value."""
MARKS = {
    "removed": "LOOSENED",
    "loosened": "LOOSENED",
    "changed": "changed",
    "tightened": "tightened",
    "added": "added",
}


@click.command("diff")
@click.argument("arguments", nargs=-1, metavar="[BEFORE] [AFTER] [KEY=VALUE]...")
@click.option("--exit-code", is_flag=True, help="Exit with 1 when a gate is loosened or compliance weakens.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def command(arguments: tuple[str, ...], exit_code: bool, as_json: bool) -> None:
    """Say what changes: what re-runs, which gates were loosened or tightened, what in compliance weakens.

    BEFORE and AFTER are specs, their folders, or revisions of git (HEAD~1, main:spec.yaml). AFTER is this folder's
    spec unless it is given, BEFORE the same at HEAD; KEY=VALUE counts for AFTER. Nothing is run or written.
    """
    from specml.compile.diff import diff

    overrides = tuple(one for one in arguments if _is_override(one))
    given = [one for one in arguments if not _is_override(one)]
    if len(given) > 2:
        raise click.UsageError(f"two specs at a time; {', '.join(map(repr, given))} are given.")
    with ExitStack() as stack:
        after = _loaded(given[1] if len(given) == 2 else ".", overrides, stack)  # its plug-ins are those that count
        before = _loaded(given[0] if given else "HEAD", (), stack)
        found = diff(before.spec, after.spec)
    if as_json:
        print(json.dumps({"schema_version": 1, "name": after.spec.name, **found.document()}, indent=1))
    else:
        _show(found)
    if exit_code and found.looser:
        raise click.exceptions.Exit(1)


def _is_override(text: str) -> bool:
    return "=" in text or text.startswith(("~", "+"))


def _loaded(text: str, overrides: tuple[str, ...], stack: ExitStack) -> Loaded:
    from specml.load import load
    from specml.load.revision import at_revision

    path = Path(text)
    return load(
        path if path.exists() else stack.enter_context(at_revision(text, Path.cwd())), overrides, may_loosen=True
    )


def _show(found: Diff) -> None:
    parts = {
        "What re-runs": [
            *map(_rerun, found.reruns),
            *(f"{name}: there is no such stage any more" for name in found.gone),
        ],
        "Gates": [line for change in found.gates for line in _gate(change)],
        "Compliance weakens": [f"WEAKENED  {one.key}: {one.what}" for one in found.weakened],
        "What else changes": [_value(one) for one in found.others],
    }
    for title, lines in parts.items():
        if lines:
            print("\n  ".join([title, *lines]))
    if not any(parts.values()):
        print("nothing changes")


def _rerun(one: Rerun) -> str:
    if one.new:
        return f"{one.stage}: is new"
    if not one.why:
        return f"{one.stage}: follows ({one.follows})"
    more = f", and {len(one.why) - SHOWN} more" if len(one.why) > SHOWN else ""
    return f"{one.stage}: {'; '.join(map(_value, one.why[:SHOWN]))}{more}"


def _gate(change: Change) -> list[str]:
    head = f"{MARKS[change.way]:<9} {change.gate} ({change.type})"
    if change.way == "removed":
        return [f"{head}: is removed"]
    words = {"loosened": "loosened", "tightened": "tightened", "changed": "no value asks for more"}
    return [
        head,
        *(
            f"  {move.option}: {_short(move.before)} → {_short(move.after)} ({words[move.way]})"
            for move in change.moves
        ),
    ]


def _value(one: Value) -> str:
    key, before, after = one
    return f"{key}: {_short(before)} → {_short(after)}"


def _short(value: Any) -> str:
    from specml.strictness import said

    text = said(value) if not isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
