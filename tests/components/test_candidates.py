"""What every candidate owes, of whatever columns: generated for each member of the kind, also for those added later."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnxruntime
import polars as pl
import pytest

import specml.spec  # noqa: F401 - fills the tables
from specml import quantiles
from specml.bundle import Contract, audit, predict
from specml.data import MISSING, Column, Design, feature_array
from specml.features.categorical import Categorical
from specml.features.numeric import Numeric
from specml.features.text import Text
from specml.graph import Graph
from specml.kinds import Candidate, Model, Training
from specml.metrics import TABLE
from specml.preprocessing import Preprocessing
from specml.stages.chosen import Chosen, Member
from specml.stages.package import build
from tests.conftest import design

if TYPE_CHECKING:
    from pathlib import Path

    from specml.data import Kind, Task
    from specml.graph import Trees

Columns = Literal["numbers", "categories", "text", "image", "all"]
NAMES: dict[Columns, dict[str, Kind]] = {
    "numbers": {"steps": "numeric", "size": "numeric", "noise": "numeric"},
    "categories": {"town": "categorical", "colour": "categorical"},
    "text": {"note": "text"},
}
NAMES["all"] = NAMES["numbers"] | NAMES["categories"] | NAMES["text"]
PIXELS: dict[str, Kind] = {f"p{row}_{column}": "numeric" for row in range(4) for column in range(4) if row + column}
"""A picture whose first pixel is no column, as one that is the same in all rows."""

NEEDED: dict[str, dict[str, Any]] = {"custom": {"estimator": "tests.models.nets:Net"}}
"""Options that have no default."""
SMALL: dict[str, dict[str, Any]] = {
    "tabular_mlp": {"epochs": 6, "hidden": (16,), "batch_size": 32, "learning_rate": 0.02},
    "hist_gradient_boosting": {"max_iter": 30, "learning_rate": 0.2},
    **{name: {"n_estimators": 12} for name in ("random_forest", "extra_trees")},
    **{name: {"n_estimators": 30, "learning_rate": 0.2} for name in ("lightgbm", "lagged_lightgbm", "xgboost")},
    "image_cnn": {"epochs": 6, "filters": (4, 8), "hidden": (16,), "batch_size": 32, "learning_rate": 0.02},
    "catboost": {"iterations": 30, "learning_rate": 0.2, "depth": 4},
}
"""Options that make a small model of a family; others are small by their defaults."""
DEAR = {"tabular_mlp", "image_cnn", "custom"}
"""Families that train by torch, to whose last bit refits need not agree."""
BLIND = {"dummy", "seasonal_naive"}
"""Families that look at no column, or learn nothing from it."""


FORECASTS = {name for name, kind in Candidate.table.items() if kind.tasks == ("forecast",)}  # type: ignore[attr-defined]
"""Families of forecasts alone: given a column that holds a season before, they learn a regression."""


def tasks(name: str) -> tuple[Task, ...]:
    """What a family learns."""
    return ("regression",) if name in FORECASTS else Candidate.table[name].tasks  # type: ignore[attr-defined]


SEEING = {"image_cnn"}
"""Families that look at pictures; what else there is stands beside them."""


def columns_of(name: str, columns: Columns) -> dict[str, Kind]:
    """By name, the columns of a case; of a family that looks at pictures the picture is always among them."""
    picture = PIXELS if columns == "image" or name in SEEING else {}
    return picture | NAMES.get(columns, {})


def shown(name: str) -> list[Columns]:
    """The cases of a family."""
    if name in FORECASTS:
        return ["numbers", "all"]
    return ["image", "all"] if name in SEEING else ["numbers", "categories", "text", "all"]


def usual(name: str) -> Columns:
    """What most families see, or else a picture alone."""
    return "image" if name in SEEING else "numbers"


def crossed() -> list[Any]:
    """Every (family, task, columns); what one kind of column owes alone, beside all together, is a sweep."""
    found = []
    for name in sorted(Candidate.table):
        for task in tasks(name):
            for columns in shown(name):
                marks = [needs_extra(name), *([] if columns == "all" else [pytest.mark.sweep])]
                found.append(pytest.param(name, task, columns, marks=marks, id=f"{name}-{task}-{columns}"))
    return found


def needs_extra(name: str) -> pytest.MarkDecorator:
    """Skips a family whose library is an extra that is not installed."""
    absent = name in {"catboost", "xgboost"} and importlib.util.find_spec(name) is None
    return pytest.mark.skipif(absent, reason=f"specml[{name}] is not installed")


CASES = [pytest.param(name, task, marks=needs_extra(name)) for name in sorted(Candidate.table) for task in tasks(name)]
CROSSED = crossed()
QUANTILES = (0.1, 0.5, 0.9)
PREDICTING = [
    pytest.param(name, marks=needs_extra(name))
    for name, kind in sorted(Candidate.table.items())
    if kind.predicts_quantiles  # type: ignore[attr-defined]
]


def made(name: str, **options: Any) -> Any:
    """A small candidate of the family."""
    return Candidate.table[name](**NEEDED.get(name, {}), **{**SMALL.get(name, {}), **options})


def table(n: int = 240, seed: int = 0) -> pl.DataFrame:
    """Rows of every kind of column: ties and gaps, missing and rare categories, texts that say something."""
    random = np.random.default_rng(seed)
    steps = np.round(random.normal(size=n) * 2) / 2
    size = random.lognormal(3, 1, n)
    town = random.choice(["aachen", "bonn", "celle", "dahn", MISSING], n, p=[0.4, 0.3, 0.15, 0.1, 0.05])
    colour = random.choice(["red", "green"], n)
    words = random.choice(["leak", "crack", "fine", "new", "dry"], (n, 3))
    signal = steps + np.log(size) - 3 + 2.0 * (town == "bonn") - (colour == "red") + 2.0 * (words == "leak").any(axis=1)
    gaps = random.random((n, 2)) < 0.1
    # A spot that lies the lower and the brighter the larger the signal is, on some noise.
    down, across = np.meshgrid(np.arange(4), np.arange(4), indexing="ij")
    place = np.clip(signal / 2 + 1.5, 0, 3)[:, None, None]
    spots = np.exp(-((down - place) ** 2) - (across - random.integers(0, 4, n)[:, None, None]) ** 2 / 4)
    pixels = 255 * np.clip(spots + random.normal(scale=0.3, size=spots.shape), 0, 1)
    return pl.DataFrame(
        {
            **{one: pixels[:, int(one[1]), int(one[3])] for one in PIXELS},
            "steps": np.where(gaps[:, 0], np.nan, steps),
            "size": np.where(gaps[:, 1], np.nan, size),
            "noise": random.normal(size=n),
            "town": town,
            "colour": colour,
            "note": [" ".join(row) for row in words],
            "regression": signal,
            "binary": (signal > 0.5).astype(np.int64),
            "multiclass": np.searchsorted([-0.5, 1.5], signal),
        }
    )


def adversarial_rows(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows whose values are missing, unseen, zero, huge, infinite, or the nearest to those of training."""
    special = np.array([np.nan, 0.0, -0.0, 1e-30, 1e6, -1e6, 3e38, -3e38, 1e300, np.inf, -np.inf])
    towns, notes = ["bonn", "atlantis", MISSING, "", "Bonn"], ["", "leak leak", "unheard of", "LEAK, new!", "a" * 50]
    known = rows.select(list(NAMES["numbers"])).to_numpy()[:25]
    special_rows = np.stack([special, special[::-1], special], axis=1)
    beside = [
        np.nextafter(part, part.dtype.type(side))
        for part in (known, known.astype(np.float32))
        for side in (-np.inf, np.inf)
    ]
    numbers = dict(zip(NAMES["numbers"], np.concatenate([special_rows, *beside]).T, strict=True))
    n = len(numbers["steps"])
    pixels = rows.select(list(PIXELS)).to_numpy()[np.arange(n) % len(rows)].copy()
    pixels[: len(special)] = special[:, None]
    pixels[len(special) : 2 * len(special), 4] = special
    return pl.DataFrame(
        {
            **dict(zip(PIXELS, pixels.T, strict=True)),
            **numbers,
            "town": [towns[i % len(towns)] for i in range(n)],
            "colour": [towns[(i // 2) % len(towns)] if i % 3 else "red" for i in range(n)],
            "note": [notes[(i // 3) % len(notes)] for i in range(n)],
        }
    )


@dataclass(frozen=True)
class Fitted:
    """A trained candidate and what it was trained on."""

    candidate: Any
    preprocessing: Preprocessing
    train: Design
    model: Model

    def again(self, *, threads: int) -> Model:
        """The same fit once more."""
        model: Model = self.candidate.fit(self.train, seed=3, threads=threads, stop_on=self.train.rows(np.arange(80)))
        return model


def seasonal(name: str, train: Design) -> Design:
    """The rows as a family of forecasts is given them: of ``table``, the first column tells much of the target."""
    return replace(train, seasonal=0) if name in FORECASTS else train


@cache
def fitted(name: str, task: Task, columns: Columns, categories: str = "") -> Fitted:
    candidate, rows = made(name, **({"categories": categories} if categories else {})), table()
    treated = tuple(Column(name=one, kind=kind, nullable=True) for one, kind in columns_of(name, columns).items())
    by_kind: dict[str, Any] = {"numeric": Numeric(), "categorical": Categorical(), "text": Text()}
    y = rows[task].to_numpy().copy()
    classes = 3 if task == "multiclass" else 2
    training = Training(candidate.prefers, y, task, classes)
    preprocessing = Preprocessing.fit(rows, treated, {c.name: by_kind[c.kind] for c in treated}, training)
    X, told = preprocessing.transform(rows), preprocessing.cardinalities
    train = seasonal(name, Design(X, y, None, task, classes, told, names=preprocessing.names))
    model = candidate.fit(train, seed=3, threads=1, stop_on=train.rows(np.arange(80)))
    return Fitted(candidate, preprocessing, train, model)


def saved(model: Model, folder: Path) -> dict[str, bytes]:
    folder.mkdir()
    model.save(folder)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("name", "task", "columns"), CROSSED)
def test_same_seed_same_bytes_for_any_number_of_threads(
    name: str, task: Task, columns: Columns, tmp_path: Path
) -> None:
    one = fitted(name, task, columns)
    assert saved(one.model, tmp_path / "one") == saved(one.again(threads=2), tmp_path / "two")


@pytest.mark.parametrize(("name", "task", "columns"), CROSSED)
def test_saved_and_loaded_predicts_the_same(name: str, task: Task, columns: Columns, tmp_path: Path) -> None:
    one = fitted(name, task, columns)
    files = saved(one.model, tmp_path / "model")
    assert {file.rpartition(".")[2] for file in files} <= {"json", "npz", "txt", "onnx"}
    again = one.candidate.load(tmp_path / "model", task)
    assert np.array_equal(one.model.predict(one.train.X), again.predict(one.train.X))
    assert saved(again, tmp_path / "again") == files


@pytest.mark.parametrize(("name", "task", "columns"), CROSSED)
def test_a_bundle_answers_raw_rows_as_the_library_does(name: str, task: Task, columns: Columns) -> None:
    """By onnxruntime alone, of training rows and of adversarial ones, alone and together."""
    answers_raw_rows(fitted(name, task, columns))


SETS = [case for case in CASES if "categories" in Candidate.table[str(case.values[0])].model_fields]


@pytest.mark.parametrize(("name", "task"), SETS)
def test_sets_of_categories_owe_the_same(name: str, task: Task, tmp_path: Path) -> None:
    one = fitted(name, task, "all", "sets")
    answers_raw_rows(one)
    assert saved(one.model, tmp_path / "one") == saved(one.again(threads=2), tmp_path / "two")
    again = one.candidate.load(tmp_path / "one", task)
    assert np.array_equal(again.predict(one.train.X), one.model.predict(one.train.X))
    assert not np.array_equal(again.predict(one.train.X), fitted(name, task, "all").model.predict(one.train.X))


def answers_raw_rows(one: Fitted) -> None:
    task = one.train.task
    contract = Contract(
        name="conformance",
        task=task,
        target=task,
        inputs=one.preprocessing.columns,
        classes={"binary": ("no", "yes"), "multiclass": ("low", "middle", "high"), "regression": ()}[task],
        threshold=0.5 if task == "binary" else None,
        candidate="any",
    )
    chosen = Chosen((Member(one.preprocessing, one.model),))
    graph = build(contract, chosen)
    assert graph == build(contract, chosen)
    for form in sorted({graph, build(contract, chosen, "tensors")}):
        graph_answers_raw_rows(form, one, contract)


def graph_answers_raw_rows(graph: bytes, one: Fitted, contract: Contract) -> None:
    task = one.train.task
    audit(graph, where="here")
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    names = [column.name for column in contract.inputs]
    rows = pl.concat([part.select(names) for part in (table(), adversarial_rows(table()))])
    native = one.model.predict(one.preprocessing.transform(rows))
    feeds = {column.name: feature_array(rows, column) for column in contract.inputs}
    told = predict(session, feeds)
    alone = predict(session, {key: values[:1] for key, values in feeds.items()})
    # Of many rows, onnxruntime sums a row's trees in another order than of one.
    main = "prediction" if task == "regression" else "probabilities"
    assert np.allclose(alone[main], told[main][:1], rtol=1e-5, atol=1e-6)
    if task == "regression":
        assert np.max(np.abs(told["prediction"] - native) / np.maximum(1.0, np.abs(native))) < 1e-5
        return
    both = np.stack([1 - native, native], axis=1) if task == "binary" else native
    assert np.max(np.abs(told["probabilities"] - both)) < 1e-5
    decided = (native >= 0.5).astype(int) if task == "binary" else native.argmax(axis=1)
    sure = np.abs(np.diff(np.sort(both, axis=1)[:, -2:], axis=1)[:, 0]) > 1e-5
    assert [contract.classes[i] for i in decided[sure]] == told["label"][sure].tolist()


@pytest.mark.parametrize(("name", "task", "columns"), CROSSED)
def test_columns_with_a_signal_beat_the_prior(name: str, task: Task, columns: Columns) -> None:
    one = fitted(name, task, columns)
    scores, y = one.model.predict(one.train.X), one.train.y
    assert np.isfinite(scores).all()
    if task == "regression":
        loss, prior = np.mean((scores - y) ** 2), np.var(y)
    else:
        both = np.stack([1 - scores, scores], axis=1) if task == "binary" else scores
        shares = np.bincount(y) / len(y)
        loss = -np.mean(np.log(np.maximum(both[np.arange(len(y)), y], 1e-12)))
        prior = -np.sum(shares * np.log(shares))
    assert loss < prior or (name in BLIND and abs(loss - prior) < 1e-9)


@pytest.mark.parametrize(("name", "task"), CASES)
def test_a_row_counts_as_much_as_its_weight(name: str, task: Task) -> None:
    """Of rows that contradict each other, the heavier ones are believed."""
    one = fitted(name, task, usual(name))
    n = len(one.train.y)
    turned = -one.train.y if task == "regression" else one.train.n_classes - 1 - one.train.y
    twice = np.concatenate([np.arange(n), np.arange(n)])
    told = replace(one.train, X=one.train.X[twice], y=np.concatenate([one.train.y, turned]))
    answers = []
    for heavy in (slice(None, n), slice(n, None)):
        weight = np.full(2 * n, 0.05)
        weight[heavy] = 1.0
        model = one.candidate.fit(replace(told, weight=weight), seed=3, threads=1)
        answers.append(model.predict(one.train.X))
    first, second = answers if task != "multiclass" else (one[:, -1] for one in answers)
    high = one.train.y > np.median(one.train.y)
    if task == "binary":
        high = one.train.y == 1
    if name in BLIND:
        assert not np.allclose(first, second)
    else:
        assert first[high].mean() - first[~high].mean() > 0 > second[high].mean() - second[~high].mean()


@pytest.mark.parametrize(
    ("name", "task"), [case for case in CASES if case.values[1] != "regression" and case.values[0] != "custom"]
)
def test_balanced_classes_raise_the_rare_one(name: str, task: Task) -> None:
    if "class_weight" not in Candidate.table[name].model_fields:
        assert name in BLIND
        return
    one = fitted(name, task, usual(name))
    rare = one.train.n_classes - 1
    kept = np.flatnonzero((one.train.y != rare) | (np.arange(len(one.train.y)) % 6 == 0))
    few = one.train.rows(kept)
    plain, balanced = (
        made(name, class_weight=weight).fit(few, seed=3, threads=1).predict(few.X) for weight in (None, "balanced")
    )
    assert np.mean(balanced if task == "binary" else balanced[:, rare]) > np.mean(
        plain if task == "binary" else plain[:, rare]
    )


@pytest.mark.parametrize(("name", "task"), CASES)
def test_the_graph_decides_every_matrix_as_the_library_does(name: str, task: Task) -> None:
    """Also of numbers that no column gives: infinite ones, and missing ones where it takes them."""
    decides_as_the_library_does(made(name, **picture(name)), task)


def picture(name: str) -> dict[str, Any]:
    """How six columns without names are a picture, to a family that looks at one."""
    return {"image": {"height": 2, "width": 3}} if name in SEEING else {}


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_random_thresholds_of_lightgbm_owe_the_same(task: Task) -> None:
    data = design(task)
    drawn = made("lightgbm", extra_trees=True)
    one, two, plain = (
        candidate.fit(data, seed=3, threads=threads)
        for candidate, threads in ((drawn, 1), (drawn, 2), (made("lightgbm"), 1))
    )
    assert one.text == two.text != plain.text  # type: ignore[attr-defined]
    decides_as_the_library_does(drawn, task)


def decides_as_the_library_does(candidate: Candidate, task: Task) -> None:
    native = candidate.prefers.missing == "native"
    data = seasonal(candidate.type, design(task))  # type: ignore[attr-defined]
    if not native:
        data.X[np.isnan(data.X)] = 0.0
    model = candidate.fit(data, seed=3, threads=1)
    X = np.vstack([data.X, adversarial(data.X, nan=native)])
    expected = model.predict(X)
    forms: list[Trees] = ["operator", "tensors"]
    for form in forms:
        graph = Graph("candidate", form)
        value = model.to_onnx(graph, matrix(graph, X.shape[1]))
        graph.output("out", value, "float32", expected.reshape(len(X), -1).shape[1])
        feeds = {f"x{i}": X[:, i : i + 1] for i in range(X.shape[1])}
        session = onnxruntime.InferenceSession(graph.to_bytes(), providers=["CPUExecutionProvider"])
        answer = session.run(None, feeds)[0].reshape(expected.shape)
        assert np.max(np.abs(answer - expected) / np.maximum(1.0, np.abs(expected))) < 1e-5
        if not graph.has_trees:
            break


@pytest.mark.parametrize(("name", "task"), CASES)
def test_columns_that_say_nothing_and_rows_that_do_not_count_are_taken(name: str, task: Task) -> None:
    """Wholly missing, of categories never seen, constant; a third of the rows weighs nothing."""
    candidate, data = made(name), seasonal(name, design(task))
    native = candidate.prefers.missing == "native"
    data.X[:, 1], data.X[:, 2], data.X[:, 3] = np.nan if native else 0.0, -1.0, 7.0
    if not native:
        data.X[np.isnan(data.X)] = 0.0
    told = replace(data, weight=np.where(np.arange(400) % 3, 1.0, 0.0), cardinalities=(0, 0, 5, 1, 0, 0))
    for options in [{}, *([{"categories": "sets"}] if "categories" in type(candidate).model_fields else [])]:
        model = made(name, **options, **picture(name)).fit(told, seed=3, threads=1, stop_on=told.rows(np.arange(80)))
        assert np.isfinite(model.predict(told.X)).all()


@pytest.mark.parametrize("name", [name for name, kind in sorted(Candidate.table.items()) if kind.stops_early])  # type: ignore[attr-defined]
def test_what_stops_early_tells_how_many_rounds_the_refit_takes(name: str) -> None:
    if needs_extra(name).args[0]:
        pytest.skip(f"specml[{name}] is not installed")
    one = fitted(name, tasks(name)[0], usual(name))
    candidate = made(name, early_stopping=2, **({"epochs": 12} if name in DEAR else {}))
    noise = replace(one.train, y=np.random.default_rng(1).integers(0, 2, len(one.train.y)).astype(one.train.y.dtype))
    model = candidate.fit(noise.rows(np.arange(80, 240)), seed=3, threads=1, stop_on=noise.rows(np.arange(80)))
    ((option, rounds),) = model.learned.items()
    assert 1 <= rounds < (getattr(candidate, option) or candidate.epochs)
    again = candidate.model_copy(update=model.learned).fit(noise.rows(np.arange(80, 240)), seed=3, threads=1)
    assert again.learned == model.learned
    if name not in DEAR:
        assert np.allclose(again.predict(noise.X), model.predict(noise.X))


@pytest.mark.parametrize("name", [name for name, kind in sorted(Candidate.table.items()) if kind.keeps_monotone])  # type: ignore[attr-defined]
@pytest.mark.parametrize("task", ["binary", "regression"])
@pytest.mark.parametrize("direction", [1, -1])
def test_a_direction_is_kept_against_the_data(name: str, task: Task, direction: int) -> None:
    if needs_extra(name).args[0]:
        pytest.skip(f"specml[{name}] is not installed")
    x = np.linspace(0, 10, 300, dtype=np.float32)
    wave = np.sin(2 * x)
    X = np.stack([np.arange(300) % 3, x], axis=1).astype(np.float32)
    y = wave.astype(np.float64) if task == "regression" else (wave > 0).astype(np.int64)
    told = Design(X, y, None, task, 2, (3, 0), (0, direction))
    model = made(name).fit(told, seed=3, threads=1)
    assert (np.diff(model.predict(np.stack([np.zeros(300, np.float32), x], axis=1))) * direction >= 0).all()


def test_what_is_not_installed_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from specml.cli import missing

    for name in ("catboost", "xgboost"):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ModuleNotFoundError) as error:
            made(name).fit(design("binary"), seed=3, threads=1)
        assert f"pip install 'specml[{name}]'" in missing(error.value)


@cache
def fitted_quantiles(name: str) -> Fitted:
    one = fitted(name, "regression", "all")
    return replace(one, model=in_quantiles(one, one.train, threads=1))


def in_quantiles(one: Fitted, train: Design, *, threads: int) -> Model:
    stop = train.rows(np.arange(80))
    return quantiles.fit(one.candidate, train, QUANTILES, seed=3, threads=threads, stop_on=stop)


@pytest.mark.parametrize("name", PREDICTING)
def test_quantiles_owe_the_same_bytes_and_the_same_model(name: str, tmp_path: Path) -> None:
    one = fitted_quantiles(name)
    files = saved(one.model, tmp_path / "one")
    assert {file.partition("/")[0] for file in files} == {"quantile_0.1", "quantile_0.5", "quantile_0.9"}
    assert files == saved(in_quantiles(one, one.train, threads=2), tmp_path / "two")
    again = quantiles.load(one.candidate, tmp_path / "one", "regression", QUANTILES)
    assert np.array_equal(again.predict(one.train.X), one.model.predict(one.train.X))
    assert saved(again, tmp_path / "again") == files


@pytest.mark.parametrize("name", PREDICTING)
def test_a_bundle_answers_quantiles_that_never_cross(name: str) -> None:
    """By onnxruntime alone, of training rows and of adversarial ones."""
    one = fitted_quantiles(name)
    contract = Contract(
        name="conformance", task="regression", target="y", inputs=one.preprocessing.columns, candidate="any",
        quantiles=QUANTILES,
    )  # fmt: skip
    graph = build(contract, Chosen((Member(one.preprocessing, one.model),)))
    audit(graph, where="here")
    columns = [column.name for column in one.preprocessing.columns]
    rows = pl.concat([part.select(columns) for part in (table(), adversarial_rows(table()))])
    native = one.model.predict(one.preprocessing.transform(rows))
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    told = predict(session, {column.name: feature_array(rows, column) for column in contract.inputs})
    answers = np.stack([told[f"quantile_{level}"] for level in QUANTILES], axis=1)
    assert np.max(np.abs(answers - native) / np.maximum(1.0, np.abs(native))) < 1e-5
    assert (np.diff(answers, axis=1) >= 0).all()
    assert np.array_equal(told["prediction"], told["quantile_0.5"])


@pytest.mark.parametrize("name", PREDICTING)
def test_quantiles_lie_where_they_should_and_beat_those_of_no_column(name: str) -> None:
    one = fitted_quantiles(name)
    y, scores = one.train.y, one.model.predict(one.train.X)
    shares = (y[:, None] <= scores).mean(axis=0)
    assert np.abs(shares - np.array(QUANTILES)).max() < (0.08 if one.candidate.complexity == 3 else 0.06)
    known = np.tile(np.quantile(y, QUANTILES), (len(y), 1))
    for place, level in enumerate(QUANTILES):
        metric = TABLE["mean_pinball_loss"].at((level,))
        loss, prior = (metric.measure(y, one[:, [place]], None) for one in (scores, known))
        assert loss < prior or (name in BLIND and loss == pytest.approx(prior, rel=0.01))


@pytest.mark.parametrize("name", PREDICTING)
def test_quantiles_are_those_of_the_heavy_rows(name: str) -> None:
    one = fitted_quantiles(name)
    n = len(one.train.y)
    twice = np.concatenate([np.arange(n), np.arange(n)])
    told = replace(one.train, X=one.train.X[twice], y=np.concatenate([one.train.y, one.train.y + 20]))
    low, high = (
        in_quantiles(one, replace(told, weight=np.repeat(weight, n)), threads=1).predict(one.train.X)
        for weight in (np.array([1.0, 0.01]), np.array([0.01, 1.0]))
    )
    assert (high.mean(axis=0) - low.mean(axis=0) > 10).all()


def adversarial(X: np.ndarray, *, nan: bool) -> np.ndarray:
    """Rows of zeros, huge values, values seen in training (ties with thresholds), and missing ones."""
    d = X.shape[1]
    special = [0.0, -0.0, 1e6, -1e6, 0.5, 1e-30, *([np.nan, np.inf, -np.inf, 3e38] if nan else [])]
    block = np.array([[value] * d for value in special], dtype=np.float32)
    ties = np.nextafter(np.nan_to_num(X[:50]), np.float32(np.inf))
    return np.vstack([block, ties, np.nextafter(np.nan_to_num(X[:50]), np.float32(-np.inf))])


def matrix(graph: Graph, d: int) -> str:
    return graph.node("Concat", *[graph.input(f"x{i}", "float32") for i in range(d)], axis=1)
