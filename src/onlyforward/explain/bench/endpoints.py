"""Case endpoint: a chat endpoint on this machine, answering in words, explained by similarity within its budget."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from onlyforward.core.keys import Key
from onlyforward.data.sets import folder
from onlyforward.explain.answers import AnswerScore
from onlyforward.explain.bench.hostile import hostile
from onlyforward.explain.bench.photos import SMALL, classifier, photographs
from onlyforward.explain.bench.tally import Tally
from onlyforward.explain.evaluation import Check
from onlyforward.explain.images import read_image
from onlyforward.explain.metrics import deletion, insertion, random_map
from onlyforward.explain.peers import Rise
from onlyforward.explain.saliency import Saliency
from onlyforward.explain.scores import probabilities
from onlyforward.run.loopback import Loopback
from onlyforward.run.onnx import OnnxModel
from onlyforward.run.oracle import Account, Oracle

if TYPE_CHECKING:
    from onlyforward.run.benchmark import BenchOptions
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

IMAGES, BUDGET = 3, 256
QUESTION = "What is shown in this picture?"
COLUMNS = {
    "deletion": "deletion (lower is better)",
    "insertion": "insertion (higher is better)",
    "faithfulness": "insertion - deletion",
    "queries": "requests that the server saw",
}


def endpoint(options: BenchOptions, context: Context, result: Result) -> None:
    """Maps from captions alone, judged by the probability that the served network itself gives."""
    served, size = classifier(SMALL)
    labels = OnnxModel(folder("models") / SMALL).labels() or []
    tally, most = Tally("endpoint"), 0

    def classify(rows: Tensor) -> Tensor:
        return probabilities(served(rows))

    with context.progress(IMAGES, label="endpoint") as tick, tempfile.TemporaryDirectory() as place:
        for number, path in enumerate(photographs(1)[:IMAGES]):
            x, key = read_image(path, size), Key(run=options.seed, step=number)
            check = Check(replace(served, account=Account()), int(served(x[None])[0].argmax()), "probability")
            for name in ("auto", "rise", "random"):
                with Loopback(classify, labels) as server:
                    oracle = Oracle.from_chat(server.url, model="captions", question=QUESTION)
                    oracle = oracle.journaled(Path(place) / f"{number} {name}.sqlite").limited(queries=BUDGET)
                    found = explained(name, oracle, x, key)
                    seen = server.seen
                down, up = deletion(check, x, found).area, insertion(check, x, found).area
                tally.add(name, path.stem, deletion=down, insertion=up, faithfulness=up - down, queries=seen)
                result.forward_runs += seen
                most = max(most, seen)
            result.forward_runs += check.oracle.account.queries
            tick()
    tally.report(
        result,
        f"endpoint: a chat endpoint around {SMALL}, similarity of answers, {BUDGET} questions, {IMAGES} photos",
        COLUMNS,
        "The endpoint answers in one sentence with the three likeliest classes and graded words of certainty; the "
        "score is the likeness of that sentence to the clean image's. The served network's probability judges.",
    )
    if "hostile" not in (options.cases or "hostile"):
        hostile(options, context, result)
    result.metric("endpoint_queries", most)
    result.metric("endpoint_budget", BUDGET)
    result.metric("endpoint_gain", tally.mean("auto", "faithfulness") - tally.mean("random", "faithfulness"))


def explained(name: str, oracle: Oracle, x: Tensor, key: Key) -> Tensor:
    """One map from the endpoint's answers; the clean answer is the reference and counts."""
    if name == "random":
        return random_map((x.shape[1], x.shape[2]), key)
    reference = oracle.answers(x[None])[0]["text"]
    scored = oracle.scored(AnswerScore("similarity", reference))
    if name == "auto":
        own = Saliency(scored, score="logit")
        found: Tensor = own.attribute(x, target=0, budget=BUDGET - 1, key=key).map
        return found
    return Rise(scored, baseline="zero", score="logit").attribute(x, target=0, budget=BUDGET - 1, key=key)
