"""Functions of one number that are straight between points and level beyond them, in Python and in the graph alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from specml.graph import Graph


def straight(x: Sequence[float], y: Sequence[float], at: np.ndarray) -> np.ndarray:
    """float64 [n]: the value at each of ``at`` [n]; ``x`` rises."""
    import numpy as np

    ends, heights, slopes = _pieces(x, y)
    at = np.clip(at, ends[0], ends[-1])
    place = np.maximum((at[:, None] >= ends[:-1]).sum(axis=1) - 1, 0)
    return np.asarray(heights[place] + (at - ends[place]) * slopes[place])


def straight_in(graph: Graph, x: Sequence[float], y: Sequence[float], value: str) -> str:
    """The same of a float64 ``value`` [n, 1]; returns another."""
    import numpy as np

    ends, heights, slopes = _pieces(x, y)
    p = graph.node("Clip", value, graph.constant(ends[0]), graph.constant(ends[-1]))
    passed = graph.node("Cast", graph.node("GreaterOrEqual", p, graph.constant(ends[None, :-1])), to=7)
    first = graph.constant(np.array([1]))
    place = graph.node("Sub", graph.node("ReduceSum", passed, first, keepdims=1), first)
    # A NaN passes no piece.
    place = graph.node("Max", place, graph.constant(np.array([0])))
    start, height, slope = (graph.node("Gather", graph.constant(one), place) for one in (ends[:-1], heights, slopes))
    return graph.node("Add", height, graph.node("Mul", graph.node("Sub", p, start), slope))


def _pieces(x: Sequence[float], y: Sequence[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ends [m], heights there [m], and slopes [m - 1]; at least one piece, level where there was a point only."""
    import numpy as np

    ends, heights = np.array(x), np.array(y)
    if len(ends) == 1:
        ends, heights = np.array([ends[0], ends[0] + 1]), np.array([heights[0], heights[0]])
    return ends, heights, np.diff(heights) / np.diff(ends)
