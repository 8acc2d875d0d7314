"""Two-valued noise: the product form of a site's copies equals the rows that it replaces."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from onlyforward.core.directions import direction, random_signs
from onlyforward.core.keys import Key
from onlyforward.nn.activations import Objective, run_site
from onlyforward.nn.engine import LikelihoodRatio
from onlyforward.nn.fused import fused
from onlyforward.nn.noise import SiteNoise


def losses(output, target):
    return F.cross_entropy(output, target, reduction="none")


NETS = {
    "rectifier, linear": (nn.ReLU(), nn.Linear(12, 3)),
    "linear at once": (nn.Linear(12, 3),),
    "two functions": (nn.Tanh(), nn.GELU(), nn.Linear(12, 3), nn.ReLU(), nn.Linear(3, 3)),
    "a wide linear": (nn.Tanh(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3)),
    "an in-place rectifier": (nn.ReLU(inplace=True), nn.Linear(12, 3)),
    "a softmax in between": (nn.Softmax(1), nn.Linear(12, 3)),
    "dropout": (nn.ReLU(), nn.Dropout(0.5), nn.Linear(12, 3)),
    "a map, flattened": (nn.Unflatten(1, (3, 2, 2)), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)),
    "nothing behind": (),
}


def network(behind):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 12), *behind).double()


def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, 5, generator=generator).double(), torch.arange(4) % 3


def first_site(model, paired, copies):
    engine = LikelihoodRatio(model, copies=copies)
    x, y = batch()
    tape = engine.walk.record((x,), Key())
    site = next(iter(engine.sites(tape)))[1]
    noise = SiteNoise(direction("hadamard"), Key(site="noise"), copies, tuple(site.clean.shape), 0.3, site.clean)
    return engine.walk, tape, site, noise, Objective(losses, y)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("chunk", [0, 3])
def test_losses_equal_those_of_single_runs(name, paired, chunk):
    """40 copies are three repetitions of the 16 Hadamard rows; chunks cut across them."""
    with torch.no_grad():
        given = first_site(network(NETS[name]), paired, 40)
        clean = torch.zeros(4, dtype=torch.float64)
        fast = run_site(*given, clean, paired=paired, chunk=chunk)
        slow = run_site(*given, clean, paired=paired, reference=True)
    assert torch.allclose(fast.signal, slow.signal, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "parts", "linear"),
    [
        ("rectifier, linear", 3, True),
        ("linear at once", 2, True),
        ("two functions", 4, True),
        ("a wide linear", 2, False),
        ("dropout", 2, False),
        ("an in-place rectifier", 1, False),
    ],
)
def test_the_product_takes_in_what_works_on_every_number_alone(name, parts, linear):
    with torch.no_grad():
        walk, _, site, noise, _ = first_site(network(NETS[name]), False, 8)
        found = fused(walk, site, noise)
    assert (found.index, found.linear) == (parts, linear)


def test_hooks_and_other_noise_keep_the_rows():
    model = network(NETS["rectifier, linear"])
    with torch.no_grad():
        walk, _, site, _, _ = first_site(model, False, 8)
        gaussian = SiteNoise(direction("gaussian"), Key(), 8, tuple(site.clean.shape), 0.3, site.clean)
        assert fused(walk, site, gaussian) is None
        seen = []
        model[1].register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
        walk, tape, site, noise, objective = first_site(model, False, 8)
        run_site(walk, tape, site, noise, objective, torch.zeros(4), paired=False)
    assert max(seen) == 32


def test_signs_from_bytes_are_fair_and_independent():
    signs = random_signs((4000, 13), torch.Generator().manual_seed(0))
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert signs.mean(0).abs().max() < 4 / 4000**0.5
    assert (signs.T @ signs / 4000 - torch.eye(13)).abs().max() < 5 / 4000**0.5
