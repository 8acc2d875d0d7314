"""Options of the `tune` commands; the work is imported when it runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onlyforward.run.application import Demo
from onlyforward.run.benchmark import BenchOptions
from onlyforward.run.bounds import Count, Natural, NotNegative, Positive
from onlyforward.run.context import Common

if TYPE_CHECKING:
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result


@dataclass(frozen=True, kw_only=True)
class Plan(Common):
    """Divide a budget of runs over your own items by their losses or noise; nothing is run."""

    losses: Path | None = None
    """One loss per item: NPY, or a text or CSV file with a number a line."""
    residuals: Path | None = None
    """One estimate of the noise's standard deviation per item, in the same form."""
    budget: Count = 1000
    """Runs to divide."""
    allocator: str = "neyman"
    """neyman, uniform, gaussian, bernoulli or halving."""
    proxy: str = ""
    """residual, loss or sqrt-loss (default: residual where residuals are given, otherwise loss)."""
    updates: Natural = 300
    """Updates of a learned allocator before it plans; none of them runs anything."""


@dataclass(frozen=True, kw_only=True)
class Arms(Common):
    """What every command with competitors shares."""

    allocator: str = "neyman"
    """neyman, uniform, gaussian, bernoulli or halving."""
    sigma: str = "auto"
    """Noise in units of the coordinates, or auto."""
    lr: Positive | None = None
    """Learning rate of Adam (default: the task's)."""
    shots: Count = 16
    """Labelled examples of each class; a quarter of them validates."""
    splits: Count = 1
    """Disjoint draws of the shots; the mean and its 95 % interval are reported."""
    test_limit: Count = 2000
    """Test images or texts, asked outside the budget."""
    compare: str = ""
    """Competitors by comma: uniform, gaussian, mezo, mezo-q, spsa-gc, cma, es, random, importance, output, bp."""


@dataclass(frozen=True, kw_only=True)
class Tune(Arms):
    """What every command that spends a budget shares."""

    proxy: str = "residual"
    """How noise is guessed: residual, loss, sqrt-loss, history, residual*history or pilot:m."""
    budget: Count = 17_280
    """Queries of one split, clean and validation ones included; never exceeded."""
    batch: Count = 32
    """Data of a step."""
    copies: Count = 8
    """Mean queries per datum of a step, the clean one included."""
    patience: Natural = 0
    """Stop after so many validations without a new best and return the rest of the budget; 0: spend all of it."""


@dataclass(frozen=True, kw_only=True)
class Vision(Tune):
    """Put an adapter before a closed image classifier, from a few labelled examples and a fixed number of queries."""

    model: str = ""
    """FILE.onnx, file.py:factory, https://host/path (scores as JSON), or loopback:FILE.onnx."""
    data: str = "mnist"
    """mnist, fashion, digits, cifar10, FILE.npz, or a folder with one sub-folder of pictures a class."""
    shift: str = "none"
    """none, rotation, translation, scale, noise, blur, contrast, gamma, invert, patch or jpeg."""
    severity: NotNegative | None = None
    """Amount of the shift: degrees, pixels, factor, standard deviation, exponent, share, side or quality."""
    adapter: str = "affine"
    """affine, colour, prompt:k, border:w, lowrank:r, coordinator, output, or several joined by +."""
    range: str = "auto"
    """How the model reads pixels: 0..255 (auto for ONNX), 0..1 (auto elsewhere), -1..1 or imagenet."""
    size: Natural = 0
    """Side of the model's input where it does not say."""
    export: bool = False
    """Also write adapter.onnx, checked in onnxruntime, beside adapter.safetensors; needs --out."""
    secret_env: str = ""
    """Environment variable that holds the endpoint's key."""
    allow_private: bool = False
    """Admit endpoints at private addresses and without encryption."""
    usd_per_query: NotNegative = 0.0
    """Price of a query."""
    max_usd: NotNegative | None = None
    """Most dollars for the whole run: when they are spent it ends with exit 3 and the best adapter so far."""
    concurrency: Count = 8
    """Open requests at an endpoint."""


@dataclass(frozen=True, kw_only=True)
class Text(Tune):
    """Tune the prompt of a closed text classifier: soft vectors, words, or its outputs alone."""

    data: str = "ag_news"
    """ag_news, sst2, or FILE.tsv with a text and its label on each line."""
    task: str = "sports"
    """sst2, world, sports, business or scitech."""
    prompt: str = "soft"
    """soft (vectors), words (readable) or output (calibration)."""
    tokens: Count = 4
    """Words or vectors of the prompt."""
    dimension: str = "full"
    """Coordinates of a soft prompt: full, or K through a fixed random projection."""
    model: str = ""
    """file.py:factory (default: a small transformer that this project trains once)."""
    budget: Count = 40_320
    test_limit: Count = 1000


@dataclass(frozen=True, kw_only=True)
class Align(Tune):
    """Align a closed image encoder with a closed text encoder from a few labelled images."""

    image_encoder: str = "resnet20"
    """resnet20, vit, FILE.onnx or file.py:factory."""
    text_encoder: str = "lsa"
    """lsa, or file.py:factory (a list of texts -> vectors)."""
    data: str = "cifar10"
    """cifar10."""
    adapter: str = "input"
    """output (a map of embeddings), input (affine before the image encoder), prompt (class vectors) or
    input+prompt."""
    shift: str = "rotation"
    """As for tune vision; with the adapter output, none is usual."""
    severity: NotNegative | None = 30.0
    """Amount of the shift."""
    budget: Count = 6000
    test_limit: Count = 1000
    candidates: str = "classes"
    """classes, or images:N for instance retrieval between two image encoders."""


@dataclass(frozen=True, kw_only=True)
class Vit(Arms):
    """Fine-tune a vision transformer on shifted images by forward passes alone."""

    weights: Path | None = None
    """State dict of the small CIFAR-10 transformer (default: the data folder's)."""
    data: str = "cifar10"
    """cifar10, or images of 3x32x32 in ten classes."""
    shift: str = "rotation"
    """jpeg (the images as they are), rotation or noise."""
    severity: NotNegative | None = None
    """Degrees or standard deviation (default: 30 and 0.1)."""
    scope: str = "late:1"
    """head, late:K (head and the norms of the last K blocks), norms, bias or lora:R."""
    method: str = "lr"
    """lr (ours), bp, mezo, es or none."""
    epochs: Count = 20
    """Passes over the shots after the exact head."""
    splits: Count = 5
    copies: Count = 10
    """Mean perturbed runs per image and site."""


@dataclass(frozen=True, kw_only=True)
class BenchFlops(BenchOptions):
    """Optimal allocation of queries: variance, bias, overhead; and closed models tuned beside their competitors."""


@dataclass(frozen=True, kw_only=True)
class Show(Common):
    """The demonstration: one batch of rotated digits, equal queries, real repeats: uniform counts beside Neyman's."""

    repeats: int = 60
    """Independent gradients of each arm."""


DEMO = Demo(options=Show(), targets={"tune_gain": (">=", 1.2)})


def run(options: Any, context: Context) -> Result:
    """Run one `tune` command."""
    if isinstance(options, Show):
        from onlyforward.tune.demo import demo

        return demo(options, context)
    if isinstance(options, Plan):
        from onlyforward.tune.planning import plan

        return plan(options, context)
    if isinstance(options, Vision):
        from onlyforward.tune.vision import vision

        return vision(options, context)
    if isinstance(options, Text):
        from onlyforward.tune.text import text

        return text(options, context)
    if isinstance(options, Align):
        from onlyforward.tune.align import align_command

        return align_command(options, context)
    from onlyforward.tune.vit import vit

    return vit(options, context)
