"""What is done to an image before a network sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..schema.errors import ModelError

__all__ = ["CHANNELS", "IMAGENET", "InputSize", "Normalization", "Preprocessing", "resized", "unit_tensor"]

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of RGB in [0, 1] that most backbones were trained with."""

CHANNELS = ("rgb", "bgr", "grey")
"""What a network may want to see of colours."""

InputSize = tuple[int, int] | Literal["own"] | None
"""(height, width) that images are resized to; ``"own"``: none; None: what the network asks for, if anything."""

Normalization = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class Preprocessing:
    """How images, and the labels of its training, were prepared for a network.

    Attributes
    ----------
    normalize
        Mean and standard deviation for each channel, in the network's order of them, of images in [0, 1]; one of each
        stands for all channels. ``None`` leaves images as they are.
    channels
        ``"rgb"`` or ``"bgr"``: order of the first three channels; ``"grey"``: one channel, where it is not found out.
    size
        (height, width) that images are resized to where no other size is asked for; ``None`` keeps their own.
    resample
        Pillow's filter that images are resized with.
    reduce_labels
        Whether the network was trained on ids that are one less than those in masks, with 0 ignored.
    unknown
        Why all this is not known, where the network's files say something that cannot be followed.

    Raises
    ------
    ModelError
        If the order of channels is unknown.
    """

    normalize: Normalization | None = None
    channels: str = "rgb"
    size: tuple[int, int] | None = None
    resample: int = Image.Resampling.BILINEAR
    reduce_labels: bool = False
    unknown: str = ""

    def __post_init__(self) -> None:
        if self.channels not in CHANNELS:
            raise ModelError(f"channels={self.channels!r}: expected one of {', '.join(CHANNELS)}")

    def in_order(self, channels: str) -> Preprocessing:
        """The same for a network that wants the colours in another order; each keeps its mean and deviation."""
        changed = replace(self, channels=channels)
        if (self.channels == "bgr") == (channels == "bgr") or self.normalize is None:
            return changed
        mean, std = ((*numbers[2::-1], *numbers[3:]) for numbers in self.normalize)
        return replace(changed, normalize=(mean, std))

    def normalized(self, normalize: str | Sequence[Sequence[float]]) -> Preprocessing:
        """The same with another normalisation: ``"none"``, ``"imagenet"`` or ``(mean, std)``.

        Raises
        ------
        ModelError
            If it is none of these.
        """
        if normalize == "imagenet":
            return replace(self, normalize=IMAGENET, channels="rgb", unknown="").in_order(self.channels)
        return replace(self, normalize=_normalization(normalize), unknown="")

    def chosen_size(self, asked: InputSize) -> tuple[int, int] | None:
        """Size that images are resized to; None if each keeps its own."""
        if asked is None:
            return self.size
        return None if asked == "own" else asked

    def __call__(self, images: Tensor) -> Tensor:
        """Put the channels of images, (N, channels, h, w) with RGB in [0, 1], in order and normalise them.

        Raises
        ------
        ModelError
            If there is no mean for each channel.
        """
        n = images.shape[1]
        if self.channels == "bgr":
            images = images[:, [*range(min(n, 3))[::-1], *range(3, n)]]
        if self.normalize is None:
            return images
        if len(self.normalize[0]) not in (1, n):
            raise ModelError(
                f"normalize has {len(self.normalize[0])} means and deviations for an input of {n} channels: "
                f"expected {n}, or one for all"
            )
        mean, std = (images.new_tensor(numbers).view(1, -1, 1, 1) for numbers in self.normalize)
        return (images - mean) / std

    def check_range(self, image: np.ndarray) -> None:
        """Check that mean and deviation can be those of an image.

        Raises
        ------
        ModelError
            If the image will lie in [0, 1] and a mean does not.
        """
        if self.normalize is not None and image.dtype.kind == "u" and max(self.normalize[0]) > 1:
            raise ModelError(
                f"a mean of {max(self.normalize[0]):g} for images in [0, 1]: expected 1 at most; mean and std of "
                "pixels 0 to 255 are divided by 255, which --scale 255 does"
            )


def _normalization(given: str | Sequence[Sequence[float]]) -> Normalization | None:
    if isinstance(given, str) and given == "none":
        return None
    try:
        mean, std = (tuple(map(float, numbers)) for numbers in given)
    except (TypeError, ValueError):
        mean, std = (), ()
    if not mean or len(mean) != len(std) or not min(std) > 0 or not np.isfinite((mean, std)).all():
        raise ModelError(f"normalize={given!r}: expected 'none', 'imagenet' or (mean, std) with std > 0")
    return mean, std


def unit_tensor(image: np.ndarray, size: tuple[int, int] | None, resample: int, dtype: torch.dtype) -> Tensor:
    """(1, channels, H, W) of an image (y, x, channels), resized: 8 and 16 bits in [0, 1], anything else as it is."""
    top = np.iinfo(image.dtype).max if image.dtype.kind == "u" else 1
    if size is not None and image.shape[:2] != tuple(size):
        image = resized(image, size, resample)
    return torch.from_numpy(image).permute(2, 0, 1)[None].to(dtype).div_(top)


def resized(image: np.ndarray, size: tuple[int, int], resample: int) -> np.ndarray:
    """An image (y, x, channels) in another size (height, width), with one of Pillow's filters."""
    height, width = size
    resample = Image.Resampling(resample)
    if image.dtype == np.uint8 and image.shape[2] == 3:
        return np.array(Image.fromarray(image).resize((width, height), resample))
    # each channel alone: Pillow would take a fourth one for opacity, and has no others
    planes = np.moveaxis(image if image.dtype == np.uint8 else image.astype(np.float32), 2, 0)
    return np.stack(
        [np.array(Image.fromarray(plane).resize((width, height), resample)) for plane in np.ascontiguousarray(planes)],
        axis=2,
    )
