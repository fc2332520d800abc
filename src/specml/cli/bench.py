"""``specml bench``: what a call of the packaged model takes here, by device and rows."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from specml.cli.arguments import parse, spec_and_overrides

if TYPE_CHECKING:
    from collections.abc import Iterator

    from specml.bundle import Bundle
    from specml.serving.measure import Measured
    from specml.spec import Serving


@click.command("bench")
@spec_and_overrides
@click.option("--seconds", type=click.FloatRange(0.01, 10), default=0.2, show_default=True, help="For each line.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def command(arguments: tuple[str, ...], seconds: float, as_json: bool) -> None:
    """Measure the packaged model on every device that opens, beside onnxruntime's own session.

    Kept in .specml/costs.json: `specml deploy` hands it to replicas, which choose their device by it.
    """
    from specml import measurements
    from specml.application import BUNDLE
    from specml.bundle import open_bundle
    from specml.load import load

    loaded = load(*parse(arguments))
    bundle, serving = open_bundle(loaded.folder / BUNDLE), loaded.spec.serving
    found: list[Measured] = []
    refused: dict[str, str] = {}
    for device, one in _each(bundle, serving, seconds):
        if isinstance(one, str):
            refused[device] = one
        else:
            found.append(one)
    costs: measurements.Costs = {}
    for line in found:
        costs.setdefault(line.device, {})[line.rows] = line.seconds
    measurements.keep(loaded.folder, bundle.digest, costs)
    if as_json:
        print(json.dumps(_document(bundle, found, refused), indent=1))
    else:
        _tell(bundle, found, refused, serving.batching.max_batch_size)


def sizes(most: int) -> tuple[int, ...]:
    """1, 4, 16, … and ``most``."""
    return tuple(sorted({most, *(4**power for power in range(10) if 4**power < most)}))


def _each(bundle: Bundle, serving: Serving, seconds: float) -> Iterator[tuple[str, Measured | str]]:
    """What was measured, device by device; of one that does not open, why."""
    from specml.errors import DeployFailed
    from specml.serving.device import PROVIDERS
    from specml.serving.measure import measured

    batching = serving.batching
    buckets = None if batching.buckets == "auto" else batching.buckets
    for device in PROVIDERS:
        try:
            for one in measured(bundle, device, sizes(batching.max_batch_size), buckets=buckets, seconds=seconds):
                yield device, one
        except DeployFailed as error:
            yield device, error.what


def _document(bundle: Bundle, found: list[Measured], refused: dict[str, str]) -> dict[str, Any]:
    from specml import measurements

    return {
        "schema_version": 1,
        "bundle": bundle.digest,
        "machine": measurements.machine(),
        "measured": [one._asdict() for one in found],
        "refused": refused,
    }


def _tell(bundle: Bundle, found: list[Measured], refused: dict[str, str], most: int) -> None:
    from rich.console import Console

    from specml import measurements
    from specml.cli.tables import plain

    out = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    out.print(f"{bundle.contract.name}, bundle {bundle.digest[7:19]}, on {measurements.machine()}", markup=False)
    table = plain("device", "rows", "a call", "rows/s", "onnxruntime's own", "times as fast")
    for column in table.columns[1:]:
        column.justify = "right"
    for one in found:
        table.add_row(
            one.device, f"{one.rows:,}", _time(one.seconds), f"{one.rows / one.seconds:,.0f}", _time(one.raw),
            f"{one.raw / one.seconds:.2f}",
        )  # fmt: skip
    out.print(table)
    for why in refused.values():
        out.print(why, markup=False, soft_wrap=True)
    full = {one.device: one.seconds for one in found if one.rows == most}
    best = min(full, key=lambda device: full[device])
    what = f"full batches ({most:,} rows) are fastest on {best}" if len(full) > 1 else f"only {best} opens here"
    out.print(f"{what}; kept in {measurements.FILE} for `specml deploy`", markup=False, soft_wrap=True)


def _time(seconds: float) -> str:
    return f"{1e6 * seconds:,.0f} µs" if seconds < 1e-3 else f"{1e3 * seconds:,.2f} ms"
