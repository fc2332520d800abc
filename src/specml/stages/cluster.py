"""Trials judged by the nodes of a Ray cluster; the journal stays here, with what began the search."""

from __future__ import annotations

import os
import pickle
import socket
from functools import partial
from typing import TYPE_CHECKING, Any

from specml.errors import SpecmlError, StageFailed
from specml.stages.journal import versions
from specml.stages.judges import timed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from specml.kinds import Candidate
    from specml.stages.cross_validation import Judged
    from specml.stages.judges import Told


class ClusterJudges:
    """Judges settings as Ray tasks, of one thread each; a generation is given to the cluster as a whole.

    A task whose node or worker is lost is done again by another, as Ray does it; what is judged anew comes to the same.
    """

    def __init__(self, judge: Callable[..., Judged], address: str) -> None:
        self._judge, self._address = judge, address
        self.nodes: set[str] = set()
        """Ids of those that have judged."""

    def __enter__(self) -> ClusterJudges:
        import ray

        connected(self._address)
        # Pickled once: the rows travel to a node once, whatever it judges.
        self._told = ray.put(pickle.dumps(partial(self._judge, threads=1)))
        self._task: Any = ray.remote(num_cpus=1)(_judged)
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        ray.shutdown()

    def __call__(
        self, candidates: dict[int, Candidate], rival: tuple[float, ...], may_begin: Callable[[int], bool]
    ) -> Iterator[tuple[int, Told]]:
        """As ``Judges`` does."""
        import ray

        waiting: dict[Any, int] = {}
        for number, candidate in candidates.items():
            if not may_begin(len(waiting)):
                break
            task = self._task.remote(self._told, pickle.dumps(candidate), rival, versions(candidate))
            waiting[task] = number
        while waiting:
            (ended,), _ = ray.wait(list(waiting), num_returns=1)
            judged, seconds, node = _got(ended)
            self.nodes.add(node)
            yield waiting.pop(ended), (judged, seconds)


def connected(address: str) -> None:
    """Join the cluster at ``search.ray_address``.

    Raises:
        StageFailed: none answers.
    """
    import ray

    address = os.environ.get("RAY_ADDRESS", "auto") if address == "auto" else address
    try:
        _reach(address)
        ray.init(address, log_to_driver=False, configure_logging=False)
    except (OSError, RuntimeError, ValueError):
        what = f"no Ray cluster answers at {address!r}."
        hint = "Start one with `ray start --head`, or name its address as host:port."
        raise StageFailed(what, where="search.ray_address", hint=hint) from None


def _reach(address: str) -> None:
    """See that somebody listens: Ray asks for minutes where nobody does.

    Raises:
        OSError: nobody does.
    """
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _got(task: Any) -> tuple[Judged, float, str]:
    """What a task came to; its own errors are raised as they would be here."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        found: tuple[Judged, float, str] = ray.get(task)
    except RayTaskError as error:
        if isinstance(error.cause, SpecmlError):
            raise error.cause from None
        what = f"a node of the Ray cluster could not judge a trial: {type(error.cause).__name__}."
        hint = "Every node needs the same specml, the same libraries, and the packages of plugins."
        raise StageFailed(what, where="search.executor", hint=hint) from None
    except RayError as error:
        what = f"the Ray cluster lost a trial: {type(error).__name__}."
        raise StageFailed(what, where="search.executor", hint="Look at its nodes with `ray status`.") from None
    return found


def _judged(
    told: bytes, candidate: bytes, rival: tuple[float, ...], wanted: dict[str, str]
) -> tuple[Judged, float, str]:
    """On a node: judge a candidate, and name the node."""
    import ray
    from threadpoolctl import threadpool_limits

    judge, one = pickle.loads(told), pickle.loads(candidate)  # noqa: S301 - who began the search wrote them
    here = versions(one)
    if other := sorted(name for name, version in wanted.items() if here.get(name) != version):
        what = f"a node of the Ray cluster has another version of {', '.join(other)}: its scores may be others."
        raise StageFailed(what, where="search.executor", hint="Install the same versions on every node.")
    with threadpool_limits(1, user_api="blas"):
        return *timed(judge, one, rival), ray.get_runtime_context().get_node_id()
