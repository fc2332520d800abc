"""What the server answers, without any HTTP library: a request's parts in, status and body out.

Whatever carries HTTP calls ``admit`` with a request's head, reads the body within ``Route.most`` bytes, and calls
``answer``, or ``answering.begin`` for what only the model answers: the same without a task to wait in. Everything else
is here and below.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from specml.serving import cache as caches
from specml.serving import infer, page
from specml.serving.access import Access
from specml.serving.answering import Answering
from specml.serving.auth import scope
from specml.serving.batcher import Batcher
from specml.serving.capture import Capture, request_id
from specml.serving.counters import Counters
from specml.serving.feedback import Inbox, read_labels
from specml.serving.forms import Forms
from specml.serving.openapi import openapi
from specml.serving.pace import Pace
from specml.serving.refusal import Refused
from specml.serving.routes import REQUEST_ID, Reply, Route, check_body
from specml.serving.session import Session

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    import numpy as np

    from specml.bundle import Bundle, Contract
    from specml.serving.auth import Key
    from specml.serving.device import Asked as Device
    from specml.serving.device import Costs
    from specml.serving.forms import ReadInfer, WriteInfer
    from specml.serving.limits import Rate

    Explaining = Callable[[bytes, str], Awaitable[Reply]]
    """Answers a body that asks for explanations, in the request of that id."""

LOG = logging.getLogger("ray.serve")

MOST_TO_EXPLAIN = 1_048_576
"""Bytes of a body that asks for explanations: it goes to another process."""

FAILING = 0.1
"""Seconds that a replica whose session fails takes to say so."""


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
        self._max_batch_size = max_batch_size
        self._max_body = max_body
        self._access = access or Access()
        self._ignore_unknown = ignore_unknown
        self._error_detail = error_detail
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
        self._forms = Forms(bundle, max_rows, ignore_unknown=ignore_unknown, notice=self._notice)
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
        self.answering = Answering(
            bundle.contract,
            self._forms,
            self._batcher,
            self.counters,
            timeout=timeout,
            access=self._access,
            error_detail=error_detail,
            cache=cache,
            capture=capture,
        )
        """What becomes of the requests for the model."""
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
        self.answering.timeout, self._revision = timeout, revision
        if max_rows != self.max_rows:
            self._forms.limit(max_rows)
            self._routes = self._table()  # connections may remember routes of the one before, which go by the same
        self._healthy["revision"] = revision
        LOG.info("Goes by other knobs now, as revision %s has them.", revision)

    @property
    def timeout(self) -> float:
        """Seconds after which a request that is not answered is refused."""
        return self.answering.timeout

    @property
    def max_rows(self) -> int:
        """Most rows of a request."""
        return self._forms.max_rows

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
        self.answering.close()
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
        key = self._access.enter(path, headers)
        route = self.route(path)
        if method != route.method and (method, route.method) != ("HEAD", "GET"):
            allowed = route.method
            raise Refused(405, f"{method[:20]} is not answered here; {allowed} is.", headers={"allow": allowed})
        self._use(route, method, key)
        if route.method == "POST":
            check_body(route, headers)
        return route

    def admit_again(self, route: Route, path: str, headers: Mapping[str, str]) -> None:
        """Admit a request for the model with a head that was admitted before; raises as ``admit``."""
        self._use(route, "POST", self._access.enter(path, headers))

    def _use(self, route: Route, method: str, key: Key | None) -> None:
        self._access.use(route.name, method, key)
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
        return Route(name, "POST", self._max_body, partial(self._forms.infer, read, write))

    async def answer(self, route: Route, body: bytes, headers: Mapping[str, str]) -> Reply:
        """The answer to an admitted request; never raises for what a client sent."""
        if route.answer is not None:
            return await self._by_itself(route, route.answer(body, headers))
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        going = self.answering.begin(route, body, headers, partial(_tell, answer))
        try:
            return await answer
        except asyncio.CancelledError:
            self.answering.leave(going)
            raise

    def refuse(self, refusal: Refused) -> Reply:
        """The answer to a request that was not admitted."""
        self.counters.request("refused", refusal.http, 0.0, 0)
        return self.answering.told(refusal)

    async def _by_itself(self, route: Route, answer: Awaitable[Reply]) -> Reply:
        began = time.perf_counter()
        try:
            reply = await answer
        except Exception as error:
            reply = self.answering.failed(route, error)
        self.counters.request(route.name, reply.status, time.perf_counter() - began, reply.rows)
        return reply

    # The routes

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

    async def _health(self, body: bytes, headers: Mapping[str, str]) -> Reply:
        return Reply(200, orjson.dumps({**self._healthy, "fast_path": self.fast}))

    async def _metrics(self, body: bytes, headers: Mapping[str, str]) -> Reply:
        told = self.counters.text(
            replica=self._replica,
            model=self._contract.name,
            bundle=self._bundle.digest,
            provider=self.session.provider,
            waiting_rows=self._batcher.waiting_rows,
            ongoing=self.answering.ongoing,
            cached=(self._cache.hits, self._cache.misses) if self._cache is not None else None,
            captured=(self.capture.rows, self.capture.dropped) if self.capture is not None else None,
        )
        told += self._access.metrics(f'model="{self._contract.name}",replica="{self._replica}"')
        return Reply(200, told.encode(), {"content-type": "text/plain; version=0.0.4; charset=utf-8"})

    def _table(self) -> dict[str, Route]:
        name = self._contract.name
        server = {
            "name": "specml",
            "version": self._forms.version,
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
            version=self._forms.version,
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
            "/predict": Route("/predict", "POST", self._max_body, self._forms.predict),
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
        described = infer.metadata(self._contract, self._forms.version)
        for model in (f"/v2/models/{name}", f"/v2/models/{name}/versions/{self._forms.version}"):
            routes[model] = self._fixed("/v2/models/{model}", described)
            routes[f"{model}/ready"] = self._fixed("/v2/models/{model}/ready", {"name": name, "ready": True})
            routes[f"{model}/infer"] = self.inferring(
                "/v2/models/{model}/infer", self._forms.reads.infer, infer.write_infer
            )
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
        if parts[4:5] == ["versions"] and parts[5:6] != [self._forms.version]:
            return Refused(
                404, f"there is no version {''.join(parts[5:6])[:80]!r}; the live one is {self._forms.version!r}."
            )
        return Refused(404, f"{path[:80]!r} is no path of this server; GET / names them.")


def _tell(answer: asyncio.Future[Reply], reply: Reply) -> None:
    if not answer.done():
        answer.set_result(reply)
