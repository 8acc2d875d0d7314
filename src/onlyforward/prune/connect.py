"""Connectivity of any module by one forward run: the regulariser R = -log phi, path shares and the decoupled step."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from onlyforward.core.checks import check_choice, check_range
from onlyforward.core.errors import UsageError
from onlyforward.prune.borrow import borrowed
from onlyforward.prune.mode import Flow, Unknown
from onlyforward.prune.rules import Rules, default_rules
from onlyforward.prune.semiring import Sum


@dataclass(frozen=True)
class Probe:
    """What a run of the measure needs beside the weights.

    Attributes:
        model: the module, unchanged.
        args: one example, batch 1; its float tensors (else its first integer tensor) are replaced by ones.
        kwargs: keyword arguments of the forward; integer and boolean ones and masks are constants.
        rules: how operations carry flow.
        normalize: "mean", "sum" or "none".
        attention: "value" or "qkv".
        batch_norm: "fold", "gamma" or "off".
        dtype: of the flow; None is float32 or the parameters' if wider.
        signed: the weights that runs get are a model's own, not sizes.
    """

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    rules: Rules
    normalize: str = "mean"
    attention: str = "value"
    batch_norm: str = "fold"
    dtype: torch.dtype | None = None
    signed: bool = True

    def run(self, weights: Mapping[str, Tensor], *, semiring: Sum | None = None) -> tuple[Tensor, float]:
        """The output's flow and its log scale under the weights given (name -> tensor, all parameters).

        Raises:
            UsageError: inside torch.compile; an operation has no rule (its module is named).
        """
        if torch.compiler.is_compiling():
            raise UsageError("CoNNect runs inside a compiled region", "Call it outside of torch.compile")
        try:
            return self.once(weights, semiring, follow=False)
        except Unknown:
            return self.once(weights, semiring, follow=True)

    def once(self, weights: Mapping[str, Tensor], semiring: Sum | None, *, follow: bool) -> tuple[Tensor, float]:
        """One run, knowing the path of the module that runs or not."""
        dtype = self.dtype or wide(weights.values())
        flow = Flow(
            self.rules.functions,
            list(weights.values()),
            semiring=semiring or Sum(),
            normalize=self.normalize,
            attention=self.attention,
            batch_norm=self.batch_norm,
            dtype=dtype,
            signed=self.signed,
        )
        args, kwargs = self.inputs(flow, dtype)
        device = next(iter(weights.values())).device.type
        lent = borrowed(self.model, weights, flow, self.rules.modules, follow=follow)
        with torch.random.fork_rng(devices=[]), torch.autocast(device, enabled=False), lent, flow:
            output = self.model(*args, **kwargs)
        return self.outlet(flow, output)

    def inputs(self, flow: Flow, dtype: torch.dtype) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The example with its live tensors marked."""
        named = [*enumerate(self.args), *self.kwargs.items()]
        floats = [k for k, x in named if isinstance(x, Tensor) and x.is_floating_point() and "mask" not in str(k)]
        words = [k for k, x in named if isinstance(x, Tensor) and not x.is_floating_point() and "mask" not in str(k)]
        live = floats or words[:1]
        if not live:
            raise UsageError("The example holds no tensor", "Give example_inputs as the model takes them")
        made: dict[Any, Any] = {}
        for k, x in named:
            if k not in live:
                made[k] = x
            elif floats:
                ones = torch.ones(x.shape, dtype=dtype, device=x.device)
                made[k] = flow.put(ones)
            else:
                made[k] = flow.put(x.clone(), token=True)
        return tuple(made[i] for i in range(len(self.args))), {k: made[k] for k in self.kwargs}

    def outlet(self, flow: Flow, output: Any) -> tuple[Tensor, float]:
        """The live float tensor that counts: logits, else the last hidden state, else the first one."""
        for name in ("logits", "last_hidden_state"):
            if isinstance(getattr(output, name, None), Tensor):
                output = getattr(output, name)
                break
        if not isinstance(output, (Tensor, tuple, list, dict)) and hasattr(output, "__dict__"):
            output = list(vars(output).values())
        for leaf in tree_flatten(output)[0]:
            if flow.live(leaf) and not flow.get(leaf).token:
                signal = flow.get(leaf)
                return signal.value, signal.log
        raise UsageError("No output of the model depends on the example's inputs", "Look at the model's forward")

    def log_phi(self, weights: Mapping[str, Tensor]) -> tuple[Tensor, float]:
        """The flow at the output as one number and its log scale: the mean over outputs, or their sum."""
        value, log = self.run(weights)
        if self.normalize == "mean":
            return value.mean(), log
        return self.units(value).sum(), log

    @staticmethod
    def units(value: Tensor) -> Tensor:
        """The flow per output unit: positions of images and texts averaged."""
        if value.ndim >= 4:
            return value.flatten(2).mean(-1)[0]
        return value.reshape(-1, value.shape[-1]).mean(0) if value.ndim else value[None]


def wide(tensors: Any) -> torch.dtype:
    """float32, or float64 where a parameter has it."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def as_tuple(example: Any) -> tuple[Any, ...]:
    """Example inputs as the tuple of positional arguments."""
    return tuple(example) if isinstance(example, (tuple, list)) else (example,)


def probe(model: nn.Module, example_inputs: Any, **options: Any) -> Probe:
    """A probe with the default rules; float64, nothing normalised, heads alive only with queries, keys and values.

    This is the form that scores, masks and reports use; CoNNect sets its own.
    """
    settings: dict[str, Any] = {"normalize": "none", "attention": "qkv", "dtype": torch.float64, "signed": False}
    settings |= options
    kwargs = settings.pop("kwargs", None) or {}
    rules = settings.pop("rules", None) or default_rules()
    return Probe(model, as_tuple(example_inputs), kwargs, rules, **settings)


def sizes(model: nn.Module, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """|p| of every floating parameter."""
    return {name: p.detach().abs().to(dtype) for name, p in model.named_parameters()}


def weight_names(found: Mapping[str, Tensor | None]) -> list[str]:
    """The names of what counts as weights: at least two dimensions and a place in the flow."""
    return [name for name, gradient in found.items() if gradient is not None and gradient.ndim > 1]


def gradients(
    how: Probe,
    weights: Mapping[str, Tensor],
    *,
    objective: Callable[[Tensor, float], Tensor] | None = None,
    names: Sequence[str] | None = None,
) -> tuple[dict[str, Tensor], float]:
    """D log phi / d |W| for every weight in the flow, at the sizes given, and log phi itself.

    Args:
        how: the probe.
        weights: name -> non-negative tensor.
        objective: (output flow, log) -> scalar, in the place of log phi.
        names: the weights asked for, if not all of them.
    """
    asked = weights if names is None else dict.fromkeys(names)
    with torch.enable_grad():
        leaves = {name: w.detach().requires_grad_(name in asked) for name, w in weights.items()}
        if objective is not None:
            value, log = how.run(leaves)
            scalar = objective(value, log)
        else:
            phi, log = how.log_phi(leaves)
            if float(phi.detach()) <= 0:
                zero = {name: torch.zeros_like(weights[name]) for name in asked if weights[name].ndim > 1}
                return zero, -math.inf
            scalar = phi.log() + log
        found = torch.autograd.grad(scalar, [leaves[name] for name in asked], allow_unused=True)
    pairs = dict(zip(asked, found))
    return {name: pairs[name] for name in weight_names(pairs)}, float(scalar.detach())  # type: ignore[misc]


class CoNNect:
    """The connectivity R = -log phi of a module as a regulariser.

    phi is the sum over all input-to-output paths of the product of normalised absolute weights (arXiv 2502.00744),
    found by one forward run on ones, without biases and activations; its gradient is one backward run. The normaliser
    "mean" (derived) divides by mean |W| and fan-in, so that uniform weights send ones to ones: the same gradient on
    chains, no underflow at any depth, and a branch beside a skip still counts.

    R alone is blind to the loss and drives a network to a chain one neuron wide: use it beside a loss.

    Args:
        model: any nn.Module; neither changed nor compiled.
        example_inputs: one example (batch 1), a tensor or a tuple of the forward's arguments.
        example_kwargs: keyword arguments of the forward.
        normalize: "mean", or "sum" as in the paper.
        attention: "value": heads carry the mean of their values; "qkv": queries and keys count as well.
        batch_norm: "fold": |gamma| / sqrt(var + eps); "gamma"; "off".
        every: a call in between gives zero, the others every * R, so that the mean over steps is R.
        rules: function and module rules, see `register_rule`.

    Raises:
        UsageError: an unknown choice; an operation that makes negative flow and has no rule.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        *,
        example_kwargs: Mapping[str, Any] | None = None,
        normalize: str = "mean",
        attention: str = "value",
        batch_norm: str = "fold",
        every: int = 1,
        rules: Rules | None = None,
    ) -> None:
        check_choice(normalize, ("mean", "sum"), name="normalizer")
        check_choice(attention, ("value", "qkv"), name="attention rule")
        check_choice(batch_norm, ("fold", "gamma", "off"), name="batch norm rule")
        self.every = check_range(every, name="every", low=1)
        self.calls = 0
        self.model = model
        self.probe = Probe(
            model,
            as_tuple(example_inputs),
            example_kwargs or {},
            rules or default_rules(),
            normalize=normalize,
            attention=attention,
            batch_norm=batch_norm,
        )

    def __call__(self) -> Tensor:
        """R = -log phi, a scalar with a gradient; without any path -log(tiny), gradient 0 and a warning."""
        self.calls += 1
        weights = dict(self.model.named_parameters())
        if (self.calls - 1) % self.every:
            return torch.zeros((), dtype=wide(weights.values()))
        phi, log = self.probe.log_phi(weights)
        if float(phi.detach()) <= 0:
            warnings.warn("The network has no path from input to output", RuntimeWarning, stacklevel=2)
            return phi * 0 - math.log(torch.finfo(phi.dtype).tiny)
        return -(phi.log() + log) * self.every

    def phi(self) -> float:
        """The sum-normalised phi, in [0, 1] for chains."""
        with torch.no_grad():
            how = replace(self.probe, normalize="sum", dtype=torch.float64)
            value, log = how.log_phi(sizes(self.model))
        return float(value) * math.exp(log)

    def shares(self, reduction: str = "none") -> dict[str, Tensor]:
        """The fraction of the un-normalised flow through each weight, >= 0; a chain's layers sum to 1.

        Args:
            reduction: "none", or "channel": kernel taps summed -> [out, in / groups].
        """
        check_choice(reduction, ("none", "channel"), name="reduction")
        how = replace(self.probe, normalize="none", dtype=torch.float64, signed=False)
        weights = sizes(self.model)
        slopes, _ = gradients(how, weights)
        found = {name: weights[name] * slope for name, slope in slopes.items()}
        if reduction == "channel":
            return {name: share.flatten(2).sum(-1) if share.ndim > 2 else share for name, share in found.items()}
        return found

    @torch.no_grad()
    def step_(self, a: float = 0.01, floor: float = 1e-3, *, force: bool = False) -> None:
        """The decoupled step (derived): |W_e| *= (alpha_i beta_j / phi + floor)^a, each layer keeping its L1 norm.

        Raises:
            UsageError: a above 0.05, which destroys training, without `force`.
        """
        check_range(a, name="the strength a of the step", low=0.0)
        if a > 0.05 and not force:
            raise UsageError(f"The strength a = {a} of the step destroys training", "Take at most 0.05, or force it")
        dtype = wide(self.model.parameters())
        how = replace(self.probe, normalize="none", dtype=dtype, signed=False)
        weights = dict(self.model.named_parameters())
        slopes, log = gradients(how, {name: w.abs().to(dtype) for name, w in weights.items()})
        if math.isinf(log):
            return
        for name, slope in slopes.items():
            weight = weights[name]
            total = weight.abs().sum()
            # In sum-normalised units, alpha_i beta_j / phi = d log phi / d |W_e| * ||W||_1.
            weight.mul_((slope * total).add_(floor).pow_(a).to(weight.dtype))
            weight.mul_(total / weight.abs().sum().clamp_min(torch.finfo(weight.dtype).tiny))

    def report(self, masks: Mapping[str, Tensor] | None = None) -> Any:
        """What every layer keeps, what of it lives, and how narrow the network is: a ConnectivityReport."""
        from onlyforward.prune.inspection import inspect

        return inspect(self.model, self.probe.args, masks, kwargs=self.probe.kwargs, rules=self.probe.rules)


def live_flags(how: Probe, weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """Which non-zero weights lie on a path from input to output, and the flow per output unit.

    The run is on the indicator of non-zero weights, so no flow can underflow.
    """
    flags = {name: (w != 0).to(torch.float64) for name, w in weights.items()}
    how = replace(how, normalize="none", attention="qkv", dtype=torch.float64, signed=False)
    outputs: list[Tensor] = []

    def total(value: Tensor, log: float) -> Tensor:
        outputs.append(Probe.units(value).detach())
        return value.mean()

    found, _ = gradients(how, flags, objective=total)
    return {name: (slope > 0) & (flags[name] > 0) for name, slope in found.items()}, outputs[0]
