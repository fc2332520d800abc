"""The General Data Protection Regulation, as far as a spec can keep to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from specml.component import Block, Disagreement
from specml.kinds import Gate, Rule
from specml.plan import Obligation, Plan
from specml.values import Duration

if TYPE_CHECKING:
    from specml.spec import Column, Spec

RECORD = "ropa.json"
RECORDED = ("monitoring.capture", "serving.auth")
"""What the record of processing tells of the spec, beside what the release reads anyway."""
GATE = "gdpr_disparity"
NOT_SAID = "not said"
DECIDED_ALONE = "This answer was made by a model alone, without a person."


class Controller(Block):
    """Who determines purposes and means (Art. 4(7)), as the record names them (Art. 30(1)(a))."""

    name: Annotated[str, Field(min_length=1)]
    contact: Annotated[str, Field(min_length=1)]
    """How people reach the controller: an address, an e-mail, a page."""
    joint_controller: str = ""
    representative: str = ""
    data_protection_officer: str = ""


class Retention(Block):
    """How long data are kept (Art. 5(1)(e))."""

    captures: Annotated[Duration, Field(gt=0)] | None = None
    """Requests, their labels and profiles: server and ``specml watch`` delete older ones."""
    data: Annotated[Duration, Field(gt=0)] | None = None
    """The project's copies of the rows, in ``artifacts/`` and DVC's cache: ``specml watch`` deletes older ones."""


class Gdpr(Rule):
    """Regulation (EU) 2016/679 as of 27 April 2016: what it demands of a spec, and what a spec then owes.

    Demands, each told with its article when it is missing: controller (Art. 30(1)(a)), purpose (Art. 5(1)(b)),
    lawful basis (Art. 6(1)), categories of people (Art. 30(1)(c)), time limits (Art. 5(1)(e)), columns that are
    declared personal (Art. 4(1)), identifiers hashed or dropped (Art. 25(1)), an exception for special categories
    (Art. 9(2)), and for decisions that no person takes: why they may be (Art. 22(2)), a person who reviews them and
    where to contest them (Art. 22(3)).

    Adds: minimisation, that is ``data.undeclared: drop`` (Art. 5(1)(c)); where decisions are solely automated, a
    disparity told for every protected column that no gate compares (recital 71); the record of processing
    (Art. 30(1)); and obligations: what the server deletes and what it tells with every answer (Art. 13(2)(f)).

    Evidence, not legal advice: whether the processing is lawful is for people to say.
    """

    text: ClassVar[str] = "Regulation (EU) 2016/679 (GDPR) as of 2016-04-27"

    type: Literal["gdpr"] = "gdpr"
    controller: Controller | None = None
    """Art. 30(1)(a): who is responsible, and how to reach them."""
    purpose: str = ""
    """Art. 5(1)(b): what the rows are used for, specified and explicit."""
    lawful_basis: (
        Literal["consent", "contract", "legal_obligation", "vital_interests", "public_task", "legitimate_interests"]
        | None
    ) = None
    """Art. 6(1)(a) to (f), in this order."""
    data_subjects: tuple[str, ...] = ()
    """Art. 30(1)(c): the categories of people that the rows tell about."""
    recipients: tuple[str, ...] = ()
    """Art. 30(1)(d): who is given the data; ``[none]`` where nobody is."""
    transfers: tuple[str, ...] = ()
    """Art. 30(1)(e): third countries that they go to, and the safeguards; ``[none]`` where they go to none."""
    retention: Retention = Retention()
    """Art. 5(1)(e): time limits, after which specml deletes what it keeps."""
    special_categories: (
        Literal[
            "explicit_consent",
            "employment_and_social_law",
            "vital_interests",
            "non_profit_body",
            "made_public",
            "legal_claims",
            "public_interest",
            "health_care",
            "public_health",
            "research",
        ]
        | None
    ) = None
    """Art. 9(2)(a) to (j), in this order: why columns with ``personal: special`` may be used at all."""
    solely_automated: bool | None = None
    """Art. 22(1): whether decisions with legal or similarly significant effects follow from an answer alone."""
    exception: Literal["contract", "law", "explicit_consent"] | None = None
    """Art. 22(2)(a) to (c): why they may be."""
    human_review: str = ""
    """Art. 22(3): the way to a person who reviews a decision; told with every answer."""
    contest: str = ""
    """Art. 22(3): where to give one's view and contest a decision; told with every answer."""

    @override
    def apply(self, plan: Plan) -> Plan:
        params: dict[str, Any] = dict(plan.params)
        params["data"] = {**params["data"], "undeclared": "drop"}
        if self.solely_automated and params["problem"]["task"] != "regression":
            params["gates"] = {**_disparity(params), **params["gates"]}
        return replace(
            plan,
            params=params,
            stages=tuple(_recording(stage) if stage.name == "release" else stage for stage in plan.stages),
            obligations=tuple(dict.fromkeys([*plan.obligations, *self._owed()])),
        )

    def _owed(self) -> Iterator[Obligation]:
        def owed(name: Any, value: str, article: str) -> Obligation:
            return Obligation(name, value, f"GDPR Art. {article}")

        if self.retention.captures is not None:
            yield owed("capture_retention", str(self.retention.captures), "5(1)(e)")
        if self.retention.data is not None:
            yield owed("data_retention", str(self.retention.data), "5(1)(e)")
        if self.solely_automated:
            yield owed("automated_decision", DECIDED_ALONE, "13(2)(f)")
            yield owed("human_review", self.human_review, "22(3)")
            yield owed("contest", self.contest, "22(3)")

    @override
    def disagreements(self, spec: Spec) -> Iterator[Disagreement]:
        yield from self._unsaid()
        yield from self._decisions(spec)
        yield from self._columns(spec)
        capture, most = spec.monitoring.capture, self.retention.captures
        if capture is not None and most is None:
            yield _missing("retention.captures", "5(1)(e)", "how long captured requests are kept")
        elif capture is not None and most is not None and capture.retention > most:
            what = f"is {capture.retention}, longer than the rule's retention.captures of {most} (GDPR Art. 5(1)(e))."
            yield Disagreement(key=("monitoring", "capture", "retention"), what=what, from_root=True)

    def _unsaid(self) -> Iterator[Disagreement]:
        wanted = {
            "controller": ("30(1)(a)", "the controller's name and contact"),
            "purpose": ("5(1)(b)", "a specified, explicit purpose"),
            "lawful_basis": ("6(1)", "one of its six bases"),
            "data_subjects": ("30(1)(c)", "the categories of people that the rows tell about"),
        }
        for key, (article, what) in wanted.items():
            if not getattr(self, key):
                yield _missing(key, article, what)
        if self.retention.data is None:
            yield _missing("retention.data", "5(1)(e)", "how long the rows are kept")

    def _decisions(self, spec: Spec) -> Iterator[Disagreement]:
        wanted = {
            "exception": ("22(2)", "a reason why decisions may be taken without a person"),
            "human_review": ("22(3)", "the way to a person who reviews a decision"),
            "contest": ("22(3)", "where a decision can be contested"),
        }
        if self.solely_automated is None:
            yield _missing("solely_automated", "22(1)", "whether decisions follow from an answer alone")
        for key, (article, what) in wanted.items():
            if self.solely_automated and not getattr(self, key):
                yield _missing(key, article, what)
            if self.solely_automated is False and getattr(self, key):
                yield Disagreement(key=(key,), what="has no effect: solely_automated is false.")
        used = [name for name, column in spec.data.columns.items() if column.personal == "special"]
        asked = spec.mitigation.group_thresholds
        used = [name for name in used if spec.column(name).role == "feature" or (asked and asked.by == name)]
        if self.solely_automated and used and self.special_categories not in ("explicit_consent", "public_interest"):
            what = f"GDPR Art. 22(4) allows decisions on {used[0]!r} by explicit_consent or public_interest alone."
            yield Disagreement(key=("special_categories",) if self.special_categories else (), what=what)

    def _columns(self, spec: Spec) -> Iterator[Disagreement]:
        columns = spec.data.columns
        if not any(column.personal for column in columns.values()):
            what = "has no column that is declared personal: GDPR Art. 4(1), 30(1)(c)."
            hint = "Say data.columns.NAME.personal: true of each that tells about a person."
            yield Disagreement(key=("data",), what=what, hint=hint, from_root=True)
        for name, column in columns.items():
            if column.personal == "identifier" and spec.column(name).role == "id" and column.action is None:
                what = "names people and would be kept as it is: GDPR Art. 25(1), 32(1)(a) want a pseudonym."
                hint = "Say action: hash, or action: drop."
                yield Disagreement(key=("data", "columns", name), what=what, hint=hint, from_root=True)
        kept = [
            name for name, one in columns.items() if one.personal == "special" and spec.column(name).role != "ignore"
        ]
        if kept and self.special_categories is None:
            what = f"{kept[0]!r} is of a special category: GDPR Art. 9(2) wants one of its exceptions."
            yield Disagreement(key=(), what=what, hint="Say special_categories: explicit_consent, if that is so.")
        if self.special_categories is not None and not kept:
            what = "has no effect: no column that is kept has personal: special."
            yield Disagreement(key=("special_categories",), what=what)
        yield from _minimised(spec)

    @override
    def documents(self, spec: Spec, facts: Mapping[str, Any]) -> dict[str, Any]:
        """The record of processing activities (Art. 30(1))."""
        entries = [
            {"article": f"30(1)({letter})", "what": what, "value": value or NOT_SAID, "source": source}
            for letter, what, value, source in self._entries(spec, facts)
        ]
        record = {
            "document": "record of processing activities",
            "text": self.text,
            "caution": "Made from the spec and the run. Evidence, not legal advice.",
            "model": spec.name,
            "bundle": facts["bundle"],
            "entries": entries,
        }
        return {RECORD: record}

    def _entries(self, spec: Spec, facts: Mapping[str, Any]) -> Iterator[tuple[str, str, Any, str]]:
        said = "params.yaml: compliance.rules"
        controller = self.controller.model_dump() if self.controller else {}
        for key in Controller.model_fields:
            yield "a", f"controller: {key.replace('_', ' ')}", controller.get(key, ""), said
        yield "b", "purpose", self.purpose, said
        yield "b", "lawful basis (Art. 6(1))", self.lawful_basis, said
        yield "c", "categories of people", list(self.data_subjects), said
        yield "c", "categories of data", _categories(spec), "params.yaml: data.columns"
        yield "c", "exception for special categories (Art. 9(2))", self.special_categories, said
        yield "c", "rows", facts["prepared"]["rows"], "metrics/prepare.json"
        yield "d", "recipients", list(self.recipients), said
        yield "e", "transfers to third countries", list(self.transfers), said
        yield "f", "time limit of the rows", str(self.retention.data or ""), said
        yield "f", "time limit of captured requests", self._captured(spec), said
        for source, told in sorted(facts["columns"].items()):
            where = f"artifacts/ingest/{source}.json"
            yield (
                "g",
                "ids hashed under a key that is kept elsewhere (Art. 32(1)(a))",
                told["hashed"] or ["none"],
                where,
            )
            yield "g", "columns forgotten as they are read (Art. 5(1)(c))", told["dropped"], where
        yield (
            "g",
            "who may ask",
            "bearers of a token" if spec.serving.auth else "no token is asked for",
            "params.yaml: serving.auth",
        )
        yield "g", "encryption of what is stored", "", said

    def _captured(self, spec: Spec) -> str:
        return "nothing is captured" if spec.monitoring.capture is None else str(spec.monitoring.capture.retention)


def _missing(key: str, article: str, what: str) -> Disagreement:
    return Disagreement(key=(), what=f"lacks {key}: GDPR Art. {article} wants {what}.")


def _minimised(spec: Spec) -> Iterator[Disagreement]:
    """What relies on columns that minimisation takes away."""
    columns, target = spec.data.columns, spec.problem.target
    features = [name for name in columns if spec.column(name).role == "feature"]
    if not features:
        what = "declares no feature: GDPR Art. 5(1)(c) keeps no column that is not declared."
        hint = "Declare those that the model needs, as income: {dtype: float, personal: true}."
        yield Disagreement(key=("data",), what=what, hint=hint, from_root=True)
    for name in spec.features.columns:
        if name not in columns and name != target:
            what = "is not declared under data.columns: GDPR Art. 5(1)(c) keeps no such column."
            yield Disagreement(key=("features", "columns", name), what=what, from_root=True)


def _disparity(params: Mapping[str, Any]) -> dict[str, Any]:
    """A gate for the protected columns that none compares; none when there are none."""
    gates = params["gates"].values()
    compared = {
        name for gate in gates if gate["type"] == "group_disparity" for name in gate["by"] if isinstance(name, str)
    }
    by = tuple(
        sorted(n for n, one in params["data"]["columns"].items() if one["role"] == "protected" and n not in compared)
    )
    if not by:
        return {}
    options = {"type": "group_disparity", "metric": "selection_rate_ratio", "by": by, "min": 0.8, "level": "warn"}
    return {GATE: Gate.table["group_disparity"].model_validate(options).model_dump(mode="json")}


def _recording(stage: Any) -> Any:
    """The stage with the record among what it makes."""
    params = [*stage.params, *(key for key in RECORDED if key not in stage.params)]
    outs = dict.fromkeys([*stage.outs, f"artifacts/release/{RECORD}"])
    return replace(stage, params=tuple(params), outs=tuple(outs))


def _categories(spec: Spec) -> dict[str, str]:
    """Personal columns, and what becomes of each."""
    return {name: _fate(column) for name, column in sorted(spec.data.columns.items()) if column.personal}


def _fate(column: Column) -> str:
    sort = "" if column.personal is True else f"{column.personal}, "
    done = {"drop": "dropped as it is read", "hash": "hashed as it is read", None: column.role}[column.action]
    return f"{sort}{done}{', for gates only' if column.use else ''}"
