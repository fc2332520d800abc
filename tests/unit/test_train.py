"""Folds, stopping and selection: nothing scores itself, nothing sees the future."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from specml.data import Column, Folding, Layout
from specml.errors import DataCheckFailed, NotEnoughData, SpecmlError
from specml.stages.cross_validation import _refuse_lacking_classes, _stop_rows, folds, treatment
from specml.stages.select import _prior
from specml.stages.work import threads
from tests.conftest import spec_of

X = Column(name="x", kind="numeric")


FORWARD = Folding(method="time", column="__time__")


def layout(task: Any = "binary", **facts: Any) -> Layout:
    return Layout(task=task, target="y", classes=(0, 1) if task == "binary" else (), features=(X,), **facts)


def test_forward_folds_keep_a_time_together_and_look_ahead_only() -> None:
    times = np.repeat([1, 2, 3, 4], 50)
    train = pl.DataFrame({"y": [0, 1] * 100, "__time__": times})
    found = list(folds(spec_of(search={"folds": 5}), layout(folding=FORWARD), train))
    assert len(found) == 3
    for inside, outside in found:
        assert times[inside].max() < times[outside].min()
    assert sum(len(outside) for _, outside in found) == 150


def test_one_time_is_not_enough() -> None:
    train = pl.DataFrame({"y": [0, 1] * 100, "__time__": [1] * 200})
    with pytest.raises(NotEnoughData, match="of one time"):
        list(folds(spec_of(), layout(folding=FORWARD), train))


def test_more_folds_than_rows_is_told() -> None:
    with pytest.raises(NotEnoughData, match="can't form 5 folds"):
        list(folds(spec_of(), layout("regression"), pl.DataFrame({"y": [1.0, 2.0]})))


def test_a_fold_without_a_class_is_told() -> None:
    with pytest.raises(NotEnoughData, match="class 1 is not among its 3 training rows"):
        _refuse_lacking_classes(layout(), np.zeros(3), "fold 1 of 5")


def test_the_rows_that_stop_a_candidate_are_none_of_those_that_fit_or_score_it() -> None:
    spec = spec_of(candidates={"gbm": "lightgbm", "line": "logistic_regression"})
    train = pl.DataFrame({"y": [0, 1] * 100})
    inside = np.arange(0, 160)
    fit, stop = _stop_rows(spec.candidates["gbm"], spec, layout(), train, inside)
    assert stop is not None
    assert set(fit) | set(stop) == set(inside)
    assert not set(fit) & set(stop)
    assert _stop_rows(spec.candidates["line"], spec, layout(), train, inside)[1] is None


def test_the_prior_is_weighted() -> None:
    y, weight = np.array([0, 0, 1]), np.array([1.0, 1.0, 6.0])
    assert _prior(layout(), y, weight) == [0.75]
    assert _prior(layout("regression"), np.array([0.0, 0.0, 1.0]), weight) == [0.75]


def test_a_feature_for_no_column_or_the_wrong_kind_is_told() -> None:
    with pytest.raises(DataCheckFailed, match="no such feature"):
        treatment(spec_of(features={"columns": {"xx": {"type": "numeric"}}}), layout())
    with pytest.raises(DataCheckFailed, match="treats categorical columns"):
        treatment(spec_of(features={"columns": {"x": {"type": "categorical"}}}), layout())


def test_threads_are_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECML_THREADS", "3")
    assert threads() == 3
    monkeypatch.setenv("SPECML_THREADS", "two")
    with pytest.raises(SpecmlError, match="not a number of threads"):
        threads()
    monkeypatch.delenv("SPECML_THREADS")
    monkeypatch.delattr("os.sched_getaffinity")
    assert threads() >= 1
