"""A chat endpoint on this machine around an ONNX classifier, with switches for every fault an endpoint can have."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from onlyforward.core.checks import check_choice, require
from onlyforward.run.serving import LocalServer, reply

FAULTS = (
    "429",
    "500",
    "reset",
    "drip",
    "huge",
    "bad-json",
    "wrong-json",
    "nan",
    "redirect",
    "unauthorised",
    "refusal",
    "empty",
    "random",
)
WORDS = ((0.9, "This is certainly"), (0.6, "This is probably"), (0.3, "This might be"), (0.0, "I am unsure; perhaps"))
"""Probability from which the words are used."""


class Loopback(LocalServer):
    """The server.

    Args:
        classify: pixels [n, 3, h, w] in 0..1 -> probabilities [n, c].
        labels: names of the classes.
        fault: one of FAULTS, or "".
        faulty: requests that have the fault (the first ones); negative is all.
        delay: seconds before an answer.
        secret: bearer token that is demanded.

    Attributes:
        seen: requests that arrived.
        log: a hash of each body, for counts of repeated ones.
    """

    def __init__(
        self,
        classify: Callable[[Tensor], Tensor],
        labels: list[str],
        *,
        fault: str = "",
        faulty: int = -1,
        delay: float = 0.0,
        secret: str = "",
    ) -> None:
        super().__init__("/v1")
        self.classify, self.labels, self.delay, self.secret = classify, labels, delay, secret
        self.fault = check_choice(fault, FAULTS, name="fault") if fault else ""
        self.faulty = faulty
        self.log: list[str] = []

    def handle(self, request: Any, body: bytes) -> None:
        """One request: count it, misbehave if asked to, answer otherwise."""
        with self.lock:
            self.seen += 1
            number = self.seen
            self.log.append(str(hash(body)))
        if request.path.endswith("/embeddings"):
            reply(request, 200, {"data": [{"embedding": embedded(text)} for text in json.loads(body)["input"]]})
            return
        if self.delay:
            time.sleep(self.delay)
        if self.secret and request.headers.get("Authorization") != f"Bearer {self.secret}":
            reply(request, 401, {"error": f"wrong key {request.headers.get('Authorization')}"})
            return
        faulty = self.fault and (self.faulty < 0 or number <= self.faulty)
        if faulty and misbehave(request, self.fault):
            return
        caption = {"refusal": "I'm sorry, I cannot help with that.", "empty": "", "random": None}
        text = caption.get(self.fault, "") if faulty else None
        reply(request, 200, self.completion(body, number, text))

    def completion(self, body: bytes, number: int, text: str | None) -> dict[str, Any]:
        """A chat completion about the image in the request."""
        asked = json.loads(body)
        image = next(part for part in asked["messages"][0]["content"] if part["type"] == "image_url")
        scores = self.classify(decoded(image["image_url"]["url"]))[0]
        top = scores.topk(min(3, len(scores)))
        names = [self.labels[i] for i in top.indices.tolist()]
        words = next(word for least, word in WORDS if float(top.values[0]) >= least)
        said = f"{words} a {names[0]}; it could also be a {' or a '.join(names[1:])}." if text is None else text
        if self.fault == "random":
            said = said.replace("a ", "some " if number % 2 else "one ")
        tokens = len(body) // 4096 + len(said.split())
        choice: dict[str, Any] = {
            "index": 0,
            "message": {"role": "assistant", "content": said},
            "finish_reason": "stop",
        }
        if asked.get("logprobs"):
            best = [
                {"token": name, "logprob": float(value.clamp_min(1e-12).log())}
                for name, value in zip(names, top.values, strict=True)
            ]
            choice["logprobs"] = {"content": [{**best[0], "top_logprobs": best}]}
        return {
            "id": f"chatcmpl-{number}",
            "object": "chat.completion",
            "model": asked["model"],
            "choices": [choice],
            "usage": {"total_tokens": tokens},
        }


def embedded(text: str) -> list[float]:
    """Counts of the letters at a text's begin and in its rest as a vector [52]: enough to tell captions apart."""
    letters = [chr(letter) for letter in range(ord("a"), ord("z") + 1)]
    return [float(part.count(letter)) for part in (text.lower()[:20], text.lower()[20:]) for letter in letters]


def decoded(url: str) -> Tensor:
    """The image of a data URL: [1, 3, h, w] in 0..1."""
    import numpy as np

    image: Any = require("PIL.Image", "data")
    content = base64.b64decode(url.split(",", 1)[1])
    array = np.array(image.open(io.BytesIO(content)).convert("RGB"))
    return torch.from_numpy(array).movedim(-1, 0)[None].float() / 255


def misbehave(request: Any, fault: str) -> bool:
    """Carry a fault out; False where it only changes the text of the answer."""
    simple = {
        "429": (429, {"error": "slow down"}, {"Retry-After": "0.05"}),
        "500": (500, {"error": "oops"}, None),
        "unauthorised": (401, {"error": f"wrong key {request.headers.get('Authorization')}"}, None),
        "bad-json": (200, b"{not json", None),
        "wrong-json": (200, {"answer": 42}, None),
        "nan": (200, b'{"choices": [{"message": {"content": NaN}}]}', None),
        "redirect": (302, b"", {"Location": "http://169.254.169.254/latest/meta-data"}),
    }
    if fault in simple:
        reply(request, *simple[fault])
        return True
    if fault == "reset":
        request.close_connection = True
        request.connection.close()
        return True
    if fault in ("drip", "huge"):
        request.send_response(200)
        request.send_header("Content-Length", str(1 << 30))
        request.end_headers()
        piece, pause = (b" ", 0.05) if fault == "drip" else (b" " * (1 << 20), 0.0)
        try:
            for _ in range(1 << 10):
                request.wfile.write(piece)
                request.wfile.flush()
                time.sleep(pause)
        except OSError:
            pass
        request.close_connection = True
        return True
    return False
