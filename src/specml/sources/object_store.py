"""Rows in an object store."""

from __future__ import annotations

import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from specml.component import Disagreement
from specml.errors import DataCheckFailed
from specml.files import canonical_json, digest
from specml.kinds import Source, untold
from specml.reading import CsvText, Format, format_of, read_format, unpacked
from specml.reading.parquet import unpacked_size
from specml.values import Duration, Secret

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import polars as pl

    from specml.kinds import Tell
    from specml.spec import Spec

PIECE = 1 << 23
"""Bytes asked for at once."""
LONGEST_READ = 30
"""Seconds in which the store has to send something."""


class ObjectStore(Source):
    """Objects of S3, or of a store that speaks as it does (MinIO, Ceph, R2, …)."""

    type: Literal["object_store"] = "object_store"
    remote: ClassVar[bool] = True

    path: Annotated[str, Field(pattern=r"^s3://[a-z0-9][a-z0-9.-]+/.+$")]
    """The object, as ``s3://bucket/rows.parquet``; with ``*`` all that match, one below the other in the order of
    their names, with the same columns."""
    endpoint: Annotated[str, Field(pattern=r"^https?://[^/@]+/?$")] | None = None
    """The store's address, where it is not Amazon's."""
    key: Secret | None = None
    """The access key. Without it: what the environment or the machine's role gives (boto's chain)."""
    secret: Secret | None = None
    """The access key's secret."""
    format: Format | None = None
    """Unless said: what the first bytes and the name say."""
    csv: CsvText = CsvText()
    """How CSV files are written."""
    max_bytes: Annotated[int, Field(ge=1)] = 1 << 30
    """Most bytes of all objects, packed and unpacked: 1 GiB unless said."""
    timeout: Annotated[Duration, Field(gt=0)] = Duration(300.0)
    """How long all of it may take."""

    @override
    def files(self) -> tuple[str, ...]:
        return ()

    @override
    def disagreements(self, spec: Spec) -> Iterable[Disagreement]:
        if (self.key is None) != (self.secret is None):
            yield Disagreement(key=("key",), what="and `secret` are named together or not at all.")
        if self.csv != CsvText() and self.format not in (None, "csv"):
            yield Disagreement(key=("csv",), what=f"has no effect: the format is {self.format}.")

    @override
    def read(self, folder: Path, texts: frozenset[str] = frozenset(), tell: Tell = untold) -> pl.DataFrame:
        import polars as pl

        tables: list[pl.DataFrame] = []
        with self._told() as store:
            objects, room, until = self._objects(store), self.max_bytes, time.monotonic() + self.timeout
            if sum(size for size, _ in objects.values()) > room:
                raise self._large()
            for name in objects:
                content = unpacked(self._content(store, name, room, until), f"s3://{name}", room)
                form = self.format or format_of(content, name)
                if self.format is None:
                    tell("format", form)
                where = f"s3://{name}"
                table = read_format(content, form, self.csv, where=where, texts=texts, tell=tell, limit=room)
                room -= max(len(content), unpacked_size(content, where) if form == "parquet" else 0)
                if tables and table.columns != tables[0].columns:
                    raise DataCheckFailed(f"has other columns than {next(iter(objects))}.", where=where)
                tables.append(table)
        try:
            return pl.concat(tables, how="vertical_relaxed")
        except pl.exceptions.PolarsError:
            raise DataCheckFailed(
                "holds columns of other types in some objects than in others.", where=self.path
            ) from None

    @override
    def fingerprint(self, folder: Path) -> dict[str, Any]:
        with self._told() as store:
            objects = self._objects(store)
        told = {name: list(facts) for name, facts in objects.items()}
        return {
            "objects": len(objects),
            "bytes": sum(size for size, _ in objects.values()),
            "etags": digest(canonical_json(told)),
        }

    @contextmanager
    def _told(self) -> Iterator[Any]:
        """The store; what it refuses becomes one line."""
        import s3fs
        from botocore.exceptions import BotoCoreError, ClientError

        until = min(LONGEST_READ, self.timeout)
        try:
            yield s3fs.S3FileSystem(
                key=self.key.value("key") if self.key else None,
                secret=self.secret.value("secret") if self.secret else None,
                endpoint_url=self.endpoint,
                config_kwargs={"connect_timeout": until, "read_timeout": until, "retries": {"max_attempts": 2}},
                skip_instance_cache=True,
                use_listings_cache=False,
            )
        except FileNotFoundError:
            raise DataCheckFailed("there is no such object, or no such bucket.", where=self.path) from None
        except PermissionError:
            hint = "`key` and `secret` name the access key; without them the environment's is taken."
            raise DataCheckFailed("may not be read with this access key.", hint=hint, where=self.path) from None
        except (BotoCoreError, ClientError, OSError, TimeoutError) as error:
            raise DataCheckFailed(f"can't be read: {type(error).__name__}.", where=self.path) from None

    def _objects(self, store: Any) -> dict[str, tuple[int, str]]:
        """Size and ETag by name, sorted."""
        bare = self.path.removeprefix("s3://")
        found = store.glob(bare, detail=True) if "*" in bare else {bare: store.info(bare)}
        objects = {name: facts for name, facts in found.items() if facts["type"] == "file"}
        if not objects:
            raise DataCheckFailed("no object matches.", where=self.path)
        return {name: (int(objects[name]["size"]), str(objects[name].get("ETag", ""))) for name in sorted(objects)}

    def _content(self, store: Any, name: str, room: int, until: float) -> bytes:
        pieces: list[bytes] = []
        size = 0
        with store.open(name, "rb", block_size=PIECE, cache_type="none") as content:
            while piece := content.read(PIECE):
                size += len(piece)
                pieces.append(piece)
                if size > room:
                    raise self._large()
                if time.monotonic() > until:
                    what = f"takes longer than {self.timeout:g} s."
                    raise DataCheckFailed(what, hint="Raise timeout.", where=self.path)
        return b"".join(pieces)

    def _large(self) -> DataCheckFailed:
        what = f"has more than {self.max_bytes:,} bytes."
        return DataCheckFailed(what, hint="Raise max_bytes.", where=self.path)
