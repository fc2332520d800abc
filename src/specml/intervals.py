"""Confidence intervals in closed form, and how those of two samples make that of their difference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from specml.evidence import Interval, effective, wilson

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np


def proportion(inside: np.ndarray, weight: np.ndarray | None, confidence: float) -> Interval | None:
    """Wilson's interval of the share of rows [n] that are ``inside``; None of no rows.

    Weighted rows count as their ``effective`` number.
    """
    n = effective(weight, len(inside))
    if not n:
        return None
    hits = float(inside.sum()) if weight is None else float(weight @ inside) / float(weight.sum()) * n
    return wilson(min(hits, n), n, confidence)


def mean(values: np.ndarray, weight: np.ndarray | None, confidence: float) -> Interval | None:
    """Student's interval of the mean of ``values`` [n], or of their weighted mean, by linearisation (Cochran 1977,
    *Sampling Techniques*, 3rd ed., section 6.3); None of fewer than two rows, or of one that is not finite."""  # noqa: D205, D209
    import numpy as np
    from scipy.special import stdtrit

    n = len(values)
    heavy = np.ones(n) if weight is None else weight
    if n < 2 or not heavy.sum() > 0 or not np.isfinite(values).all():
        return None
    middle = float(heavy @ values / heavy.sum())
    spread = float(((heavy * (values - middle)) ** 2).sum() / heavy.sum() ** 2 * n / (n - 1)) ** 0.5
    half = float(stdtrit(n - 1, 0.5 + confidence / 2)) * spread
    return Interval(low=middle - half, high=middle + half, confidence=confidence, method="student")


def placed(y: np.ndarray, scores: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
    """Of each row the (weighted) share of the other class that it is in order with, ties counting half: float64 [n].

    The structural components of DeLong et al., from ranks (Sun & Xu 2014, *IEEE Signal Processing Letters* 21:1389).
    """
    import numpy as np

    heavy, positive, out = np.ones(len(y)) if weight is None else weight, y == 1, np.empty(len(y))
    for mine, sign in ((positive, 1), (~positive, -1)):
        other = sign * scores[~mine]
        order = np.argsort(other, kind="stable")
        below = np.append(0.0, np.cumsum(heavy[~mine][order]))
        left, right = (np.searchsorted(other[order], sign * scores[mine], side) for side in ("left", "right"))
        out[mine] = (below[left] + below[right]) / 2 / below[-1]
    return out


def delong(y: np.ndarray, scores: np.ndarray, weight: np.ndarray | None, confidence: float) -> Interval | None:
    """The interval of the area under the ROC curve of ``scores`` [n] for classes ``y`` [n] of 0 and 1.

    DeLong, DeLong & Clarke-Pearson (1988), *Biometrics* 44:837-845, on the scale of the log odds, which keeps it
    within 0 and 1 and covers better near them (Pepe 2003, *The Statistical Evaluation of Medical Tests*, p. 107).
    Where all pairs are in order (or none) there is no variance: Wilson's, of as many pairs as have no row in common.
    None where a class has fewer than two rows.
    """
    import numpy as np
    from scipy.special import expit, logit, ndtri

    heavy, positive = np.ones(len(y)) if weight is None else weight, y == 1
    sides = [heavy[positive], heavy[~positive]]
    if min(len(one) for one in sides) < 2 or not min(one.sum() for one in sides) > 0:
        return None
    parts = placed(y, scores, weight)
    value = float(heavy[positive] @ parts[positive] / sides[0].sum())
    variance = 0.0
    for side, rows in zip(sides, (positive, ~positive), strict=True):
        m = len(side)
        variance += float(((side * (parts[rows] - value)) ** 2).sum() / side.sum() ** 2 * m / (m - 1))
    if variance <= 0 or not 0 < value < 1:
        n = min(effective(one, len(one)) for one in sides)
        return wilson(min(max(value, 0.0), 1.0) * n, n, confidence)
    half = float(ndtri(0.5 + confidence / 2)) * variance**0.5 / (value * (1 - value))
    low, high = (float(expit(logit(value) + end)) for end in (-half, half))
    return Interval(low=low, high=high, confidence=confidence, method="delong")


def apart(a: float, b: float, of_a: Interval, of_b: Interval) -> Interval:
    """That of ``a - b`` of two independent samples, from the interval of each, of one confidence.

    MOVER (Zou & Donner 2008, *Statistics in Medicine* 27:1693-1702).
    """
    low = a - b - ((a - of_a.low) ** 2 + (of_b.high - b) ** 2) ** 0.5
    high = a - b + ((of_a.high - a) ** 2 + (b - of_b.low) ** 2) ** 0.5
    return Interval(low=low, high=high, confidence=of_a.confidence, method=f"mover, {of_a.method}")


def spread(values: Sequence[float], confidence: float) -> tuple[float, Interval]:
    """The standard deviation of some ``values`` and its interval, by χ²: as if they were normal and independent."""
    import numpy as np
    from scipy.special import chdtri

    n, found = len(values), float(np.std(values, ddof=1))
    outside = (1 - confidence) / 2
    low, high = (found * ((n - 1) / float(chdtri(n - 1, tail))) ** 0.5 for tail in (outside, 1 - outside))
    return found, Interval(low=low, high=high, confidence=confidence, method="χ²")


def ratio(a: float, b: float, of_a: Interval, of_b: Interval) -> Interval | None:
    """That of ``a / b`` of two independent samples that are not below 0, from the interval of each.

    MOVER (Donner & Zou 2012, *Statistical Methods in Medical Research* 21:347-359). None where ``b`` may be 0.
    """
    product, (low, high), (below, above) = a * b, (max(of_a.low, 0.0), of_a.high), (of_b.low, of_b.high)
    if below <= 0 or b <= 0:
        return None
    down = max(0.0, product**2 - low * above * (2 * a - low) * (2 * b - above)) ** 0.5
    up = max(0.0, product**2 - high * below * (2 * a - high) * (2 * b - below)) ** 0.5
    if 2 * b - above <= 0:  # b is hardly known: its upper end bounds nothing
        return None
    least, most = (product - down) / (above * (2 * b - above)), (product + up) / (below * (2 * b - below))
    return Interval(low=max(0.0, least), high=most, confidence=of_a.confidence, method=f"mover, {of_a.method}")


def turned(of: Interval, whole: float) -> Interval:
    """That of ``whole`` less what ``of`` is the interval of."""
    return of.model_copy(update={"low": whole - of.high, "high": whole - of.low})
