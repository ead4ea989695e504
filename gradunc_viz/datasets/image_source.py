"""Images and masks that are no files: frames of a video, items of a data set in memory."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from PIL import Image

__all__ = ["ImageSource", "Readable"]


class ImageSource(ABC):
    """Stands where the path of an image or a mask may stand, and is read in its place.

    Its text is what messages call it. It may be read by several threads at once.
    """

    suffix: ClassVar[str] = ""
    """As of a path; there is none."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What it is called in the cache."""

    @abstractmethod
    def open(self) -> Image.Image:
        """The pixels as they are stored; whatever goes wrong is a `FrameError`."""

    @abstractmethod
    def key(self) -> bytes:
        """What its content hash is made of: the same wherever it lies, another for another content."""

    @property
    def file(self) -> Path | None:
        """The file that it is a part of, if it is one of a file."""
        return None

    @property
    def absent(self) -> bool:
        """Whether there is nothing to be read, which may turn out as late as this."""
        return False

    def encoded(self) -> bytes:
        """The image as a file, which loses nothing."""
        buffer = io.BytesIO()
        with self.open() as image:
            image.save(buffer, "PNG", compress_level=1)  # as fast as a network on a GPU, and a fifth larger than 6
        return buffer.getvalue()


Readable = Path | ImageSource
"""Where an image or a mask is read from."""
