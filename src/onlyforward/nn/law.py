"""The law that says beforehand how good an estimate will be: cos^2 = 1 / (1 + r / kappa).

r is the error of one datum's delta relative to its length, decided by the perturbed dimension D and the number M of
independent directions alone; kappa counts the data whose gradients add up rather than cancel (derived; checked by
`train advise --check` and `bench ulr --cases cosine`).
"""

from __future__ import annotations

import math


def error_ratio(noise: str, dimension: int, directions: int) -> float:
    """R of a kind of noise: (D+1)/M for Gaussian, (D-1)/M for random signs, 0 once all Hadamard rows have run.

    Laplace noise scored by its signs has fourth moments as a Gaussian's to first order: (2D)/M.
    """
    d, m = dimension, max(1, directions)
    if noise == "hadamard":
        width = 1 << max(0, d - 1).bit_length()
        within = m % width if m > width else m
        if within in (0, width) or width == 1:
            return 0.0
        return (d - 1) * (width - within) / (within * (width - 1)) * (within / m) ** 2
    if noise == "rademacher":
        return (d - 1) / m
    return (2 * d if noise == "laplace" else d + 1) / m


def predicted_cosine(noise: str, dimension: int, directions: int, kappa: float) -> float:
    """Cosine between the estimate and the true gradient."""
    return 1.0 / math.sqrt(1.0 + error_ratio(noise, dimension, directions) / max(kappa, 1e-12))


def needed_directions(noise: str, dimension: int, kappa: float, cosine: float) -> int:
    """Least M that reaches a cosine."""
    r = max(kappa, 1e-12) * (1.0 / cosine**2 - 1.0)
    d = dimension
    if noise == "hadamard":
        width = 1 << max(0, d - 1).bit_length()
        return max(1, math.ceil((d - 1) * width / (r * (width - 1) + (d - 1)))) if d > 1 else 1
    top = {"rademacher": d - 1, "laplace": 2 * d}.get(noise, d + 1)
    return max(1, math.ceil(top / r))


def measured_kappa(signal: float, spread: float, noise: str, dimension: int, directions: int) -> float:
    """Kappa from independent estimates: r |g|^2 over their variance.

    Args:
        signal: |g|^2 without bias, the mean inner product of different estimates.
        spread: total variance of one estimate.
        noise: kind of noise of the estimates.
        dimension: D.
        directions: M of one estimate.
    """
    return error_ratio(noise, dimension, directions) * max(signal, 0.0) / max(spread, 1e-30)
