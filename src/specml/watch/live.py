"""A round of watching: what was captured and labelled since the last one, judged window by window."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING

from specml import repro
from specml.errors import SpecmlError
from specml.kinds import Window
from specml.spec import Capture
from specml.values import Duration
from specml.watch import stream
from specml.watch.copies import forget_rows
from specml.watch.feedback import collect
from specml.watch.judge import Judged, judge, seen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import polars as pl

    from specml.bundle import Bundle
    from specml.spec import Spec


def watch(spec: Spec, project: Path, say: Callable[[str], None]) -> Iterator[Judged]:
    """Judge every full window that was not judged, and record each as it comes; then apply the retention.

    ``say`` takes what a person should know beside the verdicts.

    Raises:
        SpecmlError: a record of an earlier window, or a segment, was altered.
        BundleError: so was a bundle.
        LedgerError: a signal that was raised can't be recorded.
    """
    window, capture = spec.monitoring.window, spec.monitoring.capture
    if not (project / stream.CAPTURES).exists():
        say("Nothing was captured yet." if capture else "Nothing is captured: monitoring.capture is off.")
    with stream.alone(project):
        collect(project, spec.problem.target, say)
        for of, size in (("rows", window.rows), ("labels", window.labels)):
            if any(signal.judges == of for signal in spec.monitoring.signals.values()):
                yield from _judged(spec, project, of, size, say)
        retention = min((capture or Capture()).retention, *_owed(spec, "capture_retention"))
        if gone := stream.sweep(project, float(retention)):
            say(f"{gone} files older than {retention} deleted.")
        limit = min(_owed(spec, "data_retention"))
        if math.isfinite(limit):
            _forget(project, limit, say)


def _forget(project: Path, limit: Duration, say: Callable[[str], None]) -> None:
    """Delete old copies of the rows, unless a run may be reading them: then the next round does."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(repro.alone(project, wait=False))
        except SpecmlError as busy:
            say(f"Copies of rows older than {limit} are not deleted now: {busy.what}")
            return
        for mended in repro.tidy(project):
            say(mended)
        gone, unread = forget_rows(project, float(limit))
    if gone:
        say(f"{gone} copies of rows older than {limit} deleted; `specml run` reads the source again.")
    for path in unread:
        say(f"{path} is no record of DVC's: copies of rows that it alone tells of are not deleted.")


def _owed(spec: Spec, name: str) -> list[Duration]:
    """Durations that rules oblige to; endless where none does."""
    told = [Duration.parse(one.value) for one in spec.obligations if one.name == name]
    return [Duration(math.inf), *(one for one in told if one is not None)]


def _judged(spec: Spec, project: Path, of: str, size: int, say: Callable[[str], None]) -> Iterator[Judged]:
    for folder, bundle in stream.bundles(project, stream.CAPTURES if of == "rows" else stream.FEEDBACK):
        if bundle is not None:
            for found in stream.windows(folder, project, size):
                window = captured(found.table, bundle) if of == "rows" else labelled(found.table)
                origin = {"folder": folder.relative_to(project).as_posix(), "segments": found.taken}
                judged = judge(spec, bundle, window, f"{of}-{found.name(bundle.digest)}", origin)
                judged.write(project)
                yield judged
        left = stream.waiting(folder, project)
        if bundle is None and left:
            say(f"{left:,} {of} of the bundle {folder.name} are not judged: the project no longer has it.")
        elif left:
            say(f"{left:,} {of} of the bundle {folder.name} wait for a window of {size:,}.")


def captured(table: pl.DataFrame, bundle: Bundle) -> Window:
    """Some rows of a segment of captures as a window."""
    return seen(table["inputs"].struct.unnest(), bundle.contract)


def labelled(table: pl.DataFrame) -> Window:
    """Some rows of a segment of feedback as a window."""
    import numpy as np

    y = table["y"].to_numpy()
    if "prediction" in table.columns:
        ends = table.select("lower", "upper").to_numpy().astype(np.float64) if "lower" in table.columns else None
        scores = table["prediction"].cast(float).to_numpy()
        if names := [name for name in table.columns if name.startswith("quantile_")]:
            scores = table.select(names).to_numpy().astype(np.float64)
        levels = tuple(float(name.removeprefix("quantile_")) for name in names)
        return Window(table.height, y=y.astype(np.float64), scores=scores, ends=ends, quantiles=levels)
    probabilities = np.array(table["probabilities"].to_list(), dtype=np.float64)
    scores = probabilities[:, 1] if probabilities.shape[1] == 2 else probabilities
    return Window(table.height, y=y.astype(np.int64), scores=scores, decisions=table["decision"].to_numpy())
