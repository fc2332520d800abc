"""Inputs at the edge of what may come: the model never fails, and never answers what is no number."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from typing_extensions import override

from specml.data import FIRST, LAST, MISSING, TEXTS, category, feature_array, looks_back
from specml.errors import StageFailed
from specml.evidence import ABSTAINED, Answers, Evidence, Slice, Verdict, differences
from specml.kinds import Gate

if TYPE_CHECKING:
    import polars as pl

    from specml.data import Column
    from specml.evidence import Packaged, Server

SAMPLES = 4
"""Held-out rows into which each edge is put."""
GROUPS = 64
"""More columns than that are stressed some at a time."""
CLOSE = 1e-5
"""How far probabilities may be from adding up to 1, and the server's answers from the graph's."""

BATCH = 20_000
"""Rows of the largest batch, whatever the server allows."""
JSON = "application/json"
HELD_OUT = "held-out rows"
EMPTY = "an empty text"
NOTHING = "no value where one is needed"
UNSEEN = "specml never saw this"

LARGE = 1.7976931348623157e308
NUMBERS = {
    "the largest number": LARGE,
    "the smallest number": -LARGE,
    "the least number above 0": 5e-324,
    "a subnormal number": 2.2e-308,
    "-0.0": -0.0,
    "a whole number beyond 2^53": 2.0**53 + 2,
    "the largest number of float32, and more": 3.5e38,
}
TEXTS_AT_THE_EDGE = {
    "an unseen category": UNSEEN,
    "a text of 20,000 characters": "x" * 20_000,
    "a text of many scripts": "ß日本語 عربى 🏳️‍🌈 e\u0301 \u202eabc\u200b",
    "a text with control characters": "a\x00b\x1bc\r\n\t",
    "a text of quotes": '\'; DROP TABLE "x"; -- {{7*7}} \\',
}
TIMES = {"the year 1": FIRST, "the end of 9999": LAST}


class Stress(Gate):
    """Extremes, missing and unseen values, long texts, large batches and bodies that are no requests: never a failure.

    Into some held-out rows each column in turn is given what lies at the edge of its type: the largest and smallest
    numbers, subnormal ones, -0.0, whole numbers beyond 2^53; unseen categories, empty, very long and odd texts; the
    first and the last year; no value; and the same in all columns at once. Both the packaged graph and the served model
    must answer each: with finite numbers, probabilities from 0 to 1 that add up to 1, and the same answer. The largest
    batch that the server takes is answered, and as each row by itself is. What the contract does not allow must be
    refused with a status from 400 to 499: no value or NaN where the column always needs one, wrong types, unknown
    columns, an empty batch, one that is too large, and bodies that are no JSON. In the end the server must still
    answer as it did before.

    Every case must hold, so there is no interval. Starts a server on this machine, which takes about a second. Values
    that no row here stands for, and load, are not seen (see ``latency`` and ``throughput``). NVIDIA Triton's L0 tests
    and Hypothesis's edge cases are what the list follows.
    """

    asks_server: ClassVar[bool] = True

    type: Literal["stress"] = "stress"

    @override
    def check(self, evidence: Evidence) -> Verdict:
        threshold = "no case fails"
        if evidence.model is None or evidence.rows is None or not len(evidence.y):
            reason = "there are no held-out rows to put the edges into."
            return Verdict(outcome="not measured", reason=reason, threshold=threshold)
        try:
            server = evidence.model.served()
        except StageFailed as failed:
            return Verdict(outcome="refused", reason=failed.what, n=1, threshold=threshold)
        cases = list(_Asked(evidence, evidence.model, server).cases())
        failing = [one for one in cases if one.outcome != "holds"]
        n = sum(one.n for one in cases)
        told = f"{len(failing)} of {len(cases)} cases fail, of {n:,} rows and bodies that were asked"
        if failing:
            told = f"{told}; the first is {failing[0].name}: {failing[0].note}"
        return Verdict(
            outcome="refused" if failing else "holds",
            reason=f"{told}.",
            value=float(len(failing)),
            n=n,
            threshold=threshold,
            slices=tuple(sorted(cases, key=lambda one: one.outcome == "holds")),
        )


class _Body(NamedTuple):
    """What is sent, and of which column it breaks the rules."""

    path: str
    content: bytes
    column: str = ""
    kind: str = JSON


class _Asked:
    """The graph and the server, asked the same."""

    def __init__(self, evidence: Evidence, model: Packaged, server: Server) -> None:
        assert evidence.rows is not None
        self._evidence, self._model, self._server = evidence, model, server
        self._inputs = model.inputs
        self._rows = _floats(evidence.rows[evidence.evenly(SAMPLES)], model.inputs)
        self._named = not any(looks_back(one.name) for one in model.inputs)
        self._gone = False

    def cases(self) -> Iterator[Slice]:
        """What became of each case; none after one that the server did not outlive."""
        yield self._answered(HELD_OUT, self._rows)
        for name, rows in self._edges():
            if not self._gone:
                yield self._answered(name, rows)
        if not self._gone:
            yield self._largest()
        for name, bodies in self._bodies().items():
            if not self._gone:
                yield self._refused(name, bodies)
        if not self._gone:
            yield self._answered(f"{HELD_OUT} once more, after all that", self._rows)

    def _edges(self) -> Iterator[tuple[str, pl.DataFrame]]:
        """Each edge in each column by itself, and in all of them."""
        import polars as pl

        values: dict[str, dict[str, Any]] = {}
        for column in self._inputs:
            for name, value in _edges_of(column):
                values.setdefault(name, {})[column.name] = value
        for name, columns in values.items():
            groups = _groups(list(columns))
            parts = [self._with({one: columns[one] for one in group}) for group in groups]
            yield name, pl.concat(parts if len(groups) == 1 else [*parts, self._with(columns)])

    def _with(self, values: dict[str, Any]) -> pl.DataFrame:
        """The rows with these values."""
        filled = [_filled(self._rows[name], value) for name, value in values.items()]
        return self._rows.with_columns(filled)

    def _answered(self, name: str, rows: pl.DataFrame) -> Slice:
        """The graph and the server answer all rows, alike."""
        wrong = self._wrong(name, rows)
        return Slice(
            name=name, n=rows.height, value=float(bool(wrong)), outcome="refused" if wrong else "holds", note=wrong
        )

    def _wrong(self, name: str, rows: pl.DataFrame) -> str:
        try:
            graph = self._model.answer(rows)
        except Exception as error:
            return f"the graph fails ({type(error).__name__})"
        if wrong := wrong_with(graph, self._evidence):
            return f"the graph {wrong}"
        if wrong := self._served_wrong(rows, graph):
            return f"the server {wrong}"
        if not self._named:
            return ""
        body = json.dumps({"rows": [self._row(rows, index, name == EMPTY) for index in range(rows.height)]})
        status, raw = self._ask("/predict", body.encode())
        wrong = f"answers with {_said(status)}" if status != 200 else wrong_predictions(raw, graph, self._evidence)
        return f"/predict {wrong}" if wrong else ""

    def _served_wrong(self, rows: pl.DataFrame, graph: Answers, at_once: int = 1000) -> str:
        try:
            served = self._server.answer(rows, at_once)
        except StageFailed:
            return "refuses what it should answer"
        except OSError:
            self._gone = True
            return "is gone"
        except (ValueError, KeyError, TypeError):
            return "answers what is not of the protocol"
        if wrong := wrong_with(served, self._evidence):
            return wrong
        other = ~(differences(self._evidence.task, served.scores, graph.scores) <= CLOSE)
        if graph.decisions is not None and served.decisions is not None:
            other = other | (graph.decisions != served.decisions)
        return f"answers {int(other.sum())} rows otherwise than the graph" if other.any() else ""

    def _row(self, rows: pl.DataFrame, index: int, empty: bool = False) -> dict[str, Any]:
        """A row as ``/predict`` takes it; ``empty``: a missing text as an empty one."""
        found = {one.name: _json(rows[one.name][index]) for one in self._inputs}
        if empty:
            texts = [one.name for one in self._inputs if one.kind in TEXTS]
            found |= dict.fromkeys([name for name in texts if found[name] is None], "")
        return found

    def _largest(self) -> Slice:
        """As many rows as one request may have are answered as they are by themselves."""
        import numpy as np

        evidence, server = self._evidence, self._server
        assert evidence.rows is not None
        each = len(_tensors(self._rows, self._inputs)) / self._rows.height
        most = max(1, min(server.max_rows, int(server.max_body / each / 1.5), BATCH))
        taken = np.arange(most) % evidence.rows.height
        decisions = None if evidence.decisions is None else evidence.decisions[taken]
        wrong = self._served_wrong(evidence.rows[taken], Answers(evidence.scores[taken], decisions), most)
        note = f"the server {wrong}" if wrong else ""
        return Slice(
            name="one request of most rows",
            n=most,
            value=float(bool(wrong)),
            outcome="refused" if wrong else "holds",
            note=note,
        )

    def _bodies(self) -> dict[str, list[_Body]]:
        """Bodies that must be refused, by what they are."""
        row = self._row(self._rows, 0)
        predict, infer = "/predict", self._server.path

        def rows(*of: Any) -> bytes:
            return json.dumps({"rows": of}).encode()

        deep = b'{"rows": ' + b"[" * 5000 + b"]" * 5000 + b"}"
        found = {
            "an empty batch": [_Body(predict, rows()), _Body(infer, b'{"inputs": []}')],
            "no body": [_Body(predict, b""), _Body(infer, b"")],
            "a body that is no JSON": [_Body(predict, b'{"rows": ['), _Body(infer, b'{"inputs": [')],
            "a body that is no text": [_Body(predict, b"\xff\xfe\x00\x80"), _Body(infer, b"\xff\xfe\x00\x80")],
            "a list": [_Body(predict, b"[1, 2]"), _Body(infer, b"[1, 2]")],
            "a body nested deep": [_Body(predict, deep), _Body(infer, deep)],
            "rows that are no objects": [_Body(predict, rows(1)), _Body(predict, rows("a")), _Body(predict, rows([]))],
            "another content type": [_Body(predict, rows(row), kind="text/csv")],
            "an unknown column": [_Body(predict, rows({**row, UNSEEN: 1}))],
            "one key twice": [_Body(predict, b'{"rows": [], "rows": []}')],
        }
        if self._server.max_rows <= BATCH:
            more = self._rows[[0] * (self._server.max_rows + 1)]
            found["one row too many"] = [_Body(infer, _tensors(more, self._inputs))]
        for column in self._inputs[:: -(-len(self._inputs) // GROUPS)]:
            for what, value in _unfit(column):
                raw = json.dumps({"rows": [{**row, column.name: UNSEEN}]}).replace(f'"{UNSEEN}"', value)
                found.setdefault(what, []).append(_Body(predict, raw.encode(), column.name))
            if not column.nullable:
                lacking = self._rows.with_columns(_filled(self._rows[column.name], None))
                found[NOTHING].append(_Body(infer, _tensors(lacking, self._inputs), column.name))
        return found

    def _refused(self, name: str, bodies: list[_Body]) -> Slice:
        """The server refuses each, as the sender's mistake."""
        wrong = []
        for body in bodies:
            status, _ = self._ask(body.path, body.content, body.kind)
            if not 400 <= status < 500:
                where = f" in {body.column}" if body.column else ""
                wrong.append(f"the server answers {body.path}{where} with {_said(status)} in place of 400 to 499")
            if self._gone:
                break
        outcome: Any = "refused" if wrong else "holds"
        return Slice(name=name, n=len(bodies), value=float(len(wrong)), outcome=outcome, note=wrong[0] if wrong else "")

    def _ask(self, path: str, body: bytes, kind: str = JSON) -> tuple[int, bytes]:
        try:
            return self._server.ask(path, body, kind)
        except OSError:
            self._gone = True
            return 0, b""


def _edges_of(column: Column) -> Iterable[tuple[str, Any]]:
    """What lies at the edge of a column's type, by name."""
    if column.kind == "numeric":
        yield from NUMBERS.items()
    elif column.kind == "boolean":
        yield from {"true": True, "false": False}.items()
    elif column.kind == "datetime":
        yield from TIMES.items()
    else:
        yield from TEXTS_AT_THE_EDGE.items()
    if column.nullable:
        yield "no value", None
        if column.kind in TEXTS:
            yield EMPTY, None


def _groups(names: list[str]) -> list[list[str]]:
    size = -(-len(names) // GROUPS)
    return [names[start : start + size] for start in range(0, len(names), size)]


def _unfit(column: Column) -> Iterator[tuple[str, str]]:
    """What a column does not take, as JSON, each with its name."""
    yield from {"a list in place of a value": "[1]", "an object in place of a value": '{"a": 1}'}.items()
    if not column.nullable:
        yield NOTHING, "null"
    yield from {"NaN": "NaN", "Infinity": "Infinity"}.items()
    if column.kind not in TEXTS:
        yield "a text in place of a number", f'"{UNSEEN}"'
        yield from {"a number beyond float64": "1e400", "a whole number of 400 digits": "1" + "0" * 400}.items()


def _filled(values: pl.Series, value: Any) -> pl.Series:
    """``values``, each of them ``value``; a time in seconds."""
    import polars as pl

    dtype = values.dtype
    if isinstance(value, float) and dtype.is_temporal():
        moments = pl.Series([round(value * 1e6)]).cast(pl.Datetime("us"))
        zone = getattr(dtype, "time_zone", None)
        one = moments.dt.replace_time_zone(zone).cast(dtype) if zone else moments.cast(dtype)
    else:
        one = pl.Series([value], dtype=dtype)
    return one.new_from_index(0, len(values)).alias(values.name)


def _floats(rows: pl.DataFrame, inputs: Iterable[Column]) -> pl.DataFrame:
    """Numbers as float64: what lies at the edge of it fits no whole number."""
    import polars as pl

    return rows.with_columns([rows[one.name].cast(pl.Float64) for one in inputs if one.kind == "numeric"])


def _json(value: Any) -> Any:
    """A value as ``/predict`` takes it."""
    if value == MISSING:
        return None
    return value.isoformat() if hasattr(value, "isoformat") else value


def _tensors(rows: pl.DataFrame, inputs: Iterable[Column]) -> bytes:
    """A body of tensors by the Open Inference Protocol."""
    tensors = []
    for one in inputs:
        values = feature_array(rows, one)
        texts = values.dtype == object
        data = values.tolist() if texts else [None if math.isnan(value) else value for value in values.tolist()]
        kind = "BYTES" if texts else "FP64"
        tensors.append({"name": one.name, "datatype": kind, "shape": [len(values), 1], "data": data})
    return json.dumps({"inputs": tensors}).encode()


def _said(status: int) -> str:
    return f"the status {status}" if status else "nothing at all"


def wrong_with(answers: Answers, evidence: Evidence) -> str:
    """What is wrong with answers by themselves."""
    import numpy as np

    parts = [answers.scores.reshape(len(answers.scores), -1), *([] if answers.ends is None else [answers.ends])]
    lost = ~np.isfinite(np.hstack(parts)).all(axis=1)
    if lost.any():
        return f"answers {int(lost.sum())} of {len(lost)} rows with what is no finite number"
    if evidence.task in ("binary", "multiclass"):
        if ((parts[0] < 0) | (parts[0] > 1)).any():
            return "answers a probability that is not between 0 and 1"
        if answers.scores.ndim == 2 and (np.abs(answers.scores.sum(axis=1) - 1) > CLOSE).any():
            return "answers probabilities that do not add up to 1"
    return ""


def wrong_predictions(raw: bytes, graph: Answers, evidence: Evidence) -> str:
    """What is wrong with a body of ``/predict`` for rows of which the graph says ``graph``."""
    import numpy as np

    try:
        told = json.loads(raw)["predictions"]
        if evidence.task in ("binary", "multiclass"):
            names = [category(one) for one in evidence.classes]
            found = np.array([[one["probabilities"][name] for name in names] for one in told], dtype=np.float64)
            labels = [ABSTAINED if one["label"] is None else names.index(category(one["label"])) for one in told]
            if wrong := wrong_with(Answers(found, None), evidence):
                return wrong
            alike = labels == (graph.decisions.tolist() if graph.decisions is not None else [])
            found = found[:, 1] if evidence.task == "binary" else found
        else:
            names = [f"quantile_{level:g}" for level in evidence.quantiles] or ["prediction"]
            found = np.array([[one[name] for name in names] for one in told], dtype=np.float64)
            alike, found = True, found if evidence.quantiles else found[:, 0]
    except (ValueError, KeyError, TypeError):
        return "answers what is no prediction"
    if found.shape != graph.scores.shape or not (differences(evidence.task, found, graph.scores) <= CLOSE).all():
        alike = False
    return "" if alike else "answers otherwise than the graph"
