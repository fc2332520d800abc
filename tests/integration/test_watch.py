"""`specml watch` on real rows: the years of the census, as they are and with planted faults."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from specml.bundle import open_bundle
from specml.load import load
from specml.serving.app import Args
from specml.serving.table import to_rows
from specml.signals.data_drift import DataDrift
from specml.watch.judge import seen
from tests.conftest import ROOT, run_stages, specml, tree

if TYPE_CHECKING:
    from pathlib import Path

    from specml.serving.table import Kind

DATA = "examples/employment/data/employment_ma.parquet"


@pytest.fixture(scope="module")
def employment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default spec's project, its scorecard trained on the years up to 2017."""
    folder = tmp_path_factory.mktemp("employment")
    (folder / DATA).parent.mkdir(parents=True)
    (folder / "conf").mkdir()
    shutil.copy(ROOT / "conf/spec.yaml", folder / "conf/spec.yaml")
    shutil.copy(ROOT / DATA, folder / DATA)
    run_stages(load(folder, ("~candidates.gbm",)).spec, folder)
    return folder


@pytest.mark.slow
@pytest.mark.sweep
def test_every_year_is_quiet(employment: Path) -> None:
    told = specml("watch", "--once", "--rows", DATA, "--by", "year", "--json", folder=employment)
    windows = json.loads(told.stdout)["windows"]
    assert [one["origin"]["part"] for one in windows] == [f"year = {year}" for year in range(2015, 2019)]
    for one in windows:
        assert one["rows"] == 15_000
        assert one["signals"]["drift"]["outcome"] == "holds"
        assert one["raised"] == []
        record = json.loads((employment / f".specml/watch/{one['window']}.json").read_bytes())
        assert record["signals"] == one["signals"]


@pytest.mark.slow
@pytest.mark.parametrize("n", [500, 1000])
def test_random_windows_are_quiet_and_half_a_standard_deviation_is_not(employment: Path, n: int) -> None:
    bundle = open_bundle(employment / "artifacts/bundle")
    table = pl.read_parquet(ROOT / DATA)
    half = round(float(table["SCHL"].cast(pl.Float64).to_numpy().std()) / 2)
    for seed in range(24):
        rows = table.filter(pl.col("year") == 2015 + seed % 4).sample(n, seed=seed)
        assert DataDrift().judge(bundle.reference, seen(rows, bundle.contract)).outcome == "holds"
        moved = rows.with_columns(pl.col("SCHL") + half)
        verdict = DataDrift().judge(bundle.reference, seen(moved, bundle.contract))
        assert [one.name for one in verdict.slices if one.outcome == "refused"] == ["SCHL"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "moved"),
    [
        (pl.col("SCHL") + 0.5 * pl.col("SCHL").cast(pl.Float64).std(), "SCHL"),
        (pl.lit(None, dtype=pl.Int8).alias("RELP"), "RELP"),
        (pl.lit(None, dtype=pl.Int8).alias("SCHL"), "SCHL"),
    ],
)
@pytest.mark.parametrize("n", [1000, pytest.param(15_000, marks=pytest.mark.sweep)])
def test_a_planted_fault_is_loud(employment: Path, tmp_path: Path, change: pl.Expr, moved: str, n: int) -> None:
    year = pl.read_parquet(ROOT / DATA).filter(pl.col("year") == 2018).sample(n, seed=1)
    year.with_columns(change).write_parquet(tmp_path / "rows.parquet")
    told = specml("watch", "--once", "--rows", str(tmp_path / "rows.parquet"), "--json", folder=employment, status=10)
    (one,) = json.loads(told.stdout)["windows"]
    slices = one["signals"]["drift"]["slices"]
    assert [part["name"] for part in slices if part["outcome"] == "refused"] == [moved]
    assert "drift" in told.stderr


@pytest.mark.slow
def test_a_column_that_the_file_lacks_is_loud(employment: Path, tmp_path: Path) -> None:
    pl.read_parquet(ROOT / DATA).drop("MAR").sample(2000, seed=1).write_csv(tmp_path / "rows.csv")
    told = specml("watch", "--once", "--rows", str(tmp_path / "rows.csv"), folder=employment, status=10)
    assert "raised" in told.stdout
    assert "MAR" in told.stdout
    assert "100.0% missing" in told.stdout.replace("\n", " ")


ON = ("+monitoring.capture={share: 1.0}", "monitoring.window={rows: 1000, labels: 500}")
LATE = "+monitoring.signals.late={type: performance, metric: roc_auc, min: 0.7}"
TARGET = "employed"


@pytest.fixture
def asked(employment: Path, tmp_path: Path) -> Path:
    """A copy of the project whose model was asked, with capture, about 2,300 people of 2018."""
    folder = tmp_path / "project"
    shutil.copytree(employment, folder, ignore=shutil.ignore_patterns(".specml"))
    ask(folder, pl.read_parquet(ROOT / DATA).filter(pl.col("year") == 2018).sample(2300, seed=1), "first")
    return folder


def ask(folder: Path, rows: pl.DataFrame, name: str) -> None:
    """Ask a replica, without HTTP, in requests of 100 rows called NAME.0, NAME.1, …"""
    bundle = open_bundle(folder / "artifacts/bundle")
    kinds: dict[str, Kind] = {column.name: column.kind for column in bundle.contract.inputs}
    captures = folder / ".specml/captures" / bundle.digest[7:19]
    args = {"bundle": str(folder / "artifacts/bundle"), "capture": {"folder": str(captures)}}
    service = Args.model_validate(args).service("r1")

    async def everything() -> None:
        for number, part in enumerate(rows.iter_slices(100)):
            route = service.admit("POST", "/predict", {"content-type": "application/json"})
            body = json.dumps({"rows": to_rows(part, kinds)}).encode()
            assert (await service.answer(route, body, {"x-request-id": f"{name}.{number}"})).status == 200

    asyncio.run(everything())
    service.close()


def labels(rows: pl.DataFrame, name: str) -> pl.DataFrame:
    ids = [f"{name}.{i // 100}-{i % 100}" for i in range(rows.height)]
    return pl.DataFrame({"id": ids, TARGET: rows[TARGET]})


def once(folder: Path, *overrides: str, status: int = 0) -> tuple[list[dict[str, Any]], str]:
    told = specml("watch", "--once", "--json", *ON, *overrides, folder=folder, status=status)
    windows: list[dict[str, Any]] = json.loads(told.stdout)["windows"]
    return windows, told.stderr


@pytest.mark.slow
@pytest.mark.sweep
def test_what_was_captured_is_judged_once(asked: Path) -> None:
    windows, said = once(asked)
    assert [one["rows"] for one in windows] == [1000, 1000]
    assert all(one["signals"]["drift"]["outcome"] == "holds" for one in windows)
    assert "300 rows" in said
    assert once(asked)[0] == []
    # 700 more fill the third window; it has rows of two segments.
    shifted = pl.read_parquet(ROOT / DATA).filter(pl.col("year") == 2017).sample(700, seed=2)
    ask(asked, shifted.with_columns(RELP=pl.lit(None, dtype=pl.Int8)), "second")
    (third,), _ = once(asked, status=10)
    assert third["raised"] == ["drift"]
    assert sorted(stop - start for start, stop in third["origin"]["segments"].values()) == [300, 700]
    assert once(asked)[0] == []
    # A record that was never written (a kill between two windows) is made again, under the same name.
    (asked / f".specml/watch/{third['window']}.json").unlink()
    assert [one["window"] for one in once(asked, status=10)[0]] == [third["window"]]


@pytest.mark.slow
def test_late_labels_are_joined_and_judged(asked: Path, tmp_path: Path) -> None:
    rows = pl.read_parquet(ROOT / DATA).filter(pl.col("year") == 2018).sample(2300, seed=1)
    told = labels(rows, "first")
    told[:600].write_csv(tmp_path / "early.csv")
    told[500:1100].write_parquet(tmp_path / "late.parquet")

    def feed(file: str, status: int = 0) -> dict[str, int]:
        done = specml("feedback", str(tmp_path / file), "--json", *ON, folder=asked, status=status)
        found: dict[str, int] = json.loads(done.stdout)
        return {name: count for name, count in found.items() if count and name != "schema_version"}

    assert feed("early.csv") == {"rows": 600, "kept": 600}
    assert feed("early.csv") == {"rows": 600, "known": 600}
    assert feed("late.parquet") == {"rows": 600, "kept": 500, "known": 100}
    windows, said = once(asked, LATE)
    late = [one for one in windows if one["of"] == "labels"]
    assert [one["rows"] for one in late] == [500, 500]
    assert all(one["signals"]["late"]["outcome"] == "holds" for one in late)
    assert "100 labels" in said

    flipped = told[1100:].with_columns((1 - pl.col(TARGET).cast(pl.Int64)).alias(TARGET))
    strange = pl.DataFrame({"id": ["nobody-0", "first.0-0", "first.22-99"], TARGET: [1, 1 - told[TARGET][0], None]})
    pl.concat([flipped, strange], how="vertical_relaxed").write_csv(tmp_path / "flipped.csv")
    assert feed("flipped.csv") == {"rows": 1203, "kept": 1200, "unknown": 1, "conflicting": 1, "unlabelled": 1}
    windows, _ = once(asked, LATE, status=10)
    assert [one["raised"] for one in windows] == [["late"], ["late"]]
    assert once(asked, LATE)[0] == []

    pl.DataFrame({"id": ["first.0-0"], TARGET: ["perhaps"]}).write_csv(tmp_path / "strange.csv")
    refused = specml("feedback", str(tmp_path / "strange.csv"), folder=asked, status=6)
    assert "1 of 1 labels" in refused.stderr
    assert "perhaps" not in refused.stderr


def test_nothing_to_watch_is_told(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(json.dumps(tree()))
    assert "monitoring.capture is off" in specml("watch", "--once", folder=tmp_path).stderr
    assert "Nothing was captured yet" in specml("watch", "--once", ON[0], folder=tmp_path).stderr
    assert "--by needs --rows" in specml("watch", "--by", "x", folder=tmp_path, status=2).stderr
    assert "no duration" in specml("watch", "--every", "soon", folder=tmp_path, status=2).stderr


@pytest.mark.slow
def test_retention_deletes_what_is_older_and_says_so(asked: Path) -> None:
    captures = asked / ".specml/captures"
    (segment,) = captures.glob("*/*.parquet")
    assert "deleted" not in once(asked)[1]
    segment.rename(segment.with_name(f"20200101T000000000000Z-{segment.name[-10:]}"))
    (segment.parent / ".half-written.parquet.abcdefgh").write_bytes(b"x")
    windows, said = once(asked)
    assert "1 files older than 30d deleted" in said
    assert [one["rows"] for one in windows] == [1000, 1000]
    assert list(segment.parent.iterdir()) == []


@pytest.mark.serve
@pytest.mark.slow
def test_a_live_server_is_captured_watched_and_fed(employment: Path, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    shutil.copytree(employment, folder, ignore=shutil.ignore_patterns(".specml"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = (*ON, f"deployment.target.port={port}")
    rows = pl.read_parquet(ROOT / DATA).filter(pl.col("year") == 2018).sample(1200, seed=4)
    rows.write_parquet(tmp_path / "rows.parquet")
    try:
        told = specml("deploy", *options, folder=folder).stdout
        assert "Captured: 100 % of its requests" in told
        specml("predict", str(tmp_path / "rows.parquet"), "-o", str(tmp_path / "out.csv"), *options, folder=folder)
        windows: list[Any] = []
        for _ in range(15):
            windows += once(folder, *options)[0]
            if windows:
                break
        (window,) = windows
        assert window["rows"] == 1000
        assert window["signals"]["drift"]["outcome"] == "holds"
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/predict",
            b'{"rows": [{}]}',
            {"content-type": "application/json", "x-request-id": "the-last"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.headers["x-request-id"] == json.loads(answer.read())["id"] == "the-last"
    finally:
        specml("stop", folder=folder)
    # What was answered a moment before the stop is there, too.
    segments = list(folder.glob(".specml/captures/*/*.parquet"))
    assert sum(pl.read_parquet(one).height for one in segments) == 1201
    pl.DataFrame({"id": ["the-last-0"], TARGET: [1]}).write_csv(tmp_path / "labels.csv")
    fed = specml("feedback", str(tmp_path / "labels.csv"), *options, folder=folder).stdout
    assert fed == "1 of 1 labels are new and belong to captured rows.\n"


SMALL = (ON[0], "monitoring.window={rows: 100}", "+monitoring.signals={drift: {type: data_drift, min_rows: 100}}")


def started(folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "specml", "watch", "--json", *options, *SMALL]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, text=True)


@pytest.mark.slow
@pytest.mark.sweep
def test_killed_and_crowded_watches_judge_every_row_once(asked: Path) -> None:
    records = asked / ".specml/watch"
    for wanted in (1, 4, 9):
        process = started(asked, "--once")
        while len(list(records.glob("*.json"))) < wanted and process.poll() is None:
            time.sleep(0.005)
        process.kill()
        process.wait(timeout=120)
    assert 9 <= len(list(records.glob("*.json"))) < 23
    crowd = [started(asked, "--once") for _ in range(2)]
    for process in crowd:
        process.wait(timeout=120)
    taken: list[int] = []
    for path in records.glob("*.json"):
        for start, stop in json.loads(path.read_bytes())["origin"]["segments"].values():
            taken += range(start, stop)
    assert sorted(taken) == list(range(2300))


@pytest.mark.slow
def test_it_watches_until_it_is_interrupted(asked: Path) -> None:
    process = started(asked, "--every", "1s")
    records = asked / ".specml/watch"
    until = time.monotonic() + 60
    while len(list(records.glob("*.json"))) < 23 and time.monotonic() < until:
        time.sleep(0.1)
    ask(asked, pl.read_parquet(ROOT / DATA).sample(100, seed=8), "more")
    while len(list(records.glob("*.json"))) < 24 and time.monotonic() < until:
        time.sleep(0.1)
    assert len(list(records.glob("*.json"))) == 24
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=120)
    assert process.returncode == 130
