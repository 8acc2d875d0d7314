"""Scores of answers in words: how alike they are to a reference, how probable, what they choose, contain or count."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from onlyforward.core.errors import UsageError

CHARACTERS = (3, 4)
"""Lengths of the character n-grams beside words and pairs of words."""


def grams(text: str) -> Counter[str]:
    """Words, pairs of words and character n-grams with their counts."""
    words = re.findall(r"\w+", text.lower())
    found = Counter(f"w {word}" for word in words)
    found.update(f"p {a} {b}" for a, b in itertools.pairwise(words))
    joined = f" {' '.join(words)} "
    for length in CHARACTERS:
        found.update(f"c {joined[i : i + length]}" for i in range(len(joined) - length + 1))
    return found


def similarity(text: str, reference: str) -> float:
    """Cosine of the term frequencies of two texts, in 0..1; 0 for an empty one."""
    left, right = grams(text), grams(reference)
    product = sum(count * right[gram] for gram, count in left.items())
    norm = math.sqrt(sum(c * c for c in left.values()) * sum(c * c for c in right.values()))
    return product / norm if norm else 0.0


class AnswerScore:
    """Answers of a chat endpoint -> scores [n]; refusals and empty answers score 0.

    Args:
        kind: similarity, logprob, choice:A|B|C, contains:WORD or number.
        reference: the text to be similar to.
        alike: (text, reference) -> likeness, instead of n-grams.

    Raises:
        UsageError: unknown, or without what it needs.
    """

    def __init__(self, kind: str, reference: str = "", *, alike: Callable[[str, str], float] | None = None) -> None:
        self.alike = alike or similarity
        self.kind, _, self.detail = kind.partition(":")
        self.reference = reference
        if self.kind not in ("similarity", "logprob", "choice", "contains", "number"):
            known = "similarity, logprob, choice:A|B, contains:WORD and number"
            raise UsageError(f"Unknown score {kind!r} for a chat endpoint", f"Known are {known}")
        if self.kind in ("choice", "contains") and not self.detail:
            raise UsageError(f"The score {self.kind} needs words", f"Give {self.kind}:WORD")

    def __call__(self, answers: Sequence[Any]) -> Tensor:
        """Scores [n]; NaN where an answer lacks what the score reads."""
        return torch.tensor([self.one(answer) for answer in answers], dtype=torch.float64)

    def one(self, answer: dict[str, Any]) -> float:
        """The score of one answer."""
        text = str(answer["text"])
        if answer.get("refused"):
            return 0.0
        if self.kind == "similarity":
            return self.alike(text, self.reference)
        if self.kind == "contains":
            return float(re.search(rf"\b{re.escape(self.detail.lower())}\b", text.lower()) is not None)
        if self.kind == "number":
            found = re.search(r"-?\d+(?:\.\d+)?", text)
            return float(found.group()) if found else math.nan
        parts = answer.get("logprobs") or []
        if not parts:
            return math.nan
        if self.kind == "logprob":
            return math.exp(sum(part["logprob"] for part in parts) / len(parts))
        options = self.detail.split("|")
        top = {token.strip(): value for token, value in parts[0]["top"].items()}
        mass = {option: math.exp(top[option]) for option in options if option in top}
        return mass.get(options[0], 0.0) / sum(mass.values()) if mass else math.nan
