"""`prune report` and `prune shrink`: what a model's weights do, and the model without those that do nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from onlyforward.data.sets import load
from onlyforward.prune.counting import batch_of, cost, speedup
from onlyforward.prune.inspection import inspect
from onlyforward.prune.manifest import export_onnx, load_shrunk, save_shrunk
from onlyforward.prune.masks import minimum_weights
from onlyforward.prune.models import example_of, factory_of, load_model
from onlyforward.prune.shrink import difference, shrink
from onlyforward.prune.study import FOLDERS

if TYPE_CHECKING:
    from onlyforward.prune.command import Report, Shrink
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result


def report(options: Report, context: Context) -> Result:
    """What every layer keeps and what of it lies on a path."""
    model = load_model(options.file, options.arch)
    data = load(FOLDERS.get(options.data, options.data), limit=8, test_limit=8) if options.data else None
    example = example_of(model, options.example, data, lambda x: x)
    found = inspect(model, example)
    result = context.result(question=f"What do the weights of {options.file.name} do?")
    rows = [
        [
            layer.name,
            layer.weights,
            layer.nonzero,
            layer.live,
            layer.nonzero - layer.live,
            layer.entropy,
            layer.live_units,
            layer.units,
        ]
        for layer in found.layers
    ]
    columns = ["layer", "weights", "kept", "live", "dead", "share entropy", "live units", "units"]
    note = (
        "live: on a path from input to output. dead: kept for nothing (a tap of a kernel that sees only padding is "
        "dead too). share entropy: 1 is an even spread of the flow over the layer's living weights, 0 a single one."
    )
    result.table("Layers", columns, rows, note)
    places = [float(k) for k in range(len(found.layers))]
    for label, values in (
        ("kept", [layer.nonzero / layer.weights for layer in found.layers]),
        ("live", [layer.live / layer.weights for layer in found.layers]),
        ("dead", [(layer.nonzero - layer.live) / layer.weights for layer in found.layers]),
        ("share entropy", [layer.entropy for layer in found.layers]),
    ):
        figure = "Weights by layer" if label != "share entropy" else "Spread of the flow"
        result.curve(figure, label, places, values, x_label="layer, in the table's order", y_label="fraction")
    size = cost(model, example)
    for name, value in (
        ("weights", found.weights),
        ("nonzero", found.nonzero),
        ("live", found.live),
        ("nominal_sparsity", 1 - found.nonzero / found.weights),
        ("effective_sparsity", 1 - found.live / found.weights),
        ("live_fraction", found.live_fraction),
        ("dead_neurons", found.dead_neurons),
        ("dead_outputs", found.dead_outputs),
        ("log_phi", found.log_phi),
        ("narrowest_width", found.narrowest_width),
        ("minimum_weights", minimum_weights(model, example)),
        ("parameters", size.parameters),
        ("macs", size.macs),
    ):
        result.metric(name, value)
    result.answer = (
        f"{found.nonzero} of {found.weights} weights are not zero, and {found.live} of those "
        f"({100 * found.live_fraction:.1f} %) lie on a path; {found.dead_outputs} outputs have none."
    )
    return result


def shrink_file(options: Shrink, context: Context) -> Result:
    """The same outputs from a smaller model, saved."""
    torch.set_flush_denormal(True)
    model = load_model(options.file, options.arch)
    data = load(FOLDERS.get(options.data, options.data), limit=8, test_limit=8) if options.data else None
    example = example_of(model, options.example, data, lambda x: x)
    small = shrink(model, example, atol=options.atol)
    result = context.result(question=f"How small is {options.file.name} without what does nothing?")
    result.metric("parameters_before", small.before.parameters)
    result.metric("parameters_after", small.after.parameters)
    result.metric("macs_before", small.before.macs)
    result.metric("macs_after", small.after.macs)
    result.metric("shrink_parameters_ratio", small.parameters_ratio)
    result.metric("shrink_macs_ratio", small.macs_ratio)
    result.metric("shrink_max_abs_difference", small.max_abs_difference)
    result.metric("shrink_speedup", speedup(model, small.model, batch_of(example, 64)), timing=True)
    if small.collapsed:
        context.warn("a layer has no living channel: the network is cut, and one empty channel was kept")
    save_shrunk(small, options.save, arch=options.arch)
    reloaded = load_shrunk(options.save, factory_of(options.arch)).to(example.dtype)
    result.metric("reload_max_abs_difference", difference(small.model, reloaded, example))
    if options.onnx is not None:
        result.metric("onnx_max_abs_difference", export_onnx(small.model, example, options.onnx))
    rows = [
        ["parameters", small.before.parameters, small.after.parameters, small.parameters_ratio],
        ["multiply-accumulates", small.before.macs, small.after.macs, small.macs_ratio],
    ]
    result.table("Before and after", ["what", "before", "after", "ratio"], rows)
    result.answer = (
        f"{small.parameters_ratio:.2f} times fewer parameters, outputs equal to {small.max_abs_difference:.1g}; "
        f"saved in {options.save}."
    )
    result.artefacts |= {name: p.detach() for name, p in small.model.named_parameters()}
    return result
