"""What a scorer checks before it believes a number."""

from __future__ import annotations

import pytest
import torch

from gradunc_viz.schema.errors import NonFiniteError
from gradunc_viz.scores.maps import check_finite


def test_check_finite():
    check_finite(torch.full((2, 3), 3e38), "logits", "a")
    check_finite(torch.zeros(0), "logits", "empty")
    bad = torch.tensor([1.0, float("nan"), float("inf"), -float("inf")])
    with pytest.raises(NonFiniteError, match="frame 'f1': 3 of 4 logits are NaN or infinite; expected finite numbers"):
        check_finite(bad, "logits", "f1")
