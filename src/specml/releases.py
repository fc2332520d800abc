"""The releases of a project: every bundle that was to go live, kept whole, and which was live when.

``.specml/releases/`` holds, for each, a folder called by the first 12 digits of the bundle's digest: ``bundle/``, a
copy that replicas read; ``release.json``, what its gates said of it; ``card.md``. Only what was admitted comes in
(``keep``), and it is verified against its digest whenever it is used. ``history.json`` beside them tells which went
live when, and which was rolled back from; the target tells what is live now.

A release is *staged* until it has gone live, *live*, and *retired* once another has taken its place.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from specml.bundle import RELEASE, Bundle, BundleError, open_bundle, refuse_unreleased
from specml.errors import DeployFailed, SpecmlError
from specml.files import canonical_json, digest, folder_atomic, locked, remove, write_atomic

if TYPE_CHECKING:
    import contextlib

FOLDER = ".specml/releases"
LOCK = f"{FOLDER}.lock"
HISTORY = "history.json"
KEPT = 10
"""Releases that are kept: rolling back goes a step or two, late labels come for the last few, and a bundle is seldom
larger than some MB."""

POINTER = "champion.json"
"""Which bundle ``validate`` compares a challenger with: a file of the project, to be committed."""
NOBODY = '{"bundle": null}\n'
"""Its content before anything was live."""

State = Literal["staged", "live", "retired"]


class Score(BaseModel):
    """The problem's primary metric on the held-out rows."""

    model_config = ConfigDict(frozen=True)

    name: str
    value: float


class Entry(BaseModel):
    """What ``release.json`` in the store holds."""

    model_config = ConfigDict(frozen=True)

    number: int
    """Counts from 1 in this project; never given twice."""
    bundle: str
    """Its digest."""
    candidate: str
    gates: dict[str, str]
    """The outcome of each gate."""
    waivers: dict[str, dict[str, str]] = {}
    """Those that its gates were judged under, as in the project's ``release.json``."""
    metric: Score | None = None
    obligations: dict[str, str] = {}
    """What the rules of its spec obliged to when it was made, by name."""
    champion: str | None = None
    """The bundle that it was compared with; empty when there was none yet, None when no gate compared."""
    params: str = ""
    """Digest of params.yaml (the whole spec as it was compiled) when it came into the store."""


@dataclass(frozen=True)
class Release:
    """A bundle that was admitted, in the store."""

    entry: Entry
    folder: Path

    @property
    def bundle(self) -> Path:
        """The folder of its bundle, absolute."""
        return self.folder / "bundle"

    def open(self) -> Bundle:
        """Its bundle, verified.

        Raises:
            BundleError: it is not what was released.
        """
        told, hint = str(self.bundle), "It is not used. `specml releases` lists the others."
        try:
            found = open_bundle(self.bundle)
        except BundleError as error:
            what = f"release {self.entry.number} was altered or lost a file: {error.where}: {error.what}"
            raise BundleError(what, where=told, hint=hint) from None
        if found.digest != self.entry.bundle:
            what = f"release {self.entry.number} was altered: it was {self.entry.bundle}, this is {found.digest}."
            raise BundleError(what, where=told, hint=hint)
        return found


@dataclass(frozen=True)
class Event:
    """A release went live, or took the place of one that was rolled back from."""

    at: str
    """UTC, to the second."""
    release: int
    instead_of: int | None = None
    """The release that was rolled back from; None where this one was deployed."""
    reason: str = ""


def named(bundle: str) -> str:
    """What the folder of a bundle's release is called."""
    return bundle.removeprefix("sha256:")[:12]


def alone(project: Path) -> contextlib.AbstractContextManager[None]:
    """Keep whoever else deploys or rolls back in the same project waiting."""
    return locked(project / LOCK)


def stored(project: Path) -> list[Release]:
    """The releases in the store, by number; their bundles are verified when they are opened.

    Raises:
        SpecmlError: a record is none that ``keep`` has written.
    """
    found = []
    for path in (project / FOLDER).resolve().glob(f"[0-9a-f]*/{Path(RELEASE).name}"):
        try:
            entry = Entry.model_validate_json(path.read_bytes())
        except ValidationError:
            hint = f"Remove {path.parent} if it can't be mended: the release is lost."
            raise SpecmlError("is no record of a release.", where=str(path), hint=hint) from None
        found.append(Release(entry, path.parent))
    return sorted(found, key=lambda one: one.entry.number)


def of_bundle(project: Path, bundle: str) -> Release | None:
    """The release of a bundle, by its digest; None when the store has none."""
    return next((one for one in stored(project) if one.entry.bundle == bundle), None)


def find(project: Path, wanted: str) -> Release:
    """The release of this number, or of the bundle whose digest begins so.

    Raises:
        SpecmlError: there is none, or more than one.
    """
    known = stored(project)
    digits = wanted.lower().removeprefix("sha256:")
    by_number = [one for one in known if str(one.entry.number) == wanted]
    by_digest = [one for one in known if one.entry.bundle.removeprefix("sha256:").startswith(digits)]
    found = by_number or (by_digest if re.fullmatch("[0-9a-f]{4,64}", digits) else [])
    if len(found) == 1:
        return found[0]
    numbers = ", ".join(str(one.entry.number) for one in known) or "none"
    what = f"{wanted!r} names {len(found)} releases." if found else f"there is no release {wanted!r}."
    hint = f"Kept are: {numbers}. Only what was admitted and deployed here is kept."
    raise SpecmlError(what, where=str(project / FOLDER), hint=hint)


def admitted(project: Path) -> Entry:
    """What the project's bundle would be in the store, if its gates have admitted it; nothing is written.

    Raises:
        GateRefused: they have not.
        ApprovalMissing: it waits for a person's approval.
        DeployFailed: there is no bundle.
    """
    source = project / "artifacts/bundle"
    manifest = source / "manifest.json"
    if not manifest.exists():
        raise DeployFailed("there is no bundle to serve.", where=str(source), hint="Make it with `specml run`.")
    bundle = digest(manifest)
    refuse_unreleased(project, bundle)
    told = json.loads((project / RELEASE).read_bytes())
    known = of_bundle(project, bundle)
    params = project / "params.yaml"
    number = known.entry.number if known else _next_number(project)
    names = ("bundle", "candidate", "gates", "waivers", "metric", "obligations", "champion")
    facts = {name: told[name] for name in names if name in told}
    try:
        return Entry.model_validate({**facts, "number": number, "params": digest(params) if params.exists() else ""})
    except ValidationError:
        hint = "Run `specml run`: it is made again."
        raise SpecmlError("is no release.", where=str(project / RELEASE), hint=hint) from None


def keep(project: Path, entry: Entry) -> Release:
    """Take the project's bundle into the store as what ``admitted`` said.

    Raises:
        DeployFailed: it changes under our hands.
        BundleError: it is no valid one.
    """
    source, release = project / "artifacts/bundle", Release(entry, (project / FOLDER).resolve() / named(entry.bundle))
    known = of_bundle(project, entry.bundle)
    if known is None or not _intact(known):
        open_bundle(source)
        with folder_atomic(release.folder) as temporary:
            shutil.copytree(source, temporary / "bundle")
            _describe(entry, project, temporary)
            if not _intact(Release(entry, temporary)):
                raise DeployFailed("changed while it was being deployed.", where=str(source), hint="Deploy it again.")
    elif known.entry != entry:
        _describe(entry, project, release.folder)
    return release


def history(project: Path) -> list[Event]:
    """What went live, in order.

    Raises:
        SpecmlError: the file is none that was written here.
    """
    path = project / FOLDER / HISTORY
    try:
        return TypeAdapter(list[Event]).validate_json(path.read_bytes(), strict=True)
    except FileNotFoundError:
        return []
    except ValidationError:
        hint = "Remove it: no earlier release is then known as one that was live."
        raise SpecmlError("is no history of releases.", where=str(path), hint=hint) from None


def remember(project: Path, events: list[Event]) -> None:
    """Write the history anew."""
    write_atomic(project / FOLDER / HISTORY, canonical_json([asdict(event) for event in events]))


def now() -> str:
    """For ``Event.at``."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def last(project: Path) -> Release | None:
    """The release that went live last, whether it is up now or not; None when there is none."""
    events = history(project)
    return _numbered(project, events[-1].release) if events else None


def withdrawn(project: Path) -> dict[int, Event]:
    """Releases that were rolled back from, and have not gone live again since: each with the event that did it."""
    found: dict[int, Event] = {}
    for event in history(project):
        found.pop(event.release, None)
        if event.instead_of is not None:
            found[event.instead_of] = event
    return found


def before(project: Path, release: Release) -> Release:
    """What was live before ``release`` was deployed; never one that was rolled back from.

    Raises:
        SpecmlError: nothing was, or it is no longer kept.
    """
    events, bad, number = history(project), withdrawn(project), release.entry.number
    deployed = [index for index, event in enumerate(events) if event.release == number and event.instead_of is None]
    earlier = events[: deployed[-1]] if deployed else events
    for event in reversed(earlier):
        if event.release != number and event.release not in bad:
            found = _numbered(project, event.release)
            if found is not None:
                return found
    hint = "`specml releases` lists what is kept; name one of them."
    raise SpecmlError(f"no release is kept that was live before release {number}.", where=str(project), hint=hint)


def prune(project: Path, live: str) -> list[int]:
    """Remove all but the ``KEPT`` that were live last, and never the bundle ``live``; returns their numbers."""
    order = {event.release: index for index, event in enumerate(history(project))}
    known = sorted(stored(project), key=lambda one: order.get(one.entry.number, -1), reverse=True)
    gone = [one for one in known[KEPT:] if one.entry.bundle != live]
    for one in gone:
        remove(one.folder)
    return sorted(one.entry.number for one in gone)


def told(project: Path, live: str) -> list[dict[str, Any]]:
    """Every release in the store as JSON values, by number; ``live`` is the bundle that the target says answers now."""
    events, bad = history(project), withdrawn(project)
    rows = []
    for one in stored(project):
        number = one.entry.number
        went = [event.at for event in events if event.release == number]
        state: State = "live" if one.entry.bundle == live else "retired" if went else "staged"
        back = bad.get(number)
        rows.append(
            {
                **one.entry.model_dump(mode="json"),
                "state": state,
                "went_live": went[-1] if went else None,
                "rolled_back": {"at": back.at, "to": back.release, "reason": back.reason} if back else None,
            }
        )
    return rows


def pointer(project: Path) -> str | None:
    """The digest of the bundle that challengers are compared with; None when there is none yet.

    Raises:
        SpecmlError: the file is missing, or says something else.
    """
    path = project / POINTER
    try:
        bundle: str | None = json.loads(path.read_bytes())["bundle"]
        if bundle is None or re.fullmatch("sha256:[0-9a-f]{64}", bundle):
            return bundle
    except FileNotFoundError:
        raise SpecmlError("is missing.", where=str(path), hint="`specml compile` writes it.") from None
    except (ValueError, LookupError, TypeError):
        pass
    hint = f"Take it back from version control, or remove it: then there is no champion yet. It held {NOBODY.strip()}."
    raise SpecmlError("names no champion.", where=str(path), hint=hint)


def point(project: Path, bundle: str) -> None:
    """Have challengers compared with this bundle."""
    write_atomic(project / POINTER, f'{{"bundle": "{bundle}"}}\n')


def _numbered(project: Path, number: int) -> Release | None:
    return next((one for one in stored(project) if one.entry.number == number), None)


def _next_number(project: Path) -> int:
    known = [one.entry.number for one in stored(project)]
    for event in history(project):
        known += [event.release, event.instead_of or 0]
    return max(known, default=0) + 1


def _intact(release: Release) -> bool:
    try:
        release.open()
    except BundleError:
        return False
    return True


def _describe(entry: Entry, project: Path, folder: Path) -> None:
    card = (project / RELEASE).with_name("card.md")
    if card.exists():
        write_atomic(folder / card.name, card.read_bytes())
    write_atomic(folder / Path(RELEASE).name, canonical_json(entry.model_dump(mode="json")))
