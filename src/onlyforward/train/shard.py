"""Workers that share the data of a batch and exchange gradients, as in data-parallel training."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from onlyforward.core.errors import EngineError

if TYPE_CHECKING:
    from torch import Tensor

    from onlyforward.run.workers import Workers


class Sharded:
    """A method whose worker sees its share of each batch; gradients are averaged over all workers.

    Sums of floats in another order: the bits depend on the number of workers, unlike those of shared copies.

    Args:
        method: fills `p.grad` from a batch; its seed must differ between workers, or their noise is the same.
        workers: at least two.
    """

    def __init__(self, method: Any, workers: Workers) -> None:
        self.method, self.workers = method, workers

    def __getattr__(self, name: str) -> Any:
        """Everything else is the method's own."""
        return getattr(self.method, name)

    def backward(self, loss_fn: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """The mean loss and gradient of the whole batch, from this worker's rows and the others'."""
        import torch.distributed as dist

        model, workers, rows = self.method.model, self.workers, len(inputs[-1])
        own = slice(workers.rank * rows // workers.size, (workers.rank + 1) * rows // workers.size)
        share = (own.stop - own.start) / rows
        before = {p: p.grad for p in model.parameters()}
        for p in before:
            p.grad = None
        loss = self.method.backward(loss_fn, *(x[own] for x in inputs)) if share else torch.zeros(())
        trained = [p for p in before if p.requires_grad]
        flat = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in trained])
        total = torch.cat((flat.float(), loss.detach().reshape(1).float())) * share
        try:
            dist.all_reduce(total)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise EngineError(f"A worker is lost: {reason}", "Continue with onlyforward resume DIR") from error
        workers.exchanged += workers.size * total.numel() * total.element_size()
        for p, piece in zip(trained, total[:-1].split([p.numel() for p in trained])):
            found = piece.reshape(p.shape).to(p)
            kept = before[p]
            p.grad = found if kept is None else kept + found
        return total[-1]

    def state(self) -> dict[str, Any]:
        """The method's state; every worker's own draws follow from its seed and the step."""
        method = self.method
        return method.state() if hasattr(method, "state") else {"steps": method.steps, "runs": method.runs}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue where `state()` was taken."""
        if hasattr(self.method, "load_state"):
            self.method.load_state(state)
        else:
            self.method.steps, self.method.runs = state["steps"], state["runs"]
