"""What is in a user's file, and is it safe: kinds are told by content, sizes are checked before memory is taken.

Nothing in a file is ever executed: arrays of objects and pickles are refused, state dicts load with weights_only.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import tomllib
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from onlyforward.core.checks import require
from onlyforward.core.errors import FileError

MB = 2**20
LARGEST_TEXT = 64 * MB
DEEPEST = 64
IDX_TYPES = {0x08: 1, 0x09: 1, 0x0B: 2, 0x0C: 4, 0x0D: 4, 0x0E: 8}
"""Element type of an IDX file -> bytes."""


@dataclass(frozen=True)
class Examined:
    """A file that can be read.

    Attributes:
        kind: what it is.
        shape: sizes and types, for people.
        command: which commands take it.
    """

    kind: str
    shape: str
    command: str


def examine(path: Path, *, max_mb: int = 2048) -> Examined:
    """Tell a file's kind by its first bytes and read enough of it to know that all of it is sound.

    Args:
        path: a file or a run's folder.
        max_mb: largest size in memory that it may ask for.

    Raises:
        FileError: missing, empty, unknown, broken, too large, or unsafe.
    """
    if path.is_dir():
        return examine_folder(path)
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}", "Check the name and the rights") from error
    if not head:
        raise FileError(f"{path} is empty", "Give a file with content")
    return reader_of(path, head)(path, max_mb * MB)


def reader_of(path: Path, head: bytes) -> Callable[[Path, int], Examined]:
    """The reader that a file's first bytes, or else its name, ask for."""
    name = path.name.lower().removesuffix(".gz")
    if head.startswith(b"PK\x03\x04"):
        return examine_npz if name.endswith(".npz") else examine_state_dict
    if head.startswith(b"\x93NUMPY"):
        return examine_npy
    if head.startswith((b"\x89PNG", b"\xff\xd8\xff")):
        return examine_image
    if name.endswith("ubyte") or "idx" in name or (head[:2] == b"\0\0" and len(head) > 4 and head[2] in IDX_TYPES):
        return examine_idx
    by_name = {
        ".onnx": examine_onnx,
        ".safetensors": examine_safetensors,
        ".json": examine_json,
        ".toml": examine_toml,
        ".csv": examine_table,
        ".tsv": examine_table,
        ".npz": examine_npz,
        ".npy": examine_npy,
        ".png": examine_image,
        ".jpg": examine_image,
        ".jpeg": examine_image,
        ".pt": examine_state_dict,
        ".pth": examine_state_dict,
        ".th": examine_state_dict,
        ".txt": examine_numbers,
    }
    for ending, reader in by_name.items():
        if name.endswith(ending):
            return reader
    if head[:1] == b"\x80":
        raise FileError(f"{path} is a pickle, which can execute code", "Save it as safetensors, NPZ or CSV instead")
    raise FileError(
        f"{path} is of an unknown kind", f"Known are {', '.join(sorted(by_name))}, IDX files and run folders"
    )


def examine_folder(path: Path) -> Examined:
    """A run's folder."""
    if not (path / "run.json").is_file():
        raise FileError(f"{path} is a folder without a run", "Give a file, or the --out folder of a run")
    from onlyforward.run.folder import read_description

    finished = (path / "result.json").is_file()
    return Examined("run folder", read_description(path)["command"], "report" if finished else "resume")


def array_header(file: IO[bytes], where: str) -> tuple[tuple[int, ...], Any]:
    """Shape and dtype that an NPY stream declares; object arrays are refused."""
    import numpy

    try:
        version = numpy.lib.format.read_magic(file)
        read = numpy.lib.format.read_array_header_1_0 if version == (1, 0) else numpy.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    except (ValueError, EOFError, SyntaxError) as error:
        raise FileError(f"{where} has a broken NPY header", "Write the file again") from error
    if dtype.hasobject:
        raise FileError(f"{where} holds Python objects, which can execute code", "Save numbers or text, not objects")
    return shape, dtype


def examine_npy(path: Path, limit: int) -> Examined:
    """One array: declared size against the limit and against the real length."""
    with path.open("rb") as file:
        shape, dtype = array_header(file, str(path))
        declared = math.prod(shape) * dtype.itemsize
        check_size(path, declared, limit)
        real = path.stat().st_size - file.tell()
    if real != declared:
        raise FileError(f"{path} declares {declared} bytes and holds {real}", "Copy or write the file again")
    return Examined("NPY array", f"{list(shape)} {dtype}", "detect, explain")


def examine_npz(path: Path, limit: int) -> Examined:
    """Arrays by name; declared sizes first, then every byte is decompressed in small pieces and checked."""
    parts = []
    try:
        with zipfile.ZipFile(path) as archive:
            check_size(path, sum(item.file_size for item in archive.infolist()), limit)
            for item in archive.infolist():
                where = f"{path}: {item.filename}"
                with archive.open(item) as file:
                    shape, dtype = array_header(file, where)
                    left = math.prod(shape) * dtype.itemsize
                    while left > 0 and (block := file.read(min(left, MB))):
                        left -= len(block)
                    if left or file.read(1):
                        raise FileError(f"{where} has another length than it declares", "Write the file again")
                parts.append(f"{item.filename.removesuffix('.npy')} {list(shape)} {dtype}")
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError) as error:
        raise FileError(f"{path} is a broken archive: {error}", "Copy or write the file again") from error
    return Examined("NPZ arrays", "; ".join(parts), "train fit --data, prune run --data")


def examine_idx(path: Path, limit: int) -> Examined:
    """IDX, plain or gzip: never more is decompressed than the header declares."""
    opener: Any = gzip.open if path.name.endswith(".gz") else open
    try:
        with opener(path, "rb") as file:
            magic = file.read(4)
            if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in IDX_TYPES or not 1 <= magic[3] <= 8:
                raise FileError(
                    f"{path} is no IDX file", "Its first bytes must be 0, 0, a type and a number of dimensions"
                )
            sizes = file.read(4 * magic[3])
            shape = [int.from_bytes(sizes[i : i + 4], "big") for i in range(0, len(sizes), 4)]
            declared = math.prod(shape) * IDX_TYPES[magic[2]]
            check_size(path, declared, limit)
            left = declared
            while left > 0 and (block := file.read(min(left, MB))):
                left -= len(block)
            longer = bool(file.read(1))
    except (OSError, EOFError, gzip.BadGzipFile) as error:
        raise FileError(f"{path} is cut off or damaged", "Download or copy the file again") from error
    if left or longer or len(shape) != magic[3]:
        raise FileError(f"{path} has {'more' if longer else 'fewer'} bytes than its header declares", "Copy it again")
    return Examined("IDX array", str(shape), "train fit --data (a folder of four)")


def examine_image(path: Path, limit: int) -> Examined:
    """PNG or JPEG, decoded; pixels are limited before."""
    image_module = require("PIL.Image", "data")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with image_module.open(path) as image:
                check_size(path, image.width * image.height * 4, limit)
                image.load()
                return Examined(f"{image.format} image", f"{image.width} x {image.height} {image.mode}", "explain")
    except FileError:
        raise
    except Exception as error:
        raise FileError(f"{path} is a broken image: {error}", "Open and save it again with an image editor") from error


def examine_onnx(path: Path, limit: int) -> Examined:
    """Inputs and outputs of a graph; it is loaded from bytes, so no file outside can be pulled in."""
    runtime = require("onnxruntime", "onnx")
    check_size(path, path.stat().st_size, limit)
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = runtime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        reason = str(error).splitlines()[0][:200]
        raise FileError(f"{path} is no ONNX model that can be run: {reason}", "Export it again, as one file") from error
    ends = [f"{end.name} {end.shape}" for end in (*session.get_inputs(), *session.get_outputs())]
    return Examined("ONNX model", "; ".join(ends), "explain --model, tune vision --model")


def examine_safetensors(path: Path, limit: int) -> Examined:
    """Named tensors."""
    from safetensors import SafetensorError, safe_open

    check_size(path, path.stat().st_size, limit)
    try:
        with safe_open(path, framework="numpy") as file:
            names = list(file.keys())
            parts = [f"{name} {file.get_slice(name).get_shape()}" for name in names[:4]]
    except (SafetensorError, OSError) as error:
        raise FileError(f"{path} is a broken safetensors file: {error}", "Copy or write the file again") from error
    return Examined("safetensors", f"{len(names)} tensors: {', '.join(parts)}", "train adapt --weights, prune model")


def examine_state_dict(path: Path, limit: int) -> Examined:
    """A torch state dict, loaded with weights_only: code in it is refused, not run."""
    import pickle

    import torch

    check_size(path, path.stat().st_size, limit)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = (
            "it holds more than tensors" if isinstance(error, pickle.UnpicklingError) else "it is cut off or damaged"
        )
        raise FileError(f"{path} is refused: {reason}", "Save a state dict, or better safetensors") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict):
        raise FileError(f"{path} holds no state dict", "Save module.state_dict()")
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    total = sum(value.numel() for value in tensors.values())
    return Examined(
        "torch state dict", f"{len(tensors)} tensors, {total:,} numbers", "train adapt --weights, prune model"
    )


def examine_table(path: Path, limit: int) -> Examined:
    """CSV or TSV: encoding, columns, and the first row that does not fit."""
    pandas = require("pandas", "data")
    size = declared_gzip_size(path) if path.name.endswith(".gz") else path.stat().st_size
    check_size(path, size, limit)
    try:
        table = pandas.read_csv(path, sep=None, engine="python", nrows=100_000)
    except UnicodeDecodeError as error:
        raise FileError(f"{path} is not UTF-8 text at byte {error.start}", "Save it as UTF-8") from error
    except (ValueError, OSError, EOFError) as error:
        raise FileError(f"{path} is no table: {' '.join(str(error).split())}", "Mend that row") from error
    columns = ", ".join(f"{name} ({kind})" for name, kind in list(table.dtypes.items())[:12])
    return Examined("table", f"{len(table)} rows; {columns}", "schedule solve, detect fit --csv, decide plan --csv")


def declared_gzip_size(path: Path) -> int:
    """The uncompressed size modulo 2^32 that a gzip file declares in its last four bytes."""
    with path.open("rb") as file:
        file.seek(-4, io.SEEK_END)
        return int.from_bytes(file.read(4), "little")


def examine_numbers(path: Path, limit: int) -> Examined:
    """A text of numbers, as scheduling instances are."""
    check_size(path, path.stat().st_size, min(limit, LARGEST_TEXT))
    try:
        words = path.read_text(encoding="utf-8").split()
        numbers = [float(word) for word in words]
    except (UnicodeDecodeError, ValueError) as error:
        raise FileError(f"{path} is no text of numbers: {error}", "Give numbers separated by blanks") from error
    return Examined("numbers", f"{len(numbers)} numbers", "schedule solve --format orlib or geiger")


def examine_json(path: Path, limit: int) -> Examined:
    """JSON of limited size and depth."""
    return examine_document(path, limit, json.loads, "JSON")


def examine_toml(path: Path, limit: int) -> Examined:
    """TOML of limited size and depth."""
    return examine_document(path, limit, tomllib.loads, "TOML")


def examine_document(path: Path, limit: int, parse: Callable[[str], Any], kind: str) -> Examined:
    """A parsed document with its top-level names."""
    check_size(path, path.stat().st_size, min(limit, LARGEST_TEXT))
    try:
        found = parse(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path} is no {kind}: {error}", "Mend it there") from error
    if depth(found) > DEEPEST:
        raise FileError(f"{path} is nested deeper than {DEEPEST} levels", "Flatten it")
    names = ", ".join(map(str, list(found)[:8])) if isinstance(found, dict) else f"{len(found)} items"
    return Examined(kind, names, "--config, --plan")


def depth(value: Any) -> int:
    """How deep containers are nested."""
    level, layer = 0, [value]
    while layer and level <= DEEPEST:
        children = [
            list(item.values()) if isinstance(item, dict) else item for item in layer if isinstance(item, dict | list)
        ]
        layer = [item for child in children for item in child]
        level += 1
    return level


def check_size(path: Path, declared: int, limit: int) -> None:
    """Refuse what would not fit before any memory is taken."""
    if declared > limit:
        raise FileError(
            f"{path} asks for {declared / MB:,.0f} MB of memory", f"Raise --max-mb above {limit // MB} if you trust it"
        )
