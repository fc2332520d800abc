"""Who may ask what, by which name and how often: all that is decided from a request's head."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from specml.serving.auth import OPEN, allow
from specml.serving.limits import Limiter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from specml.serving.auth import Key, Keys
    from specml.serving.limits import Hosts, Rate

EVERYBODY = ""
"""The key of who has none."""


class Access:
    """Lets requests in.

    Args:
        keys: the accepted keys; none when everyone may ask.
        hosts: the names by which the server may be asked; any when none.
        limiter: how often each key may ask; as often as it likes when none.
    """

    def __init__(self, keys: Keys | None = None, hosts: Hosts | None = None, limiter: Limiter | None = None) -> None:
        self.keys, self._hosts, self._limiter = keys, hosts, limiter
        self.asked: Counter[str] = Counter()
        """Requests that were let in, by name of the key."""

    def limit(self, rate: Rate | None) -> None:
        """From now on let each key ask as often as this; where it is the same, what was asked already counts on."""
        if rate != (self._limiter.rate if self._limiter is not None else None):
            self._limiter = Limiter(rate) if rate is not None else None

    @property
    def counts_rows(self) -> bool:
        """Whether who may ask depends on how many rows were asked for before."""
        return self._limiter is not None and self._limiter.rate.rows is not None

    def enter(self, path: str, headers: Mapping[str, str]) -> Key | None:
        """The key that a request carries, before anything of the server is told, even that there is no such path.

        Raises:
            Refused: 401 or 421.
        """
        if path in OPEN:
            return None
        if self._hosts is not None:
            self._hosts.check(headers.get("host"))
        return self.keys.named(headers.get("authorization")) if self.keys is not None else None

    def use(self, route: str, method: str, key: Key | None) -> None:
        """Once it is known what answers; requests that take no work (``GET``) are not counted by the limits.

        Raises:
            Refused: 401, 403 or 429.
        """
        if route in OPEN:
            return
        name = EVERYBODY
        if self.keys is not None:
            key = key or self.keys.named(None)
            allow(key, route)
            name = key.name
            self.asked[name] += 1
        if self._limiter is not None and method == "POST":
            self._limiter.request(name)

    def rows(self, headers: Mapping[str, str], rows: int) -> None:
        """Count the rows of a request that was let in."""
        if self._limiter is not None:
            name = self.keys.named(headers.get("authorization")).name if self.keys is not None else EVERYBODY
            self._limiter.rows(name, rows)

    def metrics(self, own: str) -> str:
        """The requests of each key in the text format of Prometheus; ``own``: the replica's labels."""
        if self.keys is None:
            return ""
        about = "Requests that were let in, by name of the key."
        lines = [f"# HELP specml_key_requests_total {about}", "# TYPE specml_key_requests_total counter"]
        lines += [f'specml_key_requests_total{{{own},key="{name}"}} {n}' for name, n in sorted(self.asked.items())]
        return "\n".join(lines) + "\n"
