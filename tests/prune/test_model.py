"""A user's own model on the command line, and a sentence for everything that can be wrong with it."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from onlyforward.cli.main import main

pytest.importorskip("torch_pruning")

FACTORY = """
import torch
from torch import nn

def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 20), nn.ReLU(), nn.Linear(20, 3))

def odd():
    class Odd(nn.Module):
        def forward(self, x):
            return torch.digamma(x)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 24), Odd(), nn.Linear(24, 20), nn.ReLU(), nn.Linear(20, 3))

def needs(argument):
    return make()

def number():
    return 3
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a factory, weights and data, which is the current one."""
    name = f"mine_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 20), nn.ReLU(), nn.Linear(20, 3))
    torch.save(model.state_dict(), "model.pth")
    generator = np.random.default_rng(0)
    y = generator.integers(0, 3, 160)
    x = generator.random((160, 1, 4, 4), dtype=np.float32) + y[:, None, None, None].astype("float32")
    np.savez("data.npz", x_train=x[:120] / 4, y_train=y[:120], x_test=x[120:] / 4, y_test=y[120:])
    yield name, model
    sys.modules.pop(name, None)


def call(capsys, *words):
    code = main([*map(str, words), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_weights_are_pruned_finetuned_shrunk_saved_and_reloaded(place, capsys):
    name, _ = place
    words = ("model.pth", "--arch", f"{name}:make", "--data", "data.npz", "--sparsity", "0.5", "0.9")
    more = ("--kappa", "0.5", "--finetune-images", "80", "--peers", "magnitude", "--save", "small")
    code, result = call(capsys, "prune", "model", *words, *more)
    metrics = result["metrics"]
    assert code == 0
    assert metrics["collapse_count"] == 0
    assert metrics["live_90"] == 1.0
    assert metrics["kept_90"] == round(0.1 * 924) / 924
    assert metrics["max_abs_difference"] < 1e-5
    assert metrics["reload_max_abs_difference"] == 0.0
    assert metrics["parameters_ratio"] > 1.5
    assert metrics["accuracy_50"] >= 0.5
    assert "magnitude_live_90" in metrics


def test_channels_are_pruned_without_data(place, capsys):
    name, _ = place
    words = ("model.pth", "--arch", f"{name}.py:make", "--example", "1,1,4,4", "--structured", "--macs-ratio", "2")
    code, result = call(capsys, "prune", "model", *words)
    assert code == 0
    assert result["metrics"]["macs_ratio"] >= 2
    assert result["metrics"]["max_abs_difference"] < 1e-5


def test_report_and_shrink_of_a_file_with_zeros(place, capsys):
    name, model = place
    with torch.no_grad():
        model[1].weight[:12] = 0
        model[3].weight[:, 20:] = 0
    save_file({f"module.{key}": value for key, value in model.state_dict().items()}, "zeros.safetensors")
    words = ("zeros.safetensors", "--arch", f"{name}:make", "--example", "1,1,4,4")
    _, report = call(capsys, "prune", "report", *words)
    assert report["metrics"]["weights"] == 924
    assert report["metrics"]["dead_outputs"] == 0
    assert report["metrics"]["dead_neurons"] == 16
    code, small = call(capsys, "prune", "shrink", *words, "--save", "small")
    assert code == 0
    assert small["metrics"]["parameters_after"] == 16 * 8 + 8 + 8 * 20 + 20 + 20 * 3 + 3
    assert small["metrics"]["shrink_max_abs_difference"] < 1e-6
    code, again = call(capsys, "prune", "shrink", *words, "--save", "small")
    assert (code, "exists already" in again["error"]) == (2, True)


def broken(place):
    """What a user can get wrong: words on the command line -> what the sentence says."""
    name, model = place
    arch, shape = ("--arch", f"{name}:make"), ("--example", "1,1,4,4")
    torch.save(model, "pickled.pth")
    torch.save([1, 2], "list.pth")
    torch.save({key.replace("1.", "one."): value for key, value in model.state_dict().items()}, "keys.pth")
    torch.save({key: value[..., :1] for key, value in model.state_dict().items()}, "shapes.pth")
    torch.save(
        {key: value * float("nan") if "3" in key else value for key, value in model.state_dict().items()}, "nan.pth"
    )
    Path("text.pth").write_text("hello")
    data = dict(np.load("data.npz"))
    np.savez("labels.npz", **(data | {"y_train": data["y_train"] + 2, "y_test": data["y_test"] + 2}))
    half = ("--sparsity", "0.5")
    return [
        (("missing.pth", *arch, *shape, *half), "no file missing.pth"),
        (("text.pth", *arch, *shape, *half), "no file of weights"),
        (("list.pth", *arch, *shape, *half), "no state dict"),
        (("pickled.pth", *arch, *shape, *half), r"Save model.state_dict"),
        (("keys.pth", *arch, *shape, *half), "missing '1.weight', unexpected 'one.weight'"),
        (("shapes.pth", *arch, *shape, *half), "'1.weight' has shape"),
        (("nan.pth", *arch, *shape, *half), "NaN or an infinity in '3.weight'"),
        (
            ("model.pth", "--arch", "nowhere.at.all:make", *shape, *half),
            "'nowhere.at.all' of --arch cannot be imported",
        ),
        (("model.pth", "--arch", f"{name}:absent", *shape, *half), "no function 'absent'"),
        (("model.pth", "--arch", name, *shape, *half), "module:factory"),
        (("model.pth", "--arch", f"{name}:needs", *shape, *half), "must take no argument"),
        (("model.pth", "--arch", f"{name}:number", *shape, *half), "made a int"),
        (("model.pth", *arch, *half), "--example"),
        (("model.pth", *arch, "--example", "1,1,5,5", *half), "rejects an example of shape [1, 1, 5, 5]"),
        (("model.pth", *arch, "--example", "1,x", *half), "as 1,3,32,32"),
        (("model.pth", *arch, *shape, "--sparsity", "1.0"), "The sparsity is 1.0"),
        (("model.pth", *arch, *shape, "--sparsity", "0.999"), "The largest sparsity is"),
        (("model.pth", "--arch", f"{name}:odd", *shape, *half), "'digamma' has no connectivity rule"),
        (("model.pth", *arch, "--data", "labels.npz", *half), "the model has 3 outputs"),
        (("model.pth", *arch, *shape), "Give one of --sparsity and --structured"),
        (("model.pth", *arch, *shape, "--structured", "--macs-ratio", "1e6"), "The largest is"),
        (("model.pth", *arch, *shape, *half, "--peers", "tp-l3"), "Unknown peer 'tp-l3'"),
    ]


def test_everything_wrong_is_one_sentence_and_exit_2(place, capsys):
    for words, said in broken(place):
        code, result = call(capsys, "prune", "model", *words)
        assert code == 2, words
        text = f"{result['error']} {result.get('hint', '')}"
        assert said in text, (said, text)
        assert "\n" not in text
