"""One replica by itself, without Ray: ``python -m specml.serving.alone``.

Its ``Args`` come in as JSON on the standard input; once it listens on loopback, ``{"port": …}`` goes out as a line. It
lives until its standard input is closed: whoever started it, however that ends, does not leave it behind.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys

import uvicorn

from specml.serving.app import Args, config, run

IDLE = 3600
"""Seconds that a connection may be idle."""
BACKLOG = 1024
"""Connections that wait to be taken."""


async def serve(args: Args) -> None:
    """Answer until the standard input is closed."""
    # Named TCP, asyncio sends what it has at once; of any other socket, answers would wait for acknowledgements.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(BACKLOG)  # before the port is told
        service = args.service("alone")
        server = uvicorn.Server(config(service, args, idle=IDLE, log_level="error", rpc=args.rpc(service)))
        answering = asyncio.create_task(server.serve([listening]))
        sys.stdout.write(json.dumps({"port": listening.getsockname()[1]}) + "\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)
        server.should_exit = True
        await answering


if __name__ == "__main__":
    run(serve(Args.model_validate_json(sys.stdin.readline())))
