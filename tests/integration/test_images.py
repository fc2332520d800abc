"""Images all the way, in one process: a .zip of PNG files, a network, its bundle, and requests that carry a PNG."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from specml.bundle import open_bundle, predict
from specml.serving.request import read_rows
from tests.conftest import run_stages, spec_of

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.slow


def spots(path: Path, n: int = 160) -> dict[str, bytes]:
    """6 × 6 pixels with a spot above or below; the content of each file by its name."""
    generator, files = np.random.default_rng(0), dict[str, bytes]()
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(n):
            values = generator.integers(0, 60, (6, 6))
            values[1 + 3 * (number % 2), generator.integers(1, 5)] = 255
            values[:, 0] = 0  # a frame, whose places are no columns
            content = io.BytesIO()
            Image.fromarray(values.astype(np.uint8)).save(content, "PNG")
            name = f"{('above', 'below')[number % 2]}/{number:03d}.png"
            files[name] = content.getvalue()
            archive.writestr(name, files[name])
    return files


def test_from_a_zip_of_images_to_a_request_with_one(tmp_path: Path) -> None:
    files = spots(tmp_path / "spots.zip")
    source = {"type": "image_folder", "path": "spots.zip", "columns": "pixels", "side": 6}
    net: dict[str, Any] = {"type": "image_cnn", "filters": [8], "hidden": [16], "epochs": 12, "learning_rate": 0.01}
    spec = spec_of(
        problem={"task": "binary", "target": "label", "positive_class": "below"},
        data={"sources": {"scans": source}, "columns": {"file": {"role": "id"}}},
        candidates={"cnn": {**net, "batch_size": 32, "early_stopping": 0}},
        search={"folds": 2},
    )
    run_stages(spec, tmp_path)
    bundle = open_bundle(tmp_path / "artifacts/bundle")
    assert bundle.contract.image is not None
    assert bundle.contract.image.side == 6
    assert len(bundle.contract.inputs) == 30
    verdicts = json.loads((tmp_path / "artifacts/validate/verdicts.json").read_bytes())["gates"]
    assert verdicts["parity"]["outcome"] == "holds"
    body = {"rows": [{"image": base64.b64encode(raw).decode()} for raw in files.values()]}
    rows = read_rows(json.dumps(body).encode(), bundle.contract, 1000)
    labels = predict(bundle.session(), rows.columns)["label"]
    assert np.mean(labels == [name.partition("/")[0] for name in files]) > 0.95
