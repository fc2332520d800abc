"""Everything malformed, over HTTP, to one replica in a process of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import malformed
from tests.servers import alone

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import psutil

GROWTH = 100_000_000
"""Bytes that a server may grow by."""


@pytest.fixture(scope="module")
def small(bundle: Path) -> Iterator[tuple[int, psutil.Process]]:
    with alone(bundle, max_rows=50, max_body=10_000) as found:
        yield found


def test_nothing_malformed_is_answered(small: tuple[int, psutil.Process]) -> None:
    port, process = small
    malformed.lives(port, "the start")
    before = process.memory_info().rss
    malformed.refuses(port, malformed.cases(max_body=10_000))
    assert process.memory_info().rss - before < GROWTH


def test_no_nuisance_hurts(small: tuple[int, psutil.Process]) -> None:
    port, process = small
    before, files = process.memory_info().rss, process.num_fds()
    malformed.survives(port)
    assert process.memory_info().rss - before < GROWTH
    assert process.num_fds() < files + 10


def test_nothing_large_is_believed(bundle: Path) -> None:
    with alone(bundle) as (port, process):
        malformed.lives(port, "the start")
        before = process.memory_info().rss
        malformed.refuses(port, malformed.heavy())
        assert process.memory_info().rss - before < GROWTH
