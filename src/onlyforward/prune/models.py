"""A user's own model: a factory by name, its weights from a file, and an example it takes."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from onlyforward.core.errors import FileError, UsageError
from onlyforward.data.pretrained import fit_state, read_state
from onlyforward.prune.counting import run_once
from onlyforward.run.userfile import user_function

if TYPE_CHECKING:
    from onlyforward.data.sets import Dataset


def factory_of(arch: str) -> Callable[[], nn.Module]:
    """The function behind "module:factory" or "file.py:factory"; modules in the current folder are found.

    Raises:
        UsageError: no such module or function.
    """
    module, _, name = arch.partition(":")
    if not module or not name:
        raise UsageError(
            f"--arch is {arch!r}", "Give module:factory, a function without arguments that makes the model"
        )
    if module.endswith(".py"):
        return user_function(arch)
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise UsageError(
            f"The module {module!r} of --arch cannot be imported: {error}", "Name it as python would"
        ) from error
    finally:
        sys.path.remove(here)
    if not callable(found):
        raise UsageError(f"The module {module!r} has no function {name!r}", "Name one of its functions after the colon")
    return found  # type: ignore[no-any-return]


def load_model(file: Path, arch: str) -> nn.Module:
    """The factory's model with the weights of a state dict (.pth, .th, .safetensors), in eval mode.

    Raises:
        UsageError: the factory cannot be had or makes no module.
        FileError: the file is missing, no state dict, does not fit, or holds a NaN.
    """
    if not file.is_file():
        raise FileError(f"There is no file {file}", "Give the state dict of the model")
    factory = factory_of(arch)
    try:
        model = factory()
    except TypeError as error:
        raise UsageError(f"The factory of --arch cannot be called: {error}", "It must take no argument") from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"The factory of --arch made a {type(model).__name__}", "It must return a torch.nn.Module")
    state = read_state(file)
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise FileError(f"{file} holds a NaN or an infinity in {name!r}", "Save sound weights")
    fit_state(model, state, path=file)
    if any(tensor.dtype == torch.float64 for tensor in state.values()):
        # Weights of double precision keep it.
        model.double()
        fit_state(model, state, path=file)
    return model.eval()


def numbers(text: str, name: str) -> tuple[int, ...]:
    """Integers between commas.

    Raises:
        UsageError: something else.
    """
    try:
        found = tuple(int(word) for word in text.split(","))
    except ValueError as error:
        raise UsageError(f"{name} is {text!r}", "Give sizes between commas, as 1,3,32,32") from error
    if not found or min(found) < 1:
        raise UsageError(f"{name} is {text!r}", "Every size must be at least 1")
    return found


def example_of(model: nn.Module, example: str, data: Dataset | None, normalise: Callable[[Tensor], Tensor]) -> Tensor:
    """One input: of the shape given, or the first training datum; the model has taken it once.

    Raises:
        UsageError: neither is given, or the model rejects it.
    """
    dtype = next(model.parameters()).dtype
    if example:
        x = torch.rand(numbers(example, "--example"), generator=torch.Generator().manual_seed(0), dtype=dtype)[:1]
    elif data is not None:
        x = normalise(data.x_train[:1]).to(dtype)
    else:
        raise UsageError("The shape of the model's input is not known", "Give --example 1,3,32,32 or --data")
    output = run_once(model, x)
    if data is not None:
        check_outputs(output, data)
    return x


def check_outputs(output: Any, data: Dataset) -> None:
    """Labels must be among the model's outputs.

    Raises:
        UsageError: they are not.
    """
    if not isinstance(output, Tensor) or output.ndim != 2:
        shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise UsageError(f"The model gives {shape} for one datum", "With --data it must give [1, classes]")
    largest = int(max(data.y_train.max(), data.y_test.max()))
    if largest >= output.shape[1]:
        raise UsageError(
            f"The labels of {data.name} reach {largest}, but the model has {output.shape[1]} outputs",
            f"Labels run from 0 to {output.shape[1] - 1}",
        )


def normaliser(mean: tuple[float, ...], std: tuple[float, ...]) -> Callable[[Tensor], Tensor]:
    """(x - mean) / std per channel; the identity where none is given.

    Raises:
        UsageError: numbers of two lengths, or a deviation that is not positive.
    """
    if not mean and not std:
        return lambda x: x
    if len(mean) != len(std) or min(std, default=0.0) <= 0:
        raise UsageError(f"--mean has {len(mean)} numbers and --std {len(std)}", "Give one positive --std per --mean")
    m, s = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
    return lambda x: (x - m) / s
