"""The page for people: what it may load, and in a real browser what it shows."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import html
import json
import re
import shutil
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn

from specml.bundle import open_bundle
from specml.serving.app import Args, Http
from specml.serving.openapi import openapi
from specml.serving.page import HEADERS, PAGE
from tests.servers import free_port, web

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from specml.serving.service import Service
    from tests.unit.serving.conftest import Asked

KEY = "a-key-of-somebody-who-reads"


def test_it_is_answered_to_everybody_with_a_policy_that_allows_its_own_script_alone(get: Callable[..., Asked]) -> None:
    answer = get("/docs")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    text = answer.body.decode()
    for tag in ("script", "style"):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert f"'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'" in policy
    assert not re.search(r"https?://|src=|@import|innerHTML|\bstyle=|\son\w+=", text), (
        "nothing is loaded or put in as HTML"
    )
    assert "access-control-allow-origin" not in {*answer.headers, *HEADERS}


def test_it_holds_nothing_of_the_model(bundle: Path) -> None:
    auth = {"keys": {"web": {"env": "NONE", "digests": ["salt$0"]}}}
    for args in ({"auth": auth}, {"error_detail": False}):
        service = Args.model_validate({"bundle": str(bundle), **args}).service("r1")
        assert not any(name.encode() in PAGE for name in ("census", "workclass", "income"))
        service.close()


# In a real browser


@contextlib.contextmanager
def serving(service: Service) -> Iterator[str]:
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(Http(service), port=port, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 30
    while not server.started:
        assert time.monotonic() < until
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


def dom(url: str) -> str:
    """The page as it stands once its script has run."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000", "--dump-dom", url]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.mark.sweep
def test_a_browser_shows_columns_limits_and_a_curl_line_that_works_as_pasted(bundle: Path) -> None:
    service = Args.model_validate({"bundle": str(bundle), "max_rows": 50}).service("r1")
    with serving(service) as url:
        shown = dom(f"{url}/docs")
        assert '<h1 id="name">census</h1>' in shown
        for text in (
            "workclass",
            "Seen in training: whole numbers from 17 to 90.",
            "50 rows in one request",
            "/openapi.json",
        ):
            assert text in shown
        assert shown.count("<label") >= 4
        (line,) = re.findall(r'<code id="curl">(.*?)</code>', shown, re.DOTALL)
        done = subprocess.run(["sh", "-c", html.unescape(line)], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["predictions"][0]["label"] in (0, 1)
    service.close()


@pytest.mark.sweep
def test_names_that_are_html_are_shown_as_text(bundle: Path) -> None:
    evil = "<img src=x onerror=document.title=1>'\"</script><script>document.title=2</script>"
    contract = open_bundle(bundle).contract
    first, *others = contract.inputs
    altered = contract.model_copy(
        update={
            "inputs": (
                first.model_copy(update={"name": evil}),
                *others[:-1],
                others[-1].model_copy(update={"categories": (evil,)}),
            ),
            "target": evil,
        }
    )
    document = openapi(altered, version="1", max_rows=1, max_body=1, explained_rows=0, secured=False, notice={})
    with web() as site:
        site.pages["/docs"] = (200, HEADERS, PAGE)
        site.pages["/openapi.json"] = (200, {"content-type": "application/json"}, json.dumps(document).encode())
        shown = dom(f"{site.url}/docs")
    assert "<img" not in shown
    assert shown.count("<script>") == 1
    assert shown.count(html.escape(evil, quote=False)) >= 2
    assert "<title>census</title>" in shown


@pytest.mark.sweep
def test_without_a_key_it_asks_for_one_and_shows_nothing(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB", KEY)
    args: dict[str, Any] = {"bundle": str(bundle), "auth": {"keys": {"web": {"env": "WEB"}}}}
    service = Args.model_validate(args).service("r1")
    with serving(service) as url:
        shown = dom(f"{url}/docs")
    assert re.search(r'<section id="locked">', shown)
    assert not any(name in shown for name in ("census", "workclass", "income"))
    service.close()
