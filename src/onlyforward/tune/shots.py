"""Labelled shots: so many of each class for training and validation, disjoint from one split to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from onlyforward.core.checks import check_range
from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key


@dataclass(frozen=True)
class Shots:
    """One split.

    Attributes:
        train: row numbers of the training shots.
        validation: row numbers of the validation shots, at least one a class.
    """

    train: Tensor
    validation: Tensor

    @property
    def rows(self) -> Tensor:
        """All row numbers, training first."""
        return torch.cat((self.train, self.validation))


def draw_shots(labels: Tensor, *, shots: int, split: int, validation: float = 0.25, names: Sequence[str] = ()) -> Shots:
    """Split number `split`: `shots` rows of every class, a share of them for validation.

    Splits 0, 1, 2, ... take disjoint rows until a class has none left; then its rows are shuffled anew.

    Args:
        labels: [rows], -1 is unlabelled.
        shots: of every class.
        split: its number.
        validation: share of the shots.
        names: of the classes, for messages.

    Raises:
        UsageError: a class has fewer rows than `shots`; it is named.
    """
    check_range(shots, name="--shots", low=2, why="one trains and one validates")
    check_range(split, name="split", low=0)
    check_range(validation, name="validation", low=0.0, high=0.9, open_low=True)
    held = min(shots - 1, max(1, round(validation * shots)))
    train, kept = [], []
    for label in range(int(labels.max()) + 1):
        rows = (labels == label).nonzero().flatten()
        if len(rows) < shots:
            name = names[label] if label < len(names) else str(label)
            raise UsageError(
                f"Class {name!r} has {len(rows)} examples and {shots} shots are asked for", "Lower --shots"
            )
        turn, place = divmod(split, len(rows) // shots)
        key = Key(run=turn, step=label, site="tune/shots")
        chosen = rows[torch.randperm(len(rows), generator=key.generator())[place * shots : (place + 1) * shots]]
        train.append(chosen[held:])
        kept.append(chosen[:held])
    return Shots(torch.cat(train), torch.cat(kept))
