"""Figures as SVG that are the same bytes for the same input: fixed hash salt, no date, one style."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from onlyforward.core.checks import require
from onlyforward.report.style import PALETTE

SETTINGS: Any = {
    "svg.hashsalt": "onlyforward",
    "svg.fonttype": "path",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "figure.figsize": (7.0, 3.6),
}


def line_chart(title: str, curves: Sequence[Mapping[str, Any]]) -> str:
    """Curves of one figure as an SVG element; error bars as bands, units in the labels of the axes.

    Args:
        title: for the alternative text.
        curves: as in `result.json`: label, x, y, x_label, y_label, spread.
    """
    require("matplotlib", "report")
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context(SETTINGS):
        figure = Figure(layout="constrained")
        axes = figure.add_subplot()
        for i, curve in enumerate(curves):
            colour = PALETTE[i % len(PALETTE)]
            axes.plot(curve["x"], curve["y"], color=colour, label=curve["label"], linewidth=1.8)
            if curve["spread"]:
                low = [y - s for y, s in zip(curve["y"], curve["spread"], strict=True)]
                high = [y + s for y, s in zip(curve["y"], curve["spread"], strict=True)]
                axes.fill_between(curve["x"], low, high, color=colour, alpha=0.2, linewidth=0)
        axes.set_xlabel(curves[0]["x_label"])
        axes.set_ylabel(curves[0]["y_label"])
        if len(curves) > 1 or curves[0]["label"]:
            axes.legend(frameon=False)
        target = io.StringIO()
        canvas: Any = FigureCanvasSVG(figure)
        canvas.print_svg(target, metadata={"Date": None, "Creator": None, "Title": title})
    svg = target.getvalue()
    return svg[svg.index("<svg") :]


def grouped(curves: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Curves by figure, in the order of their first appearance."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for curve in curves:
        found.setdefault(curve["figure"], []).append(curve)
    return found
