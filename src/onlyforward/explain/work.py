"""The `explain` command: pictures in, maps, overlays, curves and a report out; nothing paid is asked twice."""

from __future__ import annotations

import math
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from onlyforward.core.checks import check_choice, check_range
from onlyforward.core.errors import BudgetSpent, FileError, UsageError
from onlyforward.explain.answers import AnswerScore
from onlyforward.explain.bases import make_basis
from onlyforward.explain.evaluation import Check, Judged, evaluate, peer_maps, white_box
from onlyforward.explain.images import find_target, pictures, read_image
from onlyforward.explain.intervals import half_width
from onlyforward.explain.models import CLEAR, Model, opened, readings
from onlyforward.explain.overlay import save_curves, save_overlay
from onlyforward.explain.page import reading, tables
from onlyforward.explain.policy import LEAST, Choice, Wish, choose, promise
from onlyforward.explain.removal import REMOVALS
from onlyforward.explain.saliency import Attribution, Saliency
from onlyforward.explain.scores import SCORES, judge
from onlyforward.run.oracle import Account, Limits, Oracle
from onlyforward.run.replay import Replay

if TYPE_CHECKING:
    from onlyforward.explain.command import Explain
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result


def explain(options: Explain, context: Context) -> Result:
    """Explain every picture, skipping broken ones of a folder."""
    torch.set_num_threads(options.threads)
    check_range(options.budget, name="budget", low=LEAST, why="fewer questions show nothing")
    check_choice(options.removal, REMOVALS, name="removal")
    paths = pictures(options.images)
    result = context.result(question="Where did the model look?")
    with opened(options) as model:
        if options.advise:
            return advised(options, model, paths, result)
        replay = Replay(context) if not model.chat else None
        done: list[Judged] = []
        skipped: list[list[str]] = []
        for number, path in enumerate(paths):
            try:
                x = read_image(path, model.size, channels=model.channels)
            except FileError as error:
                if len(paths) == 1 or not any(given.is_dir() for given in options.images):
                    raise
                skipped.append([path.name, str(error)])
                context.warn(str(error))
                continue
            try:
                done.append(one(options, context, model, path, x, number, replay))
            except BudgetSpent as error:
                if isinstance(error.partial, Attribution):
                    save(context, path, x, error.partial, f"{path.name}: part of the budget")
                raise
        if not done:
            raise FileError("None of the pictures could be read", "Give at least one picture that opens")
        report(options, result, model, done, skipped)
    return result


def settings(options: Explain, score: str) -> dict[str, Any]:
    """The explainer's settings from the command line."""
    names = ("kind", "basis", "directions", "difference", "solver", "map", "sigma", "blocks", "batch")
    return {name: getattr(options, name) for name in names} | {"baseline": options.removal, "score": score}


def one(
    options: Explain, context: Context, model: Model, path: Path, x: Tensor, number: int, replay: Replay | None
) -> Judged:
    """One picture: its map, its evaluation, its files."""
    begin = time.perf_counter()
    key = context.key.at(step=number)
    account = model.oracle.account if model.chat else Account()
    before = account.queries
    oracle = replace(model.oracle, account=account)
    if replay is not None:
        oracle = replace(oracle, ask=replay.of(oracle.ask))
    if model.chat and options.out is not None:
        oracle = oracle.journaled(options.out / "ledger.sqlite", scope=path.name)
    oracle = oracle.limited(queries=options.budget, usd=options.max_usd)
    budget, target, score, oracle, clean, name = prepared(options, model, oracle, x)
    explainer = Saliency(oracle, **settings(options, score))
    spread = float(x.double().std())
    context.say(f"{path.name}: {choose(wish(options), tuple(x.shape), budget, spread)}, {options.budget} questions")
    with context.progress(budget, label=path.name) as tick:
        found = explainer.attribute(
            x, target=target, budget=budget, key=key, until=options.until, progress=lambda done: tick(to=done)
        )
    paid = account.queries - before
    judged = Judged(path.name, x, found, target, name, clean, paid, replace(account), 0, {}, {})
    asked = replace(oracle, limits=Limits(), account=Account())
    check = None
    if options.evaluate and (not model.chat or model.judge is not None or options.evaluate_paid):
        check = check_of(model, asked, x, target, score)
        evaluate(judged, check, key, replace(explainer, oracle=check.oracle, score=check.score))
    peer_maps(options, judged, asked, target, score, key, check)
    if options.truth:
        white_box(options.truth, judged)
    judged.seconds = time.perf_counter() - begin
    save(context, path, x, found, f"{path.name}: {name or target}", judged)
    return judged


def check_of(model: Model, asked: Oracle, x: Tensor, target: Any, score: str) -> Check:
    """What maps are judged by: the model itself, or the classifier that a loopback endpoint serves."""
    if model.judge is None:
        return Check(replace(asked, account=Account()), target, score)
    served = replace(model.judge, account=Account())
    return Check(served, int(served(x[None])[0].argmax()), "probability")


def prepared(options: Explain, model: Model, oracle: Oracle, x: Tensor) -> tuple[int, Any, str, Oracle, float, str]:
    """Ask the clean question: budget left, target, score, oracle of scores, clean score, and the answer in words."""
    if model.chat:
        answer: Any = oracle.answers(x[None])[0]
        reference = options.reference or answer["text"]
        scored = AnswerScore("similarity" if options.score == "auto" else options.score, reference, alike=model.alike)
        # What an earlier process paid without living to see the answer is gone: the map makes do with the rest.
        left = options.budget - 1 - (oracle.ledger.lost if oracle.ledger is not None else 0)
        # One score a row: everything else about the answers stays in the ledger.
        return left, 0, "logit", oracle.scored(scored), float(scored([answer])[0]), answer["text"]
    score = "probability" if options.score == "auto" else check_choice(options.score, SCORES, name="score")
    answers = oracle(x[None])
    if answers.ndim == 1:
        return options.budget - 1, 0, "logit", oracle, float(answers[0]), ""
    target = find_target(options.target, model.labels, answers.shape[1])
    if target is None:
        target = int(answers[0].argmax())
    if model.unclear is not None:
        check_range_of_pixels(model.unclear, x, float(judge(answers, int(answers[0].argmax()), "probability")[0]))
    name = model.labels[target] if model.labels is not None else f"output {target}"
    return options.budget - 1, target, score, oracle, float(judge(answers, target, score)[0]), name


def check_range_of_pixels(oracle: Oracle, x: Tensor, clear: float) -> None:
    """Refuse to go on when the clean answer says that the pixels are read wrongly.

    Raises:
        UsageError: the top probability is below 0.05; names what each reading gives.
    """
    if clear >= CLEAR:
        return
    found = ", ".join(f"{name} {value:.2f}" for name, value in readings(oracle, x).items())
    raise UsageError(
        f"The model is sure of nothing (top probability {clear:.3f}), so it may read pixels in another range",
        f"Choose --range by the top probability it gives: {found}",
    )


def wish(options: Explain) -> Wish:
    """What the command line fixes of the estimator."""
    return Wish(
        options.kind,
        options.basis,
        options.directions,
        options.difference,
        options.solver,
        options.sigma,
        options.map,
        options.blocks,
    )


def advised(options: Explain, model: Model, paths: Sequence[Path], result: Result) -> Result:
    """The plan, its price and its promise; no question is asked."""
    x = read_image(paths[0], model.size, channels=model.channels)
    choice: Choice = choose(wish(options), tuple(x.shape), options.budget, float(x.double().std()))
    k = make_basis(choice.basis, x).k if choice.kind == "gradient" else 0
    queries = options.budget * len(paths)
    result.question = "What would this explanation cost?"
    result.answer = f"Plan: {choice}. {promise(choice, k, options.budget)}"
    result.metric("images", len(paths))
    result.metric("queries", 0)
    result.metric("planned_queries", queries)
    result.metric("planned_usd", queries * options.usd_per_query)
    result.table(
        "Plan", ["images", "questions each", "questions", "price [$]"],
        [[len(paths), options.budget, queries, queries * options.usd_per_query]],
    )  # fmt: skip
    return result


def save(context: Context, path: Path, x: Tensor, found: Attribution, title: str, judged: Judged | None = None) -> None:
    """Map, overlay and curves of one picture in the run's folder."""
    if context.folder is None:
        return
    stem = safe(path.stem)
    np.save(context.folder / f"map_{stem}.npy", found.map.float().numpy())
    save_overlay(context.folder / f"overlay_{stem}.png", x, found.map, found.error, title)
    save_overlay(context.folder / f"overlay_{stem}.svg", x, found.map, found.error, title)
    if judged is not None and judged.curves:
        save_curves(context.folder / f"curves_{stem}.png", judged.curves, title)


def safe(stem: str) -> str:
    """A file's stem as part of our own names."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", stem) or "image"


def report(options: Explain, result: Result, model: Model, done: list[Judged], skipped: list[list[str]]) -> None:
    """Metrics, tables, figures and the plain reading."""
    first = done[0]
    result.metric("images", len(done))
    result.metric("target", first.target)
    sums = ("queries", "evaluation_queries")
    for name in sums:
        result.metric(name, sum(getattr(one, name) for one in done))
    account = done[-1].account if model.chat else None
    for name in ("cached", "retries", "refused", "usd"):
        total = getattr(account, name) if account else sum(getattr(one.account, name) for one in done)
        result.metric(name, total)
    result.metric("dropped", sum(one.map.dropped for one in done))
    rows = [one.numbers() for one in done]
    for name in rows[0]:
        values = [row[name] for row in rows if not math.isnan(row[name])]
        if values:
            result.metric(name, statistics.fmean(values))
            if len(values) > 1:
                result.metric(f"{name}_ci", half_width(values, seed=options.seed))
    seconds = sum(one.seconds for one in done)
    result.metric("seconds", seconds, timing=True)
    result.metric("queries_per_second", sum(one.queries for one in done) / max(seconds, 1e-9), timing=True)
    result.forward_runs = sum(one.queries + one.evaluation_queries for one in done)
    tables(result, done, rows)
    if skipped:
        result.table("Pictures left out", ["picture", "reason"], skipped)
    spent = asdict(account) if account else {**asdict(first.account), "queries": sum(one.queries for one in done)}
    result.table("Account", ["what", "amount"], [[name, value] for name, value in spent.items() if name != "seconds"])
    result.artefacts = {f"map_{i}": one.map.map for i, one in enumerate(done)}
    for one in done:
        stem = safe(Path(one.name).stem)
        result.figures[f"Where the model looked in {one.name}"] = f"overlay_{stem}.png"
        if one.curves:
            result.figures[f"Is the map right? {one.name}"] = f"curves_{stem}.png"
    result.question = f"Where did the model look in {first.name}?" if len(done) == 1 else "Where did the model look?"
    result.answer, notes = reading(done, options)
    result.notes += notes
