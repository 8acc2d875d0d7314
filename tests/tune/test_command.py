"""The commands as a person uses them: plans, closed models, endpoints, bad input."""

import json

import numpy as np
import pytest

from onlyforward.cli.main import main

MODEL = """
import torch

torch.manual_seed(0)
TEMPLATES = torch.rand(10, 64)

class Closed(torch.nn.Module):
    def __init__(self):
        super().__init__()
        from onlyforward.data.sets import load
        data = load("digits")
        means = torch.stack([data.x_train[data.y_train == k].flatten(1).mean(0) for k in range(10)])
        self.means = means

    def forward(self, x):
        return -30 * torch.cdist(x.flatten(1), self.means) ** 2

def make():
    return Closed()

def nan():
    return lambda rows: torch.full((len(rows), 10), float("nan"))

def few():
    return lambda rows: torch.zeros(len(rows), 3)

def many():
    closed = Closed()
    return lambda rows: torch.nn.functional.pad(closed(rows), (5, 0))
"""


@pytest.fixture
def place(tmp_path):
    (tmp_path / "model.py").write_text(MODEL)
    return tmp_path


@pytest.fixture
def run(place, monkeypatch, capsys):
    monkeypatch.chdir(place)

    def call(*arguments, code=0):
        assert main(["tune", *map(str, arguments)]) == code, capsys.readouterr().err
        done = capsys.readouterr()
        assert "Traceback" not in done.err
        return done

    return call


def test_a_plan_for_your_own_losses_needs_no_query(place, run):
    np.save(place / "losses.npy", np.array([0.1, 0.2, 0.4, 3.3]))
    done = run("plan", "--losses", "losses.npy", "--budget", "100", "--json", "--out", "p")
    metrics = json.loads(done.out)["metrics"]
    assert metrics["total"] == 100
    assert metrics["expected_gain"] > 2
    assert metrics["maximum"] > 60
    lines = (place / "p" / "counts.csv").read_text().splitlines()
    assert len(lines) == 5
    assert lines[4].startswith("3,")


def test_a_broken_line_is_named(place, run):
    (place / "losses.csv").write_text("loss\n1.0\ntwo\n")
    done = run("plan", "--losses", "losses.csv", code=2)
    assert "line 3 holds 'two'" in done.err


VISION = ("vision", "--model", "model.py:make", "--data", "digits", "--shift", "rotation", "--severity", "25")


def test_a_closed_model_is_tuned_and_never_made_worse(place, run):
    options = ("--budget", "3000", "--shots", "8", "--compare", "uniform,mezo,bp", "--json", "--out", "o", "--export")
    found = json.loads(run(*VISION, *options).out)
    metrics = found["metrics"]
    assert metrics["queries"] <= 3000
    assert metrics["accuracy"] >= metrics["accuracy_before"]
    assert metrics["mezo_queries"] <= 3000
    assert metrics["bp_accuracy"] >= metrics["accuracy_before"]
    assert metrics["expected_gain"] > 1
    assert (place / "o" / "adapter.safetensors").exists()
    assert (place / "o" / "adapter.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((*VISION, "--budget", "100"), "smallest that works here is"),
        ((*VISION, "--shots", "500"), "500 shots are asked for"),
        ((*VISION, "--adapter", "warp"), "Unknown adapter 'warp'"),
        ((*VISION, "--compare", "mezzo"), "Unknown arm 'mezzo'"),
        (("vision", "--data", "digits"), "No model is given"),
        (("vision", "--model", "model.py:few", "--data", "digits"), "--adapter output"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(run, arguments, text):
    assert text in run(*arguments, code=2).err


def test_more_scores_than_classes_are_told_and_a_map_of_them_mends_it(run):
    few = ("vision", "--model", "model.py:many", "--data", "digits", "--budget", "1200", "--shots", "8", "--json")
    found = json.loads(run(*few).out)
    assert "15 scores and digits has 10 classes" in found["notes"][0]
    assert found["metrics"]["accuracy_before"] < 0.2
    mapped = json.loads(run(*few, "--adapter", "output").out)
    assert mapped["metrics"]["accuracy"] > 0.8


def test_a_model_that_answers_nan_fails_by_name(place, run):
    assert "NaN" in run("vision", "--model", "model.py:nan", "--data", "digits", code=1).err
