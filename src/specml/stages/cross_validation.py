"""How a setting of a candidate is judged: by rows of the training table that did not train it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING

from specml import transformed
from specml.data import Design, Layout
from specml.errors import DataCheckFailed, NotEnoughData
from specml.kinds import Training
from specml.metrics import TABLE
from specml.mitigation import reweighed
from specml.preprocessing import Preprocessing
from specml.stages.pruning import hopeless
from specml.tables import forecast, splits
from specml.tables.splits import FEWER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import numpy as np
    import polars as pl

    from specml.kinds import Candidate, Feature
    from specml.spec import Spec

STOP_SHARE = 0.15
"""Of a fold's training rows, those that tell a candidate when to stop."""


@dataclass(frozen=True)
class Judged:
    """What cross-validation tells of one setting."""

    folds: tuple[float, ...]
    """The metric on each fold."""
    learned: dict[str, int]
    """What the fits found (see ``Model.learned``): the mean over the folds."""
    out_of_fold: np.ndarray
    """Predictions by models that had not seen the row [n] or [n, k]; NaN for rows that are in no validation fold."""
    pruned: bool = False
    """Whether it was given up before the last fold: its folds are not comparable with another's."""


def cross_validate(
    spec: Spec,
    candidate: Candidate,
    layout: Layout,
    train: pl.DataFrame,
    *,
    threads: int,
    say: Callable[..., None],
    rival: tuple[float, ...] = (),
    mitigated: bool = True,
) -> Judged:
    """Fit ``candidate`` on each fold and measure it on the rest; the same for any number of ``threads``.

    ``rival``: scores of the best so far on every fold; what is hopeless against them is given up.
    ``mitigated``: whether training rows are weighed as ``mitigation`` says. Those that judge never are.

    Raises:
        NotEnoughData: a fold lacks rows, a class, or the metric.
    """
    import numpy as np

    metric = TABLE[spec.problem.metric].at(layout.quantiles)
    y = train[layout.target].to_numpy()
    outcome = np.full((len(y),) if layout.n_outputs == 1 else (len(y), layout.n_outputs), np.nan)
    scores: list[float] = []
    learned: dict[str, list[int]] = {}
    every = list(folds(spec, layout, train))
    for number, (inside, outside) in enumerate(every):
        where = f"fold {number + 1} of {len(every)}"
        _refuse_lacking_classes(layout, y[inside], where)
        fit_rows, stop_rows = _stop_rows(candidate, spec, layout, train, inside)
        preprocessing, fit = fit_design(spec, candidate, layout, train[fit_rows])
        held = design(preprocessing, layout, train[outside])
        stop = None if stop_rows is None else design(preprocessing, layout, train[stop_rows])
        if mitigated:
            fit = weighed(spec, train[fit_rows], fit)
            stop = None if stop is None or stop_rows is None else weighed(spec, train[stop_rows], stop)
        model = transformed.fit(candidate, fit, layout.quantiles, seed=spec.search.seed, threads=threads, stop_on=stop)
        outcome[outside] = model.predict(held.X)
        for name, value in model.learned.items():
            learned.setdefault(name, []).append(value)
        decisions = decide(layout, outcome[outside], spec.problem.decision.threshold)
        scores.append(metric.measure(held.y, outcome[outside], decisions, held.weight))
        if not np.isfinite(scores[-1]):
            raise NotEnoughData(f"{metric.name} is not defined on its {len(outside)} rows.", where=where, hint=FEWER)
        say(f"{where}: {metric.name} {scores[-1]:.4f}", done=0.9 * (number + 1) / len(every))
        if rival and len(scores) < len(every) and hopeless(metric, scores, rival):
            break
    means = {name: round(float(np.mean(values))) for name, values in sorted(learned.items())}
    return Judged(tuple(scores), means, outcome, pruned=len(scores) < len(every))


def _refuse_lacking_classes(layout: Layout, y: np.ndarray, where: str) -> None:
    """A model can't learn a class that its rows lack."""
    if layout.task == "regression":
        return
    for index, label in enumerate(layout.classes):
        if not (y == index).any():
            raise NotEnoughData(f"class {label!r} is not among its {len(y)} training rows.", where=where, hint=FEWER)


def _stop_rows(
    candidate: Candidate, spec: Spec, layout: Layout, train: pl.DataFrame, inside: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Rows to fit on and, for a candidate that stops early, rows that tell it when: never the fold that scores it."""
    if not candidate.watches:
        return inside, None
    y, key = train[layout.target].to_numpy()[inside], _fold_key(layout, train[inside])
    try:
        fit, stop = splits.divide(layout.folding, key, y, STOP_SHARE, spec.search.seed)
        if len(fit) < len(inside) / 2:  # an embargo as long as a short fold: these rows score nothing, and need none
            bare = layout.folding.model_copy(update={"embargo": 0})
            fit, stop = splits.divide(bare, key, y, STOP_SHARE, spec.search.seed)
    except NotEnoughData as error:
        what = f"too few rows to stop early: {error.what}"
        raise NotEnoughData(what, where="search.folds", hint=FEWER) from None
    fit, stop = inside[fit], inside[stop]
    _refuse_lacking_classes(layout, train[layout.target].to_numpy()[fit], "early stopping")
    return fit, stop


def folds(spec: Spec, layout: Layout, train: pl.DataFrame) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Row indices (train, validation) of each fold.

    Raises:
        NotEnoughData: there are fewer rows, groups or times, than the folds need.
    """
    y = train[layout.target].to_numpy()
    return splits.folds(layout.folding, _fold_key(layout, train), y, spec.search.folds, spec.search.seed)


def _fold_key(layout: Layout, train: pl.DataFrame) -> np.ndarray | None:
    return train[layout.folding.column].to_numpy() if layout.folding.column else None


def decide(layout: Layout, scores: np.ndarray, threshold: float | str) -> np.ndarray | None:
    """Class indices from probabilities; for a threshold that ``select`` finds (``auto``, ``costs``) stands 0.5."""
    import numpy as np

    if layout.task == "regression":
        return None
    if layout.task == "multiclass":
        return np.asarray(scores.argmax(axis=1))
    cut = 0.5 if isinstance(threshold, str) else threshold
    return (scores >= cut).astype(np.int64)


def treatment(spec: Spec, layout: Layout) -> Mapping[str, Feature]:
    """The feature component of each column that is one: its own, or the default of its kind; and the derived ones.

    Raises:
        DataCheckFailed: a feature is named for a column that is none, or that it can't treat.
    """
    default = spec.features.defaults
    by_kind: dict[str, Feature | None] = {
        "numeric": default.numeric,
        "boolean": default.boolean,
        "categorical": default.categorical,
        "datetime": default.datetime,
        "text": default.text,
    }
    columns = [column for column in layout.features if spec.features.takes(column.name)]
    names = [column.name for column in columns]
    for name in spec.features.columns:
        if name not in names:
            close = get_close_matches(name, names, 1)
            hint = f"Did you mean {close[0]!r}?" if close else ""
            raise DataCheckFailed("there is no such feature.", where=f"features.columns.{name}", hint=hint)
    found = {c.name: spec.features.columns.get(c.name, by_kind[c.kind]) for c in columns}
    # Times without a treatment are there for derived features to read.
    chosen = {name: feature for name, feature in found.items() if feature is not None}
    for column in columns:
        feature = chosen.get(column.name)
        if feature and column.kind not in feature.treats:
            raise DataCheckFailed(
                f"treats {' and '.join(feature.treats)} columns; {column.name!r} is {column.kind}.",
                where=f"features.columns.{column.name}",
                hint=f"Declare data.columns.{column.name}.dtype, or take another feature.",
            )
    return {**chosen, **dict(sorted(spec.features.derive.items()))}


def fit_design(spec: Spec, candidate: Candidate, layout: Layout, rows: pl.DataFrame) -> tuple[Preprocessing, Design]:
    """What the features learn from ``rows``, as the candidate prefers them, and those rows to train it on.

    These may not be what the features make of the same rows later: see ``Feature.training_values``.
    """
    chosen, classes = treatment(spec, layout), max(2, len(layout.classes))
    y, key = rows[layout.target].to_numpy(), _fold_key(layout, rows)
    training = Training(candidate.prefers, y, layout.task, classes, spec.search.seed, layout.folding, key)
    preprocessing = Preprocessing.fit(rows, layout.features, chosen, training)
    return preprocessing, _design(preprocessing, layout, rows, preprocessing.training_matrix(rows, chosen, training))


def weighed(spec: Spec, rows: pl.DataFrame, seen: Design) -> Design:
    """``rows`` as they train under ``mitigation.reweighing``: ``seen`` with other weights."""
    asked = spec.mitigation.reweighing
    if asked is None:
        return seen
    groups = [rows[name].to_numpy() for name in asked.by]
    return replace(seen, weight=reweighed(groups, seen.y, seen.weight))


def design(preprocessing: Preprocessing, layout: Layout, table: pl.DataFrame) -> Design:
    """Rows of a prepared table that the features have not learned from, as a candidate sees them."""
    return _design(preprocessing, layout, table, preprocessing.transform(table))


def _design(preprocessing: Preprocessing, layout: Layout, table: pl.DataFrame, X: np.ndarray) -> Design:
    import numpy as np

    weight = table[layout.weight].to_numpy().astype(np.float64) if layout.weight else None
    return Design(
        X,
        table[layout.target].to_numpy(),
        weight,
        layout.task,
        max(2, len(layout.classes)),
        preprocessing.cardinalities,
        preprocessing.monotone,
        _seasonal(preprocessing, layout),
        preprocessing.names,
    )


def _seasonal(preprocessing: Preprocessing, layout: Layout) -> int | None:
    """The column of a design that holds the seasonal naive forecast, where something is forecast."""
    steps = layout.history.steps if layout.history else None
    place = 0
    for column, one in zip(preprocessing.columns, preprocessing.fitted, strict=True):
        maker = preprocessing.derived.get(column.name)
        if steps and maker and forecast.is_season(maker, layout.target, steps):
            return place
        place += len(one.names)
    return None
