"""FastAPI as a person would write it by hand: ``python with_fastapi.py FOLDER PORT WORKERS [TOKEN CAPTURES]``.

A pydantic model of the body, an ``async def`` that runs the session inline (a call takes microseconds: a thread would
cost more), uvicorn with uvloop and httptools and no access log. ``/predict`` takes rows as lists, ``/named`` rows with
named columns. With a token it carries what specml carries: a bearer check in constant time, counters and a histogram
of prometheus_client, and every request and answer appended to a file by a thread.
"""

from __future__ import annotations

import hmac
import os
import queue
import sys
import threading
import time
import uuid
from pathlib import Path

import numpy as np
import orjson
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request
from model import Model
from pydantic import BaseModel, create_model

NAMES = [f"f{place:02}" for place in range(30)]


class Lists(BaseModel):
    """Rows as lists of thirty numbers."""

    rows: list[list[float]]


Row = create_model("Row", **dict.fromkeys(NAMES, (float, ...)))


class Named(BaseModel):
    """Rows with named columns."""

    rows: list[Row]


def bare() -> FastAPI:
    """The model behind two paths."""
    app, model = FastAPI(), Model(os.environ["BENCH_FOLDER"])

    @app.post("/predict")
    async def predict(body: Lists) -> dict[str, list[float]]:
        return {"predictions": model(np.array(body.rows, np.float32)).tolist()}

    @app.post("/named")
    async def named(body: Named) -> dict[str, list[float]]:
        rows = np.array([[getattr(row, name) for name in NAMES] for row in body.rows], np.float32)
        return {"predictions": model(rows).tolist()}

    return app


def everything() -> FastAPI:
    """The same with a bearer check, metrics and capture."""
    from prometheus_client import Counter, Histogram, make_asgi_app

    app, model = FastAPI(), Model(os.environ["BENCH_FOLDER"])
    token = os.environ["BENCH_TOKEN"].encode()
    requests = Counter("requests", "Requests by path and status.", ["path", "status"])
    rows_seen, seconds = Counter("rows", "Rows answered."), Histogram("seconds", "Time to answer.")
    kept: queue.SimpleQueue[dict] = queue.SimpleQueue()

    def keep() -> None:
        with (Path(os.environ["BENCH_CAPTURES"]) / f"{os.getpid()}.jsonl").open("ab") as file:
            while True:
                file.write(orjson.dumps(kept.get()) + b"\n")
                if kept.empty():
                    file.flush()

    threading.Thread(target=keep, daemon=True).start()

    async def known(request: Request) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
        if not hmac.compare_digest(given, token):
            raise HTTPException(401)

    def answered(path: str, began: float, rows: list, told: list[float]) -> dict[str, object]:
        identity = uuid.uuid4().hex
        kept.put({"id": identity, "at": time.time(), "rows": rows, "predictions": told})
        requests.labels(path, "200").inc()
        rows_seen.inc(len(rows))
        seconds.observe(time.perf_counter() - began)
        return {"id": identity, "predictions": told}

    @app.post("/predict", dependencies=[Depends(known)])
    async def predict(body: Lists) -> dict[str, object]:
        began = time.perf_counter()
        return answered("/predict", began, body.rows, model(np.array(body.rows, np.float32)).tolist())

    @app.post("/named", dependencies=[Depends(known)])
    async def named(body: Named) -> dict[str, object]:
        began = time.perf_counter()
        rows = [[getattr(row, name) for name in NAMES] for row in body.rows]
        return answered("/named", began, rows, model(np.array(rows, np.float32)).tolist())

    app.mount("/metrics", make_asgi_app())
    return app


if __name__ == "__main__":
    os.environ["BENCH_FOLDER"] = sys.argv[1]
    if len(sys.argv) > 4:
        os.environ["BENCH_TOKEN"], os.environ["BENCH_CAPTURES"] = sys.argv[4:6]
    uvicorn.run(
        "with_fastapi:everything" if len(sys.argv) > 4 else "with_fastapi:bare",
        factory=True,
        port=int(sys.argv[2]),
        workers=int(sys.argv[3]),
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
    )
