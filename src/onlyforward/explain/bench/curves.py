"""Cases digits and digits-blur: deletion and insertion on small images, beside RISE, white-box maps and chance."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from onlyforward.core.keys import Key
from onlyforward.explain.bench.tally import Tally, runs
from onlyforward.explain.digits import classifier, test_images
from onlyforward.explain.evaluation import gradient_of
from onlyforward.explain.intervals import interval
from onlyforward.explain.metrics import deletion, insertion, random_map
from onlyforward.explain.peers import Rise
from onlyforward.explain.removal import removed
from onlyforward.explain.saliency import Saliency
from onlyforward.explain.scores import judge, probabilities
from onlyforward.run.oracle import Oracle

if TYPE_CHECKING:
    from onlyforward.run.benchmark import BenchOptions
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

IMAGES, REPEATS = 12, 2
COLUMNS = {
    "deletion": "deletion (lower is better)",
    "insertion": "insertion (higher is better)",
    "faithfulness": "insertion - deletion",
}
Maker = Callable[[Oracle, Tensor, int, Key], Tensor]
"""(oracle, x, target, key) -> map."""


def presence(budget: int, removal: str) -> Maker:
    """Our map of presence."""

    def make(oracle: Oracle, x: Tensor, y: int, key: Key) -> Tensor:
        own = Saliency(oracle, kind="presence", baseline=removal)
        found: Tensor = own.attribute(x, target=y, budget=budget, key=key).map
        return found

    return make


def rise(budget: int, removal: str) -> Maker:
    """RISE with what it removes."""

    def make(oracle: Oracle, x: Tensor, y: int, key: Key) -> Tensor:
        return Rise(oracle, baseline=removal).attribute(x, target=y, budget=budget, key=key)

    return make


def slope(budget: int) -> Maker:
    """The default of small images, times the image: forward differences in low frequencies or pixels."""

    def make(oracle: Oracle, x: Tensor, y: int, key: Key) -> Tensor:
        own = Saliency(oracle, map="gradient*input", baseline="zero")
        found: Tensor = own.attribute(x, target=y, budget=budget, key=key).map
        return found

    return make


def integrated(net: nn.Module, x: Tensor, y: int, nothing: Tensor, steps: int = 64) -> Tensor:
    """Integrated gradients by autograd, the white-box yardstick."""
    shares = (torch.arange(steps) + 0.5) / steps
    with torch.enable_grad():
        rows = (nothing + shares.reshape(-1, 1, 1, 1) * (x - nothing)).requires_grad_()
        found: Tensor = torch.autograd.grad(probabilities(net(rows))[:, y].sum(), rows)[0]
    return (found.mean(0) * (x - nothing)).double()


def digits(options: BenchOptions, context: Context, result: Result) -> None:
    """Zero stands where something is removed, for all."""
    arms = {
        "presence_256": presence(256, "zero"),
        "presence_512": presence(512, "zero"),
        "auto_256": slope(256),
        "rise_256": rise(256, "zero"),
        "rise_1024": rise(1024, "zero"),
        "rise_4096": rise(4096, "zero"),
    }
    tally = judged(options, context, result, "digits", arms, "zero", "zero")
    result.metric("digits_gain_low", low(tally, "presence_256", "rise_4096"))
    tally.report(result, title("digits, zero removal", options), COLUMNS, NOTE)


def digits_blur(options: BenchOptions, context: Context, result: Result) -> None:
    """Deletion to the mean and insertion from a blur: zero favours anything multiplied by the image."""
    arms = {
        "presence_256": presence(256, "blur"),
        "presence_mean_256": presence(256, "mean"),
        "auto_256": slope(256),
        "rise_256": rise(256, "zero"),
        "rise_1024": rise(1024, "zero"),
        "rise_blur_1024": rise(1024, "blur"),
        "rise_mean_1024": rise(1024, "mean"),
    }
    tally = judged(options, context, result, "digits_blur", arms, "mean", "blur")
    result.metric("digits_blur_gain_low", low(tally, "presence_256", "rise_1024"))
    tally.report(result, title("digits, deletion to mean and insertion from blur", options), COLUMNS, NOTE)


NOTE = "+- is half the width of the 95 % interval over images. The number behind a name is the number of questions."


def title(words: str, options: BenchOptions) -> str:
    """Of a table."""
    return f"{words}: {IMAGES} images x {REPEATS} repeats x {len(runs(options))} seeds"


def low(tally: Tally, left: str, right: str) -> float:
    """Lower end of the 95 % interval of the paired difference in faithfulness."""
    return interval(tally.difference(left, right, "faithfulness"))[0]


def judged(
    options: BenchOptions,
    context: Context,
    result: Result,
    case: str,
    arms: dict[str, Maker],
    down_to: str,
    up_from: str,
) -> Tally:
    """Every arm on every image and repeat, then the white-box map and chance."""
    tally = Tally(case)
    with context.progress(len(runs(options)) * IMAGES, label=case) as tick:
        for seed in runs(options):
            net, _ = classifier(seed=seed)
            oracle = Oracle.from_module(net)
            for i, (x, y) in enumerate(test_images(IMAGES)):

                def value(rows: Tensor, y: int = y, oracle: Oracle = oracle) -> Tensor:
                    return judge(oracle(rows), y, "probability")

                def add(name: str, found: Tensor, x: Tensor = x, i: int = i, value: Any = value) -> None:
                    down = deletion(value, x, found, baseline=down_to).area
                    up = insertion(value, x, found, baseline=up_from).area
                    tally.add(name, i, deletion=down, insertion=up, faithfulness=up - down)

                for repeat in range(REPEATS):
                    key = Key(run=seed, step=i, site=f"repeat {repeat} ")
                    for name, make in arms.items():
                        add(name, make(oracle, x, y, key))
                    add("random", random_map((x.shape[1], x.shape[2]), key))
                add("white_box_gradient", gradient_of(net, x, y) * x)
                add("white_box_integrated", integrated(net, x, y, removed(x, up_from)))
                tick()
            result.forward_runs += oracle.account.queries
    return tally
