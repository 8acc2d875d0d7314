"""A JSON server on this machine: the frame of the endpoints that demonstrations and tests talk to."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


class LocalServer:
    """Real HTTP on 127.0.0.1 while the context lasts; a subclass answers in `handle`.

    Args:
        path: of the address, such as "/v1".

    Attributes:
        seen: requests that arrived; `handle` counts them under the lock.
    """

    def __init__(self, path: str) -> None:
        self.path, self.seen, self.lock = path, 0, threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                owner.handle(self, self.rfile.read(int(self.headers.get("Content-Length", 0))))

            def log_message(self, format: str, *arguments: Any) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            request_queue_size = 128
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that went away is no news."""

        self.server = Server(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        """Address of the endpoint."""
        return f"http://127.0.0.1:{self.server.server_port}{self.path}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.shutdown()
        self.server.server_close()

    def handle(self, request: Any, body: bytes) -> None:
        """Answer one request, from one of many threads; see `reply`."""
        raise NotImplementedError


def reply(request: Any, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
    """A JSON answer."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    request.send_response(status)
    for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)
