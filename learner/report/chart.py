"""Charts as inline SVG: axes, lines with bands, points with intervals, stacked bars, pairs. Pure: numbers in, text out.

Colours are classes of report.css (s0 to s7), so that one drawing serves light, dark and paper. What a chart says by
place alone it says in words too: every mark has its text for the pointer (`data-tip`), and a table stands beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from xml.etree import ElementTree as ET

from markupsafe import Markup

WIDTH, HEIGHT = 560, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 20, 12, 34
SERIES = 8  # colours that report.css has
ROW, PAIR_LEFT = 19, 170  # of a chart of pairs

WHOLE = "{:.0f}"

Numbers = Sequence[float | None]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One series over x; what is None is not drawn."""

    name: str
    values: Numbers
    low: Numbers = ()  # of a band around it
    high: Numbers = ()
    dots: bool = False  # points with intervals rather than a line with a band


@dataclass(frozen=True, kw_only=True)
class Axis:
    """What an axis measures."""

    title: str
    form: str = "{:g}"  # of a value's text
    low: float | None = None
    high: float | None = None


@dataclass
class _Canvas:
    """An SVG being drawn, and where a value lies on it."""

    label: str
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    x: tuple[float, float] = (0.0, 1.0)
    y: tuple[float, float] = (0.0, 1.0)
    root: ET.Element = field(init=False)

    def __post_init__(self) -> None:
        box = {"viewBox": f"0 0 {self.width} {self.height}", "role": "img", "aria-label": self.label}
        self.root = ET.Element("svg", {"class": "chart", **box})

    def at_x(self, value: float) -> float:
        low, high = self.x
        return self.left + (value - low) / ((high - low) or 1) * (self.width - self.left - RIGHT)

    def at_y(self, value: float) -> float:
        low, high = self.y
        return self.height - BOTTOM - (value - low) / ((high - low) or 1) * (self.height - TOP - BOTTOM)

    def add(self, tag: str, kind: str, **values: float | str) -> ET.Element:
        named = {name.replace("_", "-"): _number(value) for name, value in values.items()}
        return ET.SubElement(self.root, tag, {"class": kind, **named})

    def text(self, x: float, y: float, words: str, kind: str = "", anchor: str = "middle") -> None:
        self.add("text", f"word {kind}".strip(), x=x, y=y, text_anchor=anchor).text = words

    def axes(self, x: Axis, y: Axis) -> None:
        whole = x.form == WHOLE  # of what is counted there is no half
        for value in ticks(*self.y):
            self.add("line", "grid", x1=self.left, x2=self.width - RIGHT, y1=self.at_y(value), y2=self.at_y(value))
            words = y.form.format(value) if y.form.endswith("%}") else f"{value:.6g}"
            self.text(self.left - 6, self.at_y(value) + 4, words, anchor="end")
        for value in ticks(*self.x):
            if not whole or value == int(value):
                self.text(self.at_x(value), self.height - BOTTOM + 16, x.form.format(value))
        base = self.height - BOTTOM
        self.add("line", "axis", x1=self.left, x2=self.width - RIGHT, y1=base, y2=base)
        self.text((self.left + self.width - RIGHT) / 2, self.height - 3, x.title, "title")

    def done(self) -> Markup:
        return Markup(ET.tostring(self.root, encoding="unicode"))  # noqa: S704 - ElementTree has escaped it


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values from `low` to `high`."""
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    rough = span / about
    base = 10.0 ** math.floor(math.log10(rough))
    step = next(base * factor for factor in (1, 2, 2.5, 5, 10) if base * factor >= rough)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def lines(title: str, x: Sequence[float], x_axis: Axis, y_axis: Axis, series: Sequence[Line]) -> Markup:
    """Series over x, with their bands, and a place to point at for each x."""
    values = [value for line in series for part in (line.values, line.low, line.high) for value in part]
    canvas = _Canvas(f"{title}: {', '.join(line.name for line in series)}")
    canvas.x, canvas.y = _range(x, None, None), _range(values, y_axis.low, y_axis.high)
    if any(line.dots for line in series):
        margin = (canvas.x[1] - canvas.x[0]) * 0.04 or 0.5
        canvas.x = (canvas.x[0] - margin, canvas.x[1] + margin)
    canvas.axes(x_axis, y_axis)
    for number, line in enumerate(series):
        _draw(canvas, x, line, f"s{number % SERIES}")
    _targets(canvas, x, x_axis, y_axis, series)
    return canvas.done()


def _draw(canvas: _Canvas, x: Sequence[float], line: Line, kind: str) -> None:
    points = [
        (canvas.at_x(at), canvas.at_y(value)) for at, value in zip(x, line.values, strict=True) if value is not None
    ]
    if line.dots:
        for at, low, high in zip(x, line.low or line.values, line.high or line.values, strict=True):
            if low is not None and high is not None:
                place = canvas.at_x(at)
                canvas.add("line", f"whisker {kind}", x1=place, x2=place, y1=canvas.at_y(low), y2=canvas.at_y(high))
        for across, up in points:
            canvas.add("circle", f"dot {kind}", cx=across, cy=up, r=4)
        return
    edges = [
        (canvas.at_x(at), canvas.at_y(low), canvas.at_y(high))
        for at, low, high in zip(x, line.low, line.high, strict=True)
        if low is not None and high is not None
    ] if line.low else []  # fmt: skip
    if edges:
        there = [f"{a:.1f},{top:.1f}" for a, _, top in edges]
        back = [f"{a:.1f},{bottom:.1f}" for a, bottom, _ in reversed(edges)]
        canvas.add("polygon", f"band {kind}", points=" ".join([*there, *back]))
    canvas.add("polyline", f"line {kind}", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in points))
    if len(points) == 1:
        canvas.add("circle", f"dot {kind}", cx=points[0][0], cy=points[0][1], r=3)


def _targets(canvas: _Canvas, x: Sequence[float], x_axis: Axis, y_axis: Axis, series: Sequence[Line]) -> None:
    for number, at in enumerate(x):
        told = [f"{x_axis.title} {x_axis.form.format(at)}"]
        for line in series:
            value = line.values[number]
            if value is not None:
                low, high = (line.low[number], line.high[number]) if line.low else (None, None)
                between = "" if low is None or high is None else f" ({_between(y_axis.form, low, high)})"
                told.append(f"{line.name}: {y_axis.form.format(value)}{between}")
        _target(canvas, x, number, "\n".join(told))


def _target(canvas: _Canvas, x: Sequence[float], number: int, tip: str) -> None:
    """A strip around the x of that number."""
    places = [canvas.at_x(value) for value in x]
    begin = canvas.left if number == 0 else (places[number - 1] + places[number]) / 2
    end = canvas.width - RIGHT if number == len(x) - 1 else (places[number] + places[number + 1]) / 2
    canvas.add(
        "rect", "hit", x=begin, y=TOP, width=max(1.0, end - begin), height=canvas.height - TOP - BOTTOM, data_tip=tip
    )


def stacks(title: str, x: Sequence[float], x_axis: Axis, y_axis: Axis, parts: Mapping[str, Sequence[float]]) -> Markup:
    """A bar for each x, of parts upon each other."""
    sums = [sum(values) for values in zip(*parts.values(), strict=True)] if parts else []
    canvas = _Canvas(f"{title}: {', '.join(parts)}")
    canvas.x = (min(x, default=0) - 0.5, max(x, default=0) + 0.5)
    canvas.y = _range([0.0, *sums], 0.0, y_axis.high)
    canvas.axes(x_axis, y_axis)
    broad = max(1.0, (canvas.at_x(1) - canvas.at_x(0)) * 0.82)
    for number, at in enumerate(x):
        below, told = 0.0, [f"{x_axis.title} {x_axis.form.format(at)}"]
        for part, (name, values) in enumerate(parts.items()):
            value = values[number]
            if value:
                top, bottom = canvas.at_y(below + value), canvas.at_y(below)
                kind = f"bar s{part % SERIES}"
                canvas.add("rect", kind, x=canvas.at_x(at) - broad / 2, y=top, width=broad, height=bottom - top)
                told.append(f"{name}: {y_axis.form.format(value)}")
            below += value
        _target(canvas, x, number, "\n".join(told))
    return canvas.done()


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A row of `pairs`: a share before and after, each with the interval that it may have."""

    name: str
    values: tuple[float | None, float | None]
    intervals: tuple[Sequence[float] | None, Sequence[float] | None] = (None, None)
    note: str = ""  # at the right


def pairs(title: str, rows: Sequence[Pair], names: tuple[str, str]) -> Markup:
    """Shares from 0 to 1, before and after on one line a row."""
    canvas = _Canvas(f"{title}: {names[0]} and {names[1]}", left=PAIR_LEFT, height=TOP + BOTTOM + ROW * len(rows))
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        place = canvas.at_x(value)
        canvas.add("line", "grid", x1=place, x2=place, y1=TOP, y2=canvas.height - BOTTOM)
        canvas.text(place, canvas.height - BOTTOM + 16, f"{value:.0%}")
    for number, row in enumerate(rows):
        middle = TOP + ROW * number + ROW / 2
        canvas.text(PAIR_LEFT - 8, middle + 4, row.name, anchor="end")
        told = [row.name + (f", {row.note}" if row.note else "")]
        before, after = row.values
        if before is not None and after is not None and before != after:
            kind = "change up" if after > before else "change down"
            canvas.add("line", kind, x1=canvas.at_x(before), x2=canvas.at_x(after), y1=middle, y2=middle)
        for side, share in enumerate(row.values):
            if share is None:
                continue
            interval = row.intervals[side]
            if interval:
                up = middle + (3 if side else -3)
                ends = {"x1": canvas.at_x(interval[0]), "x2": canvas.at_x(interval[1])}
                canvas.add("line", f"whisker thin s{side}", y1=up, y2=up, **ends)
            # a ring before and a dot after, so that both are seen where nothing changed
            kind = f"dot s{side}" if side else "ring s0"
            canvas.add("circle", kind, cx=canvas.at_x(share), cy=middle, r=3.5 if side else 5)
            between = f" ({_between('{:.0%}', *interval)})" if interval else ""
            told.append(f"{names[side]}: {share:.0%}{between}")
        canvas.add(
            "rect", "hit", x=0, y=middle - ROW / 2, width=canvas.width, height=ROW, data_tip="\n".join(told)
        )  # fmt: skip
    return canvas.done()


def shares(title: str, parts: Mapping[str, float], form: str = "{:,.0f}") -> Markup:
    """One bar of parts side by side; their names stand in the legend and the table beside it."""
    total = sum(parts.values()) or 1.0
    canvas = _Canvas(title, height=34)
    canvas.root.set("preserveAspectRatio", "none")
    at = 0.0
    for number, (name, value) in enumerate(parts.items()):
        broad = value / total * canvas.width
        tip = f"{name}: {form.format(value)} ({value / total:.1%})"
        canvas.add("rect", f"bar s{number % SERIES}", x=at, y=4, width=broad, height=26, data_tip=tip)
        at += broad
    return canvas.done()


def _range(values: Numbers, low: float | None, high: float | None) -> tuple[float, float]:
    known = [value for value in values if value is not None and math.isfinite(value)] or [0.0, 1.0]
    least = min(known) if low is None else low
    most = max(known) if high is None else high
    if most <= least:
        most = least + (abs(least) * 0.1 or 1.0)
    if high is None and low is not None:
        most += (most - least) * 0.05
    return least, most


def _between(form: str, low: float, high: float) -> str:
    return f"{form.format(low)} to {form.format(high)}"


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
