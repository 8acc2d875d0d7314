"""Shrinking keeps every output, and what it saves is the same model again."""

import itertools
import subprocess
import sys

import pytest
import torch
from torch import nn

from onlyforward.core.errors import FileError
from onlyforward.data.residual import cifar_resnet
from onlyforward.prune.manifest import export_onnx, load_shrunk, save_shrunk
from onlyforward.prune.masks import apply_masks, safe_masks
from onlyforward.prune.shrink import ShrinkError, shrink

pytest.importorskip("torch_pruning")


def mlp():
    parts = [nn.Flatten()]
    for a, b in itertools.pairwise((36, 40, 40, 40, 5)):
        parts += [nn.Linear(a, b), nn.ELU()]
    return nn.Sequential(*parts[:-1])


def padded():
    """Zero padding, biases, a batch norm without convolution bias, and a flattened map before a linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1),
        nn.Sigmoid(),
        nn.Conv2d(12, 12, 3, padding=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(12, 12, 3, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12, 5),
    )


class Joined(nn.Module):
    """A residual sum and a concatenation."""

    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 6, 1)
        self.norm, self.head = nn.BatchNorm2d(8), nn.Linear(14, 5)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        y = torch.relu(self.norm(self.a(x)) + x)
        z = torch.tanh(self.b(y))
        return self.head(torch.cat([y, z], 1).mean((2, 3)))


NETS = {
    "mlp": (mlp, (1, 1, 6, 6)),
    "padded": (padded, (1, 1, 6, 6)),
    "joined": (Joined, (1, 1, 6, 6)),
    "resnet20": (lambda: cifar_resnet(20), (1, 3, 8, 8)),
}


def masked(name, sparsity, dtype=torch.float64, seed=0):
    make, shape = NETS[name]
    torch.manual_seed(seed)
    model = make().to(dtype).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 1.5)
            nn.init.normal_(module.bias)
    x = torch.rand(shape, dtype=dtype)
    apply_masks(model, safe_masks(model, x, sparsity, steps=5))
    return model, x


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_outputs_are_equal_and_parameters_fewer(name, dtype, tolerance):
    model, x = masked(name, 0.93, dtype)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    small = shrink(model, x)
    y = torch.rand((4, *x.shape[1:]), dtype=dtype)
    assert small.after.parameters < small.before.parameters
    assert (model(y) - small.model(y)).abs().max() <= tolerance * max(1.0, float(model(y).detach().abs().max()))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_weights_removed_at_random_leave_equal_outputs_too():
    for seed in range(3):
        torch.manual_seed(seed)
        model, x = masked("joined", 0.0, seed=seed)
        with torch.no_grad():
            for p in model.parameters():
                if p.ndim > 1:
                    p.mul_(torch.rand(len(p)).view(-1, *(1,) * (p.ndim - 1)) < 0.6)
        small = shrink(model, x)
        assert small.parameters_ratio > 1
        assert small.max_abs_difference < 1e-12


def test_a_collapsed_network_keeps_one_empty_channel():
    model, x = masked("mlp", 0.0)
    with torch.no_grad():
        model[3].weight.zero_()
    small = shrink(model, x)
    assert small.collapsed
    assert small.model[3].out_features == 1
    assert small.max_abs_difference < 1e-12


def test_a_difference_above_the_tolerance_is_refused():
    model, x = masked("padded", 0.9, torch.float32)
    with pytest.raises(ShrinkError, match="untouched"):
        shrink(model, x, atol=-1.0)


def test_the_saved_model_is_the_same_in_a_fresh_process_and_nothing_is_overwritten(tmp_path):
    model, x = masked("resnet20", 0.95, torch.float32)
    small = shrink(model, x)
    folder = save_shrunk(small, tmp_path / "small", arch="onlyforward.data.nets:cifar_resnet20")
    torch.save({"x": x, "y": small.model(x).detach()}, tmp_path / "pair.pt")
    script = (
        "import sys, torch\n"
        "from onlyforward.data.nets import cifar_resnet20\n"
        "from onlyforward.prune.manifest import load_shrunk\n"
        "pair = torch.load(sys.argv[2], weights_only=True)\n"
        "with torch.no_grad(): y = load_shrunk(sys.argv[1], cifar_resnet20)(pair['x'])\n"
        "assert (y - pair['y']).abs().max() < 1e-6\n"
    )
    subprocess.run([sys.executable, "-c", script, str(folder), str(tmp_path / "pair.pt")], check=True)
    with pytest.raises(FileError, match="exists already"):
        save_shrunk(small, folder)
    with pytest.raises(FileError, match="does not fit"):
        load_shrunk(folder, mlp)
    (folder / "shapes.json").write_text("{")
    with pytest.raises(FileError, match="no shrunk model"):
        load_shrunk(folder, mlp)


def test_the_onnx_file_gives_the_same_outputs(tmp_path):
    pytest.importorskip("onnxscript")
    model, x = masked("padded", 0.9, torch.float32)
    path = tmp_path / "small.onnx"
    assert export_onnx(shrink(model, x).model, x, path) < 1e-5
    with pytest.raises(FileError, match="exists already"):
        export_onnx(model, x, path)
