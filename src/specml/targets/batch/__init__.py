"""Tables, scored where they lie."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from typing_extensions import override

from specml.cluster.dashboard import Dashboard
from specml.component import Block, Disagreement
from specml.errors import SpecmlError
from specml.files import canonical_json, inside, locked, read_json, write_atomic
from specml.kinds import Deployment, Target
from specml.releases import Release, named
from specml.targets.batch.parts import Scoring, scored
from specml.targets.batch.remote import Remote
from specml.values import FilePath, Secret

if TYPE_CHECKING:
    from specml.releases import Release
    from specml.spec import Spec

STATE = ".specml/batch"
RECORD = f"{STATE}/live.json"
OF_USE = ("batching", "trees")
"""Keys of ``serving`` that say how a graph is made or run; others are of requests."""
LIVE = "live"
"""The link in the folder of answers that leads to those of the release that is live."""


class Cluster(Block):
    """A Ray cluster that runs already, all nodes of which see the project's folder at the same path."""

    address: Annotated[str, Field(pattern=r"^https?://[^\s/]+/?$")]
    """Of the cluster's dashboard, as ``http://10.0.0.5:8265``: all goes through its HTTP API."""
    token: Secret | None = None
    """The cluster's token, as ``${secret:RAY_TOKEN}``, where it was started with ``RAY_AUTH_MODE=token``. It is sent as
    it is: use https, a network of your own or a tunnel."""


class Batch(Target):
    """Files of rows, scored where they lie: by each release every row once, also when it is killed in between."""

    type: Literal["batch"] = "batch"
    input: FilePath
    """A file of rows, or a folder of such, relative to the project: ``.csv``, ``.tsv``, ``.parquet``, ``.jsonl``,
    ``.arrow`` or ``.xlsx``. Each ``specml deploy`` scores the files that the release has not scored yet."""
    output: FilePath = "scored"
    """The folder of the answers: in it one of each release, in that one of each file."""
    format: Literal["parquet", "csv"] = "parquet"
    """Of the files of answers."""
    keep: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """The columns of the input that stand beside the answers, as ``[customer_id]``; all unless given."""
    bad_rows: Literal["refuse", "quarantine"] = "refuse"
    """What becomes of a row that the model can't answer (a value that its column does not take): ``refuse``, nothing
    more of the file is scored; ``quarantine``, the row is put aside with its number and the reason."""
    part_rows: Annotated[int, Field(ge=1)] = 100_000
    """Rows of the input in a file of answers: what is lost when a run is killed, and, times two for each worker, what
    memory holds at once."""
    workers: Annotated[int, Field(ge=1)] | None = None
    """Processes that score, one thread each; one for each core unless given, and never more than that. On a
    ``cluster``: actors, one for each CPU unless given."""
    cluster: Cluster | None = None
    """Where files are scored by Ray Data, as ``{address: "http://10.0.0.5:8265"}``; on this machine unless given. The
    answers are the same."""

    @override
    def emit(self, spec: Spec) -> dict[str, str]:
        return {}

    @override
    def in_words(self, spec: Spec) -> str:
        where = f" by Ray Data on the cluster at {self.cluster.address}" if self.cluster is not None else ""
        return (
            f"A release scores the files of {self.input} into {self.output}{where}, each row once; nothing is served."
        )

    @override
    def deploy(self, spec: Spec, project: Path, release: Release, say: Callable[[str], None]) -> Deployment:
        release.open()
        with locked(project / f"{STATE}.lock"):
            record = project / RECORD
            before = record.read_bytes() if record.exists() else None
            # From now on the answers of this release are what is being made; killed here, the next run goes on.
            write_atomic(record, canonical_json({"bundle": release.entry.bundle, "release": release.entry.number}))
            folder = self._folder(project, release.entry.bundle)
            try:
                scoring = Scoring(self, spec, project, release, folder, say)
                if self.cluster is None:
                    scoring.run()
                else:
                    self._remote(self.cluster, project, say).run(scoring)
            except SpecmlError:
                record.unlink() if before is None else write_atomic(record, before)
                raise
            _point(folder)
        return self._deployment(project, release.entry.bundle)

    @override
    def status(self, spec: Spec, project: Path) -> Deployment | None:
        """What the last run scored by; how much of it there is."""
        try:
            bundle = str(read_json(project / RECORD)["bundle"])
        except (OSError, ValueError, LookupError, TypeError):
            return None
        return self._deployment(project, bundle)

    @override
    def stop(self, spec: Spec, project: Path) -> bool:
        """Stop what still scores on a cluster; on this machine nothing runs once a run has ended."""
        return self.cluster is not None and self._remote(self.cluster, project, lambda _: None).end()

    @override
    def disagreements(self, spec: Spec) -> Iterable[Disagreement]:
        serving, batching = spec.serving, spec.serving.batching
        of_requests = [(serving, ("serving", name)) for name in type(serving).model_fields if name not in OF_USE]
        batches = [(batching, ("serving", "batching", name)) for name in type(batching).model_fields]
        monitored = (spec.monitoring, ("monitoring", "capture"))
        told: list[tuple[Block, tuple[str, ...]]] = [*of_requests, *batches, monitored]
        for block, key in told:
            if key[-1] != "max_batch_size" and _said(block, key[-1]):
                what = "has no effect: the target batch scores files, and nobody asks it."
                yield Disagreement(key=key, what=what, hint="Leave it out.", from_root=True)
        if Path(self.output) == Path(self.input) or Path(self.input) in Path(self.output).parents:
            what = f"lies in {self.input}, and would be scored itself."
            yield Disagreement(key=("output",), what=what, hint="Name a folder beside it.")

    def _remote(self, cluster: Cluster, project: Path, say: Callable[[str], None]) -> Remote:
        key = "deployment.target.cluster"
        token = cluster.token.value(f"{key}.token") if cluster.token is not None else ""
        return Remote(Dashboard(cluster.address, token, key), project, say)

    def _folder(self, project: Path, bundle: str) -> Path:
        return inside(project, self.output) / named(bundle)

    def _deployment(self, project: Path, bundle: str) -> Deployment:
        return Deployment("", bundle, 0, (), scored=scored(self._folder(project, bundle)))


def _said(block: Block, name: str) -> bool:
    """Whether something else than the default is wanted."""
    return getattr(block, name) not in (None, type(block).model_fields[name].get_default(call_default_factory=True))


def _point(folder: Path) -> None:
    """Have ``live`` beside the folders of the releases lead to this one."""
    link = folder.parent / LIVE
    if link.is_symlink() and link.readlink() == Path(folder.name):
        return
    new = folder.parent / f".{LIVE}.new"
    new.unlink(missing_ok=True)
    new.symlink_to(folder.name)
    new.replace(link)
