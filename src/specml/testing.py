"""What every gate owes, as one function: for specml's own tests, and for those of plug-ins.

``check_gate(gate, evidence)`` in a test of yours holds a gate of yours to what ours are held to. It raises
``AssertionError`` with what is wrong.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import TypeAdapter
from typing_extensions import override

from specml.component import ByType
from specml.evidence import ROWS_TOLD, Answers, Champion, Evidence, Packaged, Server, Verdict
from specml.files import canonical_json
from specml.kinds import Gate

if TYPE_CHECKING:
    from collections.abc import Iterator

    import polars as pl

    from specml.data import Column
    from specml.explain import Explained

MAY_LACK = ("model", "training", "champion", "costs", "folds", "rows")
"""Parts of the evidence that a project, or a test, may be without."""


def gate_of(values: dict[str, Any]) -> Gate:
    """The gate that a spec means by ``values``, its ``type`` among them."""
    gate: Gate = TypeAdapter(Annotated[Gate, ByType()]).validate_json(json.dumps(values))
    return gate


def check_gate(gate: Gate, evidence: Evidence) -> Verdict:
    """Hold ``gate`` to what every gate owes; returns its verdict on ``evidence``.

    - The verdict's ``reason`` is one sentence; it says its threshold and on how many rows or calls it stands.
    - It is the same twice; of a gate that ``times``, its outcome is.
    - Verdict and options come back from JSON as they were.
    - What it asks for it declares: ``reads_training``, ``asks_server``, ``against_champion``.
    - It leaves the evidence as it is.
    - It never holds on no rows, nor on scores that are NaN, nor without a part of the evidence that it needs: it then
      says ``not measured`` or ``refused``, and raises nothing. Where what lacks changes nothing, its verdict may be the
      same as before.

    Raises:
        AssertionError: it does not; the message says what.
    """
    check_options(gate)
    before = told(evidence)
    watched = Watched(evidence)
    verdict = judged(gate, watched.evidence, "the whole evidence")
    watched.check(gate)
    again = judged(gate, evidence, "the whole evidence")
    same = again.outcome == verdict.outcome if gate.times else again == verdict
    assert same, f"{gate!r} judged the same evidence twice, and otherwise:\n{verdict!r}\n{again!r}"
    assert told(evidence) == before, f"{gate!r} has changed the evidence."
    for what, lesser in lessened(evidence):
        if gate.times and what not in (NO_ROWS, NO_MODEL):
            continue
        found = judged(gate, lesser, what)
        needless = what != NO_ROWS and found == verdict
        assert found.outcome != "holds" or needless, f"{gate!r} holds on {what}: {found.reason}"
    return verdict


NO_ROWS = "no rows"
NO_MODEL = "evidence without model"


def lessened(evidence: Evidence) -> Iterator[tuple[str, Evidence]]:
    """The evidence with something amiss, and what."""
    yield NO_ROWS, evidence.only(np.arange(0))
    for name in MAY_LACK:
        lacking: Any = () if name == "folds" else None
        if getattr(evidence, name) is not lacking:
            yield f"evidence without {name}", replace(evidence, **{name: lacking})
    if evidence.champion is not None:
        yield "a champion that can't answer", replace(evidence, champion=lambda: Champion("", wanting="it was lost."))
    blind = None if evidence.model is None else Blind(evidence.model)
    nothing = np.full_like(evidence.scores, math.nan)
    yield "scores that are NaN", replace(evidence, scores=nothing, native=nothing, model=blind)
    one = np.array(evidence.scores)
    one[0] = math.nan
    yield "a score that is NaN", replace(evidence, scores=one)


def judged(gate: Gate, evidence: Evidence, what: str) -> Verdict:
    """The gate's verdict, by itself in order."""
    verdict = gate.check(evidence)
    assert isinstance(verdict, Verdict), f"{gate!r} answers {verdict!r}, which is no Verdict."
    wrong = wrong_with(verdict, len(evidence.y))
    assert not wrong, f"{gate!r} on {what}: {wrong}\n{verdict!r}"
    return verdict


def wrong_with(verdict: Verdict, rows: int) -> str:
    """What is wrong with a verdict by itself; nothing when it is in order."""
    reason = verdict.reason
    figures = [verdict.value, *(one.value for one in verdict.slices)]
    intervals = [one for one in (verdict.interval, *(slice.interval for slice in verdict.slices)) if one is not None]
    outside = [row for row in verdict.rows if not 0 <= row < rows]
    refused = [one.name for one in verdict.slices if one.outcome == "refused"]
    ends = [end for one in intervals for end in (one.low, one.high)]
    wrong: tuple[tuple[Any, str], ...] = (
        (not re.fullmatch(r"\S.*[^\s.]\.", reason), "its reason is no sentence that ends with a full stop."),
        (re.search(r"[.!?] +[A-Z]", reason), "its reason is more than one sentence."),
        (not verdict.threshold, "it names no threshold."),
        (verdict.n < (verdict.outcome != "not measured"), "it says not on how many rows or calls it stands."),
        (not all(map(math.isfinite, [one for one in figures if one is not None])), "a figure in it is not finite."),
        (not all(map(math.isfinite, ends)), "an end of an interval is not finite."),
        (not all(one.low <= one.high for one in intervals), "the ends of an interval are not in order."),
        (outside, f"it names rows {outside}, of {rows} held-out ones."),
        (len(verdict.rows) > ROWS_TOLD, f"it names {len(verdict.rows)} rows: {ROWS_TOLD} are enough."),
        (len(set(verdict.rows)) < len(verdict.rows), "it names a row twice."),
        (len({one.name for one in verdict.slices}) < len(verdict.slices), "two of its slices have one name."),
        (verdict.outcome == "holds" and refused, f"it holds, though {refused} are refused."),
    )
    if found := next((what for true, what in wrong if true), ""):
        return found
    canonical_json(verdict.model_dump(mode="json"))
    back = Verdict.model_validate_json(verdict.model_dump_json())
    return "" if back == verdict else "it does not come back from JSON as it was."


def check_options(gate: Gate) -> None:
    """The gate comes back from JSON, by its type, as it was, and so from a spec."""
    assert gate_of(gate.model_dump(mode="json")) == gate, f"{gate!r} does not come back from JSON as it was."
    for file in gate.files():
        assert isinstance(file, str), f"{gate!r} names {file!r}, which is no file's path."


def told(evidence: Evidence) -> list[Any]:
    """What could be changed of the evidence, copied."""
    values = [getattr(evidence, one.name) for one in fields(evidence)]
    values += [vars(one).values() for one in values if is_dataclass(one) and not isinstance(one, type)]
    arrays = [one for one in [*values, *evidence.groups.values()] if isinstance(one, np.ndarray)]
    table = None if evidence.rows is None else evidence.rows.hash_rows().to_list()
    return [table, *((one.shape, one.tobytes() if one.dtype != object else one.tolist()) for one in arrays)]


class Watched:
    """Evidence that knows what was asked for beyond it."""

    def __init__(self, evidence: Evidence) -> None:
        self.asked: set[str] = set()

        def telling(name: str, value: Any) -> Any:
            def ask() -> Any:
                self.asked.add(name)
                return value()

            return None if value is None else ask

        self.evidence = replace(
            evidence,
            champion=telling("against_champion", evidence.champion),
            training=telling("reads_training", evidence.training),
            model=None if evidence.model is None else Told(evidence.model, self.asked),
        )

    def check(self, gate: Gate) -> None:
        """What was asked for is what the gate declares, for the plan stands on that."""
        for flag in sorted(self.asked):
            assert getattr(gate, flag), f"{gate!r} asks for what it does not declare: {flag} is false."


class Told:
    """A packaged model that notes when its server is asked for."""

    def __init__(self, model: Packaged, asked: set[str]) -> None:
        self.inputs: tuple[Column, ...] = model.inputs
        self.graph_bytes = model.graph_bytes
        self.explanation = model.explanation
        self._model, self._asked = model, asked

    def answer(self, rows: pl.DataFrame) -> Answers:
        """What it answers."""
        return self._model.answer(rows)

    def explain(self, rows: pl.DataFrame) -> Explained:
        """Why."""
        return self._model.explain(rows)

    def timed(self, rows: int, calls: int) -> list[float]:
        """How fast."""
        return self._model.timed(rows, calls)

    def served(self) -> Server:
        """The server, noted."""
        self._asked.add("asks_server")
        return self._model.served()


class Blind(Told):
    """A packaged model that answers NaN."""

    def __init__(self, model: Packaged) -> None:
        super().__init__(model, set())

    @override
    def answer(self, rows: pl.DataFrame) -> Answers:
        return unseeing(self._model.answer(rows))

    @override
    def served(self) -> Server:
        return BlindServer(self._model.served())


class BlindServer:
    """A server that answers NaN."""

    def __init__(self, server: Server) -> None:
        self.path, self.max_rows, self.max_body = server.path, server.max_rows, server.max_body
        self.ask = server.ask
        self.timed = server.timed
        self._server = server

    def answer(self, rows: pl.DataFrame, at_once: int = 1000) -> Answers:
        """NaN."""
        return unseeing(self._server.answer(rows, at_once))


def unseeing(answers: Answers) -> Answers:
    """The same answers with every score NaN."""
    ends = None if answers.ends is None else np.full_like(answers.ends, math.nan)
    return Answers(np.full_like(answers.scores, math.nan), answers.decisions, ends)
