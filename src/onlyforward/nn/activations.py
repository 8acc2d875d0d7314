"""Activations as a perturbation: one probe per site, each with the losses of its copies and a pull to parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.func import vmap

from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.nn.fused import fused
from onlyforward.nn.layout import Layout
from onlyforward.nn.noise import SiteNoise
from onlyforward.nn.sites import Site
from onlyforward.nn.walk import Tape, Walk

ROWS = 1024
"""A chunk has at least so many rows: fewer do not fill a matrix product."""
BYTES = 2 << 20
"""The widest map of a chunk stays within this: it should fit the cache of one core."""

WIDE = 16 << 20
"""Where the widest map of ROWS rows is larger than this, memory is slower than the products: FEWEST rows must do."""
FEWEST = 256

PARTS = 4
"""Chunks of a site that workers can share, where chunks of ROWS rows allow it."""

LossFn = Callable[..., Tensor]
"""(output, target) -> losses [b]."""


class Group(Protocol):
    """Workers that share the chunks of a site and exchange losses only."""

    def mine(self, chunks: int) -> range:
        """The chunks that this worker runs."""
        ...

    def gather(self, losses: Sequence[Tensor], copies: Sequence[int], like: Tensor) -> list[Tensor]:
        """Losses of all chunks in order [copies, b] from this worker's own; `like` [b] gives dtype and device."""
        ...


@dataclass
class Objective:
    """The user's loss over rows of any number of copies.

    Attributes:
        loss_fn: (output, target) -> [rows], or [rows, m] with a credit mask.
        target: [b, ...].
        width: most elements that one datum has in any tensor of the network; decides the chunks.
    """

    loss_fn: LossFn
    target: Any
    width: int = 0
    repeats: dict[int, Any] = field(default_factory=dict)

    def losses(self, output: Any, copies: int, data: int) -> Tensor:
        """Losses [n, b] (or [n, b, m]) of outputs that hold n copies, in float32 or better."""
        if copies not in self.repeats:
            self.repeats = {copies: repeat_target(self.target, copies)}
        if isinstance(output, Tensor) and output.dim() > 1 and output.shape[0] == copies != data * copies:
            output = output.flatten(0, 1)
        loss = self.checked(self.loss_fn(output, self.repeats[copies]), copies * data)
        return loss.reshape(copies, data, *loss.shape[1:])

    def clean(self, output: Any, data: int) -> Tensor:
        """Losses [b] (or [b, m]) of the unperturbed output."""
        return self.checked(self.loss_fn(output, self.target), data)

    def checked(self, loss: Tensor, rows: int) -> Tensor:
        """The loss, in float32 or better, if it has one number (or m) for each row."""
        if loss.dim() == 0 or loss.shape[0] != rows:
            raise UsageError(
                f"The loss has shape {list(loss.shape)}, but one loss per datum is needed, [{rows}]",
                'Give reduction="none" to the loss function',
            )
        return loss.float() if loss.dtype in (torch.float16, torch.bfloat16) else loss

    def row_losses(self, output: Tensor, index: Tensor) -> Tensor:
        """Losses [R] of rows that belong to the data `index` [R]."""
        loss = self.loss_fn(output, picked(self.target, index))
        if loss.shape != index.shape:
            raise UsageError(f"The loss has shape {list(loss.shape)}", "An allocation needs one loss per datum")
        return loss.float() if loss.dtype in (torch.float16, torch.bfloat16) else loss


def picked(target: Any, index: Tensor) -> Any:
    """The target of rows that belong to the data `index`."""
    if isinstance(target, (tuple, list)):
        return type(target)(picked(item, index) for item in target)
    return target[index] if isinstance(target, Tensor) else target


def repeat_target(target: Any, copies: int) -> Any:
    """The target of n copies."""
    if isinstance(target, Tensor):
        return torch.cat([target] * copies) if copies > 1 else target
    if isinstance(target, (tuple, list)):
        return type(target)(repeat_target(item, copies) for item in target)
    return target


@dataclass
class SiteProbe:
    """What came back from the runs at one site.

    Attributes:
        place: the site.
        noise: its directions.
        signal: [n, b]; with pairs copies i and i + n/2 are mirrored.
        clean: [b], the unperturbed losses.
        paired: whether the copies come in mirrored pairs.
        runs: forward runs, n b.
        mask: never set here: every row ran.
    """

    place: Site
    noise: SiteNoise
    signal: Tensor
    clean: Tensor
    paired: bool
    runs: int
    mask: Tensor | None = None

    @property
    def site(self) -> str:
        """Path of the site."""
        return self.place.path

    def delta(self, weight: Tensor) -> Tensor:
        """The cotangent sum_n weight[n, b] score[n, b]: [b, *site], or [1, P] for noise that the batch shares."""
        half = len(weight) // 2
        folded = weight[:half] - weight[half:] if self.paired else weight
        delta = self.noise.correlate(folded.sum(1, keepdim=True) if self.place.shared else folded)
        return delta.reshape(self.place.clean.shape).to(self.place.clean)

    def pull(self, weight: Tensor) -> dict[str, Tensor]:
        """Gradients of the module's parameters, by their names within the module."""
        return self.place.pull(self.delta(weight))


def run_site(
    walk: Walk,
    tape: Tape,
    site: Site,
    noise: SiteNoise,
    objective: Objective,
    clean: Tensor,
    *,
    paired: bool,
    stack: bool = False,
    reference: bool = False,
    chunk: int = 0,
    group: Group | None = None,
) -> SiteProbe:
    """Run all copies of one site.

    Args:
        walk: the network.
        tape: its clean run.
        site: where noise enters.
        noise: directions; with pairs each is also run mirrored.
        objective: the loss.
        clean: [b], the clean losses.
        paired: run mirrored pairs.
        stack: copies go in front of the data dimension instead of into it.
        reference: go on under vmap, datum and copy each on their own: slow and right by construction.
        chunk: directions run at once (0: by size).
        group: workers that share the chunks; None runs all of them here.
    """
    step = chunk or chunk_copies(
        tape.data, objective.width or site.clean.numel() // max(1, len(site.clean)), noise.drawn * (1 + paired)
    )
    step = max(1, step // 2) if paired and not chunk else step
    parts = [slice(begin, min(begin + step, noise.drawn)) for begin in range(0, noise.drawn, step)]
    found = []
    short = None if reference or stack else fused(walk, site, noise)
    for index in range(len(parts)) if group is None else group.mine(len(parts)):
        part = parts[index]
        count = (part.stop - part.start) * (1 + paired)
        layout = Layout("stack" if stack else "rows", count, tape.data)
        if short is not None:
            output = walk.finish(tape, short.rows(part, paired=paired), short.index, layout)
            losses = objective.losses(output, count, tape.data)
        else:
            rows = noise.added(site.clean.reshape(noise.shape), part, paired=paired)
            rows = rows.reshape(count, *site.clean.shape)
            if reference:
                losses = reference_losses(walk, tape, site, rows, objective)
            else:
                losses = objective.losses(walk.resume(tape, site, rows, layout), count, tape.data)
        if hasattr(noise, "observe"):
            noise.observe(part, losses, paired=paired)
        found.append(losses)
    sides = 2 if paired else 1
    if group is not None:
        found = group.gather(found, [sides * (part.stop - part.start) for part in parts], clean)
    plus = [losses[: len(losses) // sides] for losses in found]
    minus = [losses[len(losses) // sides :] for losses in found]
    signal = torch.cat([*plus, *minus]) if len(plus) > 1 or paired else plus[0]
    return SiteProbe(site, noise, signal, clean, paired, signal.shape[0] * tape.data)


def reference_losses(walk: Walk, tape: Tape, site: Site, rows: Tensor, objective: Objective) -> Tensor:
    """Losses [n, b] by vmap over copies: nothing is expanded by hand."""
    alone = Layout("alone", 1, tape.data)

    def one(row: Tensor) -> Tensor:
        return objective.loss_fn(walk.resume(tape, site, row, alone), objective.target)

    return vmap(one)(rows)


def chunk_copies(data: int, width: int, copies: int, *, element: int = 4) -> int:
    """Copies per chunk: ROWS rows or more (FEWEST of wide maps), the widest map within BYTES, and PARTS chunks or more.

    The chunks never depend on the number of workers: a row's bits depend on the shape of the product it is in.
    """
    rows = ROWS if ROWS * width * element <= WIDE else FEWEST
    least = max(-(-rows // max(1, data)), 1)
    return max(least, min(BYTES // max(1, data * width * element), -(-copies // PARTS)))


@dataclass(frozen=True)
class Activations:
    """Likelihood-ratio noise on activations, as a `Perturbation` for `core.gradient`.

    Attributes:
        walk: the network.
        tape: its clean run.
        sites: where noise enters, in forward order.
        objective: the loss of the run.
        clean: [b], the clean losses.
        noise: makes the directions of a site: (site, key, drawn) -> SiteNoise.
        antithetic: whether copies come in mirrored pairs.
        stack: see `run_site`.
    """

    walk: Walk
    tape: Tape
    sites: tuple[Site, ...]
    objective: Objective
    clean: Tensor
    noise: Callable[[Site, Key, int], SiteNoise]
    antithetic: bool = False
    stack: bool = False

    def probes(self, run: Any, params: Any, *, key: Key, copies: int) -> Any:
        """One probe per site; the network runs by itself, so `run` and `params` may be None."""
        drawn = copies // 2 if self.antithetic else copies
        for site in self.sites:
            noise = self.noise(site, key.at(site=f"{key.site}/{site.path}"), drawn)
            yield run_site(
                self.walk, self.tape, site, noise, self.objective, self.clean, paired=self.antithetic, stack=self.stack
            )
