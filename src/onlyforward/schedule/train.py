"""`schedule train`: the start network, from labelled instances and the feasibility surrogate; resumable bit for bit."""

from __future__ import annotations

import json
import math
import platform
import time
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from onlyforward.core.checks import check_choice, check_range
from onlyforward.core.errors import FileError
from onlyforward.core.keys import Key
from onlyforward.run.state import load_optimizer_state, optimizer_state
from onlyforward.schedule.lessons import Lesson, lessons, validation
from onlyforward.schedule.network import Network, distinct_orders, sorting_keys
from onlyforward.schedule.surrogate import surrogate

if TYPE_CHECKING:
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result
    from onlyforward.schedule.command import Train

RATE = 2e-3
WARMUP = 1 / 15
"""Share of the steps in which the rate rises."""
LABELS = ("special", "search")
LOSSES = ("ce", "surrogate")


def predict(network: Network, batch: list[Lesson]) -> list[Tensor]:
    """Logits [n_i, W] of every lesson, in one padded forward pass."""
    sizes = [lesson.problem.n for lesson in batch]
    padded = [
        pad_sequence([getattr(lesson.features, name) for lesson in batch], batch_first=True)
        for name in ("rows", "scalars", "closed", "prior")
    ]
    absent = torch.arange(max(sizes))[None] >= torch.tensor(sizes)[:, None]
    logits = network(*padded, absent if bool(absent.any()) else None)
    return [logits[i, :n] for i, n in enumerate(sizes)]


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy with each start's share of the horizon split between the two nearest window centres."""
    windows = logits.shape[1]
    place = (target * windows - 0.5).clamp(0, windows - 1)
    low = place.floor().long().clamp(max=windows - 2)
    share = place - low
    logs = logits.log_softmax(1).clamp(min=-20)
    picked = logs.gather(1, torch.stack([low, low + 1], 1))
    return -((1 - share) * picked[:, 0] + share * picked[:, 1]).mean()


def loss_of(logits: Tensor, lesson: Lesson, parts: tuple[str, ...]) -> Tensor:
    """Cross-entropy with the label, and the log of the surrogate over the label's cost."""
    total = torch.zeros(())
    if "ce" in parts:
        total = total + 0.1 * cross_entropy(logits, lesson.target)
    if "surrogate" in parts:
        expected = surrogate(logits.softmax(1), lesson.terms, kappa=4.0)
        # Rounding can carry the surrogate of a cost near 0 below it.
        total = total + ((expected.clamp(min=0) + lesson.unit) / (lesson.cost + lesson.unit)).log()
    return total


@torch.no_grad()
def zero_shot_gap(network: Network, held: list[Lesson]) -> float:
    """Aggregate gap of the network's best order to the labels."""
    network.eval()
    paid = sum(
        float(lesson.problem.cost(distinct_orders(lesson.problem, sorting_keys(logits.softmax(1)))[0]))
        for lesson, logits in ((lesson, network.logits(lesson.features)) for lesson in held)
    )
    network.train()
    return paid / sum(lesson.cost for lesson in held) - 1


def train(options: Train, context: Context) -> Result:
    """Train, validate on instances of another key, write the weights with their JSON."""
    for name in options.labels.split(","):
        check_choice(name, LABELS, name="labels")
    for name in options.loss.split(","):
        check_choice(name, LOSSES, name="loss")
    check_range(options.steps, name="steps", low=1)
    check_range(options.n_max, name="n-max", low=8, high=1000)
    labels, parts = tuple(options.labels.split(",")), tuple(options.loss.split(","))
    if options.weights is not None and not options.weights.parent.is_dir():
        raise FileError(f"{options.weights.parent} is no folder", "Make it, or choose another --weights")
    torch.set_flush_denormal(True)
    with torch.random.fork_rng():
        torch.manual_seed(context.key.at(site="weights").seed)
        network = Network(options.windows)
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.01)
    losses: list[float] = []
    kept = context.restore()
    if kept is not None:
        network.load_state_dict({name: kept.tensors[f"network.{name}"] for name in network.state_dict()})
        load_optimizer_state(optimiser, kept.tensors, kept.data["optimiser"])
        losses = list(kept.data["losses"])
    begin = time.perf_counter()

    def snapshot() -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, skeleton = optimizer_state(optimiser)
        tensors |= {f"network.{name}": value.clone() for name, value in network.state_dict().items()}
        return tensors, {"optimiser": skeleton, "losses": losses}

    with context.progress(options.steps, label="training") as tick:
        tick(to=len(losses))
        while len(losses) < options.steps:
            if options.minutes and time.perf_counter() - begin > 60 * options.minutes:
                break
            losses.append(one_step(network, optimiser, context.key, len(losses), options, labels, parts))
            tick(loss=sum(losses[-50:]) / len(losses[-50:]))
            context.save(len(losses), snapshot)
    seconds = time.perf_counter() - begin
    gap = zero_shot_gap(network, validation(options.windows))
    tensors = {name: value.detach().contiguous() for name, value in network.state_dict().items()}
    result = context.result(question="How good is the order that the network gives without any search?")
    result.artefacts = tensors
    result.metric("final_loss", sum(losses[-50:]) / len(losses[-50:]))
    result.metric("zero_shot_validation_gap", gap)
    result.metric("parameters", sum(p.numel() for p in network.parameters()))
    result.metric("seconds", seconds, timing=True)
    smooth = [sum(losses[i : i + 50]) / len(losses[i : i + 50]) for i in range(0, len(losses), 50)]
    result.curve("Training loss", "", range(0, len(losses), 50), smooth, x_label="step", y_label="loss")
    result.table("Training loss", ["step", "mean loss of 50 steps"], [[50 * i, x] for i, x in enumerate(smooth)])
    for path in (options.weights, context.artefact("network.safetensors")):
        if path is not None:
            result.metric("file_bytes", write(path, tensors, options, gap, len(losses)))
    result.answer = f"Without search the network's order costs {100 * gap:.1f} % more than the searched one."
    return result


def one_step(
    network: Network,
    optimiser: torch.optim.Optimizer,
    key: Key,
    step: int,
    options: Train,
    labels: tuple[str, ...],
    parts: tuple[str, ...],
) -> float:
    """One optimiser step on a fresh batch; the rate warms up and falls as a cosine."""
    batch = lessons(key.at(site="train", step=step), n_max=options.n_max, windows=options.windows, labels=labels)
    rate = (
        RATE
        * min(1.0, (step + 1) / max(1.0, WARMUP * options.steps))
        * (0.02 + 0.98 * (1 + math.cos(math.pi * step / options.steps)) / 2)
    )
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad()
    loss = torch.stack(
        [loss_of(logits, lesson, parts) for logits, lesson in zip(predict(network, batch), batch, strict=True)]
    ).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimiser.step()
    return float(loss.detach())


def write(path: Path, tensors: dict[str, Tensor], options: Train, gap: float, steps: int) -> int:
    """The weights, and beside them a JSON with the command, the versions, the hash and the validation gap."""
    from safetensors.torch import save_file

    save_file(tensors, path)
    content = path.read_bytes()
    words = [f"--seed {options.seed}", f"--steps {options.steps}", f"--n-max {options.n_max}"]
    words += [f"--windows {options.windows}", f"--labels {options.labels}", f"--loss {options.loss}"]
    told = {
        "command": f"onlyforward schedule train {' '.join(words)} --weights {options.weights or path.name}",
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            **installed("numpy", "numba"),
        },
        "sha256": sha256(content).hexdigest(),
        "bytes": len(content),
        "steps": steps,
        "zero_shot_validation_gap": gap,
    }
    path.with_suffix(".json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return len(content)


def installed(*names: str) -> dict[str, str]:
    """Versions of packages."""
    return {name: metadata.version(name) for name in names}
