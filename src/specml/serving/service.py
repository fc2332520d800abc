"""What the server answers, without any HTTP library: a request's parts in, status and body out.

Whatever carries HTTP calls ``admit`` with a request's head, reads the body within ``Route.most`` bytes,
and calls ``answer``, or ``begin`` for what only the model answers: the same without a task to wait in. Everything else
is here and below.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from specml.data import CATEGORIES_KEPT, MISSING
from specml.serving import cache as caches
from specml.serving import infer, page, tabular
from specml.serving.access import Access
from specml.serving.answer import predict_bodies, predict_body
from specml.serving.auth import scope
from specml.serving.batcher import Batcher
from specml.serving.capture import Capture, request_id
from specml.serving.counters import Counters
from specml.serving.feedback import Inbox, read_labels
from specml.serving.lean import Reader
from specml.serving.openapi import openapi
from specml.serving.pace import Pace
from specml.serving.refusal import Refused, unshown, without_detail
from specml.serving.session import Session
from specml.serving.together import SMALL, Together

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Mapping

    import numpy as np

    from specml.bundle import Bundle, Contract
    from specml.serving.batcher import Outputs, Waiting
    from specml.serving.device import Asked as Device
    from specml.serving.device import Costs
    from specml.serving.limits import Rate
    from specml.serving.request import Rows

    Columns = dict[str, np.ndarray]
    Explaining = Callable[[bytes, str], Awaitable["Reply"]]
    """Answers a body that asks for explanations, in the request of that id."""

    ReadInfer = Callable[[bytes, Mapping[str, str]], infer.Infer]
    """What a body with its headers asks for."""
    WriteInfer = Callable[..., tuple[bytes, dict[str, str]]]
    """Body and headers of an answer, of what ``infer.write_infer`` takes."""

LOG = logging.getLogger("ray.serve")

JSON = {"content-type": "application/json"}
REQUEST_ID = "x-request-id"
"""The header in which a caller may name a request; Ray Serve adds one where it is lacking, and answers it."""

BUNDLE = "specml-bundle"
"""The header that tells which bundle answered, where the body has no place for it."""

TYPES = {
    "/predict": tabular.TAKEN,
    "/v2/models/{model}/infer": (tabular.JSON, "application/octet-stream", ""),
}
"""Content types of a route's bodies; of others JSON."""
TIMEOUT = "x-request-timeout-seconds"
"""The header in which a caller may say that it waits for less than ``serving.timeout``; Ray Serve's name for it."""

MOST_TO_EXPLAIN = 1_048_576
"""Bytes of a body that asks for explanations: it goes to another process."""

FAILING = 0.1
"""Seconds that a replica whose session fails takes to say so."""

LARGE = 262_144
"""Bytes from which a body is read beside the event loop; smaller ones take a millisecond or two."""


class Reply(NamedTuple):
    """An answer to a request."""

    status: int
    body: bytes
    headers: dict[str, str] = JSON
    rows: int = 0


class Asked(NamedTuple):
    """A request for the model that was read."""

    rows: Rows
    identity: str
    """What the request is called."""
    write: Callable[[Outputs], tuple[bytes, dict[str, str]]]
    """Body and headers of the answer; may raise ``Refused``."""


class Route(NamedTuple):
    """What answers a path: the model, between ``read`` and what that says, or ``answer`` by itself."""

    name: str
    """The path with its variable parts named: a label in the metrics."""
    method: str
    most: int = 0
    """Largest body in bytes."""
    read: Callable[[bytes, Mapping[str, str]], Asked] | None = None
    answer: Callable[[bytes, Mapping[str, str]], Awaitable[Reply]] | None = None


class Going:
    """A request for the model on its way."""

    __slots__ = ("asked", "began", "done", "headers", "key", "over", "route", "seconds", "waiting")

    def __init__(self, route: Route, headers: Mapping[str, str], seconds: float, done: Callable[[Reply], None]) -> None:
        self.route, self.headers, self.done = route, headers, done
        self.seconds = seconds
        """After which nobody waits for it any more."""
        self.began = time.perf_counter()
        self.asked: Asked | None = None
        self.waiting: Waiting | None = None
        self.key: Hashable = None
        """By which its answer is to be kept."""
        self.over = False
        """Whether it was answered, or its client is gone."""


class Service:
    """One replica's model behind its routes.

    Args:
        max_batch_size, max_wait, max_queue, slo: see ``Batcher``.
        timeout: seconds after which a request that the model has not come to is refused.
        gpu, device, buckets, costs: see ``Session``.
        access: who may ask, and how often; everybody as often as they like without it.
        ignore_unknown: whether unknown columns of rows are left unread rather than refused.
        error_detail: whether errors say what is wrong; else only what kind of error it is.
        revision: names the deployment (bundle and options), so that a deploy can tell whether it is live.
        cache: answers in the place of the model what it was asked before; nothing does without it.
        capture: keeps what is asked and answered; nothing is kept without it.
        inbox: keeps late labels; ``/feedback`` is no path without it.
        explaining: answers ``/explain``, of at most ``explained_rows`` rows; without it that is no path.
        notice: what every answer tells, by name: what law obliges to.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        max_batch_size: int,
        max_wait: float,
        max_queue: int | None = None,
        slo: float | None = None,
        timeout: float = 30.0,
        max_rows: int,
        max_body: int,
        buckets: tuple[int, ...] | None = None,
        gpu: bool = False,
        device: Device = "auto",
        costs: Costs | None = None,
        access: Access | None = None,
        ignore_unknown: bool = False,
        error_detail: bool = True,
        revision: str = "",
        replica: str = "local",
        cache: caches.Cache | None = None,
        capture: Capture | None = None,
        inbox: Inbox | None = None,
        explaining: Explaining | None = None,
        explained_rows: int = 0,
        notice: dict[str, str] | None = None,
    ) -> None:
        self._bundle = bundle
        self._contract = bundle.contract
        self._version = bundle.digest.removeprefix("sha256:")[:12]
        self._max_batch_size = max_batch_size
        self.max_rows = max_rows
        self._max_body = max_body
        self._access = access or Access()
        self._ignore_unknown = ignore_unknown
        self._error_detail = error_detail
        self.timeout = timeout
        self._revision = revision
        self._replica = replica
        self._cache = cache
        self.capture = capture
        self._inbox = inbox
        self._explaining = explaining
        self._explained_rows = explained_rows
        self._notice = notice or {}
        self.session = Session(
            bundle, gpu=gpu, device=device, max_batch_size=max_batch_size, buckets=buckets, costs=costs
        )
        self.session.warm_up((1, max_batch_size))
        pace = Pace.timed(self.session.call(max_batch_size), max_batch_size)
        self.counters = Counters()
        self._seen = {
            column.name: {*column.categories, MISSING}
            for column in bundle.contract.inputs
            if 0 < len(column.categories) < CATEGORIES_KEPT  # a longer list is cut
        }
        self._reads = Reader(bundle.contract, max_rows, ignore_unknown=ignore_unknown)
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reader")
        self._aside: deque[Going] = deque()
        """Whose bodies are read by it, or wait to be."""
        self._batcher = Batcher(
            self._run,
            self.session.executor,
            self.counters,
            pace=pace,
            inline=self.session.anywhere,
            packed=self.session.packed,
            max_batch_size=max_batch_size,
            max_wait=max_wait,
            max_queue=max_queue,
            slo=slo,
        )
        self._together = Together(self, self._reads, self._batcher)
        self.ongoing = 0
        """Requests for the model that are not answered yet."""
        self.fast = False
        """Whether connections speak the protocol of ``serving.hot``; that says so."""
        self.draining = False
        self.broken = False
        """Whether the session fails on what it has answered before: Ray Serve replaces the replica."""
        self._routes = self._table()
        LOG.info(
            "Serving %s on %s: %s. A call takes %.3g s, and %.3g s for each row.",
            *(bundle.digest, self.session.provider, self.session.why, pace.fixed, pace.per_row),
        )

    def tune(
        self,
        *,
        max_wait: float,
        max_queue: int | None,
        slo: float | None,
        timeout: float,
        max_rows: int,
        rate: Rate | None,
        revision: str,
    ) -> None:
        """Answer what comes from now on by these; what is on its way goes on as it came.

        What was learnt and counted stays. To be called by the event loop that answers.
        """
        self._batcher.limit(max_wait=max_wait, max_queue=max_queue, slo=slo)
        self._access.limit(rate)
        self.timeout, self._revision = timeout, revision
        if max_rows != self.max_rows:
            self.max_rows = max_rows
            self._reads.limit(max_rows)
            self._routes = self._table()  # connections may remember routes of the one before, which go by the same
        self._healthy["revision"] = revision
        LOG.info("Goes by other knobs now, as revision %s has them.", revision)

    @property
    def model_paths(self) -> tuple[str, ...]:
        """The paths that the model answers."""
        return tuple(path for path, route in self._routes.items() if route.read is not None)

    @property
    def contract(self) -> Contract:
        """What the model takes and gives."""
        return self._contract

    def close(self) -> None:
        """Let what runs finish, and take no more."""
        self.draining = True
        self.session.close()
        self._reader.shutdown(wait=False)
        if self._inbox is not None:
            self._inbox.close()
        if self.capture is not None:
            self.capture.close()

    @property
    def waiting_batches(self) -> float:
        """Rows that wait, as a share of the largest batch."""
        return self._batcher.waiting_rows / self._max_batch_size

    def check_health(self) -> None:
        """Run one row; whatever the session raises, Ray Serve replaces the replica."""
        try:
            self.session.warm_up((1,))
        except Exception:
            self.broken = True
            raise
        self.broken = False

    def _run(self, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The session's outputs. Where it fails, is it the rows, or is it the session? That is found out at once.

        Raises:
            Refused: 503, it is the session: HAProxy asks another replica.
        """
        if not self.broken:
            try:
                return self.session.run(columns)
            except Exception:
                with contextlib.suppress(Exception):
                    self.check_health()
                if not self.broken:
                    raise
                LOG.exception("The session fails on every row.")
        else:
            with contextlib.suppress(Exception):  # Ray Serve looks by itself; on a device nobody else does
                self.check_health()
        # HAProxy asks whoever has least to do: that had better not be the one that fails at once.
        time.sleep(FAILING)
        raise Refused(503, "this replica fails; try again.", headers={"retry-after": "1"})

    def admit(self, method: str, path: str, headers: Mapping[str, str]) -> Route:
        """The route that answers, from a request's head alone: its body need not be read when this raises.

        Raises:
            Refused: 401, 403, 404, 405, 413, 415, 421, 429 or 503.
        """
        self._access.enter(path, headers)
        route = self.route(path)
        if method != route.method and (method, route.method) != ("HEAD", "GET"):
            allowed = route.method
            raise Refused(405, f"{method[:20]} is not answered here; {allowed} is.", headers={"allow": allowed})
        self._use(route, method, headers)
        if route.method == "POST":
            self._check_body(route, headers)
        return route

    def admit_again(self, route: Route, path: str, headers: Mapping[str, str]) -> None:
        """Admit a request for the model with a head that was admitted before; raises as ``admit``."""
        self._access.enter(path, headers)
        self._use(route, "POST", headers)

    def _use(self, route: Route, method: str, headers: Mapping[str, str]) -> None:
        self._access.use(route.name, method, headers)
        if self.draining and route.name != "/v2/health/live":
            going = {"retry-after": "1", "connection": "close"}
            raise Refused(503, "this replica is going down; try again.", headers=going)

    def route(self, path: str) -> Route:
        """What answers a path.

        Raises:
            Refused: 404.
        """
        route = self._routes.get(path)
        if route is None:
            raise self._unknown(path)
        return route

    def inferring(self, name: str, read: ReadInfer, write: WriteInfer) -> Route:
        """A route that answers tensors in another form: ``read`` and ``write`` as those of ``infer``."""
        return Route(name, "POST", self._max_body, partial(self._inferred, read, write))

    async def answer(self, route: Route, body: bytes, headers: Mapping[str, str]) -> Reply:
        """The answer to an admitted request; never raises for what a client sent."""
        if route.answer is not None:
            return await self._by_itself(route, route.answer(body, headers))
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        going = self.begin(route, body, headers, partial(_tell, answer))
        try:
            return await answer
        except asyncio.CancelledError:
            self.leave(going)
            raise

    def begin(self, route: Route, body: bytes, headers: Mapping[str, str], done: Callable[[Reply], None]) -> Going:
        """Answer an admitted request for the model: ``done`` is told the reply, once, perhaps before this returns.

        Never raises for what a client sent; ``leave`` says that the client is gone.
        """
        going = self._going(route, headers, done)
        self.start(going, body)
        return going

    def begin_soon(self, route: Route, body: bytes, headers: Mapping[str, str], done: Callable[[Reply], None]) -> Going:
        """As ``begin``, of a request that ``joins``: with the others that are read in this turn of the event loop."""
        going = self._going(route, headers, done)
        self._together.gather(going, body)
        return going

    def joins(self, route: Route, headers: Mapping[str, str], length: int) -> bool:
        """Whether a request with such a head, and so many bytes, may be answered together with others."""
        return (
            length <= SMALL
            and route.name == "/predict"
            and self._cache is None
            and self._reads.joins
            and media_type(headers) == tabular.answered_as(headers.get("accept")) == tabular.JSON
            and TIMEOUT not in headers
        )

    def start(self, going: Going, body: bytes) -> None:
        """Read a request for the model, and offer it to the batcher."""
        headers, read = going.headers, going.route.read
        assert read is not None
        try:
            aside = len(body) >= LARGE or self._contract.image is not None
            # At least as long as the first of those that wait to be read has waited.
            waits = time.perf_counter() - self._aside[0].began if aside and self._aside else 0.0
            self._batcher.refuse_late(waits)
            if aside:
                self._read_aside(going, body, headers)
            else:
                self.offer(going, read(body, headers))
        except Exception as error:
            self.end(going, error)

    def _going(self, route: Route, headers: Mapping[str, str], done: Callable[[Reply], None]) -> Going:
        self.ongoing += 1
        return Going(route, headers, _shorter(self.timeout, headers.get(TIMEOUT)), done)

    def leave(self, going: Going) -> None:
        """The client is gone: the model need not come to what no batch has taken."""
        if not going.over:
            going.over = True
            self.ongoing -= 1
            self.counters.gone += 1
            if going.waiting is not None:
                self._batcher.leave(going.waiting)

    def refuse(self, refusal: Refused) -> Reply:
        """The answer to a request that was not admitted."""
        self.counters.request("refused", refusal.http, 0.0, 0)
        return self._told(refusal)

    def _failed(self, route: Route, error: BaseException) -> Reply:
        if isinstance(error, Refused):
            return self._told(error)
        LOG.error("A request to %s could not be answered.", route.name, exc_info=unshown(error))
        return refused(Refused(500, "the server failed; its log says why."))

    def _told(self, refusal: Refused) -> Reply:
        return refused(refusal if self._error_detail else without_detail(refusal))

    # What becomes of a request for the model

    def _read_aside(self, going: Going, body: bytes, headers: Mapping[str, str]) -> None:
        """Read a large body, or images, while other requests go on."""
        read = going.route.read
        assert read is not None
        loop = asyncio.get_running_loop()

        def wanted() -> Asked:
            if going.over or time.perf_counter() - going.began > going.seconds:
                raise Refused(504, f"the body was not read within {going.seconds:g} s.")
            return read(body, headers)

        try:
            reading = loop.run_in_executor(self._reader, wanted)
        except RuntimeError:  # the executor is shut down: the replica is going
            raise Refused(503, "the server is going down.") from None
        self._aside.append(going)
        reading.add_done_callback(partial(self._was_read, going))

    def _was_read(self, going: Going, reading: asyncio.Future[Asked]) -> None:
        self._aside.popleft()  # one thread reads: first come, first read
        if reading.cancelled():
            self.end(going, Refused(503, "the server is going down."))
        elif (wrong := reading.exception()) is not None:  # raised here, it would be in a ring with the body
            self.end(going, wrong)
        else:
            try:
                self.offer(going, reading.result())
            except Exception as error:
                self.end(going, error)

    def offer(self, going: Going, asked: Asked) -> None:
        """Have the model answer a request that was read.

        Raises:
            Refused: 429; too much waits already.
        """
        if going.over:
            return
        self.counters.parse_seconds.add(time.perf_counter() - going.began)
        going.asked = asked
        self._access.rows(going.headers, asked.rows.n)
        if self._cache is not None:
            going.key = caches.key(asked.rows)
            if (known := self._cache.get(going.key)) is not None:
                going.key = None
                self.end(going, known)
                return
        going.waiting = self._batcher.offer(asked.rows, partial(self.end, going), going.seconds, going.began)

    def offer_rows(self, going: Going, rows: Rows) -> None:
        """Have the model answer a request for ``/predict`` whose rows were read with those of others."""
        try:
            self._batcher.refuse_late()
            self.offer(going, self._asked(rows, going.headers))
        except Exception as error:
            self.end(going, error)

    def end(self, going: Going, result: Outputs | BaseException) -> None:
        """Answer: with the model's outputs, or with what went wrong."""
        if going.over:
            return
        began = time.perf_counter()
        try:
            if isinstance(result, BaseException):
                reply = self._failed(going.route, result)
            else:
                reply = self._written(going, result)
        except Exception as error:
            reply = self._failed(going.route, error)
        self.counters.write_seconds.add(time.perf_counter() - began)
        self._reply(going, reply)

    def end_all(self, group: list[Going], rows: Rows, counts: list[int], outputs: Outputs) -> None:
        """Answer requests for ``/predict`` of which each has so many of the ``rows``, and of the finite outputs."""
        began, several = time.perf_counter(), len(group)
        requests = [(going.headers[REQUEST_ID], n) for going, n in zip(group, counts, strict=True)]
        bodies = list(predict_bodies(outputs, self._contract, self._bundle.digest, requests, self._notice))
        self._count_unseen(rows)
        self.counters.write_seconds.add((time.perf_counter() - began) / several, several)
        start = 0
        for going, body, n in zip(group, bodies, counts, strict=True):
            if not going.over:
                self._access.rows(going.headers, n)
                if self.capture is not None:
                    theirs = {name: array[start : start + n] for name, array in outputs.items()}
                    self.capture.offer(going.headers[REQUEST_ID], rows.part(start, start + n), theirs)
                self._reply(going, Reply(200, body, JSON, n))
            start += n

    def _reply(self, going: Going, reply: Reply) -> None:
        going.over = True
        self.ongoing -= 1
        self.counters.request(going.route.name, reply.status, time.perf_counter() - going.began, reply.rows)
        going.done(reply)

    def _written(self, going: Going, outputs: Outputs) -> Reply:
        asked = going.asked
        assert asked is not None
        body, headers = asked.write(outputs)
        if self._cache is not None and going.key is not None:
            self._cache.put(going.key, asked.rows.n, outputs)
        self._count_unseen(asked.rows)
        if self.capture is not None:
            self.capture.offer(asked.identity, asked.rows, outputs)
        return Reply(200, body, headers, asked.rows.n)

    def _count_unseen(self, rows: Rows) -> None:
        """What no training row had is counted."""
        for name, seen in self._seen.items():
            if unseen := rows.n - sum(map(seen.__contains__, rows.columns[name])):
                self.counters.unseen[name] += unseen

    async def _by_itself(self, route: Route, answer: Awaitable[Reply]) -> Reply:
        began = time.perf_counter()
        try:
            reply = await answer
        except Exception as error:
            reply = self._failed(route, error)
        self.counters.request(route.name, reply.status, time.perf_counter() - began, reply.rows)
        return reply

    # The routes

    def _predict(self, body: bytes, headers: Mapping[str, str]) -> Asked:
        kind = media_type(headers)
        if kind == tabular.JSON:
            rows = self._reads.rows(body)
        else:
            ignoring = {"ignore_unknown": self._ignore_unknown}
            rows = tabular.read(body, kind, self._contract, self.max_rows, **ignoring)
        return self._asked(rows, headers)

    def _asked(self, rows: Rows, headers: Mapping[str, str]) -> Asked:
        identity = request_id(headers.get(REQUEST_ID))
        return Asked(rows, identity, partial(self._write_rows, identity, headers.get("accept")))

    def _inferred(self, read: ReadInfer, write: WriteInfer, body: bytes, headers: Mapping[str, str]) -> Asked:
        request = read(body, headers)
        identity = request_id(request.id, headers.get(REQUEST_ID))
        told = {"model": self._contract.name, "version": self._version, "identity": identity, "notice": self._notice}
        return Asked(request.rows, identity, partial(write, request, **told))

    async def _page(self, body: bytes, headers: Mapping[str, str]) -> Reply:
        return Reply(200, page.PAGE, page.HEADERS)

    async def _feedback(self, body: bytes, headers: Mapping[str, str]) -> Reply:
        assert self._inbox is not None
        labels = read_labels(body, self._contract, self.max_rows)
        await self._inbox.keep(labels)
        return Reply(202, orjson.dumps({"kept": len(labels)}))

    async def _explain(self, body: bytes, headers: Mapping[str, str]) -> Reply:
        assert self._explaining is not None
        return await self._explaining(body, request_id(headers.get(REQUEST_ID)))

    def _write_rows(self, identity: str, accept: str | None, outputs: Outputs) -> tuple[bytes, dict[str, str]]:
        kind = tabular.answered_as(accept)
        if kind == tabular.JSON:
            return predict_body(outputs, self._contract, self._bundle.digest, identity, self._notice), JSON
        columns = tabular.columns_of(outputs, self._contract, identity, self._notice)
        return tabular.write(kind, columns), {"content-type": kind, BUNDLE: self._bundle.digest}

    async def _health(self, body: bytes, headers: Mapping[str, str]) -> Reply:
        return Reply(200, orjson.dumps({**self._healthy, "fast_path": self.fast}))

    async def _metrics(self, body: bytes, headers: Mapping[str, str]) -> Reply:
        told = self.counters.text(
            replica=self._replica,
            model=self._contract.name,
            bundle=self._bundle.digest,
            provider=self.session.provider,
            waiting_rows=self._batcher.waiting_rows,
            ongoing=self.ongoing,
            cached=(self._cache.hits, self._cache.misses) if self._cache is not None else None,
            captured=(self.capture.rows, self.capture.dropped) if self.capture is not None else None,
        )
        told += self._access.metrics(f'model="{self._contract.name}",replica="{self._replica}"')
        return Reply(200, told.encode(), {"content-type": "text/plain; version=0.0.4; charset=utf-8"})

    def _table(self) -> dict[str, Route]:
        name = self._contract.name
        server = {
            "name": "specml",
            "version": self._version,
            "extensions": ["binary_tensor_data"],
            "model": name,
            "device": self.session.provider,
            "device_reason": self.session.why,
        }
        self._healthy = {
            "ready": True,
            "model": name,
            "bundle": self._bundle.digest,
            "revision": self._revision,
            "replica": self._replica,
            "device": self.session.provider,
        }
        paths = ["/predict", "/docs", "/openapi.json", "/metrics", "/healthz", "/v2", f"/v2/models/{name}"]
        if self._explaining is not None:
            paths.insert(1, "/explain")
        if self._inbox is not None:
            paths.insert(1, "/feedback")
        index = {"model": name, "bundle": self._bundle.digest, "paths": paths}
        document = openapi(
            self._contract,
            version=self._version,
            max_rows=self.max_rows,
            max_body=self._max_body,
            explained_rows=self._explained_rows if self._explaining else 0,
            labels=self._inbox is not None,
            secured=self._access.keys is not None,
            ignore_unknown=self._ignore_unknown,
            notice=self._notice,
        )
        routes = {
            "/": self._fixed("/", index),
            "/healthz": Route("/healthz", "GET", answer=self._health),
            "/openapi.json": self._fixed("/openapi.json", document),
            "/metrics": Route("/metrics", "GET", answer=self._metrics),
            "/predict": Route("/predict", "POST", self._max_body, self._predict),
            "/v2": self._fixed("/v2", server),
            "/v2/": self._fixed("/v2", server),  # the protocol's own OpenAPI file writes it so
            "/v2/health/live": self._fixed("/v2/health/live", {"live": True}),
            "/v2/health/ready": self._fixed("/v2/health/ready", {"ready": True}),
        }
        routes["/docs"] = Route("/docs", "GET", answer=self._page, most=0)
        if self._inbox is not None:
            routes["/feedback"] = Route("/feedback", "POST", answer=self._feedback, most=self._max_body)
        if self._explaining is not None:
            most = min(self._max_body, MOST_TO_EXPLAIN)
            routes["/explain"] = Route("/explain", "POST", most, answer=self._explain)
        described = infer.metadata(self._contract, self._version)
        for model in (f"/v2/models/{name}", f"/v2/models/{name}/versions/{self._version}"):
            routes[model] = self._fixed("/v2/models/{model}", described)
            routes[f"{model}/ready"] = self._fixed("/v2/models/{model}/ready", {"name": name, "ready": True})
            routes[f"{model}/infer"] = self.inferring("/v2/models/{model}/infer", self._reads.infer, infer.write_infer)
        if not self._error_detail and self._access.keys is None:
            return {path: route for path, route in routes.items() if scope(route.name) != "describe"}
        return routes

    def _fixed(self, name: str, value: dict[str, Any]) -> Route:
        reply = Reply(200, orjson.dumps(value))

        async def same(body: bytes, headers: Mapping[str, str]) -> Reply:
            return reply

        return Route(name, "GET", answer=same)

    def _unknown(self, path: str) -> Refused:
        parts = path.split("/")
        if path.startswith("/v2/models/") and parts[3] != self._contract.name:
            return Refused(404, f"there is no model {parts[3][:80]!r}; this server has {self._contract.name!r}.")
        if parts[4:5] == ["versions"] and parts[5:6] != [self._version]:
            return Refused(404, f"there is no version {''.join(parts[5:6])[:80]!r}; the live one is {self._version!r}.")
        return Refused(404, f"{path[:80]!r} is no path of this server; GET / names them.")

    def _check_body(self, route: Route, headers: Mapping[str, str]) -> None:
        encoding = headers.get("content-encoding", "identity")
        if encoding != "identity":
            raise Refused(415, f"the content encoding {encoding[:40]!r} is not understood; send the body as it is.")
        allowed = TYPES.get(route.name, (tabular.JSON,))
        kind = media_type(headers)
        if kind not in allowed:
            told = " or ".join(filter(None, allowed))
            raise Refused(415, f"the content type {kind[:80]!r} is not taken; send {told}.")
        length = headers.get("content-length", "")
        if length.isascii() and length.isdigit() and (len(length) > 15 or int(length) > route.most):
            raise too_large(route.most)


def media_type(headers: Mapping[str, str]) -> str:
    """The content type of a request, without its parameters."""
    sent = headers.get("content-type", "")
    return sent if sent == tabular.JSON else sent.partition(";")[0].strip().lower()


def _tell(answer: asyncio.Future[Reply], reply: Reply) -> None:
    if not answer.done():
        answer.set_result(reply)


def _shorter(seconds: float, wanted: str | None) -> float:
    """``seconds``, or what a caller wants, in the same unit, where that is a shorter time."""
    if wanted is None:
        return seconds
    try:
        asked = float(wanted)
    except ValueError:
        return seconds
    return asked if 0 < asked < seconds else seconds


def refused(refusal: Refused) -> Reply:
    """A refusal as an answer."""
    return Reply(refusal.http, orjson.dumps({"error": refusal.what}), {**JSON, **refusal.headers})


def too_large(most: int) -> Refused:
    """The refusal of a body over the limit."""
    return Refused(413, f"the body is larger than {most} bytes; send the rows in parts.")
