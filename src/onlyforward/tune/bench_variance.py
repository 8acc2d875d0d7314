"""Cases `allocate`, `empirical`, `bias`, `shared` of `onlyforward bench flops`: variances by formula and by draw."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from onlyforward.core.allocate import BernoulliAllocator, GaussianAllocator, Halving, Neyman, Reweighted, Uniform
from onlyforward.core.allocate.gaussian import NAMES
from onlyforward.core.allocate.plan import Features, Plan
from onlyforward.core.keys import Key
from onlyforward.tune.bed import SHIFTS, B, Bed, Q, make_bed
from onlyforward.tune.bench_beds import BATCHES, beds
from onlyforward.tune.gains import exact, gain_of

if TYPE_CHECKING:
    from onlyforward.run.benchmark import BenchOptions
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

UPDATES = 300
SIGMA = 3e-3
BLOCKS = 20


def pilot_plan(bed: Bed, x: Tensor, y: Tensor, size: Tensor, key: Key) -> Plan:
    """Four real runs of every datum size the plan and are not averaged; they come out of the same budget."""
    place = torch.arange(B).repeat_interleave(4)
    noise = torch.randn(len(place), bed.dimension, generator=key.generator(), dtype=torch.float64)
    clean = bed.losses(bed.flat().expand(B, -1), x, y)
    shown = (bed.losses(bed.flat() + SIGMA * noise, x[place], y[place]) - clean[place]) / SIGMA
    guess = (shown**2).reshape(B, 4).mean(1).sqrt()
    return Neyman("pilot:4").plan(B * Q - len(place), Features(residual=guess))


def learned(maker: Callable[[], Any], bed: Bed, shift: str) -> Any:
    """An allocator after its updates on batches that are not reported; no model query is spent on them."""
    allocator = maker()
    batches = [bed.features(*bed.batch(shift, BATCHES + k)) for k in range(8)]
    for step in range(UPDATES):
        allocator.plan(B * Q, batches[step % len(batches)])
    return allocator


def allocate(options: BenchOptions, context: Context, result: Result) -> None:
    """Predicted gains of every allocator over uniform counts, with exact per-datum gradients as the truth."""
    bed = make_bed()
    result.metric("allocate_accuracy", bed.accuracy)
    result.metric("allocate_dimension", bed.dimension)
    makers: dict[str, Callable[[], Any]] = {
        "neyman": Neyman,
        "neyman_sqrt_loss": lambda: Neyman("sqrt-loss"),
        "neyman_loss": lambda: Neyman("loss"),
        "gaussian": GaussianAllocator,
        "bernoulli": BernoulliAllocator,
        "halving": Halving,
    }
    for name in NAMES:
        makers[f"gaussian_frozen_{name}"] = lambda name=name: GaussianAllocator(frozen=(name,))
    gains: dict[str, dict[str, list[float]]] = {}
    with context.progress(len(SHIFTS), label="allocate") as tick:
        for shift in SHIFTS:
            allocators = {
                name: learned(make, bed, shift) if name.startswith(("gaussian", "bernoulli")) else make()
                for name, make in makers.items()
            }
            for number in range(BATCHES):
                x, y = bed.batch(shift, number)
                features, size = bed.features(x, y), bed.gradients(x, y).norm(dim=1)
                plans = {name: allocator.plan(B * Q, features) for name, allocator in allocators.items()}
                plans["oracle"] = exact(size)
                plans["pilot_4"] = pilot_plan(bed, x, y, size, Key(step=number, site=shift))
                for name, plan in plans.items():
                    uniform = gain_of(torch.full((B,), Q), size)
                    # A plan with pilots has fewer runs to average: its gain is against all of the budget.
                    found = gain_of(plan.counts, size) * int(plan.counts.sum()) / (B * Q) / uniform
                    gains.setdefault(name, {}).setdefault(shift, []).append(found)
            tick()
    rows = []
    for name, by_shift in gains.items():
        means = {shift: statistics.fmean(values) for shift, values in by_shift.items()}
        for shift, mean in means.items():
            result.metric(f"allocate_{name}_{shift}_gain", mean)
        rows.append([LABELS.get(name, name), *means.values()])
    share = min(a / b for shift in SHIFTS for a, b in zip(gains["neyman"][shift], gains["oracle"][shift], strict=True))
    result.metric("allocate_neyman_oracle_share", share)
    beds(context, result)
    for name in ("gaussian", "bernoulli"):
        over = max(
            result.metrics[f"allocate_{name}_{shift}_gain"] / result.metrics[f"allocate_oracle_{shift}_gain"]  # type: ignore[operator]
            for shift in SHIFTS
        )
        result.metric(f"allocate_{name}_over_optimum", over)
    result.table(
        f"Variance of uniform counts over that of each plan, digits network of {bed.dimension} parameters, "
        f"batches of {B}, {Q} queries per datum, mean of {BATCHES} batches",
        ["allocator", "clean", "noise 0.35", "rotated 35 degrees"],
        rows,
        "Truth: exact per-datum gradients. Neyman minimises the cost that the learned allocators descend, so they can "
        "only approach it; they are for items whose noise must be predicted.",
    )
    result.answer = (
        f"Neyman by residuals lowers the variance {result.metrics['allocate_neyman_clean_gain']:.2f} times on clean "
        f"digits and {result.metrics['allocate_neyman_rotated_gain']:.2f} times on rotated ones, at least "
        f"{share:.3f} of the exact optimum."
    )


LABELS = {
    "oracle": "exact norms (the optimum)",
    "neyman": "Neyman, residual (default)",
    "neyman_sqrt_loss": "Neyman, root of the loss",
    "neyman_loss": "Neyman, loss",
    "pilot_4": "Neyman, 4 pilots of each datum",
    "gaussian": "learned: Gaussian process, 4 parameters",
    "bernoulli": "learned: Bernoulli, 2 parameters",
    "halving": "halving below the mean loss, p = 0.3",
    **{f"gaussian_frozen_{name}": f"Gaussian with {name} frozen" for name in NAMES},
}


def gradients(
    bed: Bed, x: Tensor, y: Tensor, plan: Plan, repeats: int, key: Key, sigma: float, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Independent real estimates G under one plan: [repeats, d]; every row is a forward run of the network."""
    theta, images = bed.flat().to(dtype), x.to(dtype)
    clean = bed.losses(theta.expand(B, -1), images, y)
    found = []
    for repeat in range(repeats):
        total = torch.zeros(bed.dimension, dtype=torch.float64)
        for number, part in enumerate(torch.arange(len(plan.index)).split(320)):
            place = plan.index[part]
            generator = key.at(step=repeat, chunk=number).generator()
            noise = torch.randn(len(place), bed.dimension, generator=generator, dtype=dtype)
            coefficient = (bed.losses(theta + sigma * noise, images[place], y[place]) - clean[place]) / sigma
            total += (plan.weight[part].to(dtype) * coefficient) @ noise
        found.append(total)
    return torch.stack(found)


def spread(estimates: Tensor) -> float:
    """Trace of the sample covariance of estimates [repeats, d]."""
    return float(estimates.var(0).sum())


def empirical(options: BenchOptions, context: Context, result: Result) -> None:
    """The gain with real queries on rotated digits, beside 1 + CV^2 of the exact norms."""
    bed, repeats = make_bed(), 200
    x, y = bed.batch("rotated", 0)
    size = bed.gradients(x, y).norm(dim=1)
    features = bed.features(x, y)
    plans = {"uniform": Uniform().plan(B * Q, features), "neyman": Neyman().plan(B * Q, features)}
    traces = {}
    with context.progress(2, label="empirical") as tick:
        for name, plan in plans.items():
            traces[name] = spread(
                gradients(bed, x, y, plan, repeats, Key(site=f"empirical/{name}"), SIGMA, torch.float32)
            )
            result.forward_runs += B * Q * repeats
            tick()
    gain, theory = traces["uniform"] / traces["neyman"], gain_of(plans["neyman"].counts, size)
    by_formula = (bed.dimension + 1) * float((size**2 / plans["neyman"].counts).sum()) / B**2
    optimum = float(1 + size.var(correction=0) / size.mean() ** 2)
    result.metric("empirical_neyman_gain", gain)
    result.metric("empirical_theory_gain", theory)
    result.metric("empirical_optimum_gain", optimum)
    result.metric("empirical_gain_ratio", gain / theory)
    result.metric("empirical_repeats", repeats)
    result.metric("empirical_trace_ratio", traces["neyman"] / by_formula)
    result.table(
        f"Real queries on rotated digits, {repeats} gradients of {B * Q} runs each",
        ["quantity", "value"],
        [
            ["gain measured", gain],
            ["gain of the plan by formula", theory],
            ["optimum 1 + CV^2", optimum],
            ["measured over formula", gain / theory],
            ["trace of the covariance over (d + 1) sum |g|^2 / n / B^2", traces["neyman"] / by_formula],
        ],
    )


def bias(options: BenchOptions, context: Context, result: Result) -> None:
    """Mean of many gradients against the exact one, in 20 blocks of the parameters."""
    bed, repeats = make_bed(), 40
    x, y = bed.batch("rotated", 1)
    per_datum = bed.gradients(x, y)
    truth, features = per_datum.mean(0), bed.features(x, y)
    arms: dict[str, Any] = {
        "neyman": Neyman(),
        "gaussian": learned(GaussianAllocator, bed, "rotated"),
        "bernoulli": learned(BernoulliAllocator, bed, "rotated"),
        "halving": Halving(),
        # Extreme sizes show what equal row weights do: no floor, the loss itself as proxy.
        "reweighted": Reweighted(Neyman("loss", floor=0.0)),
    }
    rows = []
    with context.progress(len(arms), label="bias") as tick:
        for name, allocator in arms.items():
            plan = allocator.plan(B * Q, features)
            found = gradients(bed, x, y, plan, repeats, Key(site=f"bias/{name}"), 1e-4)
            result.forward_runs += B * Q * repeats
            z = block_z(found, truth)
            cosine = float(torch.nn.functional.cosine_similarity(expected(plan, per_datum), truth, dim=0))
            result.metric(f"bias_{name}_z", z)
            rows.append([name, z, cosine, int(plan.counts.min()), int(plan.counts.max())])
            tick()
    result.table(
        f"Mean of {repeats} gradients against the exact gradient, {BLOCKS} blocks of {bed.dimension} parameters",
        ["allocator", "largest |z|", "cosine of the expectation to the truth", "fewest runs", "most runs"],
        rows,
        "Rows weighted 1/N estimate the gradient of a re-weighted loss: mild in direction, still a bias.",
    )


def expected(plan: Plan, per_datum: Tensor) -> Tensor:
    """E G [d] under a plan's row weights."""
    weight = torch.zeros(len(per_datum), dtype=torch.float64).index_add(0, plan.index, plan.weight.double())
    return weight @ per_datum


def block_z(found: Tensor, truth: Tensor) -> float:
    """Largest |z| over blocks, each block projected on the exact gradient there."""
    largest = 0.0
    for part in torch.arange(len(truth)).tensor_split(BLOCKS):
        along = truth[part] / truth[part].norm().clamp(min=1e-300)
        values = found[:, part] @ along
        error = values.std() / len(values) ** 0.5
        largest = max(largest, abs(float((values.mean() - truth[part] @ along) / error)))
    return largest


def shared(options: BenchOptions, context: Context, result: Result) -> None:
    """Variance of one noise for the whole batch over that of a noise for every datum, at equal runs."""
    bed = make_bed()
    rows = []
    for shift in SHIFTS:
        ratios = []
        for number in range(BATCHES):
            g = bed.gradients(*bed.batch(shift, number))
            # (k + 1) |mean g|^2 / Q against (k + 1) sum |g_i|^2 / (B^2 Q).
            ratios.append(float(g.mean(0).norm() ** 2 * B**2 / (g.norm(dim=1) ** 2).sum()))
        mean = statistics.fmean(ratios)
        result.metric(f"shared_{shift}_ratio", mean)
        rows.append([shift, mean, min(ratios), max(ratios)])
    result.table(
        "Variance of noise shared by the batch over independent noise, equal runs",
        ["images", "mean", "least", "largest"],
        rows,
        "Shared noise wins only where the gradients of a batch cancel, near a minimum: there the ratio falls below 1.",
    )
