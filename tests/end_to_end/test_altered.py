"""Files that were cut, altered, swapped or deleted are found by their digests, and made again the same."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import specml
from tests.kills import outputs, write_project

if TYPE_CHECKING:
    from collections.abc import Iterable

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("altered") / "finished"
    write_project(folder)
    specml("run", "--no-deploy", "-q", folder=folder)
    return folder


@pytest.fixture
def again(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "again"))


def alter(paths: Iterable[Path]) -> int:
    """Alter each file in another way, its times and mode as they were; returns how many."""
    ways = [
        lambda raw: b"",
        lambda raw: raw[:1],
        lambda raw: raw[: len(raw) // 2],
        lambda raw: raw[:-1],
        lambda raw: bytes([raw[0] ^ 4]) + raw[1:],
        lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]),
        lambda raw: raw[::-1],
        None,
    ]
    count = 0
    for count, path in enumerate(sorted(paths), 1):
        way, facts = ways[count % len(ways)], path.stat()
        if way is None:
            path.unlink()
            continue
        path.chmod(0o644)
        content = way(path.read_bytes())
        with path.open("r+b") as file:  # the same inode
            file.write(content)
            file.truncate()
        path.chmod(facts.st_mode)
        import os

        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    return count


def files(folder: Path, *tops: str) -> list[Path]:
    return [path for top in tops for path in (folder / top).rglob("*") if path.is_file()]


def test_altered_outputs_are_put_back(finished: Path, again: Path) -> None:
    assert alter(files(again, "artifacts", "metrics", "plots")) > 20
    first, second = again / "artifacts/train/line", again / "artifacts/train/other"
    swapped = first.rename(first.with_name("swapped"))
    second.rename(first)
    swapped.rename(second)
    done = specml("run", "--no-deploy", folder=again)
    assert "put back as they were" in done.stderr
    assert " start" not in done.stderr, "no stage is done again"
    assert outputs(again) == outputs(finished)
    assert "nothing to do" in specml("run", "--no-deploy", folder=again).stderr


def test_what_is_altered_in_the_cache_too_is_made_again(finished: Path, again: Path) -> None:
    assert alter(files(again, ".dvc/cache/files")) > 20
    alter(files(again, ".dvc/cache/runs"))
    alter(files(again, "artifacts", "metrics", "plots"))
    specml("run", "--no-deploy", folder=again)
    assert outputs(again) == outputs(finished)
    bundle = again / "artifacts/bundle/model.onnx"
    alter(path for path in files(again, ".dvc/cache/files") if path.read_bytes() == bundle.read_bytes())
    done = specml("run", "--no-deploy", folder=again)
    assert "package start" in done.stderr, "a bad file of the cache is found while that of the project is good"
    assert "train@line start" not in done.stderr
    assert outputs(again) == outputs(finished)


@pytest.mark.sweep
def test_altered_notes_of_specml_harm_nothing(finished: Path, again: Path) -> None:
    notes = [path for path in files(again, ".specml") if not path.name.startswith("ledger")]
    for content in (b"", b"\xff\x00", b"[1, 2]", b'{"guard": "x"}\n'):
        for path in notes:
            path.write_bytes(content)
        specml("run", "--no-deploy", folder=again)
        assert outputs(again) == outputs(finished)
        (again / "artifacts/guard.txt").unlink()
