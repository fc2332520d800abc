"""However a spec is broken: it is refused at the line that was broken, or it is still a spec."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from specml.errors import SpecError
from specml.load import load
from specml.load.render import render
from tests.properties.mutations import MUTATORS, Base, Mutant, mutants

COUNT = 500
SPECS = sorted(Path(__file__).parents[1].glob("specs/*.yaml"))


def outcome(mutant: Mutant, folder: Path) -> str:
    path = folder / "spec.yaml"
    path.write_bytes(mutant.raw)
    try:
        loaded = load(path)
    except SpecError as error:
        refused = error
    else:
        path.write_text(render(loaded), encoding="utf-8")
        assert load(path).spec == loaded.spec, mutant
        return "valid"
    told = {problem.where.rpartition(":")[0] for problem in refused.problems}
    wanted = {f"spec.yaml:{line}" for line in range(mutant.line, max(mutant.line, mutant.last) + 1)}
    assert told & wanted, f"{mutant.kind}: line {mutant.line} is at fault, but told is:\n{refused}"
    return "refused"


@pytest.mark.parametrize("count", [81, pytest.param(COUNT, marks=pytest.mark.slow)])
def test_broken_specs_are_refused_at_their_line(count: int, tmp_path: Path, capsys) -> None:
    bases = [Base.of(path) for path in SPECS]
    counts: Counter[tuple[str, str]] = Counter()
    for mutant in mutants(bases, count, seed=7):
        counts[mutant.kind, outcome(mutant, tmp_path)] += 1
    with capsys.disabled():
        print()
        for kind in sorted({kind for kind, _ in counts}):
            print(f"  {kind:<28} refused {counts[kind, 'refused']:>3}   valid {counts[kind, 'valid']:>3}")
    assert sum(counts.values()) == count
    assert len({kind for kind, _ in counts}) == len(MUTATORS) >= 20
    assert sum(number for (_, how), number in counts.items() if how == "refused") > count // 2
