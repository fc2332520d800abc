"""CPU seconds of a `specml run` with nothing to do, against `dvc repro` with nothing to do.

    python benchmarks/second_run.py [PROJECT] [--rounds 7]

PROJECT (default: this repository) must have been run before; a live server is asked as always, so start one for the
full cost. Prints the medians and the ratio, paired round by round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path


def cpu_seconds(command: list[str], folder: Path) -> float:
    """User and system time of one run, its children included."""
    before = os.times()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", nargs="?", default=Path(__file__).resolve().parents[1], type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    chosen = parser.parse_args()
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    specml, dvc = ["specml", "run"], ["dvc", "repro"]
    for command in (specml, dvc):  # byte code and file cache
        cpu_seconds(command, chosen.project)
    pairs = [(cpu_seconds(specml, chosen.project), cpu_seconds(dvc, chosen.project)) for _ in range(chosen.rounds)]
    ratios = sorted(a / b for a, b in pairs)
    print(f"specml run  {statistics.median(a for a, _ in pairs):.2f} CPU s")
    print(f"dvc repro   {statistics.median(b for _, b in pairs):.2f} CPU s")
    print(f"ratio       {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
