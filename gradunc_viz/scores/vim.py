r"""What of the features the logits do not see, set against the logits.

:math:`W` and :math:`b` are the head's kernel and bias; of a k x k kernel the sum over its taps, of a transposed one
that divided by the strides: what a constant feature map meets.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..schema.errors import FitError
from .fitted import DrawnPixels, at_logits, by_pixel, class_kernel, length_of, principal
from .needs import ForwardPass

__all__ = ["Vim"]


def _dimensions(features: int) -> int:
    """Dimensions of the principal subspace, as the authors choose them."""
    return 1000 if features >= 2048 else 512 if features >= 768 else features // 2


class Vim:
    r""":math:`\alpha \|\psi^\perp\| - \ln \sum_c e^{\phi_c}`; larger is more uncertain.

    :math:`\psi^\perp` is what is left of :math:`\psi - o`, :math:`o = -W^+ b`, outside the principal subspace of the
    drawn features about :math:`o`, of 1000 dimensions for 2048 features or more, of 512 for 768 or more, else of half
    as many as there are features. :math:`\alpha` is the mean of the largest logit over that of :math:`\|\psi^\perp\|`.

    Source: Wang et al., "ViM: Out-Of-Distribution with Virtual-logit Matching" (arXiv:2203.10807), section 4.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def fit(self, pixels: DrawnPixels) -> dict[str, Tensor]:
        """Origin, directions outside the principal subspace, and alpha.

        Raises
        ------
        FitError
            If the features are not the head's, fewer pixels are drawn than there are features, or nothing is left
            outside the subspace that could be matched with the logits.
        """
        kernel, bias = class_kernel(pixels, self.name)
        pixels.require_dimensions(self.name)
        origin = -torch.linalg.pinv(kernel) @ bias
        directions, values = principal(pixels.second_moment(origin) / len(pixels))
        outside = directions[:, _dimensions(len(origin)) :]
        parts = pixels.features.split(1 << 14)
        residual = torch.cat([((rows.double() - origin) @ outside).norm(dim=1) for rows in parts])
        if not float(residual.mean()) > 1e-6 * float(values.sum().sqrt()):
            raise FitError(
                f"score {self.name!r}: nothing of the {len(origin)} features is left outside their "
                f"{len(origin) - outside.shape[1]} principal directions"
            )
        largest = pixels.logits.amax(1).mean(dtype=torch.float64)
        if not float(largest) > 0:
            raise FitError(
                f"score {self.name!r}: the mean of the largest logit is {float(largest):.3g}; expected more than 0, as "
                "of logits before a softmax"
            )
        return {"origin": origin, "outside": outside.T, "alpha": (largest / residual.mean())[None]}

    def __call__(self, run: ForwardPass, state: Mapping[str, Tensor]) -> Tensor:
        """Residuals, brought to the logits' places, set against the logits there."""
        origin, outside = state["origin"][:, None], state["outside"]

        def residual(psi: Tensor) -> Tensor:
            return length_of(outside @ (psi - origin))

        virtual = at_logits(run, by_pixel(run.features, residual, len(outside))) * state["alpha"]
        return virtual - run.head.logits.float().logsumexp(1)
