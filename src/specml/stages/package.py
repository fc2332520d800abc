"""Package the chosen model, or the mean of several: preprocessing, models and decision as one ONNX graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

from specml.bundle import Contract, Explanation, write_bundle
from specml.data import Column, Layout
from specml.errors import DataCheckFailed
from specml.evidence import MEDIAN
from specml.files import read_json
from specml.graph import Graph
from specml.plan import Stage
from specml.stages import chosen, explore, prepare, select, train

if TYPE_CHECKING:
    from specml.calibration import Calibration
    from specml.graph import Trees
    from specml.kinds import Native
    from specml.preprocessing import Preprocessing
    from specml.spec import Spec
    from specml.stages.chosen import Chosen
    from specml.stages.work import Work

OUT = "artifacts/bundle"


def declare(spec: Spec) -> Stage:
    """Which candidate is packaged stands in a file, so every candidate's model is a dependency."""
    tensors = "; trees as tensor operators, which CUDA has" if spec.serving.tree_form == "tensors" else ""
    return Stage(
        name="package",
        summary=f"one ONNX graph, its contract and the reference distribution{tensors}",
        params=("candidates", "name", "serving.trees"),
        deps=(
            prepare.LAYOUT,
            explore.OUT,
            select.OUT,
            *(train.OUT.replace("${key}", name) for name in sorted(spec.candidates)),
        ),
        outs=(OUT,),
    )


def work(work: Work) -> None:
    """The chosen model → a bundle, named by its digest."""
    layout = Layout.model_validate_json(work.path(prepare.LAYOUT).read_bytes())
    choice = read_json(work.path(select.OUT))
    name = choice["candidate"]
    model = chosen.load(work, layout, choice)
    explained = model.explained()
    grouped = choice["group_thresholds"]
    asked = (Column.model_validate(grouped["input"]),) if grouped else ()
    contract = Contract(
        name=work.spec.name,
        task=layout.task,
        target=layout.target,
        inputs=(*layout.features, *asked),
        classes=layout.classes,
        threshold=choice["threshold"],
        group_thresholds=grouped and {key: grouped[key] for key in ("column", "thresholds")},
        abstain_band=choice["abstain_band"],
        candidate=name,
        explanation=explanation(*explained, model.calibration, others=len(asked)) if explained else None,
        history=layout.history,
        quantiles=layout.quantiles,
        prediction_interval=model.interval.coverage if model.interval else None,
        image=layout.image,
    )
    _refuse_taken(contract)
    graph = assemble(contract, model, work.spec.serving.tree_form)
    packed, trees = graph.to_bytes(), graph.trees if graph.has_trees else None
    columns = read_json(work.path(explore.OUT)) | ({grouped["column"]: grouped["described"]} if grouped else {})
    reference = {"columns": columns, "prior": choice["prior"]}
    design, numbers = (build_design(explained[0], asked), explained[1].content) if explained else (b"", b"")
    digest = write_bundle(work.path(OUT), contract, packed, reference, design=design, native=numbers, trees=trees)
    form = ", trees as tensor operators" if trees == "tensors" else ""
    work.say(f"{name} packaged: {len(packed):,} bytes{form}, {digest[:19]}")


def _refuse_taken(contract: Contract) -> None:
    for column in contract.inputs:
        if column.name in contract.outputs():
            raise DataCheckFailed(
                f"a feature can't be called {column.name!r}, as an output of the model is.",
                where=f"data.columns.{column.name}",
                hint="Rename it in the data, or ask for no interval and no quantiles.",
            )


def explanation(
    designs: tuple[Preprocessing, ...], native: Native, calibration: Calibration | None = None, *, others: int = 0
) -> Explanation:
    """How the packaged model is explained by its own numbers; ``designs``: of each of its members.

    ``others``: inputs beside those, which no member takes.
    """
    scale, shift = (calibration.affine if calibration else None) or (1.0, 0.0)
    widths = (*map(len, chosen.owned(designs).values()), *[0] * others)
    return Explanation(method=native.method, space=native.space, widths=widths, scale=scale, shift=shift)


def build_design(designs: tuple[Preprocessing, ...], others: tuple[Column, ...] = ()) -> bytes:
    """The graph of the preprocessing alone: named columns in, ``design`` out, in the order of ``chosen.joined``.

    Of ``others`` nothing comes.
    """
    import numpy as np

    graph = Graph("design")
    values = [one.to_onnx(graph) for one in designs]
    value, order = values[0], chosen.joined(designs)
    if len(values) > 1:
        value = graph.node("Gather", graph.node("Concat", *values, axis=1), graph.constant(np.array(order)), axis=1)
    for one in others:
        graph.input(one.name, one.tensor)
    graph.output("design", value, "float32", len(order))
    return graph.to_bytes()


def build(contract: Contract, model: Chosen, trees: Trees = "operator") -> bytes:
    """The graph of ``assemble``, serialised and checked."""
    return assemble(contract, model, trees).to_bytes()


def assemble(contract: Contract, model: Chosen, trees: Trees) -> Graph:
    """The graph: named columns in, ``Contract.outputs`` out."""
    import numpy as np

    graph = Graph(contract.name, trees)
    answer = model.to_onnx(graph)
    if contract.task == "regression":
        ends = model.interval.to_onnx(graph, answer) if model.interval else ()
        levels = contract.quantiles
        parts = [graph.node("Gather", answer, graph.constant(np.array([i])), axis=1) for i in range(len(levels))]
        predicted = parts[levels.index(MEDIAN)] if levels else answer
        for name, value in zip(contract.outputs(), (predicted, *ends, *parts), strict=True):
            graph.output(name, graph.node("Squeeze", value, graph.constant(np.array([1]))), "float32")
        return graph
    # A mean of many leaves, summed in float32, may come out at 1.0000004.
    answer = graph.node("Clip", answer, *(graph.constant(np.array(end, dtype=np.float32)) for end in (0.0, 1.0)))
    names = [str(one) for one in contract.classes]
    if contract.task == "binary":
        positive = graph.node("GreaterOrEqual", answer, _threshold(graph, contract))
        place = graph.node("Cast", positive, to=7)
        if contract.abstain_band is not None:
            low, high = (graph.constant(np.array(end, dtype=np.float32)) for end in contract.abstain_band)
            inside = graph.node("And", graph.node("GreaterOrEqual", answer, low), graph.node("Less", answer, high))
            place = graph.node("Where", inside, graph.constant(np.array(len(names))), place)
            names.append("")
        index = graph.node("Squeeze", place, graph.constant(np.array([1])))
        negative = graph.node("Sub", graph.constant(np.array(1, dtype=np.float32)), answer)
        answer = graph.node("Concat", negative, answer, axis=1)
    else:
        index = graph.node("ArgMax", answer, axis=1, keepdims=0)
    label = graph.node(
        "LabelEncoder",
        index,
        domain="ai.onnx.ml",
        keys_int64s=list(range(len(names))),
        values_strings=names,
    )
    graph.output("probabilities", answer, "float32", len(contract.classes))
    graph.output("label", label, "string")
    return graph


def _threshold(graph: Graph, contract: Contract) -> str:
    """The threshold, or [n, 1] those of the rows' groups."""
    import numpy as np

    grouped = contract.group_thresholds
    if grouped is None:
        return graph.constant(np.array(contract.threshold, dtype=np.float32))
    return graph.node(
        "LabelEncoder",
        graph.input(grouped.column, "string"),
        domain="ai.onnx.ml",
        keys_strings=list(grouped.thresholds),
        values_floats=list(grouped.thresholds.values()),
        default_float=contract.threshold,
    )
