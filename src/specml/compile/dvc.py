"""Plan → the files that DVC reads: dvc.yaml, params.yaml and .gitignore.

What a person added stays: stages without our mark, other top-level keys, and lines of .gitignore outside our block.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from specml.errors import SpecmlError
from specml.files import canonical_json, digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from specml.plan import Plan, Stage

IGNORED = ("/.specml/", "/artifacts/", "/dvc_plots/")
"""Ours to ignore, for DVC takes its own entries back when a stage fails."""

MARK = {"by": "specml"}
HEADER = "# Made by `specml compile` from the spec. Stages of your own may stand beside ours.\n"


def dvc_yaml(plan: Plan, existing: str) -> str:
    """The content of dvc.yaml, ``existing`` being what stands there now.

    Raises:
        SpecmlError: a stage of the user's has the name of one of ours, or ``existing`` is no mapping.
    """
    ours = {stage.name: _entry(stage) for stage in plan.stages}
    before = _read(existing, "dvc.yaml") if existing.strip() else None
    if before is None:
        return HEADER + _write({"stages": ours})
    if not isinstance(before, dict) or not isinstance(before.get("stages", {}), dict):
        raise SpecmlError("is not a mapping with stages.", where="dvc.yaml", hint="Move it away and compile again.")
    stages = before.setdefault("stages", {})
    for name in ours:
        if name in stages and not _is_ours(stages[name]):
            raise SpecmlError(
                f"has a stage {name!r} of your own, which specml needs.", where="dvc.yaml", hint="Rename it."
            )
    if {name: entry for name, entry in stages.items() if _is_ours(entry)} == ours:
        return existing
    for name in [name for name, entry in stages.items() if _is_ours(entry) and name not in ours]:
        del stages[name]
    for name, entry in ours.items():
        stages[name] = entry
    text = _write(before)
    return text if text.startswith("#") else HEADER + text


def params_yaml(plan: Plan, spec: str, overrides: Sequence[str]) -> str:
    """The content of params.yaml.

    Its head says what it was compiled from (``spec`` is relative to the project), so that later edits are noticed.
    """
    return (
        "# Made by `specml compile` from the spec: edit that instead.\n"
        f"# spec: {json.dumps(spec)}\n"
        f"# overrides: {json.dumps(list(overrides))}\n"
        f"# compiled: {json.dumps(compiled_digest(plan.params))}\n"
        f"{_write(plan.params)}"
    )


def compiled_digest(params: Mapping[str, Any]) -> str:
    """What identifies a compile's outcome."""
    return digest(canonical_json(params))


class Parameters(NamedTuple):
    """What stands in a params.yaml; the last three are empty where it was not compiled."""

    values: dict[str, Any]
    compiled: str
    spec: str
    overrides: tuple[str, ...]


def read_params(text: str) -> Parameters:
    """The parameters in a params.yaml and what its head says.

    Raises:
        SpecmlError: it is not YAML.
    """
    head: dict[str, Any] = {}
    for key, value in re.findall(r"^# (compiled|spec|overrides): (.*)$", text, re.MULTILINE):
        with contextlib.suppress(ValueError):  # somebody wrote into it: then it is as good as missing
            head[key] = json.loads(value)
    return Parameters(
        json.loads(_params(text)), head.get("compiled", ""), head.get("spec", ""), tuple(head.get("overrides", ()))
    )


@lru_cache(maxsize=4)
def _params(text: str) -> str:
    """The values in a params.yaml as JSON: parsing takes long, and the stages of a run are forked from one process."""
    values = _read(text, "params.yaml")
    return json.dumps(_plain(values) if isinstance(values, dict) else {})


def _plain(node: Any) -> Any:
    """``node`` in JSON's types, keys as text; what else somebody wrote in becomes text too."""
    if isinstance(node, dict):
        return {str(key): _plain(item) for key, item in node.items()}
    if isinstance(node, list):
        return [_plain(item) for item in node]
    return json.loads(json.dumps(node, default=str))


def gitignore(existing: str) -> str:
    """.gitignore with our block in it."""
    block = "# >>> specml\n" + "".join(f"{line}\n" for line in IGNORED) + "# <<< specml\n"
    pattern = re.compile(r"^# >>> specml\n.*?^# <<< specml\n", re.MULTILINE | re.DOTALL)
    if pattern.search(existing):
        return pattern.sub(lambda _: block, existing)
    return existing + ("" if existing.endswith("\n") or not existing else "\n") + block


def _entry(stage: Stage) -> dict[str, Any]:
    content: dict[str, Any] = {
        "desc": stage.summary,
        "cmd": f"exec specml stage {stage.name}" + (" ${key}" if stage.each else ""),
        "deps": list(stage.deps),
        "params": list(stage.params),
        "outs": [{out: {"persist": True}} for out in stage.outs] if stage.keeps else list(stage.outs),
        "metrics": [{path: {"cache": False}} for path in stage.metrics],
        "plots": [
            {plot.path: {"cache": False, "template": plot.template, "x": plot.x, "y": plot.y, "title": plot.title}}
            for plot in stage.plots
        ],
        "always_changed": stage.always,
        "meta": dict(MARK),
    }
    content = {key: value for key, value in content.items() if value}
    if stage.items:
        return {"foreach": dict(stage.items), "do": content}
    return {"foreach": f"${{{stage.each}}}", "do": content} if stage.each else content


def _is_ours(entry: Any) -> bool:
    body = entry.get("do", entry) if isinstance(entry, dict) else {}
    return isinstance(body, dict) and body.get("meta") == MARK


def _yaml() -> Any:
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width = 4096
    yaml.allow_unicode = True
    yaml.representer.add_representer(type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", "null"))
    return yaml


def _read(text: str, name: str) -> Any:
    from ruamel.yaml.error import YAMLError

    try:
        return _yaml().load(text)
    except YAMLError as error:
        raise SpecmlError(
            f"is not YAML: {' '.join(str(error).split())}", where=name, hint="Mend or remove it."
        ) from None


def _write(value: Any) -> str:
    buffer = io.StringIO()
    _yaml().dump(value, buffer)
    return buffer.getvalue()
