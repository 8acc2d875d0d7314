"""Pictures of a detector: its scores, its circuit, and the rows that it finds most anomalous."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from onlyforward.core.checks import require
from onlyforward.detect.ansatz import Ansatz
from onlyforward.report.figures import SETTINGS
from onlyforward.report.style import PALETTE
from onlyforward.run.result import Result


def save(figure: Any, path: Path) -> None:
    """Write a figure as SVG with the same bytes for the same content, or as PNG."""
    if path.suffix == ".png":
        figure.savefig(path, metadata={"Software": None}, dpi=110)
    else:
        figure.savefig(path, metadata={"Date": None, "Creator": None})


def fresh(width: float, height: float) -> Any:
    """An empty figure that needs no display."""
    require("matplotlib", "report")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def histogram(path: Path, groups: dict[str, np.ndarray], threshold: float) -> None:
    """Scores by group with the threshold as a line; the right tail beyond the 99 % quantile is cut off."""
    from matplotlib import rc_context

    with rc_context(SETTINGS):
        figure = fresh(7.0, 3.4)
        axes = figure.add_subplot()
        everything = np.concatenate(list(groups.values()))
        high = max(float(np.quantile(everything, 0.99)), threshold * 1.3)
        bins = np.linspace(float(everything.min()), high, 50)
        for i, (name, scores) in enumerate(groups.items()):
            axes.hist(np.minimum(scores, high), bins, density=True, alpha=0.55, color=PALETTE[i], label=name)
        axes.axvline(threshold, color="black", linestyle="--", label=f"threshold {threshold:.3g}")
        axes.set_xlabel("score (higher = more anomalous)")
        axes.set_ylabel("density")
        axes.legend(frameon=False)
        save(figure, path)


def pictures(path: Path, images: np.ndarray, titles: list[str]) -> None:
    """Images [k, h, w] side by side with a line of text each."""
    columns = min(6, len(images))
    rows = -(-len(images) // columns)
    figure = fresh(1.4 * columns, 1.75 * rows)
    for i, (image, title) in enumerate(zip(images, titles, strict=True)):
        axes = figure.add_subplot(rows, columns, i + 1)
        axes.imshow(image, cmap="gray_r", interpolation="nearest")
        axes.set_title(title, fontsize=8)
        axes.axis("off")
    save(figure, path)


def circuit(path: Path, ansatz: Ansatz) -> None:
    """One layer gate by gate; the others are like it."""
    one = Ansatz(ansatz.family, ansatz.n, 1)
    figure = fresh(7.0, 0.42 * ansatz.n + 0.7)
    axes = figure.add_subplot()
    free = [0] * ansatz.n
    for gate in one.gates():
        low, high = min(gate.wires), max(gate.wires)
        column = max(free[low : high + 1])
        for wire in range(low, high + 1):
            free[wire] = column + 1
        if gate.name == "cx":
            control, target = gate.wires
            axes.plot([column, column], [control, target], color="black", linewidth=1)
            axes.plot(column, control, "o", color="black", markersize=5)
            axes.plot(column, target, "o", color="white", markeredgecolor="black", markersize=10)
            axes.plot(column, target, "+", color="black", markersize=10)
        else:
            box = {"boxstyle": "square,pad=0.25", "facecolor": "#dcebf7", "edgecolor": PALETTE[0]}
            axes.text(column, gate.wires[0], gate.name.upper(), ha="center", va="center", fontsize=8, bbox=box)
    for wire in range(ansatz.n):
        axes.plot([-0.8, max(free) - 0.2], [wire, wire], color="grey", linewidth=0.8, zorder=0)
    axes.set_ylim(ansatz.n - 0.4, -0.6)
    axes.set_yticks(range(ansatz.n), [f"q{i}" for i in range(ansatz.n)])
    axes.set_xticks([])
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_title(f"one of {ansatz.layers} layers of {ansatz.family}, {ansatz.parameters} angles in all", fontsize=9)
    save(figure, path)


def curves(result: Result, anomalous: np.ndarray, scores: np.ndarray, history: list[float], label: str) -> None:
    """Loss, ROC and precision-recall as curves of the report."""
    from sklearn.metrics import precision_recall_curve, roc_curve

    result.curve("Training loss", label, range(1, len(history) + 1), history, x_label="epoch", y_label="mean loss")
    if 0 < anomalous.sum() < len(anomalous):
        false_alarms, found, _ = roc_curve(anomalous, scores)
        some = np.unique(np.linspace(0, len(found) - 1, 200).astype(int))
        result.curve(
            "ROC", label, false_alarms[some], found[some], x_label="false-alarm rate", y_label="detection rate"
        )
        precision, recall, _ = precision_recall_curve(anomalous, scores)
        some = np.unique(np.linspace(0, len(recall) - 1, 200).astype(int))
        result.curve(
            "Precision and recall", label, recall[some], precision[some], x_label="recall", y_label="precision"
        )
