"""Your own estimator: a direction that moves one parameter at a time, and the laws that say it is right."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from onlyforward.core import Key, gradient
from onlyforward.core.perturb.parameters import LinearProbe
from onlyforward.core.weigh import Mean
from onlyforward.testing import check_perturbation
from onlyforward.testing.problems import Problem


@dataclass(frozen=True)
class OneAtATime:
    """Copy i moves one random coordinate of "w" by a normal step; its score is d eps / sigma on that coordinate."""

    sigma: float = 0.5
    antithetic: bool = False

    def noise(self, key: Key, copy: int, w: torch.Tensor) -> torch.Tensor:
        """Unit noise of one copy, drawn again from its key whenever it is needed."""
        generator = key.at(site=f"{key.site}/one", copy=copy).generator()
        eps = torch.zeros_like(w)
        at = torch.randint(len(w), (1,), generator=generator)
        eps[at] = torch.randn(1, generator=generator, dtype=w.dtype)
        return eps

    def probes(self, run, params, *, key: Key, copies: int) -> Iterator[LinearProbe]:
        """One probe."""
        w = params["w"]
        moved = ({"w": w + self.sigma * self.noise(key, i, w)} for i in range(copies))
        signal = torch.stack([run(point, key.at(copy=i)) for i, point in enumerate(moved)])

        def pull(weight: torch.Tensor) -> dict[str, torch.Tensor]:
            score = torch.stack([self.noise(key, i, w) for i in range(copies)]) * len(w) / self.sigma
            return {"w": weight.sum(1) @ score}

        yield LinearProbe("w", signal, copies, pull)


def run(params, key: Key) -> torch.Tensor:
    """A forward run: a scalar [1]."""
    return (params["w"] ** 2).sum()[None]


w = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
found = gradient(run, {"w": w}, perturb=OneAtATime(), weigh=Mean(), key=Key(), copies=20_000)
print("estimate", [round(v, 2) for v in found.value["w"].tolist()], "truth", (2 * w).tolist())

problem = Problem("squares", lambda p: (p["w"] ** 2).sum()[None], {"w": w}, {"w": 2 * w})
print(f"largest |z| of the laws: {check_perturbation(OneAtATime(), problem):.2f}")
