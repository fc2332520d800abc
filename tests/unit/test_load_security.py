"""A spec is data: nothing in it, nor in an override, is ever called or imported."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from specml.errors import SpecError
from specml.load import load

VALID = """\
name: small
problem: {task: binary, target: y}
data: {sources: {rows: {type: csv, path: rows.csv}}}
candidates: {line: {type: logistic_regression}}
"""

PAYLOADS = [
    "_target_: os.system",
    "problem2: {_target_: os.system, _args_: [touch canary]}",
    "search: {_target_: os.system, _args_: [touch canary]}",
    'search: {folds: {_target_: builtins.eval, _args_: [\'open("canary", "w")\']}}',
    "gates: {x: {type: metric, metric: roc_auc, min: 0.5, _partial_: true}}",
    "gates: {x: {_convert_: all, type: metric, metric: roc_auc, min: 0.5}}",
    "gates: {x: {_recursive_: true, type: metric, metric: roc_auc, min: 0.5}}",
    "gates: {x: {type: os.system}}",
    "gates: {x: {type: specml.gates.metric.Metric}}",
    "gates: {x: {type: __class__}}",
    "gates: {x: {type: [os, system]}}",
    "hydra: {run: {dir: canary}}",
    "hydra: {searchpath: ['file:///tmp', 'pkg://os']}",
    "hydra: {callbacks: {x: {_target_: joblib.load, filename: canary}}}",
    "hydra: {job: {env_set: {LD_PRELOAD: canary}}}",
    "defaults: [override hydra/job_logging: none]",
    "defaults: [hydra/launcher: basic]",
    "defaults: [/etc/passwd]",
    "defaults: [candidates: ../../../etc/passwd]",
    "defaults: [candidates@hydra.run: fast]",
    "defaults: [candidates@_global_: fast]",
    "defaults: [optional candidates: fast]",
    "defaults: [candidates: '${oc.env:HOME}']",
    "defaults: [candidates: {a: b}]",
    "intended: !!python/object/apply:os.system [touch canary]",
    "intended: !!python/name:os.system",
    "intended: !!python/module:canary_module",
    "intended: !!python/object/new:subprocess.Popen [[touch, canary]]",
    "search: {seed: '${oc.env:HOME}'}",
    "search: {seed: '${oc.decode:1}'}",
    "search: {seed: '${oc.create:{a: 1}}'}",
    "search: {seed: '${oc.select:name}'}",
    "search: {seed: '${now:%Y}'}",
    "search: {seed: '${hydra:runtime.cwd}'}",
    "search: {seed: '${python_version:major}'}",
    "search: {seed: '${eval:1}'}",
    "search: {seed: '${${name}:1}'}",
    "search: {seed: '${secret:HOME}'}",
    "search: {seed: '$(touch canary)'}",
    "plugins: ['../canary_module']",
    "plugins: ['canary_module; touch canary']",
    "plugins: ['canary_module:main']",
    "plugins: {canary_module: 1}",
    "__class__: {__init__: 1}",
    "__specml__: {L0: L0}",
    "conf: \"{{ ''.__class__.__mro__ }}\"",
]

OVERRIDES = [
    "hydra.run.dir=canary",
    "+hydra.searchpath=[file:///tmp]",
    "hydra/launcher=basic",
    "+hydra/callbacks=x",
    "candidates@hydra=fast",
    "search._target_=os.system",
    "+search={_target_: os.system}",
    "+gates.x={type: os.system}",
    "search.seed=${oc.env:HOME}",
    "search.seed=${now:%Y}",
    "defaults=[x]",
    "__specml__.L0=1",
    "candidates=../../etc/passwd",
    "candidates=/etc/passwd",
    "search.seed=glob(*)",
    "search.seed=range(1,3)",
    "search.seed=1,2",
    "search.seed=" + "[" * 5000,
    "search.seed=" + "x" * 20_000,
    "",
    "name",
    "=1",
    "a..b=1",
    "search.seed=${",
]

WATCHED = {
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "subprocess.Popen",
    "socket.connect",
    "pickle.find_class",
}
SEEN: list[str] = []
WATCHING = [False]


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if not WATCHING[0]:
        return
    if event in WATCHED or (event == "import" and "canary" in str(arguments[0])):
        SEEN.append(f"{event} {arguments}")
    if event == "open" and "canary" in str(arguments[0]):
        SEEN.append(f"{event} {arguments}")


sys.addaudithook(_watch)


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project in which nothing may be called, imported or opened that is called canary."""
    (tmp_path / "canary_module.py").write_text("open('canary', 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    SEEN.clear()
    WATCHING[0] = True
    yield tmp_path
    WATCHING[0] = False
    assert SEEN == []
    assert not (tmp_path / "canary").exists()
    assert "canary_module" not in sys.modules


def test_the_watch_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    SEEN.clear()
    WATCHING[0] = True
    os.system("true")
    WATCHING[0] = False
    assert SEEN
    SEEN.clear()


@pytest.mark.parametrize("payload", PAYLOADS)
def test_no_payload_in_a_spec_is_run(payload: str, watched: Path) -> None:
    section = payload.partition(":")[0]
    kept = "".join(line for line in VALID.splitlines(keepends=True) if not line.startswith(f"{section}:"))
    (watched / "spec.yaml").write_text(kept + payload + "\n")
    line = kept.count("\n") + 1
    with pytest.raises(SpecError) as caught:
        load(watched)
    assert any(problem.where.startswith(f"spec.yaml:{line}:") for problem in caught.value.problems)


@pytest.mark.parametrize("override", OVERRIDES, ids=lambda text: text[:30] or "nothing")
def test_no_payload_in_an_override_is_run(override: str, watched: Path) -> None:
    (watched / "spec.yaml").write_text(VALID)
    with pytest.raises(SpecError) as caught:
        load(watched, [override])
    assert all(problem.where.startswith("override ") for problem in caught.value.problems)


@pytest.mark.parametrize(
    "text",
    [
        "$(touch canary)",
        "`touch canary`",
        "; touch canary",
        "| touch canary",
        "a\n\ttouch canary",
        "../../x",
        "{{7*7}}",
        "%s%n",
    ],
)
def test_text_stays_text(text: str, watched: Path) -> None:
    quoted = '"' + text.replace("\n", "\\n").replace("\t", "\\t") + '"'
    (watched / "spec.yaml").write_text(VALID.replace("target: y", f"target: y, goal: {quoted}"))
    assert load(watched).spec.problem.goal == text


@pytest.mark.parametrize(
    "preset",
    [
        "# @package hydra\nx: 1\n",
        "# @package _global_\ncandidates: {}\n",
        "defaults: [fast]\n",
        "defaults: [override /hydra/launcher: basic]\n",
        "_target_: os.system\n",
        "x: !!python/name:os.system\n",
        "x: {type: '${oc.env:HOME}'}\n",
    ],
)
def test_no_payload_in_a_preset_is_run(preset: str, watched: Path) -> None:
    folder = watched / "conf" / "candidates"
    folder.mkdir(parents=True)
    (folder / "own.yaml").write_text(preset)
    (watched / "spec.yaml").write_text("defaults: [candidates: own, _self_]\n" + VALID)
    with pytest.raises(SpecError) as caught:
        load(watched)
    assert any(problem.where.startswith("conf/candidates/own.yaml:") for problem in caught.value.problems)
