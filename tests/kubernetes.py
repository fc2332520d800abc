"""Manifests judged by Kubernetes' own schemas, and by KubeRay's."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
from ruamel.yaml import YAML

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

SCHEMAS = Path(__file__).parent / "schemas"
CORE = "io.k8s.api"
KINDS = {
    "NetworkPolicy": f"{CORE}.networking.v1.NetworkPolicy",
    "PodDisruptionBudget": f"{CORE}.policy.v1.PodDisruptionBudget",
    "Service": f"{CORE}.core.v1.Service",
}


def documents(text: str) -> list[dict[str, Any]]:
    return list(YAML(typ="safe").load_all(text))


@cache
def schema(kind: str) -> Validator:
    definitions = json.loads((SCHEMAS / "kubernetes-1.34.json").read_bytes())["definitions"]
    if kind == "RayService":
        root = _closed(YAML(typ="safe").load(SCHEMAS / "rayservice-v1.yaml"))
    else:
        root = {"$ref": f"#/definitions/{KINDS[kind]}"}
    return jsonschema.Draft202012Validator({**root, "definitions": definitions})


def problems(document: dict[str, Any]) -> list[str]:
    """What is wrong with a manifest; nothing is known of Prometheus' kinds."""
    if document["apiVersion"].startswith("monitoring.coreos.com/"):
        return []
    return [f"{error.json_path}: {error.message[:200]}" for error in schema(document["kind"]).iter_errors(document)]


def _closed(part: Any) -> Any:
    """The schema, with no key allowed that it does not name."""
    if not isinstance(part, dict):
        return part
    made = {name: _closed(value) for name, value in part.items() if name != "x-open"}
    if part.get("type") == "object" and "additionalProperties" not in part and not part.get("x-open"):
        made["additionalProperties"] = False
    return made
