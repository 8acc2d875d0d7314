import warnings

import numpy as np
import pytest

from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.decide.envs import kernels_market, supply_chain
from onlyforward.decide.envs.base import BatchEnv
from onlyforward.decide.envs.kernels import compiled, simulate
from onlyforward.decide.envs.register import ENVIRONMENTS, make, parse_settings, register
from onlyforward.decide.envs.scalar import twin
from onlyforward.decide.envs.supply_chain import SupplyChain, SupplyChainParameters

gymnasium = pytest.importorskip("gymnasium")


def random_actions(environment, batch, generator):
    space = environment.action
    if space.kind in ("discrete", "multidiscrete"):
        return generator.integers(0, space.sizes, (environment.horizon, batch, space.columns))
    raw = generator.random((environment.horizon, batch, space.columns)).astype(np.float32)
    return raw / raw.sum(-1, keepdims=True) if space.kind == "simplex" else raw


def play(environment, actions, first=0, episodes=8):
    state = environment.start(environment.noise(Key(run=4), first, first + episodes))
    rewards, seen = [], []
    for t in range(environment.horizon):
        seen.append(np.asarray(environment.observe(state)))
        state, reward = environment.advance(state, environment.array(actions[t]))
        rewards.append(np.asarray(reward))
    return np.array(seen), np.array(rewards)


@pytest.mark.parametrize(("name", "backend"), [*((name, "numpy") for name in ENVIRONMENTS), ("SupplyChain", "torch")])
def test_an_episode_is_the_same_alone_in_a_batch_and_in_any_shard(name, backend):
    environment = make(name, backend=backend)
    actions = random_actions(environment, 70, np.random.Generator(np.random.Philox(1)))
    seen, rewards = play(environment, actions, 0, 70)
    for start, stop in ((0, 1), (3, 4), (60, 70)):
        seen_part, rewards_part = play(environment, actions[:, start:stop], start, stop - start)
        assert np.array_equal(seen_part, seen[:, start:stop])
        assert np.array_equal(rewards_part, rewards[:, start:stop])


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_numpy_and_torch_backends_agree(name):
    actions = random_actions(make(name), 8, np.random.Generator(np.random.Philox(2)))
    there, here = play(make(name), actions), play(make(name, backend="torch"), actions)
    for left, right in zip(there, here, strict=True):
        assert np.allclose(left, right, rtol=1e-5, atol=1e-5)


VARIANTS = [
    *((name, {}) for name in ENVIRONMENTS),
    ("SupplyChain", {"compat": "paper"}),
    ("SupplyChain", {"initial_pipeline": 3.0, "leads": (1, 4), "lost": (0.1, 0.2), "holding": (0.2, 0.3)}),
    *(("LostSales", {"lead": lead, "periods": 30, "warm": 5}) for lead in (0, 1, 5, 30)),
    ("Portfolio", {"cost": 0.0, "periods": 7}),
    *(("DynamicPricing", {"demand": law, "slots": 20, "customers": 30.0}) for law in ("linear", "logit")),
    ("Recommendation", {"slate": 8, "periods": 4}),
    ("JointSeason", {"utility": (1.8, 1.5, 1.2), "cost": (0.7, 0.6, 0.5), "customers": 3, "periods": 5, "cap": 6}),
    ("JointReplenish", {"utility": (1.0,), "cost": (0.4,), "warm": 0, "periods": 9}),
]


@pytest.mark.parametrize(("name", "parameters"), VARIANTS)
def test_every_batched_environment_is_its_scalar_twin(name, parameters):
    if "leads" in parameters:
        parameters = {**parameters, "prices": (2.0, 1.0, 0.5)}
    environment = make(name, **parameters)
    actions = random_actions(environment, 5, np.random.Generator(np.random.Philox(3)))
    noise = environment.noise(Key(run=4), 0, 5)
    seen, rewards = play(environment, actions, 0, 5)
    scale = max(1.0, float(np.abs(rewards).max()), 100.0 if name == "Portfolio" else 0.0)
    for b in range(5):
        slow = twin(environment, {k: v[:, b] if v.ndim > 1 else v[b] for k, v in noise.items()})
        observation = slow.observation
        for t in range(environment.horizon):
            assert np.allclose(observation, seen[t, b], rtol=2e-6, atol=2e-6)
            observation, reward, done = slow.step(actions[t, b].tolist())
            assert reward == pytest.approx(float(rewards[t, b]), abs=1e-6 * scale)
            assert done == (t == environment.horizon - 1)


def test_the_compiled_kernel_is_the_batched_environment():
    pytest.importorskip("numba")
    environment = SupplyChain()
    actions = random_actions(environment, 16, np.random.Generator(np.random.Philox(6))).astype(np.float32)
    noise = environment.noise(Key(run=4), 0, 16)
    _, rewards = play(environment, actions, 0, 16)
    total = simulate(
        compiled(), environment.parameters, noise["demand"], np.ascontiguousarray(actions.transpose(0, 2, 1))
    )
    assert np.allclose(total, rewards.sum(0), rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_a_compiled_period_is_the_plain_one_to_the_bit(backend, monkeypatch):
    pytest.importorskip("numba")
    environment = SupplyChain(SupplyChainParameters(initial_pipeline=3.0), backend=backend)
    actions = random_actions(environment, 300, np.random.Generator(np.random.Philox(8)))
    seen, rewards = play(environment, actions, 0, 300)
    monkeypatch.setattr(supply_chain, "MANY", 10**9)
    plain_seen, plain_rewards = play(SupplyChain(environment.parameters), actions, 0, 300)
    assert np.array_equal(seen, plain_seen)
    assert np.array_equal(rewards, plain_rewards)


@pytest.mark.parametrize("name", ["DynamicPricing", "Recommendation", "JointSeason", "JointReplenish"])
def test_compiled_customers_choose_as_the_plain_ones_to_the_bit(name, monkeypatch):
    pytest.importorskip("numba")
    environment = make(name)
    actions = random_actions(environment, 300, np.random.Generator(np.random.Philox(8)))
    seen, rewards = play(environment, actions, 0, 300)
    monkeypatch.setattr(kernels_market, "MANY", 10**9)
    plain_seen, plain_rewards = play(environment, actions, 0, 300)
    assert np.array_equal(seen, plain_seen)
    assert np.array_equal(rewards, plain_rewards)


def test_an_episode_goes_on_alike_once_gradients_are_recorded():
    torch = pytest.importorskip("torch")
    environment = SupplyChain(SupplyChainParameters(initial_pipeline=3.0), backend="torch")
    noise = environment.noise(Key(run=4), 0, 8)
    actions = torch.from_numpy(random_actions(environment, 8, np.random.Generator(np.random.Philox(9)))).float()
    state = mixed = environment.start(noise)
    for t in range(20):
        state, reward = environment.advance(state, actions[t])
        mixed, same_reward = environment.advance(mixed, actions[t].clone().requires_grad_(t in (5, 6)))
        assert torch.allclose(reward, same_reward, rtol=1e-5, atol=1e-5)
        assert torch.allclose(environment.observe(state), environment.observe(mixed), rtol=1e-5, atol=1e-5)


def test_the_chains_gradient_is_the_slope_of_its_rewards():
    torch = pytest.importorskip("torch")
    environment = SupplyChain(SupplyChainParameters(periods=12), backend="torch")
    noise = environment.noise(Key(run=4), 0, 4)
    generator = torch.Generator().manual_seed(3)
    orders = (20 * torch.rand(12, 4, 3, generator=generator)).requires_grad_()
    direction = torch.randn(12, 4, 3, generator=generator)

    def total(shift):
        state, earned = environment.start(noise), 0.0
        for t in range(12):
            state, reward = environment.advance(state, orders[t] + shift * direction[t])
            earned = earned + reward.double().sum()
        return earned

    (gradient,) = torch.autograd.grad(total(0.0), orders)
    with torch.no_grad():
        slope = (total(1e-3) - total(-1e-3)) / 2e-3
    assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=2e-2, abs=0.3)


def test_units_are_conserved_along_the_chain():
    environment = SupplyChain(SupplyChainParameters(initial_pipeline=3.0))
    actions = random_actions(environment, 6, np.random.Generator(np.random.Philox(7)))
    state = environment.start(environment.noise(Key(), 0, 6))
    before = environment.position(state).sum(0)
    for t in range(40):
        state, _ = environment.advance(state, actions[t])
        _, sold, orders = state["seen"][:3]
        sold, bought = sold[0], orders[-1]
        after = environment.position(state).sum(0)
        assert np.allclose(after, before - sold + bought)
        before = after


def known_chain(env, state, t):
    return (np.array([[51.0], [42.0], [56.0]]) - env.position(state)).clip(0, 20).T


def chosen_spread(env, state, t):
    return (state["spread"][t] == 1.0).argmax(1)[:, None]


def same(value):
    return lambda env, state, t: np.full((len(env.observe(state)), 1), value)


def reorder(env, state, t):
    return np.where(state["stock"] <= 6, 40 - state["stock"], 0)[:, None]


KNOWN = {
    "ZeroMean": (same(1.0), {}, 0.25, -0.2040, 0.012),
    "FairLottery": (chosen_spread, {}, 0.25, -1.600, 0.06),
    "BeyondGreed": (same(1), {}, 0.5, 8.6048, 0.03),
    "OneStep": (same(0.930), {}, 0.1, 2 * 0.93 - 0.93**2 / 2 - 1.2816 * 0.93, 0.05),
    "Bandit": (same(2), {}, 0.25, 0.6 - 0.6745 * 0.9, 0.05),
    "SupplyChain": (known_chain, {"preset": "paper"}, 0.1, 654.6, 2.0),
    "LostSales": (
        lambda env, state, t: np.minimum((17 - env.position(state)[0]).clip(0), 5)[:, None],
        {"warm": 50, "periods": 450},
        None,
        -4.405,
        0.02,
    ),
    "Newsvendor": (same(56.6040), {}, None, -1.99761, 0.06),
    "SS": (reorder, {}, None, -35.0216, 0.1),
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_policy_earns_its_known_value(name):
    act, options, level, known, tolerance = KNOWN[name]
    environment = make(name, **options)
    state = environment.start(environment.noise(Key(run=1), 0, 4096))
    total = np.zeros(4096)
    for t in range(environment.horizon):
        state, reward = environment.advance(state, act(environment, state, t))
        total += environment.gamma**t * reward
    found = total.mean() if level is None else np.quantile(total, level)
    assert found == pytest.approx(known, abs=tolerance)


def test_the_best_constant_mix_earns_its_closed_form():
    from onlyforward.decide.policies import careful_mix, structured
    from onlyforward.decide.rollout import structured_returns

    environment = make("Portfolio", cost=0.0)
    weights, p = careful_mix(environment).astype(float), environment.parameters
    variance = weights @ np.array(p.covariance) @ weights
    known = 100 * np.exp(weights @ np.array(p.drift) - variance / 2 - 1.2816 * np.sqrt(variance)) - 100
    assert known == pytest.approx(-1.914, abs=2e-3)
    blind = structured("frontier-blind", environment)
    rows = np.repeat(np.array([[-40.0, 0.0]], dtype=np.float32), 8192, 0)
    found = structured_returns(environment, blind, rows, Key(run=2))
    assert np.quantile(found, 0.1) == pytest.approx(known, abs=0.2)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_gymnasium_accepts_every_environment(name):
    from gymnasium.utils.env_checker import check_env

    register()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(gymnasium.make(f"onlyforward/{name}-v0").unwrapped, skip_render_check=True)
        vector = gymnasium.make_vec(f"onlyforward/{name}-v0", num_envs=3)
        seen, _ = vector.reset(seed=1)
        assert seen.shape == vector.observation_space.shape
        _, reward, done, _, _ = vector.step(vector.action_space.sample())
        assert reward.shape == done.shape == (3,)


def test_wrong_names_and_parameters_are_one_sentence():
    with pytest.raises(UsageError, match="SupplyChain"):
        make("SuplyChain")
    with pytest.raises(UsageError, match="holding"):
        make("LostSales", holdin=2)
    with pytest.raises(UsageError, match="between 0 and 30"):
        make("LostSales", lead=-1)
    assert parse_settings(["lead=4", "mean=2.5", "demand=poisson", "leads=1,2"]) == {
        "lead": 4,
        "mean": 2.5,
        "demand": "poisson",
        "leads": (1, 2),
    }
    with pytest.raises(UsageError, match="NAME=VALUE"):
        parse_settings(["lead"])


def test_the_stateful_face_ends_after_the_horizon():
    env = BatchEnv(make("BeyondGreed"), 3)
    assert env.reset(Key()).shape == (3, 10)
    for t in range(10):
        _, _, done = env.step(np.zeros((3, 1), dtype=int))
        assert bool(done.all()) == (t == 9)


def test_a_widened_state_tells_the_time_and_what_was_earned():
    from onlyforward.decide.envs.augment import AugmentState

    inner = make("FairLottery")
    wide = AugmentState(inner, scale=10.0)
    actions = random_actions(inner, 5, np.random.Generator(np.random.Philox(8)))
    seen, rewards = play(inner, actions, 0, 5)
    widened, same = play(wide, actions, 0, 5)
    assert np.array_equal(rewards, same)
    assert np.array_equal(widened[..., :3], seen)
    assert np.allclose(widened[..., 3], np.arange(20)[:, None] / 20)
    discounted = inner.gamma ** np.arange(20)[:, None] * rewards
    assert np.allclose(widened[1:, :, 4], np.cumsum(discounted, 0)[:-1] / 10, atol=1e-5)
