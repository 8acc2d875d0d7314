"""Cases calibration and sanity: does a map know how sure it is, depend on the weights, find the spot?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from onlyforward.core.keys import Key
from onlyforward.data.sets import load
from onlyforward.explain.bench.photos import SMALL, photographs
from onlyforward.explain.bench.photos import classifier as served
from onlyforward.explain.bench.tally import Tally, runs
from onlyforward.explain.checks import randomisation
from onlyforward.explain.digits import SIDE, classifier, images, test_images
from onlyforward.explain.evaluation import gradient_of
from onlyforward.explain.images import read_image
from onlyforward.explain.metrics import cosine, pointing
from onlyforward.explain.saliency import Saliency
from onlyforward.run.oracle import Oracle

if TYPE_CHECKING:
    from onlyforward.run.benchmark import BenchOptions
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

BUDGET, LARGER = 256, 8
PHOTOS, DIGITS = 10, 12
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "photos_presence_ridge": ("photos", {"kind": "presence"}),
    "photos_presence_mean": ("photos", {"kind": "presence", "solver": "mean"}),
    "digits_presence_ridge": ("digits", {"kind": "presence", "baseline": "zero"}),
    "digits_pixels_gaussian": (
        "digits",
        {"kind": "gradient", "basis": "pixel", "directions": "gaussian", "difference": "mean", "solver": "mean",
         "sigma": 0.02},
    ),
    "digits_dct_gaussian": (
        "digits",
        {"kind": "gradient", "basis": "dct:6", "directions": "gaussian", "difference": "antithetic", "solver": "mean",
         "sigma": 0.02},
    ),
}  # fmt: skip
"""Estimators whose halves can tell: orthogonal designs tell by their own errors."""


def calibration(options: BenchOptions, context: Context, result: Result) -> None:
    """What a map says of itself against its cosine with a map of eight times the questions."""
    net, _ = classifier(seed=options.seed)
    closed, size = served(SMALL)
    subjects: dict[str, list[tuple[Oracle, Tensor, int]]] = {
        "photos": [
            (closed, x, int(closed(x[None])[0].argmax()))
            for x in (read_image(path, size) for path in photographs(1)[: PHOTOS // 3 if options.quick else PHOTOS])
        ],
        "digits": [(Oracle.from_module(net), x, y) for x, y in test_images(DIGITS)],
    }
    tally = Tally("calibration")
    with context.progress(len(SETTINGS), label="calibration") as tick:
        for name, (kind, settings) in SETTINGS.items():
            for i, (oracle, x, target) in enumerate(subjects[kind]):
                for seed in runs(options):
                    own = Saliency(oracle, **settings)
                    asked = oracle.account.queries
                    found = own.attribute(x, target=target, budget=BUDGET, key=Key(run=seed, step=i))
                    large = own.attribute(
                        x, target=target, budget=LARGER * BUDGET, key=Key(run=seed, step=i, site="larger ")
                    )
                    truth = cosine(found.map, large.map)
                    told = found.full_cosine_estimate
                    tally.add(name, i, split_half=found.split_half_cosine, estimate=told, truth=truth, gap=told - truth)
                    result.forward_runs += oracle.account.queries - asked
            tick()
    tally.report(
        result,
        f"calibration: full_cosine_estimate of {BUDGET} questions beside the cosine with a map of {LARGER} times more",
        {"split_half": "cosine of halves", "estimate": "estimate", "truth": "cosine with larger map", "gap": "gap"},
        "Gap: estimate minus cosine. Same basis for both: the estimate sees chance, never the bias of a basis. Ridge "
        "estimates come from the posterior, all others from halves, which are about endless questions: the larger "
        "map's own noise is part of their gap.",
    )
    for kind in ("split_half", "ridge"):
        gaps = [abs(tally.mean(name, "gap")) for name in SETTINGS if name.endswith("ridge") == (kind == "ridge")]
        result.metric(f"calibration_{kind}_error", max(gaps))


def sanity(options: BenchOptions, context: Context, result: Result) -> None:
    """Maps of randomised networks, and mass on the digit that was asked about."""
    tally = Tally("sanity")
    for seed in runs(options):
        net, _ = classifier(seed=seed)
        for i, (x, y) in enumerate(test_images(DIGITS)):
            key = Key(run=seed, step=i)

            def presence(module: nn.Module, x: Tensor = x, y: int = y, key: Key = key) -> Tensor:
                own = Saliency(Oracle.from_module(module), kind="presence", baseline="zero")
                found: Tensor = own.attribute(x, target=y, budget=BUDGET, key=key).map
                return found

            def slope(module: nn.Module, x: Tensor = x, y: int = y, key: Key = key) -> Tensor:
                own = Saliency(Oracle.from_module(module), map="gradient")
                found: Tensor = own.attribute(x, target=y, budget=BUDGET + 1, key=key).map
                return found

            def white(module: nn.Module, x: Tensor = x, y: int = y) -> Tensor:
                return gradient_of(module, x, y)

            for name, make in (("presence", presence), ("gradient", slope), ("white_box_gradient", white)):
                tally.add(name, i, randomisation=randomisation(make, net, key=key))
        pointed(tally, seed)
    tally.report(
        result,
        f"sanity: {DIGITS} digits x {len(runs(options))} seeds; canvases of two digits, the left one asked about",
        {
            "randomisation": "rank correlation with the map of a randomised network",
            "pointing": "share of positive mass on the right digit",
        },
        "The first should be near 0, the second near 1. The gradient is what `auto` takes for images of this size; on "
        "the canvas it is taken times the image. What presence leaves on the other digit is no chance: sixteen times "
        "the questions leave as much. Parts of a digit are evidence for other digits once the rest of it is removed.",
    )
    either = [abs(tally.mean(arm, "randomisation")) for arm in ("presence", "gradient")]
    result.metric("sanity_randomisation_spearman", max(either))
    result.metric("sanity_pointing", tally.mean("gradient", "pointing"))


class Spotter(nn.Module):
    """Which digits are on a canvas? Scores [n, 10] of canvases [n, 1, h, w]: local evidence, the most of it."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 5, stride=2, padding=2),
            nn.SiLU(),
            nn.Conv2d(16, 32, 5, stride=2, padding=2),
            nn.SiLU(),
            nn.Conv2d(32, 10, 4, padding=2),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Probability that each digit is somewhere on the canvas."""
        evidence: Tensor = self.features(x)
        return evidence.flatten(2).logsumexp(2).sigmoid()


def canvases(x: Tensor, y: Tensor, key: Key, count: int) -> tuple[Tensor, Tensor]:
    """Two different digits side by side: [count, 1, 16, 32], and their classes [count, 2]."""
    order = torch.randint(0, len(x), (4 * count, 2), generator=key.generator())
    order = order[y[order[:, 0]] != y[order[:, 1]]][:count]
    return torch.cat((x[order[:, 0]], x[order[:, 1]]), dim=3), y[order]


def spotter(seed: int, steps: int = 400) -> nn.Module:
    """A network that names the digits of a canvas; trained by backpropagation, asked as a black box."""
    data = load("digits")
    x, y = images(data.x_train), data.y_train
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(Key(run=seed, site="spotter").seed)
        net = Spotter()
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    for step in range(steps):
        rows, names = canvases(x, y, Key(run=seed, step=step, site="spotter canvases"), 64)
        truth = torch.zeros(len(rows), 10).scatter_(1, names, 1.0)
        optimiser.zero_grad()
        nn.functional.binary_cross_entropy(net(rows).clamp(1e-6, 1 - 1e-6), truth).backward()
        optimiser.step()
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    return net.eval()


def pointed(tally: Tally, seed: int) -> None:
    """Mass of maps of the left digit's score on the left half."""
    data = load("digits")
    net = spotter(seed)
    rows, names = canvases(images(data.x_test), data.y_test, Key(run=seed, site="spotter test"), DIGITS)
    left = torch.zeros(SIDE, 2 * SIDE, dtype=torch.bool)
    left[:, :SIDE] = True
    oracle = Oracle.from_module(net)

    def score(digit: int) -> Any:
        return lambda answers: answers[:, digit]

    for i, (x, name) in enumerate(zip(rows, names[:, 0].tolist(), strict=True)):
        key = Key(run=seed, step=i, site="pointing ")
        for arm, settings in {
            "presence": {"kind": "presence", "baseline": "zero"},
            "presence_8192": {"kind": "presence", "baseline": "zero"},
            "gradient": {"map": "gradient*input", "baseline": "zero"},
        }.items():
            budget = int(arm.rpartition("_")[2]) if arm[-1].isdigit() else 2 * BUDGET
            found = Saliency(oracle, **settings).attribute(x, target=score(name), budget=budget, key=key).map
            tally.add(arm, i, pointing=pointing(found, left))
        with torch.enable_grad():
            leaf = x[None].clone().requires_grad_()
            gradient = torch.autograd.grad(net(leaf)[0, name], leaf)[0][0]
        tally.add("white_box_gradient", i, pointing=pointing((gradient * x).double(), left))
