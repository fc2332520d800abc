"""The server as a Ray Serve application: ``specml.serving.app:build``."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import secrets
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import uvicorn
import uvicorn.config
from pydantic import BaseModel, ConfigDict, Field

from specml.bundle import open_bundle
from specml.errors import DeployFailed
from specml.serving.access import Access
from specml.serving.auth import SCOPES, Key, Keys, end_of, salted
from specml.serving.batcher import QUEUE_MOST
from specml.serving.cache import Cache
from specml.serving.capture import Capture, request_id
from specml.serving.explanation import Explainer
from specml.serving.feedback import INBOX, Inbox
from specml.serving.limits import Hosts, Limiter, Rate
from specml.serving.refusal import Refused, without_detail
from specml.serving.routes import REQUEST_ID, Reply, refused, too_large
from specml.serving.scaling import Load
from specml.serving.service import Service

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, MutableMapping

    from ray.serve import Application
    from ray.serve.handle import DeploymentHandle

    from specml.bundle import Bundle
    from specml.serving.rpc import Rpc
    from specml.serving.service import Explaining

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]


NICENESS = 10
"""Of the thread that explains, beyond that of those that predict."""


SWITCH = 1e-4
"""Seconds after which a thread that waits for Python's lock gets it; 5 ms unless told. The thread that calls the model
waits for the event loop between two batches: with requests of 100 rows, a fifth more of them are answered."""

AGAIN = 0.5
"""Seconds until a replica that explains is asked again after one went down."""


class _Args(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BatchingArgs(_Args):
    """How a replica batches; sizes in rows, ``max_wait`` in seconds."""

    max_batch_size: Annotated[int, Field(ge=1)] = 256
    max_wait: Annotated[float, Field(ge=0)] = 0.0
    max_queue: Annotated[int, Field(ge=1)] | None = None
    """None: what can be run within the objective."""
    buckets: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    """Sizes to which batches are padded; None: those that suit the device."""


class KeyArgs(_Args):
    """A bearer key, or several that mean the same."""

    env: str
    """The environment variable that holds them, separated by commas."""
    digests: tuple[str, ...] = ()
    """Their salted digests; the variable is read where these are not given."""
    scopes: tuple[str, ...] = SCOPES
    until: str | None = None
    """The last day (UTC) on which they are accepted."""

    def held(self) -> list[str]:
        """The keys that the variable holds."""
        return [token.strip() for token in os.environ.get(self.env, "").split(",") if token.strip()]

    def key(self, name: str, salt: str) -> Key:
        """What the server keeps.

        Raises:
            DeployFailed: the variable is not set: an open server was not asked for.
        """
        end = end_of(self.until) if self.until is not None else None
        digests = self.digests
        if not digests and (end is None or time.time() < end):
            digests = tuple(f"{salt}${salted(token, salt)}" for token in self.held())
            if not digests:
                raise DeployFailed(f"the environment variable {self.env} holds no key.", where="serving.auth")
        return Key(name, digests, frozenset(self.scopes), end)


class AuthArgs(_Args):
    """Which bearer keys are accepted, by name."""

    keys: Annotated[dict[str, KeyArgs], Field(min_length=1)]

    def accepted(self) -> Keys:
        """The keys, by their digests; raises as ``KeyArgs.key``."""
        salt = secrets.token_hex(16)
        return Keys([key.key(name, salt) for name, key in self.keys.items()])


class RateArgs(_Args):
    """How often a key may ask this replica; ``burst`` in seconds."""

    requests: Annotated[float, Field(gt=0)] | None = None
    rows: Annotated[float, Field(gt=0)] | None = None
    burst: Annotated[float, Field(gt=0)] = 1.0


class CaptureArgs(_Args):
    """What is kept of the requests, and where."""

    folder: str
    """Absolute, as the bundle's."""
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    retention: Annotated[float, Field(gt=0)] | None = None
    """Seconds after which the server deletes captured rows; it leaves that to ``specml watch`` where none is named."""


class GrpcArgs(_Args):
    """Where gRPC is answered."""

    port: Annotated[int, Field(ge=0, le=65535)]
    """0: any free one. All replicas on a machine listen at one."""
    host: str = "127.0.0.1"


class CacheArgs(_Args):
    """How many rows' answers are kept, and for how many seconds."""

    rows: Annotated[int, Field(ge=1)]
    ttl: Annotated[float, Field(gt=0)]


class ExplainArgs(_Args):
    """What a request for explanations may ask."""

    max_rows: Annotated[int, Field(ge=1)] = 100
    seconds: Annotated[float, Field(gt=0)] = 30.0


class Args(_Args):
    """What ``build`` takes: the ``args`` of the application in serve.yaml."""

    bundle: str
    """The bundle's folder; absolute, for replicas start where Ray likes."""
    digest: str = ""
    """The digest that the bundle must have; any when empty."""
    audited: bool = False
    """Whether the bundle of that digest was audited before, and need not be again."""
    specml: str = ""
    """The version of specml whose code this is."""
    revision: str = ""
    """Names bundle and options, so that a deploy can tell whether it is live."""
    batching: BatchingArgs = BatchingArgs()
    slo: Annotated[float, Field(gt=0)] | None = None
    """Seconds that nobody shall wait for longer; None: no such promise."""
    timeout: Annotated[float, Field(gt=0)] = 30.0
    """Seconds after which a request that is not answered is refused."""
    fast_path: bool = True
    """Whether requests for the model are answered in the HTTP protocol itself, where that can be."""
    max_rows: Annotated[int, Field(ge=1)] = 10_000
    max_body: Annotated[int, Field(ge=1)] = 16_777_216
    gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs that a replica reserves; with 0, ``auto`` is the CPU."""
    device: Literal["auto", "cpu", "cuda", "tensorrt"] = "auto"
    costs: dict[Literal["cpu", "cuda", "tensorrt"], dict[int, float]] = {}
    """Measured seconds of a call by its rows, for ``auto`` to decide by; empty: the replica measures."""
    auth: AuthArgs | None = None
    rate_limit: RateArgs | None = None
    hosts: tuple[str, ...] = ()
    """By which names the server may be asked; any when empty."""
    ignore_unknown: bool = False
    """Whether a row's unknown columns are left unread rather than refused."""
    error_detail: bool = True
    """Whether errors tell what is wrong, and everybody may read what describes the model."""
    grpc: GrpcArgs | None = None
    cache: CacheArgs | None = None
    capture: CaptureArgs | None = None
    explain: ExplainArgs | None = None
    notice: dict[str, str] = {}
    """What every answer tells, by name: what the rules of the spec oblige to."""

    def opened(self) -> Bundle:
        """The bundle.

        Raises:
            BundleError: it is no valid bundle.
            DeployFailed: it is not the one that was deployed.
        """
        bundle = open_bundle(Path(self.bundle), audited=self.digest if self.audited else "")
        if self.digest not in ("", bundle.digest):
            raise DeployFailed(f"holds {bundle.digest}, deployed was {self.digest}.", where=self.bundle)
        return bundle

    def service(self, replica: str, explaining: Explaining | None = None) -> Service:
        """The opened bundle behind its routes; raises as ``opened``."""
        bundle = self.opened()
        return Service(
            bundle,
            **self.batching.model_dump(),
            slo=self.slo,
            timeout=self.timeout,
            max_rows=self.max_rows,
            max_body=self.max_body,
            gpu=self.gpus > 0,
            device=self.device,
            costs=self.costs,
            access=self._access(),
            ignore_unknown=self.ignore_unknown,
            error_detail=self.error_detail,
            revision=self.revision,
            replica=replica,
            cache=Cache(self.cache.rows, self.cache.ttl) if self.cache else None,
            capture=self._capture(bundle, replica),
            inbox=self._inbox(replica),
            explaining=explaining,
            explained_rows=self.explain.max_rows if self.explain else 0,
            notice=self.notice,
        )

    def with_knobs(self, knobs: dict[str, Any]) -> Args:
        """These with the knobs of Ray Serve's ``user_config``; one that is not there has its default.

        Raises:
            ValidationError: they are none.
        """
        mine = self.model_dump()
        return Args.model_validate({**mine, **knobs, "batching": {**mine["batching"], **knobs.get("batching", {})}})

    def tune(self, service: Service) -> None:
        """Have a service that was made of others go on with the knobs of these."""
        service.tune(
            max_wait=self.batching.max_wait,
            max_queue=self.batching.max_queue,
            slo=self.slo,
            timeout=self.timeout,
            max_rows=self.max_rows,
            rate=Rate(**self.rate_limit.model_dump()) if self.rate_limit else None,
            revision=self.revision,
        )

    def rpc(self, service: Service) -> Rpc | None:
        """The gRPC server in front of a service, if there is to be one."""
        if self.grpc is None:
            return None
        from specml.serving.rpc import Rpc

        # As many calls as there may ever be rows on their way: the queue says no to fewer.
        calls = QUEUE_MOST + self.batching.max_batch_size
        return Rpc(service, **self.grpc.model_dump(), calls=calls, max_body=self.max_body)

    def _inbox(self, replica: str) -> Inbox | None:
        """Beside the captures of all bundles: a label may belong to a row that another one answered."""
        return Inbox(Path(self.capture.folder).parents[1] / INBOX, replica) if self.capture is not None else None

    def _access(self) -> Access:
        limiter = Limiter(Rate(**self.rate_limit.model_dump())) if self.rate_limit else None
        hosts = Hosts(self.hosts) if self.hosts and "*" not in self.hosts else None
        return Access(self.auth.accepted() if self.auth else None, hosts, limiter)

    def _capture(self, bundle: Bundle, replica: str) -> Capture | None:
        if self.capture is None:
            return None
        folder, options = Path(self.capture.folder), self.capture.model_dump(exclude={"folder"})
        return Capture(folder, bundle.contract, bundle.digest, replica=replica, **options)


def config(service: Service, args: Args, *, idle: int, log_level: str, rpc: Rpc | None = None) -> uvicorn.Config:
    """How uvicorn answers for a service by itself, without Ray; ``idle``: seconds that a connection may be idle."""
    sys.setswitchinterval(SWITCH)
    gc.collect()
    gc.freeze()  # what stands by now stays: looking through it took milliseconds, again and again
    return uvicorn.Config(
        Http(service, rpc),
        http=cast("Any", protocol(service, args)),
        log_level=log_level,
        access_log=False,
        timeout_keep_alive=idle,
    )


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run on the event loop that uvicorn would choose: uvloop where it is installed."""
    with asyncio.Runner(loop_factory=uvicorn.Config("").get_loop_factory()) as runner:
        runner.run(main)


def protocol(service: Service, args: Args) -> type[asyncio.Protocol] | str:
    """What uvicorn takes as ``http``, or calls ``auto``: the protocol that answers for the model, or its own."""
    theirs = "uvicorn.protocols.http.auto:AutoHTTPProtocol"
    if not args.fast_path:
        return theirs
    try:
        from specml.serving.hot import HotProtocol
    except ImportError:  # httptools is not on every machine
        return theirs
    return HotProtocol.of(service)


class Http:
    """A service as an ASGI application; the server ``rpc`` beside it starts and stops with it.

    Args:
        bare: whether nothing of Ray Serve's stands around it, which names requests and tells when a client goes.
    """

    def __init__(self, service: Service, rpc: Rpc | None = None, *, bare: bool = True) -> None:
        self._service = service
        self._rpc = rpc
        self._bare = bare

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1003})
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await self._http(scope, receive, send)

    async def _http(self, scope: Message, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if self._bare:
            headers[REQUEST_ID] = request_id(headers.get(REQUEST_ID))
        reply = await self._reply(scope, receive, headers)
        if reply is not None:
            await _send(scope, send, reply, {REQUEST_ID: headers[REQUEST_ID]} if self._bare else {})

    async def _reply(self, scope: Message, receive: Receive, headers: dict[str, str]) -> Reply | None:
        """The answer; None when nobody is there to take it."""
        service = self._service
        try:
            route = service.admit(scope["method"], scope["path"], headers)
            body = await _body(receive, route.most, service.timeout) if route.method == "POST" else b""
        except Refused as refusal:
            return service.refuse(refusal)
        if route.read is None or not self._bare:
            return await service.answer(route, body, headers)
        answering, going = (
            asyncio.ensure_future(service.answer(route, body, headers)),
            asyncio.ensure_future(_gone(receive)),
        )
        try:
            await asyncio.wait((answering, going), return_when=asyncio.FIRST_COMPLETED)
        finally:
            going.cancel()
            if not answering.done():
                answering.cancel()
        return answering.result() if answering.done() else None

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup" and self._rpc is not None and self._bare:
                await self._rpc.start()  # in Ray, ``Replica`` does it, once it has its knobs
            if message["type"] == "lifespan.shutdown":
                if self._rpc is not None:
                    await self._rpc.stop()
                self._service.close()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return


async def _gone(receive: Receive) -> None:
    """Wait until the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _body(receive: Receive, most: int, seconds: float) -> bytes:
    """The body, or the refusal of it as soon as it is too large or too slow."""
    parts: list[bytes] = []
    size = 0
    until = time.monotonic() + seconds
    while True:
        try:
            message = await asyncio.wait_for(receive(), until - time.monotonic())
        except TimeoutError:
            close = {"connection": "close"}
            raise Refused(408, f"the rest of the request did not come within {seconds:g} s.", headers=close) from None
        if message["type"] == "http.disconnect":
            raise Refused(400, "the client went away inside its body.")
        part = message.get("body", b"")
        size += len(part)
        if size > most:
            raise too_large(most)
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


async def _send(scope: Message, send: Send, reply: Reply, more: dict[str, str]) -> None:
    headers = [
        *((name.encode(), value.encode("latin-1", "replace")) for name, value in reply.headers.items()),
        (b"content-length", str(len(reply.body)).encode()),
        *((name.encode(), value.encode("latin-1")) for name, value in more.items()),
    ]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    body = b"" if scope["method"] == "HEAD" else reply.body
    await send({"type": "http.response.body", "body": body})


def build(args: Args | dict[str, Any]) -> Application:
    """The Ray Serve application: replicas that each hold the bundle and answer HTTP themselves.

    Requests for explanations they hand on to replicas of another deployment.
    """
    from ray import serve

    # Ray turns ``args`` into the model itself only where annotations are no texts.
    checked = Args.model_validate(args).model_dump()
    explain = serve.deployment(ExplainReplica, name="explain").bind(checked) if checked["explain"] else None
    return serve.deployment(serve.ingress()(Replica), name="model").bind(checked, explain)


class Replica:
    """One copy of the model, with HTTP, batcher and session in one process."""

    def __init__(self, args: dict[str, Any], explain: DeploymentHandle | None = None) -> None:
        from ray import serve

        sys.setswitchinterval(SWITCH)
        self._args = checked = Args.model_validate(args)
        replica = serve.get_replica_context().replica_id.unique_id
        explaining = _handed_on(explain, checked.explain.seconds) if explain and checked.explain else None
        self._service = checked.service(replica, explaining)
        self._load = Load(self._service)
        self._rpc = checked.rpc(self._service)
        # Ray Serve starts its server when this object stands, with the protocol that uvicorn calls ``auto``.
        cast("dict[str, Any]", uvicorn.config.HTTP_PROTOCOLS)["auto"] = protocol(self._service, checked)

    def __serve_build_asgi_app__(self) -> Http:
        """What answers HTTP; Ray Serve asks for it once this object stands."""
        return Http(self._service, self._rpc, bare=False)

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Take over knobs: Ray Serve calls it once this object stands, and when they alone have changed.

        A coroutine, so that it is the event loop which does it, between two requests. HAProxy asks nothing of a replica
        before; by gRPC nothing can be asked, for who is limited by knobs shares its port with others.
        """
        self._args.with_knobs(user_config).tune(self._service)
        if self._rpc is not None:
            await self._rpc.start()

    def check_health(self) -> None:
        """Ray Serve replaces the replica when this raises."""
        self._service.check_health()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What Ray Serve asks for where the number of replicas may change; see ``scaling``."""
        return {"load": self._load.since()}


class ExplainReplica:
    """A copy of the bundle that explains its answers, in a process that predicts for nobody."""

    def __init__(self, args: dict[str, Any]) -> None:
        checked = Args.model_validate(args)
        self._limits = checked.explain or ExplainArgs()
        self._error_detail = checked.error_detail
        self._explainer = Explainer(checked.opened(), checked.notice, ignore_unknown=checked.ignore_unknown)
        # Replicas that predict come first on a busy machine; on Linux, niceness is a thread's.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="explain", initializer=os.nice, initargs=(NICENESS,))
        self._thread.submit(self._explainer.warm_up).result()

    async def __call__(self, body: bytes, identity: str) -> Reply:
        """The answer to a request for explanations; requests wait for each other, and their time runs."""
        until = time.monotonic() + self._limits.seconds
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._reply, body, identity, until)

    def _reply(self, body: bytes, identity: str, until: float) -> Reply:
        try:
            return Reply(200, self._explainer.body(body, identity, max_rows=self._limits.max_rows, until=until))
        except Refused as refusal:
            return refused(refusal if self._error_detail else without_detail(refusal))


def _handed_on(explain: DeploymentHandle, seconds: float) -> Explaining:
    """Ask the deployment that explains."""
    from ray.exceptions import RayActorError
    from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

    async def ask(body: bytes, identity: str) -> Reply:
        try:
            async with asyncio.timeout(seconds + 5):
                while True:
                    # One that is killed has done nothing that may not be done again.
                    with contextlib.suppress(RayActorError):
                        return await _answer(explain, body, identity)
                    await asyncio.sleep(AGAIN)
        except BackPressureError:
            raise Refused(
                429, "many requests for explanations wait already; try again.", headers={"retry-after": "1"}
            ) from None
        except DeploymentUnavailableError:
            raise Refused(
                503, "what explains is being started anew; try again.", headers={"retry-after": "5"}
            ) from None
        except TimeoutError:
            raise Refused(504, f"no explanation came within {seconds:g} s; try again, or send fewer rows.") from None

    return ask


async def _answer(explain: DeploymentHandle, body: bytes, identity: str) -> Reply:
    reply: Reply = await explain.remote(body, identity)
    return reply
