"""How a network holds up: clean, with its noise kept, under white-box attacks and under corruptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch

from onlyforward.core.checks import check_choice, check_range
from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.data.corruptions import SEVERITIES, corrupt
from onlyforward.data.sets import load
from onlyforward.train.arms import trained
from onlyforward.train.attack import ATTACKS, attacked
from onlyforward.train.noise import noise_kept

if TYPE_CHECKING:
    from torch import Tensor, nn

    from onlyforward.run.context import Context
    from onlyforward.run.result import Result
    from onlyforward.train.options import Robust

DRAWS = 16
"""Draws of the noise that a network with its noise kept is averaged over, in attack and in evaluation."""
ARMS = ("bp", "bp_noise", "lr", "es")
"""The rows of every robustness table: backpropagation, the same with the same noise, likelihood ratio, evolution."""


def probabilities(model: nn.Module, x: Tensor, *, sigma: float, key: Key, draws: int = DRAWS) -> Tensor:
    """Class probabilities [b, classes], averaged over `draws` of the kept noise; one clean run if sigma is 0."""
    total = torch.zeros(())
    count = draws if sigma else 1
    for draw in range(count):
        with noise_kept(model, sigma, key.at(copy=draw)) if sigma else nullcontext():
            total = total + model(x).softmax(-1)
    return total / count


def accuracy(model: nn.Module, x: Tensor, y: Tensor, *, key: Key, sigma: float = 0.0) -> float:
    """Share of right answers, deterministic (sigma 0) or with the noise kept."""
    with torch.no_grad():
        right = [
            int((probabilities(model, a, sigma=sigma, key=key).argmax(-1) == b).sum())
            for a, b in zip(x.split(500), y.split(500))
        ]
    return sum(right) / len(y)


def tag(attack: str, epsilon: float) -> str:
    """`pgd`, 0.1 -> `pgd_010`."""
    return f"{attack}_{round(epsilon * 100):03d}"


def robustness(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    sigma: float,
    attacks: Sequence[str],
    epsilons: Sequence[float],
    corruptions: Sequence[str],
    key: Key,
    severity: float = 3,
) -> dict[str, float]:
    """Accuracies of one trained network.

    Every attack but `eot` uses the gradient of the deterministic network and is tested on it. `eot` attacks the network
    with its noise kept and is tested with fresh noise, averaged over DRAWS.

    Args:
        model: takes x.
        x: test inputs in 0..1 [b, ...].
        y: test labels [b].
        sigma: the noise that `noise_kept` and `eot` keep.
        attacks: names from `attack.ATTACKS`.
        epsilons: radii in the maximum norm.
        corruptions: names from `data.corruptions`.
        key: names noise, random starts and corruptions.
        severity: of the corruptions, 1 to 5.

    Returns:
        "clean", "noise_kept", "<attack>_<100 epsilon>", "<corruption>" -> accuracy.
    """
    for name in attacks:
        check_choice(name, ATTACKS, name="attack")
    for name in corruptions:
        check_choice(name, SEVERITIES, name="corruption")
    for epsilon in epsilons:
        check_range(epsilon, name="epsilon", low=0.0, high=1.0)
    model.eval()
    fresh = key.at(site="robust/fresh")
    found = {
        "clean": accuracy(model, x, y, key=fresh),
        "noise_kept": accuracy(model, x, y, key=fresh, sigma=sigma),
    }

    def deterministic(z: Tensor, draw: int) -> Tensor:
        return model(z)

    def noisy(z: Tensor, draw: int) -> Tensor:
        with noise_kept(model, sigma, key.at(site="robust/attack", copy=draw)):
            return model(z)

    for name in attacks:
        kept = sigma if name == "eot" else 0.0
        predict = noisy if kept else deterministic
        for epsilon in epsilons:
            moved = attacked(name, predict, x, y, epsilon, key=key)
            found[tag(name, epsilon)] = accuracy(model, moved, y, key=fresh, sigma=kept)
    for name in corruptions:
        found[name] = accuracy(model, corrupt(x, name, severity, key=key.at(site=f"corrupt/{name}")), y, key=fresh)
    return found


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (n - 1) over seeds; the deviation of one value is 0."""
    mean = sum(values) / len(values)
    return mean, (sum((v - mean) ** 2 for v in values) / max(1, len(values) - 1)) ** 0.5


def summary(scores: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, dict[str, tuple[float, float]]]:
    """Arm -> quantity -> (mean, standard deviation), from arm -> one mapping per seed."""
    return {
        arm: {name: spread([run[name] for run in runs]) for name in runs[0]} for arm, runs in scores.items() if runs
    }


def honest_sentence(found: Mapping[str, Mapping[str, tuple[float, float]]], quantity: str, what: str) -> str:
    """What of the gain of likelihood-ratio training backpropagation with the same noise has as well."""
    base, deviation = found["bp"][quantity]
    gains = {arm: found[arm][quantity][0] - base for arm in ("lr", "bp_noise")}
    unit = max(deviation, found["lr"][quantity][1], found["bp_noise"][quantity][1])
    left = gains["lr"] - gains["bp_noise"]
    if not unit:
        verdict = "and one seed cannot say whether that is chance"
    elif abs(left) <= unit:
        verdict = "which is within one standard deviation over seeds"
    else:
        verdict = f"which is {abs(left) / unit:.1f} standard deviations over seeds"
    return (
        f"Against {what}, likelihood-ratio training gains {gains['lr']:+.3f} over plain backpropagation and "
        f"backpropagation with the same noise gains {gains['bp_noise']:+.3f}: what is left to the likelihood ratio is "
        f"{left:+.3f}, {verdict}."
    )


def run(options: Robust, context: Context) -> Result:
    """`onlyforward train robust`: every arm trained and attacked, over all seeds."""
    attacks, corruptions = words(options.attacks), words(options.corruptions)
    epsilons = numbers(options.epsilons)
    check_range(options.seeds, name="--seeds", low=1)
    check_range(options.sigma, name="--sigma", low=0.0, open_low=True)
    data = load(options.data, seed=options.seed, limit=options.train_limit, test_limit=options.test_limit)
    if data.kind != "image":
        raise UsageError(f"{data.name} is a set of {data.kind}s", "Attacks need images")
    result = context.result(question=f"What holds up {options.model} on {data.name}?")
    scores: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    with context.progress(len(ARMS) * options.seeds, label="robust") as tick:
        for seed in range(options.seeds):
            for arm in ARMS:
                copies = options.copies * 4 if arm == "es" else options.copies
                model, _ = trained(
                    arm, options.model, data, seed=seed, sigma=options.sigma, copies=copies, epochs=options.epochs or 0
                )
                found = robustness(
                    model,
                    data.x_test,
                    data.y_test,
                    sigma=options.sigma,
                    attacks=attacks,
                    epsilons=epsilons,
                    corruptions=corruptions,
                    key=Key(run=seed, site="robust"),
                    severity=options.severity,
                )
                scores[arm].append(found)
                tick()
    table = summary(scores)
    for arm, values in table.items():
        for name, (mean, deviation) in values.items():
            result.metric(f"{arm}_{name}", mean)
            result.metric(f"{arm}_{name}_std", deviation)
    quantity = next((name for name in table["bp"] if "_" in name and name != "noise_kept"), "clean")
    result.answer = honest_sentence(table, quantity, quantity.replace("_", " "))
    write(result, f"Robustness of {options.model} on {data.name}, sigma {options.sigma}", table, result.answer)
    return result


def write(result: Result, title: str, found: Mapping[str, Mapping[str, tuple[float, float]]], note: str = "") -> None:
    """A table with one row per quantity and two columns per arm, clean accuracy first."""
    columns = ["accuracy on", *(text for arm in found for text in (arm.replace("_", " "), "std"))]
    names = list(next(iter(found.values())))
    result.table(title, columns, [[name, *(v for arm in found for v in found[arm][name])] for name in names], note)


def words(text: str) -> list[str]:
    """Comma-separated names."""
    return [word.strip() for word in text.split(",") if word.strip()]


def numbers(text: str) -> list[float]:
    """Comma-separated numbers."""
    try:
        return [float(word) for word in words(text)]
    except ValueError as error:
        raise UsageError(f"{text!r} are no numbers", "Give them as .05,.1") from error
