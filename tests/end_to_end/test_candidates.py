"""The network and a model of the user's own, from the spec to the bundle's answers, on real data."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import polars as pl
import pytest

from tests.conftest import ROOT, specml

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.slow

QUICK = ("search.trials=2", "search.folds=2")


def run(folder: Path, *arguments: str, status: int = 0) -> dict[str, Any]:
    # One thread: two trials in processes of their own would import the libraries twice.
    done = specml("run", "--no-deploy", "--json", *arguments, folder=folder, status=status, SPECML_THREADS="1")
    return dict(json.loads(done.stdout))


def answers(folder: Path, table: pl.DataFrame) -> np.ndarray:
    """What the bundle says of rows, asked of onnxruntime alone."""
    session = onnxruntime.InferenceSession(folder / "artifacts/bundle/model.onnx", providers=["CPUExecutionProvider"])
    feeds = {
        one.name: table[one.name].cast(pl.String).to_numpy().astype(object).reshape(-1, 1)
        if "string" in one.type
        else table[one.name].cast(pl.Float64).to_numpy().reshape(-1, 1)
        for one in session.get_inputs()
    }
    answer: np.ndarray = session.run(None, feeds)[0]
    return answer


def holdout(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "artifacts/prepare/test.parquet")


def test_a_network_is_trained_by_lightning_released_and_answers_by_onnxruntime_alone(
    project: Callable[[str], Path],
) -> None:
    import specml.spec  # noqa: F401 - fills the tables
    from specml.network import Network
    from specml.preprocessing import Preprocessing

    importlib.import_module("specml.spec")  # fills the kinds' tables
    folder = project("diabetes")
    told = run(folder, "~candidates.gbm", "~candidates.linear", "+candidates.net={type: tabular_mlp}")
    assert told["gates"]["parity"]["outcome"] == "holds"
    trained = folder / "artifacts/train/net"
    assert {path.suffix for path in trained.iterdir()} == {".json", ".npy", ".npz"}
    assert not list(folder.rglob("lightning_logs")) + list(folder.rglob("*.ckpt"))
    table = holdout(folder)
    network, preprocessing = Network.load(trained), Preprocessing.load(trained / "preprocessing.json")
    assert network.shape.categories == [
        list(preprocessing.columns).index(c) for c in preprocessing.columns if c.name == "sex"
    ]
    import torch

    with torch.inference_mode():
        native = network(torch.from_numpy(preprocessing.transform(table)))[:, 0].numpy()
    assert np.max(np.abs(answers(folder, table) - native) / np.abs(native)) < 1e-6
    error = np.sqrt(np.mean((answers(folder, table) - table["progression"].to_numpy()) ** 2))
    assert error < 0.85 * table["progression"].std()  # type: ignore[operator]


@pytest.mark.sweep
def test_the_model_of_the_documents_goes_the_whole_way(project: Callable[[str], Path]) -> None:
    folder = project("breast_cancer")
    section = (ROOT / "docs/plugins.md").read_text().split("## A model of your own", 1)[1]
    code, spec = (section.split(f"```{name}\n", 1)[1].split("```", 1)[0] for name in ("python", "yaml"))
    (folder / "my_models.py").write_text(code)
    text = (folder / "spec.yaml").read_text()
    head, rest = text.split("candidates:\n", 1)
    plugins, own = spec.split("candidates:\n", 1)
    (folder / "spec.yaml").write_text(head + plugins + "candidates:\n" + own + "\ngates:" + rest.split("gates:", 1)[1])
    told = run(folder, *QUICK)
    assert told["gates"]["parity"]["outcome"] == "holds"
    assert {path.suffix for path in (folder / "artifacts/train/forest").iterdir()} == {".json", ".npy", ".onnx"}
    validation = json.loads((folder / "artifacts/train/forest/cross_validation.json").read_bytes())
    assert len({trial["options"]["options.min_samples_leaf"] for trial in validation["trials"]}) > 1
    assert b"TreeEnsembleClassifier" in (folder / "artifacts/bundle/model.onnx").read_bytes()
    table = holdout(folder)
    positive = np.asarray(answers(folder, table))[:, 1]
    assert np.mean((positive > 0.5) == (table["diagnosis"].to_numpy() == 1)) > 0.9
    # An edit of the package trains its model again; what the package does not hold is no model.
    (folder / "my_models.py").write_text(code.replace("n_quantiles=50", "n_quantiles=40"))
    assert "train@forest" in run(folder, *QUICK)["stages_run"]
    refused = specml("check", "candidates.forest.estimator=shutil:rmtree", folder=folder, status=2)
    assert "lies in 'shutil', which is no plug-in of this spec" in refused.stderr


def test_a_wrong_conversion_is_one_message(project: Callable[[str], Path]) -> None:
    folder = project("breast_cancer")
    (folder / "own.py").write_text(
        "from sklearn.discriminant_analysis import LinearDiscriminantAnalysis as analysis  # noqa: F401\n"
    )
    candidates = "candidates={lda: {type: custom, estimator: 'own:analysis'}}"
    done = specml("run", "--no-deploy", "+plugins=[own]", candidates, folder=folder, status=8)
    assert "own:analysis" in done.stderr
    assert "LinearDiscriminantAnalysis and its ONNX graph differ on" in done.stderr
    assert not (folder / "artifacts/bundle").exists()
