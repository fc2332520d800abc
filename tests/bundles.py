"""Small bundles with weights that one can check by hand, made without any training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from specml.bundle import RELEASE, Contract, open_bundle, write_bundle
from specml.data import Column, Design, PastRows, feature_array, past
from specml.features.boolean import Boolean
from specml.features.categorical import Categorical
from specml.features.numeric import Numeric
from specml.files import canonical_json, digest, write_atomic
from specml.graph import Graph
from specml.kinds import Training
from specml.preprocessing import Preprocessing
from specml.stages.explore import describe

if TYPE_CHECKING:
    from pathlib import Path

    from specml.bundle import Bundle
    from specml.data import Task
    from specml.graph import Trees
    from specml.kinds import Model

COLUMNS = (
    Column(name="age", kind="numeric", integral=True, minimum=17, maximum=90),
    Column(name="hours", kind="numeric", nullable=True, minimum=1.0, maximum=99.0),
    Column(name="member", kind="boolean"),
    Column(name="workclass", kind="categorical", nullable=True, categories=("1", "Private", "State-gov")),
)

DESCRIBED = {
    "age": describe(pl.Series("age", list(range(17, 91)))),
    "hours": describe(pl.Series("hours", [*([None] * 10), *range(1, 100)], dtype=pl.Float64)),
    "member": describe(pl.Series("member", [False, False, True])),
    "workclass": describe(pl.Series("workclass", ["Private", "Private", "1", "State-gov", "__missing__"])),
}


def binary_bundle(
    folder: Path,
    *,
    weight: float = 0.05,
    classes: tuple[str | int | float | bool, ...] = (0, 1),
    category: str = "Private",
    looks_back: bool = False,
    work: int = 0,
) -> str:
    """p = sigmoid(weight * (age - 40) + 0.01 * hours (0 where missing) + member + (workclass == category)).

    ``looks_back``: + 0.01 * the hours of the row before (0 where missing). ``work``: so many thousand sines a row, of
    which nothing comes: a slow model. Returns the digest.
    """
    from onnx import TensorProto

    graph = Graph("census")
    columns = (*COLUMNS, COLUMNS[1].model_copy(update={"name": past("hours", 1)})) if looks_back else COLUMNS
    x = {
        column.name: graph.input(column.name, "string" if column.kind == "categorical" else "float64")
        for column in columns
    }
    zero = graph.constant(np.zeros(1))
    known = [graph.node("Where", graph.node("IsNaN", one), zero, one) for name, one in x.items() if "hours" in name]
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
        *(graph.node("Mul", one, graph.constant(np.array([0.01]))) for one in known),
        x["member"],
        private,
    ]
    if work:
        sines = graph.node("Add", x["age"], graph.constant(np.arange(125.0 * work)[None]))
        for _ in range(8):
            sines = graph.node("Sin", sines)
        mean = graph.node("ReduceMean", sines, graph.constant(np.array([1])))
        terms.append(graph.node("Mul", mean, graph.constant(np.zeros(1))))
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
        inputs=columns,
        classes=classes,
        threshold=0.5,
        candidate="by_hand",
        history=PastRows(rows=1, columns=("hours",), time="at", by=("person",)) if looks_back else None,
    )
    described = {column.name: DESCRIBED[column.name.partition("@")[0]] for column in columns}
    return write_bundle(folder, contract, graph.to_bytes(), {"columns": described})


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
    described = {"area": describe(pl.Series("area", np.linspace(10.0, 200.0, 96)))}
    return write_bundle(folder, contract, graph.to_bytes(), {"columns": described})


def probability(row: dict[str, object], weight: float = 0.05) -> float:
    """What ``binary_bundle`` predicts for a row, computed beside the graph."""
    z = weight * (float(row["age"]) - 40.0) + 0.01 * float(row.get("hours") or 0.0)  # type: ignore[arg-type]
    z += bool(row["member"]) + (row.get("workclass") == "Private")
    z += 0.01 * sum(float(before.get("hours") or 0.0) for before in row.get("history", [])[-1:])  # type: ignore[attr-defined]
    return float(1 / (1 + np.exp(-z)))


def release(project: Path, *, admitted: bool = True, gates: dict[str, str] | None = None, **terms: Any) -> None:
    """Say that the project's bundle, as it is now, was judged."""
    told = {
        "name": "census",
        "bundle": digest(project / "artifacts/bundle/manifest.json"),
        "candidate": "by_hand",
        "admitted": admitted,
        "gates": gates or {"baseline": "holds"},
        **terms,
    }
    write_atomic(project / RELEASE, canonical_json(told))


@dataclass(frozen=True)
class Trained:
    """A bundle beside what it was made of."""

    bundle: Bundle
    preprocessing: Preprocessing
    model: Model
    table: pl.DataFrame

    def rows(self, n: int = 40) -> dict[str, np.ndarray]:
        """The first rows as the graph takes them."""
        return {column.name: feature_array(self.table[:n], column) for column in self.bundle.contract.inputs}

    def seen(self, n: int = 40) -> np.ndarray:
        """The first rows as the model sees them."""
        return self.preprocessing.transform(self.table[:n])


def people(n: int = 500, extra: int = 0) -> pl.DataFrame:
    """Rows with numbers, a category, a truth value and gaps; ``extra`` columns of noise; three targets."""
    generator = np.random.default_rng(5)
    age = generator.integers(18, 80, n).astype(float)
    pay = np.where(generator.random(n) < 0.1, np.nan, generator.lognormal(10, 0.5, n))
    work = generator.choice(["clerk", "farmer", "nurse", "__missing__"], n, p=[0.5, 0.2, 0.2, 0.1])
    member = generator.random(n) < 0.3
    signal = (age - 45) / 15 + np.nan_to_num(pay / 30_000) * (work == "clerk") + member - 1
    signal += generator.normal(scale=0.5, size=n)
    return pl.DataFrame(
        {
            "age": age,
            "pay": pl.Series(pay).fill_nan(None),
            "work": work,
            "member": member,
            **{f"noise_{i}": generator.normal(size=n) for i in range(extra)},
            "regression": signal,
            "binary": (signal > 0).astype(np.int64),
            "multiclass": np.searchsorted([-0.5, 0.8], signal).astype(np.int64),
        }
    )


def trained_bundle(folder: Path, candidate: Any, task: Task, extra: int = 0, trees: Trees = "operator") -> Trained:
    """Train a candidate on ``people`` and package it, as the stages do."""
    from specml.stages import package
    from specml.stages.chosen import Chosen, Member

    table = people(extra=extra)
    kinds: dict[str, Any] = {"work": "categorical", "member": "boolean"}
    named = ["age", "pay", "work", "member", *(f"noise_{i}" for i in range(extra))]
    columns = tuple(Column(name=name, kind=kinds.get(name, "numeric"), nullable=True) for name in named)
    treatment = {
        column.name: {"categorical": Categorical(), "boolean": Boolean()}.get(column.kind, Numeric())
        for column in columns
    }
    y = table[task].to_numpy().copy()
    training = Training(candidate.prefers, y, task, len(set(y.tolist())))
    preprocessing = Preprocessing.fit(table, columns, treatment, training)
    model = candidate.fit(
        Design(preprocessing.transform(table), y, None, task, len(set(y.tolist())), seasonal=0), seed=1, threads=1
    )
    native = model.native()
    contract = Contract(
        name="people",
        task=task,
        target=task,
        inputs=columns,
        classes={"binary": (0, 1), "multiclass": ("low", "middle", "high"), "regression": ()}[task],
        threshold=0.5 if task == "binary" else None,
        candidate="trained",
        explanation=package.explanation((preprocessing,), native) if native else None,
    )
    graph = package.assemble(contract, Chosen((Member(preprocessing, model),)), trees)
    write_bundle(
        folder,
        contract,
        graph.to_bytes(),
        {"columns": {column.name: describe(table[column.name]) for column in columns}},
        design=package.build_design((preprocessing,)) if native else b"",
        native=native.content if native else b"",
        trees=graph.trees if graph.has_trees else None,
    )
    return Trained(open_bundle(folder), preprocessing, model, table)
