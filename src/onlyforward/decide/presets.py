"""Recommended settings per agent and environment, as data; chosen on seeds 100 and above, never on reported ones."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Settings:
    """How an agent learns.

    Attributes:
        episodes: whole budget, in episodes.
        batch: episodes per update.
        rate: learning rate at the start.
        power: the rate falls as (1 + k / settle)^-power.
        settle: updates after which it begins to fall; 0 lets it fall linearly to zero over the budget.
        hidden: widths of the policy's hidden layers.
        scale: divides observations.
        deviation: standard deviation of real-valued actions at the start.
        learned_deviation: whether it is trained.
        epochs: passes over a batch (ppo, qppo).
        minibatches: pieces of a batch (ppo, qppo).
        entropy: weight of the entropy bonus; for qpo and reinforce it falls linearly to zero, at 70 % of the budget.
        gae_lambda: lambda of generalised advantages.
        narrow: what is left of the perturbations at the end of the budget (params): wide ones see far, but a cost that
            is steeper on one side pushes their mean to the other.
    """

    episodes: int = 50_000
    batch: int = 64
    rate: float = 1e-2
    power: float = 0.9
    settle: float = 0.0
    hidden: tuple[int, ...] = (64,)
    scale: float = 1.0
    deviation: float = 0.5
    learned_deviation: bool = True
    epochs: int = 4
    minibatches: int = 8
    entropy: float = 0.0
    gae_lambda: float = 0.95
    narrow: float = 1.0


DEFAULT = Settings()
SEARCH = Settings(episodes=250_000, batch=2_000, rate=1.0, power=0.7, settle=20.0)
PPO = Settings(batch=200, rate=3e-4, hidden=(64, 64), epochs=6, minibatches=20, entropy=0.003)

ENVIRONMENTS: dict[str, dict[str, object]] = {
    "OneStep": {"episodes": 200_000, "batch": 256, "hidden": (), "deviation": 0.3, "learned_deviation": False},
    "ZeroMean": {"episodes": 200_000, "batch": 256, "hidden": (), "deviation": 0.1**0.5, "learned_deviation": False},
    # Two arms differ by 0.03 in their 25 % quantile: a small batch decides for one before it can tell them apart.
    "Bandit": {"episodes": 600_000, "batch": 2048, "rate": 0.1, "hidden": ()},
    # One choice among many changes the quantile little: without a bonus, noise decides before the signal does. Once it
    # is gone the policy must still sharpen, so the rate hardly falls.
    "FairLottery": {"scale": 4.0, "entropy": 0.1, "settle": 1000.0},
    "BeyondGreed": {"hidden": ()},
    "SupplyChain": {"episodes": 18_000, "scale": 20.0},
    "Portfolio": {"episodes": 18_000, "scale": 1.0},
    "LostSales": {"episodes": 10_000, "scale": 10.0, "hidden": (64, 64)},
}


def settings(agent: str, environment: str) -> Settings:
    """The preset of an agent on an environment."""
    base = SEARCH if agent == "params" else PPO if agent in ("ppo", "qppo") else DEFAULT
    changes = dict(ENVIRONMENTS.get(environment, {}))
    if agent == "params":
        if environment == "LostSales":
            return replace(base, narrow=0.2)
        return replace(base, episodes=500_000) if environment == "Portfolio" else base
    if agent == "ppo" and environment == "LostSales":
        # An order shows its cost within a few periods: short advantages, and many steps on few episodes.
        changes |= {"episodes": 3_000, "batch": 25, "rate": 2e-3, "epochs": 6, "minibatches": 8, "gae_lambda": 0.8}
        changes |= {"entropy": 0.0}
    if agent in ("ppo", "qppo") and environment in ("FairLottery", "BeyondGreed", "ZeroMean", "OneStep", "Bandit"):
        # Few steps an episode: larger batches, and as many gradient steps as the long environments get.
        changes |= {"batch": 512, "epochs": 4, "minibatches": 4, "rate": 3e-3, "hidden": (64,)}
        changes |= {"entropy": PPO.entropy, "settle": PPO.settle}
    return replace(base, **changes)  # type: ignore[arg-type]
