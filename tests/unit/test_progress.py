"""What a run shows while it goes, where the output is no terminal."""

from __future__ import annotations

import io

from rich.console import Console

from specml.cli.progress import Follow


def shown(*, quiet: bool) -> str:
    """One stage with a step, a note and an end."""
    out = io.StringIO()
    with Follow(Console(file=out, width=120), {}, quiet=quiet) as follow:
        for event in (
            {"event": "start"},
            {"event": "say", "text": "a step", "done": None},
            {"event": "note", "text": "x set aside: [it] is odd"},
            {"event": "say", "text": "all told", "done": None},
            {"event": "done", "seconds": 1.0},
        ):
            follow({"stage": "prepare", "time": 0.0, **event})
    return out.getvalue()


def test_a_note_stays_and_the_last_step_ends_the_stage() -> None:
    told = shown(quiet=False)
    assert "prepare · x set aside: [it] is odd" in told
    assert "prepare ok 1.0s all told" in told
    assert "a step" not in told


def test_quiet_is_quiet() -> None:
    assert not shown(quiet=True)


def test_a_search_tells_its_own_time_left_and_is_kept_for_programs() -> None:
    out = io.StringIO()
    search = {"trials": 5, "planned": 12, "best": 0.9, "seconds_left": 34.2}
    with Follow(Console(file=out, width=120), {}, quiet=False) as follow:
        follow({"stage": "train@gbm", "time": 0.0, "event": "start"})
        follow(
            {"stage": "train@gbm", "time": 1.0, "event": "say", "text": "trial 5 of 12", "done": 0.4, "search": search}
        )
    assert "train@gbm trial 5 of 12 (34s left)" in out.getvalue()
    assert follow.searches == {"gbm": search}
    with Follow(Console(file=out, width=120), {}, quiet=True) as silent:
        silent(
            {"stage": "train@gbm", "time": 1.0, "event": "say", "text": "trial 5 of 12", "done": 0.4, "search": search}
        )
    assert silent.searches == {"gbm": search}
