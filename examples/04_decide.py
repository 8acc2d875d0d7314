"""Decide under risk: the policy with the best 10 % quantile, and the one that is best on average."""

import onlyforward as of

careful = of.QPO("onlyforward/OneStep-v0", alpha=0.1, seed=0).learn(total_steps=60_000)
average = of.Reinforce("onlyforward/OneStep-v0", alpha=0.1, seed=0).learn(total_steps=60_000)

for name, model in (("quantile", careful), ("mean", average)):
    found = model.evaluate(episodes=20_000, deterministic=False)
    print(f"{name:8s} 10 % quantile {found.q_alpha:6.2f}   mean {found.mean:.2f}")
