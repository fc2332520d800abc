"""The server of an archive: one replica on plain uvicorn, without Ray.

``runtime/__main__.py`` of the archive calls ``main`` with the folder that it was unpacked to. There, ``edge.json``
holds host, port and ``Args``; ``known.json`` rows and the answers that they had where the archive was made.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import json
import math
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn

from specml.errors import DeployFailed, SpecmlError
from specml.serving.announce import example_row
from specml.serving.app import Args, config, run
from specml.serving.refusal import Refused

if TYPE_CHECKING:
    from specml.bundle import Contract
    from specml.serving.service import Service

IDLE = 75
"""Seconds that a connection may be idle."""
BACKLOG = 1024
"""Connections that wait to be taken."""
SHORTEST_TOKEN = 16
"""Characters, where others than this machine may try tokens."""
CLOSE, NEAR_NOTHING = 1e-4, 1e-6
"""How far, relative and absolute, a known answer may lie off: graphs compute in float32, and processors differ in the
order in which they sum."""


def main(folder: Path, arguments: list[str]) -> int:
    """Serve until interrupted, or test; returns the exit status."""
    options = json.loads((folder / "edge.json").read_bytes())
    parser = argparse.ArgumentParser(prog="run", description="Serve the model of this archive.")
    parser.add_argument("--host", default=options["host"], help="the address to listen at (%(default)s)")
    parser.add_argument("--port", type=int, default=options["port"], help="0: any free one (%(default)s)")
    parser.add_argument("--self-test", action="store_true", help="check files and known answers, and end")
    parser.add_argument("--known-answers", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    args = Args.model_validate({**options["args"], "bundle": str(folder / "bundle")})
    try:
        if asked.known_answers:
            sys.stdout.write(json.dumps(asyncio.run(_known(args))))
        elif asked.self_test:
            _self_test(args, json.loads((folder / "known.json").read_bytes()))
        else:
            _refuse_open(asked.host, args)
            run(_serve(args, asked.host, asked.port))
    except SpecmlError as error:
        sys.stderr.write(f"{error}\n")
        return error.status
    return 0


def _refuse_open(host: str, args: Args) -> None:
    """Make sure that who is on other machines needs a token, and none that is easily guessed."""
    if host == "localhost":
        return
    try:
        if ipaddress.ip_address(host).is_loopback:
            return
    except ValueError:
        raise DeployFailed(f"{host!r} is no IP address.", where="--host") from None
    if args.auth is None:
        raise DeployFailed(
            f"{host} is not loopback, and the archive was made without tokens: anyone could ask.",
            where="--host",
            hint="Say serving.auth in the spec and deploy again, or stay at 127.0.0.1 behind a proxy that asks.",
        )
    for key in args.auth.keys.values():
        if any(len(one) < SHORTEST_TOKEN for one in key.held()):
            raise DeployFailed(f"{key.env} holds a key of fewer than {SHORTEST_TOKEN} characters.")


async def _serve(args: Args, host: str, port: int) -> None:
    hosts = (*args.hosts, host) if args.hosts else ()
    service = args.model_copy(update={"hosts": hosts}).service("edge")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named TCP, asyncio sends what it has at once; of any other socket, answers would wait for acknowledgements.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except OSError as error:
            raise DeployFailed(f"{host}:{port} can't be listened at: {error.strerror}.", where="--port") from None
        listening.listen(BACKLOG)
        at = f"[{host}]" if family == socket.AF_INET6 else host
        sys.stdout.write(f"Answering at http://{at}:{listening.getsockname()[1]}\n")
        sys.stdout.flush()
        await uvicorn.Server(config(service, args, idle=IDLE, log_level="warning")).serve([listening])


def _self_test(args: Args, known: list[dict[str, Any]]) -> None:
    """Ask what is known, the whole way but HTTP.

    Raises:
        DeployFailed: an answer is another than where the archive was made.
    """
    found = asyncio.run(_answers(args, [one["row"] for one in known]))
    wrong = [place for place, (one, two) in enumerate(zip(known, found, strict=True)) if not _same(one["answer"], two)]
    if wrong:
        what = f"{len(wrong)} of {len(known)} known rows have another answer here than where the archive was made"
        raise DeployFailed(f"{what}: the first is row {wrong[0]}.", where="known.json")
    sys.stdout.write(f"The files are whole, and all {len(known)} known rows have their answers.\n")


async def _known(args: Args) -> list[dict[str, Any]]:
    rows = _rows(args.opened().contract)
    return [{"row": row, "answer": answer} for row, answer in zip(rows, await _answers(args, rows), strict=True)]


async def _answers(args: Args, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The answer to each row alone; who asks is not known by a token."""
    service = args.model_copy(update={"auth": None, "rate_limit": None, "error_detail": True}).service("self-test")
    try:
        return [await _answer(service, row) for row in rows]
    finally:
        service.close()


async def _answer(service: Service, row: dict[str, Any]) -> dict[str, Any]:
    headers = {"content-type": "application/json"}
    try:
        route = service.admit("POST", "/predict", headers)
    except Refused as refusal:
        return {"status": refusal.http}
    reply = await service.answer(route, json.dumps({"rows": [row]}).encode(), headers)
    return {"status": reply.status, "predictions": json.loads(reply.body).get("predictions")}


def _rows(contract: Contract) -> list[dict[str, Any]]:
    """Rows made of the contract alone, none of anybody: in the middle, at both ends, with nothing that may lack."""
    middle = example_row(contract)
    columns = [column for column in contract.inputs if column.name in middle]
    ends: list[dict[str, Any]] = [{}, {}, {}]
    for column in columns:
        if column.kind == "numeric" and column.minimum is not None and column.maximum is not None:
            ends[0][column.name], ends[1][column.name] = column.minimum, column.maximum
        elif column.kind == "categorical" and column.categories:
            ends[1][column.name] = column.categories[-1]
        elif column.kind == "boolean":
            ends[0][column.name] = False
        if column.nullable:
            ends[2][column.name] = None
    return [middle, *({**middle, **end} for end in ends)]


def _same(one: Any, two: Any) -> bool:
    """Whether two JSON values are, but for how processors round."""
    if isinstance(one, float) and isinstance(two, float):
        return math.isclose(one, two, rel_tol=CLOSE, abs_tol=NEAR_NOTHING)
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(_same(one[name], two[name]) for name in one)
    if isinstance(one, list) and isinstance(two, list):
        return len(one) == len(two) and all(map(_same, one, two))
    return bool(one == two)
