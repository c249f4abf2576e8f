"""Lines as an SVG, one panel below the other; no library, as nothing else here needs one."""

from collections.abc import Sequence
from typing import Final

import msgspec

WIDTH, HEIGHT, LEFT, GAP, LETTER = 900, 150, 70, 44, 14
COLOURS: Final = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd")

Line = Sequence[tuple[float, float]]  # (x, y) in ascending order of x


class Panel(msgspec.Struct, frozen=True):
    """Lines that share both axes. y begins at 0; ``marks`` are texts and the x below which they stand."""

    title: str
    lines: dict[str, Line]
    marks: dict[str, float]
    dots: bool = False  # at every point


def svg(panels: Sequence[Panel]) -> str:
    """The panels as a file."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 130}" '
        f'height="{len(panels) * (HEIGHT + GAP) + GAP}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for number, panel in enumerate(panels):
        parts += _panel(panel, GAP + number * (HEIGHT + GAP))
    return "\n".join([*parts, "</svg>\n"])


def _panel(panel: Panel, top: int) -> list[str]:
    most = max(1.0, max(y for line in panel.lines.values() for _, y in line))
    xs = [x for line in panel.lines.values() for x, _ in line]
    first, span = min(xs), (max(xs) - min(xs)) or 1.0

    def across(x: float) -> float:
        return LEFT + WIDTH * (x - first) / span

    def down(y: float) -> float:
        return top + HEIGHT * (1 - y / most)

    bottom = top + HEIGHT
    parts = [
        f'<text x="{LEFT}" y="{top - 8}">{panel.title}</text>',
        f'<rect x="{LEFT}" y="{top}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#999"/>',
        f'<text x="{LEFT - 6}" y="{top + 10}" text-anchor="end">{_short(most)}</text>',
        f'<text x="{LEFT - 6}" y="{bottom}" text-anchor="end">0</text>',
    ]
    parts += [
        f'<text x="{across(x):.1f}" y="{bottom + 14}" text-anchor="middle">{text}</text>'
        for text, x in panel.marks.items()
    ]
    names = []
    for (name, line), colour in zip(panel.lines.items(), COLOURS, strict=False):
        points = [(across(x), down(y)) for x, y in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        if panel.dots:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
        names.append((*points[-1], name, colour))
    lowest = 0.0
    for x, y, name, colour in sorted(names, key=lambda each: each[1]):
        lowest = max(y + 4, lowest + LETTER)  # lines that end together: their names stand below one another
        parts.append(f'<text x="{x + 6:.1f}" y="{lowest:.1f}" fill="{colour}">{name}</text>')
    return parts


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}"
