"""Requests that are read in one turn of the event loop: each gets what it would get by itself."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from specml.serving import together
from specml.serving.app import Args
from specml.serving.capture import _place
from specml.serving.refusal import Refused
from specml.serving.routes import REQUEST_ID, Reply
from specml.serving.session import Session
from tests.bundles import probability
from tests.malformed import GOOD, PREDICT, rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from specml.serving.answering import Going
    from specml.serving.service import Service

    Run = Callable[[Session, dict[str, np.ndarray]], dict[str, np.ndarray]]

HEADERS = {"content-type": "application/json"}


class Turn:
    """What becomes of bodies that are all read in one turn."""

    def __init__(self, service: Service, bodies: Sequence[bytes], *, soon: bool = True) -> None:
        self.replies: list[Reply | None] = [None] * len(bodies)
        self.going: list[Going] = []
        self._all = asyncio.Event()
        begin = service.answering.begin_soon if soon else service.answering.begin
        for place, body in enumerate(bodies):
            headers = {**HEADERS, REQUEST_ID: f"request-{place}"}
            route = service.admit("POST", "/predict", headers)
            assert service.answering.joins(route, HEADERS, len(body)) or not soon
            self.going.append(begin(route, body, headers, lambda reply, place=place: self._take(place, reply)))

    def _take(self, place: int, reply: Reply) -> None:
        assert self.replies[place] is None, "answered twice"
        self.replies[place] = reply
        self._all.set()

    async def answered(self, but: tuple[int, ...] = ()) -> list[Reply | None]:
        """All of them, once they are there."""
        while not all(reply or place in but for place, reply in enumerate(self.replies)):
            self._all.clear()
            await asyncio.wait_for(self._all.wait(), 10)
        return self.replies


async def answered(service: Service, bodies: Sequence[bytes], *, soon: bool = True) -> list[tuple[int, Any, Any]]:
    replies = await Turn(service, bodies, soon=soon).answered()
    return [(one.status, json.loads(one.body), dict(one.headers)) for one in replies if one is not None]


def found(one: tuple[int, Any, Any]) -> list[float]:
    status, body, _ = one
    assert status == 200, body
    return [prediction["probability"] for prediction in body["predictions"]]


def several(ages: Sequence[int]) -> bytes:
    return json.dumps({"rows": [{**GOOD, "age": age} for age in ages]}).encode()


def test_each_gets_its_own_answer_under_its_own_name_from_one_call(bundle: Path) -> None:
    service = Args(bundle=str(bundle)).service("r1")
    ages = [[place, place + 1][: 1 + place % 2] for place in range(100)]
    answers = asyncio.run(answered(service, [several(one) for one in ages]))
    told = service.counters
    service.close()
    assert [body["id"] for _, body, _ in answers] == [f"request-{place}" for place in range(100)]
    for one, wanted in zip(answers, ages, strict=True):
        assert found(one) == [pytest.approx(probability({**GOOD, "age": age}), rel=1e-6) for age in wanted]
    assert sum(told.batch_rows.counts) == 2  # of 64 and of 36 requests
    assert told.requests == {("/predict", 200): 100}
    assert told.rows == 150
    assert [sum(one.counts) for one in (told.parse_seconds, told.wait_seconds, told.write_seconds)] == [100] * 3
    assert service.answering.ongoing == 0


@pytest.mark.parametrize("name", [*PREDICT, "unknown", "too many rows", "not small"])
def test_what_is_wrong_with_one_is_told_to_it_alone(bundle: Path, name: str, service: Service) -> None:
    more = {
        "unknown": rows(agee=1),
        "too many rows": several(range(51)),
        "not small": rows() + b" " * (together.SMALL - len(rows())),
    }
    wrong = more[name] if name in more else PREDICT[name][0]
    if len(wrong) > together.SMALL:
        pytest.skip("such a body is no member of a turn")

    async def main() -> None:
        bodies = [rows(), wrong, rows(age=1)]
        one, two = await answered(service, bodies), await answered(service, bodies, soon=False)
        assert one == two
        assert (one[0][0], one[2][0]) == (200, 200)

    asyncio.run(main())


def poisoned(run: Run, poison: Callable[[np.ndarray], bool]) -> Run:
    def maybe(self: Session, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if poison(columns["age"]):
            raise RuntimeError("poison")
        return run(self, columns)

    return maybe


def test_one_poisoned_request_fails_alone(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "run", poisoned(Session.run, lambda ages: bool((ages == 666).any())))
    service = Args(bundle=str(bundle)).service("r1")
    answers = asyncio.run(answered(service, [rows(age=666 if place == 31 else place) for place in range(64)]))
    service.close()
    assert [place for place, one in enumerate(answers) if one[0] != 200] == [31]
    assert answers[31][0] == 422
    assert service.counters.failures == 1
    assert found(answers[63]) == [pytest.approx(probability({**GOOD, "age": 63}), rel=1e-6)]


def test_an_answer_that_is_not_finite_is_that_ones_alone(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Session.run

    def far(self: Session, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = run(self, columns)
        outputs["probabilities"][columns["age"].ravel() == 666] = np.nan
        return outputs

    monkeypatch.setattr(Session, "run", far)
    service = Args(bundle=str(bundle)).service("r1")
    answers = asyncio.run(answered(service, [rows(age=1), several([2, 666]), rows(age=3)]))
    service.close()
    assert [one[0] for one in answers] == [200, 422, 200]
    assert "rows[1]" in answers[1][1]["error"]


@pytest.mark.parametrize("when", ["before it was read", "while it runs"])
def test_who_goes_is_not_answered_and_the_others_are(bundle: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    go, run = threading.Event(), Session.run
    service = Args(bundle=str(bundle)).service("r1")

    def slow(self: Session, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert go.wait(10)
        return run(self, columns)

    monkeypatch.setattr(Session, "run", slow)
    service._batcher._inline = False

    async def main() -> list[Reply | None]:
        turn = Turn(service, [rows(age=place) for place in range(3)])
        if when == "while it runs":
            await asyncio.sleep(0.01)
        service.answering.leave(turn.going[1])
        await asyncio.sleep(0)
        go.set()
        return await turn.answered(but=(1,))

    answers = asyncio.run(main())
    service.close()
    assert [one and one.status for one in answers] == [200, None, 200]
    assert (service.counters.gone, service.answering.ongoing) == (1, 0)


def test_where_all_are_gone_the_model_is_not_asked(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go, entered, run = threading.Event(), threading.Event(), Session.run
    batches: list[int] = []
    service = Args(bundle=str(bundle)).service("r1")

    def slow(self: Session, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        batches.append(len(columns["age"]))
        entered.set()
        assert go.wait(10)
        return run(self, columns)

    monkeypatch.setattr(Session, "run", slow)
    service._batcher._inline = False

    async def main() -> None:
        first = Turn(service, [rows()])
        while not entered.is_set():
            await asyncio.sleep(0.001)
        gone = Turn(service, [rows(), rows()])
        await asyncio.sleep(0.01)
        assert service._batcher.waiting_rows == 2
        service.answering.leave(gone.going[0])
        assert service._batcher.waiting_rows == 2
        service.answering.leave(gone.going[1])
        assert service._batcher.waiting_rows == 0
        go.set()
        await first.answered()

    asyncio.run(main())
    service.close()
    assert batches == [1]


def test_nobody_is_answered_late(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go, run = threading.Event(), Session.run
    service = Args(bundle=str(bundle), timeout=0.1).service("r1")

    def slow(self: Session, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert go.wait(10)
        return run(self, columns)

    monkeypatch.setattr(Session, "run", slow)
    service._batcher._inline = False

    async def main() -> list[tuple[int, Any, Any]]:
        found = await answered(service, [rows(), rows()])
        go.set()
        return found

    answers = asyncio.run(main())
    service.close()
    assert [one[0] for one in answers] == [504, 504]
    assert service.counters.expired == 2


def test_who_would_wait_for_too_long_is_refused(bundle: Path) -> None:
    service = Args(bundle=str(bundle), slo=1e-9).service("r1")
    answers = asyncio.run(answered(service, [rows(), rows()]))
    service.close()
    assert [(one[0], one[2]["retry-after"]) for one in answers] == [(429, "1")] * 2


def kept(folder: Path) -> list[tuple[str, int]]:
    """Ids and ages of the captured rows, whose answers are right."""
    import polars as pl

    (file,) = folder.rglob("*.parquet")
    found = pl.read_parquet(file).to_dicts()
    for one in found:
        wanted = probability({**GOOD, "age": one["inputs"]["age"]})
        assert one["outputs"]["probabilities"][1] == pytest.approx(wanted, rel=1e-6)
    return [(one["id"], one["inputs"]["age"]) for one in found]


def capturing(bundle: Path, folder: Path, **more: Any) -> Service:
    captures = {"folder": str(folder / "live" / "captures" / "b"), **more}
    return Args.model_validate({"bundle": str(bundle), "capture": captures}).service("r1")


def test_rows_are_captured_by_the_names_of_their_requests(bundle: Path, tmp_path: Path) -> None:
    service = capturing(bundle, tmp_path)
    asyncio.run(answered(service, [several([1, 2]), rows(age=3)]))
    service.close()
    assert kept(tmp_path) == [("request-0-0", 1), ("request-0-1", 2), ("request-1-0", 3)]


def test_who_is_gone_is_not_captured(bundle: Path, tmp_path: Path) -> None:
    service = capturing(bundle, tmp_path)
    service._batcher._inline = False

    async def main() -> None:
        turn = Turn(service, [rows(age=1), several([2, 3]), rows(age=4)])
        while turn.going[0].waiting is None:
            await asyncio.sleep(0)
        service.answering.leave(turn.going[0])
        await turn.answered(but=(0,))

    asyncio.run(main())
    service.close()
    assert kept(tmp_path) == [("request-1-0", 2), ("request-1-1", 3), ("request-2-0", 4)]


def test_a_share_of_the_requests_is_captured_whoever_they_came_with(bundle: Path, tmp_path: Path) -> None:
    service = capturing(bundle, tmp_path, share=0.5)
    asyncio.run(answered(service, [several([place, place]) for place in range(40)]))
    service.close()
    captured = {name.rpartition("-")[0] for name, _ in kept(tmp_path)}
    assert captured == {f"request-{place}" for place in range(40) if _place(f"request-{place}") < 0.5}
    assert len(kept(tmp_path)) == 2 * len(captured)


def test_a_limit_of_rows_holds_within_a_turn(bundle: Path) -> None:
    service = Args.model_validate({"bundle": str(bundle), "rate_limit": {"rows": 3}}).service("r1")

    async def main() -> None:
        with pytest.raises(Refused, match="3 rows a second"):
            Turn(service, [several([1, 2]), several([3, 4, 5]), rows()])

    asyncio.run(main())
    service.close()


DEEP = b'{"rows": [[1]], "columns": [' + b"[" * 1000 + b"]" * 1000 + b"]}"


def test_what_is_nested_deep_keeps_nobody_waiting(bundle: Path) -> None:
    service = Args(bundle=str(bundle)).service("r1")
    for bodies in ([DEEP] * 2 + [rows()] * 30, [DEEP] * 64 + [rows()] * 30):
        answers = asyncio.run(answered(service, bodies))
        assert [one[0] for one in answers[-30:]] == [200] * 30
        assert {one[0] for one in answers[:-30]} == {400}
    assert service.answering.ongoing == 0
    service.close()


@pytest.mark.parametrize("where", ["_read", "_offer"])
def test_whatever_goes_wrong_nobody_waits_for_ever(bundle: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def wrong(*_: Any) -> None:
        raise RecursionError

    monkeypatch.setattr(together.Together, where, wrong)
    service = Args(bundle=str(bundle)).service("r1")
    answers = asyncio.run(answered(service, [rows()] * 70))
    service.close()
    assert {one[0] for one in answers} == {200 if where == "_read" else 500}
    assert service.answering.ongoing == 0


def test_where_an_answer_can_not_be_sent_the_others_are(bundle: Path) -> None:
    service = Args(bundle=str(bundle)).service("r1")

    async def main() -> list[Reply | None]:
        turn = Turn(service, [rows(), rows(), rows()])

        def broken(reply: Reply) -> None:
            raise OSError(reply.status)

        turn.going[1].done = broken
        return await turn.answered(but=(1,))

    answers = asyncio.run(main())
    service.close()
    assert [one and one.status for one in answers] == [200, None, 200]


def calls(service: Service, monkeypatch: pytest.MonkeyPatch, far: int | None = None) -> list[int]:
    """The rows of each call of the model from now on; of the age ``far`` it has no finite answer."""
    found: list[int] = []
    run = Session.run

    def counted(self: Session, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = run(self, columns)
        ages = columns["age"].ravel()
        found.append(len(ages))
        if far is not None:
            outputs["probabilities"][ages == far] = np.nan
        return outputs

    monkeypatch.setattr(Session, "run", counted)
    return found


@pytest.mark.parametrize("inline", [True, False])
def test_whose_answers_are_there_is_not_run_again(bundle: Path, monkeypatch: pytest.MonkeyPatch, inline: bool) -> None:
    service = Args(bundle=str(bundle)).service("r1")
    found = calls(service, monkeypatch, far=666)
    service._batcher._inline = inline
    answers = asyncio.run(answered(service, [rows(age=666 if place == 3 else place) for place in range(20)]))
    service.close()
    assert [place for place, one in enumerate(answers) if one[0] != 200] == [3]
    assert found == [20]
    assert sum(service.counters.parse_seconds.counts) == 20


def test_who_is_cut_over_two_batches_is_run_once(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Args(bundle=str(bundle)).service("r1")
    found = calls(service, monkeypatch)
    service._batcher._inline = False

    async def main() -> list[Reply | None]:
        turn = Turn(service, [rows(age=place) for place in range(60)])
        while not service._batcher.waiting_rows:
            await asyncio.sleep(0)
        service._batcher._most = 40  # calls take longer now
        return await turn.answered()

    answers = asyncio.run(main())
    service.close()
    assert {one and one.status for one in answers} == {200}
    assert found[0] == 40
    assert sum(found) == 60


def test_the_queue_takes_as_many_as_it_has_room_for(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go, run = threading.Event(), Session.run

    def slow(self: Session, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert go.wait(10)
        return run(self, columns)

    service = Args.model_validate({"bundle": str(bundle), "batching": {"max_queue": 20}}).service("r1")
    monkeypatch.setattr(Session, "run", slow)
    service._batcher._inline = False

    async def main() -> list[Reply | None]:
        first = Turn(service, [rows()])
        while not service._batcher._running:
            await asyncio.sleep(0)
        turn = Turn(service, [rows()] * 40)
        await asyncio.sleep(0.01)
        assert service._batcher.waiting_rows == 20
        go.set()
        await first.answered()
        return await turn.answered()

    answers = asyncio.run(main())
    service.close()
    assert sorted(one.status for one in answers if one) == [200] * 20 + [429] * 20
    assert sum(service.counters.parse_seconds.counts) == 41


@pytest.mark.parametrize("inline", [True, False])
def test_of_a_session_that_fails_every_request_is_counted(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, inline: bool
) -> None:
    def broken(self: Session, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        raise RuntimeError("out of memory")

    service = Args(bundle=str(bundle)).service("r1")
    monkeypatch.setattr(Session, "run", broken)
    service._batcher._inline = inline
    answers = asyncio.run(answered(service, [rows()] * 20))
    service.close()
    assert {one[0] for one in answers} == {503}
    assert service.counters.failures == 20


def test_large_ones_are_not_read_together_for_long(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Args(bundle=str(bundle)).service("r1")
    read: list[int] = []
    reads = service._forms.reads
    once = reads.together

    def seen(raws: list[bytes]) -> Any:
        read.append(sum(map(len, raws)))
        return once(raws)

    monkeypatch.setattr(reads, "together", seen)
    body = rows() + b" " * (together.SMALL - len(rows()))
    asyncio.run(answered(service, [body] * 20))
    service.close()
    assert read == [together.MOST_BYTES] * 2 + [4 * together.SMALL]


def test_an_answered_request_holds_on_to_no_other(bundle: Path) -> None:
    service = Args(bundle=str(bundle)).service("r1")
    service._batcher._inline = False

    async def main() -> list[Going]:
        turn = Turn(service, [rows(), rows(age=1)])
        await turn.answered()
        return turn.going

    going = asyncio.run(main())
    service.close()
    assert [(one.waiting, one.asked) for one in going] == [(None, None)] * 2
