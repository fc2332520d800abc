"""Values that are valid each by itself but can't both be meant."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from specml.bundle import quantile_name
from specml.component import Disagreement
from specml.data import looks_back
from specml.evidence import MEDIAN
from specml.kinds import Candidate, unprotected
from specml.metrics import known
from specml.plan import Plan, Stage
from specml.tables import forecast, history, joins, labels, splits
from specml.targets.batch import Batch
from specml.targets.edge import Edge
from specml.targets.local import Local
from specml.targets.ray import Ray

if TYPE_CHECKING:
    from collections.abc import Iterator

    from specml.spec import Column, Compliance, Problem, Serving, Spec
    from specml.tables.checks import ColumnChecks, Rows

MOST_QUANTILES = 20
ENSEMBLE = "ensemble"
"""What the leaderboard calls the mean of several candidates."""


def all_of(spec: Spec) -> Iterator[Disagreement]:
    """What contradicts between the sections; keys are paths from the root."""
    for part in (
        _problem,
        _joins,
        _columns,
        _table_checks,
        _hash_key,
        labels.disagreements,
        splits.disagreements,
        history.disagreements,
        forecast.disagreements,
        _features,
        _mitigation,
        _group_thresholds,
        _candidates,
        _search,
        _selection,
        _gates,
        _waivers,
        _approval,
        _rules,
        _serving,
        _grpc,
        _edge,
        _monitoring,
    ):
        yield from part(spec)


def _search(spec: Spec) -> Iterator[Disagreement]:
    search, default = spec.search, type(spec.search)()
    for name in ("patience", "max_cpu_seconds", "executor"):
        if search.trials == 1 and getattr(search, name) != getattr(default, name):
            hint = "Say search.trials: how many settings are tried."
            yield Disagreement(key=("search", name), what="has no effect: there is one trial.", hint=hint)
    if search.screen and (search.trials <= 4 or len(spec.candidates) == 1):
        what = "has no effect: " + (
            "there is one candidate." if search.trials > 4 else "nobody makes more than 4 trials."
        )
        yield Disagreement(key=("search", "screen"), what=what, hint="Leave it out.")
    shared = spec.train.workers > 1
    if shared and not any(candidate.shares for candidate in spec.candidates.values()):
        what = "has no effect: no candidate is a network, whose refit workers can share."
        yield Disagreement(key=("train", "workers"), what=what, hint="tabular_mlp and image_cnn are networks.")
    if search.executor != "ray" and not shared and search.ray_address != default.ray_address:
        what = "has no effect: no cluster is asked."
        yield Disagreement(key=("search", "ray_address"), what=what, hint="Say search.executor: ray.")


def _problem(spec: Spec) -> Iterator[Disagreement]:
    problem = spec.problem
    if problem.metric not in known(problem):
        yield Disagreement(
            key=("problem", "primary_metric"),
            what=f"{problem.metric!r} is no metric for a {problem.task} problem.",
            hint=f"Known: {', '.join(known(problem))}.",
        )
    yield from _quantiles(problem)
    if problem.task != "binary":
        # Compared with the defaults, not by what was written: the rendered spec writes everything.
        for key, unset in (("positive_class", None), ("costs", None), ("decision", type(problem.decision)())):
            if getattr(problem, key) != unset:
                yield Disagreement(key=("problem", key), what=f"has no effect on a {problem.task} problem.")
    else:
        yield from _decision(spec)
    feasibility, path = problem.feasibility, ("problem", "feasibility")
    if feasibility.min_history is not None and spec.data.split.method != "time":
        what = f"has no effect on a split by {spec.data.split.method!r}."
        yield Disagreement(key=(*path, "min_history"), what=what)
    if feasibility.min_rows_per_group is not None and not spec.with_role("protected"):
        yield Disagreement(key=(*path, "min_rows_per_group"), what="has no effect: no column is protected.")
    if problem.learns == "regression" and problem.favourable_class is not None:
        yield Disagreement(key=("problem", "favourable_class"), what="has no effect on a regression problem.")


def _decision(spec: Spec) -> Iterator[Disagreement]:
    decision, path = spec.problem.decision, ("problem", "decision")
    if decision.threshold == "costs" and spec.problem.costs is None:
        hint = "Say problem.costs: {false_negative: 5200, false_positive: 410, currency: EUR}"
        yield Disagreement(key=(*path, "threshold"), what="is costs, but nothing says what decisions cost.", hint=hint)
    if not isinstance(decision.threshold, str) and not decision.within(decision.threshold):
        what = f"does not hold the threshold, {decision.threshold}: rows would be left undecided far from it."
        yield Disagreement(key=(*path, "abstain_band"), what=what, hint="Say a band around it, or another threshold.")
    if spec.problem.costs and spec.problem.costs.abstention is not None and decision.abstain_band is None:
        hint = "Say problem.decision.abstain_band: [0.42, 0.58]"
        what = "has no effect: every row is decided."
        yield Disagreement(key=("problem", "costs", "abstention"), what=what, hint=hint)
    if decision.threshold != "auto" and decision.metric != type(decision)().metric:
        what = f"has no effect: the threshold is {decision.threshold}."
        yield Disagreement(key=(*path, "metric"), what=what, hint="Say problem.decision.threshold: auto.")


def _quantiles(problem: Problem) -> Iterator[Disagreement]:
    levels, path = problem.quantiles, ("problem", "quantiles")
    if not levels:
        return
    if problem.learns != "regression":
        yield Disagreement(key=path, what=f"has no effect on a {problem.task} problem: it has probabilities.")
    elif list(levels) != sorted(set(levels)):
        yield Disagreement(key=path, what="must rise from one to the next.")
    elif len(set(map(quantile_name, levels))) < len(levels):
        yield Disagreement(key=path, what="must be told apart by six digits: by these their outputs are named.")
    elif MEDIAN not in levels or len(levels) < 2:
        hint = "As problem.quantiles: [0.1, 0.5, 0.9]"
        yield Disagreement(key=path, what="must have 0.5, which is the prediction, and another.", hint=hint)
    elif len(levels) > MOST_QUANTILES:
        yield Disagreement(key=path, what=f"are {len(levels)}; {MOST_QUANTILES} at most: each has a model of its own.")


def _joins(spec: Spec) -> Iterator[Disagreement]:
    for found in joins.disagreements(spec.data.sources, spec.data.joins):
        yield found.model_copy(update={"key": ("data", *found.key)})


def _columns(spec: Spec) -> Iterator[Disagreement]:
    target = spec.problem.target
    for name, column in spec.data.columns.items():
        path = ("data", "columns", name)
        if column.role == "target" and name != target:
            what, hint = f"is target, but problem.target is {target!r}.", "Name one of the two."
            yield Disagreement(key=(*path, "role"), what=what, hint=hint)
        if name == target and column.role not in ("feature", "target"):
            yield Disagreement(key=(*path, "role"), what=f"is {column.role}, but problem.target names this column.")
        if column.role == "ignore" and column.dtype is not None:
            yield Disagreement(key=(*path, "dtype"), what="has no effect: the column is ignored.")
        idle = column.role == "feature" and not spec.features.takes_times(name)
        if column.dtype == "datetime" and (idle or column.role not in ("feature", "time", "ignore")):
            what = f"is {column.role}, but a datetime can only be a time, ignored, or a feature that is read as a date."
            hint = f"Declare role: time or ignore, or features.columns.{name}: date"
            yield Disagreement(key=(*path, "role"), what=what, hint=hint)
        wanted = spec.features.dtype(name)
        if wanted and column.dtype not in (None, wanted):
            what = f"is {column.dtype}, but features.columns.{name} treats {wanted} columns."
            yield Disagreement(key=(*path, "dtype"), what=what)
        yield from _grouping(column, path)
        if column.known_after and (role := "target" if name == target else column.role) != "feature":
            yield Disagreement(key=(*path, "known_after"), what=f"has no effect: the column's role is {role}.")
        yield from _column_checks(column, path)
        role = "target" if name == target else column.role
        yield from _acted_on(column, role, path) if column.action else _used(column, role, path)
    weights = spec.with_role("weight")
    for extra in weights[1:]:
        what = f"is weight, and so is {weights[0]!r}: only one can be."
        yield Disagreement(key=("data", "columns", extra, "role"), what=what)


def _acted_on(column: Column, role: str, path: tuple[str, ...]) -> Iterator[Disagreement]:
    """Columns that are not written as they are."""
    if role == "target":
        yield Disagreement(key=(*path, "action"), what=f"is {column.action}, but the column is the target.")
        return
    without_effect = ["dtype", "known_after"]
    if column.action == "hash" and role != "id":
        what = f"is hash, but the column's role is {role}: the model would be asked about what it has never seen."
        yield Disagreement(key=(*path, "action"), what=what, hint="Say role: id, or action: drop.")
    if column.action == "drop":
        if role not in ("feature", "ignore"):
            what = f"is drop, but the column's role is {role}, which needs its values."
            yield Disagreement(key=(*path, "action"), what=what, hint="Leave one of the two out.")
        without_effect += ["bands", "checks", "groups", "nullable", "use"]
    for key in without_effect:
        if getattr(column, key) != type(column).model_fields[key].default:
            what = "hashed as it is written" if column.action == "hash" else "dropped"
            yield Disagreement(key=(*path, key), what=f"has no effect: the column is {what}.")


def _used(column: Column, role: str, path: tuple[str, ...]) -> Iterator[Disagreement]:
    if column.personal == "identifier" and role not in ("id", "ignore"):
        what = f"is identifier, but the column's role is {role}: what names a person is for no model and no gate."
        yield Disagreement(key=(*path, "personal"), what=what, hint="Say role: id, or action: drop.")
    if column.use == "audit_only" and role != "protected":
        what = f"is audit_only, but the column's role is {role}: only gates may see it."
        yield Disagreement(key=(*path, "use"), what=what, hint="Say role: protected.")


def _hash_key(spec: Spec) -> Iterator[Disagreement]:
    acted_on = {name: column for name, column in spec.data.columns.items() if column.action == "hash"}
    hashed = [name for name, column in acted_on.items() if column.role == "id" and name != spec.problem.target]
    key = spec.compliance.hash_key
    if hashed and key is None:
        what = "is hash, but there is no key: whoever knows the ids could make the hashes again."
        hint = "Say compliance.hash_key: ${secret:ROWS_KEY}"
        yield Disagreement(key=("data", "columns", hashed[0], "action"), what=what, hint=hint)
    if key is not None and not acted_on:
        what = "has no effect: no column has action: hash."
        yield Disagreement(key=("compliance", "hash_key"), what=what)


def _grouping(column: Column, path: tuple[str, ...]) -> Iterator[Disagreement]:
    if (column.bands or column.groups) and column.role != "protected":
        key = "bands" if column.bands else "groups"
        yield Disagreement(key=(*path, key), what="has no effect: the column is not protected.")
    if column.bands and column.groups:
        yield Disagreement(key=(*path, "groups"), what="can't stand beside bands: a column has one grouping.")
    if list(column.bands) != sorted(set(column.bands)):
        yield Disagreement(key=(*path, "bands"), what="must rise from edge to edge.")


def _column_checks(column: Column, path: tuple[str, ...]) -> Iterator[Disagreement]:
    checks, path = column.checks, (*path, "checks")
    if checks is None:
        return
    if not checks.validity and checks.invalid != type(checks.invalid)():
        yield Disagreement(key=(*path, "invalid"), what="has no effect: nothing says what is valid.")
    if checks.dtype and column.dtype in (None, "category") and column.role != "time":
        what = "has no effect: no dtype is declared that a value could miss."
        yield Disagreement(key=(*path, "dtype"), what=what)
    yield from _ranges(checks, path)
    for key in ("dtype", "missing", "invalid", "unique"):
        yield from _none_aside(getattr(checks, key), (*path, key))


def _none_aside(check: Rows | None, path: tuple[str, ...]) -> Iterator[Disagreement]:
    if check and check.level == "quarantine" and check.max == 0:
        yield Disagreement(key=(*path, "max"), what="is 0: nothing could be put aside.")


def _ranges(checks: ColumnChecks, path: tuple[str, ...]) -> Iterator[Disagreement]:
    """Limits between which, or values of which, nothing would be valid."""
    least, most = checks.valid_min, checks.valid_max
    if least is not None and most is not None:
        if isinstance(least, str) != isinstance(most, str):
            what = f"is {most!r}, but valid_min {least!r}: one is a day, the other a number."
            yield Disagreement(key=(*path, "valid_max"), what=what)
            return
        if least > most:  # type: ignore[operator]  # both are days, or numbers
            yield Disagreement(key=(*path, "valid_max"), what=f"is {most}, below valid_min ({least}).")
    for one in checks.valid_values:
        if isinstance(one, str | bool):
            continue
        below = isinstance(least, float | int) and one < least
        above = isinstance(most, float | int) and one > most
        if below or above:
            key, limit = ("valid_min", least) if below else ("valid_max", most)
            what = f"has {one!r}, which {key} ({limit:g}) forbids."
            yield Disagreement(key=(*path, "valid_values"), what=what)


def _table_checks(spec: Spec) -> Iterator[Disagreement]:
    checks, path = spec.data.checks, ("data", "checks")
    if spec.problem.learns == "regression":
        for key in ("class_balance", "conflicting_labels"):
            if getattr(checks, key):
                yield Disagreement(key=(*path, key), what="has no effect on a regression problem.")
    if checks.row_count and checks.row_count.max is not None and checks.row_count.max < checks.row_count.min:
        what = f"is {checks.row_count.max}, below min ({checks.row_count.min})."
        yield Disagreement(key=(*path, "row_count", "max"), what=what)
    times = spec.with_role("time")
    if checks.freshness and checks.freshness.column is None and len(times) != 1:
        what = f"must be said: {len(times)} columns have the role time."
        yield Disagreement(key=(*path, "freshness", "column"), what=what)
    for key in ("duplicates", "conflicting_labels"):
        yield from _none_aside(getattr(checks, key), (*path, key))
    for name, failed in checks.failed_rows.items():
        yield from _none_aside(failed, (*path, "failed_rows", name))
    if checks.quarantine != type(checks.quarantine)() and not spec.data.quarantines:
        yield Disagreement(key=(*path, "quarantine"), what="has no effect: no check has level: quarantine.")
    elif checks.quarantine.max == 0:
        yield Disagreement(key=(*path, "quarantine", "max"), what="is 0: nothing could be put aside.")


def _features(spec: Spec) -> Iterator[Disagreement]:
    features = spec.features
    for name, feature in features.columns.items():
        path, role = ("features", "columns", name), spec.column(name).role
        if role != "feature" and not (role == "time" and features.dtype(name) == "datetime"):
            yield Disagreement(key=path, what=f"has no effect: the column's role is {role}.")
        elif not features.takes(name):
            yield Disagreement(key=path, what="has no effect: features.include and exclude leave the column out.")
        if feature.reads():
            what = "derives a feature of its own; it treats no column."
            yield Disagreement(key=path, what=what, hint=f"Name it under features.derive.{name}.")
    for name, feature in features.derive.items():
        path = ("features", "derive", name)
        if not feature.reads():
            what = "treats a column; it derives nothing."
            yield Disagreement(key=path, what=what, hint=f"Name it under features.columns.{name}.")
        if name in spec.data.columns or name == spec.problem.target:
            yield Disagreement(key=path, what="is the name of a column: a derived feature needs one of its own.")
        now = {column for column in feature.reads() if not looks_back(column)}
        before = {step[0] for step in map(looks_back, feature.reads()) if step}
        for column in sorted(now | before):
            role = "target" if column == spec.problem.target else spec.column(column).role
            if role not in ("feature", "time") and (role != "target" or column in now):
                yield Disagreement(key=path, what=f"reads {column!r}, whose role is {role}: no model may see it.")


def _mitigation(spec: Spec) -> Iterator[Disagreement]:
    asked, path = spec.mitigation.reweighing, ("mitigation", "reweighing")
    if asked is None:
        return
    if spec.problem.task not in ("binary", "multiclass"):
        yield Disagreement(key=path, what=f"has no effect on a {spec.problem.task} problem.")
    if spec.problem.task == "multiclass" and spec.problem.favourable_class is None:
        what = "is told by how often each group gets the class that a person wants, and nothing says which."
        yield Disagreement(key=path, what=what, hint="Say problem.favourable_class.")
    for index, name in enumerate(asked.by):
        column, key = spec.column(name), (*path, "by", index)
        yield from unprotected(spec, name, key)
        if column.role == "protected" and column.use == "audit_only":
            what = f"names {name!r}, which is audit_only: it stands beside the held-out rows alone."
            hint = f"Leave data.columns.{name}.use out, if the law lets training rows be weighed by it."
            yield Disagreement(key=key, what=what, hint=hint)
        if name in asked.by[:index]:
            yield Disagreement(key=key, what=f"names {name!r} twice.")


def _group_thresholds(spec: Spec) -> Iterator[Disagreement]:
    asked, path = spec.mitigation.group_thresholds, ("mitigation", "group_thresholds")
    if asked is None:
        return
    column, decision, by = spec.column(asked.by), spec.problem.decision, (*path, "by")
    if spec.problem.task != "binary":
        yield Disagreement(key=path, what=f"has no effect on a {spec.problem.task} problem.")
    yield from unprotected(spec, asked.by, by)
    if column.role == "protected" and column.use == "audit_only":
        what = f"names {asked.by!r}, which is audit_only: no decision may hang on it."
        yield Disagreement(key=by, what=what, hint="Leave group_thresholds out; reweighing asks no row for its group.")
    if column.bands or column.groups:
        what = f"names {asked.by!r}, which has {'bands' if column.bands else 'groups'}: a row is asked for its value."
        yield Disagreement(key=by, what=what, hint="Make a column of the groups in the data, and name that one.")
    if decision.abstain_band is not None:
        what = "can't stand beside problem.decision.abstain_band, which holds one threshold."
        yield Disagreement(key=path, what=what, hint="Leave one of the two out.")
    if decision.threshold == "auto" and decision.metric.startswith("f1"):
        what = f"can't stand beside problem.decision.metric: {decision.metric}, which is no sum over groups."
        yield Disagreement(key=path, what=what, hint="Say balanced_accuracy, accuracy, or threshold: costs.")


def _candidates(spec: Spec) -> Iterator[Disagreement]:
    task = spec.problem.task
    solving = {task, spec.problem.learns}
    for name, candidate in spec.candidates.items():
        if solving.isdisjoint(candidate.tasks):
            known = ", ".join(
                name for name, other in Candidate.table.items() if not solving.isdisjoint(getattr(other, "tasks", ()))
            )
            yield Disagreement(
                key=("candidates", name, "type"),
                what=f"solves {' and '.join(candidate.tasks)} problems, not {task} ones.",
                hint=f"Known: {known}.",
            )
        elif spec.problem.learns == "regression" and spec.problem.quantiles and not candidate.predicts_quantiles:
            able = [name for name, other in Candidate.table.items() if getattr(other, "predicts_quantiles", False)]
            yield Disagreement(
                key=("candidates", name, "type"),
                what="predicts no quantiles, which problem.quantiles asks for.",
                hint=f"These do: {', '.join(able)}.",
            )


def _selection(spec: Spec) -> Iterator[Disagreement]:
    chosen, usual, path = spec.selection, type(spec.selection)(), ("selection",)
    known = [*spec.candidates, *([ENSEMBLE] if chosen.ensemble != "none" else [])]
    if chosen.prefer and chosen.rule == "best":
        hint = "Say selection.rule: one_standard_error."
        yield Disagreement(key=(*path, "prefer"), what="has no effect by selection.rule: best.", hint=hint)
    for index, name in enumerate(chosen.prefer):
        if name not in known:
            close = get_close_matches(name, known, 1)
            hint = f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(known)}."
            yield Disagreement(key=(*path, "prefer", index), what=f"{name!r} is no candidate.", hint=hint)
        elif name in chosen.prefer[:index]:
            yield Disagreement(key=(*path, "prefer", index), what=f"names {name!r} twice.")
    yield from _calibration(spec)
    yield from _interval(spec)
    if chosen.ensemble == "none":
        if chosen.max_members != usual.max_members:
            yield Disagreement(key=(*path, "max_members"), what="has no effect without an ensemble.")
        return
    if len(spec.candidates) == 1:
        yield Disagreement(key=(*path, "ensemble"), what="has no effect: there is one candidate.")
    if ENSEMBLE in spec.candidates:
        what = "is the name of what selection.ensemble makes of the candidates."
        yield Disagreement(key=("candidates", ENSEMBLE), what=what, hint="Call it something else.")


def _interval(spec: Spec) -> Iterator[Disagreement]:
    wanted, problem, path = spec.selection.prediction_interval, spec.problem, ("selection", "prediction_interval")
    if wanted is None:
        return
    if problem.learns != "regression":
        what = f"has no effect on a {problem.task} problem: it has probabilities."
        yield Disagreement(key=path, what=what)
    elif problem.quantiles and wanted.method not in ("auto", "quantile"):
        what = f"is {wanted.method}, but problem.quantiles are predicted, and the interval starts from them."
        yield Disagreement(key=(*path, "method"), what=what, hint="Say quantile, or auto.")
    elif problem.quantiles and not problem.quantiles[0] < MEDIAN < problem.quantiles[-1]:
        what = "needs a quantile below 0.5, and one above."
        yield Disagreement(key=path, what=what, hint="As problem.quantiles: [0.1, 0.5, 0.9]")
    elif wanted.method == "quantile" and not problem.quantiles:
        what, hint = "is quantile, but none are predicted.", "Say problem.quantiles: [0.05, 0.5, 0.95]"
        yield Disagreement(key=(*path, "method"), what=what, hint=hint)


def _calibration(spec: Spec) -> Iterator[Disagreement]:
    wanted, task = spec.selection.calibration, spec.problem.task
    known = {"binary": ("sigmoid", "isotonic"), "multiclass": ("temperature",), "regression": (), "forecast": ()}[task]
    if wanted == "none" or (wanted == "auto" and known) or wanted in known:
        return
    hint = f"Known: auto, {', '.join(known)}." if known else ""
    what = f"{wanted!r} calibrates no {task} problem." if known else f"has no effect on a {task} problem."
    yield Disagreement(key=("selection", "calibration"), what=what, hint=hint)


def _gates(spec: Spec) -> Iterator[Disagreement]:
    for name in ("baseline", "parity"):
        kind = getattr(spec.gates[name], "type", name)
        if kind != name:
            what = f"is {kind}, but the gate {name} is part of every release."
            yield Disagreement(key=("gates", name, "type"), what=what, hint="Call this one something else.")


def _waivers(spec: Spec) -> Iterator[Disagreement]:
    compliance, taken = spec.compliance, dict[str, str]()
    for name, waiver in compliance.waivers.items():
        path = ("compliance", "waivers", name)
        gate = spec.gates.get(waiver.gate)
        if gate is None:
            near = get_close_matches(waiver.gate, spec.gates, 1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Gates: {', '.join(sorted(spec.gates))}."
            yield Disagreement(key=(*path, "gate"), what=f"names {waiver.gate!r}, which is no gate here.", hint=hint)
        elif gate.level != "fail":
            what = f"has no effect: the gate {waiver.gate} stops no release (level: {gate.level})."
            yield Disagreement(key=(*path, "gate"), what=what)
        if waiver.gate in taken:
            yield Disagreement(key=(*path, "gate"), what=f"is waived by {taken[waiver.gate]} already.")
        taken[waiver.gate] = name
        if _is_owner(waiver.approver, compliance):
            what = f"is {waiver.approver}, the owner, who may not waive a gate of the own model."
            hint = "Name another, or say compliance.approval.by_owner: true"
            yield Disagreement(key=(*path, "approver"), what=what, hint=hint)


def _approval(spec: Spec) -> Iterator[Disagreement]:
    approval, path = spec.compliance.approval, ("compliance", "approval")
    if approval is None:
        return
    for index, name in enumerate(approval.approvers):
        if _is_owner(name, spec.compliance):
            what = f"is {name}, the owner, whose own approval counts for nothing."
            yield Disagreement(key=(*path, "approvers", index), what=what, hint="Leave it out, or say by_owner: true")
    known = len(set(approval.approvers))
    if known < approval.minimum:
        what = f"is {approval.minimum}, but {known} may approve: no release would ever be served."
        yield Disagreement(key=(*path, "minimum"), what=what)


def _rules(spec: Spec) -> Iterator[Disagreement]:
    """Each is asked alone; a release has one value of an obligation, and one file of a name."""
    alone = Plan(spec.name, (Stage("release", ""),), spec.model_dump(mode="json"))
    written, owed = dict[str, str](), dict[str, tuple[str, str]]()
    for name, rule in sorted(spec.compliance.rules.items()):
        path, plan = ("compliance", "rules", name), rule.apply(alone)
        for file in plan.stages[0].outs:
            if (other := written.setdefault(file, name)) != name:
                what = f"writes {file}, and so does {other}: one of the two would be lost."
                yield Disagreement(key=path, what=what, hint="Say both in one rule.")
        for one in plan.obligations:
            other, words = owed.setdefault(one.name, (name, str(one)))
            if words != str(one):
                what = f"owes {one.name} in other words than {other}: only one of the two would be told."
                yield Disagreement(key=path, what=what, hint="Say the same in both.")


def _is_owner(name: str, compliance: Compliance) -> bool:
    counts = compliance.approval is not None and compliance.approval.by_owner
    return not counts and name == compliance.owner


def _serving(spec: Spec) -> Iterator[Disagreement]:
    batching, replicas = spec.serving.batching, spec.serving.replicas
    if batching.max_queue != "auto" and batching.max_queue < batching.max_batch_size:
        yield Disagreement(
            key=("serving", "batching", "max_queue"),
            what=f"is {batching.max_queue} rows, less than one batch of {batching.max_batch_size}.",
        )
    device, buckets = spec.serving.device, batching.buckets
    if device in ("cuda", "tensorrt") and not replicas.gpus:
        yield Disagreement(
            key=("serving", "device"),
            what=f"is {device}, and no replica reserves a GPU.",
            hint="Say serving.replicas.gpus: 1, or a fraction that shares one.",
        )
    if buckets != "auto" and (larger := [size for size in buckets if size > batching.max_batch_size]):
        yield Disagreement(
            key=("serving", "batching", "buckets"),
            what=f"has {larger[0]}, and no batch is larger than max_batch_size, {batching.max_batch_size}.",
        )
    slo, timeout = spec.serving.slo, spec.serving.timeout
    if slo is not None and slo > timeout:
        yield Disagreement(
            key=("serving", "slo"), what=f"is {slo}, longer than serving.timeout ({timeout}): nobody would wait for it."
        )
    if replicas.max < replicas.min:
        yield Disagreement(key=("serving", "replicas", "max"), what=f"is {replicas.max}, below min ({replicas.min}).")
    yield from _access(spec.serving)


def _access(serving: Serving) -> Iterator[Disagreement]:
    if (auth := serving.auth) is not None:
        if not auth.named:
            hint = 'Say tokens: "${secret:API_TOKENS}", or keys by name.'
            yield Disagreement(key=("serving", "auth"), what="names no key.", hint=hint)
        if auth.tokens is not None and "tokens" in auth.keys:
            what = "is what the keys without a name are called."
            yield Disagreement(key=("serving", "auth", "keys", "tokens"), what=what, hint="Call it otherwise.")
        for name, key in auth.keys.items():
            if not key.scopes:
                what = "are none: the key would be good for nothing."
                yield Disagreement(key=("serving", "auth", "keys", name, "scopes"), what=what)
        variables: dict[str, str] = {}
        for name, key in auth.named.items():
            if (other := variables.setdefault(key.token.name, name)) != name:
                what = f"has the same variable as {other}: which scopes would count?"
                yield Disagreement(key=("serving", "auth", "keys", name, "token"), what=what)
    rate = serving.rate_limit
    if rate is not None and rate.requests is None and rate.rows is None:
        hint = "Say requests or rows: how many a second."
        yield Disagreement(key=("serving", "rate_limit"), what="limits nothing.", hint=hint)


def _grpc(spec: Spec) -> Iterator[Disagreement]:
    grpc, target = spec.serving.grpc, spec.deployment.target
    if grpc is None or isinstance(target, Batch):  # which says itself that nobody asks it
        return
    if not target.answers_grpc:
        what = f"has no effect: the target {type(target).model_fields['type'].default} answers HTTP alone."
        if isinstance(target, Edge):
            what = "has no effect: an archive for the target edge answers HTTP alone, and brings no gRPC along."
        yield Disagreement(key=("serving", "grpc"), what=what, hint="Leave it out.")
    elif isinstance(target, Local | Ray) and grpc.port == target.port:
        yield Disagreement(key=("serving", "grpc", "port"), what=f"is {grpc.port}, where HTTP is answered.")


def _edge(spec: Spec) -> Iterator[Disagreement]:
    """An archive is one replica on the CPU of a device, and keeps nothing there."""
    if not isinstance(spec.deployment.target, Edge):
        return
    serving, default = spec.serving, type(spec.serving)()
    if serving.replicas != default.replicas:
        yield Disagreement(
            key=("serving", "replicas"),
            what="has no effect: an archive for the target edge is one replica, on the CPU.",
            hint="Leave it out, as `specml run deployment.target=edge ~serving.replicas` does.",
        )
    if serving.device not in ("auto", "cpu") or serving.batching.buckets != "auto":
        yield Disagreement(
            key=("serving", "device") if serving.device not in ("auto", "cpu") else ("serving", "batching", "buckets"),
            what="has no effect: an archive for the target edge computes on the CPU.",
            hint="Leave it out.",
        )
    if serving.explain not in (None, default.explain):
        yield Disagreement(
            key=("serving", "explain"),
            what="has no effect: an archive for the target edge holds nothing that explains.",
            hint="Leave it out.",
        )
    if spec.monitoring.capture is not None:
        yield Disagreement(
            key=("monitoring", "capture"),
            what="has no effect: an archive for the target edge keeps nothing of its requests.",
            hint="Leave it out, or serve by the target local.",
        )


def _monitoring(spec: Spec) -> Iterator[Disagreement]:
    signals, retrain = spec.monitoring.signals, spec.monitoring.retrain
    for index, name in enumerate(retrain.on if retrain else ()):
        if name not in signals:
            yield Disagreement(
                key=("monitoring", "retrain", "on", index),
                what=f"names {name!r}, which is no signal of this spec.",
                hint=f"Its signals: {', '.join(signals)}.",
            )
