"""Late labels over HTTP, from the request to what ``specml watch`` keeps."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from specml import ledger
from specml.bundle import open_bundle
from specml.serving import feedback
from specml.serving.app import Args
from specml.serving.capture import forget
from specml.serving.feedback import Inbox, read_labels
from specml.serving.refusal import Refused
from specml.watch import stream
from specml.watch.feedback import collect
from tests.bundles import binary_bundle, regression_bundle
from tests.malformed import GOOD
from tests.unit.serving.conftest import ask
from tests.unit.test_feedback import kept

if TYPE_CHECKING:
    from pathlib import Path

    from specml.serving.service import Service


def served(project: Path, **more: Any) -> Service:
    if not (project / "artifacts").exists():
        binary_bundle(project / "artifacts/bundle")
    bundle = open_bundle(project / "artifacts/bundle")
    folder = project / stream.CAPTURES / bundle.digest[7:19]
    args = {"bundle": str(project / "artifacts/bundle"), "capture": {"folder": str(folder)}, "max_rows": 50}
    return Args.model_validate({**args, **more}).service("r1")


def bring(service: Service, *labels: dict[str, Any]) -> tuple[int, Any]:
    answer = asyncio.run(ask(service, "POST", "/feedback", json.dumps({"labels": labels}).encode()))
    return answer.status, json.loads(answer.body)


def waiting(project: Path) -> list[Path]:
    return sorted((project / stream.INBOX).glob("*.jsonl"))


def test_labels_are_on_disk_when_they_are_acknowledged_and_watch_keeps_them(tmp_path: Path) -> None:
    service = served(tmp_path)
    body = json.dumps({"rows": [GOOD, GOOD, GOOD]}).encode()
    headers = {"content-type": "application/json", "x-request-id": "one"}
    assert asyncio.run(ask(service, "POST", "/predict", body, headers)).status == 200
    told = bring(service, {"id": "one-0", "income": 1}, {"id": "one-1", "income": "0"}, {"id": "other-0", "income": 1})
    assert told == (202, {"kept": 3})
    (file,) = waiting(tmp_path)
    assert [json.loads(line) for line in file.read_text().splitlines()][1] == {"id": "one-1", "label": "0"}
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    service.close()
    said: list[str] = []
    collect(tmp_path, "income", said.append)
    assert said == ["2 of 3 labels that the server was told are new and belong to captured rows."]
    assert dict(zip(*kept(tmp_path).select("id", "y").to_dict(as_series=False).values(), strict=True)) == {
        "one-0": 1,
        "one-1": 0,
    }
    (_, ended) = (record.facts for record in ledger.verify(tmp_path).records)
    assert (ended["kept"], ended["unknown"]) == (2, 1)
    assert waiting(tmp_path) == [file], "the third row may not be written yet"
    collect(tmp_path, "income", said.append)
    assert said[1].startswith("0 of 3 labels")
    old = file.with_name(f"20200101T000000000000Z-{file.name.partition('-')[2]}")
    file.rename(old)
    collect(tmp_path, "income", said.append)
    assert not waiting(tmp_path)
    collect(tmp_path, "income", said.append)
    assert len(said) == 3


def test_numbers_are_kept_to_the_last_digit(tmp_path: Path) -> None:
    regression_bundle(tmp_path / "artifacts/bundle")
    service = served(tmp_path)
    headers = {"content-type": "application/json", "x-request-id": "one"}
    asyncio.run(ask(service, "POST", "/predict", b'{"rows": [{"area": 1}, {"area": 2}]}', headers))
    assert bring(service, {"id": "one-0", "price": 0.1 + 0.2}, {"id": "one-1", "price": 7})[0] == 202
    service.close()
    collect(tmp_path, "price", lambda _: None)
    np.testing.assert_array_equal(kept(tmp_path).sort("id")["y"].to_numpy(), [0.1 + 0.2, 7.0])


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "JSON"),
        (b"{}", 422, '{"labels": [{"id": "ID-0", "income": '),
        (b'{"labels": []}', 422, "one label or more"),
        (b'{"labels": [1]}', 422, "labels[0] is a JSON number"),
        (b'{"labels": [{"id": "a-0"}]}', 422, "labels[0] has id; it needs id and income"),
        (b'{"labels": [{"id": "a-0", "income": 1, "age": 3}]}', 422, "takes nothing else"),
        (b'{"labels": [{"id": "a", "income": 1}]}', 422, "labels[0].id is no id of an answered row"),
        (b'{"labels": [{"id": "a\\n-0", "income": 1}]}', 422, "labels[0].id"),
        (b'{"labels": [{"id": 7, "income": 1}]}', 422, "labels[0].id"),
        (b'{"labels": [{"id": "a-0", "income": null}]}', 422, "labels[0].income is null, no class of the model"),
        (b'{"labels": [{"id": "a-0", "income": 2}]}', 422, "its classes: 0, 1"),
        (b'{"labels": [{"id": "a-0", "income": [1]}]}', 422, "labels[0].income is [1]"),
        (json.dumps({"labels": [{"id": "a-0", "income": 1}] * 51}).encode(), 413, "51 labels; at most 50"),
    ],
)
def test_what_is_no_label_is_refused_and_not_kept(body: bytes, status: int, words: str, labelled: Service) -> None:
    answer = asyncio.run(ask(labelled, "POST", "/feedback", body))
    assert answer.status == status
    assert words in json.loads(answer.body)["error"]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Any:
    project = tmp_path_factory.mktemp("labelled")
    made = served(project)
    yield made
    made.close()
    assert not waiting(project)


def test_a_label_of_a_regression_is_a_finite_number(tmp_path: Path) -> None:
    regression_bundle(tmp_path / "b")
    contract = open_bundle(tmp_path / "b").contract
    for wrong in (b"true", b'"7"', b"null"):
        with pytest.raises(Refused, match="it takes a number"):
            read_labels(b'{"labels": [{"id": "a-0", "price": ' + wrong + b"}]}", contract, 10)


def test_without_capture_there_is_no_such_path(service: Service) -> None:
    assert bring(service, {"id": "a-0", "income": 1})[0] == 404


def test_it_stands_in_openapi_typed_from_the_contract(labelled: Service) -> None:
    document = json.loads(asyncio.run(ask(labelled, "GET", "/openapi.json")).body)
    operation = document["paths"]["/feedback"]["post"]
    label = operation["requestBody"]["content"]["application/json"]["schema"]["properties"]["labels"]["items"]
    assert label["properties"]["income"] == {"enum": [0, 1]}
    assert "202" in operation["responses"]


def test_what_comes_while_the_disk_is_busy_is_written_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = feedback.write_atomic
    monkeypatch.setattr(feedback, "write_atomic", lambda *a, **k: (time.sleep(0.05), write(*a, **k)))
    inbox = Inbox(tmp_path / "labels", "r1")

    async def many() -> None:
        await asyncio.gather(*(inbox.keep([{"id": f"a-{i}", "label": "1"}]) for i in range(100)))

    asyncio.run(many())
    files = sorted((tmp_path / "labels").iterdir())
    assert len(files) <= 3
    assert sum(len(file.read_text().splitlines()) for file in files) == 100
    inbox.close()


def test_a_full_inbox_and_a_full_disk_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback, "MOST_FILES", 1)
    service = served(tmp_path)
    assert bring(service, {"id": "a-0", "income": 1})[0] == 202
    status, told = bring(service, {"id": "a-0", "income": 1})
    assert (status, "specml watch" in told["error"]) == (503, True)
    monkeypatch.setattr(feedback, "MOST_FILES", 10)
    monkeypatch.setattr(feedback, "write_atomic", lambda *a, **k: (_ for _ in ()).throw(OSError(28, "full")))
    assert bring(service, {"id": "a-0", "income": 1})[0] == 503
    assert len(waiting(tmp_path)) == 1
    service.close()


def test_what_fits_no_model_is_put_aside_and_the_rest_is_kept(tmp_path: Path) -> None:
    service = served(tmp_path)
    headers = {"content-type": "application/json", "x-request-id": "one"}
    asyncio.run(ask(service, "POST", "/predict", json.dumps({"rows": [GOOD]}).encode(), headers))
    service.close()
    folder = tmp_path / stream.INBOX
    (folder / "20260101T000000000000Z-x.jsonl").write_text('{"id": "one-0", "label": "elephant"}\n')
    (folder / "20260101T000000000001Z-x.jsonl").write_text("no json")
    (folder / "20260101T000000000002Z-x.jsonl").write_text('{"id": "one-0", "label": "1"}\n')
    said: list[str] = []
    collect(tmp_path, "income", said.append)
    assert len(kept(tmp_path)) == 1
    assert len(list(folder.glob("*.refused"))) == 2
    assert not any("elephant" in one for one in said)
    assert forget(tmp_path / stream.CAPTURES, retention=1.0) >= 2, "and goes with the retention"
    assert not list(folder.iterdir())
