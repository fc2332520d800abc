"""The model card: every number stands in a file of the run, which is named; what was not measured says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from specml.data import Layout
    from specml.spec import Spec


def card(spec: Spec, layout: Layout, choice: dict[str, Any], evidence: dict[str, Any]) -> str:
    """Markdown, after Mitchell et al. (2019), *Model Cards for Model Reporting*."""
    return "\n".join([*_head(spec, layout, choice, evidence), *_verdicts(evidence), *_leaderboard(choice), ""])


def _head(spec: Spec, layout: Layout, choice: dict[str, Any], evidence: dict[str, Any]) -> Iterator[str]:
    problem = spec.problem
    yield f"# {spec.name}"
    yield ""
    yield problem.goal or "Goal: not stated."
    yield ""
    yield f"- Bundle: `{evidence['bundle']}`"
    yield f"- Model: {choice['candidate']}, {layout.task}; `{layout.target}` from {len(layout.features)} columns"
    yield f"- Decision threshold: {choice['threshold']}" if choice["threshold"] else "- Decision threshold: none"
    yield f"- Intended use: {problem.intended_use or 'not stated'}"
    yield f"- Out of scope: {'; '.join(problem.out_of_scope) or 'not stated'}"
    yield f"- Protected columns, kept from the model: {', '.join(layout.protected) or 'none declared'}"
    yield ""
    yield "## Held-out rows"
    yield ""
    yield f"{evidence['rows']:,} rows that no training stage read (`artifacts/validate/verdicts.json`)."
    yield ""
    yield "| metric | value |"
    yield "|---|---|"
    for name, value in evidence["metrics"].items():
        yield f"| {name} | {value:.4f} |"
    yield ""


def _verdicts(evidence: dict[str, Any]) -> Iterator[str]:
    yield "## Gates"
    yield ""
    yield "| gate | verdict | value | interval | n | threshold | reason |"
    yield "|---|---|---|---|---|---|---|"
    for name, gate in sorted(evidence["gates"].items()):
        cells = (
            name,
            outcome(gate),
            number(gate["value"]),
            interval(gate),
            gate["n"],
            gate["threshold"],
            gate["reason"],
        )
        yield "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
    yield ""
    for name, gate in sorted(evidence["gates"].items()):
        if gate["slices"]:
            yield f"### {name}: groups"
            yield ""
            yield "| group | n | value | interval | verdict | note |"
            yield "|---|---|---|---|---|---|"
            for one in gate["slices"]:
                yield _row(one["name"], one["n"], number(one["value"]), interval(one), one["outcome"], one["note"])
            yield ""


def _leaderboard(choice: dict[str, Any]) -> Iterator[str]:
    yield "## Candidates"
    yield ""
    yield f"Cross-validated {choice['metric']} on the training rows (`artifacts/select/choice.json`)."
    yield ""
    yield "| candidate | mean | spread over folds |"
    yield "|---|---|---|"
    for row in choice["leaderboard"]:
        yield f"| {row['candidate']} | {row['mean']:.4f} | {row['std']:.4f} |"


def _row(*cells: Any) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def outcome(gate: dict[str, Any]) -> str:
    """The verdict's word, with what the level or the policy makes of it."""
    if gate["outcome"] == "holds":
        return "holds"
    if gate["passes"]:
        return f"{gate['outcome']} (allowed by its policy)"
    return gate["outcome"] if gate["level"] == "fail" else f"{gate['outcome']} (level warn)"


def number(value: float | None) -> str:
    """Four digits, or ``not measured``."""
    return "not measured" if value is None else f"{value:.4g}"


def interval(measured: dict[str, Any]) -> str:
    """``low to high (confidence, method)``."""
    found = measured["interval"]
    if not found:
        return "-"
    return f"{found['low']:.4g} to {found['high']:.4g} ({found['confidence']:.3g}, {found['method']})"
