"""Case natural: photos and closed ImageNet classifiers, ours beside RISE, LIME, KernelSHAP, occlusion and chance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from onlyforward.core.errors import MissingExtra
from onlyforward.core.keys import Key
from onlyforward.data.sets import folder
from onlyforward.explain.bench.tally import Tally, runs
from onlyforward.explain.evaluation import Check
from onlyforward.explain.images import in_range, read_image
from onlyforward.explain.intervals import interval
from onlyforward.explain.metrics import deletion, insertion, random_map
from onlyforward.explain.peers import KernelShap, Lime, Occlusion, Rise
from onlyforward.explain.saliency import Saliency
from onlyforward.run.onnx import OnnxModel
from onlyforward.run.oracle import Account, Oracle

if TYPE_CHECKING:
    from onlyforward.run.benchmark import BenchOptions
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

SMALL, LARGE = "mobilenet_v1_0.25_128_int8w.onnx", "mobilenet_v2_1.0_224_int8w.onnx"
COLUMNS = {
    "deletion": "deletion (lower is better)",
    "insertion": "insertion (higher is better)",
    "faithfulness": "insertion - deletion",
    "queries": "questions",
}
Maker = Callable[[Oracle, Tensor, int, Key], Tensor]


def photographs(remainder: int) -> list[Path]:
    """The shared sample photos in order of name, numbered from 1: odd ones are reported, even ones chose defaults."""
    found = sorted((folder("imagenet_samples")).glob("*.JPEG"))
    return [path for number, path in enumerate(found, 1) if number % 2 == remainder]


def classifier(file: str) -> tuple[Oracle, tuple[int, int]]:
    """A closed classifier of pixels in 0..1, and the size of its pictures."""
    model = OnnxModel(folder("models") / file)
    oracle = in_range(Oracle(model, identity=model.identity), "0..255")
    return oracle, model.size or (224, 224)


def ours(budget: int, **settings: Any) -> Maker:
    """Our map with its defaults."""

    def make(oracle: Oracle, x: Tensor, target: int, key: Key) -> Tensor:
        found: Tensor = Saliency(oracle, **settings).attribute(x, target=target, budget=budget, key=key).map
        return found

    return make


def peer(kind: Any, budget: int, removal: str) -> Maker:
    """A competitor with what it removes."""

    def make(oracle: Oracle, x: Tensor, target: int, key: Key) -> Tensor:
        found: Tensor = kind(oracle, baseline=removal).attribute(x, target=target, budget=budget, key=key)
        return found

    return make


def blind(oracle: Oracle, x: Tensor, target: int, key: Key) -> Tensor:
    """A map without knowledge."""
    return random_map((x.shape[1], x.shape[2]), key)


ARMS: dict[str, Maker] = {
    "auto_256": ours(256),
    "auto_512": ours(512),
    "mean_256": ours(256, solver="mean"),
    "rise_256": peer(Rise, 256, "zero"),
    "rise_512": peer(Rise, 512, "zero"),
    "rise_1024": peer(Rise, 1024, "zero"),
    "rise_blur_256": peer(Rise, 256, "blur"),
    "rise_blur_512": peer(Rise, 512, "blur"),
    "rise_blur_1024": peer(Rise, 1024, "blur"),
    "lime_256": peer(Lime, 256, "blur"),
    "kernel_shap_256": peer(KernelShap, 256, "blur"),
    "occlusion_256": peer(Occlusion, 256, "blur"),
    "random": blind,
}
SMALL_ARMS = [name for name in ARMS if not name.endswith("512") or name == "auto_512"]
LARGE_ARMS = ("auto_512", "rise_512", "rise_blur_512", "random")


def natural(options: BenchOptions, context: Context, result: Result) -> None:
    """The small network; in full mode the large one too."""
    tally = compared(options, context, result, "natural", SMALL, SMALL_ARMS)
    gain(result, tally, "natural_gain_low", "auto_256", "rise_256")
    gain(result, tally, "natural_gain_1024_low", "auto_256", "rise_1024")
    gain(result, tally, "natural_gain_blur_low", "auto_256", "rise_blur_256")
    if "lime_256" in tally.arms:
        gain(result, tally, "natural_gain_lime_low", "auto_256", "lime_256")
    if not options.quick and "natural-v2" not in (options.cases or "natural-v2"):
        natural_v2(options, context, result)


def natural_v2(options: BenchOptions, context: Context, result: Result) -> None:
    """The large network, one seed; a part of `natural` that can run alone."""
    tally = compared(options, context, result, "natural_v2", LARGE, list(LARGE_ARMS))
    gain(result, tally, "natural_v2_gain_low", "auto_512", "rise_512")


def gain(result: Result, tally: Tally, name: str, left: str, right: str) -> None:
    """Lower end of the 95 % interval over images of the paired difference in faithfulness."""
    result.metric(name, interval(tally.difference(left, right, "faithfulness"))[0])


def compared(options: BenchOptions, context: Context, result: Result, case: str, file: str, arms: list[str]) -> Tally:
    """Every arm on every reported photo; a large network sees one seed."""
    served, size = classifier(file)
    tally = Tally(case)
    missing: list[str] = []
    seeds = runs(options) if file == SMALL else range(1)
    paths = photographs(1)
    with context.progress(len(seeds) * len(paths), label=case) as tick:
        for seed in seeds:
            for number, path in enumerate(paths):
                x = read_image(path, size)
                key = Key(run=seed, step=number)
                target = int(served(x[None])[0].argmax())
                check = Check(replace(served, account=Account()), target, "probability")
                for name in arms:
                    oracle = replace(served, account=Account())
                    try:
                        found = ARMS[name](oracle, x, target, key)
                    except MissingExtra:
                        if name not in missing:
                            missing.append(name)
                        continue
                    down, up = deletion(check, x, found).area, insertion(check, x, found).area
                    tally.add(
                        name, path.stem, deletion=down, insertion=up, faithfulness=up - down,
                        queries=oracle.account.queries,
                    )  # fmt: skip
                    result.forward_runs += oracle.account.queries
                result.forward_runs += check.oracle.account.queries
                tick()
    tally.report(
        result,
        f"{case}: {file}, {len(paths)} photos x {len(seeds)} seeds; deletion to the mean, insertion from a blur",
        COLUMNS,
        "RISE and rise blur are one method with zero and with our blur where something is removed; LIME, KernelSHAP "
        "and occlusion are given our blur. Photos are the odd-numbered ones of the sorted samples."
        + (f" Not installed: {', '.join(missing)}." if missing else ""),
    )
    return tally
