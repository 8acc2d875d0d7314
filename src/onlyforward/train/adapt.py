"""Adapt a pretrained image network to other images with forward passes alone.

Default: the head learns by its exact gradient, which needs the loss's own derivative and no backward pass through the
network; scale and shift of the norms learn by channel noise, 2C numbers per image instead of C x height x width. The
network stays in eval mode: running statistics are never touched, except by the "bnstats" comparison.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from onlyforward.core.checks import check_choice, check_range
from onlyforward.core.errors import Diverged, UsageError
from onlyforward.core.keys import Key
from onlyforward.data.corruptions import corrupt
from onlyforward.data.pretrained import load_pretrained
from onlyforward.data.sets import Dataset, load
from onlyforward.train.methods import cost
from onlyforward.train.peers import Backprop

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from onlyforward.run.context import Context
    from onlyforward.run.result import Result
    from onlyforward.train.options import Adapt

NORMS = (nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)
SCOPES = ("head", "norms", "norms+head", "early", "late")
METHODS = ("lr", "bp", "mezo", "es", "none")


@dataclass(frozen=True)
class Setting:
    """Settings chosen on a fifth of the adaptation images.

    Attributes:
        epochs: passes over the adaptation images.
        copies: perturbed copies per image and norm.
        sigma: standard deviation of the channel noise.
        lr: learning rate of Adam.
        early: prefixes of the paths of norms near the input, where a shift of the images is cheapest to undo.
        late: prefixes of the paths of the norms of the last stage.
    """

    epochs: int = 1
    copies: int = 8
    sigma: float = 0.05
    lr: float = 2e-3
    early: tuple[str, ...] = ("bn1", "layer1.0.bn2", "layer1.1.bn2", "layer1.2.bn2")
    late: tuple[str, ...] = ("layer3",)


SETTINGS: Mapping[str, Setting] = {
    "vit-d128-l6": Setting(
        epochs=2, copies=4, early=("transformer.layers.0",), late=("transformer.layers.5", "mlp_head.0")
    )
}
"""Model -> settings; the ResNets take `Setting()`."""


def loaded(name: str, weights: Path | None = None) -> nn.Module:
    """A pretrained network with its weights laid out channels last, in which narrow convolutions run fastest."""
    return load_pretrained(name, weights).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def head_of(model: nn.Module) -> str:
    """Path of the last linear module."""
    return [path for path, module in model.named_modules() if isinstance(module, nn.Linear)][-1]


def plan_for(model: nn.Module, scope: str, setting: Setting) -> dict[str, str]:
    """The engine's plan of a scope: everything frozen but the norms chosen (channel) and the head (exact)."""
    check_choice(scope, SCOPES, name="scope")
    wanted = {"head": None, "norms": ("",), "norms+head": ("",), "early": setting.early, "late": setting.late}[scope]
    plan = {"*": "frozen"}
    for path, module in model.named_modules():
        if wanted and isinstance(module, NORMS) and path.startswith(wanted):
            plan[path] = "channel"
    if scope != "norms":
        plan[head_of(model)] = "exact"
    return plan


def select(model: nn.Module, plan: Mapping[str, str]) -> list[nn.Parameter]:
    """Let only the parameters of the planned modules require gradients; returns them."""
    model.requires_grad_(False)
    chosen = [p for path, what in plan.items() if what != "frozen" for p in model.get_submodule(path).parameters()]
    for p in chosen:
        p.requires_grad_(True)
    return chosen


def engine_for(method: str, model: nn.Module, plan: Mapping[str, str], setting: Setting, seed: int) -> Any:
    """The engine of a method, with the common `.backward` signature."""
    if method == "bp":
        return Backprop(model, seed=seed)
    import onlyforward as of

    if method == "lr":
        return of.LikelihoodRatio(model, plan=dict(plan), copies=setting.copies, sigma=setting.sigma, seed=seed)
    if method == "mezo":
        return of.MeZO(model, copies=2, sigma=1e-3, seed=seed)
    return of.EvolutionStrategies(model, copies=max(2, setting.copies), sigma=setting.sigma, seed=seed)


def losses(out: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of each image [b]."""
    return F.cross_entropy(out, target, reduction="none")


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of right answers in eval mode."""
    model.eval()
    with torch.inference_mode():
        return sum(int((model(a).argmax(1) == b).sum()) for a, b in zip(x.split(250), y.split(250))) / len(y)


def features(model: nn.Module, x: Tensor) -> Tensor:
    """What the head reads [b, width]."""
    found: list[Tensor] = []
    handle = model.get_submodule(head_of(model)).register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    try:
        with torch.inference_mode():
            for part in x.split(250):
                model(part)
    finally:
        handle.remove()
    return torch.cat(found).clone()


def fit_head(model: nn.Module, x: Tensor, data: Dataset, *, epochs: int, batch: int, lr: float, key: Key) -> None:
    """Train the head alone on its exact gradient, from what it reads [b, width]: no forward run of the network."""
    head = model.get_submodule(head_of(model))
    optimizer = torch.optim.Adam(head.parameters(), lr=lr)
    for epoch in range(epochs):
        order = torch.randperm(len(x), generator=key.at(site="adapt/head", step=epoch).generator())
        for rows in order.split(batch):
            with torch.no_grad():
                error = (head(x[rows]).softmax(1) - F.one_hot(data.y_train[rows], data.classes)) / len(rows)
                head.weight.grad, head.bias.grad = error.T @ x[rows], error.sum(0)
            optimizer.step()
    optimizer.zero_grad()


def reset_statistics(model: nn.Module, x: Tensor) -> nn.Module:
    """A copy of the model whose BatchNorm statistics are those of `x`: forward runs only, no labels."""
    copied = copy.deepcopy(model)
    for module in copied.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
            module.train()
    with torch.inference_mode():
        for part in x.split(250):
            copied(part)
    return copied.eval()


def adapted(
    model: nn.Module,
    data: Dataset,
    *,
    method: str,
    scope: str,
    setting: Setting,
    batch: int,
    seed: int,
    head_epochs: int = 3,
    stored: Tensor | None = None,
    step_done: Callable[[int, nn.Module, torch.optim.Optimizer, Any], None] | None = None,
    start: Callable[[nn.Module, torch.optim.Optimizer, Any], int] | None = None,
) -> tuple[nn.Module, float]:
    """Train `model` in place by one method within one scope; a scope with a head fits the head first.

    Args:
        model: in eval mode.
        data: its training part is used.
        method: lr, bp, mezo or es.
        scope: see SCOPES.
        setting: epochs, copies, sigma and learning rate.
        batch: images per step.
        seed: run coordinate.
        head_epochs: passes of the head alone over stored features before anything else moves.
        stored: `features(model, data.x_train)`, where they are known already.
        step_done: called after every step with (steps done, model, optimiser, engine).
        start: called once before the first step; restores a checkpoint and returns the steps already done.

    Returns:
        The model, and full forward passes per image and step (0 where no step was made).

    Raises:
        Diverged: the loss is not finite.
    """
    key = Key(run=seed)
    plan = plan_for(model, scope, setting)
    parameters = select(model, plan)
    engine = engine_for(method, model, plan, setting, seed)
    optimizer = torch.optim.Adam(parameters, lr=setting.lr)
    done = start(model, optimizer, engine) if start else 0
    if not done and scope != "norms":
        stored = features(model, data.x_train) if stored is None else stored
        fit_head(model, stored, data, epochs=head_epochs, batch=64, lr=1e-3, key=key)
    if scope == "head":
        return model, 0.0
    count, step = len(data.y_train), 0
    for epoch in range(setting.epochs):
        order = torch.randperm(count, generator=key.at(site="adapt/order", step=epoch).generator())
        for rows in order.split(batch):
            step += 1
            if step <= done:
                continue
            optimizer.zero_grad()
            loss = engine.backward(losses, data.x_train[rows], data.y_train[rows])
            if not bool(torch.isfinite(loss)):
                raise Diverged(f"The loss is {float(loss)} in step {step}", "Lower --lr or --sigma", step=step)
            optimizer.step()
            if step_done:
                step_done(step, model, optimizer, engine)
    return model, cost(engine)[0]


def state_of(engine: Any) -> dict[str, Any]:
    """What the engine's next step depends on."""
    return engine.state() if hasattr(engine, "state") else {"steps": engine.steps, "runs": engine.runs}


def prepared(options: Adapt) -> Dataset:
    """The images of a run, shifted if asked for."""
    data = load(options.data, seed=options.seed, limit=options.train_limit, test_limit=options.test_limit)
    if data.kind != "image" or data.shape != (3, 32, 32) or data.classes != 10:
        raise UsageError(f"{data.name} has data of shape {list(data.shape)}", "Give 3x32x32 images of 10 classes")
    return shifted(data, options.shift, options.severity, Key(run=options.seed))


def shifted(data: Dataset, shift: str, severity: float, key: Key) -> Dataset:
    """Training and test images corrupted in the same way, with noise of their own."""
    if shift == "none":
        return data
    return replace(
        data,
        x_train=corrupt(data.x_train, shift, severity, key=key.at(site="shift/train")),
        x_test=corrupt(data.x_test, shift, severity, key=key.at(site="shift/test")),
    )


def run(options: Adapt, context: Context) -> Result:
    """`onlyforward train adapt`."""
    from onlyforward.run.state import load_optimizer_state, optimizer_state

    check_choice(options.method, METHODS, name="method")
    check_choice(options.scope, SCOPES, name="scope")
    check_range(options.batch, name="--batch", low=1)
    given = {name: getattr(options, name) for name in ("epochs", "copies", "sigma", "lr")}
    setting = replace(SETTINGS.get(options.model, Setting()), **{k: v for k, v in given.items() if v is not None})
    check_range(setting.sigma, name="--sigma", low=0.0, open_low=True)
    model = loaded(options.model, options.weights)
    data = prepared(options)
    result = context.result(question=f"What does {options.model} gain on {data.name} by {options.method}?")
    before = accuracy(model, data.x_test, data.y_test)
    original = copy.deepcopy(model)
    steps = setting.epochs * -(-len(data.y_train) // options.batch)
    forwards = 0.0
    if options.method != "none":
        with context.progress(steps, label=f"adapt by {options.method}") as tick:

            def step_done(step: int, model: nn.Module, optimizer: torch.optim.Optimizer, engine: Any) -> None:
                def state() -> tuple[dict[str, Tensor], dict[str, Any]]:
                    moments, skeleton = optimizer_state(optimizer)
                    weights = {f"model.{name}": value.detach().clone() for name, value in model.state_dict().items()}
                    return weights | moments, {"optimizer": skeleton, "engine": state_of(engine)}

                tick()
                context.save(step, state)

            def start(model: nn.Module, optimizer: torch.optim.Optimizer, engine: Any) -> int:
                found = context.restore()
                if found is None:
                    return 0
                weights = {
                    name.removeprefix("model."): value
                    for name, value in found.tensors.items()
                    if name.startswith("model.")
                }
                model.load_state_dict(weights)
                load_optimizer_state(optimizer, found.tensors, found.data["optimizer"])
                if hasattr(engine, "load_state"):
                    engine.load_state(found.data["engine"])
                else:
                    engine.steps, engine.runs = found.data["engine"]["steps"], found.data["engine"]["runs"]
                return found.step

            _, forwards = adapted(
                model,
                data,
                method=options.method,
                scope=options.scope,
                setting=setting,
                batch=options.batch,
                seed=options.seed,
                step_done=step_done,
                start=start,
            )
    after = accuracy(model, data.x_test, data.y_test)
    rows: list[list[Any]] = [["as loaded", before, 0.0], [options.method, after, forwards]]
    result.metric("accuracy_before", before)
    result.metric("accuracy", after)
    result.metric("gain", after - before)
    result.metric("forwards_per_step", forwards)
    result.answer = f"{options.model}: {before:.3f} before and {after:.3f} after adapting {options.scope}."
    if options.compare:
        peer, _ = adapted(
            original, data, method="bp", scope=options.scope, setting=setting, batch=options.batch, seed=options.seed
        )
        best = accuracy(peer, data.x_test, data.y_test)
        rows.append(["bp", best, 1.0])
        result.metric("bp_accuracy", best)
        result.metric("gap_recovered", (after - before) / (best - before) if best != before else float("nan"))
    result.table(
        f"Adapting {options.model} to {data.name}, scope {options.scope}",
        ["method", "accuracy", "forwards per image and step"],
        rows,
        f"{len(data.y_train)} training and {len(data.y_test)} test images, shift {options.shift}.",
    )
    result.artefacts = {name: value.detach().clone() for name, value in model.state_dict().items()}
    path = context.artefact("model.safetensors")
    if path is not None:
        from safetensors.torch import save_file

        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    return result
