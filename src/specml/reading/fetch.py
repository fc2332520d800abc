"""GET over HTTP: bounded in size and time, and only to where the spec lets it go.

A name is resolved once, every address that it has is looked at, and the connection goes to one of those: what a name
server says a moment later changes nothing. Redirects are followed one by one, each looked at in the same way.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit, urlunsplit

from specml.errors import DataCheckFailed, SpecmlError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import urllib3

REDIRECTS = 5
TRIES = 3
"""Times that a server is asked which says that it is busy."""
BUSY = (429, 502, 503, 504)
LONGEST_READ = 30.0
"""Seconds in which a server has to send something."""
PIECE = 1 << 16
GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
"""All of IPv6 that IANA gives to the internet."""
SPECIAL = tuple(map(ipaddress.IPv4Network, ("192.0.0.0/24", "192.88.99.0/24")))
"""Networks of protocols, which Python calls global in parts."""


@dataclass(frozen=True)
class Answer:
    """What a server answered."""

    url: str
    """Where it came from, after redirects."""
    headers: Mapping[str, str]
    """By names in lower case."""
    content: bytes


@dataclass
class Fetch:
    """What may be fetched, all in all."""

    max_bytes: int
    timeout: float
    """Seconds."""
    allow_private: bool
    headers: Mapping[str, str]
    """Sent to the origin of the first URL only: they may hold secrets."""
    origin: str = ""
    taken: int = 0
    until: float = field(init=False)

    def __post_init__(self) -> None:
        self.until = time.monotonic() + self.timeout

    def get(self, url: str, method: str = "GET") -> Answer:
        """The answer, redirects followed.

        Raises:
            DataCheckFailed: it can't be reached or lies where it may not, answers with an error, or is beyond a bound.
        """
        _place(url)
        for _ in range(REDIRECTS + 1):
            answer, onward = self._patient(url, method)
            if not onward:
                return answer
            url = joined(url, onward)
        raise DataCheckFailed(f"redirects more than {REDIRECTS} times.", where=shown(url))

    def _patient(self, url: str, method: str) -> tuple[Answer, str]:
        """One request, repeated where the server is busy; and where it sends us on to."""
        tried = 0
        while True:
            tried += 1
            status, headers, content = self._once(url, method)
            if 300 <= status < 400 and headers.get("location"):
                return Answer(url, headers, b""), headers["location"]
            if status == 200:
                return Answer(url, headers, content), ""
            wait = _seconds(headers.get("retry-after")) or 0.5 * 2**tried
            if status not in BUSY or tried == TRIES or time.monotonic() + wait > self.until:
                hint = "Its headers come from `headers` and `token`." if status in (401, 403) else ""
                raise DataCheckFailed(f"the server answers {status}.", hint=hint, where=shown(url))
            time.sleep(wait)

    def _once(self, url: str, method: str) -> tuple[int, dict[str, str], bytes]:
        import urllib3

        parts = urlsplit(url)
        host, port = _place(url)
        address = self._address(host, port, url)
        self.origin = self.origin or f"{parts.scheme}://{host}:{port}"
        ours = self.headers if self.origin == f"{parts.scheme}://{host}:{port}" else {}
        sent = {"User-Agent": "specml", "Accept-Encoding": "identity", **ours, "Host": parts.netloc}
        left = self.until - time.monotonic()
        if left <= 0:
            raise self._late(url)
        timeout = urllib3.Timeout(connect=min(10.0, left), read=min(LONGEST_READ, left))
        if parts.scheme == "https":
            pool: urllib3.HTTPConnectionPool = urllib3.HTTPSConnectionPool(
                address, port, timeout=timeout, ca_certs=authorities(), server_hostname=host, assert_hostname=host
            )
        else:
            pool = urllib3.HTTPConnectionPool(address, port, timeout=timeout)
        target = urlunsplit(("", "", parts.path or "/", parts.query, ""))
        try:
            with pool:
                found = pool.urlopen(method, target, headers=sent, redirect=False, retries=False, preload_content=False)
                headers = {name.lower(): value for name, value in found.headers.items()}
                content = self._read(found, headers, url) if method == "GET" and found.status == 200 else b""
                found.close()
        except urllib3.exceptions.ReadTimeoutError:
            raise self._late(url) from None
        except urllib3.exceptions.HTTPError as error:
            raise DataCheckFailed(f"can't be read: {_reason(error)}.", where=shown(url)) from None
        return found.status, headers, content

    def _read(self, found: urllib3.BaseHTTPResponse, headers: Mapping[str, str], url: str) -> bytes:
        room = self.max_bytes - self.taken
        announced = headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > room:
            raise self._large(url)
        pieces: list[bytes] = []
        size = 0
        while piece := found.read1(PIECE):
            size += len(piece)
            if size > room:
                raise self._large(url)
            if time.monotonic() > self.until:
                raise self._late(url)
            pieces.append(piece)
        self.taken += size
        return b"".join(pieces)

    def _large(self, url: str) -> DataCheckFailed:
        return DataCheckFailed(f"sends more than {self.max_bytes:,} bytes.", hint="Raise max_bytes.", where=shown(url))

    def _late(self, url: str) -> DataCheckFailed:
        return DataCheckFailed(f"takes longer than {self.timeout:g} s.", hint="Raise timeout.", where=shown(url))

    def _address(self, host: str, port: int, url: str) -> str:
        """An address of ``host``, all of which may be asked."""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise DataCheckFailed(f"there is no host {host!r}.", where=shown(url)) from None
        addresses = [str(one[4][0]) for one in found]
        if not self.allow_private and not all(map(public, addresses)):
            raise DataCheckFailed(
                f"{host!r} is an address of this machine or of a network of its own.",
                hint="Say allow_private: true if that is meant.",
                where=shown(url),
            )
        return addresses[0]


def public(address: str) -> bool:
    """Whether an IP address belongs to the internet: none of this machine, a private or local net, a cloud's metadata.

    An IPv4 address within an IPv6 one (mapped, 6to4, NAT64) is looked at by itself.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is None and ip not in GLOBAL_UNICAST:  # what Python calls global holds more
            return False
        ip = inner or ip
    if isinstance(ip, ipaddress.IPv4Address) and any(ip in network for network in SPECIAL):
        return False
    return ip.is_global and not ip.is_multicast


def shown(url: str) -> str:
    """A URL as it may be told: without its query, which may hold a key."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "a URL"
    return urlunsplit((parts.scheme, parts.hostname or "", parts.path, "", ""))


def joined(url: str, onward: str) -> str:
    """Where ``onward``, which an answer of ``url`` names, leads.

    Raises:
        DataCheckFailed: it is no URL, or leads from https to a plain connection.
    """
    try:
        target = urljoin(url, onward)
        plain = urlsplit(url).scheme == "https" and urlsplit(target).scheme != "https"
    except ValueError:
        raise DataCheckFailed("names a URL that is none.", where=shown(url)) from None
    if plain:
        raise DataCheckFailed("leads from https to a plain connection.", where=shown(url))
    return target


def header_value(name: str, value: str) -> str:
    """A header's value, if it is one line.

    Raises:
        SpecmlError: it is more, or no text that a header can hold.
    """
    if not value.isprintable() or not value.isascii():
        raise SpecmlError("holds a line break or a sign that is not ASCII.", where=f"headers.{name}")
    return value


def _place(url: str) -> tuple[str, int]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    if parts.scheme not in ("http", "https") or not host:
        raise DataCheckFailed("is no URL that begins with http:// or https://.", where=shown(url))
    if "@" in parts.netloc:
        raise DataCheckFailed("holds a user or password.", hint="Use `headers` or `token`.", where=shown(url))
    return host, port or {"http": 80, "https": 443}[parts.scheme]


def authorities() -> str:
    """The file of the authorities whose certificates are trusted: ``SSL_CERT_FILE``, or certifi's."""
    import certifi

    return os.environ.get("SSL_CERT_FILE") or certifi.where()


def _seconds(text: str | None) -> float | None:
    return float(text) if text and text.isdecimal() else None


def _reason(error: Exception) -> str:
    import urllib3

    if isinstance(error, urllib3.exceptions.SSLError):
        return "its certificate is not trusted or not its own"
    if isinstance(error, urllib3.exceptions.NewConnectionError):
        return "nothing listens there"
    if isinstance(error, urllib3.exceptions.ConnectTimeoutError):
        return "it does not answer"
    if isinstance(error, urllib3.exceptions.DecodeError):
        return "what it sends is not packed as it says"
    return "it breaks off" if isinstance(error, urllib3.exceptions.ProtocolError) else type(error).__name__
