"""Pictures for people: the map over the photo with its legend, the error beside it, and the curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from onlyforward.core.checks import require
from onlyforward.explain.metrics import Curve, plane

COLOURS = "cividis"
"""Legible for every kind of colour vision, and in grey."""
VERDICTS = ("removal: the faster it falls the better", "insertion: the faster it rises the better")
LABELS = {"map": "this map", "random": "a random map"}
"""How a legend calls the curves of every report."""
CLEAR = 3.0
"""Standard errors above which an effect counts as seen."""


def save_overlay(path: Path, x: Tensor, values: Tensor, error: Tensor, title: str) -> None:
    """Photo, effects over the photo, and their standard error, side by side, each with its scale; PNG or SVG.

    The photo shows through where nothing was found; an outline surrounds what is larger
    than three of its errors.

    Args:
        path: where; the ending names the format.
        x: [c, h, w] in 0..1.
        values: map [h, w] or [c, h, w].
        error: its standard error, same shape.
        title: over the picture.
    """
    require("matplotlib", "report")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    photo = x.movedim(0, -1).clamp(0, 1).numpy()
    photo = photo.repeat(3, -1) if photo.shape[-1] == 1 else photo
    grey = photo.mean(-1)
    shown = plane(values).double()
    doubt = error.double().square().sum(0).sqrt() if error.ndim == 3 else error.double()
    limit = float(shown.abs().quantile(0.995)) or 1.0
    strength = (shown.clamp(min=0) / limit).clamp(max=1)
    figure = Figure(figsize=(11.4, 4.1), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    axes: Any = figure.subplots(1, 3)
    scale = Normalize(0, limit)
    axes[0].imshow(photo)
    axes[0].set_title("what the model was shown")
    axes[1].imshow(0.25 + 0.75 * grey, cmap="gray", vmin=0, vmax=1)
    axes[1].imshow(strength.numpy(), cmap=COLOURS, vmin=0, vmax=1, alpha=(0.9 * strength).numpy())
    clear = shown / doubt.clamp(min=1e-300)
    if bool((clear > CLEAR).any()) and bool((clear < CLEAR).any()):
        for colour, width in (("black", 2.8), ("white", 1.2)):  # seen on bright and on dark photos
            axes[1].contour(clear.numpy(), levels=[CLEAR], colors=colour, linewidths=width)
    stands_out = bool((clear > CLEAR).any())
    axes[1].set_title(f"where it looked ({'outlined: beyond chance' if stands_out else 'nothing is beyond chance'})")
    figure.colorbar(ScalarMappable(scale, COLOURS), ax=axes[1], shrink=0.8, label="effect on the score")
    axes[2].imshow(doubt.numpy(), cmap=COLOURS, norm=scale)
    axes[2].set_title("how unsure that is")
    figure.colorbar(ScalarMappable(scale, COLOURS), ax=axes[2], shrink=0.8, label="standard error, same scale")
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
    for side, what in enumerate(
        ("share of pixels removed, most important first", "share of pixels brought in, most important first")
    ):
        for number, (name, pair) in enumerate(curves.items()):
            colour = PALETTE[number % len(PALETTE)]
            label = f"{LABELS.get(name, name)}: area {pair[side].area:.3f}"
            axes[side].plot(100 * pair[side].share, pair[side].score, color=colour, label=label, linewidth=1.8)
        axes[side].set_xlabel(f"{what} [%]")
        axes[side].set_title(VERDICTS[side])
        axes[side].legend(frameon=False, fontsize=8)
        axes[side].grid(alpha=0.3)
    axes[0].set_ylabel("score of the explained answer")
    figure.savefig(path, dpi=110, metadata={"Software": None} if path.suffix == ".png" else {"Date": None})
