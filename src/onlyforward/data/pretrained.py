"""Pretrained networks from weights files: the CIFAR ResNets and a small vision transformer."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from onlyforward.core.checks import check_choice
from onlyforward.core.errors import FileError
from onlyforward.data.modules import Normalise
from onlyforward.data.residual import cifar_resnet
from onlyforward.data.sets import folder

if TYPE_CHECKING:
    from torch import Tensor

FILES: Mapping[str, str] = {
    "resnet20": "resnet20_cifar10.th",
    "resnet32": "resnet32_cifar10.th",
    "vit-d128-l6": "vit_cifar10_d128_L6.pth",
}
"""Model -> file in the data folder "models"; other depths take a file of the user's."""
MODELS = ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "vit-d128-l6")


class PatchEmbedding(nn.Module):
    """4x4 patches as tokens, a class token in front, learned positions: [b, 3, 32, 32] -> [b, 65, width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, 4, stride=4)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 65, width))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [b, 65, width]."""
        tokens = self.proj(x).flatten(2).transpose(1, 2)
        return torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], dim=1) + self.pos_embed


class ClassToken(nn.Module):
    """[b, tokens, width] -> [b, width], the first token."""

    def forward(self, x: Tensor) -> Tensor:
        """The class token."""
        return x[:, 0]


def vit(width: int = 128, layers: int = 6) -> nn.Sequential:
    """The small ViT for CIFAR-10: post-norm encoder layers with 8 heads, feed-forward 2 x width, rectifiers."""

    def layer() -> nn.Module:
        return nn.TransformerEncoderLayer(width, nhead=8, dim_feedforward=2 * width, dropout=0.1, batch_first=True)

    return nn.Sequential(
        OrderedDict(
            normalise=Normalise((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
            embed=PatchEmbedding(width),
            transformer=nn.Sequential(OrderedDict(layers=nn.Sequential(*(layer() for _ in range(layers))))),
            token=ClassToken(),
            mlp_head=nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 10)),
        )
    )


RENAMED = {"patch_embed.proj.": "embed.proj.", "cls_token": "embed.cls_token", "pos_embed": "embed.pos_embed"}
"""The ViT file's names -> ours."""


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a torch weights file, loaded with weights_only=True; a `module.` prefix is stripped.

    Raises:
        FileError: no such file, not a weights file, or pickled objects beyond tensors.
    """
    if not path.is_file():
        raise FileError(f"There is no weights file {path}", "Give --weights FILE")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            stored = load_file(path)
        else:
            stored = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FileError(
            f"{path} is no file of weights alone: {reason[:200]}", "Save model.state_dict() with torch.save"
        ) from error
    except Exception as error:  # safetensors has an error class of its own
        if type(error).__module__.startswith("safetensors"):
            raise FileError(f"{path} is no safetensors file: {error}", "Save it with safetensors") from error
        raise
    if isinstance(stored, Mapping) and isinstance(stored.get("state_dict"), Mapping):
        stored = stored["state_dict"]
    if not isinstance(stored, Mapping) or not all(isinstance(value, torch.Tensor) for value in stored.values()):
        raise FileError(f"{path} holds no state dict", "Save model.state_dict() with torch.save")
    return {str(name).removeprefix("module."): value for name, value in stored.items()}


def fit_state(model: nn.Module, state: Mapping[str, Tensor], *, path: Path) -> nn.Module:
    """Load `state` into `model`; a misfit names the first three missing, unexpected or misshapen keys."""
    own = model.state_dict()
    for old, new in RENAMED.items():
        if any(name.startswith(new) for name in own):
            state = {new + key[len(old) :] if key.startswith(old) else key: value for key, value in state.items()}
    # Weights saved before torch 0.4.1 lack the counter of batches, which evaluation never reads.
    missing = [f"missing {n!r}" for n in own if n not in state and not n.endswith("num_batches_tracked")]
    unexpected = [f"unexpected {name!r}" for name in state if name not in own]
    wrong = [
        f"{name!r} has shape {list(value.shape)}, not {list(own[name].shape)}"
        for name, value in state.items()
        if name in own and value.shape != own[name].shape
    ]
    if missing or unexpected or wrong:
        # One of each kind says more than three of one.
        heads = [kind[0] for kind in (missing, unexpected, wrong) if kind]
        rest = [text for kind in (missing, unexpected, wrong) for text in kind[1:]]
        raise FileError(
            f"The weights in {path} do not fit the model: {', '.join((heads + rest)[:3])}",
            "Choose the model they were made for",
        )
    model.load_state_dict(own | dict(state))
    return model


def load_pretrained(name: str, weights: Path | None = None) -> nn.Module:
    """A pretrained network in eval mode; it takes pixels in 0..1 and normalises them itself.

    Args:
        name: resnet20, resnet32, resnet44, resnet56, resnet110 or vit-d128-l6.
        weights: its state dict (torch or safetensors); by default the file in the data folder "models".

    Raises:
        UsageError: unknown name. FileError: no such file, or weights that do not fit.
    """
    check_choice(name, MODELS, name="pretrained model")
    if weights is None and name not in FILES:
        raise FileError(f"There are no stored weights for {name}", "Give --weights FILE")
    path = weights or folder("models") / FILES[name]
    state = read_state(path)
    if name.startswith("vit"):
        model: nn.Module = vit()
    else:
        model = cifar_resnet(int(name.removeprefix("resnet")))
    return fit_state(model, state, path=path).eval()
