"""The network of images: places of pixels, exactness, what it learns of digits, moved pictures, and explanations."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from specml.candidates.image_cnn import ImageCnn, Picture
from specml.data import Design
from specml.errors import StageFailed
from tests.components.test_candidates import adversarial, saved
from tests.components.test_tabular_mlp import answers

if TYPE_CHECKING:
    from pathlib import Path

    from specml.data import Task

QUICK: dict[str, Any] = {"filters": (4, 6), "hidden": (8,), "epochs": 3, "batch_size": 32}


def pictures(task: Task, n: int = 200, channels: int = 2, seed: int = 0) -> Design:
    """5 × 6 pixels of some channels, of which a few are no columns, and two columns beside them."""
    generator = np.random.default_rng(seed)
    names = [f"p{i}_{j}_{k}" for i in range(5) for j in range(6) for k in range(channels)]
    X = generator.random((n, len(names))).astype(np.float32)
    signal = X[:, names.index("p2_3_0")] - X[:, names.index("p0_0_0")]
    kept = [place for place, name in enumerate(names) if name not in ("p0_1_0", "p4_5_1")]
    beside = generator.normal(size=(n, 2)).astype(np.float32) * 100
    X, told = np.hstack([beside[:, :1], X[:, kept], beside[:, 1:]]), ("age", *(names[i] for i in kept), "weight")
    k = 2 if task == "binary" else 3
    y = signal if task == "regression" else np.searchsorted(np.quantile(signal, np.arange(1, k) / k), signal)
    return Design(X, y.astype(np.float64 if task == "regression" else np.int64), None, task, k, names=told)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_the_graph_is_the_network_to_1e_6(task: Task, tmp_path: Path) -> None:
    data = pictures(task)
    model = ImageCnn(**QUICK, early_stopping=2).fit(data, seed=3, threads=2, stop_on=pictures(task, seed=1))
    X = np.vstack([data.X, adversarial(data.X, nan=True)])
    native = model.predict(X)
    assert np.isfinite(native).all()
    assert np.max(np.abs(answers(model, X) - native) / np.maximum(1, np.abs(native))) < 1e-6
    saved(model, tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["network.json", "network.npz"]
    assert np.array_equal(ImageCnn().load(tmp_path / "model", task).predict(X), native)


def test_names_say_where_a_pixel_lies_whatever_the_order_of_columns() -> None:
    data = pictures("binary")
    order = np.r_[0, np.random.default_rng(1).permutation(np.arange(1, data.X.shape[1] - 1)), data.X.shape[1] - 1]
    other = replace(data, X=np.ascontiguousarray(data.X[:, order]), names=tuple(data.names[i] for i in order))
    told = [ImageCnn(**QUICK).fit(one, seed=1, threads=1).predict(one.X) for one in (data, other)]
    assert np.array_equal(*told)


def test_places_are_told_by_names_or_by_the_picture() -> None:
    names = ("age", "pixel_0_1", "pixel_1_0", "year_2020_1")
    assert ImageCnn().placed(names, 4) == (Picture(height=2, width=2), (-1, 1, 2, -1))
    larger = Picture(height=3, width=4)
    assert ImageCnn(image=larger).placed(names, 4) == (larger, (-1, 1, 4, -1))
    coloured = ("p0_0_0", "p0_0_1", "p0_0_2", "p0_1_0", "p0_1_1", "p0_1_2")
    assert ImageCnn().placed(coloured, 6) == (Picture(height=1, width=2, channels=3), (0, 2, 4, 1, 3, 5))
    assert ImageCnn().placed(tuple("abcd"), 4) == (Picture(height=2, width=2), (0, 1, 2, 3))
    for candidate, columns, reason in [
        (ImageCnn(), tuple("abc"), "none of the 3 columns is named for a pixel"),
        (ImageCnn(image=Picture(height=1, width=2)), names, r"is 1 × 2 × 1; the column 'pixel_1_0' lies outside"),
        (ImageCnn(), ("v_2020_1", "v_2021_1"), r"is 2022 × 2 × 1 by the columns"),
        (ImageCnn(), ("p0_0_20", "p0_0_1"), r"is 1 × 1 × 21 by the columns"),
        (ImageCnn(), (), r"is 0 × 0 × 1 by the columns"),
        (ImageCnn(), ("p0_1", "p0_0", "p00_1"), r"the columns 'p0_1' and 'p00_1' are named for one place"),
        (ImageCnn(image=larger), tuple("abc"), r"is 3 × 4 × 1; the design has 3 columns"),
    ]:
        with pytest.raises(StageFailed, match=reason):
            candidate.placed(columns, len(columns))


def test_it_reads_digits() -> None:
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    X, y = X[order].astype(np.float32), y[order].astype(np.int64)
    train = Design(X[:1300], y[:1300], None, "multiclass", 10)
    model = ImageCnn(filters=(16, 32), hidden=(64,), epochs=14, learning_rate=0.01).fit(train, seed=1, threads=1)
    right = np.mean(model.predict(X[1300:]).argmax(axis=1) == y[1300:])
    line = LogisticRegression(max_iter=300).fit(X[:1300] / 16, y[:1300]).score(X[1300:] / 16, y[1300:])
    assert right > 0.97
    assert right >= line


def test_moved_pictures_keep_what_they_show() -> None:
    import torch

    data = pictures("binary", channels=1)
    network: Any = ImageCnn(**QUICK, shift=1).network(data)
    picture = torch.arange(30.0).repeat(500, 1)
    torch.manual_seed(0)
    moved = network._moved(picture).view(-1, 5, 6)
    wide = np.pad(np.arange(30.0).reshape(5, 6), 1, mode="edge")
    every = {wide[i : i + 5, j : j + 6].tobytes() for i in range(3) for j in range(3)}
    assert {one.numpy().astype(float).tobytes() for one in moved} == every
    # Only where it learns.
    X = torch.from_numpy(data.X)
    assert torch.equal(network.eval().embed(X), ImageCnn(**QUICK).network(data).eval().embed(X))
    assert not torch.equal(network.train().embed(X), network.eval().embed(X))


def test_the_pixels_that_decide_are_told_most(tmp_path: Path) -> None:
    import polars as pl

    from specml.bundle import open_bundle, predict, write_bundle
    from specml.explain import explainer, importance
    from specml.features.numeric import Numeric
    from specml.kinds import Training
    from specml.preprocessing import Preprocessing
    from specml.stages import package
    from specml.stages.chosen import Chosen, Member
    from specml.stages.explore import describe
    from tests.conftest import column

    data = pictures("multiclass", n=400, channels=1)
    rows = pl.DataFrame(data.X.astype(np.float64), schema=list(data.names))
    columns = tuple(column(name) for name in data.names)
    made = Preprocessing.fit(
        rows, columns, dict.fromkeys(data.names, Numeric()), Training(ImageCnn.prefers, data.y, "multiclass", 3)
    )
    train = replace(data, X=made.transform(rows))
    model = ImageCnn(**{**QUICK, "epochs": 25, "learning_rate": 0.01}).fit(train, seed=1, threads=1)
    native = model.native()
    assert native is not None
    contract = package.Contract(
        name="spots", task="multiclass", target="y", inputs=columns, classes=("a", "b", "c"), candidate="cnn",
        explanation=package.explanation((made,), native),
    )  # fmt: skip
    graph = package.build(contract, Chosen((Member(made, model),)))
    described = {"columns": {name: describe(rows[name]) for name in data.names}}
    write_bundle(
        tmp_path / "b", contract, graph, described, design=package.build_design((made,)), native=native.content
    )
    bundle = open_bundle(tmp_path / "b")
    feeds = {name: rows[name].to_numpy()[:20] for name in data.names}
    found = explainer(bundle)(feeds)
    scores = np.log(predict(bundle.session(), feeds)["probabilities"].astype(np.float64))
    centred = found.total - found.total.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(centred, scores - scores.mean(axis=1, keepdims=True), atol=1e-3)
    means = importance(bundle, {name: rows[name].to_numpy() for name in data.names})["importance"]
    assert set(sorted(means, key=lambda name: -means[name])[:2]) == {"p2_3_0", "p0_0_0"}
