import numpy as np
import pytest
import torch

import onlyforward as of
from onlyforward.core.errors import FileError, UsageError
from onlyforward.decide.callbacks import CheckpointCallback, EvalCallback, StopOnTarget
from onlyforward.decide.rollout import Alone, collect, pieces, policy_returns, rollout


def test_a_model_learns_predicts_saves_and_loads(tmp_path):
    model = of.QPO("onlyforward/BeyondGreed-v0", alpha=0.5, seed=1).learn(total_steps=64 * 10 * 40)
    action, state = model.predict(np.eye(10, dtype=np.float32))
    assert action.shape == (10, 1)
    assert state is None
    model.save(tmp_path)
    loaded = of.QPO.load(tmp_path)
    assert np.array_equal(loaded.predict(np.eye(10, dtype=np.float32))[0], action)
    assert loaded.evaluate(500).q_alpha == model.evaluate(500).q_alpha
    with pytest.raises(FileError, match="qpo model"):
        of.PPO.load(tmp_path)
    with pytest.raises(FileError, match="no saved model"):
        of.QPO.load(tmp_path / "missing")


def test_learning_in_two_parts_is_learning_in_one(tmp_path):
    whole = of.QPO("BeyondGreed", seed=2)
    whole.build(64 * 20)
    whole.agent.learn(updates=20)
    part = of.QPO("BeyondGreed", seed=2)
    part.build(64 * 20)
    part.agent.learn(updates=8)
    part.save(tmp_path)
    rest = of.QPO.load(tmp_path)
    rest.agent.learn(updates=12)
    there, here = whole.agent.state()[0], rest.agent.state()[0]
    assert all(torch.equal(value, here[name]) for name, value in there.items())


def test_callbacks_evaluate_save_and_stop(tmp_path):
    watch = EvalCallback(every=5, episodes=200, folder=tmp_path / "best")
    of.QPO("BeyondGreed", seed=0).learn(64 * 10 * 20, callback=[watch, CheckpointCallback(tmp_path / "all", every=10)])
    assert [update for update, _ in watch.history] == [5, 10, 15, 20]
    assert (tmp_path / "best" / "agent.safetensors").exists()
    assert sorted(p.name for p in (tmp_path / "all").iterdir()) == ["update-10", "update-20"]
    stopped = of.QPO("BeyondGreed", seed=0).learn(64 * 10 * 200, callback=StopOnTarget(-1e9, every=3, episodes=50))
    assert stopped.agent.updates == 3


def test_tensorboard_scalars_are_written(tmp_path):
    pytest.importorskip("tensorboard")
    of.QPO("BeyondGreed", seed=0, track=tmp_path).learn(64 * 10 * 3)
    assert any(path.name.startswith("events") for path in tmp_path.iterdir())


class Half:
    """One of two workers, with what the other one sent."""

    def __init__(self, rank, other):
        self.rank, self.other = rank, other

    def mine(self, chunks):
        return range(self.rank * chunks // 2, (self.rank + 1) * chunks // 2)

    def gather(self, losses, copies, like):
        assert all(loss.shape[1:] == like.shape for loss in losses)
        return [*losses, *self.other] if self.rank == 0 else [*self.other, *losses]


def test_two_workers_collect_the_bits_of_one():
    model = of.QPO("FairLottery", seed=3)
    agent = model.agent
    alone = collect(agent.environment, agent.policy, agent.key, 512, Alone())
    parts = []

    class Spy(Alone):
        def gather(self, losses, copies, like):
            parts.extend(losses)
            return super().gather(losses, copies, like)

    collect(agent.environment, agent.policy, agent.key, 512, Spy())
    for rank, other in ((0, parts[2:]), (1, parts[:2])):
        shared = collect(agent.environment, agent.policy, agent.key, 512, Half(rank, other))
        assert torch.equal(shared.returns, alone.returns)
        assert torch.equal(shared.observation, alone.observation)
        assert torch.equal(shared.action, alone.action)


def test_pieces_cover_a_batch_and_agree_with_one_rollout():
    assert pieces(128, 100) == [(0, 32), (32, 32), (64, 32), (96, 32)]
    assert pieces(130, 100) == [(0, 130)]
    agent = of.QPO("FairLottery", seed=3).agent
    whole = rollout(agent.environment, agent.policy, agent.key, 512)
    shared = collect(agent.environment, agent.policy, agent.key, 512, Alone())
    assert torch.allclose(whole.returns, shared.returns, atol=1e-5)
    light = policy_returns(agent.environment, agent.policy, agent.key, 512)
    assert torch.allclose(whole.returns.double(), light, atol=1e-5)


def test_stable_baselines_trains_on_our_environments():
    pytest.importorskip("stable_baselines3")
    from onlyforward.decide.envs.register import make
    from onlyforward.decide.peers import sb3_ppo_returns

    greedy, sampled = sb3_ppo_returns(make("BeyondGreed"), steps=2000, seed=0, episodes=100, hidden=(8,))
    assert greedy.shape == sampled.shape == (100,)
    assert np.isfinite(greedy).all()


def test_wrong_names_are_one_sentence():
    with pytest.raises(UsageError, match="SupplyChain"):
        of.QPPO("onlyforward/SuplyChain-v0")
    with pytest.raises(UsageError, match="probability"):
        of.QPO("OneStep", alpha=1.5)
