"""A spec drafted from a table: what is guessed, what is said of it, and that it is valid as it is."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specml import cli, report
from specml.compile import compile_plan
from specml.compile.dvc import params_yaml
from specml.drafting import columns, content, draft, problem, words
from specml.errors import DataCheckFailed, NotEnoughData, SpecmlError
from specml.load import load
from specml.sources.csv import Csv
from specml.stages import STAGES
from specml.stages.work import Work, narrowed
from tests.bad_data import CASES, SECRET, Case
from tests.conftest import specml

N = 1500
STAMPS = pl.datetime_range(pl.datetime(2020, 1, 1), pl.datetime(2024, 1, 1), "1d", eager=True)


def customers(n: int = N) -> pl.DataFrame:
    """A dirty table of customers: an id, people's names, numbers that stand as text, a constant, codes with zeros."""
    draw = np.random.default_rng(1)
    tenure = draw.integers(0, 72, n)
    fees = tenure * draw.uniform(20, 90, n)
    left = draw.random(n) < 1 / (1 + np.exp(tenure / 12 - 1))
    return pl.DataFrame({
        "customerID": [f"{i:04d}-{chr(65 + i % 26)}XQ" for i in range(n)],
        "Name": [f"Ada{i % 40} Moor{i % 37}" for i in range(n)],
        "contact": [f"ada{i}@mail.example" for i in range(n)],
        "gender": draw.choice(["Male", "Female"], n),
        "SeniorCitizen": draw.integers(0, 2, n),
        "age": draw.integers(18, 90, n),
        "zip": [f"{i % 60:05d}" for i in range(n)],
        "branch": [f"{i % 7:03d}" for i in range(n)],
        "tenure": tenure,
        "TotalCharges": [" " if t == 0 else f"{fee:.2f}" for t, fee in zip(tenure, fees, strict=True)],
        "country": ["Atlantis"] * n,
        "nothing": [""] * n,
        "remark": [f"They called about bill number {i} on a {'dark' if i % 2 else 'fine'} day" for i in range(n)],
        "house_age": draw.uniform(0, 80, n),
        "Churn": np.where(left, "Yes", "No"),
    })  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("customers")
    customers().write_csv(made / "rows.csv")
    return made


@pytest.fixture(scope="module")
def drafted(folder: Path) -> str:
    return draft(folder / "rows.csv", "Churn", folder).text


@pytest.fixture(scope="module")
def declared(folder: Path, drafted: str) -> dict[str, Any]:
    (folder / "spec.yaml").write_text(drafted)
    return {name: one.model_dump(exclude_defaults=True) for name, one in load(folder).spec.data.columns.items()}


def a_draft(tmp_path: Path, table: pl.DataFrame, target: str = "y", **options: Any) -> Any:
    table.write_parquet(tmp_path / "rows.parquet")
    (tmp_path / "spec.yaml").write_text(draft(tmp_path / "rows.parquet", target, tmp_path, **options).text)
    return load(tmp_path).spec


def test_a_dirty_table_of_customers_is_read_as_what_it_is(declared: dict[str, Any]) -> None:
    assert declared == {
        "customerID": {"role": "id", "personal": "identifier"},
        "Name": {"personal": "identifier", "action": "drop"},
        "contact": {"personal": "identifier", "action": "drop"},
        "gender": {"role": "protected", "personal": True},
        "SeniorCitizen": {"role": "protected", "personal": True},
        "age": {"dtype": "float", "role": "protected", "personal": True, "bands": (25, 45, 65)},
        "zip": {"dtype": "category", "personal": True},
        "branch": {"dtype": "category"},
        "tenure": {"dtype": "int"},
        "TotalCharges": {"dtype": "float"},
        "country": {"role": "ignore"},
        "nothing": {"role": "ignore"},
        "remark": {"dtype": "text"},
        "house_age": {"dtype": "float"},
        "Churn": {"role": "target"},
    }


def test_the_problem_is_the_one_of_the_target(folder: Path, declared: dict[str, Any]) -> None:
    spec = load(folder).spec
    assert (spec.problem.task, spec.problem.positive_class, spec.problem.favourable_class) == ("binary", "Yes", "No")
    assert set(spec.gates) == {"baseline", "parity", "auc", "disparity"}
    assert spec.gates["disparity"].level == "warn"
    assert set(spec.candidates) == {"scorecard", "gbm"}


def test_what_is_guessed_is_marked_and_what_is_seen_is_not(drafted: str) -> None:
    marked = {line.strip().partition(":")[0] for line in drafted.splitlines() if "# review: " in line}
    above = [after.strip() for line, after in pairwise(drafted.splitlines()) if line.strip().startswith("# review: ")]
    marked |= {line.partition(":")[0] for line in above}
    assert {"customerID", "Name", "contact", "gender", "SeniorCitizen", "age", "zip", "remark"} <= marked
    assert not {"tenure", "branch", "TotalCharges", "country", "house_age", "baseline"} & marked


def test_a_draft_holds_no_value_but_the_labels(drafted: str) -> None:
    table = customers(50)
    for name in ("customerID", "Name", "contact", "remark", "country", "gender"):
        for value in table[name].unique():
            assert value not in drafted, name


def test_the_keys_stand_in_the_order_of_the_lifecycle(drafted: str) -> None:
    keys = [line.partition(":")[0] for line in drafted.splitlines() if line and not line.startswith((" ", "#"))]
    assert keys == ["spec", "name", "problem", "data", "candidates", "gates"]
    assert all(len(line) <= 120 for line in drafted.splitlines())


def test_the_same_table_has_the_same_draft(folder: Path, drafted: str) -> None:
    assert draft(folder / "rows.csv", "Churn", folder).text == drafted


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("sex", "sex"), ("applicant_gender", "sex"), ("SEX", "sex"), ("AGEP", "age"), ("customerAge", "age"),
        ("SeniorCitizen", "age"), ("RAC1P", "race"), ("Ethnic Group", "race"), ("native-country", "origin"),
        ("foreign_worker", "origin"), ("religion", "religion"), ("marital_status", "marital status"),
        ("ZipCode", "postcode"), ("e-mail", "e-mail addresses"), ("ip_address", "network addresses"),
        ("phoneNumber", "phone numbers"), ("Name", "names of people"), ("last_name", "names of people"),
        ("product_name", None), ("house_age", None), ("AccountAge", None), ("message", None), ("storage", None),
        ("average", None), ("unisex_shop", None), ("income", None), ("racecourse", None), ("", None), ("性別", None),
    ],
)  # fmt: skip
def test_names_say_what_they_say(name: str, told: str | None) -> None:
    found = words.meaning(name)
    assert (found.what if found else None) == told


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (["a.b@c.example", "x@y.org", "long.name+tag@mail.example", "q@q.io", "w@w.dev"], "e-mail addresses"),
        (["+49 30 123456", "+1 (212) 555-0100", "0171/2345678", "(212) 555-0199", "0044 20 7946 0018"],
         "phone numbers"),
        (["078-05-1120", "219-09-9999", "457-55-5462", "111-22-3333", "222-33-4444"], "numbers of a person"),
        (["DE89370400440532013000", "GB29 NWBK 6016 1331 9268 19", "FR1420041010050500013M02606",
          "NL91ABNA0417164300", "CH9300762011623852957"], "numbers of accounts"),
        ([4111111111111111, 5500005555555559, 340000000000009, 6011000000000004, 4012888888881881],
         "numbers of accounts"),
        (["10.0.0.1", "192.168.1.254", "8.8.8.8", "::1", "2001:db8::5"], "network addresses"),
        (["DE89370400440532013001", "GB28NWBK60161331926819", "a", "b", "c"], ""),
        ([4111111111111112, 5500005555555558, 340000000000001, 6011000000000001, 4012888888881882], ""),
        (["2020-01-01", "2020-01-02", "2020-01-03", "2020-01-04", "2020-01-05"], ""),
        (["12.5", "13.25", "1.125", "0.5", "7.75"], ""),
        (["a.b@c.example"], ""),
        ([], ""),
    ],
)  # fmt: skip
def test_values_say_what_names_people(values: list[Any], told: str) -> None:
    assert content.identifying(pl.Series("x", values)) == told


def test_a_few_words_in_a_column_do_not_hide_addresses() -> None:
    values = pl.Series("x", [f"a{i}@b.example" for i in range(95)] + ["none", "unknown", "-", "n.a.", "?"])
    assert content.identifying(values) == "e-mail addresses"


def guess_of(name: str, values: Any) -> columns.Guess:
    return columns.guess(columns.facts(pl.Series(name, values)))


@pytest.mark.parametrize(
    ("name", "values", "declared"),
    [
        ("id", list(range(100, 400)), {"role": "id"}),
        ("rownumber", list(range(300)), {"role": "ignore"}),
        ("anything", list(range(7, 307)), {"role": "ignore"}),
        ("amount", list(range(0, 600, 2)), {"dtype": "int"}),
        ("user_id", [i % 30 for i in range(300)], {"role": "id", "personal": "identifier"}),
        ("store_id", [i % 30 for i in range(300)], {"dtype": "category"}),
        ("education_num", [i % 16 for i in range(300)], {"dtype": "int"}),
        ("region", [i % 9 for i in range(300)], {"dtype": "category"}),
        ("key", [f"{i:08x}-0000-4000-8000-000000000000" for i in range(300)], {"role": "id"}),
        ("ref", [f"{i:08x}-0000-4000-8000-000000000000" for i in range(300)], {"role": "id"}),
        ("ticket", [f"T{i}" for i in range(300)], {"role": "id"}),
        ("ticket", [f"T{i % 200}" for i in range(300)], {"dtype": "category"}),
        ("telephone", ["yes", "no"] * 150, {"dtype": "category"}),
        ("PhoneService", ["Yes", "No"] * 150, {"dtype": "category"}),
        ("birth_date", ["1980-01-01", "1990-05-05"] * 150, {"role": "ignore", "personal": True}),
        ("seen", ["2020-01-01", "2020-02-30"] * 150, {"dtype": "category"}),
        ("seen", ["2020-01-01", "2020-02-20"] * 150, {"dtype": "datetime"}),
        ("flag", [True, False, None] * 100, {"dtype": "bool"}),
        ("half", [0.5, None] * 150, {"dtype": "float"}),
        ("half", ["0.5", " 1.5 "] * 150, {}),
        ("half", ["0.5", " "] * 150, {"dtype": "float"}),
        ("flag", ["True", "FALSE", ""] * 100, {"dtype": "bool"}),
        ("parts", [[1], [2]] * 150, {"role": "ignore"}),
        ("hired", [None] * 300, {"role": "ignore"}),
        ("mostly", [None, *[7] * 299], {"dtype": "int"}),
        ("same", [7] * 300, {"role": "ignore"}),
        ("disability", [i % 3 for i in range(300)], {"role": "protected", "personal": "special"}),
    ],
)
def test_a_column_is_declared_by_name_and_values(name: str, values: list[Any], declared: dict[str, Any]) -> None:
    assert guess_of(name, values).declared == declared


def test_bands_hold_enough_rows_each() -> None:
    young = guess_of("age", [18 + i % 30 for i in range(300)])
    assert young.declared["bands"] == [25, 45]
    assert guess_of("age", [70.5 + i % 30 for i in range(300)]).declared["bands"] == [80.5, 89.5]


def test_a_protected_number_that_can_not_be_cut_stays_a_number() -> None:
    values = [0.0] * 990 + [float(i) for i in range(1, 21)]
    assert "role" not in guess_of("age", values).declared


def test_numbers_that_are_no_weights_are_not_taken_for_some() -> None:
    assert guess_of("fnlwgt", [10_000 + 7 * i for i in range(300)]).review
    assert not guess_of("weight", [50 + i % 40 for i in range(300)]).review


def problem_of(values: list[Any], name: str = "y", task: Any = None) -> problem.Guessed:
    return problem.guess(columns.facts(pl.Series(name, values)), task)


@pytest.mark.parametrize(
    ("values", "positive", "favourable", "why"),
    [
        ([0, 1], 1, 1, ""),
        ([False, True], True, True, ""),
        (["Yes", "No"], "Yes", "Yes", "by convention"),
        (["ham", "spam"], "spam", "ham", "by convention"),
        (["good", "bad"], "bad", "good", "by convention"),
        ([">50K", "<=50K"], ">50K", ">50K", "the larger"),
        (["no recurrence", "recurrence"], "recurrence", "recurrence", "the other says no"),
        (["left", "left", "right"], "left", "right", "by convention"),
        (["b", "a", "a"], "b", "b", "the rarer one"),
        ([1, 2, 2], 1, 1, "by convention"),
        ([-1.0, 1.0], 1, 1, "by convention"),
        (["0", "1", " "], "1", "1", "by convention"),
    ],
)
def test_the_positive_class_is_what_is_looked_for(values: list[Any], positive: Any, favourable: Any, why: str) -> None:
    found = problem_of(values * 20)
    assert (found.task, found.positive, found.favourable, found.why) == ("binary", positive, favourable, why)
    assert type(found.positive) is type(positive)


def test_nobody_wants_the_default_of_a_loan() -> None:
    assert problem_of([0, 1] * 20, "loan_default").favourable == 0
    assert problem_of([0, 1] * 20, "hired").favourable == 1


@pytest.mark.parametrize(
    ("values", "task", "doubt"),
    [
        (["a", "b", "c"], "multiclass", False),
        ([1, 2, 3], "multiclass", True),
        ([3.0, 4.0, 5.0], "multiclass", True),
        ([0.5, 1.5, 2.5], "regression", True),
        (list(range(11)), "regression", True),
        (list(range(50)), "regression", False),
        (["1.5", "2.5", "3.5", " "] * 20, "regression", True),
    ],
)
def test_the_task_is_the_one_of_the_values(values: list[Any], task: str, doubt: bool) -> None:
    found = problem_of(values * 3)
    assert (found.task, bool(found.doubt)) == (task, doubt)


def test_a_task_can_be_said() -> None:
    assert problem_of([1, 2, 3] * 9, task="regression").task == "regression"
    with pytest.raises(DataCheckFailed, match="which is no binary problem"):
        problem_of([1, 2, 3] * 9, task="binary")
    with pytest.raises(DataCheckFailed, match="not numbers"):
        problem_of(["a", "b", "c"] * 9, task="regression")


@pytest.mark.parametrize("values", [[None] * 9, [1] * 9, ["a", None, "a"]])
def test_nothing_to_predict_is_told(values: list[Any]) -> None:
    with pytest.raises(NotEnoughData, match="fewer than two"):
        problem_of(values)


def test_an_id_is_no_target() -> None:
    with pytest.raises(DataCheckFailed, match="too many for classes"):
        problem_of([f"a{i}" for i in range(300)])


def test_rows_with_a_time_are_split_by_it(tmp_path: Path) -> None:
    table = pl.DataFrame({"seen": STAMPS, "x": range(len(STAMPS)), "y": np.arange(len(STAMPS)) * 0.5})
    spec = a_draft(tmp_path, table)
    assert (spec.data.split.method, spec.data.split.column) == ("time", "seen")
    assert spec.data.columns["seen"].role == "time"
    assert spec.features.columns == {}


def test_of_two_times_neither_orders_the_rows(tmp_path: Path) -> None:
    table = pl.DataFrame({"seen": STAMPS, "due": STAMPS.reverse(), "y": np.arange(len(STAMPS)) * 0.5})
    spec = a_draft(tmp_path, table)
    assert spec.data.split.method == "random"
    assert set(spec.features.columns) == {"seen", "due"}


def test_a_time_that_parts_the_classes_orders_no_rows(tmp_path: Path) -> None:
    late = np.arange(len(STAMPS)) > len(STAMPS) * 0.9
    spec = a_draft(tmp_path, pl.DataFrame({"seen": STAMPS, "y": late.astype(int)}))
    assert spec.data.split.method == "stratified"


def test_a_person_stays_on_one_side(tmp_path: Path) -> None:
    table = pl.DataFrame({"patient_id": [i % 90 for i in range(900)], "x": np.arange(900) * 1.5, "y": [0, 1] * 450})
    spec = a_draft(tmp_path, table)
    assert (spec.data.split.method, spec.data.split.column) == ("group", "patient_id")
    most = table.with_columns(patient_id=pl.when(pl.col("y") == 0).then(1).otherwise("patient_id"))
    assert a_draft(tmp_path, most).data.split.method == "stratified"


@pytest.mark.parametrize(("rows", "test", "level"), [(2000, 0.2, "fail"), (420, 0.25, "fail"), (130, 0.4, "warn")])
def test_enough_rows_are_held_out_for_the_gates(tmp_path: Path, rows: int, test: float, level: str) -> None:
    table = pl.DataFrame({"x": np.arange(rows) * 1.5, "y": [0, 1] * (rows // 2)})
    spec = a_draft(tmp_path, table)
    assert (spec.data.split.test, spec.gates["auc"].level) == (test, level)


def test_several_classes_are_held_to_their_frequencies(tmp_path: Path) -> None:
    spec = a_draft(tmp_path, pl.DataFrame({"sex": ["f", "m", "m"] * 2000, "y": ["a", "b", "c"] * 2000}))
    assert spec.gates["loss"].max == pytest.approx(np.log(3), abs=1e-3)
    assert spec.gates["loss"].max >= np.log(3)
    assert set(spec.gates) == {"baseline", "parity", "loss", "calibration"}


def test_a_wide_table_names_only_what_is_worth_a_word(tmp_path: Path) -> None:
    table = pl.DataFrame({**{f"x{i}": [0.5, 1.5] * 50 for i in range(300)}, "sex": ["f", "m"] * 50, "y": [0, 1] * 50})
    spec = a_draft(tmp_path, table)
    assert set(spec.data.columns) == {"sex", "y"}
    assert "300 more are features" in (tmp_path / "spec.yaml").read_text()


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1, max_size=30)
LABELS = st.one_of(st.text(max_size=20), st.integers(-5, 5).map(str))


@settings(max_examples=25, deadline=None)
@given(st.lists(NAMES, min_size=2, max_size=6, unique=True), st.lists(LABELS, min_size=2, max_size=4, unique=True))
def test_any_name_and_label_come_through(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], labels: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    n = 120
    told = [one for one in labels if one.strip() and one.strip() not in ("__missing__",)]
    table = pl.DataFrame({name: [f"{i % 7} {name}" for i in range(n)] for name in names[1:]}).with_columns(
        pl.Series(names[0], [told[i % len(told)] if told else None for i in range(n)], dtype=pl.String)
    )
    table.write_parquet(folder / "rows.parquet")
    try:
        text = draft(folder / "rows.parquet", names[0], folder).text
    except (DataCheckFailed, NotEnoughData):
        return
    (folder / "spec.yaml").write_text(text, encoding="utf-8")
    spec = load(folder).spec
    assert set(spec.data.columns) == set(names)
    assert spec.problem.target == names[0]
    if spec.problem.positive_class is not None:
        assert spec.problem.positive_class in told


def test_a_file_elsewhere_is_named_by_its_whole_path(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "spec.yaml").write_text(draft(folder / "rows.csv", "Churn", tmp_path).text)
    (source,) = load(tmp_path).spec.data.sources.values()
    assert isinstance(source, Csv)
    assert source.allow_outside
    assert Path(source.path) == folder / "rows.csv"


Asked = Callable[..., tuple[int, str]]


@pytest.fixture
def init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Asked:
    """``specml init`` in this process and folder; returns its status and what it says."""
    monkeypatch.chdir(tmp_path)

    def asked(*arguments: str) -> tuple[int, str]:
        status = cli.exit_status(["init", *arguments])
        told = capsys.readouterr()
        return status, told.err if status else told.out

    return asked


def test_the_command_writes_prints_and_refuses(init: Asked, folder: Path) -> None:
    asked, file = (str(folder / "rows.csv"), "--target", "Churn"), Path("spec.yaml")
    shown = init(*asked, "--print")[1]
    assert not file.exists()
    told = init(*asked)[1]
    assert file.read_text() == shown
    assert "a binary problem, 1,500 rows × 15 columns" in told
    assert "specml run --no-deploy" in told
    file.write_text("mine")
    status, told = init(*asked)
    assert status == 1
    assert "--force" in told
    assert file.read_text() == "mine"
    assert init(*asked, "--force")[0] == 0
    assert file.read_text() == shown


def test_a_project_that_has_a_spec_keeps_it(init: Asked, folder: Path) -> None:
    asked, file = (str(folder / "rows.csv"), "--target", "Churn"), Path("conf/spec.yaml")
    file.parent.mkdir()
    file.write_text("mine")
    status, told = init(*asked, "--force")
    assert status == 1
    assert told.startswith("conf/spec.yaml:")
    assert init(*asked, "-o", str(file), "--force", "--name", "own")[0] == 0
    assert load(Path()).spec.name == "own"


@pytest.mark.parametrize(
    ("asked", "status", "told"),
    [
        (("rows.csv",), 6, "Of: a, b."),
        (("rows.csv", "--target", "B"), 6, "It has: a, b."),
        (("rows.csv", "--target", "bb"), 6, "Did you mean 'b'?"),
        (("gone.csv", "--target", "b"), 6, "no such file"),
        (("rows.pkl", "--target", "b"), 6, ".parquet"),
        (("none.csv", "--target", "b"), 7, "no rows"),
    ],
)
def test_what_can_not_be_drafted_is_one_message(init: Asked, asked: tuple[str, ...], status: int, told: str) -> None:
    Path("rows.csv").write_text("a,b\n1,2\n")
    Path("rows.pkl").write_bytes(b"")
    Path("none.csv").write_text("a,b\n")
    found = init(*asked)
    assert found[0] == status
    assert told in found[1]
    assert not Path("spec.yaml").exists()


KNOWN = ("infinities in a regression", "a column known only after the event")
"""Faults of rows that a spec must speak of: here a column that tells the target."""


def drafted_case(case: Case, folder: Path) -> tuple[int, str, Any]:
    """The status of drafting a spec for bad data, the draft or what is said instead, and the spec."""
    made = case.rows()
    file = folder / (case.file if isinstance(made, bytes) else "rows.parquet")
    if isinstance(made, bytes):
        file.write_bytes(made)
    else:
        pl.DataFrame(made, strict=False).write_parquet(file)
    try:
        text = draft(file, "y", folder).text
    except SpecmlError as error:
        return error.status, str(error), None
    (folder / "spec.yaml").write_text(text)
    return 0, text, load(folder).spec


@pytest.mark.parametrize("case", [pytest.param(one, id=one.what) for one in CASES if not one.slow])
def test_bad_data_is_drafted_or_refused_in_one_message(case: Case, tmp_path: Path) -> None:
    status, told, _ = drafted_case(case, tmp_path)
    assert SECRET not in told
    if case.status == 0:
        assert status == 0, told


@pytest.mark.slow
def test_what_bad_data_lets_pass_is_drafted_so_that_it_passes(tmp_path: Path) -> None:
    for number, case in enumerate(one for one in CASES if not (one.slow or one.status or one.what in KNOWN)):
        folder = tmp_path / str(number)
        folder.mkdir()
        _, _, spec = drafted_case(case, folder)
        plan = compile_plan(spec)
        for stage in plan.stages[: 1 + [one.name for one in plan.stages].index("explore")]:
            for key in stage.keys or ("",):
                part = narrowed(spec, stage, key)
                STAGES[stage.name].work(Work(stage, folder, part, lambda *_, **__: None, key, plan.obligations))
        (folder / "params.yaml").write_text(params_yaml(plan, "spec.yaml", ()), encoding="utf-8")
        assert SECRET not in report.exploration(folder), case.what


@pytest.mark.slow
def test_a_draft_runs_as_it_is(tmp_path: Path) -> None:
    customers().write_csv(tmp_path / "rows.csv")
    specml("init", "rows.csv", "--target", "Churn", folder=tmp_path)
    told = specml("run", "--no-deploy", folder=tmp_path)
    assert "released as" in told.stdout + told.stderr
    kept = pl.read_parquet(next((tmp_path / "artifacts/ingest").glob("*.parquet"))).columns
    assert not {"Name", "contact"} & set(kept)
