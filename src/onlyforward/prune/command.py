"""Options of the `prune` commands; the work is imported when it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from onlyforward.run.application import Demo
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
    width: int = 100
    """Hidden width of the mlp."""
    depth: int = 5
    """Linear layers of the mlp."""
    sparsity: tuple[float, ...] = (0.95, 0.98, 0.99)
    """Fractions of the weights to remove."""
    seeds: int = 5
    """Number of seeds, --seed and the next ones."""
    epochs: int | None = None
    """Passes of training (default: the model's)."""
    finetune_epochs: int | None = None
    """Passes after pruning (default: the model's)."""
    rounds: int = 1
    """Prunings on the way to each sparsity."""
    batch: int | None = None
    """Data per step (default: 64; graphs whole)."""
    lr: float | None = None
    """Learning rate of Adam (default: the model's)."""
    train_limit: int | None = None
    """Use only the first training data."""
    test_limit: int | None = None
    """Use only the first test data."""
    l1: float = 0.0
    """Weight of sum |W| in the loss."""
    l2: float = 1e-3
    """Weight of sum W^2 in the loss."""
    l1_prox: float = 0.0
    """Threshold of the proximal step, in units of the learning rate."""
    connect_step: float = 0.01
    """Strength a of the decoupled step; 0 is none, above 0.05 needs --force."""
    connect_lambda: float = 0.0
    """Weight of R in the loss."""
    start: float = 0.3
    """Fraction of training before the connectivity acts."""
    every: int = 10
    """Optimiser steps between two actions of the connectivity."""
    force: bool = False
    """Accept a --connect-step that destroys training."""
    kappa: str = "auto"
    """Exponent of the share in the score, 0 to 1; auto: the best of 0.25, 0.5, 0.75, 1 on held-out training data. With
    auto the peers' settings are tuned the same way, four each."""
    prune_at: Literal["trained", "init"] = "trained"
    """Prune trained weights and fine-tune, or initial weights and train."""
    scope: Literal["global", "layer", "erk"] = "global"
    """Where weights compete: everywhere, per layer evenly, per layer by the Erdos-Renyi-kernel rule."""
    n_m: tuple[int, int] | None = None
    """Keep N of every M consecutive inputs in the place of --sparsity."""
    peers: tuple[str, ...] = ()
    """Competitors: magnitude, l1, l2, l1-prox, spred, l2-guarded, connect-adam, connect-l1, lamp, random, snip, grasp,
    synflow."""


@dataclass(frozen=True, kw_only=True)
class DemoOptions(Run):
    """Five layers on digits at 95 % sparsity, beside magnitude."""


DEMO = Demo(
    options=DemoOptions(sparsity=(0.95,), seeds=1, kappa="0.5", peers=("magnitude",)),
    targets={"prune_accuracy": (">=", 0.90), "prune_connected": (">=", 1)},
)


def run(options: Any, context: Context) -> Result:
    """Run one `prune` command."""
    from onlyforward.prune import study

    work = {Run: study.compare, DemoOptions: study.demo}
    return work[type(options)](options, context)
