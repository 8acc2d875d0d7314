"""Endpoints that misbehave: the right error or recovery each, nothing paid is lost, the secret appears nowhere."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from onlyforward.core.errors import OnlyForwardError, OracleUnreachable, UsageError
from onlyforward.run.loopback import Loopback
from onlyforward.run.oracle import Oracle

if TYPE_CHECKING:
    from onlyforward.run.benchmark import BenchOptions
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

VARIABLE = "ONLYFORWARD_BENCH_KEY"
FAULTS: dict[str, tuple[str, int, str]] = {
    "429 with Retry-After, once": ("429", 1, ""),
    "500, three times": ("500", 3, ""),
    "500, for good": ("500", -1, "answers 500 after"),
    "connection reset, once": ("reset", 1, ""),
    "connection reset, for good": ("reset", -1, "broke the connection"),
    "slow drip beyond the deadline": ("drip", -1, "did not finish within"),
    "body of 1 GB": ("huge", -1, "more than 8 MB"),
    "no JSON": ("bad-json", -1, "no JSON"),
    "JSON of another form": ("wrong-json", -1, "no chat completion"),
    "NaN for an answer": ("nan", -1, "no chat completion"),
    "redirect to a metadata address": ("redirect", -1, "redirects"),
    "wrong key, echoed back": ("unauthorised", -1, "answers 401"),
    "refusal": ("refusal", -1, ""),
    "empty answer": ("empty", -1, ""),
}
"""Name -> (switch of the loopback server, requests that have it, words of the error or "" for an answer)."""
ADDRESSES = {
    "private address": ("https://10.0.0.1/v1", "private address"),
    "metadata address": ("https://169.254.169.254/v1", "private address"),
    "no encryption": ("http://example.org/v1", "not encrypted"),
}


@contextmanager
def secret() -> Iterator[str]:
    """A key in the environment that must appear nowhere else."""
    key = f"canary-{secrets.token_hex(12)}"
    os.environ[VARIABLE] = key
    try:
        yield key
    finally:
        del os.environ[VARIABLE]


def classify(rows: Tensor) -> Tensor:
    """Three brightnesses as probabilities [n, 3]."""
    return (9 * rows.mean((2, 3))).softmax(1)


def lengths(answers: Any) -> Tensor:
    """A number per answer."""
    return torch.tensor([float(len(answer["text"])) for answer in answers])


def hostile(options: BenchOptions, context: Context, result: Result) -> None:
    """Every fault once: what happened, what was kept, what leaked; a part of `endpoint` that can run alone."""
    rows: list[list[Any]] = []
    right = lost = leaks = 0
    with secret() as key, tempfile.TemporaryDirectory() as place:
        for number, (name, (fault, faulty, words)) in enumerate(FAULTS.items()):
            path = Path(place) / f"{number}.sqlite"
            said, kept, repeated = suffered(fault, faulty, key, path)
            good = words in said if words else said == "answered"
            right, lost = right + good, lost + (not kept) + repeated
            leaks += key in said or any(key.encode() in file.read_bytes() for file in Path(place).iterdir())
            rows.append([name, said, "yes" if good else "no", "yes" if kept else "no"])
        for name, (url, words) in ADDRESSES.items():
            said = "reached"
            try:
                Oracle.from_chat(url, model="m", question="?", secret_env=VARIABLE)
            except UsageError as error:
                said = str(error)
            right, leaks = right + (words in said), leaks + (key in said)
            rows.append([name, said, "yes" if words in said else "no", "nothing was sent"])
    result.metric("endpoint_faults", len(rows))
    result.metric("endpoint_faults_right", right)
    result.metric("endpoint_paid_lost", lost)
    result.metric("endpoint_leaks", leaks)
    result.table(
        "endpoint: what a hostile endpoint does and what comes of it",
        ["fault", "what is said", "right", "earlier answer kept, not asked again"],
        rows,
        "One good answer is paid first; after the fault it is asked for again. A key in the environment is looked for "
        "in every message and every file.",
    )


def suffered(fault: str, faulty: int, key: str, path: Path) -> tuple[str, bool, int]:
    """What was said, whether the earlier answer was still there, and requests that it cost to read it again."""
    images = torch.stack([torch.full((3, 8, 8), 0.2), torch.full((3, 8, 8), 0.8)])
    with Loopback(classify, ["red", "green", "blue"], secret=key) as server:
        oracle = Oracle.from_chat(
            server.url, model="m", question="?", secret_env=VARIABLE, deadline=1.0 if fault == "drip" else 90.0
        )
        oracle = oracle.scored(lengths).journaled(path)
        first = oracle(images[:1])
        server.fault, server.faulty = fault, faulty + server.seen if faulty > 0 else faulty
        try:
            oracle(images[1:])
            said = "answered"
        except (OracleUnreachable, OnlyForwardError) as error:
            said = str(error).replace(f":{server.server.server_port}", "")
        seen = server.seen
        kept = bool(oracle(images[:1]) == first)
        return said, kept, server.seen - seen
