"""``specml gate`` on a real project: judged again without training, told in XML, in rows, and in the ledger."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from tests.conftest import EXAMPLES, specml

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

PLUGIN = '''
"""A gate that names the rows behind its verdict."""

from typing import ClassVar, Literal

from specml.evidence import Slice, Verdict, wilson
from specml.kinds import Gate


class Errors(Gate):
    """The share of wrong decisions stays small."""

    stricter: ClassVar = {"most": "smaller"}
    type: Literal["errors"] = "errors"
    most: float = 0.5

    def check(self, evidence):
        wrong = (evidence.decisions != evidence.y).nonzero()[0].tolist()
        n = len(evidence.y)
        holds = len(wrong) <= self.most * n
        slices = tuple(
            Slice(name=f"half {k}", n=n // 2, value=0.1 * k, interval=wilson(2 * k, n // 2, 0.95)) for k in (1, 2)
        )
        return Verdict(
            outcome="holds" if holds else "refused",
            reason=f"{len(wrong)} of {n} rows are decided wrong.",
            value=len(wrong) / n,
            interval=wilson(len(wrong), n, 0.95),
            n=n,
            threshold=f"≤ {self.most:g}",
            slices=slices,
            rows=tuple(wrong[:50]),
        )
'''


COLUMN = "mean_radius"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "breast_cancer"
    leave = shutil.ignore_patterns("artifacts", "metrics", "plots", ".specml", ".dvc", "dvc.*", "params.yaml")
    shutil.copytree(EXAMPLES / "breast_cancer", folder, ignore=leave)
    (folder / "house.py").write_text(PLUGIN)
    text = (folder / "spec.yaml").read_text()
    text = text.replace("gates:\n", "plugins: [house]\n\ngates:\n  wrong: {type: errors}\n")
    (folder / "spec.yaml").write_text(text)
    specml("gate", folder=folder, status=3)
    done = specml("run", "--no-deploy", "--junit", "run.xml", folder=folder)
    assert "The held-out rows were opened once, for these gates to judge." in done.stderr
    assert " half 2" in done.stderr
    return folder


@pytest.fixture
def again(finished: Path, tmp_path: Path) -> Iterator[Path]:
    yield Path(shutil.copytree(finished, tmp_path / "copy", symlinks=True))
    shutil.rmtree(tmp_path / "copy")


def suite_of(path: Path) -> Any:
    from junitparser import JUnitXml

    (suite,) = JUnitXml.fromfile(str(path))
    return suite


def recorded(folder: Path, event: str) -> list[dict[str, Any]]:
    from specml import ledger

    return [record.facts for record in ledger.verify(folder).records if record.event == event]


def test_a_file_that_a_gate_reads_is_missed_before_anything_runs(again: Path) -> None:
    spec = again / "spec.yaml"
    spec.write_text(spec.read_text().replace("  wrong:", "  told: {type: behaviour, cases: cases.yaml}\n  wrong:"))
    done = specml("gate", folder=again, status=2)
    assert f"there is no file 'cases.yaml'.\n    Paths start at {again}." in done.stderr
    assert "gates.told" in done.stderr


def test_nothing_is_judged_again_that_has_not_changed(again: Path) -> None:
    suite = suite_of(again / "run.xml")
    assert (suite.name, suite.tests, suite.failures) == ("breast-cancer", 5, 0)
    done = specml("gate", "--json", folder=again)
    told = json.loads(done.stdout)
    assert (told["exit_status"], told["stages_run"], told["held_out"]["opened"]) == (0, [], 1)
    assert set(told["gates"]) == {"auc", "baseline", "parity", "recall", "wrong"}
    assert len(recorded(again, "thresholds")) == 1


def test_a_tightened_gate_refuses_without_training(again: Path) -> None:
    before = (again / "artifacts/bundle/manifest.json").read_bytes()
    done = specml("gate", "gates.auc.min=0.999", "gates.wrong.most=0.3", "--junit", "gate.xml", folder=again, status=4)
    assert "train" not in done.stderr
    assert "✖ refused" in done.stderr
    assert "The held-out rows were opened twice" in done.stderr
    assert "auc changed before opening 2" in done.stderr
    assert "min 0.95 → 0.999 (tightened)" in done.stderr
    assert "most 0.5 → 0.3 (tightened)" in done.stderr
    assert (again / "artifacts/bundle/manifest.json").read_bytes() == before
    suite = suite_of(again / "gate.xml")
    assert (suite.tests, suite.failures) == (5, 1)
    assert [case.name for case in suite if case.result] == ["auc"]
    page = (again / "artifacts/report.html").read_text()
    assert "The held-out rows were opened twice" in page
    assert "min 0.95 → 0.999 (tightened)" in page
    assert "<code>specml gate --rows wrong</code>" in page
    assert 'class="worst"' in page
    status = specml("status", folder=again).stdout
    assert "opened twice" in status
    assert "2 thresholds were changed meanwhile" in status
    # The same spec as before comes out of DVC's cache: no row is opened for it.
    told = json.loads(specml("gate", "--json", folder=again).stdout)
    assert (told["exit_status"], told["held_out"]["opened"]) == (0, 2)
    assert "nothing to do" in specml("run", "--no-deploy", folder=again).stderr


@pytest.mark.parametrize(
    ("override", "stage"), [("candidates.gbm.num_leaves=15", "train@gbm"), ("data.split.test=0.2", "prepare")]
)
def test_a_model_that_is_out_of_date_is_not_judged(again: Path, override: str, stage: str) -> None:
    before = (again / "params.yaml").read_bytes()
    done = specml("gate", override, folder=again, status=3)
    assert "the model is not the one that this spec asks for; out of date: " in done.stderr
    assert stage in done.stderr
    assert "`specml run` makes it anew" in done.stderr
    assert (again / "params.yaml").read_bytes() == before
    specml("gate", "gates.auc.min=0.5", folder=again, status=2)


def test_the_rows_behind_a_verdict_are_printed(again: Path) -> None:
    done = specml("gate", "--rows", "wrong", folder=again)
    rows = pl.read_csv(done.stdout.encode())
    verdicts = json.loads((again / "artifacts/validate/verdicts.json").read_text())["gates"]
    assert rows["row"].to_list() == verdicts["wrong"]["rows"]
    held = pl.read_parquet(again / "artifacts/prepare/test.parquet")
    assert rows[COLUMN].to_list() == pytest.approx(held[rows["row"].to_list()][COLUMN].to_list())
    specml("gate", "--rows", "wrong", "-o", "rows.parquet", folder=again)
    assert pl.read_parquet(again / "rows.parquet").height == rows.height
    assert [(one["gate"], one["count"]) for one in recorded(again, "rows")] == [("wrong", rows.height)] * 2
    assert "and twice some of them were shown" in specml("gate", folder=again).stderr
    assert "names no rows" in specml("gate", "--rows", "auc", folder=again).stderr
    assert "gates: auc, baseline" in specml("gate", "--rows", "nothing", folder=again, status=2).stderr
    held.head(20).write_parquet(again / "artifacts/prepare/test.parquet")
    assert "other rows than those that were judged" in specml("gate", "--rows", "wrong", folder=again, status=1).stderr


def test_a_waiver_in_the_spec_lets_an_override_loosen_its_gate(again: Path) -> None:
    refused = specml("gate", "gates.wrong.most=0.6", folder=again, status=2).stderr
    assert "loosens the gate wrong: 0.6, where the spec says 0.5." in refused
    waiver = "{gate: wrong, reason: a pilot, approver: ann@clinic, expires: 2999-12-31}"
    with (again / "spec.yaml").open("a") as file:
        file.write(f"\ncompliance:\n  waivers:\n    pilot: {waiver}\n")
    done = specml("gate", "gates.wrong.most=0.6", folder=again)
    assert "most 0.5 → 0.6 (loosened)" in done.stderr
    assert "Waiver pilot has no effect: the gate wrong stops nothing." in done.stderr


def test_intervals_are_drawn_on_a_wide_terminal(again: Path) -> None:
    main, other = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "specml", "gate"],
        cwd=again,
        stdout=other,
        stderr=other,
        env={**os.environ, "COLUMNS": "120", "TERM": "xterm", "NO_COLOR": "1"},
    )
    os.close(other)
    told = b""
    try:
        while part := os.read(main, 65536):
            told += part
    except OSError:  # the other end is closed
        pass
    os.close(main)
    assert process.wait() == 0
    lines = [line for line in told.decode().splitlines() if " auc" in f" {line}" and "holds" in line]
    assert "┃" in lines[-1]
    assert "━●" in lines[-1] or "●━" in lines[-1]
