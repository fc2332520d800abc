"""How a release takes the place of another: going live, and rolling back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specml import admission, ledger, releases
from specml.bundle import RELEASE
from specml.errors import GateRefused, SpecmlError
from specml.files import digest, read_json
from specml.releases import Entry, Event, Release

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from specml.kinds import Deployment
    from specml.spec import Spec


@dataclass(frozen=True)
class Live:
    """What answers now."""

    release: Release
    deployment: Deployment


def go_live(spec: Spec, project: Path, say: Callable[[str], None], *, again: bool = False) -> Live:
    """Serve the project's bundle, which its gates must have admitted; what is live already is left alone.

    ``again``: also a release that was rolled back from.

    Raises:
        StaleCompile: it was judged under another section ``compliance`` than that of the spec.
        GateRefused: the bundle was not admitted, or under other obligations than the spec's, or compared with another
            release than the live one, or a waiver that let it pass has expired.
        ApprovalMissing: it waits for a person's approval.
        SpecmlError: it was rolled back from, and ``again`` is false.
        DeployFailed: it does not get ready; what was live still is.
    """
    with releases.alone(project), ledger.recorded(project, "deploy") as facts:
        _notice(spec, project)
        _refuse_parted(spec, project)
        entry = releases.admitted(project)
        facts["bundle"], number = entry.bundle, entry.number
        _refuse_unmet(spec, entry)
        if (back := releases.withdrawn(project).get(number)) and not again:
            raise SpecmlError(
                f"release {number} was rolled back from on {back.at[:10]}{_because(back)}; release {back.release} "
                "stays in its place.",
                where=f"{spec.name} {entry.bundle[7:19]}",
                hint="A changed model is a new release. To serve this one all the same: specml deploy --again",
            )
        _refuse_outdated(entry, current(spec, project))
        release = releases.keep(project, entry)  # whatever refuses comes before: what is kept can be rolled back to
        facts["release"] = number
        deployment = spec.deployment.target.deploy(spec, project, release, say)
        facts["replicas"] = deployment.replicas
        events = releases.history(project)
        if not events or events[-1].release != number:
            releases.remember(project, [*events, Event(releases.now(), number)])
        releases.prune(project, entry.bundle)
    return Live(release, deployment)


def roll_back(spec: Spec, project: Path, wanted: str, reason: str, say: Callable[[str], None]) -> tuple[int, Live]:
    """Serve an earlier release with the present options, in the place of what is live.

    ``wanted``: its number or the beginning of its digest; empty for the one that was live before. Returns the
    number of the release that was rolled back from, beside what is live.

    Raises:
        SpecmlError: there is no such release, or it is live already, or it never was.
        GateRefused: it was made under other obligations than the spec's, or a waiver that let it pass has expired.
        BundleError: the stored bundle is not what was released.
        DeployFailed: it does not get ready; what was live still is.
    """
    with releases.alone(project), ledger.recorded(project, "rollback", reason=reason) as facts:
        _notice(spec, project)
        champion = current(spec, project)
        if champion is None:
            hint = "`specml deploy` serves the project's bundle."
            raise SpecmlError("nothing was ever live here: there is nothing to roll back from.", hint=hint)
        release = releases.find(project, wanted) if wanted else releases.before(project, champion)
        number = champion.entry.number
        facts |= {
            "from": {"release": number, "bundle": champion.entry.bundle},
            "to": {"release": release.entry.number, "bundle": release.entry.bundle},
        }
        if release.entry.number == number:
            raise SpecmlError(f"release {number} is what is live: there is nothing to roll back.")
        events = releases.history(project)
        _refuse_untried(release, events)
        _refuse_unmet(spec, release.entry)
        release.open()
        admission.refuse_expired(release.entry.model_dump(), str(release.folder))
        # First the record: killed in between, the release that is to go is known as one that must not come back.
        releases.remember(project, [*events, Event(releases.now(), release.entry.number, number, reason)])
        try:
            deployment = spec.deployment.target.deploy(spec, project, release, say)
        except SpecmlError:
            releases.remember(project, events)
            raise
        return number, Live(release, deployment)


def current(spec: Spec, project: Path) -> Release | None:
    """The champion: the release that is live or, when nothing is, the one that was last; None when there is none."""
    live = spec.deployment.target.status(spec, project)
    found = releases.of_bundle(project, live.bundle) if live is not None else None
    return found or releases.last(project)


def _refuse_unmet(spec: Spec, entry: Entry) -> None:
    """Make sure that the service would meet what the release was made under, and the release what the spec is under."""
    owed = entry.obligations
    met: dict[str, str] = {one.name: str(one) for one in spec.obligations}
    if owed != met:
        parted = {name: "the release alone" if name not in met else "the spec alone" for name in owed.keys() ^ met}
        parted |= {name: "another in the spec" for name in owed.keys() & met if owed[name] != met[name]}
        told = ", ".join(f"{name} ({how})" for name, how in sorted(parted.items()))
        raise GateRefused(
            f"it was made under other obligations than the spec's: {told}.",
            where=f"{spec.name} {entry.bundle[7:19]}",
            hint="Run `specml run`: it makes a release under the rules that the spec has now.",
        )


def _refuse_parted(spec: Spec, project: Path) -> None:
    try:
        told = dict(read_json(project / RELEASE))
    except (OSError, ValueError, TypeError):
        return  # ``keep`` says what is wrong with it
    admission.refuse_parted(spec.compliance, told, str(project / RELEASE))


def renew(spec: Spec, project: Path, *, stale: bool) -> Release | None:
    """Point at the release that is live now, where a challenger is yet to be compared with it.

    The pointer is left alone while the project's bundle is what is live and nothing is to be made anew (``stale``):
    otherwise each release would make the evidence that it stands on out of date. It never goes back to nobody, so a
    project without its store (a fresh clone) is not judged more mildly. Returns the champion when it is another.
    """
    champion = current(spec, project)
    manifest = project / "artifacts/bundle/manifest.json"
    if champion is None or champion.entry.bundle == releases.pointer(project):
        return None
    if not stale and manifest.exists() and digest(manifest) == champion.entry.bundle:
        return None
    releases.point(project, champion.entry.bundle)
    return champion


def _refuse_untried(release: Release, events: list[Event]) -> None:
    """What never was live was refused by it, or did not start: what it was compared with may be long gone."""
    if release.entry.number not in {event.release for event in events}:
        raise SpecmlError(
            f"release {release.entry.number} was never live: there is no way back to it.",
            where=release.entry.bundle[7:19],
            hint="`specml releases` says which were; `specml run` compares what the spec asks for with what is live.",
        )


def _refuse_outdated(entry: Entry, champion: Release | None) -> None:
    """A comparison admits only beside the release that it was made with."""
    compared = entry.champion
    if compared is None or champion is None or champion.entry.bundle in (compared, entry.bundle):
        return
    with_whom = f"the bundle {compared[7:19]}" if compared else "nobody"
    raise GateRefused(
        f"it was compared with {with_whom}, and release {champion.entry.number} is live.",
        where=entry.bundle[7:19],
        hint="`specml run` compares it with what is live.",
    )


def _notice(spec: Spec, project: Path) -> None:
    """Make up for a deploy that was killed before it told of itself."""
    live = spec.deployment.target.status(spec, project)
    found = releases.of_bundle(project, live.bundle) if live is not None else None
    events = releases.history(project)
    if found is None or found.entry.number in releases.withdrawn(project):
        return
    if not events or events[-1].release != found.entry.number:
        releases.remember(project, [*events, Event(releases.now(), found.entry.number)])


def _because(back: Event) -> str:
    return f" ({back.reason})" if back.reason else ""
