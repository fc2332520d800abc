"""What is drawn: few points, true to the rows, and no bin that tells of a single person."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import auc, confusion_matrix

from specml.curves import CLASSES, FEWEST, POINTS, drawn, reliability
from specml.evidence import Evidence
from specml.files import canonical_json


def evidence(n: int = 5000, k: int = 2, seed: int = 0) -> Evidence:
    """Calibrated probabilities of ``k`` classes."""
    generator = np.random.default_rng(seed)
    logits = 2 * generator.normal(size=(n, k))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    y = (p.cumsum(axis=1) < generator.random((n, 1))).sum(axis=1)
    scores = p[:, 1] if k == 2 else p
    return Evidence("binary" if k == 2 else "multiclass", y, scores, p.argmax(axis=1), scores, scores)


def line(n: int = 3000) -> Evidence:
    generator = np.random.default_rng(1)
    x = generator.normal(size=n)
    return Evidence("regression", x + generator.normal(size=n), x, None, x, np.zeros(n))


@pytest.mark.parametrize("k", [2, 3, 15])
def test_curves_are_short_and_true(k: int) -> None:
    rows = evidence(k=k)
    told = drawn(rows, [f"c{i}" for i in range(k)])
    assert len(told["curves"]) == (1 if k == 2 else min(k, CLASSES))
    for curve in told["curves"]:
        for name, area, tolerance in (("roc", "roc_auc", 2e-3), ("precision_recall", "average_precision", 3e-2)):
            x, y = np.array(curve[name]).T
            assert 2 <= len(x) <= POINTS
            assert auc(x, y) == pytest.approx(curve[area], abs=tolerance * len(told["curves"]))
    counts = np.array(told["confusion"]["counts"])
    assert counts.sum() == told["rows"] == len(rows.y)
    if k <= CLASSES:
        assert (counts == confusion_matrix(rows.y, rows.decisions)).all()
    else:
        assert told["confusion"]["labels"][-1] == "other"


def test_calibration_bins_hold_the_truth_of_a_calibrated_model() -> None:
    bins = drawn(evidence(), ["no", "yes"])["calibration"]
    assert sum(one["n"] for one in bins) == 5000
    assert sum(one["low"] <= one["score"] <= one["high"] for one in bins) >= len(bins) - 1


@pytest.mark.parametrize("n", [0, 1, 9, 25, 137])
def test_no_bin_holds_fewer_rows_than_ten(n: int) -> None:
    rows = evidence(n)
    told = drawn(rows, ["no", "yes"])
    assert all(one["n"] >= FEWEST for one in told["calibration"])
    assert n >= 2 * FEWEST or told["curves"] == []
    told = drawn(line(n), [])
    for name in ("predicted_actual", "residuals"):
        assert all(one["n"] >= FEWEST for one in told[name]), name
    assert not told["residuals"] or sum(one["n"] for one in told["residuals"]) + told["beyond"] == n


def test_equal_scores_share_a_bin() -> None:
    scores = np.repeat([0.1, 0.7], [500, 23])
    bins = reliability(scores, scores > 0.5)
    assert [(one.n, one.share) for one in bins] == [(500, 0.0), (23, 1.0)]


def test_bins_of_weighted_rows_count_their_effective_number() -> None:
    weight = np.tile([1.0, 3.0], 50)
    (only,) = reliability(np.full(100, 0.5), np.tile([True, False], 50), weight, bins=1)
    assert only.n == pytest.approx(weight.sum() ** 2 / (weight**2).sum())
    assert only.share == pytest.approx(0.25)


def test_residuals_of_a_normal_model_lie_on_the_line() -> None:
    told = drawn(line(), [])
    assert all(abs(a - b) < 0.2 for a, b in told["normal"])
    assert len(told["residuals"]) > 10


def test_the_same_rows_give_the_same_bytes() -> None:
    assert canonical_json(drawn(evidence(), ["a", "b"])) == canonical_json(drawn(evidence(), ["a", "b"]))
