"""Readable prompts: t words, each drawn from V candidates, learned by the score of a categorical policy.

grad = mean over data of mean over draws (L - baseline) (onehot - softmax) per position, every draw with words of its
own and the mean of the datum's other draws as baseline (after arXiv 2201.08531). The prompt that is measured and
returned is the most probable one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from onlyforward.core.allocate.plan import Features
from onlyforward.core.keys import Key
from onlyforward.tune.loop import Tuning
from onlyforward.tune.problem import Classifier, Count
from onlyforward.tune.scores import CrossEntropy

CANDIDATES = 100


def candidates(ids: Tensor, labels: Tensor, vocabulary: Sequence[str], *, count: int = CANDIDATES) -> Tensor:
    """The words with most mutual information with the label on the shots: word numbers [V].

    Args:
        ids: word numbers of the shots [m, L], 0 pads and 1 is unknown.
        labels: [m].
        vocabulary: the word of each number, for ties: they go by number.
        count: V at most.
    """
    known = torch.unique(ids[ids > 1])
    has = torch.stack([(ids == word).any(1) for word in known.tolist()]).double()
    information = torch.zeros(len(known), dtype=torch.float64)
    for label in labels.unique().tolist():
        here = (labels == label).double()
        for present in (has, 1 - has):
            joint = (present @ here) / len(labels)
            alone = present.mean(1) * here.mean()
            information += torch.where(joint > 0, joint * (joint.clamp(min=1e-300) / alone.clamp(min=1e-300)).log(), 0)
    order = torch.argsort(information, descending=True, stable=True)[:count]
    return known[order].sort().values


def score(logits: Tensor, choice: Tensor) -> Tensor:
    """Onehot - softmax for each position: logits [t, V], choice [n, t] -> [n, t, V]."""
    return torch.nn.functional.one_hot(choice, logits.shape[1]).to(logits) - logits.softmax(1)


@dataclass
class WordPrompt(Classifier):
    """A closed classifier behind t words.

    The coordinates are the logits [t (V + 1)]; candidate 0 is no word at all, and at the start it is the most probable,
    so that the start is the bare text.

    Attributes:
        tokens: t.
        choices: word numbers [V + 1], 0 first.
        ids: word numbers of the texts [items, L].
    """

    tokens: int = 4
    choices: Tensor | None = None
    ids: Tensor | None = None

    def words(self, theta: Tensor) -> Tensor:
        """The most probable words [t] as word numbers."""
        assert self.choices is not None
        return self.choices[theta.reshape(self.tokens, -1).argmax(1)]

    def ask_words(self, words: Tensor, items: Tensor) -> Tensor:
        """Scores of texts behind words [n, t]."""
        assert self.ids is not None
        answers = self.oracle(torch.cat((words, self.ids[items]), 1))
        self.count.add(answers)
        return answers

    def ask(self, coordinates: Tensor, items: Tensor) -> Tensor:
        """Scores behind the most probable words."""
        assert coordinates.dim() == 1
        return self.ask_words(self.words(coordinates).expand(len(items), -1), items)


def word_problem(
    oracle: Callable[[Tensor], Tensor], ids: Tensor, labels: Tensor, train: int, vocabulary: Sequence[str], tokens: int
) -> WordPrompt:
    """The problem of a split: candidates from its training shots alone, no word favoured over another at the start."""
    found = torch.cat((torch.zeros(1, dtype=torch.long), candidates(ids[:train], labels[:train], vocabulary)))
    start = torch.zeros(tokens, len(found), dtype=torch.float64)
    start[:, 0] = 1.0
    return WordPrompt(
        oracle, lambda theta, items: ids[items], labels, start.flatten(), torch.arange(train),
        torch.arange(train, len(ids)), None, None, Count(), tokens, found, ids,
    )  # fmt: skip


@dataclass
class Policy:
    """One step of the policy gradient, draws divided over the batch by an allocator.

    Attributes:
        allocation: a `core.allocate` allocator with n_min = 2.
        copies: queries per datum of a step, the clean one included.
        gains: expected gain of every plan.
    """

    allocation: Any
    copies: int
    gains: list[float] = field(default_factory=list)

    def cost(self, batch: int) -> int:
        """Clean and drawn queries."""
        return batch * self.copies

    def advance(self, tuning: Tuning, items: Tensor, key: Key) -> None:
        """One step."""
        problem = tuning.problem
        assert isinstance(problem, WordPrompt)
        assert problem.choices is not None
        logits = tuning.theta.reshape(problem.tokens, -1)
        clean = problem.ask(tuning.theta, items)
        objective = problem.objective(clean, items)
        features = Features(loss=torch.nan_to_num(objective.clean, nan=0.0), residual=objective.residual, ids=items)
        plan = self.allocation.plan(len(items) * (self.copies - 1), features)
        self.gains.append(plan.expected_gain)
        place = plan.index
        drawn = torch.stack(
            [
                torch.multinomial(row.softmax(0), len(place), replacement=True, generator=key.at(chunk=t).generator())
                for t, row in enumerate(logits)
            ],
            1,
        )
        judge: CrossEntropy = problem.loss
        answers = problem.ask_words(problem.choices[drawn], items[place])
        signal = torch.nan_to_num(judge.losses(answers, problem.labels[items][place]), nan=judge.cap)
        counts = plan.counts[place].double()
        total = torch.zeros(len(items), dtype=torch.float64).index_add(0, place, signal)[place]
        # (L - mean of the others) / n = (L - mean) / (n - 1).
        weight = (signal - total / counts) / (counts - 1) / len(items)
        tuning.descend(torch.einsum("n,ntv->tv", weight, score(logits, drawn)).flatten())
        squares = torch.zeros(len(items), dtype=torch.float64).index_add(0, place, (signal - total / counts) ** 2)
        self.allocation.observe(items.tolist(), (squares / plan.counts).sqrt())

    def state(self) -> dict[str, Any]:
        """The allocator's state."""
        return {"allocation": self.allocation.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue where `state()` was taken."""
        self.allocation.load_state(state["allocation"])


@dataclass
class RandomWords:
    """The competitor: random prompts, the best of N on the batch so far; validation decides as for every arm."""

    tries: int = 8

    def cost(self, batch: int) -> int:
        """The candidates and the best so far."""
        return (self.tries + 1) * batch

    def advance(self, tuning: Tuning, items: Tensor, key: Key) -> None:
        """One step."""
        problem = tuning.problem
        assert isinstance(problem, WordPrompt)
        assert problem.choices is not None
        size = len(problem.choices)
        drawn = torch.randint(0, size, (self.tries, problem.tokens), generator=key.generator())
        now = tuning.theta.reshape(problem.tokens, -1).argmax(1)
        rows = torch.cat((now[None], drawn))
        repeated = items.repeat(len(rows))
        answers = problem.ask_words(problem.choices[rows.repeat_interleave(len(items), 0)], repeated)
        found = problem.measure(answers, repeated)[0].reshape(len(rows), -1).mean(1)
        best = rows[int(found.argmin())]
        tuning.move_to(torch.nn.functional.one_hot(best, size).double().flatten())

    def state(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Nothing."""
