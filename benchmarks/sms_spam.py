"""Texts end to end: the SMS Spam Collection (UCI 228), raw strings into the served graph.

    python benchmarks/sms_spam.py --data DIR

DIR holds ``train.csv`` (columns ``text``, ``label``: ham or spam). A project is made in a temporary folder, run and
served; held-out texts go as JSON strings to ``/predict``, and what comes back is scored and compared with the same
model in Python.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import numpy as np
import polars as pl
from sklearn.metrics import f1_score, roc_auc_score

SPEC = """\
spec: 1
name: sms-spam
problem: {{task: binary, target: label, positive_class: spam}}
data:
  sources: {{messages: {{type: csv, path: data/train.csv, missing: []}}}}
  columns: {{text: {{dtype: text, nullable: false}}}}
features:
  columns: {{text: {{type: text, words: [1, 2], characters: [3, 4], max_terms: 2000}}}}
candidates:
  line: {{type: logistic_regression, C: 30}}
  gbm: {{type: lightgbm}}
serving: {{replicas: {{min: 1, max: 1, cpus: 0.5}}, explain: null}}
deployment: {{target: {{type: local, port: {port}}}}}
"""


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def asked(port: int, texts: list[str]) -> np.ndarray:
    """The served probability of spam of each text."""
    told: list[float] = []
    for start in range(0, len(texts), 200):
        body = json.dumps({"rows": [{"text": text} for text in texts[start : start + 200]]}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/predict", body, {"content-type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            told += [one["probability"] for one in json.load(answer)["predictions"]]
    return np.array(told)


def in_python(folder: Path, test: pl.DataFrame) -> np.ndarray:
    """The trained model's own probabilities, without any graph."""
    from specml.load import load
    from specml.preprocessing import Preprocessing

    chosen = json.loads((folder / "artifacts/select/choice.json").read_text())["candidate"]
    trained = folder / "artifacts/train" / chosen
    model = load(folder / "spec.yaml").spec.candidates[chosen].load(trained, "binary")
    return model.predict(Preprocessing.load(trained / "preprocessing.json").transform(test))


def main() -> None:
    """Run, serve, ask, score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    source = parser.parse_args().data / "train.csv"
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with tempfile.TemporaryDirectory(prefix="specml-sms-") as place:
        folder, port = Path(place), free_port()
        (folder / "data").mkdir()
        shutil.copy(source, folder / "data/train.csv")
        (folder / "spec.yaml").write_text(SPEC.format(port=port))
        subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
        subprocess.run(["specml", "run"], cwd=folder, check=True)
        try:
            test = pl.read_parquet(folder / "artifacts/prepare/test.parquet")
            served, y = asked(port, test["text"].to_list()), test["label"].to_numpy()
        finally:
            subprocess.run(["specml", "stop"], cwd=folder, check=True)
        apart = float(np.abs(served - in_python(folder, test)).max())
    print(f"{len(y):,} held-out texts, as raw strings to the served graph")
    print(f"ROC AUC {roc_auc_score(y, served):.4f}, F1 of spam {f1_score(y, served >= 0.5):.4f}")
    print(f"largest difference from the model in Python: {apart:.1e}")
    assert apart < 1e-6


if __name__ == "__main__":
    main()
