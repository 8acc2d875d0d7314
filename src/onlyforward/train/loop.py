"""The training loop: keyed batches, any method, any torch optimiser, a checkpoint offered after every step."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from onlyforward.core.checks import check_choice, check_range
from onlyforward.core.keys import Key

if TYPE_CHECKING:
    from torch import Tensor

    from onlyforward.data.nets import Preset
    from onlyforward.data.sets import Dataset
    from onlyforward.run.context import Context

LossFn = Callable[["Tensor", "Tensor"], "Tensor"]


class CrossEntropy:
    """Cross-entropy per datum [b]; of outputs [b, classes] the same bits as torch's, in a quarter of the time.

    Torch's log_softmax works through many rows at once if the classes are not its last dimension.
    """

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Losses [b] of outputs [b, classes]; of [b, classes, m] one per position, [b, m]."""
        if output.dim() != 2:
            return F.cross_entropy(output, target, reduction="none")
        return F.nll_loss(F.log_softmax(output.t(), 0).t(), target, reduction="none")

    def slope(self, output: Tensor, target: Tensor) -> Tensor:
        """dL_b / d output_b = softmax - one-hot: [b, classes, ...]."""
        found = torch.softmax(output.transpose(0, 1), 0).transpose(0, 1)
        return found.scatter_add_(1, target[:, None], found.new_full((), -1.0).expand_as(target[:, None]))


cross_entropy = CrossEntropy()


def zero_one(output: Tensor, target: Tensor) -> Tensor:
    """1 where the largest logit is not the label's, else 0: nothing to differentiate."""
    return (output.argmax(1) != target).to(output.dtype)


def squared(output: Tensor, target: Tensor) -> Tensor:
    """Squared distance to the one-hot label, per datum."""
    return (output - F.one_hot(target, output.shape[1])).square().sum(1)


LOSSES: Mapping[str, LossFn] = {"ce": cross_entropy, "zero-one": zero_one, "mse": squared}

OPTIMIZERS: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}
DECAYS = ("none", "linear")


@dataclass(frozen=True)
class Schedule:
    """How long and how fast.

    Attributes:
        epochs: passes over the data.
        batch: data per step; 0 is all of them.
        lr: learning rate.
        optimizer: name.
        weight_decay: of the optimiser.
        clip: largest norm of the gradient; 0 is none.
        decay: none, or linear: the learning rate falls to 0 over the run, and with it the noise of the last weights.
    """

    epochs: int
    batch: int
    lr: float
    optimizer: str = "adam"
    weight_decay: float = 0.0
    clip: float = 0.0
    decay: str = "none"

    def __post_init__(self) -> None:
        check_range(self.epochs, name="epochs", low=1)
        check_range(self.batch, name="batch", low=0)
        check_range(self.lr, name="lr", low=0.0, open_low=True)
        check_choice(self.optimizer, OPTIMIZERS, name="optimizer")
        check_choice(self.decay, DECAYS, name="decay")

    def make(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimiser over the trained parameters."""
        trained = [p for p in model.parameters() if p.requires_grad]
        return OPTIMIZERS[self.optimizer](trained, lr=self.lr, weight_decay=self.weight_decay)

    def set_rate(self, optimizer: torch.optim.Optimizer, done: float) -> None:
        """The learning rate when a share `done` of the run is over."""
        for part in optimizer.param_groups:
            part["lr"] = self.lr * (1 - done if self.decay == "linear" else 1)


def preset_schedule(base: Preset, **changes: Any) -> Schedule:
    """The preset's schedule; changes that are None change nothing."""
    own = {field.name: getattr(base, field.name) for field in fields(Schedule)}
    return Schedule(**own | {name: value for name, value in changes.items() if value is not None})


@dataclass
class Course:
    """What happened in training.

    Attributes:
        losses: mean training loss of each epoch.
        validation: accuracy on a stored validation part after each epoch, where there is one.
        best: parameters after the first epoch of the highest of these.
        seconds: of each step, the last ones.
        steps: done.
    """

    losses: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    steps: int = 0

    @property
    def step_ms(self) -> float:
        """Median milliseconds of a step."""
        ordered = sorted(self.seconds)
        return 1e3 * ordered[len(ordered) // 2] if ordered else 0.0


def train(
    model: nn.Module,
    method: Any,
    data: Dataset,
    loss_fn: LossFn,
    schedule: Schedule,
    *,
    key: Key,
    context: Context | None = None,
) -> Course:
    """Train in place; with a context, continue from its checkpoint and save after every step.

    Args:
        model: the network.
        method: fills `p.grad`; see `methods`.
        data: trained on its training part.
        loss_fn: (output, target) -> losses [b].
        schedule: epochs, batch, optimiser.
        key: names the order of the batches.
        context: of a command.

    Raises:
        Diverged: a loss or gradient is not finite.
    """
    optimizer = schedule.make(model)
    x, y = data.x_train, data.y_train
    whole = data.kind == "graph"
    criterion = on_training_nodes(loss_fn, data) if whole else loss_fn
    size = len(x) if whole or not schedule.batch else min(schedule.batch, len(x))
    per_epoch = 1 if whole else math.ceil(len(x) / size)
    course = Course()
    totals = [0.0]
    begin = restore(model, optimizer, method, course, totals, context)
    model.train()
    order = torch.empty(0, dtype=torch.long)
    current = -1
    with progress(context, schedule.epochs * per_epoch) as tick:
        for step in range(begin, schedule.epochs * per_epoch):
            epoch, at = divmod(step, per_epoch)
            if epoch != current and not whole:
                order = batch_order(data, size, key.at(site="order", step=epoch))
                current = epoch
            rows = slice(None) if whole else order[at * size : (at + 1) * size]
            started = time.perf_counter()
            schedule.set_rate(optimizer, step / (schedule.epochs * per_epoch))
            optimizer.zero_grad(set_to_none=True)
            loss = float(method.backward(criterion, x[rows], y[rows]))
            if schedule.clip:
                nn.utils.clip_grad_norm_(model.parameters(), schedule.clip)
            optimizer.step()
            course.seconds.append(time.perf_counter() - started)
            totals[0] += loss / per_epoch
            if at == per_epoch - 1:
                course.losses.append(totals[0])
                totals[0] = 0.0
                if data.x_validation is not None or "validation" in data.masks:
                    validate(model, data, course)
            course.steps = step + 1
            if context is not None:
                context.save(step + 1, lambda: snapshot(model, optimizer, method, course, totals))
            tick(loss=loss)
    if course.best:
        model.load_state_dict(course.best)
    return course


POOL = 20
"""Batches of text among which texts are sorted by length."""


def batch_order(data: Dataset, size: int, key: Key) -> Tensor:
    """An epoch's order of the training data [N], to be cut into batches of `size`.

    Texts of similar lengths share a batch, so that little padding is run: a random order is cut into pools of POOL
    batches, each pool is sorted by length, and its batches are shuffled. Only the last batch may be short.
    """
    generator = key.generator()
    order = torch.randperm(len(data.y_train), generator=generator)
    lengths = None if data.lengths_train is None else data.lengths_train.cpu()
    if lengths is None:
        return order
    order = torch.cat([pool[lengths[pool].argsort(stable=True)] for pool in order.split(POOL * size)])
    batches = order.split(size)
    full = [batch for batch in batches if len(batch) == size]
    turns = torch.randperm(len(full), generator=generator).tolist()
    return torch.cat([full[turn] for turn in turns] + list(batches[len(full) :]))


def validate(model: nn.Module, data: Dataset, course: Course) -> None:
    """Note the accuracy on the stored validation part, and the parameters where it is the highest so far."""
    found = accuracy(model, data, "validation")
    if not course.validation or found > max(course.validation):
        course.best = {name: value.clone() for name, value in model.state_dict().items()}
    course.validation.append(found)


def on_training_nodes(loss_fn: LossFn, data: Dataset) -> LossFn:
    """The loss of a graph's nodes: 0 off the training part, scaled so that the mean is the training part's."""
    mask = data.masks["train"]
    weight = mask.float() * (len(mask) / int(mask.sum()))

    def masked(output: Tensor, target: Tensor) -> Tensor:
        losses = loss_fn(output, target)
        return (losses.reshape(-1, len(weight)) * weight).reshape(-1)

    return masked


def progress(context: Context | None, total: int) -> Any:
    """The context's progress display, or none."""
    from contextlib import nullcontext

    return nullcontext(lambda **_: None) if context is None else context.progress(total, label="training")


def accuracy(model: nn.Module, data: Dataset, part: str = "test") -> float:
    """Share of right answers on the test or validation part, in evaluation mode."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            if data.kind == "graph":
                mask = data.masks[part]
                return float((model(data.x_train).argmax(1)[mask] == data.y_train[mask]).double().mean())
            x, y = getattr(data, f"x_{part}"), getattr(data, f"y_{part}")
            hits = sum(int((model(x[i : i + 500]).argmax(1) == y[i : i + 500]).sum()) for i in range(0, len(x), 500))
            return hits / len(x)
    finally:
        model.train(training)


def peak_mb() -> float:
    """Largest resident memory of the process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# Checkpoints ---------------------------------------------------------------------------------------------------------


def snapshot(
    model: nn.Module, optimizer: torch.optim.Optimizer, method: Any, course: Course, totals: list[float]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Everything that the next step depends on: tensors by name, and data."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, parameter in enumerate(optimizer.param_groups[0]["params"]):
        for name, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
    tensors |= {f"best.{name}": value for name, value in course.best.items()}
    own = method.state() if hasattr(method, "state") else {"steps": method.steps, "runs": method.runs}
    data = {
        "method": own,
        "losses": list(course.losses),
        "validation": list(course.validation),
        "total": totals[0],
    }
    return tensors, data


def restore(
    model: nn.Module, optimizer: torch.optim.Optimizer, method: Any, course: Course, totals: list[float], context: Any
) -> int:
    """Put a checkpoint's state back; returns the number of steps that are done."""
    kept = None if context is None else context.restore()
    if kept is None:
        return 0
    values = {k.removeprefix("model."): v for k, v in kept.tensors.items() if k.startswith("model.")}
    model.load_state_dict(values)
    for index, parameter in enumerate(optimizer.param_groups[0]["params"]):
        prefix = f"optimizer.{index}."
        state = {k.removeprefix(prefix): v.clone() for k, v in kept.tensors.items() if k.startswith(prefix)}
        if state:
            optimizer.state[parameter] = state
    if hasattr(method, "load_state"):
        method.load_state(kept.data["method"])
    else:
        method.steps, method.runs = kept.data["method"]["steps"], kept.data["method"]["runs"]
    course.best = {k.removeprefix("best."): v.clone() for k, v in kept.tensors.items() if k.startswith("best.")}
    course.losses, course.validation = list(kept.data["losses"]), list(kept.data["validation"])
    totals[0] = kept.data["total"]
    course.steps = kept.step
    return kept.step
