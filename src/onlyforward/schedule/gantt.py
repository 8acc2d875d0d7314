"""One SVG that opens anywhere: a bar per job, late jobs coloured, hover text with job, start, end, due, cost."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onlyforward.schedule.solution import Solution

ROWS = 40
"""Lines of the chart: the order is folded like text, equal stretches of time per line."""
ON_TIME, LATE = "#0072b2", "#d55e00"


def write_gantt(solution: Solution, path: Path) -> None:
    """Write the chart."""
    path.write_text(svg(solution), encoding="utf-8")


def svg(solution: Solution) -> str:
    """The chart: time runs along each line and goes on in the next one."""
    jobs, start, end = solution.jobs, solution.start, solution.completion
    lines = int(min(ROWS, max(1, np.ceil(jobs.n / 12))))
    first, last = float(start.min()), float(end.max())
    stretch = (last - first) / lines or 1.0
    width, height, left, top = 1000.0, 24.0, 90.0, 56.0
    total = top + lines * (height + 8) + 30
    cost = jobs.costs(end)
    late = int((cost > 0).sum())
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width + left + 20:g} {total:g}" '
        'font-family="sans-serif" font-size="11" role="img" aria-label="Gantt chart">',
        f'<rect width="{width + left + 20:g}" height="{total:g}" fill="#ffffff"/>',
        f'<text x="10" y="20" font-size="15">{jobs.n} jobs, cost {solution.objective}, '
        f"bound {solution.lower_bound}</text>",
        f'<rect x="10" y="30" width="12" height="12" fill="{ON_TIME}"/><text x="26" y="40">without cost</text>',
        f'<rect x="120" y="30" width="12" height="12" fill="{LATE}"/><text x="136" y="40">with cost ({late})</text>',
        '<text x="250" y="40">each line goes on in the next; left: its first time unit; grey: idle</text>',
    ]
    for line in range(lines):
        y = top + line * (height + 8)
        parts.append(f'<text x="10" y="{y + 16:g}" fill="#444444">{first + line * stretch:,.0f}</text>')
        parts.append(f'<rect x="{left:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="#eeeeee"/>')
    for j in solution.sequence:
        title = f"job {jobs.names[j]}: start {start[j]:g}, end {end[j]:g}, due {jobs.due[j]:g}, cost {cost[j]:g}"
        a, b = float(start[j]) - first, float(end[j]) - first
        parts.append(f"<g><title>{escape(title)}</title>")
        line = min(int(a // stretch), lines - 1)
        named = False
        while line < lines and a < b - 1e-9:
            until = min(b, (line + 1) * stretch)
            x, w = left + (a - line * stretch) / stretch * width, (until - a) / stretch * width
            y = top + line * (height + 8)
            parts.append(
                f'<rect x="{x:.2f}" y="{y:g}" width="{w:.2f}" height="{height:g}" '
                f'fill="{LATE if cost[j] > 0 else ON_TIME}" stroke="#ffffff" stroke-width=".6"/>'
            )
            if not named and w > 7 * len(jobs.names[j]) + 4:
                named = True
                parts.append(f'<text x="{x + 3:.2f}" y="{y + 16:g}" fill="#ffffff">{escape(jobs.names[j])}</text>')
            a, line = until, line + 1
        parts.append("</g>")
    return "\n".join([*parts, "</svg>"]) + "\n"
