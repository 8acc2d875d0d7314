import warnings

import numpy as np
import pytest

from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.decide.envs.base import BatchEnv
from onlyforward.decide.envs.kernels import compiled, simulate
from onlyforward.decide.envs.lost_sales import LostSales, LostSalesParameters
from onlyforward.decide.envs.register import ENVIRONMENTS, make, parse_settings, register
from onlyforward.decide.envs.scalar import ScalarLostSales, ScalarSupplyChain
from onlyforward.decide.envs.supply_chain import SupplyChain, SupplyChainParameters

gymnasium = pytest.importorskip("gymnasium")


def random_actions(environment, batch, generator):
    space = environment.action
    if space.kind in ("discrete", "multidiscrete"):
        return generator.integers(0, space.sizes[0], (environment.horizon, batch, space.columns))
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


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_an_episode_is_the_same_alone_in_a_batch_and_in_any_shard(name):
    environment = make(name)
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


@pytest.mark.parametrize("compat", ["none", "paper"])
def test_the_batched_supply_chain_is_its_scalar_twin(compat):
    parameters = SupplyChainParameters(compat=compat)
    environment = SupplyChain(parameters)
    actions = random_actions(environment, 5, np.random.Generator(np.random.Philox(3)))
    noise = environment.noise(Key(run=4), 0, 5)
    seen, rewards = play(environment, actions, 0, 5)
    for b in range(5):
        twin = ScalarSupplyChain(parameters, noise["demand"][:, b])
        for t in range(environment.horizon):
            observation, reward, done = twin.step(actions[t, b])
            assert reward == pytest.approx(float(rewards[t, b]), abs=1e-4)
            if t + 1 < environment.horizon:
                assert np.array_equal(observation, seen[t + 1, b])
        assert done


@pytest.mark.parametrize("lead", [0, 1, 2, 5])
def test_batched_lost_sales_is_its_scalar_twin(lead):
    parameters = LostSalesParameters(lead=lead, periods=30)
    environment = LostSales(parameters)
    actions = random_actions(environment, 4, np.random.Generator(np.random.Philox(5)))
    noise = environment.noise(Key(run=4), 0, 4)
    _, rewards = play(environment, actions, 0, 4)
    for b in range(4):
        twin = ScalarLostSales(parameters, noise["demand"][:, b])
        for t in range(30):
            assert twin.step(float(actions[t, b, 0])) / 30 == pytest.approx(float(rewards[t, b]), abs=1e-6)


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


def test_units_are_conserved_along_the_chain():
    environment = SupplyChain(SupplyChainParameters(initial_pipeline=3.0))
    actions = random_actions(environment, 6, np.random.Generator(np.random.Philox(7)))
    state = environment.start(environment.noise(Key(), 0, 6))
    before = sum(state["stock"]) + sum(p.sum(0) for p in state["pipeline"])
    for t in range(40):
        state, _ = environment.advance(state, actions[t])
        sold, bought = state["seen"][0][6], state["seen"][0][11]
        after = sum(state["stock"]) + sum(p.sum(0) for p in state["pipeline"])
        assert np.allclose(after, before - sold + bought)
        before = after


def test_the_paper_preset_earns_the_known_value_of_its_tuned_base_stock():
    environment = make("SupplyChain", preset="paper")
    state = environment.start(environment.noise(Key(run=1), 0, 4096))
    total = np.zeros(4096)
    for t in range(environment.horizon):
        orders = (np.array([[51.0], [42.0], [56.0]]) - environment.position(state)).clip(0, 20)
        state, reward = environment.advance(state, orders.T)
        total += environment.gamma**t * reward
    assert total.mean() == pytest.approx(678.0, abs=1.5)
    assert np.quantile(total, 0.1) == pytest.approx(654.6, abs=2.0)


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
