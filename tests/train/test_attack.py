import pytest
import torch
from torch import nn

from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.train.attack import ATTACKS, attacked
from onlyforward.train.noise import noise_kept

KEY = Key(run=1)


def linear():
    model = nn.Linear(6, 3)
    with torch.no_grad():
        model.weight.copy_(torch.randn(3, 6, generator=KEY.generator()))
    return model


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_stays_in_the_ball_and_the_unit_cube_and_raises_the_loss(name):
    model = linear()
    x = torch.rand(20, 6, generator=KEY.generator())
    y = torch.arange(20) % 3
    moved = attacked(name, lambda z, draw: model(z), x, y, 0.1, key=KEY)
    assert float((moved - x).abs().max()) <= 0.1 + 1e-6
    assert 0 <= float(moved.min()) <= float(moved.max()) <= 1
    loss = nn.CrossEntropyLoss()
    assert loss(model(moved), y).item() > loss(model(x), y).item() + 0.05
    assert torch.allclose(attacked(name, lambda z, draw: model(z), x, y, 0.0, key=KEY), x)


def test_fgsm_on_two_classes_is_the_sign_of_the_weight_difference():
    model = nn.Linear(4, 2)
    x = torch.full((1, 4), 0.5)
    moved = attacked("fgsm", lambda z, draw: model(z), x, torch.tensor([0]), 0.1, key=KEY)
    expected = x + 0.1 * (model.weight[1] - model.weight[0]).sign()
    assert torch.allclose(moved, expected)


def test_pgd_finds_more_loss_than_fgsm_on_a_curved_network_and_eot_counts_its_draws():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 4))
    for p in model.parameters():
        p.data.mul_(4)
    x, y = torch.rand(64, 8), torch.randint(0, 4, (64,))
    draws = []

    def predict(z, draw):
        draws.append(draw)
        return model(z)

    loss = nn.CrossEntropyLoss()
    found = {name: loss(model(attacked(name, predict, x, y, 0.3, key=KEY)), y).item() for name in ("fgsm", "pgd")}
    assert found["pgd"] > found["fgsm"]
    draws.clear()
    attacked("eot", predict, x, y, 0.3, key=KEY)
    assert draws == list(range(160))


def test_noise_kept_has_its_standard_deviation_spares_the_logits_and_leaves_no_hook():
    model = nn.Sequential(nn.Linear(4, 5000), nn.Identity(), nn.Linear(5000, 2))
    x = torch.zeros(1, 4)
    clean = model[0](x)
    with noise_kept(model, 0.5, KEY), torch.no_grad():
        noisy = model[0](x)
        logits = model[2](torch.zeros(1, 5000))
    assert (noisy - clean).std().item() == pytest.approx(0.5, rel=0.05)
    assert torch.equal(logits, model[2](torch.zeros(1, 5000)))
    assert torch.equal(model[0](x), clean)
    with noise_kept(model, 0.5, KEY), torch.no_grad():
        assert torch.equal(model[0](x), noisy)
        assert not torch.equal(model[0](x), noisy)


def test_unknown_attacks_are_named():
    with pytest.raises(UsageError, match="mifgsm"):
        attacked("mfgsm", lambda z, draw: z, torch.rand(1, 2), torch.tensor([0]), 0.1, key=KEY)
