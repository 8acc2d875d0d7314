"""A score endpoint on this machine: real HTTP around any classifier, for trying out what a paid one would do."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from onlyforward.run.serving import LocalServer, reply


class ScoreServer(LocalServer):
    """POST {"image": [[[...]]]} -> {"scores": [...]}; listens on 127.0.0.1 while the context lasts.

    Args:
        classify: images [1, c, h, w] -> scores [1, classes].
        fail_after: requests that are answered before the connection is closed without an answer; negative is never.

    Attributes:
        seen: requests that arrived.
        repeated: requests whose body had arrived before.
    """

    def __init__(self, classify: Callable[[Tensor], Tensor], *, fail_after: int = -1) -> None:
        super().__init__("/scores")
        self.classify, self.fail_after, self.repeated = classify, fail_after, 0
        self.bodies: set[int] = set()

    def handle(self, request: Any, body: bytes) -> None:
        """Count a request and answer it; one at a time, as a single model would."""
        with self.lock:
            self.seen += 1
            self.repeated += hash(body) in self.bodies
            self.bodies.add(hash(body))
            if 0 <= self.fail_after < self.seen:
                request.close_connection = True
                return
            image = torch.tensor(json.loads(body)["image"], dtype=torch.float32)
            scores = self.classify(image[None])[0].tolist()
        reply(request, 200, {"scores": scores})
