"""Case ledger: clients that share a budget are killed at random moments; the server counts what it is paid for."""

from __future__ import annotations

import multiprocessing
import random
import tempfile
import time
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from onlyforward.core.errors import BudgetSpent
from onlyforward.core.keys import Key
from onlyforward.core.params import digest48
from onlyforward.run.ledger import Ledger
from onlyforward.run.loopback import Loopback
from onlyforward.run.oracle import Oracle

if TYPE_CHECKING:
    from onlyforward.run.benchmark import BenchOptions
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

BUDGET, WANTED, CLIENTS, KILLS = 200, 400, 4, 40
DELAY = 0.02
"""Seconds of an answer: long enough for kills to fall between question and answer."""
SIDE = 8


def questions() -> Tensor:
    """Different little images [n, 3, 8, 8], as 8 bits hold them."""
    rows = torch.rand(WANTED, 3, SIDE, SIDE, generator=Key(site="ledger").generator())
    return (rows * 255).round() / 255


def classify(rows: Tensor) -> Tensor:
    """Three brightnesses as probabilities [n, 3]."""
    return (20 * rows.mean((2, 3))).softmax(1)


def value(answers: Any) -> Tensor:
    """A number per answer: its tokens and the length of its text."""
    return torch.tensor([[len(a["text"]), a["tokens"]] for a in answers], dtype=torch.float64)


def asking(url: str, path: Path, budget: int) -> Oracle:
    """The paid oracle of every client: one open request at a time."""
    chat = Oracle.from_chat(url, model="m", question="which?", concurrency=1)
    # The port is new at every start; the endpoint is the same.
    named = Oracle(chat.ask, batch=1, identity="ledger campaign", decode=value, account=chat.account)
    return named.journaled(path).limited(queries=budget)


def client(url: str, path: Path, order: int) -> None:
    """One process: everything is wanted, in its own order, until the budget ends."""
    torch.set_num_threads(1)
    rows = questions()[torch.randperm(WANTED, generator=Key(run=order, site="order").generator())]
    try:
        asking(url, path, BUDGET)(rows)
    except BudgetSpent:
        return


def ledger(options: BenchOptions, context: Context, result: Result) -> None:
    """The campaign, then the replay with the server switched off."""
    methods = multiprocessing.get_context("forkserver")
    methods.set_forkserver_preload(["onlyforward.explain.bench.ledger", "onlyforward.run.chat", "httpx", "PIL.Image"])
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "ledger.sqlite"
        with Loopback(classify, ["red", "green", "blue"], delay=DELAY) as server:
            url = server.url
            started = 0

            def start() -> BaseProcess:
                nonlocal started
                started += 1
                process = methods.Process(target=client, args=(url, path, started), daemon=True)
                process.start()
                return process

            clients = [start() for _ in range(CLIENTS)]
            kills = 0
            with context.progress(BUDGET, label="ledger") as tick:
                while any(one.is_alive() for one in clients):
                    tick(to=min(server.seen, BUDGET))
                    # Kills are spread over the whole budget; the moment within an answer is left to chance.
                    if kills < KILLS and server.seen >= (kills + 1) * BUDGET * 0.9 / KILLS:
                        time.sleep(moments.uniform(0.0, 2 * DELAY))
                        victim = moments.randrange(CLIENTS)
                        if clients[victim].is_alive():
                            clients[victim].kill()
                            clients[victim].join()
                            kills += 1
                            clients[victim] = start()
                    time.sleep(0.001)
            seen, sent = server.seen, Counter(server.log)
        books = Ledger(path)
        states = dict(books.base.execute("SELECT state, COUNT(*) FROM rows GROUP BY state").fetchall())
        lost = int(states.get("reserved", 0))
        replayed = [replay(url, path) for _ in range(2)]
        duplicates = sum(times - 1 for times in sent.values())
        truth = digest48({"answers": expected(path)})
        result.metric("ledger_budget", BUDGET)
        result.metric("ledger_wanted", WANTED)
        result.metric("ledger_kills", kills)
        result.metric("ledger_seen", seen)
        result.metric("ledger_charged", books.charges)
        result.metric("ledger_answered", int(states.get("answered", 0)))
        result.metric("ledger_duplicates", duplicates)
        result.metric("ledger_lost", lost)
        result.metric("ledger_lost_over_kills", lost / max(1, kills))
        result.metric("ledger_replay_requests", max(requests for _, requests in replayed))
        result.metric("ledger_digest_equal", int({found for found, _ in replayed} == {truth}))
        books.close()
    result.table(
        f"ledger: {CLIENTS} clients want {WANTED} answers with a budget of {BUDGET}; {kills} were killed with SIGKILL",
        ["what", "number"],
        [[name.removeprefix("ledger_").replace("_", " "), found] for name, found in result.metrics.items()
         if name.startswith("ledger_")],
        "Seen and duplicates are counted by the server: payloads that arrived more than once. Lost are questions whose "
        "client died before it could write the answer down; they count as spent. The replay runs after the server was "
        "switched off, and its digest is that of answers computed without endpoint or ledger.",
    )  # fmt: skip
    result.forward_runs += seen


def answered(path: Path) -> Tensor:
    """The rows whose answers the ledger holds."""
    rows, books = questions(), Ledger(path)
    oracle = asking("http://127.0.0.1:9", path, BUDGET)
    known = {key for (key,) in books.base.execute("SELECT key FROM rows WHERE state = 'answered'")}
    found = rows[[books.key(oracle, row) in known for row in rows]]
    books.close()
    return found


def expected(path: Path) -> Tensor:
    """What the endpoint says to the answered rows, computed without it."""
    import json

    from onlyforward.run.chat import ChatModel
    from onlyforward.run.http import Endpoint

    server = Loopback(classify, ["red", "green", "blue"])
    chat = ChatModel(Endpoint("http://127.0.0.1:9"), "m", "which?")
    found = [chat.read(server.completion(json.dumps(chat.body(row)).encode(), 0, None)) for row in answered(path)]
    server.server.server_close()
    return value(found)


def replay(url: str, path: Path) -> tuple[int, int]:
    """Digest of the answers once more, and the requests it took: the server is off, so none can succeed."""
    oracle = asking(url, path, BUDGET)
    found = oracle(answered(path))
    return digest48({"answers": found}), oracle.account.queries
