"""The usual request, read fast; what is unusual in any way is read, or refused, by ``request`` and ``infer``.

Usual are rows and tensors in which nothing is wrong. All numbers of a request are read and checked at once, as one
block, and stay one until they have been put together with those of other requests. Whoever is refused waits a little
longer: there, values are looked at column by column, and the first that does not fit is told.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import orjson

from specml.serving.infer import HEADER_LENGTH, LARGEST, NUMBERS, Infer, column_of, read_infer, wanted
from specml.serving.refusal import Refused
from specml.serving.request import READ, Rows, blocked, keys, keys_stand_once, most_values, read_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from specml.bundle import Contract

NUMBER = {int, float, type(None)}
FLAG = {bool, type(None)}
FLOATS = {"FP32", "FP64"}

HEADERS = 64
"""Headers of binary requests that are remembered: clients send the same one again and again."""
HEADER_MOST = 16_384
"""Bytes of a header that is remembered."""


class Unusual(Exception):
    """The request is to be looked at closely."""


class _Plan(NamedTuple):
    """What the header of a binary request says."""

    places: list[int]
    """Of its tensors, in the block."""
    kind: str
    n: int
    outputs: tuple[tuple[str, bool], ...]
    keys: int
    """How many keys its objects have, but for the id."""


class Reader:
    """Reads requests for one contract, of at most ``max_rows`` rows."""

    def __init__(self, contract: Contract, max_rows: int, *, ignore_unknown: bool = False) -> None:
        self._contract, self._max_rows, self._ignore_unknown = contract, max_rows, ignore_unknown
        self._most = most_values(contract, max_rows)
        self._plain = contract.history is None and contract.image is None
        numbers = [column for column in contract.inputs if column.kind == "numeric"]
        flags = [column for column in contract.inputs if column.kind == "boolean"]
        self._others = [column for column in contract.inputs if column.kind not in ("numeric", "boolean")]
        self._first_flag, self._width = len(numbers), len(numbers) + len(flags)
        self._block = blocked(contract)
        self._needed = np.array([not column.nullable for column in (*numbers, *flags)], dtype=bool)
        self._place = {name: index for index, name in enumerate(self._block)}
        names = [*self._block, *(column.name for column in self._others)]
        self._names = names
        self._known = set(names)
        self._values: Callable[[Any], Any] = itemgetter(*names) if len(names) > 1 else _one(names[0])
        self._all = list(range(self._width))
        self._plans: OrderedDict[bytes, _Plan] = OrderedDict()

    def limit(self, max_rows: int) -> None:
        """Read so many rows at most from now on, for who holds this reader already, too."""
        self._max_rows, self._most = max_rows, most_values(self._contract, max_rows)
        self._plans.clear()  # they are not asked for their rows again

    @property
    def joins(self) -> bool:
        """Whether there is anything that ``together`` reads."""
        return self._plain and self._width > 0

    def rows(self, raw: bytes) -> Rows:
        """As ``request.read_rows``."""
        if self.joins:
            try:
                return self.together([raw])[0]
            except Unusual:
                pass
        return read_rows(raw, self._contract, self._max_rows, ignore_unknown=self._ignore_unknown)

    def together(self, raws: list[bytes]) -> tuple[Rows, list[int]]:
        """The rows of several requests, one after the other, and how many each has.

        Raises:
            Unusual: one of the requests is, or they are not alike: each is to be read by itself.
        """
        try:
            bodies = self._objects(raws)
            listed = "columns" in bodies[0]
            lists = [body["rows"] for body in bodies]
            columns = [body["columns"] for body in bodies] if listed else []
        except (KeyError, orjson.JSONDecodeError):
            raise Unusual from None
        if set(map(len, bodies)) != {1 + listed} or set(map(type, lists)) != {list}:
            raise Unusual
        counts = list(map(len, lists))
        if min(counts) == 0 or max(counts) > self._max_rows:
            raise Unusual
        rows = lists[0] if len(lists) == 1 else list(chain.from_iterable(lists))
        values = self._listed(rows, columns) if listed else self._named(rows, raws)
        if listed and all(map(self._plainly_numbers, raws)):
            return self._numbers(values), counts
        if listed and not keys_stand_once(b"".join(raws), 2 * len(raws)):
            raise Unusual
        return self._of_kinds(values), counts

    def infer(self, raw: bytes, headers: Mapping[str, str]) -> Infer:
        """As ``infer.read_infer``."""
        length = headers.get(HEADER_LENGTH)
        if self._width:
            try:
                return self._tensors(raw) if length is None else self._binary(raw, length)
            except (Unusual, orjson.JSONDecodeError, RecursionError):
                pass
        return read_infer(raw, length, self._contract, self._max_rows)

    def _of_kinds(self, values: list[Any]) -> Rows:
        """Rows of values in the order of ``_names``, of which some are no numbers."""
        width = self._width
        numbers = values if width == len(self._names) else [row[:width] for row in values]
        missing = self._kinds(numbers)
        if missing or len(values) == 1:
            block = np.array(numbers, dtype=np.float64)
        else:
            block = np.fromiter(chain.from_iterable(numbers), np.float64, len(values) * width).reshape(-1, width)
        others: dict[str, np.ndarray] = {}
        for place, column in enumerate(self._others, start=width):
            try:
                others[column.name] = READ[column.kind](column, [row[place] for row in values])
            except Exception:  # it is read again, and told
                raise Unusual from None
        return self._blocked(np.ascontiguousarray(block.T), others, missing=missing)

    def _plainly_numbers(self, raw: bytes) -> bool:
        """Whether the arrays in a body can hold nothing but numbers and null: no flag, and no text beside the names.

        Nor is any key said twice then. After the last text, to look for a sign is ten times as fast as to count them.
        """
        if self._first_flag != len(self._names):
            return False
        last = raw.rfind(b'"') + 1
        return (
            raw.count(b'"', 0, last) == 4 + 2 * len(self._names)
            and raw.count(b":", 0, last + 1) == 2
            and raw.find(b":", last + 1) < 0
            and raw.find(b"t", last) < 0
            and raw.find(b"f", last) < 0
            and b"true" not in raw[:last]
            and b"false" not in raw[:last]
        )

    def _numbers(self, rows: list[Any]) -> Rows:
        try:
            block = np.array(rows, dtype=np.float64)
        except (TypeError, ValueError):  # arrays within arrays
            raise Unusual from None
        if block.ndim != 2:
            raise Unusual
        return self._blocked(np.ascontiguousarray(block.T), {}, missing=True)

    def _named(self, rows: list[Any], raws: list[bytes]) -> list[Any]:
        """The values of objects in the order of ``_names``."""
        if set(map(type, rows)) != {dict}:
            raise Unusual
        said = sum(map(len, rows))
        if not keys_stand_once(b"".join(raws), len(raws) + said):
            raise Unusual
        return self._in_order(rows, said)

    def _listed(self, rows: list[Any], columns: list[Any]) -> list[Any]:
        """The values of arrays in the order of ``_names``; ``columns``: in which every body says that they stand."""
        first = columns[0]
        order = self._order(first)  # names, so that to compare it with another goes no deeper
        if (
            columns.count(first) != len(columns)
            or set(map(type, rows)) != {list}
            or set(map(len, rows)) != {len(first)}
        ):
            raise Unusual
        return rows if order is None else list(map(order, rows))

    def _order(self, columns: Any) -> Callable[[Any], Any] | None:
        """What brings the values of a row into the order of ``_names``; None where they stand so, as in training."""
        if columns == self._names:
            return None
        if type(columns) is not list:
            raise Unusual
        try:
            places = {name: place for place, name in enumerate(columns)}
            order = [places[name] for name in self._names]
        except (KeyError, TypeError):
            raise Unusual from None
        if len(order) != len(columns):
            raise Unusual
        return itemgetter(*order) if len(order) > 1 else _first

    def _in_order(self, rows: list[dict[str, Any]], said: int) -> list[tuple[Any, ...]]:
        """The values of each row in the order of ``_names``, None where none is said; ``said``: how many are."""
        try:
            values = list(map(self._values, rows))
        except KeyError:
            if not all(row.keys() <= self._known for row in rows):
                raise Unusual from None
            return [tuple(map(row.get, self._names)) for row in rows]
        if said != len(rows) * len(self._names):
            raise Unusual
        return values

    def _kinds(self, numbers: list[tuple[Any, ...]]) -> bool:
        """Make sure that numbers are numbers and flags flags; whether one of them is missing."""
        flag = self._first_flag
        if flag == self._width:
            found = set(map(type, chain.from_iterable(numbers)))
            flags: set[type] = set()
        else:
            found = set(map(type, chain.from_iterable([row[:flag] for row in numbers])))
            flags = set(map(type, chain.from_iterable([row[flag:] for row in numbers])))
        if not found <= NUMBER or not flags <= FLAG:
            raise Unusual
        return type(None) in found or type(None) in flags

    def _tensors(self, raw: bytes) -> Infer:
        """Tensors in JSON; all numbers of one shape."""
        body = self._object(raw)
        tensors = _dicts(body.get("inputs"))
        if not body.keys() <= {"inputs", "id", "outputs"} or type(body.get("id", "")) is not str:
            raise Unusual
        said = len(body) + 4 * len(tensors) + keys(body.get("outputs"))
        if sum(map(len, tensors)) != 4 * len(tensors) or not keys_stand_once(raw, said):
            raise Unusual
        others: list[Any] = []
        if self._others:
            if {type(tensor.get("name")) for tensor in tensors} != {str}:
                raise Unusual
            others = [tensor for tensor in tensors if tensor.get("name") not in self._place]
            tensors = [tensor for tensor in tensors if tensor.get("name") in self._place]
        try:
            names, shapes, kinds, data = zip(*map(_TENSOR, tensors), strict=True)
        except (KeyError, ValueError):
            raise Unusual from None
        n, places = self._shaped(shapes), self._places(names)
        if set(map(type, data)) != {list} or set(map(len, data)) != {n} or set(map(type, kinds)) != {str}:
            raise Unusual
        found = set(map(type, chain.from_iterable(data)))
        if not FLOATS.issuperset(kinds) or not found <= NUMBER:
            raise Unusual
        sent = np.array(data, dtype=np.float64)
        if "FP32" in kinds and (np.abs(sent) > LARGEST["FP32"]).any():
            raise Unusual
        block = self._placed(sent, places)
        columns = self._texts(others, n)
        rows = self._blocked(block, columns, missing=type(None) in found or len(places) < self._width)
        return Infer(rows, body.get("id"), wanted(body, self._contract))

    def _texts(self, tensors: list[Any], n: int) -> dict[str, np.ndarray]:
        """The columns that are not in the block."""
        if not self._others:
            return {}
        try:
            sent = {tensor["name"]: tensor for tensor in tensors}
            if len(sent) != len(tensors) or sent.keys() != {column.name for column in self._others}:
                raise Unusual
            return {one.name: column_of(sent[one.name], one, n) for one in self._others}
        except (KeyError, TypeError, Refused):
            raise Unusual from None

    def _binary(self, raw: bytes, length: str) -> Infer:
        """Tensors in the binary part alone; all numbers, of one type and shape, for a model that takes no texts."""
        if self._others or not length.isascii() or not length.isdigit() or len(length) > 12 or int(length) > len(raw):
            raise Unusual
        header, identity = raw[: int(length)], None
        plan = self._plans.get(header)
        if plan is None:
            body = self._object(header)
            identity = body.pop("id", None)
            plan = self._plan(orjson.dumps(body), body)
            known = type(identity) is str
            if not known and identity is not None:
                raise Unusual
            if not keys_stand_once(header, plan.keys + known):
                raise Unusual
            if not known:
                self._remember(header, plan)
        dtype = NUMBERS[plan.kind]
        if len(raw) - len(header) != len(plan.places) * plan.n * dtype.itemsize:
            raise Unusual
        sent = np.frombuffer(raw, dtype, offset=len(header)).reshape(len(plan.places), plan.n).astype(np.float64)
        finite = bool(np.isfinite(sent).all())
        if not finite and np.isinf(sent).any():
            raise Unusual
        missing = not finite or len(plan.places) < self._width
        return Infer(self._blocked(self._placed(sent, plan.places), {}, missing=missing), identity, plan.outputs)

    def _plan(self, header: bytes, body: dict[str, Any]) -> _Plan:
        """What a header says; ``body``: the same, parsed."""
        known = self._plans.get(header)
        if known is not None:
            return known
        tensors = _dicts(body.get("inputs"))
        if sum(map(len, tensors)) != 4 * len(tensors):
            raise Unusual
        try:
            names, shapes, kinds, parameters = zip(*map(_BINARY, tensors), strict=True)
            sizes = [one["binary_data_size"] for one in parameters if len(one) == 1]
        except (KeyError, TypeError):
            raise Unusual from None
        n, places, kind = self._shaped(shapes), self._places(names), kinds[0]
        if kind not in ("FP32", "FP64") or kinds.count(kind) != len(kinds):
            raise Unusual
        size = n * NUMBERS[kind].itemsize
        if set(map(type, sizes)) != {int} or sizes.count(size) != len(tensors):
            raise Unusual
        # The ways to be wrong in what else stands there are many: it is looked at closely once.
        zeros = bytes(size * len(tensors))
        try:
            outputs = read_infer(header + zeros, str(len(header)), self._contract, self._max_rows).outputs
        except Refused:
            raise Unusual from None
        plan = _Plan(places, kind, n, outputs, keys(body))
        self._remember(header, plan)
        return plan

    def _remember(self, header: bytes, plan: _Plan) -> None:
        if len(header) <= HEADER_MOST:
            self._plans[header] = plan
            if len(self._plans) > HEADERS:
                self._plans.popitem(last=False)

    def _objects(self, raws: list[bytes]) -> list[dict[str, Any]]:
        if max(map(len, raws)) > self._most:
            return list(map(self._object, raws))
        bodies = list(map(orjson.loads, raws))
        if set(map(type, bodies)) != {dict}:
            raise Unusual
        return bodies

    def _object(self, raw: bytes) -> dict[str, Any]:
        if len(raw) > self._most and raw.count(b",") + raw.count(b"[") + raw.count(b"{") > self._most:
            raise Unusual
        body = orjson.loads(raw)
        if type(body) is not dict:
            raise Unusual
        return body

    def _shaped(self, shapes: tuple[Any, ...]) -> int:
        """The rows that all tensors have."""
        shape = shapes[0]
        if type(shape) is not list or shapes.count(shape) != len(shapes):
            raise Unusual
        if set(map(type, chain.from_iterable(shapes))) != {int} or shape[1:] not in ([], [1]):  # true is no size
            raise Unusual
        if not 0 < shape[0] <= self._max_rows:
            raise Unusual
        return int(shape[0])

    def _places(self, names: tuple[Any, ...]) -> list[int]:
        try:
            places = [self._place[name] for name in names]
        except (KeyError, TypeError):
            raise Unusual from None
        if len(set(places)) != len(places):
            raise Unusual
        return places

    def _placed(self, sent: np.ndarray, places: list[int]) -> np.ndarray:
        """The block; a column that was not sent is missing."""
        if places == self._all:
            return sent
        block = np.full((self._width, sent.shape[1]), np.nan)
        block[places] = sent
        return block

    def _blocked(self, block: np.ndarray, columns: dict[str, np.ndarray], *, missing: bool) -> Rows:
        if missing and np.isnan(block).any() and np.isnan(block[self._needed]).any():
            raise Unusual
        return Rows(block.shape[1], columns, block, self._block)


_TENSOR = itemgetter("name", "shape", "datatype", "data")
_BINARY = itemgetter("name", "shape", "datatype", "parameters")


def _dicts(tensors: Any) -> list[dict[str, Any]]:
    if type(tensors) is not list or not tensors or set(map(type, tensors)) != {dict}:
        raise Unusual
    return tensors


def _first(row: list[Any]) -> tuple[Any, ...]:
    return (row[0],)


def _one(name: str) -> Callable[[Any], Any]:
    return lambda row: (row[name],)
