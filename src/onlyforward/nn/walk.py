"""Walking a network: parts in a row, the clean run that records every unit, and going on from any site.

An `nn.Sequential` (nested ones too) is a row of parts, so a perturbed run starts right at the site. Any other module is
one part: it is run again with n b rows, and its units answer from the record up to the site. Hence every tensor that
bypasses the site, a skip or a hidden state, has its n b rows as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.nn.fused import untouched
from onlyforward.nn.layout import Layout
from onlyforward.nn.recurrent import expanded_output, run_steps
from onlyforward.nn.sites import RECURRENT, Call, Site, WeightSite, is_unit
from onlyforward.nn.units import record

FRESH = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Modules whose output is a tensor of its own."""
DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


@dataclass
class Part:
    """One stretch of the network between two points where rows are all that passes.

    Attributes:
        path: of the module.
        module: what runs.
        units: path -> module of what is recorded inside; the part itself where it is a unit.
        dropouts: path -> dropout modules inside.
        loose: names of parameters that belong to no unit (relative to the part).
    """

    path: str
    module: nn.Module
    units: dict[str, nn.Module]
    dropouts: dict[str, nn.Module]
    loose: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether the part is itself one unit, or has nothing to record."""
        return not self.units or next(iter(self.units.values())) is self.module


@dataclass
class Tape:
    """What the clean run leaves behind.

    Attributes:
        inputs: arguments of each part.
        calls: calls of units, in order.
        masks: (dropout path, number of the call) -> mask [b, ...].
        output: the network's output; it carries a graph where backpropagation is planned.
        data: b.
    """

    inputs: list[tuple[Any, ...]] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    masks: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    output: Any = None
    data: int = 0


class Walk:
    """The parts of a network and the ways to run them.

    Args:
        model: any module; a compiled one is unwrapped.
        decide: path of a unit -> its kind in the plan.
    """

    def __init__(self, model: nn.Module, decide: Callable[[str], str]) -> None:
        self.model = unwrapped(model)
        self.decide = decide
        self.parts = [make_part(path, module) for path, module in flattened(self.model)]
        self.watched = [(path, module) for path, module in self.model.named_modules() if couples(module)]

    # The clean run ---------------------------------------------------------------------------------------------------

    def record(self, inputs: tuple[Any, ...], key: Key, *, graphs: bool = False) -> Tape:
        """Run the network once, unperturbed; with `graphs` what follows a backpropagated unit joins its graph."""
        tape = Tape(data=len(inputs[0]))
        value: Any = inputs
        with torch.set_grad_enabled(graphs):
            for index, part in enumerate(self.parts):
                arguments = value if isinstance(value, tuple) and index == 0 else (value,)
                tape.inputs.append(arguments)
                plain = not (part.units or part.dropouts)
                value = part.module(*arguments) if plain else self.record_part(tape, index, part, arguments, key)
        tape.output = value
        return tape

    def record_part(self, tape: Tape, index: int, part: Part, arguments: tuple[Any, ...], key: Key) -> Any:
        """Run one part and note its units' calls."""
        order = 0
        counts: dict[str, int] = {}

        def unit(path: str, module: nn.Module, forward: Any, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
            nonlocal order
            counts[path] = counts.get(path, -1) + 1
            name = f"{path}#{counts[path]}" if counts[path] else path
            call = Call(name, module, inputs, named, None, index, order)
            order += 1
            tape.calls.append(call)
            return record(call, self.decide(path), forward)

        def dropout(path: str, module: nn.Module, x: Tensor) -> Tensor:
            if not module.training or not module.p:
                return x
            counts[path] = counts.get(path, -1) + 1
            at = (path, counts[path])
            tape.masks[at] = dropout_mask(module, x, key.at(site=f"{key.site}/{path}/{counts[path]}"))
            return x * tape.masks[at]

        if part.whole and part.units:
            return unit(part.path, part.module, part.module.forward, arguments, {})
        if isinstance(part.module, DROPOUT):
            return dropout(part.path, part.module, arguments[0])
        with patched(part, unit, dropout):
            return part.module(*arguments)

    # Going on from a site --------------------------------------------------------------------------------------------

    def resume(self, tape: Tape, site: Site, rows: Tensor, layout: Layout) -> Tensor:
        """The network's output in the layout, when the site's clean tensor is replaced by rows [n, b, *site]."""
        index = site.call.part
        part = self.parts[index]
        value = (
            site.outcome(rows, layout) if part.whole and not part.loose else self.replay(tape, part, site, rows, layout)
        )
        return self.finish(tape, value, index + 1, layout, own=part.whole and type(site) is Site)

    def finish(self, tape: Tape, value: Any, begin: int, layout: Layout, *, own: bool = True) -> Any:
        """Run the parts from `begin` on; a value that is this run's own may be overwritten by a rectifier."""
        own = own and layout.flat
        for part in self.parts[begin:]:
            module = part.module
            if own and type(module) is nn.ReLU and untouched(module):
                torch.relu_(value)
                continue
            value = self.run_part(tape, part, (value,), layout)
            own = layout.flat and type(module) in FRESH and untouched(module)
        return value

    def run_part(self, tape: Tape, part: Part, arguments: tuple[Any, ...], layout: Layout) -> Any:
        """Run a part behind the site: dropout with the recorded masks, everything else as it is."""
        masked = bool(part.dropouts and tape.masks)
        if not masked and layout.flat:
            return part.module(*arguments)
        masks = Masks(tape, layout)
        if isinstance(part.module, DROPOUT):
            return masks(part.path, part.module, arguments[0])

        def unit(path: str, module: nn.Module, forward: Any, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
            return behind(module, forward, inputs, named, layout)

        with patched(part, None if layout.flat else unit, masks):
            return part.module(*arguments)

    def replay(self, tape: Tape, part: Part, site: Site, rows: Tensor, layout: Layout) -> Any:
        """Run a part again with expanded inputs; units before the site answer from the record."""
        calls = [call for call in tape.calls if call.part == site.call.part]
        order = 0

        def unit(path: str, module: nn.Module, forward: Any, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
            nonlocal order
            order += 1
            if order - 1 < site.call.order:
                return expanded(calls[order - 1], layout)
            if order - 1 == site.call.order:
                return site.outcome(rows, layout)
            return behind(module, forward, inputs, named, layout)

        if isinstance(site, WeightSite) and site.call.order < 0:
            return self.replay_loose(tape, part, site, rows, layout)
        with patched(part, unit, Masks(tape, layout)):
            return part.module(*layout.expand(tape.inputs[site.call.part]))

    def replay_loose(self, tape: Tape, part: Part, site: WeightSite, rows: Tensor, layout: Layout) -> Any:
        """Run a part for each copy of parameters that belong to no unit, all copies in one vectorised call."""
        alone = Layout("alone", 1, tape.data)

        def once(row: Tensor) -> Any:
            with patched(part, None, Masks(tape, alone)):
                return functional_call(part.module, site.params(row), tape.inputs[site.call.part])

        return once(rows) if layout.kind == "alone" else layout.join(vmap(once)(rows))


class Masks:
    """Dropout behind a site: the masks of the clean run, the same for all copies of a datum."""

    def __init__(self, tape: Tape, layout: Layout) -> None:
        self.tape, self.layout = tape, layout
        self.counts: dict[str, int] = {}

    def __call__(self, path: str, module: nn.Module, x: Tensor) -> Tensor:
        """X times the recorded mask."""
        if not module.training or not module.p:
            return x
        self.counts[path] = self.counts.get(path, -1) + 1
        return self.layout.masked(x, self.tape.masks[path, self.counts[path]])


def expanded(call: Call, layout: Layout) -> Any:
    """A recorded output in a layout."""
    return expanded_output(call, layout) if type(call.module) in RECURRENT else layout.expand(call.output)


def behind(module: nn.Module, forward: Any, inputs: tuple[Any, ...], named: Mapping[str, Any], layout: Layout) -> Any:
    """A unit behind the site: as it is, but recurrent ones step by step where vmap carries the copies."""
    if not layout.flat and type(module) in RECURRENT:
        return run_steps(module, *inputs, *named.values())
    return forward(*inputs, **named)


def dropout_mask(module: Any, x: Tensor, key: Key) -> Tensor:
    """Zeros and 1/(1-p) of the shape that the module drops: elements, or whole channels."""
    shape = x.shape if type(module) is nn.Dropout else (*x.shape[:2], *[1] * (x.dim() - 2))
    mask = torch.empty(shape, dtype=x.dtype, device=x.device)
    return mask.bernoulli_(1 - module.p, generator=key.generator(x.device)).div_(1 - module.p)


@contextmanager
def patched(part: Part, unit: Any, dropout: Any) -> Iterator[None]:
    """Within the block, calls of the part's units and dropouts go to the given functions."""
    kept: list[tuple[nn.Module, Any]] = []

    def replace(module: nn.Module, handler: Any) -> None:
        kept.append((module, module.__dict__.get("forward")))
        module.__dict__["forward"] = handler

    try:
        if unit is not None:
            for path, module in part.units.items():
                own = module.forward
                replace(
                    module,
                    lambda *inputs, _path=path, _module=module, _own=own, **named: unit(
                        _path, _module, _own, inputs, named
                    ),
                )
        for path, module in part.dropouts.items():
            replace(module, lambda x, _path=path, _module=module: dropout(_path, _module, x))
        yield
    finally:
        for module, forward in reversed(kept):
            if forward is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = forward


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside torch.compile's wrapper."""
    inner = getattr(model, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else model


def flattened(model: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The parts of nested nn.Sequential containers in order, or the module itself."""
    if type(model).forward is nn.Sequential.forward and len(list(model.children())):
        for name, child in model._modules.items():
            if child is not None:
                yield from flattened(child, f"{path}.{name}" if path else name)
    else:
        yield path, model


def make_part(path: str, module: nn.Module) -> Part:
    """Find the units, the dropouts and the loose parameters of a part."""
    units: dict[str, nn.Module] = {}
    dropouts: dict[str, nn.Module] = {}
    loose: list[str] = []
    seen: set[int] = set()

    def search(inner: nn.Module, at: str, relative: str) -> None:
        if id(inner) in seen:
            return
        seen.add(id(inner))
        if is_unit(inner):
            units[at] = inner
        elif isinstance(inner, DROPOUT):
            dropouts[at] = inner
        else:
            loose.extend(f"{relative}{name}" for name, _ in inner.named_parameters(recurse=False))
            for name, child in inner.named_children():
                search(child, f"{at}.{name}" if at else name, f"{relative}{name}.")

    search(module, path, "")
    return Part(path, module, units, dropouts, tuple(loose))


def couples(module: nn.Module) -> bool:
    """Whether a module may couple data, or drop out unseen, in training mode."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm) or isinstance(getattr(module, "dropout", None), float)


def check_modes(watched: Iterable[tuple[str, nn.Module]]) -> None:
    """Refuse modes in which a datum's loss is not its own.

    Raises:
        UsageError: BatchNorm in training mode couples the data of a batch; dropout inside attention or recurrent
            modules cannot be held fixed over the copies.
    """
    for path, module in watched:
        if not module.training:
            continue
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise UsageError(
                f"{path} ({type(module).__name__}) is in training mode, where each loss depends on the whole batch",
                "Call .eval() on it, plan it as bp with everything behind it, or take GroupNorm",
            )
        if float(module.dropout) > 0:  # type: ignore[arg-type]
            raise UsageError(
                f"{path} ({type(module).__name__}) drops out inside itself",
                "Set its dropout to 0 or call .eval() on it",
            )
