"""The model card: every number stands in a file of the run, which is named; what was not measured says so."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

from specml import admission
from specml.bundle import RELEASE, VERDICTS
from specml.data import in_words
from specml.explain import UNITS
from specml.metrics import TABLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from specml.data import Layout
    from specml.decision import Costs
    from specml.spec import Spec

    Cells = tuple[Sequence[str], Sequence[tuple[str, ...]]]
    """Head and rows of a table."""

CHOICE = "artifacts/select/choice.json"
PREPARED = "metrics/prepare.json"
LAYOUT = "artifacts/prepare/layout.json"
SPEC = "params.yaml"
IMPORTANCE = "artifacts/validate/importance.json"
OPEN = "not measured"
NESTED = "An ensemble is scored on each fold with members and weights that the other folds chose."
GROUPS = "artifacts/compare/groups.json"
COMPARED = (
    "The same candidates and settings without it and with it, on the same {rows:,} out-of-fold rows, each "
    "side with a threshold of its own; rates are of the favourable class, with their {confidence:g} % intervals."
)
SHOWN = 20
"""Most columns whose importance is told."""


def card(
    spec: Spec,
    layout: Layout,
    choice: dict[str, Any],
    evidence: dict[str, Any],
    importance: dict[str, Any],
    *,
    prepared: dict[str, Any],
    release: dict[str, Any],
    compared: dict[str, Any] | None = None,
) -> str:
    """Markdown with the sections of Mitchell et al. (2019), *Model Cards for Model Reporting*.

    ``compared``: what a mitigation did to the groups, where there is one.

    Its front matter is what the Hugging Face Hub reads (``model-index``), with every digit of each metric.
    """
    parts = [
        [_front_matter(spec, layout, choice, evidence)],
        _details(spec, layout, choice, evidence),
        _use(spec),
        _factors(layout, evidence),
        _metrics(spec, choice, evidence),
        _evaluation(evidence, prepared),
        _training(layout, prepared),
        _held_out(evidence),
        _gates(evidence),
        _board(choice),
        _mitigation(spec, choice, compared),
        _importance(importance),
        _considerations(spec, layout, release),
        _caveats(evidence),
    ]
    return "\n".join(line for part in parts for line in part)


def _front_matter(spec: Spec, layout: Layout, choice: dict[str, Any], evidence: dict[str, Any]) -> str:
    from ruamel.yaml import YAML

    kind = f"tabular-{'regression' if layout.task == 'regression' else 'classification'}"
    if layout.history and layout.history.steps:
        kind = "time-series-forecasting"
    metrics = [{"type": name, "name": name, "value": value} for name, value in sorted(evidence["metrics"].items())]
    result = {
        "task": {"type": kind, "name": spec.problem.goal or kind},
        "dataset": {"type": spec.name, "name": spec.name, "split": "test"},
        "metrics": metrics,
    }
    values = {
        "library_name": "onnx",
        "pipeline_tag": kind,
        "tags": ["specml", "tabular", layout.task, choice["candidate"]],
        "metrics": [one["type"] for one in metrics],
        "model-index": [{"name": spec.name, "results": [result]}],
    }
    buffer = io.StringIO()
    yaml = YAML()
    yaml.width = 4096
    yaml.dump(values, buffer)
    return f"---\n{buffer.getvalue()}---\n"


def _details(spec: Spec, layout: Layout, choice: dict[str, Any], evidence: dict[str, Any]) -> Iterator[str]:
    learned = settings(taken(choice))
    yield f"# {_text(spec.name)}"
    yield ""
    yield _text(spec.problem.goal) or "Goal: not stated."
    yield ""
    yield "## Model details"
    yield ""
    yield f"- Bundle: `{evidence['bundle']}` (`{VERDICTS}`)"
    yield f"- Model: {choice['candidate']}{f' ({learned})' if learned else ''} (`{CHOICE}`)"
    yield f"- Taken because: {choice['reason']} (`{CHOICE}`)"
    asked = in_words(layout.task, layout.history)
    yield f"- Problem: {asked}; `{_text(layout.target)}` from {len(layout.features)} columns (`{LAYOUT}`)"
    if told := layout.history:
        group = f" of the same {_text(' and '.join(told.by))}" if told.by else ""
        yield f"- Takes {_listed(told.columns)} of up to {told.rows} earlier rows{group}, by `{told.time}` (`{LAYOUT}`)"
    if layout.classes:
        yield f"- Classes: {', '.join(_text(label) for label in layout.classes)} (`{LAYOUT}`)"
    if choice["calibration"]:
        yield f"- Calibration: {calibrated(choice['calibration'])} (`{CHOICE}`)"
    if layout.quantiles:
        yield f"- Quantiles: {', '.join(f'{one:g}' for one in layout.quantiles)}; 0.5 is the prediction (`{LAYOUT}`)"
    if told := choice["prediction_interval"]:
        yield f"- Prediction interval: {widened(told)} (`{CHOICE}`)"
    if choice["threshold"] is not None:
        yield f"- Decision threshold: {choice['threshold']:.4g} (`{CHOICE}`)"
    if choice["group_thresholds"]:
        yield f"- Decision thresholds by {_text(thresholds_by_group(choice['group_thresholds']))} (`{CHOICE}`)"
    if choice["abstain_band"]:
        yield f"- Decides {banded(choice['abstain_band'])} (`{CHOICE}`)"
    yield ""


def _use(spec: Spec) -> Iterator[str]:
    yield "## Intended use"
    yield ""
    yield f"- Intended use: {_text(spec.problem.intended_use) or 'not stated'}"
    yield f"- Out of scope: {'; '.join(_text(one) for one in spec.problem.out_of_scope) or 'not stated'}"
    yield ""


def _factors(layout: Layout, evidence: dict[str, Any]) -> Iterator[str]:
    columns = "|".join(map(re.escape, layout.protected))
    names = [one["name"] for gate in evidence["gates"].values() for one in gate["slices"]] if columns else []
    compared = sorted({tuple(re.findall(rf"(?:^|, )({columns})=", name)) for name in names})
    single = [one[0] for one in compared if len(one) == 1]
    combined = "; ".join(_listed(one) for one in compared if len(one) > 1)
    yield "## Factors"
    yield ""
    yield f"- Protected columns, kept from the model: {_listed(layout.protected) or 'none declared'} (`{LAYOUT}`)"
    yield f"- Groups compared: {'by ' + _listed(single) if single else OPEN} (`{VERDICTS}`)"
    yield f"- Groups of several columns together: {'by ' + combined if combined else OPEN} (`{VERDICTS}`)"
    yield ""


def _metrics(spec: Spec, choice: dict[str, Any], evidence: dict[str, Any]) -> Iterator[str]:
    better = "larger" if TABLE[choice["metric"]].larger_is_better else "smaller"
    yield "## Metrics"
    yield ""
    yield f"Candidates are ranked by {choice['metric']}; {better} is better. A release must meet (`{VERDICTS}`):"
    yield ""
    for name, gate in sorted(evidence["gates"].items()):
        level = "" if gate["level"] == "fail" else ", told only"
        yield f"- {name} ({gate['type']}): {gate['threshold'] or 'no threshold'}{level}"
    if choice["threshold"] is not None:
        yield ""
        yield f"The decision threshold is {decided(choice['decision'])} (`{CHOICE}`)."
    if spec.problem.costs is not None:
        yield ""
        yield f"Costs of a row: {_priced(spec.problem.costs)} (`{SPEC}`)."
    yield ""


def decided(told: dict[str, Any]) -> str:
    """How the threshold was found, in words."""
    if told["by"] == "declared":
        return "declared"
    if told["by"] != "costs":
        return f"where the {told['by'].replace('_', ' ')} out of fold is largest"
    unit = f" {told['currency']}" if told["currency"] else ""
    return (
        f"where the expected cost out of fold is least, {told['expected_cost']:.4g}{unit} a row; if probabilities come "
        f"true it is least at {told['theoretical']:.4g} (Elkan 2001), which costs "
        f"{told['expected_cost_theoretical']:.4g}{unit} there"
    )


def expected(told: dict[str, Any]) -> str:
    """What a held-out row costs, in a line, beside what deciding all rows alike would."""
    unit = f" {told['currency']}" if told["currency"] else ""
    found = f"{told['expected']:.4g}{unit} a row"
    if end := told["interval"]:
        found += f" ({end['low']:.4g} to {end['high']:.4g}, {end['confidence']:.3g}, {end['method']})"
    always = [f"{told['always'][name]:.4g} were every row decided {name}" for name in ("negative", "positive")]
    return f"{found}; {', '.join(always)}"


def covering(told: dict[str, Any]) -> str:
    """Which share of the held-out rows is decided, in a line."""
    end = told["interval"]
    share = f"{100 * told['share']:.1f} % of the held-out rows ({100 * end['low']:.1f} to {100 * end['high']:.1f} %)"
    return f"{share}, {told['decided']:,} of {told['rows']:,}; scores of decisions are those of these rows"


def banded(band: Sequence[float]) -> str:
    """Where nothing is decided, in words."""
    return f"nothing from a probability of {band[0]:.4g} on and below {band[1]:.4g}"


def _priced(costs: Costs) -> str:
    """What each decision costs."""
    unit = f" {_text(costs.currency)}" if costs.currency else ""
    names = ["false_negative", "false_positive", "true_positive", "true_negative"]
    names += [] if costs.abstention is None else ["abstention"]
    return ", ".join(f"{name.replace('_', ' ')} {getattr(costs, name):g}{unit}" for name in names)


def _evaluation(evidence: dict[str, Any], prepared: dict[str, Any]) -> Iterator[str]:
    yield "## Evaluation data"
    yield ""
    yield f"{evidence['rows']:,} held-out rows that no training stage read (`{VERDICTS}`)."
    if how := prepared.get("held_out"):
        yield f"How they were chosen: {_text(how)} (`{PREPARED}`)."
    yield ""


def _training(layout: Layout, prepared: dict[str, Any]) -> Iterator[str]:
    kinds = [column.kind for column in layout.features]
    told = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
    yield "## Training data"
    yield ""
    yield f"{prepared['rows']['train']:,} rows (`{PREPARED}`); {told} columns (`{LAYOUT}`)."
    yield ""
    classes = prepared.get("train_rows_by_class")
    if classes:
        yield from _table(("class", "training rows"), [(name, f"{n:,}") for name, n in classes.items()], PREPARED)
    for key, what in (
        ("quarantined", "were put aside by checks"),
        ("unlabelled", "have no label, and train nothing"),
        ("embargoed", "stand within the embargo before the held-out ones, and train nothing"),
        ("first_season", "are of a series' first season, and are history only"),
    ):
        if n := prepared["rows"].get(key):
            yield f"{n:,} rows {what} (`{PREPARED}`)."
            yield ""
    if checks := prepared.get("checks"):
        rows = [
            (where.removeprefix("data."), _checked(one), one["threshold"], one["reason"])
            for where, one in sorted(checks.items())
        ]
        yield from _table(("check of the data", "verdict", "wanted", "found"), rows, PREPARED)
    for key, head in (("repaired", "column repaired"), ("odd", "column that is odd")):
        if prepared.get(key):
            yield from _table((head, "how"), sorted(prepared[key].items()), PREPARED)
    if prepared.get("set_aside"):
        yield from _table(("column set aside", "why"), sorted(prepared["set_aside"].items()), PREPARED)


def _checked(check: dict[str, Any]) -> str:
    return f"{check['outcome']} (level warn)" if check["level"] == "warn" else str(check["outcome"])


def _held_out(evidence: dict[str, Any]) -> Iterator[str]:
    yield "## Quantitative analyses"
    yield ""
    yield "### Held-out rows"
    yield ""
    rows = [(name, f"{value:.4f}") for name, value in sorted(evidence["metrics"].items())]
    yield from _table(("metric", "value"), rows, VERDICTS)
    if evidence.get("decision_rate"):
        yield f"Decided: {covering(evidence['decision_rate'])} (`{VERDICTS}`)."
        yield ""
    if evidence.get("costs"):
        yield f"Expected cost: {_text(expected(evidence['costs']))} (`{VERDICTS}`)."
        yield ""
    if told := evidence.get("quantiles"):
        yield "### Quantiles"
        yield ""
        yield from _table(*reached(told), VERDICTS)
    if told := evidence.get("prediction_interval"):
        yield "### Prediction intervals"
        yield ""
        yield f"They are to hold {told['coverage']:g} of the targets."
        yield ""
        yield from _table(*intervals(told), VERDICTS)


def _gates(evidence: dict[str, Any]) -> Iterator[str]:
    yield "### Gates"
    yield ""
    gates = sorted(evidence["gates"].items())
    yield from _table(
        ("gate", "verdict", "value", "interval", "n", "threshold", "reason"),
        [
            (name, outcome(g), number(g["value"]), interval(g), f"{g['n']:,}", g["threshold"], g["reason"])
            for name, g in gates
        ],
        VERDICTS,
    )
    for name, gate in gates:
        if gate["slices"]:
            yield f"### {name}: groups"
            yield ""
            yield from _table(
                ("group", "n", "value", "interval", "verdict", "note"),
                [
                    (one["name"], f"{one['n']:,}", number(one["value"]), interval(one), one["outcome"], one["note"])
                    for one in gate["slices"]
                ],
                VERDICTS,
            )
    for kind, name in (("calibration", "Calibration error"), ("latency", "Latency")):
        if kind not in {gate["type"] for _, gate in gates}:
            yield f"{name}: {OPEN}."
            yield ""


def _board(choice: dict[str, Any]) -> Iterator[str]:
    yield "### Candidates"
    yield ""
    yield f"Cross-validated {choice['metric']} on the training rows."
    yield ""
    if any("members" in row for row in choice["leaderboard"]):
        yield NESTED
        yield ""
    board = [
        (
            row["candidate"],
            f"{row['mean']:.4f}",
            f"{row['standard_error']:.4f}",
            f"{row['std']:.4f}",
            row.get("trials", 1),
            settings(row),
        )
        for row in choice["leaderboard"]
    ]
    head = ("candidate", "mean", "its standard error", "spread over folds", "trials", "chosen and learned")
    yield from _table(head, board, CHOICE)


RATES = {
    "selection_rate": "selection rate",
    "true_positive_rate": "true positive rate",
    "false_positive_rate": "false positive rate",
}


def compared_groups(told: dict[str, Any]) -> Cells:
    """Of each group and all rows the rates and the metric without and with the mitigation: head and rows of a table."""
    names = {**RATES, "metric": told["metric"]}
    head = ("group", "n", "", *names.values())
    rows = []
    for group in ("all rows", *sorted(told["with"]["groups"])):
        for side in ("without", "with"):
            one = told[side] if group == "all rows" else told[side]["groups"][group]
            first = (group, f"{one['n']:,}") if side == "without" else ("", "")
            rows.append((*first, side, *(_ranged(one[name]) for name in names)))
    return head, rows


def lowest(told: dict[str, Any]) -> Iterator[str]:
    """How far apart the groups of each column are without and with the mitigation, in a line each."""
    for column, one in sorted(told["with"]["ratios"].items()):
        before = told["without"]["ratios"][column]
        for rate, ratio in sorted(one.items(), reverse=True):
            what = f"the lowest {RATES[rate]} by the highest"
            yield f"{column}: {what} is {_ranged(before[rate])} without, {_ranged(ratio)} with"


def thresholds_by_group(grouped: dict[str, Any]) -> str:
    """The threshold of each group, in a line."""
    told = [f"{name} {cut:.4g}" for name, cut in sorted(grouped["thresholds"].items())]
    small = f"; {', '.join(grouped['small'])} as all rows, being few" if grouped["small"] else ""
    rate = grouped["metric"].removesuffix("_ratio").replace("_", " ")
    apart = (
        "" if grouped["ratio"] is None else f"; the lowest {rate} is {grouped['ratio']:.3f} of the highest out of fold"
    )
    return f"{grouped['column']}: {', '.join(told)}{small}{apart}"


def mitigated(spec: Spec, choice: dict[str, Any]) -> Iterator[str]:
    """What was done about a disparity, a sentence each."""
    asked = spec.mitigation
    if asked.reweighing is not None:
        by = ", ".join(asked.reweighing.by)
        yield f"Training rows are weighed so that label and group ({by}) are independent."
    if choice["group_thresholds"]:
        told = thresholds_by_group(choice["group_thresholds"])
        yield f"Each group has a threshold of its own, and a row is asked for its group; {told}."


def _ranged(measured: dict[str, Any]) -> str:
    """A value and the ends of its interval."""
    end = measured["interval"]
    ends = f" ({end['low']:.3f} to {end['high']:.3f})" if end else ""
    return OPEN if measured["value"] is None else f"{measured['value']:.3f}{ends}"


def _mitigation(spec: Spec, choice: dict[str, Any], told: dict[str, Any] | None) -> Iterator[str]:
    if told is None:
        return
    yield "### Mitigation"
    yield ""
    for words in mitigated(spec, choice):
        yield f"{_text(words)} (`{CHOICE}`)"
    yield COMPARED.format(rows=told["rows"], confidence=100 * told["confidence"])
    yield ""
    for words in lowest(told):
        yield f"- {_text(words)} (`{GROUPS}`)"
    yield ""
    yield from _table(*compared_groups(told), GROUPS)


def _importance(told: dict[str, Any]) -> Iterator[str]:
    yield "### Importance of columns"
    yield ""
    if not told["importance"]:
        yield f"{OPEN.capitalize()}."
        yield ""
        return
    yield f"Mean absolute contribution to the {UNITS[told['space']]} ({told['method']}), over {told['rows']:,} rows."
    yield ""
    ranked = sorted(told["importance"].items(), key=lambda one: (-one[1], one[0]))[:SHOWN]
    yield from _table(("column", "importance"), [(name, f"{value:.4g}") for name, value in ranked], IMPORTANCE)


def _considerations(spec: Spec, layout: Layout, release: dict[str, Any]) -> Iterator[str]:
    yield "## Ethical considerations"
    yield ""
    yield "A gate assesses a disparity between groups; none certifies that there is none."
    if not layout.protected:
        yield f"No column is declared protected: disparity between groups was {OPEN}."
    if grouped := spec.mitigation.group_thresholds:
        yield f"The threshold of a row hangs on {_text(grouped.by)}: different treatment, which law may forbid."
    yield ""
    yield f"- Personal columns: {'; '.join(_personal(spec)) or 'none declared'} (`{SPEC}`)"
    for key in ("compliance", "obligations"):
        if release.get(key):
            yield f"- {key.capitalize()}: {_words(release[key])} (`{RELEASE}`)"
    for name, words in governance(release):
        yield f"- {name.capitalize()}: {_text(words)} (`{RELEASE}`)"
    yield ""


def governance(release: dict[str, Any], approved: Sequence[str] | None = None) -> Iterator[tuple[str, str]]:
    """Who answers for a release, who must approve it and what was waived: what it is called, and in words.

    ``approved``: who did so far; None where that is not known, as in the card, which comes before.
    """
    if release.get("owner"):
        yield "owner", release["owner"]
    if needed := release.get("approval"):
        who = ", ".join(needed["approvers"])
        so_far = "the ledger tells who approved"
        if approved is not None:
            so_far = f"approved by {', '.join(approved) or 'nobody'}"
        yield "approval", f"by {needed['minimum']} of {who}; {so_far}"
    for name, one in release.get("waivers", {}).items():
        yield f"waiver {name}", f"{one['state']}; gate {one['gate']}, {admission.words(one)}"
    if not release.get("waivers"):
        yield "waivers", "none"


def _personal(spec: Spec) -> Iterator[str]:
    """Each column that is declared personal, and what becomes of it."""
    done = {"drop": "dropped as it is read", "hash": "hashed as it is read", None: ""}
    for name, column in sorted(spec.data.columns.items()):
        if column.personal:
            sort = "" if column.personal is True else f"{column.personal} "
            role = "target" if name == spec.problem.target else column.role
            yield f"{_text(name)} ({sort}{done[column.action] or role}{', for gates only' if column.use else ''})"


def _caveats(evidence: dict[str, Any]) -> Iterator[str]:
    yield "## Caveats"
    yield ""
    told = [(name, gate) for name, gate in sorted(evidence["gates"].items()) if gate["outcome"] != "holds"]
    for name, gate in told:
        yield f"- {name}: {outcome(gate)}. {_text(gate['reason'])} (`{VERDICTS}`)"
    yield "- All of it is about rows like the held-out ones; of others the card says nothing."
    yield ""


def taken(choice: dict[str, Any]) -> dict[str, Any]:
    """The leaderboard's row that was taken."""
    (found,) = (row for row in choice["leaderboard"] if row["candidate"] == choice["candidate"])
    return dict(found)


def mean_of(row: dict[str, Any]) -> str:
    """The members of an ensemble with their shares, the largest first, as ``0.6 gbm + 0.4 line``; else nothing."""
    members = sorted(row.get("members", {}).items(), key=lambda one: (-one[1], one[0]))
    return " + ".join(f"{share:.3g} {name}" for name, share in members)


def calibrated(told: dict[str, Any]) -> str:
    """By what the probabilities are calibrated, and what that is worth, in a line."""
    how = f"by {told['method']}, fitted on {told['rows']:,} out-of-fold rows" if told["method"] else "none"
    if told["wanted"] == "auto" and not told["method"]:
        how += ", for no method is better by more than one standard error"
    losses = [f"{name} {loss:.4f}" for name, loss in told.get("log_loss", {}).items()]
    return f"{how}; log loss on folds that did not fit it: {', '.join(losses)}" if losses else how


def widened(told: dict[str, Any]) -> str:
    """How the prediction interval was found, and what it is worth, in a line."""
    found = told["state"]
    how = f"{found['method']}, for {found['coverage']:g} of the targets, fitted on {told['rows']:,} out-of-fold rows"
    if seen := told.get("folds"):
        how += f"; of {seen['rows']:,} rows of folds that did not fit it, it held {seen['coverage']:.3f}"
    return how


def reached(told: list[dict[str, Any]]) -> Cells:
    """How many targets lie no higher than each quantile: head and rows of a table."""
    head = ("quantile", "n", "share of targets no higher", "interval")
    return head, [(one["name"], f"{one['n']:,}", number(one["value"]), interval(one)) for one in told]


def intervals(told: dict[str, Any]) -> Cells:
    """What prediction intervals held of all rows, then of each protected group: head and rows of a table."""
    head = ("rows", "n", "share held", "interval", "mean width")
    rows = [{**told["all"], "width": told["width"]}, *told["groups"]]
    cells = [(one["name"], f"{one['n']:,}", number(one["value"]), interval(one), number(one["width"])) for one in rows]
    return head, cells


def settings(row: dict[str, Any]) -> str:
    """What a search chose for a candidate of the leaderboard and what its fits found, in a line."""
    if "members" in row:
        return mean_of(row)
    told = sorted({**row.get("options", {}), **row["learned"]}.items())
    return ", ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in told)


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]], source: str) -> Iterator[str]:
    """A Markdown table, and the file that its numbers stand in."""
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for row in rows:
        yield f"| {' | '.join(_text(cell) for cell in row)} |"
    yield ""
    yield f"From `{source}`."
    yield ""


def _listed(names: Sequence[str]) -> str:
    return ", ".join(_text(name) for name in names)


def _text(value: object) -> str:
    """One line that Markdown shows as it is: no HTML, no new cell."""
    return " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def _words(value: Any) -> str:
    """A JSON value in a line."""
    if isinstance(value, dict):
        return "; ".join(f"{_text(key)}: {_words(item)}" for key, item in value.items())
    return ", ".join(_words(item) for item in value) if isinstance(value, list) else _text(value)


def outcome(gate: dict[str, Any]) -> str:
    """The verdict's word, with what the level or the policy makes of it."""
    if gate["outcome"] == "holds":
        return "holds"
    if gate["passes"]:
        return f"{gate['outcome']} (allowed by its policy)"
    if "waiver" in gate:
        live = gate["waiver"]["state"] == "used"
        return f"{gate['outcome']} ({'waived until' if live else 'waiver expired on'} {gate['waiver']['expires']})"
    return gate["outcome"] if gate["level"] == "fail" else f"{gate['outcome']} (level warn)"


def number(value: float | None) -> str:
    """Four digits, all of a whole number, or ``not measured``."""
    if value is None:
        return OPEN
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 and value.is_integer() else f"{value:.4g}"


def interval(measured: dict[str, Any]) -> str:
    """``low to high (confidence, method)``."""
    found = measured["interval"]
    if not found:
        return "-"
    return f"{found['low']:.4g} to {found['high']:.4g} ({found['confidence']:.3g}, {found['method']})"
