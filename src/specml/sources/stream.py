"""Messages of a topic, as a plant's sensors send them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError
from typing_extensions import override

from specml.component import Disagreement
from specml.errors import DataCheckFailed, NotEnoughData
from specml.kinds import Source, untold
from specml.reading import json_value, of_records
from specml.reading.brokers import Broker, Message
from specml.reading.inference import parsed_dates
from specml.reading.windows import windows
from specml.values import Duration, Secret

if TYPE_CHECKING:
    from collections.abc import Iterable

    import polars as pl

    from specml.kinds import Tell
    from specml.spec import Spec


def _broker(url: str) -> str:
    scheme, _, hosts = url.partition("://")
    if scheme == "mqtt" and "," in hosts:
        raise PydanticCustomError("broker", "must name one host: only Kafka has several.")
    if any(not 0 < int(host.partition(":")[2] or 1) < 65536 for host in hosts.split(",")):
        raise PydanticCustomError("broker", "must have ports between 1 and 65535.")
    return url


class Stream(Source):
    """JSON messages of a Kafka or MQTT topic: a row each, or a row for each window of time."""

    type: Literal["stream"] = "stream"
    remote: ClassVar[bool] = True

    broker: Annotated[
        str,
        Field(pattern=r"^(kafka|mqtt)://[A-Za-z0-9._-]+(:\d+)?(,[A-Za-z0-9._-]+(:\d+)?)*$"),
        AfterValidator(_broker),
    ]
    """``kafka://host:9092`` (more with commas) or ``mqtt://host:1883``."""
    topic: Annotated[str, Field(min_length=1)]
    """The topic; MQTT's wildcards ``+`` and ``#`` are known. Each message's own is the column ``topic``."""
    time: str | None = None
    """The field with a message's time, in ISO 8601 (UTC unless it says) or seconds since 1970. Unless said, Kafka's own
    time, or when MQTT's message came."""
    every: Annotated[Duration, Field(gt=0)] | None = None
    """Length of a window, as ``1m``: a row holds its count, mean, least and largest values. Unless said, each message
    is a row."""
    lateness: Annotated[Duration, Field(ge=0)] = Duration(0.0)
    """How much later than others a message may come. A window is over when a message bears a time that much after its
    end; what comes later, and windows that are not over, are left out and counted."""
    by: tuple[str, ...] = ()
    """Columns, as ``[topic]`` or ``[machine]``, for whose values windows are made separately."""
    user: Secret | None = None
    """Who asks, as ``${secret:NAME}``; Kafka by SASL PLAIN."""
    password: Secret | None = None
    """The password of ``user``."""
    tls: bool = False
    """Whether the connection is encrypted."""
    listen: Annotated[Duration, Field(gt=0)] = Duration(30.0)
    """MQTT, which keeps no history: how long each run listens."""
    timeout: Annotated[Duration, Field(gt=0)] = Duration(300.0)
    """Kafka: how long reading all that the topic holds may take."""
    max_messages: Annotated[int, Field(ge=1)] = 1_000_000
    """Kafka: a topic that holds more is refused. MQTT: listening ends with so many."""

    @override
    def files(self) -> tuple[str, ...]:
        return ()

    @property
    def _kafka(self) -> bool:
        return self.broker.startswith("kafka:")

    @override
    def disagreements(self, spec: Spec) -> Iterable[Disagreement]:
        if self.every is None and (self.by or self.lateness):
            key = "by" if self.by else "lateness"
            yield Disagreement(key=(key,), what="has no effect without windows.", hint="Say every.")
        if (self.user is None) != (self.password is None):
            yield Disagreement(key=("user",), what="and `password` are named together or not at all.")
        idle, other = ("listen", "Kafka") if self._kafka else ("timeout", "MQTT")
        if getattr(self, idle) != type(self).model_fields[idle].default:
            yield Disagreement(key=(idle,), what=f"has no effect on {other}.")
        if self._kafka and any(one in self.topic for one in "+#"):
            yield Disagreement(key=("topic",), what="holds a wildcard, which only MQTT knows.")

    @override
    def read(self, folder: Path, texts: frozenset[str] = frozenset(), tell: Tell = untold) -> pl.DataFrame:
        import polars as pl

        messages = self._asked().kafka() if self._kafka else self._asked().mqtt()
        if not messages:
            raise NotEnoughData("no message came.", where=f"{self.broker}, topic {self.topic!r}")
        rows = of_records(self._records(messages), self.broker, texts, tell)
        if self.every is None:
            return rows
        stamps = pl.Series("time", [one.time for one in messages], dtype=pl.Int64)
        times = stamps if self.time is None else self._times(rows)
        fields = rows if self.time is None else rows.drop(self.time)
        return windows(fields, times, self.every, self.lateness, by=self.by, tell=tell)

    @override
    def fingerprint(self, folder: Path) -> dict[str, Any]:
        if self._kafka:
            return {"offsets": self._asked().kafka_offsets()}
        return {"listened": time.time_ns()}  # nobody knows what came meanwhile

    def _asked(self) -> Broker:
        user = self.user.value("user") if self.user else None
        password = self.password.value("password") if self.password else None
        bound = self.timeout if self._kafka else self.listen
        return Broker(self.broker, self.topic, user, password, self.tls, self.max_messages, bound)

    def _records(self, messages: list[Message]) -> list[dict[str, Any]]:
        records, bad = [], []
        for number, message in enumerate(messages, 1):
            try:
                record = json_value(message.content)
            except ValueError:
                record = None
            if isinstance(record, dict):
                records.append({"topic": message.topic, **record})
            else:
                bad.append(number)
        if bad:
            what = f"{len(bad):,} of {len(messages):,} messages hold no JSON object; the first is number {bad[0]:,}."
            raise DataCheckFailed(what, where=f"{self.broker}, topic {self.topic!r}")
        return records

    def _times(self, rows: pl.DataFrame) -> pl.Series:
        """The field ``time`` as microseconds since 1970."""
        import polars as pl

        assert self.time is not None
        if self.time not in rows.columns:
            hint = f"They hold: {', '.join(rows.columns)}."
            raise DataCheckFailed(f"the messages hold no {self.time!r}.", hint=hint, where="time")
        values = rows[self.time]
        if values.dtype.is_numeric():
            found = (values.cast(pl.Float64) * 1e6).round().cast(pl.Int64, strict=False)
        else:
            dates = parsed_dates(values, "iso") if values.dtype == pl.String else values
            found = (
                dates.dt.epoch("us") if dates.dtype.is_temporal() else pl.Series([None] * len(values), dtype=pl.Int64)
            )
        if bad := found.null_count():
            what = f"{bad:,} of {len(found):,} messages hold no time in ISO 8601 or seconds since 1970."
            raise DataCheckFailed(what, where=f"time: {self.time}")
        return found.alias("time")
