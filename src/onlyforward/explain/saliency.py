"""Maps of what a closed model looks at: `attribute`, and `stream` for a map after every batch.

Every question is named by the key and its number; the map depends on the scores alone, never on batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from onlyforward.core.checks import check_choice, check_range
from onlyforward.core.errors import OnlyForwardError, UsageError
from onlyforward.core.keys import Key
from onlyforward.explain.bases import Pair
from onlyforward.explain.build import make_estimator
from onlyforward.explain.estimator import Estimate, Estimator
from onlyforward.explain.metrics import cosine
from onlyforward.explain.policy import GRADIENTS, Choice, Wish, choose
from onlyforward.explain.removal import removed
from onlyforward.explain.scores import SCORES, Target, judge
from onlyforward.run.oracle import Oracle

MAPS = ("auto", "presence", "shapley", "banzhaf", *GRADIENTS)
DROPPED = 0.1
"""Share of failed rows beyond which no map is given."""


class TooManyFailed(OnlyForwardError):
    """More than a tenth of the answers were not finite (exit 1)."""


class Attribution(Tensor):
    """A map that is a tensor, shape of x, and knows what it cost and how sure it is.

    Attributes:
        error: standard error, shape of the map.
        coefficients: in the estimator's own coordinates.
        split_half_cosine: cosine rho of the maps of two disjoint halves; sees variance, never bias.
        full_cosine_estimate: sqrt(2 rho / (1 + rho)), what all questions together would have with endless ones; for
            ridge maps what the posterior foresees for eight times as many.
        residual: share of held-back scores' energy left unexplained (gradient and presence, ridge), or the gap of the
            effects' sum (shapley).
        queries: rows this map cost, the clean one included.
        dropped: rows whose score was not finite.
        score_clean: f(x), NaN where it was not asked.
        target: explained output of each x.
        account: of the oracle, as a dict.
        choice: what was chosen, one line.
    """

    # Operations on a map give plain tensors: what the map knows does not hold for its multiples.
    __torch_function__ = torch._C._disabled_torch_function_impl

    error: Tensor
    coefficients: Tensor
    split_half_cosine: float
    sure: float
    residual: float
    queries: int
    dropped: int
    score_clean: float
    target: Any
    account: dict[str, Any]
    choice: str

    @property
    def map(self) -> Tensor:
        """The values as a plain tensor."""
        return self.as_subclass(Tensor)

    @property
    def full_cosine_estimate(self) -> float:
        """Cosine with the map of many more questions: from the halves, an orthogonal design's errors or a posterior.

        The halves of an orthogonal design exclude each other, so that they cannot agree; those of a ridge share its
        prior, so that they agree too well.
        """
        return full_cosine(self.split_half_cosine) if math.isnan(self.sure) else self.sure


@dataclass
class Saliency:
    """A black-box explainer.

    Args:
        oracle: the black box, or a function of rows, or a torch module.
        kind: auto, gradient, presence, shapley or banzhaf.
        basis: auto, pixel, grid:B, dct:K, superpixel:N, or a pair (lift, adjoint) of one's own.
        directions: auto, gaussian, rademacher, orthogonal or sobol.
        difference: auto, plain, mean, forward or antithetic.
        solver: auto, mean or ridge.
        map: auto, presence, shapley, banzhaf, gradient, gradient*input, smoothgrad, vargrad, integrated-gradients or
            expected-gradients.
        baseline: what stands where something is removed: blur, mean, zero, noise, or a tensor of the shape of x;
            expected-gradients take several [m, *shape].
        sigma: noise in units of x; default .05 of x's standard deviation, .5 for the smoothed maps.
        score: probability, logit or log-probability.
        blocks: blockwise:K, blockwise:K/neyman or blockwise:K/0,3, noise in one block at a time.
        batch: most rows handed to the oracle at once.
    """

    oracle: Any
    kind: str = "auto"
    basis: str | Pair = "auto"
    directions: str = "auto"
    difference: str = "auto"
    solver: str = "auto"
    map: str = "auto"
    baseline: str | Tensor = "blur"
    sigma: float | None = None
    score: str = "probability"
    blocks: str = ""
    batch: int = 64

    def __post_init__(self) -> None:
        check_choice(self.kind, ("auto", "gradient", "presence", "shapley", "banzhaf"), name="kind")
        check_choice(self.map, MAPS, name="map")
        check_choice(self.score, SCORES, name="score")
        self.oracle = as_oracle(self.oracle)

    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        baselines: Tensor | str | None = None,
        target: Target = None,
        additional_forward_args: Any = None,
        perturbations_per_eval: int | None = None,
        *,
        budget: int = 512,
        key: int | Key = 0,
        until: float = 0.0,
        progress: Callable[[int], None] | None = None,
    ) -> Any:
        """The map of one x [...], or of each of a batch [b, ...] (vectors and images; the budget is for each).

        Args:
            inputs: [d], [c, h, w], or with a batch dimension in front; a tuple of one, as Captum's metrics hand it
                over, gives a tuple of one.
            baselines: replaces the constructor's.
            target: output index, one per x, a function of the answers [n, c] -> [n], or None for the top output.
            additional_forward_args: must be None: an oracle takes rows alone.
            perturbations_per_eval: most rows at once.
            budget: questions per x, the clean one included; never exceeded.
            key: of the noise.
            until: stop as soon as the estimated cosine reaches this.
            progress: called with the number of questions after every batch.

        Returns:
            An `Attribution`, shape of the inputs (presence: without the channels).

        Raises:
            UsageError: settings that exclude each other, a target out of range.
            BudgetSpent: the oracle's own budget ended; its `partial` is the map so far.
        """
        if additional_forward_args is not None:
            raise UsageError("An oracle takes no further arguments", "Bind them into the function")
        if isinstance(inputs, tuple):
            inside = baselines[0] if isinstance(baselines, tuple) else baselines
            return (
                self.attribute(
                    inputs[0], inside, target, None, perturbations_per_eval, budget=budget, key=key, until=until
                ),
            )
        x = torch.as_tensor(inputs).detach()
        single = x.ndim in (1, 3)
        batch = x[None] if single else x
        base = key if isinstance(key, Key) else Key(run=key)
        found = []
        for i, one in enumerate(batch):
            own = target_of(target, i)
            last = None
            for last in self.stream(
                one,
                target=own,
                baseline=baseline_of(baselines, i, single),
                budget=budget,
                key=base.at(step=base.step + i),
                batch=perturbations_per_eval,
                until=until,
                final=not until,
            ):
                if progress is not None:
                    progress(last.queries)
            assert last is not None
            found.append(last)
        return found[0] if single else stacked(found)

    def stream(
        self,
        x: Tensor,
        *,
        target: Target = None,
        budget: int = 512,
        key: int | Key = 0,
        baseline: Tensor | str | None = None,
        batch: int | None = None,
        until: float = 0.0,
        final: bool = False,
    ) -> Iterator[Attribution]:
        """The map of one x after every batch; with `final` only after the last."""
        check_range(until, name="until", low=0.0, high=1.0)
        base = key if isinstance(key, Key) else Key(run=key)
        start = self.baseline if baseline is None else baseline
        wish = Wish(
            self.kind, self.basis, self.directions, self.difference, self.solver, self.sigma, self.map, self.blocks
        )
        choice = choose(wish, tuple(x.shape), budget, float(x.double().std()))
        estimator = make_estimator(choice, x, start, self.map, base, budget)
        asked, clean = 0, math.nan
        if target is None or estimator.needs_clean:
            answer = self.oracle(x[None])
            target = top(answer) if target is None else target
            clean = float(judge(answer, target, self.score)[0])
            estimator.clean, asked = clean, 1
        todo, dropped, done = budget - asked, 0, 0
        size = min(batch or self.batch, self.oracle.batch) if self.oracle.batch > 1 else batch or self.batch
        while done < todo:
            count = min(size, todo - done)
            try:
                scores = judge(self.oracle(estimator.rows(done, count)), target, self.score)
            except OnlyForwardError as error:
                if done >= 4 and hasattr(error, "partial"):
                    error.partial = self.finish(estimator, choice, x, asked + done, dropped, clean, target)
                raise
            dropped += int((~scores.isfinite()).sum())
            estimator.observe(done, scores)
            done += count
            last = done >= todo
            if last and dropped > DROPPED * done:
                raise TooManyFailed(f"{dropped} of {done} answers were not finite", "Check the model and --range")
            if last or (not final and done >= 8):
                made = self.finish(estimator, choice, x, asked + done, dropped, clean, target)
                yield made
                if until and made.full_cosine_estimate >= until:
                    return

    def finish(
        self, estimator: Estimator, choice: Choice, x: Tensor, queries: int, dropped: int, clean: float, target: Any
    ) -> Attribution:
        """The estimate with all that is known about it."""
        whole = estimator.estimate()
        halves = [estimator.estimate(half) for half in (0, 1)]
        values, error = shown(whole, self.map, x, self.baseline)
        made = values.as_subclass(Attribution)
        made.error, made.coefficients, made.sure = error, whole.coefficients, whole.sure
        made.split_half_cosine = cosine(halves[0].map, halves[1].map)
        residual = halves[0].residual
        made.residual = whole.residual if math.isnan(residual) or choice.kind == "shapley" else residual
        made.queries, made.dropped, made.score_clean, made.target = queries, dropped, clean, target
        made.account, made.choice = asdict(self.oracle.account), str(choice)
        return made

    def explain(self, model: Any, inputs: Any, targets: Any, **settings: Any) -> Any:
        """Quantus' `explain_func`: numpy in, numpy out; the model is the oracle's own.

        Args:
            model: ignored, because the oracle is asked.
            inputs: [b, ...].
            targets: [b].
            settings: budget and key are taken.
        """
        wanted = {name: settings[name] for name in ("budget", "key") if name in settings}
        found = self.attribute(torch.as_tensor(inputs), target=[int(t) for t in targets], **wanted)
        return found.map.to(torch.as_tensor(inputs).dtype).numpy()


def as_oracle(thing: Any) -> Oracle:
    """An oracle of a module or a function; oracles pass."""
    if isinstance(thing, Oracle):
        return thing
    if isinstance(thing, torch.nn.Module):
        return Oracle.from_module(thing)
    if callable(thing):
        return Oracle(thing)
    raise UsageError(f"{type(thing).__name__} is no black box", "Give an Oracle, a torch module or a function of rows")


def shown(estimate: Estimate, name: str, x: Tensor, baseline: str | Tensor) -> tuple[Tensor, Tensor]:
    """What a map's name asks for: values and errors."""
    if name == "gradient*input":
        way = (x - removed(x, baseline)).double()
        return estimate.map * way, estimate.error * way.abs()
    return estimate.map, estimate.error


def full_cosine(rho: float) -> float:
    """sqrt(2 rho / (1 + rho)): Spearman-Brown for cosines; 0 where the halves disagree."""
    return math.sqrt(2 * rho / (1 + rho)) if rho > 0 else 0.0


def top(answers: Tensor) -> int | None:
    """The top output of the clean answer; None for models with a single output."""
    return int(answers[0].argmax()) if answers.ndim == 2 and answers.shape[1] > 1 else 0


def target_of(target: Target, i: int) -> Target:
    """The target of the i-th x."""
    if isinstance(target, (Tensor, Sequence)) and not isinstance(target, str):
        values = torch.as_tensor(target).flatten()
        return int(values[i if len(values) > 1 else 0])
    return target


def baseline_of(baselines: Tensor | str | None, i: int, single: bool) -> Tensor | str | None:
    """The baseline of the i-th x."""
    if isinstance(baselines, Tensor) and not single and baselines.ndim and len(baselines) > 1:
        return baselines[i]
    return baselines


def stacked(found: Sequence[Attribution]) -> Attribution:
    """Maps of a batch as one; numbers are means, costs are sums."""
    made = torch.stack([one.map for one in found]).as_subclass(Attribution)
    made.error = torch.stack([one.error for one in found])
    made.coefficients = torch.stack([one.coefficients for one in found])
    made.split_half_cosine = sum(one.split_half_cosine for one in found) / len(found)
    made.sure = sum(one.full_cosine_estimate for one in found) / len(found)
    made.residual = sum(one.residual for one in found) / len(found)
    made.queries, made.dropped = sum(one.queries for one in found), sum(one.dropped for one in found)
    made.score_clean = sum(one.score_clean for one in found) / len(found)
    made.target = [one.target for one in found]
    made.account, made.choice = found[-1].account, found[-1].choice
    return made
