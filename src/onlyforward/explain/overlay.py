"""Pictures for people: the map over the photo with its legend, the error beside it, and the curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from onlyforward.core.checks import require
from onlyforward.explain.metrics import Curve, plane

COLOURS = "cividis"
"""Legible for every kind of colour vision, and in grey."""


def save_overlay(path: Path, x: Tensor, values: Tensor, error: Tensor, title: str) -> None:
    """Photo, map over the photo, and standard error, side by side, each with its scale; PNG or SVG by the ending.

    Args:
        path: where.
        x: [c, h, w] in 0..1.
        values: map [h, w] or [c, h, w].
        error: its standard error, same shape.
        title: over the picture.
    """
    require("matplotlib", "report")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    photo = x.movedim(0, -1).clamp(0, 1).numpy()
    photo = photo.repeat(3, -1) if photo.shape[-1] == 1 else photo
    grey = photo.mean(-1)
    shown, doubt = plane(values).double(), plane(error).double()
    limit = float(shown.abs().quantile(0.995)) or 1.0
    figure = Figure(figsize=(11.4, 4.1), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    axes: Any = figure.subplots(1, 3)
    axes[0].imshow(photo)
    axes[0].set_title("what the model was shown")
    axes[1].imshow(grey, cmap="gray", vmin=0, vmax=1)
    drawn = axes[1].imshow(shown.clamp(min=0).numpy(), cmap=COLOURS, vmin=0, vmax=limit, alpha=0.72)
    axes[1].set_title("where it looked")
    figure.colorbar(drawn, ax=axes[1], shrink=0.8, label="effect on the score")
    drawn = axes[2].imshow(doubt.numpy(), cmap=COLOURS, vmin=0, vmax=limit)
    axes[2].set_title("how unsure that is")
    figure.colorbar(drawn, ax=axes[2], shrink=0.8, label="standard error, same scale")
    for axis in axes:
        axis.set_axis_off()
    figure.savefig(path, dpi=110, metadata={"Software": None} if path.suffix == ".png" else {"Date": None})


def save_curves(path: Path, curves: dict[str, tuple[Curve, Curve]], title: str) -> None:
    """Deletion and insertion curves of several maps.

    Args:
        path: where.
        curves: name -> (deletion, insertion).
        title: over the picture.
    """
    require("matplotlib", "report")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from onlyforward.report.style import PALETTE

    figure = Figure(figsize=(9.0, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    axes: Any = figure.subplots(1, 2, sharey=True)
    for side, what in enumerate(("most important pixels removed first", "most important pixels brought in first")):
        for number, (name, pair) in enumerate(curves.items()):
            colour = PALETTE[number % len(PALETTE)]
            label = f"{name}: area {pair[side].area:.3f}"
            axes[side].plot(100 * pair[side].share, pair[side].score, color=colour, label=label, linewidth=1.8)
        axes[side].set_xlabel(f"{what} [%]")
        axes[side].legend(frameon=False, fontsize=8)
        axes[side].grid(alpha=0.3)
    axes[0].set_ylabel("score of the explained answer")
    figure.savefig(path, dpi=110, metadata={"Software": None} if path.suffix == ".png" else {"Date": None})
