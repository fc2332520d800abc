"""The store of releases, and how one takes the place of another; a target that only remembers stands for a server."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from specml import admission, releases, rollout
from specml.bundle import BundleError, open_bundle
from specml.cli import retrain
from specml.compile import compile_plan
from specml.compile.write import compiled
from specml.errors import DeployFailed, GateRefused, SpecmlError, StaleCompile
from specml.kinds import Deployment
from specml.load import load
from specml.rules.gdpr import Retention
from specml.stages import champion
from specml.stages.work import Work
from specml.targets.local import Local
from specml.values import Duration
from specml.watch.judge import RECORDS
from specml.watch.raised import raised
from tests.bundles import binary_bundle, release
from tests.conftest import EXAMPLES, spec_of, specml, tree

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
        self.bundle = wanted.entry.bundle
        self.served.append(wanted.entry.number)
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
        number = rollout.go_live(SPEC, project, print, again=again).release.entry.number
    return number


def back(project: Path, wanted: str = "", reason: str = "") -> tuple[int, int]:
    left, live = rollout.roll_back(SPEC, project, wanted, reason, print)
    return left, live.release.entry.number


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
    assert rollout.go_live(spec, tmp_path, print).release.entry.number == 1
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
    second = releases.find(tmp_path, "2").entry.bundle
    for name in (second, second[7:19], second[7:15].upper()):
        assert releases.find(tmp_path, name).entry.number == 2
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
    first = {one.entry.bundle[7:8] for one in releases.stored(tmp_path)}
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
    assert [one.entry.number for one in releases.stored(tmp_path)] == [3, 4, 5]
    assert back(tmp_path, "3") == (5, 3)
    deployed(tmp_path, 0.6)
    assert [one.entry.number for one in releases.stored(tmp_path)] == [3, 5, 6]
    assert releases.prune(tmp_path, server.bundle) == []
    monkeypatch.setattr(releases, "KEPT", 0)
    assert releases.prune(tmp_path, releases.find(tmp_path, "3").entry.bundle) == [5, 6]
    assert sorted(one.name for one in (tmp_path / ".specml/releases").iterdir() if one.is_dir()) == [
        releases.find(tmp_path, "3").folder.name
    ]
    # A number is never given twice, whatever was removed.
    monkeypatch.setattr(releases, "KEPT", 3)
    assert deployed(tmp_path, 0.7) == 7


def named(project: Path, bundle: str | None) -> None:
    (project / releases.POINTER).write_text(json.dumps({"bundle": bundle}))


def renewed(project: Path, *, stale: bool) -> str | None:
    rollout.renew(SPEC, project, stale=stale)
    return releases.pointer(project)


def test_the_champion_is_what_is_live_where_a_challenger_is_yet_to_be_compared(tmp_path: Path, server: Server) -> None:
    named(tmp_path, None)
    assert renewed(tmp_path, stale=True) is None
    deployed(tmp_path, 0.1)
    first = server.bundle
    # What went live does not make its own evidence out of date; whatever is made anew is compared with it.
    assert renewed(tmp_path, stale=False) is None
    assert renewed(tmp_path, stale=True) == first
    deployed(tmp_path, 0.2)
    second = server.bundle
    assert renewed(tmp_path, stale=False) == first
    # A bundle that is not live is compared with what is, also when that was rolled back to, or is stopped.
    judged(tmp_path, 0.3)
    assert renewed(tmp_path, stale=False) == second
    back(tmp_path)
    assert renewed(tmp_path, stale=False) == first
    server.bundle = ""
    named(tmp_path, second)
    assert renewed(tmp_path, stale=False) == first
    # A project without its store keeps the champion that it names.
    shutil.rmtree(tmp_path / ".specml")
    assert renewed(tmp_path, stale=True) == first


@pytest.mark.usefixtures("server")
def test_a_comparison_admits_only_beside_the_release_that_it_was_made_with(tmp_path: Path) -> None:
    deployed(tmp_path, 0.1)
    first = releases.find(tmp_path, "1").entry.bundle
    judged(tmp_path, 0.2, champion=first)
    assert rollout.go_live(SPEC, tmp_path, print).release.entry.champion == first
    assert rollout.go_live(SPEC, tmp_path, print).release.entry.number == 2
    for compared, told in ((first, first[7:19]), ("", "nobody")):
        judged(tmp_path, 0.3, champion=compared)
        with pytest.raises(GateRefused, match=f"was compared with .*{told}, and release 2 is live"):
            rollout.go_live(SPEC, tmp_path, print)
        assert [one.entry.number for one in releases.stored(tmp_path)] == [1, 2], "what is refused is not kept"
    judged(tmp_path, 0.3)
    assert rollout.go_live(SPEC, tmp_path, print).release.entry.champion is None


def test_there_is_no_way_back_to_what_was_never_live(tmp_path: Path, server: Server) -> None:
    deployed(tmp_path, 0.1)
    server.fails = DeployFailed
    with pytest.raises(DeployFailed):
        deployed(tmp_path, 0.2)
    server.fails = None
    deployed(tmp_path, 0.3)
    for wanted in ("2", releases.find(tmp_path, "2").entry.bundle[7:19]):
        with pytest.raises(SpecmlError, match="release 2 was never live: there is no way back to it"):
            back(tmp_path, wanted)
    assert server.served[-1] == 3
    assert back(tmp_path) == (3, 1)


def under_gdpr(**changed: Any) -> Spec:
    spec = load(EXAMPLES / "loans").spec
    rule = spec.compliance.rules["privacy"].model_copy(update=changed)
    return spec.model_copy(update={"compliance": spec.compliance.model_copy(update={"rules": {"privacy": rule}})})


@pytest.mark.parametrize(
    "changed",
    [
        {"contest": "new@bank.example"},
        {"retention": Retention(captures=Duration(86400), data=Duration(86400))},
        {"solely_automated": False},
        {"purpose": "another"},
    ],
)
def test_what_people_were_told_is_what_is_served(changed: dict[str, Any], tmp_path: Path, server: Server) -> None:
    """The new contact in every answer, and the old one in card, release.json and ropa.json: that never."""

    def judged_under(spec: Spec, weight: float) -> None:
        owed = {one.name: str(one) for one in spec.obligations}
        judged(tmp_path, weight, obligations=owed, **admission.terms(spec.compliance, {}, ""))

    old, new = under_gdpr(), under_gdpr(**changed)
    judged_under(old, 0.1)
    with pytest.raises(StaleCompile, match="the section compliance of the spec was changed after the release"):
        rollout.go_live(new, tmp_path, print)
    assert server.served == []
    assert rollout.go_live(old, tmp_path, print).release.entry.number == 1
    judged_under(new, 0.2)
    assert rollout.go_live(new, tmp_path, print).release.entry.number == 2
    if "purpose" not in changed:
        parted = "another in the spec" if "solely_automated" not in changed else "the release alone"
        with pytest.raises(GateRefused, match=rf"other obligations than the spec's: .*\({parted}\)"):
            rollout.roll_back(new, tmp_path, "", "", print)
    assert rollout.roll_back(old, tmp_path, "", "", print)[0] == 2


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"bundle": 3}', '{"bundle": "sha256:0"}', "\xff"])
def test_a_broken_pointer_is_told(content: str, tmp_path: Path) -> None:
    with pytest.raises(SpecmlError, match="is missing"):
        releases.pointer(tmp_path)
    (tmp_path / releases.POINTER).write_bytes(content.encode("latin-1"))
    with pytest.raises(SpecmlError, match="names no champion"):
        releases.pointer(tmp_path)


@pytest.mark.usefixtures("server")
def test_the_champion_is_fetched_from_the_store_or_told_to_be_missing(tmp_path: Path) -> None:
    spec = spec_of(gates={"champion": {"type": "champion"}})
    work = Work(champion.declare(spec), tmp_path, spec, lambda *_, **__: None)
    named(tmp_path, None)
    champion.work(work)
    assert champion.named(work) is None
    deployed(tmp_path, 0.1)
    first = releases.find(tmp_path, "1")
    named(tmp_path, first.entry.bundle)
    champion.work(work)
    assert champion.named(work) == first.entry.bundle == open_bundle(tmp_path / champion.BUNDLE).digest
    (first.bundle / "model.onnx").write_bytes(b"x")
    with pytest.raises(BundleError, match="release 1 was altered"):
        champion.work(work)
    shutil.rmtree(first.folder)
    with pytest.raises(GateRefused, match=r"not measured: the champion \w{12}, .* is not kept here") as refusal:
        champion.work(work)
    assert "dvc pull" in refusal.value.hint
    assert refusal.value.status == 4
    # What an earlier run fetched is untouched by one that could not.
    assert champion.named(work) == first.entry.bundle


def test_the_plan_has_a_champion_only_where_a_gate_asks_for_it(tmp_path: Path) -> None:
    assert "champion" not in [stage.name for stage in compile_plan(SPEC).stages]
    (tmp_path / "spec.yaml").write_text(json.dumps(tree()))
    plain = compiled(load(tmp_path))
    assert releases.POINTER not in plain.contents
    (tmp_path / "spec.yaml").write_text(json.dumps(tree(gates={"champion": {"type": "champion"}})))
    with_gate = compiled(load(tmp_path))
    stages = {stage.name: stage for stage in with_gate.plan.stages}
    assert stages["champion"].deps == (releases.POINTER,)
    assert champion.OUT in stages["validate"].deps
    assert with_gate.contents[releases.POINTER] == releases.NOBODY
    named(tmp_path, "sha256:" + "a" * 64)
    assert compiled(load(tmp_path)).changed == (".gitignore", "dvc.yaml", "params.yaml", "serve.yaml")


def test_retrain_adds_the_gate_that_the_spec_lacks_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "spec.yaml").write_text(json.dumps(tree()))
    out = Console(file=sys.stderr, width=200)
    loaded = retrain._with_gate((str(tmp_path),), out)
    assert loaded.spec.gates["champion"].against_champion
    assert loaded.overrides == ("gates.champion={type: champion}",)
    assert "added 'gates.champion={type: champion}' for this run" in capsys.readouterr().err
    gates = {"champion": {"type": "metric", "metric": "roc_auc", "min": 0.1}, "live": {"type": "champion", "min": -0.1}}
    (tmp_path / "spec.yaml").write_text(json.dumps(tree(gates=gates)))
    assert retrain._with_gate((str(tmp_path),), out).overrides == ()
    del gates["live"]
    (tmp_path / "spec.yaml").write_text(json.dumps(tree(gates=gates)))
    loaded = retrain._with_gate((str(tmp_path),), out)
    assert loaded.spec.gates["champion"].type == "metric"  # type: ignore[attr-defined]
    assert loaded.spec.gates["against_champion"].against_champion


def test_a_trigger_must_name_a_signal(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(
        "name: small\nproblem: {task: binary, target: y}\ndata: {sources: {rows: {type: csv, path: rows.csv}}}\n"
        "candidates: {line: logistic_regression}\nmonitoring:\n  retrain: {on: [drift,\n    dirft]}\n"
    )
    told = specml("check", folder=tmp_path, status=2).stderr
    assert "spec.yaml:7:5: monitoring.retrain.on.1" in told
    assert "names 'dirft', which is no signal of this spec" in told
    (tmp_path / "spec.yaml").write_text(json.dumps(tree(monitoring={"retrain": {"on": []}})))
    specml("check", folder=tmp_path, status=2)


@pytest.mark.usefixtures("server")
def test_only_signals_raised_on_the_live_release_since_it_went_live_count(tmp_path: Path) -> None:
    deployed(tmp_path, 0.1, 0.2)
    first, second = releases.stored(tmp_path)
    went = releases.history(tmp_path)[-1].at

    def record(name: str, bundle: str, at: str, *raised: str) -> None:
        (tmp_path / RECORDS).mkdir(exist_ok=True)
        told = {"window": name, "bundle": bundle, "judged": at, "raised": list(raised)}
        (tmp_path / RECORDS / f"{name}.json").write_text(json.dumps(told))

    record("of-another", first.entry.bundle, went, "drift")
    record("before", second.entry.bundle, "2020-01-01T00:00:00+00:00", "drift")
    record("quiet", second.entry.bundle, went)
    record("other", second.entry.bundle, went, "slow")
    assert raised(tmp_path, second, ("drift",)) == []
    record("new", second.entry.bundle, went, "drift", "slow")
    assert [(one.signal, one.window) for one in raised(tmp_path, second, ("drift", "auc"))] == [("drift", "new")]
    assert [one.window for one in raised(tmp_path, first, ("drift",))] == ["of-another"]
    (tmp_path / RECORDS / "broken.json").write_text("[]")
    with pytest.raises(SpecmlError, match="no record of a window"):
        raised(tmp_path, second, ("drift",))


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
    assert lines[2][:2] == ["2", releases.find(tmp_path, "2").entry.bundle[7:19]]
    assert lines[2][-2:] == ["rolled", "back"]
    assert "Nothing is live now" in told
    assert all(len(line) <= 80 for line in told.splitlines())
    rows = json.loads(specml("releases", "--json", folder=tmp_path).stdout)["releases"]
    assert [one["rolled_back"] and one["rolled_back"]["reason"] for one in rows] == [None, "too slow"]
    refused = specml("deploy", folder=tmp_path, status=1).stderr
    assert "release 2 was rolled back from" in refused
    assert "--again" in refused
    assert "there is no release '9'" in specml("rollback", "9", folder=tmp_path, status=1).stderr
