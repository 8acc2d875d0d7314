"""Options of the `train` commands; the work is imported when it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from onlyforward.run.application import Demo
from onlyforward.run.benchmark import BenchOptions
from onlyforward.run.bounds import Count, NotNegative
from onlyforward.run.context import Common
from onlyforward.train.options import Adapt, Robust

if TYPE_CHECKING:
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result


@dataclass(frozen=True, kw_only=True)
class Fit(Common):
    """Train a network and test it once."""

    CUDA: ClassVar[bool] = True
    """It computes on CUDA devices too."""

    model: str = "mlp"
    """mlp, cnn, lenet, lstm, gru, gcn, snn, transformer, bottleneck, resnet5, resnet8, vgg8, or file.py:factory."""
    data: str = "digits"
    """digits, mnist, fashion, cifar10, cora, sst2, ag_news, or a file or folder."""
    method: str = "lr"
    """lr, lr-all (noise at all sites at once), weights (noise on weights), hybrid (--plan, or what advice finds
    cheapest), bp, bp-noise, es, spsa, mezo, forward-gradient, dfa, surrogate, torchzero or evotorch."""
    loss: str = "ce"
    """ce, zero-one or mse."""
    copies: int | None = None
    """Perturbed forward runs per datum and site (default: the preset of model and data)."""
    sigma: float | None = None
    """Noise level in units of the perturbed tensor (default: the preset, else a share of its root mean square)."""
    noise: str = ""
    """gaussian, laplace, rademacher, hadamard, sobol or auto (default: the preset). The last three after laplace are
    right to O(sigma^2) and need a smooth way to the loss."""
    baseline: str = ""
    """What a perturbed loss is compared with: clean, loo, ema, none, or standard (loo in standard deviations, for
    zero-one losses; default: the preset, else clean)."""
    pairing: str = ""
    """auto, pairs (mirrored copies) or single (default: the preset, else auto)."""
    plan: str = ""
    """TOML file: module path globs to lr, bp, channel, weights, exact or frozen."""
    credit: str = "auto"
    """auto (noise is weighed by the losses it can reach) or none."""
    injection: str = "layer"
    """Where noise enters in one run: layer (one site), block (the sites of a module) or all."""
    allocation: str = ""
    """uniform or neyman: divide a site's runs over the data of the batch (default: the same for each)."""
    target_cosine: float | None = None
    """Give each site the copies that reach this cosine with the true gradient, from a kappa measured every 50 steps."""
    epochs: int | None = None
    """Passes over the training part (default: the preset)."""
    batch: int | None = None
    """Data per step (default: the preset)."""
    lr: float | None = None
    """Learning rate (default: the preset)."""
    optimizer: str = ""
    """adam, adamw or sgd (default: the preset)."""
    decay: str = ""
    """none, or linear: the learning rate falls to 0 over the run (default: the preset)."""
    train_limit: Count | None = None
    """Use only the first training data."""
    cache: str = "seed"
    """What of the noise is kept between runs and gradient: seed (nothing, drawn again), full, bf16, sign or none."""
    lag: int = 0
    """1: gradients are made in a thread while the next batch runs, at weights one update old."""
    flow: str = "full"
    """local: recurrent layers keep one time step's states, for networks that read the last output."""
    visits: float | None = None
    """Share of a recurrent layer's time steps that are perturbed in a step, drawn anew each time (default: the
    preset)."""
    sigma_mode: str = "fixed"
    """fixed, loss (levels descend the loss) or snr (levels ascend the signal-to-noise ratio)."""
    sigma_floor: NotNegative = 0.0
    """No learned or automatic noise level goes below this."""
    workers: Count = 1
    """Processes that work together."""
    shard: str = "copies"
    """What workers share: copies (they exchange losses only, every number of them gives the same bits) or data (they
    exchange gradients; the bits depend on their number)."""
    device: str = "auto"
    """auto (CUDA where there is one), cpu or cuda."""
    robust: bool = False
    """Also test under FGSM and PGD of radius 0.1 and Gaussian noise."""
    measure_cosine: bool = False
    """Also measure the cosine with backpropagation's gradient on one batch after training."""
    force: bool = False
    """Allow finite-difference noise where a threshold follows."""


@dataclass(frozen=True, kw_only=True)
class Advise(Common):
    """Say what likelihood-ratio training of a network will cost, before anything is trained."""

    model: str = "mlp"
    """A network, as for `train fit`."""
    data: str = "digits"
    """A data set, as for `train fit`."""
    target_cosine: float = 0.9
    """Cosine with the true gradient asked of every site."""
    batch: int = 64
    """Data that the measurement uses."""
    check: bool = False
    """Also measure cosines at 8, 32 and 128 copies and compare them with the law: slower."""


@dataclass(frozen=True, kw_only=True)
class BenchUlr(BenchOptions):
    """Likelihood-ratio training beside backpropagation, evolution strategies and their kin."""


@dataclass(frozen=True, kw_only=True)
class Show(Common):
    """The digits network by likelihood ratio, backpropagation and evolution strategies, side by side."""

    epochs: int = 20
    """Passes over the training part, the same for each method."""
    copies: int = 64
    """Perturbed forward runs per datum."""


DEMO = Demo(options=Show(), targets={"train_accuracy": (">=", 0.94), "train_accuracy_over_es": (">=", 0.10)})


def run(options: Any, context: Context) -> Result:
    """Run one `train` command."""
    if isinstance(options, Fit):
        from onlyforward.train.fit import fit

        return fit(options, context)
    if isinstance(options, Adapt):
        from onlyforward.train.adapt import run as adapt

        return adapt(options, context)
    if isinstance(options, Advise):
        from onlyforward.train.advice import advice

        return advice(options, context)
    if isinstance(options, Robust):
        from onlyforward.train.robust import run as robust

        return robust(options, context)
    from onlyforward.train.demo import demo

    return demo(options, context)
