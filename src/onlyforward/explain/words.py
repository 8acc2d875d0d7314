"""Texts: the words are players, and what is removed leaves no trace."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from onlyforward.core.checks import check_range
from onlyforward.core.errors import UsageError
from onlyforward.explain.policy import LEAST
from onlyforward.explain.saliency import full_cosine
from onlyforward.explain.scores import judge
from onlyforward.explain.shapley import Players
from onlyforward.run.oracle import Oracle
from onlyforward.run.userfile import user_function

if TYPE_CHECKING:
    from onlyforward.explain.command import Explain
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result


def explain_text(options: Explain, context: Context) -> Result:
    """Shapley values of the words of a text, for a user's function of a list of texts -> [n] or [n, c]."""
    check_range(options.budget, name="budget", low=LEAST, why="fewer questions show nothing")
    words = options.text.split()
    if len(words) < 2:
        raise UsageError("The text has fewer than two words", "Give a sentence")
    if ":" not in options.model:
        raise UsageError(
            "A text needs a model of texts", "Give --model file.py:factory of a function of a list of texts"
        )
    model = user_function(options.model)()

    def ask(z: Tensor) -> Tensor:
        texts = [" ".join(word for word, there in zip(words, row, strict=True) if there) for row in z.tolist()]
        return torch.as_tensor(model(texts))

    oracle = Oracle(ask, batch=options.batch, identity=options.model).limited(queries=options.budget)
    begin = time.perf_counter()
    clean = oracle(torch.ones(1, len(words)))
    target = 0
    if clean.ndim == 2 and clean.shape[1] > 1:
        target = int(clean[0].argmax()) if options.target == "auto" else int(options.target)
    score = "probability" if options.score == "auto" else options.score
    budget = options.budget - 1
    value = "banzhaf" if "banzhaf" in (options.map, options.kind) else "shapley"
    solver = "mean" if value == "banzhaf" or options.solver == "mean" else "ridge"
    game = Players(len(words), lambda z: z, lambda e: e, context.key, budget, value=value, solver=solver)
    for first in range(0, budget, options.batch):
        count = min(options.batch, budget - first)
        game.observe(first, judge(oracle(game.rows(first, count)), target, score))
    found = game.estimate()
    halves = [game.estimate(half).coefficients for half in (0, 1)]
    rho = float(torch.nn.functional.cosine_similarity(halves[0], halves[1], dim=0))
    order = found.coefficients.abs().argsort(descending=True).tolist()
    result = context.result(question="Which words decided?")
    result.metric("images", 0)
    result.metric("target", target)
    result.metric("score_clean", float(judge(clean, target, score)[0]))
    result.metric("queries", oracle.account.queries)
    result.metric("cached", oracle.account.cached)
    result.metric("split_half_cosine", rho)
    result.metric("full_cosine_estimate", full_cosine(rho))
    result.metric("residual", found.residual)
    result.metric("seconds", time.perf_counter() - begin, timing=True)
    rows = [[words[i], float(found.coefficients[i]), float(found.error[i])] for i in range(len(words))]
    result.table("Words in order of the text", ["word", f"{value} value", "standard error"], rows)
    result.artefacts = {"words": found.coefficients}
    result.forward_runs = oracle.account.queries
    best = words[order[0]]
    effect = float(found.coefficients[order[0]])
    result.answer = f'"{best}" moved the score most ({effect:+.3f}); {oracle.account.queries} questions were asked.'
    return result
