"""How a release takes the place of another: going live, and rolling back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specml import admission, ledger, releases
from specml.bundle import RELEASE
from specml.errors import GateRefused, SpecmlError
from specml.files import digest, read_json
from specml.releases import Event, Release

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
        GateRefused: the bundle was not admitted, or under other obligations than the spec's, or compared with another
            release than the live one, or a waiver that let it pass has expired.
        ApprovalMissing: it waits for a person's approval.
        StaleCompile: it was judged under another section ``compliance`` than that of the spec.
        SpecmlError: it was rolled back from, and ``again`` is false.
        DeployFailed: it does not get ready; what was live still is.
    """
    with releases.alone(project), ledger.recorded(project, "deploy") as facts:
        _notice(spec, project)
        _refuse_parted(spec, project)
        release = releases.keep(project)
        _refuse_unmet(spec, release)
        facts |= {"bundle": release.record.bundle, "release": release.record.number}
        number = release.record.number
        if (back := releases.withdrawn(project).get(number)) and not again:
            raise SpecmlError(
                f"release {number} was rolled back from on {back.at[:10]}{_because(back)}; release {back.release} "
                "stays in its place.",
                where=f"{spec.name} {release.record.bundle[7:19]}",
                hint="A changed model is a new release. To serve this one all the same: specml deploy --again",
            )
        _refuse_outdated(release, current(spec, project))
        deployment = spec.deployment.target.deploy(spec, project, release, say)
        facts["replicas"] = deployment.replicas
        events = releases.history(project)
        if not events or events[-1].release != number:
            releases.remember(project, [*events, Event(releases.now(), number)])
        releases.prune(project, release.record.bundle)
    return Live(release, deployment)


def roll_back(spec: Spec, project: Path, wanted: str, reason: str, say: Callable[[str], None]) -> tuple[int, Live]:
    """Serve an earlier release with the present options, in the place of what is live.

    ``wanted``: its number or the beginning of its digest; empty for the one that was live before. Returns the
    number of the release that was rolled back from, beside what is live.

    Raises:
        SpecmlError: there is no such release, or it is live already.
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
        number = champion.record.number
        facts |= {
            "from": {"release": number, "bundle": champion.record.bundle},
            "to": {"release": release.record.number, "bundle": release.record.bundle},
        }
        if release.record.number == number:
            raise SpecmlError(f"release {number} is what is live: there is nothing to roll back.")
        _refuse_unmet(spec, release)
        release.open()
        admission.refuse_expired(release.record.model_dump(), str(release.folder))
        events = releases.history(project)
        # First the record: killed in between, the release that is to go is known as one that must not come back.
        releases.remember(project, [*events, Event(releases.now(), release.record.number, number, reason)])
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


def _refuse_unmet(spec: Spec, release: Release) -> None:
    """Make sure that the service would meet what the release was made under, and the release what the spec is under."""
    owed, met = set(release.record.obligations), {one.name for one in spec.obligations}
    if owed != met:
        told = [f"{name} ({'of the release' if name in owed else 'of the spec'} alone)" for name in sorted(owed ^ met)]
        raise GateRefused(
            f"release {release.record.number} was made under other obligations than the spec's: {', '.join(told)}.",
            where=f"{spec.name} {release.record.bundle[7:19]}",
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
    if champion is None or champion.record.bundle == releases.pointer(project):
        return None
    if not stale and manifest.exists() and digest(manifest) == champion.record.bundle:
        return None
    releases.point(project, champion.record.bundle)
    return champion


def _refuse_outdated(release: Release, champion: Release | None) -> None:
    """A comparison admits only beside the release that it was made with."""
    compared = release.record.champion
    if compared is None or champion is None or champion.record.bundle in (compared, release.record.bundle):
        return
    with_whom = f"the bundle {compared[7:19]}" if compared else "nobody"
    raise GateRefused(
        f"release {release.record.number} was compared with {with_whom}, and release {champion.record.number} is live.",
        where=release.record.bundle[7:19],
        hint="`specml run` compares it with what is live.",
    )


def _notice(spec: Spec, project: Path) -> None:
    """Make up for a deploy that was killed before it told of itself."""
    live = spec.deployment.target.status(spec, project)
    found = releases.of_bundle(project, live.bundle) if live is not None else None
    events = releases.history(project)
    if found is None or found.record.number in releases.withdrawn(project):
        return
    if not events or events[-1].release != found.record.number:
        releases.remember(project, [*events, Event(releases.now(), found.record.number)])


def _because(back: Event) -> str:
    return f" ({back.reason})" if back.reason else ""
