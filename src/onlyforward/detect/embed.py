"""From a row to a state: scale, keep the length, pad to 2^n, divide by the norm.

Amplitude embedding throws the length of a row away, and a standardised row without its length tells little: the
offset amplitude keeps it, (s, r) / sqrt(|s|^2 + r^2).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from onlyforward.core.checks import check_choice, check_range
from onlyforward.core.errors import UsageError

PREPROCESSES = ("offset", "l2_offset", "l2", "gcn_tanh")
OFFSETS = {"offset": 2.0, "l2_offset": 0.7}


@dataclass(frozen=True)
class Embedding:
    """A fitted preprocessing: rows [b, d] to amplitudes [b, 2^n].

    Attributes:
        kind: offset, l2_offset, l2 or gcn_tanh.
        n: number of qubits.
        shape: (height, width) after resizing, or () without.
        image: (height, width) of the rows as images, or ().
        fitted: name -> array: mean, std, components, offset, low, high, as the kind needs.
    """

    kind: str
    n: int
    shape: tuple[int, ...]
    image: tuple[int, ...]
    fitted: Mapping[str, np.ndarray]

    @property
    def statistics(self) -> int:
        """How many numbers were fitted."""
        return int(sum(value.size for value in self.fitted.values()))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Amplitudes [b, 2^n] in float64, every row of norm 1.

        Raises:
            ValueError: rows of norm 0, which have no direction (preprocess "l2"); their numbers are given.
        """
        values = self.scaled(np.asarray(x, dtype=np.float64))
        fill = 0.5 if self.kind == "gcn_tanh" else 0.0
        padded = np.full((len(values), 2**self.n), fill)
        padded[:, : values.shape[1]] = values
        norm = np.sqrt((padded**2).sum(1, keepdims=True))
        dark = np.flatnonzero(norm[:, 0] == 0)
        if len(dark):
            raise UsageError(
                f"Rows {', '.join(map(str, dark[:5]))} have norm 0", "Drop them, or use preprocess='l2_offset'"
            )
        return padded / norm

    def scaled(self, x: np.ndarray) -> np.ndarray:
        """Columns before padding, the offset amplitude last where there is one."""
        fitted = self.fitted
        if self.kind == "offset":
            scaled = standardised(x, fitted["mean"], fitted["std"])
            if "components" in fitted:
                scaled = (scaled - fitted["component_mean"]) @ fitted["components"].T
            return appended(scaled, float(fitted["offset"]))
        if self.shape:
            x = resized(x, self.image, self.shape)
        if self.kind == "l2_offset":
            return appended(x, float(fitted["offset"]))
        if self.kind == "gcn_tanh":
            low, high = float(fitted["low"]), float(fitted["high"])
            return np.tanh((contrast(x) - low) / (high - low)) * (math.pi / 2)
        return x


def fit_embedding(
    x: np.ndarray,
    *,
    kind: str,
    n_qubits: int | None = None,
    offset: float | None = None,
    reduce: str | None = None,
    image_shape: tuple[int, int] | None = None,
) -> Embedding:
    """Fit a preprocessing on training rows [N, d].

    Args:
        x: training rows.
        kind: offset, l2_offset, l2 or gcn_tanh.
        n_qubits: n; None is the smallest that holds the columns, at least 2.
        offset: rho; None is 2 for offset and 0.7 for l2_offset.
        reduce: "pca" projects to 2^n - 1 columns (kind offset only).
        image_shape: (height, width) of a row; None is the square for l2 kinds where the number of columns is one.

    Raises:
        ValueError: more columns than amplitudes.
    """
    check_choice(kind, PREPROCESSES, name="preprocess")
    if reduce is not None:
        check_choice(reduce, ("pca",), name="reduce")
        if kind != "offset" or n_qubits is None:
            raise UsageError(f"reduce={reduce!r} with preprocess={kind!r}", "It needs preprocess='offset' and n_qubits")
    x = np.asarray(x, dtype=np.float64)
    d = x.shape[1]
    rho = OFFSETS.get(kind, 0.0) if offset is None else float(offset)
    check_range(rho, name="offset", low=0.0)
    extra = 1 if kind in OFFSETS else 0
    n = max(2, math.ceil(math.log2(d + extra))) if n_qubits is None else n_qubits
    image, shape = image_plan(kind, d, n, image_shape)
    columns = (math.prod(shape) if shape else d) + extra
    fitted: dict[str, np.ndarray] = {}
    if kind == "offset":
        fitted, columns = fit_table(x, rho, 2**n - 1 if reduce else None)
    elif kind == "l2_offset":
        seen = resized(x, image, shape) if shape else x
        fitted["offset"] = np.array(rho * np.sqrt((seen**2).sum(1)).mean())
    elif kind == "gcn_tanh":
        seen = contrast(resized(x, image, shape) if shape else x)
        fitted |= {"low": np.array(seen.min()), "high": np.array(max(seen.max(), seen.min() + 1e-12))}
    if columns > 2**n:
        raise UsageError(
            f"{columns} columns (the offset included) do not fit {n} qubits",
            f"Give n_qubits={math.ceil(math.log2(columns))}, or reduce='pca' with preprocess='offset'",
        )
    if columns < 2 ** (n - 1) and n_qubits is not None:
        warnings.warn(f"{columns} of {2**n} amplitudes are used; n_qubits={n - 1} would do", stacklevel=3)
    return Embedding(kind, n, shape, image, fitted)


def fit_table(x: np.ndarray, rho: float, keep: int | None) -> tuple[dict[str, np.ndarray], int]:
    """Mean, standard deviation, offset and components of a table, and the number of amplitudes used."""
    std = x.std(0)
    fitted = {"mean": x.mean(0), "std": np.where(std > 0, std, 1.0)}
    columns = x.shape[1]
    if keep is not None and keep < columns:
        scaled = standardised(x, fitted["mean"], fitted["std"])
        fitted["component_mean"] = scaled.mean(0)
        right = np.linalg.svd(scaled - scaled.mean(0), full_matrices=False)[2][:keep]
        # The sign of a singular vector is arbitrary: its largest entry is made positive, so that fits repeat.
        largest = np.abs(right).argmax(1)
        fitted["components"] = right * np.sign(right[np.arange(len(right)), largest])[:, None]
        columns = len(right)
    fitted["offset"] = np.array(rho * math.sqrt(columns))
    return fitted, columns + 1


def image_plan(
    kind: str, d: int, n: int, image_shape: tuple[int, int] | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The rows' shape as images and the shape that they are reduced to, or () and ()."""
    side = math.isqrt(d)
    image: tuple[int, ...] = tuple(image_shape or ((side, side) if side * side == d else ()))
    if image and math.prod(image) != d:
        raise UsageError(f"image_shape {image} has {math.prod(image)} pixels, a row {d}", "Give height and width")
    if kind == "l2_offset":
        room = math.isqrt(2**n - 1)
        target: tuple[int, ...] = (room, room)
        fits = d + 1 <= 2**n
    elif kind == "l2":
        target = (2 ** ((n + 1) // 2), 2 ** (n // 2))
        fits = d <= 2**n
    else:
        return image, ()
    return (image, target) if image and not fits else (image, ())


def standardised(x: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Clip((x - mean) / std, -10, 10): one wild column must not turn the state alone."""
    scaled: np.ndarray = np.clip((x - mean) / std, -10, 10)
    return scaled


def appended(x: np.ndarray, value: float) -> np.ndarray:
    """One constant column behind the others."""
    return np.concatenate([x, np.full((len(x), 1), value)], axis=1)


def resized(x: np.ndarray, image: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Images [b, h w] reduced by averaging over areas: [b, shape[0] shape[1]]."""
    images = torch.from_numpy(np.ascontiguousarray(x)).reshape(len(x), 1, *image)
    small: np.ndarray = torch.nn.functional.interpolate(images, size=shape, mode="area").reshape(len(x), -1).numpy()
    return small


def contrast(x: np.ndarray) -> np.ndarray:
    """Every image less its mean, over its mean absolute deviation (a flat image stays 0)."""
    centred = x - x.mean(1, keepdims=True)
    spread = np.abs(centred).mean(1, keepdims=True)
    result: np.ndarray = centred / np.where(spread > 0, spread, 1.0)
    return result


def to_arrays(embedding: Embedding) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and JSON data that `from_arrays` turns back."""
    arrays = {f"embedding.{name}": np.asarray(value) for name, value in embedding.fitted.items()}
    data = {"kind": embedding.kind, "n": embedding.n, "shape": list(embedding.shape), "image": list(embedding.image)}
    return arrays, data


def from_arrays(arrays: Mapping[str, np.ndarray], data: Mapping[str, Any]) -> Embedding:
    """The inverse of `to_arrays`."""
    fitted = {name.removeprefix("embedding."): a for name, a in arrays.items() if name.startswith("embedding.")}
    return Embedding(data["kind"], data["n"], tuple(data["shape"]), tuple(data["image"]), fitted)
