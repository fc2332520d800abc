from __future__ import annotations

import asyncio
import json
import statistics
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specml.serving.app import Args
from specml.serving.auth import SCOPES, Key, Keys, end_of, salted, scope
from specml.serving.limits import Bucket, Hosts, Limiter, Rate
from specml.serving.refusal import KINDS, Refused
from tests.malformed import GOOD, INFER, PREDICT, infer, rows
from tests.unit.serving.conftest import ask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from specml.serving.service import Service
    from tests.unit.serving.conftest import Asked

OLD, NEW, WEB = "an-old-key-of-a-test", "the-new-key-of-a-test", "a-key-for-predictions"


def digest(key: str) -> str:
    return f"salt${salted(key, 'salt')}"


def guarded(bundle: Path, **more: Any) -> Service:
    keys = {
        "all": {"env": "NONE", "digests": [digest(OLD), digest(NEW)]},
        "web": {"env": "NONE", "digests": [digest(WEB)], "scopes": ["predict"]},
    }
    return Args.model_validate({"bundle": str(bundle), "auth": {"keys": keys}, **more}).service("r1")


@pytest.fixture(scope="module")
def service(bundle: Path) -> Iterator[Service]:
    made = guarded(bundle)
    yield made
    made.close()


def asked(service: Service, method: str, path: str, key: str = "", body: bytes = b"", **headers: str) -> Asked:
    told = {"content-type": "application/json", **headers} | ({"authorization": f"Bearer {key}"} if key else {})
    return asyncio.run(ask(service, method, path, body, told))


def test_every_route_of_openapi_but_the_open_ones_wants_a_key(service: Service) -> None:
    document = json.loads(asked(service, "GET", "/openapi.json", OLD).body)
    open_ones = set()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            status = asked(service, method.upper(), path, body=rows()).status
            if operation.get("security") == []:
                open_ones.add(path)
                assert status == 200, path
            else:
                assert status == 401, path
    assert open_ones == {
        "/healthz",
        "/v2/health/live",
        "/v2/health/ready",
        "/docs",
    }  # the page holds nothing of the model
    assert asked(service, "GET", "/nothing").status == 401


def test_a_key_is_good_for_its_scopes_and_is_told_which_it_lacks(service: Service) -> None:
    assert asked(service, "POST", "/predict", WEB, rows()).status == 200
    assert asked(service, "POST", "/v2/models/census/infer", WEB, infer()).status == 200
    assert asked(service, "GET", "/v2/models/census/ready", WEB).status == 200
    for path, lacking in (
        ("/metrics", "metrics"),
        ("/openapi.json", "describe"),
        ("/v2", "describe"),
        ("/", "describe"),
    ):
        answer = asked(service, "GET", path, WEB)
        assert (answer.status, answer.headers["www-authenticate"]) == (
            403,
            f'Bearer error="insufficient_scope", scope="{lacking}"',
        )
        assert f"lacks the scope '{lacking}'" in json.loads(answer.body)["error"]
    assert asked(service, "POST", "/predict", OLD, rows()).status == 200
    assert {scope(route) for route in ("/predict", "/explain", "/feedback", "/v2", "/metrics")} == {*SCOPES}


def test_the_metrics_tell_who_asks_by_name_and_never_a_key(bundle: Path) -> None:
    service = guarded(bundle)
    for key in (OLD, NEW, WEB, "a-key-that-nobody-has"):
        asked(service, "POST", "/predict", key, rows())
    told = asked(service, "GET", "/metrics", OLD).body.decode()
    assert 'specml_key_requests_total{model="census",replica="r1",key="all"} 3' in told
    assert 'specml_key_requests_total{model="census",replica="r1",key="web"} 1' in told
    assert not any(key in told for key in (OLD, NEW, WEB))
    service.close()


def test_a_key_ends_with_its_last_day() -> None:
    now = end_of("2026-12-31")
    clock = [now - 1]
    keys = Keys([Key("old", (digest(OLD),), until=now), Key("new", (digest(NEW),))], clock=lambda: clock[0])
    assert [keys.named(f"Bearer {key}").name for key in (OLD, NEW)] == ["old", "new"]
    clock[0] = now
    assert keys.named(f"bearer  {NEW}").name == "new"
    with pytest.raises(Refused, match="this key has expired") as refusal:
        keys.named(f"Bearer {OLD}")
    assert refusal.value.http == 401
    assert now == 1798761600  # 2027-01-01T00:00:00Z


def test_an_expired_key_needs_no_variable(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OLD_KEY", raising=False)
    monkeypatch.setenv("NEW_KEY", NEW)
    keys = {"old": {"env": "OLD_KEY", "until": "2020-01-01"}, "new": {"env": "NEW_KEY"}}
    service = Args.model_validate({"bundle": str(bundle), "auth": {"keys": keys}}).service("r1")
    assert asked(service, "GET", "/v2", NEW).status == 200
    service.close()


@given(st.text(max_size=40))
def test_no_other_text_is_a_key(text: str) -> None:
    keys = Keys([Key("one", (digest(OLD),))])
    for header in (text, f"Bearer {text}", f"Bearer {OLD}{text or 'x'}", f"Bearer {OLD[: len(text) % len(OLD)]}", None):
        with pytest.raises(Refused) as refusal:
            keys.named(header if header != f"Bearer {OLD}{text}" or text.strip() else None)
        assert refusal.value.http == 401


@pytest.mark.sweep
def test_how_long_a_wrong_key_takes_tells_nothing_about_the_right_one() -> None:
    """Welch's t of the times of keys that share all but the last character, and of others that share none."""
    keys = Keys([Key("one", (digest(OLD),))])
    near, far = f"Bearer {OLD[:-1]}#", f"Bearer {'#' * len(OLD)}"
    times: dict[str, list[int]] = {near: [], far: []}
    for _ in range(50_000):
        for header in (near, far):
            began = time.perf_counter_ns()
            try:
                keys.named(header)
            except Refused:
                times[header].append(time.perf_counter_ns() - began)
    cut = {name: sorted(one)[: int(0.9 * len(one))] for name, one in times.items()}  # interrupts of the machine
    one, two = cut.values()
    error = (statistics.variance(one) / len(one) + statistics.variance(two) / len(two)) ** 0.5
    t = (statistics.fmean(one) - statistics.fmean(two)) / error
    assert abs(t) < 4.5 or abs(statistics.fmean(one) - statistics.fmean(two)) < 20, t


def test_a_bucket_lets_through_its_rate_and_a_burst() -> None:
    now = [0.0]
    bucket = Bucket(rate=2.0, burst=3.0, clock=lambda: now[0])

    def let_through(until: float) -> int:
        passed = 0
        while now[0] < until:
            while not bucket.wait():
                bucket.take(1)
                passed += 1
            now[0] += 0.1
        return passed

    assert let_through(0.1) == 6
    assert let_through(100.1) == pytest.approx(200, abs=1)
    now[0] += 1000
    assert let_through(now[0] + 0.1) == 6
    now[0] += 1000
    bucket.wait()
    bucket.take(106)  # a large request is let through, and paid for
    assert bucket.wait() == 50.5


def test_a_key_that_asks_too_often_is_told_when_to_come_back(bundle: Path) -> None:
    service = guarded(bundle, rate_limit={"requests": 0.5, "burst": 4})
    assert [asked(service, "POST", "/predict", OLD, rows()).status for _ in range(4)] == [200, 200, 429, 429]
    answer = asked(service, "POST", "/predict", NEW, b"no json")  # the same key, in its new form
    assert (answer.status, answer.headers["retry-after"]) == (429, "2")
    assert "more than 0.5 requests a second" in json.loads(answer.body)["error"]
    assert asked(service, "POST", "/predict", WEB, rows()).status == 200  # another one
    assert asked(service, "GET", "/v2", OLD).status == 200
    service.close()


def test_rows_are_counted_when_they_are_known(bundle: Path) -> None:
    service = Args.model_validate({"bundle": str(bundle), "rate_limit": {"rows": 10, "burst": 1}}).service("r1")
    many = json.dumps({"rows": [GOOD] * 100}).encode()
    assert asked(service, "POST", "/predict", body=many).status == 200
    answer = asked(service, "POST", "/v2/models/census/infer", body=infer())
    assert (answer.status, answer.headers["retry-after"]) == (429, "10")
    service.close()


def test_keys_do_not_share_a_limit_and_both_limits_hold() -> None:
    now = [0.0]
    limiter = Limiter(Rate(requests=1, rows=5), clock=lambda: now[0])
    for key in ("one", "two"):
        limiter.request(key)
        limiter.rows(key, 50)
        with pytest.raises(Refused, match="1 requests and 5 rows a second") as refusal:
            limiter.request(key)
        assert refusal.value.headers == {"retry-after": "10"}
    now[0] += 9.3
    limiter.request("one")


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost:8000", True),
        ("LOCALHOST", True),
        ("127.0.0.1:8000", True),
        ("[::1]:8000", True),
        ("[::1]", True),
        ("model.example.:443", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example:8000", False),
        ("evil.example#localhost", False),
        ("", False),
        ("[::2]", False),
    ],
)
def test_only_named_hosts_are_answered(host: str, allowed: bool, hosted: Service) -> None:
    answer = asked(hosted, "GET", "/v2", host=host)
    assert answer.status == (200 if allowed else 421)
    assert asked(hosted, "GET", "/healthz", host=host).status == 200  # a probe asks an address
    assert asked(hosted, "GET", "/v2", host=host).status == (200 if allowed else 421)


@pytest.fixture(scope="module")
def hosted(bundle: Path) -> Iterator[Service]:
    hosts = ["localhost", "127.0.0.1", "::1", "model.example"]
    made = Args.model_validate({"bundle": str(bundle), "hosts": hosts}).service("r1")
    yield made
    made.close()


def test_what_tells_no_host_is_no_browser_and_a_star_is_any() -> None:
    Hosts(("localhost",)).check(None)
    assert Args.model_validate({"bundle": ".", "hosts": ["*"]})._access()._hosts is None


def test_unknown_columns_are_left_unread_where_the_spec_says_so(bundle: Path) -> None:
    service = Args.model_validate({"bundle": str(bundle), "ignore_unknown": True}).service("r1")
    told, plain = (asked(service, "POST", "/predict", body=one) for one in (rows(stranger={"a": []}), rows()))
    assert (told.status, plain.status) == (200, 200)
    assert json.loads(told.body)["predictions"] == json.loads(plain.body)["predictions"]
    document = json.loads(asked(service, "GET", "/openapi.json").body)
    asked_for = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert asked_for["oneOf"][0]["properties"]["rows"]["items"]["additionalProperties"] is True
    assert asked(service, "POST", "/predict", body=rows(age="x")).status == 422
    service.close()


COLUMNS = ("age", "hours", "member", "workclass", "Private")


def test_errors_and_descriptions_tell_nothing_where_the_spec_says_so(bundle: Path) -> None:
    """Nor whether there is a column of a name, or a model: what is refused for one is refused for another."""
    service = Args.model_validate({"bundle": str(bundle), "error_detail": False, "max_rows": 50}).service("r1")
    infer_path = "/v2/models/census/infer"
    for body, status, _ in PREDICT.values():
        answer = asked(service, "POST", "/predict", body=body)
        assert (answer.status, json.loads(answer.body)) == (status, {"error": KINDS[status]})
    for body, headers, _ in INFER.values():
        answer = asked(service, "POST", infer_path, body=body, **{"content-type": "application/octet-stream"} | headers)
        assert json.loads(answer.body) == {"error": KINDS[answer.status]}
    for path in ("/", "/openapi.json", "/v2", "/v2/models/census", "/v2/models/other", "/nothing"):
        answer = asked(service, "GET", path)
        assert (answer.status, json.loads(answer.body)) == (404, {"error": KINDS[404]}), path
    for path in ("/healthz", "/metrics", "/v2/models/census/ready"):
        told = asked(service, "GET", path).body.decode()
        assert not any(f'"{name}"' in told for name in COLUMNS), path
    service.close()


def test_and_keys_of_the_scope_describe_may_read_what_describes(bundle: Path) -> None:
    service = guarded(bundle, error_detail=False)
    assert asked(service, "GET", "/openapi.json", OLD).status == 200
    assert json.loads(asked(service, "GET", "/openapi.json", WEB).body) == {"error": KINDS[403]}
    assert json.loads(asked(service, "POST", "/predict", OLD, rows(age="x")).body) == {"error": KINDS[422]}
    assert "valid key" in json.loads(asked(service, "POST", "/predict", "").body)["error"]
    service.close()


def test_what_explains_keeps_to_it_too(bundle: Path) -> None:
    from specml.serving.app import ExplainReplica

    args = {"bundle": str(bundle), "error_detail": False, "ignore_unknown": True, "explain": {}}
    explaining: Callable[..., Any] = ExplainReplica(args)
    assert asyncio.run(explaining(rows(stranger=1), "one")).status == 200
    reply = asyncio.run(explaining(rows(age="x"), "one"))
    assert (reply.status, json.loads(reply.body)) == (422, {"error": KINDS[422]})
