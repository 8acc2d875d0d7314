import pytest
import torch
from torch import nn

from onlyforward.core.allocate import Neyman, Uniform
from onlyforward.core.errors import UsageError
from onlyforward.nn.engine import LikelihoodRatio


class Rows(nn.Module):
    """An LSTM that reads four rows."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


class Skip(nn.Module):
    """A residual block, a norm with a scale of its own, and a head."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.norm, self.head = (
            nn.Linear(6, 6),
            nn.Linear(6, 6),
            nn.LayerNorm(6),
            nn.Linear(6, 3),
        )

    def forward(self, x):
        return self.head(self.norm(x + self.second(torch.tanh(self.first(x)))))


def cross_entropy(output, target):
    return nn.functional.cross_entropy(output, target, reduction="none")


def networks():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)))
    data = torch.randn(10, 6, dtype=torch.float64)
    rows = torch.randn(10, 4, 4, dtype=torch.float64)
    return {"plain": (plain.double(), data), "skip": (Skip().double(), data), "lstm": (Rows().double(), rows)}


TARGET = torch.arange(10) % 3


def gradients(model, backward):
    model.zero_grad(set_to_none=True)
    backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def autograd(model, x):
    return gradients(model, lambda: cross_entropy(model(x), TARGET).mean().backward())


@pytest.mark.parametrize("network", ["plain", "skip", "lstm"])
@pytest.mark.parametrize("settings", [{"injection": "block"}, {"injection": "all"}, {"allocation": Neyman()}], ids=str)
def test_many_copies_agree_with_autograd(network, settings):
    model, x = networks()[network]
    truth = autograd(model, x)
    engine = LikelihoodRatio(model, copies=4000, sigma=0.01, noise="gaussian", **settings)
    found = gradients(model, lambda: engine.backward(cross_entropy, x, TARGET))
    assert float(truth @ found / truth.norm() / found.norm()) > 0.99
    assert abs(float(found.norm() / truth.norm()) - 1) < 0.04


def test_a_channel_planned_norm_joins_the_common_runs():
    model, x = networks()["skip"]
    truth = autograd(model, x)
    engine = LikelihoodRatio(
        model, copies=4000, sigma=0.01, noise="gaussian", injection="all", plan={"norm": "channel"}
    )
    found = gradients(model, lambda: engine.backward(cross_entropy, x, TARGET))
    assert float(truth @ found / truth.norm() / found.norm()) > 0.99


def test_joint_noise_is_exact_at_large_sigma():
    # Loss |y|^2 of y = W2 (h + z1) + z2 with unit noise: E grad W2 = 2 W2 (E h h^T + I). A local rule at clean inputs
    # would miss the I.
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 2, bias=False)).double()
    x = torch.randn(4, 3, dtype=torch.float64)
    w1, w2 = (layer.weight.detach() for layer in model)
    hidden = x @ w1.T
    second_moment = hidden.T @ hidden / len(x) + torch.eye(2, dtype=torch.float64)
    truth = 2 * w2 @ second_moment
    engine = LikelihoodRatio(
        model, copies=200_000, sigma=1.0, noise="gaussian", injection="all", plan={"1": "lr"}, pairing="single"
    )
    engine.backward(lambda output, target: output.square().sum(1), x, torch.zeros(4))
    assert torch.allclose(model[1].weight.grad, truth, atol=0.05 * float(truth.norm()))


def test_uniform_counts_equal_the_law_of_equal_copies():
    model, x = networks()["plain"]
    engine = LikelihoodRatio(model, copies=12, sigma=0.1, noise="gaussian", allocation=Uniform())
    before = engine.runs
    engine.backward(cross_entropy, x, TARGET)
    sites = len(engine.memory)
    # The clean run, three pilots in pairs at two scales per site, and 12 runs of each datum at each site.
    assert engine.runs - before == 10 * (1 + sites * 12) + 10 * sites * 2 * 2 * 3


def test_a_target_cosine_gives_narrow_sites_fewer_copies():
    model, x = networks()["plain"]
    engine = LikelihoodRatio(model, copies=64, sigma=0.001, target_cosine=0.8)
    engine.backward(cross_entropy, x, TARGET)
    assert all(2 <= site["copies"] < 64 and site["cosine_predicted"] >= 0.8 for site in engine.stats.values())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"injection": "everywhere"}, "Unknown injection"),
        ({"injection": "all", "cache": "sign"}, "cache sign"),
        ({"injection": "all", "plan": {"0": "bp"}}, "the plan's bp"),
        ({"allocation": Uniform(), "pairing": "pairs"}, "pairs"),
        ({"allocation": Uniform(), "injection": "all"}, "injection all"),
        ({"target_cosine": 1.5}, "target cosine"),
    ],
)
def test_settings_that_exclude_each_other_are_named(settings, words):
    with pytest.raises(UsageError, match=words):
        LikelihoodRatio(networks()["plain"][0], **settings)
