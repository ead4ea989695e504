"""Short videos that tests make, of noise that tells every frame from every other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np

SIZE = (48, 64)


def scenes(count: int = 20, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(count, y, x, 3) uint8: coarse noise, which codecs keep."""
    small = np.random.default_rng(count).integers(0, 256, (count, size[0] // 8, size[1] // 8, 3), "u1")
    return small.repeat(8, 1).repeat(8, 2)


def write_video(
    path: Path,
    images: Sequence[np.ndarray] | np.ndarray,
    *,
    codec: str = "libx264",
    rate: int = 10,
    times: Sequence[int] | None = None,
    rotation: int = 0,
    moov_first: bool = False,
    **options: str,
) -> Path:
    """Encode images, by default at a quality that keeps their pixels within a few grey levels, with B-frames.

    Parameters
    ----------
    times
        When each is shown, in units of 1 / rate; one after the other by default.
    """
    options = {"g": "8", "bf": "2", **({"crf": "10", "sc_threshold": "0"} if codec == "libx264" else {}), **options}
    with av.open(str(path), "w", options={"movflags": "faststart"} if moov_first else {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if codec != "libx264":
            stream.bit_rate = 10_000_000
        if rotation:
            stream.set_display_rotation(rotation)
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = number if times is None else times[number]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
