"""The window-indexed network: jobs attend to one another; its head says in which window each should start.

The idea (windows over the horizon, all non-decreasing costs, equivariant) is that of arXiv 2501.04253; layer
sizes and the use of the output are derived. The head corrects the best dispatching rule: a job's windows are a bell
around its start in that rule's plan, moved and reshaped by what the network learned. Untrained it is the rule.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from onlyforward.core.errors import FileError
from onlyforward.schedule.features import Features, make_features
from onlyforward.schedule.problem import Problem

WINDOWS = 128
SHIPPED = Path(__file__).parent / "weights" / "default.safetensors"
WIDTH = 0.05
"""Standard deviation of an untrained bell, as a share of the horizon."""
ALPHAS = tuple(k / 10 for k in range(1, 10))
LIMIT = 2000
"""Jobs beyond which attention would cost more than it can give."""


class Network(nn.Module):
    """About 0.3 million parameters.

    Attributes:
        windows: W, start windows over [start, horizon].
    """

    def __init__(self, windows: int = WINDOWS) -> None:
        super().__init__()
        self.windows = windows
        layers: list[nn.Module] = []
        for before, after in ((2, 16), (16, 32), (32, 64)):
            layers += [nn.Conv1d(before, after, 5, stride=2, padding=2), nn.GELU()]
        self.curve = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * -(-windows // 8), 64))
        self.numbers = nn.Sequential(nn.Linear(4, 64), nn.GELU(), nn.Linear(64, 64))
        layer = nn.TransformerEncoderLayer(
            64, 4, 256, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.trunk = nn.TransformerEncoder(layer, 4, norm=nn.LayerNorm(64), enable_nested_tensor=False)
        self.head = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, windows + 2))
        nn.init.zeros_(self.head[2].weight)
        nn.init.zeros_(self.head[2].bias)

    def forward(
        self, rows: Tensor, scalars: Tensor, closed: Tensor, prior: Tensor, absent: Tensor | None = None
    ) -> Tensor:
        """Logits [b, n, W] of the start windows.

        Args:
            rows: [b, n, 2, W].
            scalars: [b, n, 4].
            closed: [b, n, W], windows in which a job cannot start.
            prior: [b, n], starts in the rule's plan.
            absent: [b, n], rows that only fill up a batch.
        """
        b, n = rows.shape[:2]
        token = self.curve(rows.flatten(0, 1)).view(b, n, -1) + self.numbers(scalars)
        found: Tensor = self.head(self.trunk(token, src_key_padding_mask=absent))
        centre = (torch.arange(self.windows, dtype=found.dtype) + 0.5) / self.windows
        width = WIDTH * found[..., -1:].clamp(-3, 2).exp()
        bell = ((centre - prior[..., None] - found[..., -2:-1]) / width) ** 2 / 2
        # Bounded, so that no job is ever without a window to move to.
        return (found[..., :-2] - bell.clamp(max=25.0)).masked_fill(closed, -30.0)

    def logits(self, features: Features) -> Tensor:
        """[n, W] of one instance."""
        found: Tensor = self(features.rows[None], features.scalars[None], features.closed[None], features.prior[None])[
            0
        ]
        return found

    @torch.no_grad()
    def keys(self, problem: Problem) -> Tensor:
        """[1 + 9, n] expected start and its .1 ... .9 quantiles, as shares of the horizon."""
        return sorting_keys(self.logits(make_features(problem, self.windows)).softmax(1))

    def orders(self, problem: Problem) -> list[np.ndarray]:
        """Distinct orders by every key, cheapest first."""
        return distinct_orders(problem, self.keys(problem))


def sorting_keys(x: Tensor) -> Tensor:
    """[10, n] mean and alpha points of start windows x [n, W], linear inside a window."""
    windows = x.shape[1]
    centre = (torch.arange(windows, dtype=x.dtype) + 0.5) / windows
    upto = x.cumsum(1)
    found = [x @ centre]
    for alpha in ALPHAS:
        k = (upto < alpha).sum(1).clamp(max=windows - 1)
        mass = x.gather(1, k[:, None])[:, 0].clamp(min=1e-9)
        before = upto.gather(1, k[:, None])[:, 0] - mass
        found.append((k + ((alpha - before) / mass).clamp(0, 1)) / windows)
    return torch.stack(found)


def distinct_orders(problem: Problem, keys: Tensor) -> list[np.ndarray]:
    """Orders by every row of keys, without repeats, cheapest first."""
    orders = {order.tobytes(): order for order in (np.argsort(row, kind="stable") for row in keys.numpy())}
    return sorted(orders.values(), key=problem.cost)


def load_network(path: Path | None = None) -> Network:
    """The shipped network, or one that `schedule train --weights FILE` wrote.

    Raises:
        FileError: the file is missing or is not such a network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = SHIPPED if path is None else path
    try:
        tensors = load_file(path)
        network = Network(tensors["head.2.bias"].numel() - 2)
        network.load_state_dict(tensors)
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise FileError(f"{path} is not a network of schedule train", "Train one with schedule train") from error
    return network.eval()
