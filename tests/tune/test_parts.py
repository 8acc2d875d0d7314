"""Prompts of words, alignment, the transformer's suffix, output maps, the Python interface."""

import itertools

import pytest
import torch
from torch.nn import functional as F

import onlyforward as of
from onlyforward.core.allocate import Neyman
from onlyforward.core.keys import Key
from onlyforward.run.oracle import Oracle
from onlyforward.tune.alignment import cotangent, info_nce
from onlyforward.tune.loop import Settings, Tuning
from onlyforward.tune.outputs import FOLDS, PENALTIES, cross_fit, guarded_readout, logistic
from onlyforward.tune.soft import make_prompt, pack, unpack
from onlyforward.tune.words import Policy, candidates, score, word_problem


def test_the_score_of_words_is_that_of_their_probability_by_enumeration():
    logits = torch.tensor([[0.3, -0.2, 0.9], [1.0, 0.0, -1.0]], dtype=torch.float64, requires_grad=True)
    payoff = torch.randn(3, 3, generator=Key().generator(), dtype=torch.float64)
    p = logits.softmax(1)
    expected = sum(p[0, a] * p[1, b] * payoff[a, b] for a, b in itertools.product(range(3), repeat=2))
    expected.backward()
    choices = torch.tensor(list(itertools.product(range(3), repeat=2)))
    chance = p[0, choices[:, 0]] * p[1, choices[:, 1]]
    found = torch.einsum("n,ntv->tv", (chance * payoff.flatten()).detach(), score(logits.detach(), choices))
    assert torch.allclose(found, logits.grad)


def test_candidates_are_the_telling_words():
    ids = torch.tensor([[2, 5, 9], [2, 6, 9], [3, 5, 9], [3, 6, 9]])
    found = candidates(ids, torch.tensor([0, 0, 1, 1]), [str(i) for i in range(10)], count=2)
    assert found.tolist() == [2, 3]


def test_words_that_help_are_found_from_answers_alone():
    def ask(rows):
        told = (rows[:, :2] == 7).any(1)
        truth = rows[:, 2] == 4
        margin = torch.where(told, 4.0, -1.0) * torch.where(truth, 1.0, -1.0)
        return torch.stack((-margin, margin), 1).double()

    ids = torch.stack((torch.tensor([4, 5]).repeat(20), torch.full((40,), 7), torch.full((40,), 8)), 1)
    ids[::7, 1] = 6
    labels = (ids[:, 0] == 4).long()
    problem = word_problem(Oracle(ask), ids, labels, 30, [str(i) for i in range(9)], 2)
    settings = Settings(4000, batch=16, lr=0.2)
    guard = Tuning(problem, Policy(Neyman(n_min=2), 8), settings, Key()).run()
    assert guard.start_accuracy == 0.0
    assert guard.accuracy == 1.0
    assert 7 in problem.words(guard.best).tolist()


def test_a_prompt_travels_to_the_oracle_and_back():
    prompt = make_prompt(4, 8, "16")
    theta = torch.randn(3, 16, generator=Key().generator(), dtype=torch.float64)
    ids = torch.randint(0, 100, (3, 5), generator=Key(run=1).generator())
    vectors, words = unpack(pack(prompt(theta), ids), 4, 8)
    assert torch.equal(words, ids)
    assert torch.equal(vectors, prompt(theta))
    assert float(prompt(prompt.start[None]).abs().max()) == 0.0


def test_the_cotangent_of_alignment_is_that_of_autograd():
    images = torch.randn(9, 6, generator=Key().generator(), dtype=torch.float64, requires_grad=True)
    texts = F.normalize(torch.randn(4, 6, generator=Key(run=1).generator(), dtype=torch.float64), dim=1)
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 0, 2, 2])
    info_nce(images, texts, labels, 5.0).sum().backward()
    assert torch.allclose(cotangent(images.detach(), texts, labels, 5.0), images.grad, atol=1e-10)


def test_the_scalar_of_alignment_has_the_cotangent_as_its_mean_slope():
    images = torch.randn(5, 6, generator=Key().generator(), dtype=torch.float64)
    texts = F.normalize(torch.randn(3, 6, generator=Key(run=1).generator(), dtype=torch.float64), dim=1)
    labels = torch.tensor([0, 1, 2, 0, 1])
    slope = cotangent(images, texts, labels, 4.0)
    eps = torch.randn(20_000, 6, generator=Key(run=2).generator(), dtype=torch.float64)
    draws = (eps @ slope[2])[:, None] * eps
    z = (draws.mean(0) - slope[2]) / (draws.std(0) / 20_000**0.5)
    assert z.abs().max() < 4.2


def test_a_map_of_outputs_is_the_minimum_of_its_loss():
    z = torch.randn(30, 50, generator=Key().generator(), dtype=torch.float64)
    y = torch.randint(0, 3, (30,), generator=Key(run=1).generator())
    weight, bias = logistic(z, y, 3, 0.1)
    w, b = weight.clone().requires_grad_(True), bias.clone().requires_grad_(True)
    (F.cross_entropy(z @ w.T + b, y) + 0.1 * (w**2).sum() / 30).backward()
    assert float(w.grad.abs().max()) < 1e-4


def test_a_shot_is_judged_by_a_map_of_the_other_folds_as_scikit_learn_fits_it():
    """Labels are noise and scores more than shots: a map that saw its shots would be right on all of them."""
    linear = pytest.importorskip("sklearn.linear_model")
    z = torch.randn(60, 80, generator=Key().generator(), dtype=torch.float64)
    y = torch.arange(60) % 3
    made = cross_fit(z, y, classes=3)
    held = made(z, torch.arange(60))
    assert (held.argmax(1) == y).double().mean() < 0.6
    penalty = next(p for p in PENALTIES if torch.allclose(made.whole.weight, logistic(standard(z, z), y, 3, p)[0]))
    for fold in range(FOLDS):
        own = made.fold == fold
        assert (y[own].bincount(minlength=3) == 4).all()
        peer = linear.LogisticRegression(C=1 / (2 * penalty), max_iter=2000, tol=1e-8)
        peer.fit(standard(z[~own], z[~own]).numpy(), y[~own].numpy())
        truth = torch.from_numpy(peer.predict_log_proba(standard(z[own], z[~own]).numpy()))
        assert torch.allclose(held[own].log_softmax(1), truth, atol=1e-3)
    order = torch.randperm(60, generator=Key(run=2).generator())
    assert torch.equal(made(z[order], order), held[order])


def standard(z, by):
    return (z - by.mean(0)) / by.std(0)


def test_a_map_that_does_not_beat_good_scores_is_not_taken():
    y = torch.arange(4).repeat(10)
    good = F.one_hot(y, 4).double() * 6 + torch.randn(40, 4, generator=Key().generator(), dtype=torch.float64)
    assert guarded_readout(good, y, classes=4)[1].kept_start
    swapped = good[:, [1, 2, 3, 0]]
    readout, guard = guarded_readout(swapped, y, classes=4)
    assert not guard.kept_start
    assert guard.accuracy == 1.0
    assert (readout.whole(swapped).argmax(1) == y).double().mean() > 0.95


def test_the_suffix_of_a_transformer_is_the_transformer():
    from onlyforward.data.pretrained import vit
    from onlyforward.tune.suffix import cached, split

    torch.manual_seed(0)
    model = vit(width=16, layers=3).eval().requires_grad_(False)
    x = torch.rand(4, 3, 32, 32, generator=Key().generator())
    for blocks in (1, 2, 3):
        prefix, suffix = split(model, blocks)
        assert torch.allclose(suffix(cached(prefix, x)), model(x), atol=1e-5)


def test_every_method_moves_the_suffix_and_ours_needs_no_graph():
    from onlyforward.data.pretrained import vit
    from onlyforward.tune.finetune import Features, Recipe, tune_suffix
    from onlyforward.tune.suffix import cached, split

    torch.manual_seed(0)
    model = vit(width=16, layers=2).eval().requires_grad_(False)
    x, y = torch.rand(40, 3, 32, 32, generator=Key().generator()), torch.arange(40) % 10
    for arm in ("head", "neyman", "uniform", "bp", "mezo"):
        prefix, suffix = split(model, 1)
        stored = cached(prefix, x)
        kept, _, runs = tune_suffix(arm, suffix, Features(stored, y, 30, stored, y), Recipe(epochs=2), 0)
        assert kept.guard.accuracy >= kept.guard.start_accuracy
        assert runs > 30


@pytest.mark.parametrize("word", ["lora", "bias", "late"])
def test_a_scope_starts_where_the_network_is_and_moves_its_own_parts_alone(word):
    from onlyforward.data.pretrained import vit
    from onlyforward.tune.finetune import Recipe, Scope, stepper
    from onlyforward.tune.suffix import cached, split

    torch.manual_seed(0)
    prefix, suffix = split(vit(width=16, layers=2).eval().requires_grad_(False), 1)
    x, y = cached(prefix, torch.rand(20, 3, 32, 32, generator=Key().generator())), torch.arange(20) % 10
    scope, clean = Scope(word, 2), suffix(x)
    suffix = scope.widened(suffix, Key())
    assert torch.allclose(suffix(x), clean, atol=1e-6)
    for p in scope.parameters(suffix):  # away from B = 0, where A has no slope
        p.data.add_(0.1)
    found = {}
    for method in ("neyman", "bp"):
        suffix.zero_grad()
        stepper(method, suffix, Recipe(copies=3000, sigma=0.02), 0, scope)(x, y)
        found[method] = torch.cat([p.grad.flatten() for p in scope.parameters(suffix)])
        moved = {id(p) for p in (*scope.parameters(suffix), *suffix.head.parameters())}
        assert all(p.grad is None or id(p) in moved for p in suffix.parameters())
    cosine = torch.nn.functional.cosine_similarity(found["neyman"], found["bp"], dim=0)
    assert cosine > 0.95
    assert 0.9 < found["neyman"].norm() / found["bp"].norm() < 1.15


def test_the_package_is_its_own_verb(tmp_path):
    centres = torch.rand(3, 36, generator=Key().generator())
    y = torch.arange(3).repeat(8)
    x = centres[y].reshape(-1, 1, 6, 6) * 0.3 + 0.4
    oracle = Oracle(lambda rows: -8 * torch.cdist(rows.flatten(1), centres) ** 2)
    made = of.tune(oracle, x, y, budget=1500, allocation=of.Neyman(), batch=12)
    assert oracle.account.rows <= 1500
    assert made.adapter(x).shape == x.shape
    made.save(tmp_path / "adapter.safetensors")
    loaded = type(made).load(tmp_path / "adapter.safetensors")
    assert torch.equal(loaded.adapter(x), made.adapter(x))
    with pytest.raises(of.core.errors.UsageError, match="must be"):
        of.tune(oracle, x[0], y)


def test_two_encoders_are_aligned_from_python():
    y = torch.arange(3).repeat(8)
    x = torch.randn(24, 1, 4, 4, generator=Key().generator()) * 0.1 + torch.eye(4)[y][:, None, None]
    lens = torch.randn(16, 10, generator=Key(run=9).generator())
    oracle = Oracle(lambda rows: rows.flatten(1) @ lens)
    texts = torch.eye(3, 5)
    made = of.align(oracle, lambda words: texts, x, ["a", "b", "c"], labels=y, adapter="output")
    assert (made.similarity(oracle(x)).argmax(1) == y).double().mean() > 0.9
