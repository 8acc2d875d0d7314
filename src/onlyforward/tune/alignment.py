"""Alignment of two closed encoders: symmetric InfoNCE, its exact cotangent at each embedding, and the linear map.

The loss of a batch couples its data; its slope c_i at each embedding does not, once the clean embeddings are known:
the scalar <c_i, y_i(eps) - y_i(0)> is uncoupled from the batch and less noisy than differences of InfoNCE (derived).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from onlyforward.tune.problem import Count
from onlyforward.tune.scores import Objective


def info_nce(images: Tensor, texts: Tensor, labels: Tensor, scale: float) -> Tensor:
    """Symmetric InfoNCE of each image [b] against the class texts.

    Args:
        images: embeddings [b, d], of any length.
        texts: unit embeddings of the classes [c, d].
        labels: class of each image [b].
        scale: inverse temperature.

    Returns:
        Half the cross-entropy of an image over the classes plus half that of its class over the batch's images: images
        of one class share that class's probability.
    """
    similarity = scale * F.normalize(images, dim=1) @ texts.T
    forward = F.cross_entropy(similarity, labels, reduction="none")
    over_images = similarity[:, labels].log_softmax(0)
    same = labels[:, None] == labels[None]
    backward = -torch.logsumexp(over_images.masked_fill(~same, -torch.inf), 0)
    return (forward + backward) / 2


def cotangent(images: Tensor, texts: Tensor, labels: Tensor, scale: float) -> Tensor:
    """Slope of the summed symmetric InfoNCE at each embedding [b, d], by formula.

    With p the class probabilities of an image, q_kj the probability of image k for the class of image j, and r_kj the
    same among the images of that class: d/ds = (p - onehot) / 2 and sum over j of (q_kj - r_kj) / 2.
    """
    unit = F.normalize(images, dim=1)
    similarity = scale * unit @ texts.T
    slope = similarity.softmax(1) - F.one_hot(labels, len(texts))
    own = similarity[:, labels]
    same = labels[:, None] == labels[None]
    back = own.softmax(0) - own.masked_fill(~same, -torch.inf).softmax(0)
    slope = slope.index_add(1, labels, back) / 2
    along = scale * slope @ texts
    # Through the normalisation: only what is at a right angle to the embedding counts.
    return (along - (along * unit).sum(1, keepdim=True) * unit) / images.norm(dim=1, keepdim=True)


@dataclass(frozen=True)
class Aligned(Objective):
    """A batch whose cotangent is known.

    Attributes:
        images: clean mapped embeddings [b, d].
        slope: cotangent [b, d].
    """

    images: Tensor
    slope: Tensor

    def signal(self, answers: Tensor, place: Tensor) -> Tensor:
        """<c_i, y_i(eps) - y_i(0)>, [n]."""
        return (self.slope[place] * (answers - self.images[place])).sum(1)


@dataclass(frozen=True)
class LinearMap:
    """Image embeddings into the space of texts: ((x - mean) / scale) W' + b.

    Attributes:
        mean: [d_i].
        scale: [d_i].
        weight: [d_t, d_i].
        bias: [d_t].
        inverse_temperature: learned with the map.
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor
    inverse_temperature: float

    def __call__(self, x: Tensor) -> Tensor:
        """Embeddings [n, d_i] -> [n, d_t]."""
        return ((x.double() - self.mean) / self.scale) @ self.weight.T + self.bias


RANK, STEPS, RATE, DECAY = 16, 300, 0.02, 1e-2


def fit_map(
    x: Tensor, y: Tensor, texts: Tensor, kept: Tensor, kept_y: Tensor, *, forward_only: bool, copies: int = 16
) -> tuple[LinearMap, float]:
    """A low-rank map W = A B of frozen embeddings, fitted on shots, the best state by validation kept.

    Args:
        x: embeddings of the training shots [m, d_i].
        y: their classes.
        texts: unit class embeddings [c, d_t].
        kept: embeddings of the validation shots.
        kept_y: their classes.
        forward_only: estimate the slope at the mapped embeddings by likelihood ratio (no derivative of the loss);
            otherwise the exact white-box gradient, which wins on cost.
        copies: perturbed losses per datum and step of the forward-only form; no encoder is asked.
    """
    generator = torch.Generator().manual_seed(0)
    mean, scale = x.double().mean(0), x.double().std(0).clamp(min=1e-6)
    z, d_i, d_t = (x.double() - mean) / scale, x.shape[1], texts.shape[1]
    a = torch.randn(d_t, RANK, generator=generator, dtype=torch.float64) / RANK**0.5
    b = torch.randn(RANK, d_i, generator=generator, dtype=torch.float64) * (0.3 / d_i**0.5)
    bias, log_t = torch.zeros(d_t, dtype=torch.float64), torch.tensor(2.3, dtype=torch.float64)
    leaves = [t.requires_grad_(True) for t in (a, b, bias, log_t)]
    optimizer = torch.optim.Adam(leaves, lr=RATE, weight_decay=DECAY)
    best, least = None, float("inf")
    for step in range(STEPS):
        with torch.no_grad():
            inner = z @ b.T
            mapped = inner @ a.T + bias
            t = float(log_t.exp())
            if forward_only:
                slope = noisy_slope(mapped, texts, y, t, copies, generator)
            else:
                slope = cotangent(mapped, texts, y, t)
            slope = slope / len(y)
            a.grad, b.grad, bias.grad = slope.T @ inner, (slope @ a).T @ z, slope.sum(0)
            log_t.grad = (info_nce(mapped, texts, y, t * 1.001) - info_nce(mapped, texts, y, t)).mean() / 0.001
        optimizer.step()
        if step % 10 == 9:
            with torch.no_grad():
                made = LinearMap(mean, scale, (a @ b).detach().clone(), bias.detach().clone(), float(log_t.exp()))
                loss = float(
                    F.cross_entropy(made.inverse_temperature * F.normalize(made(kept), dim=1) @ texts.T, kept_y)
                )
            if loss < least:
                best, least = made, loss
    assert best is not None
    return best, least


def noisy_slope(mapped: Tensor, texts: Tensor, y: Tensor, t: float, copies: int, generator: torch.Generator) -> Tensor:
    """Likelihood ratio at the mapped embeddings: each datum moves alone in mirrored pairs, [b, d_t].

    sigma is a twentieth of the embeddings' root-mean-square entry; only the datum's own image-to-text loss is read.
    """
    sigma = 0.05 * float(mapped.square().mean().sqrt()) + 1e-9
    total = torch.zeros_like(mapped)
    for _ in range(copies // 2):
        eps = torch.randn(mapped.shape, generator=generator, dtype=torch.float64)
        both = [
            F.cross_entropy(t * F.normalize(mapped + sign * sigma * eps, dim=1) @ texts.T, y, reduction="none")
            for sign in (1, -1)
        ]
        total += ((both[0] - both[1]) / (2 * sigma))[:, None] * eps
    return total / (copies // 2)


@dataclass
class AlignProblem:
    """A closed image encoder behind an adapter, a frozen map behind it, and class texts.

    Attributes:
        oracle: images -> embeddings.
        rows: (coordinates, items) -> images.
        labels: [items].
        start: [k].
        train: item numbers.
        validation: item numbers.
        mapped: the frozen map.
        texts: (coordinates [k]) -> unit class embeddings [c, d].
        count: rows asked.
    """

    oracle: Callable[[Tensor], Tensor]
    rows: Callable[[Tensor, Tensor], Tensor]
    labels: Tensor
    start: Tensor
    train: Tensor
    validation: Tensor
    mapped: LinearMap
    texts: Tensor
    count: Count = field(default_factory=Count)

    def ask(self, coordinates: Tensor, items: Tensor) -> Tensor:
        """Mapped embeddings [n, d] of the adapted items."""
        theta = coordinates.expand(len(items), -1) if coordinates.dim() == 1 else coordinates
        answers = self.oracle(self.rows(theta, items))
        self.count.add(answers)
        return self.mapped(answers)

    def prepare(self) -> None:
        """Nothing must be known first."""

    def objective(self, clean: Tensor, items: Tensor) -> Objective:
        """Symmetric InfoNCE and its cotangent; the proxy of a datum's noise is |c_i|."""
        y, t = self.labels[items], self.mapped.inverse_temperature
        slope = cotangent(clean, self.texts, y, t)
        return Aligned(info_nce(clean, self.texts, y, t), slope.norm(dim=1), clean, slope)

    def measure(self, answers: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Image-to-text cross-entropy and hits."""
        scores = self.mapped.inverse_temperature * F.normalize(answers, dim=1) @ self.texts.T
        y = self.labels[items]
        return F.cross_entropy(scores, y, reduction="none"), (scores.argmax(1) == y).double()


def recalls(images: Tensor, texts: Tensor, labels: Tensor) -> dict[str, Any]:
    """Recall at 1 both ways and the median rank of the right class.

    Args:
        images: mapped embeddings [n, d].
        texts: unit class embeddings [c, d].
        labels: [n].
    """
    similarity = F.normalize(images, dim=1) @ texts.T
    own = similarity.gather(1, labels[:, None])
    rank = 1 + (similarity > own).sum(1)
    back = labels[similarity.argmax(0)] == torch.arange(len(texts))
    return {
        "recall1": float((rank == 1).double().mean()),
        "recall1_text": float(back.double().mean()),
        "median_rank": float(rank.double().median()),
    }
