"""What a spec is served with: the options of the server, and the Ray Serve application around it.

The one place where targets learn it. An option that every server takes is a line in ``options``; one of servers on Ray
a line in ``ray_options``; both have a field in ``serving.app.Args``. What Ray itself does with the two deployments
stands in ``_model`` and ``_explain``, in the words of Ray Serve's config.

Ray starts other replicas when ``args`` change. Knobs, which replicas take over as they run, stand in ``user_config`` of
the deployment ``model`` instead, and so does the revision, by which a replica tells what it goes by.
"""

from __future__ import annotations

import copy
import io
import os
import secrets
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from specml.errors import DeployFailed
from specml.files import GENERATED, canonical_json, digest
from specml.values import Duration

if TYPE_CHECKING:
    from specml.releases import Release
    from specml.spec import Key, Spec

IMPORT_PATH = "specml.serving.app:build"
"""What is served, by name: the server knows nothing of specs, and this nothing of HTTP."""

POLICY = "specml.serving.scaling:replicas"
"""How many replicas a load takes, likewise."""

BUNDLE = "artifacts/bundle"
CAPTURES = ".specml/captures"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
RAY_SETTINGS = {
    # Replicas answer HTTP themselves and HAProxy stands in front, which is many times as fast as Ray's own proxy.
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_HAPROXY_NBTHREAD": "1",
    "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "60",
    "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "1s",
    # What was asked of a replica that dies, or says 503, is asked of another one: all that is asked can be asked twice.
    # Two of a few replicas may die at once: a third try and more find one that was started since. What HAProxy can't
    # hold in one of its buffers (16 KiB: a head, and 14 kB of body) is asked once. Larger ones could hold more; with
    # 64 KiB, HAProxy takes twice the processor time for each request, whatever its size.
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response 503",
    "RAY_SERVE_HAPROXY_RETRIES": "10",
    # Ray starts HAProxy anew after three checks that failed.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
    # A replica that goes is out of HAProxy's list within a second or two; 30 s is Ray's default.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "3",
    # Ray runs its workers at niceness 15 otherwise: anything else on the machine would come first.
    "RAY_worker_niceness": "0",
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""What Ray and Ray Serve read from the environment before any of their processes starts, on every machine. Whoever
starts a cluster sets it; of a running one it can only be told. The target ``local`` adds paths and ports of its own."""

MOST_WAITING = 65_536
"""Rows that may wait in a replica where nothing else is said; ``serving.batcher.QUEUE_MOST``."""
KNOBS = ("slo", "timeout", "max_rows", "rate_limit")
BATCHING_KNOBS = ("max_wait", "max_queue")
"""Of ``batching``."""
LIVE = tuple(f"serving.{knob}" for knob in (*KNOBS, *(f"batching.{one}" for one in BATCHING_KNOBS)))
"""Keys of the spec that a replica takes over as it runs; ``Args.tune`` does it."""

SHORTEST_TOKEN = 16
"""Characters: a token is guessed offline from its digest unless it is long."""


def options(spec: Spec, bundle: str = BUNDLE, host: str = "") -> dict[str, Any]:
    """The ``Args`` of any server of the spec, with or without Ray; JSON values.

    ``bundle``: the folder that the server finds the bundle in; ``host``: the address that it listens at, where the
    target knows.
    """
    serving, batching = spec.serving, spec.serving.batching
    args: dict[str, Any] = {
        "bundle": bundle,
        "batching": {
            "max_batch_size": batching.max_batch_size,
            "max_wait": float(batching.max_wait),
            "max_queue": None if batching.max_queue == "auto" else batching.max_queue,
        },
        "slo": None if serving.slo is None else float(serving.slo),
        "timeout": float(serving.timeout),
        "fast_path": serving.fast_path == "auto",
        "max_rows": serving.max_rows,
        "max_body": serving.max_body,
    }
    if batching.buckets != "auto":
        args["batching"]["buckets"] = list(batching.buckets)
    if serving.device != "auto":
        args["device"] = serving.device
    if serving.cache is not None:
        args["cache"] = {"rows": serving.cache.rows, "ttl": float(serving.cache.ttl)}
    if serving.auth is not None:
        args["auth"] = {"keys": {name: _key(key) for name, key in serving.auth.named.items()}}
    if serving.rate_limit is not None:
        args["rate_limit"] = serving.rate_limit.model_dump(exclude={"burst"}) | {
            "burst": float(serving.rate_limit.burst)
        }
    # A page in a browser can't guess a key: with keys, its requests are refused by whatever name they come.
    if hosts := serving.hosts or (dict.fromkeys((*LOOPBACK, host)) if host and serving.auth is None else ()):
        args["hosts"] = list(hosts)
    if serving.unknown_fields == "ignore":
        args["ignore_unknown"] = True
    if serving.error_detail == "none":
        args["error_detail"] = False
    if notice := {one.name: one.value for one in spec.obligations if one.told}:
        args["notice"] = notice
    return args


def _key(key: Key) -> dict[str, Any]:
    told: dict[str, Any] = {"env": key.token.name}
    if key.scopes != type(key).model_fields["scopes"].default:
        told["scopes"] = list(key.scopes)
    if key.until is not None:
        told["until"] = key.until
    return told


def ray_options(
    spec: Spec, bundle: str = BUNDLE, captures: str = CAPTURES, *, host: str = "", grpc_host: str = "127.0.0.1"
) -> dict[str, Any]:
    """``options`` and what only servers on Ray do: GPUs, gRPC, explanations, captured rows (kept in ``captures``).

    ``grpc_host``: the address that replicas answer gRPC at themselves, each on its own machine.
    """
    args = options(spec, bundle, host)
    args["gpus"] = spec.serving.replicas.gpus
    if (grpc := spec.serving.grpc) is not None:
        args["grpc"] = {"port": grpc.port, "host": grpc_host}
    if (explain := spec.serving.explain) is not None:
        args["explain"] = {"max_rows": explain.max_rows, "seconds": float(explain.timeout)}
    if (capture := spec.monitoring.capture) is not None:
        args["capture"] = {"folder": captures, "share": capture.share}
        kept = [Duration.parse(one.value) for one in spec.obligations if one.name == "capture_retention"]
        if kept:
            args["capture"]["retention"] = min(float(one) for one in kept if one is not None)
    return args


def serve_config(spec: Spec, args: dict[str, Any], *, host: str, port: int, proxies: str) -> dict[str, Any]:
    """The Ray Serve config, as ``serve deploy`` takes it: replicas that predict, beside those that explain.

    ``args`` is what ``ray_options`` gave; ``proxies`` Ray's ``proxy_location``.
    """
    fixed, knobs = _apart(args)
    application = {
        "name": spec.name,
        "route_prefix": "/",
        "import_path": IMPORT_PATH,
        "args": fixed,
        "deployments": [{**_model(spec), "user_config": knobs}, *_explain(spec)],
    }
    return {
        "proxy_location": proxies,
        "http_options": {"host": host, "port": port},
        "applications": [application],
    }


def config_text(config: dict[str, Any], told: str) -> str:
    """The config as a file for people: YAML that says that it is generated, and ``told``."""
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.default_flow_style = False
    text = io.StringIO()
    text.write(f"# {GENERATED} {told}\n")
    yaml.dump(config, text)
    return text.getvalue()


def settle(
    spec: Spec,
    config: dict[str, Any],
    release: Release,
    *,
    bundle: str,
    captures: str,
    known: dict[str, Any],
    tokens: bool = True,
) -> None:
    """Complete the config with what only a deploy knows: the release, digests of the tokens, the revision.

    ``bundle``: where the servers find the release's bundle; ``captures``: the folder of all releases' captured rows;
    ``known``: the ``args`` that are live, empty where nothing is; ``tokens``: whether servers are given digests, rather
    than the variable itself.

    Raises:
        DeployFailed: a token is missing or easily guessed.
    """
    args = config["applications"][0]["args"]
    args["digest"] = release.entry.bundle
    args["bundle"] = bundle
    args["specml"] = version("specml")  # another one's code takes other processes
    if "capture" in args:
        args["capture"]["folder"] = f"{captures}/{release.folder.name}"
    if spec.serving.auth is not None and tokens:
        args["auth"]["keys"] = _settled(args["auth"]["keys"], known.get("auth", {}).get("keys", {}))
    _revise(config)


def asked(config: dict[str, Any]) -> dict[str, Any]:
    """What of a config somebody asked for, not what was measured."""
    kept = [
        {**one, "args": {k: v for k, v in one["args"].items() if k != "costs"}}
        for one in config.get("applications", [])
    ]
    return {**config, "applications": kept}


def revision(config: dict[str, Any]) -> str | None:
    """What the replicas of a config tell in ``/healthz``; None before ``settle``."""
    found: str | None = _model_of(config).get("user_config", {}).get("revision")
    return found


def generation(config: dict[str, Any]) -> str:
    """Names all that replicas do not take over as they run: other processes begin with another one."""
    return _digest(_fixed(asked(config)))


def in_place(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Whether what serves the one config goes on with the other, with no replica started."""
    return bool(before) and _fixed(before) == _fixed(after)


def tuned(config: dict[str, Any], spec: Spec) -> dict[str, Any]:
    """The config, live or about to be, with the knobs of ``spec`` and all else as it is.

    Raises:
        DeployFailed: a knob does not go with what stays.
    """
    changed = copy.deepcopy(config)
    _, knobs = _apart(options(spec))
    queue, most = knobs["batching"]["max_queue"], changed["applications"][0]["args"]["batching"]["max_batch_size"]
    if queue is not None and queue < most:
        raise DeployFailed(
            f"is {queue}, less than one batch of {most} as it is live.",
            where="serving.batching.max_queue",
            hint="`specml deploy` changes both.",
        )
    let_in = _let_in(queue, most)
    _model_of(changed).update(user_config=knobs, max_ongoing_requests=let_in)
    _revise(changed)
    return changed


def knobs(of: Spec | dict[str, Any]) -> dict[str, str]:
    """The knobs of a spec, or of a config, by their keys in a spec and as a spec writes them."""
    found = _model_of(of).get("user_config", {}) if isinstance(of, dict) else _apart(options(of))[1]
    if not found:
        return {}
    queue, rate = found["batching"]["max_queue"], found.get("rate_limit")
    told: dict[str, Any] = {
        "slo": _duration(found["slo"]),
        "timeout": _duration(found["timeout"]),
        "max_rows": found["max_rows"],
        "batching.max_wait": _duration(found["batching"]["max_wait"]),
        "batching.max_queue": "auto" if queue is None else queue,
    }
    if rate is None:
        told["rate_limit"] = None
    else:
        told |= {"rate_limit.requests": rate["requests"], "rate_limit.rows": rate["rows"]}
        told["rate_limit.burst"] = _duration(rate["burst"])
    return {f"serving.{key}": _written(value) for key, value in told.items()}


def beside(live: dict[str, str], spec: Spec) -> dict[str, str]:
    """Those ``knobs`` of what is live that the spec has otherwise."""
    asked = knobs(spec)
    # Where the spec limits nothing, what does not limit is not otherwise.
    unsaid = "null" if "serving.rate_limit" in asked else None
    return {key: value for key, value in live.items() if asked.get(key, unsaid) != value}


def _written(value: Any) -> str:
    if isinstance(value, float) and not isinstance(value, Duration):
        return repr(value).removesuffix(".0")
    return "null" if value is None else str(value)


def _duration(seconds: float | None) -> Duration | None:
    return None if seconds is None else Duration(seconds)


def _apart(args: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What takes another process, and the knobs; a knob that has no value is left out."""
    batching = args["batching"]
    fixed = {name: value for name, value in args.items() if name not in KNOBS}
    fixed["batching"] = {name: value for name, value in batching.items() if name not in BATCHING_KNOBS}
    live = {name: args[name] for name in KNOBS if name in args}
    return fixed, {**live, "batching": {name: batching[name] for name in BATCHING_KNOBS}}


def _model_of(config: dict[str, Any]) -> dict[str, Any]:
    """The deployment of what predicts; empty where there is none."""
    for application in config.get("applications", []):
        for deployment in application["deployments"]:
            if deployment["name"] == "model":
                found: dict[str, Any] = deployment
                return found
    return {}


def _fixed(config: dict[str, Any]) -> dict[str, Any]:
    """All but what a replica takes over as it runs."""
    told = copy.deepcopy(config)
    for name in ("user_config", "max_ongoing_requests"):
        _model_of(told).pop(name, None)
    return told


def _revise(config: dict[str, Any]) -> None:
    """Name what is asked for, its knobs too, so that a deploy can tell when all replicas go by it."""
    knobs = _model_of(config)["user_config"]
    knobs.pop("revision", None)
    knobs["revision"] = _digest(asked(config))


def _digest(config: dict[str, Any]) -> str:
    return digest(canonical_json(config)).removeprefix("sha256:")[:16]


def _settled(keys: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """The keys that have not expired, with their digests; the salt of ``known`` ones is kept.

    Raises:
        DeployFailed: none is left, or one is not set or easily guessed.
    """
    today = datetime.now(UTC).date().isoformat()
    living = {name: key for name, key in keys.items() if key.get("until", today) >= today}
    if not living:
        raise DeployFailed(
            "every key has expired: nobody could ask.", where="serving.auth.keys", hint="Say a later day in `until`."
        )
    before = next((digest for key in known.values() for digest in key["digests"]), "")
    salt = before.partition("$")[0] or secrets.token_hex(16)  # one for all: a request is hashed once
    return {name: {**key, "digests": token_digests(key["env"], salt)} for name, key in living.items()}


def token_digests(variable: str, salt: str) -> list[str]:
    """``salt$digest`` of each key in the environment variable.

    Raises:
        DeployFailed: there is no key, or one that is easily guessed.
    """
    tokens = [token.strip() for token in os.environ.get(variable, "").split(",") if token.strip()]
    if not tokens or min(map(len, tokens)) < SHORTEST_TOKEN:
        wrong = f"holds a key of fewer than {SHORTEST_TOKEN} characters" if tokens else "is not set"
        raise DeployFailed(
            f"the environment variable {variable} {wrong}.",
            where="serving.auth",
            hint=f'Make one: export {variable}="$(openssl rand -hex 32)"',
        )
    return [f"{salt}${sha256(f'{salt}{token}'.encode()).hexdigest()}" for token in tokens]


def in_words(spec: Spec) -> str:
    """How many replicas there are, and what guards them."""
    replicas, explain = spec.serving.replicas, spec.serving.explain
    many = f"{replicas.min}" if replicas.min == replicas.max else f"{replicas.min} to {replicas.max}"
    told = f"{many} replica{'s' if replicas.max > 1 else ''} of {replicas.cpus:g} CPU"
    told += f" and {replicas.gpus:g} GPU" if replicas.gpus else ""
    told += f", {explain.replicas} that explain{'s' if explain.replicas == 1 else ''}" if explain is not None else ""
    guard = "asked with a token" if spec.serving.auth is not None else "open to who reaches it"
    return f"{told}, {guard}{' by HTTP and gRPC' if spec.serving.grpc is not None else ''},"


def cpus(spec: Spec) -> float:
    """Logical CPUs that all replicas reserve together when there are as many as there may be."""
    replicas, explain = spec.serving.replicas, spec.serving.explain
    return replicas.cpus * replicas.max + (explain.replicas if explain is not None else 0)


def _model(spec: Spec) -> dict[str, Any]:
    replicas, batching = spec.serving.replicas, spec.serving.batching
    model: dict[str, Any] = {"name": "model"}
    if replicas.min == replicas.max:
        model["num_replicas"] = replicas.min
    else:
        model["autoscaling_config"] = {
            "min_replicas": replicas.min,
            "max_replicas": replicas.max,
            "policy": {"policy_function": POLICY},
            "metrics_interval_s": 2.0,
            "look_back_period_s": 10.0,
            "upscale_delay_s": 10.0,
            # A replica takes seconds to start: it had better not go with the first quiet minute.
            "downscale_delay_s": 300.0,
        }
    queue = None if batching.max_queue == "auto" else batching.max_queue
    model["max_ongoing_requests"] = _let_in(queue, batching.max_batch_size)
    model["ray_actor_options"] = {"num_cpus": replicas.cpus, "num_gpus": replicas.gpus}
    model["health_check_period_s"] = 5
    model["health_check_timeout_s"] = 15
    return model


def _let_in(max_queue: int | None, max_batch_size: int) -> int:
    """Requests that Ray lets in: a replica's own queue says no, and enough must reach it to be told so."""
    return 2 * ((MOST_WAITING if max_queue is None else max_queue) + max_batch_size)


def _explain(spec: Spec) -> list[dict[str, Any]]:
    """The deployment that explains, if there is one; few requests wait, for each takes long."""
    if spec.serving.explain is None:
        return []
    return [
        {
            "name": "explain",
            "num_replicas": spec.serving.explain.replicas,
            "max_ongoing_requests": 4,
            "max_queued_requests": 16,
            "ray_actor_options": {"num_cpus": 1.0},
            "health_check_period_s": 5,
            "health_check_timeout_s": 15,
        }
    ]
