"""The graph's outputs as predictions that a person can read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from specml.data import category

if TYPE_CHECKING:
    import numpy as np

    from specml.bundle import Contract


def predictions(outputs: dict[str, np.ndarray], contract: Contract) -> list[dict[str, Any]]:
    """One object for each row: ``label`` and probabilities, or ``prediction``.

    Labels have the JSON type of ``contract.classes``; numbers are the graph's float32.
    """
    if contract.task == "regression":
        return [{"prediction": value} for value in outputs["prediction"].ravel()]
    names = [category(label) for label in contract.classes]
    labels = {**{str(label): label for label in contract.classes}, **dict(zip(names, contract.classes, strict=True))}
    answers = []
    for label, row in zip(outputs["label"].ravel().tolist(), outputs["probabilities"], strict=True):
        answer: dict[str, Any] = {"label": labels.get(label, label)}
        if contract.task == "binary":
            answer["probability"] = row[-1]
        answer["probabilities"] = dict(zip(names, row, strict=True))
        answers.append(answer)
    return answers


def predict_body(outputs: dict[str, np.ndarray], contract: Contract, bundle: str) -> bytes:
    """The body of an answer of ``/predict``."""
    body = {"model": contract.name, "bundle": bundle, "predictions": predictions(outputs, contract)}
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
