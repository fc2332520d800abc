"""Where files can't be made, whoever reads the message knows where."""

from __future__ import annotations

from pathlib import Path

import pytest

from specml.files import scratch


def test_a_folder_in_which_nothing_can_be_made_is_named() -> None:
    with pytest.raises(OSError, match=r"'/proc'$"), scratch(Path("/proc/rows.parquet")):
        pass


def test_an_error_of_the_block_keeps_its_own_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as refused, scratch(tmp_path / "rows.parquet") as folder:
        (folder / "none").read_bytes()
    assert refused.value.filename == str(folder / "none")
    assert not list(tmp_path.iterdir())
