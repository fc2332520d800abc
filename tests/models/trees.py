"""Estimators of scikit-learn's, and one that tells its own graph."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import RobustScaler, SplineTransformer

from specml.graph import Graph

lda, neighbours, forest = LinearDiscriminantAnalysis, KNeighborsClassifier, RandomForestClassifier


def extra(task: str, n_estimators: int = 20) -> Any:
    kind = ExtraTreesRegressor if task == "regression" else ExtraTreesClassifier
    return kind(n_estimators, max_depth=6)


def scaled() -> Any:
    return make_pipeline(RobustScaler(), LogisticRegression())


def splines() -> Any:
    return make_pipeline(SplineTransformer(), LogisticRegression())


class Means:
    """The mean target on each side of a column's median."""

    def fit(self, X: np.ndarray, y: np.ndarray) -> Means:
        self.median = np.median(X[:, 0])
        self.means = np.array([y[X[:, 0] <= self.median].mean(), y[X[:, 0] > self.median].mean()])
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        return self.means[(X[:, 0] > self.median).astype(int)]

    def to_onnx(self, graph: Graph, X: str) -> str:
        first = graph.node("Gather", X, graph.constant(np.array([0])), axis=1)
        above = graph.node("Greater", first, graph.constant(np.array(self.median, np.float32)))
        low, high = (graph.constant(np.array(one, np.float32)) for one in self.means)
        return graph.node("Where", above, high, low)


class Pair(Means):
    """Two answers to one question."""

    def predict(self, X: np.ndarray) -> np.ndarray:
        return np.column_stack([super().predict(X)] * 2)


class Mute(Means):
    """Its graph is not there yet."""

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        second = super().predict(X)
        return np.column_stack([1 - second, second])

    def to_onnx(self, graph: Graph, X: str) -> str:
        raise NotImplementedError


class Bare:
    """No estimator at all."""


number = 3
