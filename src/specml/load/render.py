"""A loaded spec written out in full, every default included."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from specml.document import Path, plain, quoted
from specml.values import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from specml.load import Loaded
    from specml.spec import Spec

PLAIN = re.compile(r"[A-Za-z0-9_./]([A-Za-z0-9_./+ -]*[A-Za-z0-9_./+-])?")
TRUTH = re.compile(r"y|n|yes|no|on|off", re.IGNORECASE)
COMMENT_COLUMN = 60


def values(spec: Spec) -> dict[str, Any]:
    """The whole spec as plain values: JSON types only, secrets as references."""
    found = spec.model_dump(mode="json")
    return {key: escaped(value) for key, value in found.items()}


def render(loaded: Loaded) -> str:
    """The whole spec as YAML; behind each value stands where it came from."""
    lines: list[str] = []
    _mapping(values(loaded.spec), (), loaded.origins, lines)
    return "\n".join(lines) + "\n"


def escaped(value: Any) -> Any:
    """``value`` with its texts written so that they are not taken for references."""
    if isinstance(value, dict):
        return {key: escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [escaped(item) for item in value]
    if isinstance(value, str) and not Secret.PATTERN.match(value):
        return value.replace("${", "\\${")
    return value


def _mapping(tree: dict[str, Any], path: Path, origins: Mapping[Path, str], lines: list[str]) -> None:
    indent = "  " * len(path)
    for key, value in tree.items():
        here = (*path, key)
        if isinstance(value, dict) and value:
            lines.append(f"{indent}{scalar(key)}:")
            _mapping(value, here, origins, lines)
        else:
            text = f"{indent}{scalar(key)}: {flow(value)}"
            lines.append(f"{text:<{COMMENT_COLUMN}}  # {origins.get(here, 'default')}")


def flow(value: Any) -> str:
    """Plain values on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{scalar(key)}: {flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(flow, value)) + "]"
    return scalar(value)


def scalar(value: Any) -> str:
    """One value that is no mapping and no list; what YAML 1.1 takes for a truth value is quoted."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (int, float)):
        return repr(value)
    bare = PLAIN.fullmatch(value) and plain(value) == value and not TRUTH.fullmatch(value)
    return str(value) if bare else quoted(value)
