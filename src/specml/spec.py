"""The spec: the root block and its sections, in the order of the lifecycle.

Only what the rest of specml acts on is a key here. Whole-spec contradictions are found by
``Spec.disagreements``; loading (``load.py``) gives each its line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, GetCoreSchemaHandler, SerializeAsAny, field_validator
from pydantic_core import PydanticCustomError, core_schema

# The kinds' folders are imported so that every built-in component is in its kind's table.
import specml.candidates
import specml.features
import specml.gates
import specml.sources
import specml.targets  # noqa: F401
from specml.component import Block, ByType, Disagreement
from specml.data import DType, Role, Task
from specml.features.boolean import Boolean
from specml.features.categorical import Categorical
from specml.features.numeric import Numeric
from specml.kinds import Candidate, Feature, Gate, Source, Target
from specml.metrics import PRIMARY, TABLE

Slug = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
"""A name that people give to a part: lower case, digits, underscores; it names files, stages and overrides."""

Label = str | int | float | bool


class Secret:
    """``${secret:NAME}``: the value of the environment variable NAME, read at the moment of use.

    Only the reference is ever kept, printed or written.
    """

    PATTERN: ClassVar[re.Pattern[str]] = re.compile(r"^\$\{secret:([A-Za-z_][A-Za-z0-9_]*)\}$")

    def __init__(self, reference: str) -> None:
        match = self.PATTERN.match(reference)
        if match is None:
            raise ValueError(reference)
        self.reference = reference
        self.name = match.group(1)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other.reference == self.reference

    def __hash__(self) -> int:
        return hash(self.reference)

    def __repr__(self) -> str:
        return self.reference

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def parse(value: Any) -> Secret:
            if isinstance(value, Secret):
                return value
            if isinstance(value, str) and cls.PATTERN.match(value):
                return cls(value)
            raise PydanticCustomError("secret", "must be a reference like ${secret:NAME}, never the secret itself.")

        return core_schema.no_info_before_validator_function(
            parse,
            core_schema.is_instance_schema(cls),
            serialization=core_schema.to_string_ser_schema(),
            json_schema_input_schema=core_schema.str_schema(pattern=cls.PATTERN.pattern),
        )

    def __str__(self) -> str:
        return self.reference


class Duration(float):
    """Seconds, written as ``250ms``, ``30s``, ``10m``, ``2h`` or ``7d``."""

    UNITS: ClassVar[dict[str, float]] = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

    def __str__(self) -> str:
        for unit in ("d", "h", "m", "s"):
            if self and float(self) % self.UNITS[unit] == 0:
                return f"{int(float(self) / self.UNITS[unit])}{unit}"
        return f"{float(self) * 1000:g}ms"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def parse(value: Any) -> Duration:
            if isinstance(value, Duration):
                return value
            match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", value) if isinstance(value, str) else None
            if match is None:
                raise PydanticCustomError("duration", "must be a duration like 250ms, 30s, 10m, 2h or 7d.")
            return cls(float(match.group(1)) * cls.UNITS[match.group(2)])

        return core_schema.no_info_before_validator_function(
            parse,
            core_schema.is_instance_schema(cls),
            serialization=core_schema.to_string_ser_schema(),
            json_schema_input_schema=core_schema.str_schema(pattern=r"^\d+(\.\d+)?(ms|s|m|h|d)$"),
        )


class Decision(Block):
    """How a probability becomes a label (binary problems)."""

    threshold: Literal["auto"] | Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Probability from which the positive class is decided; ``auto`` takes the one with the best
    balanced accuracy on the out-of-fold predictions."""


class Feasibility(Block):
    """How many rows the problem needs before any model is trained."""

    min_rows: Annotated[int, Field(ge=1)] = 100
    """Training rows; below some hundred, cross-validated scores are mostly noise."""
    min_rows_per_class: Annotated[int, Field(ge=1)] = 20
    """Training rows of the rarest class (classification)."""


class Problem(Block):
    """What is to be solved."""

    task: Task
    """``binary``, ``multiclass`` or ``regression``."""
    target: str
    """The column to predict."""
    goal: str = ""
    """What the model is for, in one sentence; shown in the plan and the model card."""
    intended_use: str = ""
    """Who uses it for what; shown in the model card."""
    out_of_scope: tuple[str, ...] = ()
    """Uses that the model is not made for; shown in the model card."""
    positive_class: Label | None = None
    """Binary: the label whose probability is predicted. 1 or true where the labels are 0/1 or false/true."""
    favourable_class: Label | None = None
    """The outcome that the person wants; the positive class unless said. Disparity gates count it as selection."""
    primary_metric: str | None = None
    """What candidates are ranked by: roc_auc (binary), log_loss (multiclass) or root_mean_squared_error
    (regression) unless said."""
    decision: Decision = Decision()
    feasibility: Feasibility = Feasibility()

    @property
    def metric(self) -> str:
        """The primary metric, named or by default."""
        return self.primary_metric or PRIMARY[self.task]


class Column(Block):
    """What is declared about one column; everything left out is inferred from the data and said."""

    dtype: DType | None = None
    """``float``, ``int``, ``bool``, ``category`` or ``datetime``."""
    role: Role = "feature"
    """``feature``, ``target``, ``id``, ``protected`` (kept for gates, never shown to a model), ``weight``,
    ``time`` or ``ignore``."""
    nullable: bool = True
    """Whether a value may be missing; if not, a missing one stops the run."""
    bands: tuple[float, ...] = ()
    """Protected numbers: upper-exclusive edges that group them, as ``[25, 45, 65]``."""
    groups: dict[str, tuple[Label, ...]] = {}
    """Protected categories: named groups of values; values in no group form the group ``other``."""


class Split(Block):
    """Which rows are held out, as a file that no training stage reads."""

    method: Literal["auto", "random", "stratified", "time"] = "auto"
    """``auto``: stratified by class for classification, random for regression; ``time``: the latest rows."""
    test: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of rows held out."""
    column: str | None = None
    """``time``: the column that orders the rows. Rows of one time stay on one side."""
    seed: Annotated[int, Field(ge=0)] = 7


class Data(Block):
    """The rows, what is known about them, and which are held out."""

    sources: dict[Slug, SerializeAsAny[Annotated[Source, ByType()]]]
    """Where the rows come from, by name."""
    columns: dict[str, Column] = {}
    """Declarations by column name; columns not named are features whose type is inferred."""
    split: Split = Split()

    @field_validator("sources")
    @classmethod
    def _one(cls, sources: dict[str, Source]) -> dict[str, Source]:
        if len(sources) != 1:
            raise PydanticCustomError("one_source", "must name exactly one source; {n} are named.", {"n": len(sources)})
        return sources


class FeatureDefaults(Block):
    """Treatment by kind of column; ``auto`` leaves the choice to each candidate."""

    numeric: Numeric = Numeric()
    categorical: Categorical = Categorical()
    boolean: Boolean = Boolean()


class Features(Block):
    """How columns become numbers."""

    defaults: FeatureDefaults = FeatureDefaults()
    columns: dict[str, SerializeAsAny[Annotated[Feature, ByType()]]] = {}
    """Treatment of single columns, by name."""


class Search(Block):
    """How candidates are compared."""

    folds: Annotated[int, Field(ge=2, le=20)] = 5
    """Cross-validation folds over the training rows: stratified for classification, forward in time
    when ``data.split.method`` is ``time``."""
    seed: Annotated[int, Field(ge=0)] = 7


class Batching(Block):
    """How a replica gathers rows into one call of the model; work-conserving unless told to wait."""

    max_batch_size: Annotated[int, Field(ge=1, le=65536)] = 256
    """Most rows in one call."""
    max_wait: Duration = Duration(0.0)
    """How long an idle replica waits for more rows; 0: it never idles while a row waits."""
    max_queue: Annotated[int, Field(ge=1)] = 2048
    """Most rows waiting in a replica; beyond, requests get 429."""


class Replicas(Block):
    """How many copies of the model answer, and what each may use."""

    min: Annotated[int, Field(ge=1, le=1024)] = 2
    max: Annotated[int, Field(ge=1, le=1024)] = 2
    """More than ``min``: Ray Serve scales between the two with the load."""
    cpus: Annotated[float, Field(gt=0)] = 1.0
    """CPUs reserved by each replica."""
    gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs reserved by each replica; a fraction shares one."""


class BearerAuth(Block):
    """Requests carry ``Authorization: Bearer TOKEN``."""

    type: Literal["bearer"] = "bearer"
    tokens: Secret
    """Accepted tokens, separated by commas, as ``${secret:API_TOKENS}``."""


class Serving(Block):
    """How requests are answered."""

    batching: Batching = Batching()
    replicas: Replicas = Replicas()
    max_rows: Annotated[int, Field(ge=1)] = 10_000
    """Most rows in one request; beyond: 413."""
    max_body: Annotated[int, Field(ge=1024)] = 16_777_216
    """Most bytes in one request's body; beyond: 413."""
    auth: BearerAuth | None = None
    """Without it anyone who can reach the port may ask: then only this machine can."""


class Deployment(Block):
    """Where the model is served."""

    target: SerializeAsAny[Annotated[Target, ByType()]] = Field(default="local", validate_default=True)  # type: ignore[assignment]


def _with_default_gates(gates: Any) -> Any:
    """Every spec is held to its baseline and to parity; naming them changes their options."""
    if not isinstance(gates, dict):
        return gates
    merged = dict(gates)
    for name in ("baseline", "parity"):
        options = gates.get(name, {})
        merged[name] = {"type": name, **options} if isinstance(options, dict) else options
    return merged


class Spec(Block):
    """A problem, from its data to its running model."""

    spec: Literal[1] = 1
    """Version of this language; ``docs/spec-versions.md`` says how 1 becomes 2."""
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    """Lower case, digits and dashes; names the model in the server, the card and the reports."""
    plugins: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")], ...] = ()
    """Python packages that bring components of your own; importing them runs their code."""
    problem: Problem
    data: Data
    features: Features = Features()
    candidates: Annotated[dict[Slug, SerializeAsAny[Annotated[Candidate, ByType()]]], Field(min_length=1)]
    """The models that compete, by name."""
    search: Search = Search()
    gates: Annotated[dict[Slug, SerializeAsAny[Annotated[Gate, ByType()]]], BeforeValidator(_with_default_gates)] = (
        Field(default={}, validate_default=True)
    )
    """What a release must meet, by name; ``baseline`` and ``parity`` are always among them."""
    serving: Serving = Serving()
    deployment: Deployment = Deployment()

    def column(self, name: str) -> Column:
        """What is declared about a column, defaults when nothing is."""
        declared = self.data.columns.get(name, Column())
        return declared.model_copy(update={"role": "target"}) if name == self.problem.target else declared

    def with_role(self, role: Role) -> tuple[str, ...]:
        """The declared columns of a role, sorted."""
        return tuple(sorted(name for name in self.data.columns if self.column(name).role == role))

    def contradictions(self) -> Iterator[Disagreement]:
        """Every pair of values that can't both be meant; keys are paths from the root."""
        yield from _problem(self)
        yield from _data(self)
        yield from _candidates(self)
        yield from _serving(self)
        parts: Iterable[tuple[tuple[str | int, ...], Any]] = [
            *((("data", "sources", name), part) for name, part in self.data.sources.items()),
            *((("features", "columns", name), part) for name, part in self.features.columns.items()),
            *((("candidates", name), part) for name, part in self.candidates.items()),
            *((("gates", name), part) for name, part in self.gates.items()),
            (("deployment", "target"), self.deployment.target),
        ]
        for path, part in parts:
            for found in part.disagreements(self):
                yield found.model_copy(update={"key": (*path, *found.key)})


def _problem(spec: Spec) -> Iterator[Disagreement]:
    problem = spec.problem
    metric = TABLE.get(problem.metric)
    if metric is None or problem.task not in metric.tasks:
        known = ", ".join(name for name, other in TABLE.items() if problem.task in other.tasks)
        yield Disagreement(
            key=("problem", "primary_metric"),
            what=f"{problem.metric!r} is no metric for a {problem.task} problem.",
            hint=f"Known: {known}.",
        )
    if problem.task != "binary":
        # Compared with the defaults, not by what was written: the rendered spec writes everything.
        for key, unset in (("positive_class", None), ("decision", Decision())):
            if getattr(problem, key) != unset:
                yield Disagreement(key=("problem", key), what=f"has no effect on a {problem.task} problem.")
    if problem.task == "regression" and problem.favourable_class is not None:
        yield Disagreement(key=("problem", "favourable_class"), what="has no effect on a regression problem.")


def _data(spec: Spec) -> Iterator[Disagreement]:
    columns, split = spec.data.columns, spec.data.split
    for name, column in columns.items():
        path = ("data", "columns", name)
        if column.role == "target" and name != spec.problem.target:
            yield Disagreement(
                key=(*path, "role"),
                what=f"is target, but problem.target is {spec.problem.target!r}.",
                hint="Name one of the two.",
            )
        if name == spec.problem.target and column.role not in ("feature", "target"):
            yield Disagreement(key=(*path, "role"), what=f"is {column.role}, but problem.target names this column.")
        if (column.bands or column.groups) and column.role != "protected":
            yield Disagreement(
                key=(*path, "bands" if column.bands else "groups"), what="has no effect: the column is not protected."
            )
        if column.bands and column.groups:
            yield Disagreement(key=(*path, "groups"), what="can't stand beside bands: a column has one grouping.")
        if list(column.bands) != sorted(set(column.bands)):
            yield Disagreement(key=(*path, "bands"), what="must rise from edge to edge.")
        if column.dtype == "datetime" and column.role not in ("time", "ignore"):
            yield Disagreement(
                key=(*path, "role"), what=f"is {column.role}, but a datetime can only have the role time or ignore."
            )
    weights = spec.with_role("weight")
    for extra in weights[1:]:
        yield Disagreement(
            key=("data", "columns", extra, "role"), what=f"is weight, and so is {weights[0]!r}: only one can be."
        )
    if split.method == "time" and split.column is None:
        yield Disagreement(key=("data", "split", "column"), what="is required: it orders the rows of a time split.")
    if split.method != "time" and split.column is not None:
        yield Disagreement(key=("data", "split", "column"), what=f"has no effect on a split by {split.method!r}.")
    if split.method == "time" and split.column is not None and spec.column(split.column).role != "time":
        yield Disagreement(
            key=("data", "split", "column"),
            what=f"names {split.column!r}, whose role is {spec.column(split.column).role}.",
            hint=f"Declare data.columns.{split.column}.role: time",
        )
    if split.method == "stratified" and spec.problem.task == "regression":
        yield Disagreement(
            key=("data", "split", "method"), what="is stratified, but a regression target has no classes."
        )
    for name in spec.features.columns:
        if spec.column(name).role != "feature":
            yield Disagreement(
                key=("features", "columns", name), what=f"has no effect: the column's role is {spec.column(name).role}."
            )


def _candidates(spec: Spec) -> Iterator[Disagreement]:
    task = spec.problem.task
    for name, candidate in spec.candidates.items():
        if task not in candidate.tasks:
            known = ", ".join(name for name, other in Candidate.table.items() if task in getattr(other, "tasks", ()))
            yield Disagreement(
                key=("candidates", name, "type"),
                what=f"solves {' and '.join(candidate.tasks)} problems, not {task} ones.",
                hint=f"Known: {known}.",
            )


def _serving(spec: Spec) -> Iterator[Disagreement]:
    batching, replicas = spec.serving.batching, spec.serving.replicas
    if batching.max_queue < batching.max_batch_size:
        yield Disagreement(
            key=("serving", "batching", "max_queue"),
            what=f"is {batching.max_queue} rows, less than one batch of {batching.max_batch_size}.",
        )
    if replicas.max < replicas.min:
        yield Disagreement(key=("serving", "replicas", "max"), what=f"is {replicas.max}, below min ({replicas.min}).")
