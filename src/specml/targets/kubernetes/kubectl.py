"""kubectl, as far as a deployment needs it."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specml.errors import DeployFailed

SECONDS = 120


@dataclass(frozen=True)
class Kubectl:
    """The program at ``path``, for one context and namespace."""

    path: str
    context: str | None
    namespace: str

    def apply(self, folder: Path) -> None:
        """Bring the cluster to the manifests in a folder.

        Server-side: a RayService is too large for what kubectl would otherwise keep of it in an annotation.
        """
        self._run("apply", "--server-side", "--force-conflicts", "--field-manager=specml", "-f", str(folder))

    def patch(self, kind: str, name: str, change: dict[str, Any]) -> None:
        """Merge a change into an object."""
        self._run("patch", kind, name, "--type=merge", "--field-manager=specml", "-p", json.dumps(change))

    def delete(self, folder: Path) -> None:
        """Take what the manifests in a folder name from the cluster; what is not there is no error."""
        self._run("delete", "--ignore-not-found", "-f", str(folder))

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        """An object, or None when there is none of that name."""
        told = self._run("get", kind, name, "--ignore-not-found", "-o", "json")
        return dict(json.loads(told)) if told.strip() else None

    def pods(self, selector: str) -> list[dict[str, Any]]:
        """The pods with these labels."""
        return list(json.loads(self._run("get", "pods", "-l", selector, "-o", "json"))["items"])

    def _run(self, *arguments: str) -> str:
        command = [self.path, f"--context={self.context}", f"--namespace={self.namespace}", *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            raise self._failed(arguments[0], f"no answer within {SECONDS} s") from None
        if done.returncode:
            raise self._failed(arguments[0], (done.stderr.strip().splitlines() or ["no reason"])[-1])
        return done.stdout

    def _failed(self, verb: str, why: str) -> DeployFailed:
        hint = f"Does this work: kubectl --context {self.context} -n {self.namespace} get rayservices"
        return DeployFailed(f"kubectl {verb} failed: {why}", where="deployment.target.context", hint=hint)
