"""Charts as inline SVG, drawn by a few lines of our own: no script, no library, text that scales.

Colours come from classes of the page's style sheet, so charts follow light and dark. Each chart has a title
and a description for screen readers; its numbers stand in a table beside it, which the page writes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from sync.dashboard.figures import CurvePoint, LabelRow, MaskRow
from sync.review.nouns import plural_noun

__all__ = ["learning_chart", "masks_chart", "pool_bar"]

_WIDTH, _HEIGHT = 460, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 16, 44
_ORIGINS = ("drawn", "verified", "propagated")


@dataclass(frozen=True, slots=True)
class _Plot:
    """A plot of ``x_low..x_high`` by ``0..y_high`` in the coordinates of the picture."""

    x_low: float
    x_high: float
    y_high: float

    def x(self, value: float) -> float:
        width = _WIDTH - _LEFT - _RIGHT
        return _LEFT + width * (value - self.x_low) / max(self.x_high - self.x_low, 1e-9)

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * value / max(self.y_high, 1e-9)


def learning_chart(points: Sequence[CurvePoint], name: str) -> Markup:
    """Quality over finished tasks, with 95 % intervals; empty when no point has enough test pictures.

    Points of one test split are joined; a new split begins a new line, since figures of two splits cannot be
    compared. ``name`` distinguishes the ids of several charts on a page.
    """
    shown = [point for point in points if point.quality is not None]
    if not shown:
        return Markup("")
    most = _round_up(max(point.finished for point in points))
    plot = _Plot(0.0, most, 1.0)
    metric = shown[-1].metric
    parts = [_grid(plot, [0.0, 0.25, 0.5, 0.75, 1.0], "{:.2f}"), _x_ticks(plot, _ticks(most))]
    for split in dict.fromkeys(point.split for point in shown):
        mine = [point for point in shown if point.split == split]
        line = " ".join(f"{plot.x(p.finished):.1f},{plot.y(p.quality.value):.1f}" for p in mine if p.quality)
        parts.append(Markup('<polyline class="curve" points="{}"/>').format(line))
        for point in mine:
            parts.append(_point(plot, point))
    for point in points:
        if point.quality is None:
            parts.append(
                Markup('<text class="tick" x="{:.1f}" y="{:.1f}" text-anchor="middle">×</text>').format(
                    plot.x(point.finished), plot.y(0) - 4
                )
            )
    parts.append(_axis("finished tasks"))
    last = shown[-1]
    assert last.quality is not None
    said = (
        f"{metric} of each model version on the test pictures, by the number of finished tasks. "
        f"Newest: {last.quality.value:.3f}, 95 % interval {last.quality.low:.3f} to {last.quality.high:.3f}, "
        f"{last.quality.n} test pictures."
    )
    return _svg(f"learning-{name}", f"Learning curve: {metric}", said, parts)


def _point(plot: _Plot, point: CurvePoint) -> Markup:
    quality = point.quality
    assert quality is not None
    x = plot.x(point.finished)
    text = (
        f"round {point.round}: {point.metric} {quality.value:.3f} "
        f"({quality.low:.3f}–{quality.high:.3f}, n={quality.n}) after {point.finished} tasks"
    )
    low, high = plot.y(max(0.0, quality.low)), plot.y(min(1.0, quality.high))
    left, right = f"{x - 4:.1f}", f"{x + 4:.1f}"
    whisker = f"M{x:.1f} {low:.1f}V{high:.1f}M{left} {low:.1f}H{right}M{left} {high:.1f}H{right}"
    return Markup(
        '<g><title>{}</title><path class="whisker" d="{}"/>'
        '<circle class="dot{}" cx="{:.1f}" cy="{:.1f}" r="4.5"/></g>'
    ).format(text, whisker, " early" if point.early else "", x, plot.y(quality.value))


def masks_chart(rows: Sequence[MaskRow], noun: str, name: str) -> Markup:
    """Stacked bars of the newest twelve rounds: drawn, verified, propagated; empty without any mask."""
    shown = rows[-12:]
    most = max((row.drawn + row.verified + row.propagated for row in shown), default=0)
    if not most:
        return Markup("")
    plot = _Plot(0.0, float(len(shown)), _round_up(most))
    parts = [_grid(plot, _ticks(plot.y_high), "{:,.0f}")]
    for place, row in enumerate(shown):
        middle = plot.x(place + 0.5)
        width = min(46.0, 0.62 * (plot.x(1) - plot.x(0)))
        base = 0
        for origin in _ORIGINS:
            count = getattr(row, origin)
            top, bottom = plot.y(base + count), plot.y(base)
            base += count
            parts.append(
                Markup(
                    '<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}">'
                    "<title>round {}: {:,} {}</title></rect>"
                ).format(
                    f"o-{origin}",
                    middle - width / 2,
                    top,
                    width,
                    max(0.0, bottom - top),
                    row.round,
                    count,
                    origin,
                )
            )
        parts.append(
            Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
                middle, _HEIGHT - _BOTTOM + 17, row.round
            )
        )
    parts.append(_axis("round"))
    last = shown[-1]
    said = (
        f"By round. Newest: {last.drawn} drawn, {last.verified} verified by an answer, "
        f"{last.propagated} propagated without a look at them."
    )
    return _svg(f"masks-{name}", f"{plural_noun(noun).capitalize()} by origin", said, parts)


def pool_bar(row: LabelRow) -> Markup:
    """A bar of the pool of a label: verified, propagated, rejected, and what is left undecided."""
    total = max(row.pool, 1)
    parts, at = [], 0.0
    for origin in ("verified", "propagated", "rejected"):
        width = 200.0 * min(getattr(row, origin), total) / total
        parts.append(
            Markup('<rect class="o-{}" x="{:.2f}" width="{:.2f}" height="10"/>').format(origin, at, width)
        )
        at += width
    said = f"{row.verified} verified, {row.propagated} propagated, {row.rejected} rejected, {row.open} open"
    return Markup(
        '<svg class="bar" viewBox="0 0 200 10" preserveAspectRatio="none" role="img" aria-label="{}">'
        '<rect class="o-open" width="200" height="10"/>{}</svg>'
    ).format(f"{row.label}: {said}", Markup("").join(parts))


def _svg(name: str, title: str, said: str, parts: Sequence[Markup]) -> Markup:
    safe = escape(name)
    return Markup(
        '<svg class="chart" viewBox="0 0 {w} {h}" role="img" aria-labelledby="{n}-t {n}-d">'
        '<title id="{n}-t">{t}</title><desc id="{n}-d">{d}</desc>{parts}</svg>'
    ).format(w=_WIDTH, h=_HEIGHT, n=safe, t=title, d=said, parts=Markup("").join(parts))


def _grid(plot: _Plot, levels: Sequence[float], form: str) -> Markup:
    lines = []
    for level in levels:
        y = plot.y(level)
        lines.append(
            Markup(
                '<path class="grid" d="M{} {:.1f}H{}"/><text class="tick" x="{}" y="{:.1f}" '
                'text-anchor="end">{}</text>'
            ).format(_LEFT, y, _WIDTH - _RIGHT, _LEFT - 6, y + 4, form.format(level))
        )
    return Markup("").join(lines)


def _x_ticks(plot: _Plot, values: Sequence[float]) -> Markup:
    return Markup("").join(
        Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{:,.0f}</text>').format(
            plot.x(value), _HEIGHT - _BOTTOM + 17, value
        )
        for value in values
    )


def _axis(text: str) -> Markup:
    return Markup('<text class="axis" x="{}" y="{}" text-anchor="middle">{}</text>').format(
        (_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8, text
    )


def _round_up(value: float) -> float:
    """A round number not below ``value``."""
    scale = 10.0 ** math.floor(math.log10(max(value, 1.0)))
    return next(step * scale for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * scale >= value)


def _ticks(most: float) -> list[float]:
    """About five round numbers from 0 to ``most``, whole ones."""
    step = max(1.0, most / 5)
    scale = 10.0 ** math.floor(math.log10(step))
    step = next(s * scale for s in (1, 2, 2.5, 5, 10) if s * scale >= step)
    step = max(1.0, math.ceil(step) if scale < 10 else step)
    return [step * i for i in range(int(most / step + 1e-9) + 1)]
