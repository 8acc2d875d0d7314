"""`train fit`: one network, one data set, one method, tested once."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from onlyforward.core.checks import check_choice, check_range
from onlyforward.core.errors import FileError, UsageError
from onlyforward.core.keys import Key
from onlyforward.data.nets import MODELS, Preset, build, preset
from onlyforward.data.sets import Dataset, load
from onlyforward.run.workers import group
from onlyforward.train.extras import advised_plan, attacks, cosine_with_backprop, first_batch, mean_kappa
from onlyforward.train.loop import LOSSES, Course, Schedule, accuracy, peak_mb, preset_schedule, train
from onlyforward.train.methods import LIKELIHOOD_RATIOS, METHODS, Settings, cost, make_method
from onlyforward.train.shard import Sharded

if TYPE_CHECKING:
    from torch import nn

    from onlyforward.run.context import Context
    from onlyforward.run.result import Result
    from onlyforward.run.workers import Workers
    from onlyforward.train.command import Fit


def fit(options: Fit, context: Context) -> Result:
    """Train, test, and report under the names of the specification."""
    check_choice(options.method, METHODS, name="method")
    check_choice(options.loss, LOSSES, name="loss")
    if ":" not in options.model:
        check_choice(options.model, MODELS, name="model")
    torch.set_num_threads(options.threads)
    check_range(options.lag, name="--lag", low=0, high=1)
    check_choice(options.shard, ("copies", "data"), name="shard")
    device = "cuda" if options.device != "cpu" and torch.cuda.is_available() else "cpu"
    data = load(options.data, seed=options.seed, limit=options.train_limit).to(device)
    chosen = chosen_settings(options, data)
    model = build(options.model, data, seed=options.seed).to(device)
    batch = first_batch(data, chosen.schedule.batch, options.loss)
    if options.method == "hybrid" and not options.plan:
        plan = advised_plan(model, batch, options.target_cosine or 0.9, seed=options.seed)
        context.say(f"Plan by advice: {plan or 'activations everywhere'}.")
        chosen = replace(chosen, settings=replace(chosen.settings, plan=plan))
    with group(options, context) as workers:
        method = shared_method(options, model, chosen.settings, workers)
        outcome = trained(model, method, data, chosen, loss=options.loss, seed=options.seed, context=context)
        exchanged = workers.exchanged
        measured = {}  # by all workers together, as they share the copies
        if options.method in LIKELIHOOD_RATIOS:
            measured["kappa"] = mean_kappa(method, batch)
        if options.measure_cosine:
            measured["cosine"] = cosine_with_backprop(model, method, batch)
    result = context.result(question=f"How well does {options.method} train {options.model} on {data.name}?")
    report(result, model, method, outcome, data)
    result.metric("exchanged_bytes_per_step", exchanged / max(1, len(outcome.course.seconds)))
    for name, value in measured.items():
        result.metric(name, value)
    if options.robust:
        attacks(result, model, data, seed=options.seed)
    result.answer = (
        f"{options.method} trains {options.model} on {data.name} to a test accuracy of {outcome.accuracy:.3f} in "
        f"{outcome.course.steps} steps of {cost(method)[0]:.1f} forward runs each."
    )
    save_model(model, context)
    return result


@dataclass(frozen=True)
class Chosen:
    """Settings of the method and schedule of the loop."""

    settings: Settings
    schedule: Schedule


@dataclass(frozen=True)
class Outcome:
    """What one training came to."""

    accuracy: float
    course: Course


def shared_method(options: Fit, model: nn.Module, settings: Settings, workers: Workers) -> Any:
    """The method, with its copies or its data shared among the workers.

    Raises:
        UsageError: copies that cannot be shared.
    """
    if workers.size == 1:
        return make_method(options.method, model, settings)
    if options.shard == "data":
        own = replace(settings, seed=settings.seed + (workers.rank << 20))
        return Sharded(make_method(options.method, model, own), workers)
    if options.method != "lr" or options.cache != "seed" or options.lag:
        raise UsageError(
            "Workers share the copies of --method lr alone",
            "Take --cache seed and --lag 0 with it, or --shard data for other methods",
        )
    return make_method(options.method, model, replace(settings, group=workers))


def chosen_settings(options: Any, data: Dataset) -> Chosen:
    """What the user said, and for the rest the preset of model and data."""
    base = preset(options.model, data.name, options.method, options.loss)
    copies = base.copies if options.copies is None else options.copies
    settings = Settings(
        copies=copies,
        sigma=base_sigma(options, base),
        noise=options.noise or base.noise,
        visits=base.visits if options.visits is None else options.visits,
        baseline=options.baseline or base.baseline,
        pairing=options.pairing or base.pairing,
        plan=read_plan(options.plan) if options.plan else base.plan if options.method == "lr" else {},
        credit=options.credit,
        force=options.force,
        cache=options.cache,
        flow=options.flow,
        sigma_mode=options.sigma_mode,
        sigma_floor=options.sigma_floor,
        injection=options.injection,
        allocation=options.allocation,
        target_cosine=options.target_cosine,
        lag=options.lag,
        seed=options.seed,
    )
    schedule = preset_schedule(
        base,
        epochs=options.epochs,
        batch=options.batch,
        lr=options.lr,
        optimizer=options.optimizer or None,
        decay=options.decay or None,
    )
    return Chosen(settings, schedule)


def base_sigma(options: Any, base: Preset) -> float | None:
    """The user's sigma; the preset's belongs to the likelihood ratio alone."""
    if options.sigma is not None:
        return float(options.sigma)
    return base.sigma if options.method in LIKELIHOOD_RATIOS else None


def trained(
    model: nn.Module, method: Any, data: Dataset, chosen: Chosen, *, loss: str, seed: int, context: Any = None
) -> Outcome:
    """Train in place and test once."""
    key = Key(run=seed, site="train")
    course = train(model, method, data, LOSSES[loss], chosen.schedule, key=key, context=context)
    return Outcome(accuracy(model, data), course)


def report(result: Result, model: nn.Module, method: Any, outcome: Outcome, data: Dataset) -> None:
    """The metrics of the specification, the learning curve, and the parameters as artefacts."""
    forwards, macs = cost(method)
    result.metric("accuracy", outcome.accuracy)
    if outcome.course.validation:
        result.metric("validation_accuracy", max(outcome.course.validation))
    result.metric("train_loss", outcome.course.losses[-1])
    result.metric("forwards_per_step", forwards)
    result.metric("macs_over_bp", macs)
    result.metric("step_ms", outcome.course.step_ms, timing=True)
    result.metric("peak_mb", peak_mb(), timing=True)
    kept = getattr(method, "kept", None)
    if kept is not None:
        result.metric("cache_bytes", kept.peak)
        result.metric("cache_bytes_predicted", kept.predicted)
    levels = [memory.sigma for memory in getattr(method, "memory", {}).values()]
    result.metric("sigma_mean", sum(levels) / len(levels) if levels else float(getattr(method, "sigma", 0.0)))
    result.forward_runs = method.runs
    epochs = list(range(1, len(outcome.course.losses) + 1))
    result.curve(
        f"Learning curve on {data.name}",
        "",
        epochs,
        outcome.course.losses,
        x_label="epoch",
        y_label="mean training loss (nats)",
    )
    rows = [[epoch + 1, loss] for epoch, loss in enumerate(outcome.course.losses)]
    result.table(f"Learning curve on {data.name}", ["epoch", "mean training loss"], rows)
    result.artefacts = {name: p.detach() for name, p in model.named_parameters()}


def save_model(model: nn.Module, context: Context) -> None:
    """The trained network beside the result."""
    path = context.artefact("model.safetensors")
    if path is not None:
        from safetensors.torch import save_file

        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, str(path))


def read_plan(path: str) -> dict[str, str]:
    """A plan from a TOML file of `"glob" = "kind"` lines.

    Raises:
        FileError: no such file, or no TOML.
        UsageError: a value that is no string.
    """
    try:
        plan = tomllib.loads(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise FileError(f"The plan {path} cannot be read: {error}", 'Give lines such as "conv*" = "lr"') from error
    for glob, kind in plan.items():
        if not isinstance(kind, str):
            raise UsageError(
                f"The plan {path} gives {glob!r} no word", 'Quote globs that hold dots: "encoder.*" = "bp"'
            )
    return plan
