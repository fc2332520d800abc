"""Small images in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from typing_extensions import override

from specml.component import Disagreement
from specml.errors import DataCheckFailed, NotEnoughData
from specml.files import inside
from specml.kinds import FileSource, untold
from specml.reading.images import ENDS, Sort, image_row

if TYPE_CHECKING:
    from collections.abc import Iterable

    import polars as pl

    from specml.kinds import Tell
    from specml.spec import Spec


class ImageFolder(FileSource):
    """Small images as rows of numbers.

    A column ``file``, a column ``label`` with the name of the folder that an image lies in, and statistics of its
    colours or the brightness of its parts.
    """

    type: Literal["image_folder"] = "image_folder"
    columns: Sort = "statistics"
    """``statistics``: width, height, and mean and standard deviation of all and of each channel; ``pixels``: the
    brightness of ``side`` × ``side`` equal areas. Both from 0 to 1."""
    side: Annotated[int, Field(ge=1, le=64)] = 8
    """``pixels``: areas in each direction; 8 gives 64 columns."""
    max_pixels: Annotated[int, Field(ge=1)] = 25_000_000
    """Most pixels of an image; a larger one is refused before it is unpacked."""

    @override
    def disagreements(self, spec: Spec) -> Iterable[Disagreement]:
        if self.columns != "pixels" and self.side != type(self).model_fields["side"].default:
            yield Disagreement(key=("side",), what="has no effect on statistics.", hint="Say columns: pixels.")

    @override
    def read(self, folder: Path, texts: frozenset[str] = frozenset(), tell: Tell = untold) -> pl.DataFrame:
        import polars as pl

        root = self.located(folder)
        if not root.is_dir():
            what = "is a file, not a folder." if root.exists() else "there is no such folder."
            raise DataCheckFailed(what, where=self.path)
        images, others = [], 0
        for file in sorted(one for one in root.rglob("*") if one.is_file()):
            if file.suffix.lower() in ENDS:
                images.append(inside(root, file.relative_to(root).as_posix(), allow_outside=self.allow_outside))
            else:
                others += 1
        if not images:
            raise NotEnoughData(f"holds no image ({', '.join(ENDS)}).", where=self.path)
        if others:
            tell("files that are no images left out", others)
        rows: list[dict[str, Any]] = []
        for file in images:
            name = file.relative_to(root).as_posix()
            numbers = image_row(file, self.columns, self.side, self.max_pixels, f"{self.path}/{name}")
            label = file.parent.name if file.parent != root else None
            rows.append({"file": name, "label": label, **numbers})
        return pl.DataFrame(rows, infer_schema_length=None, schema_overrides={"label": pl.String})
