"""`tune vit`: a vision transformer fine-tuned on a few shifted images by forward passes through its last blocks.

The head's gradient is exact and comes first; then the norms of the last blocks move by noise on their scales and
shifts, copies divided by an allocator, beside backpropagation and MeZO on the same parameters.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onlyforward.core.checks import check_choice, check_range
from onlyforward.core.errors import Diverged, UsageError
from onlyforward.core.keys import Key
from onlyforward.data.pretrained import load_pretrained
from onlyforward.nn.engine import LikelihoodRatio
from onlyforward.nn.evolution import EvolutionStrategies, MeZO
from onlyforward.tune.guard import Guard
from onlyforward.tune.peers import ALLOCATORS, make_allocator
from onlyforward.tune.pictures import Pictures, Shift, read_pictures
from onlyforward.tune.shots import draw_shots
from onlyforward.tune.study import Run
from onlyforward.tune.suffix import cached, split
from onlyforward.tune.summary import report

if TYPE_CHECKING:
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result
    from onlyforward.tune.command import Vit

METHODS = ("lr", "bp", "mezo", "es", "none")
AMOUNTS = {"rotation": 30.0, "noise": 0.1, "jpeg": 0.0}
HEAD_EPOCHS, HEAD_RATE = 30, 1e-3
MARGIN = 0.5
"""Standard errors by which the start must be beaten: less than before a closed model, since the head is exact."""


@dataclass(frozen=True)
class Recipe:
    """How the norms are trained after the head.

    Attributes:
        epochs: passes over the shots.
        batch: images of a step.
        copies: mean perturbed runs per image and site.
        sigma: noise on scales and shifts.
        lr: of Adam, norms and head.
    """

    epochs: int = 20
    batch: int = 40
    copies: int = 10
    sigma: float = 0.05
    lr: float = 1e-3


@dataclass(frozen=True)
class Features:
    """What the suffix reads, computed once.

    Attributes:
        x: features of the shots, training ones first.
        y: labels.
        train: how many train.
        x_test: features of the test images.
        y_test: labels.
    """

    x: Tensor
    y: Tensor
    train: int
    x_test: Tensor
    y_test: Tensor


class Kept:
    """The suffix parameters that the guard likes best; forward runs of the validation shots are counted."""

    def __init__(self, suffix: nn.Module, features: Features) -> None:
        self.suffix, self.features, self.guard = suffix, features, Guard(margin=MARGIN)
        self.forwards = 0
        self.best: dict[str, Tensor] = {}
        self.look()

    def look(self) -> None:
        """Measure the present state and keep it if it is better."""
        y = self.features.y[self.features.train :]
        with torch.no_grad():
            out = self.suffix(self.features.x[self.features.train :])
        self.forwards += len(y)
        hits = (out.argmax(1) == y).double()
        if self.guard.consider(losses(out, y).double(), hits, step=len(self.guard.history), queries=self.forwards):
            self.best = copy.deepcopy(self.suffix.state_dict())


def losses(out: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of each image [b]."""
    return F.cross_entropy(out, target, reduction="none")


def fit_head(suffix: Any, features: Features, kept: Kept, key: Key) -> int:
    """Train the head on its exact gradient over stored features; returns forward runs (one a shot)."""
    m, head = features.train, suffix.head
    with torch.no_grad():
        x = suffix[:-1](features.x[:m])
    optimizer = torch.optim.Adam(head.parameters(), lr=HEAD_RATE)
    for epoch in range(HEAD_EPOCHS):
        order = torch.randperm(m, generator=key.at(site="vit/head", step=epoch).generator())
        for rows in order.split(32):
            head_gradient(head, x[rows], features.y[rows])
            optimizer.step()
        if epoch % 3 == 2:
            kept.look()
    return m


def head_gradient(head: Any, x: Tensor, y: Tensor) -> None:
    """Exact gradient of the mean cross-entropy, from the head's inputs [b, w] alone."""
    with torch.no_grad():
        error = (head(x).softmax(1) - F.one_hot(y, head.out_features)) / len(x)
        head.weight.grad, head.bias.grad = error.T @ x, error.sum(0)


def norms_of(suffix: nn.Module) -> dict[str, nn.LayerNorm]:
    """The norms by name."""
    return {name: part for name, part in suffix.named_children() if isinstance(part, nn.LayerNorm)}


@dataclass
class Recorded:
    """An allocator that notes what its plans promise.

    Attributes:
        inner: the allocator.
        gains: expected gain of every plan.
    """

    inner: Any
    gains: list[float] = field(default_factory=list)

    def plan(self, budget: int, features: Any) -> Any:
        """The inner plan."""
        made = self.inner.plan(budget, features)
        self.gains.append(made.expected_gain)
        return made

    def observe(self, ids: Any, coefficients: Tensor) -> None:
        """Passed on."""
        self.inner.observe(ids, coefficients)


def stepper(
    method: str, suffix: Any, recipe: Recipe, seed: int, *, bias_only: bool, gains: list[float] | None = None
) -> Callable[[Tensor, Tensor], int]:
    """One gradient by a method: fills `grad` of norms and head, returns forward runs of the suffix."""
    suffix.requires_grad_(False)
    moved = [
        p for norm in norms_of(suffix).values() for n, p in norm.named_parameters() if n == "bias" or not bias_only
    ]
    for p in moved:
        p.requires_grad_(True)
    if method in ALLOCATORS:
        allocation = Recorded(make_allocator(method, key=Key(run=seed)), gains if gains is not None else [])
        plan = {"*": "frozen", **{name: "channel" for name in norms_of(suffix)}, "head": "exact"}
        suffix.head.requires_grad_(True)
        engine = LikelihoodRatio(
            suffix, plan=plan, copies=recipe.copies, sigma=recipe.sigma, noise="gaussian", seed=seed,
            allocation=allocation,
        )  # fmt: skip

        def ours(x: Tensor, y: Tensor) -> int:
            before = engine.runs
            loss = engine.backward(losses, x, y)
            if not bool(loss.isfinite()):
                raise Diverged(f"The loss is {float(loss)} in step {engine.steps}", "Lower --sigma")
            return engine.runs - before + len(x)

        return ours
    if method == "bp":
        suffix.head.requires_grad_(True)

        def exact(x: Tensor, y: Tensor) -> int:
            with torch.enable_grad():
                torch.autograd.backward(losses(suffix(x), y).mean())
            return len(x)

        return exact
    copies = 2 if method == "mezo" else 2 * (recipe.copies // 2)
    made = MeZO(suffix, copies=copies, sigma=1e-3, seed=seed) if method != "es" else None
    shared: Any = made or EvolutionStrategies(suffix, copies=copies, sigma=recipe.sigma, seed=seed)

    def noisy(x: Tensor, y: Tensor) -> int:
        shared.backward(losses, x, y)
        with torch.no_grad():
            inside = suffix[:-1](x)
        head_gradient(suffix.head, inside, y)
        return (copies + 1) * len(x)

    return noisy


def tune_suffix(
    method: str,
    suffix: Any,
    features: Features,
    recipe: Recipe,
    seed: int,
    *,
    scope: str = "late",
    gains: list[float] | None = None,
) -> tuple[Kept, int, int]:
    """Head first, then norms and head by a method ("head" stops after the head).

    Returns:
        What the guard kept, steps, and forward runs of the suffix.
    """
    key = Key(run=seed)
    kept = Kept(suffix, features)
    runs = fit_head(suffix, features, kept, key)
    steps = 0
    if method != "head":
        suffix.load_state_dict(kept.best)
        step = stepper(method, suffix, recipe, seed, bias_only=scope == "bias", gains=gains)
        norms = [p for norm in norms_of(suffix).values() for p in norm.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam([*norms, *suffix.head.parameters()], lr=recipe.lr)
        for epoch in range(recipe.epochs):
            order = torch.randperm(features.train, generator=key.at(site="vit/order", step=epoch).generator())
            for rows in order.split(recipe.batch):
                optimizer.zero_grad()
                runs += step(features.x[rows], features.y[rows])
                optimizer.step()
                steps += 1
            kept.look()
    suffix.load_state_dict(kept.best)
    return kept, steps, runs + kept.forwards


def scope_blocks(scope: str) -> int:
    """How many blocks a scope reaches.

    Raises:
        UsageError: no such scope.
    """
    word, _, number = scope.partition(":")
    check_choice(word, ("head", "late", "norms", "bias"), name="scope")
    if word == "late" and not (number.isdigit() and 1 <= int(number) <= 6):
        raise UsageError(f"--scope is {scope!r}", "Write late:1 to late:6, head, norms or bias")
    return {"late": int(number or 1), "norms": 6, "bias": 1, "head": 1}[word]


class Bench:
    """The transformer on shifted images: features of test images once, of each split once.

    Args:
        pictures: shifted images.
        blocks: of the suffix.
        weights: of the transformer.
        shots: per class.
    """

    def __init__(self, pictures: Pictures, blocks: int, *, weights: Any = None, shots: int = 16) -> None:
        self.pictures, self.shots = pictures, shots
        model = load_pretrained("vit-d128-l6", weights).requires_grad_(False)
        self.prefix, self.suffix = split(model, blocks)
        self.x_test = cached(self.prefix, pictures.test())
        self.y_test = pictures.data.y_test
        self.before = self.accuracy(self.suffix)
        self.stored: dict[int, Features] = {}

    def accuracy(self, suffix: nn.Module) -> float:
        """Share of right answers on the test images."""
        with torch.no_grad():
            out = torch.cat([suffix(part) for part in self.x_test.split(512)])
        return float((out.argmax(1) == self.y_test).double().mean())

    def features(self, number: int) -> Features:
        """Of one split."""
        if number not in self.stored:
            data = self.pictures.data
            drawn = draw_shots(data.y_train, shots=self.shots, split=number, names=data.labels)
            x = cached(self.prefix, self.pictures.shots(drawn.rows, number))
            self.stored[number] = Features(x, data.y_train[drawn.rows], len(drawn.train), self.x_test, self.y_test)
        return self.stored[number]

    def run(self, arm: str, number: int, recipe: Recipe, *, scope: str = "late") -> Run:
        """One arm on one split, from the pretrained weights."""
        begin = time.perf_counter()
        suffix = copy.deepcopy(self.suffix)
        gains: list[float] = []
        kept, steps, runs = tune_suffix(arm, suffix, self.features(number), recipe, number, scope=scope, gains=gains)
        gain = statistics.fmean(gains) if gains else 1.0
        after = self.before if kept.guard.kept_start else self.accuracy(suffix)
        seconds = time.perf_counter() - begin
        self.last = suffix
        return Run(
            arm, number, self.before, after, kept.guard.accuracy, runs, steps, kept.guard.kept_start, gain, seconds
        )


def arms_of_method(options: Vit) -> list[str]:
    """The headline arm, the exact head, and what it is compared with."""
    names = {"lr": options.allocator, "none": "head"}
    main = "head" if options.scope == "head" else names.get(options.method, options.method)
    others = [word.strip() for word in options.compare.split(",") if word.strip()]
    return list(dict.fromkeys([main, "head", *others]))


def vit(options: Vit, context: Context) -> Result:
    """`onlyforward tune vit`."""
    torch.set_num_threads(options.threads)
    check_choice(options.method, METHODS, name="method")
    check_choice(options.shift, AMOUNTS, name="shift")
    check_range(options.epochs, name="--epochs", low=1)
    blocks = scope_blocks(options.scope)
    for arm in arms_of_method(options):
        check_choice(arm, (*ALLOCATORS, "head", "bp", "mezo", "mezo-q", "es"), name="arm")
    amount = AMOUNTS[options.shift] if options.severity is None else options.severity
    shift = Shift("none") if options.shift == "jpeg" else Shift(options.shift, amount)
    pictures = read_pictures(options.data, shift, test_limit=options.test_limit, context=context)
    if pictures.data.shape != (3, 32, 32) or pictures.data.classes != 10:
        raise UsageError(f"{options.data} has images of {list(pictures.data.shape)}", "Give 3x32x32 in ten classes")
    bench = Bench(pictures, blocks, weights=options.weights, shots=options.shots)
    recipe = recipe_of(options)
    result = context.result(question=f"What does the transformer gain on {options.shift} images by {options.method}?")
    found = context.restore()
    runs = [Run(**run) for run in found.data["runs"]] if found is not None else []
    theta: dict[str, Tensor] = dict(found.tensors) if found is not None else {}
    jobs = [(arm, options.seed + k) for arm in arms_of_method(options) for k in range(options.splits)]
    with context.progress(len(jobs), label="arms and splits") as tick:
        for number, (arm, one) in enumerate(jobs):
            if number >= len(runs):
                runs.append(bench.run(arm, one, recipe, scope=options.scope.partition(":")[0]))
                if not theta:
                    theta.update({name: value.clone() for name, value in bench.last.state_dict().items()})
                context.save(len(runs), lambda: (theta, {"runs": [run.__dict__ for run in runs]}))
                context.say(f"{arm} split {one}: {runs[-1].before:.3f} -> {runs[-1].accuracy:.3f}")
            tick()
    result.artefacts = theta
    result.forward_runs = sum(run.queries for run in runs)
    report(options, result, runs, headline=jobs[0][0], missing=(), note=NOTE)
    for arm in ("head", "bp", "mezo"):
        values = [run.accuracy for run in runs if run.arm == arm]
        if values:
            result.metric(f"{arm}_accuracy", statistics.fmean(values))
    path = context.artefact("suffix.safetensors")
    if path is not None:
        from safetensors.torch import save_file

        save_file({name: value.contiguous() for name, value in theta.items()}, path)
    return result


def recipe_of(options: Vit) -> Recipe:
    """The recipe from the command line."""
    common = Recipe()
    sigma = common.sigma if options.sigma == "auto" else float(options.sigma)
    check_range(sigma, name="--sigma", low=0.0, open_low=True)
    lr = common.lr if options.lr is None else options.lr
    return Recipe(options.epochs, common.batch, check_range(options.copies, name="--copies", low=2), sigma, lr)


NOTE = (
    "Queries are forward runs of the suffix; the frozen blocks before it run once per image and are stored. Every arm "
    "begins with the exact head, whose row shows what it earns alone."
)
