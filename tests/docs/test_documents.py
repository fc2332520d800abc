"""What the documents say is so."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest

from specml import errors
from specml.cli import HIDDEN, VERBS
from specml.load import load
from tests.conftest import ROOT, specml

if TYPE_CHECKING:
    from pathlib import Path

README = (ROOT / "README.md").read_text()


def test_the_first_block_of_the_readme_is_two_commands() -> None:
    block = README.split("```sh\n", 1)[1].split("```", 1)[0]
    commands = [re.sub(r"\s+#.*", "", line) for line in block.splitlines()]
    assert commands == ["python3 quickstart.py", "python3 quickstart.py test"]


def test_the_ten_line_spec_is_valid_and_ten_lines(tmp_path: Path) -> None:
    text = README.split("```yaml\n", 1)[1].split("```", 1)[0]
    assert len(text.splitlines()) <= 10
    (tmp_path / "spec.yaml").write_text(text)
    assert load(tmp_path).spec.name == "income"


def test_every_exit_status_is_told() -> None:
    classes = [errors.SpecmlError, *errors.SpecmlError.__subclasses__()]
    statuses = {kind.__name__: kind.status for kind in classes if kind.__module__ == "specml.errors"}
    assert len(set(statuses.values())) == len(statuses)
    told = README.split("## Exit statuses", 1)[1].split("##", 1)[0]
    for status in [*statuses.values(), errors.INTERRUPTED]:
        assert re.search(rf"\b{status} \w", told), status


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_is_in_the_documents_and_helps(verb: str) -> None:
    documents = "".join(path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])
    assert f"specml {verb}" in documents
    assert "Usage:" in specml(verb, "--help", folder=ROOT).stdout


def test_every_file_of_the_command_line_is_a_verb() -> None:
    files = {path.stem for path in (ROOT / "src/specml/cli").glob("*.py")} - {
        "__init__",
        "arguments",
        "progress",
        "tables",
    }
    assert files == {*VERBS, *HIDDEN}


def test_the_links_of_the_documents_lead_somewhere() -> None:
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text()):
            assert (path.parent / link).exists(), f"{path.name}: {link}"


def test_the_plug_in_of_the_documents_works(tmp_path: Path) -> None:
    text = (ROOT / "docs/plugins.md").read_text()
    (tmp_path / "house").mkdir()
    (tmp_path / "house/__init__.py").write_text(text.split("```python\n", 1)[1].split("```", 1)[0])
    spec = README.split("```yaml\n", 1)[1].split("```", 1)[0].partition("gates:")[0]
    (tmp_path / "spec.yaml").write_text(spec + text.split("```yaml\n", 1)[1].split("```", 1)[0])
    assert specml("check", folder=tmp_path).returncode == 0
    (tmp_path / "spec.yaml").write_text((tmp_path / "spec.yaml").read_text().replace("max: 0.9", "max: 1.9"))
    assert "gates.humble.max" in specml("check", folder=tmp_path, status=2).stderr


def test_the_functions_of_the_documents_judge(tmp_path: Path) -> None:
    section = (ROOT / "docs/plugins.md").read_text().split("## A gate of your own", 1)[1]
    (tmp_path / "my_gates.py").write_text(section.split("```python\n", 1)[1].split("```", 1)[0])
    generator = np.random.default_rng(0)
    x = generator.normal(size=800)
    pl.DataFrame({"x": x, "y": (x + generator.normal(size=800) > 0).astype(int)}).write_csv(tmp_path / "rows.csv")
    head = "name: x\nproblem: {task: binary, target: y}\ncandidates: {line: logistic_regression}\n"
    head += "data: {sources: {rows: {type: csv, path: rows.csv}}}\n"
    (tmp_path / "spec.yaml").write_text(head + section.split("```yaml\n", 1)[1].split("```", 1)[0])
    specml("run", "--no-deploy", folder=tmp_path)
    verdicts = json.loads((tmp_path / "artifacts/validate/verdicts.json").read_text())["gates"]
    assert verdicts["surprise"]["reason"].startswith("the mean of surprise is 0.685")
    assert verdicts["few_inputs"]["reason"] == "of the 20 columns allowed the model takes 1."
    told = specml("run", "--no-deploy", "gates.surprise.max=0.7", folder=tmp_path, status=4).stderr
    assert "surprise" in told


def test_the_gates_test_of_the_documents_passes(tmp_path: Path) -> None:
    gate, test = re.findall(r"```python\n(.*?)```", (ROOT / "docs/plugins.md").read_text(), re.DOTALL)[:2]
    (tmp_path / "house").mkdir()
    (tmp_path / "house/__init__.py").write_text(gate)
    done = subprocess.run(
        [sys.executable, "-c", f"{test}\ntest_humble()"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_yaml_of_the_data_page_is_valid(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/data.md").read_text(), re.DOTALL)
    head = "name: x\nproblem: {task: binary, target: y}\ncandidates: {line: logistic_regression}\n"
    for block in blocks:
        source = "" if "sources:" in block else "  sources: {rows: {type: csv, path: rows.csv}}\n"
        (tmp_path / "spec.yaml").write_text(head + block.replace("data:\n", f"data:\n{source}", 1))
        assert load(tmp_path).spec.data.sources
    assert len(blocks) >= 2


def test_the_source_of_the_documents_works(tmp_path: Path) -> None:
    text = (ROOT / "docs/sources.md").read_text()
    (tmp_path / "house").mkdir()
    (tmp_path / "house/__init__.py").write_text(text.rsplit("```python\n", 1)[1].split("```", 1)[0])
    (tmp_path / "spec.yaml").write_text(
        "{name: dice, plugins: [house], problem: {task: binary, target: high}, "
        "data: {sources: {dice: {type: dice}}}, candidates: {line: logistic_regression}}"
    )
    told = specml("run", "--until", "prepare", folder=tmp_path).stderr
    assert "500 rows × 3 columns" in told


def test_the_yaml_of_the_page_of_sources_is_valid() -> None:
    from ruamel.yaml import YAML

    from specml.kinds import Source

    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/sources.md").read_text(), re.DOTALL)
    shown: set[str] = set()
    for block in blocks:
        value = YAML(typ="safe").load(block)
        for source in value.get("data", {}).get("sources", value).values():
            options = {key: tuple(one) if isinstance(one, list) else one for key, one in source.items()}
            Source.table[source["type"]].model_validate(options)
            shown.add(source["type"])
    assert shown == {name for name, one in Source.table.items() if one.__module__.startswith("specml.sources.")}


def test_every_source_has_a_section_in_the_documents() -> None:
    from specml.kinds import Source

    headings = re.findall(r"^## (.*)$", (ROOT / "docs/sources.md").read_text(), re.MULTILINE)
    told = set(re.findall(r"`(\w+)`", " ".join(headings)))
    assert told == {name for name, one in Source.table.items() if one.__module__.startswith("specml.sources.")}


def test_the_features_of_their_page_are_valid_and_every_option_is_told(tmp_path: Path) -> None:
    from ruamel.yaml import YAML

    from specml.kinds import Feature

    page = (ROOT / "docs/features.md").read_text()
    blocks = [YAML(typ="safe").load(one) for one in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    for number, (task, block) in enumerate(zip(("binary", "regression"), blocks, strict=True)):
        data = {"sources": {"rows": {"type": "csv", "path": "rows.csv"}}, "columns": {"day": {"role": "time"}}}
        head = {"name": "x", "problem": {"task": task, "target": "sales"}, "candidates": {"gbm": "lightgbm"}}
        spec = {**head, **block, "data": {**data, **block.get("data", {})}}
        (tmp_path / f"{number}.yaml").write_text(json.dumps(spec, default=str))
        assert load(tmp_path / f"{number}.yaml").spec.features.derive
    for name in ("boolean", "categorical", "date", "expression", "lag", "numeric", "rolling", "text"):
        assert f"**{name}**" in page
        options = Feature.table[name].model_fields.keys() - {"type", "expr", "missing", "encode"}
        assert [option for option in options if option not in page] == []


def test_the_spec_of_the_page_of_forecasts_is_valid(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(
        (ROOT / "docs/forecasting.md").read_text().split("```yaml\n", 1)[1].split("```")[0]
    )
    assert {"lag_24", "lag_168", "mean_168"} <= load(tmp_path).spec.features.derive.keys()


@pytest.mark.parametrize(
    ("page", "blocks", "base"),
    [
        ("decisions", 4, {"problem": {"task": "binary", "costs": {"false_negative": 5, "false_positive": 1}}}),
        ("uncertainty", 3, {"problem": {"task": "regression"}, "selection": {"prediction_interval": {}}}),
    ],
)
def test_the_yaml_of_decisions_and_uncertainty_is_valid(
    page: str, blocks: int, base: dict[str, Any], tmp_path: Path
) -> None:
    from omegaconf import OmegaConf

    data = {"sources": {"rows": {"type": "csv", "path": "rows.csv"}}, "columns": {"sex": {"role": "protected"}}}
    whole = {"name": "x", "problem": {"target": "y"}, "data": data, "candidates": {"gbm": "lightgbm"}}
    found = re.findall(r"```yaml\n(.*?)```", (ROOT / f"docs/{page}.md").read_text(), re.DOTALL)
    assert len(found) == blocks
    for block in found:
        (tmp_path / "spec.yaml").write_text(OmegaConf.to_yaml(OmegaConf.merge(whole, base, OmegaConf.create(block))))
        assert load(tmp_path).spec.name == "x"


def test_the_readme_lists_every_type_and_metric() -> None:
    from specml.component import kinds
    from specml.metrics import TABLE

    told = set(re.findall(r"`(\w+)`", README.split("| kind | types |", 1)[1].split("\n\n", 1)[0]))
    known = {
        name
        for kind in kinds()
        if kind.__name__ in {"Source", "Feature", "Candidate", "Gate", "Signal", "Rule"}
        for name in kind.table
    }
    assert told == {name for name in known if not name.startswith(("humble", "mine"))} | set(TABLE)


GATES = (ROOT / "docs/gates.md").read_text()


def test_every_gate_stands_on_the_page_of_gates() -> None:
    from specml.kinds import Gate

    rows = GATES.split("| gate | asks |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    told = [re.findall(r"`(\w+)`", row)[0] for row in rows]
    assert told == sorted({name for name, one in Gate.table.items() if one.__module__.startswith("specml.gates.")})
    for row in rows:
        (name, *_), bounds = re.findall(r"`(\w+)`", row), row.split("|")[3]
        assert set(re.findall(r"`(\w+)`", bounds)) <= Gate.table[name].model_fields.keys(), row


def test_the_gates_of_their_page_are_valid(tmp_path: Path) -> None:
    block = GATES.split("```yaml\n", 1)[1].split("```", 1)[0]
    head = "name: x\nproblem: {task: binary, target: y}\ncandidates: {line: logistic_regression}\n"
    head += "data: {sources: {rows: {type: csv, path: rows.csv}}}\n"
    (tmp_path / "spec.yaml").write_text(head + block)
    assert set(load(tmp_path).spec.gates) == {"ranks", "fast", "small", "baseline", "parity"}


def test_the_full_set_of_gates_is_valid_and_told(tmp_path: Path) -> None:
    head = "defaults: [gates: full, _self_]\nname: x\nproblem: {task: binary, target: y}\n"
    head += "candidates: {line: logistic_regression}\ndata: {sources: {rows: {type: csv, path: rows.csv}}}\n"
    (tmp_path / "spec.yaml").write_text(head)
    gates = load(tmp_path).spec.gates
    section = GATES.split("## Many at once", 1)[1].split("The spec adds", 1)[0]
    assert {gate.type for gate in gates.values()} == set(re.findall(r"`([a-z]+)`", section))  # type: ignore[attr-defined]
    assert len(gates) == 13


def test_the_gate_of_their_page_owes_what_every_gate_does(tmp_path: Path) -> None:
    (tmp_path / "steady.py").write_text(GATES.split("```python\n", 1)[1].split("```", 1)[0])
    test = """
import numpy as np
from steady import Steady
from specml.evidence import Evidence
from specml.testing import check_gate
for p, outcome in ((np.linspace(0, 1, 300), "holds"), (np.repeat([0.2, 0.8], 150), "refused")):
    y = (p > 0.5).astype(int)
    assert check_gate(Steady(), Evidence("binary", y, p, y, native=p, prior=np.full(300, 0.5))).outcome == outcome
"""
    done = subprocess.run([sys.executable, "-c", test], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
