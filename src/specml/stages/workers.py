"""A fit that several workers of a Ray cluster share, led by Ray Train.

The rows travel to each worker once. Rank 0 tells the model; nothing is kept on a node, so the nodes need no disk
in common.
"""

from __future__ import annotations

import importlib
import os
import pickle
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specml.errors import SpecmlError, StageFailed
from specml.stages.cluster import connected
from specml.stages.journal import versions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from specml.data import Design
    from specml.kinds import Candidate, Model
    from specml.spec import Search

WHERE = "train.workers"
TRIES = 2
"""How often a fit begins anew when a node is lost: what it comes to is the same."""
QUIET = {"RAY_TRAIN_V2_ENABLED": "1", "RAY_TRAIN_METRICS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1"}


def fit(candidate: Candidate, train: Design, *, seed: int, workers: int, search: Search) -> Model:
    """``candidate.fit`` on ``train``, shared by so many ``workers`` of one CPU each; nothing is watched.

    Raises:
        ModuleNotFoundError: Ray Train is not installed.
        StageFailed: no cluster answers, it has too few CPUs, a node has other versions, or it loses its nodes.
    """
    _refuse_absent()
    with _cluster(search, workers):
        _refuse_few_cpus(workers)
        files = _fitted(candidate, train, seed, workers)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, content in files.items():
            (folder / file).write_bytes(content)
        return candidate.load(folder, train.task)


def check(search: Search, workers: int) -> None:
    """Refuse at once what ``fit`` would refuse after the whole search; raises as it does."""
    _refuse_absent()
    if _joins(search):
        with _cluster(search, workers):
            _refuse_few_cpus(workers)


def _refuse_few_cpus(workers: int) -> None:
    import ray

    cpus = int(ray.cluster_resources().get("CPU", 0))
    if cpus < workers:
        what = f"is {workers}, but the Ray cluster has {cpus} CPUs: a worker needs one."
        raise StageFailed(what, where=WHERE, hint="Add nodes to it, or ask for fewer workers.")


def _refuse_absent() -> None:
    """Ray Train names no package when one is missing."""
    for name in ("ray", "pandas", "pyarrow", "tensorboardX"):
        importlib.import_module(name)


def _joins(search: Search) -> bool:
    """Whether there is a cluster to join."""
    return search.executor == "ray" or search.ray_address != "auto" or "RAY_ADDRESS" in os.environ


@contextmanager
def _cluster(search: Search, workers: int) -> Iterator[None]:
    """The cluster of the search, where it has one; else one that lives as long as the fit."""
    import ray

    before = {name: os.environ.get(name) for name in QUIET}
    os.environ.update(QUIET)
    try:
        if _joins(search):
            connected(search.ray_address)
        else:
            # Its own: the server of a deployment runs another one on this machine.
            ray.init(
                "local", num_cpus=workers, include_dashboard=False, log_to_driver=False, configure_logging=False
            )  # fmt: skip
        yield
    finally:
        ray.shutdown()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def _fitted(candidate: Candidate, train: Design, seed: int, workers: int) -> dict[str, bytes]:
    """The files of the model, by name."""
    import ray
    from ray.exceptions import RayError
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    kept: Any = ray.remote(num_cpus=0)(_Kept).remote()
    told = {
        "rows": [ray.put(pickle.dumps((candidate, train)))],
        "seed": seed,
        "versions": versions(candidate),
        "kept": kept,
    }
    with tempfile.TemporaryDirectory() as folder:
        trainer = TorchTrainer(
            _shared,
            train_loop_config=told,
            torch_config=TorchConfig(backend="gloo"),
            scaling_config=ScalingConfig(
                num_workers=workers, resources_per_worker={"CPU": 1}, placement_strategy="SPREAD"
            ),
            run_config=RunConfig(
                storage_path=folder,
                failure_config=FailureConfig(max_failures=TRIES),
                logging_config=LoggingConfig(log_level="CRITICAL"),
            ),
        )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of what Ray itself still calls
                trainer.fit()
        except Exception as error:  # Ray Train's errors have no common class
            what = f"the Ray cluster could not train: {type(error).__name__}."
            hint = "Look at its nodes with `ray status`; every node needs the same specml and libraries."
            raise StageFailed(what, where=WHERE, hint=hint) from error
        try:
            refusal, files = ray.get(kept.told.remote())
        except RayError as error:
            raise StageFailed("the Ray cluster lost the model.", where=WHERE) from error
    if refusal is not None:
        raise refusal
    found: dict[str, bytes] = files
    return found


class _Kept:
    """An actor: what comes of the fit, kept for who began it."""

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}
        self._refused: SpecmlError | None = None

    def keep(self, files: dict[str, bytes]) -> None:
        self._files = files

    def refuse(self, refusal: SpecmlError) -> None:
        self._refused = refusal

    def told(self) -> tuple[SpecmlError | None, dict[str, bytes]]:
        return self._refused, self._files


def _shared(told: dict[str, Any]) -> None:
    """On a worker: its share of the fit."""
    import ray
    from ray import train
    from threadpoolctl import threadpool_limits

    place = train.get_context()
    rank, workers = place.get_world_rank(), place.get_world_size()
    candidate, rows = pickle.loads(ray.get(told["rows"][0]))  # noqa: S301 - who began the fit wrote it
    if other := _others(told["versions"], versions(candidate), workers):
        what = f"a node of the Ray cluster has another version of {', '.join(other)}."
        refusal = StageFailed(what, where=WHERE, hint="Install the same versions on every node.")
        ray.get(told["kept"].refuse.remote(refusal))
        return
    with threadpool_limits(1, user_api="blas"):
        model = candidate.fit_share(rows, seed=told["seed"], rank=rank, workers=workers)
    if rank == 0:
        with tempfile.TemporaryDirectory() as folder:
            model.save(Path(folder))
            files = {file.name: file.read_bytes() for file in Path(folder).iterdir()}
        ray.get(told["kept"].keep.remote(files))


def _others(wanted: dict[str, str], here: dict[str, str], workers: int) -> list[str]:
    """The libraries of which some worker has another version; all workers find the same."""
    from torch import distributed

    found: list[Any] = [None] * workers
    distributed.all_gather_object(found, [name for name, version in wanted.items() if here.get(name) != version])
    return sorted({name for names in found for name in names})
