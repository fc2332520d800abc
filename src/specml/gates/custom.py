"""A condition of your own: a function of a package that the spec names."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import override

from specml import plugged
from specml.component import Disagreement
from specml.errors import StageFailed
from specml.evidence import BY_ROW, ROWS_TOLD, Evidence, Interval, Verdict, bounded
from specml.kinds import Gate
from specml.metrics import bootstrap
from specml.plugged import Place
from specml.resamples import mean_over
from specml.space import Setting
from specml.values import FilePath

if TYPE_CHECKING:
    import numpy as np

    from specml.spec import Spec

FORMS = "a Verdict, (bool, sentence), a number, (value, low, high), or a number for each held-out row"


class CustomGate(Gate):
    """What a function of your package finds in the evidence.

    It is called with the ``Evidence`` and ``options`` and, where it has parameters of these names, with ``confidence``,
    ``seed`` and ``folder`` (the project's); it returns one of

    - a number for each held-out row, float [n]: its mean is judged by ``min`` or ``max``, on a bootstrap interval
      (Efron & Tibshirani 1993, *An Introduction to the Bootstrap*, ch. 13); where one of them is not finite, nothing is
      measured;
    - ``(value, low, high)``: a number with its own interval, judged by ``min`` or ``max`` on that;
    - a number that was counted, not estimated, and is judged by ``min`` or ``max`` as it is;
    - ``(bool, sentence)``: whether the condition holds, and why;
    - a ``Verdict``.

    Without held-out rows it is not called, and nothing is measured. It can't change the evidence, whose arrays are
    read-only. Its errors end the stage: a gate that can't judge must say ``not measured``.
    """

    type: Literal["custom"] = "custom"
    function: Place
    """Where it lies, as ``package.module:name``; ``plugins`` must name the package."""
    options: dict[str, Setting | tuple[Setting, ...]] = {}
    """What it is called with beside the evidence."""
    min: float | None = None
    """Of a number: the lower confidence bound must reach it."""
    max: float | None = None
    """Of a number: the upper confidence bound must stay within it."""
    confidence: Annotated[float, Field(gt=0.5, le=0.999)] = 0.95
    """Of the two-sided interval; its bootstrap takes the more resamples the closer this is to 1."""
    min_rows: Annotated[int, Field(ge=2)] = 100
    """Of a number for each row: fewer holdout rows are not measured."""
    asks: tuple[Literal["training", "champion", "server"], ...] = ()
    """What of the evidence it asks for beside held-out rows and model: the training rows, the live release, or the
    model's server. What is not named here it is not given."""
    reads: tuple[FilePath, ...] = ()
    """Files that it reads, relative to the project: it judges anew when they change."""

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        if self.min is not None and self.max is not None:
            raise PydanticCustomError("one_bound", "takes min or max, not both.")
        return self

    @property
    @override
    def against_champion(self) -> bool:
        return "champion" in self.asks

    @property
    @override
    def reads_training(self) -> bool:
        return "training" in self.asks

    @property
    @override
    def asks_server(self) -> bool:
        return "server" in self.asks

    @override
    def files(self) -> tuple[str, ...]:
        return self.reads

    @override
    def disagreements(self, spec: Spec) -> Iterable[Disagreement]:
        yield from plugged.unplugged(spec, self.function, "function")

    @override
    def check(self, evidence: Evidence) -> Verdict:
        n = len(evidence.y)
        if n == 0:
            return Verdict(outcome="not measured", reason="there are no holdout rows.", threshold=self._threshold())
        offered = {"confidence": self.confidence, "seed": evidence.seed, "folder": evidence.folder}
        with plugged.blamed(self.function):
            found = plugged.called(
                plugged.found(self.function), self._given(evidence), options=self.options, offered=offered
            )
        return self._verdict(found, evidence)

    def _given(self, evidence: Evidence) -> Evidence:
        """The evidence without what was not asked for, its arrays read-only."""
        shown: dict[str, Any] = {name: read_only(getattr(evidence, name)) for name in BY_ROW}
        shown["rows"] = evidence.rows if evidence.rows is None else evidence.rows.clone()
        shown["groups"] = {name: read_only(values) for name, values in evidence.groups.items()}
        if not self.reads_training:
            shown["training"] = None
        if not self.against_champion:
            shown["champion"] = None
        return replace(evidence, **shown)

    def _verdict(self, found: Any, evidence: Evidence) -> Verdict:
        import numpy as np

        n = len(evidence.y)
        if isinstance(found, Verdict):
            return self._own(found, n)
        if isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], (bool, np.bool_)):
            return self._own(Verdict(outcome="holds" if found[0] else "refused", reason=str(found[1]), n=n), n)
        if isinstance(found, tuple) and len(found) == 3 and all(map(_is_number, found)):
            value, low, high = map(float, found)
            if low > high:
                raise self._wrong("returned an interval whose lower end is above its upper one.")
            ends = all(map(math.isfinite, (low, high)))
            interval = Interval(low=low, high=high, confidence=self.confidence, method=self._name) if ends else None
            return bounded(self._name, value, interval, n, **self._bound())
        if _is_number(found):
            return self._counted(float(found), n)
        if isinstance(found, np.ndarray) and found.shape == (n,) and found.dtype.kind in "bfiu":
            return self._by_row(found.astype(np.float64), evidence)
        raise self._wrong(f"returned {_told(found)}, and not {FORMS}.")

    def _own(self, verdict: Verdict, n: int) -> Verdict:
        """What it concluded itself; a verdict with a figure that is not finite can't hold."""
        if self.min is not None or self.max is not None:
            name = "min" if self.min is not None else "max"
            raise self._wrong(
                f"concluded by itself, so that {name} has no effect.", "Leave that out, or return a number."
            )
        if not verdict.reason.strip():
            raise self._wrong("says not why.", "The reason is one sentence with the figures in it.")
        ends = (verdict.interval.low, verdict.interval.high) if verdict.interval else ()
        if not all(math.isfinite(one) for one in (verdict.value or 0.0, *ends)):
            reason = f"{self._name} found a figure that is not finite."
            return Verdict(outcome="not measured", reason=reason, n=n, threshold=self._threshold())
        reason = verdict.reason.strip()
        changed = {
            "reason": reason if reason.endswith(".") else f"{reason}.",
            "n": verdict.n or n,
            "threshold": verdict.threshold or self._threshold(),
        }
        return verdict.model_copy(update=changed)

    def _counted(self, value: float, n: int) -> Verdict:
        bound, threshold = self._bound(), self._threshold()
        if not math.isfinite(value):
            reason = f"{self._name} could not be measured on {n} rows."
            return Verdict(outcome="not measured", reason=reason, n=n, threshold=threshold)
        low, high = bound["minimum"], bound["maximum"]
        holds = value >= low if low is not None else high is not None and value <= high
        return Verdict(
            outcome="holds" if holds else "refused",
            reason=f"{self._name} is {value:.4g}, without an interval, and {'is' if holds else 'is not'} {threshold}.",
            value=value,
            n=n,
            threshold=threshold,
        )

    def _by_row(self, values: np.ndarray, evidence: Evidence) -> Verdict:
        import numpy as np

        bound, n, interval = self._bound(), len(values), None
        lost = int((~np.isfinite(values)).sum())
        if lost:
            reason = f"{self._name} is not finite for {lost:,} of {n:,} rows."
            return Verdict(outcome="not measured", reason=reason, n=n, threshold=self._threshold())
        mean = mean_over(values, evidence.weight)
        if n >= self.min_rows:
            interval = bootstrap(mean, n, self.confidence, evidence.seed, evidence.serial)
        verdict = bounded(f"the mean of {self._name}", mean(np.arange(n)), interval, n, **bound)
        if verdict.outcome != "refused":
            return verdict
        order = np.argsort(values if self.min is not None else -values, kind="stable")[:ROWS_TOLD]
        return verdict.model_copy(update={"rows": tuple(order.tolist())})

    @property
    def _name(self) -> str:
        return self.function.partition(":")[2]

    def _threshold(self) -> str:
        if self.min is not None:
            return f"≥ {self.min:g}"
        return f"≤ {self.max:g}" if self.max is not None else f"as {self._name} says"

    def _bound(self) -> dict[str, Any]:
        if self.min is None and self.max is None:
            raise self._wrong("returned a number, and neither min nor max says what it must meet.", "Say one of them.")
        return {"minimum": self.min, "maximum": self.max}

    def _wrong(self, what: str, hint: str = "") -> StageFailed:
        return StageFailed(what, where=self.function, hint=hint)


def read_only(column: Any) -> Any:
    """The same values, not to be written to; what is no array stays as it is."""
    import numpy as np

    if not isinstance(column, np.ndarray):
        return column
    shown = column.view()
    shown.flags.writeable = False
    return shown


def _is_number(value: Any) -> bool:
    import numpy as np

    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _told(value: Any) -> str:
    """What it is, without a value of the data."""
    shape = getattr(value, "shape", None)
    return f"a {type(value).__name__}" + (f" of shape {shape}" if shape is not None else "")
