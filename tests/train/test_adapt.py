import numpy as np
import pytest
import torch

from onlyforward.core.errors import FileError, UsageError
from onlyforward.core.keys import Key
from onlyforward.data.residual import cifar_resnet
from onlyforward.data.sets import load
from onlyforward.run.context import Context
from onlyforward.train.adapt import Setting, adapted, features, fit_head, head_of, plan_for, reset_statistics, run
from onlyforward.train.options import Adapt


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapt")
    torch.manual_seed(0)
    torch.save(cifar_resnet(20).state_dict(), folder / "w.th")
    generator = np.random.default_rng(0)
    y = np.arange(80) % 10
    x = (generator.random((80, 3, 32, 32)) * 0.5 + y[:, None, None, None] / 20).astype(np.float32)
    np.savez(folder / "images.npz", x=x, y=y)
    return folder


def options(files, **given):
    settings = {"weights": files / "w.th", "data": str(files / "images.npz"), "batch": 30, "epochs": 1, "copies": 2}
    return Adapt(**settings | given)


def result(files, **given):
    chosen = options(files, **given)
    return run(chosen, Context(chosen, application="train"))


def test_adaptation_by_forward_runs_changes_norms_and_head_alone_and_repeats_to_the_bit(files):
    first, again = (result(files, scope="early") for _ in range(2))
    start = torch.load(files / "w.th", weights_only=True)
    moved = {name for name, value in first.artefacts.items() if not torch.equal(value, start[name])}
    early = {f"{p}.{w}" for p in Setting().early for w in ("weight", "bias")}
    assert moved == early | {"linear.weight", "linear.bias"}
    assert first.digest() == again.digest()
    assert first.metrics["gain"] == first.metrics["accuracy"] - first.metrics["accuracy_before"]
    assert first.metrics["forwards_per_step"] > 1


def test_none_only_evaluates_and_compare_adds_backpropagation(files):
    assert result(files, method="none").metrics["gain"] == 0
    compared = result(files, scope="head", compare=True).metrics
    assert compared["bp_accuracy"] == compared["accuracy"]


def test_the_head_learns_its_exact_gradient_from_stored_features(files):
    data = load(files / "images.npz")
    model = cifar_resnet(20).eval()
    x = features(model, data.x_train)
    assert torch.allclose(model.linear(x), model(data.x_train), atol=1e-4)
    before = torch.nn.functional.cross_entropy(model.linear(x), data.y_train).item()
    fit_head(model, x, data, epochs=5, batch=20, lr=1e-2, key=Key())
    assert torch.nn.functional.cross_entropy(model.linear(x), data.y_train).item() < before - 0.05


def test_plans_name_the_norms_of_their_scope():
    model = cifar_resnet(20)
    assert head_of(model) == "linear"
    counts = {scope: sum(v == "channel" for v in plan_for(model, scope, Setting()).values()) for scope in SCOPES}
    assert counts == {"head": 0, "norms": 19, "norms+head": 19, "early": 4, "late": 6}
    assert "linear" not in plan_for(model, "norms", Setting())
    with pytest.raises(UsageError, match="norms"):
        plan_for(model, "normes", Setting())


SCOPES = ("head", "norms", "norms+head", "early", "late")


def test_batch_statistics_are_those_of_the_new_images_and_the_original_is_left_alone(files):
    data = load(files / "images.npz")
    model = cifar_resnet(20).eval()
    kept = model.bn1.running_mean.clone()
    fresh = reset_statistics(model, data.x_train)
    expected = model.conv1(model.normalise(data.x_train)).mean((0, 2, 3))
    assert torch.allclose(fresh.bn1.running_mean, expected, atol=1e-4)
    assert torch.equal(model.bn1.running_mean, kept)


def test_backpropagation_takes_the_same_scope(files):
    data = load(files / "images.npz")
    model = cifar_resnet(20).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adapted(model, data, method="bp", scope="late", setting=Setting(epochs=1), batch=30, seed=0)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert all(name.startswith("layer3") or name.startswith("linear") for name in moved)
    assert "layer3.2.bn2.weight" in moved


def test_wrong_images_and_weights_are_one_sentence(files, tmp_path):
    with pytest.raises(UsageError, match="3x32x32"):
        result(files, data="digits")
    with pytest.raises(FileError, match="no weights file"):
        result(files, weights=tmp_path / "none.th")
    with pytest.raises(FileError, match="missing"):
        result(files, model="resnet32")
