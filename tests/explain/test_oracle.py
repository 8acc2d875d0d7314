"""The oracle, its ledger and its endpoints: budgets, duplicates, faults, secrets."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch

from onlyforward.core.errors import BudgetSpent, FileError, OracleUnreachable, UsageError
from onlyforward.run.ledger import Ledger
from onlyforward.run.loopback import Loopback
from onlyforward.run.oracle import Oracle


def test_identical_rows_of_a_call_are_asked_once_and_come_back_in_order():
    asked = []

    def f(rows):
        asked.append(len(rows))
        return rows.sum(1)

    oracle = Oracle(f, batch=4)
    x = torch.tensor([[1.0, 0], [2, 0], [1, 0], [3, 0], [2, 0], [4, 0], [5, 0]])
    assert oracle(x).tolist() == [1, 2, 1, 3, 2, 4, 5]
    assert asked == [4, 1]
    assert (oracle.account.queries, oracle.account.rows, oracle.account.cached) == (5, 7, 2)


def test_a_budget_is_never_exceeded_and_a_wrong_shape_is_named():
    oracle = Oracle(lambda r: r.sum(1)).limited(queries=5)
    oracle(torch.arange(4.0)[:, None])
    with pytest.raises(BudgetSpent, match="1 are left"):
        oracle(torch.arange(10.0, 13.0)[:, None])
    assert oracle.account.queries == 4
    with pytest.raises(UsageError, match="must answer"):
        Oracle(lambda r: torch.zeros(len(r) + 1))(torch.zeros(2, 1))


def test_memory_that_does_not_suffice_halves_the_batch():
    def f(rows):
        if len(rows) > 3:
            raise MemoryError
        return rows.sum(1)

    assert Oracle(f, batch=16)(torch.arange(10.0)[:, None]).tolist() == list(range(10))


def test_dollars_and_seconds_end_the_questions():
    oracle = Oracle(lambda r: r.sum(1), price=(0.5, 0.0), batch=1).limited(usd=1.0)
    with pytest.raises(BudgetSpent, match="exceed"):
        oracle(torch.arange(4.0)[:, None])
    assert oracle.account.queries == 2
    late = Oracle(lambda r: r.sum(1)).limited(seconds=0.0)
    time.sleep(0.01)
    with pytest.raises(BudgetSpent, match="time"):
        late(torch.zeros(1, 1))


def test_a_ledger_never_asks_twice_and_counts_over_restarts(tmp_path):
    asked = []

    def f(rows):
        asked.extend(rows[:, 0].tolist())
        return rows[:, 0]

    path = tmp_path / "ledger.sqlite"
    first = Oracle(f, batch=4, identity="m").journaled(path).limited(queries=6)
    assert first(torch.arange(5.0)[:, None]).tolist() == [0, 1, 2, 3, 4]
    again = Oracle(f, batch=4, identity="m").journaled(path).limited(queries=6)
    assert again(torch.arange(6.0)[:, None]).tolist() == [0, 1, 2, 3, 4, 5]
    assert sorted(asked) == [0, 1, 2, 3, 4, 5]
    with pytest.raises(BudgetSpent):
        again(torch.tensor([[9.0]]))
    other = Oracle(f, batch=4, identity="other").journaled(path, scope="other")
    other(torch.tensor([[0.0]]))
    assert len(asked) == 7


def test_a_reservation_without_an_answer_counts_as_spent_and_can_be_asked_again(tmp_path):
    oracle = Oracle(lambda r: r[:, 0], identity="m").journaled(tmp_path / "l.sqlite").limited(queries=3)
    ledger = oracle.ledger
    key = ledger.key(oracle, torch.tensor([7.0]))
    with ledger.transaction() as base:
        base.execute(
            "INSERT INTO rows (scope, key, state, owner, lease, attempts) VALUES ('', ?, 'reserved', ?, ?, 1)",
            (key, "elsewhere:1:5", time.time() - 1),
        )
    assert ledger.charges == 1
    assert oracle(torch.tensor([[7.0]])).tolist() == [7.0]
    assert ledger.charges == 2


CLIENT = """
import sys, time, torch
from onlyforward.run.oracle import Oracle
from onlyforward.core.errors import BudgetSpent
log = open(sys.argv[2], "a", buffering=1)
def ask(rows):
    for row in rows:
        log.write(f"{int(row[0])}\\n")
        time.sleep(0.002)
    return rows[:, 0]
oracle = Oracle(ask, batch=1, identity="m").journaled(sys.argv[1]).limited(queries=60)
order = torch.randperm(100, generator=torch.Generator().manual_seed(int(sys.argv[3])))
try:
    for i in order:
        oracle(torch.tensor([[float(i)]]))
except BudgetSpent:
    pass
"""


def test_several_processes_and_kills_keep_the_budget_and_ask_no_answered_row_twice(tmp_path):
    ledger, log = tmp_path / "ledger.sqlite", tmp_path / "log"
    script = tmp_path / "client.py"
    script.write_text(textwrap.dedent(CLIENT))
    log.touch()

    def start(seed):
        return subprocess.Popen([sys.executable, str(script), str(ledger), str(log), str(seed)])

    begun = [start(1), start(2)]
    kills = 0
    while kills < 2 and any(one.poll() is None for one in begun):
        time.sleep(2.0)
        if begun[kills].poll() is None:
            os.kill(begun[kills].pid, signal.SIGKILL)
        kills += 1
    finished = start(3)
    for one in (*begun, finished):
        one.wait(200)
    asked = log.read_text().split()
    assert len(asked) <= 60
    assert Ledger(ledger).charges <= 60
    assert len(asked) - len(set(asked)) <= kills


def test_a_ledger_that_cannot_be_written_is_one_sentence(tmp_path):
    with pytest.raises(FileError, match="cannot be used"):
        Oracle(lambda r: r, identity="m").journaled(tmp_path / "no" / "such" / "l.sqlite")


LABELS = ["cat", "dog", "hen", "fox"]


def classify(rows):
    bright = rows.mean((1, 2, 3))
    return torch.stack([bright, 1 - bright, bright * 0, bright * 0], 1).softmax(1)


def chat(server, **settings):
    return Oracle.from_chat(server.url, model="m", question="what?", **settings)


def words(answers):
    return torch.tensor([float("cat" in a["text"].split(";")[0]) for a in answers])


IMAGES = torch.stack([torch.full((3, 8, 8), 0.9), torch.full((3, 8, 8), 0.1)])


def test_a_chat_endpoint_answers_through_real_http():
    with Loopback(classify, LABELS) as server:
        oracle = chat(server).scored(words)
        assert oracle(IMAGES).tolist() == [1.0, 0.0]
        assert server.seen == 2
        assert oracle.account.tokens > 0


@pytest.mark.parametrize(
    ("fault", "faulty", "error"),
    [
        ("429", 1, None),
        ("500", 2, None),
        ("reset", 1, None),
        ("500", -1, "answers 500 after"),
        ("bad-json", -1, "no JSON"),
        ("wrong-json", -1, "no chat completion"),
        ("nan", -1, "no chat completion"),
        ("redirect", -1, "redirects"),
        ("unauthorised", -1, "answers 401"),
        ("huge", -1, "more than 8 MB"),
        ("drip", -1, "did not finish within"),
    ],
)
def test_every_fault_is_recovered_from_or_named(fault, faulty, error, monkeypatch):
    monkeypatch.setattr("random.random", lambda: 0.02)
    deadline = 1.0 if fault == "drip" else 20.0
    with Loopback(classify, LABELS, fault=fault, faulty=faulty) as server:
        oracle = chat(server, deadline=deadline).scored(words)
        if error is None:
            assert oracle(IMAGES[:1]).tolist() == [1.0]
            assert oracle.account.retries == faulty
        else:
            with pytest.raises(OracleUnreachable, match=error):
                oracle(IMAGES[:1])


@pytest.mark.parametrize("fault", ["refusal", "empty"])
def test_refusals_are_counted(fault):
    with Loopback(classify, LABELS, fault=fault) as server:
        oracle = chat(server).scored(words)
        oracle(IMAGES)
        assert oracle.account.refused == 2


def test_what_was_answered_before_a_failure_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("random.random", lambda: 0.0)
    with Loopback(classify, LABELS) as server:
        oracle = chat(server).scored(words).journaled(tmp_path / "l.sqlite")
        oracle(IMAGES[:1])
        server.fault, server.faulty = "500", -1
        with pytest.raises(OracleUnreachable):
            oracle(IMAGES)
        seen = server.seen
        server.fault = ""
        assert oracle(IMAGES).tolist() == [1.0, 0.0]
        assert server.seen == seen + 1


def test_addresses_that_must_not_be_reached_are_refused(monkeypatch):
    for url in ("http://example.org/v1", "ftp://example.org"):
        with pytest.raises(UsageError):
            Oracle.from_chat(url, model="m", question="q")
    monkeypatch.setattr("socket.getaddrinfo", lambda *a, **k: [(2, 1, 6, "", ("169.254.169.254", 443))])
    with pytest.raises(UsageError, match="private address"):
        Oracle.from_chat("https://innocent.example/v1", model="m", question="q")


def test_the_secret_is_sent_and_appears_nowhere(tmp_path, monkeypatch):
    canary = "canary-6f1d2c"
    monkeypatch.setenv("TEST_KEY", canary)
    with Loopback(classify, LABELS, secret=canary) as server:
        oracle = chat(server, secret_env="TEST_KEY").scored(words).journaled(tmp_path / "l.sqlite")
        assert oracle(IMAGES[:1]).tolist() == [1.0]
        server.fault = "unauthorised"
        with pytest.raises(OracleUnreachable) as caught:
            oracle(IMAGES[1:])
    assert canary not in str(caught.value)
    assert all(canary.encode() not in path.read_bytes() for path in tmp_path.iterdir())
    monkeypatch.delenv("TEST_KEY")
    with pytest.raises(UsageError, match="TEST_KEY is not set"):
        Oracle.from_chat("http://127.0.0.1:1/v1", model="m", question="q", secret_env="TEST_KEY")


def test_answers_are_compared_by_an_endpoints_embeddings_and_each_text_is_embedded_once():
    from onlyforward.explain.alike import Alike, EndpointEmbeddings
    from onlyforward.explain.answers import AnswerScore
    from onlyforward.run.http import Endpoint

    with Loopback(classify, LABELS) as server:
        alike = Alike(EndpointEmbeddings(Endpoint(f"{server.url}/embeddings"), "m"))
        oracle = chat(server).scored(AnswerScore("similarity", "a cat", alike=alike))
        scores = oracle(IMAGES.repeat(3, 1, 1, 1))
        assert scores[0] == scores[2]
        assert 0 < float(scores.min()) < float(scores.max()) < 1
        assert server.seen == 2 + 2  # two pictures; the reference with the first caption, then the other caption
        assert alike("", "a cat") == 0.0
        assert alike("a cat", "a cat") == pytest.approx(1.0)


def test_a_plain_json_endpoint_is_an_oracle():
    with Loopback(classify, LABELS) as server:
        from onlyforward.run.chat import ChatModel
        from onlyforward.run.http import Endpoint

        url = f"{server.url}/chat/completions"
        body = ChatModel(Endpoint(url), "m", "q").body
        oracle = Oracle.from_http(url, encode=body, decode=lambda a: [len(a["choices"]), a["usage"]["total_tokens"]])
        assert oracle(IMAGES).shape == (2, 2)
        json.dumps(body(IMAGES[0]))


def test_an_onnx_file_is_an_oracle_named_by_its_bytes_and_answers_like_the_runtime():
    import hashlib

    import numpy as np

    runtime = pytest.importorskip("onnxruntime")
    from onlyforward.data.sets import folder

    try:
        path = folder("models") / "mnist_cntk.onnx"
    except FileError as error:
        pytest.skip(str(error))
    rows = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    oracle = Oracle.from_onnx(path).limited(queries=3)
    session = runtime.InferenceSession(path.read_bytes())
    name = session.get_inputs()[0].name
    truth = np.concatenate([session.run(None, {name: row[None].numpy()})[0] for row in rows])
    assert oracle.identity == hashlib.sha256(path.read_bytes()).hexdigest()
    assert np.abs(oracle(rows).numpy() - truth).max() < 1e-4
    assert oracle.account.queries == 3
    with pytest.raises(BudgetSpent):
        oracle(rows[:1] + 1)
    with pytest.raises(FileError, match="cannot be read"):
        Oracle.from_onnx("no_such.onnx")
