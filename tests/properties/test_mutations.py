"""However a spec is broken: it is refused at the line that was broken, or it is still a spec."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest

from specml.errors import SpecError, SpecmlError
from specml.load import load
from specml.load.render import render
from tests.conftest import run_stages
from tests.properties.mutations import MUTATORS, Base, Mutant, mutants

if TYPE_CHECKING:
    from specml.spec import Spec

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


@pytest.mark.parametrize("count", [81, pytest.param(COUNT, marks=pytest.mark.sweep)])
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


def rows(folder: Path, n: int = 1800) -> None:
    """The data that the base specs name, small."""
    generator = np.random.default_rng(3)
    (folder / "data").mkdir()
    x = generator.normal(size=n)
    credit = {
        "application_id": [f"a{i}" for i in range(n)],
        "submitted_at": [f"2024-{1 + i * 12 // n:02}-{1 + i % 28:02} 10:00:00" for i in range(n)],
        "income": np.round(40_000 + 9_000 * x, 2),
        "sex": generator.choice(["f", "m"], n),
        "age": generator.integers(18, 90, n),
        "defaulted": (x + generator.normal(size=n) < -0.5).astype(int),
    }
    pl.DataFrame(credit).write_csv(folder / "data/applications.csv")
    houses = {"house_id": range(n), "area": 90 + 20 * x, "town": generator.choice(["a", "b"], n)}
    pl.DataFrame({**houses, "price": 2_000 * (90 + 20 * x) + generator.normal(size=n)}).write_parquet(
        folder / "data/houses.parquet"
    )
    species = np.array(["setosa", "virginica", "versicolor"])[np.digitize(x, [-0.5, 0.5])]
    pl.DataFrame({"petal": x + generator.normal(scale=0.3, size=n), "species": species}).write_csv(
        folder / "flowers.csv"
    )


@pytest.mark.slow
@pytest.mark.sweep
def test_what_is_still_a_spec_runs(tmp_path: Path) -> None:
    rows(tmp_path)
    valid: list[Spec] = []
    for mutant in mutants([Base.of(path) for path in SPECS], COUNT, seed=7):
        (tmp_path / "spec.yaml").write_bytes(mutant.raw)
        with contextlib.suppress(SpecError):
            valid.append(load(tmp_path / "spec.yaml").spec)
    ended: Counter[str] = Counter()
    run = valid[::8]
    for spec in run:
        try:
            run_stages(spec, tmp_path)
            ended["released"] += 1
        except SpecmlError as error:
            ended[f"status {error.status}"] += 1
    assert set(ended) <= {"released", "status 4", "status 6", "status 7"}, ended
    assert ended["released"] >= len(run) // 3, ended
