"""The bundle: a model as files that are verified, audited and only then used.

A folder with ``model.onnx`` (preprocessing and model, one graph), ``contract.json`` (what goes in and
comes out), ``reference.json`` (how the training rows were distributed) and ``manifest.json`` (the digests
of the others, and the form that trees have in the graph). A model that can be explained exactly adds ``design.onnx``
(preprocessing alone) and its own numbers (``NATIVE``). No file in it can run code. The bundle's digest is that of its
manifest.

``PROTOCOL`` counts the format. To change it: raise it by one, write down here what changed, teach
``open_bundle`` to read the old form, and keep a bundle of the old form under ``tests/``.

- 2: the contract's ``explanation``, with ``design.onnx`` and the files of ``NATIVE`` beside the others.
  Columns of times and texts, ``history``, ``image``, ``prediction_interval``, ``quantiles``, ``abstain_band``
  and ``group_thresholds`` came later; a specml that does not know them refuses their contract. So did sets of
  categories in ``booster.txt``; it refuses that file.
- 1: none of these; it is read, and explained from its graph alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from specml import admission, booster
from specml.data import Column, PastRows, Pixels, Task
from specml.decision import decided
from specml.errors import GateRefused, SpecmlError
from specml.files import canonical_json, digest, folder_atomic

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import onnxruntime

    from specml.graph import Trees

PROTOCOL = 2

RELEASE = "artifacts/release/release.json"
"""What the gates made of the project's bundle."""

VERDICTS = "artifacts/validate/verdicts.json"
"""What that is judged by."""

FILES = ("model.onnx", "contract.json", "reference.json")

DESIGN = "design.onnx"
NATIVE = {
    "tree_shap": "booster.txt",
    "linear": "linear.json",
    "deep_lift": "network.npz",
    "integrated_gradients": "network.npz",
}
"""By method of explanation, the file with the model's own numbers; ``DESIGN`` comes with each."""

OPERATORS = frozenset({
    "Abs", "Add", "And", "ArgMax", "ArgMin", "ArrayFeatureExtractor", "BatchNormalization", "Cast", "Clip",
    "Concat", "Constant", "ConstantOfShape", "Conv", "Cos", "Div", "Elu", "Equal", "Erf", "Exp", "Flatten", "Floor",
    "Gather", "GatherElements", "Gelu", "Gemm", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity",
    "IsInf", "IsNaN", "LabelEncoder", "LayerNormalization", "LeakyRelu", "Less", "LessOrEqual", "LinearClassifier",
    "LinearRegressor", "Log", "MatMul", "Max", "MaxPool", "Min", "Mod", "Mul", "Neg", "Normalizer", "Not", "Or",
    "PRelu", "Pow", "Reciprocal", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum",
    "Relu", "Reshape", "SVMClassifier", "SVMRegressor", "Scaler", "Selu", "Shape", "Sigmoid", "Sign", "Sin",
    "Slice", "Softmax", "Softplus", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "TfIdfVectorizer",
    "Tokenizer", "TopK", "Transpose", "TreeEnsembleClassifier", "TreeEnsembleRegressor", "Unsqueeze", "Where",
})  # fmt: skip
"""What a graph may contain: pure functions of their inputs; no control flow, no custom operators."""
FOREIGN = frozenset({("com.microsoft", "Tokenizer")})
"""And of these one of onnxruntime's own: ONNX has no operator that splits a text into words or characters."""


Method = Literal["tree_shap", "linear", "deep_lift", "integrated_gradients", "shapley"]
Space = Literal["log_odds", "score", "probability", "prediction"]


class Explanation(BaseModel):
    """How an answer is told apart by the columns: a base, and of each column a contribution that adds to it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Method
    """``shapley`` asks the graph as it is; the others know the model."""
    space: Space
    """What base and contributions add up to: the log-odds of the positive class, the score of a class before the
    softmax, the probability of a class, or the prediction."""
    widths: tuple[Annotated[int, Field(ge=0, le=1_000_000)], ...] = ()
    """How many columns of the design each input makes, in the inputs' order; empty where no design is needed."""
    scale: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    """By what a calibration multiplies what the model's own numbers add up to, and with them each contribution."""
    shift: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    """What it adds to the base."""


def quantile_name(level: float) -> str:
    """What the output of a quantile is called: ``quantile_0.1``."""
    return f"quantile_{level:g}"


class GroupThresholds(BaseModel):
    """From which probability on the positive class is decided, by the value of an input."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str
    """The input; no model takes it."""
    thresholds: dict[str, Annotated[float, Field(allow_inf_nan=False)]]
    """Any other value has the threshold of all rows."""


class Contract(BaseModel):
    """What the model takes and gives."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: Literal[1, 2] = 2
    name: str
    task: Task
    target: str
    inputs: tuple[Column, ...]
    """Graph inputs by name, each a tensor [rows, 1]: float64 (NaN is missing; times in seconds since 1970, UTC) or,
    for categories and texts, string."""
    classes: tuple[str | int | float | bool, ...] = ()
    """Labels in the order of ``probabilities``."""
    threshold: float | None = None
    """Binary: the positive class is decided from this probability on."""
    group_thresholds: GroupThresholds | None = None
    """Binary: thresholds that groups of rows have in place of ``threshold``."""
    abstain_band: tuple[float, float] | None = None
    """Binary: from the first probability on and below the second, nothing is decided: the label is empty."""
    candidate: str
    """The candidate that was selected."""
    explanation: Explanation | None = None
    """None: see ``explained``."""
    history: PastRows | None = None
    """Which of the rows before it a row of a request brings along; None: it is taken by itself."""
    quantiles: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    """Regression: the quantiles that are answered beside ``prediction``, the median; () where that is the mean."""
    prediction_interval: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Regression: the share of rows whose target is to lie between ``lower`` and ``upper``; None: there are none."""
    image: Pixels | None = None
    """Which columns an image in a row of a request becomes; None: it can't carry one."""

    @property
    def explained(self) -> Explanation:
        """How answers are explained; from the graph alone where the contract says nothing."""
        space: Space = "prediction" if self.task == "regression" else "probability"
        return self.explanation or Explanation(method="shapley", space=space)

    def outputs(self) -> dict[str, Literal["float32", "string"]]:
        """Graph outputs: ``probabilities`` [rows, classes] and ``label`` [rows], or ``prediction`` [rows].

        A label is the text of a class, and empty where nothing is decided. A prediction with an interval has its
        ``lower`` and ``upper`` end [rows] beside it, and one of quantiles these, as ``quantile_0.1`` [rows].
        """
        if self.task != "regression":
            return {"probabilities": "float32", "label": "string"}
        ends = ("lower", "upper") if self.prediction_interval else ()
        return dict.fromkeys(("prediction", *ends, *map(quantile_name, self.quantiles)), "float32")

    def decide(self, probabilities: np.ndarray, groups: np.ndarray | None = None) -> np.ndarray:
        """Class indices int64 [n] of the graph's float32 probabilities [n, k], as its labels say them.

        ``groups``: the values [n] of the column of ``group_thresholds``, where there are such.
        """
        import numpy as np

        if self.task == "multiclass":
            return np.asarray(probabilities.argmax(axis=1))
        by_group = self.group_thresholds.thresholds if self.group_thresholds else {}
        return decided(probabilities[:, 1], self.threshold or 0.0, self.abstain_band, groups, by_group)


class BundleError(SpecmlError):
    """A bundle is incomplete, altered, or holds what no bundle may hold."""


WIDE = 1000
"""Inputs beyond which onnxruntime does not optimise a graph: its time for that grows with their square (5 s at 1,200,
22 s at 2,400; 0.6 s and 2 s without), and a small batch takes as long."""


@dataclass(frozen=True)
class Bundle:
    """A verified bundle: what was checked is what is used, for the files are read once."""

    contract: Contract
    reference: dict[str, Any]
    model: bytes
    digest: str
    """``sha256:…`` of the manifest, the name of this bundle everywhere."""
    design: bytes = b""
    """The graph of the preprocessing alone: named columns in, ``design`` float32 [rows, columns] out."""
    native: bytes = b""
    """The model's own numbers, in the form of its method of explanation."""

    def session(self, *, providers: list[str] | None = None, threads: int = 1) -> onnxruntime.InferenceSession:
        """An onnxruntime session over the graph.

        ``providers`` in order of preference, CPU by default; ``threads`` per call: one is fastest for
        small batches, and replicas share the cores.
        """
        return self._session(self.model, providers or ["CPUExecutionProvider"], threads)

    def design_session(self) -> onnxruntime.InferenceSession:
        """The same over the graph of the preprocessing."""
        return self._session(self.design, ["CPUExecutionProvider"], 1)

    def _session(self, graph: bytes, providers: list[str], threads: int) -> onnxruntime.InferenceSession:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if len(self.contract.inputs) > WIDE:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return onnxruntime.InferenceSession(graph, options, providers=providers)


def predict(session: onnxruntime.InferenceSession, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run the graph on columns [n] or [n, 1], keyed by input name; returns its outputs by name."""
    feeds = {name: array.reshape(-1, 1) for name, array in columns.items()}
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def write_bundle(
    folder: Path,
    contract: Contract,
    model: bytes,
    reference: dict[str, Any],
    *,
    design: bytes = b"",
    native: bytes = b"",
    trees: Trees | None = None,
) -> str:
    """Write a bundle to ``folder``, whole or not at all; returns its digest.

    ``design`` and ``native`` are what the contract's method of explanation needs; ``trees``: the form that they have
    in the graph, which the manifest tells; None where there are none.
    """
    contents = {
        "model.onnx": model,
        "contract.json": canonical_json(_told(contract)),
        "reference.json": canonical_json(reference),
    }
    if contract.explained.method in NATIVE:
        contents |= {DESIGN: design, NATIVE[contract.explained.method]: native}
    files = {name: {"sha256": digest(raw), "bytes": len(raw)} for name, raw in contents.items()}
    form = {} if trees is None else {"trees": trees}
    manifest = canonical_json({"protocol": PROTOCOL, "files": files, **form})
    with folder_atomic(folder) as temporary:
        for name, raw in {**contents, "manifest.json": manifest}.items():
            (temporary / name).write_bytes(raw)
    return digest(manifest)


def _told(contract: Contract) -> dict[str, Any]:
    """As JSON values; what came later to the contract stands there only where it says something."""
    told = contract.model_dump(mode="json")
    for name in ("abstain_band", "group_thresholds", "history", "image", "prediction_interval"):
        if told[name] is None:
            del told[name]
    if not contract.quantiles:
        del told["quantiles"]
    if (one := contract.explanation) and (one.scale, one.shift) == (1.0, 0.0):
        del told["explanation"]["scale"], told["explanation"]["shift"]
    return told


def open_bundle(folder: Path, *, audited: str = "") -> Bundle:
    """Read, verify and audit the bundle in ``folder``.

    ``audited``: the digest of a bundle that was audited before: the same bytes are not again, which takes onnx.

    Raises:
        BundleError: a file is missing, was added, or differs from the manifest; the format is of another
            protocol; the graph holds an operator that is not allowed or data outside its file.
    """
    manifest, raw_manifest = _manifest(folder)
    contents = {name: _verified(folder / name, told) for name, told in manifest["files"].items()}
    strangers = sorted({entry.name for entry in folder.iterdir()} - {*contents, "manifest.json"})
    if strangers:
        raise BundleError(f"holds {', '.join(strangers)}, which its manifest does not name.", where=str(folder))
    for name in sorted({"model.onnx", DESIGN} & contents.keys()) if digest(raw_manifest) != audited else ():
        audit(contents[name], where=str(folder / name))
    import json

    contract = _contract(contents["contract.json"], folder)
    design, native = _explaining(contract, contents, folder)
    reference = json.loads(contents["reference.json"])
    return Bundle(contract, reference, contents["model.onnx"], digest(raw_manifest), design, native)


def _explaining(contract: Contract, contents: dict[str, bytes], folder: Path) -> tuple[bytes, bytes]:
    """The files that the contract's method of explanation needs, audited; empty where it needs none."""
    explained = contract.explained
    needed = {DESIGN, NATIVE[explained.method]} if explained.method in NATIVE else set()
    if contents.keys() - set(FILES) != needed:
        wanted = " and ".join(sorted(needed)) or "no more files than the model's"
        raise BundleError(f"explains by {explained.method}, which takes {wanted}.", where=str(folder))
    if not needed:
        return b"", b""
    native = contents[NATIVE[explained.method]]
    if len(explained.widths) != len(contract.inputs):
        raise BundleError("says no width for each of its inputs.", where=str(folder / "contract.json"))
    if explained.method == "tree_shap":
        outputs = len(contract.classes) if contract.task == "multiclass" else 1
        try:
            booster.audit(native, sum(explained.widths), outputs)
        except ValueError as error:
            raise BundleError(f"is no booster of this bundle: {error}.", where=str(folder / "booster.txt")) from None
    return contents[DESIGN], native


def refuse_unreleased(project: Path, bundle: str) -> None:
    """Make sure that the project's last release admitted the bundle of this digest, and that it may be served today.

    Raises:
        GateRefused: a gate refused it, it never came before the gates, or a waiver that let it pass has expired.
        ApprovalMissing: it waits for a person's approval.
    """
    admission.refuse_unapproved(project, released(project, bundle), str(project / RELEASE))


def released(project: Path, bundle: str) -> dict[str, Any]:
    """The project's last release, if it admitted the bundle of this digest and no waiver has expired since.

    Raises:
        GateRefused: it did not, or one has.
    """
    import json

    path = project / RELEASE
    try:
        release = json.loads(path.read_bytes())
        judged, admitted, gates = release["bundle"], release["admitted"], dict(release["gates"])
    except FileNotFoundError:
        release, judged, admitted, gates = {}, "", False, {}
    except (ValueError, KeyError, TypeError):
        raise GateRefused("is no release.", where=str(path), hint="Run `specml run`: it is made again.") from None
    if judged != bundle:
        raise GateRefused(
            f"the bundle {bundle[:19]} was never released: its gates have not judged it.",
            where=str(path),
            hint="Run `specml run`: it judges the bundle, and serves it if it is admitted.",
        )
    if admitted is not True:
        refused = [f"{name} ({outcome})" for name, outcome in sorted(gates.items()) if outcome != "holds"]
        raise GateRefused(
            f"the bundle {bundle[:19]} was refused by {', '.join(refused) or 'its gates'}; it is not served.",
            where=str(path),
            hint=f"{path.with_name('card.md')} says why. Mend the model or the spec, then `specml run`.",
        )
    verdicts = project / VERDICTS
    if "verdicts" in release and verdicts.exists() and digest(verdicts) != release["verdicts"]:
        hint = "Run `specml run`: the gates judge it again."
        raise GateRefused("was changed after the release.", where=str(verdicts), hint=hint)
    admission.refuse_expired(release, str(path))
    return dict(release)


def read_contract(folder: Path) -> Contract:
    """The verified contract of the bundle in ``folder`` alone, for who does not run the model.

    Raises:
        BundleError: as ``open_bundle``, for the contract and the manifest.
    """
    manifest, _ = _manifest(folder)
    return _contract(_verified(folder / "contract.json", manifest["files"]["contract.json"]), folder)


def _contract(raw: bytes, folder: Path) -> Contract:
    try:
        return Contract.model_validate_json(raw)
    except ValidationError as error:
        raise BundleError(f"is no contract: {error.errors()[0]['msg']}.", where=str(folder / "contract.json")) from None


def _manifest(folder: Path) -> tuple[dict[str, Any], bytes]:
    import json

    path = folder / "manifest.json"
    try:
        raw = path.read_bytes()
        manifest = json.loads(raw)
        protocol, files = manifest["protocol"], manifest["files"]
        expected = {name: (str(files[name]["sha256"]), int(files[name]["bytes"])) for name in files}
    except FileNotFoundError:
        raise BundleError(
            "there is no bundle here.", where=str(folder), hint="`specml run` makes one, up to the stage `package`."
        ) from None
    except (ValueError, KeyError, TypeError):
        raise BundleError(
            "is not a manifest.", where=str(path), hint="Run `specml run` to make the bundle again."
        ) from None
    if protocol not in (1, PROTOCOL):
        raise BundleError(f"is of protocol {protocol!r}; this specml reads 1 to {PROTOCOL}.", where=str(path))
    if not set(FILES) <= set(expected) <= {*FILES, DESIGN, *NATIVE.values()}:
        raise BundleError(f"names {sorted(expected)}, not {sorted(FILES)} and what explains.", where=str(path))
    return manifest, raw


def _verified(path: Path, expected: dict[str, Any]) -> bytes:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise BundleError("is missing from the bundle.", where=str(path)) from None
    if digest(raw) != expected["sha256"]:
        raise BundleError(
            f"has digest {digest(raw)}, the manifest says {expected['sha256']}: it was altered or cut short.",
            where=str(path),
            hint="Delete the bundle and run `specml run`: it is made again.",
        )
    return raw


def audit(model: bytes, where: str) -> None:
    """Make sure that a graph is one pure function, whole in its bytes.

    Raises:
        BundleError: it holds an operator that is not allowed, graphs in graphs, or data outside its bytes.
    """
    import onnx

    try:
        loaded = onnx.load_model_from_string(model)
    except Exception as error:  # protobuf has no common base for what a bad message raises
        raise BundleError(f"is not an ONNX model: {error}", where=where) from None
    graph = loaded.graph
    if loaded.functions or loaded.training_info:
        raise BundleError("holds functions or training of its own, not one graph alone.", where=where)
    foreign = sorted({node.op_type for node in graph.node} - OPERATORS)
    if foreign:
        raise BundleError(f"holds operators that no bundle may hold: {', '.join(foreign)}.", where=where)
    domains = sorted({n.domain for n in graph.node if (n.domain, n.op_type) not in FOREIGN} - {"", "ai.onnx.ml"})
    if domains:
        raise BundleError(f"uses the operator domains {', '.join(domains)}.", where=where)
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    if any(attribute.HasField("g") or attribute.graphs for attribute in attributes):
        raise BundleError("holds graphs inside its nodes.", where=where)
    sparse = [*graph.sparse_initializer, *(one for a in attributes for one in a.sparse_tensors)]
    if sparse or any(attribute.HasField("sparse_tensor") for attribute in attributes):
        raise BundleError("holds sparse tensors.", where=where)
    tensors = [*graph.initializer, *(tensor for a in attributes for tensor in (a.t, *a.tensors))]
    if any(tensor.external_data or tensor.data_location == tensor.EXTERNAL for tensor in tensors):
        raise BundleError("keeps tensors outside its file.", where=where)
