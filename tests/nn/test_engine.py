"""What the engine promises: no hidden backward passes, refusals with reasons, ask and tell, shares of time steps."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import onlyforward as of
from onlyforward.core.errors import Diverged, UsageError
from onlyforward.nn.engine import LikelihoodRatio
from onlyforward.nn.rules import RULES, rule_for


def losses(output, target):
    return F.cross_entropy(output, target, reduction="none")


def network(*middle):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), *(middle or (nn.Tanh(),)), nn.Linear(6, 3))


def batch(dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(8, 5, generator=generator).to(dtype), torch.arange(8) % 3


def truth(model, x, y):
    found = torch.autograd.grad(losses(model(x), y).mean(), list(model.parameters()))
    return torch.cat([g.reshape(-1) for g in found])


def flat(model):
    return torch.cat([p.grad.reshape(-1) for p in model.parameters()])


LR = {"*": "lr"}
"""Every unit by the likelihood ratio, the head included."""


@pytest.fixture
def calls(monkeypatch):
    """How often autograd's engine is entered."""
    made = []
    entered = torch.autograd.graph._engine_run_backward

    def count(*inputs, **named):
        made.append(1)
        return entered(*inputs, **named)

    monkeypatch.setattr(torch.autograd, "_engine_run_backward", count)
    monkeypatch.setattr(torch.autograd.graph, "_engine_run_backward", count)
    return made


def test_the_counter_sees_backward_passes(calls):
    losses(network()(batch()[0]), batch()[1]).mean().backward()
    assert len(calls) == 1


@pytest.mark.parametrize(("plan", "passes"), [({"*": "lr"}, 0), ({}, 1), ({"0": "bp"}, 2)])
def test_backward_passes_happen_in_exact_and_backpropagated_parts_alone(calls, plan, passes):
    """None with the head by likelihood ratio; the loss's own slope at an exact head; one more for a bp part."""
    model = network() if "0" not in plan else nn.Sequential(*network(), nn.Tanh(), nn.Linear(3, 3))
    engine = LikelihoodRatio(model, copies=4, plan=plan)
    for _ in range(2):
        calls.clear()
        engine.backward(losses, *batch())
    assert len(calls) <= passes
    assert all(p.grad is not None for p in model.parameters())


def test_everything_works_where_gradients_are_forbidden():
    model = network()
    with torch.inference_mode(False), torch.no_grad():
        LikelihoodRatio(model, copies=4, plan={"*": "lr"}).backward(losses, *batch())
    assert all(p.grad is not None and p.grad.grad_fn is None for p in model.parameters())


def test_batchnorm_in_training_mode_is_refused_with_the_reason():
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    engine = LikelihoodRatio(model, copies=4)
    with pytest.raises(UsageError, match="depends on the whole batch"):
        engine.backward(losses, *batch())
    model.eval()
    engine.backward(losses, *batch())


def test_modes_buffers_and_hooks_are_as_before_even_after_an_error():
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3))
    model[1].eval()
    before = [module.training for module in model.modules()]
    mean = model[1].running_mean.clone()
    with pytest.raises(ZeroDivisionError):
        LikelihoodRatio(model, copies=4).backward(lambda output, target: 1 / 0, *batch())
    assert [module.training for module in model.modules()] == before
    assert torch.equal(model[1].running_mean, mean)
    assert "forward" not in model[2].__dict__
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_loss_without_one_number_per_datum_is_named():
    with pytest.raises(UsageError, match="reduction"):
        LikelihoodRatio(network(), copies=4).backward(F.cross_entropy, *batch())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"copies": 1}, "compared"),
        ({"copies": 5, "pairing": "pairs"}, "even"),
        ({"sigma": 0.0}, "signal"),
        ({"noise": "hadamart"}, "hadamard"),
        ({"plan": {"encoder.*": "bp"}}, "matches no module"),
        ({"visits": 0.0}, "visits"),
        ({"fail": "never"}, "fail"),
    ],
)
def test_wrong_settings_are_named(options, reason):
    with pytest.raises(UsageError, match=reason):
        LikelihoodRatio(network(), **options)


def test_finite_difference_noise_behind_a_threshold_needs_force():
    class Step(nn.Module):
        def forward(self, x):
            return (x > 0).to(x)

    model = network(nn.Tanh(), Step())
    with pytest.raises(UsageError, match="threshold"):
        LikelihoodRatio(model, copies=4, noise="hadamard").backward(losses, *batch())
    LikelihoodRatio(model, copies=4, noise="hadamard", force=True).backward(losses, *batch())


def test_a_loss_that_is_not_finite_names_the_site():
    model = network()

    def broken(output, target):
        return losses(output, target) + (torch.nan if len(output) > 8 else 0.0)

    with pytest.raises(Diverged, match="at 0 is not finite"):
        LikelihoodRatio(model, copies=4, noise="gaussian", pairing="single").backward(broken, *batch())


def test_gradients_accumulate_as_autograds_do():
    model = network()
    engine = LikelihoodRatio(model, copies=4)
    engine.backward(losses, *batch())
    first = flat(model).clone()
    LikelihoodRatio(model, copies=4).backward(losses, *batch())
    assert torch.allclose(flat(model), 2 * first)


def test_a_constant_added_to_every_loss_leaves_the_gradient():
    model = network()
    LikelihoodRatio(model, copies=8).backward(losses, *batch())
    first = flat(model).clone()
    model.zero_grad()
    LikelihoodRatio(model, copies=8).backward(lambda o, t: losses(o, t) + 3.0, *batch())
    assert torch.allclose(flat(model), first, rtol=1e-3, atol=1e-5)


def test_runs_equal_what_a_counting_module_sees():
    class Counter(nn.Module):
        rows = 0

        def forward(self, x):
            self.rows += len(x)
            return x.clone()

    model = nn.Sequential(nn.Linear(5, 6), Counter(), nn.Linear(6, 3))
    engine = LikelihoodRatio(model, copies=6)
    engine.backward(losses, *batch())
    assert model[1].rows == engine.runs


# Ask and tell --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{"sigma": 0.1}, {"noise": "hadamard", "sigma": 0.01}, {"sigma": 0.1, "pairing": "single"}]
)
def test_ask_and_tell_give_the_gradient_of_backward_without_an_exact_head(options):
    x, y = batch()
    model = network()
    engine = LikelihoodRatio(model, copies=8, **options)
    outputs = engine.ask(x)
    assert outputs.shape == (8 + 2 * 8 * 8, 3)
    engine.tell(losses(outputs, y[engine.asked.index]))
    found = flat(model).clone()
    model.zero_grad()
    twin = LikelihoodRatio(model, copies=8, plan={"*": "lr"}, **{"noise": "gaussian", "pairing": "pairs", **options})
    twin.backward(losses, x, y)
    assert torch.allclose(flat(model), found, rtol=1e-4, atol=1e-6)


def test_telling_points_along_the_true_gradient():
    x, y = batch()
    model = network()
    engine = LikelihoodRatio(model, copies=512, sigma=0.05)
    outputs = engine.ask(x)
    loss = engine.tell(losses(outputs, y[engine.asked.index]))
    assert loss.item() == pytest.approx(losses(model(x), y).mean().item(), rel=1e-5)
    assert torch.cosine_similarity(flat(model), truth(model, x, y), dim=0) > 0.9


def test_telling_without_asking_or_too_little_is_named():
    engine = LikelihoodRatio(network(), copies=4)
    with pytest.raises(UsageError, match="asked for"):
        engine.tell(torch.zeros(8))
    engine.ask(batch()[0])
    with pytest.raises(UsageError, match="rows"):
        engine.tell(torch.zeros(8))


# Rules that do not work, and time steps that are not visited ---------------------------------------------------------


class Stubborn(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6))

    def forward(self, x):
        if torch.is_grad_enabled():
            raise RuntimeError("no derivative here")
        return x * self.weight


def test_a_rule_that_does_not_work_follows_fail():
    model = network(nn.Tanh(), Stubborn())
    with pytest.raises(UsageError, match=r"register_rule\(Stubborn\)"):
        LikelihoodRatio(model, copies=4).backward(losses, *batch())
    with pytest.warns(UserWarning, match="not trained"):
        LikelihoodRatio(model, copies=4, fail="warn").backward(losses, *batch())
    LikelihoodRatio(model, copies=4, fail="skip").backward(losses, *batch())
    assert model[2].weight.grad is None
    assert model[0].weight.grad is not None


def test_a_users_rule_is_used():
    @of.register_rule(Stubborn)
    def own(module, inputs, delta):
        return {"weight": (delta * inputs[0]).sum(0)}

    try:
        assert rule_for(Stubborn()) is own
        model = network(nn.Tanh(), Stubborn()).double()
        x, y = batch(torch.float64)
        LikelihoodRatio(model, copies=16, sigma=1e-3, noise="hadamard", pairing="pairs").backward(losses, x, y)
        found = flat(model)
        model[2] = plain = Own()
        plain.double()
        assert torch.allclose(found, truth(model, x, y), atol=1e-5)
    finally:
        del RULES[Stubborn]


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6))

    def forward(self, x):
        return x * self.weight


def test_visiting_a_share_of_the_time_steps_is_unbiased():
    torch.manual_seed(0)

    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = nn.RNN(3, 4, batch_first=True), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.rnn(x)[0].mean(1))

    model = Reader().double()
    x, y = torch.randn(4, 6, 3, dtype=torch.float64), torch.arange(4) % 3
    wanted = truth(model, x, y)
    engine = LikelihoodRatio(model, copies=8, sigma=1e-3, noise="hadamard", pairing="pairs", visits=0.34)
    total = torch.zeros_like(wanted)
    for _ in range(200):
        model.zero_grad()
        engine.backward(losses, x, y)
        total += flat(model) / 200
    assert len(engine.memory) == 6
    whole = LikelihoodRatio(model, copies=8, pairing="pairs")
    whole.backward(losses, x, y)
    assert engine.cost()[0] < 0.4 * whole.cost()[0]
    assert torch.cosine_similarity(total, wanted, dim=0) > 0.98
    assert total.norm() == pytest.approx(wanted.norm().item(), rel=0.1)


def test_standard_weights_do_not_know_the_scale_of_a_loss_and_leave_equal_losses_out():
    x, y = batch()
    found = []
    for scale in (1.0, 5.0):
        model = network()
        engine = LikelihoodRatio(model, copies=8, noise="gaussian", baseline="standard", pairing="single", plan=LR)
        engine.backward(lambda out, target, by=scale: by * losses(out, target) + 3 * by, x, y)
        found.append(flat(model))
    assert (found[0] - found[1]).norm() < 1e-3 * found[0].norm()
    model = network()
    engine = LikelihoodRatio(model, copies=8, noise="gaussian", sigma=0.1, baseline="standard", force=True, plan=LR)
    engine.backward(lambda out, target: torch.ones(len(out)), x, y)
    assert not flat(model).any()


def test_standard_weights_lead_a_datum_that_is_seldom_right_as_far_as_any_other():
    """For an error of probability P the mean gradient shrinks as P(1-P); in standard deviations it does not."""
    wrong = torch.tensor([[3.0, 0.0], [0.3, 0.0]])
    model = nn.Sequential(nn.Linear(2, 2, bias=False))
    model[0].weight.data = torch.eye(2)
    ratios = {}
    for baseline in ("loo", "standard"):
        engine = LikelihoodRatio(
            model, copies=4096, sigma=1.0, noise="gaussian", baseline=baseline, pairing="single", plan=LR
        )
        with engine.started(lambda out, target: (out.argmax(1) != target).float(), wrong, torch.tensor([1, 1])) as step:
            _, probe, weight = next(engine.jobs(step))
            seldom, often = probe.delta(weight).norm(dim=1)
        ratios[baseline] = float(seldom / often)
    assert ratios["loo"] < 0.2
    assert ratios["standard"] > 2 * ratios["loo"]
