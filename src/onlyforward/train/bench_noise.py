"""`onlyforward bench noise`: spiking networks, learned noise levels and robustness, each beside its peers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onlyforward.core.errors import OnlyForwardError
from onlyforward.core.keys import Key
from onlyforward.data import nets
from onlyforward.data.sets import load
from onlyforward.nn.engine import LikelihoodRatio
from onlyforward.run.benchmark import BenchOptions, run_cases, seeds
from onlyforward.train.arms import run_course, trained
from onlyforward.train.robust import ARMS, accuracy, honest_sentence, robustness, spread, summary, write

if TYPE_CHECKING:
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

FEW = {"attacks": ("fgsm", "pgd"), "epsilons": (0.1,), "corruptions": ("gaussian",)}
ALL = {
    "attacks": ("fgsm", "pgd", "ifgsm", "mifgsm", "eot"),
    "epsilons": (0.05, 0.1, 0.2),
    "corruptions": ("gaussian", "blur", "contrast", "jpeg"),
}


READOUT = {"currents.1": "bp"}
"""The readout integrates without spiking: its gradient is exact, as a linear head's is, and needs no surrogate."""


def run(options: BenchOptions, context: Context) -> Result:
    """Run the chosen cases."""
    result = run_cases(options, context, {"snn": snn, "levels": levels, "robust": robust})
    result.answer = " ".join(result.notes) or "See the tables."
    return result


def snn(options: BenchOptions, context: Context, result: Result) -> None:
    """A spiking network 64-64-10, T = 6: likelihood ratio at two noise levels beside the surrogate gradient."""
    data = load("digits")
    arms: dict[str, tuple[str, float, int]] = {
        "surrogate": ("surrogate", 0.0, 0),
        "surrogate_noise": ("bp_noise", 0.3, 0),
        "lr64": ("lr", 0.3, 64),
        "sigma1": ("lr", 1.0, 64),
    }
    scores: dict[str, list[dict[str, float]]] = {arm: [] for arm in arms}
    with context.progress(len(arms) * len(seeds(options)), label="snn") as tick:
        for seed in seeds(options):
            for arm, (method, sigma, copies) in arms.items():
                settings = {"noise": "gaussian", "plan": READOUT} if method == "lr" else {}
                model, _ = trained(method, "snn", data, seed=seed, sigma=sigma, copies=copies, **settings)
                key = Key(run=seed, site="bench/snn")
                scores[arm].append(robustness(model, data.x_test, data.y_test, sigma=sigma or 0.3, key=key, **FEW))
                tick()
    found = summary(scores)
    for arm, values in found.items():
        for name, (mean, deviation) in values.items():
            short = "accuracy" if name == "clean" else name
            result.metric(f"snn_{arm}_{short}", mean)
            result.metric(f"snn_{arm}_{short}_std", deviation)
    write(result, "Spiking network on digits (64-64-10, T = 6)", found)
    result.notes.append(
        "Spiking network, PGD 0.1: "
        + ", ".join(f"{arm} {found[arm]['pgd_010'][0]:.3f}" for arm in arms)
        + "; all arms are attacked through snntorch's surrogate derivative."
    )


def levels(options: BenchOptions, context: Context, result: Result) -> None:
    """Noise levels: fixed, by descent on the loss, by ascent on the signal-to-noise ratio, and the floor."""
    data = load("digits")
    arms: dict[str, dict[str, Any]] = {
        "fixed": {"mode": "fixed", "start": 1.0},
        "loss": {"mode": "loss", "start": 1.0},
        "loss_03": {"mode": "loss", "start": 0.3},
        "floor": {"mode": "loss", "start": 1.0, "floor": 0.9},
        "snr": {"mode": "snr", "start": 1.0},
    }
    rows = []
    for arm, settings in arms.items():
        accuracies, kept, ends = [], [], []
        for seed in seeds(options):
            model = nets.build("mlp", data, seed=seed)
            engine = LikelihoodRatio(
                model,
                copies=64,
                sigma=settings["start"],
                sigma_mode=settings["mode"],
                sigma_floor=settings.get("floor", 0.0),
                noise="gaussian",
                seed=seed,
            )
            run_course(engine, model, "mlp", data, seed=seed)
            ends.append(engine.levels.mean if engine.levels is not None else settings["start"])
            tested = (model.eval(), data.x_test, data.y_test)
            accuracies.append(accuracy(*tested, key=Key(run=seed)))
            kept.append(accuracy(*tested, key=Key(run=seed), sigma=ends[-1]))
        mean, deviation = spread(accuracies)
        (noisy, _), (end, end_deviation) = spread(kept), spread(ends)
        result.metric(f"levels_{arm}_accuracy", mean)
        result.metric(f"levels_{arm}_accuracy_std", deviation)
        result.metric(f"levels_{arm}_kept_accuracy", noisy)
        result.metric(f"levels_{arm}_sigma_start", settings["start"])
        result.metric(f"levels_{arm}_sigma_end", end)
        rows.append([arm, settings["start"], settings.get("floor", 0.0), end, end_deviation, mean, deviation, noisy])
    result.table(
        "Noise levels on the digits MLP, 64 copies",
        ["mode", "sigma at start", "floor", "sigma at end", "std", "accuracy", "std", "accuracy with noise kept"],
        rows,
        "Descent on the loss only shrinks sigma: noise costs loss. The floor is what stops it. The last column keeps "
        "noise of the mean level at the end and averages over 16 draws.",
    )


def robust(options: BenchOptions, context: Context, result: Result) -> None:
    """Digits and MNIST MLP: every arm, every attack, clean accuracy first."""
    for name, copies, sigma, limits in (("digits", 16, 0.3, (None, None)), ("mnist", 16, 0.3, (10_000, 500))):
        try:
            data = load(name, limit=limits[0], test_limit=limits[1])
        except OnlyForwardError as error:  # the files are optional; the notes say what is missing
            result.notes.append(f"{name} left out: {error}")
            continue
        scores: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
        with context.progress(len(ARMS) * len(seeds(options)), label=f"robust {name}") as tick:
            for seed in seeds(options):
                for arm in ARMS:
                    model, _ = trained(
                        arm, "mlp", data, seed=seed, sigma=sigma, copies=copies * (2 if arm == "es" else 1)
                    )
                    key = Key(run=seed, site="bench/robust")
                    scores[arm].append(robustness(model, data.x_test, data.y_test, sigma=sigma, key=key, **ALL))
                    tick()
        found = summary(scores)
        prefix = "robust" if name == "digits" else f"robust_{name}"
        for arm, values in found.items():
            for quantity, (mean, deviation) in values.items():
                result.metric(f"{prefix}_{arm}_{quantity}", mean)
                result.metric(f"{prefix}_{arm}_{quantity}_std", deviation)
        note = honest_sentence(found, "fgsm_010", f"FGSM 0.1 on {name}")
        write(result, f"Robustness of the {name} MLP, sigma {sigma}", found, note)
        result.notes.append(note)
