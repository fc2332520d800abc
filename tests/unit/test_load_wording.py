"""Each fault in a spec is told in one sentence: what must be, what was seen, what may be meant."""

# ruff: noqa: E501 - one case a line reads best
from __future__ import annotations

from pathlib import Path

import pytest

from specml.errors import Problem, SpecError
from specml.kinds import Candidate, Source
from specml.load import load, validate

SPEC = """\
name: small
problem: {task: binary, target: y, decision: {threshold: 0.5}}
data: {sources: {rows: {type: csv, path: rows.csv}}, columns: {a: {role: id}}}
candidates: {line: {type: logistic_regression}, gbm: {type: lightgbm}}
gates:
  auc: {type: metric, metric: roc_auc, min: 0.7}
serving: {auth: {type: bearer, tokens: '${secret:TOKENS}'}, batching: {max_wait: 1ms}}
"""


def told(tmp_path: Path, old: str, new: str) -> Problem:
    (tmp_path / "spec.yaml").write_text(SPEC.replace(old, new))
    with pytest.raises(SpecError) as caught:
        load(tmp_path)
    (only,) = caught.value.problems
    return only


@pytest.mark.parametrize(
    ("old", "new", "key", "what", "hint"),
    [
        ("task: binary", "task: binry", "problem.task", "must be one of binary, multiclass, regression, forecast; it is 'binry'.", "Did you mean 'binary'?"),
        ("threshold: 0.5", "threshold: x", "problem.decision.threshold", "must be one of auto, costs or a number; it is 'x'.", ""),
        ("threshold: 0.5", "threshold: 1", "problem.decision.threshold", "must be one of auto, costs or below 1; it is 1.", ""),
        ("target: y", "target: {a: 1}", "problem.target", "must be text; it is a mapping.", ""),
        ("target: y", "target: [y]", "problem.target", "must be text; it is a list.", ""),
        ("target: y", "target: null", "problem.target", "must be text; it is empty.", ""),
        ("target: y", "target: 7", "problem.target", "must be text; it is 7.", "Put it in quotes."),
        ("target: y", "target: y, out_of_scope: all", "problem.out_of_scope", "must be a list; it is 'all'.", ""),
        ("target: y", "target: y, min_rows: 3", "problem.min_rows", "is not a key known here.", "Known: "),
        (" target: y,", "", "problem.target", "is required.", ""),
        ("target: y", "targt: y", "problem.targt", "is not a key known here.", "Did you mean 'target'?"),
        ("name: small", "name: Small Model", "name", "must be a name of lower case letters, digits and dashes, at most 63; it is 'Small Model'.", ""),
        ("name: small", "search: {folds: '5'}\nname: small", "search.folds", "must be a whole number; it is '5'.", "Write 5 without quotes."),
        ("name: small", "search: {folds: 3.0}\nname: small", "search.folds", "must be a whole number; it is 3.0.", ""),
        ("name: small", "search: {folds: true}\nname: small", "search.folds", "must be a whole number; it is true.", ""),
        ("name: small", "search: {folds: 99}\nname: small", "search.folds", "must be at most 20; it is 99.", ""),
        ("name: small", "search: {folds: -1}\nname: small", "search.folds", "must be at least 2; it is -1.", ""),
        ("name: small", "search: 5\nname: small", "search", "must be a mapping; it is 5.", ""),
        ("path: rows.csv", "path: rows.csv, allow_outside: yes", "data.sources.rows.allow_outside", "must be true or false; it is 'yes'.", "Write true, without quotes."),
        ("path: rows.csv", "path: rows.csv, separator: ', '", "data.sources.rows.separator", "must be text of at most 1 character; it is ', '.", ""),
        ("type: csv", "type: csvv", "data.sources.rows.type", f"'csvv' is no source known here: {', '.join(sorted(Source.table))}.", "Did you mean 'csv'?"),
        ("type: csv, ", "", "data.sources.rows", f"lacks its type: one of {', '.join(sorted(Source.table))}.", ""),
        ("{rows: {type: csv, path: rows.csv}}", "{}", "data.sources", "must be of at least 1 entry; it is a mapping.", ""),
        ("role: id", "role: protectd", "data.columns.a.role", "must be one of feature, target, id, protected, weight, time, ignore; it is 'protectd'.", "Did you mean 'protected'?"),
        ("gbm: {type: lightgbm}", "GBM: {type: lightgbm}", "candidates.GBM", "'GBM' must be a name of lower case letters, digits and underscores, at most 40.", ""),
        ("gbm: {type: lightgbm}", "gbm: {type: lightgmb}", "candidates.gbm.type", f"'lightgmb' is no candidate known here: {', '.join(sorted(Candidate.table))}.", "Did you mean 'lightgbm'?"),
        ("gbm: {type: lightgbm}", "gbm: lightgmb", "candidates.gbm.type", f"'lightgmb' is no candidate known here: {', '.join(sorted(Candidate.table))}.", "Did you mean 'lightgbm'?"),
        ("gbm: {type: lightgbm}", "gbm: [lightgbm]", "candidates.gbm", "must be a mapping; it is a list.", ""),
        ("gbm: {type: lightgbm}", "gbm: {tpye: lightgbm}", "candidates.gbm.tpye", "is not a key known here.", "Did you mean 'type'?"),
        ("gbm: {type: lightgbm}", "gbm: {type: lightgbm, num_leafs: 3}", "candidates.gbm.num_leafs", "is not a key known here.", "Did you mean 'num_leaves'?"),
        ("gbm: {type: lightgbm}", "gbm: {type: lightgbm, num_leaves: 1}", "candidates.gbm.num_leaves", "must be at least 2; it is 1.", ""),
        ("gbm: {type: lightgbm}", "gbm: {type: lightgbm, learning_rate: .nan}", "candidates.gbm.learning_rate", "must be a finite number; it is nan.", ""),
        ("min: 0.7", "min: 0.7, max: 0.8", "gates.auc", "needs either min or max.", ""),
        ("min: 0.7", "minimum: 0.7", "gates.auc.minimum", "is not a key known here.", "Did you mean 'min'?"),
        ("metric: roc_auc", "metric: rmse", "gates.auc.metric", "'rmse' is no metric for a binary problem.", "Known: roc_auc"),
        ("max_wait: 1ms", "max_wait: 1", "serving.batching.max_wait", "must be a duration like 250ms, 30s, 10m, 2h or 7d.", ""),
        ("'${secret:TOKENS}'", "hunter2", "serving.auth.tokens", "must be a reference like ${secret:NAME}, never the secret itself.", ""),
        ("'${secret:TOKENS}'", "{a: hunter2}", "serving.auth.tokens", "must be a reference like ${secret:NAME}, never the secret itself.", ""),
        ("auth: {type: bearer,", "auth: {type: basic,", "serving.auth.type", "must be bearer; it is 'basic'.", ""),
    ],
)  # fmt: skip
def test_a_fault_is_told(tmp_path: Path, old: str, new: str, key: str, what: str, hint: str) -> None:
    assert old in SPEC
    found = told(tmp_path, old, new)
    assert (found.key, found.what) == (key, what)
    assert found.hint.startswith(hint) if hint else not found.hint
    assert found.where.startswith("spec.yaml:")


@pytest.mark.parametrize("key", ["password", "api_key", "token", "my_secret"])
def test_what_looks_like_a_secret_is_never_shown(tmp_path: Path, key: str) -> None:
    (tmp_path / "spec.yaml").write_text(SPEC.replace("{a: {", f"{{{key}: {{dtype: hunter2, "))
    with pytest.raises(SpecError) as caught:
        load(tmp_path)
    assert "hunter2" not in str(caught.value)
    assert "not shown" in str(caught.value)


def test_a_long_value_is_shortened(tmp_path: Path) -> None:
    found = told(tmp_path, "name: small", f"name: {'A' * 500}")
    assert "…" in found.what
    assert len(found.what) < 160


def test_plain_values_are_validated_by_any_place(tmp_path: Path) -> None:
    tree = {
        "name": "x",
        "problem": {"task": "binary"},
        "data": {"sources": {"a": {"type": "csv", "path": "a.csv"}}},
        "candidates": {"g": "lightgbm"},
    }
    with pytest.raises(SpecError) as caught:
        validate(tree, lambda keys: "params.yaml " + "/".join(map(str, keys)), tmp_path)
    (found,) = caught.value.problems
    assert (found.where, found.key) == ("params.yaml problem/target", "problem.target")
    tree["problem"] = {"task": "binary", "target": "y", "out_of_scope": ["a"]}
    assert validate(tree, lambda keys: "", tmp_path).problem.out_of_scope == ("a",)


def test_a_problem_reads_well() -> None:
    problem = Problem("conf/spec.yaml:12:5", "gates.auc.min", "must be a number; it is 'x'.", "Write a number.")
    assert str(problem) == "conf/spec.yaml:12:5: gates.auc.min\n    must be a number; it is 'x'.\n    Write a number."
