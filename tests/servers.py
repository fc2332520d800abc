"""Real servers on loopback, as tests need them."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import pwd
import shutil
import socket
import socketserver
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import psutil
import pytest
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def free_port() -> int:
    """A port that nobody listens to now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextlib.contextmanager
def alone(bundle: Path, **args: Any) -> Iterator[tuple[int, psutil.Process]]:
    """One replica of a bundle without Ray, with these ``Args``; yields its port and process."""
    command = [sys.executable, "-m", "specml.serving.alone"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"bundle": str(bundle), **args}) + "\n")
        process.stdin.flush()
        yield json.loads(process.stdout.readline())["port"], psutil.Process(process.pid)
        process.stdin.close()


def _postgres() -> Path | None:
    """The folder of PostgreSQL's programs: on the path, or where Debian puts them."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((folder for folder in reversed(folders) if (folder / "postgres").exists()), None)


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """A PostgreSQL of its own; yields the URL of its database, of whose user everything is owned."""
    programs = _postgres()
    if programs is None:
        pytest.skip("PostgreSQL's programs are not installed: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="specml-postgres-"))
    port, data = free_port(), folder / "data"
    quiet: dict[str, Any] = {
        "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, **_unprivileged(folder)
    }  # fmt: skip
    made: list[str | Path] = [
        programs / "initdb",
        "-D",
        data,
        "-U",
        "owner",
        "--auth=trust",
        "-E",
        "UTF8",
        "--locale=C",
        "--no-sync",
    ]
    subprocess.run(made, check=True, **quiet)
    options = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}", "-F"]
    server = subprocess.Popen([programs / "postgres", "-D", data, "-p", str(port), *options], **quiet)
    try:
        _wait_for(port)
        while subprocess.run(
            [programs / "pg_isready", "-h", "127.0.0.1", "-p", str(port)], check=False, **quiet
        ).returncode:
            time.sleep(0.05)
        yield f"postgresql://owner@127.0.0.1:{port}/postgres"
    finally:
        server.terminate()
        server.wait(20)
        shutil.rmtree(folder)


def _wait_for(port: int) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise AssertionError(f"nothing listens at {port}")


@contextlib.contextmanager
def mariadb() -> Iterator[str]:
    """A MariaDB of its own; yields a SQLAlchemy URL of its database, of whose user everything is owned."""
    sbin = f"{os.environ.get('PATH', '')}:/usr/sbin"
    installs, program = (shutil.which(name, path=sbin) for name in ("mariadb-install-db", "mariadbd"))
    if installs is None or program is None:
        pytest.skip("MariaDB's programs are not installed: apt-get install mariadb-server")
    folder, port = Path(tempfile.mkdtemp(prefix="specml-mariadb-")), free_port()
    quiet: dict[str, Any] = {
        "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, **_unprivileged(folder)
    }  # fmt: skip
    made = [installs, "--no-defaults", f"--datadir={folder}/data", "--skip-test-db"]
    subprocess.run([*made, "--auth-root-authentication-method=normal"], check=True, **quiet)
    (folder / "users.sql").write_text(
        "create database data character set utf8mb4;\n"
        "create user owner@127.0.0.1 identified by 'a word';\n"
        "grant all on data.* to owner@127.0.0.1;\n"
    )
    options = {"datadir": folder / "data", "socket": folder / "socket", "pid-file": folder / "pid", "port": port}
    options |= {"bind-address": "127.0.0.1", "init-file": folder / "users.sql"}
    server = subprocess.Popen(
        [program, "--no-defaults", "--skip-name-resolve", *(f"--{key}={value}" for key, value in options.items())],
        **quiet,
    )
    try:
        _wait_for(port)
        yield f"mysql+pymysql://owner:a%20word@127.0.0.1:{port}/data"
    finally:
        server.terminate()
        server.wait(30)
        shutil.rmtree(folder)


def _unprivileged(folder: Path) -> dict[str, Any]:
    """How a server that refuses to run as root is started; ``folder`` is then its user's."""
    if os.getuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


Answer = tuple[int, dict[str, str], bytes]


class Web:
    """A web server whose pages a test writes; it counts what it was asked."""

    def __init__(self) -> None:
        self.pages: dict[str, Callable[[dict[str, str], dict[str, str]], Answer] | Answer] = {}
        """By path: an answer, or what makes one of the query and the headers."""
        self.asked: Counter[str] = Counter()
        """By method and path."""
        self.url = ""


def certificate(folder: Path, name: str) -> Path:
    """A key and a certificate of its own for a host, in one file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    whose = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now, loopback = datetime.now(UTC), x509.IPAddress(IPv4Address("127.0.0.1"))
    made = (
        x509.CertificateBuilder(whose, whose, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name), loopback]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / f"{name}.pem").write_bytes(private + made.public_bytes(pem))
    return folder / f"{name}.pem"


@contextlib.contextmanager
def web(certified: Path | None = None) -> Iterator[Web]:
    """A web server on loopback; with a certificate it speaks https."""
    served = Web()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self, *, body: bool) -> None:
            parts = urlsplit(self.path)
            served.asked[f"{self.command} {parts.path}"] += 1
            page = served.pages.get(parts.path, (404, {}, b""))
            if callable(page):
                query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
                page = page(query, {name.lower(): value for name, value in self.headers.items()})
            status, headers, content = page
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(content)

        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        @override
        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if certified is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certified)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    served.url = f"http{'s' if certified else ''}://127.0.0.1:{server.server_port}"
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def object_store() -> Iterator[str]:
    """An S3-compatible store on loopback; yields its address."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@contextlib.contextmanager
def encrypted(port: int, certified: Path) -> Iterator[int]:
    """TLS before the Kafka broker at ``port``, which knows none; the broker's answers name the port that is yielded."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certified)

    def pass_on(source: socket.socket, target: socket.socket, before: bytes, after: bytes) -> None:
        with contextlib.suppress(OSError), source, target, source.makefile("rb") as file:
            while len(head := file.read(4)) == 4:
                content = file.read(int.from_bytes(head, "big"))
                target.sendall(head + content.replace(before, after))

    class Handler(socketserver.BaseRequestHandler):
        @override
        def handle(self) -> None:
            here, there = (b"127.0.0.1" + one.to_bytes(4, "big") for one in (server.server_address[1], port))
            with contextlib.suppress(OSError):  # a client that does not trust the certificate
                client = context.wrap_socket(self.request, server_side=True)
                broker = socket.create_connection(("127.0.0.1", port))
                answers = threading.Thread(target=pass_on, args=(broker, client, there, here))
                answers.start()
                pass_on(client, broker, here, there)
                answers.join()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()


@contextlib.contextmanager
def mosquitto(certified: Path | None = None) -> Iterator[int]:
    """Mosquitto, which knows the user ``reader`` with the password ``a word``; with a certificate it speaks TLS."""
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if program is None:
        pytest.skip("Mosquitto is not installed: apt-get install mosquitto")
    folder, port = Path(tempfile.mkdtemp(prefix="specml-mosquitto-")), free_port()
    salt, rounds = b"salt-of-test", 101
    word = hashlib.pbkdf2_hmac("sha512", b"a word", salt, rounds)
    hashed = f"$7${rounds}${base64.b64encode(salt).decode()}${base64.b64encode(word).decode()}"
    (folder / "users").write_text(f"reader:{hashed}\n")
    encrypted = f"certfile {certified}\nkeyfile {certified}\n" if certified else ""
    (folder / "conf").write_text(
        f"listener {port} 127.0.0.1\n{encrypted}allow_anonymous false\npassword_file {folder}/users\nuser root\n"
    )
    server = subprocess.Popen([program, "-c", folder / "conf"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port)
        yield port
    finally:
        server.terminate()
        server.wait(20)
        shutil.rmtree(folder)
