"""Drawings as inline SVG: no library, no script, colours from the page's style, every text escaped.

Each function returns one ``<svg>`` whose ``viewBox`` is in CSS pixels; the page scales it to the room there is.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Point = tuple[float, float]
WIDTH, HEIGHT = 360, 300
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 40
SERIES = 6
"""Colours of the style sheet; more curves take them in turn."""


class Scale(NamedTuple):
    """Values ``low`` to ``high`` on pixels ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Where ``value`` lies, in pixels; beyond the ends it is drawn at the end."""
        share = (min(max(value, self.low), self.high) - self.low) / ((self.high - self.low) or 1.0)
        return self.start + share * (self.end - self.start)


def tag(name: str, *content: str, **attributes: object) -> Markup:
    """An element; ``class_`` is ``class``, and ``_`` in names is ``-``. None leaves an attribute out."""
    told = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _short(value))
        for key, value in attributes.items()
        if value is not None
    )
    return Markup("<{0}{1}>{2}</{0}>").format(name, told, Markup("").join(content))


def _short(value: object) -> object:
    return f"{value:.1f}".rstrip("0").rstrip(".") if isinstance(value, float) else value


def drawing(content: Iterable[Markup], width: float, height: float, label: str, class_: str = "") -> Markup:
    """The whole ``<svg>``; ``label`` is what a screen reader says."""
    return tag(
        "svg",
        *content,
        viewBox=f"0 0 {width:g} {height:g}",
        width=width,
        height=height,
        role="img",
        aria_label=label,
        class_=class_ or None,
    )


def text(x: float, y: float, content: object, class_: str = "tick", anchor: str = "start") -> Markup:
    """Words at a place."""
    return tag("text", escape(content), x=float(x), y=float(y), class_=class_, text_anchor=anchor)


def line(a: Point, b: Point, class_: str) -> Markup:
    """A straight line."""
    return tag("line", x1=float(a[0]), y1=float(a[1]), x2=float(b[0]), y2=float(b[1]), class_=class_)


def path(points: Sequence[Point], class_: str) -> Markup:
    """A polyline."""
    return tag("path", d="M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points), class_=class_)


def dot(x: float, y: float, class_: str, title: str = "", r: float = 4) -> Markup:
    """A point; ``title`` shows when it is pointed at."""
    return tag("circle", tag("title", escape(title)) if title else "", cx=float(x), cy=float(y), r=r, class_=class_)


def box(x: float, y: float, width: float, height: float, class_: str, title: str = "") -> Markup:
    """A rectangle."""
    inside = tag("title", escape(title)) if title else ""
    return tag("rect", inside, x=float(x), y=float(y), width=float(width), height=float(height), class_=class_)


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round values between ``low`` and ``high``, about ``wanted`` of them."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low]
    step = 10.0 ** math.floor(math.log10((high - low) / wanted))
    step *= next(f for f in (1, 2, 5, 10) if (high - low) / (step * f) <= wanted)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def told(value: float) -> str:
    """A number as an axis says it: ``-0.2``, ``1,500``, ``2e+07``."""
    short = f"{value + 0.0:.4g}"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else short


def padded(values: Iterable[float], share: float = 0.05) -> tuple[float, float]:
    """The range of ``values`` with some room around it."""
    found = list(values) or [0.0, 1.0]
    low, high = min(found), max(found)
    room = (high - low) * share or abs(high) * share or 1.0
    return low - room, high + room


def chart(
    marks: Iterable[Markup], x: Scale, y: Scale, label: str, x_name: str, y_name: str, height: float = HEIGHT
) -> Markup:
    """Axes with round ticks and light lines, and ``marks`` within them."""
    grid: list[Markup] = []
    for value in ticks(x.low, x.high):
        grid.append(line((x(value), y.start), (x(value), y.end), "grid"))
        grid.append(text(x(value), y.start + 15, told(value), anchor="middle"))
    for value in ticks(y.low, y.high):
        grid.append(line((x.start, y(value)), (x.end, y(value)), "grid"))
        grid.append(text(x.start - 6, y(value) + 4, told(value), anchor="end"))
    middle = (y.start + y.end) / 2
    names = [
        text((x.start + x.end) / 2, height - 6, x_name, "axis", "middle"),
        tag("g", text(0, 0, y_name, "axis", "middle"), transform=f"translate(11 {middle:g}) rotate(-90)"),
    ]
    return drawing([*grid, *marks, *names], WIDTH, height, label)


def _square(x: tuple[float, float] = (0, 1), y: tuple[float, float] = (0, 1)) -> tuple[Scale, Scale]:
    return Scale(*x, LEFT, WIDTH - RIGHT), Scale(*y, HEIGHT - BOTTOM, TOP)


def curves(lines: Sequence[Sequence[Point]], label: str, x_name: str, y_name: str, *, diagonal: bool = False) -> Markup:
    """Curves of rates, 0 to 1 both ways."""
    x, y = _square()
    marks = [line((x(0), y(0)), (x(1), y(1)), "chance")] if diagonal else []
    marks += [
        path([(x(a), y(b)) for a, b in points], f"curve s{number % SERIES}") for number, points in enumerate(lines)
    ]
    return chart(marks, x, y, label, x_name, y_name)


def lines(named: Sequence[tuple[str, Sequence[Point]]], label: str, x_name: str, y_name: str) -> Markup:
    """Lines with their names above them."""
    x = Scale(*padded((a for _, points in named for a, _ in points), 0), LEFT, WIDTH - RIGHT)
    y = Scale(*padded(b for _, points in named for _, b in points), HEIGHT - BOTTOM, TOP + 16)
    marks: list[Markup] = []
    for number, (name, points) in enumerate(named):
        style, start = f"curve s{number % SERIES}", LEFT + 110.0 * number
        marks.append(path([(x(a), y(b)) for a, b in points], style))
        marks.append(path([(start, TOP + 2), (start + 18, TOP + 2)], style))
        marks.append(text(start + 24, TOP + 6, name))
    return chart(marks, x, y, label, x_name, y_name)


class Mark(NamedTuple):
    """A measured point with its interval."""

    x: float
    y: float
    low: float
    high: float
    title: str


def against(points: Sequence[Mark], label: str, x_name: str, y_name: str, *, unit: bool = True) -> Markup:
    """Points with intervals beside the line on which both axes agree; ``unit``: both go from 0 to 1."""
    span = (0.0, 1.0) if unit else padded(v for p in points for v in (p.x, p.low, p.high))
    x, y = _square(span, span)
    marks = [line((x(span[0]), y(span[0])), (x(span[1]), y(span[1])), "chance")]
    for point in points:
        marks.append(line((x(point.x), y(point.low)), (x(point.x), y(point.high)), "whisker"))
        marks.append(dot(x(point.x), y(point.y), "point", point.title))
    return chart(marks, x, y, label, x_name, y_name)


def learning(points: Sequence[Mark], label: str, x_name: str, y_name: str) -> Markup:
    """A curve through points with intervals."""
    low, high = padded(v for p in points for v in (p.low, p.high))
    x, y = _square((0.0, padded(p.x for p in points)[1]), (low, high))
    marks = [path([(x(p.x), y(p.y)) for p in points], "curve s0")]
    for point in points:
        marks.append(line((x(point.x), y(point.low)), (x(point.x), y(point.high)), "whisker"))
        marks.append(dot(x(point.x), y(point.y), "point", point.title))
    return chart(marks, x, y, label, x_name, y_name)


def quantiles(points: Sequence[Point], label: str) -> Markup:
    """Standardised residuals against the quantiles of a normal distribution."""
    span = padded(v for point in points for v in point)
    x, y = _square(span, span)
    marks = [line((x(span[0]), y(span[0])), (x(span[1]), y(span[1])), "chance")]
    marks += [dot(x(a), y(b), "point", r=3) for a, b in points]
    return chart(marks, x, y, label, "normal quantile", "residual, standardised")


def histogram(bins: Sequence[dict[str, float]], label: str, x_name: str, *, height: float = HEIGHT) -> Markup:
    """Bins of different width: areas are counts."""
    x = Scale(bins[0]["low"], bins[-1]["high"], LEFT, WIDTH - RIGHT)
    total = sum(one["n"] for one in bins)
    heights = [one["n"] / total / ((one["high"] - one["low"]) or 1.0) for one in bins]
    y = Scale(0, max(heights) * 1.05, height - BOTTOM, TOP)
    marks = [
        box(
            x(one["low"]),
            y(h),
            max(1.0, x(one["high"]) - x(one["low"]) - 1),
            y(0) - y(h),
            "bar",
            f"{told(one['low'])} to {told(one['high'])}: {one['n']:,} rows",
        )
        for one, h in zip(bins, heights, strict=True)
    ]
    if x.low < 0 < x.high:
        marks.append(line((x(0), y.start), (x(0), y.end), "chance"))
    return chart(marks, x, y, label, x_name, "density", height)


def confusion(labels: Sequence[str], counts: Sequence[Sequence[int]], label: str) -> Markup:
    """Rows by true and decided class; the darker, the larger the share of the true class."""
    labels = [cut(one, 80) for one in labels]
    size = len(labels)
    left, top = 92.0, 24.0
    cell = min(64.0, (WIDTH - left) / size)
    marks: list[Markup] = [text(left, 12, "decided", "axis"), text(0, 12, "true", "axis")]
    for i, row in enumerate(counts):
        total = sum(row) or 1
        marks.append(text(left - 8, top + (i + 0.5) * cell + 4, cut(labels[i], 13), "tick", "end"))
        middle = left + (i + 0.5) * cell
        marks.append(text(middle, top + size * cell + 14, cut(labels[i], max(2, int(cell / 7))), "tick", "middle"))
        for j, count in enumerate(row):
            x, y = left + j * cell, top + i * cell
            title = f"true {labels[i]}, decided {labels[j]}: {count:,} ({count / total:.1%} of the true class)"
            marks.append(box(x + 1, y + 1, cell - 2, cell - 2, "cell", ""))
            marks.append(
                tag(
                    "rect",
                    tag("title", escape(title)),
                    x=x + 1,
                    y=y + 1,
                    width=cell - 2,
                    height=cell - 2,
                    class_="hit" if i == j else "miss",
                    fill_opacity=f"{0.06 + 0.6 * count / total:.2f}",
                )
            )
            if cell >= 24:
                marks.append(text(x + cell / 2, y + cell / 2 + 4, f"{count:,}", "count", "middle"))
    return drawing(marks, WIDTH, top + size * cell + 22, label)


class Cell(NamedTuple):
    """A field of ``heat``: ``shade`` -1 to 1, what stands in it, and what is told when it is pointed at."""

    shade: float
    words: str
    title: str


def heat(
    names: Sequence[str],
    columns: Sequence[str],
    rows: Sequence[Sequence[Cell | None]],
    label: str,
    *,
    slanted: bool = False,
    width: float = 710,
) -> Markup:
    """Fields by row and column, the darker the farther from 0; below it in another colour.

    ``slanted``: names of columns are long; else all fields together take ``width``.
    """
    left, cell, high = 150.0, 40.0, 24.0
    wide = cell if slanted else max(cell, min(110.0, (width - left) / max(len(columns), 1)))
    top = 112.0 if slanted else 22.0
    marks: list[Markup] = []
    for j, name in enumerate(columns):
        x = left + (j + 0.5) * wide
        if slanted:
            words = text(0, 0, cut(name, 20), "tick")
            marks.append(tag("g", words, transform=f"translate({x:g} {top - 6:g}) rotate(-60)"))
        else:
            marks.append(text(x, top - 8, cut(name, max(3, int(wide / 6.5))), "tick", "middle"))
    for i, (name, row) in enumerate(zip(names, rows, strict=True)):
        y = top + i * high
        marks.append(text(left - 8, y + high / 2 + 4, cut(name, 22), "tick", "end"))
        for j, one in enumerate(row):
            if one is None:
                continue
            place: dict[str, object] = {"x": left + j * wide + 1, "y": y + 1, "width": wide - 2, "height": high - 2}
            opacity = f"{0.05 + 0.65 * min(1.0, abs(one.shade)):.2f}"
            shown = "hit" if one.shade >= 0 else "miss"
            marks.append(tag("rect", tag("title", escape(one.title)), **place, class_=shown, fill_opacity=opacity))
            marks.append(text(left + (j + 0.5) * wide, y + high / 2 + 4, one.words, "count", "middle"))
    room = 60.0 if slanted else 4.0
    return drawing(marks, left + len(columns) * wide + room, top + len(rows) * high + 4, label)


def picture(shades: Sequence[Sequence[float]], titles: Sequence[Sequence[str]], label: str) -> Markup:
    """A grid of fields without words, the darker the farther from 0; ``shades`` from 0 to 1."""
    side = max(6.0, min(28.0, 360.0 / max(len(shades), len(shades[0]))))
    fields = [
        tag(
            "rect",
            tag("title", escape(titles[i][j])),
            x=j * side,
            y=i * side,
            width=side - 1,
            height=side - 1,
            class_="hit",
            fill_opacity=f"{0.04 + 0.9 * shade:.2f}",
        )
        for i, row in enumerate(shades)
        for j, shade in enumerate(row)
    ]
    return drawing(fields, len(shades[0]) * side, len(shades) * side, label)


def interval(
    value: float | None, low: float | None, high: float | None, threshold: float | None, span: Point, state: str
) -> Markup:
    """A value with its interval, small enough for a table, beside the threshold that judges it."""
    width, height = 150.0, 20.0
    x = Scale(*span, 5, width - 5)
    marks = [line((5, height / 2), (width - 5, height / 2), "grid")]
    if threshold is not None:
        marks.append(line((x(threshold), 2), (x(threshold), height - 2), "threshold"))
    if low is not None and high is not None:
        marks.append(line((x(low), height / 2), (x(high), height / 2), f"range {state}"))
    if value is not None:
        marks.append(dot(x(value), height / 2, f"point {state}"))
    said = "not measured" if value is None else told(value)
    return drawing(marks, width, height, f"{said}; threshold {told(threshold) if threshold is not None else 'none'}")


def folds(scores: Sequence[float], trials: Sequence[float], mean: float, span: Point) -> Markup:
    """The score of each fold, the mean of each trial, and the mean of the one that was kept."""
    width, height = 220.0, 22.0
    x = Scale(*span, 6, width - 6)
    marks = [line((6, height / 2), (width - 6, height / 2), "grid")]
    marks += [line((x(one), 5), (x(one), height - 5), "trial") for one in trials]
    if scores:
        marks.append(line((x(min(scores)), height / 2), (x(max(scores)), height / 2), "range"))
    marks += [dot(x(one), height / 2, "fold", f"fold {i + 1}: {one:.4f}", r=3) for i, one in enumerate(scores)]
    marks.append(line((x(mean), 3), (x(mean), height - 3), "mean"))
    return drawing(marks, width, height, f"mean {mean:.4f} of {len(scores)} folds")


def spark(shares: Sequence[float]) -> Markup:
    """A distribution, small enough for a table."""
    width, height = 96.0, 22.0
    top = max(shares, default=0) or 1.0
    step = width / max(len(shares), 1)
    bars = [
        box(i * step, height - share / top * height, max(step - 1, 0.5), share / top * height, "bar")
        for i, share in enumerate(shares)
        if share
    ]
    return drawing(bars, width, height, "distribution", "spark")


def bars(rows: Sequence[tuple[str, float, str]], label: str, *, width: float = 640) -> Markup:
    """Horizontal bars with a name at the left and words at the end."""
    left, step = 170.0, 22.0
    values = [0.0, *(value for _, value, _ in rows)]
    x = Scale(min(values), max(values), left, width - 120)
    marks: list[Markup] = []
    for i, (name, value, words) in enumerate(rows):
        y, start, end = i * step + 3, min(x(0), x(value)), max(x(0), x(value))
        marks.append(text(left - 8, y + 12, cut(name, 24), "tick", "end"))
        marks.append(box(start, y, max(end - start, 0.5), step - 7, "bar", f"{cut(name, 120)}: {words}"))
        marks.append(text(end + 6, y + 12, words, "tick"))
    return drawing(marks, width, len(rows) * step + 4, label)


class Group(NamedTuple):
    """A group of a disparity gate; ``value`` is None where it was not measured."""

    name: str
    n: int
    value: float | None
    low: float
    high: float
    state: str
    note: str


def groups(rows: Sequence[Group], threshold: float | None, label: str, *, width: float = 640) -> Markup:
    """A dot with its interval for each group, and the threshold that all of them must meet."""
    left, step, right = (190.0, 26.0, 110.0) if width >= 640 else (150.0, 22.0, 80.0)
    known = [v for row in rows if row.value is not None for v in (row.low, row.high, row.value)]
    edges = [*known, *([threshold] if threshold is not None else [])]
    x = Scale(*padded(edges, 0.08), left, width - right)
    bottom = len(rows) * step + 6
    marks: list[Markup] = []
    for value in ticks(x.low, x.high):
        marks.append(line((x(value), 0), (x(value), bottom), "grid"))
        marks.append(text(x(value), bottom + 15, told(value), anchor="middle"))
    if threshold is not None:
        marks.append(line((x(threshold), 0), (x(threshold), bottom), "threshold"))
    for i, row in enumerate(rows):
        y = i * step + step / 2 + 3
        marks.append(text(left - 10, y + 4, cut(row.name, int(left / 7)), "name", "end"))
        marks.append(text(width, y + 4, f"n {row.n:,}", "tick", "end"))
        if row.value is None:
            marks.append(text(left + 4, y + 4, "not measured", "tick unmeasured"))
            continue
        marks.append(line((x(row.low), y), (x(row.high), y), f"range {row.state}"))
        marks.append(dot(x(row.value), y, f"point {row.state}", cut(row.note, 240)))
    return drawing(marks, width, bottom + 22, label)


class Node(NamedTuple):
    """A stage in the graph; ``after`` are the names of those that it follows."""

    name: str
    below: str
    title: str
    after: tuple[str, ...]


def graph(nodes: Sequence[Node], label: str) -> Markup:
    """Stages from left to right, each just before those that follow it; ``nodes`` come in an order that works."""
    column: dict[str, int] = {}
    for node in nodes:
        column[node.name] = 1 + max((column[one] for one in node.after), default=-1)
    for node in reversed(nodes):
        followers = [column[other.name] for other in nodes if node.name in other.after]
        column[node.name] = min(followers, default=column[node.name] + 1) - 1
    stacks: dict[int, list[str]] = {}
    for node in nodes:
        stacks.setdefault(column[node.name], []).append(node.name)
    wide, high, gap_x, gap_y = 92.0, 42.0, 24.0, 16.0
    tallest = max(len(stack) for stack in stacks.values())
    height = tallest * (high + gap_y) + 4
    place: dict[str, Point] = {}
    for index, stack in stacks.items():
        start = (height - len(stack) * (high + gap_y) + gap_y) / 2
        for row, name in enumerate(stack):
            place[name] = (2 + index * (wide + gap_x), start + row * (high + gap_y))
    marks: list[Markup] = []
    for node in nodes:
        x, y = place[node.name]
        for other in node.after:
            a, b = (place[other][0] + wide, place[other][1] + high / 2), (x, y + high / 2)
            bend, end = a[0] + gap_x / 2, a[0] + gap_x  # turns at once, and so passes beside what is between
            turn = f"M{a[0]:g} {a[1]:g}C{bend:g} {a[1]:g} {bend:g} {b[1]:g} {end:g} {b[1]:g}L{b[0]:g} {b[1]:g}"
            marks.append(tag("path", d=turn, class_="edge"))
    for node in nodes:
        x, y = place[node.name]
        inside = [
            tag("title", escape(node.title)),
            tag("rect", x=x, y=y, width=wide, height=high, rx=7, class_="node"),
            text(x + wide / 2, y + (18 if node.below else 26), cut(node.name, 13), "stage", "middle"),
            text(x + wide / 2, y + 33, cut(node.below, 15), "tick", "middle"),
        ]
        marks.append(tag("g", *inside))
    return drawing(marks, 4 + len(stacks) * (wide + gap_x) - gap_x, height, label)


def cut(words: str, length: int) -> str:
    """``words``, shortened to ``length`` characters."""
    return words if len(words) <= length else words[: length - 1] + "…"
