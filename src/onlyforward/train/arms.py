"""Arms of a comparison: one network, one data set, one order of batches, one optimiser, and a method that differs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onlyforward.core.keys import Key
from onlyforward.data import nets
from onlyforward.nn.engine import LikelihoodRatio
from onlyforward.train.loop import Course, cross_entropy, preset_schedule, train
from onlyforward.train.methods import Settings, make_method

if TYPE_CHECKING:
    from torch import nn

    from onlyforward.data.sets import Dataset

losses = cross_entropy


def engine_for(arm: str, model: nn.Module, *, sigma: float | None, copies: int, seed: int, **settings: Any) -> Any:
    """The method of an arm: "lr" takes any setting of `LikelihoodRatio`, the others their own noise level."""
    if arm == "lr":
        return LikelihoodRatio(model, copies=copies, sigma="auto" if sigma is None else sigma, seed=seed, **settings)
    method = {"surrogate": "bp"}.get(arm, arm.replace("_", "-"))
    own = sigma if method == "bp-noise" else None
    return make_method(method, model, Settings(copies=max(2, copies), sigma=own, seed=seed))


def run_course(
    engine: Any, model: nn.Module, name: str, data: Dataset, *, arm: str = "lr", seed: int, epochs: int = 0
) -> Course:
    """Train with the schedule chosen for network, data and arm; all arms see the same batches."""
    chosen = nets.preset(name, data.name, arm.replace("_", "-"))
    schedule = preset_schedule(chosen, epochs=epochs or None)
    return train(model, engine, data, losses, schedule, key=Key(run=seed, site="train"))


def trained(
    arm: str, name: str, data: Dataset, *, seed: int, sigma: float | None, copies: int, epochs: int = 0, **settings: Any
) -> tuple[nn.Module, Any]:
    """A network trained by one arm with the settings chosen for it; returns it with its method."""
    model = nets.build(name, data, seed=seed)
    engine = engine_for(arm, model, sigma=sigma, copies=copies, seed=seed, **settings)
    run_course(engine, model, name, data, arm=arm, seed=seed, epochs=epochs)
    return model, engine
