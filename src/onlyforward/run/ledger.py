"""The ledger of a paid oracle: reserved durably before it is sent, answered after; never over budget, never paid twice.

One SQLite file, shared by any number of processes. A row's key is the SHA-256 of the oracle's identity and the payload.
A reservation without an answer counts as spent: nobody knows what the endpoint charged. When its owner is dead or its
lease has expired the row is lost: it may be asked again, as a new charge, after the rows of the call that were never
asked, so that a budget buys as many different answers as it can.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from onlyforward.core.errors import BudgetSpent, FileError
from onlyforward.run.oracle import TRIES, lost_answers, pause

if TYPE_CHECKING:
    from onlyforward.run.oracle import Oracle

LEASE = 150.0
"""Seconds after which a reservation of another machine is free: longer than any request's deadline."""
PATIENCE = 0.02
"""Seconds between two looks at a row that another process is asking."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS rows (
    scope TEXT NOT NULL, key TEXT NOT NULL, state TEXT NOT NULL, owner TEXT NOT NULL, lease REAL NOT NULL,
    attempts INTEGER NOT NULL, usd REAL NOT NULL DEFAULT 0, tokens INTEGER NOT NULL DEFAULT 0, answer TEXT,
    PRIMARY KEY (scope, key)
)
"""


class Ledger:
    """One scope of a ledger file.

    Args:
        path: of the SQLite file; made where it is missing.
        scope: rows and budget of one purpose.
        durable: every commit reaches the disk (synchronous = FULL).

    Raises:
        FileError: the file cannot be opened, or is no ledger.
    """

    def __init__(self, path: Path, *, scope: str = "", durable: bool = True) -> None:
        self.path, self.scope, self.lock = path, scope, threading.Lock()
        self.owner = f"{os.uname().nodename}:{os.getpid()}:{started(os.getpid())}"
        try:
            self.base = sqlite3.connect(path, timeout=30.0, isolation_level=None, check_same_thread=False)
            self.base.execute("PRAGMA journal_mode = WAL")
            self.base.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self.base.execute(SCHEMA)
        except sqlite3.Error as error:
            raise FileError(f"The ledger {path} cannot be used: {error}", "Give a folder on a local disk") from error

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, alone among all processes.

        Raises:
            FileError: the disk is full, or the file is locked or broken.
        """
        with self.lock:
            try:
                self.base.execute("BEGIN IMMEDIATE")
                try:
                    yield self.base
                except BaseException:
                    self.base.execute("ROLLBACK")
                    raise
                self.base.execute("COMMIT")
            except sqlite3.Error as error:
                if self.base.in_transaction:
                    self.base.execute("ROLLBACK")
                raise FileError(f"The ledger {self.path} cannot be written: {error}", "Make room and resume") from error

    @property
    def charges(self) -> int:
        """Rows that were sent or may have been sent, in this scope."""
        return int(self.base.execute("SELECT TOTAL(attempts) FROM rows WHERE scope = ?", (self.scope,)).fetchone()[0])

    @property
    def lost(self) -> int:
        """Charges without an answer, in this scope."""
        answered = "SELECT COUNT(*) FROM rows WHERE scope = ? AND state = 'answered'"
        return self.charges - int(self.base.execute(answered, (self.scope,)).fetchone()[0])

    @property
    def usd(self) -> float:
        """Dollars of the answered rows of this scope."""
        return float(self.base.execute("SELECT TOTAL(usd) FROM rows WHERE scope = ?", (self.scope,)).fetchone()[0])

    def answers(self, oracle: Oracle, rows: Tensor) -> Tensor | list[Any]:
        """Answers to distinct rows: from the ledger where known, asked within the oracle's limits elsewhere."""
        keys = [self.key(oracle, row) for row in rows]
        found: dict[str, Any] = {}
        lost: list[int] = []
        places = list(range(len(keys)))
        for first in range(0, len(keys), oracle.batch):
            lost += self.serve(oracle, rows, keys, places[first : first + oracle.batch], found)
        for first in range(0, len(lost), oracle.batch):
            self.serve(oracle, rows, keys, lost[first : first + oracle.batch], found, again=True)
        answers = [found[key] for key in keys]
        numbers = not answers or isinstance(answers[0], (int, float, list))
        return torch.tensor(answers, dtype=torch.float64) if numbers and oracle.decode is None else answers

    def serve(
        self,
        oracle: Oracle,
        rows: Tensor,
        keys: Sequence[str],
        places: Sequence[int],
        found: dict[str, Any],
        *,
        again: bool = False,
    ) -> list[int]:
        """One batch: known rows, own rows, and rows that another process is asking at this moment.

        Returns:
            Places of rows whose answers were lost with their owners; none with `again`, which asks them.
        """
        waiting, lost, attempt = list(places), [], 0
        while waiting:
            mine, waiting, gone = self.reserve(oracle, keys, waiting, found, again=again)
            lost += gone
            if mine:
                answers = oracle.send(rows[mine])
                broken = lost_answers(answers) if attempt < TRIES - 1 else []
                self.record(oracle, [keys[i] for i in mine], answers, found, forgiven=broken)
                if broken:  # each of them is reserved again as a new charge
                    waiting += [mine[i] for i in broken]
                    oracle.account.retries += len(broken)
                    pause(attempt)
                    attempt += 1
            elif waiting:
                time.sleep(PATIENCE)
        return lost

    def reserve(
        self, oracle: Oracle, keys: Sequence[str], wanted: Sequence[int], found: dict[str, Any], *, again: bool = False
    ) -> tuple[list[int], list[int], list[int]]:
        """Reserve what nobody has asked yet, in one transaction with the test of the budget.

        Returns:
            Places of the rows that are ours to send, of those that another process is asking, and of the lost ones.

        Raises:
            BudgetSpent: the rows do not fit; nothing was reserved.
        """
        mine, others, lost = [], [], []
        with self.transaction() as base:
            for i in wanted:
                row = base.execute(
                    "SELECT state, owner, lease, answer FROM rows WHERE scope = ? AND key = ?", (self.scope, keys[i])
                ).fetchone()
                reserved = row is not None and row[0] == "reserved"
                if row is not None and row[0] == "answered":
                    found[keys[i]] = json.loads(row[3])
                    oracle.account.cached += 1
                elif reserved and row[1] != self.owner and alive(row[1], row[2]):
                    others.append(i)
                elif reserved and not again:
                    lost.append(i)
                else:
                    mine.append(i)
            if mine:
                allowed, spent = oracle.limits.queries, self.charges
                if allowed is not None and spent + len(mine) > allowed:
                    left = allowed - spent
                    raise BudgetSpent(f"{len(mine)} queries are wanted and {left} are left", "Raise the budget")
                oracle.check_spending(len(mine))
            lease = time.time() + LEASE
            base.executemany(
                "INSERT INTO rows (scope, key, state, owner, lease, attempts) VALUES (?, ?, 'reserved', ?, ?, 1) "
                "ON CONFLICT (scope, key) DO UPDATE SET state = 'reserved', owner = excluded.owner, "
                "lease = excluded.lease, attempts = attempts + 1",
                [(self.scope, keys[i], self.owner, lease) for i in mine],
            )
        return mine, others, lost

    def record(
        self, oracle: Oracle, keys: Sequence[str], answers: Any, found: dict[str, Any], *, forgiven: Sequence[int] = ()
    ) -> None:
        """Write down every answer that came, then raise the first error among them that is not forgiven."""
        values = answers.tolist() if isinstance(answers, Tensor) else answers
        rows, errors = [], []
        for place, (key, value) in enumerate(zip(keys, values, strict=True)):
            if isinstance(value, BaseException):
                errors += [] if place in forgiven else [value]
                continue
            tokens = int(value.get("tokens") or 0) if isinstance(value, dict) else 0
            usd = oracle.price[0] + tokens * oracle.price[1] / 1000
            rows.append((usd, tokens, json.dumps(value), self.scope, key))
            found[key] = value
        failed = [(self.scope, k) for k, v in zip(keys, values, strict=True) if isinstance(v, BaseException)]
        with self.transaction() as base:
            base.executemany(
                "UPDATE rows SET state = 'answered', usd = ?, tokens = ?, answer = ? WHERE scope = ? AND key = ?", rows
            )
            base.executemany("UPDATE rows SET state = 'failed' WHERE scope = ? AND key = ?", failed)
        if errors:
            raise errors[0]

    def key(self, oracle: Oracle, row: Tensor) -> str:
        """SHA-256 of the oracle's identity and what is sent."""
        return sha256(oracle.identity.encode() + b"\0" + oracle.payload(row)).hexdigest()

    def close(self) -> None:
        """Close the file."""
        self.base.close()


def started(pid: int) -> str:
    """When a process of this machine began, in clock ticks; "" where that cannot be known."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return ""


def alive(owner: str, lease: float) -> bool:
    """Whether a reservation's owner may still be waiting for its answer."""
    node, pid, begin = owner.rsplit(":", 2)
    if node == os.uname().nodename and begin:
        return started(int(pid)) == begin
    return time.time() < lease
