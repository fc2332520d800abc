"""What calls of a bundle were measured to take, by device and rows, on this machine: ``specml bench`` keeps it.

A hint for who decides on a device, and no evidence: it feeds no digest, and is another one tomorrow.
"""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

from specml.files import canonical_json, write_atomic

FILE = ".specml/costs.json"

Costs = dict[str, dict[int, float]]
"""Seconds of a call, by device and rows."""


def machine() -> str:
    """This machine, as far as calls take longer on another: its processors and GPUs."""
    found = [f"{os.cpu_count()} × {_processor()}"]
    for told in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        lines = (line.partition(":") for line in told.read_text(errors="replace").splitlines())
        found += [value.strip() for key, _, value in lines if key.strip() == "Model"]
    return ", ".join(found)


def keep(project: Path, bundle: str, costs: Costs) -> Path:
    """Write what was measured of the bundle of a digest; of other bundles, what is known stays."""
    path = project / FILE
    known = {name: one for name, one in _read(path).items() if one.get("machine") == machine()}
    known[bundle] = {"machine": machine(), "seconds": costs}
    write_atomic(path, canonical_json({"schema_version": 1, "bundles": known}))
    return path


def known(project: Path, bundle: str) -> Costs:
    """What was measured of the bundle on this machine; empty where nothing was."""
    found = _read(project / FILE).get(bundle, {})
    if found.get("machine") != machine():
        return {}
    return {device: {int(rows): float(took) for rows, took in one.items()} for device, one in found["seconds"].items()}


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_bytes())["bundles"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # none, or none that can be read: it is measured again


def _processor() -> str:
    try:
        lines = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
        return next(value.strip() for key, _, value in lines if key.strip() == "model name")
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
