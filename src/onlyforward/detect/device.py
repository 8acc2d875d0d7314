"""`detect run-on-device`, `calibrate` and `export`: detectors measured, judged and recalibrated where they will run."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from onlyforward.core.checks import check_range, require
from onlyforward.core.errors import BudgetSpent, UsageError
from onlyforward.core.keys import Key
from onlyforward.detect import store
from onlyforward.detect.backends import Account, LawBackend, TorchBackend, as_rows, make_backend, plan_shots
from onlyforward.detect.command import Calibrate, RunOnDevice
from onlyforward.detect.delivery import KEPT, kept_rows, read_task, write_rows
from onlyforward.detect.estimator import QuantumSVDD
from onlyforward.detect.presets import settings
from onlyforward.detect.score import crossfit, distance, fit_law, mahalanobis, threshold
from onlyforward.detect.scoring import table_to_score
from onlyforward.detect.tasks import Task, class_task, classes_of, named, pool, told

if TYPE_CHECKING:
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

MEANING = {
    "exact": "distance, no shots",
    "ideal": "distance, shots without noise",
    "uncalibrated": "distance on the device, the simulator's centre and threshold",
    "refit": "distance on the device, calibrated there",
    "mahalanobis": "mahalanobis on the device, calibrated there",
}
ARMS = tuple(MEANING)
PAID = "ibm:"
"""Backends whose shots cost money: what was reserved is on the disk before it is sent."""
REALISTIC = 5
"""Qubits up to which preparing a state takes few enough gates for a chip: 2^n - 2 CNOTs."""


@dataclass(frozen=True)
class Trial:
    """One detector and what it runs on the device.

    Attributes:
        name: the normal class, or the table.
        detector: fitted on the simulator.
        train: [N, d] normal rows that calibrate.
        test: [T, d] rows to judge.
        anomalous: [T] bool, empty without labels.
    """

    name: str
    detector: QuantumSVDD
    train: np.ndarray
    test: np.ndarray
    anomalous: np.ndarray


@dataclass(frozen=True)
class Measured:
    """Features of calibration rows and of rows to judge, [N, m] and [T, m], with their shot covariances."""

    train: np.ndarray
    test: np.ndarray
    train_spread: np.ndarray | None
    test_spread: np.ndarray | None


def run_on_device(options: RunOnDevice, context: Context) -> Result:
    """Calibrate on a device and score there; everything is counted before it is sent."""
    check_range(options.rows, name="rows", low=4)
    check_range(options.shots, name="shots", low=2)
    check_range(options.calibration_rows, name="calibration_rows", low=10, high=KEPT)
    torch.set_num_threads(options.threads)
    with told(context):
        trials = read_trials(options, context)
    first = trials[0].detector
    account = Account(options.max_shots)
    backend = device(options.backend, first, account)
    result = context.result(question=f"How well do the detectors tell anomalies on {options.backend}?")
    jobs = sum(len(trial.train) + len(trial.test) for trial in trials)
    result.metric("jobs", jobs)
    result.metric("shots", jobs * options.shots)
    result.metric("n_parameters", first.n_parameters_)
    describe(result, backend, context)
    if options.dry_run:
        result.metric("sent_jobs", backend.jobs)
        result.metric("sent_shots", backend.shots)
        over = options.max_shots is not None and jobs * options.shots > options.max_shots
        word = "detector" if len(trials) == 1 else f"{len(trials)} detectors"
        result.answer = (
            f"Nothing was sent: {word} would take {jobs} jobs and {jobs * options.shots} shots on {options.backend},"
            f" depth {backend.depth}, {backend.two_qubit_gates} gates on two qubits"
            + (f"; --max-shots {options.max_shots} would end it earlier." if over else ".")
        )
        return result
    judged: list[dict[str, float]] = []
    measured: dict[str, torch.Tensor] = {}
    found = context.restore()
    if found is not None:
        measured = dict(found.tensors)
        account.jobs, account.shots = found.data["spent"]

    def state(unanswered: tuple[int, int] = (0, 0)) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        return dict(measured), {"spent": [account.jobs + unanswered[0], account.shots + unanswered[1]]}

    with context.progress(len(trials), label=options.backend) as tick:
        for k, trial in enumerate(trials):
            cost = backend.cost(len(trial.train) + len(trial.test), options.shots)
            there = recall(measured, k)
            if there is None:
                if options.backend.startswith(PAID) and account.fits(*cost):
                    # A run that is killed here has paid for what it never saw: resumed, it counts that as spent.
                    context.write(2 * k + 1, partial(state, cost))
                try:
                    there = measure(trial, backend, options.shots, context.key.at(step=k))
                except BudgetSpent as spent:
                    spent.partial = conclude(result, options, backend, trials[:k], judged)
                    raise
                measured.update(remember(there, k))
                context.write(2 * k + 2, state)
            judged.append(judge(trial, there, options.shots, context.key.at(step=k)))
            context.save(2 * k + 2, state)
            tick(to=k + 1)
    result.forward_runs = account.jobs
    result.artefacts = {f"latents.{name}": tensor for name, tensor in measured.items()}
    return conclude(result, options, backend, trials, judged)


def device(spec: str, detector: QuantumSVDD, account: Account) -> Any:
    """The backend that a command names, for a detector's circuit."""
    made = make_backend(spec, detector.circuit_, account=account, seed=detector._seed)
    if not isinstance(made, LawBackend) or not hasattr(made, "depth"):
        raise UsageError(f"{spec} is no device", "Give fake_<device>, aer, ibm:<device>, fast or density")
    return made


def describe(result: Result, backend: Any, context: Context) -> None:
    """Size and preparation of the circuit that is sent."""
    result.metric("depth", backend.depth)
    result.metric("two_qubit_gates", backend.two_qubit_gates)
    result.metric("transpile_seconds", getattr(backend, "seconds", 0.0), timing=True)
    result.metric("transpiles", getattr(backend, "transpiles", 0))
    n = backend.ansatz.n
    if n > REALISTIC:
        context.warn(
            f"preparing a state of {n} qubits takes {2**n - 2} CNOTs before routing: only up to {REALISTIC} qubits are"
            " realistic on a chip"
        )


def read_trials(options: RunOnDevice, context: Context) -> list[Trial]:
    """Detectors of a folder, or of the device preset trained now, with balanced rows to judge."""
    if options.folder is None:
        if not options.data or not options.normal:
            raise UsageError(
                "run-on-device needs a detector", "Give the --out folder of a detect fit, or --data with --normal"
            )
        rows = pool(options.data)
        tasks = [class_task(rows, k, context.key) for k in classes_of(options.normal)]
        made = []
        for task in tasks:
            chosen = settings("device") | {"image_shape": tuple(task.image), "random_state": options.seed}
            made.append(trial(options, task, QuantumSVDD(**chosen).fit(task.train), task.train, context.key))
        return made
    described = read_task(options.folder)
    made = []
    for entry in described["tasks"]:
        place = options.folder / entry["folder"]
        detector = QuantumSVDD.load(place)
        task = task_of(options, described, entry["name"])
        made.append(trial(options, task, detector, kept_rows(place), context.key))
    return made


def task_of(options: RunOnDevice, described: dict[str, Any], name: str) -> Task:
    """Rows that a fitted detector is judged on: a table, or those of its data set that it was not trained on."""
    if options.csv is not None:
        return table_to_score(options, options.csv, described)
    data = options.data or described["data"]
    if not data:
        raise UsageError("The detector was fitted on a file", "Give --csv with rows to score")
    rows = pool(data)
    if list(rows.image) != described["image"]:
        raise UsageError(f"{data} has {rows.image} images", f"The detector wants {described['image']}")
    return class_task(rows, int(name), Key(run=described["seed"]), described["train"])


def trial(options: RunOnDevice, task: Task, detector: QuantumSVDD, train: np.ndarray, key: Key) -> Trial:
    """Half normal, half anomalous rows where labels exist, else the first rows."""
    test, anomalous = task.test, task.anomalous
    kept = np.arange(min(options.rows, len(test)))
    if 0 < anomalous.sum() < len(anomalous):
        draw = key.at(site=f"detect/device/{task.name}").numpy()
        half = options.rows // 2
        kept = np.sort(
            np.concatenate([draw.permutation(np.flatnonzero(anomalous == kind))[:half] for kind in (False, True)])
        )
        anomalous = anomalous[kept]
    else:
        anomalous = anomalous[:0]
    return Trial(
        task.name,
        detector,
        named(train[: options.calibration_rows], task.columns),
        named(test[kept], task.columns),
        anomalous,
    )


def measure(trial: Trial, backend: Any, shots: int, key: Key) -> Measured:
    """Run calibration rows and rows to judge of one detector: one reservation, so that a trial is never cut in two."""
    detector = trial.detector
    psi = as_rows(
        np.concatenate([detector.embedding_(np.asarray(rows, dtype=np.float64)) for rows in (trial.train, trial.test)])
    )
    mean, spread = backend.expect_features(
        psi, torch.from_numpy(detector.theta_), shots=shots, key=key, latent=detector.latent, spread=True
    )
    cut = len(trial.train)
    f, wide = mean.cpu().numpy(), None if spread is None else spread.cpu().numpy()
    if wide is None:
        return Measured(f[:cut], f[cut:], None, None)
    return Measured(f[:cut], f[cut:], wide[:cut], wide[cut:])


def judge(trial: Trial, there: Measured, shots: int, key: Key) -> dict[str, float]:
    """Accuracy and AUROC of every arm on one detector's rows, and the contraction of its features."""
    detector, nu = trial.detector, trial.detector.nu
    own = TorchBackend(detector.circuit_)
    exact = measure(trial, own, None, key)  # type: ignore[arg-type]
    ideal = measure(trial, own, shots, key.at(site="ideal"))
    width = len(detector.center_)
    center = there.train[:, :width].mean(0)
    location, precision = fit_law(there.train)
    plain = threshold(distance(exact.train, detector.center_), nu)
    scores = {
        "exact": (distance(exact.test, detector.center_), plain),
        "ideal": (
            distance(ideal.test, detector.center_, shots),
            threshold(distance(ideal.train, detector.center_, shots), nu),
        ),
        "uncalibrated": (distance(there.test, detector.center_, shots), plain),
        "refit": (distance(there.test, center, shots), threshold(distance(there.train, center, shots), nu)),
        "mahalanobis": (
            mahalanobis(there.test, location, precision, there.test_spread),
            threshold(crossfit(there.train, key, there.train_spread), nu),
        ),
    }
    z = exact.train[:, :width]
    made = {"contraction": float((there.train[:, :width] * z).sum() / (z**2).sum())}
    made["flagged"] = float((scores["mahalanobis"][0] > scores["mahalanobis"][1]).sum())
    if len(trial.anomalous):
        area = require("sklearn.metrics", "data").roc_auc_score
        for arm, (values, limit) in scores.items():
            made[f"{arm}_auroc"] = float(area(trial.anomalous, values))
            made[f"{arm}_accuracy"] = float(((values > limit) == trial.anomalous).mean())
    return made


def conclude(
    result: Result, options: RunOnDevice, backend: Any, trials: list[Trial], judged: list[dict[str, float]]
) -> Result:
    """Means over detectors, the table, what was paid, one sentence."""
    result.metric("jobs", backend.account.jobs)
    result.metric("shots", backend.account.shots)
    result.metric("sent_jobs", backend.jobs)
    result.metric("sent_shots", backend.shots)
    if not judged:
        result.answer = "The budget of shots ended before the first detector was measured."
        return result
    for name in judged[0]:
        result.metric(name, float(np.mean([metrics[name] for metrics in judged])))
    paid = f"{backend.account.jobs} jobs, {backend.account.shots} shots"
    if "refit_accuracy" not in judged[0]:
        flagged = int(sum(metrics["flagged"] for metrics in judged))
        total = sum(len(trial.test) for trial in trials)
        result.answer = f"{flagged} of {total} rows are flagged on {options.backend} ({paid})."
        return result
    for arm in ("refit", "mahalanobis"):
        result.metric(f"{arm}_worst_accuracy", min(metrics[f"{arm}_accuracy"] for metrics in judged))
    result.metric("worst_accuracy", result.metrics["mahalanobis_worst_accuracy"] or 0.0)
    arms = [
        [
            MEANING[arm],
            result.metrics[f"{arm}_accuracy"],
            result.metrics[f"{arm}_auroc"],
            min(metrics[f"{arm}_accuracy"] for metrics in judged),
        ]
        for arm in ARMS
    ]
    a = result.metrics["contraction"] or 1.0
    note = (
        f"Features shrink by a = {a:.3f} on {options.backend}: a squared score needs a^-4 = {a**-4:.1f} times the shots"
        f" for the same resolution ({plan_shots(min(max(a, 1e-3), 1.0), 0.02)} for 0.02). Thresholds at nu ="
        f" {trials[0].detector.nu} from training rows; half of the rows judged are normal."
    )
    count = f"{len(trials)} detector{'s' * (len(trials) > 1)}"
    columns = ["score and threshold", "accuracy", "AUROC", "worst accuracy"]
    result.table(f"{count} on {options.backend}, mean", columns, arms, note)
    if len(trials) > 1:
        rows = [
            [trial.name, *(metrics[f"{arm}_accuracy"] for arm in ARMS)]
            for trial, metrics in zip(trials, judged, strict=True)
        ]
        result.table("Accuracy of each detector", ["normal", *ARMS], rows)
    metrics = result.metrics
    result.answer = (
        f"Calibrated on {options.backend}, {trials[0].detector.n_parameters_} angles reach accuracy"
        f" {metrics['mahalanobis_accuracy']:.3f} (Mahalanobis) and {metrics['refit_accuracy']:.3f} (distance);"
        f" uncalibrated {metrics['uncalibrated_accuracy']:.3f}, exact {metrics['exact_accuracy']:.3f}; {paid}."
    )
    return result


def remember(there: Measured, k: int) -> dict[str, torch.Tensor]:
    """The measurements of detector k as tensors of a checkpoint."""
    return {f"{k}.{name}": torch.from_numpy(array) for name, array in there.__dict__.items() if array is not None}


def recall(measured: dict[str, torch.Tensor], k: int) -> Measured | None:
    """The measurements of detector k, where a checkpoint holds them: what was paid is not paid again."""
    arrays = {name: measured.get(f"{k}.{name}") for name in ("train", "test", "train_spread", "test_spread")}
    if arrays["train"] is None:
        return None
    return Measured(**{name: None if tensor is None else tensor.numpy() for name, tensor in arrays.items()})  # type: ignore[arg-type]


def calibrate(options: Calibrate, context: Context) -> Result:
    """Centre, law and threshold of every detector in a folder from its kept training rows, run on a device."""
    if options.out is None:
        raise UsageError("detect calibrate writes a new detector", "Give --out DIR2")
    if options.out.resolve() == options.folder.resolve():
        raise UsageError("--out is the folder of the detector itself", "Give another folder")
    described = read_task(options.folder)
    account = Account(options.max_shots)
    result = context.result(question=f"What do centre and threshold become on {options.backend}?")
    backend = None
    rows = []
    for entry in described["tasks"]:
        place = options.folder / entry["folder"]
        detector = QuantumSVDD.load(place)
        train = kept_rows(place)
        backend = backend or device(options.backend, detector, account)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            made = detector.calibrate(named(train, tuple(described["columns"])), backend, shots=options.shots)
        store.save(made, options.out / entry["folder"])
        write_rows(options.out / entry["folder"], train)
        rows.append([entry["name"], len(train), detector.radius_, made.radius_])
    shutil.copyfile(options.folder / "task.json", options.out / "task.json")
    describe(result, backend, context)
    result.metric("jobs", account.jobs)
    result.metric("shots", account.shots)
    result.metric("threshold_before", float(np.mean([row[2] for row in rows])))
    result.metric("threshold", float(np.mean([row[3] for row in rows])))
    result.table("Thresholds", ["normal", "rows run", "before", f"on {options.backend}"], rows)
    result.answer = f"{len(rows)} detectors are calibrated on {options.backend} with {account.shots} shots."
    result.forward_runs = account.jobs
    return result
