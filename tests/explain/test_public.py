"""What users type: metrics, peers and settings by their public names; no backward pass anywhere."""

import pytest
import torch

import onlyforward as of
from onlyforward.core.errors import BudgetSpent
from onlyforward.explain.intervals import interval
from onlyforward.run.chat import png
from onlyforward.run.oracle import AnswerLost, Oracle


def bright(rows):
    return rows[:, :, :4].mean((1, 2, 3)).double()


def test_public_metrics_take_an_oracle_and_give_one_number_per_image():
    x = torch.ones(2, 1, 8, 8)
    right, wrong = torch.zeros(2, 8, 8), torch.zeros(2, 8, 8)
    right[:, :4], wrong[:, 4:] = 1.0, 1.0
    good = of.metrics.deletion(bright, x, right, None, baseline="zero")
    assert good.shape == (2,)
    assert bool((good < of.metrics.deletion(bright, x, wrong, None, baseline="zero")).all())
    assert bool((of.metrics.insertion(bright, x, right, None, baseline="zero") > 0.7).all())
    assert torch.equal(good, of.metrics.morf(bright, x, right, None, baseline="zero"))
    assert bool((of.metrics.lerf(bright, x, right, None, baseline="zero") > good).all())
    exact = torch.zeros(1, 8, 8)
    exact[:, :4] = 1 / 32
    assert float(of.metrics.infidelity(bright, x[0], exact, None)) < 1e-12
    assert float(of.metrics.sensitivity_max(lambda one: 2 * one, x[0], radius=0.1)) == pytest.approx(0.06, abs=0.03)


def test_every_peer_keeps_its_budget_to_the_row():
    pytest.importorskip("skimage")
    x = torch.rand(3, 16, 16, generator=of.Key().generator())
    for name, peer in of.peers.PEERS.items():
        oracle = Oracle(bright)
        found = peer(oracle).attribute(x, target=0, budget=70)
        assert oracle.account.rows <= 70, name
        assert found.shape == (16, 16), name


def test_a_black_box_run_makes_no_backward_pass(monkeypatch):
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))

    def refuse(*arguments, **settings):
        raise AssertionError("a backward pass")

    monkeypatch.setattr(torch.autograd, "grad", refuse)
    monkeypatch.setattr(torch.autograd, "backward", refuse)
    monkeypatch.setattr(torch.Tensor, "backward", refuse)
    for settings in ({"kind": "presence"}, {"map": "gradient"}, {"kind": "shapley"}, {"map": "integrated-gradients"}):
        a = of.Saliency(net, **settings).attribute(torch.rand(1, 8, 8), target=1, budget=40)
        assert not a.requires_grad
    assert all(parameter.grad is None for parameter in net.parameters())


def test_an_answer_lost_on_the_way_is_asked_again_as_a_new_charge_within_the_budget(tmp_path, monkeypatch):
    monkeypatch.setattr("random.random", lambda: 0.0)
    failing = [2]

    def ask(rows):
        if failing[0]:
            failing[0] -= 1
            return [AnswerLost("gone")] * len(rows)
        return [float(row[0]) for row in rows]

    def numbers(answers):
        return torch.tensor(answers, dtype=torch.float64)

    for journaled in (False, True):
        failing[0] = 2
        oracle = Oracle(ask, identity="m", decode=numbers)
        if journaled:
            oracle = oracle.journaled(tmp_path / "l.sqlite")
        oracle = oracle.limited(queries=5)
        assert oracle(torch.tensor([[4.0]])).tolist() == [4.0]
        assert (oracle.account.queries, oracle.account.retries) == (3, 2)
        failing[0] = 9
        with pytest.raises(BudgetSpent):
            oracle(torch.tensor([[5.0]]))
        if journaled:
            assert oracle.ledger.charges == 5


def test_images_of_8_bits_are_sent_as_they_are_and_others_are_right_on_average():
    import io

    import numpy as np
    from PIL import Image

    def sent(values):
        return np.array(Image.open(io.BytesIO(png(values)))).astype(float)

    whole = torch.randint(0, 256, (1, 8, 8), generator=of.Key().generator()) / 255
    assert np.array_equal(sent(whole), (whole[0] * 255).round().numpy())
    between = torch.full((1, 64, 64), 100.3 / 255)
    assert sent(between).mean() == pytest.approx(100.3, abs=0.05)
    assert png(between) == png(between)


def test_an_interval_covers_the_mean_and_shrinks_with_the_images():
    values = torch.randn(40, generator=of.Key().generator(), dtype=torch.float64).tolist()
    low, high = interval(values)
    mean = sum(values) / len(values)
    assert low < mean < high
    assert high - low == pytest.approx(2 * 1.96 * float(torch.tensor(values).std()) / 40**0.5, rel=0.2)
