"""Late labels beside the answers of every task, and what is not taken."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest

from specml import ledger
from specml.bundle import open_bundle
from specml.errors import DataCheckFailed, SpecmlError
from specml.serving.capture import Capture
from specml.serving.request import Rows, named
from specml.watch import stream
from specml.watch.feedback import feed
from specml.watch.judge import RECORDS
from specml.watch.live import labelled
from tests.bundles import binary_bundle, regression_bundle
from tests.conftest import specml
from tests.malformed import GOOD

if TYPE_CHECKING:
    from pathlib import Path

    from specml.bundle import Bundle

N = 60


def answered(project: Path, rows: list[dict[str, Any]], outputs: dict[str, np.ndarray]) -> Bundle:
    """Captures of requests r0, r1, … of one row each."""
    bundle = open_bundle(project / "artifacts/bundle")
    capture = Capture(project / stream.CAPTURES / bundle.digest[7:19], bundle.contract, bundle.digest, flush=60)
    for i, row in enumerate(rows):
        asked: Rows = named([row], bundle.contract)
        capture.offer(f"r{i}", asked, {name: values[i : i + 1] for name, values in outputs.items()})
    capture.close()
    return bundle


def kept(project: Path) -> pl.DataFrame:
    return pl.concat([stream.read(one) for one in sorted(project.glob(f"{stream.FEEDBACK}/*/*.parquet"))])


@pytest.mark.parametrize("classes", [(0, 1), ("no", "yes"), (False, True), (0.5, 1.5)])
def test_labels_become_class_indices(classes: tuple[Any, Any], tmp_path: Path) -> None:
    binary_bundle(tmp_path / "artifacts/bundle", classes=classes)
    p = np.linspace(0.01, 0.99, N)
    decided = (p >= 0.5).astype(int)
    outputs = {
        "label": np.array([str(classes[i]) for i in decided], dtype=object),
        "probabilities": np.column_stack([1 - p, p]).astype(np.float32),
    }
    answered(tmp_path, [GOOD] * N, outputs)
    y = np.arange(N) % 2
    labels = pl.DataFrame({"id": [f"r{i}-0" for i in range(N)], "y": [classes[i] for i in y]})
    assert feed(labels, tmp_path, "y").kept == N
    assert feed(labels.reverse().rename({"id": "id_"}), tmp_path, "y", "id_").known == N
    window = labelled(kept(tmp_path))
    assert window.y is not None
    assert window.scores is not None
    assert window.decisions is not None
    order = np.argsort(window.scores)
    np.testing.assert_array_equal(window.y[order], y)
    np.testing.assert_allclose(window.scores[order], p, rtol=1e-6)
    np.testing.assert_array_equal(window.decisions[order], decided)


def test_numbers_stay_numbers(tmp_path: Path) -> None:
    regression_bundle(tmp_path / "artifacts/bundle")
    answered(tmp_path, [{"area": float(i)} for i in range(N)], {"prediction": np.arange(N, dtype=np.float32)})
    labels = pl.DataFrame({"id": ["r3-0", "r4-0", "r4-0"], "price": [2.5, 4.0, 4.5]})
    told = feed(labels, tmp_path, "price")
    assert (told.kept, told.conflicting) == (2, 1)
    window = labelled(kept(tmp_path).sort("id"))
    np.testing.assert_array_equal(window.y, [2.5, 4.0])
    np.testing.assert_array_equal(window.scores, [3.0, 4.0])
    assert window.decisions is None
    with pytest.raises(DataCheckFailed, match="1 of 1 values"):
        feed(pl.DataFrame({"id": ["r5-0"], "price": ["much"]}), tmp_path, "price")


def test_what_can_not_be_recorded_is_not_taken(tmp_path: Path) -> None:
    regression_bundle(tmp_path / "artifacts/bundle")
    answered(tmp_path, [{"area": 1.0}], {"prediction": np.ones(1, dtype=np.float32)})
    (tmp_path / "spec.yaml").write_text(
        "name: rent\nproblem: {task: regression, target: price}\ncandidates: {line: ridge}\n"
        "data: {sources: {rows: {type: csv, path: rows.csv}}}\n"
    )
    (tmp_path / "labels.csv").write_text("id,price\nr0-0,2.5\n")
    ledger.append(tmp_path, "run")
    whole = (tmp_path / ledger.FILE).read_bytes()
    (tmp_path / ledger.FILE).write_bytes(b"")
    refused = specml("feedback", "labels.csv", folder=tmp_path, status=1)
    assert "is cut off" in refused.stderr
    assert not (tmp_path / stream.FEEDBACK).exists()
    (tmp_path / ledger.FILE).write_bytes(whole)
    specml("feedback", "labels.csv", folder=tmp_path)
    begun, ended = (record.facts for record in ledger.verify(tmp_path).records[1:])
    assert (begun["phase"], ended["phase"], ended["status"], ended["kept"]) == ("begun", "ended", 0, 1)


def test_an_interruption_takes_no_label_and_the_same_command_takes_them(tmp_path: Path) -> None:
    regression_bundle(tmp_path / "artifacts/bundle")
    answered(tmp_path, [{"area": 1.0}], {"prediction": np.ones(1, dtype=np.float32)})
    (tmp_path / "spec.yaml").write_text(
        "name: rent\nproblem: {task: regression, target: price}\ncandidates: {line: ridge}\n"
        "data: {sources: {rows: {type: csv, path: rows.csv}}}\n"
    )
    (tmp_path / "labels.csv").write_text("id,price\nr0-0,2.5\n")
    command = [sys.executable, "-m", "specml", "feedback", "labels.csv"]
    with stream.alone(tmp_path):  # for which it waits, once it has recorded that it began
        run = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        end = time.monotonic() + 60
        while not (tmp_path / ledger.FILE).exists() or not ledger.verify(tmp_path).records:
            assert time.monotonic() < end
            time.sleep(0.05)
        time.sleep(0.3)  # polars, which it has used, would let it wait on: what waits for locks must not
        run.send_signal(signal.SIGINT)
        out, told = run.communicate(timeout=30)
    assert (run.returncode, out) == (130, "")
    assert told.strip() == "interrupted; the same command carries on from what was finished."
    assert not list(tmp_path.glob(f"{stream.FEEDBACK}/**/*.parquet"))
    assert "1 of 1 labels are new" in specml("feedback", "labels.csv", folder=tmp_path).stdout
    ends = [one.facts["status"] for one in ledger.verify(tmp_path).records if one.facts["phase"] == "ended"]
    assert ends == [130, 0]


def test_several_classes_keep_all_probabilities() -> None:
    p = [[0.2, 0.3, 0.5], [0.7, 0.2, 0.1]]
    window = labelled(pl.DataFrame({"id": ["a", "b"], "y": [2, 1], "probabilities": p, "decision": [2, 0]}))
    np.testing.assert_allclose(window.scores, p)
    np.testing.assert_array_equal(window.decisions, [2, 0])


def test_a_file_without_ids_and_broken_state_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataCheckFailed, match="no column 'id'"):
        feed(pl.DataFrame({"y": [1]}), tmp_path, "y")
    assert feed(pl.DataFrame({"id": ["r-0"], "y": [1]}), tmp_path, "y").unknown == 1
    folder = tmp_path / stream.CAPTURES / "000000000000"
    folder.mkdir(parents=True)
    (folder / "20260101T000000000000Z-a.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataCheckFailed, match="no Parquet file"):
        list(stream.windows(folder, tmp_path, 10))
    (tmp_path / RECORDS).mkdir()
    (tmp_path / RECORDS / "rows-x.json").write_text("{}")
    with pytest.raises(SpecmlError, match="no record of a window"):
        list(stream.windows(folder, tmp_path, 10))
