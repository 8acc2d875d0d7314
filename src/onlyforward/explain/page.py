"""The plain reading of a report: what a non-specialist may conclude from a map, and what not."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from onlyforward.explain.evaluation import RANDOM, Judged
from onlyforward.explain.metrics import plane
from onlyforward.explain.overlay import LABELS

if TYPE_CHECKING:
    from onlyforward.explain.command import Explain
    from onlyforward.run.result import Result

SURE = 0.8
"""Cosine with the endless map from which a reader may trust the details."""
PLACES = (("top", "middle", "bottom"), ("left", "centre", "right"))


def where(judged: Judged) -> tuple[str, float]:
    """The ninth of the picture that holds most of the map, and its share of the positive mass."""
    values = plane(judged.map.map).clamp(min=0)
    height, width = values.shape
    best = ("everywhere", 0.0)
    for i in range(3):
        for j in range(3):
            part = values[i * height // 3 : (i + 1) * height // 3, j * width // 3 : (j + 1) * width // 3]
            share = float(part.sum() / values.sum().clamp(min=1e-300))
            if share > best[1]:
                place = f"{PLACES[0][i]} {PLACES[1][j]}" if (i, j) != (1, 1) else "centre"
                best = (place, share)
    return best


SOFT = " On photos, least squares on soft masks promised 0.1 too much (bench saliency --cases calibration)."
"""What the benchmark says of the certainty of such maps."""


def reading(done: list[Judged], options: Explain) -> tuple[str, list[str]]:
    """The answer in one sentence, and the notes that a reader needs."""
    first = done[0]
    place, share = where(first)
    sure, soft = first.map.full_cosine_estimate, first.map.choice.startswith("presence") and first.map.sure > 0
    queries = sum(one.queries for one in done)
    answer = (
        f'"{first.label or first.target}" (score {first.score_clean:.2f}) rests most on the {place} of {first.name} '
        f"({100 * share:.0f} % of the map); {queries} questions were paid."
    )
    if len(done) > 1:
        answer += f" {len(done)} pictures were explained."
    notes = [
        f"How it was done: {first.map.choice}; what is removed is replaced by {options.removal}.",
        f"How sure: with many more questions the map would look like this one to a cosine of about {sure:.2f} "
        f"({'much alike' if sure >= SURE else 'only roughly: ask more questions before you rely on details'}). "
        "That number sees chance alone: a coarse grid looks surer than it is." + (SOFT if soft else ""),
    ]
    if not math.isnan(first.map.residual):
        notes.append(
            f"What the map leaves unexplained: {100 * max(0.0, first.map.residual):.0f} % of the changes in score on "
            "questions that were held back."
        )
    if "faithfulness" in first.extra:
        better = first.extra["faithfulness"] - first.extra["random_faithfulness"]
        verdict = "is informative" if better > 0.05 else "is hardly better than guessing: do not rely on it"
        notes.append(
            f"Is it right? Removing what the map calls important lowers the score and bringing it in raises it by "
            f"{better:.2f} more than a random map does: this map {verdict}."
        )
    notes.append(
        "Limits: bright regions changed the answer when they were hidden; that is no proof of why, and says nothing "
        "about other pictures. With access to gradients, use the gradient."
    )
    return answer, notes


def tables(result: Result, done: list[Judged], rows: list[dict[str, float]]) -> None:
    """Is each map right, beside chance and competitors; and all numbers of each picture."""
    if any(one.curves for one in done):
        names = list(dict.fromkeys(name for one in done for name in one.curves))
        result.table(
            "Is the map right?",
            [
                "picture",
                "map",
                "score left while removing (lower is better)",
                "score while bringing in (higher is better)",
            ],
            [
                [
                    one.name,
                    "random maps (mean)" if name == "random" else LABELS.get(name, name),
                    one.extra[f"{prefix(name)}deletion"],
                    one.extra[f"{prefix(name)}insertion"],
                ]
                for one in done
                for name in names
                if f"{prefix(name)}deletion" in one.extra
            ],
            "Areas under the curves: pixels are removed, or brought in, in the order of their importance in a map. "
            f"Random maps know nothing: their row is the mean of {RANDOM}, the figure draws one.",
        )
    columns = [name for name in rows[0] if not name.endswith(("deletion", "insertion"))]
    result.table(
        "All numbers of each picture",
        ["number", *(one.name for one in done)],
        [["explained answer", *(one.label for one in done)]]
        + [[name.replace("_", " "), *(row.get(name, math.nan) for row in rows)] for name in columns],
    )


def prefix(name: str) -> str:
    """Of a curve's numbers."""
    return "" if name == "map" else f"{name.replace('-', '_')}_"
