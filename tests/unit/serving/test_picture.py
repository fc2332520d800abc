"""Rows that carry an image: the columns that the source would have made of it, or a reason."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from specml.bundle import Contract
from specml.data import Column, Pixels
from specml.serving import picture
from specml.serving.announce import curl_line, example_row
from specml.serving.client import told
from specml.serving.openapi import openapi
from specml.serving.refusal import Refused
from specml.serving.request import named
from specml.sources.image_folder import ImageFolder

if TYPE_CHECKING:
    from pathlib import Path

PIXELS = Pixels(side=3)
# One place is no column, as one that was the same in all training images.
INPUTS = tuple(Column(name=name, kind="numeric", minimum=0, maximum=1) for name in PIXELS.names if name != "p1_1")
CONTRACT = Contract(
    name="shapes",
    task="binary",
    target="label",
    inputs=(*INPUTS, Column(name="camera", kind="categorical", nullable=True)),
    classes=("a", "b"),
    candidate="any",
    image=PIXELS,
)


def png(values: Any, form: str = "PNG", **more: Any) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.asarray(values, dtype=np.uint8)).save(content, form, **more)
    return content.getvalue()


def scans(more: int) -> bytes:
    """A progressive JPEG whose last scan comes so many times more."""
    whole = png(np.zeros((16, 16)), "JPEG", progressive=True)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + last * more + whole[-2:]


def text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def test_an_image_becomes_what_the_source_makes_of_it(tmp_path: Path) -> None:
    raw = png(np.random.default_rng(0).integers(0, 256, (7, 11, 3)))
    (tmp_path / "images").mkdir()
    (tmp_path / "images/1.png").write_bytes(raw)
    table = ImageFolder(path="images", columns="pixels", side=3).read(tmp_path)
    lines = "\n".join(text(raw)[i : i + 76] for i in range(0, len(text(raw)), 76))
    rows = named([{"image": text(raw), "camera": "x"}, {"image": lines}], CONTRACT)
    for column in INPUTS:
        assert rows.columns[column.name].tolist() == [table[column.name][0]] * 2
    assert rows.columns["camera"].tolist() == ["x", "__missing__"]


@pytest.mark.parametrize(
    ("row", "status", "reason"),
    [
        ({"image": 5}, 422, r"rows\[0\].image is a JSON number, not an image in base64"),
        ({"image": "%%"}, 422, r"rows\[0\].image is no base64"),
        ({"image": text(b"hello")}, 422, r"rows\[0\].image is no image, or a damaged one"),
        ({"image": text(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")}, 422, "is no image"),
        (
            {"image": text(png(np.random.default_rng(0).integers(0, 256, (30, 30)))[:500])},
            422,
            "is no image, or a damaged one",
        ),
        ({"image": text(png([[0]])), "p0_0": 0.5}, 422, "has image and 'p0_0', which says the same"),
        ({"imag": text(png([[0]]))}, 422, "Did you mean 'image'"),
        ({"image": text(png([[0]], "TIFF"))}, 422, "is no image, or a damaged one; PNG, JPEG, GIF, BMP, WEBP are read"),
        ({"image": text(scans(100))}, 422, r"rows\[0\].image is a JPEG of more than 100 scans"),
        ({"image": text(png(np.zeros((2000, 1001))))}, 413, r"more than 2,000,000\."),
    ],
)
def test_what_is_no_image_is_refused(row: dict[str, Any], status: int, reason: str) -> None:
    with pytest.raises(Refused, match=reason) as refusal:
        named([row], CONTRACT)
    assert refusal.value.http == status


def test_a_jpeg_of_some_scans_is_taken() -> None:
    named([{"image": text(scans(50))}], CONTRACT)


def test_the_images_of_a_request_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "MOST_PIXELS", 100)
    row = {"image": text(png(np.zeros((7, 7))))}
    named([row, row], CONTRACT)
    with pytest.raises(Refused, match=r"rows\[2\].image has 7 × 7 pixels, more than 2") as refusal:
        named([row, row, row], CONTRACT)
    assert refusal.value.http == 413


def test_a_model_of_no_images_takes_none() -> None:
    plain = CONTRACT.model_copy(update={"image": None})
    with pytest.raises(Refused, match=r"rows\[0\].image is no column of this model"):
        named([{"image": text(png([[0]]))}], plain)
    assert "image" not in str(
        openapi(plain, version="1", max_rows=10, max_body=9, explained_rows=0, secured=False, notice={})
    )


def test_a_person_is_told_how() -> None:
    row = example_row(CONTRACT)
    assert row.keys() == {"image", "camera"}
    assert named([row], CONTRACT).columns["p0_0"].tolist() == [pytest.approx(128 / 255)]
    assert '"image"' in curl_line("http://localhost:1", CONTRACT)
    document = openapi(CONTRACT, version="1", max_rows=10, max_body=9, explained_rows=0, secured=False, notice={})
    asked = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    schema = asked["oneOf"][0]["properties"]["rows"]["items"]
    assert schema["properties"]["image"]["contentEncoding"] == "base64"
    assert schema["required"] == []
    # Who asks by columns sees those alone.
    assert list(told(document)[0]) == [column.name for column in CONTRACT.inputs]
