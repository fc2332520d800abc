"""Small enough."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from typing_extensions import override

from specml.component import Disagreement
from specml.evidence import Evidence, Verdict
from specml.kinds import Gate

if TYPE_CHECKING:
    from specml.spec import Spec


class Size(Gate):
    """The bytes of the packaged graph, which every replica and every device holds, stay within a limit.

    Counted, so there is no interval. What a server's process takes beside the graph is not seen. To take a smaller
    candidate rather than to refuse a large one there is ``selection.max_size``.
    """

    type: Literal["size"] = "size"
    max: Annotated[int, Field(ge=1024)]
    """Most bytes of the graph, as ``selection.max_size``."""

    @override
    def disagreements(self, spec: Spec) -> Iterable[Disagreement]:
        most = spec.selection.max_size
        if most is not None and most <= self.max:
            what = f"is {self.max:,}, but no graph of more than {most:,} bytes is taken (selection.max_size)."
            yield Disagreement(key=("max",), what=what, hint="Ask for less, or leave one of them out.")

    @override
    def check(self, evidence: Evidence) -> Verdict:
        n, threshold = len(evidence.y), f"≤ {self.max:,} bytes"
        if evidence.model is None or not n:
            reason = "there is no packaged model." if n else "there are no holdout rows."
            return Verdict(outcome="not measured", reason=reason, n=n, threshold=threshold)
        found = evidence.model.graph_bytes
        beyond = found > self.max
        return Verdict(
            outcome="refused" if beyond else "holds",
            reason=f"the graph has {found:,} bytes, {'more' if beyond else 'no more'} than {self.max:,}.",
            value=found,
            n=n,
            threshold=threshold,
        )
