"""Every estimator against closed forms and enumeration."""

import itertools
import math

import pytest
import torch

from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.explain.bases import make_basis
from onlyforward.explain.gaussian import Gradient, squared_lift
from onlyforward.explain.ridge import AHEAD, Equations, Spectrum, fit
from onlyforward.explain.saliency import Saliency
from onlyforward.explain.shapley import Players

SHAPE = (1, 6, 6)


def fixed(*shape, seed=0):
    return torch.randn(*shape, generator=Key(run=seed, site="test").generator(), dtype=torch.float64)


WEIGHT = fixed(36, seed=1)
X = fixed(*SHAPE, seed=2).abs()


def linear(rows):
    return (rows.flatten(1).double() * WEIGHT).sum(1)


def quadratic(rows):
    flat = rows.flatten(1).double()
    return (flat * WEIGHT).sum(1) + 0.5 * (flat**2 * WEIGHT.abs()).sum(1)


def quadratic_gradient(x):
    return (WEIGHT + WEIGHT.abs() * x.flatten()).reshape(SHAPE)


@pytest.mark.parametrize("directions", ["gaussian", "rademacher", "orthogonal"])
@pytest.mark.parametrize("difference", ["plain", "mean", "forward", "antithetic"])
@pytest.mark.parametrize("basis", ["pixel", "grid:2", "dct:3"])
def test_the_mean_of_many_estimates_is_the_closed_smoothed_gradient(directions, difference, basis):
    # The smoothed gradient of a quadratic is its gradient; in a basis it is the projection.
    lifted = make_basis(basis, X)
    truth = lifted.lift(lifted.adjoint(quadratic_gradient(X)[None]))[0]
    found = []
    for seed in range(60):
        s = Saliency(
            quadratic,
            kind="gradient",
            basis=basis,
            directions=directions,
            difference=difference,
            sigma=0.3,
            solver="mean",
        )
        found.append(s.attribute(X, target=0, budget=65, key=seed).map)
    found = torch.stack(found)
    error = found.std(0) / math.sqrt(len(found)) + 1e-6
    z = (found.mean(0) - truth) / error
    assert float(z.abs().max()) < 4.8
    assert float(z.square().mean()) < 3.0


def test_the_reported_error_is_the_spread_of_repeated_estimates():
    s = Saliency(quadratic, kind="gradient", basis="pixel", directions="gaussian", difference="mean", sigma=0.3)
    found = [s.attribute(X, target=0, budget=200, key=seed) for seed in range(60)]
    spread = torch.stack([a.map for a in found]).std(0)
    told = torch.stack([a.error for a in found]).mean(0)
    assert float(told.mean()) == pytest.approx(float(spread.mean()), rel=0.1)


def test_all_orthogonal_directions_give_a_linear_gradient_exactly():
    a = Saliency(linear, kind="gradient", basis="pixel", sigma=0.01).attribute(X, target=0, budget=65, key=3)
    torch.testing.assert_close(a.map.flatten(), WEIGHT, atol=1e-9, rtol=1e-9)
    assert a.queries == 65
    assert a.full_cosine_estimate == pytest.approx(1.0)


@pytest.mark.parametrize("shares", ["", "/neyman"])
def test_blockwise_noise_has_the_mean_of_full_noise(shares):
    found = []
    for seed in range(120):
        s = Saliency(linear, blocks=f"blockwise:4{shares}", basis="pixel", directions="gaussian", sigma=0.3)
        found.append(s.attribute(X, target=0, budget=80, key=seed).map.flatten())
    found = torch.stack(found)
    z = (found.mean(0) - WEIGHT) / (found.std(0) / math.sqrt(len(found)))
    assert float(z.abs().max()) < 4.5


def test_integrated_gradients_are_complete():
    s = Saliency(quadratic, map="integrated-gradients", basis="pixel", baseline="zero", sigma=0.05)
    sums = torch.tensor([float(s.attribute(X, target=0, budget=257, key=seed).map.sum()) for seed in range(40)])
    truth = float(quadratic(X[None]) - quadratic(0 * X[None]))
    assert abs(float(sums.mean()) - truth) < 4 * float(sums.std()) / math.sqrt(len(sums))


def test_expected_gradients_are_complete_on_average_over_references():
    references = torch.stack([fixed(*SHAPE, seed=5), fixed(*SHAPE, seed=6)])
    s = Saliency(quadratic, map="expected-gradients", basis="pixel", baseline=references, sigma=0.05)
    sums = torch.tensor([float(s.attribute(X, target=0, budget=257, key=seed).map.sum()) for seed in range(40)])
    truth = float(quadratic(X[None]) - quadratic(references).mean())
    assert abs(float(sums.mean()) - truth) < 4 * float(sums.std()) / math.sqrt(len(sums))


def test_vargrad_is_the_variance_of_the_gradient_and_nothing_for_a_linear_score():
    s = Saliency(quadratic, map="vargrad", basis="pixel", sigma=0.4)
    found = torch.stack([s.attribute(X, target=0, budget=2048, key=seed).map.flatten() for seed in range(12)])
    truth = (WEIGHT.abs() * 0.4) ** 2  # grad = w + |w| x, so its variance is w^2 sigma^2
    assert float(found.mean(0).sum()) == pytest.approx(float(truth.sum()), rel=0.2)
    flat = Saliency(linear, map="vargrad", basis="pixel", sigma=0.4).attribute(X, target=0, budget=2048)
    assert float(flat.map.abs().max()) < 1e-9


def test_ridge_solves_the_textbook_normal_equations_in_both_forms():
    rows, scores = fixed(50, 8, seed=7), fixed(50, seed=8)
    covariance = torch.diag(torch.linspace(1, 2, 8).double())
    few, many = Equations(8), Equations(100)
    few.add(rows, scores)
    many.add(rows, scores)
    assert few.folded
    assert not many.folded
    found = fit(few, [covariance.sqrt()], centre=True)
    e, y = rows - rows.mean(0), scores - scores.mean()
    truth = torch.linalg.solve(e.T @ e + found.noise * torch.linalg.inv(covariance), e.T @ y)
    torch.testing.assert_close(found.mean, truth, atol=1e-6, rtol=1e-6)
    other = fit(many, [covariance.sqrt()], centre=True)
    again = torch.linalg.solve(e.T @ e + other.noise * torch.linalg.inv(covariance), e.T @ y)
    torch.testing.assert_close(other.mean, again, atol=1e-6, rtol=1e-6)


def test_a_posterior_foresees_its_cosine_with_the_map_of_eight_times_as_many_questions():
    k, n, noise = 12, 15, 4.0
    root = torch.diag(torch.linspace(1.5, 0.1, k).double())
    told, truth = [], []
    for seed in range(300):
        effect = root @ fixed(k, seed=1000 + seed)
        maps = []
        for part, count in enumerate((n, AHEAD * n)):
            rows = fixed(count, k, seed=2000 + 2 * seed + part)
            equations = Equations(k)
            equations.add(rows, rows @ effect + noise**0.5 * fixed(count, seed=4000 + 2 * seed + part))
            found = Spectrum.of(equations, root, centre=False).posterior(noise, 0)
            maps.append(found.mean)
            told += [found.sure] * (not part)
        truth.append(float(torch.nn.functional.cosine_similarity(*maps, dim=0)))
    told, truth = torch.tensor(told), torch.tensor(truth)
    assert float(told.mean()) == pytest.approx(float(truth.mean()), abs=0.03)
    assert 0.3 < float(truth.mean()) < 0.85


def shapley_by_hand(value, k):
    phi = torch.zeros(k, dtype=torch.float64)
    for j in range(k):
        others = [i for i in range(k) if i != j]
        for size in range(k):
            weight = math.factorial(size) * math.factorial(k - size - 1) / math.factorial(k)
            for members in itertools.combinations(others, size):
                z = torch.zeros(1, k)
                z[0, list(members)] = 1
                there = z.clone()
                there[0, j] = 1
                phi[j] += weight * float(value(there) - value(z))
    return phi


def game(k):
    pair = fixed(k, k, seed=9)
    single = fixed(k, seed=10)

    def value(z):
        z = z.double()
        return torch.tanh(z @ single) + ((z @ pair) * z).sum(1) / k

    return value


def played(worth, k, budget, *, key=None, **settings):
    players = Players(k, lambda z: z, lambda e: e, key or Key(), budget, **settings)
    players.observe(0, worth(players.rows(0, budget)))
    return players.estimate()


@pytest.mark.parametrize("k", [3, 5, 8])
def test_shapley_values_by_sizes_are_unbiased(k):
    value = game(k)
    truth = shapley_by_hand(value, k)
    found = torch.stack([played(value, k, 66, key=Key(run=r)).coefficients for r in range(150)])
    z = (found.mean(0) - truth) / (found.std(0) / math.sqrt(len(found)) + 1e-12)
    assert float(z.abs().max()) < 4.5


@pytest.mark.parametrize("k", [3, 5, 8])
def test_least_squares_with_every_coalition_is_the_exact_shapley_value(k):
    value = game(k)
    found = played(value, k, 2**k, solver="ridge")
    torch.testing.assert_close(found.coefficients, shapley_by_hand(value, k), atol=1e-7, rtol=1e-7)
    assert found.residual < 1e-9


def test_banzhaf_values_are_unbiased():
    k, value = 5, game(5)
    truth = torch.zeros(k, dtype=torch.float64)
    rest = torch.tensor(list(itertools.product([0.0, 1.0], repeat=k)))
    for j in range(k):
        without = rest[rest[:, j] == 0]
        there = without.clone()
        there[:, j] = 1
        truth[j] = (value(there) - value(without)).mean()
    found = torch.stack([played(value, k, 66, key=Key(run=r), value="banzhaf").coefficients for r in range(150)])
    z = (found.mean(0) - truth) / (found.std(0) / math.sqrt(len(found)))
    assert float(z.abs().max()) < 4.5


@pytest.mark.parametrize("solver", ["mean", "ridge"])
def test_dummy_and_symmetric_players_are_treated_so(solver):
    def value(z):
        z = z.double()
        return z[:, 0] * 2 + (z[:, 1] + z[:, 2]).square()

    found = played(value, 4, 16 if solver == "ridge" else 2000, solver=solver).coefficients
    tolerance = 1e-8 if solver == "ridge" else 0.3
    assert abs(float(found[3])) < tolerance
    assert abs(float(found[1] - found[2])) < tolerance


def test_presence_finds_the_one_block_that_counts():
    x = torch.ones(1, 32, 32)

    def f(rows):
        return rows[:, 0, 8:16, 16:24].mean((1, 2)).double()

    for solver in ("ridge", "mean"):
        a = Saliency(f, kind="presence", baseline="zero", solver=solver).attribute(x, target=0, budget=400)
        inside = torch.zeros(32, 32, dtype=torch.bool)
        inside[8:16, 16:24] = True
        assert float(a.map[inside].mean()) > 4 * float(a.map[~inside].abs().mean())


@pytest.mark.parametrize("name", ["pixel", "grid:2", "grid:3/colour", "dct:4", "dct:3/colour"])
def test_bases_have_orthonormal_columns_and_exact_adjoints(name):
    x = fixed(3, 6, 6)
    basis = make_basis(name, x)
    eye = torch.eye(basis.k, dtype=torch.float64)
    columns = basis.lift(eye).flatten(1)
    torch.testing.assert_close(columns @ columns.T, eye, atol=1e-9, rtol=0)
    torch.testing.assert_close(basis.adjoint(x[None])[0], columns @ x.flatten(), atol=1e-9, rtol=0)
    error = fixed(basis.k, seed=3).abs()
    spread = (columns.T**2 @ error**2).sqrt()
    torch.testing.assert_close(squared_lift(basis, error).flatten(), spread, atol=1e-9, rtol=0)


def test_a_basis_of_ones_own_gives_the_gradients_part_in_it_and_must_be_orthonormal():
    columns = torch.linalg.qr(fixed(36, 5, seed=12))[0]
    pair = (lambda c: (c @ columns.to(c).T).reshape(-1, *SHAPE), lambda v: v.flatten(1) @ columns.to(v))
    a = Saliency(linear, kind="gradient", basis=pair, sigma=0.1).attribute(X, target=0, budget=9)
    torch.testing.assert_close(a.map.flatten(), columns @ (columns.T @ WEIGHT), atol=1e-8, rtol=1e-8)
    assert "own" in a.choice
    with pytest.raises(UsageError, match="differs from c"):
        Saliency(linear, basis=(lambda c: 2 * pair[0](c), pair[1])).attribute(X, target=0, budget=9)


def test_blocks_that_are_not_wanted_stay_clean():
    asked = []

    def watched(rows):
        asked.append(rows.flatten(1) - X.flatten())
        return linear(rows)

    s = Saliency(watched, blocks="blockwise:4/0,2", basis="pixel", directions="gaussian", sigma=0.3)
    found = s.attribute(X, target=0, budget=4000).map.flatten()
    moved = torch.cat(asked).abs().sum(0) > 0
    assert moved.nonzero().flatten().tolist() == [*range(9), *range(18, 27)]
    torch.testing.assert_close(found[moved], WEIGHT[moved], atol=0.3, rtol=0)
    with pytest.raises(UsageError, match="Unknown blocks"):
        Saliency(linear, blocks="blockwise:4/7").attribute(X, target=0, budget=9)


def test_a_constant_leaves_the_map_and_a_factor_scales_it():
    for kind in ("gradient", "presence"):
        one = Saliency(quadratic, kind=kind, sigma=0.2 if kind == "gradient" else None).attribute(
            X, target=0, budget=64, key=1
        )
        shifted = Saliency(lambda r: quadratic(r) + 5, kind=kind, sigma=one_sigma(kind)).attribute(
            X, target=0, budget=64, key=1
        )
        scaled = Saliency(lambda r: 3 * quadratic(r), kind=kind, sigma=one_sigma(kind)).attribute(
            X, target=0, budget=64, key=1
        )
        torch.testing.assert_close(one.map, shifted.map, atol=1e-8, rtol=1e-6)
        torch.testing.assert_close(3 * one.map, scaled.map, atol=1e-8, rtol=1e-6)


def one_sigma(kind):
    return 0.2 if kind == "gradient" else None


@pytest.mark.parametrize("kind", ["gradient", "presence", "shapley"])
def test_the_map_has_the_same_bits_for_any_batch_and_the_budget_is_kept(kind):
    found = []
    for batch in (1, 7, 64):
        asked = []

        def f(rows, asked=asked):
            asked.append(len(rows))
            return quadratic(rows)

        s = Saliency(f, kind=kind, batch=batch, basis="grid:2" if kind == "shapley" else "auto", sigma=None)
        found.append(s.attribute(X, target=0, budget=50, key=2))
        assert sum(asked) <= 50
        assert found[-1].queries == 50
    assert all(torch.equal(found[0].map, other.map) for other in found)


def test_failed_rows_leave_the_estimate_unbiased():
    def failing(rows):
        scores = linear(rows)
        scores[::11] = float("nan")
        return scores

    s = Saliency(failing, kind="gradient", basis="pixel", directions="gaussian", difference="mean", sigma=0.3)
    found = torch.stack([s.attribute(X, target=0, budget=200, key=r).map.flatten() for r in range(60)])
    z = (found.mean(0) - WEIGHT) / (found.std(0) / math.sqrt(60))
    assert float(z.abs().max()) < 4.5


def test_a_path_refuses_a_clean_score_and_unknown_words_are_named():
    with pytest.raises(UsageError, match="no single clean"):
        Gradient(X, make_basis("pixel", X), 0.1, Key(), path="integrated", references=X[None])
    with pytest.raises(UsageError, match="Unknown basis"):
        make_basis("wavelet:3", X)
    with pytest.raises(UsageError, match="budget is 4"):
        Saliency(linear).attribute(X, budget=4)
    with pytest.raises(UsageError, match="out of range"):
        Saliency(lambda r: torch.zeros(len(r), 3)).attribute(X, target=7, budget=16)
