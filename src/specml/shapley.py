"""Shapley values of the columns for any function of a row: how much each moves the answer away from the usual one.

What a group of columns is worth is the mean answer when they are the row's and the others are those of reference
rows (Štrumbelj & Kononenko 2014, *Explaining prediction models and individual predictions with feature
contributions*). No reference row is a person's: each column takes quantiles, or categories by their share, in an
order of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from specml.bundle import BundleError
from specml.data import MISSING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np

    from specml.data import Column

    Columns = dict[str, np.ndarray]
    Function = Callable[[Columns], np.ndarray]
    """float64 [n, k] of columns [n]."""

REFERENCES = 16
"""Reference rows: each quantile of a column stands for a sixteenth of the training rows."""

EVALUATIONS = 4096
"""Answers that the explanation of a row asks for; twice the references times the columns where that is more."""


def references(columns: Sequence[Column], described: dict[str, Any]) -> Columns:
    """``REFERENCES`` rows that no person's is, by ``described``: the ``columns`` of reference.json.

    Raises:
        BundleError: a column is not described.
    """
    import numpy as np

    ranks = (np.arange(REFERENCES) + 0.5) / REFERENCES
    generator = np.random.default_rng(REFERENCES)
    found = {}
    for column in columns:
        told = described.get(column.name)
        if told is None:
            raise BundleError(
                f"does not describe {column.name!r}: there is nothing to compare a row with.",
                where="reference.json",
                hint="Without explanations it can be served: serving.explain=null.",
            )
        if column.kind == "text":  # a row's text is compared with an empty one
            found[column.name] = np.full(REFERENCES, "", dtype=object)
            continue
        spread = _categories(told, ranks) if column.kind == "categorical" else _numbers(column, told, ranks)
        found[column.name] = spread[generator.permutation(REFERENCES)]
    return found


def _numbers(column: Column, told: dict[str, Any], ranks: np.ndarray) -> np.ndarray:
    import numpy as np

    missing, quantiles = float(told["missing"]), told["quantiles"]
    if not quantiles:
        return np.full(len(ranks), np.nan)
    within = (ranks - missing) / (1 - missing)
    values = np.interp(within, np.linspace(0, 1, len(quantiles)), quantiles)
    if column.integral or column.kind == "boolean":
        values = np.round(values)
    return np.where(ranks < missing, np.nan, values)


def _categories(told: dict[str, Any], ranks: np.ndarray) -> np.ndarray:
    import numpy as np

    shares = {MISSING: float(told["missing"]), **told["shares"]} if told["missing"] else dict(told["shares"])
    if not shares:
        return np.full(len(ranks), MISSING, dtype=object)
    names = np.array(list(shares), dtype=object)
    ends = np.cumsum(list(shares.values()))
    # The commonest stands for the categories that are not described.
    commonest = min(len(names) - 1, 1 if told["missing"] else 0)
    places = np.searchsorted(ends, ranks)
    return np.asarray(names[np.where(places < len(names), places, commonest)])


def shapley(answer: Function, rows: Columns, reference: Columns, evaluations: int) -> tuple[np.ndarray, np.ndarray]:
    """Base float64 [k], and contributions float64 [n, k, columns], in the order of ``rows``.

    Exact over the reference rows while every group of columns can be asked for within ``evaluations`` answers a
    row; else by sampled orders of the columns. Both add up to the row's answer.
    """
    import numpy as np

    n, d, m = len(next(iter(rows.values()))), len(rows), len(next(iter(reference.values())))
    base = answer(reference).mean(axis=0)
    method = _enumerated if m * 2**d <= evaluations else _sampled
    found = [
        method(answer, {name: values[row : row + 1] for name, values in rows.items()}, reference, evaluations)
        for row in range(n)
    ]
    return base, np.stack(found) if found else np.zeros((0, len(base), d))


def _mixed(row: Columns, reference: Columns, own: np.ndarray, place: np.ndarray) -> Columns:
    """Rows of ``row``'s columns where ``own`` [n, columns] says so, of reference row ``place`` [n] elsewhere."""
    import numpy as np

    return {name: np.where(own[:, i], row[name], reference[name][place]) for i, name in enumerate(row)}


def _enumerated(answer: Function, row: Columns, reference: Columns, _: int) -> np.ndarray:
    """By the definition: every group of the other columns, weighed by how many orders put it before the column."""
    import numpy as np
    from scipy.special import comb

    d, m = len(row), len(next(iter(reference.values())))
    groups = np.arange(2**d)
    members = (groups[:, None] >> np.arange(d)) & 1 == 1
    asked = _mixed(row, reference, np.repeat(members, m, axis=0), np.tile(np.arange(m), 2**d))
    worth = answer(asked).reshape(2**d, m, -1).mean(axis=1)
    contributions = []
    for i in range(d):
        without = groups[~members[:, i]]
        weight = 1 / (d * comb(d - 1, members[without].sum(axis=1)))
        contributions.append(weight @ (worth[without | 1 << i] - worth[without]))
    return np.stack(contributions, axis=1)


def _sampled(answer: Function, row: Columns, reference: Columns, evaluations: int) -> np.ndarray:
    """By captum: the columns are put into the reference rows one after the other, in sampled orders.

    captum sees which columns are the row's, as zeros and ones, so that texts and missing values need no numbers.
    """
    import numpy as np
    import torch
    from captum.attr import ShapleyValueSampling

    d, m = len(row), len(next(iter(reference.values())))

    def mixed_answer(own: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(answer(_mixed(row, reference, own.numpy() > 0.5, place.numpy())))

    sampling = ShapleyValueSampling(mixed_answer)
    # captum's own orders come from torch's global generator.
    sampling.permutation_generator = _orders
    told = sampling.attribute(
        torch.ones(m, d),
        baselines=torch.zeros(m, d),
        additional_forward_args=(torch.arange(m),),
        n_samples=max(1, evaluations // (2 * m * d)),
        perturbations_per_eval=max(1, EVALUATIONS // m),
    )
    return np.asarray(told.numpy().astype(np.float64).mean(axis=0))


def _orders(d: int, pairs: int) -> Iterator[list[int]]:
    """Orders of ``d`` columns, each followed by its reverse: what one overrates, the other underrates."""
    import numpy as np

    generator = np.random.default_rng(d)
    for _ in range(pairs):
        order = generator.permutation(d).tolist()
        yield order
        yield order[::-1]
