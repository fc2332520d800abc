"""Objects of a real S3-compatible server on loopback (moto's)."""

from __future__ import annotations

import gzip
import io
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from specml.errors import DataCheckFailed, SpecmlError
from specml.sources.object_store import ObjectStore
from tests import servers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TABLE = pl.DataFrame({"a": [1, 2], "b": ["x", "y"]})


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with servers.object_store() as url:
        yield url


@pytest.fixture
def put(endpoint: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    """Write an object into a bucket of the test's own."""
    import boto3

    monkeypatch.setenv("STORE_KEY", "key-of-store")
    monkeypatch.setenv("STORE_SECRET", "secret-of-store")
    named = {"aws_access_key_id": "k", "aws_secret_access_key": "s", "region_name": "us-east-1"}
    client: Any = boto3.client("s3", endpoint_url=endpoint, **named)
    bucket = "b" + "".join(one for one in request.node.name.lower() if one.isalnum())[:50]
    client.create_bucket(Bucket=bucket)

    def put(name: str, content: bytes) -> str:
        client.put_object(Bucket=bucket, Key=name, Body=content)
        return f"s3://{bucket}/{name}"

    yield put
    client.close()


def source(endpoint: str, path: str, **more: Any) -> ObjectStore:
    keys = {"key": "${secret:STORE_KEY}", "secret": "${secret:STORE_SECRET}"}
    return ObjectStore.model_validate({"path": path, "endpoint": endpoint, **keys, "timeout": "20s", **more})


def parquet(table: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.write_parquet(buffer)
    return buffer.getvalue()


def test_an_object_is_read_by_its_format(endpoint: str, put: Any, tmp_path: Path) -> None:
    told: dict[str, Any] = {}
    for name, content in (
        ("rows.parquet", parquet(TABLE)),
        ("rows.csv.gz", gzip.compress(b"a;b\n1;x\n2;y\n")),
        ("rows.jsonl", b'{"a": 1, "b": "x"}\n{"a": 2, "b": "y"}\n'),
    ):
        path = put(name, content)
        assert source(endpoint, path).read(tmp_path, frozenset(), told.__setitem__).equals(TABLE)
    assert told["format"] == "jsonl"


def test_objects_that_match_are_one_table_in_the_order_of_their_names(endpoint: str, put: Any, tmp_path: Path) -> None:
    for part in (2, 1, 3):
        path = put(f"year=20{part}/rows.parquet", parquet(pl.DataFrame({"part": [part]})))
    many = path.replace("year=203", "year=*")
    assert source(endpoint, many).read(tmp_path)["part"].to_list() == [1, 2, 3]
    put("year=204/rows.parquet", parquet(TABLE))
    with pytest.raises(DataCheckFailed, match="has other columns than"):
        source(endpoint, many).read(tmp_path)


def test_the_fingerprint_changes_with_an_object(endpoint: str, put: Any, tmp_path: Path) -> None:
    asked = source(endpoint, put("one.csv", b"a\n1\n"))
    first = asked.fingerprint(tmp_path)
    assert first == asked.fingerprint(tmp_path)
    assert (first["objects"], first["bytes"]) == (1, 4)
    put("one.csv", b"a\n2\n")
    assert asked.fingerprint(tmp_path) != first


def test_size_is_bounded_packed_and_unpacked(endpoint: str, put: Any, tmp_path: Path) -> None:
    large = b"a\n" + b"1\n" * 100_000
    for path in (put("large.csv", large), put("large.csv.gz", gzip.compress(large))):
        with pytest.raises(DataCheckFailed, match="more than 100,000 bytes"):
            source(endpoint, path, max_bytes=100_000).read(tmp_path)


def test_what_is_not_there_or_can_not_be_reached_is_said(
    endpoint: str, put: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put("one.csv", b"a\n1\n")
    for wrong, told in (
        (path + "x", "no such object"),
        ("s3://no-such-bucket-here/x.csv", "no such object"),
        (path.replace("one.csv", "two*.csv"), "no object matches"),
    ):
        with pytest.raises(DataCheckFailed, match=told):
            source(endpoint, wrong).read(tmp_path)
    with pytest.raises(DataCheckFailed, match="can't be read") as refused:
        source(f"http://127.0.0.1:{servers.free_port()}", path, timeout="2s").read(tmp_path)
    assert "secret-of-store" not in str(refused.value)
    monkeypatch.delenv("STORE_SECRET")
    with pytest.raises(SpecmlError, match="STORE_SECRET is not set"):
        source(endpoint, path).read(tmp_path)
