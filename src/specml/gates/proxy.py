"""What stands in for a protected column."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field
from typing_extensions import override

from specml.component import Disagreement
from specml.data import feature_array
from specml.disparity import Policy
from specml.evidence import Evidence, Interval, Slice, Verdict, bounded
from specml.kinds import Gate, Stricter, unprotected

if TYPE_CHECKING:
    import numpy as np

    from specml.spec import Spec

ROWS = 5000
"""Rows that the classifier learns from and is judged by, at most; evenly spaced."""
COLUMNS = 100
"""Columns that it reads at most; evenly spaced."""
FOLDS = 3
TREES = 30
TOLD = 3
"""Columns that are named."""
SETTINGS = {
    "num_leaves": 15,
    "learning_rate": 0.15,
    "min_data_in_leaf": 20,
    "max_bin": 63,
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}


class Proxy(Gate):
    """How well a protected column can be told from what the model reads, and from what it says.

    A model that is not given a column may still be given what stands in for it. A small boosted forest learns the
    column from the held-out rows' features (``features``), or from the model's scores alone (``score``), and is judged
    on rows that it has not learned from, in three folds: the area under the ROC curve, 0.5 where nothing is told and
    1 where everything is. Of several groups each is told from the rest, and the one that is told best counts, with
    Bonferroni's correction for how many there are. Judged on the upper end of DeLong's interval. The reason names the
    features that told most, by the gain of the forest's splits.

    Features may tell a group for good reasons, and will, of most tables; that the score does says that the model has
    made use of it, or that the groups' outcomes differ. Not seen are texts (their columns are left out), columns
    beyond 100, and weights; of more than 5,000 rows so many are taken evenly. Rows that belong to one person stand in
    several folds, and tell more than they should. A protected column itself is never among the features.

    References: DeLong, DeLong & Clarke-Pearson (1988), *Biometrics* 44:837-845; its interval on the logit scale,
    Pepe (2003), *The Statistical Evaluation of Medical Tests*, section 5.2. Feldman et al. (2015), *Certifying and
    Removing Disparate Impact*, KDD, for predictability of the group.
    """

    stricter: ClassVar[Mapping[str, Stricter]] = {"min_group_size": ()}  # of a larger one, fewer groups are told

    type: Literal["proxy"] = "proxy"
    by: Annotated[tuple[str, ...], Field(min_length=1)]
    """Protected columns, each told by itself."""
    of: Literal["both", "features", "score"] = "both"
    """What it is told from; two gates may ask different things of features and score."""
    max: Annotated[float, Field(gt=0.5, lt=1)]
    """The upper confidence bound of the area must stay within it."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Of the two-sided intervals, over all groups of a column together."""
    min_group_size: Annotated[int, Field(ge=10)] = 50
    """A group with fewer rows among those taken is not told by itself; with fewer than two such groups, a column is
    not measured."""
    policy: Policy = "block"
    """What ``not measured`` does: refuse the release, or let it pass with the fact told."""

    @override
    def disagreements(self, spec: Spec) -> Iterable[Disagreement]:
        for index, column in enumerate(self.by):
            yield from unprotected(spec, column, ("by", index))
            if column in self.by[:index]:
                yield Disagreement(key=("by", index), what="stands there twice.", hint="Leave it out.")

    @override
    def check(self, evidence: Evidence) -> Verdict:
        import numpy as np

        taken = np.unique(np.linspace(0, len(evidence.y) - 1, min(len(evidence.y), ROWS)).astype(int))
        part = evidence.only(taken)
        sources = {"score": ("score",), "features": ("features",), "both": ("features", "score")}[self.of]
        found = []
        for source in sources:
            read = _features(part) if source == "features" else _scores(part)
            found += [self._told(column, source, read, part) for column in self.by]
        measured = [one for one in found if one.slice.value is not None]
        unmeasured = [one.slice for one in found if one.slice.value is None]
        slices = tuple(one.slice for one in found)
        if not measured:
            return self._unmeasured(evidence, slices)
        worst = max(measured, key=_high)
        value, interval = worst.slice.value, worst.slice.interval
        assert value is not None
        name = f"the area by which a group of {worst.column} is told from the {worst.source}"
        verdict = bounded(name, value, interval, len(evidence.y), maximum=self.max)
        if verdict.outcome == "holds" and unmeasured:
            return self._unmeasured(evidence, slices)
        reason = verdict.reason[:-1]
        if named := next((one.named for one in measured if one.named and one.column == worst.column), ""):
            reason += f"; of the features {named} told most"
        if len(taken) < len(evidence.y):
            reason += f"; {len(taken):,} of {len(evidence.y):,} rows were taken, evenly"
        return verdict.model_copy(update={"reason": f"{reason}.", "slices": slices})

    def _unmeasured(self, evidence: Evidence, slices: tuple[Slice, ...]) -> Verdict:
        wanting = ", ".join(f"{one.name} ({one.note})" for one in slices if one.value is None)
        return Verdict(
            outcome="not measured",
            reason=f"the area by which a group is told was not measured for {wanting}.",
            n=len(evidence.y),
            threshold=f"≤ {self.max:g}",
            slices=slices,
            blocking=self.policy == "block",
        )

    def _told(self, column: str, source: str, read: Read, part: Evidence) -> Told:
        """How well one column is told from one source."""
        import numpy as np

        name = f"{column} from the {source}"

        def unmeasured(note: str) -> Told:
            return Told(Slice(name=name, n=len(part.y), outcome="not measured", note=note), column, source)

        values = part.groups[column].astype(str)
        known, code, counts = np.unique(values, return_inverse=True, return_counts=True)
        large = np.flatnonzero(counts >= self.min_group_size)
        if len(large) < 2:
            return unmeasured(f"fewer than two groups have {self.min_group_size} rows or more")
        if read.wanting:
            return unmeasured(read.wanting)
        place = np.full(len(known), len(large))  # the small groups are one class together
        place[large] = np.arange(len(large))
        said, gains = _said(read.values, place[code], part.seed)
        judged = large[:1] if len(known) == 2 else large
        confidence = 1 - (1 - self.confidence) / len(judged)
        areas = [area(said[:, place[one]], code == one, confidence) for one in judged]
        best = int(np.argmax([one for one, _ in areas]))
        value, interval = areas[best]
        note = f"{value:.3f}, {interval.low:.3f} to {interval.high:.3f}"
        if len(known) > 2:
            note += f", of {known[judged[best]]} from the rest"
        order = np.argsort(-gains, kind="stable")[:TOLD]
        shares = [(read.names[one], gains[one] / gains.sum()) for one in order.tolist() if gains[one] > 0]
        named = ", ".join(f"{name} ({100 * share:.0f} %)" for name, share in shares) if source == "features" else ""
        outcome: Literal["holds", "refused"] = "holds" if interval.high <= self.max else "refused"
        note += f"; most by {named}" if named else ""
        told = Slice(name=name, n=len(part.y), value=value, interval=interval, outcome=outcome, note=note)
        return Told(told, column, source, named)


class Told(NamedTuple):
    """How well a column is told, and the features that told most."""

    slice: Slice
    column: str
    source: str
    named: str = ""


class Read(NamedTuple):
    """What a column is to be told from: float64 [n, names]; or why there is nothing."""

    values: np.ndarray
    names: tuple[str, ...] = ()
    wanting: str = ""


def _high(one: Told) -> float:
    return one.slice.interval.high if one.slice.interval else 0.0


def _features(part: Evidence) -> Read:
    """The columns that the model takes, categories by number."""
    import numpy as np

    nothing = np.empty((len(part.y), 0))
    if part.rows is None or part.model is None:
        return Read(nothing, wanting="the model's features are not at hand")
    columns = [one for one in part.model.inputs if one.kind != "text" and one.name not in part.groups]
    if not columns:
        return Read(nothing, wanting="the model takes no column of numbers or categories")
    places = np.unique(np.linspace(0, len(columns) - 1, min(len(columns), COLUMNS)).astype(int))
    found = []
    for column in (columns[place] for place in places):
        values = feature_array(part.rows, column)
        found.append(np.unique(values.astype(str), return_inverse=True)[1] if values.dtype == object else values)
    return Read(np.column_stack(found).astype(np.float64), tuple(columns[place].name for place in places))


def _scores(part: Evidence) -> Read:
    """What the model says."""
    import numpy as np

    scores = part.scores if part.scores.ndim == 2 else part.scores[:, None]
    if not np.isfinite(scores).all():
        return Read(scores, wanting="a score is no number")
    return Read(scores, tuple(f"score {number}" for number in range(scores.shape[1])))


def _said(values: np.ndarray, code: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores [n, groups] of each row for each group, from rows of other folds; and the gain of each column."""
    import lightgbm
    import numpy as np
    from sklearn.model_selection import StratifiedKFold

    k = int(code.max()) + 1
    several = {"objective": "multiclass", "num_class": k} if k > 2 else {"objective": "binary"}
    settings = {**SETTINGS, **several, "seed": seed}
    said, gains = np.empty((len(code), k)), np.zeros(values.shape[1])
    # A class may have fewer rows than there are folds: it is then missing from one.
    codes = code if np.bincount(code).min() >= FOLDS else np.zeros(len(code))
    for learn, judge in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(values, codes):
        trees = lightgbm.train(settings, lightgbm.Dataset(values[learn], code[learn]), TREES)
        answers = np.asarray(trees.predict(values[judge], num_threads=1))
        said[judge] = answers if k > 2 else np.stack([1 - answers, answers], axis=1)
        gains += trees.feature_importance("gain")
    return said, gains


def area(scores: np.ndarray, positive: np.ndarray, confidence: float) -> tuple[float, Interval]:
    """The area under the ROC curve, with DeLong's interval on the logit scale.

    Scores that part the groups wholly have no variance; then half a pair is added, as to a share of 1 (Agresti 2013,
    section 3.1).
    """
    import numpy as np
    from scipy.special import ndtri
    from scipy.stats import rankdata

    one, other = scores[positive], scores[~positive]
    m, n = len(one), len(other)
    ranks = rankdata(np.concatenate([one, other]))
    above = (ranks[:m] - rankdata(one)) / n
    below = 1 - (ranks[m:] - rankdata(other)) / m
    value = float(above.mean())
    variance = above.var(ddof=1) / m + below.var(ddof=1) / n
    kept = min(max(value, 0.5 / (m * n)), 1 - 0.5 / (m * n))
    half = float(ndtri(0.5 + confidence / 2)) * float(variance) ** 0.5 / (kept * (1 - kept))
    logit = float(np.log(kept / (1 - kept)))
    low, high = (float(1 / (1 + np.exp(-one))) for one in np.clip([logit - half, logit + half], -700, 700))
    return value, Interval(low=min(low, value), high=max(high, value), confidence=confidence, method="delong")
