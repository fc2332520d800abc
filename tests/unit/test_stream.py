"""Messages of real brokers (librdkafka's own cluster, Mosquitto), and the arithmetic of windows."""

from __future__ import annotations

import gc
import json
import threading
import time
from collections import defaultdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specml.errors import DataCheckFailed, NotEnoughData
from specml.reading import brokers
from specml.reading.windows import windows
from specml.sources.stream import Stream
from tests import servers
from tests.conftest import spec_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EVENTS = [
    {"t": 1000.0, "machine": "a", "heat": 20.0},
    {"t": 1009.0, "machine": "b", "heat": 30.0},
    {"t": 1004.0, "machine": "a", "heat": 22.0},  # out of order, not late
    {"t": 1016.0, "machine": "a", "heat": 40.0},  # the watermark is 1011: the first window is over
    {"t": 1008.0, "machine": "b", "heat": 99.0},  # late
    {"t": 1026.0, "machine": "a", "heat": 50.0},  # its window is never over
]


@settings(deadline=None)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=40), st.integers(1, 20), st.integers(0, 15))
def test_windows_are_what_a_plain_loop_says(times: list[int], every: int, lateness: int) -> None:
    watermark, late = float("-inf"), 0
    sums: dict[int, list[int]] = defaultdict(list)
    for at in times:
        begin = at // every * every
        if begin + every <= watermark:
            late += 1
        else:
            sums[begin].append(at)
        watermark = max(watermark, at - lateness)
    over = {begin: values for begin, values in sums.items() if begin + every <= watermark}
    told: dict[str, Any] = {}
    stamps = pl.Series("time", [at * 1_000_000 for at in times], dtype=pl.Int64)
    asked = pl.DataFrame({"v": times}), stamps, every, lateness
    if not over:
        with pytest.raises(NotEnoughData):
            windows(*asked, by=(), tell=told.__setitem__)
        return
    table = windows(*asked, by=(), tell=told.__setitem__)
    assert table["count"].to_list() == [len(over[begin]) for begin in sorted(over)]
    assert table["v_max"].to_list() == [max(over[begin]) for begin in sorted(over)]
    assert told.get("late messages left out", 0) == late


@pytest.fixture(scope="module")
def kafka() -> Iterator[tuple[str, Any]]:
    """Address of a cluster within this process, and a producer."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": "none", "test.mock.num.brokers": 1, "log_level": 0})
    found = producer.list_topics(timeout=10).brokers.values()
    yield "kafka://" + ",".join(f"{one.host}:{one.port}" for one in found), producer
    producer.flush()


def send(producer: Any, topic: str, events: list[Any]) -> None:
    for number, event in enumerate(events):
        content = event if isinstance(event, bytes) else json.dumps(event).encode()
        producer.produce(topic, content, partition=number % 3, timestamp=1_700_000_000_000 + number * 1000)
    producer.flush()


def source(broker: str, topic: str, **more: Any) -> Stream:
    return Stream.model_validate({"broker": broker, "topic": topic, "timeout": "20s", **more})


def test_kafka_gives_all_that_a_topic_holds_in_one_order(kafka: tuple[str, Any], tmp_path: Path) -> None:
    broker, producer = kafka
    send(producer, "heat", EVENTS)
    table = source(broker, "heat").read(tmp_path)
    assert table.columns == ["topic", "t", "machine", "heat"]
    assert table["heat"].to_list() == [event["heat"] for event in EVENTS]
    asked = source(broker, "heat").fingerprint(tmp_path)
    assert asked == source(broker, "heat").fingerprint(tmp_path)
    send(producer, "heat", EVENTS[:1])
    assert source(broker, "heat").fingerprint(tmp_path) != asked
    with pytest.raises(DataCheckFailed, match="holds 7 messages, more than 6"):
        source(broker, "heat", max_messages=6).read(tmp_path)


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return servers.certificate(tmp_path_factory.mktemp("tls"), "localhost")


NAMED = {"user": "${secret:BROKER_USER}", "password": "${secret:BROKER_PASSWORD}"}


def signed_in(monkeypatch: pytest.MonkeyPatch, password: str = "a word") -> None:
    monkeypatch.setenv("BROKER_USER", "reader")
    monkeypatch.setenv("BROKER_PASSWORD", password)


def test_kafka_is_read_over_tls_from_a_trusted_host_only(
    kafka: tuple[str, Any], certified: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, producer = kafka
    send(producer, "tls", EVENTS)
    signed_in(monkeypatch)

    def refusal(asked: Stream) -> DataCheckFailed:
        with monkeypatch.context() as hasty:
            hasty.setattr(brokers, "PATIENCE", 0.8)
            with pytest.raises(DataCheckFailed, match="can't be read") as refused:
                asked.read(tmp_path)
        return refused.value

    with servers.encrypted(int(broker.rpartition(":")[2]), certified) as port:
        asked = source(f"kafka://localhost:{port}", "tls", tls=True)
        untrusted = refusal(asked)
        assert "certificate verify failed" in str(untrusted)
        assert "SSL_CERT_FILE" in untrusted.hint
        monkeypatch.setenv("SSL_CERT_FILE", str(certified))
        assert asked.read(tmp_path)["heat"].to_list() == [event["heat"] for event in EVENTS]
        assert refusal(source(f"kafka://localhost:{port}", "tls"))
        # This cluster knows no users: one that is named is not left out without a word.
        told = str(refusal(source(f"kafka://localhost:{port}", "tls", tls=True, **NAMED)))
        assert "SASL Handshake not supported by broker" in told
        assert "a word" not in told


def test_windows_are_made_of_the_messages_own_time(kafka: tuple[str, Any], tmp_path: Path) -> None:
    broker, producer = kafka
    send(producer, "windowed", EVENTS)
    told: dict[str, Any] = {}
    asked = source(broker, "windowed", time="t", every="10s", lateness="5s", by=["machine"])
    table = asked.read(tmp_path, frozenset(), told.__setitem__)
    first, second = (datetime.fromtimestamp(at, UTC).replace(tzinfo=None) for at in (1000, 1010))
    assert table.select("window", "machine", "count", "heat_mean", "heat_max").rows() == [
        (first, "a", 2, 21.0, 22.0),
        (first, "b", 1, 30.0, 30.0),
        (second, "a", 1, 40.0, 40.0),
    ]
    assert told == {"late messages left out": 1, "messages of windows that are not over left out": 1}
    by_kafka = source(broker, "windowed", every="2s").read(tmp_path)
    assert by_kafka["count"].to_list() == [2, 2]


@pytest.mark.parametrize(
    ("events", "more", "told"),
    [
        ([], {}, "no message came|Unknown topic"),
        ([{"t": 1}, b"Zaphod", [1]], {}, "2 of 3 messages hold no JSON object; the first is number 2"),
        ([{"t": "soon"}, {"t": "2026-01-02T00:00:00"}], {"time": "t", "every": "1s"}, "1 of 2 messages hold no time"),
        ([{"t": 1}], {"time": "when", "every": "1s"}, "hold no 'when'"),
        ([{"t": 1}], {"by": ["who"], "every": "1s"}, "hold no 'who'"),
        ([{"t": 1}], {"every": "1s"}, "no window of 1 s is over"),
    ],
)
def test_what_can_not_be_used_is_said(
    kafka: tuple[str, Any], tmp_path: Path, events: list[Any], more: dict[str, Any], told: str
) -> None:
    broker, producer = kafka
    topic = f"bad{len(told)}"
    send(producer, topic, events)
    with pytest.raises((DataCheckFailed, NotEnoughData), match=told) as refused:
        source(broker, topic, **more).read(tmp_path)
    assert "Zaphod" not in str(refused.value)


@pytest.fixture(scope="module")
def mosquitto() -> Iterator[int]:
    with servers.mosquitto() as port:
        yield port


def test_mqtt_is_listened_to_for_a_while(mosquitto: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from paho.mqtt import publish

    signed_in(monkeypatch)
    auth: Any = {"username": "reader", "password": "a word"}

    def send() -> None:
        time.sleep(0.5)
        for event in EVENTS:
            topic = f"plant/{event['machine']}/heat"
            publish.single(topic, json.dumps(event), qos=1, port=mosquitto, hostname="127.0.0.1", auth=auth)

    sender = threading.Thread(target=send)
    sender.start()
    asked = source(f"mqtt://127.0.0.1:{mosquitto}", "plant/+/heat", listen="10s", max_messages=len(EVENTS), **NAMED)
    table = asked.read(tmp_path)
    sender.join()
    assert table["heat"].to_list() == [event["heat"] for event in EVENTS]
    assert set(table["topic"]) == {"plant/a/heat", "plant/b/heat"}
    assert asked.fingerprint(tmp_path) != asked.fingerprint(tmp_path)
    with pytest.raises(DataCheckFailed, match=r"[Nn]ot authori[sz]ed"):
        source(f"mqtt://127.0.0.1:{mosquitto}", "plant/#", listen="2s").read(tmp_path)


@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")  # of paho, after a failed handshake
def test_mqtt_over_tls_asks_who_is_there(certified: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from paho.mqtt import publish

    signed_in(monkeypatch)
    with servers.mosquitto(certified) as port:

        def send() -> None:
            time.sleep(0.5)
            tls: Any = {"ca_certs": str(certified)}
            auth: Any = {"username": "reader", "password": "a word"}
            content = json.dumps(EVENTS[0])
            publish.single("plant", content, qos=1, port=port, hostname="localhost", auth=auth, tls=tls)

        asked = source(f"mqtt://localhost:{port}", "plant", tls=True, listen="10s", max_messages=1, **NAMED)
        with pytest.raises(DataCheckFailed, match="can't be trusted: self-signed certificate") as refused:
            asked.read(tmp_path)
        assert "SSL_CERT_FILE" in refused.value.hint
        monkeypatch.setenv("SSL_CERT_FILE", str(certified))
        sender = threading.Thread(target=send)
        sender.start()
        assert asked.read(tmp_path)["heat"].to_list() == [EVENTS[0]["heat"]]
        sender.join()
        with pytest.raises(DataCheckFailed, match=r"the connection was lost"):
            source(f"mqtt://localhost:{port}", "plant", listen="10s", **NAMED).read(tmp_path)
        signed_in(monkeypatch, "another word")
        with pytest.raises(DataCheckFailed, match=r"[Nn]ot authori[sz]ed") as refused:
            asked.read(tmp_path)
        assert "another word" not in str(refused.value)
    other = servers.certificate(tmp_path, "elsewhere")
    monkeypatch.setenv("SSL_CERT_FILE", str(other))
    with servers.mosquitto(other) as port, pytest.raises(DataCheckFailed, match="Hostname mismatch"):
        source(f"mqtt://localhost:{port}", "plant", tls=True, listen="1s", **NAMED).read(tmp_path)
    del refused
    gc.collect()


def test_a_broker_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataCheckFailed, match="can't be reached"):
        source(f"mqtt://127.0.0.1:{servers.free_port()}", "x", listen="1s").read(tmp_path)


@pytest.mark.parametrize("field", ["count", "window", "heat_mean", "__time__"])
def test_fields_called_as_columns_of_windows_are_refused(field: str) -> None:
    messages = pl.DataFrame({"heat": [1.0, 2.0], field: [3.0, 4.0]})
    with pytest.raises(DataCheckFailed, match=f"a field called '{field}'"):
        windows(messages, pl.Series([0, 10_000_000]), 1, 0, by=(), tell=lambda *_: None)


@pytest.mark.parametrize("broker", ["mqtt://a:1,b:2", "mqtt://a:99999", "kafka://a:9092,b:0"])
def test_a_broker_is_one_that_can_be(broker: str) -> None:
    with pytest.raises(ValueError, match=r"must (name one host|have ports)"):
        Stream(broker=broker, topic="t")


@pytest.mark.parametrize(
    ("broker", "options", "keys"),
    [
        ("kafka://localhost:9092", {"timeout": "1m"}, []),
        ("kafka://localhost:9092", {"listen": "1m"}, ["listen"]),
        ("mqtt://localhost:1883", {"listen": "1m"}, []),
        ("mqtt://localhost:1883", {"timeout": "1m"}, ["timeout"]),
    ],
)
def test_keys_without_effect_are_told(broker: str, options: dict[str, Any], keys: list[str]) -> None:
    source = Stream(broker=broker, topic="heat", **options)
    assert [told.key[-1] for told in source.disagreements(spec_of())] == keys
