"""Some of the kills of ``tests/kills.py``: torn lock files, and the command line alone while a search has workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import kills_search
from tests.kills import Bench, moments

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


def test_after_a_kill_the_next_run_gives_the_same_bytes(tmp_path: Path) -> None:
    bench = Bench(tmp_path.resolve())
    told = [bench.endure(moment) for moment in moments(7, 2)]
    assert len(told) == 2
    assert len({str(moment) for moment in moments(7, 40)}) == 40


@pytest.mark.sweep
def test_a_search_that_is_killed_again_and_again_finds_the_same(tmp_path: Path) -> None:
    bench = kills_search.Bench(tmp_path.resolve())
    for kill in kills_search.kills(7, 5):
        assert "kept" in bench.endure(kill)
    bench.finish()
