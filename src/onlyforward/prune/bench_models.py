"""Unmodified models of other libraries: each must have a finite measure, finite slopes and a step that works."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from onlyforward.core.checks import require
from onlyforward.core.errors import OnlyForwardError
from onlyforward.prune.connect import CoNNect

if TYPE_CHECKING:
    from onlyforward.run.result import Result

Made = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]


def words() -> dict[str, Any]:
    """Eight word numbers."""
    return {"input_ids": torch.arange(8)[None]}


def pixels(size: int = 32) -> dict[str, Any]:
    """One small picture."""
    return {"pixel_values": torch.rand(1, 3, size, size)}


def language(name: str, **settings: Any) -> Callable[[], Made]:
    """A tiny random configuration of a transformers model: NAME is "LlamaForCausalLM" and the like."""

    def make() -> Made:
        library = require("transformers", "hf")
        kind = getattr(library, name)
        config = kind.config_class(
            **{
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "vocab_size": 64,
                "use_cache": False,
            }
            | settings
        )
        return kind(config), (), words()

    return make


def vision(name: str, **settings: Any) -> Callable[[], Made]:
    """A tiny random configuration of a transformers image model."""

    def make() -> Made:
        library = require("transformers", "hf")
        kind = getattr(library, name)
        return kind(kind.config_class(**settings)), (), pixels(settings.get("image_size", 32))

    return make


def geometric(name: str) -> Callable[[], Made]:
    """A two-layer model of torch-geometric on a ring of six nodes."""

    def make() -> Made:
        models = require("torch_geometric.nn.models", "graph")
        ring = torch.arange(6)
        edges = torch.stack([torch.cat([ring, ring.roll(1)]), torch.cat([ring.roll(1), ring])])
        return getattr(models, name)(5, 8, 2, 3), (torch.rand(6, 5), edges), {}

    return make


class Last(nn.Module):
    """A recurrent layer of torch with a head on its last output."""

    def __init__(self, inner: nn.Module, width: int) -> None:
        super().__init__()
        self.inner, self.head = inner, nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, t, 6] -> [b, 3]."""
        return self.head(self.inner(x)[0][:, -1])


def recurrent(kind: type[nn.Module]) -> Callable[[], Made]:
    """nn.LSTM, nn.GRU or nn.RNN, two layers, both ways."""
    return lambda: (Last(kind(6, 8, 2, batch_first=True, bidirectional=True), 16), (torch.rand(1, 5, 6),), {})


def encoder() -> Made:
    """nn.TransformerEncoder with two layers."""
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), (torch.rand(1, 5, 16),), {}


MODELS: Mapping[str, Callable[[], Made]] = {
    "transformers Llama": language(
        "LlamaForCausalLM", intermediate_size=64, num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2
    ),
    "transformers OPT": language("OPTForCausalLM", ffn_dim=64, word_embed_proj_dim=32, max_position_embeddings=32),
    "transformers GPT-NeoX": language("GPTNeoXForCausalLM", intermediate_size=64, max_position_embeddings=32),
    "transformers GPT-2": language("GPT2LMHeadModel", n_embd=32, n_layer=2, n_head=4, n_positions=32),
    "transformers Mistral": language("MistralForCausalLM", intermediate_size=64, num_key_value_heads=2),
    "transformers Qwen2": language("Qwen2ForCausalLM", intermediate_size=64, num_key_value_heads=2),
    "transformers BERT": language("BertForSequenceClassification", intermediate_size=64),
    "transformers DistilBERT": language("DistilBertModel", dim=32, n_layers=2, n_heads=4, hidden_dim=64),
    "transformers ViT": vision(
        "ViTForImageClassification",
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
    ),
    "transformers ResNet": vision(
        "ResNetForImageClassification", embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
    ),
    "transformers MobileNetV2": vision("MobileNetV2ForImageClassification", depth_multiplier=0.35, image_size=64),
    "transformers ConvNeXt": vision(
        "ConvNextForImageClassification", hidden_sizes=[8, 16], depths=[1, 1], num_stages=2
    ),
    "transformers RegNet": vision(
        "RegNetForImageClassification", embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], groups_width=4
    ),
    "torch TransformerEncoder": encoder,
    "torch LSTM": recurrent(nn.LSTM),
    "torch GRU": recurrent(nn.GRU),
    "torch RNN": recurrent(nn.RNN),
    "torch-geometric GCN": geometric("GCN"),
    "torch-geometric GraphSAGE": geometric("GraphSAGE"),
    "torch-geometric GIN": geometric("GIN"),
    "torch-geometric GAT": geometric("GAT"),
}


def examine(make: Callable[[], Made]) -> tuple[bool, float, float, str]:
    """Whether a model passes, its R, the fraction of weight tensors in the flow, and what went wrong."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, args, kwargs = make()
        model.eval()
        matrices = [p for p in model.parameters() if p.ndim > 1]
        try:
            connect = CoNNect(model, args, example_kwargs=kwargs, attention="qkv")
            r = connect()
            r.backward()  # type: ignore[no-untyped-call]
            reached = [p for p in matrices if p.grad is not None]
            good = math.isfinite(float(r.detach())) and bool(reached)
            good &= all(bool(p.grad.isfinite().all()) for p in reached if p.grad is not None)
            shares = connect.shares()
            good &= all(bool((s >= 0).all()) and float(s.sum()) <= 2 + 1e-6 for s in shares.values())
            connect.step_(0.01)
            with torch.no_grad():
                model(*args, **kwargs)
        except (OnlyForwardError, RuntimeError, AttributeError, TypeError) as error:
            return False, math.nan, 0.0, f"{type(error).__name__}: {str(error)[:120]}"
    return good, float(r.detach()), len(reached) / len(matrices), ""


def run_models(result: Result, *, say: Callable[[str], None]) -> None:
    """Every model into the result; a library that is not installed is said so and counts as neither."""
    from onlyforward.core.errors import MissingExtra

    rows: list[list[Any]] = []
    passed = failed = 0
    for name, make in MODELS.items():
        say(name)
        try:
            good, r, fraction, wrong = examine(make)
        except MissingExtra as missing:
            rows.append([name, None, None, None, str(missing)])
            continue
        passed, failed = passed + good, failed + (not good)
        rows.append([name, good, r, fraction, wrong])
    result.metric("models_passed", passed)
    result.metric("models_failed", failed)
    result.table(
        "Unmodified models of other libraries",
        ["model", "passes", "R", "weights in the flow", "wrong"],
        rows,
        "Passes: R and its slopes are finite, shares are non-negative and sum to at most 1 per use of a tensor, the "
        "decoupled step runs and the model still does. Outside the flow: positions, class tokens, attention vectors.",
    )
