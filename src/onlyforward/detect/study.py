"""`detect fit` and the demonstration."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch

from onlyforward.core.checks import require
from onlyforward.core.errors import BudgetSpent
from onlyforward.core.keys import Key
from onlyforward.detect import figures, fitting, peers, store
from onlyforward.detect.command import DemoOptions, Fit
from onlyforward.detect.delivery import deliver, folder_name
from onlyforward.detect.estimator import QuantumSVDD
from onlyforward.detect.presets import settings
from onlyforward.detect.score import distance
from onlyforward.detect.tasks import Task, class_task, fit_tasks, named, pool, told
from onlyforward.detect.verdict import HONEST, answer, compare, judge, most, summarise

if TYPE_CHECKING:
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

SETTINGS = (
    "n_qubits",
    "n_layers",
    "ansatz",
    "preprocess",
    "offset",
    "reduce",
    "latent",
    "objective_latent",
    "objective",
    "nu",
    "threshold",
    "calibration",
    "center",
    "pretrain",
    "lr",
    "lr_milestone",
    "max_epochs",
    "batch_size",
    "weight_decay",
    "gradient",
    "copies",
    "shots",
    "noise",
    "backend",
    "max_shots",
    "max_jobs",
    "dtype",
)
"""Options of `detect fit` that go to the constructor as they are."""


def make_detector(options: Fit, task: Task) -> QuantumSVDD:
    """The preset with the command's changes."""
    chosen = settings(options.preset, data=task.kind)
    chosen |= {name: getattr(options, name) for name in SETTINGS if getattr(options, name) is not None}
    if options.score is not None:
        chosen["statistic"] = options.score
    if task.image:
        chosen["image_shape"] = tuple(task.image)
    # Circuits of this size are fastest on the CPU.
    device = "cuda" if options.device == "cuda" else "cpu"
    return QuantumSVDD(**chosen, random_state=options.seed, device=device)


def fit(options: Fit, context: Context) -> Result:
    """Fit one detector, or one per class, and judge it."""
    torch.set_num_threads(options.threads)
    wanted = peers.chosen(options.peers)
    with told(context):
        tasks = fit_tasks(options, context.key)
    result = context.result(question=question(options, tasks))
    detectors = train_all(options, context, tasks, result)
    judged = [judge(detector, task) for detector, task in zip(detectors, tasks, strict=True)]
    summarise(result, tasks, detectors, judged)
    compare(result, options, tasks, detectors, judged, wanted)
    for detector, task, scores in zip(detectors, tasks, judged, strict=True):
        label = f"class {task.name}" if task.kind != "table" else task.name
        figures.curves(result, task.anomalous, scores, detector.history_, label)
        result.artefacts[f"theta.{task.name}"] = torch.from_numpy(detector.theta_)
        result.artefacts[f"scores.{task.name}"] = torch.from_numpy(scores)
    most(result, options.top, detectors[0], tasks[0], judged[0])
    if context.folder is not None:
        deliver(context.folder, options, result, detectors, tasks, judged)
    result.answer = answer(result, detectors[0])
    if not result.tables or result.tables[0].note != HONEST:
        result.notes.append(HONEST)
    return result


def question(options: Fit, tasks: list[Task]) -> str:
    """What is asked."""
    if options.csv is not None:
        return f"Which rows of {options.csv.name} are not like the normal ones?"
    if options.images is not None:
        return f"Which images of {options.images.name} are not like the others?"
    which = "each class" if len(tasks) > 1 else f"class {tasks[0].name}"
    return f"How well does a small circuit that has only seen {which} of {options.data} tell the rest?"


def train_all(options: Fit, context: Context, tasks: list[Task], result: Result) -> list[QuantumSVDD]:
    """Train the detectors one after the other; the state resumes to the bit."""
    detectors = [make_detector(options, task) for task in tasks]
    begin = time.process_time()
    found = context.restore()
    done: dict[str, torch.Tensor] = {}
    past: dict[str, Any] = {}
    if found is not None:
        done = {name: tensor for name, tensor in found.tensors.items() if name.startswith("done.")}
        past = dict(found.data["past"])
    epochs = None
    for k, (detector, task) in enumerate(zip(detectors, tasks, strict=True)):
        with told(context):
            trainer = fitting.begin(detector, named(task.train, task.columns))
        epochs = epochs or trainer.total
        if str(k) in past:
            trainer.load(part_of(done, f"done.{k}."), past[str(k)])
        elif found is not None and found.data["detector"] == k:
            trainer.load(part_of(found.tensors, "now."), found.data["trainer"])

        def state(k: int = k, trainer: Any = trainer, done: Any = done) -> tuple[dict[str, Any], dict[str, Any]]:
            tensors, data = trainer.state()
            now = {f"now.{name}": tensor for name, tensor in tensors.items()}
            return {**done, **now}, {"detector": k, "trainer": data, "past": dict(past)}

        with context.progress(trainer.total, label=f"class {task.name}" if len(tasks) > 1 else "fit") as tick:
            tick(to=trainer.epoch)
            try:
                while trainer.epoch < trainer.total:
                    trainer.run_epoch()
                    context.save(k * trainer.total + trainer.epoch, state)
                    tick(to=trainer.epoch, loss=trainer.history[-1])
                fitting.finish(detector, trainer)
            except BudgetSpent as spent:
                fitting.finish(detector, trainer, exact=True)
                if context.folder is not None:
                    store.save(detector, context.folder / folder_name(task, tasks))
                spent.partial = spent_result(result, detector, task)
                raise
        tensors, data = trainer.state()
        done |= {f"done.{k}.{name}": tensor.detach().clone() for name, tensor in tensors.items()}
        past[str(k)] = data
        result.forward_runs += trainer.total * len(trainer.psi)
    result.metric("fit_seconds", (time.process_time() - begin) / len(tasks), timing=True)
    return detectors


def part_of(tensors: Any, prefix: str) -> dict[str, torch.Tensor]:
    """Tensors under a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def spent_result(result: Result, detector: QuantumSVDD, task: Task) -> Result:
    """What is known when the budget ends."""
    result.metric("jobs", detector.n_jobs_used_)
    result.metric("shots", detector.n_shots_used_)
    result.metric("epochs", len(detector.history_))
    result.answer = f"The budget ended after {len(detector.history_)} epochs; the detector trained so far is kept."
    return result


def demo(options: DemoOptions, context: Context) -> Result:
    """Digit 0 against the others: 36 angles, the untrained circuit and classical peers beside it."""
    task = class_task(pool("digits"), 0, Key(run=options.seed))
    result = context.result(question="Can 36 angles that have seen 100 zeros tell all other digits from zeros?")
    fitted = Fit(data="digits", normal="0", seed=options.seed)
    begin = time.process_time()
    detector = make_detector(fitted, task).fit(task.train)
    result.metric("fit_seconds", time.process_time() - begin, timing=True)
    scores = judge(detector, task)
    summarise(result, [task], [detector], [scores])
    compare(result, fitted, [task], [detector], [scores], ["pca", "ledoitwolf", "ocsvm", "untrained"])
    result.metric("detect_auc", result.metrics["auroc"] or 0.0)
    latents = detector.latents(task.test)
    area = require("sklearn.metrics", "data").roc_auc_score
    result.metric("distance_auroc", float(area(task.anomalous, distance(latents, detector.center_))))
    result.artefacts["theta"] = torch.from_numpy(detector.theta_)
    result.forward_runs = len(task.train) * len(detector.history_)
    result.answer = answer(result, detector)
    return result
