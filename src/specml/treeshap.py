"""Trees of any library in LightGBM's text, whose ``pred_contrib`` explains them by exact TreeSHAP.

TreeSHAP (Lundberg et al. 2020, *From local explanations to global understanding with explainable AI for trees*) asks of
a tree its questions, its leaves and how many training rows came to each. LightGBM counts in whole numbers: shares of
weighted rows are told as shares of ``WHOLE``, and a leaf that no row came to as one row of so many.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from specml import booster
from specml.kinds import Native

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np

    from specml.bundle import Space
    from specml.data import Task
    from specml.trees import Ensemble

SPACE: dict[Task, Space] = {"binary": "log_odds", "multiclass": "score", "regression": "prediction"}
"""What the trees of boosting add up to."""
WHOLE = 2**30
NAN, DEFAULT_LEFT, CATEGORICAL = 8, 2, 1
"""Bits of LightGBM's ``decision_type``: NaN is what is missing; that goes to the left; the split has a set."""


def native(ensemble: Ensemble, space: Space, columns: int, base: Sequence[float] = ()) -> Native | None:
    """What explains ``base`` [width] and the trees, of a design with so many ``columns``.

    None: they are too large or too deep, or send missing categories and those beyond to different sides, which LightGBM
    can't.
    """
    if len(ensemble.leaf_value) > booster.MOST_LEAVES or any(left[0] != left[-1] for left in ensemble.sets.values()):
        return None
    turns: list[list[booster.Tree]] = [[] for _ in range(ensemble.width)]
    for target, value in enumerate(base):
        turns[target].append(booster.Tree(leaf_value=[float(value)]))
    for tree, values in _grown(ensemble):
        for target in sorted({target for leaf in values for target in leaf}):
            turns[target].append(replace(tree, leaf_value=[leaf.get(target, 0.0) for leaf in values]))
    rounds = max(1, *(len(one) for one in turns))
    none = booster.Tree(leaf_value=[0.0])
    in_turn = [one[number] if number < len(one) else none for number in range(rounds) for one in turns]
    return told(booster.text(in_turn, columns, ensemble.width), space)


def told(text: bytes, space: Space) -> Native | None:
    """What explains by a text of ``booster``; None: its trees are too many or too deep, and the graph is asked."""
    return Native("tree_shap", space, text) if booster.modest(text) else None


def _grown(ensemble: Ensemble) -> Iterator[tuple[booster.Tree, list[dict[int, float]]]]:
    """Each tree, and the values of its leaves by their place."""
    values: dict[tuple[int, int], dict[int, float]] = {}
    leaves = zip(ensemble.leaf_tree, ensemble.leaf_node, ensemble.leaf_target, ensemble.leaf_value, strict=True)
    for tree, node, target, value in leaves:
        values.setdefault((tree, node), {})[target] = value
    places: dict[int, dict[int, int]] = {}
    for place, (tree, node) in enumerate(zip(ensemble.tree, ensemble.node, strict=True)):
        places.setdefault(tree, {})[node] = place
    for tree, found in places.items():
        made, nodes = _numbered(ensemble, tree, found)
        yield made, [values.get((tree, node), {}) for node in nodes]


def _numbered(ensemble: Ensemble, tree: int, places: dict[int, int]) -> tuple[booster.Tree, list[int]]:
    """A tree with its splits numbered 0, 1, … and its leaves -1, -2, … from the root on, and the leaves' nodes."""
    made = booster.Tree()
    children: list[list[int]] = []
    leaves, covers = [], []
    waiting: list[tuple[int, int, int]] = [(0, -1, 0)]
    while waiting:
        node, parent, side = waiting.pop()
        place = places[node]
        if ensemble.mode[place] == "LEAF":
            leaves.append(node)
            covers.append(ensemble.cover[place])
            number = -len(leaves)
        else:
            number, below = len(children), (ensemble.left[place], ensemble.right[place])
            children.append([0, 0])
            missing_left = ensemble.missing_goes_left[place]
            left, limit, decision = ensemble.sets.get((tree, node)), ensemble.threshold[place], NAN
            if left is None:
                decision |= DEFAULT_LEFT * missing_left
            else:
                # What is missing or beyond goes to LightGBM's right.
                below = below[::-1] if missing_left else below
                limit, decision = len(made.sets), CATEGORICAL | NAN
                made.sets.append(_words(left != left[0]))
            made.split_feature.append(ensemble.feature[place])
            made.threshold.append(limit)
            made.decision_type.append(decision)
            waiting += [(below[1], number, 1), (below[0], number, 0)]
        if parent >= 0:
            children[parent][side] = number
    made.left_child, made.right_child = ([pair[side] for pair in children] for side in (0, 1))
    made.leaf_count = _whole(covers)
    counts = [0] * len(children)
    for number in range(len(children) - 1, -1, -1):
        counts[number] = sum(made.leaf_count[-1 - child] if child < 0 else counts[child] for child in children[number])
    made.internal_count = counts
    return made, leaves


def _whole(covers: list[float]) -> list[int]:
    total = sum(covers)
    if total < WHOLE and all(cover >= 1 and cover == int(cover) for cover in covers):
        return [int(cover) for cover in covers]
    return [max(1, round(cover / total * WHOLE)) if total > 0 else 1 for cover in covers]


def _words(members: np.ndarray) -> list[int]:
    """The set of codes -1, 0, 1, … for which ``members`` is true, as words of 32 bits from code 0 on."""
    import numpy as np

    bits = np.zeros(-(-(len(members) - 1) // 32) * 32, dtype=bool)
    bits[: len(members) - 1] = members[1:]
    return [int(word) for word in np.packbits(bits, bitorder="little").view("<u4")]
