"""The report's plots: the size/accuracy curve, predicted against measured harm, and the layers side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from lessen.report import phrases, svg
from lessen.report.phrases import JOINT
from lessen.report.schema import LayerRow, Metric, Point, Report

_ABSURD = 1e12  # a drop that no metric has; beyond it floats no longer make axes


@dataclass(frozen=True)
class Series:
    """Points of one `who`, with the number of its colour and shape (0 is the joint plan)."""

    who: str
    look: int
    points: tuple[Point, ...]

    @property
    def key(self) -> Markup:
        """Its mark, for the legend."""
        spot = svg.mark(self.look, 7, 7, f"spot s{self.look}", phrases.printable(self.who))
        return svg.element("svg", spot, viewBox="0 0 14 14", aria_hidden="true")


def series(points: Sequence[Point]) -> list[Series]:
    """The points by who made them, the joint plan last so that it is drawn on top; sizes ascending."""
    others = sorted({point.who for point in points} - {JOINT})
    looks = {JOINT: 0, **{who: 1 + i % 6 for i, who in enumerate(others)}}
    return [
        Series(who, looks[who], tuple(sorted((p for p in points if p.who == who), key=lambda p: p.bytes)))
        for who in [*others, JOINT]
        if any(point.who == who for point in points)
    ]


def curve(report: Report) -> Markup | None:
    """Bytes against what is lost, best on the top left; None without points."""
    points = [p for p in report.curve if p.bytes > 0 and _drawable(_drop(p))]
    if not points:
        return None
    metric, limit = report.result.metric, _limit(report)
    x = _bytes_scale([p.bytes for p in points] + [report.baseline.file_bytes])
    y = _drop_scale(points, limit)
    parts = [svg.frame(x, y, ("bytes of the file", _lost_title(metric)), (phrases.size, _drop_name(metric)))]
    parts.append(_level(y(0.0), "the original", "level"))
    tip = f"the original: {phrases.size(report.baseline.file_bytes)}"
    parts.append(svg.mark(0, x(report.baseline.file_bytes), y(0.0), "spot open origin", tip))
    if limit is not None and y.low < limit < y.high:
        parts.append(_level(y(limit), "the limit asked for", "level limit"))
    for one in series(points):
        parts.append(_series(one, x, y, metric))
    return svg.picture("curve", "Size against accuracy", _curve_about(points, metric), parts)


def _drop(point: Point) -> float:
    return point.predicted_drop if point.measured_drop is None else point.measured_drop


def _drawable(drop: float | None) -> bool:
    return drop is not None and math.isfinite(drop) and abs(drop) < _ABSURD


def _limit(report: Report) -> float | None:
    """The largest drop that was asked for, in units of the metric."""
    before = report.baseline.metric
    unit = 0.01 if before.percent else abs(before.value) / 100
    return next((unit * d.limit for d in report.budget.asked if "drop" in d.name and d.limit is not None), None)


def _lost_title(metric: Metric) -> str:
    return f"{phrases.printable(metric.name)}, points lost" if metric.percent else f"worse by ({metric.name})"


def _drop_name(metric: Metric) -> Callable[[float], str]:
    return lambda drop: f"{100 * drop if metric.percent else drop:g}"


def _bytes_scale(values: Sequence[int]) -> svg.Scale:
    log = max(values) > 5 * min(values)
    low, high = (min(values) / 1.15, max(values) * 1.15) if log else (0, max(values) * 1.06)
    return svg.Scale(low, high, svg.LEFT, svg.WIDTH - svg.RIGHT, log)


def _drop_scale(points: Sequence[Point], limit: float | None) -> svg.Scale:
    """Zero near the top; wide enough for the chosen point and the limit, not for plans that ruin the model."""
    drops = sorted(_drop(point) for point in points)
    chosen = max((_drop(point) for point in points if point.chosen), default=drops[len(drops) // 2])
    high = min(max(drops[-1], (limit or 0) * 1.2), max(4 * (limit or 0), 3 * chosen, drops[len(drops) // 2]))
    high = max(high, 1e-6)
    low = min(drops[0], 0.0) - 0.06 * high
    return svg.Scale(low, high * 1.04, svg.TOP, svg.HEIGHT - svg.BOTTOM)


def _level(y: float, text: str, class_: str) -> Markup:
    line = svg.element("line", class_=class_, x1=svg.LEFT, x2=svg.WIDTH - svg.RIGHT, y1=y, y2=y)
    return line + svg.element("text", text, class_="note", x=svg.WIDTH - svg.RIGHT, y=y - 9, text_anchor="end")


def _series(one: Series, x: svg.Scale, y: svg.Scale, metric: Metric) -> Markup:
    inside = [p for p in one.points if _drop(p) <= y.high]  # a line to a clipped point would point wrong
    parts = []
    if len(inside) > 1:
        path = " ".join(f"{x(p.bytes):.1f},{y(_drop(p)):.1f}" for p in inside)
        parts.append(svg.element("polyline", class_=f"path s{one.look}", points=path))
    for point in one.points:
        parts.append(_spot(one, point, (x(point.bytes), y(_drop(point))), metric, _drop(point) > y.high))
    return Markup("").join(parts)


def _spot(one: Series, point: Point, at: tuple[float, float], metric: Metric, clipped: bool) -> Markup:
    drop = phrases.points(_drop(point), metric)
    how = "predicted" if point.measured_drop is None else "measured"
    tip = f"{phrases.printable(one.who)}: {phrases.size(point.bytes)}, {drop} lost ({how})"
    if clipped:
        arrow = f"{at[0] - 4:.1f},{at[1] - 8:.1f} {at[0] + 4:.1f},{at[1] - 8:.1f} {at[0]:.1f},{at[1]:.1f}"
        title = svg.element("title", f"{tip}, far below")
        return svg.element("polygon", title, class_=f"spot s{one.look} clipped", points=arrow)
    spot = svg.mark(one.look, *at, f"spot s{one.look}{' open' if how == 'predicted' else ''}", tip)
    if not point.chosen:
        return spot
    text = svg.element("text", "chosen", class_="chosen", x=at[0], y=at[1] + 26, text_anchor="middle")
    return spot + svg.element("circle", class_="ring", cx=at[0], cy=at[1], r=11) + text


def _curve_about(points: Sequence[Point], metric: Metric) -> str:
    chosen = next((p for p in points if p.chosen), None)
    said = f"{len(points)} plans from {phrases.size(min(p.bytes for p in points))} up."
    if chosen is None:
        return said
    return f"{said} Chosen: {phrases.size(chosen.bytes)} with {phrases.points(_drop(chosen), metric)} lost."


def predicted(report: Report) -> Markup | None:
    """Predicted against measured drop of the plans that were measured; None if there are fewer than two."""
    found = [p for p in report.curve if _drawable(p.measured_drop) and _drawable(p.predicted_drop)]
    if len(found) < 2:
        return None
    metric, most = report.result.metric, _drop_scale(found, _limit(report)).high
    near = [p for p in found if max(p.predicted_drop, p.measured_drop or 0.0) <= most]  # not plans that ruin the model
    found, beyond = (near, len(found) - len(near)) if len(near) > 1 else (found, 0)
    values = [v for p in found for v in (p.predicted_drop, p.measured_drop) if v is not None]
    low, high = min(*values, 0.0), max(*values, 1e-6)
    pad = 0.05 * (high - low)
    x = svg.Scale(low - pad, high + pad, svg.LEFT, svg.WIDTH - svg.RIGHT)
    y = svg.Scale(low - pad, high + pad, svg.HEIGHT - svg.BOTTOM, svg.TOP)
    unit = "points lost" if metric.percent else "worse by"
    parts = [svg.frame(x, y, (f"predicted, {unit}", f"measured, {unit}"), (_drop_name(metric), _drop_name(metric)))]
    parts.append(svg.element("line", class_="level", x1=x(low), y1=y(low), x2=x(high), y2=y(high)))
    for one in series(found):
        for p in one.points:
            tip = (f"{phrases.printable(one.who)}: {phrases.points(p.predicted_drop, metric)} predicted, "
                   f"{phrases.points(p.measured_drop or 0.0, metric)} measured")  # fmt: skip
            spot = (x(p.predicted_drop), y(p.measured_drop or 0.0))
            parts.append(svg.mark(one.look, *spot, f"spot s{one.look}", tip))
            if p.chosen:
                parts.append(svg.element("circle", class_="ring", cx=spot[0], cy=spot[1], r=11))
    if beyond:
        parts.append(svg.element("text", f"{beyond} more beyond this frame", class_="note", x=svg.WIDTH - svg.RIGHT,
                                 y=svg.HEIGHT - svg.BOTTOM - 8, text_anchor="end"))  # fmt: skip
    about = f"{len(found)} measured plans; on the dashed line the prediction is exact."
    return svg.picture("predicted", "Predicted against measured drop", about, parts)


STRIP = (1000, 64)


def strips(layers: Sequence[LayerRow]) -> list[tuple[str, str, Markup]]:
    """Bars over the layers in network order: (title, the largest value, picture) for each figure that is known."""
    wanted: list[tuple[str, str, Callable[[LayerRow], float | None], Callable[[float], str]]] = [
        ("bytes", "Bytes, before and after", lambda row: row.bytes_after, phrases.size),
        ("bits", "Bits per weight", lambda row: row.bits, lambda v: f"{v:.3g} bits"),
        ("sparsity", "Sparsity", lambda row: row.sparsity, phrases.share),
        ("harm", "Predicted harm, increase of the loss", lambda row: row.harm, phrases.three),
    ]
    made = []
    for name, title, figure, say in wanted:
        values = [_finite(figure(row)) for row in layers]
        behind = [float(row.bytes_before) for row in layers] if name == "bytes" else None
        top = max([*values, *(behind or [])], default=0.0)
        if top > 0:
            about = f"One bar for each of {len(layers)} layers, in network order. Largest: {say(top)}."
            parts = _bars(layers, values, behind, say)
            made.append((title, say(top), svg.picture(name, title, about, parts, STRIP)))
    return made


def _finite(value: float | None) -> float:
    return float(value) if value is not None and math.isfinite(value) else 0.0


def _bars(
    layers: Sequence[LayerRow], values: Sequence[float], behind: Sequence[float] | None, say: Callable[[float], str]
) -> list[Markup]:
    width, height = STRIP
    top, step = max(*values, *(behind or []), 0.0), width / len(layers)
    parts = []
    for i, (row, value) in enumerate(zip(layers, values, strict=True)):
        tip = svg.element("title", f"{phrases.printable(row.name)}: {say(value)}")
        if behind is not None:
            parts.append(_bar("before", i * step, step * 0.82, behind[i] / top * height))
        parts.append(_bar("after", i * step, step * 0.82, value / top * height, tip))
    return [*parts, svg.element("line", class_="ground", x1=0, x2=width, y1=height, y2=height)]


def _bar(class_: str, x: float, width: float, height: float, *tip: str) -> Markup:
    return svg.element("rect", *tip, class_=class_, x=x, y=STRIP[1] - height, width=width, height=height)
