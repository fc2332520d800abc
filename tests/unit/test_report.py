"""The report: one closed file that says what the run's files say, and nothing that they do not."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from typing_extensions import override

from specml import admission, holdout, ledger, report
from specml.bundle import RELEASE, VERDICTS
from specml.compile import compile_plan
from specml.compile.dvc import params_yaml
from specml.errors import SpecmlError
from specml.files import canonical_json, read_json
from tests.conftest import run_stages, spec_of

if TYPE_CHECKING:
    from pathlib import Path

EVIL = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>"
LIMIT = 1_500_000


class Page(HTMLParser):
    """Counts elements, keeps attributes, and refuses what is left open."""

    VOID = frozenset({"meta", "link", "br", "img", "input", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: dict[str, int] = {}
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)
        assert self.open == []

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag] = self.seen.get(tag, 0) + 1
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    @override
    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def table(task: str, n: int = 600, columns: int = 0) -> pl.DataFrame:
    """Names, categories, groups and labels that would break out of a page that lets them."""
    generator = np.random.default_rng(4)
    x = generator.normal(size=n)
    signal = x + generator.normal(size=n)
    index = np.searchsorted([-0.5, 0.5], signal) if task == "multiclass" else (signal > 0).astype(int)
    y: Any = signal if task == "regression" else np.array([f"a{EVIL}", f"b{EVIL}", "c"])[index]
    return pl.DataFrame({
        f"x{EVIL}": x,
        f"c{EVIL}": np.array([f"k{EVIL}", "other"])[generator.integers(0, 2, n)],
        "group": np.array([f"g{EVIL}", "h"])[generator.integers(0, 2, n)],
        **{f"column {i} {'x' * 3000}": generator.normal(size=n) for i in range(columns)},
        "y": y,
    })  # fmt: skip


def made(folder: Path, task: Any, rows: pl.DataFrame, **changes: Any) -> Path:
    rows.write_parquet(folder / "rows.parquet")
    problem: dict[str, Any] = {"task": task, "target": "y", "goal": EVIL, "intended_use": EVIL}
    if task == "binary":
        problem["positive_class"] = f"b{EVIL}"
    gates: dict[str, Any] = {"baseline": {"type": "baseline", "level": "warn"}}
    if task == "binary":
        gates["spread"] = {
            "type": "group_disparity", "metric": "selection_rate_ratio", "by": ("group",), "min": 0.5, "level": "warn",
        }  # fmt: skip
    candidate = "ridge" if task == "regression" else "logistic_regression"
    if task == "regression":
        changes["selection"] = {"prediction_interval": {}}
    if task == "binary" and len(rows.columns) < 10:
        changes["mitigation"] = {"reweighing": {"by": ("group",)}}
        problem["costs"] = {"false_negative": 3, "false_positive": 1, "currency": "EUR \"'"}
        problem["decision"] = {"threshold": "costs", "abstain_band": (0.1, 0.9)}
    spec = spec_of(
        problem=problem,
        data={
            "sources": {"rows": {"type": "parquet", "path": "rows.parquet"}},
            "columns": {"group": {"role": "protected"}},
        },
        candidates={"line": {"type": candidate}},
        search={"folds": 3},
        gates=gates,
        **changes,
    )
    run_stages(spec, folder)
    (folder / "params.yaml").write_text(params_yaml(compile_plan(spec), "spec.yaml", ()), encoding="utf-8")
    return folder


@pytest.fixture(scope="module", params=["binary", "multiclass", "regression"])
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp(request.param), request.param, table(request.param))


def test_a_regression_tells_what_its_intervals_held(project: Path) -> None:
    text = report.html(project)
    assert ("Prediction intervals for 0.9 of the targets" in text) == (project.name.startswith("regression"))


def test_nothing_in_it_runs_or_is_fetched(project: Path) -> None:
    text = report.html(project)
    page = Page(text)
    assert not {"script", "img", "iframe", "object", "embed", "form", "base"} & set(page.seen)
    assert page.seen["svg"] > 5
    for name, value in page.attributes:
        assert not name.startswith("on"), name
        if name in ("src", "href", "xlink:href", "action", "style"):
            assert value in ("data:,", "release/card.md", "explore.html"), value
    assert "default-src 'none'" in text
    assert "url(" not in text
    assert "@import" not in text
    assert len(text) < LIMIT


def test_it_names_what_it_was_given(project: Path) -> None:
    text = report.html(project)
    assert "&lt;script&gt;alert(1)" in text
    assert "<script" not in text


def test_the_same_run_gives_the_same_bytes(project: Path) -> None:
    assert report.html(project) == report.html(project)


def test_it_leads_to_the_page_of_the_training_rows_where_there_is_one(project: Path) -> None:
    page = project / report.EXPLORATION
    assert 'href="explore.html"' not in report.html(project)
    assert "<code>specml explore</code> draws" in report.html(project)
    page.write_text(report.exploration(project))
    assert page.parent == (project / report.OUT).parent, "the link starts beside the report"
    assert 'href="explore.html"' in report.html(project)
    page.unlink()


def test_every_verdict_and_metric_is_told(project: Path) -> None:
    text = report.html(project)
    evidence = read_json(project / "artifacts/validate/verdicts.json")
    for name, value in evidence["metrics"].items():
        assert f"<span>{name}</span><b>{value:.4g}</b>" in text, name
    for name, gate in evidence["gates"].items():
        assert f"<b>{name}</b>" in text
        assert gate["reason"].split(";")[0].partition("<")[0] in text.replace("&gt;", ">")


def test_what_the_checks_of_the_data_found_is_told(project: Path) -> None:
    checks = read_json(project / "metrics/prepare.json")["checks"]
    text, card = report.html(project), (project / "artifacts/release/card.md").read_text()
    assert {"data.checks.leakage", "data.checks.overlap"} <= set(checks)
    for where in checks:
        name = where.removeprefix("data.")
        assert f"<b>{name}</b>" in text
        assert f"| {name} | " in card


def test_each_section_names_files_that_exist(project: Path) -> None:
    named = set(
        re.findall(r"[\w/.-]+\.(?:json|md)\b", " ".join(re.findall(r'class="source">([^<]+)<', report.html(project))))
    )
    assert len(named) >= 6
    for name in named:
        assert (project / name).exists(), name


def test_what_was_not_measured_says_so(project: Path) -> None:
    text = report.html(project)
    assert "not measured: the spec has no gate `latency`" in text
    path = project / "artifacts/validate/importance.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "importance": {}}))
    importance = report.html(project).partition('id="importance"')[2].partition("</section>")[0]
    assert "not measured" in importance


def test_the_importance_of_columns_is_drawn(project: Path) -> None:
    path = project / "artifacts/validate/importance.json"
    told = {"method": "tree_shap", "space": "log_odds", "rows": 600, "importance": {f"x{EVIL}": 0.7, "b": 0.1}}
    path.write_text(json.dumps(told))
    importance = report.html(project).partition('id="importance"')[2].partition("</section>")[0]
    assert "not measured" not in importance
    assert "By mean absolute contribution to the log-odds (tree_shap), over 600 rows" in importance


def test_who_approved_is_told_as_far_as_the_ledger_tells(project: Path) -> None:
    path = project / RELEASE
    told = {**read_json(path), "approval": {"approvers": ["ann@bank", "bob@bank"], "minimum": 1}}
    whole, known = path.read_bytes(), project / ledger.FILE
    before = known.read_bytes()
    try:
        path.write_bytes(canonical_json(told))
        assert "by 1 of ann@bank, bob@bank; approved by nobody" in report.html(project)
        ledger.append(project, "approval", approver="bob@bank", **admission.subject(told))
        assert "by 1 of ann@bank, bob@bank; approved by bob@bank" in report.html(project)
        known.write_bytes(before)
        assert "by 1 of ann@bank, bob@bank; the ledger tells who approved" in report.html(project)
    finally:
        path.write_bytes(whole)
        (project / ledger.HEAD).unlink()
        known.unlink()


def test_the_worst_slice_and_the_rows_behind_a_verdict_are_told(project: Path) -> None:
    path = project / VERDICTS
    whole = path.read_bytes()
    told = json.loads(whole)
    ends = {"confidence": 0.95, "method": "wilson"}
    slices = [
        {"name": "mild", "n": 90, "value": 0.7, "interval": {"low": 0.6, "high": 0.8, **ends}, "outcome": "holds"},
        {
            "name": f"bad {EVIL}",
            "n": 70,
            "value": 0.2,
            "interval": {"low": 0.1, "high": 0.3, **ends},
            "outcome": "refused",
        },
        {"name": "few", "n": 3, "value": None, "interval": None, "outcome": "not measured"},
    ]
    told["gates"]["parts"] = {
        **told["gates"]["baseline"], "type": "slices", "outcome": "refused", "threshold": "≥ 0.5", "rows": [4, 17, 171],
        "slices": [{**one, "note": ""} for one in slices],
    }  # fmt: skip
    try:
        path.write_text(json.dumps(told))
        text = report.html(project)
    finally:
        path.write_bytes(whole)
    Page(text)
    part = text.partition('id="gates"')[2].partition("</section>")[0]
    worst = part.partition("<b>parts</b>")[2].partition('class="worst"')[2].partition("</tr>")[0]
    assert "bad &lt;script&gt;" in worst
    assert 'class="word bad">refused' in worst
    assert "3 held-out rows behind it" in part
    assert "4, 17, 171, counted from 0 on" in part
    assert "<code>specml gate --rows parts</code>" in part
    sliced = text.partition('id="slices"')[2].partition("</section>")[0]
    assert "mild" in sliced
    assert "for every group beside" not in sliced
    assert "for every group beside the one that is best off" in text or "has no gate <code>group_disparity" in text


def test_how_often_the_held_out_rows_were_opened_is_told(project: Path) -> None:
    for name in (ledger.HEAD, ledger.FILE):
        (project / name).unlink(missing_ok=True)
    assert "How often the held-out rows were opened is not recorded here." in report.html(project)
    told = json.loads((project / VERDICTS).read_text())
    rows, gate = project / "artifacts/prepare/test.parquet", {"type": "metric", "metric": f"m{EVIL}", "min": 0.9}
    try:
        for least in (0.9, 0.8, 0.85):
            wanted = {"auc": {**gate, "min": least}}
            holdout.register(project, bundle=told["bundle"], rows=rows, labels="x", gates=wanted, files=())
        text = report.html(project)
    finally:
        (project / ledger.HEAD).unlink()
        (project / ledger.FILE).unlink()
    assert "The held-out rows were opened 3 times since 20" in text
    changes = re.findall(r"<li([^>]*)>auc changed before opening (\d), [^:]*:\d\d UTC: ([^<]*)</li>", text)
    assert changes == [
        (' class="word bad"', "2", "min 0.9 → 0.8 (loosened)"),
        ("", "3", "min 0.8 → 0.85 (tightened)"),
    ]


def test_a_bundle_that_was_not_judged_is_not_called_released(project: Path) -> None:
    path = project / "artifacts/release/release.json"
    before = path.read_text()
    assert "<h1>Released</h1>" in report.html(project)
    path.write_text(before.replace("sha256:", "sha256:0"))
    assert "<h1>Not released yet</h1>" in report.html(project)
    path.write_text(before)


def test_it_stays_small_with_many_columns(tmp_path: Path) -> None:
    text = report.html(made(tmp_path, "binary", table("binary", 300, columns=260)))
    assert len(text) < LIMIT
    assert "62 more columns stand in the file" in text


def test_it_stays_small_with_many_long_classes(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    rows = pl.DataFrame({"x": generator.normal(size=900), "y": [f"{i % 30} {'y' * 9000}" for i in range(900)]})
    problem = {"task": "multiclass", "target": "y"}
    data = {"sources": {"rows": {"type": "parquet", "path": "rows.parquet"}}}
    rows.write_parquet(tmp_path / "rows.parquet")
    spec = spec_of(
        problem=problem, data=data, search={"folds": 2}, gates={"baseline": {"type": "baseline", "level": "warn"}}
    )
    run_stages(spec, tmp_path)
    (tmp_path / "params.yaml").write_text(params_yaml(compile_plan(spec), "spec.yaml", ()), encoding="utf-8")
    text = report.html(tmp_path)
    assert len(text) < LIMIT
    assert "5 more classes stand in the file" in text


def test_without_a_run_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SpecmlError, match="no run of this project got as far"):
        report.html(tmp_path)


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def browsed(text: str, folder: Path, holds: str = "How to reproduce") -> tuple[list[str], list[str]]:
    """What the console said, and what the page asked for, when chromium opened it."""
    assert CHROMIUM is not None
    folder.mkdir()
    (folder / "page.html").write_text(text, encoding="utf-8")
    net = folder / "net.json"
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = subprocess.run(
            [
                CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
                "--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}", f"--log-net-log={net}",
                "--virtual-time-budget=2000", "--dump-dom", f"http://127.0.0.1:{server.server_port}/page.html",
            ],
            capture_output=True, text=True, check=True, timeout=120,
        )  # fmt: skip
        server.shutdown()
    assert holds in done.stdout
    events = [event.get("params", {}) for event in json.loads(net.read_text())["events"]]
    asked = [one["url"] for one in events if one.get("initiator", "not an origin") != "not an origin"]
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line], asked


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here to open the report in")
def test_a_browser_opens_it_without_an_error_or_a_request(project: Path, tmp_path: Path) -> None:
    assert browsed(report.html(project), tmp_path / "ours") == ([], [])


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here to open the report in")
def test_the_policy_stops_what_the_escaping_would_let_through(project: Path, tmp_path: Path) -> None:
    evil = '<img src="http://127.0.0.1:9/x.png"><script>console.log("ran")</script>'
    text = report.html(project).replace("<main>", f"<main>{evil}")
    said, asked = browsed(text, tmp_path / "with")
    assert len(said) == 2
    assert all("Content Security Policy" in line for line in said)
    assert asked == []
    said, asked = browsed(re.sub("<meta http-equiv[^>]*>", "", text), tmp_path / "without")
    assert "ran" in said[0]
    assert asked == ["http://127.0.0.1:9/x.png"]


def test_where_in_an_image_the_model_looks() -> None:
    from specml.data import Pixels
    from specml.report.sections import _picture

    assert _picture(None, {}) is None
    drawn = _picture(Pixels(side=2, colour=True), {"p0_1_0": 0.5, "p0_1_2": 0.5, "p1_0_1": 0.25})
    assert drawn is not None
    assert drawn.count("<rect") == 4
    assert "row 0, column 1: 1" in drawn
    assert "row 1, column 0: 0.25" in drawn
