"""Knobs: what of the options a replica takes over as it runs, and ``specml tune``, which changes that alone."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest

from specml import application
from specml.cli import exit_status
from specml.errors import DeployFailed
from specml.kinds import Deployment
from specml.load import load
from specml.releases import Entry, Release
from specml.serving.app import Args
from specml.targets.local import Local
from tests.conftest import spec_of, tree

if TYPE_CHECKING:
    from pathlib import Path

    from specml.spec import Spec

LIVE: dict[str, Any] = {
    "slo": "200ms",
    "timeout": "9s",
    "max_rows": 7,
    "rate_limit": {"rows": 5},
    "batching.max_wait": "2ms",
    "batching.max_queue": 3000,
}
FIXED: dict[str, Any] = {
    "max_body": 4096,
    "fast_path": "off",
    "cache": {"rows": 5, "ttl": "1s"},
    "hosts": ["here"],
    "unknown_fields": "ignore",
    "error_detail": "none",
    "grpc": {"port": 9001},
    "explain": None,
    "device": "cpu",
    "batching.max_batch_size": 8,
    "batching.buckets": [8],
    "replicas": {"min": 1},
}


def serving(key: str, value: Any) -> dict[str, Any]:
    block, _, name = key.rpartition(".")
    return {block: {name: value}} if block else {name: value}


def settled(tmp_path: Path, spec: Spec) -> dict[str, Any]:
    """The config of a release, complete."""
    facts = {"spec": "x", "gates": {}, "obligations": {}, "champion": None}
    entry = Entry.model_construct(number=1, bundle="sha256:" + "0" * 64, **facts)
    release = Release(entry, tmp_path / "000000000000")
    config = Local()._config(spec)
    application.settle(spec, config, release, bundle="/bundle", captures="/captures", known={})
    return config


def text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def test_every_knob_is_tried_here() -> None:
    assert {f"serving.{key}" for key in LIVE} == set(application.LIVE)


@pytest.mark.parametrize("key", LIVE)
def test_a_knob_changes_what_replicas_take_over_and_nothing_that_restarts_them(key: str, tmp_path: Path) -> None:
    before, after = (settled(tmp_path, spec_of(serving=one)) for one in ({}, serving(key, LIVE[key])))
    (was,), (now,) = before["applications"], after["applications"]
    assert text(was["args"]) == text(now["args"])
    assert application.in_place(before, after)
    assert application.revision(before) != application.revision(after)
    (model, explain), (other, still) = was["deployments"], now["deployments"]
    changed = {name for name in model if model[name] != other[name]}
    assert changed - {"max_ongoing_requests"} == {"user_config"}
    assert ("max_ongoing_requests" in changed) == (key == "batching.max_queue")
    assert explain == still


@pytest.mark.parametrize("key", FIXED)
def test_all_else_takes_other_replicas(key: str, tmp_path: Path) -> None:
    before, after = (settled(tmp_path, spec_of(serving=one)) for one in ({}, serving(key, FIXED[key])))
    assert not application.in_place(before, after)
    assert application.revision(before) != application.revision(after)
    assert application.knobs(before) == application.knobs(after)


def test_another_specml_takes_other_replicas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = settled(tmp_path, spec_of())
    monkeypatch.setattr(application, "version", lambda _: "99")
    assert not application.in_place(before, settled(tmp_path, spec_of()))
    assert not application.in_place({}, before)


@pytest.mark.parametrize("key", LIVE)
def test_tuned_is_what_a_deploy_of_these_values_would_be(key: str, tmp_path: Path) -> None:
    spec, other = spec_of(), spec_of(serving=serving(key, LIVE[key]))
    live = settled(tmp_path, spec)
    live["applications"][0]["args"]["costs"] = {"cpu": {"1": 0.1}}  # measured, and nobody's wish
    before = copy.deepcopy(live)
    tuned = application.tuned(live, other)
    assert live == before
    assert tuned["applications"][0]["args"]["costs"] == {"cpu": {"1": 0.1}}
    assert application.asked(tuned) == settled(tmp_path, other)
    assert application.tuned(tuned, spec) == live


def test_what_ray_hands_over_is_what_args_take(tmp_path: Path) -> None:
    config = settled(tmp_path, spec_of(serving={key: value for key, value in LIVE.items() if "." not in key}))
    (one,) = config["applications"]
    whole = Args.model_validate(one["args"]).with_knobs(one["deployments"][0]["user_config"])
    assert (whole.slo, whole.timeout, whole.max_rows) == (0.2, 9.0, 7)
    assert whole.rate_limit is not None
    assert whole.rate_limit.rows == 5
    assert whole.revision == application.revision(config)


def project(folder: Path, **changes: Any) -> Path:
    (folder / "spec.yaml").write_text(json.dumps(tree(**changes)))
    return folder


@pytest.mark.parametrize(
    ("slo", "rate"), [(None, None), ("200ms", {"rows": 5}), ("1.5s", {"requests": 0.25, "burst": "90s"})]
)
def test_knobs_are_written_as_a_spec_has_them(slo: str | None, rate: Any, tmp_path: Path) -> None:
    spec = spec_of(serving={"slo": slo, "rate_limit": rate, "batching": {"max_wait": "0.333ms"}})
    for other in ({}, {"serving": {"rate_limit": {"requests": 9}}}):
        folder = project(tmp_path, **other)
        plain = load(folder).spec
        kept = [f"{key}={value}" for key, value in application.beside(application.knobs(spec), plain).items()]
        again = load(folder, kept).spec
        assert application.knobs(again) == application.knobs(spec)
        assert application.beside(application.knobs(again), spec) == {}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["serving.slow=1s"], "Did you mean 'slo'?"),
        (["serving.slo=fast"], "must be a duration"),
        (["serving.slo=40s"], "longer than serving.timeout (30s)"),
        (["serving.device=cpu", "serving.slo=1s"], "Live are serving.slo, serving.timeout, "),
        (["serving.batching={max_wait: 1ms}"], "no knob that replicas take over"),
        ([], "say what to change"),
    ],
)
def test_what_can_t_be_tuned_is_told(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status(["tune", str(project(tmp_path)), *arguments]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / ".specml/ledger.jsonl").exists()


class Live:
    """In the place of a server: goes by what it is told, so that the command can be tried over and over."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
        self.folder, self.knobs = project(folder, **changes), application.knobs(spec_of(**changes))
        monkeypatch.setattr(Local, "status", lambda *_: self._told())
        monkeypatch.setattr(Local, "tune", lambda _, spec, *__: self._takes(spec))

    def _told(self) -> Deployment:
        return Deployment("http://x", "sha256:0", 2, (), knobs=self.knobs)

    def _takes(self, spec: Spec) -> Deployment:
        self.knobs = application.knobs(spec)
        return self._told()

    def tune(self, *arguments: str) -> int:
        return exit_status(["tune", str(self.folder), *arguments])


def test_what_is_live_counts_not_what_the_spec_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    live = Live(tmp_path, monkeypatch)
    assert live.tune("serving.timeout=45s", "serving.slo=null") == 0
    assert live.tune("serving.timeout=500ms") == 0
    assert (live.knobs["serving.timeout"], live.knobs["serving.slo"]) == ("500ms", "null")
    assert live.tune("serving.timeout=45s") == 0
    assert live.tune("serving.slo=40s") == 0
    assert live.tune("serving.slo=50s") == 2
    assert live.tune("serving.rate_limit.rows=5") == 0
    assert live.knobs["serving.rate_limit.rows"] == "5"
    assert live.tune("~serving.rate_limit") == 0
    assert live.knobs["serving.rate_limit"] == "null"


def test_what_changed_is_told_even_if_nothing_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    live = Live(tmp_path, monkeypatch)
    for changed in ({"serving.slo": {"from": "1s", "to": "2s"}}, {}):
        assert live.tune("serving.slo=2s", "--json") == 0
        assert json.loads(capsys.readouterr().out)["changed"] == changed
    begun, ended = map(json.loads, (tmp_path / ".specml/ledger.jsonl").read_text().splitlines())
    begun, ended = begun["facts"], ended["facts"]
    assert (begun["phase"], begun["changed"]) == ("begun", {"serving.slo": {"from": "1s", "to": "2s"}})
    assert (ended["phase"], ended["status"]) == ("ended", 0)


def test_a_queue_holds_a_batch_as_it_is_live(tmp_path: Path) -> None:
    live = settled(tmp_path, spec_of())  # batches of 256
    with pytest.raises(DeployFailed, match="is 16, less than one batch of 256"):
        application.tuned(live, spec_of(serving={"batching": {"max_batch_size": 8, "max_queue": 16}}))


def test_where_nothing_is_live_nothing_is_tuned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(["tune", str(project(tmp_path)), "serving.slo=200ms"]) == DeployFailed.status
    told = capsys.readouterr().err
    assert "nothing is live" in told
    assert "`specml deploy` starts it" in told


def test_a_target_whose_replicas_take_over_nothing_says_so(tmp_path: Path) -> None:
    spec = spec_of(deployment={"target": "edge"})
    with pytest.raises(DeployFailed, match="the target edge takes over nothing while it runs"):
        spec.deployment.target.tune(spec, tmp_path, lambda _: None)
