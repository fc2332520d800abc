"""Two specs → what changes: what re-runs, which gates ask for less, what in compliance weakens. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from specml import strictness
from specml.compile import compile_plan, ruled_spec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from specml.plan import Plan
    from specml.spec import Spec
    from specml.strictness import Change, Weakening

Value = tuple[str, Any, Any]
"""A dotted key and its value before and after, as JSON values."""


@dataclass(frozen=True)
class Rerun:
    """A stage that would not be skipped."""

    stage: str
    why: tuple[Value, ...] = ()
    """Parameters that changed."""
    follows: str = ""
    """Where none did: the first file that it reads and another stage makes anew, or that it did not read before."""
    new: bool = False


@dataclass(frozen=True)
class Diff:
    """What changes from one spec to another, each with what its rules add."""

    reruns: tuple[Rerun, ...]
    gone: tuple[str, ...]
    """Stages that there are no more."""
    gates: tuple[Change, ...]
    weakened: tuple[Weakening, ...]
    others: tuple[Value, ...]
    """Keys that changed and are told nowhere else."""

    @property
    def looser(self) -> bool:
        """Whether something asks for less than it did, or may."""
        return bool(self.weakened) or any(change.loosened for change in self.gates)

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "looser": self.looser,
            "reruns": [{**asdict(one), "why": _named(one.why)} for one in self.reruns],
            "stages_gone": list(self.gone),
            "gates": [{**asdict(one), "loosened": one.loosened} for one in self.gates],
            "weakened": [asdict(one) for one in self.weakened],
            "others": _named(self.others),
        }


def diff(before: Spec, after: Spec) -> Diff:
    """What changes from ``before`` to ``after``."""
    plans = compile_plan(before), compile_plan(after)
    was, now = before.with_rules(), after.with_rules()
    weakened = tuple(strictness.weakened(was, now))
    told = ("gates", *(one.key for one in weakened))
    values = [ruled_spec(plan.params) for plan in plans]
    names = [{label for label, *_ in labelled(plan)} for plan in plans]
    return Diff(
        reruns=tuple(_reruns(*plans)),
        gone=tuple(sorted(names[0] - names[1])),
        gates=tuple(strictness.gates(was.gates, now.gates)),
        weakened=weakened,
        others=tuple(one for one in differences(values[0], values[1]) if not any(_within(one[0], key) for key in told)),
    )


def _reruns(before: Plan, after: Plan) -> Iterator[Rerun]:
    """Stages that DVC would not skip; of the spec's own file, which ``guard`` reads, nothing is known here."""
    known = {label: (params, deps) for label, params, deps, _ in labelled(before)}
    changed = list(differences(before.params, after.params))
    anew: set[str] = set()
    for label, params, deps, outs in labelled(after):
        if label not in known:
            yield Rerun(label, new=True)
            anew |= outs
            continue
        read = {*params, *known[label][0]}
        why = tuple(one for one in changed if any(_within(one[0], key) or _within(key, one[0]) for key in read))
        follows = next(iter(sorted(deps & anew) or sorted(deps ^ known[label][1])), "")
        if why or follows:
            yield Rerun(label, why, "" if why else follows)
            anew |= outs


def labelled(plan: Plan) -> Iterator[tuple[str, tuple[str, ...], set[str], set[str]]]:
    """Each stage as DVC knows it, with the parameters and files that it reads, and what it writes."""
    for stage in plan.stages:
        for key in stage.keys or ("",):

            def at(text: str, key: str = key, item: str = stage.items.get(key, "")) -> str:
                return text.replace("${key}", key).replace("${item}", item)

            outs = {*map(at, (*stage.outs, *stage.metrics))}
            label = f"{stage.name}@{key}" if key else stage.name
            yield label, tuple(map(at, stage.params)), {*map(at, stage.deps)}, outs


def differences(a: Any, b: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Leaves in which two trees differ: (dotted key, value in ``a``, value in ``b``)."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted({*a, *b}):
            yield from differences(a.get(key), b.get(key), f"{path}.{key}" if path else str(key))
    elif a != b:
        yield path, a, b


def _within(key: str, section: str) -> bool:
    return key == section or key.startswith(f"{section}.")


def _named(values: tuple[Value, ...]) -> list[dict[str, Any]]:
    return [{"key": key, "before": before, "after": after} for key, before, after in values]
