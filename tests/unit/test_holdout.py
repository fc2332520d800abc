"""How often the held-out rows were opened, and what was changed in between: counted from the ledger alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from specml import holdout, ledger
from specml.files import canonical_json, digest, read_json
from specml.verdicts import changes_in_words, opened, openings_in_words
from tests.conftest import run_stages, spec_of

if TYPE_CHECKING:
    from pathlib import Path

AUC = {"type": "metric", "metric": "roc_auc", "min": 0.9, "level": "fail"}
PARITY = {"type": "parity", "max": 1e-5}


def look(folder: Path, gates: dict[str, Any], *, bundle: str = "sha256:a", labels: str = "x", files: Any = ()) -> None:
    (folder / "test.parquet").write_bytes(labels.encode())
    named = {"bundle": bundle, "rows": folder / "test.parquet", "labels": labels}
    holdout.register(folder, **named, gates=gates, files=files)


def test_each_look_at_the_same_rows_counts(tmp_path: Path) -> None:
    assert opened(tmp_path, "sha256:a") is None
    assert openings_in_words(None) == "How often the held-out rows were opened is not recorded here."
    look(tmp_path, {"auc": AUC})
    look(tmp_path, {"auc": AUC}, bundle="sha256:b", labels="others")
    look(tmp_path, {"auc": AUC}, bundle="sha256:c")
    told = opened(tmp_path, "sha256:a")
    assert told is not None
    assert (told["opened"], told["shown"], told["changes"]) == (2, 0, [])
    assert openings_in_words(told).startswith("The held-out rows were opened twice since 20")
    holdout.shown(tmp_path, gate="auc", labels="x", rows=3)
    assert openings_in_words(opened(tmp_path, "sha256:c")).endswith("judge, and once some of them were shown.")
    alone = opened(tmp_path, "sha256:b")
    assert openings_in_words(alone) == "The held-out rows were opened once, for these gates to judge."


def test_what_was_changed_after_a_look_is_told(tmp_path: Path) -> None:
    (tmp_path / "cases.yaml").write_text("a: 1\n")
    look(tmp_path, {"auc": AUC, "parity": PARITY}, files=("cases.yaml",))
    look(tmp_path, {"auc": {**AUC, "min": 0.8}, "mine": {"type": "gone_plug_in", "x": 1}}, files=("cases.yaml",))
    (tmp_path / "cases.yaml").write_text("a: 2\n")
    look(tmp_path, {"auc": {**AUC, "min": 0.95}, "mine": {"type": "gone_plug_in", "x": 2}}, files=("cases.yaml",))
    told = opened(tmp_path, "sha256:a")
    assert told is not None
    assert [(one["opening"], one["gate"], one["way"]) for one in told["changes"]] == [
        (2, "auc", "loosened"),
        (2, "mine", "added"),
        (2, "parity", "removed"),
        (3, "auc", "tightened"),
        (3, "mine", "changed"),
        (3, "cases.yaml", "changed"),
    ]
    words = [one for one, _ in changes_in_words(told["changes"])]
    assert words[0].startswith("auc changed before opening 2, 20")
    assert words[0].endswith("UTC: min 0.9 → 0.8 (loosened)")
    assert words[2].endswith("UTC: was removed")
    assert digest(b"a: 2\n")[7:19] in words[5]


def test_a_ledger_that_was_changed_tells_nothing(tmp_path: Path) -> None:
    look(tmp_path, {"auc": AUC})
    path = tmp_path / ledger.FILE
    path.write_bytes(path.read_bytes().replace(b"0.9", b"0.8"))
    told = opened(tmp_path, "sha256:a")
    assert told is not None
    assert told["opened"] is None
    assert openings_in_words(told).startswith("The ledger was changed")


def test_older_records_count_for_nothing(tmp_path: Path) -> None:
    ledger.append(tmp_path, "thresholds", gates="sha256:0", bundle="sha256:a")
    assert opened(tmp_path, "sha256:a") is None


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("held")
    rows = {"x": [float(i % 7) for i in range(400)], "z": [i % 3 for i in range(400)], "y": [i % 2 for i in range(400)]}
    pl.DataFrame(rows).write_parquet(folder / "rows.parquet")
    return folder


def test_validate_says_what_it_wants_before_it_looks(project: Path) -> None:
    data: dict[str, Any] = {"sources": {"rows": {"type": "parquet", "path": "rows.parquet"}}}
    gates: dict[str, Any] = {"baseline": {"type": "baseline", "level": "warn"}}
    run_stages(spec_of(data=data, gates=gates), project, until="validate")
    # Another column does not make other rows of them.
    fewer = {**data, "columns": {"z": {"role": "ignore"}}}
    run_stages(spec_of(data=fewer, gates={**gates, "auc": {**AUC, "level": "warn"}}), project, until="validate")
    records = [one.facts for one in ledger.verify(project).records if one.event == "thresholds"]
    assert records[0]["labels"] == records[1]["labels"]
    assert records[0]["rows"] != records[1]["rows"]
    assert records[1]["rows"] == digest(project / "artifacts/prepare/test.parquet")
    assert records[1]["options"]["auc"]["min"] == 0.9
    assert records[1]["gates"]["auc"] == digest(canonical_json(records[1]["options"]["auc"]))
    told = opened(project, read_json(project / "artifacts/validate/verdicts.json")["bundle"])
    assert told is not None
    assert told["opened"] == 2
    assert [(one["gate"], one["way"]) for one in told["changes"]] == [("auc", "added")]


def test_nothing_is_opened_where_it_can_not_be_recorded(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from specml.stages import validate

    def full(*_: Any, **__: Any) -> None:
        raise ledger.LedgerError("can't be written: no space left.")

    monkeypatch.setattr(ledger, "append", full)
    monkeypatch.setattr(validate, "gathered", lambda *_: pytest.fail("opened"))
    data: dict[str, Any] = {"sources": {"rows": {"type": "parquet", "path": "rows.parquet"}}}
    with pytest.raises(ledger.LedgerError):
        run_stages(spec_of(data=data), project, until="validate")
