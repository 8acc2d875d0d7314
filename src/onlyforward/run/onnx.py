"""ONNX files as black boxes: one thread a session, input name, layout, size and type read from the graph."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from onlyforward.core.checks import require
from onlyforward.core.errors import FileError

TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(float16)": np.float16,
}


class OnnxModel:
    """A classifier in an ONNX file: rows [n, 3, h, w] (or as the graph wants them) -> scores [n, c].

    Args:
        path: the file; external data is refused, because the session is made from its bytes.
        threads: intra-operator threads; two on a busy two-core machine halve the throughput.
        workers: threads that share the rows of a call.
        layout: nchw, nhwc, or auto, by where the graph has one or three channels.

    Raises:
        FileError: not readable, no ONNX model, or more than one input.
    """

    def __init__(self, path: Path, *, threads: int = 1, workers: int = 1, layout: str = "auto") -> None:
        runtime: Any = require("onnxruntime", "onnx")
        try:
            content = path.read_bytes()
        except OSError as error:
            raise FileError(f"{path} cannot be read: {error.strerror}", "Check the name") from error
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            self.session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            reason = str(error).splitlines()[0][:160]
            raise FileError(f"{path} is no ONNX model that can be run: {reason}", "Export it as one file") from error
        inputs = self.session.get_inputs()
        if len(inputs) != 1:
            raise FileError(f"{path} has {len(inputs)} inputs", "Only models with one input can be explained")
        self.path = path
        self.identity = sha256(content).hexdigest()
        self.name, self.shape, self.type = inputs[0].name, inputs[0].shape, TYPES.get(inputs[0].type)
        if self.type is None:
            raise FileError(f"{path} takes {inputs[0].type}", "Only float and uint8 inputs are known")
        if not self.shape:
            raise FileError(f"{path} does not say the rank of its input", "Export it with a shape")
        self.fixed_batch = self.shape[0] if isinstance(self.shape[0], int) else None
        self.integer = self.type is np.uint8
        last = len(self.shape) == 4 and self.shape[3] in (1, 3) and self.shape[1] not in (1, 3)
        self.layout = layout if layout != "auto" else "nhwc" if last else "nchw"
        self.pool = ThreadPoolExecutor(workers) if workers > 1 else None
        self.workers = workers

    @property
    def channels(self) -> int:
        """Of its pictures: 1 or 3."""
        found = self.shape[3 if self.layout == "nhwc" else 1] if len(self.shape) == 4 else 3
        return 1 if found == 1 else 3

    @property
    def outputs(self) -> int:
        """Scores of a row; 0 where the graph does not say."""
        shape = self.session.get_outputs()[0].shape
        return shape[-1] if shape and isinstance(shape[-1], int) else 0

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width, where the graph fixes them."""
        if len(self.shape) != 4:
            return None
        pair = self.shape[1:3] if self.layout == "nhwc" else self.shape[2:4]
        return (pair[0], pair[1]) if all(isinstance(n, int) for n in pair) else None

    def labels(self) -> list[str] | None:
        """Names of the outputs from a `*labels*.txt` beside the model whose lines count as many as the outputs."""
        for candidate in sorted(self.path.parent.glob("*labels*.txt")):
            lines = candidate.read_text(encoding="utf-8", errors="replace").splitlines()
            if len(lines) == self.outputs:
                return [line.strip() for line in lines]
        return None

    def __call__(self, rows: Tensor) -> NDArray[Any]:
        """Scores [n, c] of rows [n, 3, h, w]."""
        batch = rows.movedim(1, -1) if self.layout == "nhwc" and rows.ndim == 4 else rows
        values = batch.numpy()
        if self.integer:
            values = values.round().clip(0, 255)
        array = np.ascontiguousarray(values, dtype=self.type)
        if self.pool is None or len(array) == 1:
            return self.run(array)
        return np.concatenate(list(self.pool.map(self.run, np.array_split(array, min(self.workers, len(array))))))

    def run(self, array: NDArray[Any]) -> NDArray[Any]:
        """One call of the session, or one a row where the graph takes no batches."""
        if self.fixed_batch == 1 and len(array) > 1:
            return np.concatenate([self.session.run(None, {self.name: row[None]})[0] for row in array])
        found: NDArray[Any] = self.session.run(None, {self.name: array})[0]
        return found.reshape(len(array), -1)
