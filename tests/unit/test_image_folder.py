"""Images as rows of numbers."""

from __future__ import annotations

import re
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from specml.errors import DataCheckFailed, NotEnoughData
from specml.sources.image_folder import ImageFolder

if TYPE_CHECKING:
    from pathlib import Path


def save(path: Path, values: Any, mode: str | None = None, **more: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values), mode).save(path, **more)


def half(dark: int = 0, light: int = 255) -> Any:
    """A grey image whose left half is dark."""
    values = np.full((4, 8, 3), light, np.uint8)
    values[:, :4] = dark
    return values


def read(folder: Path, **more: Any) -> Any:
    return ImageFolder(path="images", **more).read(folder)


def test_statistics_and_the_folder_as_the_label(tmp_path: Path) -> None:
    red = np.zeros((2, 3, 3), np.uint8)
    red[..., 0] = 255
    save(tmp_path / "images/red/1.png", red)
    save(tmp_path / "images/half/2.png", half())
    save(tmp_path / "images/3.png", half())
    table = read(tmp_path)
    assert table["file"].to_list() == ["3.png", "half/2.png", "red/1.png"]
    assert table["label"].to_list() == [None, "half", "red"]
    row = table.row(2, named=True)
    assert (row["width"], row["height"], row["red_mean"], row["green_mean"], row["red_std"]) == (3, 2, 1, 0, 0)
    assert table["all_mean"].to_list()[1] == pytest.approx(0.5)
    assert table["all_std"].to_list()[1] == pytest.approx(0.5)


def test_pixels_are_the_brightness_of_equal_areas(tmp_path: Path) -> None:
    save(tmp_path / "images/a/1.png", half(51, 204))
    table = read(tmp_path, columns="pixels", side=2)
    assert table.columns == ["file", "label", "p0_0", "p0_1", "p1_0", "p1_1"]
    assert table.row(0)[2:] == pytest.approx((0.2, 0.8, 0.2, 0.8), abs=1e-6)


def test_kinds_of_images_mean_the_same(tmp_path: Path) -> None:
    save(tmp_path / "images/16.png", (half()[..., 0].astype(np.uint16) * 257))
    save(tmp_path / "images/grey.png", half()[..., 0])
    save(tmp_path / "images/jpeg.jpg", half(), quality=95)
    clear = np.zeros((4, 8, 4), np.uint8)
    clear[:, :4, 3] = 255
    save(tmp_path / "images/rgba.png", clear)
    save(
        tmp_path / "images/turned.jpg",
        np.rot90(half()),
        quality=95,
        exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0",
    )
    table = read(tmp_path, columns="pixels", side=2)
    for row in table.iter_rows():
        assert row[2:] == pytest.approx((0, 1, 0, 1), abs=0.02), row[0]


def test_colours_are_three_columns_of_each_area(tmp_path: Path) -> None:
    red = half(51, 204)
    red[..., 1:] = 0
    save(tmp_path / "images/a/1.png", red)
    table = read(tmp_path, columns="pixels", side=2, colour=True)
    assert table.columns[2:8] == ["p0_0_0", "p0_0_1", "p0_0_2", "p0_1_0", "p0_1_1", "p0_1_2"]
    assert table.row(0)[2:8] == pytest.approx((0.2, 0, 0, 0.8, 0, 0), abs=1e-6)


def test_a_zip_of_a_folder_is_read_as_the_folder(tmp_path: Path) -> None:
    for name in ("b/2.png", "a/1.png", "3.png"):
        save(tmp_path / "images" / name, half())
    (tmp_path / "images/notes.txt").write_text("x")
    with zipfile.ZipFile(tmp_path / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in (tmp_path / "images").rglob("*"):
            archive.write(file, file.relative_to(tmp_path / "images"))
        archive.writestr("__MACOSX/a/._1.png", b"what macOS notes of 1.png")
    told: dict[str, Any] = {}
    zipped = ImageFolder(path="images.zip").read(tmp_path, frozenset(), told.__setitem__)
    assert zipped.equals(read(tmp_path))
    assert told == {"files that are no images left out": 2}
    alone = ImageFolder(path="images/3.png").read(tmp_path)
    assert alone.drop("label").equals(zipped.filter(file="3.png").drop("label"))
    whole = (tmp_path / "images.zip").read_bytes()
    otherwise = re.sub(rb"(PK\x01\x02.{6})\x08", rb"\1c", whole, flags=re.DOTALL)  # method 99
    with zipfile.ZipFile(tmp_path / "lzma.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.write(tmp_path / "images/3.png", "3.png")
    packed = (tmp_path / "lzma.zip").read_bytes()
    for content, why in (
        (b"", "File is not a zip file"),
        (otherwise, "That compression method is not supported"),
        (whole[:-40], "."),
        (whole[:60] + bytes(8) + whole[68:], "."),
        (packed[:44] + b"\xff" * 20 + packed[64:], "."),
    ):
        (tmp_path / "images.zip").write_bytes(content)
        with pytest.raises(DataCheckFailed, match=rf"images\.zip:\n    can't be read as a \.zip: {why}"):
            ImageFolder(path="images.zip").read(tmp_path)


def test_what_is_no_image_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataCheckFailed, match="no such folder"):
        read(tmp_path)
    (tmp_path / "images/a").mkdir(parents=True)
    (tmp_path / "images/a/notes.txt").write_text("x")
    with pytest.raises(NotEnoughData, match="holds no image"):
        read(tmp_path)
    save(tmp_path / "images/a/1.png", half())
    told: dict[str, Any] = {}
    assert ImageFolder(path="images").read(tmp_path, frozenset(), told.__setitem__).height == 1
    assert told == {"files that are no images left out": 1}
    whole = (tmp_path / "images/a/1.png").read_bytes()
    for content in (b"", b"GIF89a", whole[:-30], whole[:20]):
        (tmp_path / "images/a/2.png").write_bytes(content)
        with pytest.raises(DataCheckFailed, match=r"images/a/2\.png:\n    is no image, or a damaged one"):
            read(tmp_path)
    for form, tag in (("jpeg", "0102 0005"), ("webp", "0102 0005"), ("jpeg", "011a 0001")):
        # Turned by its camera, with another tag whose type is not its own.
        tags = bytes.fromhex(
            f"4d4d 002a 00000008 0002  0112 0003 00000001 0006 0000  {tag} 00000001 00000002  00000000"
        )
        save(tmp_path / "images/a/2.png", half(), format=form, exif=b"Exif\0\0" + tags)
        with pytest.raises(DataCheckFailed, match="is no image, or a damaged one"):
            read(tmp_path)
    (tmp_path / "images/a/2.png").unlink()
    with pytest.raises(DataCheckFailed, match="has 8 × 4 pixels, more than 31"):
        read(tmp_path, max_pixels=31)


def test_a_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "other/1.png", half())
    (tmp_path / "images").mkdir()
    (tmp_path / "images/1.png").symlink_to(tmp_path / "other/1.png")
    with pytest.raises(DataCheckFailed, match="outside the project"):
        read(tmp_path)
