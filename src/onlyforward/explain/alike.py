"""How alike answers are to a reference by their meaning: embeddings of an endpoint, or of a sentence model on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from onlyforward.core.checks import require
from onlyforward.core.errors import FileError, UsageError
from onlyforward.run.http import Endpoint

if TYPE_CHECKING:
    from onlyforward.explain.command import Explain


class Embedder(Protocol):
    """Texts -> vectors [n, d]."""

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Vectors [n, d] of n texts."""
        ...


class Alike:
    """Likeness of texts to a reference: the cosine of their vectors, at least 0; every text is embedded once.

    Args:
        embed: texts -> vectors.
    """

    def __init__(self, embed: Embedder) -> None:
        self.embed = embed
        self.known: dict[str, Tensor] = {}

    def __call__(self, text: str, reference: str) -> float:
        """In 0..1; 0 for an empty text."""
        if not text.strip():
            return 0.0
        missing = [one for one in dict.fromkeys((text, reference)) if one not in self.known]
        if missing:
            self.known.update(zip(missing, self.embed(missing).double(), strict=True))
        left, right = self.known[text], self.known[reference]
        return max(0.0, float(torch.nn.functional.cosine_similarity(left, right, dim=0)))


class EndpointEmbeddings:
    """Vectors from POST .../embeddings; they are not counted as questions.

    Args:
        endpoint: of `.../embeddings`.
        model: the name that the endpoint knows.
    """

    def __init__(self, endpoint: Endpoint, model: str) -> None:
        self.endpoint, self.model = endpoint, model

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Vectors [n, d].

        Raises:
            OracleUnreachable: the endpoint fails, or answers another form.
        """
        answer = self.endpoint.post([{"model": self.model, "input": list(texts)}])[0]
        if isinstance(answer, BaseException):
            raise answer
        try:
            vectors = torch.tensor([[float(v) for v in part["embedding"]] for part in answer["data"]])
        except (KeyError, TypeError, ValueError) as error:
            raise self.endpoint.failure(f"answers JSON that holds no embeddings ({type(error).__name__})") from error
        if len(vectors) != len(texts):
            raise self.endpoint.failure(f"gives {len(vectors)} embeddings for {len(texts)} texts")
        return vectors


class LocalSentences:
    """Mean of the last hidden states of a transformer on disk; nothing is downloaded and no code of the folder runs."""

    def __init__(self, path: Path) -> None:
        transformers: Any = require("transformers", "hf")
        try:
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
            self.model = transformers.AutoModel.from_pretrained(path, local_files_only=True, use_safetensors=True)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0][:160]
            hint = "Give a folder with a safetensors model"
            raise FileError(f"{path} holds no sentence model: {reason}", hint) from error
        self.model.eval()

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Vectors [n, d]."""
        parts = self.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        with torch.no_grad():
            states = self.model(**parts).last_hidden_state
        mask = parts["attention_mask"][..., None].to(states)
        found: Tensor = (states * mask).sum(1) / mask.sum(1)
        return found


def chosen(options: Explain, url: str) -> Alike | None:
    """What `--similarity` names; None for the built-in n-grams.

    Args:
        options: of the command.
        url: base of the chat endpoint.

    Raises:
        UsageError: an unknown name.
    """
    name = options.similarity
    if name == "ngrams":
        return None
    if name == "embeddings":
        endpoint = Endpoint(
            f"{url.rstrip('/')}/embeddings",
            secret_env=options.secret_env or None,
            allow_private=options.allow_private,
        )
        return Alike(EndpointEmbeddings(endpoint, options.endpoint_model))
    if name.startswith("hf:"):
        return Alike(LocalSentences(Path(name.removeprefix("hf:"))))
    raise UsageError(f"Unknown similarity {name!r}", "Take ngrams, embeddings or hf:FOLDER")
