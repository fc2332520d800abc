"""Where a local server is reached: at which address, and whether over TLS."""

from __future__ import annotations

import http.client
import shutil
import ssl
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from specml.errors import DeployFailed
from specml.serving import launch
from specml.targets.local import Local
from specml.targets.local.cluster import Cluster
from tests.conftest import spec_of
from tests.servers import certificate, free_port

KEYS = {"auth": {"tokens": "${secret:TOKENS}"}}


@pytest.mark.parametrize(
    ("host", "serving", "refused"),
    [
        ("127.0.0.1", {}, False),
        ("::1", {}, False),
        ("0.0.0.0", {}, True),
        ("10.1.2.3", {}, True),
        ("::", {}, True),
        ("0.0.0.0", KEYS, False),
    ],
)
def test_beyond_loopback_it_wants_keys(host: str, serving: dict[str, Any], refused: bool) -> None:
    found = list(spec_of(serving=serving, deployment={"target": {"type": "local", "host": host}}).contradictions())
    assert [one.key for one in found] == ([("deployment", "target", "host")] if refused else [])
    assert not refused or "serving.auth" in found[0].hint


def test_whatever_it_listens_at_replicas_stay_on_loopback() -> None:
    spec = spec_of(serving=KEYS, deployment={"target": {"type": "local", "host": "0.0.0.0"}})
    config = YAML(typ="safe").load(spec.deployment.target.emit(spec)["serve.yaml"])
    assert config["http_options"] == {"host": "127.0.0.1", "port": 8000}
    assert "http://127.0.0.1:8000 and http://0.0.0.0:8000" in spec.deployment.target.in_words(spec)


@pytest.mark.parametrize(
    ("host", "tls", "lines"),
    [
        ("127.0.0.1", 0, ["127.0.0.1:8000"]),
        ("0.0.0.0", 0, ["0.0.0.0:8000"]),
        ("10.1.2.3", 0, ["127.0.0.1:8000", "10.1.2.3:8000"]),
        ("::1", 0, ["127.0.0.1:8000", "[::1]:8000 v6only"]),
        ("0.0.0.0", 8443, ["127.0.0.1:8000", "0.0.0.0:8443 ssl crt"]),
        ("::", 8443, ["127.0.0.1:8000", "[::]:8443 v6only ssl crt"]),
    ],
)
def test_where_haproxy_listens(host: str, tls: int, lines: list[str], tmp_path: Path) -> None:
    """As Ray's configuration is rewritten, and HAProxy itself finds it right."""
    if (haproxy := launch._haproxy()) is None:
        pytest.skip("HAProxy is not installed")
    (tmp_path / launch.CERTIFICATE).symlink_to(certificate(tmp_path, "localhost"))
    config = {"http_options": {"host": "127.0.0.1", "port": 8000}}
    wanted = launch.Wanted(
        folder=tmp_path, log=tmp_path, ports=1, cpus=1, host=host, tls_port=tls, config=config, seconds=1
    )
    (tmp_path / "front.sed").write_text(launch._front(wanted).replace("@", str(tmp_path)))
    timeouts = "".join(f"  timeout {side} 1s\n" for side in ("client", "connect", "server"))
    written = f"defaults\n  mode http\n{timeouts}frontend one\n    bind 127.0.0.1:8000\n    http-request deny\n"
    sed = ["sed", "-f", tmp_path / "front.sed"]
    told = subprocess.run(sed, input=written, capture_output=True, text=True, check=True).stdout
    (tmp_path / "haproxy.cfg").write_text(told)
    subprocess.run([haproxy, "-c", "-f", tmp_path / "haproxy.cfg"], capture_output=True, check=True)
    found = [line.strip().removeprefix("bind ") for line in told.splitlines() if "bind" in line]
    assert [one[: len(line)] for one, line in zip(found, lines, strict=True)] == lines


def test_a_certificate_without_its_key_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    whole = certificate(tmp_path, "localhost")
    made = Local.model_validate({"tls": {"certificate": "localhost.pem"}})
    assert made._front(tmp_path) == ("127.0.0.1", 8443, str(whole.resolve()))
    whole.write_bytes(whole.read_bytes().partition(b"-----END PRIVATE KEY-----\n")[2])
    for wrong in ("localhost.pem", "nothing.pem"):
        with pytest.raises(DeployFailed, match="holds no certificate with its key"):
            Local.model_validate({"tls": {"certificate": wrong}})._front(tmp_path)


def test_a_renewed_certificate_is_taken_with_no_connection_broken(tmp_path: Path) -> None:
    if (haproxy := launch._haproxy()) is None:
        pytest.skip("HAProxy is not installed")
    folder = Path(tempfile.mkdtemp(prefix="specml-front-"))  # a socket's path is short
    (folder / launch.CERTIFICATE).symlink_to(certificate(tmp_path, "localhost"))
    (folder / "node").mkdir()
    port = free_port()
    timeouts = "".join(f"  timeout {side} 9s\n" for side in ("client", "connect", "server"))
    (folder / "haproxy.cfg").write_text(
        f"global\n  stats socket {folder}/node/admin.sock level admin\ndefaults\n  mode http\n{timeouts}frontend one\n"
        f"  bind 127.0.0.1:{port} ssl crt {folder}/{launch.CERTIFICATE}\n  http-request return status 200\n"
    )
    made = Cluster("m", str(folder), 1, 1, 1, tls_port=port, certificate=str(tmp_path / "localhost.pem"))
    with subprocess.Popen([haproxy, "-db", "-f", folder / "haproxy.cfg"], stderr=subprocess.DEVNULL) as process:
        try:
            until = time.monotonic() + 20
            while not list(folder.glob("node/admin.sock")):
                assert time.monotonic() < until
                time.sleep(0.02)
            before = ssl.get_server_certificate(("127.0.0.1", port))
            trusting = ssl.create_default_context(cadata=before)
            kept = http.client.HTTPSConnection("localhost", port, context=trusting)
            kept.connect()
            certificate(tmp_path, "localhost")
            made.renew()
            after = ssl.get_server_certificate(("127.0.0.1", port))
            assert after != before
            assert after.replace("\n", "") in (tmp_path / "localhost.pem").read_text().replace("\n", "")
            kept.request("GET", "/")
            assert kept.getresponse().status == 200
            kept.close()
            (tmp_path / "localhost.pem").write_text("nothing")
            with pytest.raises(DeployFailed, match="does not take the certificate"):
                made.renew()
            assert ssl.get_server_certificate(("127.0.0.1", port)) == after
        finally:
            process.terminate()
    shutil.rmtree(folder)
    with pytest.raises(DeployFailed, match="does not run now"):
        made.renew()


@pytest.mark.parametrize("host", ["localhost", "", "0.0.0.0:80", "*"])
def test_a_host_is_an_address(host: str) -> None:
    with pytest.raises(ValueError, match="must be an IP address"):
        Local.model_validate({"host": host})
