"""The seven kinds of component: the whole extension surface on one page.

To add a component, subclass one of these in a file of its own, with ``type: Literal["its_name"]``.
Methods are documented here once; implementations carry ``@override``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from typing_extensions import override

from specml import space
from specml.component import Component, Disagreement
from specml.data import Folding
from specml.errors import DeployFailed
from specml.files import inside
from specml.space import Dimension, Setting
from specml.values import FilePath

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    import numpy as np
    import polars as pl

    from specml.bundle import Method, Space
    from specml.data import Column, Design, Pixels, Task
    from specml.evidence import Evidence, Verdict
    from specml.graph import Graph
    from specml.plan import Plan
    from specml.profile import Profile
    from specml.releases import Release
    from specml.spec import Spec

    Values = Any
    """``np.ndarray`` float64 [n] for numbers, ``pl.Series`` of String for texts: a feature knows which it treats."""


Tell = Callable[[str, Any], None]
"""``tell(what, found)``: says what was not declared and had to be found out."""


def untold(what: str, found: Any) -> None:
    """Tell nobody."""


def unprotected(spec: Spec, name: str, key: tuple[str | int, ...]) -> Iterator[Disagreement]:
    """That a column whose groups are to be compared, which ``key`` names, is not protected."""
    if spec.column(name).role != "protected":
        hint = f"Declare data.columns.{name}.role: protected"
        yield Disagreement(key=key, what=f"names {name!r}, which is no protected column.", hint=hint)


class Source(Component):
    """Where rows come from."""

    remote: ClassVar[bool] = False
    """Whether rows come from elsewhere than from ``files``: each run then asks for the ``fingerprint`` first."""
    ordered: ClassVar[bool] = True
    """Whether rows come in an order of their own; if not, ``ingest`` sorts them."""

    @property
    def pixels(self) -> Pixels | None:
        """How it makes columns of images, where it does: a request to the model may then carry an image."""
        return None

    @abstractmethod
    def files(self) -> tuple[str, ...]:
        """The files or folders it reads, relative to the project: DVC re-reads them only when they change."""

    def fingerprint(self, folder: Path) -> dict[str, Any]:
        """What stays the same as long as the rows do, in a few JSON values; only a remote source is asked.

        Raises:
            DataCheckFailed: it can't be reached.
        """
        raise NotImplementedError

    @abstractmethod
    def read(self, folder: Path, texts: frozenset[str] = frozenset(), tell: Tell = untold) -> pl.DataFrame:
        """All rows, in a stable order.

        ``texts``: columns to be kept as they are written, also when they look like numbers (``02139``) or dates.
        ``tell``: is given what was not declared and had to be found out, as ``tell("encoding", "latin-1")``; it holds
        no value of the data.

        Raises:
            DataCheckFailed: it is missing or can't be read as this type; the first line at fault and the count are
                told.
            NotEnoughData: it is empty.
        """

    def batches(self, folder: Path, texts: frozenset[str] = frozenset(), tell: Tell = untold) -> Iterator[pl.DataFrame]:
        """The rows of ``read`` in their order, in batches that have the same columns.

        One batch, unless a source knows how to read a part of its rows only.
        """
        yield self.read(folder, texts, tell)

    @property
    def grows_by(self) -> str | None:
        """The column by which rows are read on from where they were known; None: they are always read whole."""
        return None

    def read_on(
        self, folder: Path, since: Any, texts: frozenset[str] = frozenset(), tell: Tell = untold
    ) -> tuple[pl.DataFrame, int]:
        """The rows whose ``grows_by`` is ``since`` or later, and how many rows there are in all at that moment."""
        raise NotImplementedError


class FileSource(Source):
    """Rows of a file or folder that DVC watches."""

    path: FilePath
    """The file or folder, relative to the project folder."""
    allow_outside: bool = False
    """Whether it may lie outside the project folder."""

    @override
    def files(self) -> tuple[str, ...]:
        return (self.path,)

    def located(self, folder: Path) -> Path:
        """Where ``path`` leads from the project's ``folder``.

        Raises:
            DataCheckFailed: out of the project, and ``allow_outside`` is false.
        """
        return inside(folder, self.path, allow_outside=self.allow_outside)


class Feature(Component):
    """How one column becomes numbers, in Python and in the graph alike; or a new one is derived from several."""

    treats: ClassVar[tuple[str, ...]]
    """The kinds of column (see ``data.Column``) that it can treat."""

    @abstractmethod
    def fit(self, column: Column, values: Values, training: Training) -> FittedFeature:
        """Learn from training ``values`` (see ``data.feature_values``).

        ``training.prefers`` decides what is ``auto``.
        """

    def training_values(self, fitted: FittedFeature, values: Values, training: Training) -> np.ndarray:
        """The rows that ``fit`` learned from, as the model is trained on them: float32 [n, len(names)].

        A feature that learned from the target gives each row what was learned from others (cross-fitting);
        with its own target in its features, a model would trust them more than new rows deserve.
        """
        return fitted.transform(values)

    @classmethod
    @abstractmethod
    def restore(cls, state: dict[str, Any]) -> FittedFeature:
        """What ``FittedFeature.state`` was taken from."""

    def reads(self) -> Mapping[str, tuple[str, ...]]:
        """The columns that a derived feature is made from, each with the kinds that it may be of.

        None: it treats the column that it is named for.
        """
        return {}

    def derive(self, values: Mapping[str, Values]) -> np.ndarray:
        """What is treated, float64 [n] with NaN for missing, from the values of the columns that it ``reads``."""
        raise NotImplementedError

    def derive_in(self, graph: Graph, values: Mapping[str, str]) -> str:
        """The same in the graph, from values [n, 1]; returns a float64 value [n, 1]."""
        raise NotImplementedError


@dataclass(frozen=True)
class Preference:
    """What a candidate wants of features that the spec leaves to ``auto``."""

    missing: Literal["native", "median"]
    scale: Literal["none", "standard"]
    encode: Literal["ordinal", "onehot"]


@dataclass(frozen=True)
class Training:
    """What a feature may learn from beside its column's values."""

    prefers: Preference
    y: np.ndarray
    """int64 class indices or float64 targets [n], of the same rows."""
    task: Task
    n_classes: int = 2
    seed: int = 7
    folding: Folding = field(default_factory=Folding)
    """How rows are to be divided where one may not be told its own target."""
    key: np.ndarray | None = None
    """int64 [n]: by what ``folding`` divides them; None where by chance."""


class FittedFeature(ABC):
    """A feature with what it learned; ``transform`` and ``to_onnx`` are the same function."""

    names: tuple[str, ...]
    """Names of the resulting columns of the design."""

    @property
    def cardinality(self) -> int:
        """How many categories the codes 0, 1, … of its columns tell apart (-1: one never seen); 0 for numbers."""
        return 0

    @property
    def monotone(self) -> int:
        """Whether the model's score may only rise (1) or fall (-1) with its first column; 0: either."""
        return 0

    @abstractmethod
    def transform(self, values: Values) -> np.ndarray:
        """``values`` [n], as ``fit`` takes them, as float32 [n, len(names)]."""

    @abstractmethod
    def to_onnx(self, graph: Graph, value: str) -> str:
        """The same on the graph's ``value`` [n, 1]; returns a float32 value [n, len(names)]."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What it learned, as JSON values."""


class Candidate(Component):
    """A family of models that competes to solve the problem."""

    tasks: ClassVar[tuple[Task, ...]]
    prefers: ClassVar[Preference]
    stops_early: ClassVar[bool] = False
    """Whether ``fit`` can watch ``stop_on``; it is then given rows that neither train nor score."""
    keeps_monotone: ClassVar[bool] = False
    """Whether ``fit`` keeps to ``Design.monotone``."""
    predicts_quantiles: ClassVar[bool] = False
    """Whether ``fit`` predicts ``Design.quantile`` where that is one."""
    answers_with_past: ClassVar[bool] = False
    """Whether its answers are made of past values as they are: they take no ``target_transform``."""
    shares: ClassVar[bool] = False
    """Whether several workers can share a fit: see ``fit_share``."""
    complexity: ClassVar[int] = 2
    """Its place from the simplest models on, by which ``selection.rule`` may choose: 0 a constant, 1 linear, 2 trees,
    3 a network or anything."""
    usual_space: ClassVar[Mapping[str, Dimension]] = {}
    """What a search tries of a candidate whose ``space`` is empty."""
    portfolio: ClassVar[tuple[Mapping[str, Setting], ...]] = ()
    """Settings that have proved strong on many tables, in the order in which a search tries them before it proposes
    any of its own. Each names some options of ``usual_space`` with values in its ranges; others stay as they are."""

    space: dict[str, Dimension] = {}
    """What a search tries, by option; the family's usual ranges unless given. The options themselves are the
    first trial, then come the family's strong settings, as far as they lie in these ranges."""
    target_transform: Literal["none", "sqrt", "log"] = "none"
    """Regressions: what is learned in place of the target, its square root or ``log(1 + target)``; no target may be
    below 0. Answers are the target itself, and explained by asking the graph. Without a ``space``, a search tries all
    three where no training row's target is below 0."""

    @property
    def watches(self) -> bool:
        """Whether, with these options, ``fit`` watches ``stop_on``; if not, no rows are held back for it.

        An option ``early_stopping`` of 0 says that it does not.
        """
        return self.stops_early and getattr(self, "early_stopping", None) != 0

    @abstractmethod
    def fit(self, train: Design, *, seed: int, threads: int, stop_on: Design | None = None) -> Model:
        """Train on ``train``.

        ``stop_on``: rows that a family with early stopping watches; None: train all rounds.
        The same arguments give the same model, whatever ``threads`` is.
        """

    def fit_share(self, train: Design, *, seed: int, rank: int, workers: int) -> Model:
        """``fit`` on one of several ``workers`` that torch's process group joins, each with all rows of ``train``.

        All come to the same model. The same arguments give the same one again; another number of ``workers``, another.
        """
        raise NotImplementedError

    @abstractmethod
    def load(self, folder: Path, task: Task) -> Model:
        """The model that ``Model.save`` wrote to ``folder``; no code is run from there."""

    @override
    def disagreements(self, spec: Spec) -> Iterable[Disagreement]:
        if self.space and spec.search.trials == 1:
            hint = "Say search.trials: how many settings are tried."
            yield Disagreement(key=("space",), what="has no effect: there is one trial.", hint=hint)
        name = "target_transform"
        searched = (("space", name),) if name in self.space else ()
        for key in (((name,),) if self.target_transform != "none" else ()) + searched:
            if spec.problem.task in ("binary", "multiclass"):
                what = "has no effect on classes: it is for regressions."
                yield Disagreement(key=key, what=what, hint="Leave it out.")
            elif self.answers_with_past:
                what = "does not fit a family that answers with past values as they are."
                yield Disagreement(key=key, what=what, hint="Leave it out.")
        yield from space.disagreements(self, self.space)


class Model(ABC):
    """A trained candidate."""

    learned: dict[str, int]
    """Options of the candidate that the fit found (rounds until early stopping, say);
    the refit on all rows takes their mean over the folds."""

    @abstractmethod
    def predict(self, X: np.ndarray) -> np.ndarray:
        """float64: probability of the positive class [n], of every class [n, k], or the prediction [n]."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the model as data (text, JSON, npz): the same model, the same bytes."""

    @abstractmethod
    def to_onnx(self, graph: Graph, X: str) -> str:
        """Add the model to the graph; returns a float32 value [n, 1] or [n, k], as ``predict`` gives."""

    def native(self) -> Native | None:
        """What explains the model better than asking its graph does; None where nothing is known."""
        return None


@dataclass(frozen=True)
class Native:
    """A model's own numbers for a method of explanation, in the form that ``bundle.NATIVE`` names."""

    method: Method
    space: Space
    content: bytes


Stricter = Literal["larger", "smaller", "more", "fewer"] | tuple[str, ...]
"""Which value of an option asks for more: the larger or the smaller number, the longer or the shorter list, or the
later of some words, ``("false", "true")`` among them; of no words, none does."""

STRICTER: Mapping[str, Stricter] = {
    "by": "more",
    "confidence": "larger",
    "group_policy": ("warn", "block"),
    "level": ("warn", "fail"),
    "max": "smaller",
    "min": "larger",
    "min_group_size": "larger",
    "min_rows": "larger",
    "policy": ("warn", "block"),
}
"""Of the options that gates share; where what is not measured may pass, what decides that has no direction."""


class Gate(Component):
    """A condition for a release, judged on evidence that no training stage has seen."""

    stricter: ClassVar[Mapping[str, Stricter]] = {}
    """Of the options that ``STRICTER`` does not know, or of which no value asks for more here (``()``); of one that
    neither knows, none does."""

    level: Literal["fail", "warn"] = "fail"
    """Whether a refusal stops the release or is only told."""
    times: ClassVar[bool] = False
    """Whether ``check`` measures time: its figures then differ from run to run."""

    @property
    def against_champion(self) -> bool:
        """Whether ``check`` asks for ``evidence.champion``; the plan then has a stage that fetches it.

        Of a gate that always does, it is a ``ClassVar``; so with the others.
        """
        return False

    @property
    def reads_training(self) -> bool:
        """Whether ``check`` asks for ``evidence.training``."""
        return False

    @property
    def reads_directions(self) -> bool:
        """Whether ``check`` asks for ``evidence.directions``."""
        return False

    @property
    def asks_server(self) -> bool:
        """Whether ``check`` asks for ``evidence.model.served``."""
        return False

    def files(self) -> tuple[str, ...]:
        """Files that ``check`` reads, relative to ``evidence.folder``: DVC judges anew when they change."""
        return ()

    @abstractmethod
    def check(self, evidence: Evidence) -> Verdict:
        """Judge; deterministic. What can't be computed is ``not measured``, never ``holds``."""


class Signal(Component):
    """Something watched while the model is live."""

    judges: ClassVar[Literal["rows", "labels"]]
    """Windows of which it judges: of the rows that were asked, or of the labels that came since."""
    min_rows: int
    """Fewer rows are not measured."""

    @override
    def disagreements(self, spec: Spec) -> Iterable[Disagreement]:
        if self.judges == "labels" and spec.monitoring.capture is None:
            hint = "Set monitoring.capture: {share: 1.0, retention: 30d}"
            yield Disagreement(key=("type",), what="needs captured answers to join late labels to.", hint=hint)
        if self.min_rows > (most := getattr(spec.monitoring.window, self.judges)):
            what = f"is {self.min_rows}, but a window has {most} {self.judges}: never measured."
            hint = f"Raise monitoring.window.{self.judges}, or lower this."
            yield Disagreement(key=("min_rows",), what=what, hint=hint)

    @abstractmethod
    def judge(self, reference: dict[str, Any], window: Window) -> Verdict:
        """Compare a window with the bundle's ``reference`` (reference.json); ``refused`` raises the signal.

        A gate admits on proof only; a signal accuses on proof only: what chance may have made is ``holds``.
        """


@dataclass(frozen=True)
class Window:
    """Live rows that are judged together.

    ``y`` int64 class indices or float64 targets [n]; ``scores`` float64 [n] or [n, k], as in ``Evidence``;
    ``decisions`` int64 class indices [n], ``evidence.ABSTAINED`` where none was made, None for a regression.
    """

    rows: int
    profile: Profile | None = None
    """Of the columns that the model takes; None in a window of labels."""
    y: np.ndarray | None = None
    """The labels; None in a window of rows."""
    scores: np.ndarray | None = None
    decisions: np.ndarray | None = None
    quantiles: tuple[float, ...] = ()
    """Of which quantiles ``scores`` [n, q] are; () where they are none."""
    ends: np.ndarray | None = None
    """The prediction intervals that were answered, float64 [n, 2]; None where there were none."""


class Rule(Component):
    """A law or policy as a change of the plan; it never runs by itself.

    What a spec lacks to comply is told by ``disagreements``, each with the article that wants it.
    """

    text: ClassVar[str]
    """The law or policy that it encodes, and as of when."""

    @abstractmethod
    def apply(self, plan: Plan) -> Plan:
        """The plan with what the rule demands: gates and stricter values in ``params``, stage flags, obligations.

        Only adds, and adds nothing the second time. It is first given a plan without stages, from whose ``params``
        the stages are then declared.
        """

    def documents(self, spec: Spec, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Documents that the rule demands, as JSON values by their file's name under ``artifacts/release``.

        ``apply`` adds those files to the stage ``release``, and the keys of ``spec`` that they are made from.
        ``facts``: ``bundle`` (digest), ``prepared`` (metrics/prepare.json), ``columns`` (by source, what ingest
        kept, hashed and dropped). What is in neither stands there as not said or not measured.
        """
        return {}


class Target(Component):
    """Where a bundle is served."""

    answers_grpc: ClassVar[bool] = False
    """Whether ``serving.grpc`` has an effect; a spec that names it for another target is refused."""

    @abstractmethod
    def emit(self, spec: Spec) -> dict[str, str]:
        """The target's configuration files: content by path relative to the project (serve.yaml, or in deploy/).

        Pure. With ``files.GENERATED`` near its top, a file is removed when the spec names another target.
        """

    def in_words(self, spec: Spec) -> str:
        """What ``deploy`` will do, in a sentence, for ``specml plan``."""
        return f"A release is served by the target {type(self).model_fields['type'].default}."

    @abstractmethod
    def deploy(self, spec: Spec, project: Path, release: Release, say: Callable[[str], None]) -> Deployment:
        """Serve a release from the store, which holds only what was admitted; returns once it answers, or is packed.

        Deploying what is already live does nothing. ``say`` takes lines of progress.

        Raises:
            BundleError: the stored bundle is not what was released.
            DeployFailed: the server can't be started, or does not get ready in time.
        """

    def tune(self, spec: Spec, project: Path, say: Callable[[str], None]) -> Deployment:
        """Have what is live go on with the knobs of ``spec``, restarting nothing; returns once all replicas do.

        Raises:
            DeployFailed: nothing is live, or this target's replicas take over nothing as they run.
        """
        name = type(self).model_fields["type"].default
        raise DeployFailed(
            f"the target {name} takes over nothing while it runs.",
            where="deployment.target",
            hint="Change the spec and deploy it.",
        )

    @abstractmethod
    def status(self, spec: Spec, project: Path) -> Deployment | None:
        """What is live, asked of the server itself; None when nothing is."""

    @abstractmethod
    def stop(self, spec: Spec, project: Path) -> bool:
        """Stop what ``deploy`` started; False when nothing was running."""


@dataclass(frozen=True)
class ScoredFiles:
    """What a release has answered where no server is up."""

    folder: str
    rows: int
    """With an answer."""
    files: int
    """Of which every row has been looked at."""
    unfinished: int
    """Files of which only some have."""


@dataclass(frozen=True)
class Deployment:
    """A live server, or what stands in its place."""

    url: str
    bundle: str
    """Digest of the bundle that it answers from."""
    replicas: int
    devices: tuple[str, ...]
    """The execution provider of each replica's session."""
    unguarded: tuple[str, ...] = ()
    """Listening sockets that are not bound to loopback, each with what protects it."""
    archive: str = ""
    """Path of the archive that answers at the URL of whatever machine it is started on; empty where a server is up."""
    scored: ScoredFiles | None = None
    """The answers to files of rows, where nobody can be asked; None elsewhere."""
    commands: tuple[str, ...] = ()
    """What a person types to start it from there, in order; empty where the archive tells itself."""
    knobs: dict[str, str] = field(default_factory=dict)
    """What its replicas go by and take over as they run, by key of the spec and as a spec writes it; empty where they
    take over nothing."""
    grpc: tuple[str, ...] = ()
    """Where gRPC is answered, as ``host:port``; empty where it is not."""
