"""Endpoints over HTTP: one host, no redirects, deadlines, a cap on bodies, polite retries; secrets never leave.

One asyncio loop in a thread serves all requests of an endpoint behind a synchronous call. The host is resolved once and
the connection goes to that address: a name that turns private later reaches nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from torch import Tensor

from onlyforward.core.checks import check_range, require
from onlyforward.core.errors import OracleUnreachable, UsageError
from onlyforward.run.oracle import TRIES, Account, AnswerLost

CAP = 8 << 20
"""Most bytes of an answer."""
RETRIED = {408, 425, 429, *range(500, 600)}
LOOPBACK = {"localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True)
class Place:
    """Where requests go.

    Attributes:
        url: with the resolved address as its host.
        host: the configured name, for the Host header and the certificate.
    """

    url: str
    host: str


def resolve(url: str, *, allow_private: bool) -> Place:
    """Resolve an endpoint once.

    Raises:
        UsageError: not https, or a private, link-local or metadata address.
        OracleUnreachable: the name has no address.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not host:
        raise UsageError(f"{url!r} is no http or https address", "Give https://host/path")
    local = host in LOOPBACK
    if parts.scheme == "http" and not local and not allow_private:
        raise UsageError(f"The endpoint {host} is not encrypted", "Give https, or --allow-private on a network you own")
    try:
        found = socket.getaddrinfo(
            host, parts.port or (443 if parts.scheme == "https" else 80), type=socket.SOCK_STREAM
        )
    except (OSError, UnicodeError) as error:
        raise OracleUnreachable(f"The endpoint {host} cannot be found: {error}", "Check the name") from error
    address = str(found[0][4][0])
    if not ipaddress.ip_address(address.split("%")[0]).is_global and not local and not allow_private:
        raise UsageError(
            f"The endpoint {host} is at the private address {address}", "Say --allow-private if you mean it"
        )
    shown = f"[{address}]" if ":" in address else address
    where = f"{shown}:{parts.port}" if parts.port else shown
    return Place(urlunsplit(parts._replace(netloc=where)), parts.netloc.rsplit("@", 1)[-1])


class Endpoint:
    """Requests to one address.

    Args:
        url: where JSON is posted.
        secret_env: environment variable that holds the bearer token.
        allow_private: admit http and private addresses.
        concurrency: open requests.
        rate: most requests per second; 0 is no limit.
        deadline: seconds of a request, its retries included.
        read: seconds between two pieces of an answer.
        account: where retries are counted.

    Raises:
        UsageError: an address that is refused, or a secret that is not set.
    """

    def __init__(
        self,
        url: str,
        *,
        secret_env: str | None = None,
        allow_private: bool = False,
        concurrency: int = 4,
        rate: float = 0.0,
        deadline: float = 120.0,
        read: float = 60.0,
        account: Account | None = None,
    ) -> None:
        require("httpx", "http")
        check_range(concurrency, name="concurrency", low=1, high=1024)
        check_range(rate, name="rate", low=0.0)
        self.secret = ""
        if secret_env:
            self.secret = os.environ.get(secret_env, "")
            if not self.secret:
                raise UsageError(f"The environment variable {secret_env} is not set", "Put the endpoint's key there")
        self.place = resolve(url, allow_private=allow_private)
        self.concurrency, self.rate, self.deadline, self.read = concurrency, rate, deadline, read
        self.account = account or Account()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.next_slot = 0.0

    def post(self, bodies: Sequence[Any]) -> list[Any]:
        """Parsed JSON answers in order; a request that failed for good leaves its error in its place."""
        if self.loop is None:
            self.loop = asyncio.new_event_loop()
            threading.Thread(target=self.loop.run_forever, name="onlyforward-http", daemon=True).start()
        return asyncio.run_coroutine_threadsafe(self.all(bodies), self.loop).result()

    async def all(self, bodies: Sequence[Any]) -> list[Any]:
        """Every request, at most `concurrency` at once."""
        import httpx

        gate = asyncio.Semaphore(self.concurrency)
        timeout = httpx.Timeout(self.read, connect=5.0, pool=None)
        limits = httpx.Limits(max_connections=self.concurrency)
        async with httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=timeout, limits=limits) as client:

            async def guarded(body: Any) -> Any:
                async with gate:
                    try:
                        return await asyncio.wait_for(self.persistent(client, body), self.deadline)
                    except TimeoutError:
                        return self.failure(f"did not finish within {self.deadline:g} s")
                    except OracleUnreachable as error:
                        return error

            return list(await asyncio.gather(*(guarded(body) for body in bodies)))

    async def persistent(self, client: Any, body: Any) -> Any:
        """One request with its retries: 0.5 s * 2^k with full jitter, or what Retry-After asks for."""
        import httpx

        for attempt in range(TRIES):
            await self.turn()
            reason, wait = "", 0.0
            try:
                status, headers, content = await self.once(client, body)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                reason = f"cannot be reached: {type(error).__name__}"
            except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError) as error:
                broken = f"The endpoint {self.place.host} broke the connection ({type(error).__name__})"
                raise AnswerLost(self.clean(broken), "What was paid is kept: repeat the command to go on") from None
            except httpx.TimeoutException:
                raise self.failure(f"was silent for {self.read:g} s") from None
            else:
                if status == 200:
                    return self.parsed(content)
                reason = f"answers {status}"
                if 300 <= status < 400:
                    raise self.failure(f"redirects ({status}), which is refused")
                if status not in RETRIED:
                    raise self.failure(f"{reason}: {self.clean(content[:200].decode('utf-8', 'replace'))}")
                wait = retry_after(headers.get("retry-after", ""))
            if attempt + 1 < TRIES:
                self.account.retries += 1
                await asyncio.sleep(wait or min(30.0, 0.5 * 2**attempt) * random.random())
        raise self.failure(f"{reason} after {TRIES} tries")

    async def once(self, client: Any, body: Any) -> tuple[int, Any, bytes]:
        """One exchange: status, headers, and the body up to the cap."""
        headers = {"Host": self.place.host, "Content-Type": "application/json"}
        if self.secret:
            headers["Authorization"] = f"Bearer {self.secret}"
        name = self.place.host.rsplit(":", 1)[0].strip("[]")
        extensions = {"sni_hostname": name}
        content = bytearray()
        async with client.stream(
            "POST", self.place.url, content=json.dumps(body), headers=headers, extensions=extensions
        ) as answer:
            async for piece in answer.aiter_bytes():
                content += piece
                if len(content) > CAP:
                    raise self.failure(f"sends more than {CAP >> 20} MB")
            return answer.status_code, answer.headers, bytes(content)

    async def turn(self) -> None:
        """Wait for this request's turn under the rate limit."""
        if self.rate <= 0:
            return
        now = time.monotonic()
        self.next_slot = max(self.next_slot, now) + 1 / self.rate
        await asyncio.sleep(self.next_slot - 1 / self.rate - now)

    def parsed(self, content: bytes) -> Any:
        """The body as JSON."""
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            raise self.failure("answers what is no JSON") from None

    def failure(self, what: str) -> OracleUnreachable:
        """The error that says what the endpoint did; without secrets."""
        return OracleUnreachable(
            self.clean(f"The endpoint {self.place.host} {what}"),
            "What was paid is kept: repeat the command to go on",
        )

    def clean(self, text: str) -> str:
        """A text without the secret."""
        return text.replace(self.secret, "***") if self.secret else text


def retry_after(value: str) -> float:
    """Seconds that a Retry-After header asks for; dates and nonsense count as none."""
    try:
        return max(0.0, float(value))
    except ValueError:
        return 0.0


class JsonModel:
    """One row a request, JSON both ways."""

    def __init__(
        self, endpoint: Endpoint, encode: Callable[[Tensor], Any], decode: Callable[[Any], Sequence[float]]
    ) -> None:
        self.endpoint, self.encode, self.decode = endpoint, encode, decode

    def payload(self, row: Tensor) -> bytes:
        """What is sent for a row."""
        return json.dumps(self.encode(row), sort_keys=True).encode()

    def __call__(self, rows: Tensor) -> list[Any]:
        """Answers, or errors in their places."""
        found: list[Any] = []
        for answer in self.endpoint.post([self.encode(row) for row in rows]):
            if isinstance(answer, BaseException):
                found.append(answer)
                continue
            try:
                found.append([float(value) for value in self.decode(answer)])
            except (KeyError, TypeError, ValueError, IndexError) as error:
                found.append(self.endpoint.failure(f"answers JSON of another form ({type(error).__name__})"))
        return found
