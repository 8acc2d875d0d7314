"""A user's picture as the model wants it: decoded, upright, cropped, and read into the model's range."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onlyforward.core.checks import require
from onlyforward.core.errors import FileError, UsageError
from onlyforward.run.oracle import Oracle

PIXELS = 64_000_000
"""Pictures with more pixels are refused before they are decoded."""
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "0..255": lambda x: x * 255,
    "0..1": lambda x: x,
    "-1..1": lambda x: x * 2 - 1,
    "imagenet": lambda x: (x - torch.tensor(MEAN).reshape(3, 1, 1)) / torch.tensor(SPREAD).reshape(3, 1, 1),
}
"""Readings of pixels in 0..1."""


def read_image(path: Path, size: tuple[int, int], *, channels: int = 3) -> Tensor:
    """A picture as [channels, height, width] in 0..1: upright, on white, shorter side fitted, centre cropped.

    Args:
        path: any common format; palettes, CMYK, alpha, 16 bits and EXIF rotation are understood.
        size: height and width.
        channels: 3 for colour, 1 for grey.

    Raises:
        FileError: missing, no picture, truncated, or too large.
    """
    pillow: Any = require("PIL.Image", "data")
    operations: Any = require("PIL.ImageOps", "data")
    if not path.is_file():
        raise FileError(f"There is no picture {path}", "Check the name")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pillow.DecompressionBombWarning)
            with pillow.open(path) as opened:
                if opened.width * opened.height > PIXELS:
                    raise FileError(
                        f"{path} declares {opened.width} x {opened.height} pixels", "Scale it below 64 megapixels"
                    )
                picture = operations.exif_transpose(opened)
                picture.load()
    except FileError:
        raise
    except Exception as error:
        raise FileError(f"{path} is no picture that can be read: {error}", "Open and save it again") from error
    if picture.mode.startswith(("I", "F")):
        values = np.asarray(picture, dtype=np.float64)
        top = 65535.0 if values.max() > 255 else 255.0
        picture = pillow.fromarray((values / top * 255).clip(0, 255).astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA", "P"):
        picture = picture.convert("RGBA")
        ground = pillow.new("RGBA", picture.size, "white")
        picture = pillow.alpha_composite(ground, picture)
    picture = picture.convert("RGB" if channels == 3 else "L")
    picture = operations.fit(picture, (size[1], size[0]), method=pillow.Resampling.BILINEAR)
    array = np.asarray(picture, dtype=np.float32) / 255
    array = array[..., None] if array.ndim == 2 else array
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))


def pictures(paths: tuple[Path, ...]) -> list[Path]:
    """Files as given, folders as their pictures in order of name.

    Raises:
        FileError: nothing to explain.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(inside for inside in path.iterdir() if inside.suffix.lower() in ENDINGS)
        else:
            found.append(path)
    if not found:
        raise FileError("There is no picture to explain", "Give a file or a folder of pictures")
    return found


def in_range(oracle: Oracle, reading: str) -> Oracle:
    """An oracle of pixels in 0..1 from one of pixels in the model's range."""
    from dataclasses import replace

    ask, convert = oracle.ask, RANGES[reading]
    return replace(oracle, ask=lambda rows: ask(convert(rows)), identity=f"{oracle.identity} {reading}")


def read_labels(path: Path, outputs: int) -> list[str]:
    """Names of the outputs, a line each.

    Raises:
        FileError: not readable, or another number of lines.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"The labels {path} cannot be read: {error}", "Give a text file, one name a line") from error
    if len(lines) != outputs:
        raise FileError(f"{path} has {len(lines)} names and the model {outputs} outputs", "Give one name per output")
    return lines


def find_target(word: str, labels: list[str] | None, outputs: int) -> int | None:
    """An output by number or name; None for auto.

    Raises:
        UsageError: out of range, or unknown; the three nearest names are given.
    """
    if word == "auto":
        return None
    if word.lstrip("-").isdigit():
        if not 0 <= int(word) < outputs:
            raise UsageError(f"The target {word} is out of range", f"The model has outputs 0 to {outputs - 1}")
        return int(word)
    if labels is None:
        raise UsageError(f"The target {word!r} is a name and the outputs have none", "Give --labels FILE or a number")
    lower = [label.lower() for label in labels]
    if word.lower() in lower:
        return lower.index(word.lower())
    near = difflib.get_close_matches(word.lower(), lower, n=3, cutoff=0.0)
    raise UsageError(f"There is no output called {word!r}", f"The nearest names are {', '.join(near)}")
