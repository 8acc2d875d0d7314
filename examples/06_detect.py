"""Detect anomalies: 36 angles that have seen 100 zeros tell the other digits from zeros."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

import onlyforward as of

x, y = load_digits(return_X_y=True)
zeros = np.flatnonzero(y == 0)
train, test = zeros[:100], np.setdiff1d(np.arange(len(x)), zeros[:100])

detector = of.QuantumSVDD.preset("digits", random_state=0).fit(x[train])
area = roc_auc_score(y[test] != 0, -detector.score_samples(x[test]))
alarms = np.mean(detector.predict(x[test][y[test] == 0]) == -1)
print(f"AUROC {area:.3f}, false alarms {alarms:.1%}")
print(f"{detector.n_parameters_} trained angles, {detector.n_fitted_statistics_} fitted statistics")
