"""Image networks for CIFAR-sized pictures: the CIFAR ResNets of depth 6n+2, and three small ones with GroupNorm.

Every network is an nn.Sequential of named parts, so that an engine which starts at a layer can reuse what lies before.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from typing import TYPE_CHECKING

from torch import nn
from torch.nn import functional as F

from onlyforward.data.modules import Normalise

if TYPE_CHECKING:
    from torch import Tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ShortcutA(nn.Module):
    """Option-A shortcut (He et al. 2015): every second pixel, missing channels padded with zeros on both sides."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """[b, c, h, w] -> [b, channels, h/2, w/2]."""
        extra = (self.channels - x.shape[1]) // 2
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, extra, extra))


class Block(nn.Module):
    """Two 3x3 convolutions with norms and an identity or option-A shortcut: no parameters but theirs."""

    def __init__(self, inputs: int, channels: int, stride: int, norm: type[nn.Module]) -> None:
        super().__init__()
        make = nn.BatchNorm2d if norm is nn.BatchNorm2d else lambda c: nn.GroupNorm(4, c)
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = make(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = make(channels)
        self.shortcut = ShortcutA(channels) if stride != 1 or inputs != channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Relu of the residual plus the shortcut."""
        inner = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


def stage(inputs: int, channels: int, blocks: int, stride: int, norm: type[nn.Module]) -> nn.Sequential:
    """`blocks` residual blocks, the first with `stride`."""
    first = Block(inputs, channels, stride, norm)
    return nn.Sequential(first, *(Block(channels, channels, 1, norm) for _ in range(blocks - 1)))


def cifar_resnet(depth: int, classes: int = 10) -> nn.Sequential:
    """The CIFAR ResNet of depth 6n+2 (20, 32, 44, 56, 110) with BatchNorm and option-A shortcuts.

    Takes pixels in 0..1 and normalises them itself; the state dict has the key names of the public weights.
    """
    blocks = (depth - 2) // 6
    norm = nn.BatchNorm2d
    return nn.Sequential(
        OrderedDict(
            normalise=Normalise(MEAN, STD),
            conv1=nn.Conv2d(3, 16, 3, padding=1, bias=False),
            bn1=norm(16),
            relu=nn.ReLU(),
            layer1=stage(16, 16, blocks, 1, norm),
            layer2=stage(16, 32, blocks, 2, norm),
            layer3=stage(32, 64, blocks, 2, norm),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            linear=nn.Linear(64, classes),
        )
    )


def resnet5(channels: int, classes: int) -> nn.Sequential:
    """Five weight layers: stem, one residual block, a strided convolution, head; GroupNorm."""
    norm = nn.GroupNorm
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, 16, 3, stride=2, padding=1, bias=False),
            norm1=norm(4, 16),
            relu1=nn.ReLU(),
            layer1=stage(16, 16, 1, 1, norm),
            conv2=nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
            norm2=norm(4, 32),
            relu2=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(4),
            flatten=nn.Flatten(),
            linear=nn.Linear(512, classes),
        )
    )


def resnet8(channels: int, classes: int) -> nn.Sequential:
    """Eight weight layers: stem, three residual blocks of 16, 32 and 64 channels, head; GroupNorm."""
    norm = nn.GroupNorm
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, 16, 3, padding=1, bias=False),
            norm1=norm(4, 16),
            relu=nn.ReLU(),
            layer1=stage(16, 16, 1, 1, norm),
            layer2=stage(16, 32, 1, 2, norm),
            layer3=stage(32, 64, 1, 2, norm),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            linear=nn.Linear(64, classes),
        )
    )


def vgg8(channels: int, classes: int) -> nn.Sequential:
    """Eight weight layers: six 3x3 convolutions in three pooled stages, two linear ones; GroupNorm."""
    parts: list[nn.Module] = []
    widths = (channels, 32, 32, 64, 64, 128, 128)
    for k, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        parts += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.GroupNorm(8, outputs), nn.ReLU()]
        parts += [nn.MaxPool2d(2)] if k % 2 else []
    return nn.Sequential(
        *parts, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(2048, 128), nn.ReLU(), nn.Linear(128, classes)
    )
