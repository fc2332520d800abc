"""Conditions of one's own, as the gate ``custom`` calls them, right and wrong."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from specml.evidence import Evidence, Verdict

number = 3


def error(evidence: Evidence, scale: float = 1.0) -> np.ndarray:
    """How far each row's score lies from what came."""
    scores = evidence.scores if evidence.scores.ndim == 1 else evidence.scores[np.arange(len(evidence.y)), evidence.y]
    truth = evidence.y if evidence.scores.ndim == 1 else 1.0
    return np.asarray(scale * np.abs(scores - truth))


def undecided(evidence: Evidence, confidence: float, seed: int) -> tuple[float, float, float]:
    share = float(np.mean(np.abs(evidence.scores - 0.5) < 0.1))
    half = confidence * seed / 100
    return share, share - half, share + half


def columns(evidence: Evidence) -> int:
    return 0 if evidence.model is None else len(evidence.model.inputs)


def said(evidence: Evidence, holds: bool, why: str = "one sentence with 2 figures") -> Any:
    return np.bool_(holds), why


def verdict(evidence: Evidence, value: float = 1.0) -> Verdict:
    return Verdict(outcome="holds", reason="it is so.", value=float(value or "nan"), threshold="≥ 0")


def returns(evidence: Evidence, what: str) -> Any:
    """Answers that are none."""
    n = len(evidence.y)
    return {
        "text": "good", "bool": True, "short": np.zeros(n - 1), "wide": np.zeros((n, 2)), "texts": np.array(["a"] * n),
        "list": [1.0] * n, "nan": math.nan, "nans": np.where(np.arange(n) == 3, math.nan, 0.5),
        "crossed": (1.0, 2.0, 0.0), "number": 1.0, "nothing": None,
    }[what]  # fmt: skip


def asks(evidence: Evidence) -> tuple[bool, str]:
    """What it was given."""
    given = [name for name in ("training", "champion") if getattr(evidence, name) is not None]
    return True, f"given {' and '.join(given) or 'nothing'}."


def writes(evidence: Evidence) -> float:
    evidence.scores[:] = 1.0
    return 1.0


def fails(evidence: Evidence) -> float:
    raise ValueError(f"secret {evidence.y[0]}")


def spoils(evidence: Evidence) -> float:
    """Take a column from the table that it is given."""
    assert evidence.rows is not None
    evidence.rows.drop_in_place("age")
    return 1.0
