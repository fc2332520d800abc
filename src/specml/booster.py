"""LightGBM's text format, reduced to what decides and explains, written for any trees, and read with suspicion.

LightGBM trusts its own text: an index beyond a list is read from memory that is somebody else's. So a text from
a bundle is audited before LightGBM sees it, and may hold nothing but what ``slim`` leaves.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

HEAD = (
    "version", "num_class", "num_tree_per_iteration", "label_index", "max_feature_idx", "feature_names", "feature_infos"
)  # fmt: skip
NODES = ("split_feature", "threshold", "decision_type", "left_child", "right_child", "internal_count")
"""Lists with an entry for each split of a tree."""
LEAVES = ("leaf_value", "leaf_count")
SETS = ("cat_boundaries", "cat_threshold")
"""Sets of categories, as words of 32 bits: where each begins among the words, and the words."""
TREE = ("num_leaves", "num_cat", *NODES, *LEAVES, *SETS, "is_linear", "shrinkage")
LARGEST = 1_000_000
"""Leaves of one tree."""
MOST_LEAVES = 250_000
"""Beyond, a text takes seconds to audit and a row seconds to explain; asking the graph is faster."""
MOST_EFFORT = 2**27
"""Squared depths of all leaves, summed: what TreeSHAP takes for a row. In one chain of thousands of splits LightGBM
writes beyond its memory; this allows 736."""
NUMBER = re.compile(r"-?[0-9]+(\.[0-9]*)?(e[-+]?[0-9]+)?")


def slim(text: str) -> bytes:
    """LightGBM's text without gains, weights, ranges of the training rows, names of columns, objective and parameters.

    Scores and ``pred_contrib`` stay the same to the last bit.
    """
    lines = ["tree"]
    for line in text[: text.index("end of trees")].splitlines():
        key, _, value = line.partition("=")
        width = len(value.split())
        if key == "Tree":
            lines += ["", line]
        elif key == "feature_names":
            lines.append(f"{key}={_names(width)}")
        elif key == "feature_infos":
            lines.append(f"{key}={_ranges(width)}")
        elif key in HEAD or key in TREE:
            lines.append(line)
    return "\n".join([*lines, "", "end of trees", ""]).encode()


@dataclass
class Tree:
    """A tree as LightGBM tells it: splits 0, 1, … and leaves -1, -2, …, with how many rows came to each."""

    split_feature: list[int] = field(default_factory=list)
    threshold: list[float] = field(default_factory=list)
    """What ``x <= threshold`` goes to the left; of a split with a set, its place in ``sets``."""
    decision_type: list[int] = field(default_factory=list)
    left_child: list[int] = field(default_factory=list)
    right_child: list[int] = field(default_factory=list)
    internal_count: list[int] = field(default_factory=list)
    leaf_value: list[float] = field(default_factory=list)
    leaf_count: list[int] = field(default_factory=list)
    sets: list[list[int]] = field(default_factory=list)
    """Categories that go to the left, as words of 32 bits."""

    def lines(self) -> Iterator[str]:
        """Its part of the text."""
        yield f"num_leaves={len(self.leaf_value)}"
        yield f"num_cat={len(self.sets)}"
        for key in (*NODES, *LEAVES):
            if values := getattr(self, key):
                yield f"{key}={' '.join(map(repr, values))}"
        if self.sets:
            yield f"cat_boundaries={' '.join(map(str, accumulate(map(len, self.sets), initial=0)))}"
            yield f"cat_threshold={' '.join(str(word) for one in self.sets for word in one)}"
        yield "is_linear=0"
        yield "shrinkage=1"


def text(trees: Iterable[Tree], width: int, outputs: int) -> bytes:
    """The text of trees that take turns for the ``outputs``, over a design of ``width`` columns."""
    parts = (["", f"Tree={number}", *tree.lines()] for number, tree in enumerate(trees))
    return _closed([line for part in parts for line in part], width, outputs)


def merged(parts: Sequence[tuple[bytes, float, Sequence[int]]], width: int, outputs: int) -> bytes:
    """The text whose scores are the sum of those of texts of this form, each times a weight.

    With each text come its weight and, for each of its columns, the column of the design of ``width`` columns.
    """
    lines, number = [], 0
    for raw, weight, places in parts:
        for line in raw.decode("ascii").removesuffix("\nend of trees\n").split("\n\n", 1)[1].splitlines():
            key, _, value = line.partition("=")
            if key == "Tree":
                lines += ["", f"Tree={number}"]
                number += 1
            elif key == "split_feature":
                lines.append(f"{key}={' '.join(str(places[int(one)]) for one in value.split())}")
            elif key == "leaf_value":
                lines.append(f"{key}={' '.join(repr(float(one) * weight) for one in value.split())}")
            elif line:
                lines.append(line)
    return _closed(lines, width, outputs)


def outputs(raw: bytes) -> int:
    """How many scores the trees of a text of this form take turns for."""
    head = dict(_pairs(raw.partition(b"\n\n")[0].decode("ascii")))
    return int(head["num_tree_per_iteration"])


def modest(raw: bytes) -> bool:
    """Whether the trees of a text of this form are few and shallow enough to explain by."""
    trees = [dict(_pairs(tree)) for tree in raw.decode("ascii").split("\n\n")[1:]]
    if sum(int(tree.get("num_leaves", "0")) for tree in trees) > MOST_LEAVES:
        return False
    return sum(_audit_children(_children(tree)) for tree in trees) <= MOST_EFFORT


def _closed(trees: list[str], width: int, outputs: int) -> bytes:
    head = [f"{key}={value}" for key, value in _head(width, outputs).items()]
    return "\n".join(["tree", *head, *trees, "", "end of trees", ""]).encode()


def _head(width: int, outputs: int) -> dict[str, str]:
    return {
        "version": "v4",
        "num_class": str(outputs),
        "num_tree_per_iteration": str(outputs),
        "label_index": "0",
        "max_feature_idx": str(width - 1),
        "feature_names": _names(width),
        "feature_infos": _ranges(width),
    }


def _names(width: int) -> str:
    return " ".join(f"x{i}" for i in range(width))


def _ranges(width: int) -> str:
    return " ".join(["none"] * width)


def audit(raw: bytes, width: int, outputs: int) -> None:
    """Make sure that LightGBM can read a text without leaving it.

    ``width``: columns of the design; ``outputs``: scores of a row, for which the trees take turns.

    Raises:
        ValueError: it holds what ``slim`` would not have left, an index that points nowhere, or trees so deep that
            they take more than ``MOST_EFFORT``.
    """
    try:
        text = raw.decode("ascii")
    except UnicodeDecodeError:
        raise ValueError("it is not ASCII text") from None
    # LightGBM ends lines at carriage returns too, and texts at zeros.
    if not text.replace("\n", "").isprintable():
        raise ValueError("it holds control characters")
    if not text.startswith("tree\n") or not text.endswith("\n\nend of trees\n"):
        raise ValueError("it does not begin or end as one")
    head, *trees = text[len("tree\n") : -len("\n\nend of trees\n")].split("\n\n")
    _audit_head(_fields(head, HEAD), width, outputs)
    if not trees or len(trees) % outputs:
        raise ValueError(f"{len(trees)} trees do not give {outputs} scores")
    effort = 0
    for number, tree in enumerate(trees):
        name, _, rest = tree.partition("\n")
        if name != f"Tree={number}":
            raise ValueError(f"tree {number} is called {name[:40]!r}")
        effort += _audit_tree(_fields(rest, TREE), width)
    if effort > MOST_EFFORT:
        raise ValueError("its trees are too deep")


def _audit_head(head: dict[str, str], width: int, outputs: int) -> None:
    for key, value in _head(width, outputs).items():
        if head.get(key) != value:
            raise ValueError(f"{key} is not {value[:40]!r}")


def _audit_tree(tree: dict[str, str], width: int) -> int:
    """What explaining by it takes."""
    leaves = _whole(tree.get("num_leaves", ""))
    if not 1 <= leaves <= LARGEST or tree.get("is_linear") != "0":
        raise ValueError("a tree is of no kind that is known here")
    splits = leaves - 1
    lists = {key: _entries(tree, key) for key in (*NODES, *LEAVES)}
    for key, values in lists.items():
        # A tree of one leaf says nothing more of it than its value.
        expected = {splits} if key in NODES else {leaves} if splits or key == "leaf_value" else {0, 1}
        if len(values) not in expected:
            raise ValueError(f"{key} has {len(values)} entries in a tree of {leaves} leaves")
    finite = [value for value in lists["threshold"] if value not in {"inf", "-inf"}]
    for value in (*finite, *lists["leaf_value"], tree.get("shrinkage", "")):
        if not NUMBER.fullmatch(value) or not math.isfinite(float(value)):
            raise ValueError(f"{value[:40]!r} is no finite number")
    if any(not 0 <= _whole(value) < 2**31 for key in ("internal_count", "leaf_count") for value in lists[key]):
        raise ValueError("a count of rows has more than 31 bits, or is negative")
    _audit_splits(lists, _audit_sets(tree, splits))
    if any(not 0 <= _whole(value) < width for value in lists["split_feature"]):
        raise ValueError("a split is on a column that the design does not have")
    return _audit_children(_children(tree))


def _children(tree: dict[str, str]) -> list[tuple[int, int]]:
    left, right = (_entries(tree, key) for key in ("left_child", "right_child"))
    return [(_whole(a), _whole(b)) for a, b in zip(left, right, strict=True)]


def _entries(tree: dict[str, str], key: str) -> list[str]:
    return tree[key].split(" ") if tree.get(key) else []


def _audit_splits(lists: dict[str, list[str]], sets: int) -> None:
    """Every split compares, or parts categories by one of the tree's sets."""
    kinds = [_whole(value) for value in lists["decision_type"]]
    if any(kind not in range(16) or (kind % 2 and not sets) for kind in kinds):
        raise ValueError("a split is of no kind that is known here")
    parting = [value for value, kind in zip(lists["threshold"], kinds, strict=True) if kind % 2]
    if any(not 0 <= _whole(value) < sets for value in parting):
        raise ValueError("a split is by a set that the tree does not have")


def _audit_sets(tree: dict[str, str], splits: int) -> int:
    """How many sets of categories a tree has; each lies within its words."""
    sets = _whole(tree.get("num_cat", ""))
    ends, words = ([_whole(value) for value in _entries(tree, key)] for key in SETS)
    if not 0 <= sets <= splits or len(ends) != (sets + 1 if sets else 0):
        raise ValueError(f"cat_boundaries has {len(ends)} entries for {sets} sets")
    if (ends or [0])[0] != 0 or (ends or [0])[-1] != len(words) or any(a > b for a, b in pairwise(ends)):
        raise ValueError("its sets do not lie within their words")
    if any(not 0 <= word < 2**32 for word in words):
        raise ValueError("a word of a set has more than 32 bits")
    return sets


def _audit_children(children: list[tuple[int, int]]) -> int:
    """Every split but the first and every leaf is the child of one split, and a split of an earlier one.

    Returns the sum of the leaves' squared depths.
    """
    seen, depth, effort = set(), [1] * len(children), 0
    for number, pair in enumerate(children):
        for child in pair:
            if child in seen or not (number < child < len(children) or -len(children) - 1 <= child < 0):
                raise ValueError("its splits form no tree")
            seen.add(child)
            if child >= 0:
                depth[child] = depth[number] + 1
            else:
                effort += depth[number] ** 2
    return effort


def _fields(text: str, known: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in _pairs(text):
        if key not in known or key in found:
            raise ValueError(f"it says {key[:40]!r}, or says it twice")
        found[key] = value
    return found


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for line in text.split("\n"):
        key, _, value = line.partition("=")
        yield key, value


def _whole(text: str) -> int:
    digits = text.removeprefix("-")
    if not digits.isdecimal() or len(digits) > 10:
        raise ValueError(f"{text[:40]!r} is no whole number")
    return int(text)
