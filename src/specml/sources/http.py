"""Rows from a web server."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError
from typing_extensions import override

from specml.component import Block, Disagreement
from specml.errors import DataCheckFailed
from specml.files import digest
from specml.kinds import Source, untold
from specml.reading import CsvText, Format, format_of, of_records, parse_json, read_format, unpacked
from specml.reading.fetch import Answer, Fetch, header_value, joined, shown
from specml.values import Duration, Secret

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import polars as pl

    from specml.kinds import Tell
    from specml.spec import Spec


HTML = re.compile(rb"(\xef\xbb\xbf)?\s*(<!--.*?-->\s*)?<(!doctype\s+html|html)\b", re.IGNORECASE | re.DOTALL)
MOST_KEYS = 20
PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,39}")
"""Keys of an answer that are told: few, and names of fields, not of people."""


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise PydanticCustomError("url", "must be a URL that begins with http:// or https://, without a password.")
    return text


class Pages(Block):
    """How the next page of a JSON answer is asked for."""

    by: Literal["link", "next", "number", "cursor"]
    """``link``: the header ``Link`` with ``rel="next"`` (RFC 8288) names it; ``next``: the answer holds its URL at
    ``at``; ``number``: ``parameter`` counts them until one is empty; ``cursor``: what the answer holds at ``at`` is
    given back as ``parameter``."""
    at: str = "next"
    """Where in the answer the next URL or cursor stands, as ``meta.next``."""
    parameter: str = "page"
    """The parameter of the URL that is counted, or given back."""
    first: int = 1
    """The number of the first page."""
    max: Annotated[int, Field(ge=1)] = 1000
    """Most pages; more are refused, lest a server that never ends is read for ever."""

    def idle(self) -> list[str]:
        """Keys that were changed and that this way of paging does not use."""
        used = {"link": (), "next": ("at",), "number": ("parameter", "first"), "cursor": ("at", "parameter")}[self.by]
        changed = [name for name in ("at", "parameter", "first") if getattr(self, name) != _default(self, name)]
        return [name for name in changed if name not in used]


def _default(block: Block, name: str) -> Any:
    return type(block).model_fields[name].default


class Http(Source):
    """A file, or JSON page by page, from a web server."""

    type: Literal["http"] = "http"
    remote: ClassVar[bool] = True

    url: Annotated[str, AfterValidator(_url)]
    """Where it is, over http or https."""
    params: dict[str, Secret | str | int | float | bool] = {}
    """Parameters of the URL; a key may be ``${secret:NAME}``."""
    headers: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")], Secret | str] = {}
    """Sent to the host of ``url``, and to no other that it redirects to."""
    token: Secret | None = None
    """Sent as ``Authorization: Bearer …``."""
    format: Format | None = None
    """Unless said: what the first bytes, the content's type and the name say."""
    csv: CsvText = CsvText()
    """How a CSV file is written."""
    records: str = ""
    """Where in a JSON answer the list of records stands, as ``data.items``; the answer itself unless said."""
    pages: Pages | None = None
    """How the next page is asked for; unless said there is one."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """What the file's SHA-256 must be: anything else is refused."""
    max_bytes: Annotated[int, Field(ge=1)] = 1 << 30
    """Most bytes of all pages, packed and unpacked: 1 GiB unless said."""
    timeout: Annotated[Duration, Field(gt=0)] = Duration(300.0)
    """How long all of it may take."""
    allow_private: bool = False
    """Whether it may be an address of this machine or of a private network."""

    @override
    def files(self) -> tuple[str, ...]:
        return ()

    @override
    def disagreements(self, spec: Spec) -> Iterable[Disagreement]:
        if self.pages is not None and self.format not in (None, "json"):
            yield Disagreement(key=("pages",), what=f"has no effect: the format is {self.format}.")
        if self.pages is not None and self.sha256 is not None:
            yield Disagreement(key=("sha256",), what="is of one file, but `pages` asks for several.")
        if self.pages is not None:
            for name in self.pages.idle():
                yield Disagreement(key=("pages", name), what=f"has no effect: pages are asked for by {self.pages.by}.")
        if self.records and self.format not in (None, "json"):
            yield Disagreement(key=("records",), what=f"has no effect: the format is {self.format}.")
        if self.csv != CsvText() and self.format not in (None, "csv"):
            yield Disagreement(key=("csv",), what=f"has no effect: the format is {self.format}.")
        if self.token is not None and "authorization" in {name.lower() for name in self.headers}:
            yield Disagreement(key=("token",), what="and headers.Authorization are both named.")

    @override
    def read(self, folder: Path, texts: frozenset[str] = frozenset(), tell: Tell = untold) -> pl.DataFrame:
        if self.pages is not None:
            return of_records([row for page in self._pages() for row in page], shown(self.url), texts, tell)
        answer = self._fetch().get(self._full())
        self._refuse_other(answer)
        where = shown(self.url)
        content, media = unpacked(answer.content, where, self.max_bytes), answer.headers.get("content-type", "")
        form = self.format or format_of(content, urlsplit(answer.url).path, media)
        if self.format is None:
            tell("format", form)
        if form == "csv" and HTML.match(content[:1000]):
            hint = "It may want you to log in, or be the page about the file: open the URL in a browser."
            raise DataCheckFailed("answers with a page of HTML, not with rows.", hint=hint, where=where)
        if form == "json":
            return of_records(_at(parse_json(content, where), self.records, where), where, texts, tell)
        return read_format(content, form, self.csv, where=where, texts=texts, tell=tell, limit=self.max_bytes)

    @override
    def fingerprint(self, folder: Path) -> dict[str, Any]:
        if self.sha256 is not None:
            return {"sha256": self.sha256}
        if self.pages is not None:
            rows = [row for page in self._pages() for row in page]
            return {"rows": len(rows), "sha256": digest(json.dumps(rows, sort_keys=True).encode())}
        try:
            told = self._fetch().get(self._full(), "HEAD").headers
        except DataCheckFailed:  # not every server answers HEAD
            told = {}
        if told.get("etag") or told.get("last-modified"):
            names = ("etag", "last-modified", "content-length")
            return {name: told[name] for name in names if name in told}
        return {"sha256": digest(self._fetch().get(self._full()).content)}

    def _fetch(self) -> Fetch:
        told = {
            name: value.value(f"headers.{name}") if isinstance(value, Secret) else value
            for name, value in self.headers.items()
        }
        if self.token is not None:
            told["Authorization"] = f"Bearer {self.token.value('token')}"
        sent = {name: header_value(name, value) for name, value in told.items()}
        return Fetch(self.max_bytes, self.timeout, self.allow_private, sent)

    def _full(self, **more: str) -> str:
        given = {
            name: value.value(f"params.{name}") if isinstance(value, Secret) else value
            for name, value in self.params.items()
        }
        return _with(self.url, {**{name: _text(value) for name, value in given.items()}, **more})

    def _refuse_other(self, answer: Answer) -> None:
        if self.sha256 is not None and (found := digest(answer.content)) != f"sha256:{self.sha256}":
            what = f"has the SHA-256 {found.removeprefix('sha256:')}, not the one that the spec names."
            raise DataCheckFailed(
                what, hint="If the new file is meant, write its sum into sha256.", where=shown(self.url)
            )

    def _pages(self) -> Iterator[list[Any]]:
        """The records of each page."""
        assert self.pages is not None
        fetch, pages, asked, room = self._fetch(), self.pages, set[str](), self.max_bytes
        url = self._full(**{pages.parameter: str(pages.first)} if pages.by == "number" else {})
        for number in range(pages.first, pages.first + pages.max):
            if url in asked:
                raise DataCheckFailed("names a page as the next that it has named before.", where=shown(url))
            asked.add(url)
            answer = fetch.get(url)
            content = unpacked(answer.content, shown(url), room)
            room -= len(content)
            body = parse_json(content, shown(url))
            records = _at(body, self.records, shown(url))
            if not isinstance(records, list):
                raise DataCheckFailed(f"holds {type(records).__name__}, not a list of objects.", where=shown(url))
            if pages.by == "number" and not records:
                return
            yield records
            following = self._next(answer, body, number)
            if following is None:
                return
            url = following
        raise DataCheckFailed(f"has more than {pages.max} pages.", hint="Raise pages.max.", where=shown(self.url))

    def _next(self, answer: Answer, body: Any, number: int) -> str | None:
        """The URL of the page after ``number``; None: there is none."""
        assert self.pages is not None
        pages = self.pages
        if pages.by == "number":
            return self._full(**{pages.parameter: str(number + 1)})
        if pages.by == "link":
            links = re.findall(r"<([^>]*)>([^<]*)", answer.headers.get("link", ""))
            found = next((link for link, about in links if re.search(r'\brel="?next\b', about)), None)
        else:
            found = _at(body, pages.at, shown(self.url), required=False)
        if found in (None, "", False):
            return None
        if pages.by == "cursor":
            return self._full(**{pages.parameter: _text(found)})
        return joined(answer.url, str(found))


def _at(body: Any, path: str, where: str, *, required: bool = True) -> Any:
    """What stands in a JSON value at ``a.b``; None where it is not required and not there."""
    for name in path.split(".") if path else []:
        if not isinstance(body, dict) or name not in body:
            if not required:
                return None
            plain = isinstance(body, dict) and len(body) <= MOST_KEYS and all(map(PLAIN.fullmatch, body))
            hint = f"It has: {', '.join(body)}." if plain else ""
            raise DataCheckFailed(f"has nothing at {path!r}.", hint=hint, where=where)
        body = body[name]
    return body


def _with(url: str, more: Mapping[str, str]) -> str:
    """``url`` with parameters, in place of those of the same names."""
    parts = urlsplit(url)
    kept = [(name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True) if name not in more]
    return urlunsplit((parts.scheme, parts.netloc, parts.path, urlencode([*kept, *more.items()]), ""))


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
