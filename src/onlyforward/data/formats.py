"""Data sets in a user's own files: IDX quartets, NPZ arrays, JPEG archives and graphs, checked record by record."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from onlyforward.core.checks import require
from onlyforward.core.errors import FileError
from onlyforward.data.sets import Dataset, split_rows

if TYPE_CHECKING:
    from torch import Tensor

LIMIT = 2048 * 2**20
"""Bytes that one file may declare before it is refused."""


def read_path(path: Path, *, seed: int, limit: int | None = None, test_limit: int | None = None) -> Dataset:
    """The data set in a file or folder, its kind told by what it holds.

    Raises:
        FileError: the kind is unknown, or the file is broken; the message names file and record.
    """
    if path.is_dir():
        return read_jpeg_folder(path, limit, test_limit) if list(path.glob("*jpeg*.npz")) else read_idx_folder(path)
    name = path.name.removesuffix(".gz")
    if name.endswith((".csv", ".tsv")):
        from onlyforward.data.texts import read_text_file

        return read_text_file(path, seed)
    if path.suffix != ".npz":
        raise FileError(
            f"{path} is of an unknown kind", "Give an NPZ, CSV or TSV file, or a folder with four IDX files"
        )
    keys = set(archive_keys(path))
    if {"x_indptr", "edges"} <= keys:
        return read_graph(path)
    if {"jpeg", "offsets", "labels"} <= keys:
        total = None if limit is None else 4 * (limit + (test_limit or limit))
        x, y, labels = read_jpeg_archive(path, total)
        return divided(path, x, y, labels, seed)
    return read_arrays(path, keys, seed)


# IDX -----------------------------------------------------------------------------------------------------------------


def read_idx(path: Path) -> np.ndarray:
    """One IDX file of unsigned bytes, gzip or plain; never reads more than the size it declares.

    Raises:
        FileError: not IDX, another element type, too large, or shorter or longer than declared.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or not 1 <= head[3] <= 4:
                raise FileError(f"{path} is no IDX file: it begins with {head.hex() or 'nothing'}", "Fetch it again")
            if head[2] != 8:
                raise FileError(f"{path} holds elements of IDX type {head[2]:#x}", "Only unsigned bytes (0x8) are read")
            shape = np.frombuffer(file.read(4 * head[3]), dtype=">u4").astype(np.int64)
            size = int(shape.astype(object).prod()) if len(shape) == head[3] else LIMIT + 1
            if size > LIMIT:
                raise FileError(f"{path} declares a shape of {shape.tolist()}", f"At most {LIMIT} bytes are read")
            body = file.read(size + 1)
    except (OSError, EOFError, gzip.zlib.error) as error:  # type: ignore[attr-defined]
        raise FileError(f"{path} cannot be read: {error}", "Fetch it again") from error
    if len(body) != size:
        row = len(body) // max(1, size // max(1, int(shape[0])))
        more = "more" if len(body) > size else "fewer"
        raise FileError(
            f"{path} holds {more} bytes than the {size} it declares, record {min(row, int(shape[0]))} is the first bad",
            "Fetch it again",
        )
    return np.frombuffer(body, dtype=np.uint8).reshape(shape)


def read_idx_folder(folder: Path) -> Dataset:
    """The four IDX files of a folder: train-images, train-labels, t10k-images (or test-images) and their labels."""
    found: dict[str, np.ndarray] = {}
    for part in ("train", "test"):
        for what in ("images", "labels"):
            names = [f"{stem}-{what}*" for stem in (("t10k", "test") if part == "test" else ("train",))]
            files = sorted(file for pattern in names for file in folder.glob(pattern))
            if not files:
                raise FileError(f"{folder} has no file {names[0]}", "Put the four IDX files of the set there")
            found[f"{part}-{what}"] = read_idx(files[0])
    tensors: dict[str, Tensor] = {}
    for part in ("train", "test"):
        images, labels = found[f"{part}-images"], found[f"{part}-labels"]
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
            raise FileError(
                f"{folder}: {part} images have shape {images.shape} and labels {labels.shape}",
                "Give images [n, height, width] and labels [n]",
            )
        tensors[f"x_{part}"] = torch.from_numpy(images.astype(np.float32)[:, None] / 255)
        tensors[f"y_{part}"] = torch.from_numpy(labels.astype(np.int64))
    return finished(folder, "image", tensors)


# NPZ -----------------------------------------------------------------------------------------------------------------


def archive_keys(path: Path) -> list[str]:
    """The names of an NPZ file's arrays; declared sizes are checked before anything is read."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            size = sum(member.file_size for member in members)
    except (OSError, zipfile.BadZipFile) as error:
        raise FileError(f"{path} is no NPZ file: {error}", "Write it with numpy.savez") from error
    if size > LIMIT:
        raise FileError(f"{path} declares {size} bytes", f"At most {LIMIT} bytes are read")
    return [member.filename.removesuffix(".npy") for member in members]


def arrays(path: Path, *names: str) -> list[np.ndarray]:
    """Named arrays of an NPZ file, without pickles."""
    known = archive_keys(path)
    missing = [name for name in names if name not in known]
    if missing:
        raise FileError(f"{path} has no array {missing[0]!r}, only {', '.join(known)}", "Add it with numpy.savez")
    found = []
    with np.load(path, allow_pickle=False) as archive:
        for name in names:
            try:
                found.append(archive[name])
            except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
                raise FileError(
                    f"{path}: the array {name!r} cannot be read: {error}", "Save numbers, not objects"
                ) from error
    return found


def read_arrays(path: Path, keys: set[str], seed: int) -> Dataset:
    """An NPZ with x and y, or with x_train, y_train, x_test, y_test."""
    names = ("x_train", "y_train", "x_test", "y_test")
    if keys >= set(names):
        found = dict(zip(names, arrays(path, *names)))
        kinds = set()
        tensors = {}
        for part in ("train", "test"):
            kind, tensors[f"x_{part}"] = as_inputs(path, f"x_{part}", found[f"x_{part}"])
            tensors[f"y_{part}"] = as_labels(path, f"y_{part}", found[f"y_{part}"], len(found[f"x_{part}"]))
            kinds.add(kind)
        if tensors["x_train"].shape[1:] != tensors["x_test"].shape[1:]:
            raise FileError(f"{path}: x_train and x_test differ in the shape of a datum", "Give both the same shape")
        return finished(path, kinds.pop(), tensors)
    if not keys >= {"x", "y"}:
        raise FileError(
            f"{path} holds {', '.join(sorted(keys)) or 'nothing'}", f"Give arrays x and y, or {', '.join(names)}"
        )
    x, y = arrays(path, "x", "y")
    kind, inputs = as_inputs(path, "x", x)
    return divided(path, inputs, as_labels(path, "y", y, len(x)), (), seed, kind)


def as_inputs(path: Path, name: str, x: np.ndarray) -> tuple[str, Tensor]:
    """Inputs as float32: [n, d] is a table; [n, h, w], [n, h, w, c] and [n, c, h, w] are images; bytes become 0..1."""
    if x.dtype.kind not in "uifb" or x.ndim not in (2, 3, 4) or not len(x):
        raise FileError(
            f"{path}: {name} has dtype {x.dtype} and shape {x.shape}",
            "Give numbers of shape [n, features], [n, height, width] or [n, height, width, channels]",
        )
    values = x.astype(np.float32) / (255 if x.dtype == np.uint8 else 1)
    bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(1))
    if len(bad):
        raise FileError(f"{path}: record {bad[0]} of {name} is not finite", "Remove it or fill its gaps")
    if values.ndim == 3:
        values = values[:, None]
    elif values.ndim == 4 and values.shape[3] in (1, 3) and values.shape[1] not in (1, 3):
        values = values.transpose(0, 3, 1, 2)
    return ("table" if values.ndim == 2 else "image"), torch.from_numpy(np.ascontiguousarray(values))


def as_labels(path: Path, name: str, y: np.ndarray, count: int) -> Tensor:
    """Integer labels [n], -1 for unlabelled data."""
    if y.dtype.kind not in "ui" or y.shape != (count,):
        raise FileError(f"{path}: {name} has dtype {y.dtype} and shape {y.shape}", f"Give integers of shape [{count}]")
    labels = y.astype(np.int64)
    bad = np.flatnonzero((labels < -1) | (labels >= 10_000))
    if len(bad):
        raise FileError(
            f"{path}: record {bad[0]} of {name} is {labels[bad[0]]}", "Labels run from 0 (-1: unlabelled) to 9999"
        )
    return torch.from_numpy(labels)


# JPEG ----------------------------------------------------------------------------------------------------------------


def read_jpeg_archive(path: Path, limit: int | None = None) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """The first `limit` images of a JPEG archive: x [n, 3, h, w] in 0..1, y [n], and class names where it has them."""
    image = require("PIL.Image", "data")
    if not path.is_file():
        raise FileError(f"There is no file {path}", "See the data set's README for its files")
    jpeg, offsets, stored = arrays(path, "jpeg", "offsets", "labels")
    labels = as_labels(path, "labels", stored, len(stored))
    if offsets.shape != (len(labels) + 1,) or (np.diff(offsets) <= 0).any() or offsets[-1] > len(jpeg):
        raise FileError(f"{path}: offsets do not fit {len(labels)} labels and {len(jpeg)} bytes", "Pack it again")
    count = len(labels) if limit is None else min(limit, len(labels))
    images: np.ndarray | None = None
    for row in range(count):
        try:
            opened = image.open(io.BytesIO(jpeg[offsets[row] : offsets[row + 1]].tobytes()), formats=("JPEG",))
            if opened.size[0] * opened.size[1] * count * 12 > LIMIT:
                raise ValueError(f"{opened.size[0]}x{opened.size[1]} pixels are too many")
            pixels = np.asarray(opened.convert("RGB"))
            if images is None:
                images = np.empty((count, *pixels.shape), dtype=np.uint8)
            images[row] = pixels
        except (OSError, ValueError, SyntaxError, image.DecompressionBombError) as error:
            raise FileError(
                f"{path}: record {row} is no JPEG image of the common size: {error}", "Pack it again"
            ) from error
    if images is None:
        raise FileError(f"{path} holds no image", "Pack it again")
    names = tuple(map(str, arrays(path, "class_names")[0])) if "class_names" in archive_keys(path) else ()
    x = torch.from_numpy(images).permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    return x.div_(255), labels[:count], names


def read_jpeg_folder(folder: Path, limit: int | None, test_limit: int | None) -> Dataset:
    """A folder with one JPEG archive for training and one for testing."""
    parts: dict[str, Tensor] = {}
    names: tuple[str, ...] = ()
    for part, count in (("train", limit), ("test", test_limit)):
        files = sorted(folder.glob(f"*{part}*jpeg*.npz"))
        if not files:
            raise FileError(
                f"{folder} has no file *{part}*jpeg*.npz", "Give one archive for training and one for testing"
            )
        parts[f"x_{part}"], parts[f"y_{part}"], names = read_jpeg_archive(files[0], count)
    return finished(folder, "image", parts, names)


# Graphs --------------------------------------------------------------------------------------------------------------


def read_graph(path: Path) -> Dataset:
    """A graph NPZ: CSR features x_indptr, x_indices, x_data, x_shape, labels, edges, train_idx, val_idx, test_idx."""
    if not path.is_file():
        raise FileError(f"There is no file {path}", "See the data set's README for its files")
    starts, columns, values, shape, stored, edges = arrays(
        path, "x_indptr", "x_indices", "x_data", "x_shape", "labels", "edges"
    )
    nodes, features = (int(size) for size in shape)
    if (
        nodes * features * 4 > LIMIT
        or len(starts) != nodes + 1
        or len(columns) != len(values)
        or starts[-1] != len(values)
    ):
        raise FileError(f"{path}: the CSR arrays do not fit {nodes} nodes and {features} features", "Write it again")
    if len(columns) and (columns.min() < 0 or columns.max() >= features):
        raise FileError(f"{path}: x_indices go beyond {features} features", "Write it again")
    if edges.ndim != 2 or edges.shape[1] != 2 or (len(edges) and (edges.min() < 0 or edges.max() >= nodes)):
        bad = np.flatnonzero((edges < 0).any(-1) | (edges >= nodes).any(-1)) if edges.ndim == 2 else [0]
        raise FileError(
            f"{path}: edge {int(bad[0]) if len(bad) else 0} does not join two of the {nodes} nodes", "Mend it"
        )
    x = np.zeros((nodes, features), dtype=np.float32)
    x[np.repeat(np.arange(nodes), np.diff(starts)), columns] = values
    x /= np.maximum(x.sum(1, keepdims=True), 1e-12)
    labels = as_labels(path, "labels", stored, nodes)
    masks = {}
    for part, name in (("train", "train_idx"), ("validation", "val_idx"), ("test", "test_idx")):
        rows = arrays(path, name)[0]
        if rows.ndim != 1 or rows.dtype.kind not in "ui" or (len(rows) and not 0 <= rows.min() <= rows.max() < nodes):
            raise FileError(f"{path}: {name} does not name nodes 0 to {nodes - 1}", "Write it again")
        mask = torch.zeros(nodes, dtype=torch.bool)
        mask[torch.from_numpy(rows.astype(np.int64))] = True
        masks[part] = mask & (labels >= 0)
    one_way = torch.from_numpy(edges.astype(np.int64)).T
    classes = int(labels.max()) + 1
    features_of = torch.from_numpy(x)
    return Dataset(
        path.stem,
        "graph",
        features_of,
        labels,
        features_of,
        labels,
        classes,
        tuple(str(k) for k in range(classes)),
        str(path),
        edge_index=torch.cat([one_way, one_way.flip(0)], dim=1),
        masks=masks,
    )


# Common --------------------------------------------------------------------------------------------------------------


def divided(path: Path, x: Tensor, y: Tensor, labels: tuple[str, ...], seed: int, kind: str = "image") -> Dataset:
    """A data set from one block of data, split 75/25 by `seed`."""
    train, test = split_rows(len(y), seed)
    parts = {"x_train": x[train], "y_train": y[train], "x_test": x[test], "y_test": y[test]}
    return finished(path, kind, parts, labels)


def finished(path: Path, kind: str, parts: dict[str, Tensor], labels: tuple[str, ...] = ()) -> Dataset:
    """Leave unlabelled data out, count the classes, and name them."""
    for part in ("train", "test"):
        known = parts[f"y_{part}"] >= 0
        if not bool(known.any()):
            raise FileError(f"{path}: the {part} part has no labelled datum", "Label some data")
        if not bool(known.all()):
            parts[f"x_{part}"], parts[f"y_{part}"] = parts[f"x_{part}"][known], parts[f"y_{part}"][known]
    classes = 1 + max(int(parts["y_train"].max()), int(parts["y_test"].max()))
    names = labels if len(labels) >= classes else tuple(str(k) for k in range(classes))
    return Dataset(path.stem, kind, **parts, classes=len(names), labels=names, source=str(path))  # type: ignore[arg-type]
