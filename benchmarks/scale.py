"""Tables that grow: time and peak memory of reading and preparing 0.2, 2 and 20 million rows.

    python benchmarks/scale.py [--rows 200000 2000000 20000000] [--format parquet csv]

The table has twelve columns: an id, whole numbers, reals with gaps, categories, numbers that stand as text with blanks
among them, a truth and a target. Each size is a project of its own; its stages ``ingest`` and ``prepare`` run as DVC
runs them, and what is printed is their wall and CPU time and the most memory (resident set) that they held. The disk
must hold about five times the table.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import polars as pl

SPEC = """\
spec: 1
name: scale
problem: {{task: binary, target: y}}
data:
  sources: {{rows: {{type: {format}, path: rows.{format}}}}}
  columns: {{id: {{role: id}}, sex: {{role: protected}}}}
candidates: {{linear: {{type: logistic_regression}}}}
"""
STAGES = (("ingest", "rows"), ("prepare",))
STEP = 1_000_000
JOBS = np.array(["clerk", "sales", "tech", "farm", "exec", "craft", "service", "?"], dtype=object)


def made(first: int, n: int) -> pl.DataFrame:
    """Rows from the ``first`` on, the same whatever else is made."""
    draw = np.random.default_rng(first)
    x = draw.normal(size=(n, 4))
    charges = draw.gamma(2, 50, n)
    return pl.DataFrame(
        {
            "id": [f"c{first + i:09d}" for i in range(n)],
            "age": draw.integers(17, 90, n),
            "hours": draw.integers(1, 99, n),
            "balance": x[:, 0],
            "income": x[:, 1],
            "score": pl.Series(x[:, 2]).set(pl.Series(draw.random(n) < 0.05), None),
            "noise": x[:, 3],
            "job": JOBS[draw.integers(0, len(JOBS), n)].tolist(),
            "sex": np.array(["f", "m"], dtype=object)[draw.integers(0, 2, n)].tolist(),
            "charges": [" " if i % 997 == 0 else f"{value:.2f}" for i, value in enumerate(charges)],
            "flag": draw.random(n) < 0.3,
            "y": (x[:, 0] + x[:, 1] + draw.normal(size=n) > 0.5).astype(int),
        }
    )


def written(path: Path, rows: int) -> None:
    """The table as a file, made a part at a time."""
    parts = []
    for first in range(0, rows, STEP):
        part = path.parent / f"{first}.parquet"
        made(first, min(STEP, rows - first)).write_parquet(part)
        parts.append(part)
    table = pl.scan_parquet(parts)
    table.sink_csv(path) if path.suffix == ".csv" else table.sink_parquet(path)
    for part in parts:
        part.unlink()


def measured(folder: Path, stage: tuple[str, ...]) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak MiB of a stage."""
    start = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "specml", "stage", *stage], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert child.stdout is not None
    told = child.stdout.read().decode()
    _, status, used = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{' '.join(stage)} ended with {os.waitstatus_to_exitcode(status)}:\n{told}")
    return time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[200_000, 2_000_000, 20_000_000])
    parser.add_argument("--format", nargs="+", choices=["parquet", "csv"], default=["parquet", "csv"])
    options = parser.parse_args()
    for form in options.format:
        print(f"{form}\n{'rows':>12} {'stage':>8} {'wall':>8} {'CPU':>8} {'rows/s':>10} {'peak':>9}  × the size before")
        before: dict[str, float] = {}
        for rows in options.rows:
            with tempfile.TemporaryDirectory() as made_for:
                folder = Path(made_for)
                maker = get_context("spawn").Process(target=written, args=(folder / f"rows.{form}", rows))
                maker.start()  # a child's peak is at least what its parent held
                maker.join()
                (folder / "spec.yaml").write_text(SPEC.format(format=form))
                subprocess.run([sys.executable, "-m", "specml", "compile"], cwd=folder, check=True, capture_output=True)
                for stage in STAGES:
                    wall, cpu, peak = measured(folder, stage)
                    times = f"{peak / before[stage[0]]:.2f}" if stage[0] in before else ""
                    before[stage[0]] = peak
                    speed = f"{rows / wall:,.0f}"
                    line = (
                        f"{rows:>12,} {stage[0]:>8} {wall:>6.1f} s {cpu:>6.1f} s {speed:>10} {peak:>5.0f} MiB  {times}"
                    )
                    print(line, flush=True)


if __name__ == "__main__":
    main()
