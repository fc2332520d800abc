"""Messages of a topic, from Kafka as far as they go, from MQTT for a while."""

from __future__ import annotations

import contextlib
import re
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from specml.errors import DataCheckFailed
from specml.reading.fetch import authorities

if TYPE_CHECKING:
    from collections.abc import Iterator

TRUSTED = "SSL_CERT_FILE names the authorities to trust, if they are not the usual ones."
AROUND = re.compile(r"^\w+://\S+: (?:error:\w+:SSL routines::)?|,? \(after \d+ms in state \w+.*\)$")
"""What librdkafka says around a reason."""
PATIENCE = 15.0
"""Seconds in which a broker has to answer."""


class Message(NamedTuple):
    """One message."""

    topic: str
    content: bytes
    time: int
    """When the broker or the sender has stamped it (Kafka), or when it came (MQTT): microseconds since 1970, UTC."""


@dataclass(frozen=True)
class Broker:
    """Where a topic is, and as whom it is asked."""

    url: str
    topic: str
    user: str | None
    password: str | None
    tls: bool
    most: int
    """Messages; more are refused (Kafka), or not waited for (MQTT)."""
    timeout: float
    """Seconds: in which all of Kafka's have to come, or for which MQTT's are listened to."""

    def _refused(self, what: str, hint: str = "") -> DataCheckFailed:
        return DataCheckFailed(what, hint=hint, where=f"{self.url}, topic {self.topic!r}")

    def kafka_offsets(self) -> dict[str, list[int]]:
        """First and next offset of each partition: the same as long as no message has come or gone."""
        with self._consumer() as consumer:
            return {str(partition): [low, high] for partition, (low, high) in self._ranges(consumer).items()}

    def kafka(self) -> list[Message]:
        """All messages that the topic holds now, in the order of their time, partition and offset."""
        from confluent_kafka import KafkaException, TopicPartition

        with self._consumer() as consumer:
            ranges = {part: (low, high) for part, (low, high) in self._ranges(consumer).items() if high > low}
            total = sum(high - low for low, high in ranges.values())
            if total > self.most:
                raise self._refused(f"holds {total:,} messages, more than {self.most:,}.", "Raise max_messages.")
            consumer.assign([TopicPartition(self.topic, part, low) for part, (low, _) in ranges.items()])
            found, left, until = [], dict(ranges), time.monotonic() + self.timeout
            while left:
                for message in consumer.consume(10_000, 0.2):
                    if message.error():
                        raise KafkaException(message.error())
                    if message.partition() in ranges and message.offset() < ranges[message.partition()][1]:
                        found.append(message)
                at = {one.partition: one.offset for one in consumer.position(consumer.assignment())}
                left = {part: ends for part, ends in left.items() if at.get(part, 0) < ends[1]}
                if left and time.monotonic() > until:
                    raise self._refused(f"takes longer than {self.timeout:g} s.", "Raise timeout.")
        found.sort(key=lambda one: (one.timestamp()[1], one.partition(), one.offset()))
        return [Message(self.topic, one.value() or b"", one.timestamp()[1] * 1000) for one in found]

    @contextlib.contextmanager
    def _consumer(self) -> Iterator[Any]:
        from confluent_kafka import Consumer, KafkaError, KafkaException

        said: list[Any] = []
        options: dict[str, Any] = {
            "bootstrap.servers": urlsplit(self.url).netloc,
            "group.id": "specml",  # needed, but nothing is committed
            "enable.auto.commit": False,
            "enable.partition.eof": False,
            "log_level": 0,
            "error_cb": said.append,
        }
        if self.user is not None:
            options |= {"sasl.mechanism": "PLAIN", "sasl.username": self.user, "sasl.password": self.password or ""}
        options["security.protocol"] = ("SASL_" if self.user is not None else "") + ("SSL" if self.tls else "PLAINTEXT")
        if self.tls:
            options["ssl.ca.location"] = authorities()
        consumer = Consumer(options)
        try:
            yield consumer
        except KafkaException as error:
            consumer.poll(0)  # hands over why: a request only says that nobody has answered it
            why = [one for one in said if one.code() != KafkaError._ALL_BROKERS_DOWN] or [error.args[0]]
            told = AROUND.sub("", why[0].str())
            raise self._refused(f"can't be read: {told}.", TRUSTED if "certificate" in told else "") from None
        finally:
            consumer.close()

    def _ranges(self, consumer: Any) -> dict[int, tuple[int, int]]:
        from confluent_kafka import TopicPartition

        found = consumer.list_topics(self.topic, timeout=PATIENCE).topics[self.topic]
        if found.error is not None:
            raise self._refused(f"can't be read: {found.error.str()}.")
        return {
            part: consumer.get_watermark_offsets(TopicPartition(self.topic, part), timeout=PATIENCE)
            for part in sorted(found.partitions)
        }

    def mqtt(self) -> list[Message]:
        """What is heard within ``timeout``, in the order in which it came, at least once each (QoS 1)."""
        import paho.mqtt.client as mqtt

        heard: list[Message] = []
        refused: list[str] = []
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)

        def connected(client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
            if reason.is_failure:
                refused.append(str(reason))
            else:
                client.subscribe(self.topic, qos=1)

        def subscribed(_client: Any, _data: Any, _id: Any, reasons: list[Any], _properties: Any) -> None:
            refused.extend(str(reason) for reason in reasons if reason.is_failure)

        def came(_client: Any, _data: Any, message: Any) -> None:
            heard.append(Message(message.topic, message.payload, time.time_ns() // 1000))

        client.on_connect, client.on_subscribe, client.on_message = connected, subscribed, came
        self._connect(client)
        until = time.monotonic() + self.timeout
        while time.monotonic() < until and not refused and len(heard) < self.most:
            if client.loop(timeout=0.05) != mqtt.MQTT_ERR_SUCCESS:
                refused.append("the connection was lost")
        client.disconnect()
        if refused:
            raise self._refused(f"can't be read: {refused[0]}.")
        return heard[: self.most]

    def _connect(self, client: Any) -> None:
        if self.user is not None:
            client.username_pw_set(self.user, self.password)
        if self.tls:
            client.tls_set(authorities())
        parts = urlsplit(self.url)
        try:
            client.connect(parts.hostname or "", parts.port or (8883 if self.tls else 1883))
        except ssl.SSLCertVerificationError as error:
            raise self._refused(f"can't be trusted: {error.verify_message.rstrip('.')}.", TRUSTED) from None
        except OSError as error:
            raise self._refused(f"can't be reached: {error.strerror or type(error).__name__}.") from None
