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

from specml.serving.app import Args, Http

IDLE = 3600
"""Seconds that a connection may be idle."""


async def serve(args: Args) -> None:
    """Answer until the standard input is closed."""
    # Named TCP, asyncio sends what it has at once; of any other socket, answers would wait for acknowledgements.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)  # before the port is told
        service = args.service("alone")
        config = uvicorn.Config(
            Http(service, args.rpc(service)), log_level="error", access_log=False, timeout_keep_alive=IDLE
        )
        server = uvicorn.Server(config)
        answering = asyncio.create_task(server.serve([listening]))
        sys.stdout.write(json.dumps({"port": listening.getsockname()[1]}) + "\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)
        server.should_exit = True
        await answering


if __name__ == "__main__":
    asyncio.run(serve(Args.model_validate_json(sys.stdin.readline())))
