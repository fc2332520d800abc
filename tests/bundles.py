"""Small bundles with weights that one can check by hand, made without any training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from specml.bundle import RELEASE, Contract, write_bundle
from specml.data import Column
from specml.files import canonical_json, digest, write_atomic
from specml.graph import Graph

if TYPE_CHECKING:
    from pathlib import Path

COLUMNS = (
    Column(name="age", kind="numeric", integral=True, minimum=17, maximum=90),
    Column(name="hours", kind="numeric", nullable=True, minimum=1.0, maximum=99.0),
    Column(name="member", kind="boolean"),
    Column(name="workclass", kind="categorical", nullable=True, categories=("1", "Private", "State-gov")),
)


def binary_bundle(
    folder: Path,
    *,
    weight: float = 0.05,
    classes: tuple[str | int | float | bool, ...] = (0, 1),
    category: str = "Private",
) -> str:
    """p = sigmoid(weight * (age - 40) + 0.01 * hours (0 where missing) + member + (workclass == category)).

    Returns the digest.
    """
    from onnx import TensorProto

    graph = Graph("census")
    x = {
        column.name: graph.input(column.name, "string" if column.kind == "categorical" else "float64")
        for column in COLUMNS
    }
    zero = graph.constant(np.zeros(1))
    hours = graph.node("Where", graph.node("IsNaN", x["hours"]), zero, x["hours"])
    private = graph.node(
        "LabelEncoder",
        x["workclass"],
        domain="ai.onnx.ml",
        keys_strings=[category],
        values_int64s=[1],
        default_int64=0,
    )
    private = graph.node("Cast", private, to=TensorProto.DOUBLE)
    terms = [
        graph.node(
            "Mul", graph.node("Sub", x["age"], graph.constant(np.array([40.0]))), graph.constant(np.array([weight]))
        ),
        graph.node("Mul", hours, graph.constant(np.array([0.01]))),
        x["member"],
        private,
    ]
    z = terms[0]
    for term in terms[1:]:
        z = graph.node("Add", z, term)
    p = graph.node("Sigmoid", z)
    both = graph.node("Concat", graph.node("Sub", graph.constant(np.ones(1)), p), p, axis=1)
    positive = graph.node(
        "Cast", graph.node("GreaterOrEqual", p, graph.constant(np.array([0.5]))), to=TensorProto.INT64
    )
    positive = graph.node("Squeeze", positive, graph.constant(np.array([1], dtype=np.int64)))
    label = graph.node(
        "LabelEncoder",
        positive,
        domain="ai.onnx.ml",
        keys_int64s=[0, 1],
        values_strings=[str(label) for label in classes],
        default_string="?",
    )
    graph.output("probabilities", graph.node("Cast", both, to=TensorProto.FLOAT), "float32", 2)
    graph.output("label", label, "string")
    contract = Contract(
        name="census",
        task="binary",
        target="income",
        inputs=COLUMNS,
        classes=classes,
        threshold=0.5,
        candidate="by_hand",
    )
    return write_bundle(folder, contract, graph.to_bytes(), {})


def regression_bundle(folder: Path) -> str:
    """prediction = 2 * area; returns the digest."""
    from onnx import TensorProto

    graph = Graph("rent")
    area = graph.input("area", "float64")
    doubled = graph.node("Mul", area, graph.constant(np.array([2.0])))
    flat = graph.node("Squeeze", doubled, graph.constant(np.array([1], dtype=np.int64)))
    graph.output("prediction", graph.node("Cast", flat, to=TensorProto.FLOAT), "float32")
    contract = Contract(
        name="rent",
        task="regression",
        target="price",
        inputs=(Column(name="area", kind="numeric", minimum=10.0, maximum=200.0),),
        candidate="by_hand",
    )
    return write_bundle(folder, contract, graph.to_bytes(), {})


def probability(row: dict[str, object], weight: float = 0.05) -> float:
    """What ``binary_bundle`` predicts for a row, computed beside the graph."""
    z = weight * (float(row["age"]) - 40.0) + 0.01 * float(row.get("hours") or 0.0)  # type: ignore[arg-type]
    z += bool(row["member"]) + (row.get("workclass") == "Private")
    return float(1 / (1 + np.exp(-z)))


def release(project: Path, *, admitted: bool = True, gates: dict[str, str] | None = None) -> None:
    """Say that the project's bundle, as it is now, was judged."""
    told = {
        "name": "census",
        "bundle": digest(project / "artifacts/bundle/manifest.json"),
        "candidate": "by_hand",
        "admitted": admitted,
        "gates": gates or {"baseline": "holds"},
    }
    write_atomic(project / RELEASE, canonical_json(told))
