"""Test-time augmentation: passes of one network over an image, its mirror image, and both in other sizes.

Source: Wang et al., "Aleatoric uncertainty estimation with test-time augmentation for medical image segmentation with
convolutional neural networks" (arXiv:1807.07356).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..schema.errors import DeviceError, ModelError, SettingsError
from .network import network_input
from .passes import Inputs, JointHead, Pass
from .runner import Inference

__all__ = ["AugmentedPasses"]


class AugmentedPasses:
    """Runs a network on changed copies of every image; a `gradunc_viz.networks.runner.Runner`.

    Parameters
    ----------
    inference : Inference
    flips : bool
        Whether each copy is seen mirrored, left to right, too.
    scales : sequence of float
        Of the network's input, each for copies of the image of its own size.

    Raises
    ------
    SettingsError
        If that makes one pass alone.
    """

    kind = "augmented"

    def __init__(self, inference: Inference, flips: bool = True, scales: Sequence[float] = (1.0,)) -> None:
        if not flips and len(scales) < 2:
            raise SettingsError(
                f"flips={flips} and scales={tuple(scales)} make one pass; expected flips, or two scales or more"
            )
        self.inference, self.flips, self.scales = inference, flips, tuple(scales)
        self.network, self.device = inference.network, inference.device
        self.largest_batch = inference.largest_batch

    def prepare(self, image: np.ndarray, frame_id: str) -> Inputs:
        """Input of the network in every size."""
        height, width = self.inference.size or image.shape[:2]
        images = []
        for scale in self.scales:
            if scale == 1:
                images.append(self.inference.prepare(image, frame_id))
                continue
            size = max(1, round(scale * height)), max(1, round(scale * width))
            x = network_input(image, self.network, size)
            images.append(x.pin_memory() if self.device.type == "cuda" else x)
        return Inputs(tuple(images), (frame_id,))

    def __call__(self, x: Inputs, what: str) -> JointHead:
        """Heads of all passes; errors are those of `Inference`, with the scale that they are of."""
        passes = []
        for scale, image in zip(self.scales, x.images, strict=True):
            for mirrored in (False, True) if self.flips else (False,):
                try:
                    head = self.inference(image.flip(-1) if mirrored else image, what)
                except DeviceError:
                    raise
                except ModelError as error:
                    if scale == 1:
                        raise
                    size = f"{image.shape[-2]}x{image.shape[-1]}"
                    raise ModelError(f"{error}; scale {scale:g} makes inputs of {size}, see --scales") from error
                passes.append(Pass(head, self.network, mirrored))
        return JointHead(self.kind, passes)
