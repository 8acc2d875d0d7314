"""`QuantumSVDD` as a PyOD detector: PyOD's signs (higher = more of an outlier), labels 0 and 1, and contamination."""

from __future__ import annotations

from typing import Any

import numpy as np

from onlyforward.core.checks import require
from onlyforward.detect.estimator import QuantumSVDD

require("pyod", "peers")
from pyod.models.base import BaseDetector  # noqa: E402
from sklearn.base import clone  # noqa: E402
from sklearn.utils.validation import check_is_fitted  # noqa: E402


class PyODAdapter(BaseDetector):  # type: ignore[misc]
    """A PyOD detector around a `QuantumSVDD`.

    Signs are the opposite of scikit-learn's: `decision_function` is higher for outliers.

    Args:
        detector: the settings of the detector; a clone of it is fitted. None: the defaults.
        contamination: share of outliers in the rows to fit on, in (0, 0.5]; it sets the threshold in place of nu.

    Attributes:
        detector_: the fitted `QuantumSVDD`.
        decision_scores_: [N] scores of the training rows.
        threshold_: the (1 - contamination)-quantile of them.
        labels_: [N] of 0 and 1.
    """

    def __init__(self, detector: QuantumSVDD | None = None, contamination: float = 0.1) -> None:
        super().__init__(contamination=contamination)
        self.detector = detector

    def fit(self, X: Any, y: Any = None) -> PyODAdapter:
        """Fit on rows X [N, d]; y is ignored."""
        self._set_n_classes(y)
        self.detector_ = clone(QuantumSVDD() if self.detector is None else self.detector).fit(X)
        self.n_features_in_ = self.detector_.n_features_in_
        self.decision_scores_ = self.detector_.anomaly_scores(X)
        self._process_decision_scores()
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Scores [b], higher = more of an outlier."""
        check_is_fitted(self, ["decision_scores_", "threshold_", "labels_"])
        return self.detector_.anomaly_scores(X)
