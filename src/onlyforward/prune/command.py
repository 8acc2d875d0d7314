"""Options of the `prune` commands; the work is imported when it runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from onlyforward.run.application import Demo
from onlyforward.run.bounds import Count, Natural, NotNegative, Share
from onlyforward.run.context import Common

if TYPE_CHECKING:
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result


@dataclass(frozen=True, kw_only=True)
class Run(Common):
    """Train, prune, fine-tune and compare."""

    data: str = "digits"
    """digits, mnist, fashion_mnist, cifar10_jpeg, cora, or a file or folder (graphs in the layout of cora.npz)."""
    model: str = "mlp"
    """mlp, vgg6, vgg11, vgg19, resnet20, resnet56, gcn, sage, gin, gat, lstm or vit."""
    width: Count = 100
    """Hidden width of the mlp."""
    depth: int = 5
    """Linear layers of the mlp."""
    sparsity: tuple[float, ...] = (0.95, 0.98, 0.99)
    """Fractions of the weights to remove."""
    seeds: Count = 5
    """Number of seeds, --seed and the next ones."""
    epochs: Natural | None = None
    """Passes of training (default: the model's)."""
    finetune_epochs: Natural | None = None
    """Passes after pruning (default: the model's)."""
    rounds: Count = 1
    """Prunings on the way to each sparsity."""
    batch: Natural | None = None
    """Data per step (default: 64; graphs whole)."""
    lr: NotNegative | None = None
    """Learning rate of Adam (default: the model's)."""
    finetune_lr: NotNegative | None = None
    """Peak of the learning rate of fine-tuning, which rises to it and falls again; 0 keeps --lr (default: the
    model's)."""
    train_limit: Count | None = None
    """Use only the first training data."""
    test_limit: Count | None = None
    """Use only the first test data."""
    l1: NotNegative = 0.0
    """Weight of sum |W| in the loss."""
    l2: NotNegative | None = None
    """Weight of sum W^2 in the loss (default: the model's: 1e-3, 1e-2 for vgg11, 0 for graph networks, whose
    recipe has a weight decay of its own)."""
    l1_prox: NotNegative = 0.0
    """Threshold of the proximal step, in units of the learning rate."""
    connect_step: NotNegative = 0.01
    """Strength a of the decoupled step; 0 is none, above 0.05 needs --force."""
    connect_lambda: NotNegative = 0.0
    """Weight of R in the loss."""
    start: Share = 0.3
    """Fraction of training before the connectivity acts."""
    every: Count = 10
    """Optimiser steps between two actions of the connectivity."""
    force: bool = False
    """Accept a --connect-step that destroys training."""
    kappa: str = "auto"
    """Exponent of the share in the score, 0 to 1; auto: at each sparsity the best of 0.25, 0.5, 0.75, 1 on held-out
    training data. With auto the peers' settings are tuned the same way, four each."""
    prune_at: Literal["trained", "init"] = "trained"
    """Prune trained weights and fine-tune, or initial weights and train."""
    scope: Literal["global", "layer", "erk"] = "global"
    """Where weights compete: everywhere, per layer evenly, per layer by the Erdos-Renyi-kernel rule."""
    n_m: tuple[int, int] | None = None
    """Keep N of every M consecutive inputs in the place of --sparsity."""
    peers: tuple[str, ...] = ()
    """Competitors: magnitude, l1, l2, l1-prox, spred, l2-guarded, connect-adam, connect-l1, lamp, random, snip, grasp,
    synflow."""
    shrink: bool = False
    """Also remove what is dead at the largest sparsity (first seed) and time the smaller model."""
    onnx: bool = False
    """Also export that smaller model (to --out, else to a temporary folder) and compare it with onnxruntime."""


@dataclass(frozen=True, kw_only=True)
class OfFile(Common):
    """A user's own model."""

    file: tyro.conf.Positional[Path]
    """State dict of the model: .pth, .th or .safetensors."""
    arch: str
    """module:factory (or file.py:factory), a function without arguments that makes the model; the current folder is
    importable. Shipped: onlyforward.data.nets:cifar_resnet20, cifar_resnet32, cifar_resnet56, cifar_vit."""
    example: str = ""
    """Shape of one input, as 1,3,32,32 (default: the data's)."""
    data: str = ""
    """digits, mnist, fashion_mnist, cifar10_jpeg, or a file or folder; without it nothing but the weights is used."""


@dataclass(frozen=True, kw_only=True)
class Model(OfFile):
    """Prune a trained model of your own, weights or whole channels, and save the smaller one."""

    mean: tuple[float, ...] = ()
    """Subtracted per channel from pixels in 0..1."""
    std: tuple[float, ...] = ()
    """Divides per channel."""
    sparsity: tuple[float, ...] = ()
    """Fractions of the weights to remove; what is dead at the largest is then really removed."""
    structured: bool = False
    """Remove whole channels instead."""
    score: str = "auto"
    """Of channels: connect, share, l2, taylor; auto: the best of l2, taylor, connect on training data held back."""
    steps: Count = 16
    """Rounds of channel removal, each with fresh scores."""
    macs_ratio: float | None = None
    """Multiply-accumulates before over after (default 2)."""
    parameters_ratio: float | None = None
    """The same of parameters."""
    round_to: Count | None = None
    """Channels go in blocks of this size."""
    max_ratio: Share = 0.9
    """Largest fraction of coupled channels that may go."""
    scope: Literal["global", "local", "erk"] = "global"
    """Where weights or channels compete: everywhere, or per layer (erk: weights only)."""
    kappa: str = "auto"
    """Exponent of the share in the score of weights; auto: the best of 0.25, 0.5, 0.75, 1 on training data kept out."""
    calibration_images: Natural = 250
    """Training images per round for the scores."""
    recalibrate_images: Natural = 2000
    """Training images, without labels, for the batch norms."""
    finetune_images: Natural = 0
    """Training images seen once after pruning; the logits of the model before pruning are a further target."""
    test_limit: Count | None = 2000
    """Use only the first test data."""
    peers: tuple[str, ...] = ()
    """tp-l2, tp-l1, tp-taylor, tp-bn, tp-lamp, tp-random for channels; magnitude for weights."""
    ignore: tuple[str, ...] = ()
    """Patterns of module (channels) or parameter (weights) names that stay whole."""
    save: Path | None = None
    """Folder for model.safetensors and shapes.json."""
    onnx: Path | None = None
    """File for the smaller model as ONNX."""


@dataclass(frozen=True, kw_only=True)
class Report(OfFile):
    """What do the weights of a model do: kept, living and dead, layer by layer?"""


@dataclass(frozen=True, kw_only=True)
class Shrink(OfFile):
    """Really remove what is dead in a model with zeros, and check that the outputs are the same."""

    save: Path
    """Folder for model.safetensors and shapes.json."""
    onnx: Path | None = None
    """File for the smaller model as ONNX."""
    atol: NotNegative | None = None
    """Largest difference of outputs allowed (default: 1e-5 in float32, 1e-12 in float64, times max(1, max|y|))."""


@dataclass(frozen=True, kw_only=True)
class BenchConnect(Common):
    """Options of `bench connect`."""

    part: str = ""
    """Comma-separated parts: laws, cost, digits, vgg6, cora, fashion, init, shrink, resnet (default: all)."""
    quick: bool = False
    """A short form of the same parts: fewer networks, one seed, every method at its default setting."""


@dataclass(frozen=True, kw_only=True)
class DemoOptions(Run):
    """Five layers on digits at 95 % sparsity, beside magnitude."""


DEMO = Demo(
    options=DemoOptions(sparsity=(0.95,), seeds=1, kappa="0.5", peers=("magnitude",)),
    targets={"prune_accuracy": (">=", 0.90), "prune_connected": (">=", 1)},
)


def run(options: Any, context: Context) -> Result:
    """Run one `prune` command."""
    from onlyforward.prune import deploy, describe, study

    work: dict[type, Any] = {
        Run: study.compare,
        DemoOptions: study.demo,
        Model: deploy.prune_model,
        Report: describe.report,
        Shrink: describe.shrink_file,
    }
    result: Result = work[type(options)](options, context)
    return result
