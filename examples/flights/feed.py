"""Serve the example's weather as a web service would: JSON, page by page, on this machine alone.

``python feed.py [--port 8765]``, and ``GET /weather?page=1`` → ``{"observations": [...], "next": "/weather?page=2"}``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import polars as pl

ROWS = 5000
"""Observations on a page."""

WEATHER = pl.read_parquet(Path(__file__).parent / "data/weather.parquet").with_columns(
    pl.col("measured").dt.strftime("%Y-%m-%dT%H:%M:%SZ")
)


class Feed(BaseHTTPRequestHandler):
    """One resource, ``/weather``."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        page = parse_qs(asked.query).get("page", ["1"])[0]
        if asked.path != "/weather" or not page.isdecimal() or page == "0":
            self._answer(404, {"error": "GET /weather?page=1"})
            return
        start = (int(page) - 1) * ROWS
        rows = WEATHER[start : start + ROWS].to_dicts()
        following = {"next": f"/weather?page={int(page) + 1}"} if start + ROWS < WEATHER.height else {}
        self._answer(200, {"observations": rows, **following})

    def _answer(self, status: int, told: object) -> None:
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8765)
    with ThreadingHTTPServer(("127.0.0.1", parser.parse_args().port), Feed) as server:
        sys.stdout.write(f"weather at http://127.0.0.1:{server.server_address[1]}/weather\n")
        sys.stdout.flush()
        server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
