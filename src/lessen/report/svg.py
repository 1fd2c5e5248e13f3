"""Inline SVG from escaped parts, and the axes that the report's plots share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 520, 330
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 18, 46


def element(tag: str, *children: str, **attributes: object) -> Markup:
    """An element; texts and attribute values are escaped unless they are Markup. `class_` and `stroke_width` work."""
    said = "".join(f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"' for key, value in attributes.items())
    inside = Markup("").join(children)
    return Markup(f"<{tag}{said}>{inside}</{tag}>" if inside else f"<{tag}{said}/>")


def _value(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(escape(value))


@dataclass(frozen=True)
class Scale:
    """A map from `low..high` to pixels `start..end`, linear or logarithmic; values beyond are clipped."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        value = min(max(value, self.low), self.high)
        low, high, value = (math.log(x) for x in (self.low, self.high, value)) if self.log else (
            self.low, self.high, value)  # fmt: skip
        return self.start + (self.end - self.start) * ((value - low) / (high - low) if high > low else 0.5)

    def ticks(self, count: int = 5) -> list[float]:
        """At most about `count` round values inside the scale."""
        if self.log:
            found = [m * 10.0**e for e in range(-9, 16) for m in (1, 2, 5) if self.low <= m * 10.0**e <= self.high]
            found = found[:: max(1, math.ceil(len(found) / count))]
            if len(found) > 1:
                return found
        if not self.high > self.low:
            return [self.low]
        rough = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def frame(x: Scale, y: Scale, titles: tuple[str, str], names: tuple[Callable[[float], str], ...]) -> Markup:
    """Grid lines, tick names and axis titles of a plot of WIDTH by HEIGHT."""
    parts = [_row(y(value), names[1](value)) for value in y.ticks()]
    parts += [_column(x(value), names[0](value)) for value in x.ticks()]
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(element("text", titles[0], class_="axis", x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 8,
                         text_anchor="middle"))  # fmt: skip
    parts.append(element("text", titles[1], class_="axis", x=15, y=middle, text_anchor="middle",
                         transform=f"rotate(-90 15 {middle:g})"))  # fmt: skip
    return Markup("").join(parts)


def _row(y: float, name: str) -> Markup:
    line = element("line", class_="grid", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y)
    return line + element("text", name, class_="tick", x=LEFT - 8, y=y + 4, text_anchor="end")


def _column(x: float, name: str) -> Markup:
    line = element("line", class_="grid faint", x1=x, x2=x, y1=TOP, y2=HEIGHT - BOTTOM)
    return line + element("text", name, class_="tick", x=x, y=HEIGHT - BOTTOM + 18, text_anchor="middle")


def picture(name: str, title: str, about: str, parts: Iterable[str], stretch: tuple[int, int] | None = None) -> Markup:
    """A whole `<svg>` with a title and a description for those who can't see it. `name` is unique in the page.

    `stretch`: a width and height (in place of WIDTH and HEIGHT) that may be stretched to fit; for bars without texts.
    """
    width, height = stretch or (WIDTH, HEIGHT)
    return element(
        "svg",
        element("title", title, id=f"{name}-title"),
        element("desc", about, id=f"{name}-about"),
        *parts,
        viewBox=f"0 0 {width} {height}", preserveAspectRatio="none" if stretch else "xMidYMid",
        role="img", aria_labelledby=f"{name}-title {name}-about",
    )  # fmt: skip


def mark(shape: int, x: float, y: float, class_: str, tip: str, r: float = 5) -> Markup:
    """A point of one of five shapes (circle, square, triangle, diamond, pentagon), with `tip` on hover."""
    if shape % 5 == 0:
        return element("circle", element("title", tip), class_=class_, cx=x, cy=y, r=r)
    corners, turn = ((4, 0.125), (3, 0.25), (4, 0.25), (5, 0.25))[shape % 5 - 1]
    angles = [2 * math.pi * (turn + i / corners) for i in range(corners)]
    spots = " ".join(f"{x + 1.25 * r * math.cos(a):.1f},{y - 1.25 * r * math.sin(a):.1f}" for a in angles)
    return element("polygon", element("title", tip), class_=class_, points=spots)
