"""Environments by name, with their parameters as words; and their registration in Gymnasium."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from onlyforward.core.checks import check_choice
from onlyforward.core.errors import UsageError
from onlyforward.decide.envs.bandit import Bandit
from onlyforward.decide.envs.base import Environment
from onlyforward.decide.envs.joint import JointReplenish, JointSeason, ReplenishParameters, SeasonParameters
from onlyforward.decide.envs.lost_sales import LostSales, LostSalesParameters
from onlyforward.decide.envs.lottery import BeyondGreed, FairLottery
from onlyforward.decide.envs.newsvendor import SS, Newsvendor, NewsvendorParameters, ReorderParameters
from onlyforward.decide.envs.portfolio import Portfolio, PortfolioParameters
from onlyforward.decide.envs.pricing import DynamicPricing, PricingParameters
from onlyforward.decide.envs.recommendation import Recommendation, RecommendationParameters
from onlyforward.decide.envs.supply_chain import SupplyChain, SupplyChainParameters
from onlyforward.decide.envs.toy import OneStep, ZeroMean

Maker = Callable[..., Environment]

ENVIRONMENTS: dict[str, tuple[Maker, type | None]] = {
    "ZeroMean": (ZeroMean, None),
    "FairLottery": (FairLottery, None),
    "BeyondGreed": (BeyondGreed, None),
    "OneStep": (OneStep, None),
    "Bandit": (Bandit, None),
    "SupplyChain": (SupplyChain, SupplyChainParameters),
    "Portfolio": (Portfolio, PortfolioParameters),
    "LostSales": (LostSales, LostSalesParameters),
    "Newsvendor": (Newsvendor, NewsvendorParameters),
    "SS": (SS, ReorderParameters),
    "DynamicPricing": (DynamicPricing, PricingParameters),
    "Recommendation": (Recommendation, RecommendationParameters),
    "JointSeason": (JointSeason, SeasonParameters),
    "JointReplenish": (JointReplenish, ReplenishParameters),
}

PAPER: dict[str, dict[str, Any]] = {"SupplyChain": {"compat": "paper"}, "Portfolio": {"discount": 0.99}}
"""What the preset "paper" changes."""


def short(name: str) -> str:
    """The name without namespace and version: onlyforward/SupplyChain-v0 is SupplyChain."""
    return name.removeprefix("onlyforward/").removesuffix("-v0")


def make(
    name: str, *, preset: str = "default", backend: str = "numpy", device: str = "cpu", **parameters: Any
) -> Environment:
    """An environment by name, with parameters by word.

    Raises:
        UsageError: an unknown environment or parameter (the nearest names are given), or a value out of range.
    """
    key = check_choice(short(name), ENVIRONMENTS, name="environment")
    check_choice(preset, ("default", "paper"), name="preset")
    maker, kind = ENVIRONMENTS[key]
    wanted = {**(PAPER.get(key, {}) if preset == "paper" else {}), **parameters}
    if kind is None:
        if wanted:
            raise UsageError(f"{key} has no parameter {next(iter(wanted))!r}", "Leave --set out")
        return maker(backend=backend, device=device)
    known = {field.name for field in dataclasses.fields(kind)}
    for word in wanted:
        check_choice(word, known, name=f"{key} parameter")
    return maker(kind(**wanted), backend=backend, device=device)


def parse_settings(words: Mapping[str, str] | list[str] | tuple[str, ...]) -> dict[str, Any]:
    """Words such as lead=4, demand=poisson or leads=1,2,3 as values: numbers, words, or tuples of them."""
    pairs = words.items() if isinstance(words, Mapping) else (split(word) for word in words)
    return {name: value_of(text) for name, text in pairs}


def split(word: str) -> tuple[str, str]:
    """NAME=VALUE."""
    name, equals, value = word.partition("=")
    if not equals or not name or not value:
        raise UsageError(f"--set {word} is not NAME=VALUE", "Write for example --set lead=4")
    return name, value


def value_of(text: str) -> Any:
    """An int, a float, a word, or a tuple of numbers."""
    if "," in text:
        return tuple(value_of(part) for part in text.split(","))
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def register() -> None:
    """Register every environment in Gymnasium as onlyforward/NAME-v0; calling it twice changes nothing."""
    import gymnasium

    for name in ENVIRONMENTS:
        full = f"onlyforward/{name}-v0"
        if full not in gymnasium.registry:
            gymnasium.register(
                id=full,
                entry_point="onlyforward.decide.adapter:make_single",
                vector_entry_point="onlyforward.decide.adapter:make_vector",
                kwargs={"name": name},
                disable_env_checker=True,
            )
