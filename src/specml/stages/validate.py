"""Measure the packaged model on the held-out rows, and let every gate judge.

Ends well even when a gate refuses, so that DVC keeps the evidence; ``release`` is what refuses. What the gates want
stands in the ledger before the held-out rows are opened: who moves a threshold after a look leaves both there.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from specml import bundle, curves, holdout
from specml.card import covering, expected
from specml.data import Layout, feature_array
from specml.evidence import ABSTAINED, TRAINING_ROWS, Champion, Evidence, Serial, Slice, Verdict, held, wilson
from specml.explain import importance
from specml.files import canonical_json, read_json, write_atomic
from specml.metrics import TABLE, bootstrap, known
from specml.plan import Plot, Stage
from specml.resamples import mean_over
from specml.stages import champion, chosen, package, prepare, select, train
from specml.stages.favourable import favourable
from specml.stages.packaged import Asked
from specml.tables import forecast, history

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import polars as pl

    from specml.bundle import Contract
    from specml.decision import Costs
    from specml.spec import Spec
    from specml.stages.work import Work

OUT = bundle.VERDICTS
CURVES = "artifacts/validate/curves.json"
IMPORTANCE = "artifacts/validate/importance.json"
METRICS = "metrics/holdout.json"
CONFUSION = "plots/confusion.csv"
ROC = "plots/roc.csv"
PRECISION_RECALL = "plots/precision_recall.csv"
CALIBRATION = "plots/calibration.csv"
PREDICTIONS = "plots/predictions.csv"
SERVING = ("serving.batching", "serving.fast_path", "serving.max_body", "serving.max_rows")
"""What a server is started with, where a gate asks one."""
CONFIDENCE = 0.95
"""Of the intervals of what is told beside the gates."""


def declare(spec: Spec) -> Stage:
    """The only stage that reads the test rows."""
    confusion = Plot(CONFUSION, "confusion", "predicted", "actual", "Holdout decisions")
    calibration = Plot(CALIBRATION, "simple", "predicted", "observed", "Holdout calibration")
    plots = {
        "binary": (
            confusion,
            Plot(ROC, "simple", "false_positive_rate", "true_positive_rate", "Holdout ROC curve"),
            Plot(PRECISION_RECALL, "simple", "recall", "precision", "Holdout precision and recall"),
            calibration,
        ),
        "multiclass": (confusion, calibration),
        "regression": (Plot(PREDICTIONS, "scatter", "predicted", "actual", "Holdout predictions"),),
    }
    return Stage(
        name="validate",
        summary="measure the bundle on the held-out rows; judge every gate",
        params=(
            "candidates",
            "gates",
            "problem.costs",
            "problem.favourable_class",
            *(("problem.forecast",) if spec.problem.forecast else ()),
            "problem.primary_metric",
            "problem.quantiles",
            "problem.task",
            "search.seed",
            *(("features.columns",) if _directed(spec) else ()),
            *(SERVING if any(gate.asks_server for gate in spec.gates.values()) else ()),
        ),
        deps=(
            package.OUT,
            prepare.TEST,
            prepare.LAYOUT,
            select.OUT,
            *(train.OUT.replace("${key}", name) for name in sorted(spec.candidates)),
            *([champion.OUT] if _compares(spec) else []),
            *([prepare.TRAIN] if any(gate.reads_training for gate in spec.gates.values()) else []),
            *sorted({file for gate in spec.gates.values() for file in gate.files()}),
        ),
        outs=(OUT, CURVES, IMPORTANCE),
        metrics=(METRICS,),
        plots=plots[spec.problem.learns],
    )


def work(work: Work) -> None:
    """Bundle and test rows → evidence, verdicts, metrics and plots."""
    layout = Layout.model_validate_json(work.path(prepare.LAYOUT).read_bytes())
    opened = bundle.open_bundle(work.path(package.OUT))
    _register(work, layout, opened)
    with gathered(work, layout, opened) as evidence:
        told = _told(work, layout, evidence, opened.contract)
        verdicts = _judged(work, evidence)
    told |= {"bundle": opened.digest, "rows": len(evidence.y), "gates": verdicts}
    if _compares(work.spec):
        told["champion"] = champion.named(work) or ""
    write_atomic(work.path(OUT), canonical_json(told))
    write_atomic(work.path(METRICS), canonical_json(told["metrics"]))
    holding = sum(verdict["outcome"] == "holds" for verdict in verdicts.values())
    work.say(f"{holding} of {len(verdicts)} gates hold")
    drawn = curves.drawn(evidence, layout.classes)
    write_atomic(work.path(CURVES), canonical_json(drawn))
    assert evidence.rows is not None
    inputs = {column.name: feature_array(evidence.rows, column) for column in opened.contract.inputs}
    write_atomic(work.path(IMPORTANCE), canonical_json(importance(opened, inputs)))
    for plot in work.stage.plots:
        write_atomic(work.path(plot.path), _plot(plot, layout, evidence, drawn))


def _register(work: Work, layout: Layout, opened: bundle.Bundle) -> None:
    """Say what the gates want before they see a row; of the rows only the targets' digest is taken."""
    import polars as pl

    gates, rows = work.spec.gates, work.path(prepare.TEST)
    holdout.register(
        work.folder,
        bundle=opened.digest,
        rows=rows,
        labels=holdout.identity(pl.read_parquet(rows, columns=[layout.target])[layout.target].to_list()),
        gates={name: gate.model_dump(mode="json") for name, gate in sorted(gates.items())},
        files={file for gate in gates.values() for file in gate.files()},
    )


def _told(work: Work, layout: Layout, evidence: Evidence, contract: Contract) -> dict[str, Any]:
    """What the model is worth on the held-out rows; ``metrics`` are the numbers that DVC compares."""
    import numpy as np

    named = {work.spec.problem.metric, *(getattr(gate, "metric", None) for gate in work.spec.gates.values())}
    metrics = {
        name: value
        for name, metric in known(work.spec.problem).items()
        if (metric.usual or name in named) and np.isfinite(value := metric.measure(*evidence.at(slice(None))))
    }
    metrics = _forecast(layout, evidence) | metrics
    told: dict[str, Any] = {"metrics": metrics}
    intervals = _intervals(evidence, contract.prediction_interval)
    if intervals:
        metrics |= {"interval_coverage": intervals["all"]["value"], "interval_width": intervals["width"]}
    work.say(", ".join(f"{name} {value:.4f}" for name, value in list(metrics.items())[:3]), done=0.3)
    if evidence.quantiles:
        told["quantiles"] = _below(evidence)
    if intervals:
        told["prediction_interval"] = intervals
        shown = intervals["all"]["interval"]
        work.say(
            f"prediction intervals for {intervals['coverage']:g} hold {intervals['all']['value']:.4f} of the targets "
            f"({shown['low']:.4f} to {shown['high']:.4f}), on average {intervals['width']:.4g} wide",
            note=True,
        )
    if contract.abstain_band and (made := decision_rate(evidence)):
        metrics["decision_rate"], told["decision_rate"] = made["share"], made
        work.say(f"decides {covering(made)}", note=True)
    if cost := costs(work.spec.problem.costs, evidence):
        metrics["expected_cost"], told["costs"] = cost["expected"], cost
        work.say(f"expected cost {expected(cost)}", note=True)
    return told


def _judged(work: Work, evidence: Evidence) -> dict[str, Any]:
    """What each gate concludes."""
    verdicts: dict[str, Any] = {}
    gates = work.spec.gates
    for number, (name, gate) in enumerate(sorted(gates.items())):
        verdict: Verdict = gate.check(evidence)
        verdicts[name] = {
            "type": gate.type,  # type: ignore[attr-defined]
            "level": gate.level,
            "passes": passes(verdict),
            **verdict.model_dump(mode="json"),
        }
        work.say(f"{name}: {verdict.outcome} · {verdict.reason}", done=0.3 + 0.7 * (number + 1) / len(gates))
    return verdicts


def costs(told: Costs | None, evidence: Evidence) -> dict[str, Any]:
    """What a held-out row costs, with its 95 % bootstrap interval; nothing where no costs are named.

    Beside it what a row would cost were all decided alike, which takes no model.
    """
    import numpy as np

    if told is None or evidence.costs is None or np.isnan(evidence.costs).all():
        return {}
    alike = {name: told.each(evidence.y, np.full(len(evidence.y), one)) for one, name in enumerate(_SIDES)}
    mean = mean_over(evidence.costs, evidence.weight)
    interval = bootstrap(mean, len(evidence.y), CONFIDENCE, evidence.seed)
    every = np.arange(len(evidence.y))
    return {
        "expected": mean(every),
        "interval": interval.model_dump(mode="json") if interval else None,
        "always": {name: mean_over(one, evidence.weight)(every) for name, one in alike.items()},
        "currency": told.currency,
    }


_SIDES = ("negative", "positive")


def decision_rate(evidence: Evidence) -> dict[str, Any]:
    """Which share of the held-out rows is decided, with its 95 % interval."""
    if evidence.decisions is None or not len(evidence.y):
        return {}
    rows, made = len(evidence.y), int((evidence.decisions != ABSTAINED).sum())
    interval = wilson(made, rows, CONFIDENCE).model_dump()
    return {"share": made / rows, "decided": made, "rows": rows, "interval": interval}


def _forecast(layout: Layout, evidence: Evidence) -> dict[str, float]:
    """What a forecast is told by beside its errors: their size beside those of the seasonal naive one.

    ``skill``: by which share they are smaller on the same rows; ``mean_absolute_scaled_error`` (MASE): as a multiple of
    those of a season before in the training rows (Hyndman & Koehler 2006).
    """
    if evidence.serial is None:
        return {}
    metric = TABLE["mean_absolute_error"].at(evidence.quantiles)
    y, scores, _, weight = evidence.at(slice(None))
    error, naive = metric.measure(y, scores, None, weight), metric.measure(y, evidence.prior, None, weight)
    found = {"skill": 1 - error / naive} if naive > 0 else {}
    if layout.seasonal_error:
        found["mean_absolute_scaled_error"] = error / layout.seasonal_error
    return found


def passes(verdict: Verdict) -> bool:
    """Whether a verdict lets a release through: missing evidence does so only where the gate's policy says."""
    return verdict.outcome == "holds" or (verdict.outcome == "not measured" and not verdict.blocking)


@contextlib.contextmanager
def gathered(work: Work, layout: Layout, opened: bundle.Bundle) -> Iterator[Evidence]:
    """What the packaged and the trained model say of every held-out row; in the block the model can be asked more."""
    import polars as pl

    test = pl.read_parquet(work.path(prepare.TEST))
    with contextlib.closing(Asked(opened, work.path(package.OUT), layout, test, work.spec)) as asked:
        yield _gather(work, layout, test, opened.contract, asked)


def _gather(work: Work, layout: Layout, test: pl.DataFrame, contract: Contract, asked: Asked) -> Evidence:
    import numpy as np
    import polars as pl

    choice = read_json(work.path(select.OUT))
    told, prior = layout.history, np.array(choice["prior"])
    outputs = asked.outputs(test)
    scores, decisions, ends = asked.read(outputs)
    rows = test.height
    model = chosen.load(work, layout, choice)
    native = model.predict(test)
    naive = np.full(rows, prior[0]) if len(prior) == 1 else np.tile(prior, (rows, 1))
    serial = _serial(work, layout, test)
    if told and told.steps:
        before = test[forecast.seasonal(told.steps, layout.target)].cast(pl.Float64).to_numpy()
        before = before if naive.ndim == 1 else before[:, None]
        naive = np.where(np.isfinite(before), before, naive)
    return Evidence(
        task=layout.task,
        y=test[layout.target].to_numpy(),
        scores=scores,
        decisions=decisions,
        native=native,
        quantiles=layout.quantiles,
        prior=naive,
        weight=test[layout.weight].to_numpy().astype(np.float64) if layout.weight else None,
        classes=layout.classes,
        favourable=favourable(work.spec, layout),
        groups={name: np.asarray(test[name].to_list(), dtype=object) for name in layout.protected},
        declared_groups=layout.groups,
        seed=work.spec.search.seed,
        serial=serial,
        rows=test,
        model=asked,
        training=lambda: _training(work, layout, asked),
        folds=tuple(next(row["folds"] for row in choice["leaderboard"] if row["candidate"] == choice["candidate"])),
        folder=work.folder,
        metric=work.spec.problem.metric,
        directions=_directions(work.spec) if _directed(work.spec) else {},
        costs=_each(work.spec, test[layout.target].to_numpy(), decisions),
        price=None if work.spec.problem.costs is None else work.spec.problem.costs.each,
        ends=ends,
        native_ends=model.interval(native) if model.interval else None,
        recomputed=None if decisions is None else _recomputed(contract, outputs, test),
        champion=(lambda: _champion(work, layout, test)) if _compares(work.spec) else None,
    )


def _serial(work: Work, layout: Layout, table: pl.DataFrame) -> Serial | None:
    """Of a forecast which rows are near in time."""
    told = layout.history
    if not (told and told.steps):
        return None
    wanted = work.spec.problem.forecast
    assert wanted is not None
    return Serial(history.numbered(table[told.time], told.steps), told.steps.horizon, wanted.period)


def _training(work: Work, layout: Layout, asked: Asked) -> Evidence:
    """What the packaged model says of rows that it was trained on."""
    import numpy as np
    import polars as pl

    table = pl.read_parquet(work.path(prepare.TRAIN))
    taken = np.unique(np.linspace(0, table.height - 1, min(table.height, TRAINING_ROWS)).astype(int))
    table = table[taken]
    scores, decisions, ends = asked.answer(table)
    return Evidence(
        task=layout.task,
        y=table[layout.target].to_numpy(),
        scores=scores,
        decisions=decisions,
        native=scores,
        prior=scores,
        quantiles=layout.quantiles,
        weight=table[layout.weight].to_numpy().astype(np.float64) if layout.weight else None,
        classes=layout.classes,
        favourable=favourable(work.spec, layout),
        groups={name: np.asarray(table[name].to_list(), dtype=object) for name in layout.protected},
        declared_groups=layout.groups,
        seed=work.spec.search.seed,
        serial=_serial(work, layout, table),
        rows=table,
        model=asked,
        metric=work.spec.problem.metric,
        ends=ends,
    )


def _directed(spec: Spec) -> bool:
    return any(gate.reads_directions for gate in spec.gates.values())


def _directions(spec: Spec) -> dict[str, int]:
    """The columns of which the spec says in which direction alone the score may move with them."""
    told = {name: getattr(feature, "monotone", None) for name, feature in spec.features.columns.items()}
    return {name: 1 if one == "increasing" else -1 for name, one in told.items() if one is not None}


def _each(spec: Spec, y: np.ndarray, decisions: np.ndarray | None) -> np.ndarray | None:
    """What each row cost."""
    costs = spec.problem.costs
    return None if costs is None or decisions is None else costs.each(y, decisions)


def _recomputed(contract: Contract, answers: list[dict[str, np.ndarray]], test: pl.DataFrame) -> np.ndarray:
    """What the contract makes of the graph's probabilities."""
    import numpy as np

    grouped = contract.group_thresholds
    groups = None if grouped is None else test[grouped.column].to_numpy()
    return contract.decide(np.concatenate([one["probabilities"] for one in answers]), groups)


def _compares(spec: Spec) -> bool:
    return any(gate.against_champion for gate in spec.gates.values())


def _champion(work: Work, layout: Layout, test: pl.DataFrame) -> Champion | None:
    """The live release on the held-out rows, by its own graph."""
    name = champion.named(work)
    if name is None:
        return None
    try:
        opened = bundle.open_bundle(work.path(champion.BUNDLE))
    except bundle.BundleError as error:
        return Champion(name, wanting=f"its bundle {error.what}")
    if opened.digest != name:
        return Champion(name, wanting=f"its bundle is another, {opened.digest[7:19]}.")
    if wanting := champion.unfit(opened.contract, layout):
        return Champion(name, wanting=wanting)
    told = Asked(opened, work.path(champion.BUNDLE), layout, test, work.spec).answer(test)
    return Champion(name, told.scores, told.decisions)


def _intervals(evidence: Evidence, coverage: float | None) -> dict[str, Any]:
    """How much of what they should prediction intervals hold, of all rows and of each protected group; else nothing."""
    import numpy as np

    if evidence.ends is None or len(evidence.y) == 0:
        return {}

    wide = evidence.ends[:, 1] - evidence.ends[:, 0]

    def one(name: str, rows: np.ndarray) -> dict[str, Any]:
        weight = None if evidence.weight is None else evidence.weight[rows]
        share, interval, n = held(evidence.y[rows], evidence.ends[rows], weight, CONFIDENCE)  # type: ignore[index]
        told = Slice(name=name, n=round(n), value=share if interval else None, interval=interval)
        width = float(np.average(wide[rows], weights=weight)) if interval else None
        return {**told.model_dump(mode="json"), "width": width}

    groups = [
        one(f"{column}={name}", values == name)
        for column, values in sorted(evidence.groups.items())
        for name in sorted(set(values.tolist()))
    ]
    every = one("all", np.ones(len(evidence.y), dtype=bool))
    width = every.pop("width")
    return {"coverage": coverage, "width": width, "all": every, "groups": groups}


def _below(evidence: Evidence) -> list[dict[str, Any]]:
    """Of each quantile the share of held-out targets that do not lie above it, which is to be its level."""
    import numpy as np

    found = []
    for level, scores in zip(evidence.quantiles, evidence.scores.T, strict=True):
        ends = np.stack([np.full(len(scores), -np.inf), scores], axis=1)
        share, interval, n = held(evidence.y, ends, evidence.weight, CONFIDENCE)
        told = Slice(name=f"{level:g}", n=round(n), value=share, interval=interval).model_dump(mode="json")
        found.append({**told, "level": level})
    return found


def _plot(plot: Plot, layout: Layout, evidence: Evidence, drawn: dict[str, Any]) -> str:
    """The CSV file that ``dvc plots`` draws."""
    import numpy as np

    if plot.path in (ROC, PRECISION_RECALL):
        key = "roc" if plot.path == ROC else "precision_recall"
        points = [point for curve in drawn["curves"] for point in curve[key]]
        return f"{plot.x},{plot.y}\n" + "".join(f"{x:g},{y:g}\n" for x, y in points)
    if plot.path == CALIBRATION:
        return f"{plot.x},{plot.y}\n" + "".join(f"{b['score']:g},{b['share']:g}\n" for b in drawn["calibration"])
    if plot.path == PREDICTIONS:
        kept = np.linspace(0, len(evidence.y) - 1, min(1000, len(evidence.y))).astype(int)
        return "actual,predicted\n" + "".join(f"{evidence.y[i]:g},{evidence.predicted[i]:g}\n" for i in kept)
    assert evidence.decisions is not None
    names = ['"' + str(label).replace('"', '""') + '"' for label in layout.classes]
    names.append('"no decision"')  # the last one, that of ABSTAINED
    pairs = zip(evidence.y.tolist(), evidence.decisions.tolist(), strict=True)
    return "actual,predicted\n" + "".join(f"{names[a]},{names[p]}\n" for a, p in pairs)
