"""Reading a frame's files once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..datasets.frames import Frame, checked_label
from ..schema.errors import FrameError

__all__ = ["DecodedFrame", "decode"]


@dataclass
class DecodedFrame:
    """One frame, read and decoded once: everything that later stages need of its files."""

    id: str
    image: np.ndarray
    label: np.ndarray | None = None
    anomaly: np.ndarray | None = None
    digest: str = ""
    encoded: bytes | None = None
    image_format: str = ""
    source: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image."""
        return self.image.shape[0], self.image.shape[1]


def decode(frame: Frame, n_classes: int, images: bool = True) -> DecodedFrame:
    """Read all of a frame's files.

    Raises
    ------
    FrameError
        If a file is missing or damaged, sizes differ, or a label id is no class of the network.
    """
    image, label, anomaly = frame.image, frame.label, frame.anomaly
    if label is not None:
        label = checked_label(label, n_classes, frame)
    if image.ndim != 3 or image.shape[2] != 3:
        raise FrameError(f"{frame.image_path}: decoded to shape {image.shape}, expected (height, width, 3)")
    return DecodedFrame(
        id=frame.id,
        image=image,
        label=label,
        anomaly=anomaly,
        digest=frame.digest(),
        encoded=frame.image_bytes if images else None,
        image_format=frame.image_format,
        source=frame.image_path.name,
    )
