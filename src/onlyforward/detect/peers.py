"""Classical detectors behind one call, on the same rows; a peer that is not installed is listed as such, never won.

Pixels come as given; `ledoitwolf`, `pca` and `cosine` divide rows by their norm first where they are images.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from onlyforward.core.checks import check_choice, require

Scorer = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Peer:
    """One peer on one task.

    Attributes:
        name: its name.
        scores: [b] of the test rows, higher = more anomalous; None if it is not installed.
        flagged: [b] bool by the peer's own threshold, where it has one.
        parameters: fitted numbers, for the table.
        seconds: CPU seconds of fit and scoring.
    """

    name: str
    scores: np.ndarray | None
    flagged: np.ndarray | None
    parameters: int | None
    seconds: float


def ocsvm(train: np.ndarray, test: np.ndarray, image: bool, seed: int) -> tuple:
    """One-class SVM, RBF kernel, gamma "scale", nu .1."""
    svm = require("sklearn.svm", "data")
    model = svm.OneClassSVM(gamma="scale", nu=0.1).fit(train)
    scores = -model.score_samples(test)
    return scores, model.predict(test) < 0, int(model.support_vectors_.size + len(model.support_vectors_))


def iforest(train: np.ndarray, test: np.ndarray, image: bool, seed: int) -> tuple:
    """Isolation forest, 100 trees."""
    ensemble = require("sklearn.ensemble", "data")
    model = ensemble.IsolationForest(n_estimators=100, random_state=seed).fit(train)
    nodes = sum(tree.tree_.node_count for tree in model.estimators_)
    return -model.score_samples(test), model.predict(test) < 0, int(2 * nodes)


def kde(train: np.ndarray, test: np.ndarray, image: bool, seed: int) -> tuple:
    """Gaussian kernel density, bandwidth .5 sqrt(d) std."""
    neighbors = require("sklearn.neighbors", "data")
    bandwidth = max(0.5 * np.sqrt(train.shape[1]) * train.std(), 1e-12)
    model = neighbors.KernelDensity(bandwidth=bandwidth).fit(train)
    return -model.score_samples(test), None, int(train.size)


def pca(train: np.ndarray, test: np.ndarray, image: bool, seed: int) -> tuple:
    """Reconstruction error of 21 components (64 columns or fewer) or 36."""
    decomposition = require("sklearn.decomposition", "data")
    train, test = (normed(rows) if image else rows for rows in (train, test))
    wanted = 21 if train.shape[1] <= 64 else 36
    count = min(wanted, train.shape[1] - 1 if image else max(1, train.shape[1] // 2), len(train) - 1)
    model = decomposition.PCA(count, random_state=seed).fit(train)
    rest = test - model.inverse_transform(model.transform(test))
    return (rest**2).sum(1), None, int(model.components_.size + model.mean_.size)


def ledoitwolf(train: np.ndarray, test: np.ndarray, image: bool, seed: int) -> tuple:
    """Mahalanobis distance with the Ledoit-Wolf covariance."""
    covariance = require("sklearn.covariance", "data")
    train, test = (normed(rows) if image else rows for rows in (train, test))
    model = covariance.LedoitWolf().fit(train)
    d = train.shape[1]
    return model.mahalanobis(test), None, d + d * (d + 1) // 2


def cosine(train: np.ndarray, test: np.ndarray, image: bool, seed: int) -> tuple:
    """Angle to the mean row."""
    template = normed(train).mean(0)
    return -(normed(test) @ template), None, len(template)


def deepsvdd(
    train: np.ndarray, test: np.ndarray, image: bool, seed: int, hidden: tuple[int, ...] | None = None
) -> tuple:
    """PyOD's DeepSVDD at its defaults (or other hidden layers)."""
    module = require("pyod.models.deep_svdd", "peers")
    import torch

    torch_state = torch.get_rng_state()
    extra = {} if hidden is None else {"hidden_neurons": list(hidden)}
    with contextlib.redirect_stdout(io.StringIO()):
        model = module.DeepSVDD(n_features=train.shape[1], random_state=seed, verbose=0, **extra).fit(train)
        scores = model.decision_function(test)
    torch.set_rng_state(torch_state)
    size = sum(p.numel() for p in model.model_.parameters())
    return scores, scores > model.threshold_, int(size)


PEERS: dict[str, Callable[..., tuple]] = {
    "ocsvm": ocsvm,
    "iforest": iforest,
    "kde": kde,
    "pca": pca,
    "ledoitwolf": ledoitwolf,
    "cosine": cosine,
    "deepsvdd": deepsvdd,
}
NAMES = (*PEERS, "untrained")


def normed(x: np.ndarray) -> np.ndarray:
    """Rows divided by their norm."""
    norm = np.sqrt((x**2).sum(1, keepdims=True))
    result: np.ndarray = x / np.where(norm > 0, norm, 1.0)
    return result


def chosen(words: str) -> list[str]:
    """The peers of a comma-separated list."""
    return [check_choice(word.strip(), NAMES, name="peer") for word in words.split(",") if word.strip()]


def run_peer(name: str, train: np.ndarray, test: np.ndarray, *, image: bool, seed: int, **extra: object) -> Peer:
    """Fit one peer and score the test rows."""
    begin = time.process_time()
    try:
        scores, flagged, size = PEERS[name](train, test, image, seed, **extra)
    except ImportError:
        return Peer(name, None, None, None, 0.0)
    return Peer(name, np.asarray(scores), flagged, size, time.process_time() - begin)
