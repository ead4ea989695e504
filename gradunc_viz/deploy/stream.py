"""A video or an image sequence through a scored network, one frame after the other, as a robot sees it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageSequence
from torch import Tensor

from ..datasets.decoding import opened_image, read_image, rgb_pixels
from ..datasets.layouts.sequence import is_sequence, sequence_files
from ..datasets.video import VIDEO_SUFFIXES, Video
from ..networks.runner import Inference, precision, restored
from ..schema.errors import FrameError, GraduncError
from ..schema.file_names import is_foreign, natural_key
from ..scores.needs import HeadOutput
from ..scores.resizing import resize_logits
from .film import Film
from .scored_model import ScoredModel, ScoredOutput

__all__ = ["Stream", "StreamReport", "stream"]


@dataclass
class StreamReport:
    """What a stream took.

    Attributes
    ----------
    with_scores, without_scores : list of float
        Seconds per frame.
    means : list of float
        Mean of the first score over each frame.
    stopped : GraduncError or None
        What ended the stream before its end.
    """

    with_scores: list[float] = field(default_factory=list)
    without_scores: list[float] = field(default_factory=list)
    means: list[float] = field(default_factory=list)
    stopped: GraduncError | None = None

    def rates(self) -> tuple[float, float]:
        """Frames per second with and without scores, from the medians."""
        return 1 / statistics.median(self.with_scores), 1 / statistics.median(self.without_scores)


class Stream:
    """Images of a folder, of a pattern, of a file of several images (GIF, TIFF, WebP) or of a video, in their order.

    Attributes
    ----------
    count : int
    rate : float or None
        Images per second, where the file says so.
    seconds : array or None
        When each is shown, of a video.
    files : list of Path
        What they are read from.

    Raises
    ------
    FrameError
        If there is nothing to read, or nothing to read it with.
    """

    def __init__(self, source: Path) -> None:
        self.rate: float | None = None
        self.seconds: np.ndarray | None = None
        self.files = [source]
        self._read: Callable[[range], Iterator[np.ndarray]]
        if source.is_dir() or is_sequence(source):
            files = _images_in(source) if source.is_dir() else sequence_files(source)
            self.count, self.files = len(files), files
            self._read = lambda chosen: (read_image(files[place]) for place in chosen)
        elif not source.is_file():
            raise FrameError(
                f"{source}: does not exist; expected a folder of images, a pattern such as frame_%05d.png, a file of "
                "images or a video"
            )
        elif source.suffix.lower() in VIDEO_SUFFIXES:
            video = Video(source)
            self.count, self.rate, self.seconds = len(video), video.rate, video.seconds
            self._read = lambda chosen: (video[place] for place in chosen)
        else:
            with opened_image(source) as image:
                self.count = getattr(image, "n_frames", 1)
                duration = image.info.get("duration")
                self.rate = 1000 / duration if duration else None
            self._read = lambda chosen: _pages(source, chosen)

    def images(self, chosen: range | None = None) -> Iterator[np.ndarray]:
        """Images (y, x, 3) uint8 RGB, of some numbers or all."""
        return self._read(range(self.count) if chosen is None else chosen)


def _images_in(folder: Path) -> list[Path]:
    known = Image.registered_extensions()
    names = sorted((file.name for file in folder.iterdir()), key=natural_key)
    files = [folder / name for name in names if Path(name).suffix.lower() in known and not is_foreign(name)]
    if not files:
        raise FrameError(f"{folder}: no images in this folder; expected an image sequence")
    return files


def _pages(source: Path, chosen: range) -> Iterator[np.ndarray]:
    with opened_image(source) as image:
        for number, page in enumerate(ImageSequence.Iterator(image)):
            if number in chosen:
                yield rgb_pixels(page, source)


def stream(
    runner: Inference,
    images: Iterable[np.ndarray],
    scores: str | Sequence[str] | None = None,
    *,
    warm_up: int = 2,
    film: Film | None = None,
    shown: str | None = None,
    numbers: Sequence[int] | None = None,
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
    film : Film, optional
        Gets image, prediction and score of each frame; that takes no part of the time.
    shown : str, optional
        The score that it gets, by default the first.
    numbers : sequence of int, optional
        What the images are called, by default 0, 1, ...

    Raises
    ------
    FrameError
        If there is no image, or the first cannot be read. One that goes wrong later ends the stream, see
        `StreamReport.stopped`.
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

    def score(number: int, image: np.ndarray) -> None:
        nonlocal model
        x = runner.prepare(image, f"image {number}").to(device)
        if model is None:
            model = ScoredModel(network, scores, example=x)
            for _ in range(warm_up):
                timed(network.net, x, [])
                timed(model, x, [])
        timed(network.net, x, report.without_scores)
        scored = timed(model, x, report.with_scores)
        report.means.append(float(scored.scores[:, 0].mean()))
        if film is not None:
            place = 0 if shown is None else model.scores.index(shown)
            film.add(
                image, _predicted(model, scored, x), scored.scores[0, place].float().cpu().numpy(), f"image {number}"
            )

    with torch.no_grad(), precision(runner.autocast, device), restored(network):
        try:
            for number, image in zip(count() if numbers is None else numbers, images, strict=False):
                score(number, image)
        except GraduncError as error:
            if not report.means:
                raise
            report.stopped = error
    if not report.means:
        raise FrameError("a stream without images cannot be timed; expected at least one")
    return report


def _predicted(model: ScoredModel, scored: ScoredOutput, x: Tensor) -> np.ndarray:
    """Class ids of the first image of a batch, at the size of the network's input."""
    logits = resize_logits(scored.logits.float(), x.shape[2:], model.align_corners)
    predicted = HeadOutput(scored.logits, None, model.network.net, threshold=model.threshold).predicted(logits)
    ids: np.ndarray = (logits.argmax(1) if predicted is None else predicted)[0].cpu().numpy()
    return ids
