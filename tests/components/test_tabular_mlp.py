"""The network: embeddings, exactness, early stopping, weights, and silence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest

from specml.candidates.tabular_mlp import TabularMlp
from specml.data import Design
from specml.graph import Graph
from tests.components.test_candidates import adversarial, matrix, saved
from tests.conftest import design

if TYPE_CHECKING:
    from specml.data import Task

QUICK: dict[str, Any] = {"hidden": (16,), "epochs": 6, "early_stopping": 3, "batch_size": 64, "learning_rate": 0.01}


def coded(task: Task, n: int = 400, seed: int = 0) -> Design:
    """As ``design``, with codes of 5 categories and some never seen in column 1, and of 40 in column 4."""
    data = design(task, n=n, seed=seed)
    data.X[:, 1] = np.where(np.isnan(data.X[:, 1]), -1, data.X[:, 1])
    data.X[:, 4] = np.random.default_rng(seed + 9).integers(0, 40, n)
    return replace(data, cardinalities=(0, 5, 0, 0, 40, 0))


def answers(model: Any, X: np.ndarray) -> np.ndarray:
    graph = Graph("candidate")
    value = model.to_onnx(graph, matrix(graph, X.shape[1]))
    width = model.predict(X[:1]).reshape(1, -1).shape[1]
    graph.output("out", value, "float32", width)
    session = onnxruntime.InferenceSession(graph.to_bytes(), providers=["CPUExecutionProvider"])
    answer: np.ndarray = session.run(None, {f"x{i}": X[:, i : i + 1] for i in range(X.shape[1])})[0]
    return answer[:, 0] if width == 1 else answer


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_the_graph_is_the_network_to_1e_6(task: Task, tmp_path: Path) -> None:
    data = coded(task)
    model = TabularMlp(**QUICK).fit(data, seed=3, threads=2, stop_on=coded(task, seed=1))
    odd = adversarial(data.X, nan=True)
    swapped = data.X[:50].copy()
    swapped[:, [1, 4]] = np.array([[40, -1], [np.nan, 5.5], [4.999, 39], [5, 40], [-0.5, np.inf]] * 10, np.float32)
    X = np.vstack([data.X, odd, swapped])
    native = model.predict(X)
    assert np.isfinite(native).all()
    assert np.max(np.abs(answers(model, X) - native) / np.maximum(1, np.abs(native))) < 1e-6
    saved(model, tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["network.json", "network.npz"]
    assert np.array_equal(TabularMlp().load(tmp_path / "model", task).predict(X), native)


def test_the_graph_of_categories_alone_and_of_constants_alone() -> None:
    data = coded("binary")
    for X, cardinalities in ((data.X[:, [1, 4]], (5, 40)), (np.ones((400, 2), np.float32), (0, 0))):
        one = replace(data, X=np.ascontiguousarray(X), cardinalities=cardinalities)
        model = TabularMlp(**QUICK).fit(one, seed=3, threads=1)
        assert np.max(np.abs(answers(model, one.X) - model.predict(one.X))) < 1e-6


def test_categories_are_learned_apart_whatever_the_order_of_their_codes() -> None:
    generator = np.random.default_rng(0)
    codes = generator.integers(0, 20, 2000)
    y = (generator.permutation(20) % 2)[codes].astype(np.int64)
    X = np.column_stack([codes, generator.normal(size=2000)]).astype(np.float32)
    model = TabularMlp(**{**QUICK, "epochs": 20}).fit(Design(X, y, None, "binary", 2, (20, 0)), seed=1, threads=1)
    assert np.mean((model.predict(X) > 0.5) == y) > 0.99
    # One never seen is none of the twenty: it is answered near the prior.
    assert 0.2 < model.predict(np.array([[-1, 0.0]], np.float32))[0] < 0.8


def test_a_missing_number_tells_something_where_training_knew_it() -> None:
    generator = np.random.default_rng(0)
    X = generator.normal(size=(1000, 2)).astype(np.float32)
    y = (generator.random(1000) < 0.3).astype(np.int64)
    X[y == 1, 0] = np.nan
    model = TabularMlp(**{**QUICK, "epochs": 20}).fit(Design(X, y, None, "binary", 2), seed=1, threads=1)
    assert np.mean((model.predict(X) > 0.5) == y) > 0.99
    median = float(np.nanmedian(X[:, 0]))
    unflagged = model.predict(np.array([[0.0, np.nan], [0.0, np.median(X[:, 1])]], np.float32))
    assert unflagged[0] == pytest.approx(unflagged[1], abs=1e-6)
    assert model.predict(np.array([[median, 0]], np.float32))[0] < 0.5


def test_early_stopping_keeps_the_best_epoch_and_tells_it() -> None:
    train, stop = coded("binary", n=300), coded("binary", n=300, seed=1)
    options = {**QUICK, "epochs": 60, "learning_rate": 0.03, "dropout": 0.0}
    early = TabularMlp(**options).fit(train, seed=1, threads=1, stop_on=stop)
    epochs = early.learned["stop_after"]
    assert 1 <= epochs < 57
    # Trained that many epochs of the same schedule without rows to watch, it is the same network.
    again = TabularMlp(**options).model_copy(update=early.learned).fit(train, seed=1, threads=1)
    assert again.learned == early.learned
    assert np.array_equal(early.predict(stop.X), again.predict(stop.X))
    # A schedule of that many epochs is another one.
    squeezed = TabularMlp(**{**options, "epochs": epochs}).fit(train, seed=1, threads=1)
    assert not np.allclose(early.predict(stop.X), squeezed.predict(stop.X))
    # Nothing is watched unless it is asked for.
    unwatched = TabularMlp(**{**options, "epochs": 4, "early_stopping": 0})
    assert not unwatched.watches
    assert TabularMlp(**options).watches
    assert unwatched.fit(train, seed=1, threads=1, stop_on=stop).learned == {}


@pytest.mark.parametrize("stop_after", [None, 2, 9])
def test_the_learning_rate_falls_along_a_cosine_over_all_epochs(
    stop_after: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    seen: list[float] = []
    step = torch.optim.AdamW.step

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    TabularMlp(**{**QUICK, "epochs": 4, "stop_after": stop_after}).fit(design("binary", n=130), seed=1, threads=1)
    steps = 3 * 4  # batches of 64, 64 and 2 rows
    expected = 0.01 * (1 + np.cos(np.pi * np.arange(steps) / steps)) / 2
    np.testing.assert_allclose(seen, expected[: 3 * min(4, stop_after or 4)], rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "median", "factor"),
    [
        ([1, 2, 3, 4, 9, np.nan, np.inf], 3, 1 / 2),
        ([0, 0, 0, 0, 0, 0, 8], 0, 1 / 4),  # no distance between the quartiles: the range becomes 2
        ([5, 5, 5, np.nan], 5, 0),
        ([np.nan, np.inf], 0, 0),
        ([], 0, 0),
        ([-3e38, 0, 3e38], 0, 1 / 3e38),
        ([0, 1e-31, 2e-31, 3e-31], 1.5e-31, 0),  # the factor would overflow float32
    ],
)
def test_numbers_are_scaled_by_their_quartiles(values: list[float], median: float, factor: float) -> None:
    from specml.network import scaling

    assert scaling(np.array(values, dtype=np.float32)) == pytest.approx((median, factor))


def test_a_scaled_value_is_clipped_smoothly_and_is_0_of_what_nothing_was_learned_of() -> None:
    import torch

    data = design("binary", n=300)
    data.X[:, 0] = np.arange(300)
    data.X[:, 1], data.X[:, 2] = 7.0, np.nan
    network: Any = TabularMlp(**QUICK, bins=1).fit(data, seed=1, threads=1).network  # type: ignore[attr-defined]
    far = [0, 149.5, 149.5 + 149.5, 1e6, 3e38, np.inf, -3e38, -np.inf, np.nan]
    X = np.repeat(np.array(far, np.float32)[:, None], data.X.shape[1], axis=1)
    with torch.no_grad():
        scaled = network.embed(torch.from_numpy(X))[:, sum(network.shape.bins) :][:, :3].numpy()
    assert np.abs(scaled[:3, 0]).tolist() == pytest.approx([1 / np.sqrt(10 / 9), 0, 1 / np.sqrt(10 / 9)])
    assert scaled[3:, 0].tolist() == pytest.approx([3, 3, 3, -3, -3, 0], abs=1e-3)
    assert (scaled[:, 1:] == 0).all()


def test_rows_and_classes_weigh_what_they_are_said_to() -> None:
    data = design("binary", n=600)
    rare = Design(data.X, (np.arange(600) % 20 == 0).astype(np.int64), None, "binary", 2)
    plain = TabularMlp(**QUICK).fit(rare, seed=1, threads=1)
    balanced = TabularMlp(**QUICK, class_weight="balanced").fit(rare, seed=1, threads=1)
    weighted = TabularMlp(**QUICK).fit(replace(rare, weight=np.where(rare.y == 1, 19.0, 1.0) * 7), seed=1, threads=1)
    assert plain.predict(data.X).mean() < 0.15
    assert balanced.predict(data.X).mean() == pytest.approx(0.5, abs=0.1)
    assert weighted.predict(data.X) == pytest.approx(balanced.predict(data.X), abs=1e-3)


@pytest.mark.parametrize("stop", [False, True])
def test_rows_of_no_weight_teach_nothing_and_spoil_nothing(stop: bool) -> None:
    """Also where they make up a whole batch."""
    data = design("binary", n=65)  # batches of 64 rows, and of 1
    weight = np.where(np.arange(65) % 3 == 0, 0.0, 1.0)
    weighted = replace(data, weight=weight)
    candidate = TabularMlp(**{**QUICK, "epochs": 12})
    model = candidate.fit(weighted, seed=1, threads=1, stop_on=weighted if stop else None)
    assert np.isfinite(model.predict(data.X)).all()
    other = replace(weighted, y=np.where(weight == 0, 1 - data.y, data.y))
    again = candidate.fit(other, seed=1, threads=1, stop_on=other if stop else None)
    np.testing.assert_array_equal(again.predict(data.X), model.predict(data.X))


def test_it_leaves_no_file_no_word_and_no_state_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    TabularMlp(**QUICK).fit(design("binary"), seed=1, threads=1, stop_on=design("binary", seed=1))
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("n", [64 + 2, 64 + 1])
def test_what_workers_learn_of_a_batch_is_the_batch(n: int) -> None:
    """The mean over three workers of their losses' slopes; the last batch has fewer rows than there are workers."""
    import torch

    from specml.training import Fitting, Share

    data = replace(coded("binary", n=n), weight=np.random.default_rng(0).random(n))
    candidate = TabularMlp(**QUICK, dropout=0.0)
    network: Any = candidate.begun(data).eval()
    fitting = Fitting(network, 0.1, 0.0, 10)
    rows = (
        torch.from_numpy(data.X),
        torch.from_numpy(data.y).float(),
        torch.from_numpy(candidate.weight(data)).float(),
    )
    order = torch.randperm(n, generator=torch.Generator().manual_seed(1)).split(64)
    shares = [list(Share(rows, 64, torch.Generator().manual_seed(1), rank, 3)) for rank in range(3)]
    assert [len(share) for share in shares] == [2, 2, 2]
    for number, batch in enumerate(order):
        slopes = []
        for parts in ([tuple(one[batch] for one in rows)], [share[number] for share in shares]):
            network.zero_grad()
            (sum(fitting.loss(part) for part in parts) / len(parts)).backward()
            slopes.append(torch.cat([one.grad.flatten() for one in network.parameters()]))
        torch.testing.assert_close(slopes[0], slopes[1], atol=1e-6, rtol=1e-4)


def test_the_explainers_view_of_it() -> None:
    import torch

    data = coded("multiclass")
    network: Any = TabularMlp(**QUICK).fit(data, seed=1, threads=1).network  # type: ignore[attr-defined]
    embedded = network.embed(torch.from_numpy(data.X[:7])).detach().requires_grad_()
    assert embedded.shape == (7, len(network.shape.owners))
    assert torch.isfinite(embedded).all()
    score = network.score(embedded)
    score[:, 1].sum().backward()
    assert torch.any(embedded.grad != 0)
    assert torch.equal(network.answer(score), network(torch.from_numpy(data.X[:7])))
