"""A black box that can only be asked: batched, counted, budgeted; identical rows of one call are asked once."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onlyforward.core.checks import check_range, require
from onlyforward.core.errors import BudgetSpent, OracleUnreachable, UsageError
from onlyforward.core.params import little_endian_bytes

if TYPE_CHECKING:
    from onlyforward.run.ledger import Ledger

Ask = Callable[[Tensor], Any]
"""Rows [n, ...] -> answers [n] or [n, c], torch or numpy; or a list of n answers of any form, errors among them."""
Decode = Callable[[Sequence[Any]], Tensor]
"""Answers of any form -> scores [n] or [n, c]."""
WORDS = 4096
"""Words of a row that are looked at before rows are compared in full."""
TRIES = 6
"""Times that a question is asked whose answer is lost on the way."""


class AnswerLost(OracleUnreachable):
    """The connection broke after the question was sent: it may have been charged, and asking again is a new charge."""


@dataclass
class Account:
    """What an oracle has cost.

    Attributes:
        queries: rows that were sent.
        rows: rows that were asked for, repeated ones included.
        cached: rows answered without being sent.
        retries: requests sent again after a failure.
        refused: answers in which the model refused to answer.
        tokens: that the answers used.
        usd: their price.
        seconds: wall seconds inside the black box.
    """

    queries: int = 0
    rows: int = 0
    cached: int = 0
    retries: int = 0
    refused: int = 0
    tokens: int = 0
    usd: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Limits:
    """What may be spent: rows, dollars, and the moment at which it ends; None is no limit."""

    queries: int | None = None
    usd: float | None = None
    until: float | None = None


@dataclass(frozen=True)
class Oracle:
    """A batched black box with an account.

    Attributes:
        ask: the function.
        batch: most rows of one call.
        identity: names the black box, for journals: SHA-256 of the model's bytes, or url, model and question.
        decode: answers that are no numbers -> scores.
        price: dollars of a row, and of a thousand tokens.
        limits: see `limited`.
        ledger: see `journaled`.
        account: shared by every oracle that was derived from this one.
    """

    ask: Ask
    batch: int = 64
    identity: str = ""
    decode: Decode | None = None
    price: tuple[float, float] = (0.0, 0.0)
    limits: Limits = Limits()
    ledger: Ledger | None = None
    account: Account = field(default_factory=Account)

    def __post_init__(self) -> None:
        check_range(self.batch, name="batch", low=1)
        if not self.identity:
            object.__setattr__(self, "identity", getattr(self.ask, "__qualname__", type(self.ask).__name__))

    @staticmethod
    def from_module(module: torch.nn.Module, *, batch: int = 64) -> Oracle:
        """A torch module, run without gradients in evaluation mode."""

        def ask(rows: Tensor) -> Tensor:
            was = module.training
            module.eval()
            try:
                with torch.no_grad():
                    answers: Tensor = module(rows)
                    return answers
            finally:
                module.train(was)

        return Oracle(ask, batch=batch, identity=type(module).__name__)

    @staticmethod
    def from_onnx(path: str | Path, *, threads: int = 1, batch: int = 64) -> Oracle:
        """An ONNX file; see `run.onnx`."""
        from onlyforward.run.onnx import OnnxModel

        model = OnnxModel(Path(path), threads=threads)
        return Oracle(model, batch=1 if model.fixed_batch == 1 else batch, identity=model.identity)

    @staticmethod
    def from_sklearn(estimator: Any, *, batch: int = 1024) -> Oracle:
        """A scikit-learn classifier (class probabilities) or regressor."""
        require("sklearn", "data")
        function = getattr(estimator, "predict_proba", None) or estimator.predict
        return Oracle(lambda rows: function(rows.flatten(1).numpy()), batch=batch, identity=type(estimator).__name__)

    @staticmethod
    def from_http(
        url: str,
        *,
        encode: Callable[[Tensor], Any],
        decode: Callable[[Any], Sequence[float]],
        secret_env: str | None = None,
        usd_per_query: float = 0.0,
        **settings: Any,
    ) -> Oracle:
        """An endpoint that answers one row a request: POST `encode(row)` as JSON, `decode(JSON)` gives c scores.

        Args:
            url: https, or http on this machine.
            encode: row [...] -> what JSON can hold.
            decode: the parsed answer -> c numbers.
            secret_env: environment variable that holds the bearer token.
            usd_per_query: price of a request.
            settings: of `run.http.Endpoint`.
        """
        from onlyforward.run.http import Endpoint, JsonModel

        account = Account()
        model = JsonModel(Endpoint(url, secret_env=secret_env, account=account, **settings), encode, decode)
        return Oracle(
            model,
            batch=model.endpoint.concurrency,
            identity=f"http {url}",
            decode=lambda answers: torch.tensor([list(a) for a in answers], dtype=torch.float64),
            price=(usd_per_query, 0.0),
            account=account,
        )

    @staticmethod
    def from_chat(
        url: str,
        *,
        model: str,
        question: str,
        secret_env: str | None = None,
        usd_per_query: float = 0.0,
        usd_per_1k_tokens: float = 0.0,
        **settings: Any,
    ) -> Oracle:
        """A vision-language endpoint that speaks chat/completions; give its answers a meaning with `scored`.

        Args:
            url: base, such as https://host/v1.
            model: the name the endpoint knows.
            question: asked about every image; rows are images [3, h, w] in 0..1.
            secret_env: environment variable that holds the bearer token.
            usd_per_query: price of a request.
            usd_per_1k_tokens: price of a thousand tokens.
            settings: of `run.chat.ChatModel` (logprobs, max_tokens) and of `run.http.Endpoint`.
        """
        from onlyforward.run.chat import ChatModel
        from onlyforward.run.http import Endpoint

        account = Account()
        own = {name: settings.pop(name) for name in ("logprobs", "max_tokens") if name in settings}
        endpoint = Endpoint(f"{url.rstrip('/')}/chat/completions", secret_env=secret_env, account=account, **settings)
        chat = ChatModel(endpoint, model, question, **own)
        price = (usd_per_query, usd_per_1k_tokens)
        # As many as are open at once: a process that dies loses these answers and no more.
        identity = f"chat {url} {model} {question}"
        return Oracle(chat, batch=endpoint.concurrency, identity=identity, price=price, account=account)

    def limited(self, *, queries: int | None = None, usd: float | None = None, seconds: float | None = None) -> Oracle:
        """The same black box with a budget from now on; with a ledger, what the ledger holds already counts.

        Args:
            queries: most rows sent.
            usd: most dollars, by the oracle's prices.
            seconds: after which nothing more is sent.
        """
        if queries is not None:
            check_range(queries, name="queries", low=1)
            queries += 0 if self.ledger is not None else self.account.queries
        if usd is not None:
            usd += 0.0 if self.ledger is not None else self.account.usd
        until = None if seconds is None else time.monotonic() + seconds
        return replace(self, limits=Limits(queries, usd, until))

    def journaled(self, path: str | Path, *, scope: str = "", durable: bool = True) -> Oracle:
        """The same black box with a ledger: nothing is paid twice, and a budget holds over processes and crashes.

        Args:
            path: of the SQLite file; several processes may share it.
            scope: part of the ledger to which the budget applies, such as one image.
            durable: every reservation reaches the disk before the row is sent (for paid endpoints).
        """
        from onlyforward.run.ledger import Ledger

        return replace(self, ledger=Ledger(Path(path), scope=scope, durable=durable))

    def scored(self, decode: Decode) -> Oracle:
        """The same black box whose answers become scores by `decode`."""
        return replace(self, decode=decode)

    def __call__(self, x: Tensor) -> Tensor:
        """Answers [n] or [n, c] to rows [n, ...]; float64, in order, whatever the batch.

        Raises:
            BudgetSpent: the rows would cost more than is left; nothing was sent for those that do not fit.
            UsageError: the black box answers with another number of rows, or with what is no number.
        """
        answers = self.answers(x)
        if isinstance(answers, Tensor):
            return answers
        if self.decode is None:
            raise UsageError("The answers of this oracle are no numbers", "Give them a meaning with scored(decode)")
        return self.decode(answers).double()

    async def acall(self, x: Tensor) -> Tensor:
        """`__call__` from asynchronous code; the event loop stays free."""
        return await asyncio.to_thread(self, x)

    def answers(self, x: Tensor) -> Tensor | list[Any]:
        """The black box's own answers to rows [n, ...]: a float64 tensor, or a list where they are no numbers."""
        x = torch.as_tensor(x)
        unique, places = distinct(x)
        rows = x if len(unique) == len(x) else x[unique]
        found = self.unjournaled(rows) if self.ledger is None else self.ledger.answers(self, rows)
        self.account.rows += len(x)
        self.account.cached += len(x) - len(unique)
        if isinstance(found, Tensor):
            return found if len(unique) == len(x) else found[places]
        return [found[place] for place in places]

    def unjournaled(self, rows: Tensor) -> Tensor | list[Any]:
        """Send all rows, batch by batch, within the limits of the account."""
        self.check_queries(len(rows))
        parts: list[Any] = []
        for first in range(0, len(rows), self.batch):
            part = rows[first : first + self.batch]
            self.check_spending(len(part))
            parts.append(good(self.again(part, self.send(part))))
        if all(isinstance(part, Tensor) for part in parts):
            return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)
        return [answer for part in parts for answer in part]

    def again(self, rows: Tensor, answers: Tensor | list[Any]) -> Tensor | list[Any]:
        """Ask once more, as a new charge, for answers that were lost on the way."""
        for attempt in range(TRIES - 1):
            lost = lost_answers(answers)
            if not lost:
                break
            self.check_queries(len(lost))
            self.check_spending(len(lost))
            self.account.retries += len(lost)
            pause(attempt)
            for place, answer in zip(lost, self.send(rows[lost]), strict=True):
                answers[place] = answer
        return answers

    def check_queries(self, count: int) -> None:
        """Whether so many rows may still be sent."""
        allowed = self.limits.queries
        if allowed is not None and self.account.queries + count > allowed:
            left = allowed - self.account.queries
            raise BudgetSpent(f"{count} queries are wanted and {left} are left", "Raise the budget")

    def check_spending(self, count: int) -> None:
        """Whether so many rows may still be sent, by dollars and by the clock."""
        limits, account = self.limits, self.account
        tokens = account.tokens / max(1, account.queries)
        price = self.price[0] + self.price[1] * tokens / 1000
        if limits.usd is not None and account.usd + count * price > limits.usd + 1e-12:
            raise BudgetSpent(f"{count} queries at ${price:.4g} would exceed ${limits.usd:.4g}", "Raise --max-usd")
        if limits.until is not None and time.monotonic() > limits.until:
            raise BudgetSpent("The time for questions is over", "Allow more seconds")

    def send(self, rows: Tensor) -> Tensor | list[Any]:
        """One batch as it comes back, errors in their rows' places; memory that does not suffice halves it."""
        begin = time.perf_counter()
        try:
            answers: Any = self.ask(rows)
        except (MemoryError, torch.OutOfMemoryError):
            if len(rows) == 1:
                raise
            middle = len(rows) // 2
            halves = [self.send(rows[:middle]), self.send(rows[middle:])]
            if all(isinstance(half, Tensor) for half in halves):
                return torch.cat(halves)  # type: ignore[arg-type]
            return [answer for half in halves for answer in half]
        self.account.seconds += time.perf_counter() - begin
        if not isinstance(answers, list):
            answers = torch.as_tensor(answers).detach().double()
        if len(answers) != len(rows) or (isinstance(answers, Tensor) and answers.ndim > 2):
            shape = list(answers.shape) if isinstance(answers, Tensor) else f"{len(answers)} answers"
            raise UsageError(f"The model answers {shape} to {len(rows)} rows", "It must answer [n] or [n, classes]")
        self.account.queries += len(rows)
        self.account.usd += len(rows) * self.price[0]
        for answer in answers if isinstance(answers, list) else ():
            if isinstance(answer, dict):
                tokens = int(answer.get("tokens") or 0)
                self.account.tokens += tokens
                self.account.usd += tokens * self.price[1] / 1000
                self.account.refused += bool(answer.get("refused"))
        return answers  # type: ignore[no-any-return]

    def payload(self, row: Tensor) -> bytes:
        """What is sent for a row, for the ledger's key."""
        encode = getattr(self.ask, "payload", None)
        return bytes(encode(row)) if encode is not None else repr(tuple(row.shape)).encode() + little_endian_bytes(row)


def lost_answers(answers: Tensor | list[Any]) -> list[int]:
    """Places of answers that were lost on the way."""
    return [i for i, one in enumerate(answers) if isinstance(one, AnswerLost)] if isinstance(answers, list) else []


def pause(attempt: int) -> None:
    """Wait before a question is asked again: 0.5 s * 2^attempt with full jitter, 30 s at most."""
    time.sleep(min(30.0, 0.5 * 2**attempt) * random.random())


def good(answers: Tensor | list[Any]) -> Tensor | list[Any]:
    """The answers, or the first error among them, raised."""
    if isinstance(answers, list):
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
    return answers


def distinct(x: Tensor) -> tuple[list[int], list[int]]:
    """First positions of the distinct rows, and for every row its place among them."""
    rows = x.detach().cpu().contiguous().numpy()
    if len(set(checksums(rows))) == len(rows):
        return list(range(len(rows))), list(range(len(rows)))
    seen: dict[tuple[int, bytes], int] = {}
    first: list[int] = []
    places = []
    for i in range(len(rows)):
        content = rows[i].tobytes()
        # Python's own hash is several times faster than a digest; short rows are compared whole.
        name = (hash(content), content if len(content) <= 4096 else sha256(content[:256] + content[-256:]).digest())
        if name in seen and content == rows[first[seen[name]]].tobytes():
            places.append(seen[name])
            continue
        seen[name] = len(first)
        places.append(len(first))
        first.append(i)
    return first, places


def checksums(rows: NDArray[Any]) -> list[int]:
    """A number for each row [n, ...] that is the same for equal rows: words times fixed odd numbers, modulo 2^64.

    One product of some `WORDS` words is far faster than a digest a row; rows of no multiple of eight bytes get a 0.
    """
    width = rows.nbytes // max(1, len(rows))
    if width == 0 or width % 8:
        return [0] * len(rows)
    words = rows.reshape(len(rows), -1).view(np.uint64)
    words = words[:, :: max(1, words.shape[1] // WORDS)]
    odd = np.arange(words.shape[1], dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) | np.uint64(1)
    found: list[int] = (words @ odd).tolist()
    return found
