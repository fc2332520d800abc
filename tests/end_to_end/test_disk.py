"""Disks that are full, fail, or are read-only: one message, nothing half written, and the next run carries on."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from specml.files import leftovers
from specml.repro import lockfile
from tests.conftest import specml
from tests.kills import FAILPOINTS, write_project

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

RUN = ("run", "--no-deploy", "-q", "--until", "prepare")


def is_sound(folder: Path) -> bool:
    """Nothing half written, and no lock that DVC would refuse."""
    lock = folder / "dvc.lock"
    return leftovers(folder) == [] and (not lock.exists() or lockfile.good(lock.read_bytes()))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small project on a small disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        write_project(tmp_path / "project")
        shutil.copytree(tmp_path / "project", folder, dirs_exist_ok=True)
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_and_a_read_only_one(disk: Path) -> None:
    filler = disk / "filler"
    for room, status in ((4096, 1), (64 * 1024, 8)):  # before DVC starts, and within its run
        filler.unlink(missing_ok=True)
        filler.write_bytes(bytes(max(0, shutil.disk_usage(disk).free - room)))
        told = specml(*RUN, folder=disk, status=status)
        assert f"{disk}" in told.stderr
        assert "the disk is full" in told.stderr
        assert "Free some room" in told.stderr
        assert is_sound(disk)
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    told = specml(*RUN, folder=disk, status=1)
    assert f"{disk}/.specml/" in told.stderr
    assert "read-only" in told.stderr
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    specml(*RUN, folder=disk)


@pytest.mark.parametrize(
    ("file", "moment", "number", "status", "told"),
    [
        ("dvc.lock", "written", errno.ENOSPC, 8, "the disk is full"),
        pytest.param(  # before any stage: what changed is asked
            ".dvc/tmp/rwlock", "opened", errno.EROFS, 1, "read-only", marks=pytest.mark.sweep
        ),
        ("artifacts/ingest/rows.parquet", "synced", errno.EIO, 8, "the disk fails"),
        pytest.param(
            ".specml/log/prepare.log", "opened", errno.EACCES, 8, "may not be read or written", marks=pytest.mark.sweep
        ),
    ],
)
def test_a_write_that_fails_in_dvc_or_in_a_stage(
    file: str, moment: str, number: int, status: int, told: str, tmp_path: Path
) -> None:
    write_project(tmp_path / "project")
    folder = tmp_path / "project"
    how = {"file": file, "moment": moment, "bytes": 50, "errno": number, "mark": str(tmp_path / "hit")}
    path = os.pathsep.join([str(FAILPOINTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    refused = specml(*RUN, folder=folder, status=status, SPECML_KILL=json.dumps(how), PYTHONPATH=path)
    assert (tmp_path / "hit").exists()
    assert file in refused.stderr
    assert told in refused.stderr
    assert is_sound(folder)
    specml(*RUN, folder=folder)
