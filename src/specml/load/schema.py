"""The language as JSON Schema (draft 2020-12), so that editors complete and check it."""

from __future__ import annotations

from typing import Any

from specml.load.presets import Presets
from specml.spec import Spec

ID = "urn:specml:spec:1"
REFERENCE = {
    "type": "string",
    "pattern": r"^\$\{[^{}:]+\}$",
    "title": "Reference",
    "description": "The value of another key, as `${a.b}`.",
}


def schema() -> dict[str, Any]:
    """The schema of a spec file, from the blocks and components known now."""
    found = Spec.model_json_schema()
    definitions = found.pop("$defs", {})
    opened = {name: _open(one) for name, one in definitions.items()}
    root = _open(found)
    required = root.pop("required", [])
    root["properties"] = {"defaults": _defaults(), **root["properties"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": ID,
        **root,
        # What a spec lacks may come from its presets.
        "anyOf": [{"required": ["defaults"]}, {"required": required}],
        "$defs": {**opened, "Reference": REFERENCE},
    }


def _defaults() -> dict[str, Any]:
    from pathlib import Path

    presets = Presets(Path())
    choice = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    groups = dict.fromkeys(presets.groups(), choice)
    item = {"type": "object", "minProperties": 1, "maxProperties": 1, "properties": groups}
    return {
        "type": "array",
        "description": "Presets, by section; `_self_`, the spec itself, comes last: its values win.",
        "items": {"anyOf": [{"const": "_self_"}, item]},
    }


def _open(node: Any) -> Any:
    """``node`` with references allowed wherever a single value that is not text is wanted."""
    if isinstance(node, list):
        return [_open(item) for item in node]
    if not isinstance(node, dict):
        return node
    if "discriminator" in node:  # what only adds to a preset names no type, and may fit several
        node = {"anyOf" if key == "oneOf" else key: value for key, value in node.items()}
    return {key: _open_properties(value) if key == "properties" else _open(value) for key, value in node.items()}


def _open_properties(properties: dict[str, Any]) -> dict[str, Any]:
    return {name: one if name == "type" else _referable(_open(one)) for name, one in properties.items()}


def _referable(one: dict[str, Any]) -> dict[str, Any]:
    if one.get("type") == "string" and "enum" not in one and "pattern" not in one:
        return one
    kept = {key: value for key, value in one.items() if key in ("title", "description", "default")}
    rest = {key: value for key, value in one.items() if key not in kept}
    members = rest["anyOf"] if set(rest) == {"anyOf"} else [rest]
    return {**kept, "anyOf": [*members, {"$ref": "#/$defs/Reference"}]}
