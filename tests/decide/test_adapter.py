import numpy as np
import pytest

import onlyforward as of
from onlyforward.core.errors import FileError, UsageError
from onlyforward.core.keys import Key
from onlyforward.decide.envs.register import make, register

gymnasium = pytest.importorskip("gymnasium")


@pytest.mark.parametrize(
    ("name", "action"),
    [
        ("BeyondGreed", 2),
        ("BeyondGreed", 0.5),
        ("BeyondGreed", "left"),
        ("BeyondGreed", [0, 1]),
        ("SupplyChain", [1, 2]),
        ("SupplyChain", [1, 2, 21]),
        ("OneStep", [np.nan]),
        ("Portfolio", [0.5, 0.5]),
    ],
)
def test_a_wrong_action_is_one_sentence(name, action):
    register()
    env = gymnasium.make(f"onlyforward/{name}-v0").unwrapped
    env.reset(seed=0)
    with pytest.raises(UsageError, match=r"Give .*"):
        env.step(action)


def test_what_predict_returns_is_what_step_takes():
    register()
    for name, kind in (("BeyondGreed", of.QPO), ("OneStep", of.QPO), ("SupplyChain", of.QPPO), ("Portfolio", of.QPO)):
        env = gymnasium.make(f"onlyforward/{name}-v0").unwrapped
        model = kind(name)
        observation, _ = env.reset(seed=0)
        action, _ = model.predict(observation, deterministic=True)
        _, reward, _, _, _ = env.step(action)
        assert np.isfinite(reward)


def test_a_vector_resets_all_of_its_episodes_or_says_why_not():
    register()
    vector = gymnasium.make_vec("onlyforward/FairLottery-v0", num_envs=3)
    first, _ = vector.reset(seed=1)
    again, _ = vector.reset(seed=1, options={"reset_mask": np.ones(3, dtype=bool)})
    assert np.array_equal(first, again)
    with pytest.raises(UsageError, match="in step"):
        vector.reset(options={"reset_mask": np.array([True, False, True])})


def test_an_episode_of_the_single_environment_is_that_of_the_vector():
    register()
    single = gymnasium.make("onlyforward/SupplyChain-v0").unwrapped
    vector = gymnasium.make_vec("onlyforward/SupplyChain-v0", num_envs=2)
    single.reset(seed=5)
    vector.reset(seed=5)
    for _ in range(100):
        seen, reward, done, _, _ = single.step([3, 4, 5])
        several, rewards, ended, _, _ = vector.step([[3, 4, 5], [1, 1, 1]])
        assert np.array_equal(seen, several[0])
        assert reward == pytest.approx(rewards[0])
    assert done
    assert ended.all()


def test_agents_train_on_any_gymnasium_environment():
    from onlyforward.decide.foreign import FromGymnasium

    environment = FromGymnasium("CartPole-v1", horizon=40, alpha=0.25)
    model = of.QPO(environment, seed=0).learn(64 * 40 * 2)
    action, _ = model.predict(np.zeros(4))
    assert action.shape == (1,)
    assert 5 < model.evaluate(32).mean <= 40
    state = environment.start(environment.noise(Key(run=3), 0, 4))
    total = np.zeros(4)
    for _ in range(40):
        state, reward = environment.advance(state, np.ones((4, 1), dtype=int))
        total += reward
    assert (total < 15).all(), "pushing one way drops the pole, and nothing is earned afterwards"
    with pytest.raises(UsageError, match="Nothing-v0"):
        FromGymnasium("Nothing-v0", horizon=5)


def test_a_portfolio_of_real_prices_resamples_their_returns(tmp_path):
    days = np.cumprod(1 + 0.01 * np.sin(np.arange(30)[:, None] + np.arange(2)), axis=0)
    place = tmp_path / "prices.csv"
    rows = [f"2020-01-{day + 1:02d},{a:.12f},{b:.12f}" for day, (a, b) in enumerate(days)]
    place.write_text("date,A,B\n" + "\n".join(rows) + "\n")
    environment = make("Portfolio", prices=str(place), periods=10)
    moves = environment.noise(Key(), 0, 8)["move"]
    truth = days[1:] / days[:-1] - 1
    assert all(np.abs(truth - row).sum(1).min() < 1e-5 for row in moves.reshape(-1, 2))
    place.write_text("date,A,B\n" + "\n".join(rows[:25]) + "\n2020-02-01,0,1\n")
    with pytest.raises(FileError, match=r"line 27, column A"):
        make("Portfolio", prices=str(place))
    with pytest.raises(FileError, match="missing"):
        make("Portfolio", prices=str(tmp_path / "missing.csv"))
