import json

import pytest
import torch

from onlyforward.cli.main import main
from onlyforward.data.nets import preset
from onlyforward.train.loop import Schedule, preset_schedule

NAMES = {"accuracy", "train_loss", "forwards_per_step", "macs_over_bp", "step_ms", "peak_mb", "sigma_mean", "digest48"}


def run(capsys, *words):
    code = main(["train", "fit", "--json", *words])
    return code, json.loads(capsys.readouterr().out)


def test_the_likelihood_ratio_learns_digits_and_repeats_to_the_bit(capsys):
    words = ("--copies", "16", "--epochs", "12")
    code, report = run(capsys, *words)
    assert code == 0
    assert report["metrics"].keys() >= NAMES
    assert report["metrics"]["accuracy"] >= 0.92
    again = run(capsys, *words)[1]
    assert again["metrics"]["digest48"] == report["metrics"]["digest48"]
    other = run(capsys, *words, "--seed", "1")[1]
    assert other["metrics"]["digest48"] != report["metrics"]["digest48"]


@pytest.mark.parametrize("method", ["bp", "es", "spsa", "mezo", "forward-gradient", "bp-noise", "dfa"])
def test_every_method_gives_the_same_names(capsys, method):
    code, report = run(capsys, "--method", method, "--copies", "4", "--epochs", "1")
    assert code == 0
    assert report["metrics"].keys() >= NAMES


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--method", "lrr"), "nearest names are lr"),
        (("--model", "mpl"), "nearest names are mlp"),
        (("--data", "digitz"), "nearest names are digits"),
        (("--copies", "1"), "nothing to be compared with"),
        (("--sigma", "0"), "without noise"),
        (("--copies", "3", "--pairing", "pairs"), "mirrored pairs"),
        (("--loss", "zero-one", "--noise", "hadamard"), "smooth"),
    ],
)
def test_wrong_usage_is_one_sentence_with_the_remedy(capsys, words, reason):
    assert main(["train", "fit", *words]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert reason in error


def test_a_linear_decay_takes_the_learning_rate_to_zero_whatever_was_resumed():
    schedule = Schedule(2, 8, 0.1, decay="linear")
    optimizer = schedule.make(torch.nn.Linear(2, 2))
    rates = []
    for done in (0.0, 0.25, 1.0):
        schedule.set_rate(optimizer, done)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [0.1, pytest.approx(0.075), 0.0]


def test_a_loss_has_a_preset_of_its_own_and_a_user_overrides_it():
    assert preset("mlp", "digits", loss="zero-one").baseline == "standard"
    assert preset("mlp", "digits").baseline == "clean"
    schedule = preset_schedule(preset("mlp", "mnist"), lr=0.1, epochs=None)
    assert (schedule.lr, schedule.epochs, schedule.decay) == (0.1, 3, "linear")
