"""Admit the bundle, or refuse it: the card and the profile name the bundle's digest either way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from specml import admission, ledger
from specml.bundle import RELEASE
from specml.data import Layout
from specml.errors import GateRefused, SpecmlError
from specml.files import canonical_json, digest, read_json, write_atomic
from specml.plan import Stage
from specml.stages import compare, ingest, package, prepare, select, validate

if TYPE_CHECKING:
    from specml.spec import Spec
    from specml.stages.work import Work

OUT = RELEASE
CARD = "artifacts/release/card.md"
PROFILE = "artifacts/release/profile.bin"


def declare(spec: Spec) -> Stage:
    """Nothing depends on it: what is random in the profile feeds no digest."""
    return Stage(
        name="release",
        summary="admit or refuse the bundle; its card and profile",
        params=(
            "name",
            "mitigation",
            "problem",
            "data.columns",
            "data.sources",
            "data.undeclared",
            *(f"compliance.{key}" for key in admission.TERMS),
        ),
        deps=(
            *sorted(ingest.columns_files(spec).values()),
            package.OUT,
            prepare.LAYOUT,
            prepare.METRICS,
            prepare.TRAIN,
            select.OUT,
            *([compare.OUT] if spec.mitigation.asked else []),
            validate.IMPORTANCE,
            validate.OUT,
        ),
        outs=(OUT, CARD, PROFILE),
    )


def work(work: Work) -> None:
    """Verdicts → a release.

    Raises:
        GateRefused: a gate with ``level: fail`` refused, or could not be measured and its policy blocks, and no
            waiver that has not run out names it.
    """
    import polars as pl

    from specml.card import card
    from specml.profile import profile

    evidence = read_json(work.path(validate.OUT))
    choice, prepared = read_json(work.path(select.OUT)), read_json(work.path(prepare.METRICS))
    importance = read_json(work.path(validate.IMPORTANCE))
    layout = Layout.model_validate_json(work.path(prepare.LAYOUT).read_bytes())
    manifest = digest(work.path(package.OUT) / "manifest.json")
    if evidence["bundle"] != manifest:
        raise SpecmlError(f"the evidence is about {evidence['bundle']}, the bundle is {manifest}.", where=validate.OUT)
    metric = work.spec.problem.metric
    release = {
        "name": work.spec.name,
        "bundle": manifest,
        "candidate": choice["candidate"],
        "gates": {name: gate["outcome"] for name, gate in evidence["gates"].items()},
        "metric": {"name": metric, "value": evidence["metrics"][metric]} if metric in evidence["metrics"] else None,
        **_ruled(work),
        "verdicts": digest(work.path(validate.OUT)),
        **admission.terms(work.spec.compliance, evidence["gates"], admission.today()),
    }
    if "champion" in evidence:
        release["champion"] = evidence["champion"]
    evidence["gates"] = admission.waived(evidence["gates"], release)
    refusals = sorted(name for name, gate in evidence["gates"].items() if admission.stops(gate))
    release["admitted"] = not refusals
    groups = read_json(work.path(compare.OUT)) if work.spec.mitigation.asked else None
    told = card(work.spec, layout, choice, evidence, importance, prepared=prepared, release=release, compared=groups)
    write_atomic(work.path(CARD), told)
    train = pl.read_parquet(work.path(prepare.TRAIN), columns=[column.name for column in layout.features])
    write_atomic(work.path(PROFILE), profile(train))
    _document(work, manifest, prepared)
    _record(work, release)  # before the file that lets the bundle be served
    write_atomic(work.path(OUT), canonical_json(release))
    for remark in (remarks := admission.remarks(release)):
        work.say(remark)
    if refusals:
        raise GateRefused(
            "\n".join([*(f"gate {name}: {evidence['gates'][name]['reason']}" for name in refusals), *remarks]),
            where=f"{work.spec.name} is not released",
            hint=f"See {CARD} for all verdicts.",
        )
    work.say(f"{choice['candidate']} released as {manifest[:19]}")


def _ruled(work: Work) -> dict[str, Any]:
    """What the release is under; nothing where no rule is."""
    rules = {name: f"{rule.text}; evidence, not legal advice" for name, rule in work.spec.compliance.rules.items()}
    if not rules:
        return {}
    return {"compliance": rules, "obligations": {one.name: str(one) for one in work.obligations}}


def _document(work: Work, bundle: str, prepared: dict[str, Any]) -> None:
    """Write the documents that the rules demand."""
    columns = {source: read_json(work.path(file)) for source, file in ingest.columns_files(work.spec).items()}
    facts = {"bundle": bundle, "prepared": prepared, "columns": columns}
    for _, rule in sorted(work.spec.compliance.rules.items()):
        for name, content in rule.documents(work.spec, facts).items():
            write_atomic(work.path(OUT).with_name(name), canonical_json(content))


def _record(work: Work, release: dict[str, Any]) -> None:
    for name, one in release.get("waivers", {}).items():
        if one["state"] == admission.USED:
            ledger.append(work.folder, "waiver", name=name, **one, bundle=release["bundle"])
    facts = ("bundle", "candidate", "admitted", "gates", "verdicts")
    ledger.append(work.folder, "release", **{key: release[key] for key in facts})
