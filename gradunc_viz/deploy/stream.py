"""A video or an image sequence through a scored network, one frame after the other, as a robot sees it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageSequence
from torch import Tensor

from ..datasets.decoding import read_image
from ..networks.runner import Inference, precision, restored
from ..schema.errors import FrameError
from ..schema.file_names import is_foreign, natural_key
from .scored_model import ScoredModel

__all__ = ["StreamReport", "read_stream", "stream"]

_VIDEO = frozenset((".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"))


@dataclass
class StreamReport:
    """What a stream took.

    Attributes
    ----------
    with_scores, without_scores : list of float
        Seconds per frame.
    means : list of float
        Mean of the first score over each frame.
    """

    with_scores: list[float] = field(default_factory=list)
    without_scores: list[float] = field(default_factory=list)
    means: list[float] = field(default_factory=list)

    def rates(self) -> tuple[float, float]:
        """Frames per second with and without scores, from the medians."""
        return 1 / statistics.median(self.with_scores), 1 / statistics.median(self.without_scores)


def read_stream(source: Path) -> Iterator[np.ndarray]:
    """Frames (y, x, 3) uint8 RGB of a folder of images, a file of several images (GIF, TIFF, WebP) or a video.

    Raises
    ------
    FrameError
        If there is nothing to read, or nothing to read it with.
    """
    if source.is_dir():
        known = Image.registered_extensions()
        names = sorted((file.name for file in source.iterdir()), key=natural_key)
        files = [source / name for name in names if Path(name).suffix.lower() in known and not is_foreign(name)]
        if not files:
            raise FrameError(f"{source}: no images in this folder; expected an image sequence")
        yield from map(read_image, files)
    elif not source.is_file():
        raise FrameError(f"{source}: does not exist; expected a folder of images, or a file of images or a video")
    elif source.suffix.lower() in _VIDEO:
        yield from _video(source)
    else:
        try:
            with Image.open(source) as image:
                for frame in ImageSequence.Iterator(image):
                    yield np.array(frame.convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            raise FrameError(f"{source}: cannot be decoded, expected images ({error})") from error


def _video(source: Path) -> Iterator[np.ndarray]:
    try:
        import av
    except ImportError as error:
        raise FrameError(f"{source}: videos need PyAV: pip install av; or give a folder of images") from error
    try:
        with av.open(str(source)) as container:
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")
    except (OSError, ValueError, IndexError) as error:
        raise FrameError(f"{source}: cannot be decoded as a video ({error})") from error


def stream(
    runner: Inference, images: Iterable[np.ndarray], scores: str | Sequence[str] | None = None, *, warm_up: int = 2
) -> StreamReport:
    """Run a network on every image with and without scores, in turn, and take the time.

    Parameters
    ----------
    runner : Inference
        The network with device, precision and size of its input.
    images : iterable of array (y, x, 3) uint8 RGB
        All of one size, or the runner resizes them.
    scores : optional
        See `gradunc_viz.schema.scores.resolve_scores`.
    warm_up : int
        How often the first image is run before, uncounted: what compiles or allocates does so then.

    Raises
    ------
    FrameError
        If there is no image.
    """
    report, model = StreamReport(), None
    network, device = runner.network, runner.device

    def timed(function: Callable[[Tensor], Any], x: Tensor, seconds: list[float]) -> Any:
        start = time.perf_counter()
        result = function(x)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
        return result

    with torch.no_grad(), precision(runner.autocast, device), restored(network):
        for number, image in enumerate(images):
            x = runner.prepare(image, f"image {number}").to(device)
            if model is None:
                model = ScoredModel(network, scores, example=x)
                for _ in range(warm_up):
                    timed(network.net, x, [])
                    timed(model, x, [])
            timed(network.net, x, report.without_scores)
            scored = timed(model, x, report.with_scores)
            report.means.append(float(scored.scores[:, 0].mean()))
    if not report.means:
        raise FrameError("a stream without images cannot be timed; expected at least one")
    return report
