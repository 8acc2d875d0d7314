"""The closed model that a command line names: an ONNX file, a user's function, or an endpoint that answers scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from onlyforward.core.checks import check_choice
from onlyforward.core.errors import UsageError
from onlyforward.run.oracle import Oracle
from onlyforward.run.userfile import user_function

if TYPE_CHECKING:
    from onlyforward.tune.command import Vision

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RANGES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "0..1": lambda x: x,
    "0..255": lambda x: x * 255,
    "-1..1": lambda x: x * 2 - 1,
    "imagenet": lambda x: (x - x.new_tensor(MEAN)[:, None, None]) / x.new_tensor(STD)[:, None, None],
}
"""How a model reads pixels -> what to do with pixels in 0..1."""


@dataclass(frozen=True)
class Closed:
    """A closed image model.

    Attributes:
        oracle: of pixels in 0..1 at the data's own size.
        paid: whether questions go to an endpoint, so that they belong in a ledger.
        module: where gradients exist, for the row of backpropagation.
        notice: what was changed to make images fit, or "".
    """

    oracle: Oracle
    paid: bool = False
    module: torch.nn.Module | None = None
    notice: str = ""


class Prepared:
    """A model behind what its images need: channels, size, range of pixels.

    Args:
        ask: the model.
        channels: it takes.
        size: height and width it takes, or None for any.
        reading: a name in RANGES.
    """

    def __init__(
        self, ask: Callable[[Tensor], Any], channels: int | None, size: tuple[int, int] | None, reading: str
    ) -> None:
        self.ask, self.channels, self.size = ask, channels, size
        self.convert = RANGES[check_choice(reading, RANGES, name="range")]
        self.answers_payload = getattr(ask, "payload", None)

    def rows(self, x: Tensor) -> Tensor:
        """Images [n, c, h, w] in 0..1 as the model takes them."""
        if self.channels is not None and x.shape[1] != self.channels:
            x = x.mean(1, keepdim=True) if self.channels == 1 else x[:, :1].expand(-1, self.channels, -1, -1)
        if self.size is not None and tuple(x.shape[2:]) != self.size:
            x = F.interpolate(x, size=self.size, mode="bilinear", align_corners=False)
        return self.convert(x)

    def payload(self, row: Tensor) -> bytes:
        """What is sent for a row, for the ledger's key."""
        made = self.rows(row[None])[0]
        return bytes(self.answers_payload(made)) if self.answers_payload else made.contiguous().numpy().tobytes()

    def __call__(self, x: Tensor) -> Any:
        """Answers to images [n, c, h, w]."""
        return self.ask(self.rows(x))


@contextmanager
def opened(options: Vision, shape: tuple[int, int, int]) -> Iterator[Closed]:
    """The model of a command line for images of a shape; a loopback endpoint lives as long as the context.

    Raises:
        UsageError: no model, or a name that is none.
        FileError: a file that is no model.
    """
    name = options.model
    if not name:
        raise UsageError("No model is given", "Give --model FILE.onnx, file.py:factory or an endpoint's address")
    if name.startswith("loopback:"):
        from onlyforward.tune.endpoint import ScoreServer

        served = onnx(options, Path(name.partition(":")[2]), shape).oracle
        with ScoreServer(lambda rows: served(rows)) as server:
            closed = endpoint(options, server.url)
            # The port changes with every start; the served model is what answers.
            yield replace(closed, oracle=replace(closed.oracle, identity=f"loopback {served.identity}"))
    elif "://" in name:
        yield endpoint(options, name)
    elif name.lower().endswith(".onnx"):
        yield onnx(options, Path(name), shape)
    elif ":" in name:
        yield from_function(options, name, shape)
    else:
        raise UsageError(f"{name!r} names no model", "Give FILE.onnx, file.py:factory, https://host/path")


def fitted(shape: tuple[int, int, int], channels: int | None, size: tuple[int, int] | None) -> str:
    """What must be done to images of a shape, in words."""
    parts = []
    if channels is not None and channels != shape[0]:
        parts.append(f"{shape[0]} to {channels} channels")
    if size is not None and size != shape[1:]:
        parts.append(f"{shape[1]} x {shape[2]} to {size[0]} x {size[1]} pixels")
    return f"images are resized from {' and '.join(parts)}" if parts else ""


def onnx(options: Vision, path: Path, shape: tuple[int, int, int]) -> Closed:
    """A model from an ONNX file; it reads 0..255 unless --range says otherwise."""
    from onlyforward.run.onnx import OnnxModel

    model = OnnxModel(path, threads=options.threads)
    size = model.size or ((options.size, options.size) if options.size else None)
    reading = "0..255" if options.range == "auto" else options.range
    ask = Prepared(model, model.channels, size, reading)
    identity = f"{model.identity} {reading} {size}"
    return Closed(Oracle(ask, batch=256, identity=identity), notice=fitted(shape, model.channels, size))


def from_function(options: Vision, reference: str, shape: tuple[int, int, int]) -> Closed:
    """What a user's factory gives: a torch module, an Oracle, or a function of rows; it reads 0..1."""
    made = user_function(reference)()
    size = (options.size, options.size) if options.size else getattr(made, "size", None)
    channels = getattr(made, "channels", None)
    reading = "0..1" if options.range == "auto" else options.range
    module = made if isinstance(made, torch.nn.Module) else None
    if module is not None:
        inner = Oracle.from_module(module, batch=256)
    elif isinstance(made, Oracle):
        inner = made
    elif callable(made):
        inner = Oracle(made, batch=256)
    else:
        raise UsageError(f"{reference} gives a {type(made).__name__}", "Return a function, a torch module or an Oracle")
    oracle = replace(inner, ask=Prepared(inner.ask, channels, size, reading))
    return Closed(oracle, module=module, notice=fitted(shape, channels, size))


def endpoint(options: Vision, url: str) -> Closed:
    """An endpoint that takes {"image": pixels} and answers {"scores": numbers}; see `tune.endpoint`."""
    reading = "0..1" if options.range == "auto" else options.range
    oracle = Oracle.from_http(
        url,
        encode=lambda row: {"image": row.tolist()},
        decode=lambda answer: answer["scores"],
        secret_env=options.secret_env or None,
        usd_per_query=options.usd_per_query,
        allow_private=options.allow_private,
        concurrency=options.concurrency,
    )
    size = (options.size, options.size) if options.size else None
    return Closed(replace(oracle, ask=Prepared(oracle.ask, None, size, reading)), paid=True)
