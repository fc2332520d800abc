"""CPU seconds of `specml run --no-deploy` on the employment example, against a script by hand that does the same fits.

    python benchmarks/run.py [--rounds 3]

Twice: as the spec is, with two folds forward in time, and with the language's defaults, a stratified split and five
folds. What the script does stands in `by_hand.py`: the same rows, folds, settings, early stopping and refits, and the
same scores, which are compared. Both start from the data and the compiled project, as it lies in this repository;
neither takes anything from a cache. OpenMP's threads sleep at barriers for both, and linear algebra takes one thread,
as in specml's stages: without that the script takes several times as long on a machine that others use, too.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import polars as pl

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "examples/employment/data/employment_ma.parquet"
PROJECT = (
    "conf",
    ".dvc/config",
    ".dvc/.gitignore",
    ".dvcignore",
    ".gitignore",
    "dvc.yaml",
    "params.yaml",
    "serve.yaml",
)
SPLITS = {
    "time": ("two folds forward in time", ()),
    "stratified": (
        "five stratified folds",
        ("data.split.method=stratified", "data.split.column=null"),
    ),
}
"""By name: what it is called, and what changes the spec."""


def cpu_seconds(command: list[str], folder: Path) -> float:
    """User and system time of one run, its children included."""
    before = os.times()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def project(folder: Path) -> None:
    """The example as it is checked out, without what a run makes."""
    for name in PROJECT:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, target)
    data = folder / DATA.relative_to(ROOT)
    data.parent.mkdir(parents=True)
    shutil.copy(DATA, data)


def once(split: str) -> tuple[float, float]:
    """CPU seconds of specml and of the script; their scores are the same."""
    with tempfile.TemporaryDirectory(prefix="specml-benchmark-") as place:
        folder = Path(place)
        project(folder)
        ours = cpu_seconds(["specml", "run", "--no-deploy", *SPLITS[split][1]], folder)
        out = folder / "by_hand.json"
        script = [sys.executable, str(ROOT / "benchmarks/by_hand.py"), str(DATA), str(out), split]
        theirs = cpu_seconds(script, folder)
        told = json.loads(out.read_text())
        board = json.loads((folder / "artifacts/select/choice.json").read_text())["leaderboard"]
        for row in board:
            apart = [abs(a - b) for a, b in zip(row["folds"], told["cross_validation"][row["candidate"]], strict=True)]
            assert max(apart) < 2e-4, f"{row['candidate']}: the fits are not the same"
        curve = pl.read_csv(folder / "plots/learning_curve.csv")["roc_auc"].to_list()
        assert all(abs(a - b) < 2e-4 for a, b in zip(curve, told["learning_curve"], strict=True)), "another curve"
        held = json.loads((folder / "metrics/holdout.json").read_text())
        assert all(abs(held[name] - value) < 2e-4 for name, value in told["holdout"].items()), "another model"
    return ours, theirs


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_NUM_THREADS": "1"}
    once("time")  # byte code and file cache
    for split, (called, _) in SPLITS.items():
        pairs = [once(split) for _ in range(chosen.rounds)]
        ratios = sorted(a / b for a, b in pairs)
        ours, theirs = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
        print(f"{called}: specml run {ours:.2f} CPU s, by hand {theirs:.2f}", end=", ")
        print(f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})", flush=True)


if __name__ == "__main__":
    main()
