"""Cases truth, smooth, theory: gradients by questions alone against autograd, and against what the theory promises."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from onlyforward.core.keys import Key
from onlyforward.explain.bases import pixels
from onlyforward.explain.bench.tally import Tally, runs
from onlyforward.explain.blockwise import Blockwise, even_blocks
from onlyforward.explain.digits import classifier, test_images
from onlyforward.explain.evaluation import gradient_of
from onlyforward.explain.gaussian import Gradient
from onlyforward.explain.metrics import cosine
from onlyforward.explain.saliency import Saliency
from onlyforward.explain.scores import judge
from onlyforward.run.oracle import Oracle

if TYPE_CHECKING:
    from onlyforward.run.benchmark import BenchOptions
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

IMAGES, REPEATS = 12, 2
SIGMA, SMOOTHING = 0.02, 0.25
DRAWS = 2000
"""Autograd gradients behind the truth of SmoothGrad."""


def arm(budget: int, **settings: Any) -> tuple[int, dict[str, Any]]:
    """A number of questions, and what is fixed of the estimator."""
    return budget, settings


PIXEL = {"basis": "pixel", "solver": "mean"}
GAUSSIAN = {**PIXEL, "directions": "gaussian"}
TRUTH = {
    "plain_256": arm(256, **GAUSSIAN, difference="plain"),
    "blockwise_plain_256": arm(256, **GAUSSIAN, difference="plain", blocks="blockwise:8"),
    "mean_256": arm(256, **GAUSSIAN, difference="mean"),
    "rademacher_256": arm(256, **PIXEL, directions="rademacher", difference="mean"),
    "antithetic_256": arm(256, **GAUSSIAN, difference="antithetic"),
    "blockwise_256": arm(256, **GAUSSIAN, difference="mean", blocks="blockwise:8"),
    "blockwise_neyman_256": arm(256, **GAUSSIAN, difference="mean", blocks="blockwise:8/neyman"),
    "orthogonal_forward_257": arm(257, **PIXEL, directions="orthogonal", difference="forward"),
    "ridge_256": arm(256, basis="pixel", directions="orthogonal", difference="forward", solver="ridge"),
    "sobol_dct_64": arm(64, basis="dct:6", directions="sobol", difference="mean", solver="mean"),
    "dct_64": arm(64, basis="dct:7", directions="orthogonal", difference="forward", solver="mean"),
    "auto_64": arm(64),
    "auto_256": arm(256),
    "auto_512": arm(512),
}
SMOOTH = {
    "plain_512": arm(512, **GAUSSIAN, difference="plain"),
    "mean_512": arm(512, **GAUSSIAN, difference="mean"),
    "ridge_512": arm(512, basis="pixel", directions="gaussian", difference="mean", solver="ridge"),
    "orthogonal_forward_257": arm(257, **PIXEL, directions="orthogonal", difference="forward"),
    "orthogonal_antithetic_512": arm(512, **PIXEL, directions="orthogonal", difference="antithetic"),
    "dct_64": arm(64, basis="dct:5", directions="orthogonal", difference="antithetic", solver="mean"),
    "auto_64": arm(64),
    "auto_512": arm(512),
    "probability_mean_512": arm(512, **GAUSSIAN, difference="mean", score="probability"),
    "probability_auto_512": arm(512, score="probability"),
}


def truth(options: BenchOptions, context: Context, result: Result) -> None:
    """Cosine to autograd's gradient on digits."""

    def exact(net: nn.Module, x: Tensor, y: int, key: Key, score: str) -> Tensor:
        return gradient_of(net, x, y, score)

    compared(
        options, context, result, "truth", TRUTH, exact, {"map": "gradient", "sigma": SIGMA, "score": "probability"}
    )


def smooth(options: BenchOptions, context: Context, result: Result) -> None:
    """Cosine to SmoothGrad's map by autograd."""
    compared(
        options,
        context,
        result,
        "smooth",
        SMOOTH,
        smoothgrad,
        {"map": "smoothgrad", "sigma": SMOOTHING, "score": "logit"},
    )


def smoothgrad(net: nn.Module, x: Tensor, y: int, key: Key, score: str) -> Tensor:
    """The mean gradient over noise, by autograd."""
    generator = key.at(site="smoothgrad truth").generator()
    rows = x + SMOOTHING * torch.randn((DRAWS, *x.shape), generator=generator)
    with torch.enable_grad():
        leaf = rows.requires_grad_()
        found: Tensor = torch.autograd.grad(judge(net(leaf), y, score).sum(), leaf)[0]
    return found.double().mean(0)


def compared(
    options: BenchOptions,
    context: Context,
    result: Result,
    case: str,
    arms: Mapping[str, tuple[int, dict[str, Any]]],
    exact: Any,
    common: dict[str, Any],
) -> None:
    """Every arm on every image and repeat."""
    tally, accuracy, backward = Tally(case), [], 0
    with context.progress(len(runs(options)) * IMAGES, label=case) as tick:
        for seed in runs(options):
            net, right = classifier(seed=seed)
            accuracy.append(right)
            for i, (x, y) in enumerate(test_images(IMAGES)):
                key = Key(run=seed, step=i)
                truths: dict[str, Tensor] = {}
                closed = Counted(net)
                oracle = Oracle.from_module(closed)
                for name, (budget, settings) in arms.items():
                    wanted = {**common, **settings}
                    score = wanted["score"]
                    if score not in truths:
                        truths[score] = exact(net, x, y, key, score)
                    for repeat in range(REPEATS):
                        own = Saliency(oracle, **wanted)
                        asked = oracle.account.queries
                        found = own.attribute(x, target=y, budget=budget, key=key.at(site=f"repeat {repeat} "))
                        spent = oracle.account.queries - asked
                        tally.add(name, i, cosine=cosine(found.map, truths[score]), queries=spent)
                backward += closed.backward
                result.forward_runs += oracle.account.queries
                tick()
    tally.report(
        result,
        f"{case}: cosine to autograd, {IMAGES} digits of 16 x 16 x {REPEATS} repeats x {len(runs(options))} seeds",
        {"cosine": "cosine"},
        f"The number in a name is the number of questions. The score is the {common['score']} unless the name "
        f"says otherwise. The classifier is right on "
        f"{100 * min(accuracy):.1f} % of the test digits or more; backward calls in black-box runs: {backward}.",
    )
    result.metric(f"{case}_accuracy", min(accuracy))
    result.metric(f"{case}_backward_calls", backward)


class Counted(nn.Module):
    """A network that counts every backward pass through its output; asked as a black box there must be none."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.backward = net, 0

    def forward(self, x: Tensor) -> Tensor:
        """The network's answers."""
        answers: Tensor = self.net(x)
        if answers.requires_grad:
            answers.register_hook(self.count)
        return answers

    def count(self, gradient: Tensor) -> None:
        """One backward pass."""
        self.backward += 1


def theory(options: BenchOptions, context: Context, result: Result) -> None:
    """A linear score: cosines and summed variances against the formulas."""
    k, repeats = 64, 200
    weight = torch.randn(k, generator=Key(site="theory").generator(), dtype=torch.float64)
    x = torch.zeros(k, dtype=torch.float64)
    rows = []
    gaps: dict[str, float] = {"gaussian": 0.0, "orthogonal": 0.0}
    for n in (8, 16, 32, 64, 128, 256):
        for directions in gaps:
            promised = math.sqrt(n / (n + k + 1)) if directions == "gaussian" else math.sqrt(min(1.0, n / k))
            cosines = []
            for repeat in range(repeats):
                key = Key(run=repeat, step=n, site=directions)
                one = Gradient(x, pixels(x), 0.1, key, directions=directions, difference="antithetic")
                one.observe(0, one.rows(0, 2 * n) @ weight)
                cosines.append(cosine(one.estimate().map, weight))
            mean = sum(cosines) / repeats
            gaps[directions] = max(gaps[directions], abs(mean - promised))
            rows.append([directions, n, promised, mean])
    for directions, gap in gaps.items():
        result.metric(f"theory_{directions}_error", gap)
    result.table(
        f"theory: cosine of antithetic directions on a linear score of {k} numbers, {repeats} repeats",
        ["directions", "number of directions", "promised", "measured"],
        rows,
        "Promised: sqrt(N / (N + k + 1)) for Gaussian, sqrt(min(1, N / k)) for orthogonal directions.",
    )
    blockwise_theory(result, weight)


def blockwise_theory(result: Result, weight: Tensor) -> None:
    """Summed variance of noise everywhere, block by block, and with Neyman shares, on a linear score."""
    k, count, n, repeats = len(weight), 4, 512, 300
    x = torch.zeros(k, dtype=torch.float64)
    steep = weight * torch.tensor([8.0, 1.0, 1.0, 1.0]).repeat_interleave(k // count)
    blocks = even_blocks(k, count)
    rows, worst = [], 0.0
    for label, slope in (("even blocks", weight), ("one steep block", steep)):
        norms = torch.stack([slope[block].norm() for block in blocks])
        total = float(slope.square().sum())
        # S_b^2 = (d_b + 1) |g_b|^2 is the summed variance of one question in block b.
        shares = torch.tensor([math.sqrt(len(block) + 1) for block in blocks]) * norms
        promised = {
            "everywhere": (k + 1) * total / n,
            "blockwise": (k + count) * total / n,
            "blockwise, Neyman": float(shares.sum()) ** 2 / n,
        }
        for arm_name, formula in promised.items():
            errors = []
            for repeat in range(repeats):
                key = Key(run=repeat, site=f"{label} {arm_name}")
                one: Any
                if arm_name == "everywhere":
                    one = Gradient(x, pixels(x), 0.1, key, directions="gaussian", difference="mean")
                else:
                    neyman = "neyman" if "Neyman" in arm_name else "uniform"
                    one = Blockwise(x, pixels(x), blocks, sigma=0.1, key=key, shares=neyman)
                done = 0
                while done < n:
                    size = min(64, n - done)
                    one.observe(done, one.rows(done, size) @ slope)
                    done += size
                errors.append(float((one.estimate().map - slope).square().sum()))
            measured = sum(errors) / repeats
            gap = measured / formula - 1
            rows.append([label, arm_name, formula, measured, gap])
            worst = max(worst, abs(gap)) if "Neyman" not in arm_name else worst
            name = f"theory_{label.replace(' ', '_')}_{arm_name.replace(', ', '_').lower()}_variance"
            result.metric(name, measured)
    result.metric("theory_blockwise_error", worst)
    result.table(
        f"theory: summed variance of {n} questions on a linear score, {count} even blocks, {repeats} repeats",
        ["score", "noise", "promised", "measured", "gap (measured / promised - 1)"],
        rows,
        "Blockwise noise gains nothing by itself: (d + K) against (d + 1). With Neyman shares it gains where blocks "
        "differ. The pilots' questions, which never enter the average, and the mean baseline's own error are in what "
        "is measured and not in what is promised.",
    )
