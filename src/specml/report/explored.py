"""What ``specml explore`` shows of the training rows: facts of the stages before training, section by section."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from specml.data import Layout, in_words
from specml.errors import SpecmlError
from specml.files import read_json
from specml.report import svg
from specml.report.facts import Point, learning, locked
from specml.stages import explore, feasibility, prepare

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from markupsafe import Markup

DRAWN = 60
"""Columns that are drawn, those that tell most of the target; a table tells of more."""
PAIR = 440.0
"""Pixels of each of two drawings that stand beside each other."""
LOW = 210.0
LISTED = 500
SHOWN_GROUPS = 40
LONGEST = 120
"""Characters of a name or a label from the data."""
REASON = 300
SHIFT = 0.25
"""A population stability index from which a shift is called marked."""
SHIFTED = 40
"""Columns whose shifts are drawn, the largest."""


@dataclass(frozen=True)
class Explored:
    """The files that the page is made from; None where one is not there, or is of other rows."""

    name: str
    layout: Layout
    facts: dict[str, Any]
    columns: dict[str, Any]
    prepared: dict[str, Any]
    feasibility: dict[str, Any] | None
    learning: list[Point]
    metric: str


def gather(folder: Path) -> Explored:
    """The facts of the project in ``folder``.

    Raises:
        SpecmlError: the stage ``explore`` has not run.
    """
    from specml.compile.dvc import read_params

    try:
        params = read_params((folder / "params.yaml").read_text(encoding="utf-8")).values
        facts, columns = read_json(folder / explore.FACTS), read_json(folder / explore.OUT)
        layout = Layout.model_validate_json((folder / prepare.LAYOUT).read_bytes())
        prepared = read_json(folder / prepare.METRICS)
    except FileNotFoundError as error:
        what = "is missing: the stage explore has not run here."
        raise SpecmlError(what, where=str(error.filename), hint="Run `specml explore` first.") from None
    told, points, metric = _learning(folder)
    return Explored(str(params["name"]), layout, facts, columns, prepared, told, points, metric)


def _learning(folder: Path) -> tuple[dict[str, Any] | None, list[Point], str]:
    """The learning curve, where it was drawn from the rows that are explored."""
    stages, path = locked(folder), folder / feasibility.METRICS
    rows = [
        {dep["path"]: dep.get("md5") for dep in stages.get(name, {}).get("deps", [])}.get(prepare.TRAIN)
        for name in ("explore", "feasibility")
    ]
    if not path.exists() or rows[0] != rows[1]:
        return None, [], ""
    points, metric = learning(folder)
    return read_json(path), points, metric


def sections(seen: Explored) -> dict[str, Any]:
    """The variables of ``explore.html``."""
    rows = seen.prepared["rows"]
    strongest = sorted(seen.layout.features, key=lambda one: (-seen.facts["columns"][one.name]["strength"], one.name))
    gaps = sum(seen.columns[one.name]["missing"] > 0 for one in strongest)
    return {
        "name": seen.name,
        "target_name": svg.cut(seen.layout.target, LONGEST),
        "tiles": [
            ("training rows", f"{seen.facts['rows']:,}", f"{rows['test']:,} held out and not looked at"),
            ("columns", f"{len(strongest):,}", f"{len(seen.prepared['set_aside']):,} more set aside"),
            ("with missing values", f"{gaps:,}", "columns"),
            ("target", svg.cut(seen.layout.target, 24), in_words(seen.layout.task, seen.layout.history)),
        ],
        "sample": f"{seen.facts['sample']:,}" if seen.facts["sample"] < seen.facts["rows"] else "",
        "target": _target(seen),
        "strength": "R² of the column alone" if seen.layout.task == "regression" else "ROC AUC of the column alone",
        "related": _related(seen),
        "drawn": [_column(seen, one.name) for one in strongest[:DRAWN]],
        "listed": [_line(seen, one.name) for one in strongest[DRAWN : DRAWN + LISTED]],
        "left_out": max(0, len(strongest) - DRAWN - LISTED),
        "missing": _missing(seen),
        "associations": _associations(seen.facts["associations"]),
        "over_time": _over_time(seen),
        "groups": list(_groups(seen)),
        "found": _found(seen),
        "feasibility": _feasibility(seen),
        "files": {
            "columns": explore.OUT,
            "facts": explore.FACTS,
            "profile": explore.PROFILE,
            "prepared": prepare.METRICS,
            "feasibility": f"{feasibility.METRICS}, {feasibility.CURVE}",
        },
    }


def _related(seen: Explored) -> str:
    """What stands on the right side of each column."""
    if seen.layout.task == "regression":
        return f"mean of {svg.cut(seen.layout.target, LONGEST)}"
    if seen.layout.task == "binary":
        return f"share of {svg.cut(str(seen.layout.classes[1]), LONGEST)}"
    return "shares of the classes"


def _target(seen: Explored) -> Markup | str:
    told = seen.facts["target"]
    if seen.layout.task == "regression":
        return svg.histogram(told, f"Training rows by {seen.layout.target}", seen.layout.target) if told else ""
    total = sum(told) or 1
    rows = [
        (str(label), float(n), f"{n:,} ({n / total:.1%})")
        for label, n in sorted(zip(seen.layout.classes, told, strict=True), key=lambda one: -one[1])[:30]
    ]
    return svg.bars(rows, f"Training rows by {seen.layout.target}")


def _column(seen: Explored, name: str) -> dict[str, Any]:
    told, described = seen.facts["columns"][name], seen.columns[name]
    parts = told["target"]
    kind = "text, by its length" if told["kind"] == "text" else told["kind"]
    bins = told.get("histogram", [])
    if len(bins) > 1:
        unit = {"text": "characters", "datetime": "seconds since 1970"}.get(told["kind"], name)
        drawn = svg.histogram(bins, f"Distribution of {name}", svg.cut(unit, 40), height=LOW)
    else:
        total = sum(one["n"] for one in parts) or 1
        rows = [(one["name"], float(one["n"]), f"{one['n'] / total:.1%}") for one in parts]
        drawn = svg.bars(rows, f"Distribution of {name}", width=PAIR)
    return {
        "name": svg.cut(name, LONGEST),
        "words": ", ".join([kind, f"{described['distinct']:,} different", _gap(described["missing"])]),
        "strength": f"{told['strength']:.3f}",
        "distribution": drawn,
        "relation": _by_part(seen, parts, f"{name} and the target", PAIR) if len(parts) > 1 else "",
    }


def _by_part(seen: Explored, parts: list[dict[str, Any]], label: str, width: float = 640) -> Markup:
    """A dot with its interval for each part; of several classes a field for each."""
    classes = seen.facts["classes"]
    if len(classes) > 1:
        rows = [
            [
                svg.Cell(rate, f"{rate:.0%}", f"{one['name']}, {label}: {rate:.1%} ({low:.1%} to {high:.1%})")
                for (rate, low, high), label in zip(one["rates"], classes, strict=True)
            ]
            for one in parts
        ]
        return svg.heat([one["name"] for one in parts], [str(one) for one in classes], rows, label, width=width + 70)
    groups = []
    for one in parts:
        value, low, high = one["rates"][0]
        note = f"{one['name']}: {value:.4g} ({low:.4g} to {high:.4g})"
        groups.append(svg.Group(one["name"], one["n"], value, low, high, "", note))
    return svg.groups(groups, None, label, width=width)


def _line(seen: Explored, name: str) -> tuple[str, str, str, str, str]:
    told, described = seen.facts["columns"][name], seen.columns[name]
    distinct, strength = f"{described['distinct']:,}", f"{told['strength']:.3f}"
    return svg.cut(name, LONGEST), told["kind"], _gap(described["missing"]), distinct, strength


def _gap(share: float) -> str:
    return f"{100 * share:.3g} % missing" if share else "none missing"


def _missing(seen: Explored) -> Markup | None:
    gaps = [(name, told["missing"]) for name, told in seen.columns.items() if told["missing"] > 0]
    gaps = sorted(gaps, key=lambda one: (-one[1], one[0]))[:SHIFTED]
    return (
        svg.bars([(name, share, f"{share:.2%}") for name, share in gaps], "Share of missing values") if gaps else None
    )


def _associations(told: dict[str, Any]) -> Markup | None:
    names = told["names"]
    if len(names) < 2:
        return None
    rows = [
        [
            svg.Cell(value, _two(value), f"{names[i]} and {names[j]}: {value:.3f}") if j < i else None
            for j, value in enumerate(row)
        ]
        for i, row in enumerate(told["values"])
    ]
    return svg.heat(names[1:], names[:-1], [row[:-1] for row in rows[1:]], "How columns go together", slanted=True)


def _two(value: float) -> str:
    """Two digits behind the point, without a zero before it."""
    return f"{round(value, 2) + 0.0:.2f}".replace("0.", ".", 1)


def _over_time(seen: Explored) -> dict[str, Any] | None:
    told = seen.facts["over_time"]
    if told is None:
        return None
    shifts = sorted(told["columns"].items(), key=lambda one: (-max(one[1]), one[0]))
    marked = sum(max(one) >= SHIFT for _, one in shifts)
    rows = [
        [svg.Cell(one / (2 * SHIFT), f"{one:.2f}" if one < 10 else f"{one:.0f}", f"{one:.3f}") for one in values]
        for _, values in shifts[:SHIFTED]
    ]
    periods = [f"period {place + 2}" for place in range(len(shifts[0][1]))] if shifts else []
    return {
        "periods": len(told["target"]),
        "target": _by_part(seen, [{**one, "name": f"period {one['name']}"} for one in told["target"]], "The target"),
        "shifts": svg.heat([name for name, _ in shifts[:SHIFTED]], periods, rows, "Shifts by period") if shifts else "",
        "words": f"{marked} of {len(shifts)} columns" if len(shifts) != 1 else f"{marked} of 1 column",
        "left_out": max(0, len(shifts) - SHIFTED),
    }


def _groups(seen: Explored) -> Iterator[dict[str, Any]]:
    for name, told in seen.facts["groups"].items():
        if told is None:
            yield {
                "name": svg.cut(name, LONGEST),
                "drawing": "",
                "words": "kept for gates only: no training stage sees it.",
            }
            continue
        shown = told["groups"][:SHOWN_GROUPS]
        small, rest = told["small"], len(told["groups"]) - len(shown)
        words = [f"{rest} more groups stand in the file."] if rest else []
        if small["groups"]:
            words.append(_small(small["groups"], small["rows"]))
        drawn = _by_part(seen, shown, f"Groups of {name}") if shown else ""
        yield {"name": svg.cut(name, LONGEST), "drawing": drawn, "words": " ".join(words)}


def _small(groups: int, rows: int) -> str:
    of = f"{groups} group{'s' * (groups != 1)} of fewer than ten rows"
    return f"Too small to be told: {of}, {rows} row{'s' * (rows != 1)} in all."


def _found(seen: Explored) -> dict[str, Any]:
    """What the stage ``prepare`` has found."""
    prepared, rows = seen.prepared, dict(seen.prepared["rows"])
    names = {"train": "for training", "test": "held out", "unlabelled": "without a label, left out"}
    names |= {
        "quarantined": "in quarantine",
        "embargoed": "within the embargo, left out",
        "first_season": "of the first season, left out",
    }
    odd = {**prepared.get("repaired", {}), **prepared.get("odd", {})}
    return {
        "rows": [(names.get(key, key), f"{n:,}") for key, n in rows.items() if n or key in ("train", "test")],
        "checks": [
            (
                where.removeprefix("data."),
                one["outcome"],
                one["level"],
                svg.cut(one["reason"], REASON),
                one["threshold"],
            )
            for where, one in sorted(prepared["checks"].items())
        ],
        "odd": [(svg.cut(name, LONGEST), svg.cut(how, REASON)) for name, how in sorted(odd.items())[:LISTED]],
        "set_aside": [
            (svg.cut(name, LONGEST), svg.cut(why, REASON))
            for name, why in sorted(prepared["set_aside"].items())[:LISTED]
        ],
        "joins": [
            (svg.cut(name, LONGEST), f"{one['matched']:,} of {one['rows']:,} rows match")
            for name, one in sorted(prepared.get("joins", {}).items())
        ],
    }


def _feasibility(seen: Explored) -> dict[str, Any] | None:
    if seen.feasibility is None:
        return None
    points = [svg.Mark(*one, f"{one[0]:,.0f} rows: {one[1]:.4g}") for one in seen.learning]
    drawn = svg.learning(points, "A baseline by the rows that train it", "training rows", seen.metric) if points else ""
    return {"outlook": seen.feasibility["outlook"], "drawing": drawn}
