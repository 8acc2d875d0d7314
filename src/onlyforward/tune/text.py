"""`tune text`: the prompt of a closed text classifier from a few labelled texts: vectors, words, or its outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onlyforward.core.checks import check_choice
from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.data.sets import load
from onlyforward.data.texts import encode
from onlyforward.run.oracle import Account, Oracle
from onlyforward.run.userfile import user_function
from onlyforward.tune.loop import Settings, Step
from onlyforward.tune.outputs import guarded_readout
from onlyforward.tune.peers import ALLOCATORS, PEERS, make_allocator, make_step
from onlyforward.tune.problem import Classifier
from onlyforward.tune.shots import draw_shots
from onlyforward.tune.soft import Backprop, SoftPrompt, make_prompt, pack, unpack
from onlyforward.tune.study import Study, Trial
from onlyforward.tune.summary import arms_of, report
from onlyforward.tune.texts import LENGTH, TASKS, TOKENS, WIDTH, Corpus, TextTask, corpus, question, text_model
from onlyforward.tune.vision import settings_of
from onlyforward.tune.words import Policy, RandomWords, WordPrompt, word_problem

if TYPE_CHECKING:
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result
    from onlyforward.tune.command import Text

PROMPTS = ("soft", "words", "output")
RATES = {"soft": (0.03, 0.05), "words": (0.3, 0.05)}
"""Prompt -> learning rate and sigma, chosen on splits that are not reported (100 to 102)."""


@dataclass
class TextBench:
    """A closed text model and one question.

    Attributes:
        model: takes prefix vectors [n, t, e] and word numbers [n, L].
        task: the texts.
        tokens: t.
        dimension: of a soft prompt.
        prompt: soft, words or output.
        shots: of each class.
        limit: test texts.
        proxy: of the allocators.
        account: of every question asked while tuning.
    """

    model: Any
    task: TextTask
    tokens: int = TOKENS
    dimension: str = "full"
    prompt: str = "soft"
    shots: int = 16
    limit: int = 1000
    proxy: str = "residual"
    account: Account = field(default_factory=Account)

    def oracle(self) -> Oracle:
        """The closed model: rows of vectors and words, or of words alone; no gradient comes out."""
        model, tokens = self.model, self.tokens

        def soft(rows: Tensor) -> Tensor:
            with torch.inference_mode():
                return model(*unpack(rows, TOKENS, WIDTH)).double()

        def words(rows: Tensor) -> Tensor:
            with torch.inference_mode():
                return model(self.embedded(rows[:, :tokens]), rows[:, tokens:]).double()

        return Oracle(soft if self.prompt != "words" else words, batch=256, identity="text", account=self.account)

    def split(self, number: int) -> tuple[Tensor, Tensor, int]:
        """Word numbers and labels of the shots, training ones first, and how many train."""
        drawn = draw_shots(self.task.labels, shots=self.shots, split=number, names=("no", "yes"))
        return self.task.pool[drawn.rows], self.task.labels[drawn.rows], len(drawn.train)

    def trial(self, number: int) -> Trial:
        """One split."""
        ids, labels, m = self.split(number)
        if self.prompt == "words":
            problem = word_problem(self.oracle(), ids, labels, m, self.task.vocabulary, self.tokens)
            return Trial(problem, lambda theta: self.tested_words(problem.words(theta)))
        prompt = self.soft()

        def rows(theta: Tensor, items: Tensor) -> Tensor:
            return pack(prompt(theta), ids[items])

        made = Classifier(self.oracle(), rows, labels, prompt.start, torch.arange(m), torch.arange(m, len(ids)))
        return Trial(made, lambda theta: self.tested(prompt(theta[None])[0]))

    def soft(self) -> SoftPrompt:
        """The soft prompt."""
        return make_prompt(self.tokens, WIDTH, self.dimension, places=TOKENS)

    def embedded(self, words: Tensor) -> Tensor:
        """Vectors [n, 4, 64] of words [n, t]; places that are left over hold zeros."""
        return F.pad(self.model.embedding(words), (0, 0, 0, TOKENS - words.shape[1]))

    def step(self, arm: str, settings: Settings, number: int) -> Step:
        """An arm's step on a split."""
        key = Key(run=number)
        if self.prompt == "words":
            if arm == "random":
                return RandomWords()
            check_choice(arm, (*ALLOCATORS, "random"), name="arm for words")
            allocator = make_allocator(arm, proxy=self.proxy, key=key)
            allocator = replace(allocator, n_min=2)
            return Policy(allocator, settings.copies)
        if arm == "bp":
            ids = self.split(number)[0]
            prompt, model = self.soft(), self.model
            return Backprop(lambda theta, items: model(prompt(theta.expand(len(items), -1)), ids[items]))
        return make_step(arm, settings, len(self.soft().start), key, proxy=self.proxy)

    def scores(self, prefix: Tensor, ids: Tensor) -> Tensor:
        """Scores of texts [n, L] behind one prefix [t, e], outside every budget."""
        with torch.inference_mode():
            return torch.cat([self.model(prefix.expand(len(part), -1, -1), part) for part in ids.split(256)]).clone()

    def tested(self, prefix: Tensor) -> float:
        """Accuracy on the test texts."""
        scores = self.scores(prefix, self.task.test[: self.limit])
        return float((scores.argmax(1) == self.task.test_labels[: self.limit]).double().mean())

    def tested_words(self, words: Tensor) -> float:
        """Accuracy behind words [t]."""
        with torch.inference_mode():
            return self.tested(self.embedded(words[None])[0].clone())

    def spelled(self, words: Tensor) -> str:
        """Words [t] as text."""
        return " ".join(self.task.vocabulary[int(i)] for i in words if int(i)) or "(no word)"

    def calibrated(self, number: int) -> tuple[float, float, int]:
        """Accuracy of the zero prefix, of a map of its scores fitted on the shots, and queries."""
        ids, labels, _ = self.split(number)
        zero = torch.zeros(TOKENS, WIDTH)
        z = self.scores(zero, ids).double()
        readout, guard = guarded_readout(z, labels, classes=2)
        test, y = self.task.test[: self.limit], self.task.test_labels[: self.limit]
        scores = self.scores(zero, test)
        before = float((scores.argmax(1) == y).double().mean())
        after = before if guard.kept_start else float((readout.whole(scores).argmax(1) == y).double().mean())
        return before, after, len(ids)


def users_task(path: Path, made: Corpus, tokens: int) -> TextTask:
    """A user's own texts under the model's vocabulary."""
    data = load(path)
    if data.classes != 2:
        raise UsageError(f"{path} has {data.classes} classes and the model answers yes or no", "Give two labels")
    pool = encode(data.texts_train, made.vocabulary)[0][:, :LENGTH]
    test = encode(data.texts_test, made.vocabulary)[0][:, :LENGTH]
    return TextTask(path.name, pool, data.y_train, test, data.y_test, made.vocabulary)


def opened(options: Text, context: Context) -> TextBench:
    """Model and texts of a command line.

    Raises:
        UsageError: unknown task or prompt, or a prompt longer than the model allows.
    """
    check_choice(options.prompt, PROMPTS, name="prompt")
    if options.tokens > TOKENS:
        raise UsageError(
            f"The model has {TOKENS} places for a prompt and {options.tokens} are asked for", "Lower --tokens"
        )
    made = corpus()
    path = Path(options.data)
    if options.data in ("ag_news", "sst2"):
        task = question(made, check_choice(options.task, TASKS, name="task"))
    else:
        task = users_task(path, made, options.tokens)
    model: nn.Module = text_model(made, say=context.say)
    if options.model:
        model = user_function(options.model)()
        if not hasattr(model, "embedding"):
            raise UsageError(f"{options.model} has no .embedding", "Give a module that takes (vectors, word numbers)")
    return TextBench(
        model, task, options.tokens, options.dimension, options.prompt, options.shots, options.test_limit,
        proxy=options.proxy,
    )  # fmt: skip


def text(options: Text, context: Context) -> Result:
    """`onlyforward tune text`."""
    torch.set_num_threads(options.threads)
    known = (*ALLOCATORS, *PEERS, "bp", "output")
    for arm in arms_of(options):
        check_choice(arm, known, name="arm")
    bench = opened(options, context)
    result = context.result(question=f"What prompt makes the closed model answer {bench.task.name!r}?")
    if options.prompt == "output":
        return calibrated(options, bench, result)
    settings = settings_of(options, RATES[options.prompt])
    steps: Callable[[str, Settings, int], Step] = bench.step
    study = Study(context, bench.trial, settings, proxy=options.proxy, first=options.seed, steps=steps)
    runs = list(study.run([arm for arm in arms_of(options) if arm != "output"], options.splits))
    note = "The prefix that belongs to the question is withheld; tuning starts from the zero prefix."
    if options.prompt == "words":
        words = words_of(bench, runs)
        note = f"Prompts found: {'; '.join(words)}."
    report(options, result, runs, headline=options.allocator, missing=study.missing, note=note)
    if options.data in ("ag_news", "sst2") and not options.model:
        result.metric("native_accuracy", bench.tested(bench.model.prefix[TASKS.index(options.task)]))
    result.artefacts = {"theta": torch.tensor(runs[0].theta, dtype=torch.float64)}
    result.forward_runs = sum(run.queries for run in runs)
    path = context.artefact("prompt.safetensors")
    if path is not None:
        from onlyforward.tune.export import save_adapter

        save_adapter(path, f"{options.prompt}:{options.tokens}:{options.dimension}", result.artefacts["theta"])
    return result


def words_of(bench: TextBench, runs: list[Any]) -> list[str]:
    """The prompt of every run in words."""
    found = []
    for run in runs:
        problem = bench.trial(run.split).problem
        assert isinstance(problem, WordPrompt)
        found.append(f"{run.arm} split {run.split}: {bench.spelled(problem.words(torch.tensor(run.theta)))}")
    return found


def calibrated(options: Text, bench: TextBench, result: Result) -> Result:
    """The map of scores alone."""
    found = [bench.calibrated(options.seed + k) for k in range(options.splits)]
    before, after = (sum(f[i] for f in found) / len(found) for i in (0, 1))
    result.metric("accuracy_before", before)
    result.metric("accuracy", after)
    result.metric("gain", after - before)
    result.metric("queries", found[0][2])
    result.metric("budget", options.budget)
    result.table(
        "Calibrated outputs", ["split", "before", "accuracy", "queries"], [[k, *f] for k, f in enumerate(found)]
    )
    result.answer = f"A map of the scores alone: {before:.3f} before, {after:.3f} after {found[0][2]} queries."
    return result
