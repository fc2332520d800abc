"""Rows from a real web server on loopback, and what it may not make us do."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import time
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from specml.errors import DataCheckFailed, SpecmlError
from specml.reading import fetch
from specml.sources.http import Http
from tests import servers
from tests.conftest import spec_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CSV = b"a,b\n1,x\n2,y\n"
TABLE = pl.DataFrame({"a": [1, 2], "b": ["x", "y"]})
TOKEN = "s3cr3t-token"


@pytest.fixture(scope="module")
def server() -> Iterator[servers.Web]:
    with servers.web() as served:
        yield served


@pytest.fixture
def web(server: servers.Web, monkeypatch: pytest.MonkeyPatch) -> servers.Web:
    server.pages.clear()
    server.asked.clear()
    monkeypatch.setenv("WEB_TOKEN", TOKEN)
    return server


def source(web: servers.Web, path: str = "/rows", **more: Any) -> Http:
    return Http.model_validate({"url": web.url + path, "allow_private": True, "timeout": "5s", **more})


def parquet() -> bytes:
    buffer = io.BytesIO()
    TABLE.write_parquet(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "media", "form"),
    [
        (CSV, "text/csv", "csv"),
        (gzip.compress(CSV, mtime=0), "application/gzip", "csv"),
        (parquet(), "application/octet-stream", "parquet"),
        (b'{"a": 1, "b": "x"}\n{"a": 2, "b": "y"}\n', "application/x-ndjson", "jsonl"),
        (json.dumps(TABLE.to_dicts()).encode(), "application/json; charset=utf-8", "json"),
    ],
    ids=["csv", "packed", "parquet", "lines", "json"],
)
def test_files_of_every_format_are_read(
    web: servers.Web, tmp_path: Path, content: bytes, media: str, form: str
) -> None:
    web.pages["/rows"] = (200, {"Content-Type": media}, content)
    told: dict[str, Any] = {}
    assert source(web).read(tmp_path, frozenset(), told.__setitem__).equals(TABLE)
    assert told["format"] == form


def test_how_csv_is_written_can_be_declared(web: servers.Web, tmp_path: Path) -> None:
    web.pages["/rows"] = (200, {}, "a;b\n1,5;é\n".encode("latin-1"))
    table = source(web, format="csv", csv={"decimal": ",", "encoding": "latin-1"}).read(tmp_path)
    assert table.rows() == [(1.5, "é")]


def paged(by: str) -> Any:
    """Three pages of two records, in the way ``by``."""

    def page(query: dict[str, str], headers: dict[str, str]) -> servers.Answer:
        number = int(query.get("page") or query.get("after", "c1")[1:])
        records = [{"n": 2 * number - 1}, {"n": 2 * number}] if number <= 3 else []
        body: dict[str, Any] = {"data": {"items": records}}
        more = {"Link": f'</rows?page={number - 1}>; rel="prev", </rows?page={number + 1}>; rel="next"'}
        if by == "next" and number < 3:
            body["links"] = {"next": f"?page={number + 1}&per=2"}
        if by == "cursor":
            body["meta"] = {"cursor": f"c{number + 1}" if number < 3 else None}
        return 200, more if by == "link" and number < 3 else {}, json.dumps(body).encode()

    return page


@pytest.mark.parametrize(
    "pages",
    [
        {"by": "link"},
        {"by": "next", "at": "links.next"},
        {"by": "number"},
        {"by": "cursor", "at": "meta.cursor", "parameter": "after"},
    ],
)
def test_all_pages_are_read(web: servers.Web, tmp_path: Path, pages: dict[str, Any]) -> None:
    web.pages["/rows"] = paged(pages["by"])
    first = {} if pages["by"] in ("number", "cursor") else {"page": 1}
    asked = source(web, records="data.items", pages=pages, params={"per": 2, **first})
    assert asked.read(tmp_path)["n"].to_list() == [1, 2, 3, 4, 5, 6]
    assert asked.fingerprint(tmp_path) == asked.fingerprint(tmp_path)
    with pytest.raises(DataCheckFailed, match="more than 2 pages"):
        source(web, records="data.items", pages={**pages, "max": 2}, params=first).read(tmp_path)


def test_a_page_that_names_itself_as_the_next_is_refused(web: servers.Web, tmp_path: Path) -> None:
    web.pages["/rows"] = (200, {}, b'{"next": "/rows", "items": [{"a": 1}]}')
    with pytest.raises(DataCheckFailed, match="named before"):
        source(web, records="items", pages={"by": "next"}).read(tmp_path)


def test_secrets_go_to_the_first_host_only_and_into_no_message(web: servers.Web, tmp_path: Path) -> None:
    seen: list[dict[str, str]] = []

    def record(query: dict[str, str], headers: dict[str, str]) -> servers.Answer:
        seen.append({**headers, **query})
        return 200, {}, CSV

    with servers.web() as other:
        other.pages["/rows"] = record
        web.pages["/rows"] = record
        web.pages["/away"] = (302, {"Location": f"{other.url}/rows"}, b"")
        named = {"token": "${secret:WEB_TOKEN}", "headers": {"X-Key": "${secret:WEB_TOKEN}", "Accept": "text/csv"}}
        source(web, **named, params={"key": "${secret:WEB_TOKEN}"}).read(tmp_path)
        source(web, "/away", **named).read(tmp_path)
    assert (seen[0]["authorization"], seen[0]["x-key"], seen[0]["key"]) == (f"Bearer {TOKEN}", TOKEN, TOKEN)
    assert not {"authorization", "x-key", "accept"} & set(seen[1])
    web.pages["/rows"] = (403, {}, TOKEN.encode())
    with pytest.raises(DataCheckFailed, match="answers 403") as refused:
        source(web, params={"key": "${secret:WEB_TOKEN}"}).read(tmp_path)
    assert TOKEN not in str(refused.value)


def test_a_secret_with_a_line_break_is_no_header(
    web: servers.Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEB_TOKEN", f"{TOKEN}\r\nX-Evil: 1")
    with pytest.raises(SpecmlError, match="line break") as refused:
        source(web, token="${secret:WEB_TOKEN}").read(tmp_path)
    assert TOKEN not in str(refused.value)
    monkeypatch.delenv("WEB_TOKEN")
    with pytest.raises(SpecmlError, match="WEB_TOKEN is not set"):
        source(web, token="${secret:WEB_TOKEN}").read(tmp_path)


def test_a_pinned_file_is_that_file(web: servers.Web, tmp_path: Path) -> None:
    web.pages["/rows"] = (200, {}, CSV)
    right = hashlib.sha256(CSV).hexdigest()
    assert source(web, sha256=right).read(tmp_path).height == 2
    assert source(web, sha256=right).fingerprint(tmp_path) == {"sha256": right}
    with pytest.raises(DataCheckFailed, match="has the SHA-256"):
        source(web, sha256="0" * 64).read(tmp_path)


def test_size_is_bounded_announced_or_not(web: servers.Web, tmp_path: Path) -> None:
    large = b"a\n" + b"1\n" * 600_000
    web.pages["/rows"] = (200, {}, large)
    web.pages["/chunks"] = (200, {"Content-Length": "", "Connection": "close"}, large)
    web.pages["/packed"] = (200, {}, gzip.compress(large))
    for path in ("/rows", "/packed"):
        with pytest.raises(DataCheckFailed, match="more than 1,000,000 bytes"):
            source(web, path, max_bytes=1_000_000).read(tmp_path)
    web.pages["/rows"] = (200, {"Connection": "close", "Content-Length": "9"}, large)
    assert len(fetch.Fetch(10, 5, True, {}).get(f"{web.url}/rows").content) == 9


def test_what_is_cut_off_or_not_packed_as_it_says_is_refused(web: servers.Web, tmp_path: Path) -> None:
    packed = {"Content-Encoding": "gzip"}
    web.pages["/rows"] = (200, {"Content-Length": "100", "Connection": "close"}, CSV)
    with pytest.raises(DataCheckFailed, match="it breaks off"):
        source(web).read(tmp_path)
    web.pages["/rows"] = (200, packed, b"junk")
    with pytest.raises(DataCheckFailed, match="not packed as it says"):
        source(web).read(tmp_path)
    web.pages["/rows"] = (200, packed, gzip.compress(CSV))
    assert source(web).read(tmp_path).equals(TABLE)
    web.pages["/rows"] = (200, packed, gzip.compress(b"0" * 10_000_000))
    with pytest.raises(DataCheckFailed, match="more than 1,000,000 bytes"):
        source(web, max_bytes=1_000_000).read(tmp_path)


def test_time_is_bounded(web: servers.Web, tmp_path: Path) -> None:
    def slow(query: dict[str, str], headers: dict[str, str]) -> servers.Answer:
        time.sleep(0.5)
        return 200, {}, CSV

    web.pages["/rows"] = slow
    with pytest.raises(DataCheckFailed, match=r"longer than 0\.2 s"):
        source(web, timeout="200ms").read(tmp_path)


def test_a_busy_server_is_asked_again(web: servers.Web, tmp_path: Path) -> None:
    def busy(query: dict[str, str], headers: dict[str, str]) -> servers.Answer:
        return (200, {}, CSV) if web.asked["GET /rows"] == 2 else (503, {"Retry-After": "0"}, b"")

    web.pages["/rows"] = busy
    assert source(web).read(tmp_path).height == 2


def test_the_fingerprint_asks_for_the_head_first(web: servers.Web, tmp_path: Path) -> None:
    web.pages["/rows"] = (200, {"ETag": '"v1"', "Last-Modified": "Wed, 25 Nov 2026 10:00:00 GMT"}, CSV)
    assert source(web).fingerprint(tmp_path) == {
        "etag": '"v1"', "last-modified": "Wed, 25 Nov 2026 10:00:00 GMT", "content-length": "12",
    }  # fmt: skip
    assert web.asked == {"HEAD /rows": 1}
    web.pages["/rows"] = (200, {}, CSV)
    assert source(web).fingerprint(tmp_path) == {"sha256": f"sha256:{hashlib.sha256(CSV).hexdigest()}"}


PRIVATE = (
    "http://127.0.0.1/x", "http://localhost/x", "http://[::1]/x", "http://0.0.0.0/x", "http://10.1.2.3/x",
    "http://192.168.0.1/x", "http://172.16.9.9/x", "http://169.254.169.254/latest/meta-data", "http://2130706433/x",
    "http://0x7f.1/x", "http://[::ffff:127.0.0.1]/x", "http://[fe80::1]/x", "http://[fd00::1]/x",
    "http://[64:ff9b::7f00:1]/x", "http://[2002:7f00:1::]/x", "http://100.64.0.1/x", "http://224.0.0.1/x",
    "http://[fec0::1]/x", "http://[64:ff9b:1::7f00:1]/x", "http://[::127.0.0.1]/x", "http://192.0.0.8/x",
    "http://[::ffff:0:127.0.0.1]/x",
)  # fmt: skip


@pytest.mark.parametrize("url", PRIVATE)
def test_addresses_of_this_machine_and_of_private_networks_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(DataCheckFailed, match="of this machine or of a network of its own"):
        Http.model_validate({"url": url}).read(tmp_path)


def test_public_addresses_are_public() -> None:
    assert all(map(fetch.public, ("93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "::ffff:93.184.216.34")))


@pytest.mark.parametrize(
    ("location", "told"),
    [
        ("http://169.254.169.254/latest", "of this machine"),
        ("http://127.0.0.2/x", "of this machine"),
        ("file:///etc/passwd", "is no URL"),
        ("http://[bad/", "is none"),
        ("//[bad/", "is none"),
        ("gopher://127.0.0.1/x", "is no URL"),
        ("http://user:pass@127.0.0.1/x", "a user or password"),
        ("/rows", "more than 5 times"),
    ],
)
def test_a_redirect_is_looked_at_as_the_first_url(
    web: servers.Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str, told: str
) -> None:
    # Only 127.0.0.1, where the server is, passes for a public address here.
    monkeypatch.setattr(fetch, "public", lambda address: address == "127.0.0.1")
    web.pages["/rows"] = (302, {"Location": location}, b"")
    with pytest.raises(DataCheckFailed, match=told):
        source(web, allow_private=False).read(tmp_path)


def test_a_name_is_resolved_once(web: servers.Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that answers otherwise the second time leads nowhere else."""
    import socket

    real, asked = socket.getaddrinfo, []

    def answer(host: str, port: int, *rest: Any, **more: Any) -> Any:
        if host == "rebinding.example":
            asked.append(host)
            host = "127.0.0.1" if len(asked) == 1 else "127.0.0.9"
        return real(host, port, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    web.pages["/rows"] = (200, {}, CSV)
    port = web.url.rpartition(":")[2]
    asking = {"url": f"http://rebinding.example:{port}/rows", "allow_private": True}
    assert Http.model_validate(asking).read(tmp_path).height == 2
    assert asked == ["rebinding.example"]


def test_a_certificate_is_checked_for_the_name_not_the_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **more: real("127.0.0.1", *rest, **more))
    pem = servers.certificate(tmp_path, "data.example")
    with servers.web(pem) as server:
        server.pages["/rows"] = (200, {}, CSV)
        server.pages["/down"] = (302, {"Location": "http://data.example/rows"}, b"")
        port = server.url.rpartition(":")[2]

        def read(host: str, path: str = "/rows") -> pl.DataFrame:
            return Http.model_validate({"url": f"https://{host}:{port}{path}", "allow_private": True}).read(tmp_path)

        with pytest.raises(DataCheckFailed, match="not trusted"):
            read("data.example")
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        assert read("data.example").equals(TABLE)
        with pytest.raises(DataCheckFailed, match="not its own"):
            read("other.example")
        with pytest.raises(DataCheckFailed, match="from https to a plain connection"):
            read("data.example", "/down")


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://x/y", "http://u:p@x/y", "rows.csv", "http:///x", "http://[bad/"]
)
def test_only_plain_urls_are_taken(url: str) -> None:
    with pytest.raises(ValueError, match="must be a URL"):
        Http.model_validate({"url": url})


def test_what_can_not_be_reached_is_said(tmp_path: Path) -> None:
    asked = {"allow_private": True, "timeout": "5s"}
    with pytest.raises(DataCheckFailed, match="nothing listens there"):
        Http.model_validate({"url": f"http://127.0.0.1:{servers.free_port()}/x", **asked}).read(tmp_path)
    with pytest.raises(DataCheckFailed, match="there is no host"):
        Http.model_validate({"url": "http://nowhere.invalid/x", **asked}).read(tmp_path)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"{", "is no JSON"),
        (b'{"other": 1}', "has nothing at 'data'"),
        (b'{"data": 7}', "holds int, not a list"),
        (b'{"data": [1]}', "other things than objects"),
        (b'{"data": []}', "has no rows"),
    ],
)
def test_other_json_is_refused(web: servers.Web, tmp_path: Path, body: bytes, told: str) -> None:
    web.pages["/rows"] = (200, {"Content-Type": "application/json"}, body)
    with pytest.raises(SpecmlError, match=told):
        source(web, records="data").read(tmp_path)


def test_unpacked_pages_are_bounded_together(web: servers.Web, tmp_path: Path) -> None:
    page = gzip.compress(json.dumps([{"a": "x" * 400_000}]).encode())
    web.pages["/rows"] = (200, {}, page)
    with pytest.raises(DataCheckFailed, match="unpacks to more than"):
        source(web, pages={"by": "number"}, max_bytes=1_000_000).read(tmp_path)
    web.pages["/json"] = (200, {"Content-Type": "application/json"}, gzip.compress(b"[" + b" " * 2_000_000 + b"]"))
    with pytest.raises(DataCheckFailed, match="unpacks to more than 1,000,000 bytes"):
        source(web, "/json", max_bytes=1_000_000).read(tmp_path)
    twice = gzip.compress(gzip.compress(CSV + b"0,z\n" * 500_000))
    web.pages["/twice"] = (200, {}, twice)
    with pytest.raises(DataCheckFailed) as refused:
        source(web, "/twice", max_bytes=1_000_000).read(tmp_path)
    assert "unpacks" not in str(refused.value)  # what is within is no gzip to us, but bytes that are no text


def test_keys_that_may_be_values_are_not_told(web: servers.Web, tmp_path: Path) -> None:
    for body in ({"Zaphod B.": 1}, {f"k{i}": 1 for i in range(1000)}):
        web.pages["/rows"] = (200, {"Content-Type": "application/json"}, json.dumps(body).encode())
        with pytest.raises(DataCheckFailed, match="has nothing at 'data'") as refused:
            source(web, records="data").read(tmp_path)
        assert not refused.value.hint


def test_pages_never_lead_from_https_to_http() -> None:
    with pytest.raises(DataCheckFailed, match="from https to a plain connection"):
        fetch.joined("https://h/rows", "http://h/rows?page=2")
    with pytest.raises(DataCheckFailed, match="names a URL that is none"):
        fetch.joined("https://h/rows", "http://[bad/")
    assert fetch.joined("https://h/rows", "?page=2") == "https://h/rows?page=2"


def test_next_pages_are_looked_at(web: servers.Web, tmp_path: Path) -> None:
    web.pages["/rows"] = (200, {}, b'{"data": [{"a": 1}], "next": "http://[bad/"}')
    with pytest.raises(DataCheckFailed, match="names a URL that is none"):
        source(web, records="data", pages={"by": "next"}).read(tmp_path)


@pytest.mark.parametrize("body", [b"<!DOCTYPE html><p>Log in", b"\n <HTML>\n", b"<!-- x --><html lang='en'>"])
def test_a_page_of_html_is_no_table(web: servers.Web, tmp_path: Path, body: bytes) -> None:
    web.pages["/rows"] = (200, {"Content-Type": "text/html"}, body)
    for more in ({}, {"format": "csv"}):
        with pytest.raises(DataCheckFailed, match="a page of HTML"):
            source(web, **more).read(tmp_path)


def test_pages_with_what_is_no_number_have_a_fingerprint(web: servers.Web, tmp_path: Path) -> None:
    web.pages["/rows"] = (200, {}, b'[{"a": NaN, "b": "\\ud800"}]')
    asked = source(web, pages={"by": "link"})
    assert asked.fingerprint(tmp_path) == asked.fingerprint(tmp_path)


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({"pages": {"by": "next", "at": "meta.next", "max": 3}}, []),
        ({"pages": {"by": "cursor", "at": "meta", "parameter": "after"}}, []),
        ({"pages": {"by": "number", "parameter": "p", "first": 0}}, []),
        ({"pages": {"by": "link", "at": "meta", "parameter": "p", "first": 0}}, ["at", "parameter", "first"]),
        ({"pages": {"by": "number", "at": "meta"}}, ["at"]),
        ({"pages": {"by": "cursor", "first": 2}}, ["first"]),
        ({"records": "data", "format": "csv"}, ["records"]),
        ({"records": "data", "format": "json"}, []),
    ],
)
def test_keys_without_effect_are_told(options: dict[str, Any], keys: list[str]) -> None:
    source = Http(url="https://example.org/rows", **options)
    assert [told.key[-1] for told in source.disagreements(spec_of())] == keys
