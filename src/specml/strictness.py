"""Which of two specs asks for more: gates that were tightened or loosened, and what weakens in compliance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from specml.kinds import STRICTER, Gate, Stricter
from specml.values import Duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from specml.holdout import Openings
    from specml.spec import Approval, Spec, Waiver

Way = Literal["tightened", "loosened", "changed"]
"""``changed``: nothing says which of the two values asks for more."""

LENIENT = frozenset({"confidence", "min_group_size", "min_rows"})
"""Options that decide what is not measured: they have no direction where that may pass."""


@dataclass(frozen=True)
class Move:
    """An option that has another value."""

    option: str
    before: Any
    """As JSON values, like ``after``."""
    after: Any
    way: Way


@dataclass(frozen=True)
class Change:
    """A gate that is other than it was; one that was removed is loosened."""

    gate: str
    type: str
    way: Way | Literal["added", "removed"]
    moves: tuple[Move, ...] = ()

    @property
    def loosened(self) -> bool:
        """Whether it asks for less than it did, or may: nothing says that it does not."""
        return self.way not in ("added", "tightened")


@dataclass(frozen=True)
class Weakening:
    """What protects people less than it did."""

    key: str
    what: str


def gates(before: Mapping[str, Gate], after: Mapping[str, Gate]) -> Iterator[Change]:
    """The gates that were added or removed, or that changed, by name."""
    for name in sorted({*before, *after}):
        if name not in after:
            yield Change(name, _type(before[name]), "removed")
        elif name not in before:
            yield Change(name, _type(after[name]), "added")
        elif moves := tuple(moved(before[name], after[name])):
            yield Change(name, _type(after[name]), _together(move.way for move in moves), moves)


def retold(name: str, before: dict[str, Any] | None, after: dict[str, Any] | None) -> Change | None:
    """The change of a gate whose options are known as JSON values, None where it is not there; None: none."""
    if before == after:
        return None
    if before is None or after is None:
        return Change(name, str((before or after or {}).get("type", "")), "added" if before is None else "removed")
    kinds: list[Gate] = []
    for options in (before, after):
        try:
            kinds.append(_restored(options))
        except (KeyError, ValidationError):  # of a plug-in that is gone, or of another version
            moves = tuple(
                Move(key, before.get(key), after.get(key), "changed")
                for key in sorted({*before, *after})
                if before.get(key) != after.get(key)
            )
            return Change(name, str(after.get("type", "")), "changed", moves)
    return next(gates({name: kinds[0]}, {name: kinds[1]}), None)


def since_opened(openings: Openings) -> Iterator[tuple[int, str, Change]]:
    """What was changed after the held-out rows were first opened: at which opening (from 1 on), when, and what."""
    for number, (was, now) in enumerate(pairwise(openings.judged), start=2):
        for name in sorted({*was.gates, *now.gates}):
            if change := retold(name, was.gates.get(name), now.gates.get(name)):
                yield number, now.time, change
        for file in sorted({*was.files, *now.files}):
            before, after = was.files.get(file), now.files.get(file)
            if before != after:
                yield number, now.time, Change(file, "file", "changed", (Move("content", before, after, "changed"),))


def _restored(options: dict[str, Any]) -> Gate:
    found = Gate.table[options["type"]].model_validate(options)
    assert isinstance(found, Gate)
    return found


def moved(before: Gate, after: Gate) -> Iterator[Move]:
    """The options in which two gates differ."""
    old, new = before.model_dump(mode="json"), after.model_dump(mode="json")
    changed = [key for key in (*new, *(old.keys() - new.keys())) if old.get(key) != new.get(key)]
    known: dict[str, Stricter] = {**STRICTER, **after.stricter} if type(before) is type(after) else {}
    if "warn" in {*_policies(before), *_policies(after)}:
        known = {key: one for key, one in known.items() if key not in LENIENT}
    other_question = any(key not in known for key in changed)
    for key in changed:
        a, b = getattr(before, key, None), getattr(after, key, None)
        # Of another question the one bound takes the place of the other.
        way: Way = "changed" if key not in known or (other_question and None in (a, b)) else "tightened"
        if way != "changed":
            fallbacks = getattr(before, "policy", None), getattr(after, "policy", None)
            way = _way(known[key], a, b, fallbacks)
        yield Move(key, old.get(key), new.get(key), way)


def _policies(gate: Gate) -> Iterator[str]:
    yield getattr(gate, "policy", "block")
    yield from getattr(gate, "group_policy", {}).values()


def _way(stricter: Stricter, a: Any, b: Any, fallbacks: tuple[Any, Any] = (None, None)) -> Way:
    """What ``b`` in the place of ``a`` does."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        keys = sorted({*a, *b})
        return _together(
            _way(stricter, x, y) for key in keys if (x := a.get(key, fallbacks[0])) != (y := b.get(key, fallbacks[1]))
        )
    if isinstance(stricter, tuple):
        words = [str(one).lower() if isinstance(one, bool) else one for one in (a, b)]
        ranks = [stricter.index(one) if one in stricter else None for one in words]
        return "changed" if None in ranks else "tightened" if ranks[1] > ranks[0] else "loosened"  # type: ignore[operator]
    if stricter in ("more", "fewer"):
        wanted, left = (a or (), b or ()) if stricter == "more" else (b or (), a or ())
        return "loosened" if set(wanted) - set(left) else "tightened"
    if a is None or b is None:  # a bound that there was not, or is not any more
        return "loosened" if b is None else "tightened"
    return "tightened" if (b > a) == (stricter == "larger") else "loosened"


def _together(ways: Iterable[Way]) -> Way:
    found = set(ways)
    return "loosened" if "loosened" in found else "changed" if "changed" in found else "tightened"


def _type(gate: Gate) -> str:
    return str(getattr(gate, "type", ""))


def said(value: Any) -> str:
    """An option's value, as JSON has it, in words."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {said(item)}" for key, item in value.items()) or "none"
    return "none" if value in (None, []) else ", ".join(map(said, value)) if isinstance(value, list) else str(value)


def weakened(before: Spec, after: Spec) -> Iterator[Weakening]:
    """What protects people less in ``after``, both with what their rules add."""
    was, now = before.compliance, after.compliance
    if was.owner and not now.owner:
        yield Weakening("compliance.owner", f"{was.owner} does not answer for the model any more, and nobody else does")
    for name in sorted(was.rules.keys() - now.rules.keys()):
        yield Weakening(f"compliance.rules.{name}", f"the rule is gone ({was.rules[name].text})")
    yield from _approval(was.approval, now.approval)
    for name, waiver in sorted(now.waivers.items()):
        yield from _waiver(f"compliance.waivers.{name}", was.waivers.get(name), waiver)
    yield from _kept(before, after)
    yield from _columns(before, after)


def _approval(was: Approval | None, now: Approval | None) -> Iterator[Weakening]:
    key = "compliance.approval"
    if was is None:
        return
    if now is None:
        yield Weakening(
            key, f"nobody must approve a release any more; {was.minimum} of {len(set(was.approvers))} had to"
        )
        return
    if now.minimum < was.minimum:
        yield Weakening(f"{key}.minimum", f"{now.minimum} must approve a release; {was.minimum} had to")
    if lost := sorted(set(was.approvers) - set(now.approvers)):
        yield Weakening(f"{key}.approvers", f"{', '.join(lost)} may not approve any more")
    if new := sorted(set(now.approvers) - set(was.approvers)):
        yield Weakening(f"{key}.approvers", f"{', '.join(new)} may approve, too")
    if now.by_owner and not was.by_owner:
        yield Weakening(f"{key}.by_owner", "the owner may approve, too")


def _waiver(key: str, was: Waiver | None, now: Waiver) -> Iterator[Weakening]:
    told = f"a refusal of the gate {now.gate} is let pass until {now.expires}, by {now.approver}: {now.reason}"
    if was is None or was.gate != now.gate:
        yield Weakening(key, told)
        return
    if now.expires > was.expires:
        yield Weakening(f"{key}.expires", f"{now.expires}; it was {was.expires}")
    if was.control and not now.control:
        yield Weakening(f"{key}.control", f"the compensating control is gone: {was.control}")


def _kept(before: Spec, after: Spec) -> Iterator[Weakening]:
    """How long rows are kept, and what else is owed to people."""
    was, now = before.monitoring.capture, after.monitoring.capture
    if now and (was is None or now.retention > was.retention):
        earlier = f"it was {was.retention}" if was else "none were"
        yield Weakening("monitoring.capture.retention", f"requests are kept for {now.retention}; {earlier}")
    owed = {one.name: one for one in after.obligations}
    for one in before.obligations:
        still, key = owed.get(one.name), f"compliance.rules: {one.name}"
        if still is None:
            yield Weakening(key, f"is not owed any more; it was {one}")
        elif one.name.endswith("_retention") and _longer(still.value, one.value):
            yield Weakening(key, f"{still.value}; it was {one.value}")


def _longer(now: str, was: str) -> bool:
    a, b = Duration.parse(now), Duration.parse(was)
    return a is None or (b is not None and a > b)


def _columns(before: Spec, after: Spec) -> Iterator[Weakening]:
    """Columns that lost what protected them."""
    for name in before.with_role("protected"):
        if (role := after.column(name).role) != "protected":
            yield Weakening(f"data.columns.{name}.role", f"{role}; it was protected: its groups are not compared")
    strength = {None: 0, "hash": 1, "drop": 2}
    for name in sorted(before.data.columns):
        was, now = before.data.columns[name], after.data.columns.get(name)
        if was.personal and not (now and now.personal):
            yield Weakening(f"data.columns.{name}.personal", "the column is not told to be personal any more")
        if strength[was.action] > strength[now.action if now else None]:
            done = {"hash": "hashed", None: "kept as it is"}[now.action if now else None]
            yield Weakening(f"data.columns.{name}.action", f"it is {done}; it was {was.action}")
