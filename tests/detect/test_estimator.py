"""The detector as scikit-learn sees it, its scores by formula, thresholds that hold, and models that come back."""

import pickle
import warnings

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.metrics import roc_auc_score
from sklearn.utils.estimator_checks import check_estimator

import onlyforward as of
from onlyforward.core.errors import CheckpointError, UsageError
from onlyforward.core.keys import Key
from onlyforward.detect.embed import fit_embedding
from onlyforward.detect.estimator import QuantumSVDD
from onlyforward.detect.fitting import begin
from onlyforward.detect.objective import CollapsedDetector, first_center
from onlyforward.detect.score import crossfit, distance, fit_law, mahalanobis, threshold


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    rows = np.random.default_rng(0).permutation(np.flatnonzero(y == 3))[:100]
    rest = np.setdiff1d(np.arange(len(x)), rows)
    return x[rows], x[rest], y[rest] != 3


def test_check_estimator_passes_whole():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn announces the checks that it skips by warnings
        results = check_estimator(of.QuantumSVDD(max_epochs=2), on_fail=None)
    assert [r["check_name"] for r in results if r["status"] == "failed"] == []


def test_digits_are_told_apart_with_36_angles(digits):
    train, test, anomalous = digits
    detector = QuantumSVDD.preset("digits", random_state=0).fit(train)
    assert detector.n_parameters_ == 36
    assert detector.n_fitted_statistics_ == 21 + 41 + 861  # centre of z+zz, means and covariances of z+zz+zzz
    assert roc_auc_score(anomalous, -detector.score_samples(test)) > 0.94
    assert detector.history_[-1] < detector.history_[0] / 3
    assert ((detector.predict(test) == 1) == (detector.decision_function(test) >= 0)).all()


def test_a_table_without_its_length_is_worse_than_chance_would_allow():
    x, y = load_breast_cancer(return_X_y=True)
    benign = np.flatnonzero(y == 1)
    train, rest = x[benign[:200]], np.setdiff1d(np.arange(len(x)), benign[:200])
    areas = {}
    for rho in (0.0, 2.0):
        made = QuantumSVDD(offset=rho, statistic="distance", random_state=0).fit(train)
        areas[rho] = roc_auc_score(y[rest] == 0, -made.score_samples(x[rest]))
    assert areas[0.0] < 0.7 < 0.88 < areas[2.0]


def test_what_the_objective_sees_is_the_distance(digits):
    train, test, _ = digits
    small = {"max_epochs": 2, "random_state": 0, "statistic": "distance"}
    for latent, seen, count in (("z", None, 6), ("z+zz", None, 21), ("z+zz+zzz", None, 21), ("z+zz+zzz", "z", 6)):
        made = QuantumSVDD.preset("digits", latent=latent, objective_latent=seen, **small).fit(train)
        f = made.latents(test[:20])[:, :count]
        assert made.center_.shape == (count,)
        assert -made.score_samples(test[:20]) == pytest.approx(((f - made.center_) ** 2).sum(1), rel=1e-12)
    with pytest.raises(UsageError, match="objective_latent='z\\+zz' is more than latent='z'"):
        QuantumSVDD(latent="z", objective_latent="z+zz").fit(train)


def test_scores_are_the_formula_and_follow_their_rows(digits):
    train, test, _ = digits
    detector = QuantumSVDD.preset("digits", random_state=0, max_epochs=3).fit(train)
    f = detector.latents(test[:50])
    centred = f - detector.location_
    assert np.allclose(
        -detector.score_samples(test[:50]), np.einsum("bi,ij,bj->b", centred, detector.precision_, centred)
    )
    order = np.random.default_rng(1).permutation(50)
    assert np.allclose(detector.score_samples(test[:50][order]), detector.score_samples(test[:50])[order], atol=1e-9)
    assert np.allclose(detector.score_samples(3 * test[:5]), detector.score_samples(test[:5]), atol=1e-9)
    table = QuantumSVDD(random_state=0, max_epochs=3).fit(train)
    assert np.abs(table.score_samples(3 * test[:5]) - table.score_samples(test[:5])).min() > 1e-3


def test_the_crossfit_threshold_holds_its_false_alarm_rate_and_the_plain_one_does_not():
    held, plain = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        mix = rng.normal(size=(20, 20))
        train, fresh = rng.normal(size=(100, 20)) @ mix, rng.normal(size=(4000, 20)) @ mix
        location, precision = fit_law(train)
        scores = mahalanobis(fresh, location, precision)
        held.append((scores > threshold(crossfit(train, Key(seed)), 0.1)).mean())
        plain.append((scores > np.quantile(mahalanobis(train, location, precision), 0.9)).mean())
    assert 0.05 < np.mean(held) < 0.16
    assert np.mean(plain) > 0.2


def test_thresholds_take_the_conformal_rank():
    assert threshold(np.arange(1.0, 101.0), 0.1) == 91
    assert threshold(np.arange(1.0, 6.0), 0.1) == 5


def test_center_entries_near_zero_move_away_with_their_sign():
    import torch

    latent = torch.tensor([[0.05, -0.02, 0.0, 0.5]])
    assert first_center(latent).tolist() == pytest.approx([0.1, -0.1, 0.1, 0.5])


def test_shot_corrections_are_unbiased_and_a_diagonal_one_is_not():
    import torch

    from onlyforward.detect.engine import covariance, features, frequencies

    rng = np.random.default_rng(0)
    law = torch.from_numpy(rng.dirichlet(np.ones(8)))[None]
    exact = features(law, "z+zz").numpy()
    precision, location = np.eye(6) + 5, exact[0] + 0.1
    shots, repeats = 30, 20_000
    drawn = frequencies(law.expand(repeats, -1), shots, Key(3))
    f, spread = features(drawn, "z+zz").numpy(), covariance(drawn, "z+zz", shots).numpy()

    def z(values, truth):
        return abs(values.mean() - truth) / (values.std() / np.sqrt(repeats))

    center = location[:3]
    assert z(distance(f, center, shots), distance(exact, center)[0]) < 4
    assert z(distance(f, center), distance(exact, center)[0]) > 8
    truth = mahalanobis(exact, location, precision)[0]
    assert z(mahalanobis(f, location, precision, spread), truth) < 4
    assert z(mahalanobis(f, location, precision), truth) > 8
    diagonal = spread * np.eye(6)
    assert z(mahalanobis(f, location, precision, diagonal), truth) > 5


def test_models_come_back_to_the_bit(digits, tmp_path):
    train, test, _ = digits
    detector = QuantumSVDD.preset("digits", random_state=5, max_epochs=2).fit(train)
    scores = detector.score_samples(test)
    detector.save(tmp_path / "m")
    assert (QuantumSVDD.load(tmp_path / "m").score_samples(test) == scores).all()
    assert (pickle.loads(pickle.dumps(detector)).score_samples(test) == scores).all()
    again = QuantumSVDD.preset("digits", random_state=5, max_epochs=2).fit(train)
    assert (again.theta_ == detector.theta_).all()
    other = QuantumSVDD.preset("digits", random_state=6, max_epochs=2).fit(train)
    assert (other.theta_ != detector.theta_).any()
    content = bytearray((tmp_path / "m" / "detector.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "m" / "detector.safetensors").write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match="damaged"):
        QuantumSVDD.load(tmp_path / "m")


def test_what_cannot_work_is_refused(digits):
    train, _, _ = digits
    with pytest.raises(UsageError, match="nu is"):
        QuantumSVDD(nu=1.0).fit(train)
    with pytest.raises(UsageError, match="reduce='pca'"):
        QuantumSVDD(n_qubits=4).fit(train)
    with pytest.raises(ValueError, match="Rows 2 have norm 0"):
        QuantumSVDD(preprocess="l2").fit(np.where(np.arange(100)[:, None] == 2, 0.0, train))
    with pytest.raises(CollapsedDetector):
        QuantumSVDD(preprocess="l2", max_epochs=2).fit(np.ones((20, 8)))
    with pytest.warns(UserWarning, match="amplitudes are used"):
        QuantumSVDD(n_qubits=8, max_epochs=1).fit(train)


def test_reduction_to_components_keeps_the_row_count_of_amplitudes(digits):
    train, test, anomalous = digits
    made = QuantumSVDD(n_qubits=5, reduce="pca", random_state=0).fit(train)
    assert made.embedding_(test).shape == (len(test), 32)
    assert made.n_fitted_statistics_ > 31 * 64
    assert roc_auc_score(anomalous, -made.score_samples(test)) > 0.9


@pytest.mark.parametrize("kind", ["offset", "l2_offset", "l2", "gcn_tanh"])
def test_every_preprocessing_gives_states_of_norm_1(kind, digits):
    train, test, _ = digits
    psi = fit_embedding(train, kind=kind)(test)
    assert np.abs((psi**2).sum(1) - 1).max() < 1e-12


def test_soft_boundary_radius_is_the_quantile_of_the_distances(digits):
    train, _, _ = digits
    detector = QuantumSVDD.preset("digits", objective="soft-boundary", max_epochs=12, random_state=0)
    trainer = begin(detector, train)
    while trainer.epoch < 12:
        trainer.run_epoch()
    d = ((trainer.latents() - trainer.center) ** 2).sum(1).numpy()
    assert float(trainer.radius2) == pytest.approx(np.quantile(d, 0.9), rel=1e-6)


def test_scikit_learns_own_tools_take_it():
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = load_breast_cancer(return_X_y=True)
    x, y = x[:160, :6], np.where(y[:160] == 1, 1, -1)
    area = lambda fitted, rows, labels: roc_auc_score(labels, fitted.score_samples(rows))  # noqa: E731
    pipe = make_pipeline(StandardScaler(), QuantumSVDD(max_epochs=2, random_state=0))
    scores = cross_val_score(pipe, x, y, cv=2, scoring=area)
    assert scores.shape == (2,)
    search = GridSearchCV(pipe, {"quantumsvdd__nu": [0.05, 0.3]}, cv=2, scoring="balanced_accuracy").fit(x, y)
    assert search.best_params_["quantumsvdd__nu"] in (0.05, 0.3)
    assert search.predict(x).shape == (160,)
    pipe.set_output(transform="pandas").fit(x)
    assert (pipe.predict(x) == pipe[-1].predict(pipe[0].transform(x))).all()


def test_a_capacity_grows_with_the_gates_that_are_trained():
    import onlyforward.detect as detect

    assert detect.capacity_bound(16, 0.1) == pytest.approx(4 * 16 * np.log(7 * 16 / 0.1))
    assert detect.capacity_bound(80, 0.1) > 5 * detect.capacity_bound(16, 0.1)
