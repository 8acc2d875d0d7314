"""`tune vision`: an adapter before a closed image classifier, its competitors at equal queries beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from onlyforward.core.checks import check_choice, check_range
from onlyforward.core.errors import BudgetSpent, UsageError
from onlyforward.core.keys import Key
from onlyforward.run.oracle import Account, Limits
from onlyforward.tune.adapters import Adapter, make_adapter
from onlyforward.tune.export import export_onnx, save_adapter
from onlyforward.tune.loop import Settings, Step
from onlyforward.tune.models import Closed, Prepared, opened
from onlyforward.tune.outputs import Readout, guarded_readout
from onlyforward.tune.peers import ALLOCATORS, PEERS, make_step
from onlyforward.tune.pictures import Pictures, Shift, read_pictures
from onlyforward.tune.problem import Classifier
from onlyforward.tune.shots import draw_shots
from onlyforward.tune.soft import Backprop
from onlyforward.tune.study import Run, Study, Trial
from onlyforward.tune.summary import arms_of, report, sigma_of

if TYPE_CHECKING:
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result
    from onlyforward.tune.command import Tune, Vision

RATES: Mapping[str, tuple[float, float]] = {
    "affine": (0.03, 0.05),
    "colour": (0.03, 0.05),
    "prompt": (0.03, 0.05),
    "border": (0.05, 0.1),
    "lowrank": (0.03, 0.05),
    "coordinator": (0.01, 0.02),
}
"""First word of an adapter's name -> learning rate and sigma."""
FACTORS: Mapping[str, tuple[float, float]] = {"spsa-gc": (0.1, 1.0)}
"""Arm -> factors of the learning rate and of sigma, chosen on the validation shots of splits that are not reported."""


def tuned(settings: Settings, arm: str) -> Settings:
    """Common settings with an arm's own rates."""
    lr, sigma = FACTORS.get(arm, (1.0, 1.0))
    return replace(settings, lr=settings.lr * lr, sigma=settings.sigma * sigma)


def settings_of(options: Tune, rates: tuple[float, float]) -> Callable[[str], Settings]:
    """Settings of every arm from the command line."""
    lr = rates[0] if options.lr is None else options.lr
    given = sigma_of(options)
    sigma = rates[1] if given is None else given

    def of(arm: str) -> Settings:
        budget = check_range(options.budget, name="--budget", low=1)
        common = Settings(budget, options.batch, options.copies, sigma, lr, patience=options.patience)
        return tuned(common, arm)

    return of


@dataclass
class Task:
    """A closed model and the images it is tuned on.

    Attributes:
        closed: the model; every split asks it through one account.
        pictures: the images.
        adapter: before the model, or None for a map of its scores alone.
        shots: of each class.
        outputs: whether its scores are mapped to the caller's classes first.
        validation: share of the shots that validates.
        readouts: split -> the map of scores, where there is one.
        start_scores: of the unadapted test images, asked once.
    """

    closed: Closed
    pictures: Pictures
    adapter: Adapter | None
    shots: int
    outputs: bool = False
    validation: float = 0.25
    readouts: dict[int, Readout] = field(default_factory=dict)
    start_scores: Tensor | None = None

    def problem(self, split: int) -> Classifier:
        """The shots of a split behind the adapter."""
        data, adapter = self.pictures.data, self.adapter
        drawn = draw_shots(data.y_train, shots=self.shots, split=split, validation=self.validation, names=data.labels)
        images, labels = self.pictures.shots(drawn.rows, split), data.y_train[drawn.rows]

        def rows(theta: Tensor, items: Tensor) -> Tensor:
            return images[items] if adapter is None else adapter(images[items], theta)

        m = len(drawn.train)
        start = torch.zeros(0, dtype=torch.float64) if adapter is None else adapter.start
        return Classifier(self.closed.oracle, rows, labels, start, torch.arange(m), torch.arange(m, len(labels)))

    def trial(self, split: int) -> Trial:
        """One split: its problem, and its test outside the budget."""
        problem = self.problem(split)
        if self.outputs:
            classes = self.pictures.data.classes
            problem.readout = guarded_readout(clean_scores(problem), problem.labels, classes=classes)[0]
            self.readouts[split] = problem.readout.whole
        return Trial(problem, lambda theta: self.accuracy(theta, split))

    def step(self, arm: str, settings: Settings, split: int, proxy: str) -> Step:
        """An arm's step; backpropagation goes through the module behind the oracle, where there is one."""
        if arm != "bp":
            dimension = len(self.adapter.start) if self.adapter is not None else 0
            return make_step(arm, settings, dimension, Key(run=split), proxy=proxy)
        problem, module, prepared = self.problem(split), self.closed.module, self.closed.oracle.ask
        assert module is not None
        assert isinstance(prepared, Prepared)
        readout = self.readouts.get(split)

        def scores(theta: Tensor, items: Tensor) -> Tensor:
            found = module.eval()(prepared.rows(problem.rows(theta.expand(len(items), -1), items)))
            return readout(found) if readout is not None else found

        return Backprop(scores)

    def test_scores(self, theta: Tensor) -> Tensor:
        """Scores of the test images [n, c] in a free account; those of the start are asked once."""
        adapter = self.adapter
        start = adapter is None or bool(torch.equal(theta, adapter.start))
        if start and self.start_scores is not None:
            return self.start_scores
        free = replace(self.closed.oracle, account=Account(), limits=Limits(), ledger=None)
        parts = self.pictures.test().split(256)
        if start or adapter is None:
            self.start_scores = torch.cat([free(part) for part in parts])
            return self.start_scores
        return torch.cat([free(adapter(part, theta.expand(len(part), -1))) for part in parts])

    def accuracy(self, theta: Tensor, split: int) -> float:
        """Share of right answers on the test images."""
        scores = self.test_scores(theta)
        found = self.readouts[split](scores) if split in self.readouts else scores
        return share_right(found, self.pictures.data.y_test)


def share_right(scores: Tensor, labels: Tensor) -> float:
    """Accuracy of scores [n, c]; NaN never wins."""
    return float((torch.nan_to_num(scores, nan=-torch.inf).argmax(1) == labels).double().mean())


def clean_scores(problem: Classifier) -> Tensor:
    """Scores of all shots as they are [m + v, c], training ones first: one query each."""
    return problem.ask(problem.start, torch.cat((problem.train, problem.validation)))


def calibrate(task: Task, split: int) -> Run:
    """The map of scores alone: one query a shot, exact gradient, kept only if it beats the raw scores on validation."""
    problem, data = task.problem(split), task.pictures.data
    readout, guard = guarded_readout(clean_scores(problem), problem.labels, classes=data.classes)
    scores = task.test_scores(problem.start)
    # With other classes than the caller's there is no start to compare with.
    before = share_right(scores, data.y_test) if scores.shape[1] == data.classes else 0.0
    after = before if guard.kept_start else share_right(readout.whole(scores), data.y_test)
    return Run("output", split, before, after, guard.accuracy, problem.count.asked, 0, guard.kept_start, 1.0, 0.0)


def vision(options: Vision, context: Context) -> Result:
    """`onlyforward tune vision`."""
    torch.set_num_threads(options.threads)
    for name in arms_of(options):
        check_choice(name, (*ALLOCATORS, *PEERS, "output", "bp"), name="arm")
    if options.export and options.out is None:
        raise UsageError("--export has no place to write to", "Give --out DIR")
    shift = Shift(options.shift, options.severity)
    pictures = read_pictures(options.data, shift, test_limit=options.test_limit, context=context, size=options.size)
    shape = pictures.data.shape
    words = [word for word in options.adapter.split("+") if word != "output"]
    adapter = make_adapter("+".join(words), (shape[0], shape[1], shape[2])) if words else None
    with opened(options, (shape[0], shape[1], shape[2])) as closed:
        if closed.notice:
            context.say(closed.notice)
        closed = limited(closed, options, context)
        task = Task(closed, pictures, adapter, options.shots, outputs="output" in options.adapter.split("+"))
        result = context.result(question=f"What does {options.model} gain on {pictures.data.name}, {options.shift}?")
        if adapter is None:
            runs = [calibrate(task, options.seed + k) for k in range(options.splits)]
            return report(options, result, runs, headline="output", missing=(), note=NOTE)
        study = Study(
            context, task.trial, settings_of(options, RATES[words[0].partition(":")[0]]), first=options.seed,
            steps=lambda arm, settings, split: task.step(arm, settings, split, options.proxy),
        )  # fmt: skip
        left_out = ("output",) if closed.module is not None else ("output", "bp")
        wanted = [arm for arm in arms_of(options) if arm not in left_out]
        try:
            runs = list(study.run(wanted, options.splits))
        except BudgetSpent as spent:
            runs = [run for run in spent.partial or () if isinstance(run, Run)]
            if runs:
                finished(options, context, task, runs)
                spent.partial = report(options, result, runs, headline=options.allocator, missing=(), note=NOTE)
            raise
        if "output" in arms_of(options):
            runs += [calibrate(task, options.seed + k) for k in range(options.splits)]
        missing = [*study.missing, *(["bp"] if "bp" in arms_of(options) and closed.module is None else [])]
        finished(options, context, task, runs)
        result.artefacts = {"theta": torch.tensor(runs[0].theta, dtype=torch.float64)}
        result.forward_runs = sum(run.queries for run in runs)
        width = len(task.start_scores[0]) if task.start_scores is not None else pictures.data.classes
        if not task.outputs and width != pictures.data.classes:
            result.notes.append(
                f"The model gives {width} scores and {pictures.data.name} has {pictures.data.classes} classes: label k "
                "is taken to be score k. --adapter output, or affine+output, maps the scores to your classes."
            )
        report(options, result, runs, headline=options.allocator, missing=missing, note=NOTE)
        result.metric("usd", closed.oracle.account.usd)
        return result


NOTE = (
    "Queries count everything asked while tuning: clean, perturbed and validation rows. Test images are asked outside "
    "the budget, once for the start and once for what the guard kept."
)


def limited(closed: Closed, options: Vision, context: Context) -> Closed:
    """The model with its price limit, and with a ledger where it is paid and there is a folder."""
    oracle = closed.oracle
    if closed.paid and options.out is not None:
        oracle = oracle.journaled(options.out / "ledger.sqlite")
        if oracle.ledger is not None:  # what was paid before a kill counts
            oracle.account.usd = oracle.ledger.usd
    if options.max_usd is not None:
        oracle = replace(oracle, limits=Limits(usd=options.max_usd))
    return replace(closed, oracle=oracle)


def finished(options: Vision, context: Context, task: Task, runs: list[Run]) -> None:
    """The adapter of the first run as files."""
    path = context.artefact("adapter.safetensors")
    if path is None or not runs or task.adapter is None:
        return
    theta = torch.tensor(runs[0].theta, dtype=torch.float64)
    readout = task.readouts.get(runs[0].split)
    save_adapter(path, options.adapter, theta, readout.tensors() if readout else None)
    if options.export:
        sample = task.pictures.test()[:16]
        difference = export_onnx(path.with_name("adapter.onnx"), task.adapter, theta, sample)
        context.say(f"adapter.onnx agrees with ours to {difference:.1e} in onnxruntime")
