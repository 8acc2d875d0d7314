"""`tune vit`: a vision transformer fine-tuned on a few shifted images by forward passes through its last blocks.

The head's gradient is exact and comes first; then norms or low-rank additions of the last blocks move by noise, copies
divided by an allocator, beside backpropagation and MeZO on the same parameters.
"""

from __future__ import annotations

import copy
import statistics
import time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from onlyforward.core.checks import check_choice, check_range
from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.data.pretrained import load_pretrained
from onlyforward.tune.finetune import Features, Recipe, Scope, tune_suffix
from onlyforward.tune.peers import ALLOCATORS
from onlyforward.tune.pictures import Pictures, Shift, read_pictures
from onlyforward.tune.shots import draw_shots
from onlyforward.tune.study import Run
from onlyforward.tune.suffix import cached, split
from onlyforward.tune.summary import report, sigma_of

if TYPE_CHECKING:
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result
    from onlyforward.tune.command import Vit

METHODS = ("lr", "bp", "mezo", "es", "none")
AMOUNTS = {"rotation": 30.0, "noise": 0.1, "jpeg": 0.0}


def parse_scope(text: str) -> Scope:
    """The scope of a command line.

    Raises:
        UsageError: no such scope.
    """
    word, _, number = text.partition(":")
    check_choice(word, ("head", "late", "norms", "bias", "lora"), name="scope")
    highest = {"late": 6, "lora": 64}.get(word, 0)
    if highest and number and not (number.isdigit() and 1 <= int(number) <= highest):
        raise UsageError(f"--scope is {text!r}", "Write late:1 to late:6, lora:1 to lora:64, head, norms or bias")
    return Scope(word, int(number) if highest and number else {"lora": 4}.get(word, 1))


class Bench:
    """The transformer on shifted images: features of test images once, of each split once.

    Args:
        pictures: shifted images.
        scope: what moves; it says how many blocks the suffix has.
        weights: of the transformer.
        shots: per class.
    """

    def __init__(self, pictures: Pictures, scope: Scope, *, weights: Any = None, shots: int = 16) -> None:
        self.pictures, self.scope, self.shots = pictures, scope, shots
        model = load_pretrained("vit-d128-l6", weights).requires_grad_(False)
        self.prefix, self.suffix = split(model, scope.blocks)
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

    def run(self, arm: str, number: int, recipe: Recipe) -> Run:
        """One arm on one split, from the pretrained weights."""
        begin = time.perf_counter()
        suffix = self.scope.widened(copy.deepcopy(self.suffix), Key(run=number))
        gains: list[float] = []
        kept, steps, runs = tune_suffix(
            arm, suffix, self.features(number), recipe, number, scope=self.scope, gains=gains
        )
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
    scope = parse_scope(options.scope)
    for arm in arms_of_method(options):
        check_choice(arm, (*ALLOCATORS, "head", "bp", "mezo", "mezo-q", "es"), name="arm")
    amount = AMOUNTS[options.shift] if options.severity is None else options.severity
    shift = Shift("none") if options.shift == "jpeg" else Shift(options.shift, amount)
    pictures = read_pictures(options.data, shift, test_limit=options.test_limit, context=context)
    if pictures.data.shape != (3, 32, 32) or pictures.data.classes != 10:
        raise UsageError(f"{options.data} has images of {list(pictures.data.shape)}", "Give 3x32x32 in ten classes")
    bench = Bench(pictures, scope, weights=options.weights, shots=options.shots)
    recipe = recipe_of(options)
    result = context.result(question=f"What does the transformer gain on {options.shift} images by {options.method}?")
    found = context.restore()
    runs = [Run(**run) for run in found.data["runs"]] if found is not None else []
    theta: dict[str, Tensor] = dict(found.tensors) if found is not None else {}
    jobs = [(arm, options.seed + k) for arm in arms_of_method(options) for k in range(options.splits)]
    with context.progress(len(jobs), label="arms and splits") as tick:
        for number, (arm, one) in enumerate(jobs):
            if number >= len(runs):
                runs.append(bench.run(arm, one, recipe))
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
    sigma = sigma_of(options)
    if sigma is not None:
        check_range(sigma, name="--sigma", low=0.0, open_low=True)
    lr = common.lr if options.lr is None else options.lr
    return Recipe(options.epochs, common.batch, check_range(options.copies, name="--copies", low=2), sigma, lr)


NOTE = (
    "Queries are forward runs of the suffix; the frozen blocks before it run once per image and are stored. Every arm "
    "begins with the exact head, whose row shows what it earns alone."
)
