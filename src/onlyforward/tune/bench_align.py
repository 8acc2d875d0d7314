"""Case `align` of `onlyforward bench flops`: ResNet-20 and TF-IDF vectors, upright and rotated by 30 degrees."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from onlyforward.core.keys import Key
from onlyforward.run.benchmark import seeds
from onlyforward.tune.align import RATES, AlignBench, class_vectors, probe
from onlyforward.tune.alignment import recalls
from onlyforward.tune.bench_vision import table
from onlyforward.tune.encoders import TEST_TEMPLATES, TRAIN_TEMPLATES, image_encoder, lsa
from onlyforward.tune.loop import Settings
from onlyforward.tune.pictures import Shift, read_pictures
from onlyforward.tune.study import interval, run_arm
from onlyforward.tune.vision import tuned

if TYPE_CHECKING:
    from onlyforward.run.benchmark import BenchOptions
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

BUDGET = 6000
ARMS = ("neyman", "uniform", "mezo-q")


def align(options: BenchOptions, context: Context, result: Result) -> None:
    """The map of upright embeddings, then an affine map before the image encoder of rotated images."""
    encode = lsa()
    texts, unseen = class_vectors(encode, TRAIN_TEMPLATES), class_vectors(encode, TEST_TEMPLATES)
    pictures = read_pictures("cifar10", Shift("rotation", 30.0), test_limit=1000, context=context)
    bench = AlignBench(image_encoder("resnet20"), texts, unseen, pictures)
    y = pictures.data.y_test
    found: dict[str, list[float]] = {}
    for split in seeds(options):
        ours, exact = bench.fitted(split), bench.fitted(split, forward_only=False)
        bench.maps[split] = ours
        test: Any = bench.test("upright")
        for name, value in (
            ("output", recalls(ours(test), texts, y)["recall1"]),
            ("unseen", recalls(ours(test), unseen, y)["recall1"]),
            ("bp", recalls(exact(test), texts, y)["recall1"]),
            ("probe", probe(bench, split, test, y)),
        ):
            found.setdefault(name, []).append(value)
    labels = {
        "output": "map by forward runs alone",
        "unseen": "the same, unseen sentences",
        "bp": "map by its exact gradient (white box: wins on cost)",
        "probe": "linear probe on image vectors, no text",
    }
    rows = []
    for name, values in found.items():
        mean, half = interval(values)
        result.metric(f"align_{name}_recall1", mean)
        rows.append([labels[name], mean, half])
    result.table(
        f"ResNet-20 and TF-IDF vectors of ten classes, upright images, {len(values)} splits of 16 shots",
        ["arm", "recall at 1", "+-"],
        rows,
    )
    runs = []
    for arm in ARMS:
        for split in seeds(options):
            settings = tuned(Settings(budget=BUDGET, lr=RATES[0], sigma=RATES[1]), arm)
            runs.append(run_arm(arm, split, bench.trial(split), settings, key=Key(run=split)))
            context.say(f"align {arm} split {split}: {runs[-1].before:.3f} -> {runs[-1].accuracy:.3f}")
    table(
        result,
        f"Images rotated by 30 degrees, affine map before the encoder, {BUDGET} queries",
        runs,
        [],
        "align_input",
        "The map is frozen as fitted on upright images.",
    )
    result.metric("align_input_before_recall1", statistics.fmean(run.before for run in runs))
    result.metric("align_input_recall1", statistics.fmean(run.accuracy for run in runs if run.arm == "neyman"))
    result.forward_runs += sum(run.queries for run in runs)
