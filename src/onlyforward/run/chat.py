"""Vision-language endpoints: an image and a question as chat/completions; the answer's text, logprobs and usage."""

from __future__ import annotations

import base64
import io
import json
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor

from onlyforward.core.checks import require
from onlyforward.run.http import Endpoint

REFUSALS = ("i can't", "i cannot", "i'm sorry", "i am sorry", "i'm unable", "i am unable", "as an ai")
"""How refusals begin."""


class ChatModel:
    """Images [n, 3, h, w] in 0..1 -> answers {text, tokens, refused, logprobs}.

    Args:
        endpoint: of `.../chat/completions`.
        model: the name the endpoint knows.
        question: asked about every image.
        logprobs: also ask for the tokens' log-probabilities and their five best alternatives.
        max_tokens: of an answer.
    """

    def __init__(
        self, endpoint: Endpoint, model: str, question: str, *, logprobs: bool = False, max_tokens: int = 64
    ) -> None:
        self.endpoint, self.model, self.question = endpoint, model, question
        self.logprobs, self.max_tokens = logprobs, max_tokens

    def body(self, row: Tensor) -> dict[str, Any]:
        """One request."""
        image = base64.b64encode(png(row)).decode("ascii")
        content = [
            {"type": "text", "text": self.question},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}},
        ]
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "seed": 0,
            "max_tokens": self.max_tokens,
        }
        return body | ({"logprobs": True, "top_logprobs": 5} if self.logprobs else {})

    def payload(self, row: Tensor) -> bytes:
        """What is sent for a row."""
        return json.dumps(self.body(row), sort_keys=True).encode()

    def __call__(self, rows: Tensor) -> list[Any]:
        """Answers, or errors in their places."""
        return [self.read(answer) for answer in self.endpoint.post([self.body(row) for row in rows])]

    def read(self, answer: Any) -> Any:
        """The parts of an answer that scores need."""
        if isinstance(answer, BaseException):
            return answer
        try:
            choice = answer["choices"][0]
            text = choice["message"]["content"] or ""
            if not isinstance(text, str):
                raise TypeError("content")
            tokens = int((answer.get("usage") or {}).get("total_tokens") or 0)
            logprobs = [
                {
                    "token": part["token"],
                    "logprob": float(part["logprob"]),
                    "top": {top["token"]: float(top["logprob"]) for top in part.get("top_logprobs") or []},
                }
                for part in ((choice.get("logprobs") or {}).get("content") or [])
            ]
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            return self.endpoint.failure(f"answers JSON that is no chat completion ({type(error).__name__})")
        refused = not text.strip() or text.strip().lower().startswith(REFUSALS)
        return {"text": text, "tokens": tokens, "refused": refused, "logprobs": logprobs}


def png(row: Tensor) -> bytes:
    """An image [3, h, w] or [1, h, w] in 0..1 as PNG, rounded to 8 bits; values beyond the border are mirrored.

    Rounding is dithered, round(v + u) with u uniform in -1/2..1/2 drawn from the image's own bytes: the mean over
    images is the value itself, and the same image is sent as the same bytes. Images that 8 bits hold are sent as they
    are.
    """
    image: Any = require("PIL.Image", "data")
    values = row.detach().double()
    values = 1 - (1 - values.remainder(2)).abs()  # mirrored at 0 and 1, so that noise keeps its distribution
    scaled = values * 255
    seed = int.from_bytes(blake2b(scaled.contiguous().numpy().tobytes(), digest_size=4).digest(), "little")
    dither = torch.rand(scaled.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 0.5
    whole = (scaled - scaled.round()).abs() < 1e-4
    array = torch.where(whole, scaled, scaled + dither).round().clamp(0, 255).to(torch.uint8).movedim(0, -1).numpy()
    target = io.BytesIO()
    image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).save(target, format="PNG")
    return target.getvalue()
