"""Why a bundle answers as it does: of each column a contribution; a base and the contributions add up to the answer.

What they add up to, and how they are found, stands in the contract (``Explanation``):

- ``tree_shap``: exact TreeSHAP (Lundberg et al. 2020, *From local explanations to global understanding with
  explainable AI for trees*), by LightGBM, of any library's trees in its text: compared with the training rows that each
  tree's splits counted.
- ``linear``: coefficient times distance from the mean training row, which is a linear model's Shapley value.
- ``deep_lift``: captum's DeepLIFT through the network (Shrikumar, Greenside & Kundaje 2017, *Learning important
  features through propagating activation differences*), averaged over reference rows as Lundberg & Lee (2017) do:
  nearly its Shapley values, in one pass for each reference row.
- ``integrated_gradients``: captum's, through a network of images (Sundararajan, Taly & Yan 2017, *Axiomatic
  attribution for deep networks*): of each pixel how the score's slope adds up on the way from the mean reference row.
  ``STEPS`` points of a Gauss-Legendre sum stand for the way; what they miss, some thousandths of the score, is shared
  out by size, so that all adds up.
- ``shapley``: see ``shapley``; anything that answers.

Columns of the design that come from one column of the contract are summed. The same bundle and row, the same bytes.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from specml.bundle import BundleError, predict
from specml.errors import first_line
from specml.shapley import EVALUATIONS, REFERENCES, references, shapley

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    import torch

    from specml.bundle import Bundle, Method
    from specml.network import Kept

    Some = TypeVar("Some", bound=Kept)
    Columns = dict[str, np.ndarray]

UNITS: dict[str, str] = {
    "log_odds": "log-odds",
    "score": "score",
    "probability": "probability",
    "prediction": "prediction",
}
"""What contributions add up to, in words."""

MOST_ROWS = 256
MOST_IMAGES = 64
ANSWERS = 1024
"""Of the model, for each row that importance is measured on."""
MOST_ANSWERS = 65_536


@dataclass(frozen=True)
class Explained:
    """Rows told apart by their columns."""

    base: np.ndarray
    """float64 [k]: what is added to; k is the number of classes, 1 for binary problems and regressions."""
    contributions: np.ndarray
    """float64 [n, k, columns], in the order of the contract's inputs; of one row without its first axis."""

    @property
    def total(self) -> np.ndarray:
        """float64 [n, k]: what base and contributions add up to."""
        total: np.ndarray = self.base + self.contributions.sum(axis=-1)
        return total

    def calibrated(self, scale: float, shift: float) -> Explained:
        """The same of ``scale`` times the total, plus ``shift``."""
        return Explained(scale * self.base + shift, scale * self.contributions)

    def row(self, index: int) -> Explained:
        """One row by itself."""
        return Explained(self.base, self.contributions[index])


class Explain(Protocol):
    """A method of explanation, ready for a bundle."""

    def __call__(self, rows: Columns) -> Explained:
        """Explain columns [n] by input name."""


def explainer(bundle: Bundle, *, evaluations: int = EVALUATIONS) -> Explain:
    """What explains the bundle's answers; libraries that it takes are loaded here.

    ``evaluations``: answers that a row may cost where the model is asked (``shapley``).

    Raises:
        BundleError: the bundle's numbers do not fit together.
    """
    told = bundle.contract.explained
    explain = METHODS[told.method](bundle, evaluations)
    if (told.scale, told.shift) == (1.0, 0.0):
        return explain
    return lambda rows: explain(rows).calibrated(told.scale, told.shift)


def importance(bundle: Bundle, rows: Columns) -> dict[str, Any]:
    """How much each column moves the answers: the mean of its contributions' absolute values, over classes too.

    Of rows [n] at most ``MOST_ROWS``, or ``MOST_IMAGES``, evenly spaced; fewer where the model is asked, which then
    answers about ``MOST_ANSWERS`` times in all. Only means are told, of no row anything.
    """
    import numpy as np

    contract, n = bundle.contract, len(next(iter(rows.values())))
    wanted = MOST_IMAGES if contract.explained.method == "integrated_gradients" else MOST_ROWS
    if contract.explained.method == "shapley":
        wanted = max(8, MOST_ANSWERS // max(ANSWERS, 2 * REFERENCES * len(rows)))
    taken = np.unique(np.linspace(0, n - 1, min(n, wanted)).astype(int))
    explain = explainer(bundle, evaluations=ANSWERS)
    contributions = explain({name: values[taken] for name, values in rows.items()}).contributions
    known = contributions[np.isfinite(contributions).all(axis=(1, 2))]
    means = np.abs(known).mean(axis=(0, 1)).tolist() if len(known) else []
    names = [column.name for column in contract.inputs]
    return {
        "method": contract.explained.method,
        "space": contract.explained.space,
        "rows": len(known),
        "importance": dict(zip(names, means, strict=True)) if means else {},
    }


def _tree_shap(bundle: Bundle, _: int) -> Explain:
    import lightgbm
    import numpy as np

    booster = lightgbm.Booster(model_str=bundle.native.decode())
    design = _design(bundle)

    def explain(rows: Columns) -> Explained:
        told = np.asarray(booster.predict(design(rows), pred_contrib=True, num_threads=1), dtype=np.float64)
        # For each class its columns, then its base.
        by_class = told.reshape(len(told), booster.num_model_per_iteration(), -1)
        return Explained(by_class[0, :, -1], _by_column(by_class[:, :, :-1], bundle))

    return explain


def _linear(bundle: Bundle, _: int) -> Explain:
    import json

    import numpy as np

    try:
        told = json.loads(bundle.native)
        coef, intercept, center = (np.array(told[name], dtype=np.float64) for name in ("coef", "intercept", "center"))
    except (ValueError, LookupError, TypeError) as error:
        raise BundleError(f"holds no linear model: {first_line(error)}.", where="linear.json") from None
    k, d = _fitting(bundle)
    if (coef.shape, intercept.shape, center.shape) != ((k, d), (k,), (d,)):
        raise BundleError("does not fit the bundle's design.", where="linear.json")
    design = _design(bundle)

    def explain(rows: Columns) -> Explained:
        distance = design(rows).astype(np.float64) - center
        return Explained(intercept + coef @ center, _by_column(distance[:, None, :] * coef, bundle))

    return explain


def _deep_lift(bundle: Bundle, _: int) -> Explain:
    import numpy as np
    import torch
    from captum.attr import DeepLift

    from specml.network import Network

    network = _network(bundle, Network)
    contract, design = bundle.contract, _design(bundle)
    layers = network.layers()
    owners = np.array(network.shape.owners)
    reference = references(contract.inputs, bundle.reference.get("columns", {}))
    spread = network.spread.double().numpy()

    def embedded(rows: Columns) -> torch.Tensor:
        with torch.inference_mode(False), torch.no_grad():
            return network.embed(torch.from_numpy(design(rows)))

    with _one_thread():
        usual = embedded(reference)
        base = network.score(usual).detach().double().numpy().mean(axis=0)

    def moves(row: torch.Tensor) -> np.ndarray:
        """Of one row, for every output [k, d]."""
        told = [
            DeepLift(layers).attribute(row.expand_as(usual), usual, target=k).detach().double().numpy().mean(axis=0)
            for k in range(network.shape.outputs)
        ]
        by_place = [[one[owners == place].sum() for place in range(network.shape.columns)] for one in told]
        return np.asarray(np.array(by_place) * spread[:, None])

    def explain(rows: Columns) -> Explained:
        with _one_thread(), warnings.catch_warnings():
            # captum tells of the hooks that it sets.
            warnings.simplefilter("ignore", UserWarning)
            found = np.stack([moves(row[None]) for row in embedded(rows)])
        return Explained(base, _by_column(found, bundle))

    return explain


STEPS = 64
"""Points on the way from the mean reference row to a row."""


def _integrated_gradients(bundle: Bundle, _: int) -> Explain:
    import numpy as np
    import torch
    from captum.attr import IntegratedGradients

    from specml.image_network import ImageNetwork

    network, design = _network(bundle, ImageNetwork), _design(bundle)
    owners, columns = np.array(network.shape.owners), network.shape.columns
    spread = network.spread.double().numpy()
    integrated = IntegratedGradients(network.standard_score)

    def embedded(rows: Columns) -> torch.Tensor:
        with torch.inference_mode(False), torch.no_grad():
            return network.embed(torch.from_numpy(design(rows)))

    def score(row: torch.Tensor) -> np.ndarray:
        return np.asarray(network.score(row).detach().double().numpy()[0])

    with _one_thread():
        reference = references(bundle.contract.inputs, bundle.reference.get("columns", {}))
        usual = embedded(reference).mean(dim=0, keepdim=True)
        base = score(usual)

    def moves(row: torch.Tensor) -> np.ndarray:
        """Of one row, for every output [k, d]."""
        found = np.zeros((network.shape.outputs, columns))
        for k in range(network.shape.outputs):
            told = integrated.attribute(row, usual, target=k, n_steps=STEPS, method="gausslegendre")
            by_place = told.detach().double().numpy()[0] * spread[k]
            np.add.at(found[k], owners[owners >= 0], by_place[owners >= 0])
        missed, size = score(row) - base - found.sum(axis=1), np.abs(found)
        shares = size / np.maximum(size.sum(axis=1, keepdims=True), 1e-300)
        return np.asarray(found + missed[:, None] * shares)

    def explain(rows: Columns) -> Explained:
        with _one_thread():
            found = np.stack([moves(row[None]) for row in embedded(rows)])
        return Explained(base, _by_column(found, bundle))

    return explain


def _network(bundle: Bundle, kind: type[Some]) -> Some:
    """The bundle's network.

    Raises:
        BundleError: it is none of this kind, or of another design or other classes.
    """
    try:
        network = kind.from_bytes(bundle.native)
    except ValueError as error:
        raise BundleError(f"is no network: {first_line(error)}.", where="network.npz") from None
    if (network.shape.outputs, network.shape.columns) != _fitting(bundle):
        raise BundleError("does not fit the bundle's design.", where="network.npz")
    return network


def _fitting(bundle: Bundle) -> tuple[int, int]:
    """How many scores the bundle's model has, and how many columns its design."""
    contract = bundle.contract
    return len(contract.classes) if contract.task == "multiclass" else 1, sum(contract.explained.widths)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Torch splits its sums by thread; one thread gives the same bits everywhere."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _shapley(bundle: Bundle, evaluations: int) -> Explain:
    import numpy as np

    session, task = bundle.session(), bundle.contract.task
    reference = references(bundle.contract.inputs, bundle.reference.get("columns", {}))

    def answer(rows: Columns) -> np.ndarray:
        told = predict(session, rows)
        if task == "regression":
            return np.asarray(told["prediction"].astype(np.float64).reshape(-1, 1))
        probabilities = told["probabilities"].astype(np.float64)
        return np.asarray(probabilities[:, 1:] if task == "binary" else probabilities)

    def explain(rows: Columns) -> Explained:
        return Explained(*shapley(answer, {name: rows[name] for name in reference}, reference, evaluations))

    return explain


METHODS: dict[Method, Callable[[Bundle, int], Explain]] = {
    "tree_shap": _tree_shap,
    "linear": _linear,
    "deep_lift": _deep_lift,
    "integrated_gradients": _integrated_gradients,
    "shapley": _shapley,
}


def _design(bundle: Bundle) -> Callable[[Columns], np.ndarray]:
    session = bundle.design_session()
    return lambda rows: predict(session, rows)["design"]


def _by_column(contributions: np.ndarray, bundle: Bundle) -> np.ndarray:
    """Of the design's columns [n, k, d], those that come from one column of the contract summed."""
    import numpy as np

    starts = np.cumsum([0, *bundle.contract.explained.widths])
    blocks = [contributions[:, :, a:b].sum(axis=2) for a, b in pairwise(starts.tolist())]
    return np.stack(blocks, axis=2)
