"""Durations: whatever is printed is read back as the same number."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from specml.spec import Batching
from specml.values import Duration

READ = TypeAdapter(Duration)


@given(st.floats(min_value=0, allow_infinity=False) | st.integers(0, 10**9).map(float) | st.floats(0, 10))
def test_a_duration_comes_back(seconds: float) -> None:
    assert READ.validate_python(str(Duration(seconds)), strict=True) == seconds


@given(st.from_regex(Duration.PATTERN, fullmatch=True))
def test_a_written_duration_comes_back(text: str) -> None:
    found = Duration.parse(text)
    assert found is None or Duration.parse(str(found)) == found


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0ms"), (0.005, "5ms"), (0.25, "250ms"), (0.0055, "5.5ms"), (1.0, "1s"), (90.0, "90s"), (120.0, "2m"),
     (7200.0, "2h"), (604800.0, "7d"), (1234.5, "1234500ms"), (10.123456, "10.123456s"), (1e-9, "0.000000001s")],
)  # fmt: skip
def test_it_is_said_shortly(seconds: float, text: str) -> None:
    assert str(Duration(seconds)) == text


@pytest.mark.parametrize("text", ["", "5", "5 s", "-5s", "1e3s", "5min", "٥s", "9" * 400 + "d", "5s\n"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="must be a duration"):
        READ.validate_python(text)


def test_a_replica_never_waits_longer_than_ten_seconds() -> None:
    assert Batching.model_validate({"max_wait": "10s"}).max_wait == 10
    with pytest.raises(ValidationError, match="must be at most 10s"):
        Batching.model_validate({"max_wait": "10001ms"})
