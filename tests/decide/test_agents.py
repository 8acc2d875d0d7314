import numpy as np
import pytest
import torch

from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.core.weigh import Quantile
from onlyforward.decide.agents.make import AGENTS, make_agent
from onlyforward.decide.agents.ppo import advantages
from onlyforward.decide.agents.qppo_paper import PaperQPPO
from onlyforward.decide.envs.register import make
from onlyforward.decide.objectives import Objective
from onlyforward.decide.policies import Head
from onlyforward.decide.presets import Settings
from onlyforward.decide.rollout import collect
from onlyforward.decide.study import one_step_quantile

SMALL = Settings(episodes=320, batch=32, rate=1e-2, hidden=(8,), epochs=2, minibatches=2)
CASES = {
    "qpo": ("FairLottery", "mlp"),
    "reinforce": ("OneStep", "mlp"),
    "ppo": ("BeyondGreed", "mlp"),
    "qppo": ("SupplyChain", "mlp"),
    "qppo-paper": ("FairLottery", "mlp"),
    "spsa": ("BeyondGreed", "mlp"),
    "qrdqn": ("BeyondGreed", "mlp"),
    "params": ("SupplyChain", "base-stock"),
}


def agent_of(name, seed=3):
    environment, policy = CASES[name]
    return make_agent(
        name, make(environment), objective=Objective("quantile", 0.25), seed=seed, policy=policy, changed=SMALL
    )


@pytest.mark.parametrize("name", AGENTS)
def test_a_saved_agent_continues_to_the_same_bits(name, tmp_path):
    straight = agent_of(name).learn(updates=6)
    first = agent_of(name).learn(updates=3)
    first.save(tmp_path)
    second = agent_of(name).resume(tmp_path).learn(updates=3)
    there, here = straight.state()[0], second.state()[0]
    assert there.keys() == here.keys()
    for key, value in there.items():
        assert torch.equal(value, here[key]), key


@pytest.mark.parametrize("name", AGENTS)
def test_another_seed_gives_another_agent(name):
    there, here = agent_of(name, 3).learn(updates=2).state()[0], agent_of(name, 4).learn(updates=2).state()[0]
    assert any(not torch.equal(value, here[key]) for key, value in there.items())


def test_qpo_finds_the_quantile_optimal_choice_and_reinforce_the_mean_optimal_one():
    environment = make("OneStep")
    settings = Settings(episodes=60_000, batch=256, rate=2e-2, hidden=(), deviation=0.3, learned_deviation=False)
    chosen = {}
    for name in ("qpo", "reinforce"):
        agent = make_agent(name, environment, objective=Objective("quantile", 0.1), seed=0, changed=settings).learn()
        chosen[name] = float(agent.policy(torch.ones(1, 1)).detach())
    assert one_step_quantile(chosen["qpo"]) >= 0.17
    assert chosen["reinforce"] == pytest.approx(2.0, abs=0.2)


def test_the_known_optimum_of_the_one_step_problem():
    assert one_step_quantile(0.930) == pytest.approx(0.1900, abs=1e-3)
    assert one_step_quantile(2.0) == pytest.approx(-0.598, abs=2e-3)


def test_advantages_are_the_textbook_sum():
    generator = torch.Generator().manual_seed(0)
    reward, value = torch.randn(6, 2, generator=generator), torch.randn(6, 2, generator=generator)
    found = advantages(reward, value, 0.9, 0.8)
    following = torch.cat((value[1:], torch.zeros(1, 2)))
    delta = reward + 0.9 * following - value
    for t in range(6):
        truth = sum((0.72 ** (k - t)) * delta[k] for k in range(t, 6))
        assert torch.allclose(found[t], truth, atol=1e-6)


@pytest.mark.parametrize("name", ["FairLottery", "SupplyChain", "OneStep", "Portfolio"])
def test_sampling_follows_the_log_probability(name):
    environment = make(name)
    head = Head(environment.action, deviation=0.7)
    output = torch.randn(1, head.outputs, generator=torch.Generator().manual_seed(1)).expand(4000, -1)
    noise = torch.rand(4000, head.space.columns, generator=torch.Generator().manual_seed(2))
    noise = torch.special.ndtri(noise.clamp(1e-6, 1 - 1e-6)) if head.real else noise
    action = head.sample(output, noise)
    surprise = -head.log_prob(output, action)
    surprise = surprise.detach()
    error = float(surprise.std()) / 4000**0.5
    assert float(surprise.mean()) == pytest.approx(float(head.entropy(output)[0].detach()), abs=4 * error + 1e-3)


@pytest.mark.parametrize("name", ["mean", "quantile", "cvar", "wang", "power", "mixture"])
def test_every_objective_values_a_gaussian_as_its_formula_says(name):
    returns = 3.0 + 2.0 * torch.special.ndtri((torch.arange(20001, dtype=torch.float64) + 0.5) / 20001).numpy()
    alpha = {"wang": 0.5, "power": 2.0}.get(name, 0.25)
    z = -0.6744897501960817
    truth = {
        "mean": 3.0,
        "quantile": 3 + 2 * z,
        "cvar": 3 - 2 * np.exp(-z * z / 2) / np.sqrt(2 * np.pi) / 0.25,
        "wang": 2.0,
        "power": 3 - 2 / np.sqrt(np.pi),
        "mixture": 3.0,
    }[name]
    assert Objective(name, alpha).value(returns) == pytest.approx(truth, abs=0.01)


def test_the_first_minibatch_of_ppo_has_ratio_one_and_the_gradient_of_the_plain_surrogate():
    agent = agent_of("ppo")
    episodes = collect(agent.environment, agent.policy, agent.key, 32, agent.sharing)
    features, gain, target = agent.targets(episodes)
    steps = gain.numel()
    part = {
        "observation": episodes.observation.reshape(steps, -1),
        "action": episodes.action.reshape(steps, -1),
        "old": episodes.log_prob.reshape(steps),
        "features": features.reshape(steps, -1),
        "gain": gain.reshape(steps),
        "target": target.reshape(steps),
    }
    log_prob = agent.policy.head.log_prob(agent.policy(part["observation"]), part["action"])
    assert torch.allclose(log_prob, part["old"], atol=1e-5)
    wanted = torch.autograd.grad(-(log_prob * part["gain"]).mean(), list(agent.policy.parameters()))
    agent.minibatch(part)
    found = [p.grad for p in agent.policy.parameters()]
    # The norm is clipped, so directions are compared.
    flat = [torch.cat([g.flatten() for g in several]) for several in (wanted, found)]
    assert float(torch.cosine_similarity(*flat, dim=0)) == pytest.approx(1.0, abs=1e-5)


def test_published_qppo_with_one_prefix_and_one_pass_has_the_gradient_of_qpo():
    settings = Settings(episodes=320, batch=64, hidden=(8,), epochs=1, minibatches=1)
    environment = make("FairLottery")
    agent = PaperQPPO(environment, objective=Objective("quantile", 0.25), settings=settings, seed=1, prefixes=1)
    with torch.no_grad():
        for parameter in agent.critic.parameters():
            parameter.zero_()
    found = []

    def keep(loss, clip):
        found.extend(torch.autograd.grad(loss, list(agent.policy.parameters())))

    agent.step = keep
    episodes = collect(environment, agent.policy, agent.key.at(step=0), 64, agent.sharing)
    agent.update()
    weight, _ = Quantile(0.25, centred=False)(episodes.returns[:, None].double())
    score = agent.policy.head.log_prob(agent.policy(episodes.observation), episodes.action).sum(0)
    wanted = torch.autograd.grad(-(weight[:, 0].float() * score).sum(), list(agent.policy.parameters()))
    for there, here in zip(wanted, found, strict=True):
        assert torch.allclose(there, here, atol=1e-5)


def test_predict_takes_one_observation_or_many():
    agent = agent_of("qpo")
    assert agent.predict(np.ones(3)).shape == (1,)
    assert agent.predict(np.ones((5, 3)), deterministic=False, key=Key()).shape == (5, 1)


def test_impossible_combinations_are_one_sentence():
    with pytest.raises(UsageError, match="qrdqn cannot act"):
        make_agent("qrdqn", make("OneStep"), objective=Objective(), seed=0)
    with pytest.raises(UsageError, match="--agent params"):
        make_agent("qpo", make("SupplyChain"), objective=Objective(), seed=0, policy="base-stock")
    with pytest.raises(UsageError, match="params cannot"):
        make_agent("params", make("SupplyChain"), objective=Objective(), seed=0, policy="mlp")
    with pytest.raises(UsageError, match="nearest"):
        make_agent("qqo", make("SupplyChain"), objective=Objective(), seed=0)
