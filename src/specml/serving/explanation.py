"""Explanations of rows, from the body of a request to the body of its answer."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from specml.bundle import predict
from specml.data import category
from specml.explain import Explained, explainer
from specml.serving.announce import example_row
from specml.serving.answer import predictions, refuse_not_finite
from specml.serving.history import KEY
from specml.serving.refusal import Refused
from specml.serving.request import most_values, named, read_object, rows_of, shares

if TYPE_CHECKING:
    from collections.abc import Mapping

    from specml.bundle import Bundle, Contract

AT_ONCE = 4
"""Rows explained between two looks at the clock."""


@dataclass(frozen=True)
class Question:
    """What a request for explanations asks."""

    rows: list[Any]
    label: Any = None
    """The class that is explained; None: the positive one, or the one that the model decides."""
    top: int | None = None
    """How many columns are told of each row; None: all."""
    history: Any = None
    """Of a forecast: the rows before all rows that bring none of their own."""


class Explainer:
    """A bundle that explains its answers.

    ``notice``: what every answer tells, by name: what law obliges to; ``ignore_unknown``: see ``request.named``.

    Raises:
        BundleError: what explains does not fit the bundle.
    """

    def __init__(
        self, bundle: Bundle, notice: Mapping[str, str] | None = None, *, ignore_unknown: bool = False
    ) -> None:
        self._ignore_unknown = ignore_unknown
        self._bundle = bundle
        self._contract = bundle.contract
        self._told_always = {"notice": dict(notice)} if notice else {}
        self._session = bundle.session()
        self._explain = explainer(bundle)

    def warm_up(self) -> None:
        """Explain a row, so that no request pays for what the first one loads."""
        self._explain(named([example_row(self._contract)], self._contract).columns)

    def body(self, raw: bytes, identity: str, *, max_rows: int, until: float = math.inf) -> bytes:
        """The answer to the request called ``identity``, whose body is ``raw``.

        ``until``: when it has to be done, by the monotonic clock.

        Raises:
            Refused: 400, 413 or 422; the request is wrong, or takes too long.
        """
        question = read_question(raw, self._contract, max_rows)
        return orjson.dumps(self._answer(question, identity, until), option=orjson.OPT_SERIALIZE_NUMPY)

    def _answer(self, question: Question, identity: str, until: float) -> dict[str, Any]:
        contract, explained = self._contract, self._contract.explained
        rows = named(question.rows, contract, question.history, ignore_unknown=self._ignore_unknown)
        place = _place(question.label, contract)
        told = []
        for start in range(0, rows.n, AT_ONCE):
            if time.monotonic() > until:
                if start == 0:  # it waited for others all the time
                    raise Refused(
                        504, "others' explanations took all the time; try again.", headers={"retry-after": "1"}
                    )
                raise Refused(413, f"only {start} of {rows.n} rows were explained in time. Send them in parts.")
            part = {name: values[start : start + AT_ONCE] for name, values in rows.columns.items()}
            outputs = predict(self._session, part)
            refuse_not_finite(outputs, first=start)
            found = self._explain(part)
            for row, prediction in enumerate(predictions(outputs, contract)):
                told.append(self._told(prediction, found.row(row), place, question.top))
                if not np.isfinite(told[-1]["total"]):
                    raise Refused(422, f"rows[{start + row}] can't be explained: its values are beyond all bounds.")
        return {
            "id": identity,
            "model": contract.name,
            "bundle": self._bundle.digest,
            "method": explained.method,
            "space": explained.space,
            "explanations": told,
            **self._told_always,
        }

    def _told(self, prediction: dict[str, Any], found: Explained, place: int | None, top: int | None) -> dict[str, Any]:
        contract = self._contract
        answer: dict[str, Any] = {"prediction": prediction}
        if place is None and contract.task != "regression":
            place = 1 if contract.task == "binary" else contract.classes.index(prediction["label"])
        if place is not None:
            answer["class"] = contract.classes[place]
        base, contributions = _of_class(found, place or 0, contract)
        ranked = np.argsort(-np.abs(contributions), kind="stable").tolist()
        kept = ranked if top is None else ranked[:top]
        answer["base"] = base
        names, moves = [column.name for column in contract.inputs], contributions.tolist()
        answer["contributions"] = [{"column": names[i], "contribution": moves[i]} for i in kept]
        if left := ranked[len(kept) :]:
            answer["others"] = {"columns": len(left), "contribution": float(contributions[left].sum())}
        answer["total"] = base + float(contributions.sum())
        return answer


def read_question(raw: bytes, contract: Contract, max_rows: int) -> Question:
    """The question in ``{"rows": [{column: value, …}, …], "class": label, "top": n}``.

    Raises:
        Refused: 400 for what is no JSON object, 413 for too many rows, 422 for rows that break the contract.
    """
    body = read_object(raw, most_values(contract, max_rows))
    rows = rows_of(body, max_rows, others=("class", "top", *shares(contract)))
    top = body.get("top")
    if top is not None and (type(top) is not int or top < 1):
        raise Refused(422, "top is no whole number from 1 on.")
    return Question(rows, body.get("class"), top, body.get(KEY))


def _place(label: Any, contract: Contract) -> int | None:
    """Which class is asked for; None when none is.

    Raises:
        Refused: 422; the model has no such class.
    """
    if label is None:
        return None
    names = [category(one) for one in contract.classes]
    asked = category(label) if isinstance(label, (str, int, float, bool)) else ""
    if asked not in names:
        known = ", ".join(names[:20]) or "none: it predicts a number"
        raise Refused(422, f"{asked[:80]!r} is no class of this model; its classes: {known}.")
    return names.index(asked)


def _of_class(found: Explained, place: int, contract: Contract) -> tuple[float, np.ndarray]:
    """Base and contributions [columns] of a class; what speaks for one of two classes speaks against the other."""
    if contract.task != "binary":
        return float(found.base[place]), found.contributions[place]
    base, contributions = float(found.base[0]), found.contributions[0]
    if place == 1:
        return base, contributions
    return (1 - base if contract.explained.space == "probability" else -base), -contributions
