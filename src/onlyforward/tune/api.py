"""`onlyforward.tune(oracle, x, y, ...)` and `onlyforward.align(...)`: closed models from Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from onlyforward.core.checks import check_integer_labels, check_shape
from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.run.oracle import Account, Oracle
from onlyforward.tune.adapters import Adapter, Affine, make_adapter
from onlyforward.tune.alignment import AlignProblem, LinearMap, fit_map
from onlyforward.tune.export import load_adapter, save_adapter
from onlyforward.tune.loop import Allocated, Settings, Tuning
from onlyforward.tune.peers import make_step
from onlyforward.tune.problem import Classifier
from onlyforward.tune.shots import draw_shots
from onlyforward.tune.vision import RATES


@dataclass(frozen=True)
class TuneResult:
    """A tuned adapter; call it on images before they go to the model.

    Attributes:
        name: of the adapter.
        shape: of an image.
        theta: coordinates [k].
        history: one record per validation: step, queries, loss, accuracy.
        account: what the oracle was asked.
        kept_start: whether nothing beat the start on validation.
        validation_accuracy: of what is returned.
    """

    name: str
    shape: tuple[int, int, int]
    theta: Tensor
    history: Sequence[dict[str, float]] = ()
    account: Account = field(default_factory=Account)
    kept_start: bool = True
    validation_accuracy: float = float("nan")

    def adapter(self, x: Tensor) -> Tensor:
        """Images [n, c, h, w] as the model should see them."""
        return make_adapter(self.name, self.shape)(x, self.theta.expand(len(x), -1))

    def save(self, path: str | Path) -> None:
        """Write one safetensors file."""
        save_adapter(Path(path), self.name, self.theta, {"shape": torch.tensor(self.shape)})

    @staticmethod
    def load(path: str | Path) -> TuneResult:
        """Read what `save` wrote."""
        name, tensors = load_adapter(Path(path))
        c, h, w = tensors["shape"].tolist()
        return TuneResult(name, (c, h, w), tensors["theta"])


def tune(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    adapter: str = "affine",
    budget: int = 20_000,
    allocation: Any = "neyman",
    validation: float = 0.25,
    key: int | Key = 0,
    **settings: Any,
) -> TuneResult:
    """Put an adapter before a closed classifier, from a few labelled images and a fixed number of queries.

    Args:
        oracle: images [n, c, h, w] -> scores [n, classes].
        x: labelled images [m, c, h, w] in 0..1.
        y: their labels [m], int64.
        adapter: see `tune.adapters.make_adapter`.
        budget: queries, never exceeded.
        allocation: an allocator, or the name of one or of a competitor in `tune.peers`.
        validation: share of each class that decides what is returned.
        key: names every random number.
        settings: further fields of `tune.loop.Settings` (batch, copies, sigma, lr, patience ...).

    Raises:
        UsageError: shapes or labels that do not fit, too few images, or a budget below one step.
        BudgetSpent: the oracle's own limit ended the run; its `partial` holds the guard with the best so far.
    """
    check_shape(x, "m c h w", name="x")
    check_shape(y, "m", name="y", m=len(x))
    check_integer_labels(y, classes=int(y.max()) + 1, name="y")
    smallest = int(y.bincount().min())
    if smallest < 2:
        raise UsageError(f"Class {int(y.bincount().argmin())} has {smallest} images", "Give two or more of each class")
    named = key if isinstance(key, Key) else Key(run=key)
    shape = (x.shape[1], x.shape[2], x.shape[3])
    made: Adapter = make_adapter(adapter, shape)
    shots = draw_shots(y, shots=smallest, split=0, validation=validation)
    # Every image counts: classes with more than the smallest one train with all of them.
    kept = torch.isin(torch.arange(len(y)), shots.validation)
    problem = Classifier(
        oracle, lambda theta, items: made(x[items], theta), y, made.start, (~kept).nonzero().flatten(), shots.validation
    )
    lr, sigma = RATES[adapter.partition("+")[0].partition(":")[0]]
    chosen = replace(Settings(budget, lr=lr, sigma=sigma), **settings)
    if isinstance(allocation, str):
        step: Any = make_step(allocation, chosen, len(made.start), named)
    else:
        step = Allocated(allocation, chosen.copies, chosen.sigma)
    guard = Tuning(problem, step, chosen, named).run()
    return TuneResult(adapter, shape, guard.best, guard.history, oracle.account, guard.kept_start, guard.accuracy)


@dataclass(frozen=True)
class AlignResult:
    """A map between two closed encoders and an adapter before the first.

    Attributes:
        map: image vectors -> text space.
        theta: coordinates of the affine map of images [8], zeros where only the map was fitted.
        texts: unit vectors of the classes [c, d].
        history: one record per validation.
        account: what the image encoder was asked.
    """

    map: LinearMap
    theta: Tensor
    texts: Tensor
    history: Sequence[dict[str, float]]
    account: Account

    def adapter(self, x: Tensor) -> Tensor:
        """Images [n, c, h, w] as the image encoder should see them."""
        return Affine((x.shape[1], x.shape[2], x.shape[3]))(x, self.theta.expand(len(x), -1))

    def similarity(self, vectors: Tensor) -> Tensor:
        """Cosines [n, c] of image vectors [n, d_i] to the class texts."""
        return F.normalize(self.map(vectors), dim=1) @ self.texts.T


def align(
    image_oracle: Oracle,
    text_oracle: Callable[[Sequence[str]], Tensor],
    images: Tensor,
    texts: Sequence[str],
    *,
    labels: Tensor,
    upright: Tensor | None = None,
    adapter: str = "input",
    budget: int = 6000,
    allocation: Any = "neyman",
    validation: float = 0.25,
    key: int = 0,
) -> AlignResult:
    """Align a closed image encoder with a closed text encoder.

    Args:
        image_oracle: images [n, c, h, w] -> vectors [n, d_i].
        text_oracle: a list of texts -> vectors [n, d_t].
        images: labelled images [m, c, h, w].
        texts: one text a class.
        labels: class of each image [m].
        upright: images [m, c, h, w] that the map is fitted on (default: `images`); with them, `images` may be shifted.
        adapter: "output" (the map alone) or "input" (then also an affine map before the image encoder).
        budget: queries of the image encoder, those of the map's fit included.
        allocation: an allocator or its name.
        validation: share of each class that validates.
        key: names every random number.
    """
    if adapter not in ("output", "input"):
        raise UsageError(f"Unknown adapter {adapter!r}", "Give output or input")
    vectors = F.normalize(torch.as_tensor(text_oracle(list(texts))).double(), dim=1)
    check_integer_labels(labels, classes=len(vectors))
    shots = draw_shots(labels, shots=int(labels.bincount().min()), split=0, validation=validation)
    base = images if upright is None else upright
    x = image_oracle(base[shots.rows]).double()
    y, m = labels[shots.rows], len(shots.train)
    fitted, _ = fit_map(x[:m], y[:m], vectors, x[m:], y[m:], forward_only=True)
    made = Affine((images.shape[1], images.shape[2], images.shape[3]))
    if adapter == "output":
        return AlignResult(fitted, made.start, vectors, (), image_oracle.account)
    problem = AlignProblem(
        image_oracle, lambda theta, items: made(images[items], theta), labels, made.start, shots.train,
        shots.validation, fitted, vectors,
    )  # fmt: skip
    lr, sigma = RATES["affine"]
    settings = Settings(budget - len(shots.rows), lr=lr, sigma=sigma)
    if isinstance(allocation, str):
        step: Any = make_step(allocation, settings, len(made.start), Key(run=key))
    else:
        step = Allocated(allocation, settings.copies, settings.sigma)
    guard = Tuning(problem, step, settings, Key(run=key)).run()
    return AlignResult(fitted, guard.best, vectors, guard.history, image_oracle.account)
