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
from onlyforward.train.loop import LOSSES, Course, Schedule, accuracy, peak_mb, train
from onlyforward.train.methods import METHODS, Settings, cost, make_method

if TYPE_CHECKING:
    from torch import nn

    from onlyforward.run.context import Context
    from onlyforward.run.result import Result
    from onlyforward.train.command import Fit


def fit(options: Fit, context: Context) -> Result:
    """Train, test, and report under the names of the specification."""
    check_choice(options.method, METHODS, name="method")
    check_choice(options.loss, LOSSES, name="loss")
    if ":" not in options.model:
        check_choice(options.model, MODELS, name="model")
    torch.set_num_threads(options.threads)
    check_range(options.lag, name="--lag", low=0, high=1)
    if options.workers > 1 and (options.method != "lr" or options.cache != "seed" or options.lag):
        raise UsageError("Workers share the copies of --method lr alone", "Take --cache seed and --lag 0 with it")
    data = load(options.data, seed=options.seed, limit=options.train_limit)
    chosen = chosen_settings(options, data)
    model = build(options.model, data, seed=options.seed)
    with group(options, context) as workers:
        shared = None if workers.size == 1 else workers
        method = make_method(options.method, model, replace(chosen.settings, group=shared))
        outcome = trained(model, method, data, chosen, loss=options.loss, seed=options.seed, context=context)
    result = context.result(question=f"How well does {options.method} train {options.model} on {data.name}?")
    report(result, model, method, outcome, data)
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


def chosen_settings(options: Any, data: Dataset) -> Chosen:
    """What the user said, and for the rest the preset of model and data."""
    base = preset(options.model, data.name, options.method)
    copies = base.copies if options.copies is None else options.copies
    settings = Settings(
        copies=copies,
        sigma=base_sigma(options, base),
        noise=options.noise or base.noise,
        baseline=options.baseline,
        pairing=options.pairing,
        plan=read_plan(options.plan) if options.plan else {},
        credit=options.credit,
        force=options.force,
        cache=options.cache,
        flow=options.flow,
        sigma_mode=options.sigma_mode,
        sigma_floor=options.sigma_floor,
        lag=options.lag,
        seed=options.seed,
    )
    schedule = Schedule(
        epochs=base.epochs if options.epochs is None else options.epochs,
        batch=base.batch if options.batch is None else options.batch,
        lr=base.lr if options.lr is None else options.lr,
        optimizer=options.optimizer or base.optimizer,
        weight_decay=base.weight_decay,
        clip=base.clip,
    )
    return Chosen(settings, schedule)


def base_sigma(options: Any, base: Preset) -> float | None:
    """The user's sigma; the preset's belongs to the likelihood ratio alone."""
    if options.sigma is not None:
        return float(options.sigma)
    return base.sigma if options.method == "lr" else None


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
        result.metric("validation_accuracy", outcome.course.validation[-1])
    result.metric("train_loss", outcome.course.losses[-1])
    result.metric("forwards_per_step", forwards)
    result.metric("macs_over_bp", macs)
    result.metric("step_ms", outcome.course.step_ms, timing=True)
    result.metric("peak_mb", peak_mb(), timing=True)
    levels = [memory.sigma for memory in getattr(method, "memory", {}).values()]
    result.metric("sigma_mean", sum(levels) / len(levels) if levels else float(getattr(method, "sigma", 0.0)))
    workers = getattr(method, "group", None)
    exchanged = 0 if workers is None else workers.exchanged
    result.metric("exchanged_bytes_per_step", exchanged / max(1, len(outcome.course.seconds)))
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
