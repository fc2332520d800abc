"""A convolutional network for small pictures, trained by PyTorch Lightning."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, ValidationError
from typing_extensions import override

from specml.component import Block
from specml.errors import StageFailed
from specml.kinds import Preference
from specml.neural import LINK, Neural, Widths
from specml.space import Dimension, Setting

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from specml.data import Design
    from specml.image_network import ImageNetwork

_PIXEL = re.compile(r"(.*[^0-9_]_?)([0-9]{1,4})_([0-9]{1,4})(?:_([0-9]{1,2}))?", re.DOTALL)
Side = Annotated[int, Field(ge=1, le=1024)]


class Picture(Block):
    """How large the picture is."""

    height: Side
    """Pixels from top to bottom."""
    width: Side
    """Pixels from left to right."""
    channels: Annotated[int, Field(ge=1, le=16)] = 1
    """Numbers of each pixel: 1 for brightness, 3 for red, green and blue."""


class ImageCnn(Neural):
    """Convolutions over small pictures whose pixels are columns, with dense layers after them.

    Columns that are no pixels join the dense layers. The learning rate falls to 0 over ``epochs``; all rows train, on
    the CPU with one thread: the same model everywhere.
    """

    prefers: ClassVar[Preference] = Preference(missing="median", scale="none", encode="onehot")
    at_once: ClassVar[int] = 512
    usual_space: ClassVar[Mapping[str, Dimension]] = {
        "learning_rate": Dimension(low=1e-3, high=1e-2, log=True),
        "weight_decay": Dimension(low=1e-4, high=0.1, log=True),
        "dropout": Dimension(low=0.0, high=0.5),
        "shift": Dimension(low=0, high=2),
    }
    # Moved pictures help where the thing shown does not fill its frame, and cost what lies at the edge where it does.
    portfolio: ClassVar[tuple[Mapping[str, Setting], ...]] = (
        {"shift": 1, "dropout": 0.2},
        {"learning_rate": 0.002, "shift": 0, "dropout": 0.4},
    )

    type: Literal["image_cnn"] = "image_cnn"
    image: Picture | None = None
    """How large the picture is; unless said, as its columns' names tell: the numbers at their end are row and column,
    counted from 0, and channel, as in ``p3_12`` and ``pixel_3_12_0``."""
    filters: Annotated[tuple[Annotated[int, Field(ge=1, le=1024)], ...], Field(min_length=1, max_length=8)] = (32, 64)
    """Filters of each convolution, of 3 × 3 pixels. After each the picture is halved, while it has 4 pixels or more in
    both directions."""
    hidden: Widths = (128,)
    """Width of each dense layer."""
    shift: Annotated[int, Field(ge=0, le=16)] = 0
    """Pixels by which a training picture is moved at most, up or down and left or right: by chance anew in each epoch,
    the same for the same seed. Its edge is drawn out, so what is shown needs a margin."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Of AdamW."""
    batch_size: Annotated[int, Field(ge=1)] = 64
    """Rows in a step."""
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 24
    """Passes over the rows in which the learning rate falls to 0."""

    @override
    def opened(self, folder: Path) -> ImageNetwork:
        from specml.image_network import ImageNetwork

        return ImageNetwork.load(folder)

    @override
    def network(self, train: Design) -> ImageNetwork:
        import numpy as np
        import torch

        from specml.image_network import ImageNetwork, ImageShape

        picture, places = self.placed(train.names, train.X.shape[1])
        shape = ImageShape(
            **picture.model_dump(),
            places=places,
            filters=self.filters,
            hidden=self.hidden,
            outputs=train.n_classes if train.task == "multiclass" else 1,
            link=LINK[train.task],
        )
        network = ImageNetwork(shape, self.dropout, self.shift)
        one_channel = shape.height * shape.width
        with torch.no_grad():
            for channel in range(shape.channels):
                columns = [k for k, place in enumerate(places) if place >= 0 and place // one_channel == channel]
                low, slope = _brightness(train.X[:, columns])
                here = [places[k] for k in columns]
                network.low[here], network.slope[here] = low, slope
            beside = train.X[:, shape.beside].astype(np.float64)
            beside = np.where(np.isfinite(beside), beside, np.nan)
            for number, values in enumerate(beside.T):
                known = np.clip(values[~np.isnan(values)], -1e30, 1e30)
                spread = float(known.std()) if len(known) else 0.0
                network.mean[number] = float(known.mean()) if len(known) else 0.0
                network.scale[number] = 1 / spread if spread > 0 else 1.0
        return network

    def placed(self, names: tuple[str, ...], columns: int) -> tuple[Picture, tuple[int, ...]]:
        """How large the picture is, and of each design column its place in it, channel by channel; -1: it has none.

        Raises:
            StageFailed: the columns are no picture, do not lie in the one that ``image`` says, or two in one place.
        """
        found = _pixels(names)
        if not found:
            return self._in_order(columns)
        most = [max(place[axis] for place in found.values()) + 1 for axis in range(3)]
        picture = self.image or _picture(*most)
        first = {place: name for name, place in reversed(found.items())}
        for name, (row, column, channel) in found.items():
            if (other := first[row, column, channel]) != name:
                what = f"can't be told: the columns {other!r} and {name!r} are named for one place."
                raise StageFailed(what, where="image", hint="Leave one out, or rename it.")
            if row >= picture.height or column >= picture.width or channel >= picture.channels:
                what = f"is {_words(picture)}; the column {name!r} lies outside."
                raise StageFailed(what, where="image", hint="Rows and columns count from 0.")
        size = picture.height * picture.width
        places = (found.get(name) for name in names)
        return picture, tuple(-1 if one is None else one[2] * size + one[0] * picture.width + one[1] for one in places)

    def _in_order(self, columns: int) -> tuple[Picture, tuple[int, ...]]:
        """All columns as the pixels of a picture, row by row, its channels one after the other."""
        side = math.isqrt(columns)
        if self.image is None and side * side != columns:
            what = f"can't be told: none of the {columns} columns is named for a pixel, as p0_0, p0_1 and so on."
            raise StageFailed(what, where="image", hint="Say image: {height: …, width: …}, or name the columns so.")
        picture = self.image or _picture(side, side)
        if picture.height * picture.width * picture.channels != columns:
            what = f"is {_words(picture)}; the design has {columns} columns, none of them named for a pixel."
            hint = "Name them p0_0, p0_1 and so on: then pixels may lack, and other columns stand beside them."
            raise StageFailed(what, where="image", hint=hint)
        return picture, tuple(range(columns))


def _pixels(names: tuple[str, ...]) -> dict[str, tuple[int, int, int]]:
    """Row, column and channel of each column that is a pixel: of those that begin alike, the most."""
    found: dict[str, dict[str, tuple[int, int, int]]] = {}
    for name in names:
        if told := _PIXEL.fullmatch(name):
            place = (int(told[2]), int(told[3]), int(told[4] or 0))
            found.setdefault(told[1], {})[name] = place
    most = max(found.values(), key=len, default={})
    return most if len(most) > 1 else {}


def _picture(height: int, width: int, channels: int = 1) -> Picture:
    """A picture that the columns tell."""
    try:
        return Picture(height=height, width=width, channels=channels)
    except ValidationError:
        what = f"is {height} × {width} × {channels} by the columns; 1 × 1 × 1 to 1024 × 1024 × 16 are taken."
        hint = "Columns that are no pixels must not end in two or three numbers: rename them."
        raise StageFailed(what, where="image", hint=hint) from None


def _brightness(pixels: np.ndarray) -> tuple[float, float]:
    """The least of ``pixels``, and 1 / (most - least)."""
    import numpy as np

    known = pixels[np.isfinite(pixels)].astype(np.float64)
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
    return low, 1 / (high - low) if high - low > 1e-30 else 0.0


def _words(picture: Picture) -> str:
    return f"{picture.height} × {picture.width} × {picture.channels}"
