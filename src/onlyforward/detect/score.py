"""Scores from latents, corrected for shots, and thresholds whose false-alarm rate holds; higher = more anomalous."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onlyforward.core.checks import require
from onlyforward.core.keys import Key

FOLDS = 5


@dataclass(frozen=True)
class Law:
    """What the scores compare with.

    Attributes:
        center: of the objective's features, for the distance score.
        location: [m], mean of the training latents.
        precision: [m, m], inverse of their Ledoit-Wolf covariance.
    """

    center: np.ndarray
    location: np.ndarray
    precision: np.ndarray


def distance(latent: np.ndarray, center: np.ndarray, shots: int | None = None) -> np.ndarray:
    """|f - c|^2 over the features of the centre, the first of the latents: [b].

    Under S shots E|f^ - c|^2 = |f - c|^2 + sum_j (1 - f_j^2) / S, so sum_j (1 - f^_j^2) / (S - 1) is subtracted:
    unbiased, and therefore it may be negative.
    """
    f = latent[:, : len(center)]
    score: np.ndarray = ((f - center) ** 2).sum(1)
    return score if shots is None else score - (1 - f**2).sum(1) / (shots - 1)


def mahalanobis(
    latent: np.ndarray, location: np.ndarray, precision: np.ndarray, spread: np.ndarray | None = None
) -> np.ndarray:
    """(f - m)^T W (f - m): [b]; `spread` [b, m, m], the covariance of f^ under shots, is taken out by tr(W C^).

    The whole covariance is needed: Z_j and Z_j Z_k come from the same bitstrings.
    """
    centred = latent - location
    score: np.ndarray = ((centred @ precision) * centred).sum(1)
    return score if spread is None else score - (spread * precision).sum((1, 2))


def fit_law(latent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Location [m] and Ledoit-Wolf precision [m, m] of training latents, in float64.

    Shot noise of the training latents is left in: it belongs to what the device shows.
    """
    covariance = require("sklearn.covariance", "data")
    shrunk = covariance.LedoitWolf().fit(latent).covariance_
    floor = 1e-12 * max(float(np.trace(shrunk)) / len(shrunk), 1e-300)
    return latent.mean(0), np.linalg.pinv(shrunk + floor * np.eye(len(shrunk)), hermitian=True)


def crossfit(latent: np.ndarray, key: Key, spread: np.ndarray | None = None) -> np.ndarray:
    """Mahalanobis scores [N] of rows that the law of their fold has not seen: 5 folds, refitted on the other 4."""
    count = len(latent)
    folds = np.array_split(key.at(site="crossfit").numpy().permutation(count), min(FOLDS, count))
    scores = np.empty(count)
    for fold in folds:
        others = np.setdiff1d(np.arange(count), fold)
        location, precision = fit_law(latent[others])
        scores[fold] = mahalanobis(latent[fold], location, precision, None if spread is None else spread[fold])
    return scores


def threshold(scores: np.ndarray, nu: float) -> float:
    """The ceil((1 - nu)(N + 1))-th smallest of N scores of normal rows, the largest where N is too small.

    Under exchangeability a further normal row exceeds it with probability at most nu (split conformal prediction:
    Papadopoulos et al. 2002); the plain quantile is too low by about (1 - nu) / N.
    """
    ordered = np.sort(scores)
    rank = int(np.ceil((1 - nu) * (len(ordered) + 1) - 1e-9))
    return float(ordered[min(rank, len(ordered)) - 1])
