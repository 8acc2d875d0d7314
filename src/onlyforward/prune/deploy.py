"""`prune model`: a user's own trained model made smaller, compared, saved and exported."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from onlyforward.core.checks import check_choice, check_range
from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.data.sets import load
from onlyforward.prune import scores
from onlyforward.prune.counting import batch_of, cost, speedup
from onlyforward.prune.experiment import sparsity_tag
from onlyforward.prune.inspection import inspect
from onlyforward.prune.manifest import export_onnx, load_shrunk, save_shrunk
from onlyforward.prune.masks import Masks, apply_masks, plain_masks, safe_masks
from onlyforward.prune.methods import KAPPAS
from onlyforward.prune.models import example_of, factory_of, load_model, normaliser
from onlyforward.prune.peers import STRUCTURED, prune_with
from onlyforward.prune.recovery import accuracy, finetune, logits_of, recalibrate
from onlyforward.prune.shrink import Shrunk, difference, shrink
from onlyforward.prune.structured import SCORES, Structured, narrowest, prune_structured
from onlyforward.prune.study import FOLDERS, number

if TYPE_CHECKING:
    from onlyforward.prune.command import Model
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

JUDGED = 2000
"""Training images held back, on which choices are made."""


@dataclass(frozen=True)
class Bench:
    """Data for one model: inputs are normalised, labels are class numbers.

    Attributes:
        x: training inputs.
        y: training labels.
        held_x: inputs held back for choices.
        held_y: their labels.
        x_test: test inputs, read for the figures reported alone.
        y_test: test labels.
        key: of the order of fine-tuning.
        soft: logits of the model before pruning on the images of fine-tuning.
        options: the command's.
    """

    x: Tensor
    y: Tensor
    held_x: Tensor
    held_y: Tensor
    x_test: Tensor
    y_test: Tensor
    key: Key
    soft: Tensor | None
    options: Model

    def restore(self, model: nn.Module, masks: Masks | None = None) -> tuple[float, float]:
        """Recalibrate and fine-tune in place; the test accuracy after each."""
        recalibrate(model, self.x[: self.options.recalibrate_images])
        middle = accuracy(model, self.x_test, self.y_test)
        self.tune(model, masks)
        return middle, accuracy(model, self.x_test, self.y_test)

    def tune(self, model: nn.Module, masks: Masks | None = None) -> nn.Module:
        """Fine-tune in place on the images allowed, with the model before pruning as teacher."""
        count = self.options.finetune_images
        return finetune(model, self.x[:count], self.y[:count], self.key, masks=masks, soft=self.soft)

    def judge(self, model: nn.Module) -> float:
        """Recalibrate and fine-tune in place, as the choice will be; the accuracy on the images held back.

        Recalibration alone says too little: on the pretrained ResNet-20 it puts l2 level with taylor, and after
        fine-tuning l2 is three points behind.
        """
        self.tune(recalibrate(model, self.x[: self.options.recalibrate_images]))
        return accuracy(model, self.held_x, self.held_y)


def check(options: Model) -> None:
    """Options that exclude each other.

    Raises:
        UsageError: they do not go together.
    """
    if options.structured == bool(options.sparsity):
        raise UsageError("Give one of --sparsity and --structured", "For instance --structured --macs-ratio 2")
    for sparsity in options.sparsity:
        if not 0 <= sparsity < 1:
            raise UsageError(f"The sparsity is {sparsity}", "Give a fraction of at least 0 and below 1")
    check_choice(options.score, SCORES, name="score")
    known = STRUCTURED if options.structured else ("magnitude",)
    for name in options.peers:
        check_choice(name, known, name="peer")
    for name in ("calibration_images", "finetune_images", "recalibrate_images"):
        check_range(getattr(options, name), name=f"--{name.replace('_', '-')}", low=0)
    if options.finetune_images and not options.data:
        raise UsageError("Fine-tuning needs labels", "Give --data")
    for path in (options.onnx, options.save):
        if path is not None and path.exists() and (path.is_file() or (path / "shapes.json").exists()):
            raise UsageError(f"{path} exists already", "Input and output files are never overwritten: name another")


def prune_model(options: Model, context: Context) -> Result:
    """The whole command."""
    check(options)
    torch.set_flush_denormal(True)
    model = load_model(options.file, options.arch)
    bench, example = prepare(options, context, model)
    result = context.result(question=f"How much smaller can {options.file.name} get, and at what accuracy?")
    if bench is not None:
        result.metric("dense_accuracy", accuracy(model, bench.x_test, bench.y_test))
    small = structured(result, options, context, model, example, bench) if options.structured else None
    if small is None:
        small = unstructured(result, options, context, model, example, bench)
    deliver(result, options, context, model, small, example)
    result.artefacts |= {name: p.detach() for name, p in small.model.named_parameters()}
    return result


def prepare(options: Model, context: Context, model: nn.Module) -> tuple[Bench | None, Tensor]:
    """The data, split, and the example."""
    normalise = normaliser(options.mean, options.std)
    if not options.data:
        return None, example_of(model, options.example, None, normalise)
    wanted = max(options.calibration_images, options.finetune_images, options.recalibrate_images) + JUDGED
    data = load(FOLDERS.get(options.data, options.data), limit=wanted, test_limit=options.test_limit)
    example = example_of(model, options.example, data, normalise)
    dtype = example.dtype
    x, x_test = normalise(data.x_train).to(dtype), normalise(data.x_test).to(dtype)
    cut = len(x) - min(JUDGED, len(x) // 5)
    y = data.y_train
    key = Key(run=options.seed)
    count = min(options.finetune_images, cut)
    soft = logits_of(model, x[:count]) if count else None
    return Bench(x[:cut], y[:cut], x[cut:], y[cut:], x_test, data.y_test, key, soft, options), example


def structured(
    result: Result, options: Model, context: Context, model: nn.Module, example: Tensor, bench: Bench | None
) -> Structured:
    """Remove channels with our score and with the peers', restore each alike, and put them side by side."""
    macs = options.parameters_ratio is None
    ratio = (options.macs_ratio or 2.0) if macs else options.parameters_ratio
    assert ratio is not None
    pair = None if bench is None else (bench.x, bench.y)
    count = options.calibration_images
    few = None if bench is None else (bench.x[:count], bench.y[:count])
    found = prune_structured(
        model,
        example,
        score=options.score,
        steps=options.steps,
        macs_ratio=ratio if macs else None,
        parameters_ratio=None if macs else ratio,
        round_to=options.round_to,
        scope=options.scope,
        max_ratio=options.max_ratio,
        data=pair,
        ignore=options.ignore,
        calibration=count,
        judge=None if bench is None else bench.judge,
    )
    if found.choices:
        context.say("auto: " + ", ".join(f"{k} {v:.3f}" for k, v in found.choices.items()) + f"; kept {found.score}")
        rows = [[name, value, name == found.score] for name, value in found.choices.items()]
        note = f"Accuracy on {len(bench.held_y) if bench else 0} training images held back, restored as the rows above."
        result.table("Scores tried by auto", ["score", "accuracy held back", "kept"], rows, note)
    result.metric("max_abs_difference", difference(found.masked(model, example), found.model, example))
    rows = [row(result, "", f"connect ({found.score})", found, bench, example)]
    for name in options.peers:
        context.say(f"peer {name}")
        peer = prune_with(name, model, example, ratio, macs=macs, data=few, max_ratio=options.max_ratio)
        rows.append(row(result, name.replace("-", "_") + "_", name, peer, bench, example))
    if bench is not None and options.finetune_images:
        dense = bench.tune(copy.deepcopy(model))
        result.metric("dense_finetuned_accuracy", accuracy(dense, bench.x_test, bench.y_test))
        before = result.metrics["dense_accuracy"]
        after = result.metrics["dense_finetuned_accuracy"]
        rows.append(["not pruned", 1.0, 1.0, before, before, after, None])
    columns = ["method", "MACs ratio", "parameters ratio", "raw", "recalibrated", "fine-tuned", "narrowest"]
    note = (
        "Accuracy on the test data. Every row is recalibrated and fine-tuned on the same training images in the same "
        "order with the same settings; ratios are counted on the real models."
    )
    result.tables.insert(0, table(columns, rows, note))
    result.answer = (
        f"{found.macs_ratio:.2f} times fewer multiplications, {found.parameters_ratio:.2f} times fewer parameters"
    )
    if bench is not None:
        best = result.metrics["accuracy_finetuned" if options.finetune_images else "accuracy_recalibrated"]
        result.answer += f", accuracy {best:.3f} (dense {result.metrics['dense_accuracy']:.3f})"
    result.answer += "."
    return found


def table(columns: list[str], rows: list[list[Any]], note: str) -> Any:
    """The headline table."""
    from onlyforward.run.result import Table

    return Table("Channels removed", columns, rows, note)


def row(result: Result, prefix: str, label: str, found: Structured, bench: Bench | None, example: Tensor) -> list[Any]:
    """Metrics and the table row of one structured method; the model is restored in place."""
    values: list[Any] = [None, None, None]
    result.metric(f"{prefix}macs_ratio", found.macs_ratio)
    result.metric(f"{prefix}parameters_ratio", found.parameters_ratio)
    if bench is not None:
        values[0] = accuracy(found.model, bench.x_test, bench.y_test)
        values[1], values[2] = bench.restore(found.model)
        for name, value in zip(("raw", "recalibrated", "finetuned"), values):
            result.metric(f"{prefix}accuracy_{name}", value)
    width = narrowest(found.model, example)
    result.metric(f"{prefix}narrowest_width", width)
    return [label, found.macs_ratio, found.parameters_ratio, *values, width]


def unstructured(
    result: Result, options: Model, context: Context, model: nn.Module, example: Tensor, bench: Bench | None
) -> Shrunk:
    """Mask single weights at every sparsity, restore, and shrink what the largest leaves."""
    kappa = choose_kappa(options, model, example, bench, context)
    result.metric("kappa", kappa)
    rows: list[list[Any]] = []
    collapsed = 0
    smallest, largest = model, -1.0
    for method in ("connect", *options.peers):
        prefix = "" if method == "connect" else f"{method}_"
        cut = 0
        for sparsity in options.sparsity:
            tag = sparsity_tag(sparsity)
            pruned = copy.deepcopy(model)
            if method == "connect":
                masks = safe_masks(pruned, example, sparsity, kappa=kappa, scope=spread(options), ignore=options.ignore)
            else:
                masks = plain_masks(scores.magnitude(scores.prunable(pruned, example)), sparsity)
            apply_masks(pruned, masks)
            report = inspect(pruned, example, masks)
            kept = sum(int(mask.sum()) for mask in masks.values())
            total = sum(mask.numel() for mask in masks.values())
            cut += report.collapsed
            values: list[Any] = [None, None, None]
            if bench is not None:
                values[0] = accuracy(pruned, bench.x_test, bench.y_test)
                values[1], values[2] = bench.restore(pruned, masks)
                result.metric(f"{prefix}accuracy_raw_{tag}", values[0])
                result.metric(f"{prefix}accuracy_{tag}", values[2])
            result.metric(f"{prefix}live_{tag}", report.live / max(1, kept))
            result.metric(f"{prefix}kept_{tag}", kept / total)
            result.metric(f"{prefix}effective_sparsity_{tag}", 1 - report.live / total)
            rows.append(
                [method, sparsity, *values, report.live / max(1, kept), report.dead_outputs, report.narrowest_width]
            )
            if method == "connect" and sparsity > largest:
                smallest, largest = pruned, sparsity
        result.metric(f"{prefix}collapse_count", cut)
        collapsed = cut if method == "connect" else collapsed
    columns = ["method", "sparsity", "raw", "recalibrated", "fine-tuned", "live", "dead outputs", "narrowest"]
    result.table("Weights removed", columns, rows, "live: kept weights on a path from input to output.")
    small = shrink(smallest, example)
    result.metric("macs_ratio", small.macs_ratio)
    result.metric("parameters_ratio", small.parameters_ratio)
    result.metric("max_abs_difference", small.max_abs_difference)
    result.answer = (
        f"At {100 * largest:g} % sparsity no output is cut off; without its dead channels the model has "
        f"{small.parameters_ratio:.2f} times fewer parameters and the same outputs."
        if not collapsed
        else f"{collapsed} of {len(options.sparsity)} masks cut an output off."
    )
    return small


def spread(options: Model) -> str:
    """The scope of masks: "local" is "layer" there."""
    return "layer" if options.scope == "local" else options.scope


def choose_kappa(options: Model, model: nn.Module, example: Tensor, bench: Bench | None, context: Context) -> float:
    """The exponent given, 0.5 without data, else the best on images held back at the largest sparsity."""
    if options.kappa != "auto":
        return check_range(number(options.kappa), name="--kappa", low=0.0, high=1.0)
    if bench is None:
        return 0.5
    best, value = -1.0, 0.5
    for kappa in KAPPAS:
        pruned = copy.deepcopy(model)
        masks = safe_masks(
            pruned, example, max(options.sparsity), kappa=kappa, scope=spread(options), ignore=options.ignore
        )
        apply_masks(pruned, masks)
        score = bench.judge(pruned)
        context.say(f"kappa {kappa}: {score:.3f} held back")
        if score > best:
            best, value = score, kappa
    return value


def deliver(
    result: Result, options: Model, context: Context, model: nn.Module, small: Structured | Shrunk, example: Tensor
) -> None:
    """Measured time, the saved and reloaded model, and the ONNX file."""
    inputs = batch_of(example, 64)
    result.metric("speedup", speedup(model, small.model, inputs, repeats=9), timing=True)
    measured = cost(small.model, example)
    result.metric("parameters", measured.parameters)
    result.metric("macs", measured.macs)
    if options.save is not None:
        save_shrunk(small, options.save, arch=options.arch)
        reloaded = load_shrunk(options.save, factory_of(options.arch))
        result.metric("reload_max_abs_difference", difference(small.model, reloaded.to(example.dtype), example))
    if options.onnx is not None:
        result.metric("onnx_max_abs_difference", export_onnx(small.model, example, options.onnx))
