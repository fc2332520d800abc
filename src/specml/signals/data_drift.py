"""Columns that are distributed otherwise than in training, or have gone missing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from specml.component import Disagreement
from specml.data import looks_back
from specml.evidence import Outcome, Slice, Verdict, stability_index
from specml.kinds import Signal, Window

if TYPE_CHECKING:
    import numpy as np

    from specml.profile import Profile
    from specml.spec import Spec

COMMON = 0.01
"""Share of the training rows from which a category has a bin of its own; the rarer ones and the new share one."""
EXPECTED = 5.0
"""Rows that a bin must expect for the chi-square test (Cochran 1954); smaller bins are tested together."""


@dataclass(frozen=True)
class Bins:
    """One column in bins: deciles or categories, and what is missing last.

    ``shares`` of the training rows, ``counts`` of the window's rows: float64 [bins].
    """

    shares: np.ndarray
    counts: np.ndarray


class DataDrift(Signal):
    """Any column whose distribution has moved: by more than chance does, and by enough to matter.

    Both must be so: the population stability index (Siddiqi 2006, *Credit Risk Scorecards*, ch. 9) above ``max``,
    and a chi-square test of the same bins, corrected for the number of columns (Benjamini & Hochberg 1995,
    *J. R. Stat. Soc. B* 57:289). Missing values are a bin of their own. The window is seen through its profile.
    """

    judges: ClassVar[Literal["rows", "labels"]] = "rows"

    type: Literal["data_drift"] = "data_drift"
    max: Annotated[float, Field(gt=0)] = 0.2
    """Largest population stability index; 0.1 is usually called a small change, 0.25 a large one."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """That a raised column is not chance: at most 1 - confidence of the raised ones are, on average."""
    min_rows: Annotated[int, Field(ge=50)] = 500
    """Fewer rows in a window are not measured: chance alone makes a large index there."""
    columns: tuple[str, ...] = ()
    """Which of the model's columns are watched; all but the times when none is named: those move on by themselves.
    Of a text it is the length that is watched; of a column's past values (``x@-1``, ``x@-2``, …) the latest alone, of
    which the others are repetitions."""

    @override
    def disagreements(self, spec: Spec) -> Iterable[Disagreement]:
        for index, name in enumerate(self.columns):
            role, asked = spec.column(name).role, spec.mitigation.group_thresholds
            taken = asked is not None and asked.by == name
            if role not in ("feature", "time") and not taken:  # a time may be a feature as well
                what = f"names {name!r}, whose role is {role}: the model does not take it."
                yield Disagreement(key=("columns", index), what=what)
        yield from super().disagreements(spec)

    @override
    def judge(self, reference: dict[str, Any], window: Window) -> Verdict:
        from scipy.stats import false_discovery_control

        threshold, known = f"≤ {self.max:g}", reference["columns"]
        if window.profile is None or window.rows < self.min_rows:
            reason = f"{window.rows:,} rows, fewer than {self.min_rows:,}."
            return Verdict(outcome="not measured", reason=reason, n=window.rows, threshold=threshold)
        times = {name for name, told in known.items() if told["kind"] == "datetime"}
        named = self.columns or sorted(known.keys() - times - _repeated(known))
        if not named:
            reason = "every column of the model is a time, and none is named."
            return Verdict(outcome="not measured", reason=reason, n=window.rows, threshold=threshold)
        if absent := [name for name in named if name not in known]:
            reason = f"the model does not take {', '.join(absent)}."
            return Verdict(outcome="not measured", reason=reason, n=window.rows, threshold=threshold)
        bins = {name: binned(known[name], window.profile, name) for name in named}
        chances = false_discovery_control([chance(one, known[name]["rows"]) for name, one in bins.items()])
        slices = [
            self._slice(name, one, float(p), known[name]) for (name, one), p in zip(bins.items(), chances, strict=True)
        ]
        return self._verdict(sorted(slices, key=lambda one: (-_value(one), one.name)), window.rows)

    def _slice(self, name: str, bins: Bins, p: float, known: dict[str, Any]) -> Slice:
        value, rows = moved(bins), round(bins.counts.sum())
        outcome: Outcome = "refused" if value > self.max and p < 1 - self.confidence else "holds"
        note = f"p {p:.2g}"
        missing = float(bins.counts[-1]) / rows
        if abs(missing - known["missing"]) >= 0.005:
            note += f"; {missing:.1%} missing, {known['missing']:.1%} in training"
        return Slice(name=name, n=rows, value=value, outcome=outcome, note=note)

    def _verdict(self, slices: list[Slice], rows: int) -> Verdict:
        raised = [one for one in slices if one.outcome == "refused"]
        named = ", ".join(f"{one.name} ({_value(one):.2f}; {one.note})" for one in raised[:5])
        more = f" and {len(raised) - 5} more" if len(raised) > 5 else ""
        quiet = f"no column of {len(slices)} has moved; the furthest is {slices[0].name} ({_value(slices[0]):.3f})."
        return Verdict(
            outcome="refused" if raised else "holds",
            reason=f"{len(raised)} of {len(slices)} columns moved: {named}{more}." if raised else quiet,
            value=slices[0].value,
            n=rows,
            threshold=f"≤ {self.max:g}",
            slices=tuple(slices),
        )


def _repeated(names: Iterable[str]) -> set[str]:
    """Past values of columns of which later ones are among ``names``."""
    latest: dict[str, int] = {}
    steps = {name: step for name in names if (step := looks_back(name))}
    for of, back in steps.values():
        latest[of] = min(back, latest.get(of, back))
    return {name for name, (of, back) in steps.items() if back > latest[of]}


def binned(known: dict[str, Any], profile: Profile, name: str) -> Bins:
    """A column in the bins that its training rows give; a column that the window lacks is missing in every row."""
    import numpy as np

    if known["kind"] != "categorical":
        edges, shares = zip(*known["cumulative"], strict=True) if known["cumulative"] else ((), ())
        filled = profile.rows(name) - profile.missing(name)
        counts = np.diff([0.0, *profile.up_to(name, list(edges)), filled])
        expected = np.diff([0.0, *shares, 1.0]) * (1 - known["missing"])
    else:
        common = {category: share for category, share in known["shares"].items() if share >= COMMON}
        found = profile.counts(name)
        seen = [found.get(category, 0.0) for category in common]
        counts = np.array([*seen, profile.rows(name) - profile.missing(name) - sum(seen)])
        expected = np.array([*common.values(), 1 - known["missing"] - sum(common.values())])
    return Bins(
        np.clip([*expected, known["missing"]], 0.0, 1.0), np.clip([*counts, float(profile.missing(name))], 0.0, None)
    )


def moved(bins: Bins) -> float:
    """The population stability index of the window, half a row of it added to each bin of both."""
    n, k = bins.counts.sum(), len(bins.counts)
    p = (bins.counts + 0.5) / (n + 0.5 * k)
    q = (bins.shares * n + 0.5) / (n + 0.5 * k)
    return stability_index(p, q)


def chance(bins: Bins, reference_rows: int) -> float:
    """The p-value of Pearson's chi-square test that window and training rows are of one distribution."""
    import numpy as np
    from scipy.stats import chi2_contingency

    known = bins.shares * reference_rows
    expected = (bins.counts + known) / (bins.counts.sum() + reference_rows) * bins.counts.sum()
    rare = expected < EXPECTED
    table = np.array([_pooled(bins.counts, rare), _pooled(known, rare)])
    table = table[:, table.sum(axis=0) > 0]
    return float(chi2_contingency(table, correction=False).pvalue) if table.shape[1] > 1 else 1.0


def _pooled(counts: np.ndarray, rare: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.append(counts[~rare], counts[rare].sum())


def _value(one: Slice) -> float:
    return one.value if one.value is not None else 0.0
