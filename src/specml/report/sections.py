"""Facts → what the page shows, section by section. A number that no file holds is told as ``not measured``."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from specml import admission
from specml.admission import stops
from specml.card import (
    COMPARED,
    NESTED,
    banded,
    calibrated,
    compared_groups,
    covering,
    decided,
    expected,
    governance,
    interval,
    intervals,
    lowest,
    mitigated,
    number,
    outcome,
    reached,
    settings,
    taken,
    thresholds_by_group,
    widened,
)
from specml.curves import merged
from specml.data import in_words, iso
from specml.explain import UNITS
from specml.metrics import TABLE
from specml.report import svg
from specml.stages import compare, explore, feasibility, prepare, release, select, train, validate
from specml.verdicts import bound, changes_in_words, openings_in_words, ranked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from markupsafe import Markup

    from specml.data import Pixels
    from specml.plan import Stage
    from specml.report.facts import Facts
    from specml.spec import Serving

COLUMNS = 200
"""Columns of the data that are shown; the file tells of the others."""
BARS = 25
SHOWN_GROUPS = 60
CHANGES = 20
"""Changes of thresholds that are told, the last ones."""
FEWEST = 10
"""Rows that a category must have for its name to be shown."""
TOP = 3
LONGEST = 120
"""Characters of a name or a label from the data."""
STATES = {"holds": "ok", "refused": "bad", "not measured": "unknown"}
MARKS = {"holds": "✔", "refused": "✖", "not measured": "?"}


def sections(facts: Facts) -> dict[str, Any]:
    """The variables of ``page.html``."""
    return {
        "name": facts.spec.name,
        "verdict": _verdict(facts),
        "goal": facts.spec.problem.goal or "Goal: not stated.",
        "problem": _problem(facts),
        "rows_held_out": f"{facts.evidence['rows']:,}",
        "graph": _graph(facts.stages),
        "data": _data(facts),
        "feasibility": _feasibility(facts),
        "leaderboard": _leaderboard(facts),
        "winner": _winner(facts),
        "gates": _gates(facts),
        "held_out": _opened(facts),
        "disparity": list(_sliced(facts, disparity=True)),
        "slices": list(_sliced(facts, disparity=False)),
        "mitigation": _mitigation(facts),
        "importance": _importance(facts),
        "serving": _serving(facts),
        "governance": _governance(facts),
        "reproduce": _reproduce(facts),
        "files": {
            "choice": select.OUT,
            "columns": explore.OUT,
            "curves": validate.CURVES,
            "feasibility": feasibility.METRICS,
            "learning": feasibility.CURVE,
            "importance": validate.IMPORTANCE,
            "prepared": prepare.METRICS,
            "target": explore.TARGET,
            "verdicts": validate.OUT,
            "card": release.CARD,
            "groups": compare.OUT,
        },
    }


def _verdict(facts: Facts) -> dict[str, Any]:
    release, choice = facts.release, facts.choice
    refused = [name for name, gate in facts.evidence["gates"].items() if stops(gate)]
    if refused:
        state, word = "bad", "Not released"
        why = f"refused by {', '.join(sorted(refused))}"
    elif release is None:
        state, word, why = "unknown", "Not released yet", "the gates let it pass, but the stage release has not ended"
    elif release["admitted"]:
        told = [name for name, gate in sorted(facts.evidence["gates"].items()) if gate["outcome"] != "holds"]
        state, word = "ok", "Released"
        why = f"no gate stops it; {'; '.join(map(_let_pass(facts), told))}" if told else "every gate holds"
    else:
        state, word, why = "bad", "Not released", "see the release"
    holding = sum(gate["outcome"] == "holds" for gate in facts.evidence["gates"].values())
    metric = choice["metric"]
    best = taken(choice)
    held_out = facts.evidence["metrics"].get(metric)
    tiles = [
        ("model", choice["candidate"], f"of {_count(len(choice['leaderboard']), 'candidate')}", select.OUT),
        (f"{metric}, held out", number(held_out), f"{facts.evidence['rows']:,} rows", validate.OUT),
        (f"{metric}, folds", number(best["mean"]), f"± {best['std']:.2g} over {len(best['folds'])}", select.OUT),
        ("gates", f"{holding} of {len(facts.evidence['gates'])}", "hold", validate.OUT),
    ]
    chips = [
        (MARKS[gate["outcome"]], name, STATES[gate["outcome"]], f"{outcome(gate)}: {svg.cut(gate['reason'], 2000)}")
        for name, gate in sorted(facts.evidence["gates"].items())
    ]
    changed = ", ".join(facts.changed[:TOP]) + (" and more" if len(facts.changed) > TOP else "")
    return {"state": state, "word": word, "why": why, "tiles": tiles, "chips": chips, "changed": changed}


def _let_pass(facts: Facts) -> Callable[[str], str]:
    """What let a gate pass that does not hold, in words."""

    def words(name: str) -> str:
        gate = facts.evidence["gates"][name]
        waiver = gate.get("waiver")
        return f"{name} is {gate['outcome']}, " + (
            f"waived until {waiver['expires']}" if waiver else "which is told only"
        )

    return words


def _problem(facts: Facts) -> list[tuple[str, str]]:
    problem, layout = facts.spec.problem, facts.layout
    rows = [
        ("task", in_words(layout.task, layout.history)),
        ("target", layout.target),
        ("intended use", problem.intended_use or "not stated"),
        ("out of scope", "; ".join(problem.out_of_scope) or "not stated"),
        ("kept from the model", ", ".join(layout.protected) or "no column is declared protected"),
    ]
    if layout.classes:
        rows.insert(2, ("classes", ", ".join(svg.cut(str(label), LONGEST) for label in layout.classes[:20])))
    threshold = facts.choice["threshold"]
    if threshold is not None:
        how = decided(facts.choice["decision"])
        rows.insert(3, ("decided", f"{layout.classes[1]} from a probability of {threshold:.4g} on, {how}"))
    if facts.choice["group_thresholds"]:
        rows.insert(4, ("decided by group", thresholds_by_group(facts.choice["group_thresholds"])))
    if facts.choice["abstain_band"]:
        rows.insert(4, ("not decided", banded(facts.choice["abstain_band"])))
    if facts.choice["calibration"]:
        rows.insert(3, ("calibrated", calibrated(facts.choice["calibration"])))
    if layout.quantiles:
        rows.insert(2, ("quantiles", ", ".join(f"{one:g}" for one in layout.quantiles)))
    if told := facts.choice["prediction_interval"]:
        rows.insert(3, ("prediction interval", widened(told)))
    if facts.spec.problem.favourable_class is not None:
        rows.insert(4, ("favourable to a person", str(facts.spec.problem.favourable_class)))
    return rows


def _graph(stages: tuple[Stage, ...]) -> dict[str, Any]:
    made = {out: stage.name for stage in stages for out in (*stage.outs, *stage.metrics)}
    before: dict[str, set[str]] = {}
    nodes = []
    rows = []
    for stage in stages:
        direct = {maker for dep in stage.deps if (maker := _maker(dep, made)) and maker != stage.name}
        before[stage.name] = direct.union(*(before[one] for one in direct))
        near = tuple(sorted(one for one in direct if not any(one in before[other] for other in direct)))
        reads, writes = list(stage.deps), [*stage.outs, *stage.metrics, *(plot.path for plot in stage.plots)]
        below = _count(len(stage.keys), stage.each.rpartition(".")[2].removesuffix("s")) if stage.each else ""
        title = f"{stage.name}: {stage.summary}\nreads {', '.join(reads) or 'the spec'}\nwrites {', '.join(writes)}"
        nodes.append(svg.Node(stage.name, below, title, near))
        rows.append((stage.name, stage.summary, reads[:20], writes[:20]))
    return {"drawing": svg.graph(nodes, "The stages of the run, from the spec to the release"), "rows": rows}


def _maker(dep: str, made: dict[str, str]) -> str | None:
    """The stage that writes ``dep``; ``${key}`` in what is written stands for any key."""
    for out, name in made.items():
        if re.fullmatch(re.escape(out).replace(re.escape("${key}"), "[^/]+"), dep):
            return name
    return None


def _data(facts: Facts) -> dict[str, Any]:
    rows = facts.prepared["rows"]
    shown = list(facts.layout.features)[:COLUMNS]
    table = [_column(one.name, one.kind, facts.columns[one.name], rows["train"]) for one in shown]
    balance = facts.prepared.get("train_rows_by_class") or {}
    set_aside = sorted(facts.prepared.get("set_aside", {}).items())
    total = sum(balance.values()) or 1
    bars = [(label, float(n), f"{n:,} · {_percent(n / total)}") for label, n in list(balance.items())[:BARS]]
    return {
        "rows": rows,
        "shares": _split(rows),
        "held_out": _held_out(facts.prepared),
        "balance": svg.bars(bars, "Training rows by class") if bars else "",
        "target": _target(facts),
        "classes_left_out": max(0, len(balance) - BARS),
        "columns": table,
        "left_out": len(facts.layout.features) - len(shown),
        "set_aside": [(svg.cut(name, LONGEST), why) for name, why in set_aside[:COLUMNS]],
        "repaired": [
            (svg.cut(name, LONGEST), how)
            for key in ("repaired", "odd")
            for name, how in sorted(facts.prepared.get(key, {}).items())
        ],
        "joins": [
            (name, f"{one['matched']:,} of {one['rows']:,} rows match one of its {one['right_rows']:,}")
            for name, one in sorted(facts.prepared.get("joins", {}).items())
        ],
        "checks": [
            (
                where.removeprefix("data."),
                one["outcome"],
                one["level"],
                svg.cut(one["reason"], REASON),
                one["threshold"],
            )
            for where, one in sorted(facts.prepared.get("checks", {}).items())
        ],
        "sources": [(path, f"{kind}:{found}", size) for path, (kind, found, size) in sorted(facts.sources.items())],
    }


def _held_out(prepared: dict[str, Any]) -> str:
    """How the sides were divided, and which rows are on neither."""
    rows = prepared["rows"]
    said = [f"held out: {prepared['held_out']}"] if "held_out" in prepared else []
    for key, what in (
        ("unlabelled", "without a label"),
        ("embargoed", "within the embargo"),
        ("first_season", "of the first season"),
    ):
        said += [f"{rows[key]:,} rows {what} left out"] if rows.get(key) else []
    return "; ".join(said)


def _feasibility(facts: Facts) -> dict[str, Any] | None:
    """What a quick baseline said before the search, and its learning curve."""
    if facts.feasibility is None:
        return None
    points = [svg.Mark(*one, f"{one[0]:,.0f} rows: {one[1]:.4g}") for one in facts.learning]
    metric = facts.choice["metric"]
    drawn = svg.learning(points, "A baseline by the rows that train it", "training rows", metric) if points else ""
    return {"outlook": facts.feasibility["outlook"], "drawing": drawn}


def _target(facts: Facts) -> Markup | None:
    """How a regression's target is distributed; bins of few rows are joined."""
    if len(facts.target) < 2:
        return None
    middles, counts = zip(*facts.target, strict=True)
    half = (middles[1] - middles[0]) / 2
    bins = merged(list(counts), [middles[0] - half, *(middle + half for middle in middles)])
    return svg.histogram(bins, "Training rows by target", facts.layout.target) if bins else None


def _split(rows: dict[str, int]) -> Markup:
    """Training and held-out rows as one bar."""
    width, total = 640.0, rows["train"] + rows["test"]
    cut = width * rows["train"] / total
    marks = [
        svg.box(0, 0, cut - 1, 26, "bar"),
        svg.box(cut + 1, 0, width - cut - 1, 26, "bar other"),
        svg.text(8, 17, f"train {rows['train']:,}", "inside"),
        svg.text(width - 8, 17, f"held out {rows['test']:,}", "inside dark", "end"),
    ]
    return svg.drawing(marks, width, 26, f"{rows['train']} training rows, {rows['test']} held out")


def _column(name: str, kind: str, told: dict[str, Any], rows: int) -> dict[str, Any]:
    if told["kind"] == "categorical":
        shares = sorted(told["shares"].items(), key=lambda one: (-one[1], one[0]))
        known = [(label, share) for label, share in shares if share * rows >= FEWEST][:TOP]
        words = ", ".join(f"{svg.cut(label, 24)}: {_percent(share)}" for label, share in known)
        drawn = [share for _, share in shares[:24]]
    else:
        quantiles = told["quantiles"]
        words = f"{_end(quantiles[1], kind)} to {_end(quantiles[-2], kind)}" if quantiles else "no value"
        drawn = _density(quantiles[1:-1])
    return {
        "name": svg.cut(name, LONGEST),
        "kind": kind,
        "missing": told["missing"],
        "distinct": told["distinct"],
        "words": words or "no category of ten rows or more",
        "spark": svg.spark(drawn),
    }


def _end(value: float, kind: str) -> str:
    """A value as a person reads it; a text is described by its length."""
    if kind == "datetime":
        return iso(value)[:10]
    return f"{value:.0f} characters" if kind == "text" else svg.told(value)


def _density(quantiles: list[float], bins: int = 24) -> list[float]:
    """Shares in bins of equal width, of a distribution known by evenly spaced quantiles."""
    if len(quantiles) < 2 or quantiles[0] == quantiles[-1]:
        return [1.0] if quantiles else []
    low, width = quantiles[0], (quantiles[-1] - quantiles[0]) / bins
    found = [0.0] * bins
    for a, b in pairwise(quantiles):
        first, last = (min(bins - 1, int((value - low) / width)) for value in (a, b))
        for index in range(first, last + 1):
            start, end = low + index * width, low + (index + 1) * width
            found[index] += 1.0 if first == last else max(0.0, min(b, end) - max(a, start)) / (b - a)
    return found


def _leaderboard(facts: Facts) -> dict[str, Any]:
    choice, rows = facts.choice, []
    trials = {name: _trials(told) for name, told in facts.trained.items()}
    span = svg.padded([score for row in choice["leaderboard"] for score in row["folds"]])
    for row in choice["leaderboard"]:
        size = row["bytes"]
        rows.append({
            "candidate": row["candidate"],
            "taken": row["candidate"] == choice["candidate"],
            "type": "mean of several"
            if "members" in row
            else getattr(facts.spec.candidates.get(row["candidate"]), "type", "no longer in the spec"),
            "mean": row["mean"],
            "std": row["std"],
            "drawing": svg.folds(row["folds"], trials[row["candidate"]], row["mean"], span),
            "learned": settings(row),
            "trials": len(trials[row["candidate"]]),
            "error": row["standard_error"],
            "size": f"{size / 1024:,.0f} KiB",
            "source": select.OUT
            if "members" in row
            else f"{train.OUT.replace('${key}', row['candidate'])}/cross_validation.json",
        })  # fmt: skip
    better = "larger is better" if TABLE[choice["metric"]].larger_is_better else "smaller is better"
    return {
        "metric": choice["metric"],
        "better": better,
        "rows": rows,
        "span": span,
        "trials": any(trials.values()),
        "taken": f"{choice['candidate']} is taken: {choice['reason']}.",
        "nested": NESTED if any("members" in row for row in choice["leaderboard"]) else "",
    }


def _trials(told: dict[str, Any]) -> list[float]:
    """Mean scores of the trials that a search made, when there was one."""
    return [float(one["mean"]) for one in told.get("trials", ()) if one.get("mean") is not None][:200]


def _winner(facts: Facts) -> dict[str, Any]:
    drawn, metrics = facts.curves, sorted(facts.evidence["metrics"].items())
    told: dict[str, Any] = {"metrics": metrics, "figures": [], "calibration": None, "classes": []}
    told |= {"cost": "", "decision_rate": "", "intervals": None, "quantiles": None}
    if made := facts.evidence.get("decision_rate"):
        told["decision_rate"] = covering(made)
    if cost := facts.evidence.get("costs"):
        told["cost"] = expected(cost)
    if seen := facts.evidence.get("prediction_interval"):
        head, rows = intervals(seen)
        told["intervals"] = head, [(svg.cut(name, LONGEST), *rest) for name, *rest in rows]
        told["coverage"] = f"{seen['coverage']:g}"
    if below := facts.evidence.get("quantiles"):
        told["quantiles"] = reached(below)
    if drawn is None:
        return told
    if facts.layout.task == "regression":
        told["figures"] = [*_course(drawn), *_residuals(drawn)]
        told["calibration"] = _means(drawn["predicted_actual"])
        return told
    curves = drawn["curves"]
    if curves:
        told["classes"] = [
            (
                index % svg.SERIES,
                svg.cut(one["class"], LONGEST),
                one["n"],
                one["roc_auc"],
                one["average_precision"],
                one["share"],
            )
            for index, one in enumerate(curves)
        ]
        told["figures"] = [
            ("ROC curve", svg.curves(
                [one["roc"] for one in curves], "ROC curve", "false positive rate", "true positive rate", diagonal=True
            ), ""),
            ("Precision and recall", svg.curves(
                [one["precision_recall"] for one in curves], "Precision by recall", "recall", "precision"
            ), ""),
        ]  # fmt: skip
    matrix = drawn["confusion"]
    told["figures"].append((
        "Decisions", svg.confusion(matrix["labels"], matrix["counts"], "True and decided classes"), "rows"
    ))  # fmt: skip
    bins = drawn["calibration"]
    if bins:
        marks = [
            svg.Mark(
                one["score"], one["share"], one["low"], one["high"],
                f"{one['n']:,} rows: said {one['score']:.3f}, came {one['share']:.3f}",
            )
            for one in bins
        ]  # fmt: skip
        said = "mean probability" if facts.layout.task == "binary" else "mean probability of the decided class"
        came = "share of positives" if facts.layout.task == "binary" else "share that was right"
        told["calibration"] = {
            "drawing": svg.against(marks, "Calibration", said, came),
            "words": f"{len(bins)} bins of about {bins[0]['n']:,} rows; bars are 95 % Wilson intervals.",
        }
    return told


def _course(drawn: dict[str, Any]) -> Iterator[tuple[str, Markup, str]]:
    """Of a forecast, beside what came: over the held-out time, and by the part of a season."""
    parts, phases = drawn.get("course", []), drawn.get("phases", [])
    if len(parts) > 1:
        middle = [(one["from"] + one["to"]) / 2 for one in parts]
        both = [(name, list(zip(middle, (one[name] for one in parts), strict=True))) for name in ("actual", "forecast")]
        words = f"means of {parts[0]['n']:,} rows and more"
        yield "Forecast and actual", svg.lines(both, "Forecast over the held-out time", "step", "mean"), words
    if phases:
        errors = [
            (name, [(one["phase"], one[key]) for one in phases])
            for name, key in (("forecast", "error"), ("seasonal naive", "naive_error"))
        ]
        drawing = svg.lines(errors, "Error by step of the season", "step of the season", "mean absolute error")
        yield "Error by step of the season", drawing, "counted from 1970 on, in UTC"


def _residuals(drawn: dict[str, Any]) -> Iterator[tuple[str, Markup, str]]:
    if drawn["residuals"]:
        words = f"{drawn['beyond']:,} rows at the ends are not drawn"
        yield "Residuals", svg.histogram(drawn["residuals"], "Residuals", "actual - predicted"), words
        yield "Residuals beside a normal distribution", svg.quantiles(drawn["normal"], "Quantiles of residuals"), ""


def _means(bins: list[dict[str, float]]) -> dict[str, Any] | None:
    if not bins:
        return None
    marks = [
        svg.Mark(
            one["predicted"], one["actual"], one["low"], one["high"],
            f"{one['n']:,} rows: predicted {one['predicted']:g}, actual {one['actual']:g}, "
            f"half of them {one['quarter']:g} to {one['three_quarters']:g}",
        )
        for one in bins
    ]  # fmt: skip
    return {
        "drawing": svg.against(marks, "Actual by predicted", "mean prediction", "mean actual value", unit=False),
        "words": f"{len(bins)} bins of {bins[0]['n']:,} rows and more; bars are 95 % intervals of the mean (t).",
    }


def _gates(facts: Facts) -> list[dict[str, Any]]:
    return [_gate(name, gate) for name, gate in sorted(facts.evidence["gates"].items())]


def _gate(name: str, gate: dict[str, Any]) -> dict[str, Any]:
    limit, worst = bound(gate["threshold"]), next(iter(ranked(gate)), None)
    ends = [end for one in (gate, worst) if one for end in (one["value"], *_ends(one))]
    span = svg.padded([end for end in (*ends, limit) if end is not None], 0.12)
    waiver = gate.get("waiver")
    return {
        "name": name,
        "type": gate["type"],
        "threshold": gate["threshold"] or "none",
        "reason": svg.cut(gate["reason"], 2000),
        "waiver": f"Waiver {waiver['name']}, {svg.cut(admission.words(waiver), 2000)}." if waiver else "",
        "rows": gate.get("rows", ()),
        **_measured(gate, limit, span),
        "word": outcome(gate),
        "worst": worst and {"name": svg.cut(worst["name"], LONGEST), **_measured(worst, limit, span)},
    }


def _measured(one: dict[str, Any], limit: float | None, span: svg.Point) -> dict[str, Any]:
    """A gate or slice beside the threshold."""
    state = STATES[one["outcome"]]
    return {
        "state": state,
        "word": one["outcome"],
        "value": number(one["value"]),
        "interval": interval(one),
        "n": one["n"],
        "drawing": svg.interval(one["value"], *_ends(one), limit, span, state),
    }


def _ends(one: dict[str, Any]) -> tuple[float | None, float | None]:
    found = one["interval"] or {}
    return found.get("low"), found.get("high")


def _opened(facts: Facts) -> dict[str, Any]:
    """How often the held-out rows were opened, and which thresholds were changed afterwards."""
    changes = changes_in_words(facts.held_out["changes"] if facts.held_out else [])
    return {
        "words": openings_in_words(facts.held_out),
        "changes": [(svg.cut(words, 2000), loosened) for words, loosened in changes[-CHANGES:]],
        "left_out": max(0, len(changes) - CHANGES),
    }


def _sliced(facts: Facts, *, disparity: bool) -> Iterator[dict[str, Any]]:
    for name, gate in sorted(facts.evidence["gates"].items()):
        if not gate["slices"] or disparity is not (gate["type"] == "group_disparity"):
            continue
        kept = ranked(gate)[:SHOWN_GROUPS]
        shown = [one for one in gate["slices"] if one in kept]
        rows = [_group(one) for one in shown]
        declared = facts.spec.gates.get(name)
        yield {
            "name": name,
            "metric": getattr(declared, "metric", gate["type"]),
            "beside": _beside(declared),
            "fewest": getattr(declared, "min_group_size", None),
            "threshold": gate["threshold"],
            "word": outcome(gate),
            "state": STATES[gate["outcome"]],
            "drawing": svg.groups(rows, bound(gate["threshold"]), f"{name}: groups beside the threshold"),
            "rows": [(svg.cut(one["name"], LONGEST), one["n"], number(one["value"]), interval(one), one["outcome"],
                      STATES[one["outcome"]], svg.cut(one["note"], 3 * LONGEST)) for one in shown],
            "left_out": len(gate["slices"]) - len(shown),
        }  # fmt: skip


def _beside(declared: Any) -> str:
    """What each group of a disparity gate stands beside."""
    if getattr(declared, "compare", "") == "overall":
        return "all rows"
    return "the group of reference" if getattr(declared, "reference", None) else "the one that is best off"


def _group(one: dict[str, Any]) -> svg.Group:
    found, value = one["interval"] or {}, one["value"]
    low, high = found.get("low", value), found.get("high", value)
    return svg.Group(one["name"], one["n"], value, low or 0.0, high or 0.0, STATES[one["outcome"]], one["note"])


def _mitigation(facts: Facts) -> dict[str, Any] | None:
    """What a mitigation did to each group."""
    told = facts.compared
    if told is None:
        return None
    head, rows = compared_groups(told)
    return {
        "done": [svg.cut(words, 2000) for words in mitigated(facts.spec, facts.choice)],
        "how": COMPARED.format(rows=told["rows"], confidence=100 * told["confidence"]),
        "ratios": list(lowest(told)),
        "head": head,
        "rows": [(svg.cut(group, LONGEST), *rest) for group, *rest in rows[: 2 * SHOWN_GROUPS]],
        "left_out": max(0, len(rows) // 2 - SHOWN_GROUPS),
    }


def _importance(facts: Facts) -> dict[str, Any] | None:
    told = facts.importance
    if told is None or not told["importance"]:
        return None
    ranked = sorted(told["importance"].items(), key=lambda one: (-abs(one[1]), one[0]))
    rows = [(name, float(value), f"{value:.4g}") for name, value in ranked[:BARS]]
    return {
        "words": f"mean absolute contribution to the {UNITS[told['space']]} ({told['method']})",
        "rows": told["rows"],
        "picture": _picture(facts.layout.image, told["importance"]),
        "drawing": svg.bars(rows, "Importance by column"),
        "left_out": len(ranked) - len(rows),
    }


def _picture(pixels: Pixels | None, importance: dict[str, float]) -> Markup | None:
    """Where in the image the model looks; of colours all three together."""
    if pixels is None:
        return None
    side, channels = range(pixels.side), 3 if pixels.colour else 1
    summed = [[0.0 for _ in side] for _ in side]
    for place, name in enumerate(pixels.names):
        row, column = divmod(place // channels, pixels.side)
        summed[row][column] += abs(importance.get(name, 0.0))
    most = max(map(max, summed)) or 1.0
    titles = [[f"row {i}, column {j}: {summed[i][j]:.4g}" for j in side] for i in side]
    return svg.picture([[one / most for one in row] for row in summed], titles, "Importance by place in the image")


def _serving(facts: Facts) -> list[tuple[str, str]]:
    serving = facts.spec.serving
    batching, replicas = serving.batching, serving.replicas
    latency = [gate for gate in facts.evidence["gates"].values() if gate["type"] == "latency"]
    return [
        ("replicas", f"{replicas.min} to {replicas.max}, CPUs of each: {replicas.cpus:g}"),
        ("batches", f"up to {batching.max_batch_size} rows, waiting {batching.max_wait} at most"),
        ("access", _access(serving)),
        ("model", f"{taken(facts.choice)['bytes']:,} bytes before packaging"),
        ("latency", " ".join(gate["reason"] for gate in latency) or "not measured: the spec has no gate `latency`"),
    ]


def _access(serving: Serving) -> str:
    if serving.auth is None:
        return "open to whoever reaches the port"
    keys = serving.auth.named.items()
    told = (f"{name} ({', '.join(key.scopes)}{f', until {key.until}' if key.until else ''})" for name, key in keys)
    return f"bearer keys: {'; '.join(told)}"


def _governance(facts: Facts) -> list[tuple[str, str]]:
    told = facts.release or {}
    rows = [("bundle", facts.bundle), ("spec", facts.params.compiled or "not compiled")]
    rows += governance(told, facts.approved)
    for key in ("obligations", "compliance"):
        if told.get(key):
            rows.append((key, _words(told[key])))
    return rows


def _words(value: Any) -> str:
    """A JSON value in a line."""
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_words(item)}" for key, item in value.items())
    return ", ".join(_words(item) for item in value) if isinstance(value, list) else str(value)


def _reproduce(facts: Facts) -> dict[str, Any]:
    spec, overrides = facts.params.spec, facts.params.overrides
    words = " ".join(["specml run", spec, *(_quoted(one) for one in overrides), "--no-deploy"])
    return {
        "commands": [*([f"git checkout {facts.commit.partition(',')[0]}"] if facts.commit else []), words],
        "commit": facts.commit or "not under git",
        "versions": sorted(facts.versions.items()),
    }


def _quoted(word: str) -> str:
    import shlex

    return shlex.quote(word)


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.3g} %"


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


REASON = 300
"""Characters of what a check found; the name of a column may be long."""
