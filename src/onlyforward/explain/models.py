"""The model that a command line names: an ONNX file, a user's function, a chat endpoint, or one on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from onlyforward.core.errors import UsageError
from onlyforward.explain.alike import Alike, chosen
from onlyforward.explain.images import RANGES, in_range, read_labels
from onlyforward.explain.scores import probabilities
from onlyforward.run.oracle import Oracle
from onlyforward.run.userfile import user_function

if TYPE_CHECKING:
    from onlyforward.explain.command import Explain

PICKLES = (".joblib", ".pkl", ".pickle")
CLEAR = 0.05
"""A clean top probability below this says that the pixels were read wrongly."""


@dataclass(frozen=True)
class Model:
    """What can be asked about a picture.

    Attributes:
        oracle: of pixels [n, channels, h, w] in 0..1, whatever range the model wants.
        size: height and width of its pictures.
        channels: 3 or 1.
        labels: names of the outputs, or None.
        chat: whether it answers in words.
        judge: of a loopback endpoint, the served classifier itself, for evaluation only.
        unclear: the oracle that reads the model's own range, where the range was not given.
        alike: how a chat endpoint's answers are compared, where n-grams are not meant.
    """

    oracle: Oracle
    size: tuple[int, int]
    channels: int = 3
    labels: list[str] | None = None
    chat: bool = False
    judge: Oracle | None = None
    unclear: Oracle | None = None
    alike: Alike | None = None


@contextmanager
def opened(options: Explain) -> Iterator[Model]:
    """The model of a command line; a loopback server lives as long as the context.

    Raises:
        UsageError: no model, or a pickle.
        FileError: a file that is no model.
    """
    name = options.model
    if not name:
        raise UsageError("No model is given", "Give --model FILE.onnx, file.py:factory, or an endpoint's address")
    if name.startswith("loopback:"):
        with loopback(options, name.partition(":")[2]) as model:
            yield model
    elif "://" in name:
        yield Model(chat(options, name), side(options, None), labels=None, chat=True, alike=chosen(options, name))
    elif name.lower().endswith(PICKLES):
        raise UsageError(
            f"{name} is a pickle, and loading one runs whatever it contains",
            "Load it in file.py and name file.py:factory",
        )
    elif name.lower().endswith(".onnx"):
        yield onnx(options, Path(name))
    elif ":" in name:
        yield from_function(options, name)
    else:
        raise UsageError(
            f"{name!r} names no model", "Give FILE.onnx, file.py:factory, https://host/v1 or loopback:FILE.onnx"
        )


def side(options: Explain, fixed: tuple[int, int] | None) -> tuple[int, int]:
    """Height and width of the pictures."""
    if options.size and fixed is not None and (options.size, options.size) != fixed:
        raise UsageError(f"The model takes {fixed[0]} x {fixed[1]} pixels", "Leave --size out")
    return fixed or (options.size or 224, options.size or 224)


def onnx(options: Explain, path: Path) -> Model:
    """A model from an ONNX file."""
    from onlyforward.run.onnx import OnnxModel

    model = OnnxModel(path, threads=options.threads, workers=options.workers, layout=options.layout)
    batch = options.batch if model.fixed_batch is None else max(1, model.fixed_batch)
    oracle = Oracle(model, batch=batch if model.fixed_batch != 1 else options.batch, identity=model.identity)
    labels = read_labels(options.labels, model.outputs) if options.labels else model.labels()
    reading = options.range if options.range != "auto" else ("0..255" if model.integer else "0..1")
    unclear = oracle if options.range == "auto" else None
    return Model(in_range(oracle, reading), side(options, model.size), model.channels, labels, unclear=unclear)


def from_function(options: Explain, reference: str) -> Model:
    """What a user's factory gives: an oracle, a torch module, or a function of rows."""
    made = user_function(reference)()
    if isinstance(made, Oracle):
        oracle = made
    elif isinstance(made, torch.nn.Module):
        oracle = Oracle.from_module(made, batch=options.batch)
    elif callable(made):
        oracle = Oracle(made, batch=options.batch)
    else:
        raise UsageError(f"{reference} gives a {type(made).__name__}", "Return a function, a torch module or an Oracle")
    reading = options.range if options.range != "auto" else "0..1"
    channels = int(getattr(made, "channels", 3))
    labels = None
    if options.labels is not None:
        size = side(options, getattr(made, "size", None))
        labels = read_labels(options.labels, oracle(torch.zeros(1, channels, *size)).shape[-1])
    return Model(in_range(oracle, reading), side(options, getattr(made, "size", None)), channels, labels)


def chat(options: Explain, url: str, **more: Any) -> Oracle:
    """A chat endpoint."""
    wants = options.score.startswith(("logprob", "choice"))
    return Oracle.from_chat(
        url,
        model=options.endpoint_model,
        question=options.question,
        secret_env=options.secret_env or None,
        usd_per_query=options.usd_per_query,
        usd_per_1k_tokens=options.usd_per_1k_tokens,
        allow_private=options.allow_private,
        concurrency=options.concurrency,
        rate=options.rate,
        logprobs=wants,
        **more,
    )


@contextmanager
def loopback(options: Explain, file: str) -> Iterator[Model]:
    """A chat endpoint on this machine around an ONNX classifier; real HTTP is sent to it."""
    from onlyforward.run.loopback import Loopback

    served = onnx(options, Path(file))
    if served.labels is None:
        raise UsageError(f"The outputs of {file} have no names to answer with", "Give --labels FILE")

    def classify(rows: Tensor) -> Tensor:
        return probabilities(served.oracle(rows))

    with Loopback(classify, served.labels) as server:
        oracle = chat(options, server.url)
        # The port changes with every start; the served model is what answers.
        oracle = replace(oracle, identity=f"loopback {served.oracle.identity} {options.question}")
        alike = chosen(options, server.url)
        yield Model(oracle, served.size, served.channels, None, chat=True, judge=served.oracle, alike=alike)


def readings(oracle: Oracle, x: Tensor) -> dict[str, float]:
    """The clean top probability under each reading of the pixels."""
    return {
        name: float(probabilities(oracle(convert(x)[None]))[0].max())
        for name, convert in RANGES.items()
        if name != "imagenet" or x.shape[0] == 3
    }
