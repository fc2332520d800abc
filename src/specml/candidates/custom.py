"""A model of your own: a scikit-learn estimator or a LightningModule of a package that the spec names."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from typing_extensions import override

from specml import bundle, evidence
from specml.component import Disagreement
from specml.errors import StageFailed, first_line
from specml.graph import ML_OPSET, OPSET, Graph
from specml.kinds import Candidate, Model, Preference
from specml.plugged import Place, blamed, called, found, unplugged
from specml.space import Setting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import numpy as np
    import onnx

    from specml.data import Design, Task
    from specml.spec import Spec

ALLOWED = 1e-5
"""Largest difference between the estimator and its graph on any row, as the gate ``parity`` measures it."""


class Custom(Candidate):
    """What a function or class of your package makes, trained, turned into ONNX, and compared with that on every row.

    It is called with ``options`` and, where it has parameters of these names, ``task``, ``inputs`` (columns of the
    design), ``outputs`` (1, or the number of classes) and ``seed``; it returns

    - a scikit-learn estimator: ``fit(X, y)`` and ``predict_proba(X)`` or, for a regression, ``predict(X)``. skl2onnx
      turns it into ONNX, unless it has a method ``to_onnx(graph, X)`` as ``specml.kinds.Model`` has;
    - or a LightningModule, whose batches are ``(X, y, weight)`` and whose ``forward(X)`` is the answer: probabilities,
      not logits. It is trained for ``max_epochs`` epochs (20) of batches of ``batch_size`` rows (256), if it has such
      attributes.
    """

    tasks: ClassVar[tuple[Task, ...]] = ("binary", "multiclass", "regression")
    prefers: ClassVar[Preference] = Preference(missing="median", scale="standard", encode="onehot")
    complexity: ClassVar[int] = 3

    type: Literal["custom"] = "custom"
    estimator: Place
    """Where it is made, as ``package.module:name``; ``plugins`` must name the package."""
    options: dict[str, Setting | tuple[Setting, ...]] = {}
    """What ``estimator`` is called with; in ``space``, ``options.NAME``."""

    @override
    def disagreements(self, spec: Spec) -> Iterable[Disagreement]:
        yield from super().disagreements(spec)
        for name in self.space:
            option = name.removeprefix("options.")
            if option not in (name, *self.options):
                hint = f"Say options.{option}: it is the first value tried."
                yield Disagreement(key=("space", name), what="is not among the options.", hint=hint)
        yield from unplugged(spec, self.estimator, "estimator")

    @override
    def fit(self, train: Design, *, seed: int, threads: int, stop_on: Design | None = None) -> Model:
        make = found(self.estimator)
        with _seeded(seed):
            with blamed(self.estimator):
                made = self._made(make, train, seed)
                fitted = (_of_lightning if _is_lightning(made) else _of_scikit_learn)(made, train, seed, self.estimator)
            model = CustomModel(_converted(fitted, train, self.estimator), train.task, fitted, self.estimator)
            model.predict(_probes(train.X))
        return model

    @override
    def load(self, folder: Path, task: Task) -> Model:
        raw = (folder / "model.onnx").read_bytes()
        bundle.audit(raw, where=str(folder / "model.onnx"))
        return CustomModel(raw, task)

    def _made(self, make: Callable[..., Any], train: Design, seed: int) -> Any:
        outputs = train.n_classes if train.task == "multiclass" else 1
        offered = {"task": train.task, "inputs": train.X.shape[1], "outputs": outputs, "seed": seed}
        return called(make, options=self.options, offered=offered)


@dataclass(frozen=True)
class Fitted:
    """A trained estimator, reduced to what is asked of it."""

    name: str
    answer: Callable[[np.ndarray], np.ndarray]
    """float32 [n, d] → [n] or [n, k]."""
    add: Callable[[Graph, str], str]
    """The same as nodes of a graph."""


def _of_scikit_learn(made: Any, train: Design, seed: int, where: str) -> Fitted:
    from sklearn.utils.validation import has_fit_parameter

    name = type(made).__name__
    method = "predict" if train.task == "regression" else "predict_proba"
    lacking = [one for one in ("fit", method) if not callable(getattr(made, one, None))]
    if lacking:
        what = f"made a {name}, which has no method {' and no '.join(lacking)}."
        raise StageFailed(what, where=where, hint="It must make a scikit-learn estimator or a LightningModule.")
    if hasattr(made, "get_params"):
        states = {key for key, value in made.get_params().items() if value is None and key.endswith("random_state")}
        made.set_params(**dict.fromkeys(sorted(states), seed))
    weighted = {} if train.weight is None else {"sample_weight": train.weight}
    if weighted and not has_fit_parameter(made, "sample_weight"):
        what = f"made a {name}, whose fit takes no sample_weight, but the data has a weight column."
        raise StageFailed(what, where=where, hint="Take another estimator, or give the column the role ignore.")
    made.fit(train.X, train.y, **weighted)
    add = made.to_onnx if hasattr(made, "to_onnx") else lambda graph, X: _add_scikit_learn(made, train, graph, X)
    return Fitted(name, getattr(made, method), add)


def _add_scikit_learn(made: Any, train: Design, graph: Graph, X: str) -> str:
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    model: onnx.ModelProto = convert_sklearn(
        made,
        initial_types=[("X", FloatTensorType([None, train.X.shape[1]]))],
        target_opset={"": OPSET, "ai.onnx.ml": ML_OPSET},
        options=None if train.task == "regression" else {id(made): {"zipmap": False}},
    )
    return _inlined(model, graph, X, model.graph.output[-1].name)


def _has_lightning() -> bool:
    """Whether the plug-in uses Lightning, which takes seconds to import for nothing where it does not."""
    return "pytorch_lightning" in sys.modules


def _is_lightning(made: Any) -> bool:
    if not _has_lightning():
        return False
    from pytorch_lightning import LightningModule

    return isinstance(made, LightningModule)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Torch draws the same numbers every time, and afterwards as if nothing had been."""
    if not _has_lightning():
        yield
        return
    import torch

    from specml.training import quiet

    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _of_lightning(made: Any, train: Design, seed: int, where: str) -> Fitted:
    import numpy as np
    import torch

    from specml.training import batches, descend

    y = train.y if train.task == "multiclass" else train.y.astype(np.float32)
    weight = np.ones(len(y)) if train.weight is None else train.weight
    order = torch.Generator().manual_seed(seed)
    descend(made, batches(train.X, y, weight, getattr(made, "batch_size", 256), order), getattr(made, "max_epochs", 20))
    made.eval()

    def answer(X: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return np.asarray(made(torch.from_numpy(X)))

    return Fitted(type(made).__name__, answer, lambda graph, X: _add_torch(made, train.X[:2], graph, X))


def _add_torch(made: Any, rows: np.ndarray, graph: Graph, X: str) -> str:
    import io
    import warnings

    import onnx
    import torch
    from onnx import version_converter

    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # This exporter is deprecated; the other one needs a package more, seconds more, and prints.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            made,
            (torch.from_numpy(rows),),
            buffer,  # type: ignore[arg-type] # the old exporter writes to a file as well
            dynamo=False,
            opset_version=20,
            input_names=["X"],
            output_names=["answer"],
            dynamic_axes={"X": {0: "rows"}, "answer": {0: "rows"}},
        )
    model = version_converter.convert_version(onnx.load_model_from_string(buffer.getvalue()), OPSET)
    return _inlined(model, graph, X, "answer")


def _inlined(model: onnx.ModelProto, graph: Graph, X: str, output: str) -> str:
    # Before they come among ours: nodes that hold graphs would not know the names there.
    bundle.audit(model.SerializeToString(), where="")
    return graph.inline(model, X, output)


def _converted(fitted: Fitted, train: Design, where: str) -> bytes:
    """The trained estimator as a graph of its own: float32 ``X`` [n, d] → float32 ``answer`` [n, 1] or [n, k].

    Raises:
        StageFailed: its answers are of another shape, or ONNX or the bundle has no operators for it.
    """
    import numpy as np

    outputs = train.n_classes if train.task == "multiclass" else 1
    width = np.asarray(fitted.answer(train.X[:2])).reshape(2, -1).shape[1]
    if width != outputs and (train.task, width) != ("binary", 2):
        what = f"{fitted.name} answers with {width} columns; the problem has {outputs}."
        raise StageFailed(what, where=where)
    graph = Graph("custom")
    try:
        value = fitted.add(graph, graph.input("X", "float32", train.X.shape[1]))
        value = graph.node("Reshape", value, graph.constant(np.array([-1, width])))
        if width != outputs:
            value = graph.node("Gather", value, graph.constant(np.array([1])), axis=1)
        graph.output("answer", graph.node("Cast", value, to=1), "float32", outputs)
        raw = graph.to_bytes()
        bundle.audit(raw, where=where)
    except ImportError:
        raise
    except Exception as error:  # converters raise whatever they like
        what = f"{fitted.name} can't be told in ONNX: {first_line(error)}"
        hint = "Take another estimator, or give its class a method to_onnx(graph, X): see docs/plugins.md."
        raise StageFailed(what, where=where, hint=hint) from error
    return raw


def _probes(X: np.ndarray) -> np.ndarray:
    """``X``, its neighbours in float32 (which tell how ties with thresholds fall), and rows far outside of it."""
    import numpy as np

    some = X[:: max(1, len(X) // 200)]
    sides = [np.nextafter(some, np.float32(end)) for end in (-np.inf, np.inf)]
    far = np.array([[value] * X.shape[1] for value in (0.0, 1.0, -1.0, 1e3, -1e3)], dtype=np.float32)
    return np.ascontiguousarray(np.vstack([X, *sides, far]))


class CustomModel(Model):
    """The graph that an estimator became; its answers are the graph's.

    Fresh from ``fit`` it still has the estimator, and every answer is compared with the estimator's.
    """

    def __init__(self, raw: bytes, task: Task, fitted: Fitted | None = None, where: str = "") -> None:
        self.raw = raw
        self.task = task
        self.fitted = fitted
        self.where = where
        self.learned = {}

    @override
    def predict(self, X: np.ndarray) -> np.ndarray:
        """As every model does.

        Raises:
            StageFailed: the estimator answers otherwise than its graph.
        """
        import numpy as np
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(self.raw, options, providers=["CPUExecutionProvider"])
        answer = session.run(None, {"X": np.ascontiguousarray(X, dtype=np.float32)})[0].astype(np.float64)
        if self.fitted:
            self._compare(answer, np.asarray(self.fitted.answer(X), dtype=np.float64).reshape(len(X), -1))
        return np.asarray(answer[:, 0] if answer.shape[1] == 1 else answer)

    def _compare(self, answer: np.ndarray, native: np.ndarray) -> None:
        assert self.fitted
        native = native[:, -answer.shape[1] :]
        difference = evidence.differences(self.task, answer, native)
        beyond = int((~(difference <= ALLOWED)).sum())
        if beyond:
            raise StageFailed(
                f"{self.fitted.name} and its ONNX graph differ on {beyond} of {len(answer)} rows, by up to "
                f"{difference.max():.2g}: the converter does not know all that it does.",
                where=self.where,
                hint="Take another estimator or other options (none that treats missing values or categories by "
                "itself), or give its class a method to_onnx(graph, X): see docs/plugins.md.",
            )
        if self.task != "regression" and not ((native >= 0) & (native <= 1)).all():
            what = f"{self.fitted.name} answers beyond 0 and 1: a classification's answers are probabilities."
            raise StageFailed(what, where=self.where, hint="Let forward end in a sigmoid or a softmax.")

    @override
    def save(self, folder: Path) -> None:
        (folder / "model.onnx").write_bytes(self.raw)

    @override
    def to_onnx(self, graph: Graph, X: str) -> str:
        import onnx

        return graph.inline(onnx.load_model_from_string(self.raw), X, "answer")
