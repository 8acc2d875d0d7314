"""Smaller models on disk: safetensors and a manifest of shapes, no pickle; and ONNX."""

from __future__ import annotations

import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from onlyforward.core.checks import require
from onlyforward.core.errors import FileError, OnlyForwardError
from onlyforward.prune.connect import as_tuple
from onlyforward.prune.counting import run_once
from onlyforward.prune.shortcuts import Selector

FORMAT = 1
COUNTS = ("in_features", "out_features", "in_channels", "out_channels", "groups", "num_features", "num_channels")
"""Attributes of layers that follow their weights."""


def save_shrunk(shrunk: Any, folder: Path | str, *, arch: str = "") -> Path:
    """Write `model.safetensors` and `shapes.json` (module path -> shapes and widths) of a Shrunk or Structured model.

    Args:
        shrunk: what has a `model` and `selectors`.
        folder: made if it is not there.
        arch: "module:factory" that made the original, for the manifest.

    Raises:
        FileError: the folder holds such files already: nothing is overwritten.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    for name in ("model.safetensors", "shapes.json"):
        if (folder / name).exists():
            raise FileError(f"{folder / name} exists already", "Give --save another folder")
    folder.mkdir(parents=True, exist_ok=True)
    model: nn.Module = shrunk.model
    modules: dict[str, Any] = {}
    for path, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))
        if own:
            counts = {name: getattr(module, name) for name in COUNTS if isinstance(getattr(module, name, None), int)}
            shapes = {name: list(tensor.shape) for name, tensor in own.items()}
            modules[path] = {"kind": type(module).__name__, "shapes": shapes, "counts": counts}
    manifest = {
        "format": FORMAT,
        "arch": arch,
        "selectors": {name: asdict(selector) for name, selector in shrunk.selectors.items()},
        "modules": modules,
    }
    state = {name: tensor.detach().contiguous().clone() for name, tensor in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    (folder / "shapes.json").write_text(json.dumps(manifest, indent=1) + "\n")
    return folder


def load_shrunk(folder: Path | str, factory: Callable[[], nn.Module]) -> nn.Module:
    """Build the original by its factory, cut it to the shapes of the manifest and load the weights; eval mode.

    Raises:
        FileError: a file is missing or broken, or the factory makes another model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    try:
        manifest = json.loads((folder / "shapes.json").read_text())
        state = load_file(folder / "model.safetensors")
        if manifest["format"] != FORMAT:
            raise FileError(f"{folder / 'shapes.json'} has format {manifest['format']}", f"This version reads {FORMAT}")
        selectors = {name: Selector(**values) for name, values in manifest["selectors"].items()}
        modules: Mapping[str, Any] = manifest["modules"]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise FileError(f"{folder} holds no shrunk model: {error}", "Give a folder that --save wrote") from error
    model = factory()
    try:
        for name, selector in selectors.items():
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, selector.build())
        for path, entry in modules.items():
            reshape(model.get_submodule(path), path, entry, state)
        model.load_state_dict(state, strict=True)
    except (AttributeError, RuntimeError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise FileError(
            f"{folder} does not fit the factory's model: {reason}", "Give the factory it was made with"
        ) from error
    return model.eval()


def reshape(module: nn.Module, path: str, entry: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Give a module the tensors' shapes and the widths of its entry."""
    for name, count in entry["counts"].items():
        setattr(module, name, count)
    if isinstance(module, nn.LayerNorm) and "weight" in entry["shapes"]:
        module.normalized_shape = tuple(entry["shapes"]["weight"])
    for name, shape in entry["shapes"].items():
        key = f"{path}.{name}" if path else name
        old = getattr(module, name, None)
        dtype = state[key].dtype if key in state else (old.dtype if isinstance(old, Tensor) else None)
        if isinstance(old, Tensor) and list(old.shape) == shape and old.dtype == dtype:
            continue
        fresh = torch.zeros(shape, dtype=dtype)
        if name in module._buffers:
            setattr(module, name, fresh)
        else:
            setattr(module, name, nn.Parameter(fresh))


def export_onnx(model: nn.Module, example_inputs: Any, path: Path) -> float:
    """Write a model as ONNX (torch.onnx.export with dynamo, the first dimension free) and compare it with onnxruntime.

    Returns:
        The largest difference between the module's and the session's output on the example.

    Raises:
        MissingExtra: onnx, onnxscript or onnxruntime is missing.
        FileError: the file exists already.
        OnlyForwardError: the exporter cannot translate the model.
    """
    for module in ("onnx", "onnxscript"):
        require(module, "prune")
    runtime = require("onnxruntime", "prune")
    if path.exists():
        raise FileError(f"{path} exists already", "Give --onnx another file")
    path.parent.mkdir(parents=True, exist_ok=True)
    args = as_tuple(example_inputs)
    model.eval()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    partial = path.with_name(f".{path.name}.part")
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(model, args, dynamo=True, verbose=False)
            assert program is not None
            program.save(str(partial), external_data=False)
    except Exception as error:
        # The exporter has dozens of error classes; all of them mean that this model cannot be written.
        partial.unlink(missing_ok=True)
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise OnlyForwardError(f"torch.onnx cannot export the model: {reason}", "Leave out --onnx") from error
    os.replace(partial, path)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feeds = {
        given.name: x.numpy() for given, x in zip(session.get_inputs(), (a for a in args if isinstance(a, Tensor)))
    }
    wanted: Any = run_once(model, args)
    found = torch.from_numpy(session.run(None, feeds)[0])
    return float((found - wanted).abs().max())
