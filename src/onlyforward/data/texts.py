"""Texts as numbers: reading labelled sentences, the vocabulary of the training part, padded word numbers."""

from __future__ import annotations

import csv
import gzip
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from onlyforward.core.errors import FileError
from onlyforward.data.sets import Dataset, split_rows

if TYPE_CHECKING:
    from torch import Tensor

Labelled = tuple[list[str], list[str]]
"""Sentences and their labels, both as text."""

WORDS = 64
"""Words of a text that are kept."""
VOCABULARY = 20_000
"""Size of a vocabulary at most, padding and unknown included."""


def read_texts(path: Path) -> Labelled:
    """Sentence and label of each line of a TSV or CSV file (gzip or not); a header "text,label" is skipped.

    Raises:
        FileError: no such file, not UTF-8, or a line without a label; the message names the line.
    """
    texts, labels = [], []
    name = path.name.removesuffix(".gz")
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            quoting = csv.QUOTE_NONE if name.endswith(".tsv") else csv.QUOTE_MINIMAL
            rows = csv.reader(file, delimiter="\t" if name.endswith(".tsv") else ",", quoting=quoting)
            for number, row in enumerate(rows, start=1):
                if not row or (number == 1 and [cell.strip().lower() for cell in row[:2]] in HEADERS):
                    continue
                if len(row) != 2 or not row[0].strip() or not row[1].strip():
                    raise FileError(f"{path}: line {number} has {len(row)} fields", "Each line is a text and its label")
                texts.append(row[0].strip())
                labels.append(row[1].strip())
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise FileError(f"{path} cannot be read: {error}", "Give UTF-8 text with a label on each line") from error
    if not texts:
        raise FileError(f"{path} is empty", "Each line is a text and its label")
    return texts, labels


HEADERS = (["text", "label"], ["sentence", "label"])


def read_ag_news(path: Path) -> Labelled:
    """Title and description as one text, class 1-4 as label "0".."3"."""
    texts, labels = [], []
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            for number, row in enumerate(csv.reader(file), start=1):
                if len(row) != 3 or row[0] not in {"1", "2", "3", "4"}:
                    raise FileError(f"{path}: line {number} is not class, title, description", "Fetch it again")
                texts.append(f"{row[1]} {row[2]}".replace("\\", " ").strip())
                labels.append(str(int(row[0]) - 1))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise FileError(f"{path} cannot be read: {error}", "Fetch it again") from error
    return texts, labels


def words(text: str) -> list[str]:
    """Lower-case words between white space, punctuation at their ends as words of its own."""
    found = []
    for piece in text.lower().split():
        core = piece.strip(".,;:!?\"'()[]-")
        found += [core] if core else [piece]
    return found


def vocabulary_of(texts: Sequence[str]) -> tuple[str, ...]:
    """The words of the training texts, most frequent first, ties in alphabetical order; 0 pads, 1 is unknown."""
    counts = Counter(word for text in texts for word in words(text))
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return ("<pad>", "<unknown>", *ranked[: VOCABULARY - 2])


def encode(texts: Sequence[str], vocabulary: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Word numbers [b, WORDS], padded with 0 behind, and lengths [b]."""
    number = {word: k for k, word in enumerate(vocabulary)}
    x = torch.zeros(len(texts), WORDS, dtype=torch.long)
    lengths = torch.ones(len(texts), dtype=torch.long)
    for row, text in enumerate(texts):
        known = [number.get(word, 1) for word in words(text)[:WORDS]] or [1]
        x[row, : len(known)] = torch.tensor(known)
        lengths[row] = len(known)
    return x, lengths


def text_set(name: str, train: Labelled, test: Labelled, labels: tuple[str, ...], source: str) -> Dataset:
    """A text set with the vocabulary of its training part; labels are numbers written as text."""
    vocabulary = vocabulary_of(train[0])
    x_train, lengths_train = encode(train[0], vocabulary)
    x_test, lengths_test = encode(test[0], vocabulary)
    return Dataset(
        name,
        "text",
        x_train,
        torch.tensor([int(label) for label in train[1]]),
        x_test,
        torch.tensor([int(label) for label in test[1]]),
        len(labels),
        labels,
        source,
        vocabulary=vocabulary,
        lengths_train=lengths_train,
        lengths_test=lengths_test,
        texts_train=tuple(train[0]),
        texts_test=tuple(test[0]),
    )


def read_text_file(path: Path, seed: int) -> Dataset:
    """A user's CSV or TSV of texts and labels, split 75/25 by `seed`; "-1" is unlabelled and left out."""
    texts, labels = read_texts(path)
    known = [i for i, label in enumerate(labels) if label != "-1"]
    names = sorted(
        {labels[i] for i in known}, key=lambda label: (len(label), label) if label.isdigit() else (99, label)
    )
    if len(names) < 2 or len(names) > max(2, len(known) // 2):
        raise FileError(f"{path} has {len(names)} different labels in {len(known)} lines", "Give a text and its label")
    number = {label: str(k) for k, label in enumerate(names)}
    parts = []
    for rows in split_rows(len(known), seed):
        chosen = [known[int(row)] for row in rows]
        parts.append(([texts[i] for i in chosen], [number[labels[i]] for i in chosen]))
    return text_set(path.name.split(".")[0], parts[0], parts[1], tuple(names), str(path))
