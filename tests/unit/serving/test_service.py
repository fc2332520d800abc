from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from typing import TYPE_CHECKING, Any

import jsonschema
import numpy as np
import pytest

from specml.bundle import open_bundle
from specml.data import Pixels
from specml.errors import DeployFailed
from specml.serving.access import Access
from specml.serving.answering import LARGE, Answering
from specml.serving.app import Args, ExplainReplica
from specml.serving.counters import Counters
from specml.serving.session import CPU, CUDA, Session, gpu_visible
from tests.bundles import binary_bundle, probability, regression_bundle
from tests.malformed import GOOD, infer, rows, tensors
from tests.unit.serving.conftest import ask

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from specml.serving.service import Service
    from tests.unit.serving.conftest import Asked


def test_predict_answers_label_and_probabilities(post: Callable[..., Asked], service: Service) -> None:
    answer = post("/predict", rows())
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    told = json.loads(answer.body)
    assert told["model"] == "census"
    assert told["bundle"] == json.loads(asyncio.run(ask(service, "GET", "/healthz")).body)["bundle"]
    (prediction,) = told["predictions"]
    assert prediction["label"] == 1
    assert prediction["probability"] == pytest.approx(probability(GOOD), rel=1e-6)
    assert prediction["probabilities"] == {
        "0": pytest.approx(1 - probability(GOOD), rel=1e-5),
        "1": prediction["probability"],
    }


@pytest.mark.parametrize("classes", [(0, 1), ("no", "yes"), (False, True), (0.5, 1.5)])
def test_labels_have_the_type_of_the_classes(classes: tuple[Any, Any], tmp_path: Path) -> None:
    binary_bundle(tmp_path / "b", classes=classes)
    service = Args(bundle=str(tmp_path / "b")).service("r1")
    for age, expected in ((0, classes[0]), (90, classes[1])):
        told = json.loads(asyncio.run(ask(service, "POST", "/predict", rows(age=age))).body)["predictions"][0]["label"]
        assert (type(told), told) == (type(expected), expected)
    service.close()


def test_regression_answers_a_number(tmp_path: Path) -> None:
    regression_bundle(tmp_path / "b")
    service = Args(bundle=str(tmp_path / "b")).service("r1")
    answer = asyncio.run(ask(service, "POST", "/predict", b'{"rows": [{"area": 50}, {"area": 0.05}]}'))
    assert json.loads(answer.body)["predictions"] == [{"prediction": 100.0}, {"prediction": 0.1}]
    service.close()


def test_a_body_may_come_in_parts_but_not_be_too_large(post: Callable[..., Asked]) -> None:
    raw = rows()
    assert post("/predict", [raw[:9], raw[9:20], raw[20:]]).status == 200
    assert post("/predict", [b" " * 6000, b" " * 6000, raw]).status == 413


def test_infer_gives_what_is_asked_for(post: Callable[..., Asked]) -> None:
    body = {**tensors(), "id": "é", "outputs": [{"name": "label", "parameters": {"binary_data": False}}]}
    told = json.loads(post("/v2/models/census/infer", json.dumps(body).encode()).body)
    assert (told["id"], told["model_name"]) == ("é", "census")
    assert told["outputs"] == [{"name": "label", "datatype": "BYTES", "shape": [1], "data": ["1"]}]


def test_numbers_in_binary_alone_leave_what_is_no_number_missing(post: Callable[..., Asked]) -> None:
    values = {"age": 50.0, "hours": 10.0, "member": 0.0}
    inputs = [
        {"name": name, "datatype": "FP64", "shape": [1], "parameters": {"binary_data_size": 8}} for name in values
    ]
    head = json.dumps({"inputs": inputs}).encode()
    raw = head + np.array(list(values.values())).tobytes()
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(head))}
    for _ in range(2):  # the second time, the header is known
        answer = post("/v2/models/census/infer", raw, headers)
        assert answer.status == 200, answer.body
    told = {one["name"]: one["data"] for one in json.loads(answer.body)["outputs"]}
    assert told["probabilities"][1] == pytest.approx(probability({**values, "workclass": None}), rel=1e-5)


def test_infer_answers_in_binary_where_asked(post: Callable[..., Asked]) -> None:
    answer = post(
        "/v2/models/census/infer", json.dumps({**tensors(), "parameters": {"binary_data_output": True}}).encode()
    )
    assert answer.headers["content-type"] == "application/octet-stream"
    length = int(answer.headers["inference-header-content-length"])
    told = json.loads(answer.body[:length])
    first, second = told["outputs"]
    size = first["parameters"]["binary_data_size"]
    assert (first["name"], first["shape"], size) == ("probabilities", [1, 2], 8)
    found = np.frombuffer(answer.body[length : length + size], dtype="<f4")
    assert found[1] == pytest.approx(probability(GOOD), rel=1e-6)
    assert answer.body[length + size :] == b"\1\0\0\0" + b"1"
    assert second["parameters"]["binary_data_size"] == 5


def test_a_nullable_input_may_be_left_out(post: Callable[..., Asked]) -> None:
    body = tensors()
    body["inputs"] = [tensor for tensor in body["inputs"] if tensor["name"] not in ("hours", "workclass")]
    told = json.loads(post("/v2/models/census/infer", json.dumps(body).encode()).body)
    expected = probability({"age": 50, "member": False})
    assert told["outputs"][0]["data"][1] == pytest.approx(expected, rel=1e-6)


def test_every_version_path_answers(get: Callable[..., Asked], post: Callable[..., Asked]) -> None:
    version = json.loads(get("/v2/models/census").body)["versions"][0]
    model = f"/v2/models/census/versions/{version}"
    assert get(model).body == get("/v2/models/census").body
    assert get(f"{model}/ready").status == 200
    assert post(f"{model}/infer", infer()).status == 200
    assert get("/v2/models/census/versions/other").status == 404


def test_openapi_is_typed_from_the_contract(get: Callable[..., Asked], post: Callable[..., Asked]) -> None:
    document = json.loads(get("/openapi.json").body)
    assert document["openapi"] == "3.1.0"
    schema = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    row = schema["oneOf"][0]["properties"]["rows"]["items"]
    assert schema["oneOf"][0]["properties"]["rows"]["maxItems"] == 50
    assert row["required"] == ["age", "member"]
    assert row["properties"]["age"]["type"] == "number"
    assert "from 17 to 90" in row["properties"]["age"]["description"]
    assert "Private" in row["properties"]["workclass"]["description"]
    assert "null" in row["properties"]["workclass"]["type"]
    for example in schema["examples"]:
        jsonschema.validate(example, schema)
        assert post("/predict", json.dumps(example).encode()).status == 200
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"columns": ["agee"], "rows": [[1]]}, schema)
    told = document["paths"]["/predict"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert told["properties"]["predictions"]["items"]["properties"]["label"]["enum"] == [0, 1]


def test_the_tensors_in_openapi_are_taken(get: Callable[..., Asked], post: Callable[..., Asked]) -> None:
    operation = json.loads(get("/openapi.json").body)["paths"]["/v2/models/census/infer"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    answer = post("/v2/models/census/infer", json.dumps(schema["examples"][0]).encode())
    assert answer.status == 200
    jsonschema.validate(schema["examples"][0], schema)
    jsonschema.validate(json.loads(answer.body), operation["responses"]["200"]["content"]["application/json"]["schema"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(tensors(name="agee"), schema)
    jsonschema.validate(tensors(), schema)


def test_every_path_in_openapi_and_in_the_index_answers(get: Callable[..., Asked], service: Service) -> None:
    document = json.loads(get("/openapi.json").body)
    for path, operations in document["paths"].items():
        for method in operations:
            assert asyncio.run(ask(service, method.upper(), path)).status in (200, 400), path
    assert set(json.loads(get("/").body)["paths"]) <= set(document["paths"])


def test_metrics_count_what_was_done(bundle: Path) -> None:
    service = Args(bundle=str(bundle)).service("replica-7")

    async def main() -> bytes:
        for _ in range(3):
            await ask(service, "POST", "/predict", json.dumps({"rows": [GOOD, GOOD]}).encode())
        await ask(service, "POST", "/predict", b"{")
        await ask(service, "GET", "/nothing")
        return (await ask(service, "GET", "/metrics")).body

    lines = asyncio.run(main()).decode().splitlines()
    own = 'model="census",replica="replica-7"'
    assert f'specml_requests_total{{{own},route="/predict",status="200"}} 3' in lines
    assert f'specml_requests_total{{{own},route="/predict",status="400"}} 1' in lines
    assert f'specml_requests_total{{{own},route="refused",status="404"}} 1' in lines
    assert f"specml_rows_total{{{own}}} 6" in lines
    assert f"specml_batch_rows_sum{{{own}}} 6" in lines
    assert f'specml_batch_rows_bucket{{{own},le="1"}} 0' in lines
    assert f'specml_batch_rows_bucket{{{own},le="2"}} 3' in lines
    assert f'specml_batch_rows_bucket{{{own},le="+Inf"}} 3' in lines
    service.close()


def test_categories_that_no_training_row_had_are_answered_and_counted(bundle: Path) -> None:
    service = Args(bundle=str(bundle)).service("r1")
    body = tensors()
    body["inputs"][3]["data"] = ["Astronaut"]
    odd = [GOOD | {"workclass": one} for one in ("Private", None, "1", 1, "private", "Astronaut")]

    async def main() -> tuple[list[int], str]:
        answers = [
            await ask(service, "POST", "/predict", json.dumps({"rows": odd}).encode()),
            await ask(service, "POST", "/v2/models/census/infer", json.dumps(body).encode()),
        ]
        return [one.status for one in answers], (await ask(service, "GET", "/metrics")).body.decode()

    status, told = asyncio.run(main())
    assert status == [200, 200]
    own = 'model="census",replica="r1"'
    assert f'specml_unseen_categories_total{{{own},column="workclass"}} 3\n' in told
    service.close()


def test_a_label_of_a_counter_stays_one() -> None:
    counters = Counters()
    counters.unseen['a"b\\c\nd'] += 2
    told = counters.text(replica="r", model="m", bundle="b", provider="p", waiting_rows=0)
    assert 'column="a\\"b\\\\c\\nd"} 2\n' in told


def test_one_poisoned_request_of_many_fails_alone(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph itself never fails on checked rows: the fault is put between it and the batcher."""
    run = Session.run

    def poisoned(self: Session, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if (columns["age"] == 666).any():
            raise RuntimeError("poison")
        return run(self, columns)

    monkeypatch.setattr(Session, "run", poisoned)
    service = Args(bundle=str(bundle)).service("r1")

    async def main() -> list[Asked]:
        bodies = [rows(age=666 if i == 31 else i) for i in range(64)]
        return await asyncio.gather(*(ask(service, "POST", "/predict", body) for body in bodies))

    answers = asyncio.run(main())
    service.close()
    assert [i for i, answer in enumerate(answers) if answer.status != 200] == [31]
    assert answers[31].status == 422
    for i, answer in enumerate(answers):
        if i != 31:
            found = json.loads(answer.body)["predictions"][0]["probability"]
            assert found == pytest.approx(probability({**GOOD, "age": i}), rel=1e-6)


def test_a_session_that_fails_on_every_row_is_told_from_a_row_that_it_fails_on(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HAProxy asks another replica after 503, and Ray Serve replaces the one whose check raises."""
    service = Args(bundle=str(bundle)).service("r1")

    def broken(self: Session, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as during:
        during.setattr(Session, "run", broken)
        for _ in range(2):
            answer = asyncio.run(ask(service, "POST", "/predict", rows()))
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        with pytest.raises(RuntimeError, match="out of memory"):
            service.check_health()
    assert asyncio.run(ask(service, "POST", "/predict", rows())).status == 503
    service.check_health()  # it answers again
    assert asyncio.run(ask(service, "POST", "/predict", rows())).status == 200
    service.close()


def test_a_replica_that_goes_down_is_alive_but_not_ready(bundle: Path) -> None:
    service = Args(bundle=str(bundle)).service("r1")
    service.close()
    for path, status in (("/v2/health/live", 200), ("/v2/health/ready", 503), ("/v2/models/census/ready", 503)):
        answer = asyncio.run(ask(service, "GET", path))
        assert answer.status == status, path
    assert "retry-after" in answer.headers


def test_tokens_come_from_the_environment_and_are_never_kept(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CENSUS_TOKENS", "one-token-of-a-test, two-token-of-a-test")
    service = Args.model_validate(
        {"bundle": str(bundle), "auth": {"keys": {"tokens": {"env": "CENSUS_TOKENS"}}}}
    ).service("r1")

    def status(path: str, token: str | None) -> int:
        headers = {"authorization": f"Bearer {token}"} if token is not None else {}
        return asyncio.run(ask(service, "GET", path, headers=headers)).status

    assert status("/v2", None) == 401
    assert status("/v2", "one-token-of-a-tesT") == 401
    assert status("/v2", "one-token-of-a-test, two-token-of-a-test") == 401
    assert status("/v2", "one-token-of-a-test") == status("/v2", "two-token-of-a-test") == 200
    assert status("/healthz", None) == status("/v2/health/live", None) == 200
    document = json.loads(
        asyncio.run(ask(service, "GET", "/openapi.json", headers={"authorization": "Bearer one-token-of-a-test"})).body
    )
    assert document["security"] == [{"bearer": []}]
    service.close()


def test_digests_of_tokens_are_enough(bundle: Path) -> None:
    digest = "salt$" + hashlib.sha256(b"salt" + b"a-token-of-a-test").hexdigest()
    auth = {"keys": {"web": {"env": "NOT_SET", "digests": [digest]}}}
    service = Args.model_validate({"bundle": str(bundle), "auth": auth}).service("r1")
    asked = asyncio.run(ask(service, "GET", "/v2", headers={"authorization": "bearer a-token-of-a-test"}))
    assert asked.status == 200
    service.close()


def test_without_its_tokens_the_server_does_not_start(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CENSUS_TOKENS", raising=False)
    with pytest.raises(DeployFailed, match="CENSUS_TOKENS holds no key"):
        Args.model_validate({"bundle": str(bundle), "auth": {"keys": {"tokens": {"env": "CENSUS_TOKENS"}}}}).service(
            "r1"
        )


def test_another_bundle_than_the_deployed_one_is_not_served(bundle: Path) -> None:
    with pytest.raises(DeployFailed, match="deployed was sha256:0"):
        Args(bundle=str(bundle), digest="sha256:0").service("r1")


def test_without_a_gpu_the_session_says_why_it_is_on_the_cpu(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    session = Session(open_bundle(bundle), gpu=True)
    assert (session.provider, session.why) == (CPU, "no NVIDIA GPU is visible to the replica")
    assert Session(open_bundle(bundle), gpu=False).why == "the replica reserves no GPU"
    assert capfd.readouterr().err == ""


@pytest.mark.gpu
@pytest.mark.skipif(not gpu_visible(), reason="needs an NVIDIA GPU")
def test_with_a_gpu_the_session_runs_there(bundle: Path) -> None:
    session = Session(open_bundle(bundle), gpu=True, device="cuda")
    session.warm_up((1, 256))
    assert session.provider == CUDA
    session.close()


def test_a_text_with_a_nul_is_a_text(post: Callable[..., Asked]) -> None:
    answer = post("/predict", rows(workclass="Private\0"))
    assert answer.status == 200
    found = json.loads(answer.body)["predictions"][0]["probability"]
    assert found == pytest.approx(probability({**GOOD, "workclass": "other"}), rel=1e-6)


def test_others_are_answered_while_a_large_body_is_read(bundle: Path) -> None:
    service = Args(bundle=str(bundle), max_rows=100_000).service("r1")
    raw = json.dumps({"rows": [*[GOOD] * 99_999, {**GOOD, "age": "x"}]}).encode()

    async def main() -> tuple[Asked, int]:
        reading = asyncio.create_task(ask(service, "POST", "/predict", raw))
        others = 0
        while not reading.done():
            others += (await ask(service, "GET", "/v2/health/live")).status == 200
            await asyncio.sleep(0.001)
        return reading.result(), others

    answer, others = asyncio.run(main())
    service.close()
    assert (answer.status, others > 5) == (422, True), others
    assert "rows[99999].age" in json.loads(answer.body)["error"]


def test_no_image_is_unpacked_in_the_event_loop(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Args(bundle=str(bundle)).service("r1")
    names, read = [], service._forms.reads.rows
    monkeypatch.setattr(
        service._forms.reads, "rows", lambda raw: names.append(threading.current_thread().name) or read(raw)
    )
    asyncio.run(ask(service, "POST", "/predict", rows()))
    options: dict[str, Any] = {"timeout": 9.0, "access": Access(), "error_detail": True, "cache": None, "capture": None}
    image = service.contract.model_copy(update={"image": Pixels(side=2)})
    service.answering = Answering(image, service._forms, service._batcher, service.counters, **options)
    asyncio.run(ask(service, "POST", "/predict", rows()))
    assert names[0] == threading.current_thread().name
    assert names[1].startswith("reader")
    service.close()


def test_an_answer_that_is_not_finite_is_none(tmp_path: Path) -> None:
    regression_bundle(tmp_path / "b")
    service = Args(bundle=str(tmp_path / "b")).service("r1")
    answer = asyncio.run(ask(service, "POST", "/predict", b'{"rows": [{"area": 50}, {"area": 1e300}, {"area": 1}]}'))
    assert (answer.status, "rows[1]" in json.loads(answer.body)["error"]) == (422, True)
    for wanted in (False, True):
        body = {
            "inputs": [{"name": "area", "shape": [3], "datatype": "FP64", "data": [1.0, 2.0, -1e300]}],
            "parameters": {"binary_data_output": wanted},
        }
        answer = asyncio.run(ask(service, "POST", "/v2/models/rent/infer", json.dumps(body).encode()))
        assert (answer.status, "rows[2]" in json.loads(answer.body)["error"]) == (422, True)
    service.close()


def test_every_answer_tells_the_notice(bundle: Path) -> None:
    notice = {"human_review": "Ask for a person: room 7", "contest": "office@example.org"}
    service = Args.model_validate({"bundle": str(bundle), "notice": notice}).service("r1")
    told = json.loads(asyncio.run(ask(service, "POST", "/predict", rows())).body)
    assert told["notice"] == notice
    tensor = json.loads(asyncio.run(ask(service, "POST", "/v2/models/census/infer", infer())).body)
    assert tensor["parameters"] == notice
    document = json.loads(asyncio.run(ask(service, "GET", "/openapi.json")).body)
    answer = document["paths"]["/predict"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert "notice" in answer["required"]
    assert answer["properties"]["notice"]["properties"]["contest"] == {"const": "office@example.org"}
    service.close()


def test_an_explanation_tells_the_notice_too(bundle: Path) -> None:
    notice = {"human_review": "Ask for a person: room 7", "contest": "office@example.org"}
    args = {"bundle": str(bundle), "notice": notice, "explain": {}}
    explain = ExplainReplica(args)
    told = json.loads(asyncio.run(explain(rows(), "r")).body)
    assert told["explanations"]
    assert told["notice"] == notice
    service = Args.model_validate(args).service("r1", explain)
    document = json.loads(asyncio.run(ask(service, "GET", "/openapi.json")).body)
    answer = document["paths"]["/explain"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert set(answer["required"]) == set(told)
    assert answer["properties"]["notice"]["properties"]["contest"] == {"const": "office@example.org"}
    service.close()


def test_without_a_notice_none_is_told(service: Service) -> None:
    assert "notice" not in json.loads(asyncio.run(ask(service, "POST", "/predict", rows())).body)
    tensor = json.loads(asyncio.run(ask(service, "POST", "/v2/models/census/infer", infer())).body)
    assert "parameters" not in tensor


def test_who_would_wait_to_be_read_is_refused_and_small_bodies_go_on(bundle: Path) -> None:
    service, held = Args(bundle=str(bundle), slo=0.2).service("test"), threading.Event()
    large, kind = rows() + b" " * LARGE, {"content-type": "application/json"}
    service.answering._reader.submit(held.wait)

    async def main() -> list[int]:
        first = asyncio.create_task(ask(service, "POST", "/predict", large, kind))
        await asyncio.sleep(0.4)
        late, small = [await ask(service, "POST", "/predict", body, kind) for body in (large, rows())]
        held.set()
        return [(await first).status, late.status, small.status]

    assert asyncio.run(main()) == [200, 429, 200]
    service.close()
