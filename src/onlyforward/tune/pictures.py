"""Images to tune on: named sets, files, or a folder with one sub-folder of pictures a class; shifted on demand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from onlyforward.core.checks import check_choice, check_integer_labels, require
from onlyforward.core.errors import FileError, UsageError
from onlyforward.core.keys import Key
from onlyforward.data.corruptions import apply
from onlyforward.data.sets import NAMES, Dataset, load

if TYPE_CHECKING:
    from onlyforward.run.context import Context

SHIFTS: Mapping[str, tuple[str, float]] = {
    "none": ("", 0.0),
    "rotation": ("rotate", 40.0),
    "translation": ("translate", 5.0),
    "scale": ("scale", 0.6),
    "noise": ("gaussian", 0.35),
    "blur": ("blur", 1.5),
    "contrast": ("contrast", 0.35),
    "gamma": ("gamma", 3.0),
    "invert": ("invert", 1.0),
    "patch": ("patch", 8.0),
    "jpeg": ("jpeg", 10.0),
}
"""Shift -> corruption and the amount it has by default: degrees, pixels, factor, standard deviation, quality."""
POOL = 10_000
"""Training images of a large set that shots are drawn from."""


@dataclass(frozen=True)
class Shift:
    """A change of the images that nobody told the model about.

    Attributes:
        name: one of SHIFTS.
        severity: physical amount; None is the shift's default.
    """

    name: str = "none"
    severity: float | None = None

    def __post_init__(self) -> None:
        check_choice(self.name, SHIFTS, name="shift")

    def __call__(self, x: Tensor, key: Key) -> Tensor:
        """Shifted images [n, c, h, w]."""
        kind, amount = SHIFTS[self.name]
        return apply(x, kind, amount if self.severity is None else self.severity, key=key) if kind else x


@dataclass(frozen=True)
class Pictures:
    """What a run tunes and tests on.

    Attributes:
        data: the images.
        shift: applied to shots and test images alike.
    """

    data: Dataset
    shift: Shift

    def shots(self, rows: Tensor, split: int) -> Tensor:
        """The shifted images of training rows."""
        return self.shift(self.data.x_train[rows], Key(run=split, site="shift/train"))

    def test(self) -> Tensor:
        """The shifted test images."""
        return self.shift(self.data.x_test, Key(site="shift/test"))


def read_pictures(name: str, shift: Shift, *, test_limit: int, context: Context, size: int = 0) -> Pictures:
    """Images by name or path.

    Raises:
        UsageError: no images.
        FileError: a file that cannot be read.
    """
    path = Path(name)
    if name not in NAMES and path.is_dir() and any(child.is_dir() for child in path.iterdir()):
        data = class_folders(path, context, size or 32)
    else:
        data = load(name, limit=POOL, test_limit=test_limit)
    if data.kind != "image":
        raise UsageError(f"{data.name} holds {data.kind} data", "Give mnist, fashion, digits, cifar10 or a folder")
    check_integer_labels(data.y_train, classes=data.classes)
    return Pictures(data.limited(test=test_limit), shift)


def class_folders(path: Path, context: Context, size: int) -> Dataset:
    """A folder with one sub-folder a class; what is no picture is named and skipped. Every fourth picture tests."""
    image: Any = require("PIL.Image", "data")
    numpy: Any = require("numpy", "data")
    parts: dict[str, list[Any]] = {"x_train": [], "y_train": [], "x_test": [], "y_test": []}
    names = sorted(child.name for child in path.iterdir() if child.is_dir())
    for label, name in enumerate(names):
        kept = 0
        for file in sorted((path / name).iterdir()):
            try:
                with image.open(file) as picture:
                    resized = picture.convert("RGB").resize((size, size))
            except (OSError, ValueError, image.DecompressionBombError):
                context.warn(f"{file} is no picture and is skipped")
                continue
            part = "test" if kept % 4 == 3 else "train"
            parts[f"x_{part}"].append(torch.from_numpy(numpy.array(resized)).permute(2, 0, 1).float() / 255)
            parts[f"y_{part}"].append(label)
            kept += 1
    if not parts["x_train"] or not parts["x_test"]:
        raise FileError(f"{path} holds too few pictures", "Give a sub-folder per class, four pictures or more each")
    made = {name: torch.stack(v) if name[0] == "x" else torch.tensor(v) for name, v in parts.items()}
    return Dataset(path.name, "image", classes=len(names), labels=tuple(names), source=str(path), **made)
