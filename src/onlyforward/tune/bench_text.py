"""Cases `text` and `words` of `onlyforward bench flops`: prompts of the closed text model, five splits."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from onlyforward.core.keys import Key
from onlyforward.run.benchmark import seeds
from onlyforward.tune.bench_vision import table
from onlyforward.tune.loop import Settings
from onlyforward.tune.study import Run, of_arm, run_arm
from onlyforward.tune.text import RATES, TextBench
from onlyforward.tune.texts import TASKS, corpus, question, text_model
from onlyforward.tune.vision import tuned
from onlyforward.tune.words import WordPrompt

if TYPE_CHECKING:
    from onlyforward.run.benchmark import BenchOptions
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

BUDGET = 40_320
ARMS = ("neyman", "uniform", "mezo", "mezo-q", "bp")
WORD_BUDGET = 10_080


def runs_of(context: Context, bench: TextBench, arms: Sequence[str], splits: Sequence[int], budget: int) -> list[Run]:
    """Every arm on every split."""
    lr, sigma = RATES[bench.prompt]
    found: list[Run] = []
    before: float | None = None
    with context.progress(len(arms) * len(splits), label="arms and splits") as tick:
        for arm in arms:
            for split in splits:
                settings = tuned(Settings(budget=budget, lr=lr, sigma=sigma), arm)
                step = bench.step(arm, settings, split)
                run = run_arm(arm, split, bench.trial(split), settings, key=Key(run=split), before=before, step=step)
                before = run.before
                found.append(run)
                context.say(f"{bench.task.name} {arm} split {split}: {run.before:.3f} -> {run.accuracy:.3f}")
                tick()
    return found


def text(options: BenchOptions, context: Context, result: Result) -> None:
    """Soft prompts of four vectors for two topics, from the zero prefix."""
    made = corpus()
    model = text_model(made, say=context.say)
    for name in ("sports", "world"):
        bench = TextBench(model, question(made, name))
        splits = seeds(options)
        runs = runs_of(context, bench, ARMS, splits, BUDGET)
        native = bench.tested(model.prefix[TASKS.index(name)])
        outputs = statistics.fmean(bench.calibrated(split)[1] for split in splits)
        table(
            result,
            f"Is it about {name}? Soft prompt of 256 coordinates, 16 shots, {BUDGET} queries, {len(splits)} splits",
            runs,
            [],
            f"text_{name}",
            f"The model's own withheld prefix reaches {native:.3f}; a map of the zero prefix's scores {outputs:.3f}.",
        )
        result.metric(f"text_{name}_native_accuracy", native)
        result.metric(f"text_{name}_output_accuracy", outputs)
        result.metric(f"text_{name}_before_accuracy", statistics.fmean(run.before for run in runs))
        result.forward_runs += sum(run.queries for run in runs)


def words(options: BenchOptions, context: Context, result: Result) -> None:
    """Four readable words for one topic, beside random words; the prompts are printed."""
    made = corpus()
    model = text_model(made, say=context.say)
    bench = TextBench(model, question(made, "sports"), prompt="words")
    splits = seeds(options)
    runs = runs_of(context, bench, ("neyman", "uniform", "random"), splits, WORD_BUDGET)
    prompts = []
    for run in of_arm(runs, "neyman"):
        problem = bench.trial(run.split).problem
        assert isinstance(problem, WordPrompt)
        prompts.append(f"{bench.spelled(problem.words(torch.tensor(run.theta)))!r} ({run.accuracy:.3f})")
    table(
        result,
        f"Is it about sports? Four words, 16 shots, {WORD_BUDGET} queries, {len(splits)} splits",
        runs,
        [],
        "words_sports",
        f"Prompts found: {', '.join(prompts)}.",
    )
    result.metric("words_sports_before_accuracy", statistics.fmean(run.before for run in runs))
    result.forward_runs += sum(run.queries for run in runs)
