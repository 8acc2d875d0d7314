"""`tune align`: a closed image encoder and a closed text encoder brought together from a few labelled images."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from onlyforward.core.checks import check_choice
from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.run.oracle import Account, Oracle
from onlyforward.tune.adapters import Affine
from onlyforward.tune.alignment import AlignProblem, LinearMap, fit_map, recalls
from onlyforward.tune.encoders import TEST_TEMPLATES, TRAIN_TEMPLATES, image_encoder, sentences, text_encoder
from onlyforward.tune.pictures import Pictures, Shift, read_pictures
from onlyforward.tune.shots import Shots, draw_shots
from onlyforward.tune.study import Run, Study, Trial, interval, of_arm
from onlyforward.tune.summary import arms_of, report
from onlyforward.tune.vision import settings_of

if TYPE_CHECKING:
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result
    from onlyforward.tune.command import Align

ADAPTERS = ("output", "input", "prompt", "input+prompt")
RATES = (0.03, 0.05)


@dataclass
class AlignBench:
    """Two closed encoders, class texts, and images.

    Attributes:
        encode: images [n, 3, h, w] in 0..1 -> vectors [n, d_i].
        texts: unit vectors of the classes from the sentences that are fitted on [c, d_t].
        unseen: the same from sentences that are not.
        pictures: shifted images.
        shots: of each class.
        prompt: also move the class vectors.
        moved: whether images are adapted.
        maps: split -> the frozen map of upright images.
    """

    encode: Callable[[Tensor], Tensor]
    texts: Tensor
    unseen: Tensor
    pictures: Pictures
    shots: int = 16
    moved: bool = True
    prompt: bool = False
    maps: dict[int, LinearMap] = field(default_factory=dict)
    stored: dict[str, Tensor] = field(default_factory=dict)

    def drawn(self, split: int) -> Shots:
        """The shots of a split."""
        data = self.pictures.data
        return draw_shots(data.y_train, shots=self.shots, split=split, names=data.labels)

    def upright(self, split: int) -> tuple[Tensor, Tensor, int]:
        """Vectors and classes of the unshifted shots, training ones first, and how many train."""
        drawn = self.drawn(split)
        data = self.pictures.data
        return self.encoded(data.x_train[drawn.rows]), data.y_train[drawn.rows], len(drawn.train)

    def encoded(self, x: Tensor) -> Tensor:
        """Vectors of images, outside every budget."""
        return torch.cat([torch.as_tensor(self.encode(part)).clone() for part in x.split(128)]).double()

    def fitted(self, split: int, *, forward_only: bool = True) -> LinearMap:
        """The map of upright images, fitted on the shots."""
        x, y, m = self.upright(split)
        return fit_map(x[:m], y[:m], self.texts, x[m:], y[m:], forward_only=forward_only)[0]

    def test(self, name: str) -> Tensor:
        """Vectors of the test images, "upright" or "shifted", encoded once."""
        if name not in self.stored:
            images = self.pictures.test() if name == "shifted" else self.pictures.data.x_test
            self.stored[name] = self.encoded(images)
        return self.stored[name]

    def trial(self, split: int) -> Trial:
        """An affine map before the image encoder, the map of upright images frozen behind it."""
        if split not in self.maps:
            self.maps[split] = self.fitted(split)
        mapped, drawn, data = self.maps[split], self.drawn(split), self.pictures.data
        images, labels = self.pictures.shots(drawn.rows, split), data.y_train[drawn.rows]
        shape = data.shape
        adapter = Affine((shape[0], shape[1], shape[2]))
        oracle = Oracle(lambda rows: torch.as_tensor(self.encode(rows)), batch=128, account=Account())

        def rows(theta: Tensor, items: Tensor) -> Tensor:
            return adapter(images[items], theta) if self.moved else images[items]

        m = len(drawn.train)
        problem = AlignProblem(
            oracle, rows, labels, adapter.start, torch.arange(m), torch.arange(m, len(labels)), mapped, self.texts
        )

        def evaluate(theta: Tensor) -> float:
            start = bool(torch.equal(theta, adapter.start))
            test = self.pictures.test()
            found = (
                self.test("shifted")
                if start
                else torch.cat([self.encoded(adapter(part, theta.expand(len(part), -1))) for part in test.split(128)])
            )
            return float(recalls(mapped(found), self.texts, data.y_test)["recall1"])

        return Trial(problem, evaluate)


def class_vectors(encode: Callable[..., Tensor], templates: tuple[str, ...]) -> Tensor:
    """Unit mean vector of each class's sentences [c, d_t]."""
    texts, classes = sentences(templates)
    found = torch.as_tensor(encode(texts)).double()
    means = [found[classes == number].mean(0) for number in range(int(classes.max()) + 1)]
    return F.normalize(torch.stack(means), dim=1)


def opened(options: Align, context: Context) -> AlignBench:
    """Encoders, texts and images of a command line.

    Raises:
        UsageError: other images than CIFAR-10, whose class sentences are known.
    """
    if options.data != "cifar10":
        raise UsageError(f"There are no class sentences for {options.data}", "Give --data cifar10")
    check_choice(options.adapter, ADAPTERS, name="adapter")
    pictures = read_pictures(
        "cifar10", Shift(options.shift, options.severity), test_limit=options.test_limit, context=context
    )
    encode = text_encoder(options.text_encoder)
    texts, unseen = class_vectors(encode, TRAIN_TEMPLATES), class_vectors(encode, TEST_TEMPLATES)
    return AlignBench(image_encoder(options.image_encoder), texts, unseen, pictures, options.shots)


def align_command(options: Align, context: Context) -> Result:
    """`onlyforward tune align`."""
    torch.set_num_threads(options.threads)
    result = context.result(question=f"How well do {options.image_encoder} and {options.text_encoder} agree?")
    if options.candidates != "classes":
        return retrieval(options, context, result)
    bench = opened(options, context)
    if options.adapter == "output":
        return output(options, bench, result)
    if options.adapter == "prompt":
        return prompted(options, bench, result)
    study = Study(context, bench.trial, settings_of(options, RATES), proxy=options.proxy, first=options.seed)
    runs = list(study.run(arms_of(options), options.splits))
    report(options, result, runs, headline=options.allocator, missing=study.missing, note=NOTE)
    main = of_arm(runs, options.allocator)
    result.metric("recall1_before", statistics.fmean(run.before for run in main))
    result.metric("recall1", statistics.fmean(run.accuracy for run in main))
    if options.adapter == "input+prompt":
        combined(options, bench, main, result)
    result.artefacts = {"theta": torch.tensor(runs[0].theta, dtype=torch.float64)}
    result.forward_runs = sum(run.queries for run in runs)
    return result


NOTE = (
    "The map from image to text vectors was fitted on upright images and is frozen; what is tuned stands before the "
    "image encoder. Accuracy is recall at 1 among ten class texts."
)


def output(options: Align, bench: AlignBench, result: Result) -> Result:
    """The map of frozen embeddings alone: forward-only beside the exact white-box gradient, which wins on cost."""
    found: dict[str, list[dict[str, Any]]] = {"recall": [], "unseen": [], "bp": [], "chance": [], "probe": []}
    y = bench.pictures.data.y_test
    for k in range(options.splits):
        split = options.seed + k
        ours, exact = bench.fitted(split), bench.fitted(split, forward_only=False)
        test = bench.test("shifted")
        found["recall"].append(recalls(ours(test), bench.texts, y))
        found["unseen"].append(recalls(ours(test), bench.unseen, y))
        found["bp"].append(recalls(exact(test), bench.texts, y))
        generator = Key(run=split, site="align/fresh").generator()
        fresh = torch.randn(bench.texts.shape[1], test.shape[1], generator=generator, dtype=torch.float64)
        found["chance"].append(recalls(test @ fresh.T, bench.texts, y))
        found["probe"].append({"recall1": probe(bench, split, test, y)})
        if k == 0:
            result.artefacts = {"weight": ours.weight, "bias": ours.bias}
    names = {"recall": "recall1", "unseen": "recall1_unseen", "bp": "bp_recall1", "chance": "recall1_before"}
    rows = []
    for arm, label in (
        ("chance", "fresh map"),
        ("recall", "map by forward runs alone"),
        ("unseen", "the same, unseen sentences"),
        ("bp", "map by its exact gradient (white box)"),
        ("probe", "linear probe on the image vectors"),
    ):
        mean, half = interval([values["recall1"] for values in found[arm]])
        result.metric(names.get(arm, "probe_recall1"), mean)
        rows.append([label, mean, half])
    result.metric("recall1_text", statistics.fmean(values["recall1_text"] for values in found["recall"]))
    result.metric("median_rank", statistics.fmean(values["median_rank"] for values in found["recall"]))
    result.metric("queries", 10 * options.shots)
    result.metric("budget", options.budget)
    result.table(
        f"Recall at 1 among ten class texts, {options.splits} splits of {options.shots} shots",
        ["arm", "recall at 1", "+-"],
        rows,
        "The encoders are asked once per shot. The map's own gradient is known, so the white box wins on cost.",
    )
    result.answer = f"Recall at 1 {rows[1][1]:.3f} by forward runs, {rows[3][1]:.3f} by the exact gradient."
    return result


def probe(bench: AlignBench, split: int, test: Tensor, y: Tensor) -> float:
    """A linear probe on the image vectors: what the shots allow without any text."""
    from onlyforward.tune.outputs import cross_fit

    x, labels, _ = bench.upright(split)
    readout = cross_fit(x, labels, classes=10).whole
    return float((readout(test).argmax(1) == y).double().mean())


def class_offsets(bench: AlignBench, split: int, images: Tensor, y: Tensor, m: int, key: Key) -> Tensor:
    """Class vectors moved by likelihood ratio from the shots' mapped embeddings; no encoder is asked. [c, d_t].

    The best state by validation loss is returned, the start included.
    """
    scale = bench.maps[split].inverse_temperature
    texts, best = bench.texts.clone(), bench.texts.clone()
    x = F.normalize(images, dim=1)

    def loss(vectors: Tensor, rows: slice) -> Tensor:
        return F.cross_entropy(scale * x[rows] @ F.normalize(vectors, dim=-1).mT, y[rows], reduction="none")

    least = float(loss(texts, slice(m, None)).mean())
    sigma, optimizer_rate, moment = 0.02, 0.05, torch.zeros_like(texts)
    for step in range(200):
        generator = key.at(site="align/prompt", step=step).generator()
        eps = torch.randn(16, *texts.shape, generator=generator, dtype=texts.dtype)
        slope = torch.stack(
            [(loss(texts + sigma * e, slice(0, m)).mean() - loss(texts - sigma * e, slice(0, m)).mean()) for e in eps]
        ) / (2 * sigma)
        moment = 0.9 * moment + 0.1 * torch.einsum("n,ncd->cd", slope, eps) / len(eps)
        texts = texts - optimizer_rate * moment
        if step % 10 == 9:
            found = float(loss(texts, slice(m, None)).mean())
            if found < least:
                least, best = found, texts.clone()
    return F.normalize(best, dim=1)


def prompted(options: Align, bench: AlignBench, result: Result) -> Result:
    """Class vectors behind the closed text encoder, on the shifted images."""
    before, after = [], []
    data = bench.pictures.data
    for k in range(options.splits):
        split = options.seed + k
        mapped = bench.maps.setdefault(split, bench.fitted(split))
        drawn = bench.drawn(split)
        x = mapped(bench.encoded(bench.pictures.shots(drawn.rows, split)))
        texts = class_offsets(bench, split, x, data.y_train[drawn.rows], len(drawn.train), Key(run=split))
        found = mapped(bench.test("shifted"))
        before.append(recalls(found, bench.texts, data.y_test)["recall1"])
        after.append(recalls(found, texts, data.y_test)["recall1"])
        result.artefacts = result.artefacts or {"texts": texts}
    for name, values in (("recall1_before", before), ("recall1", after)):
        result.metric(name, interval(values)[0])
        result.metric(f"{name}_ci", interval(values)[1])
    result.metric("queries", 10 * options.shots)
    result.metric("budget", options.budget)
    result.table(
        "Class vectors", ["split", "before", "recall at 1"], [[k, *f] for k, f in enumerate(zip(before, after))]
    )
    result.answer = f"Recall at 1 {interval(before)[0]:.3f} before and {interval(after)[0]:.3f} after."
    return result


def combined(options: Align, bench: AlignBench, main: list[Run], result: Result) -> None:
    """Class vectors on top of the tuned images."""
    data = bench.pictures.data
    values = []
    shape = data.shape
    adapter = Affine((shape[0], shape[1], shape[2]))
    for run in main:
        theta = torch.tensor(run.theta, dtype=torch.float64)
        drawn, mapped = bench.drawn(run.split), bench.maps[run.split]
        shots, test = bench.pictures.shots(drawn.rows, run.split), bench.pictures.test()
        x = mapped(bench.encoded(adapter(shots, theta.expand(len(shots), -1))))
        texts = class_offsets(bench, run.split, x, data.y_train[drawn.rows], len(drawn.train), Key(run=run.split))
        found = torch.cat([bench.encoded(adapter(p, theta.expand(len(p), -1))) for p in test.split(128)])
        values.append(recalls(mapped(found), texts, data.y_test)["recall1"])
    result.metric("recall1", interval(values)[0])
    result.metric("recall1_ci", interval(values)[1])


def retrieval(options: Align, context: Context, result: Result) -> Result:
    """Instance retrieval: the same image through two image encoders, among N candidates."""
    word, _, number = options.candidates.partition(":")
    if word != "images" or not number.isdigit() or int(number) < 10:
        raise UsageError(f"--candidates is {options.candidates!r}", "Give classes, or images:1000")
    pictures = read_pictures("cifar10", Shift("none"), test_limit=int(number), context=context)
    other_name = "vit" if options.image_encoder != "vit" else "resnet20"
    left, right = image_encoder(options.image_encoder), image_encoder(other_name)
    rows = pictures.data.x_train[: 100 * options.shots]
    a, b = (torch.cat([torch.as_tensor(e(p)).clone() for p in rows.split(128)]).double() for e in (left, right))
    mean_a, mean_b = a.mean(0), b.mean(0)
    # Ridge regression from one space into the other: the exact linear map, with a penalty of one unit a direction.
    gram = (a - mean_a).T @ (a - mean_a) + torch.eye(a.shape[1], dtype=a.dtype)
    weight = torch.linalg.solve(gram, (a - mean_a).T @ (b - mean_b))
    x, y = (
        torch.cat([torch.as_tensor(e(p)).clone() for p in pictures.data.x_test.split(128)]).double()
        for e in (left, right)
    )
    mapped, other = F.normalize((x - mean_a) @ weight, dim=1), F.normalize(y - mean_b, dim=1)
    similarity = mapped @ other.T
    rank = 1 + (similarity > similarity.diagonal()[:, None]).sum(1)
    recall, median = float((rank == 1).double().mean()), float(rank.double().median())
    result.metric("recall1", recall)
    result.metric("recall1_before", 1 / len(x))
    result.metric("median_rank", median)
    result.metric("queries", 2 * len(rows))
    result.metric("budget", options.budget)
    result.table(
        f"The same image found among {len(x)}, {len(rows)} pairs fitted",
        ["arm", "recall at 1", "median rank"],
        [["chance", 1 / len(x), len(x) / 2], ["linear map", recall, median]],
    )
    result.answer = f"Recall at 1 {recall:.3f} among {len(x)} images."
    return result
