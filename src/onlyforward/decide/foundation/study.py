"""The commands `decide foundation-train` and `decide foundation-evaluate`."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from onlyforward.core.errors import FileError
from onlyforward.core.keys import Key
from onlyforward.decide.envs.joint import JointSeason, SeasonParameters
from onlyforward.decide.envs.register import make, parse_settings
from onlyforward.decide.exact.joint import SEASON_A, Season, references, season_b
from onlyforward.decide.exact.replenish import Replenish
from onlyforward.decide.exact.replenish import references as replenish_references
from onlyforward.decide.foundation.evaluate import replenish_value, season_value, simulated
from onlyforward.decide.foundation.experts import Experts, lessons, taught
from onlyforward.decide.foundation.model import VIEWS, FoundationPolicy
from onlyforward.decide.foundation.train import Course, Recipe
from onlyforward.decide.objectives import Objective
from onlyforward.decide.series import column, numbers, read_table

if TYPE_CHECKING:
    from onlyforward.decide.command import FoundationEvaluate, FoundationTrain
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

LARGEST_PROGRAM = 3e7
"""Actions times stock vectors up to which an instance of the user's is solved exactly."""
SMALL = {"instances": 12, "steps": 30, "fine_tune": 2}
TOKENS_A_STEP = 1_600
"""Tokens that an imitation step of 256 decisions reads on average over the lessons."""


RATIOS = (
    "season_ratio",
    "season_static_ratio",
    "season_silo_ratio",
    "season_person_ratio",
    "season_dynamic_price_ratio",
    "season_dynamic_recommendation_ratio",
    "season_revenue_silo_ratio",
    "season_masked_ratio",
    "season_ownview_ratio",
    "small_ratio",
    "small_static_ratio",
    "zero_shot_ratio",
    "zero_shot_static_ratio",
    "zero_shot_silo_ratio",
    "zero_shot_masked_ratio",
    "zero_shot_ownview_ratio",
    "replenish_ratio",
    "replenish_static_ratio",
)
"""What is measured of a trained model, beside the exact values of everything that coordinates less."""


class School:
    """The models of all views, taught one after the other on the same lessons, with one count of steps.

    Args:
        key: coordinates of everything random.
        instances: of the lessons: given ones, or a number of random ones.
        steps: imitation steps of each model.
        updates: fine-tuning steps of each model.
        objective: of fine-tuning.
        views: models to train.
        recipe: how they learn.
        experts: what they learn from.
        width: d of the tokens.
        layers: of the encoder.
    """

    def __init__(
        self,
        key: Key,
        *,
        instances: int | Sequence[Season],
        steps: int,
        updates: int,
        objective: Objective,
        views: tuple[str, ...] = VIEWS,
        recipe: Recipe | None = None,
        experts: Experts = taught,
        width: int = 64,
        layers: int = 2,
    ) -> None:
        read = lessons(key, instances, experts)
        told: dict[str, Any] = {"steps": steps, "updates": updates, "key": key, "objective": objective}
        alpha = objective.alpha if objective.name in ("quantile", "cvar") else 1.0
        self.courses = {
            view: Course(
                FoundationPolicy(width=width, layers=layers, view=view, alpha=alpha, seed=key.seed),
                read,
                recipe=recipe or Recipe(),
                **told,
            )
            for view in views
        }
        self.tokens = sum(lesson.count for lesson in read)

    @property
    def models(self) -> dict[str, FoundationPolicy]:
        """By view."""
        return {view: course.model for view, course in self.courses.items()}

    @property
    def total(self) -> int:
        """Steps of all models."""
        return sum(course.total for course in self.courses.values())

    @property
    def done(self) -> int:
        """Steps done."""
        return sum(course.done for course in self.courses.values())

    def step(self) -> dict[str, float]:
        """The next step of the first model that is not ready; its number under the model's view."""
        view = next(view for view, course in self.courses.items() if course.done < course.total)
        return {view: self.courses[view].step()}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that the next step depends on."""
        tensors, data = {}, {}
        for view, course in self.courses.items():
            own, data[view] = course.state()
            tensors |= {f"{view}.{name}": value for name, value in own.items()}
        return tensors, data

    def load_state(self, tensors: Mapping[str, Tensor], data: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        for view, course in self.courses.items():
            own = {name.removeprefix(f"{view}."): v for name, v in tensors.items() if name.startswith(f"{view}.")}
            course.load_state(own, data[view])


def save_models(models: Mapping[str, FoundationPolicy], folder: Path) -> None:
    """Write `foundation-VIEW.safetensors` and `foundation.json`."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    for view, model in models.items():
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / f"foundation-{view}.safetensors")
    (folder / "foundation.json").write_text(json.dumps({view: model.told for view, model in models.items()}))


def load_models(folder: Path) -> dict[str, FoundationPolicy]:
    """What `save_models` wrote.

    Raises:
        FileError: the folder holds no foundation model, or one of another version.
    """
    from safetensors.torch import load_file

    place = folder / "foundation.json"
    if not place.exists():
        raise FileError(f"{folder} holds no foundation model", "Give the --out folder of decide foundation-train")
    models = {}
    for view, told in json.loads(place.read_text()).items():
        models[view] = FoundationPolicy(**told)
        try:
            models[view].load_state_dict(load_file(folder / f"foundation-{view}.safetensors"))
        except RuntimeError as error:
            raise FileError(
                f"{folder} holds a foundation model of another version", "Train it again: decide foundation-train"
            ) from error
    return models


def ratios(models: Mapping[str, FoundationPolicy]) -> dict[str, float]:
    """Exact values of the models on the reported instances, over the joint optimum's."""
    two, three, shop = season_b(2), season_b(3), Replenish()
    known, shops = references(SEASON_A), replenish_references(shop)
    small, wide = references(two, "joint", "static"), references(three, "joint", "static", "margin_silo")
    joint = models["joint"]
    found = {
        "season_ratio": season_value(joint, SEASON_A) / known["joint"],
        "season_static_ratio": known["static"] / known["joint"],
        "season_silo_ratio": known["margin_silo"] / known["joint"],
        "season_person_ratio": known["person"] / known["joint"],
        "season_dynamic_price_ratio": known["dynamic_price"] / known["joint"],
        "season_dynamic_recommendation_ratio": known["dynamic_recommendation"] / known["joint"],
        "season_revenue_silo_ratio": known["revenue_silo"] / known["joint"],
        "small_ratio": season_value(joint, two) / small["joint"],
        "small_static_ratio": small["static"] / small["joint"],
        "zero_shot_ratio": season_value(joint, three) / wide["joint"],
        "zero_shot_static_ratio": wide["static"] / wide["joint"],
        "zero_shot_silo_ratio": wide["margin_silo"] / wide["joint"],
        "replenish_ratio": replenish_value(joint, shop) / shops["joint"],
        "replenish_static_ratio": shops["static"] / shops["joint"],
    }
    for view, name in (("masked", "masked"), ("own", "ownview")):
        if view in models:
            found[f"season_{name}_ratio"] = season_value(models[view], SEASON_A) / known["joint"]
            found[f"zero_shot_{name}_ratio"] = season_value(models[view], three) / wide["joint"]
    return {name: found[name] for name in RATIOS if name in found}


def tell(result: Result, found: Mapping[str, float]) -> None:
    """The ratios as metrics and as one table."""
    for name, value in found.items():
        result.metric(name, value)
    said = {
        "season_person_ratio": "price and recommendation answer each other, exact",
        "season_ratio": "foundation model",
        "season_masked_ratio": "the model, decisions hidden from each other",
        "season_ownview_ratio": "the model, each domain sees its own state",
        "season_dynamic_recommendation_ratio": "dynamic recommendation, fixed prices, exact",
        "season_dynamic_price_ratio": "dynamic price, fixed recommendation, exact",
        "season_static_ratio": "best static, exact",
        "season_silo_ratio": "margin silo",
        "season_revenue_silo_ratio": "revenue silo",
    }
    rows = [["joint optimum", 1.0], *([said[name], found[name]] for name in said if name in found)]
    rows.sort(key=lambda row: -float(row[1]))
    result.table(
        "Season A: profit over the exact joint optimum",
        ["policy", "ratio"],
        rows,
        "Every value is exact, by dynamic programming over all stocks. No instance like A or B and none with three "
        "items was in the training.",
    )


def train(options: FoundationTrain, context: Context) -> Result:
    """Imitation and fine-tuning of the model and of its two ablations, then the exact comparison."""
    torch.set_num_threads(options.threads)
    size = SMALL if options.small else {}
    school = School(
        context.key,
        instances=size.get("instances", options.instances),
        steps=size.get("steps", max(1, options.tokens // TOKENS_A_STEP)),
        updates=size.get("fine_tune", options.fine_tune),
        objective=Objective(options.objective, options.alpha),
    )
    result = context.result(question="Can one model coordinate order, price and recommendation?")
    saved = context.restore()
    if saved is not None:
        school.load_state(saved.tensors, saved.data)
    begin = time.perf_counter()
    with context.progress(school.total, label="foundation model") as tick:
        while school.done < school.total:
            tick(to=school.done + 1, **school.step())
            context.save(school.done, school.state)
    result.metric("parameters", sum(p.numel() for p in school.models["joint"].parameters()))
    result.metric("tokens", school.tokens)
    result.metric("train_seconds", time.perf_counter() - begin, timing=True)
    if context.folder is not None:
        save_models(school.models, context.folder)
    found = ratios(school.models)
    tell(result, found)
    result.artefacts = {k: v.detach().clone() for k, v in school.models["joint"].state_dict().items()}
    result.answer = (
        f"On a season it never saw the model earns {found['season_ratio']:.4f} of the exact joint optimum (best static "
        f"{found['season_static_ratio']:.4f}); on three items, a number it never saw, {found['zero_shot_ratio']:.4f}."
    )
    return result


def own_season(options: FoundationEvaluate) -> SeasonParameters | None:
    """The user's season: items from a table, the rest from --set; None if neither is given."""
    if options.csv is None and not options.set:
        return None
    words = parse_settings(options.set)
    for name in ("utility", "cost", "prices"):
        if name in words and not isinstance(words[name], tuple):
            words[name] = (words[name],)
    if options.csv is not None:
        table = read_table(options.csv)
        for name in ("utility", "cost"):
            cells = column(options.csv, table, name, "the columns utility and cost")
            words[name] = tuple(float(v) for v in numbers(options.csv, cells, name, low=None))
    environment = make("JointSeason", **words)
    assert isinstance(environment, JointSeason)
    return environment.parameters  # type: ignore[no-any-return]


def evaluate(options: FoundationEvaluate, context: Context) -> Result:
    """The reported instances, or the user's own season."""
    torch.set_num_threads(options.threads)
    models = load_models(options.model)
    own = own_season(options)
    result = context.result(question="How close does the model come to the exact joint optimum?")
    if own is None:
        found = ratios(models)
        tell(result, found)
        result.answer = f"It earns {found['season_ratio']:.4f} of the joint optimum of season A."
        return result
    season = JointSeason(own).instance
    profits = simulated(models["joint"], own, options.episodes, context.key)
    mean, error = float(profits.mean()), float(profits.std() / len(profits) ** 0.5)
    result.metric("simulated_value", mean)
    result.metric("simulated_error", error)
    result.metric("simulated_q10", float(np.quantile(profits, 0.1)))
    rows: list[list[Any]] = [[f"foundation model, {options.episodes} seasons (+- {error:.3f})", mean, None]]
    size = len(season.actions) * (season.cap + 1) ** len(season.utility)
    if size <= LARGEST_PROGRAM:
        known = references(season)
        exact = season_value(models["joint"], season)
        result.metric("season_ratio", exact / known["joint"])
        for name, part in (("static", "static"), ("silo", "margin_silo"), ("person", "person")):
            result.metric(f"season_{name}_ratio", known[part] / known["joint"])
        rows.append(["foundation model, exact", exact, exact / known["joint"]])
        rows += [[name.replace("_", " "), value, value / known["joint"]] for name, value in known.items()]
        result.answer = f"It earns {exact:.3f}, {exact / known['joint']:.4f} of the joint optimum {known['joint']:.3f}."
    else:
        result.notes.append(f"{size:.0f} actions and stocks a period are too many for an exact program: simulated only")
        result.answer = f"It earns {mean:.3f} +- {error:.3f} a season in simulation."
    result.table("The season", ["policy", "profit", "of the joint optimum"], rows)
    return result
