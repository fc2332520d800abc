"""The graph's outputs as predictions that a person can read."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from specml.data import category
from specml.serving.refusal import Refused

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from specml.bundle import Contract


def predictions(outputs: dict[str, np.ndarray], contract: Contract) -> list[dict[str, Any]]:
    """One object for each row: ``label`` and probabilities, or ``prediction`` with its interval where it has one.

    A row that is not decided has the label None.
    Labels have the JSON type of ``contract.classes``; numbers are the graph's float32.
    """
    if contract.task == "regression":
        names = list(contract.outputs())
        return [
            dict(zip(names, row, strict=True)) for row in zip(*(outputs[name].ravel() for name in names), strict=True)
        ]
    names, labels = _names(contract.classes, tuple(map(type, contract.classes)))
    decided = [labels.get(label, label) for label in outputs["label"].ravel().tolist()]
    numbers, width = list(outputs["probabilities"].ravel()), len(names)
    by_class = [numbers[place::width] for place in range(width)]
    if contract.task == "binary":
        negative, positive = names
        return [
            {"label": label, "probability": yes, "probabilities": {negative: no, positive: yes}}
            for label, no, yes in zip(decided, *by_class, strict=True)
        ]
    return [
        {"label": label, "probabilities": dict(zip(names, row, strict=True))}
        for label, row in zip(decided, zip(*by_class, strict=True), strict=True)
    ]


@lru_cache(maxsize=8)
def _names(classes: tuple[Any, ...], types: tuple[type, ...]) -> tuple[list[str], dict[str, Any]]:
    """What the classes are called, and the class of each label; ``types`` tell 1 from True."""
    names = [category(label) for label in classes]
    undecided: dict[str, Any] = {"": None}  # no class is called so: an empty label is a missing one
    labels = {**{str(label): label for label in classes}, **dict(zip(names, classes, strict=True))}
    return names, undecided | labels


class Finite(dict[str, np.ndarray]):
    """Outputs whose numbers are finite, as was seen for a whole batch at once."""


def finite(outputs: Mapping[str, np.ndarray]) -> bool:
    """Whether every number is one."""
    return all(array.dtype.kind != "f" or bool(np.isfinite(array).all()) for array in outputs.values())


def refuse_not_finite(outputs: Mapping[str, np.ndarray], first: int = 0) -> None:
    """Make sure that every number is one: values far from all training rows can drive a model beyond float32.

    ``first``: the place of the first row in the request.

    Raises:
        Refused: 422; the message names the first row without an answer.
    """
    if type(outputs) is Finite or finite(outputs):
        return
    for array in outputs.values():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            row = int((~np.isfinite(array)).reshape(len(array), -1).any(axis=1).argmax())
            what = "has no answer: its values lead the model to a number that is not finite."
            raise Refused(422, f"rows[{first + row}] {what}")


def predict_body(
    outputs: dict[str, np.ndarray], contract: Contract, bundle: str, identity: str, notice: dict[str, str]
) -> bytes:
    """The body of an answer of ``/predict`` to the request called ``identity``; ``notice`` is told where there is one.

    Raises:
        Refused: 422; a row has no finite answer.
    """
    refuse_not_finite(outputs)
    n = len(next(iter(outputs.values())))
    return next(predict_bodies(outputs, contract, bundle, [(identity, n)], notice))


def predict_bodies(
    outputs: dict[str, np.ndarray],
    contract: Contract,
    bundle: str,
    requests: Iterable[tuple[str, int]],
    notice: dict[str, str],
) -> Iterator[bytes]:
    """The same for requests one after the other, by what they are called and how many rows they have."""
    told = predictions(outputs, contract)
    body: dict[str, Any] = {"id": "", "model": contract.name, "bundle": bundle, "predictions": []}
    if notice:
        body["notice"] = notice
    start = 0
    for identity, n in requests:
        body["id"], body["predictions"] = identity, told[start : start + n]
        start += n
        yield orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
