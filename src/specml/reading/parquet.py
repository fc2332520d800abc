"""What the end of a Parquet file says of its size, before anything of it is unpacked.

https://github.com/apache/parquet-format: its metadata, in Thrift's compact protocol.
"""

from __future__ import annotations

import struct
from typing import Any

from specml.errors import DataCheckFailed

ROWS, GROUPS, COLUMNS, BYTES = 3, 4, 1, 2
"""Fields: of the file its rows and its groups of rows; of a group its columns and their bytes, unpacked."""
DEEPEST = 32


def unpacked_size(content: bytes, where: str) -> int:
    """Bytes that a Parquet file unpacks to, at least: what it says, and one for each value.

    Raises:
        DataCheckFailed: its end is damaged.
    """
    try:
        (length,) = struct.unpack("<I", content[-8:-4])
        said = _Compact(content[-8 - length : -8]).struct()
        groups = said.get(GROUPS, [])
        width = max((len(group[COLUMNS]) for group in groups), default=0)
        return max(sum(int(abs(group[BYTES])) for group in groups), int(abs(said[ROWS])) * width)
    except (struct.error, IndexError, KeyError, TypeError, AttributeError, ValueError):
        raise DataCheckFailed("can't be read as Parquet: its end is damaged.", where=where) from None


class _Compact:
    """Values of Thrift's compact protocol, one after another."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """Fields by their number."""
        found: dict[int, Any] = {}
        field = 0
        while head := self._byte():
            field = field + (head >> 4) if head >> 4 else self._number()
            found[field] = self._value(head & 15, depth)
        return found

    def _value(self, kind: int, depth: int) -> Any:
        if depth > DEEPEST:
            raise ValueError
        if kind in (1, 2):
            return kind == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            return self._number()
        if kind in (7, 8):
            length = 8 if kind == 7 else self._plain()
            if length > len(self._content) - self._at:
                raise ValueError
            self._at += length
            return self._content[self._at - length : self._at]
        if kind in (9, 10):
            head = self._byte()
            length = head >> 4 if head >> 4 < 15 else self._plain()
            return [self._byte() if head & 15 < 3 else self._value(head & 15, depth + 1) for _ in range(length)]
        if kind == 12:
            return self.struct(depth + 1)
        raise ValueError

    def _byte(self) -> int:
        self._at += 1
        return self._content[self._at - 1]

    def _plain(self) -> int:
        found, shift = 0, 0
        while (byte := self._byte()) & 128:
            found |= (byte & 127) << shift
            shift += 7
            if shift > 63:
                raise ValueError
        return found | byte << shift

    def _number(self) -> int:
        zigzag = self._plain()
        return zigzag >> 1 ^ -(zigzag & 1)
