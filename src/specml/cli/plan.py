"""``specml plan``: what would run, and why."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from specml.cli.arguments import parse, spec_and_overrides

if TYPE_CHECKING:
    from pathlib import Path

    from specml.compile.write import Compiled
    from specml.plan import Plan, Stage
    from specml.spec import Spec


ASKED = "asked at each run; what follows waits for the answer"


@click.command("plan")
@spec_and_overrides
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def command(arguments: tuple[str, ...], as_json: bool) -> None:
    """Say what would run, and why; nothing is written."""
    from specml import durations
    from specml.compile.write import compiled
    from specml.load import load

    loaded = load(*parse(arguments))
    result = compiled(loaded, force=True)
    changed = result.changed  # tells first of a file that is no text
    rows = outlook(result, loaded.folder)
    seconds = durations.known(loaded.folder)
    for row in rows:
        row["last_seconds"] = seconds.get(row["stage"])
    if as_json:
        told = {"schema_version": 1, "name": loaded.spec.name, "files": changed, "stages": rows}
        told["trees"] = loaded.spec.serving.tree_form
        told["target"] = loaded.spec.deployment.target.in_words(loaded.spec)
        print(json.dumps({**told, "rules": _rules(loaded.spec, result.plan)}, indent=1))
        return
    _show(loaded.spec.name, loaded.spec.problem.goal, changed, rows)
    if loaded.spec.serving.tree_form == "tensors":
        print("Trees are packaged as tensor operators, all of which CUDA has (serving.trees).")
    _show_rules(_rules(loaded.spec, result.plan))
    print(loaded.spec.deployment.target.in_words(loaded.spec))
    print("Nothing was written.")


def outlook(result: Compiled, folder: Path) -> list[dict[str, Any]]:
    """Each stage: whether it would run, and why."""
    from specml import repro
    from specml.compile.diff import differences
    from specml.compile.dvc import read_params

    current = folder / "params.yaml"
    before = read_params(current.read_text(encoding="utf-8") if current.exists() else "")
    edited = [key for key, *_ in differences(before.values, result.plan.params)] if before.compiled else []
    # A params.yaml that no compile has written tells DVC nothing, or stops it; compile would replace it.
    in_place = bool(before.compiled) and (folder / ".dvc").is_dir() and (folder / "dvc.yaml").exists()
    unknown = [{"": "params.yaml is none that compile wrote" if current.exists() else "never ran"}]
    changed = repro.changes(folder) if in_place else {}
    rows: list[dict[str, Any]] = []
    rerun: set[str] = set()
    for stage in result.plan.stages:
        for key in stage.keys or ("",):
            label = f"{stage.name}@{key}" if key else stage.name
            why = _why(stage, key, edited, rerun, changed.get(label) if in_place else unknown)
            outs = {out.replace("${key}", key) for out in stage.outs}
            if why and why != ASKED and stage.name != "guard":  # whose output never changes
                rerun |= outs
            rows.append({"stage": label, "runs": bool(why), "why": why or "unchanged"})
    ours = {row["stage"] for row in rows}
    for label in sorted(set(changed) - ours):  # of the user's own
        rows.append({"stage": label, "runs": True, "why": _dvc_reason(changed[label])})
    return rows


def untrained(result: Compiled, folder: Path) -> list[str]:
    """The stages up to the bundle that would run: the packaged model is not the one that the spec asks for."""
    from specml.compile.diff import labelled

    made = {out: name for name, _, _, outs in labelled(result.plan) for out in outs}
    reads = {name: deps for name, _, deps, _ in labelled(result.plan)}
    needed, left = set[str](), ["package"]
    while left:
        needed.add(name := left.pop())
        left += [maker for dep in reads[name] if (maker := made.get(dep)) and maker not in needed]
    rows = outlook(result, folder)
    needed.discard("guard")
    return [row["stage"] for row in rows if row["stage"] in needed and row["runs"] and row["why"] != ASKED]


def _why(stage: Stage, key: str, edited: list[str], rerun: set[str], told: Any) -> str:
    if stage.always and told == ["always changed"]:
        return ASKED
    declared = [name.replace("${key}", key) for name in stage.params]
    touched = [e for e in edited if any(e == d or e.startswith(f"{d}.") or d.startswith(f"{e}.") for d in declared)]
    if touched:
        return f"{', '.join(touched[:3])} changed"
    item = stage.items.get(key, "")
    upstream = sorted({dep.replace("${key}", key).replace("${item}", item) for dep in stage.deps} & rerun)
    if told:
        return _dvc_reason(told)
    return f"may follow {upstream[0]}" if upstream else ""


def _dvc_reason(told: Any) -> str:
    for part in told:
        if not isinstance(part, dict):
            return str(part)
        for sort, items in part.items():
            if not sort:
                return str(items)
            names = (
                ", ".join(f"{name} {state}" for name, state in list(items.items())[:2])
                if isinstance(items, dict)
                else items
            )
            return f"{sort}: {names}"
    return "changed"


def _show(name: str, goal: str, changed: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    print(f"{name}: {goal}" if goal else name)
    width = max(len(row["stage"]) for row in rows)
    for row in rows:
        last = f"{row['last_seconds']:.1f}s" if row["last_seconds"] is not None else ""
        print(f"  {row['stage']:<{width}}  {'run ' if row['runs'] else 'skip'}  {last:>7}  {row['why']}")
    running = [row for row in rows if row["runs"]]
    known = sum(row["last_seconds"] or 0 for row in running)
    about = f", about {known:.0f} s" if known and all(row["last_seconds"] is not None for row in running) else ""
    print(f"{len(running)} of {len(rows)} stages to run{about}.")
    if changed:
        print(f"compile would write {', '.join(changed)}.")


def _rules(spec: Spec, plan: Plan) -> dict[str, Any]:
    """The rules, the values that they add to the spec's, and what they oblige to."""
    from specml.compile import ruled_spec
    from specml.compile.diff import differences

    added = {key: new for key, _, new in differences(spec.model_dump(mode="json"), ruled_spec(plan.params))}
    return {
        "rules": {name: rule.text for name, rule in sorted(spec.compliance.rules.items())},
        "added": added,
        "obligations": [asdict(one) for one in plan.obligations],
    }


def _show_rules(told: dict[str, Any]) -> None:
    for name, text in told["rules"].items():
        print(f"Rule {name}: {text}; evidence, not legal advice.")
    for key, value in told["added"].items():
        print(f"  adds {key}: {json.dumps(value, ensure_ascii=False)}")
    for one in told["obligations"]:
        print(f"  owes {one['name']}: {one['value']} ({one['source']})")
