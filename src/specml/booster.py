"""LightGBM's text format, reduced to what decides and explains, and read with suspicion.

LightGBM trusts its own text: an index beyond a list is read from memory that is somebody else's. So a text from
a bundle is audited before LightGBM sees it, and may hold nothing but what ``slim`` leaves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD = (
    "version", "num_class", "num_tree_per_iteration", "label_index", "max_feature_idx", "feature_names", "feature_infos"
)  # fmt: skip
NODES = ("split_feature", "threshold", "decision_type", "left_child", "right_child", "internal_count")
"""Lists with an entry for each split of a tree."""
LEAVES = ("leaf_value", "leaf_count")
TREE = ("num_leaves", "num_cat", *NODES, *LEAVES, "is_linear", "shrinkage")
LARGEST = 1_000_000
"""Splits of one tree."""


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


def has_sets(text: str) -> bool:
    """Whether a split of LightGBM's text parts categories into sets, which no bundle's text may."""
    return any(line.startswith("num_cat=") and line != "num_cat=0" for line in text.splitlines())


def _names(width: int) -> str:
    return " ".join(f"x{i}" for i in range(width))


def _ranges(width: int) -> str:
    return " ".join(["none"] * width)


def audit(raw: bytes, width: int, outputs: int) -> None:
    """Make sure that LightGBM can read a text without leaving it.

    ``width``: columns of the design; ``outputs``: scores of a row, for which the trees take turns.

    Raises:
        ValueError: it holds what ``slim`` would not have left, or an index that points nowhere.
    """
    try:
        text = raw.decode("ascii")
    except UnicodeDecodeError:
        raise ValueError("it is not ASCII text") from None
    if not text.startswith("tree\n") or not text.endswith("\n\nend of trees\n"):
        raise ValueError("it does not begin or end as one")
    head, *trees = text[len("tree\n") : -len("\n\nend of trees\n")].split("\n\n")
    _audit_head(_fields(head, HEAD), width, outputs)
    if not trees or len(trees) % outputs:
        raise ValueError(f"{len(trees)} trees do not give {outputs} scores")
    for number, tree in enumerate(trees):
        name, _, rest = tree.partition("\n")
        if name != f"Tree={number}":
            raise ValueError(f"tree {number} is called {name[:40]!r}")
        _audit_tree(_fields(rest, TREE), width)


def _audit_head(head: dict[str, str], width: int, outputs: int) -> None:
    wanted = {
        "version": "v4",
        "num_class": str(outputs),
        "num_tree_per_iteration": str(outputs),
        "label_index": "0",
        "max_feature_idx": str(width - 1),
        "feature_names": _names(width),
        "feature_infos": _ranges(width),
    }
    for key, value in wanted.items():
        if head.get(key) != value:
            raise ValueError(f"{key} is not {value[:40]!r}")


def _audit_tree(tree: dict[str, str], width: int) -> None:
    leaves = _whole(tree.get("num_leaves", ""))
    if not 1 <= leaves <= LARGEST or tree.get("num_cat") != "0" or tree.get("is_linear") != "0":
        raise ValueError("a tree is of no kind that is known here")
    splits = leaves - 1
    lists = {key: tree.get(key, "").split(" ") if tree.get(key) else [] for key in (*NODES, *LEAVES)}
    for key, values in lists.items():
        # A tree of one leaf says nothing more of it than its value.
        expected = {splits} if key in NODES else {leaves} if splits or key == "leaf_value" else {0, 1}
        if len(values) not in expected:
            raise ValueError(f"{key} has {len(values)} entries in a tree of {leaves} leaves")
    for key in ("threshold", "leaf_value"):
        for value in lists[key]:
            float(value)
    for key in ("internal_count", "leaf_count"):
        for value in lists[key]:
            _whole(value)
    if any(_whole(value) not in range(0, 16, 2) for value in lists["decision_type"]):
        raise ValueError("a split is of no kind that is known here")
    if any(not 0 <= _whole(value) < width for value in lists["split_feature"]):
        raise ValueError("a split is on a column that the design does not have")
    _audit_children([(_whole(a), _whole(b)) for a, b in zip(lists["left_child"], lists["right_child"], strict=True)])


def _audit_children(children: list[tuple[int, int]]) -> None:
    """Every split but the first and every leaf is the child of one split, and a split of an earlier one."""
    seen = set()
    for number, pair in enumerate(children):
        for child in pair:
            if child in seen or not (number < child < len(children) or -len(children) - 1 <= child < 0):
                raise ValueError("its splits form no tree")
            seen.add(child)


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
