"""What is known about one map: its own numbers, its curves beside a random map, competitors, and a white-box twin."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from onlyforward.core.checks import check_choice
from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.explain.checks import infidelity, sensitivity_max
from onlyforward.explain.metrics import Curve, cosine, deletion, gini, insertion, plane, random_map, spearman
from onlyforward.explain.saliency import Attribution, Saliency
from onlyforward.explain.scores import judge, probabilities
from onlyforward.run.oracle import Account, Oracle
from onlyforward.run.userfile import user_function

if TYPE_CHECKING:
    from onlyforward.explain.command import Explain

RANDOM = 3
"""Random maps behind the random curves."""
SENSITIVITY = (3, 64)
"""Draws, and questions of each, behind sensitivity_max."""


@dataclass
class Judged:
    """One picture and all that was found out about it.

    Attributes:
        name: of the file.
        x: [c, h, w] in 0..1.
        map: the attribution.
        target: explained output.
        label: its name, or a chat endpoint's answer.
        score_clean: f(x).
        queries: rows paid for the map.
        account: of the oracle after the map.
        evaluation_queries: rows paid for everything below.
        extra: further numbers, in order.
        curves: name -> (deletion, insertion).
        seconds: wall seconds of the picture.
    """

    name: str
    x: Tensor
    map: Attribution
    target: Any
    label: str
    score_clean: float
    queries: int
    account: Account
    evaluation_queries: int
    extra: dict[str, float]
    curves: dict[str, tuple[Curve, Curve]]
    seconds: float = 0.0

    def numbers(self) -> dict[str, float]:
        """The metrics of one picture."""
        own = {
            "score_clean": self.score_clean,
            "split_half_cosine": self.map.split_half_cosine,
            "full_cosine_estimate": self.map.full_cosine_estimate,
            "residual": self.map.residual,
            "gini": gini(plane(self.map.map)),
        }
        return own | self.extra


@dataclass(frozen=True)
class Check:
    """What maps are judged by.

    Attributes:
        oracle: the black box, with an account of its own.
        target: output that is watched.
        score: probability, logit or log-probability.
    """

    oracle: Oracle
    target: Any
    score: str

    def __call__(self, rows: Tensor) -> Tensor:
        """Scores [n] of rows."""
        return judge(self.oracle(rows), self.target, self.score)


def evaluate(judged: Judged, check: Check, key: Key, explainer: Saliency) -> None:
    """Deletion, insertion, infidelity and sensitivity; every row is counted as an evaluation query."""
    own = (deletion(check, judged.x, judged.map.map), insertion(check, judged.x, judged.map.map))
    size = (judged.x.shape[1], judged.x.shape[2])
    blind = [random_map(size, key.at(copy=i)) for i in range(RANDOM)]
    random = [(deletion(check, judged.x, one), insertion(check, judged.x, one)) for one in blind]
    judged.curves |= {"map": own, "random": random[0]}
    down = sum(pair[0].area for pair in random) / RANDOM
    up = sum(pair[1].area for pair in random) / RANDOM
    judged.extra |= areas("", own) | {
        "random_deletion": down,
        "random_insertion": up,
        "random_faithfulness": up - down,
        "infidelity": infidelity(check, judged.x, spread_over(judged.map.map, judged.x), key=key, normalise=True),
    }
    draws, budget = SENSITIVITY

    def again(x: Tensor) -> Tensor:
        found: Tensor = explainer.attribute(x, target=check.target, budget=budget, key=key).map
        return found

    judged.extra["sensitivity_max"] = sensitivity_max(again, judged.x, key=key, draws=draws)
    judged.evaluation_queries += check.oracle.account.queries


def spread_over(values: Tensor, x: Tensor) -> Tensor:
    """A map in the shape of x: one that channels share is divided among them."""
    return values if values.shape == x.shape else (values / x.shape[0]).expand_as(x)


def areas(prefix: str, pair: tuple[Curve, Curve]) -> dict[str, float]:
    """Deletion, insertion and faithfulness under a prefix."""
    down, up = pair[0].area, pair[1].area
    return {f"{prefix}deletion": down, f"{prefix}insertion": up, f"{prefix}faithfulness": up - down}


def peer_maps(
    options: Explain, judged: Judged, asked: Oracle, target: Any, score: str, key: Key, check: Check | None
) -> None:
    """The competitors that were asked for, on the same black box at their own cost."""
    from onlyforward.explain.peers import PEERS

    for name in (word.strip() for word in options.peers.split(",") if word.strip()):
        check_choice(name, PEERS, name="peer")
        prefix = f"{name.replace('-', '_')}_"
        own = replace(asked, account=Account())
        peer = PEERS[name](own, baseline="zero", score=score, batch=options.batch)
        found = peer.attribute(judged.x, target=target, budget=options.peer_budget or options.budget, key=key)
        judged.extra[f"{prefix}queries"] = float(own.account.queries)
        judged.extra[f"{prefix}cosine"] = cosine(plane(found), plane(judged.map.map))
        if check is not None:
            judged.curves[name] = (deletion(check, judged.x, found), insertion(check, judged.x, found))
            judged.extra |= areas(prefix, judged.curves[name])


def white_box(reference: str, judged: Judged) -> None:
    """Cosine and rank correlation with a differentiable twin's gradient.

    Raises:
        UsageError: the twin is no torch module.
    """
    module = user_function(reference)()
    if not isinstance(module, torch.nn.Module):
        raise UsageError(f"{reference} gives a {type(module).__name__}", "Return a torch.nn.Module")
    truth = gradient_of(module, judged.x, judged.target)
    values = judged.map.map
    truth = truth if values.shape == truth.shape else truth.sum(0)
    judged.extra["cosine_truth"] = cosine(values, truth) if not math.isnan(float(truth.sum())) else math.nan
    judged.extra["spearman_truth"] = spearman(values, truth)


def gradient_of(module: torch.nn.Module, x: Tensor, target: int, score: str = "probability") -> Tensor:
    """Autograd's gradient of a score: the truth, for tests and twins only."""
    with torch.enable_grad():
        leaf = x[None].clone().requires_grad_()
        answers = module.eval()(leaf)
        value = answers[0, target] if score == "logit" else probabilities(answers)[0, target]
        found: Tensor = torch.autograd.grad(value, leaf)[0][0]
    return found.double()
