"""``specml audit``, and what the verbs record."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from specml.cli.audit import command
from specml.errors import GateRefused
from specml.ledger import FILE, LedgerError, append, recorded, verify
from tests.conftest import ROOT, specml

if TYPE_CHECKING:
    from pathlib import Path


def audit(*arguments: str | Path) -> str:
    done = CliRunner().invoke(command, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def told(tmp_path: Path) -> Path:
    append(tmp_path, "run", phase="begun", number=1)
    append(tmp_path, "release", admitted=True, bundle="sha256:" + "ab" * 32, gates={"auc": "holds", "[b]": "refused"})
    append(tmp_path, "stop")
    return tmp_path


def test_verify_tells_the_head_that_show_ends_with(told: Path) -> None:
    said = audit("verify", told)
    head = said.split()[-1]
    assert said == f"3 records, none was changed; head {head}\n"
    assert json.loads(audit("verify", told, "--json"))["head"] == head
    assert audit("verify", told, "--head", head) == said
    (last,) = json.loads(audit("show", told, "-n", "1", "--json"))["records"]
    assert f"{last['seq']}:{last['hash']}" == head


def test_show_tells_every_record_or_those_asked_for(told: Path) -> None:
    lines = audit("show", told).splitlines()
    assert [line.split()[0] for line in lines if line[0].isdigit()] == ["1", "2", "3"]
    assert "admitted true, bundle abababababab, gates [b] refused, auc holds" in " ".join(lines[3:5])
    (one,) = json.loads(audit("show", told, "--event", "release", "--json"))["records"]
    assert one["facts"]["gates"] == {"auc": "holds", "[b]": "refused"}
    wrong = CliRunner().invoke(command, ["show", str(told), "--event", "relase"])
    assert wrong.exit_code == 2
    assert "there is no record of relase; there are: release, run, stop." in wrong.output


def test_a_changed_ledger_is_one_message(told: Path) -> None:
    path = told / FILE
    path.write_bytes(path.read_bytes().replace(b'"admitted":true', b'"admitted":null'))
    done = specml("audit", "verify", str(told), folder=told, status=1)
    assert done.stderr.splitlines()[:2] == [f"{path}:", "    record 2: was edited, or is no record."]
    assert done.stdout == ""
    assert "record 2" in specml("audit", "show", folder=told, status=1).stderr


@pytest.mark.parametrize("head", ["3", "3:", "x:" + "a" * 64, "3:abc"])
def test_what_is_no_head_is_told(head: str, told: Path) -> None:
    assert "SEQ:HASH" in specml("audit", "verify", "--head", head, folder=told, status=1).stderr


def test_nothing_is_recorded_yet(tmp_path: Path) -> None:
    assert audit("verify", tmp_path) == "nothing was recorded here yet\n"


def test_the_verifier_of_the_documents_agrees(told: Path) -> None:
    code = (ROOT / "docs/ledger.md").read_text().split("```python\n", 1)[1].split("```", 1)[0]
    assert len(code.splitlines()) <= 20
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, cwd=told, capture_output=True, text=True, check=True)
    assert done.stdout.replace(" ", ":", 1).strip() == str(verify(told).head)
    path = told / FILE
    path.write_bytes(path.read_bytes().replace(b'"event":"stop"', b'"event":"spot"'))
    assert "record 3 was edited" in subprocess.run(run, cwd=told, capture_output=True, text=True, check=False).stderr


def test_how_something_ended_is_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with recorded(tmp_path, "deploy") as facts:
        facts["bundle"] = "b"
    with pytest.raises(GateRefused), recorded(tmp_path, "deploy"):
        raise GateRefused("no")
    with pytest.raises(KeyboardInterrupt), recorded(tmp_path, "run"):
        raise KeyboardInterrupt
    with pytest.raises(ZeroDivisionError), recorded(tmp_path, "run"):
        raise ZeroDivisionError
    ends = [one.facts for one in verify(tmp_path).records if one.facts["phase"] == "ended"]
    assert [one["status"] for one in ends] == [0, 4, 130, 1]
    assert ends[0]["bundle"] == "b"

    def spoil() -> None:
        (tmp_path / FILE).write_bytes(b"")
        raise GateRefused("first")

    with pytest.raises(GateRefused, match="first"), recorded(tmp_path, "deploy"):
        spoil()
    assert "is cut off" in capsys.readouterr().err


def test_nothing_begins_that_cannot_be_recorded(told: Path) -> None:
    (told / FILE).write_bytes(b"")
    with pytest.raises(LedgerError, match="cut off"), recorded(told, "deploy"):
        pytest.fail("it began")


def test_the_events_of_the_documents_are_those_of_the_code() -> None:
    table = (ROOT / "docs/ledger.md").read_text()
    named = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    code = "".join(path.read_text() for path in (ROOT / "src/specml").rglob("*.py"))
    written = set(re.findall(r'ledger\.(?:append|recorded)\(\s*[\w.]+,\s*"(\w+)"', code))
    assert named == written | {"recovery"}
