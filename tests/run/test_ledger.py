"""The ledger against a dict: whatever is asked, answered, killed or refused, in any order."""

import shutil
import sqlite3

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from onlyforward.core.errors import BudgetSpent, FileError
from onlyforward.run.ledger import Ledger
from onlyforward.run.oracle import Oracle

BUDGET = 12
ROWS = st.lists(st.integers(0, 9), min_size=1, max_size=4)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.sqlite"


def client(path, ask):
    return Oracle(ask, batch=2, identity="m").journaled(path, durable=False).limited(queries=BUDGET)


class Books(RuleBasedStateMachine):
    """What the server saw, what was answered, what was lost."""

    folder = None

    def __init__(self):
        super().__init__()
        self.path = self.folder / f"{id(self)}.sqlite"
        self.path.unlink(missing_ok=True)
        self.seen, self.answered, self.charged = [], {}, 0
        self.clients = [client(self.path, self.serve) for _ in range(2)]

    def serve(self, rows):
        self.seen += rows[:, 0].tolist()
        return rows[:, 0] * 10

    @rule(who=st.integers(0, 1), rows=ROWS)
    def ask(self, who, rows):
        wanted = torch.tensor(rows, dtype=torch.float64)[:, None]
        new = set(rows) - set(self.answered)
        before = len(self.seen)
        try:
            found = self.clients[who](wanted)
        except BudgetSpent:
            assert self.charged + len(new) > BUDGET
        else:
            assert found.tolist() == [10.0 * row for row in rows]
        sent = [int(row) for row in self.seen[before:]]
        assert set(sent) <= new
        assert len(sent) == len(set(sent))
        self.charged += len(sent)
        self.answered |= {row: 10.0 * row for row in sent}

    @precondition(lambda self: self.charged < BUDGET)
    @rule(row=st.integers(0, 9))
    def die_between_question_and_answer(self, row):
        if row in self.answered:
            return
        ledger = self.clients[0].ledger
        key = ledger.key(self.clients[0], torch.tensor([float(row)], dtype=torch.float64))
        with ledger.transaction() as base:
            base.execute(
                "INSERT INTO rows (scope, key, state, owner, lease, attempts) VALUES ('', ?, 'reserved', ?, 0, 1) "
                "ON CONFLICT (scope, key) DO UPDATE SET attempts = attempts + 1",
                (key, "elsewhere:1:5"),
            )
        self.charged += 1

    @invariant()
    def the_budget_holds_and_charges_are_what_was_spent(self):
        ledger = self.clients[1].ledger
        assert ledger.charges == self.charged <= BUDGET
        assert ledger.lost == self.charged - len(self.answered)

    def teardown(self):
        for one in self.clients:
            one.ledger.close()


def test_any_order_of_questions_and_deaths_keeps_the_books(tmp_path):
    Books.folder = tmp_path
    machine = Books.TestCase
    machine.settings = settings(
        max_examples=30, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
    )
    machine().runTest()


def test_what_was_lost_is_asked_after_what_was_never_asked(path):
    asked = []

    def ask(rows):
        asked.extend(rows[:, 0].tolist())
        return rows[:, 0]

    oracle = client(path, ask)
    with oracle.ledger.transaction() as base:
        key = oracle.ledger.key(oracle, torch.tensor([0.0]))
        base.execute(
            "INSERT INTO rows (scope, key, state, owner, lease, attempts) VALUES ('', ?, 'reserved', ?, 0, 1)",
            (key, "elsewhere:1:5"),
        )
    assert oracle(torch.arange(5.0)[:, None]).tolist() == [0, 1, 2, 3, 4]
    assert asked == [1, 2, 3, 4, 0]


def test_a_copy_taken_at_any_moment_is_a_ledger_that_holds_its_budget(path, tmp_path):
    oracle = client(path, lambda rows: rows[:, 0])
    for step in range(4):
        oracle(torch.tensor([[float(step)]]))
        place = tmp_path / f"copy{step}"
        place.mkdir()
        for part in path.parent.glob("ledger.sqlite*"):
            shutil.copy(part, place / part.name)
        copied = Ledger(place / "ledger.sqlite")
        assert copied.charges == step + 1
        assert copied.lost == 0
        copied.close()


def test_a_file_that_is_no_ledger_and_a_locked_one_are_one_sentence(path):
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(FileError, match="cannot be used"):
        Ledger(path)
    path.unlink()
    oracle = client(path, lambda rows: rows[:, 0])
    oracle.ledger.base.execute("PRAGMA busy_timeout = 50")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(FileError, match="locked"):
        oracle(torch.tensor([[1.0]]))
    other.execute("ROLLBACK")
    other.close()
    assert oracle(torch.tensor([[1.0]])).tolist() == [1.0]
