"""An image that a row of a request brings along, as the columns that the model takes.

The same code makes pixels of it as made those of the training rows. All images of a request together are bounded: to
unpack a large one takes a replica's time.
"""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

from specml.errors import DataCheckFailed
from specml.reading.images import FORMATS, TooLarge, numbers, opened
from specml.serving.refusal import Refused, json_type

if TYPE_CHECKING:
    from specml.bundle import Contract

KEY = "image"
"""Under what a row carries it, in base64: what ``base64 FILE`` makes of a .png, .jpg and the like."""

TAKEN = tuple(name for name in FORMATS if name != "TIFF")
"""No TIFF: its tiles may be larger than the image, and are unpacked whole."""

MOST_PIXELS = 2_000_000
"""Of all images in a request."""


def pictured(rows: list[Any], contract: Contract) -> list[Any]:
    """``rows`` with pixels in the place of ``image``.

    Raises:
        Refused: 422 for what is no image, or says a pixel besides; 413 for too many pixels. The message names the row.
    """
    pixels = contract.image
    if pixels is None or all(not isinstance(row, dict) or KEY not in row for row in rows):
        return rows
    inputs, left, out = {column.name for column in contract.inputs}, MOST_PIXELS, list[Any]()
    names = [name for name in pixels.names if name in inputs]
    for index, row in enumerate(rows):
        if not isinstance(row, dict) or KEY not in row:
            out.append(row)
            continue
        where = f"rows[{index}].{KEY}"
        if said := row.keys() & set(names):
            raise Refused(422, f"rows[{index}] has {KEY} and {min(said)!r}, which says the same: send one of the two.")
        raw = _bytes(row[KEY], where)
        try:
            image = opened(raw, left, where, TAKEN)
            left -= image.width * image.height
        except TooLarge as error:
            what = f"{where} {error.what} All images of a request may have {MOST_PIXELS:,}: shrink them, or send parts."
            raise Refused(413, what) from None
        except DataCheckFailed as error:
            raise Refused(422, f"{where} {error.what}") from None
        found = numbers(image, pixels)
        others = {name: value for name, value in row.items() if name != KEY}
        out.append({**others, **{name: found[name] for name in names}})
    return out


def example_image(contract: Contract) -> str:
    """A small grey PNG in base64: what a person may send."""
    from PIL import Image

    assert contract.image is not None
    content = io.BytesIO()
    Image.new("L", (contract.image.side,) * 2, 128).save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode()


def _bytes(value: Any, where: str) -> bytes:
    if not isinstance(value, str):
        raise Refused(422, f"{where} is a JSON {json_type(value)}, not an image in base64.")
    try:
        return base64.b64decode("".join(value.split()), validate=True)
    except ValueError:
        raise Refused(422, f"{where} is no base64.") from None
