"""The adapter inside PyOD's own utilities."""

import io

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.metrics import roc_auc_score

pytest.importorskip("pyod")

from pyod.models.knn import KNN
from pyod.models.lscp import LSCP
from pyod.utils.data import evaluate_print, generate_data
from pyod.utils.utility import standardizer

from onlyforward.detect.estimator import QuantumSVDD
from onlyforward.detect.pyod import PyODAdapter


@pytest.fixture(scope="module")
def rows():
    return generate_data(n_train=120, n_test=80, n_features=4, contamination=0.1, random_state=0)


@pytest.fixture(scope="module")
def fitted(rows):
    return PyODAdapter(QuantumSVDD(max_epochs=5, random_state=0), contamination=0.1).fit(rows[0])


def test_signs_labels_and_threshold_are_pyods(rows, fitted):
    x, x_test, _, y_test = rows
    scores = fitted.decision_function(x_test)
    assert roc_auc_score(y_test, scores) > 0.9
    assert (fitted.decision_function(x) == fitted.decision_scores_).all()
    assert set(fitted.labels_) == {0, 1}
    assert fitted.labels_.mean() == pytest.approx(0.1, abs=0.01)
    assert (fitted.predict(x_test) == (scores > fitted.threshold_)).all()
    assert (scores == -fitted.detector_.score_samples(x_test)).all()


@pytest.mark.parametrize("method", ["linear", "unify"])
def test_probabilities_and_confidence_are_there(rows, fitted, method):
    p = fitted.predict_proba(rows[1], method=method)
    assert p.shape == (80, 2)
    assert np.allclose(p.sum(1), 1)
    assert 0 <= p.min() <= p.max() <= 1
    labels, confidence = fitted.predict(rows[1], return_confidence=True)
    assert labels.shape == confidence.shape == (80,)


def test_pyods_utilities_take_it(rows, fitted, capsys):
    x, x_test, _, y_test = rows
    evaluate_print("QSVDD", y_test, fitted.decision_function(x_test))
    assert "ROC:" in capsys.readouterr().out
    both = standardizer(np.c_[fitted.decision_function(x_test), KNN().fit(x).decision_function(x_test)])
    assert both.shape == (80, 2)
    pool = [PyODAdapter(QuantumSVDD(max_epochs=2, random_state=seed)) for seed in (0, 1)] + [KNN(), KNN(n_neighbors=9)]
    ensemble = LSCP(pool, n_bins=4, random_state=0).fit(x)
    assert roc_auc_score(y_test, ensemble.decision_function(x_test)) > 0.9


def test_clones_and_copies_are_whole(rows, fitted):
    fresh = clone(fitted)
    assert not hasattr(fresh, "decision_scores_")
    assert fresh.detector.max_epochs == 5
    file = io.BytesIO()
    joblib.dump(fitted, file)
    file.seek(0)
    assert (joblib.load(file).decision_function(rows[1]) == fitted.decision_function(rows[1])).all()
    with pytest.raises(ValueError, match="contamination"):
        PyODAdapter(contamination=0.7)
