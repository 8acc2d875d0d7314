"""Options of `train adapt` and `train robust`; imports neither torch nor numpy, so that help stays quick."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onlyforward.run.bounds import Count, Natural, NotNegative, Positive
from onlyforward.run.context import Common


@dataclass(frozen=True, kw_only=True)
class Adapt(Common):
    """Adapt a pretrained image network to other images with forward passes alone."""

    model: str = "resnet20"
    """resnet20, resnet32, resnet44, resnet56, resnet110 or vit-d128-l6."""
    weights: Path | None = None
    """Its state dict (default: the file in the data folder "models"); never written."""
    data: str = "cifar10"
    """cifar10 (JPEG), or a path as for `train fit`; images of 3x32x32."""
    shift: str = "none"
    """Corruption of training and test images: none, gaussian, blur, contrast, jpeg or rotate."""
    severity: NotNegative = 3.0
    """Severity of the shift, 1 to 5."""
    scope: str = "norms+head"
    """What is trained: head, norms, norms+head, early (the norms nearest to the input, and head) or late (those of
    the last stage, and head)."""
    method: str = "lr"
    """lr (channel noise on norms, exact head), bp, mezo, es, or none (evaluate only)."""
    train_limit: Count = 5000
    """Training images used."""
    test_limit: Count = 10000
    """Test images used."""
    epochs: Natural | None = None
    """Passes over the training images (default: chosen per model)."""
    batch: Count = 128
    """Images per step."""
    copies: Count | None = None
    """Perturbed copies per image and norm (default: chosen per model)."""
    sigma: float | None = None
    """Standard deviation of the noise on scale and shift (default: chosen per model)."""
    lr: float | None = None
    """Learning rate of Adam (default: chosen per model)."""
    compare: bool = False
    """Also adapt by backpropagation: `bp_accuracy` and `gap_recovered`."""


@dataclass(frozen=True, kw_only=True)
class Robust(Common):
    """Train by backpropagation, backpropagation with noise, likelihood ratio and evolution; attack them all."""

    model: str = "mlp"
    """A small network, as for `train fit`."""
    data: str = "digits"
    """A set of images, as for `train fit`."""
    sigma: Positive = 0.3
    """Noise level of training and of the noise that is kept, in units of the pre-activation."""
    copies: Count = 16
    """Copies of the likelihood-ratio arm; the evolution arm gets four times as many, whole, forward passes."""
    attacks: str = "fgsm,pgd,ifgsm,mifgsm,eot"
    """Comma-separated attacks."""
    epsilons: str = ".05,.1,.2"
    """Comma-separated radii in the maximum norm."""
    corruptions: str = "gaussian,blur,contrast,jpeg"
    """Comma-separated corruptions."""
    severity: NotNegative = 3.0
    """Severity of the corruptions, 1 to 5."""
    seeds: Count = 3
    """Seeds, 0 to seeds - 1; every figure has its mean and standard deviation."""
    epochs: Natural | None = None
    """Passes over the training part (default: chosen per model and data)."""
    train_limit: Count | None = None
    """Use only the first training data."""
    test_limit: Count = 1000
    """Test data attacked."""
