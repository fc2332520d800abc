"""Small images as rows of numbers."""

from __future__ import annotations

import io
import struct
import warnings
from typing import TYPE_CHECKING, Literal

from specml.errors import DataCheckFailed

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from specml.data import Pixels

ENDS = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")
"""What is read, whatever the file is called: of Pillow's other formats, some run programs."""
MOST_SCANS = 100
"""Of a JPEG: each unpacks the whole image once more. Cameras and programs write 1 to some 20."""
Sort = Literal["statistics", "pixels"]
DAMAGED = (OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, struct.error)
"""What Pillow raises of damaged files, and of damaged EXIF in sound ones."""
CHANNELS = ("red", "green", "blue")


class TooLarge(DataCheckFailed):
    """An image of more pixels than are taken."""


def numbers(image: Image, pixels: Pixels | None) -> dict[str, float]:
    """The numbers of an image, each from 0 (black) to 1.

    Without ``pixels``, its statistics: width and height in pixels, and of the whole image and each channel mean and
    standard deviation. Else what it is in equal areas, row by row: their brightness (ITU-R 601) as ``p0_0``, ``p0_1``,
    …, or their red, green and blue as ``p0_0_0``, ``p0_0_1``, ``p0_0_2``, …
    """
    return _statistics(image) if pixels is None else _pixels(image, pixels)


def opened(raw: bytes, most: int, where: str, formats: tuple[str, ...] = FORMATS) -> Image:
    """The image in a file's content, turned as its camera says.

    Raises:
        DataCheckFailed: it is none of ``formats``, is damaged, has more than ``MOST_SCANS``, or has more pixels than
            ``most`` (``TooLarge``); ``where`` is named.
    """
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is refused, or does no harm: `most` is ours
            with Image.open(io.BytesIO(raw), formats=formats) as found:
                width, height = found.size
                if width * height > most:
                    raise TooLarge(f"has {width:,} × {height:,} pixels, more than {most:,}.", where=where)
                if raw.startswith(b"\xff\xd8") and raw.count(b"\xff\xda") > MOST_SCANS:
                    raise DataCheckFailed(f"is a JPEG of more than {MOST_SCANS} scans.", where=where)
                image = ImageOps.exif_transpose(found)
                image.load()
    except (*DAMAGED, Image.DecompressionBombError):
        what = f"is no image, or a damaged one; {', '.join(formats)} are read."
        raise DataCheckFailed(what, where=where) from None
    return image


def _statistics(image: Image) -> dict[str, float]:
    import numpy as np

    values = _colours(image)
    row = {"width": float(image.width), "height": float(image.height)}
    for name, part in (("all", values), *((one, values[..., i]) for i, one in enumerate(CHANNELS))):
        row |= {f"{name}_mean": float(np.mean(part)), f"{name}_std": float(np.std(part))}
    return row


def _pixels(image: Image, pixels: Pixels) -> dict[str, float]:
    import numpy as np
    from PIL import Image

    colours = _colours(image)
    channels = np.moveaxis(colours, 2, 0) if pixels.colour else [colours @ np.array([0.299, 0.587, 0.114])]
    areas = [
        Image.fromarray(one.astype(np.float32)).resize((pixels.side, pixels.side), Image.Resampling.BOX)
        for one in channels
    ]
    values = np.stack([np.asarray(one, dtype=np.float64).clip(0, 1) for one in areas], axis=2)
    return dict(zip(pixels.names, values.ravel().tolist(), strict=True))


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
