"""Small images in a folder."""

from __future__ import annotations

import lzma
import zipfile
import zlib
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from typing_extensions import override

from specml.component import Disagreement
from specml.data import Pixels
from specml.errors import DataCheckFailed, NotEnoughData, first_line
from specml.files import inside
from specml.kinds import FileSource, untold
from specml.reading.images import ENDS, Sort, TooLarge, numbers, opened

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import polars as pl

    from specml.kinds import Tell
    from specml.spec import Spec

MOST_BYTES = 1 << 28
"""Of one image in a .zip, unpacked: what its head promises is held against it before it is."""

UNREADABLE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError, RuntimeError, EOFError, OSError,
)  # fmt: skip
"""What Python raises of a .zip: damaged, of a method that it does not know, encrypted, cut off, not permitted."""


class ImageFolder(FileSource):
    """Small images as rows of numbers, from a folder, a .zip of one, or one file.

    A column ``file``, a column ``label`` with the name of the folder that an image lies in, and statistics of its
    colours or its pixels.
    """

    type: Literal["image_folder"] = "image_folder"
    columns: Sort = "statistics"
    """``statistics``: width, height, and mean and standard deviation of all and of each channel; ``pixels``: the
    brightness of ``side`` × ``side`` equal areas, for ``image_cnn`` and requests that carry an image. Both from 0
    to 1."""
    side: Annotated[int, Field(ge=1, le=64)] = 8
    """``pixels``: areas in each direction; 8 gives 64 columns."""
    colour: bool = False
    """``pixels``: red, green and blue of each area, three columns, in place of its brightness."""
    max_pixels: Annotated[int, Field(ge=1)] = 25_000_000
    """Most pixels of an image; a larger one is refused before it is unpacked."""

    @override
    def disagreements(self, spec: Spec) -> Iterable[Disagreement]:
        fields = type(self).model_fields
        for name in ("side", "colour") if self.columns != "pixels" else ():
            if getattr(self, name) != fields[name].default:
                yield Disagreement(key=(name,), what="has no effect on statistics.", hint="Say columns: pixels.")

    @property
    @override
    def pixels(self) -> Pixels | None:
        return Pixels(side=self.side, colour=self.colour) if self.columns == "pixels" else None

    @override
    def read(self, folder: Path, texts: frozenset[str] = frozenset(), tell: Tell = untold) -> pl.DataFrame:
        import polars as pl

        rows: list[dict[str, Any]] = []
        for name, raw in self._images(folder, tell):
            where = f"{self.path}/{name}" if name else self.path
            try:
                image = opened(raw, self.max_pixels, where)
            except TooLarge as error:
                raise DataCheckFailed(error.what, where=where, hint="Raise max_pixels.") from None
            label = PurePosixPath(name).parent.name or None
            rows.append({"file": name or Path(self.path).name, "label": label, **numbers(image, self.pixels)})
        if not rows:
            raise NotEnoughData(f"holds no image ({', '.join(ENDS)}).", where=self.path)
        return pl.DataFrame(rows, infer_schema_length=None, schema_overrides={"label": pl.String})

    def _images(self, folder: Path, tell: Tell) -> Iterator[tuple[str, bytes]]:
        """The path below ``path`` and the content of each image, by its path; that of a file alone is empty."""
        root = self.located(folder)
        if root.suffix.lower() in ENDS and root.is_file():
            yield "", root.read_bytes()
            return
        if root.suffix.lower() == ".zip" and root.is_file():
            yield from self._unpacked(root, tell)
            return
        if not root.is_dir():
            what = "is a file, not a folder or a .zip of one." if root.exists() else "there is no such folder."
            raise DataCheckFailed(what, where=self.path)
        images, others = [], 0
        for file in sorted(one for one in root.rglob("*") if one.is_file()):
            if _is_image(file):
                images.append(inside(root, file.relative_to(root).as_posix(), allow_outside=self.allow_outside))
            else:
                others += 1
        if others and images:
            tell("files that are no images left out", others)
        for file in images:
            yield file.relative_to(root).as_posix(), file.read_bytes()

    def _unpacked(self, path: Path, tell: Tell) -> Iterator[tuple[str, bytes]]:
        try:
            with zipfile.ZipFile(path) as archive:
                files = sorted((one for one in archive.infolist() if not one.is_dir()), key=lambda one: one.filename)
                images = [one for one in files if _is_image(PurePosixPath(one.filename))]
                if len(files) > len(images) > 0:
                    tell("files that are no images left out", len(files) - len(images))
                for one in images:
                    if one.file_size > MOST_BYTES:
                        what = f"takes {one.file_size:,} bytes unpacked, more than {MOST_BYTES:,}."
                        raise DataCheckFailed(what, where=f"{self.path}/{one.filename}")
                    yield one.filename, archive.read(one)
        except UNREADABLE as error:
            raise DataCheckFailed(f"can't be read as a .zip: {first_line(error)}", where=self.path) from None


def _is_image(path: PurePath) -> bool:
    """Whether it is called one; macOS lays ``._a.png`` beside ``a.png``, which is none."""
    return path.suffix.lower() in ENDS and not path.name.startswith("._")
