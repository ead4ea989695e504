"""Reading a frame's files once."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from ..datasets.bands import BANDS_SUFFIX, as_picture, read_bands
from ..datasets.frames import Frame, checked_label
from ..schema.errors import FrameError

__all__ = ["DecodedFrame", "decode"]


@dataclass
class DecodedFrame:
    """One frame, read and decoded once: everything that later stages need of its files.

    `image` is what is shown, (y, x, 3) uint8 RGB; `pixels` is what a network of other channels takes.
    """

    id: str
    image: np.ndarray
    pixels: np.ndarray | None = None
    label: np.ndarray | None = None
    anomaly: np.ndarray | None = None
    digest: str = ""
    encoded: bytes | None = None
    image_format: str = ""
    source: str = ""

    @property
    def content(self) -> str:
        """Hash of the decoded image, 32 hex digits: the same wherever it lies and however it is encoded."""
        pixels = np.ascontiguousarray(self.image if self.pixels is None else self.pixels)
        digest = blake2b(f"{pixels.dtype} {pixels.shape}".encode(), digest_size=16)
        digest.update(pixels.data)
        return digest.hexdigest()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image."""
        return self.image.shape[0], self.image.shape[1]


def decode(frame: Frame, n_classes: int, images: bool = True, channels: int = 3) -> DecodedFrame:
    """Read all of a frame's files.

    Parameters
    ----------
    frame
    n_classes
        Of the network.
    images
        Whether the encoded image is kept.
    channels
        How many the network takes.

    Raises
    ------
    FrameError
        If a file is missing or damaged, sizes differ, or a label id is no class of the network.
    """
    pixels = None
    if channels != 3 or frame.image_path.suffix.lower() == BANDS_SUFFIX:
        pixels = read_bands(frame.image_path, channels)
    picture = None if pixels is None else as_picture(frame.image_path, pixels)
    image, label, anomaly = frame.image if picture is None else picture[0], frame.label, frame.anomaly
    if label is not None:
        label = checked_label(label, n_classes, frame)
    if image.ndim != 3 or image.shape[2] != 3:
        raise FrameError(f"{frame.image_path}: decoded to shape {image.shape}, expected (height, width, 3)")
    return DecodedFrame(
        id=frame.id,
        image=image,
        pixels=pixels,
        label=label,
        anomaly=anomaly,
        digest=frame.digest(),
        encoded=(frame.image_bytes if picture is None else picture[1]) if images else None,
        image_format=frame.image_format if picture is None else picture[2],
        source=frame.image_path.name,
    )
