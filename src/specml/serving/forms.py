"""The forms in which the model is asked and answers: named columns (``/predict``), and tensors."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from specml.serving import infer, tabular
from specml.serving.answer import predict_bodies, predict_body
from specml.serving.capture import request_id
from specml.serving.lean import Reader
from specml.serving.routes import BUNDLE, JSON, REQUEST_ID, Asked, media_type

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from specml.bundle import Bundle
    from specml.serving.batcher import Outputs
    from specml.serving.request import Rows

    ReadInfer = Callable[[bytes, Mapping[str, str]], infer.Infer]
    """What a body with its headers asks for."""
    WriteInfer = Callable[..., tuple[bytes, dict[str, str]]]
    """Body and headers of an answer, of what ``infer.write_infer`` takes."""


class Forms:
    """Reads requests for one bundle, of at most ``max_rows`` rows, and writes their answers.

    Args:
        ignore_unknown: whether unknown columns of rows are left unread rather than refused.
        notice: what every answer tells, by name.
    """

    def __init__(self, bundle: Bundle, max_rows: int, *, ignore_unknown: bool, notice: dict[str, str]) -> None:
        self._contract, self._digest = bundle.contract, bundle.digest
        self.version = bundle.digest.removeprefix("sha256:")[:12]
        """What the protocol calls the model's version."""
        self.max_rows, self._ignore_unknown, self._notice = max_rows, ignore_unknown, notice
        self.reads = Reader(bundle.contract, max_rows, ignore_unknown=ignore_unknown)

    def limit(self, max_rows: int) -> None:
        """Read so many rows at most from now on."""
        self.max_rows = max_rows
        self.reads.limit(max_rows)

    def predict(self, body: bytes, headers: Mapping[str, str]) -> Asked:
        """A request of ``/predict``, as JSON, CSV or Arrow."""
        kind = media_type(headers)
        if kind == tabular.JSON:
            rows = self.reads.rows(body)
        else:
            ignoring = {"ignore_unknown": self._ignore_unknown}
            rows = tabular.read(body, kind, self._contract, self.max_rows, **ignoring)
        return self.asked(rows, headers)

    def asked(self, rows: Rows, headers: Mapping[str, str]) -> Asked:
        """A request of ``/predict`` whose rows are read."""
        identity = request_id(headers.get(REQUEST_ID))
        return Asked(rows, identity, partial(self._write, identity, headers.get("accept")))

    def infer(self, read: ReadInfer, write: WriteInfer, body: bytes, headers: Mapping[str, str]) -> Asked:
        """A request in tensors."""
        request = read(body, headers)
        identity = request_id(request.id, headers.get(REQUEST_ID))
        told = {"model": self._contract.name, "version": self.version, "identity": identity, "notice": self._notice}
        return Asked(request.rows, identity, partial(write, request, **told))

    def bodies(self, requests: Iterable[tuple[str, int]], outputs: Outputs) -> Iterator[bytes]:
        """The answers in JSON to requests of ``/predict``, by what they are called and how many rows they have."""
        return predict_bodies(outputs, self._contract, self._digest, requests, self._notice)

    def _write(self, identity: str, accept: str | None, outputs: Outputs) -> tuple[bytes, dict[str, str]]:
        kind = tabular.answered_as(accept)
        if kind == tabular.JSON:
            return predict_body(outputs, self._contract, self._digest, identity, self._notice), JSON
        columns = tabular.columns_of(outputs, self._contract, identity, self._notice)
        return tabular.write(kind, columns), {"content-type": kind, BUNDLE: self._digest}
