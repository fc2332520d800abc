"""The spec: the root block and its sections, in the order of the lifecycle.

Only what the rest of specml acts on is a key here. Whole-spec contradictions are found by
``Spec.disagreements``; loading (``load.py``) gives each its line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

# The kinds' folders are imported so that every built-in component is in its kind's table.
import specml.candidates
import specml.features
import specml.gates
import specml.rules
import specml.signals
import specml.sources
import specml.targets  # noqa: F401
from specml import contradictions
from specml.component import Block, ByType, Disagreement
from specml.data import DType, Role, Task, looks_back
from specml.decision import Costs, Decision
from specml.features.boolean import Boolean
from specml.features.categorical import Categorical
from specml.features.date import Date
from specml.features.numeric import Numeric
from specml.features.text import Text
from specml.graph import Trees
from specml.kinds import Candidate, Feature, Gate, Rule, Signal, Source, Target
from specml.metrics import PINBALL, PRIMARY
from specml.mitigation import Mitigation
from specml.plan import Obligation, Plan
from specml.tables import forecast
from specml.tables.checks import ColumnChecks, Rows, TableChecks
from specml.tables.forecast import Forecast
from specml.tables.history import History
from specml.tables.joins import Joins
from specml.tables.labels import Labels
from specml.tables.splits import Split
from specml.values import Day, Duration, Label, Person, Secret, Slug, at_most


class Feasibility(Block):
    """How many rows the problem needs before any model is trained."""

    min_rows: Annotated[int, Field(ge=1)] = 100
    """Training rows; below some hundred, cross-validated scores are mostly noise."""
    min_rows_per_class: Annotated[int, Field(ge=1)] = 20
    """Training rows of the rarest class (classification)."""
    min_rows_per_group: Annotated[int, Field(ge=1)] | None = None
    """Held-out rows of each group of the protected columns, by which gates judge it; not asked unless said."""
    min_history: Annotated[Duration, Field(gt=0)] | None = None
    """Time from the first to the last training row, as ``365d``, of a split by time; not asked unless said."""
    learning_curve: bool = True
    """Whether a quick baseline is trained on fewer and more of the training rows before any search, to say whether
    there is something to learn and whether more rows would help."""


class Problem(Block):
    """What is to be solved."""

    task: Task
    """``binary``, ``multiclass``, ``regression``, or ``forecast``: a number, some time ahead."""
    target: str
    """The column to predict."""
    goal: str = ""
    """What the model is for, in one sentence; shown in the plan and the model card."""
    intended_use: str = ""
    """Who uses it for what; shown in the model card."""
    out_of_scope: tuple[str, ...] = ()
    """Uses that the model is not made for; shown in the model card."""
    forecast: Forecast | None = None
    """How far ahead, of which series (``task: forecast``)."""
    positive_class: Label | None = None
    """Binary: the label whose probability is predicted. 1 or true where the labels are 0/1 or false/true."""
    favourable_class: Label | None = None
    """The outcome that the person wants; the positive class unless said. Disparity gates count it as selection."""
    quantiles: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    """Regression: which quantiles of the target are predicted, rising, as ``[0.1, 0.5, 0.9]``: of all rows like this
    one a tenth lies below the first. 0.5 is among them: the median is the prediction."""
    primary_metric: str | None = None
    """What candidates are ranked by: roc_auc (binary), log_loss (multiclass), root_mean_squared_error (regression),
    mean_absolute_error (forecast) or mean_pinball_loss (quantiles) unless said."""
    costs: Costs | None = None
    """Binary: what decisions cost. The expected cost on the held-out rows is then told; ``decision.threshold: costs``
    makes it small."""
    decision: Decision = Decision()
    feasibility: Feasibility = Feasibility()

    @property
    def metric(self) -> str:
        """The primary metric, named or by default."""
        return self.primary_metric or (
            PINBALL if self.quantiles and self.learns == "regression" else PRIMARY[self.task]
        )

    @property
    def learns(self) -> Task:
        """What a model learns: a forecast is a regression on what was known a horizon before."""
        return "regression" if self.task == "forecast" else self.task


class Column(Block):
    """What is declared about one column; everything left out is inferred from the data and said."""

    dtype: DType | None = None
    """``float``, ``int``, ``bool``, ``category``, ``datetime`` (dates, times and ISO 8601 texts; numbers do not say
    what they count) or ``text`` (words rather than a category)."""
    role: Role = "feature"
    """``feature``, ``target``, ``id``, ``protected`` (kept for gates, never shown to a model), ``weight``,
    ``time`` or ``ignore``."""
    nullable: bool = True
    """Whether a value may be missing; if not, a missing one stops the run."""
    bands: tuple[float, ...] = ()
    """Protected numbers: upper-exclusive edges that group them, as ``[25, 45, 65]``."""
    groups: dict[str, tuple[Label, ...]] = {}
    """Protected categories: named groups of values; values in no group form the group ``other``."""
    personal: bool | Literal["identifier", "special"] = False
    """Whether it tells about a person (GDPR Art. 4(1)); shown in the card. ``identifier``: it names one, and no
    model may take it; ``special``: it tells what Art. 9(1) protects, as health or origin."""
    action: Literal["drop", "hash"] | None = None
    """``drop``: forgotten as soon as it is read, never written; ``hash``: an id, written as its HMAC-SHA256 under
    ``compliance.hash_key``."""
    use: Literal["audit_only"] | None = None
    """``audit_only``: a protected column that is kept beside the held-out rows only, for gates."""
    known_after: Literal["event"] | None = None
    """``event``: it is written down only when the target is known, so that no model may take it; set aside."""
    checks: ColumnChecks | None = None
    """What its values must be."""


class Data(Block):
    """The rows, what is known about them, and which are held out."""

    sources: Annotated[dict[Slug, SerializeAsAny[Annotated[Source, ByType()]]], Field(min_length=1)]
    """Where the rows come from, by name."""
    joins: Joins = ()
    """How several sources become one table, in this order; a single source needs none."""
    columns: dict[str, Column] = {}
    """Declarations by column name, as the joined table calls it."""
    undeclared: Literal["feature", "drop"] = "feature"
    """What becomes of columns that are neither named under ``columns`` nor the target. ``feature``: features whose
    type is inferred; ``drop``: forgotten as soon as they are read, as ignored ones then are."""
    checks: TableChecks = TableChecks()
    """What the rows must be together."""
    labels: Labels = Labels()
    split: Split = Split()

    @property
    def quarantines(self) -> bool:
        """Whether some check puts rows aside."""
        checks = self.checks
        asked: list[Rows | None] = [checks.duplicates, checks.conflicting_labels, *checks.failed_rows.values()]
        for column in self.columns.values():
            if one := column.checks:
                asked += [one.missing, one.invalid if one.validity else None, one.unique, one.dtype]
        return any(check is not None and check.level == "quarantine" for check in asked)


class FeatureDefaults(Block):
    """Treatment by kind of column; ``auto`` leaves the choice to each candidate."""

    numeric: Numeric = Numeric()
    categorical: Categorical = Categorical()
    boolean: Boolean = Boolean()
    datetime: Date | None = None
    """Unless it is named, columns of times are no features, but for those that ``features.columns`` names."""
    text: Text = Text()


class Features(Block):
    """How columns become numbers."""

    include: Annotated[tuple[str, ...], Field(min_length=1)] = ("*",)
    """The columns that are features, by name or pattern (``*``, ``?``, ``[ab]``), of those whose role allows it."""
    exclude: tuple[str, ...] = ()
    """Which of these are none, likewise. A derived feature may still read them."""
    defaults: FeatureDefaults = FeatureDefaults()
    columns: dict[str, SerializeAsAny[Annotated[Feature, ByType()]]] = {}
    """Treatment of single columns, by name."""
    derive: dict[str, SerializeAsAny[Annotated[Feature, ByType()]]] = {}
    """Features computed from columns, by their own name."""
    history: History = History()

    @property
    def chooses(self) -> bool:
        """Whether it says which columns are features, or what they hold, and not only how they become numbers."""
        chosen = (self.include, self.exclude, self.derive) != (("*",), (), {})
        return chosen or self.defaults.datetime is not None or any(self.dtype(name) for name in self.columns)

    def dtype(self, name: str) -> DType | None:
        """The dtype that a column must have for its own treatment, where that treats times or texts alone."""
        treats = self.columns[name].treats if name in self.columns else ()
        if treats == ("datetime",):
            return "datetime"
        return "text" if treats == ("text",) else None

    def takes_times(self, name: str) -> bool:
        """Whether a column of times is a feature, or read by one."""
        return self.defaults.datetime is not None or self.dtype(name) == "datetime" or name in self.read

    def takes(self, name: str) -> bool:
        """Whether ``include`` and ``exclude`` let a column be a feature; a past value is there to be read only."""
        if looks_back(name) and name in self.read:
            return False
        return _matches(name, self.include) and not _matches(name, self.exclude)

    def idle(self, names: Iterable[str]) -> list[tuple[str, str]]:
        """The patterns that fit none of the columns, each with its key."""
        told = [("include", one) for one in self.include] + [("exclude", one) for one in self.exclude]
        names = tuple(names)
        return [(key, pattern) for key, pattern in told if not any(_matches(name, (pattern,)) for name in names)]

    @property
    def read(self) -> frozenset[str]:
        """The columns that derived features read."""
        return frozenset(name for feature in self.derive.values() for name in feature.reads())


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)


class Search(Block):
    """How settings of a candidate are tried, and candidates compared."""

    trials: Annotated[int, Field(ge=1, le=1000)] = 1
    """Settings tried of each candidate: first its own options, then a few that are strong for its family, then what
    Optuna proposes within its space. Finished trials are kept: a search that was interrupted goes on where it was."""
    screen: bool = False
    """Whether each candidate is first judged as its options are, the simplest first; who is behind the best by more
    than two standard errors of the folds' differences makes 4 trials, and no more."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """A search ends early once so many trials in a row were no better than the best before them, counted when a
    generation of 4 ends; null: it makes every trial."""
    max_cpu_seconds: Annotated[float, Field(gt=0)] | None = None
    """A safety: no trial of a candidate begins that is expected to end beyond so many CPU seconds of its search. Where
    it bites, a repeated run may find another model, and that is said; null: nothing but ``trials`` and ``patience``
    ends a search, and it is repeatable."""
    executor: Literal["processes", "ray"] = "processes"
    """Where trials are judged: in processes of this machine, or by the nodes of a Ray cluster. What is found is the
    same."""
    ray_address: Annotated[str, Field(pattern=r"^(auto|[A-Za-z0-9._\-\[\]:]+:\d+)$")] = "auto"
    """The cluster, as ``host:6379``; ``auto``: the one of this machine, or that ``RAY_ADDRESS`` names."""
    folds: Annotated[int, Field(ge=2, le=20)] = 5
    """Cross-validation folds over the training rows, divided as the held-out rows were: stratified for classification
    unless said, forward in time when ``data.split.method`` is ``time``; ``data.split.folds`` says otherwise."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 7


class PredictionInterval(Block):
    """How far from a prediction the target lies (regression): every answer then has a ``lower`` and an ``upper`` end.

    Learned from the out-of-fold predictions of what was taken.
    """

    coverage: Annotated[float, Field(ge=0.5, lt=1)] = 0.9
    """Share of the rows whose target the interval is to hold; what it holds of the held-out rows is measured."""
    method: Literal["auto", "absolute", "signed", "normalised", "quantile"] = "auto"
    """``absolute``: as wide for every row; ``signed``: each end for itself, where errors go further on one side;
    ``normalised``: as wide as predictions of that size are wrong; ``quantile``: from the least to the largest of
    ``problem.quantiles``, and as far beyond as it takes. ``auto``: ``quantile`` where there are quantiles; else
    ``absolute``, unless one of the others has a better interval score on folds that did not fit it, by more than one
    standard error."""


class Train(Block):
    """How the candidates are trained on all training rows, once their settings are found."""

    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """Workers of Ray Train, of one CPU each, that share the refit of each network; more than 1 takes the extra
    ``specml[train]``. On the cluster of ``search.ray_address`` or ``RAY_ADDRESS``, else on this machine. The same
    number makes the same model; another number one that differs in its last digits, and in what dropout left out."""


class Selection(Block):
    """How one model is made of the candidates; no candidate is trained anew for it."""

    rule: Literal["best", "one_standard_error"] = "best"
    """``best``: the candidate with the best mean over the folds, but see ``ensemble``; ``one_standard_error``: of those
    within one standard error of it, the first of ``prefer``, or the simplest: linear before trees before networks
    before an ensemble."""
    prefer: tuple[Slug, ...] = ()
    """Candidates in the order in which ``one_standard_error`` takes them; the others follow from the simplest on."""
    max_size: Annotated[int, Field(ge=1024)] | None = None
    """Most bytes of the model's graph; a larger candidate is ranked, but not taken. How fast it answers is for the
    gate ``latency``."""
    ensemble: Literal["none", "greedy", "stacking"] = "none"
    """``greedy``: a weighted mean of candidates competes with them, its members and weights chosen step by step by the
    out-of-fold predictions (Caruana et al. 2004), for the primary metric; ``stacking``: its weights have the least log
    loss, squared error or pinball loss there (Breiman 1996). By ``rule: best`` it is taken unless one alone is better
    by more than one standard error of the folds' differences. It answers as slowly as its members together."""
    max_members: Annotated[int, Field(ge=2, le=10)] = 4
    """Most candidates of an ensemble."""
    calibration: Literal["none", "auto", "sigmoid", "isotonic", "temperature"] = "none"
    """How the probabilities of what was taken are calibrated, by those out of fold: ``sigmoid`` (Platt) or ``isotonic``
    for two classes, ``temperature`` for more; ``auto``: the best of these, if the log loss on folds that did not fit it
    is less than without by more than one standard error."""
    prediction_interval: PredictionInterval | None = None
    """Regression: with what interval a prediction is answered, as ``{coverage: 0.9}``; unless named, with none."""


Bucket = Annotated[int, Field(ge=1, le=65536)]


class Batching(Block):
    """How a replica gathers rows into one call of the model; work-conserving unless told to wait."""

    max_batch_size: Annotated[int, Field(ge=1, le=65536)] = 256
    """Most rows in one call."""
    max_wait: Annotated[Duration, at_most("10s")] = Duration(0.0)
    """How long an idle replica waits for more rows, at most 10s; 0ms: it never idles while a row waits."""
    max_queue: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Most rows waiting in a replica; beyond, requests get 429. ``auto``: as many as the model can be run on within
    ``slo``, by what its calls take; at least one batch, at most 65536, for they are held in memory."""
    buckets: Literal["auto"] | Annotated[tuple[Bucket, ...], Field(min_length=1)] = "auto"
    """Sizes in rows to which batches are padded, ``max_batch_size`` among them unasked. Each is bound to fixed memory
    and, on CUDA, recorded as one CUDA graph. ``auto``: powers of two on a GPU, where a call costs what its start does;
    none on the CPU, where it costs what its rows do."""


class Replicas(Block):
    """How many copies of the model answer, and what each may use."""

    min: Annotated[int, Field(ge=1, le=1024)] = 2
    max: Annotated[int, Field(ge=1, le=1024)] = 2
    """More than ``min``: Ray Serve scales between the two with the load."""
    cpus: Annotated[float, Field(gt=0)] = 1.0
    """CPUs reserved by each replica."""
    gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs reserved by each replica; a fraction shares one."""


Scope = Literal["predict", "explain", "feedback", "describe", "metrics"]
"""What a key is good for: rows and tensors; explanations; late labels; what describes the model; the counters."""


class Key(Block):
    """A key of one caller, or of one program."""

    token: Secret
    """The key, as ``${secret:WEB_KEY}``; while it is changed, the new and the old one, separated by a comma."""
    scopes: tuple[Scope, ...] = get_args(Scope)
    """What it is good for; all unless named. Beyond: 403."""
    until: Day | None = None
    """The last day (UTC) on which it is accepted, as ``2026-12-31``."""


class BearerAuth(Block):
    """Requests carry ``Authorization: Bearer KEY``."""

    type: Literal["bearer"] = "bearer"
    tokens: Secret | None = None
    """Accepted keys, separated by commas, as ``${secret:API_TOKENS}``: good for everything, without end."""
    keys: dict[Slug, Key] = {}
    """Keys by name. The metrics tell how many requests each made; nothing tells the key."""

    @property
    def named(self) -> dict[str, Key]:
        """All keys by name; those without one are ``tokens``."""
        return ({"tokens": Key(token=self.tokens)} if self.tokens else {}) | self.keys

    def variable(self, *scopes: Scope) -> str:
        """The environment variable that holds a key for the scopes, or else for most of them; one that is accepted."""
        today = datetime.now(UTC).date().isoformat()
        living = [one for one in self.named.values() if one.until is None or one.until >= today]
        found = max(living or self.named.values(), key=lambda one: len({*scopes} & {*one.scopes}))
        return found.token.name


class RateLimit(Block):
    """How often each key may ask one replica; without ``auth``, everybody together.

    Two replicas let through twice as much.
    """

    requests: Annotated[float, Field(gt=0)] | None = None
    """Requests a second for predictions and explanations, or with labels; beyond: 429."""
    rows: Annotated[float, Field(gt=0)] | None = None
    """Rows a second to predict. A request that is let through is answered whole; the next one is let through when that
    one is paid."""
    burst: Annotated[Duration, Field(gt=0)] = Duration(1.0)
    """How many seconds' worth may come at once."""


class Explain(Block):
    """How requests for explanations are answered: by replicas of their own, which leave those that predict alone."""

    replicas: Annotated[int, Field(ge=1, le=64)] = 1
    max_rows: Annotated[int, Field(ge=1, le=10_000)] = 100
    """Most rows in one request; beyond: 413."""
    timeout: Annotated[Duration, at_most("50s"), Field(gt=0)] = Duration(30.0)
    """How long a request may take, at most 50s; beyond: 413, with how many rows were explained in time."""


class Grpc(Block):
    """The Open Inference Protocol over gRPC, beside HTTP."""

    port: Annotated[int, Field(ge=1, le=65535)] = 8001
    """Where each replica answers it, on its own machine: the target ``local`` at 127.0.0.1 whatever its ``host`` is;
    ``ray`` at its ``host``, on every node that has a replica, whatever its ``nodes`` say of HTTP; ``kubernetes`` in its
    pods, behind the Service ``NAME-grpc``. Replicas on one machine, or in one pod, share the port. 8001 is where
    clients of the protocol ask unless they are told."""


class Cache(Block):
    """Answers that are kept: by each replica, by every value of the rows of a request."""

    rows: Annotated[int, Field(ge=1, le=10_000_000)] = 10_000
    """Most rows whose answers are kept; the least recently asked are forgotten first."""
    ttl: Annotated[Duration, Field(gt=0)] = Duration(3600.0)
    """After which an answer is forgotten."""


class Serving(Block):
    """How requests are answered."""

    batching: Batching = Batching()
    replicas: Replicas = Replicas()
    device: Literal["auto", "cpu", "cuda", "tensorrt"] = "auto"
    """What computes the model. ``auto``: CUDA where replicas reserve a GPU, it opens and was measured faster (by
    ``specml bench``, or by the replica as it starts), else the CPU, and `/v2` says why. ``cuda`` and ``tensorrt`` start
    on nothing else."""
    cache: Cache | None = None
    """Answers that are kept for rows that are asked again; none unless it is named. It stands in the place of the
    model alone, and saves what that takes: nothing where a row takes some microseconds."""
    slo: Annotated[Duration, Field(gt=0)] | None = Duration(1.0)
    """The objective: who would have to wait for longer, by what the model's calls take, gets 429 at once, with
    ``Retry-After``. So those who are let in are answered in time when more is asked than can be answered; a person
    waits for a second without a doubt. No call of the model takes more than a quarter of it. ``null``: all wait, for as
    long as ``timeout`` and ``max_queue`` let them."""
    timeout: Annotated[Duration, at_most("50s"), Field(gt=0)] = Duration(30.0)
    """How long a request may take, at most 50s; beyond: 504, or 408 where its body has not come by then. The header
    ``x-request-timeout-seconds`` of a request may say less. HAProxy gives up after a minute."""
    fast_path: Literal["auto", "off"] = "auto"
    """``auto``: requests for the model are answered in the replica's HTTP protocol itself, everything else by the ASGI
    application behind it; ``off``: everything is. The answers are the same, several times later."""
    max_rows: Annotated[int, Field(ge=1)] = 10_000
    """Most rows in one request; beyond: 413."""
    max_body: Annotated[int, Field(ge=1024)] = 16_777_216
    """Most bytes in one request's body; beyond: 413."""
    explain: Explain | None = Explain()
    """What answers ``/explain``; ``null``: nothing does, and a process less runs."""
    trees: Literal["auto", "operator", "tensors"] = "auto"
    """What ensembles of trees become in the graph: ``operator``, ONNX's own for trees, which is fast on CPUs and which
    CUDA does not have; ``tensors``, plain operators that CUDA has all of, for which a CPU takes several times as long;
    ``auto``: ``operator``, of which a replica on a GPU makes tensors as it starts, where that is faster than the CPU.
    Every row ends in the same leaves."""
    auth: BearerAuth | None = None
    """Without it anyone who can reach the port may ask: then only this machine can."""
    grpc: Grpc | None = None
    """Unless it is named (``grpc: {}``), HTTP alone is answered. The targets ``local``, ``ray`` and ``kubernetes``
    know it; the others have nobody who could be asked so, and refuse it."""
    rate_limit: RateLimit | None = None
    """Unless it is named, only ``slo`` and a full queue refuse."""
    hosts: tuple[Annotated[str, Field(pattern=r"^(\*|[A-Za-z0-9.-]+|[0-9A-Fa-f:.]+)$")], ...] = ()
    """By which names the server may be asked; beyond: 421. ``*``: by any. Unless named: ``localhost``, the loopback
    addresses and what ``deployment.target`` binds; or any, where ``auth`` asks for a key, which a strange page in a
    browser does not have."""
    unknown_fields: Literal["refuse", "ignore"] = "refuse"
    """What becomes of a row's columns that the model does not have, in ``/predict`` and ``/explain``. A misspelt name
    is then a missing value, which nobody is told."""
    error_detail: Literal["full", "none"] = "full"
    """``none``: an error tells its kind and nothing of the columns, and what describes the model is answered to keys of
    the scope ``describe`` alone, to nobody where there are no keys."""

    @property
    def tree_form(self) -> Trees:
        """What ``trees`` says, or comes to."""
        return "operator" if self.trees == "auto" else self.trees


class Deployment(Block):
    """Where the model is served."""

    target: SerializeAsAny[Annotated[Target, ByType(default="local")]] = Field(default="local", validate_default=True)


class Capture(Block):
    """What is kept of the requests: the columns that the model takes, and what it answered."""

    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the requests; a request's id decides, so the choice is the same everywhere."""
    retention: Annotated[Duration, Field(gt=0)] = Duration(30 * 86400.0)
    """``specml watch`` deletes rows, labels and profiles that are older."""


class Window(Block):
    """How many live rows are judged together."""

    rows: Annotated[int, Field(ge=50, le=1_000_000)] = 1000
    """Captured rows; fewer wait for more."""
    labels: Annotated[int, Field(ge=50, le=1_000_000)] = 500
    """Rows whose labels have come; fewer wait for more."""


class Retrain(Block):
    """When ``specml retrain --if-raised`` trains a challenger."""

    on: Annotated[tuple[Slug, ...], Field(min_length=1)]
    """Signals, by name; one that was raised on the live release is enough."""


class Monitoring(Block):
    """How the live model is watched."""

    capture: Capture | None = None
    """Nothing is kept of any request unless this is named: requests may hold personal data."""
    window: Window = Window()
    signals: dict[Slug, SerializeAsAny[Annotated[Signal, ByType()]]] = Field(
        default={"drift": {"type": "data_drift"}}, validate_default=True, min_length=1
    )
    """What is judged, by name."""
    retrain: Retrain | None = None
    """Without it only a person retrains, or a timetable of yours."""


class Approval(Block):
    """Who must approve a release before it is served."""

    approvers: Annotated[tuple[Person, ...], Field(min_length=1)]
    """Who may, by the names that they give to ``specml approve --as``."""
    minimum: Annotated[int, Field(ge=1)] = 1
    """How many of them must."""
    by_owner: bool = False
    """Whether ``compliance.owner`` may be among them; else somebody other looks at every release."""


class Waiver(Block):
    """One gate whose refusal does not stop the release, for a time."""

    gate: str
    """The gate, by name."""
    reason: Annotated[str, Field(min_length=1)]
    """Why; shown in the card and the reports."""
    approver: Person
    """Who has decided it; never ``compliance.owner``, unless ``approval.by_owner`` says so."""
    expires: Day
    """The last day (UTC) that it lives, as ``2026-12-31``. Afterwards the gate stops the release again, and
    the deployment of what was released under the waiver."""
    control: Annotated[str, Field(min_length=1)] | None = None
    """The compensating control: what is done meanwhile against what the gate would have kept out."""


class Compliance(Block):
    """What law and policy ask of the model, and of the rows that it learns from."""

    owner: Person | None = None
    """Who answers for the model; shown in the card."""
    approval: Approval | None = None
    """Unless it is named, what the gates admit may be served."""
    waivers: dict[Slug, Waiver] = {}
    """Refusals that are let pass, by name of the waiver."""
    hash_key: Secret | None = None
    """The key of columns with ``action: hash``, as ``${secret:ROWS_KEY}``: 32 characters or more. With another key
    the same id gets another hash: name another variable when the key is changed."""
    rules: dict[Slug, SerializeAsAny[Annotated[Rule, ByType()]]] = {}
    """Laws and policies, by name: each changes the plan, and refuses a spec that lacks what it demands."""


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

    _completed = model_validator(mode="before")(forecast.completed)

    spec: Literal[1] = 1
    """Version of this language; ``docs/spec-versions.md`` says how 1 becomes 2."""
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    """Lower case, digits and dashes; names the model in the server, the card and the reports."""
    plugins: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")], ...] = ()
    """Python packages that bring components of your own; importing them runs their code."""
    problem: Problem
    data: Data
    features: Features = Features()
    mitigation: Mitigation = Mitigation()
    candidates: Annotated[dict[Slug, SerializeAsAny[Annotated[Candidate, ByType()]]], Field(min_length=1)]
    """The models that compete, by name."""
    search: Search = Search()
    train: Train = Train()
    selection: Selection = Selection()
    gates: Annotated[dict[Slug, SerializeAsAny[Annotated[Gate, ByType()]]], BeforeValidator(_with_default_gates)] = (
        Field(default={}, validate_default=True)
    )
    """What a release must meet, by name; ``baseline`` and ``parity`` are always among them."""
    serving: Serving = Serving()
    deployment: Deployment = Deployment()
    monitoring: Monitoring = Monitoring()
    compliance: Compliance = Compliance()

    def column(self, name: str) -> Column:
        """What is declared about a column, defaults when nothing is; what is dropped is ignored."""
        declared = self.data.columns.get(name, Column())
        if declared.action == "drop":
            return declared.model_copy(update={"role": "ignore"})
        return declared.model_copy(update={"role": "target"}) if name == self.problem.target else declared

    def with_role(self, role: Role) -> tuple[str, ...]:
        """The declared columns of a role, sorted."""
        return tuple(sorted(name for name in self.data.columns if self.column(name).role == role))

    def ruled(self, plan: Plan) -> Plan:
        """``plan`` with what every rule demands."""
        for _, rule in sorted(self.compliance.rules.items()):
            plan = rule.apply(plan)
        return plan

    def with_rules(self) -> Spec:
        """This spec with what its rules add to it."""
        if not self.compliance.rules:
            return self
        return type(self).model_validate(self.ruled(Plan(self.name, (), self.model_dump(mode="json"))).params)

    @property
    def obligations(self) -> tuple[Obligation, ...]:
        """What the rules demand of whatever serves the model and keeps its data."""
        return self.ruled(Plan(self.name, (), self.model_dump(mode="json"))).obligations

    def contradictions(self) -> Iterator[Disagreement]:
        """Every pair of values that can't both be meant; keys are paths from the root."""
        yield from contradictions.all_of(self)
        parts: Iterable[tuple[tuple[str | int, ...], Any]] = [
            *((("data", "sources", name), part) for name, part in self.data.sources.items()),
            *((("features", "defaults", name), part) for name, part in self.features.defaults if part is not None),
            *((("features", "columns", name), part) for name, part in self.features.columns.items()),
            *((("features", "derive", name), part) for name, part in self.features.derive.items()),
            *((("candidates", name), part) for name, part in self.candidates.items()),
            *((("gates", name), part) for name, part in self.gates.items()),
            (("deployment", "target"), self.deployment.target),
            *((("monitoring", "signals", name), part) for name, part in self.monitoring.signals.items()),
            *((("compliance", "rules", name), part) for name, part in self.compliance.rules.items()),
        ]
        for path, part in parts:
            for found in part.disagreements(self):
                yield found if found.from_root else found.model_copy(update={"key": (*path, *found.key)})
