"""Checkpoints that survive a kill at any moment: tensors first, manifest last, each replaced atomically; no pickle.

`step-N.safetensors` holds tensors, `step-N.json` the manifest: hash and length of the former, the step, the state as
JSON, the digest of the options, versions. A checkpoint exists when its manifest does. The last two are kept.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onlyforward.core.errors import CheckpointError, OnlyForwardError
from onlyforward.run.result import versions

if TYPE_CHECKING:
    from torch import Tensor

KEPT = 2
NAME = re.compile(r"step-(\d{1,15})\.json")


@dataclass(frozen=True)
class Checkpoint:
    """A saved state.

    Attributes:
        step: steps done.
        tensors: name -> tensor.
        data: what JSON can hold; floats come back to the bit.
    """

    step: int
    tensors: Mapping[str, Tensor]
    data: Mapping[str, Any]


class Broken(Exception):
    """Why one checkpoint cannot be used."""


def write_atomically(path: Path, content: bytes) -> None:
    """Temporary file in the same folder, flush, fsync, replace, fsync of the folder."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise OnlyForwardError(
            f"{path} cannot be written: {error.strerror or error}",
            "Free space or mend the folder; earlier checkpoints stand",
        ) from error


def save(folder: Path, checkpoint: Checkpoint, *, options: str) -> None:
    """Write one checkpoint into a folder and remove all but the last two.

    Args:
        folder: the checkpoints' folder.
        checkpoint: what to keep.
        options: digest of the options that made it; a checkpoint of other options is never loaded.
    """
    from safetensors.torch import save as to_bytes

    content = to_bytes({name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()})
    manifest = {
        "step": checkpoint.step,
        "sha256": sha256(content).hexdigest(),
        "bytes": len(content),
        "data": encode(checkpoint.data),
        "options": options,
        "versions": versions(),
    }
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OnlyForwardError(
            f"{folder} cannot be made: {error.strerror}", "The run's folder must stay where it is while the run goes on"
        ) from error
    write_atomically(folder / f"step-{checkpoint.step}.safetensors", content)
    write_atomically(folder / f"step-{checkpoint.step}.json", json.dumps(manifest).encode())
    clean(folder)


def clean(folder: Path) -> None:
    """Remove temporaries, tensors without a manifest, and all but the last two checkpoints."""
    kept = {f"step-{step}" for step in steps(folder)[-KEPT:]}
    for path in folder.iterdir():
        if path.name.startswith(".step-") or (path.name.startswith("step-") and path.stem not in kept):
            path.unlink(missing_ok=True)


def steps(folder: Path) -> list[int]:
    """Steps of the checkpoints whose manifest exists, oldest first."""
    if not folder.is_dir():
        return []
    found = (NAME.fullmatch(path.name) for path in folder.iterdir())
    return sorted(int(match.group(1)) for match in found if match)


def load_newest(folder: Path, *, options: str, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest usable checkpoint; None if there never was one.

    Raises:
        CheckpointError: there are checkpoints, and none can be used.
    """
    found = steps(folder)
    for step in reversed(found):
        try:
            return load(folder, step, options=options, warn=warn)
        except Broken as reason:
            warn(f"checkpoint step-{step} is not used: {reason}")
    if found:
        raise CheckpointError(f"None of the {len(found)} checkpoints in {folder} can be used", "Start the run anew")
    return None


def load(folder: Path, step: int, *, options: str, warn: Callable[[str], None]) -> Checkpoint:
    """One checkpoint, verified: names, length, hash, options.

    Raises:
        Broken: with the reason.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    try:
        manifest = json.loads((folder / f"step-{step}.json").read_text(encoding="utf-8"))
        length, digest, data = manifest["bytes"], manifest["sha256"], decode(manifest["data"])
        same_step, same_options, made_with = (
            manifest["step"] == step,
            manifest["options"] == options,
            manifest["versions"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Broken("its manifest cannot be read") from error
    if not same_step or not same_options:
        raise Broken("it belongs to another run")
    try:
        content = (folder / f"step-{step}.safetensors").read_bytes()
    except OSError as error:
        raise Broken("its tensors are missing") from error
    if len(content) != length:
        raise Broken(f"its tensors have {len(content)} bytes instead of {length}")
    if sha256(content).hexdigest() != digest:
        raise Broken("its tensors were changed")
    try:
        tensors = from_bytes(content)
    except SafetensorError as error:
        raise Broken("its tensors are no safetensors") from error
    for name in tensors:
        if "/" in name or "\\" in name or ".." in name:
            raise Broken(f"it holds the unsafe name {name!r}")
    here = versions()
    if any(made_with.get(name) != here.get(name) for name in ("torch", "machine")):
        warn("this checkpoint was made with another version of torch or on another kind of machine: bits may differ")
    return Checkpoint(step, tensors, data)


def encode(value: Any) -> Any:
    """JSON with floats as hex, so that they come back to the bit."""
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return {"__float__": value.hex()}
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    return [encode(item) for item in value]


def decode(value: Any) -> Any:
    """The inverse of `encode`; tuples come back as lists."""
    if isinstance(value, dict):
        if set(value) == {"__float__"}:
            return float.fromhex(value["__float__"])
        return {key: decode(item) for key, item in value.items()}
    return [decode(item) for item in value] if isinstance(value, list) else value
