"""The store of releases, and how one takes the place of another; a target that only remembers stands for a server."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from specml import admission, releases, rollout
from specml.bundle import BundleError
from specml.errors import DeployFailed, GateRefused, SpecmlError
from specml.kinds import Deployment
from specml.targets.local import Local
from tests.bundles import binary_bundle, release
from tests.conftest import spec_of, specml, tree

if TYPE_CHECKING:
    from specml.releases import Release
    from specml.spec import Spec

SPEC = spec_of()


class Server:
    """What a target would serve."""

    def __init__(self) -> None:
        self.bundle = ""
        self.fails: type[BaseException] | None = None
        self.served: list[int] = []

    def deploy(self, spec: Spec, project: Path, wanted: Release, say: Any) -> Deployment:
        wanted.open()
        if self.fails is DeployFailed:
            raise DeployFailed("it does not start.")
        self.bundle = wanted.record.bundle
        self.served.append(wanted.record.number)
        if self.fails is not None:
            raise self.fails
        return self.status(spec, project)

    def status(self, spec: Spec, project: Path) -> Any:
        return Deployment("http://127.0.0.1:1", self.bundle, 1, ("CPU",)) if self.bundle else None


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    made = Server()
    monkeypatch.setattr(Local, "deploy", made.deploy)
    monkeypatch.setattr(Local, "status", made.status)
    return made


def judged(project: Path, weight: float, **told: Any) -> str:
    bundle = binary_bundle(project / "artifacts/bundle", weight=weight)
    release(project, **told)
    return bundle


def deployed(project: Path, *weights: float, again: bool = False) -> int:
    number = 0
    for weight in weights:
        judged(project, weight)
        number = rollout.go_live(SPEC, project, print, again=again).release.record.number
    return number


def back(project: Path, wanted: str = "", reason: str = "") -> tuple[int, int]:
    left, live = rollout.roll_back(SPEC, project, wanted, reason, print)
    return left, live.release.record.number


def states(project: Path, live: str) -> dict[int, str]:
    return {one["number"]: one["state"] for one in releases.told(project, live)}


@pytest.mark.usefixtures("server")
def test_what_goes_live_is_kept_whole_and_numbered(tmp_path: Path) -> None:
    bundle = judged(tmp_path, 0.1)
    (tmp_path / "artifacts/release/card.md").write_text("card")
    live = rollout.go_live(SPEC, tmp_path, print)
    assert live.release.folder == tmp_path / ".specml/releases" / bundle[7:19]
    shutil.rmtree(tmp_path / "artifacts")
    assert live.release.open().digest == bundle
    assert (live.release.folder / "card.md").read_text() == "card"
    (found,) = releases.told(tmp_path, bundle)
    assert (found["number"], found["bundle"], found["candidate"], found["state"]) == (1, bundle, "by_hand", "live")
    assert found["gates"] == {"baseline": "holds"}
    assert deployed(tmp_path, 0.2, 0.1, 0.3) == 3
    assert [event.release for event in releases.history(tmp_path)] == [1, 2, 1, 3]


@pytest.mark.usefixtures("server")
def test_nothing_that_was_not_admitted_comes_in(tmp_path: Path) -> None:
    with pytest.raises(DeployFailed, match="no bundle to serve"):
        rollout.go_live(SPEC, tmp_path, print)
    judged(tmp_path, 0.1, admitted=False, gates={"auc": "refused"})
    with pytest.raises(GateRefused, match="refused by auc"):
        rollout.go_live(SPEC, tmp_path, print)
    binary_bundle(tmp_path / "artifacts/bundle", weight=0.2)
    with pytest.raises(GateRefused, match="never released"):
        rollout.go_live(SPEC, tmp_path, print)
    assert releases.stored(tmp_path) == []


def test_it_is_staged_live_retired(tmp_path: Path, server: Server) -> None:
    server.fails = DeployFailed
    bundle = judged(tmp_path, 0.1)
    with pytest.raises(DeployFailed):
        rollout.go_live(SPEC, tmp_path, print)
    assert states(tmp_path, "") == {1: "staged"}
    server.fails = None
    assert deployed(tmp_path, 0.1) == 1
    assert states(tmp_path, bundle) == {1: "live"}
    deployed(tmp_path, 0.2)
    assert states(tmp_path, server.bundle) == {1: "retired", 2: "live"}
    assert states(tmp_path, "") == {1: "retired", 2: "retired"}


def test_rolling_back_goes_down_the_way_that_was_come_up(tmp_path: Path, server: Server) -> None:
    deployed(tmp_path, 0.1, 0.2, 0.3)
    assert back(tmp_path, reason="too slow") == (3, 2)
    assert server.served[-1] == 2
    assert back(tmp_path) == (2, 1)
    with pytest.raises(SpecmlError, match="no release is kept that was live before release 1"):
        back(tmp_path)
    (bad,) = [one for one in releases.told(tmp_path, server.bundle) if one["number"] == 3]
    assert bad["rolled_back"]["reason"] == "too slow"
    assert bad["rolled_back"]["to"] == 2
    assert deployed(tmp_path, 0.4) == 4
    assert back(tmp_path) == (4, 1)


@pytest.mark.usefixtures("server")
def test_what_was_rolled_back_from_comes_again_only_when_it_is_said(tmp_path: Path) -> None:
    deployed(tmp_path, 0.1, 0.2)
    back(tmp_path, reason="answers nonsense")
    with pytest.raises(
        SpecmlError, match=r"release 2 was rolled back from on .* \(answers nonsense\); release 1 stays"
    ):
        deployed(tmp_path, 0.2)
    assert releases.history(tmp_path)[-1].release == 1
    assert deployed(tmp_path, 0.2, again=True) == 2
    assert deployed(tmp_path, 0.2) == 2
    assert back(tmp_path) == (2, 1)


def test_a_waiver_that_expired_keeps_a_release_from_coming_back(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiver = {"gate": "baseline", "reason": "a pilot", "approver": "ann", "expires": "2026-12-31"}
    spec = spec_of(compliance={"waivers": {"pilot": waiver}})
    monkeypatch.setattr(admission, "today", lambda: "2026-12-31")
    judged(tmp_path, 1.0, gates={"baseline": "refused"}, waivers={"pilot": {**waiver, "state": "used"}})
    assert rollout.go_live(spec, tmp_path, print).release.record.number == 1
    assert deployed(tmp_path, 2.0) == 2
    monkeypatch.setattr(admission, "today", lambda: "2027-01-01")
    with pytest.raises(GateRefused, match="waiver pilot expired on 2026-12-31"):
        back(tmp_path)
    assert states(tmp_path, server.bundle) == {1: "retired", 2: "live"}
    assert releases.withdrawn(tmp_path) == {}
    monkeypatch.setattr(admission, "today", lambda: "2026-12-31")
    assert back(tmp_path) == (2, 1)


def test_a_release_is_named_by_number_or_digest(tmp_path: Path, server: Server) -> None:
    deployed(tmp_path, 0.1, 0.2, 0.3)
    assert back(tmp_path, "1") == (3, 1)
    second = releases.find(tmp_path, "2").record.bundle
    for name in (second, second[7:19], second[7:15].upper()):
        assert releases.find(tmp_path, name).record.number == 2
    assert back(tmp_path, second[7:13]) == (1, 2)
    with pytest.raises(SpecmlError, match="release 2 is what is live"):
        back(tmp_path, "2")
    for name in ("4", "abc", "abcdef12", "sha256:"):
        with pytest.raises(SpecmlError, match="there is no release") as refusal:
            back(tmp_path, name)
        assert "Kept are: 1, 2, 3" in refusal.value.hint
    assert server.served[-1] == 2


@pytest.mark.usefixtures("server")
def test_a_digest_that_is_too_short_names_none(tmp_path: Path) -> None:
    deployed(tmp_path, *[0.01 * (n + 1) for n in range(5)])
    first = {one.record.bundle[7:8] for one in releases.stored(tmp_path)}
    for digit in first - set("12345"):
        with pytest.raises(SpecmlError, match="there is no release"):
            releases.find(tmp_path, digit)


@pytest.mark.parametrize("name", ["model.onnx", "contract.json", "reference.json", "manifest.json"])
def test_an_altered_release_is_not_served(name: str, tmp_path: Path, server: Server) -> None:
    deployed(tmp_path, 0.1, 0.2)
    file = releases.find(tmp_path, "1").bundle / name
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(BundleError, match="release 1 was altered") as refusal:
        back(tmp_path)
    assert str(file.parent) in str(refusal.value)
    file.unlink()
    with pytest.raises(BundleError, match="release 1 was altered"):
        back(tmp_path, "1")
    assert server.served == [1, 2]
    assert [event.release for event in releases.history(tmp_path)] == [1, 2]


@pytest.mark.usefixtures("server")
def test_another_valid_bundle_in_a_releases_folder_is_not_served(tmp_path: Path) -> None:
    deployed(tmp_path, 0.1, 0.2)
    binary_bundle(releases.find(tmp_path, "1").bundle, weight=0.9)
    with pytest.raises(BundleError, match=r"release 1 was altered: it was sha256:.*, this is sha256:"):
        back(tmp_path)


@pytest.mark.usefixtures("server")
def test_deploying_mends_the_copy_of_what_the_project_still_has(tmp_path: Path) -> None:
    deployed(tmp_path, 0.1)
    (releases.find(tmp_path, "1").bundle / "model.onnx").write_bytes(b"x")
    assert deployed(tmp_path, 0.1) == 1
    releases.find(tmp_path, "1").open()


def test_a_deploy_that_fails_leaves_the_history_as_it_was(tmp_path: Path, server: Server) -> None:
    deployed(tmp_path, 0.1, 0.2)
    before = releases.history(tmp_path)
    server.fails = DeployFailed
    for act in (lambda: back(tmp_path), lambda: deployed(tmp_path, 0.3)):
        with pytest.raises(DeployFailed):
            act()
        assert releases.history(tmp_path) == before
    assert releases.withdrawn(tmp_path) == {}


def test_killed_between_the_server_and_the_record_nothing_is_lost(tmp_path: Path, server: Server) -> None:
    deployed(tmp_path, 0.1)
    server.fails = KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        deployed(tmp_path, 0.2)
    assert [event.release for event in releases.history(tmp_path)] == [1]
    server.fails = None
    # The server is at 2, and the history learns it from there.
    assert back(tmp_path) == (2, 1)
    assert [event.release for event in releases.history(tmp_path)] == [1, 2, 1]
    with pytest.raises(SpecmlError, match="rolled back from"):
        deployed(tmp_path, 0.2)


def test_a_rollback_that_was_killed_half_way_is_done_by_the_next_and_never_undone(
    tmp_path: Path, server: Server
) -> None:
    deployed(tmp_path, 0.1, 0.2)
    still = server.bundle
    server.fails = KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        back(tmp_path)
    server.bundle, server.fails = still, None  # the server never got to know
    with pytest.raises(SpecmlError, match="rolled back from"):
        deployed(tmp_path, 0.2)
    assert back(tmp_path) == (2, 1)


def test_the_newest_are_kept_and_never_the_live_one_removed(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(releases, "KEPT", 3)
    deployed(tmp_path, 0.1, 0.2, 0.3, 0.4, 0.5)
    assert [one.record.number for one in releases.stored(tmp_path)] == [3, 4, 5]
    assert back(tmp_path, "3") == (5, 3)
    deployed(tmp_path, 0.6)
    assert [one.record.number for one in releases.stored(tmp_path)] == [3, 5, 6]
    assert releases.prune(tmp_path, server.bundle) == []
    monkeypatch.setattr(releases, "KEPT", 0)
    assert releases.prune(tmp_path, releases.find(tmp_path, "3").record.bundle) == [5, 6]
    assert sorted(one.name for one in (tmp_path / ".specml/releases").iterdir() if one.is_dir()) == [
        releases.find(tmp_path, "3").folder.name
    ]
    # A number is never given twice, whatever was removed.
    monkeypatch.setattr(releases, "KEPT", 3)
    assert deployed(tmp_path, 0.7) == 7


@pytest.mark.usefixtures("server")
def test_broken_records_are_told(tmp_path: Path) -> None:
    deployed(tmp_path, 0.1, 0.2)
    history = tmp_path / ".specml/releases/history.json"
    whole = history.read_bytes()
    for content in (b"", b"{}", b'[{"at": "x"}]', b"\xff"):
        history.write_bytes(content)
        with pytest.raises(SpecmlError, match="no history of releases"):
            back(tmp_path)
    history.write_bytes(whole)
    (releases.find(tmp_path, "1").folder / "release.json").write_text("{}")
    with pytest.raises(SpecmlError, match="no record of a release"):
        back(tmp_path)


def test_the_commands_before_anything_was_released(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(json.dumps(tree()))
    assert "nothing was released yet" in specml("releases", folder=tmp_path).stdout
    assert json.loads(specml("releases", "--json", folder=tmp_path).stdout)["releases"] == []
    assert "nothing was ever live here" in specml("rollback", folder=tmp_path, status=1).stderr
    assert "nothing was ever live here" in specml("rollback", "3", "spec.yaml", folder=tmp_path, status=1).stderr


def test_the_commands_on_a_stopped_project(tmp_path: Path, server: Server) -> None:
    (tmp_path / "spec.yaml").write_text(json.dumps(tree()))
    deployed(tmp_path, 0.1, 0.2)
    back(tmp_path, reason="too slow")
    told = specml("releases", folder=tmp_path).stdout
    lines = [line.split() for line in told.splitlines()]
    assert lines[2][:2] == ["2", releases.find(tmp_path, "2").record.bundle[7:19]]
    assert "retired, rolled back" in told
    assert "Nothing is live now" in told
    assert all(len(line) <= 80 for line in told.splitlines())
    rows = json.loads(specml("releases", "--json", folder=tmp_path).stdout)["releases"]
    assert [one["rolled_back"] and one["rolled_back"]["reason"] for one in rows] == [None, "too slow"]
    refused = specml("deploy", folder=tmp_path, status=1).stderr
    assert "release 2 was rolled back from" in refused
    assert "--again" in refused
    assert "there is no release '9'" in specml("rollback", "9", folder=tmp_path, status=1).stderr
