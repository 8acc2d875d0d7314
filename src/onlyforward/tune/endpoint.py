"""A score endpoint on this machine: real HTTP around any classifier, for trying out what a paid one would do."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import torch
from torch import Tensor


class ScoreServer:
    """POST {"image": [[[...]]]} -> {"scores": [...]}; listens on 127.0.0.1 while the context lasts.

    Args:
        classify: images [1, c, h, w] -> scores [1, classes].
        fail_after: requests that are answered before the connection is closed without an answer; negative is never.

    Attributes:
        seen: requests that arrived.
        repeated: requests whose body had arrived before.
    """

    def __init__(self, classify: Callable[[Tensor], Tensor], *, fail_after: int = -1) -> None:
        self.classify, self.fail_after = classify, fail_after
        self.seen, self.repeated = 0, 0
        self.bodies: set[int] = set()
        self.lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                owner.handle(self, self.rfile.read(int(self.headers.get("Content-Length", 0))))

            def log_message(self, format: str, *arguments: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True

    @property
    def url(self) -> str:
        """Address of the endpoint."""
        return f"http://127.0.0.1:{self.server.server_port}/scores"

    def __enter__(self) -> ScoreServer:
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.shutdown()
        self.server.server_close()

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
        content = json.dumps({"scores": scores}).encode()
        request.send_response(200)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)
