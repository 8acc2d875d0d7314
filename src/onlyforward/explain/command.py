"""Options of the `explain` command; the work is imported when it runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from onlyforward.run.application import Demo
from onlyforward.run.benchmark import BenchOptions
from onlyforward.run.bounds import Count, Natural, NotNegative, Positive, Share
from onlyforward.run.context import Common

if TYPE_CHECKING:
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result


@dataclass(frozen=True, kw_only=True)
class Explain(Common):
    """Where did a closed model look, and how sure is that picture?"""

    images: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Pictures, or folders of pictures."""
    model: str = ""
    """FILE.onnx, file.py:factory, https://host/v1 (chat), or loopback:FILE.onnx (a chat endpoint on this machine)."""
    budget: Count = 512
    """Questions per image, the clean one included; never exceeded."""
    text: str = ""
    """Explain a text instead: the words are the players, the model takes a list of texts."""
    target: str = "auto"
    """Output to explain: its number, its name, or auto for the top one."""
    score: str = "auto"
    """probability, logit, log-probability; chat: similarity, logprob, choice:A|B, contains:WORD or number."""
    map: str = "auto"
    """presence, shapley, banzhaf, gradient, gradient*input, smoothgrad, vargrad, integrated- or expected-gradients."""
    kind: str = "auto"
    """auto, gradient, presence, shapley or banzhaf."""
    basis: str = "auto"
    """pixel, grid:B, dct:K or superpixel:N, with /colour for one per channel; or file.py:factory of (lift, adjoint)."""
    blocks: str = ""
    """Noise in one block at a time: blockwise:K, blockwise:K/neyman, or blockwise:K/0,3 for some alone."""
    directions: str = "auto"
    """gaussian, rademacher, orthogonal or sobol."""
    difference: str = "auto"
    """plain, mean, forward or antithetic."""
    solver: str = "auto"
    """mean or ridge."""
    removal: str = "blur"
    """What stands where something is removed: blur, mean, zero or noise."""
    sigma: Positive | None = None
    """Noise in units of pixels in 0..1 (default: a twentieth of the image's standard deviation)."""
    until: Share = 0.0
    """Stop early when the estimated cosine of the map reaches this."""
    range: Literal["auto", "0..255", "0..1", "-1..1", "imagenet"] = "auto"
    """How the model reads pixels (auto: 0..1, or 0..255 for integer inputs)."""
    layout: Literal["auto", "nchw", "nhwc"] = "auto"
    """Order of the model's input dimensions."""
    size: Natural = 0
    """Side of the model's input in pixels (default: from the model, otherwise 224)."""
    labels: Path | None = None
    """Names of the outputs, a line each (default: *labels*.txt beside the model)."""
    peers: str = ""
    """Comma-separated competitors at equal cost: rise, lime, kernel-shap, occlusion, geex."""
    peer_budget: Natural = 0
    """Questions of each competitor (default: --budget)."""
    evaluate: bool = True
    """Deletion, insertion and checks beside a random map; never on paid endpoints, which --evaluate-paid allows."""
    evaluate_paid: bool = False
    """Spend further questions of an endpoint on the evaluation."""
    advise: bool = False
    """Show the plan, its price and what it can promise; ask nothing."""
    question: str = "What is shown in this picture?"
    """What a chat endpoint is asked about the image."""
    similarity: str = "ngrams"
    """How answers are compared: ngrams (words and characters), embeddings (of the endpoint), or hf:FOLDER."""
    reference: str = ""
    """Text the answers are compared with (default: the answer to the clean image)."""
    endpoint_model: str = "default"
    """Name of the model at the endpoint."""
    secret_env: str = ""
    """Environment variable that holds the endpoint's key."""
    allow_private: bool = False
    """Admit endpoints at private addresses and without encryption."""
    max_usd: NotNegative | None = None
    """Most dollars for the whole run."""
    usd_per_query: NotNegative = 0.0
    """Price of a question."""
    usd_per_1k_tokens: NotNegative = 0.0
    """Price of a thousand tokens."""
    concurrency: Count = 4
    """Open requests at an endpoint."""
    rate: NotNegative = 0.0
    """Most requests per second at an endpoint; 0 is no limit."""
    batch: Count = 64
    """Most images handed to the model at once."""
    workers: Count = 1
    """Threads that feed a local ONNX model, one session each."""
    truth: str = ""
    """file.py:factory of a differentiable twin: the cosine to its gradient is reported."""


@dataclass(frozen=True, kw_only=True)
class DemoOptions(Common):
    """The demonstration: a digits classifier as a black box, 257 questions, beside RISE at 4,096."""


@dataclass(frozen=True, kw_only=True)
class BenchSaliency(BenchOptions):
    """Maps of closed models against white-box truths and competitors at equal cost."""

    seeds: int = 3
    """Number of seeds, 0 to seeds - 1."""


DEMO = Demo(options=DemoOptions(), targets={"explain_cosine": (">=", 0.95)})


def run(options: Any, context: Context) -> Result:
    """Run the `explain` command."""
    if isinstance(options, DemoOptions):
        from onlyforward.explain.demo import demo

        return demo(options, context)
    if options.text:
        from onlyforward.explain.words import explain_text

        return explain_text(options, context)
    from onlyforward.explain.work import explain

    return explain(options, context)
