"""The command line: quick to help, and one message for every error."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from specml import cli
from specml.cli import clean, doctor
from specml.cli.arguments import folder_of
from specml.errors import GateRefused, SpecmlError
from tests.conftest import ROOT, specml


def test_help_costs_under_three_tenths_of_a_cpu_second() -> None:
    before = os.times()
    subprocess.run([sys.executable, "-m", "specml", "--help"], check=True, capture_output=True)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    assert used < 0.3


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, specml.cli\n"
        "try: specml.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'pydantic', 'numpy', 'hydra', 'rich', 'dvc', 'ray'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_an_unknown_verb_is_told_its_neighbour() -> None:
    assert "Did you mean 'compile'" in specml("compil", folder=ROOT, status=2).stderr


def test_a_folder_that_is_gone_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    command = 'cd "$1/gone" && rmdir "$1/gone" && exec "$2" -m specml check'
    done = subprocess.run(
        ["sh", "-c", command, "sh", str(tmp_path), sys.executable], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"{tmp_path}/gone" in done.stderr
    assert "No such file or directory" in done.stderr


def test_no_spec_is_one_message(tmp_path: Path) -> None:
    for verb in ("check", "plan", "compile", "run", "render", "status", "deploy"):
        done = specml(verb, folder=tmp_path, status=2)
        assert "spec.yaml" in done.stderr, verb


def test_errors_become_their_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def fail(error: BaseException) -> int:
        def raising(**_: object) -> None:
            raise error

        monkeypatch.setattr(cli.cli, "main", raising)
        with pytest.raises(SystemExit) as exit_:
            cli.main([])
        assert isinstance(exit_.value.code, int)
        return exit_.value.code

    assert fail(GateRefused("no", hint="mend it", where="here")) == 4
    assert capsys.readouterr().err == "here:\n    no\n    mend it\n"
    assert fail(KeyboardInterrupt()) == 130
    capsys.readouterr()
    assert fail(OSError(28, "No space left on device", "x.json")) == 1
    assert capsys.readouterr().err.startswith("x.json:\n    can't be written: the disk is full")
    assert fail(ZeroDivisionError()) == 1
    told = capsys.readouterr().err
    assert "bug in specml" in told
    assert "ZeroDivisionError" in Path(told.split()[-1]).read_text()


@pytest.mark.parametrize(
    ("path", "folder"),
    [("conf/spec.yaml", "."), ("spec.yaml", "."), ("conf", "."), ("sub/spec.yaml", "sub"), ("sub", "sub"), (None, ".")],
)
def test_a_project_whose_spec_is_gone_is_where_it_was(
    path: str | None, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("conf", "sub/.specml", ".specml"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    found = [folder_of(Path(path) if path else None), clean._folder(Path(path) if path else None, ())]
    found.append(doctor._spec(Path(path) if path else None, ())[1])
    assert found == [(tmp_path / folder).resolve()] * 3


def test_every_line_of_an_error_stands_below_its_place() -> None:
    error = SpecmlError("one.\ntwo.", where="here", hint="Do this.")
    assert str(error) == "here:\n    one.\n    two.\n    Do this."
