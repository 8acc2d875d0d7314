"""A small text classifier with an instruction slot, trained once by this project and closed afterwards.

Two transformer layers of width 64 over SST-2 and AG News read a prefix of four vectors that says which of five
questions is asked: is it positive, and is it about world, sports, business, science. The prefixes are learned with the
network and jittered in training; tuning never sees them and starts from zeros.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onlyforward.core.checks import check_choice
from onlyforward.core.keys import Key
from onlyforward.data.sets import Dataset, load
from onlyforward.data.texts import encode, vocabulary_of

if TYPE_CHECKING:
    from collections.abc import Callable

TASKS = ("sst2", "world", "sports", "business", "scitech")
"""Questions; the last four are AG News topics 0 to 3 against the rest."""
WIDTH, TOKENS, LENGTH, WORDS = 64, 4, 40, 8000
EPOCHS, BATCH, RATE, JITTER = 5, 64, 1.5e-3, 0.3
VERSION = "2"


class TextModel(nn.Module):
    """Prefix vectors and word numbers in, two scores out.

    Args:
        words: size of the vocabulary.
    """

    def __init__(self, words: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, WIDTH, padding_idx=0)
        self.position = nn.Parameter(torch.zeros(TOKENS + LENGTH, WIDTH))
        self.prefix = nn.Parameter(torch.randn(len(TASKS), TOKENS, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2)

    def forward(self, prefix: Tensor, ids: Tensor) -> Tensor:
        """Scores [n, 2] of prefix [n, 4, 64] and words [n, 40], 0 pads."""
        x = torch.cat((prefix, self.embedding(ids)), 1) + self.position
        blank = torch.cat((torch.zeros(len(ids), TOKENS, dtype=torch.bool), ids == 0), 1)
        mask = torch.zeros(len(ids), 1, 1, TOKENS + LENGTH).masked_fill_(blank[:, None, None], -torch.inf)
        *inner, last = self.layers.layers
        for layer in inner:
            x = encoded(layer, x, x.shape[1], mask)
        return self.head(self.norm(encoded(last, x, 1, mask)[:, 0]))


def encoded(layer: Any, x: Tensor, count: int, mask: Tensor) -> Tensor:
    """The first `count` tokens behind a pre-norm encoder layer: [n, t, w] -> [n, count, w].

    torch's own layer computes every token, of which the head reads one behind the last layer: half of the work.

    Args:
        layer: an `nn.TransformerEncoderLayer` with rectifiers.
        x: [n, t, w].
        count: of tokens that are wanted; all of them are attended to.
        mask: [n, 1, 1, t], added to the similarities.
    """
    attention, width = layer.self_attn, x.shape[2]
    y = layer.norm1(x)
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    asked = linear(y[:, :count], weight[:width], bias[:width])
    seen, told = linear(y, weight[width:], bias[width:]).chunk(2, -1)
    heads = [part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in (asked, seen, told)]
    found = F.scaled_dot_product_attention(*heads, attn_mask=mask).transpose(1, 2).flatten(2)
    x = linear(found, attention.out_proj.weight, attention.out_proj.bias).add_(x[:, :count])
    inside = linear(layer.norm2(x), layer.linear1.weight, layer.linear1.bias).relu_()
    return linear(inside, layer.linear2.weight, layer.linear2.bias).add_(x)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """X W' + b of rows [n, t, w]; adding b in place spares the copy that torch's addmm begins with."""
    return (x.reshape(-1, x.shape[-1]) @ weight.T).add_(bias).unflatten(0, x.shape[:2])


@dataclass(frozen=True)
class TextTask:
    """One question with its texts.

    Attributes:
        name: of the question.
        pool: word numbers [m, 40] that shots are drawn from; the model was not trained on them.
        labels: [m], 1 is yes.
        test: word numbers of the test part.
        test_labels: theirs.
        vocabulary: the word of each number.
    """

    name: str
    pool: Tensor
    labels: Tensor
    test: Tensor
    test_labels: Tensor
    vocabulary: tuple[str, ...]


@dataclass(frozen=True)
class Corpus:
    """Both sets under one vocabulary.

    Attributes:
        sets: "sst2" and "ag_news".
        vocabulary: shared.
    """

    sets: Mapping[str, Dataset]
    vocabulary: tuple[str, ...]

    def part(self, name: str, part: str) -> tuple[Tensor, Tensor]:
        """Word numbers and labels of "fit" (three quarters of the training part), "pool" (the rest) or "test"."""
        data = self.sets[name]
        if part == "test":
            return encode(data.texts_test, self.vocabulary)[0][:, :LENGTH], data.y_test
        rows = [i for i in range(len(data.texts_train)) if (i % 4 == 3) == (part == "pool")]
        texts = [data.texts_train[i] for i in rows]
        return encode(texts, self.vocabulary)[0][:, :LENGTH], data.y_train[rows]


def corpus() -> Corpus:
    """SST-2 and AG News; the vocabulary is that of the texts the model is trained on."""
    sets = {name: load(name) for name in ("sst2", "ag_news")}
    texts = [t for data in sets.values() for i, t in enumerate(data.texts_train) if i % 4 != 3]
    return Corpus(sets, vocabulary_of(texts)[:WORDS])


def question(made: Corpus, name: str) -> TextTask:
    """The texts of one question; topics against as many others."""
    number = TASKS.index(check_choice(name, TASKS, name="task"))
    parts = []
    for part in ("pool", "test"):
        x, y = made.part("sst2" if name == "sst2" else "ag_news", part)
        parts += [(x, y)] if name == "sst2" else [balanced(x, y, number - 1, part)]
    return TextTask(name, *parts[0], *parts[1], made.vocabulary)


def balanced(x: Tensor, topics: Tensor, topic: int, part: str) -> tuple[Tensor, Tensor]:
    """Texts of a topic and as many others, shuffled."""
    yes, no = (topics == topic).nonzero().flatten(), (topics != topic).nonzero().flatten()
    key = Key(step=topic, site=f"tune/texts/{part}")
    no = no[torch.randperm(len(no), generator=key.generator())[: len(yes)]]
    rows = torch.cat((yes, no))
    rows = rows[torch.randperm(len(rows), generator=key.at(chunk=1).generator())]
    return x[rows], (topics[rows] == topic).long()


def cache_folder() -> Path:
    """$ONLYFORWARD_CACHE, or the user's cache folder."""
    named = os.environ.get("ONLYFORWARD_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(named) if named else base / "onlyforward"


def text_model(made: Corpus, *, say: Callable[[str], None] = lambda text: None) -> TextModel:
    """The trained model, from the cache or trained now (under two minutes on two cores); always in eval mode."""
    from safetensors.torch import load_file, save

    from onlyforward.run.checkpoint import write_atomically

    content = f"{VERSION} {EPOCHS} {BATCH} {RATE} {JITTER} {LENGTH} {torch.__version__}" + "\n".join(made.vocabulary)
    path = cache_folder() / f"text-{sha256(content.encode()).hexdigest()[:16]}.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(Key(site="tune/texts").seed)
        model = TextModel(len(made.vocabulary))
    if path.is_file():
        model.load_state_dict(load_file(path))
    else:
        say(f"training the text model once; it is kept in {path.parent}")
        train(model, made, say)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, save({name: t.contiguous() for name, t in model.state_dict().items()}))
    return model.requires_grad_(False).eval()


def train(model: TextModel, made: Corpus, say: Callable[[str], None]) -> None:
    """Backpropagation over all five questions, prefixes jittered, a quarter of the words dropped."""
    x1, y1 = made.part("sst2", "fit")
    x2, topics = made.part("ag_news", "fit")
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    steps = -(-(len(x1) + len(x2)) // BATCH) * EPOCHS
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    model.train()
    step = 0
    for epoch in range(EPOCHS):
        generator = Key(step=epoch, site="tune/texts/order").generator()
        # A topic question about a text is its own topic half of the time, and any other topic otherwise.
        own = torch.rand(len(topics), generator=generator) < 0.5
        asked = torch.where(own, topics, (topics + torch.randint(1, 4, topics.shape, generator=generator)) % 4)
        ids = torch.cat((x1, x2))
        tasks = torch.cat((torch.zeros_like(y1), asked + 1))
        labels = torch.cat((y1, (asked == topics).long()))
        for rows in torch.randperm(len(ids), generator=generator).split(BATCH):
            prefix = model.prefix[tasks[rows]]
            prefix = prefix + JITTER * torch.randn(prefix.shape, generator=generator)
            words = ids[rows]
            words = torch.where((torch.rand(words.shape, generator=generator) < 0.25) & (words > 0), 1, words)
            optimizer.zero_grad()
            F.cross_entropy(model(prefix, words), labels[rows]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            step += 1
        say(f"text model: epoch {epoch + 1} of {EPOCHS}")
