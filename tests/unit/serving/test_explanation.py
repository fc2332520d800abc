"""`/explain` without Ray: what is asked, what is told, what is refused."""

from __future__ import annotations

import asyncio
import json
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from specml.bundle import open_bundle
from specml.serving.app import Args
from specml.serving.explanation import Explainer
from specml.serving.refusal import Refused
from specml.serving.routes import Reply, refused
from tests.bundles import probability, regression_bundle, trained_bundle
from tests.malformed import GOOD, PREDICT, rows
from tests.unit.serving.conftest import Asked, ask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from specml.serving.service import Service


def explaining(folder: Path, max_rows: int = 50) -> Service:
    """A service whose explainer lives in this process; the real one asks a deployment of Ray Serve."""
    explainer = Explainer(open_bundle(folder))

    async def answer(body: bytes, identity: str) -> Reply:
        try:
            return Reply(200, explainer.body(body, identity, max_rows=max_rows))
        except Refused as refusal:
            return refused(refusal)

    args = {"bundle": str(folder), "max_rows": 50, "max_body": 10_000, "explain": {"max_rows": max_rows}}
    return Args.model_validate(args).service("r1", answer)


@pytest.fixture(scope="module")
def why(bundle: Path) -> Iterator[Callable[..., Asked]]:
    service = explaining(bundle)

    def post(body: bytes, method: str = "POST", headers: dict[str, str] | None = None) -> Asked:
        return asyncio.run(ask(service, method, "/explain", body, headers))

    yield post
    service.close()


def question(*given: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"rows": list(given), **more}).encode()


def test_base_and_contributions_add_up_to_what_is_predicted(why: Callable[..., Asked]) -> None:
    people = [GOOD, {**GOOD, "age": 20, "workclass": None}, {**GOOD, "hours": None, "member": True}]
    answer = why(question(*people), headers={"content-type": "application/json", "x-request-id": "seven"})
    assert answer.status == 200
    told = json.loads(answer.body)
    assert (told["id"], told["model"], told["method"], told["space"]) == ("seven", "census", "shapley", "probability")
    for person, one in zip(people, told["explanations"], strict=True):
        moves = [move["contribution"] for move in one["contributions"]]
        assert one["total"] == pytest.approx(probability(person), abs=1e-6)
        assert one["base"] + sum(moves) == pytest.approx(one["total"], abs=1e-9)
        assert one["prediction"]["probability"] == pytest.approx(one["total"], abs=1e-6)
        assert one["class"] == 1
        assert [abs(move) for move in moves] == sorted(map(abs, moves), reverse=True)
        assert {move["column"] for move in one["contributions"]} == {"age", "hours", "member", "workclass"}
    young = {move["column"]: move["contribution"] for move in told["explanations"][1]["contributions"]}
    assert young["age"] < 0
    assert young["workclass"] < 0


def test_the_other_class_is_told_with_turned_signs(why: Callable[..., Asked]) -> None:
    (one,) = json.loads(why(question(GOOD)).body)["explanations"]
    (other,) = json.loads(why(question(GOOD, **{"class": "0"})).body)["explanations"]
    assert (other["class"], other["base"] + one["base"]) == (0, pytest.approx(1.0))
    assert other["total"] == pytest.approx(1 - one["total"])
    turned = {move["column"]: -move["contribution"] for move in other["contributions"]}
    assert turned == {move["column"]: move["contribution"] for move in one["contributions"]}


def test_the_columns_that_are_not_told_are_summed(why: Callable[..., Asked]) -> None:
    (whole,) = json.loads(why(question(GOOD)).body)["explanations"]
    (short,) = json.loads(why(question(GOOD, top=1)).body)["explanations"]
    assert short["contributions"] == whole["contributions"][:1]
    assert short["others"]["columns"] == 3
    rest = sum(move["contribution"] for move in whole["contributions"][1:])
    assert short["others"]["contribution"] == pytest.approx(rest)
    assert "others" not in json.loads(why(question(GOOD, top=4)).body)["explanations"][0]


@pytest.mark.parametrize("name", PREDICT)
def test_what_predict_refuses_is_refused(name: str, why: Callable[..., Asked]) -> None:
    body, status, words = PREDICT[name]
    answer = why(body)
    assert (answer.status, words in json.loads(answer.body)["error"]) == (status, True)


@pytest.mark.parametrize(
    ("more", "words"),
    [({"class": "x"}, "its classes: 0, 1"), ({"class": [1]}, "no class"), ({"top": 0}, "top"), ({"top": True}, "top")],
)
def test_a_question_that_means_nothing_is_refused(more: dict[str, Any], words: str, why: Callable[..., Asked]) -> None:
    answer = why(question(GOOD, **more))
    assert answer.status == 422
    assert words in json.loads(answer.body)["error"]


def test_only_json_is_posted(why: Callable[..., Asked]) -> None:
    assert why(b"", method="GET").status == 405
    assert why(rows(), headers={"content-type": "application/octet-stream"}).status == 415
    assert why(b" " * 10_001).status == 413


def test_values_beyond_all_bounds_are_refused(tmp_path: Path) -> None:
    regression_bundle(tmp_path / "b")
    explainer = Explainer(open_bundle(tmp_path / "b"))
    with pytest.raises(Refused, match=r"rows\[5\] has no answer"):
        explainer.body(question(*[{"area": 1.0}] * 5, {"area": 1e300}), "", max_rows=10)


def test_a_request_that_takes_too_long_ends(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    explainer, clock = Explainer(open_bundle(bundle)), iter([0.0, 2.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with pytest.raises(Refused, match="only 4 of 5 rows") as refused:
        explainer.body(question(*[GOOD] * 5), "", max_rows=10, until=1.0)
    assert refused.value.http == 413


def test_a_request_that_waited_for_others_all_its_time_may_come_again(bundle: Path) -> None:
    with pytest.raises(Refused, match="took all the time") as refused:
        Explainer(open_bundle(bundle)).body(question(GOOD), "", max_rows=10, until=time.monotonic() - 1)
    assert (refused.value.http, refused.value.headers["retry-after"]) == (504, "1")


def test_where_it_is_off_it_is_no_path(service: Service) -> None:
    assert asyncio.run(ask(service, "POST", "/explain", rows())).status == 404
    document = json.loads(asyncio.run(ask(service, "GET", "/openapi.json")).body)
    assert "/explain" not in document["paths"]


def test_openapi_tells_what_is_asked_and_told(bundle: Path) -> None:
    service = explaining(bundle, max_rows=7)
    get = partial(ask, service, "GET")
    assert "/explain" in json.loads(asyncio.run(get("/")).body)["paths"]
    operation = json.loads(asyncio.run(get("/openapi.json")).body)["paths"]["/explain"]["post"]
    asked = operation["requestBody"]["content"]["application/json"]["schema"]
    assert asked["oneOf"][0]["properties"]["rows"]["maxItems"] == 7
    assert asked["oneOf"][0]["properties"]["class"]["enum"] == [0, 1]
    given = operation["responses"]["200"]["content"]["application/json"]["schema"]
    answer = json.loads(asyncio.run(ask(service, "POST", "/explain", question(GOOD, top=2))).body)
    assert set(given["required"]) == set(answer)
    told = given["properties"]["explanations"]["items"]["properties"]
    assert set(told) == set(answer["explanations"][0])
    assert asyncio.run(ask(service, "POST", "/explain", question(*[GOOD] * 8))).status == 413
    service.close()


def test_the_decided_one_of_many_classes_is_explained(tmp_path: Path) -> None:
    from specml.candidates.random_forest import RandomForest

    one = trained_bundle(tmp_path / "b", RandomForest(n_estimators=10), "multiclass")
    given = one.table.select("age", "pay", "work", "member")[:12].to_dicts()
    answer = json.loads(Explainer(one.bundle).body(question(*given), "", max_rows=12))
    decided = {told["class"] for told in answer["explanations"]}
    assert len(decided) > 1
    for told in answer["explanations"]:
        assert told["class"] == told["prediction"]["label"]
        assert told["total"] == pytest.approx(told["prediction"]["probabilities"][told["class"]], abs=1e-5)
    assert np.isfinite([told["base"] for told in answer["explanations"]]).all()


def test_a_replica_that_predicts_loads_nothing_that_explains(bundle: Path, tmp_path: Path) -> None:
    """Nor does importing what serves both."""
    import subprocess
    import sys

    code = (
        "import sys; from specml.serving.app import Args\n"
        f"Args(bundle={str(bundle)!r}, explain={{'max_rows': 5}}).service('r1')\n"
        "print([name for name in ('torch', 'captum', 'lightgbm', 'sklearn', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]"
