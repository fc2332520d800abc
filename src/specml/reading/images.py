"""Small images as rows of numbers."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Literal

from specml.errors import DataCheckFailed

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from PIL.Image import Image

ENDS = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff")
Sort = Literal["statistics", "pixels"]
CHANNELS = ("red", "green", "blue")


def image_row(path: Path, sort: Sort, side: int, most: int, where: str) -> dict[str, float]:
    """The numbers of an image, each from 0 (black) to 1.

    ``statistics``: width and height in pixels, and of the whole image and each channel mean and standard deviation;
    ``pixels``: brightness (ITU-R 601) of ``side`` × ``side`` equal areas, row by row: ``p0_0``, ``p0_1``, …

    Args:
        path: the file.
        sort: which numbers.
        side: how many areas in each direction.
        most: pixels that an image may have.
        where: what errors name.

    Raises:
        DataCheckFailed: it is no image, is damaged, or has more pixels than ``most``.
    """
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `most` is ours
            with Image.open(path) as opened:
                width, height = opened.size
                if width * height > most:
                    what = f"has {width:,} × {height:,} pixels, more than {most:,}."
                    raise DataCheckFailed(what, hint="Raise max_pixels.", where=where)
                image = ImageOps.exif_transpose(opened)
                image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise DataCheckFailed("is no image, or a damaged one.", where=where) from None
    return _statistics(image) if sort == "statistics" else _pixels(image, side)


def _statistics(image: Image) -> dict[str, float]:
    import numpy as np

    values = _colours(image)
    row = {"width": float(image.width), "height": float(image.height)}
    for name, part in (("all", values), *((one, values[..., i]) for i, one in enumerate(CHANNELS))):
        row |= {f"{name}_mean": float(np.mean(part)), f"{name}_std": float(np.std(part))}
    return row


def _pixels(image: Image, side: int) -> dict[str, float]:
    import numpy as np
    from PIL import Image

    grey = _colours(image) @ np.array([0.299, 0.587, 0.114])
    small = Image.fromarray(grey.astype(np.float32)).resize((side, side), Image.Resampling.BOX)
    values = np.asarray(small, dtype=np.float64).clip(0, 1)
    return {f"p{row}_{column}": float(values[row, column]) for row in range(side) for column in range(side)}


def _colours(image: Image) -> np.ndarray:
    """float64 [height, width, 3] from 0 to 1; what is transparent stands on white."""
    import numpy as np
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits of grey
        grey = np.asarray(image, dtype=np.float64).clip(0, 65535) / 65535
        return np.repeat(grey[..., None], 3, axis=2)
    clear = image.convert("RGBA")
    ground = Image.new("RGBA", image.size, "white")
    return np.asarray(Image.alpha_composite(ground, clear).convert("RGB"), dtype=np.float64) / 255
