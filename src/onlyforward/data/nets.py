"""The small networks that several applications share, by name, and the settings chosen for each on each data set."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from onlyforward.core.checks import check_choice
from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.data.modules import Attention, Graph, HardSign, Recurrent, Spiking, row_reader
from onlyforward.data.pretrained import vit
from onlyforward.data.residual import cifar_resnet, resnet5, resnet8, vgg8
from onlyforward.run.userfile import user_function

if TYPE_CHECKING:
    from onlyforward.data.sets import Dataset

DEPTHS = (20, 32, 44, 56, 110)


def cifar_resnet20() -> nn.Module:
    """The CIFAR-10 ResNet of depth 20, with the key names of the public weights."""
    return cifar_resnet(20)


def cifar_resnet32() -> nn.Module:
    """The CIFAR-10 ResNet of depth 32."""
    return cifar_resnet(32)


def cifar_resnet56() -> nn.Module:
    """The CIFAR-10 ResNet of depth 56."""
    return cifar_resnet(56)


def cifar_vit() -> nn.Module:
    """The small CIFAR-10 vision transformer of width 128 with six layers."""
    return vit()


def mlp(data: Dataset) -> nn.Module:
    """Digits 64-64-64-10; anything else: inputs-128-classes. Rectifiers."""
    size = features(data, "mlp")
    hidden = (64, 64) if size <= 64 else (128,)
    parts: list[nn.Module] = [nn.Flatten()]
    for a, b in zip((size, *hidden), hidden):
        parts += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(hidden[-1], data.classes))


def cnn(data: Dataset) -> nn.Module:
    """Two 3x3 convolutions of 8 and 16 channels, the second with stride 2, and a linear head."""
    channels, height, width = image(data, "cnn")
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * ((height + 1) // 2) * ((width + 1) // 2), data.classes),
    )


def lenet(data: Dataset) -> nn.Module:
    """Two 5x5 convolutions of 8 and 16 channels with stride 2, and a linear head."""
    channels, height, width = image(data, "lenet")
    return nn.Sequential(
        nn.Conv2d(channels, 8, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * ((height + 3) // 4) * ((width + 3) // 4), data.classes),
    )


def recurrent(kind: str) -> Callable[[Dataset], nn.Module]:
    """LSTM or GRU of 32 units over image rows or words."""

    def make(data: Dataset) -> nn.Module:
        if data.kind == "text":
            return Recurrent(kind, size=32, units=32, classes=data.classes, vocabulary=len(data.vocabulary))
        channels, _, width = image(data, kind)
        return row_reader(kind, size=channels * width, units=32, classes=data.classes)

    return make


def gcn(data: Dataset) -> nn.Module:
    """Two GCN layers with 16 hidden units and dropout 0.5."""
    if data.edge_index is None:
        raise UsageError(f"The model gcn needs a graph, but {data.name} is a set of {data.kind}s", "Take --data cora")
    return Graph(data.shape[0], 16, data.classes, data.edge_index, dropout=0.5)


def snn(data: Dataset) -> nn.Module:
    """Spiking inputs-64-classes, leak 0.9, T = 6."""
    return Spiking((features(data, "snn"), 64, data.classes), steps=6, leak=0.9)


def transformer(data: Dataset) -> nn.Module:
    """One encoder layer of width 32 over image rows or words."""
    if data.kind == "text":
        length = data.shape[0]
        return Attention(size=0, length=length, width=32, classes=data.classes, vocabulary=len(data.vocabulary))
    channels, height, width = image(data, "transformer")
    return Attention(size=channels * width, length=height, width=32, classes=data.classes)


def bottleneck(data: Dataset) -> nn.Module:
    """An MLP whose middle is a code of 16 hard bits: body (trained through the code), code, sign, head."""
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            body=nn.Sequential(nn.Linear(features(data, "bottleneck"), 64), nn.ReLU()),
            code=nn.Linear(64, 16),
            sign=HardSign(),
            head=nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, data.classes)),
        )
    )


def features(data: Dataset, model: str) -> int:
    """Numbers per datum; the words of a text are none."""
    if data.kind == "text":
        raise UsageError(f"The model {model} needs numbers, but {data.name} is a set of texts", "Take another --model")
    return prod(data.shape)


def image(data: Dataset, model: str) -> tuple[int, int, int]:
    """Channels, height and width of a set of images."""
    if data.kind != "image":
        raise UsageError(
            f"The model {model} needs images, but {data.name} is a set of {data.kind}s", "Take another --model"
        )
    channels, height, width = data.shape
    return channels, height, width


MODELS: Mapping[str, Callable[[Dataset], nn.Module]] = {
    "mlp": mlp,
    "cnn": cnn,
    "lenet": lenet,
    "lstm": recurrent("lstm"),
    "gru": recurrent("gru"),
    "gcn": gcn,
    "snn": snn,
    "transformer": transformer,
    "bottleneck": bottleneck,
    "resnet5": lambda data: resnet5(image(data, "resnet5")[0], data.classes),
    "resnet8": lambda data: resnet8(image(data, "resnet8")[0], data.classes),
    "vgg8": lambda data: vgg8(image(data, "vgg8")[0], data.classes),
} | {f"cifar_resnet{depth}": lambda data, depth=depth: cifar_resnet(depth, data.classes) for depth in DEPTHS}
"""Name -> function of a data set."""


def build(name: str, data: Dataset, *, seed: int = 0) -> nn.Module:
    """The network `name` for a data set, its initial weights decided by `seed` alone.

    Args:
        name: one of MODELS, or "file.py:factory", a user's function of (shape of a datum, classes) -> nn.Module.
        data: gives the shape, the classes, the vocabulary and the edges.
        seed: run coordinate of the initial weights.

    Raises:
        UsageError: unknown name, or a model that cannot take this kind of data.
        FileError: no such file or no such function in it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(Key(run=seed, site=f"init/{name}").seed)
        if ":" in name:
            return from_file(name, data)
        return MODELS[check_choice(name, MODELS, name="model")](data)


def from_file(reference: str, data: Dataset) -> nn.Module:
    """Run the factory that a user names as "file.py:factory": code that the user chose, and the only code we run."""
    made = user_function(reference)(data.shape, data.classes)
    if not isinstance(made, nn.Module):
        raise UsageError(f"{reference} gives a {type(made).__name__}", "Return a torch.nn.Module")
    return made


# Chosen settings -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Preset:
    """Settings chosen on validation data (`Dataset.held_out`, or a stored validation part).

    Attributes:
        epochs: passes over the training part.
        batch: data per step; 0 is the whole set (graphs).
        lr: learning rate.
        copies: perturbed copies per datum and site.
        sigma: noise level; None is the engine's "auto".
        noise: direction kind; "auto" is the engine's choice.
        visits: share of a recurrent module's time steps that are perturbed in a step.
        baseline: what a loss is compared with.
        pairing: auto, pairs or single.
        plan: module path globs to kinds.
        optimizer: adam, adamw or sgd.
        weight_decay: of the optimiser.
        clip: largest gradient norm; 0 is none.
        decay: of the learning rate: none, or linear to 0.
        methods: method -> fields that differ for it.
    """

    epochs: int = 20
    batch: int = 64
    lr: float = 2e-3
    copies: int = 64
    sigma: float | None = None
    noise: str = "auto"
    visits: float = 1.0
    baseline: str = "clean"
    pairing: str = "auto"
    plan: Mapping[str, str] = field(default_factory=dict)
    optimizer: str = "adam"
    weight_decay: float = 0.0
    clip: float = 0.0
    decay: str = "none"
    methods: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


PRESETS: Mapping[tuple[str, str], Preset] = {
    ("mlp", "digits"): Preset(),
    ("mlp", "mnist"): Preset(epochs=3, lr=5e-3, copies=16, decay="linear"),
    ("mlp", "fashion"): Preset(epochs=3, lr=5e-3, copies=16, decay="linear"),
    ("cnn", "digits"): Preset(lr=3e-3),
    ("lenet", "mnist"): Preset(epochs=1, lr=2e-3, copies=32),
    ("lenet", "fashion"): Preset(epochs=1, lr=2e-3, copies=32),
    ("lstm", "digits"): Preset(epochs=40, lr=5e-3, copies=16, sigma=0.1, clip=1.0),
    ("gru", "digits"): Preset(epochs=40, lr=5e-3, copies=16, sigma=0.1, clip=1.0),
    ("lstm", "sst2"): Preset(
        epochs=4,
        lr=5e-3,
        copies=32,
        sigma=0.1,
        noise="hadamard",
        pairing="single",
        plan={"embedding": "bp"},
        clip=1.0,
    ),
    ("gcn", "cora"): Preset(epochs=200, batch=0, lr=1e-2, copies=16, sigma=0.1, weight_decay=5e-4),
    ("snn", "digits"): Preset(lr=2e-3, sigma=0.3, noise="gaussian"),
    ("transformer", "digits"): Preset(epochs=30, lr=2e-3, copies=32),
    ("bottleneck", "digits"): Preset(
        epochs=40,
        lr=2e-3,
        copies=64,
        sigma=0.5,
        noise="gaussian",
        baseline="loo",
        pairing="single",
        plan={"body": "bp", "code": "lr", "head": "bp"},
    ),
    ("resnet5", "cifar10"): Preset(epochs=10, batch=128, lr=1e-3),
    ("resnet8", "cifar10"): Preset(epochs=10, batch=128, lr=1e-3),
    ("vgg8", "cifar10"): Preset(epochs=10, batch=128, lr=1e-3),
}
"""(model, data) -> settings; what is not listed takes `Preset()`."""

LOSSES: Mapping[tuple[str, str, str], Preset] = {
    ("mlp", "digits", "zero-one"): Preset(
        epochs=40, lr=5e-3, copies=128, sigma=1.0, noise="gaussian", baseline="standard", pairing="pairs"
    ),
}
"""(model, data, loss) -> settings, where a loss has its own."""


def preset(model: str, data: str, method: str = "lr", loss: str = "ce") -> Preset:
    """The settings of a model on a data set under a method and a loss."""
    found = LOSSES.get((model, data, loss)) or PRESETS.get((model, data), Preset())
    return replace(found, **found.methods.get(method, {}))
