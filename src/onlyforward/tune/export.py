"""The tuned adapter as files that stand before the closed model: safetensors, and ONNX checked in onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from onlyforward.core.checks import require
from onlyforward.core.errors import OnlyForwardError, UsageError
from onlyforward.run.checkpoint import write_atomically
from onlyforward.tune.adapters import Adapter, Affine, Chain, LowRank, Prompt

if TYPE_CHECKING:
    from collections.abc import Mapping

OPSET = 17
TOLERANCE = 1e-3
"""Largest difference between the file's images and ours, in units of pixels 0..1."""


def save_adapter(path: Path, name: str, theta: Tensor, more: Mapping[str, Tensor] | None = None) -> None:
    """Coordinates and further tensors as safetensors; the adapter's name stands in the metadata."""
    from safetensors.torch import save

    tensors = {"theta": theta.contiguous(), **{k: v.contiguous() for k, v in (more or {}).items()}}
    write_atomically(path, save(tensors, metadata={"adapter": name}))


def load_adapter(path: Path) -> tuple[str, dict[str, Tensor]]:
    """Name and tensors of `save_adapter`."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return file.metadata()["adapter"], {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


class Graph:
    """An ONNX graph in the making: one tensor flows through.

    Attributes:
        flow: name of the tensor that the last node gave.
    """

    def __init__(self, library: Any) -> None:
        self.library, self.nodes, self.constants, self.flow = library, [], [], "image"

    def constant(self, value: Tensor) -> str:
        """A float32 constant by name."""
        name = f"c{len(self.constants)}"
        array = value.detach().float().contiguous().numpy()
        self.constants.append(self.library.numpy_helper.from_array(array, name))
        return name

    def node(self, kind: str, *inputs: str, **attributes: Any) -> None:
        """Append one node that reads the flow and further inputs."""
        out = f"t{len(self.nodes)}"
        self.nodes.append(self.library.helper.make_node(kind, [self.flow, *inputs], [out], **attributes))
        self.flow = out


def extend(graph: Graph, adapter: Adapter, theta: Tensor) -> None:
    """Append an adapter at fixed coordinates [k].

    Raises:
        UsageError: an adapter whose effect depends on the image.
    """
    if isinstance(adapter, Chain):
        first = 0
        for part in adapter.parts:
            extend(graph, part, theta[first : first + len(part.start)])
            first += len(part.start)
    elif isinstance(adapter, Affine):
        affine(graph, adapter, theta)
    elif isinstance(adapter, (Prompt, LowRank)):
        blank = torch.zeros(1, *adapter.shape, dtype=torch.float64)
        graph.node("Add", graph.constant(adapter(blank, theta[None])))
    else:
        raise UsageError(f"A {type(adapter).__name__} has no fixed graph", "Take its adapter.safetensors")


def affine(graph: Graph, adapter: Affine, theta: Tensor) -> None:
    """A sampling grid for a batch of one, repeated by the graph itself, then gain and offset (or colours)."""
    c, height, width = adapter.shape
    warp = torch.eye(2, 3, dtype=torch.float64) + theta[:6].reshape(2, 3) * torch.tensor(
        [[1.0, height / width, 1.0], [width / height, 1.0, 1.0]], dtype=torch.float64
    )
    grid = F.affine_grid(warp[None], [1, c, height, width], align_corners=False)
    image = graph.flow
    # GridSample wants a grid per image: all-ones of the batch's size times the grid.
    graph.node("ReduceMean", axes=[1, 2, 3], keepdims=1)
    graph.node("Mul", graph.constant(torch.zeros(1)))
    graph.node("Add", graph.constant(grid.reshape(1, height, width, 2)))
    grids, graph.flow = graph.flow, image
    graph.node("GridSample", grids, align_corners=0, mode="bilinear", padding_mode="zeros")
    if adapter.colour:
        mix = torch.eye(c, dtype=torch.float64) + theta[6 : 6 + c * c].reshape(c, c)
        graph.node("Conv", graph.constant(mix.reshape(c, c, 1, 1)), graph.constant(theta[6 + c * c :]))
    else:
        graph.node("Mul", graph.constant(1 + theta[6:7]))
        graph.node("Add", graph.constant(theta[7:8]))


def export_onnx(path: Path, adapter: Adapter, theta: Tensor, x: Tensor) -> float:
    """Write adapter.onnx (images [n, c, h, w] in 0..1 -> images) and check it in onnxruntime on images `x`.

    Returns:
        The largest difference to our own images.

    Raises:
        OnlyForwardError: the file gives other images; it is not kept.
    """
    onnx = require("onnx", "prune")
    runtime: Any = require("onnxruntime", "onnx")
    graph = Graph(onnx)
    extend(graph, adapter, theta.double())
    c, h, w = x.shape[1:]
    value = onnx.helper.make_tensor_value_info
    made = onnx.helper.make_graph(
        graph.nodes,
        "adapter",
        [value("image", onnx.TensorProto.FLOAT, ["n", c, h, w])],
        [value(graph.flow, onnx.TensorProto.FLOAT, ["n", c, h, w])],
        graph.constants,
    )
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=9)
    onnx.checker.check_model(model)
    content = model.SerializeToString()
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {"image": x.float().numpy()})[0])
    ours = adapter(x, theta.double().expand(len(x), -1))
    difference = float((found - ours).abs().max())
    if not difference <= TOLERANCE:
        raise OnlyForwardError(f"The exported adapter differs by {difference:.2g}", "Report this; use the safetensors")
    write_atomically(path, content)
    return difference
