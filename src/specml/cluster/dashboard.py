"""A Ray cluster as its dashboard's HTTP API gives it: packages, jobs and Serve applications."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from specml.errors import DeployFailed

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

SECONDS = 60.0
"""How long an answer may take: the first one starts Serve's controller."""
TRIES = 3


@dataclass(frozen=True)
class Dashboard:
    """The API at ``address``, asked with a ``token`` where the cluster wants one."""

    address: str
    token: str = ""
    key: str = "deployment.target"
    """Where ``address`` and ``token`` stand in the spec."""

    def version(self) -> str:
        """Ray's version there."""
        return str(self._json("GET", "/api/version")["ray_version"])

    def has(self, package: str) -> bool:
        """Whether the cluster holds the package."""
        return self._ask("GET", f"/api/packages/gcs/{package}", missing=True) is not None

    def upload(self, package: str, content: bytes) -> None:
        """Give the cluster a package; it forgets it some minutes later, unless something uses it."""
        self._ask("PUT", f"/api/packages/gcs/{package}", content)

    def submit(self, job: dict[str, Any]) -> str:
        """Start a job; returns its name."""
        return str(self._json("POST", "/api/jobs/", job)["submission_id"])

    def jobs(self, **metadata: str) -> dict[str, dict[str, str]]:
        """The jobs with these ``metadata`` that run, or have just begun to; each with all that it has."""
        found = {}
        for one in self._json("GET", "/api/jobs/"):
            has = one.get("metadata") or {}
            if one["status"] in ("PENDING", "RUNNING") and metadata.items() <= has.items():
                found[str(one["submission_id"])] = dict(has)
        return found

    def status(self, job: str) -> tuple[str, str]:
        """How a job is (``RUNNING``, …), and what Ray says of it."""
        told = self._json("GET", f"/api/jobs/{quote(job)}")
        return str(told["status"]), str(told.get("message") or "")

    def logs(self, job: str) -> str:
        """What a job printed."""
        return str(self._json("GET", f"/api/jobs/{quote(job)}/logs").get("logs") or "")

    def end(self, job: str) -> None:
        """Stop a job."""
        self._ask("POST", f"/api/jobs/{quote(job)}/stop", missing=True)

    def serve(self) -> dict[str, Any]:
        """What Ray Serve has and does: ``applications`` by name, ``http_options`` where it runs."""
        return self._json("GET", "/api/serve/applications/")  # type: ignore[no-any-return]

    def apply(self, config: dict[str, Any]) -> None:
        """Have Ray Serve come to this config: applications that it deployed so before and that are not in it go."""
        self._ask("PUT", "/api/serve/applications/", json.dumps(config).encode())

    def shut_down(self) -> None:
        """Stop Ray Serve with all applications."""
        self._ask("DELETE", "/api/serve/applications/")

    def _json(self, method: str, path: str, body: Any = None) -> Any:
        raw = self._ask(method, path, json.dumps(body).encode() if body is not None else None)
        try:
            return json.loads(raw or b"")
        except ValueError:
            raise self._failed(f"answers {path} with no JSON: it is no Ray dashboard.") from None

    def _ask(self, method: str, path: str, body: bytes | None = None, *, missing: bool = False) -> bytes | None:
        answer = self._once(method, path, body)
        for _ in range(TRIES):
            if answer.status == 503:  # its controller is just being started, or moves
                time.sleep(2)
                answer = self._once(method, path, body)
        if answer.status == 404 and missing:
            return None
        if answer.status in (401, 403):
            told = "asks for a token" if answer.status == 401 else "does not know this token"
            hint = f'Say {self.key}.token: "${{secret:RAY_TOKEN}}", and set the variable to the cluster\'s token.'
            raise self._failed(f"{told}.", hint)
        if answer.status >= 300:
            lines = answer.data.decode("utf-8", "replace").strip().splitlines() or ["no reason"]
            raise self._failed(f"refuses {method} {path} ({answer.status}): {lines[-1][:300]}")
        return answer.data

    def _once(self, method: str, path: str, body: bytes | None) -> BaseHTTPResponse:
        import urllib3

        headers = {"content-type": "application/octet-stream" if "packages" in path else "application/json"}
        if self.token:
            headers["authorization"] = f"Bearer {self.token}"
        url = f"{self.address.rstrip('/')}{path}"
        try:
            return urllib3.request(
                method, url, body=body, headers=headers, timeout=SECONDS, retries=False, redirect=False
            )
        except urllib3.exceptions.HTTPError as error:
            raise self._failed(f"can't be asked ({type(error).__name__}): no Ray dashboard answers.") from None

    def _failed(self, what: str, hint: str | None = None) -> DeployFailed:
        hint = hint or "It is the dashboard's address, as http://HEAD:8265, that a browser would open from here."
        return DeployFailed(f"{self.address} {what}", where=f"{self.key}.address", hint=hint)
