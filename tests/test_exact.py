"""What other tests measure with, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from exact import exact_metrics
from sklearn import metrics as sk


@pytest.mark.parametrize("steps", [3, 200, 10**9], ids=["ties", "some ties", "no ties"])
@pytest.mark.parametrize("share", [0.003, 0.4, 0.9])
def test_metrics_are_those_of_sklearn(steps: int, share: float) -> None:
    random = np.random.default_rng(0)
    positive = random.random(20_000) < share
    scores = np.round((random.normal(size=20_000) + positive) * steps) / steps
    fpr, tpr, _ = sk.roc_curve(positive, scores, drop_intermediate=False)
    precision, recall, _ = sk.precision_recall_curve(positive, scores)
    assert exact_metrics(scores.astype("f4"), positive) == pytest.approx(
        {
            "auroc": sk.roc_auc_score(positive, scores),
            "auprc": sk.average_precision_score(positive, scores),
            "fpr95": fpr[(tpr >= 0.95).argmax()],
            "f1": (2 * precision * recall / np.maximum(precision + recall, 1e-30)).max(),
        },
        abs=1e-6,
    )
