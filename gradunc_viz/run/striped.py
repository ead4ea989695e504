"""Maps of a large image in strips: scored, kept and handed out a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..counts.frame import Strip
from ..kernels.resize import Band
from ..kernels.threads import empty
from ..schema.frame import id_type
from ..schema.scores import Score
from ..scores.maps import ScoredImage, Scorer
from ..scores.needs import HeadOutput
from ..scores.resizing import resize_log2_norms, resize_logits
from .narrow import fits_half
from .planes import Planes

__all__ = ["StripedImage", "StripedScorer"]

_PIXELS = 1 << 21
"""Of a strip: two megapixels, of which a float32 map takes 8 MB."""


@dataclass
class StripedImage:
    """Maps of one image, as `gradunc_viz.scores.maps.ScoredImage` has them, of which a few rows are in memory.

    Attributes
    ----------
    size : (height, width)
    scores : tuple of Score
    align_corners : bool
        How maps at the head are resized to the image.
    logits, head, pixel : Planes
        Logits and scores at the head; scores of the resized logits, not oriented. Logits are rounded to float16 as long
        as all that came fit.
    prediction : Planes
        One map of class ids.
    errors : Planes or None
        Confidence, Brier score and negative log-likelihood, where there is a label.
    """

    size: tuple[int, int]
    scores: tuple[Score, ...]
    align_corners: bool
    logits: Planes
    head: Planes
    pixel: Planes
    prediction: Planes
    errors: Planes | None

    @property
    def on_disk(self) -> bool:
        """Whether the maps lie in files."""
        return self.logits.folder is not None

    def lines(self) -> list[slice]:
        """Strips of the image."""
        height, width = self.size
        step = max(2, _PIXELS // width)
        return [slice(first, min(first + step, height)) for first in range(0, height, step)]

    def whole(self) -> tuple[np.ndarray, np.ndarray]:
        """All oriented scores (S, y, x) and the prediction, for whoever has the memory."""
        oriented = np.empty((len(self.scores), *self.size), "f4")
        for lines in self.lines():
            oriented[:, lines] = self._oriented(lines).numpy()
        return oriented, self.prediction.rows(slice(0, self.size[0]))[0].astype("i8")

    def strips(self, label: np.ndarray | None = None, anomaly: np.ndarray | None = None) -> Strips:
        """What is counted, as often as it is gone through."""
        return Strips(self, label, anomaly)

    def strip(self, lines: slice) -> ScoredImage:
        """Maps of some lines, on the CPU; of scores the oriented ones."""
        errors = None if self.errors is None else torch.from_numpy(self.errors.rows(lines))
        confidence, brier, nll = (None, None, None) if errors is None else errors
        return ScoredImage(
            prediction=torch.from_numpy(self.prediction.rows(lines)[0].astype("i8")),
            oriented=self._oriented(lines),
            confidence=confidence,
            brier=brier,
            nll=nll,
        )

    def _oriented(self, lines: slice) -> Tensor:
        oriented = empty((len(self.scores), lines.stop - lines.start, self.size[1]), torch.float32)
        at_head = [place for place, score in enumerate(self.scores) if score.at_head]
        at_pixel = [place for place, score in enumerate(self.scores) if not score.at_head]
        if at_pixel:
            oriented[at_pixel] = torch.from_numpy(self.pixel.rows(lines))
        band = Band(lines, self.head.shape[1])
        rows = band.rows(self.size[0], self.align_corners)
        band = replace(band, first=rows.start)
        for log2 in (True, False):
            some = [number for number, place in enumerate(at_head) if self.scores[place].is_log2 == log2]
            if not some:
                continue
            maps = torch.from_numpy(self.head.rows(rows, some))
            if log2:
                top = torch.from_numpy(self.head.high[some]).float()
                values = resize_log2_norms(maps, self.size, self.align_corners, band=band, top=top)
            else:
                values = resize_logits(maps[None], self.size, self.align_corners, band)[0]
            oriented[[at_head[number] for number in some]] = values
        for plane, score in zip(oriented, self.scores, strict=True):
            if score.orientation != 1:
                plane.mul_(score.orientation)
        return oriented


@dataclass
class Strips:
    """The strips of an image with their labels; see `gradunc_viz.counts.frame.count_strips`."""

    image: StripedImage
    label: np.ndarray | None
    anomaly: np.ndarray | None

    def __iter__(self) -> Iterator[Strip]:
        for lines in self.image.lines():
            label, anomaly = (
                None if ids is None else torch.from_numpy(ids[lines]).long() for ids in (self.label, self.anomaly)
            )
            yield Strip(self.image.strip(lines), label, anomaly)


@dataclass
class StripedScorer:
    """Scores the rows of an image one after the other, as they come.

    Parameters
    ----------
    scorer : Scorer
    head : HeadOutput
        How the network's logits are to be read, of any window; its tensors are not.
    size : (height, width)
        Of the image.
    grid : (height, width)
        Of the logits.
    label : array (y, x), optional
    frame_id : str
    folder : Path, optional
        Where maps are kept; in memory by default.

    Attributes
    ----------
    image : StripedImage
        Complete after the last row.
    """

    scorer: Scorer
    head: HeadOutput
    size: tuple[int, int]
    grid: tuple[int, int]
    label: np.ndarray | None
    frame_id: str
    folder: Path | None = None
    _held: list[Tensor] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        n_classes, scorer = self.head.logits.shape[1], self.scorer
        self.image = StripedImage(
            self.size,
            scorer.scores,
            self.head.align_corners,
            logits=self._planes(n_classes, self.grid, np.float16),
            head=self._planes(len(scorer.at_head), self.grid),
            pixel=self._planes(len(scorer.at_pixel), self.size),
            prediction=self._planes(1, self.size, id_type(n_classes)),
            errors=None if self.label is None else self._planes(3, self.size),
        )
        self._lines = self.image.lines()
        self._first = self._count = 0  # rows of logits: the first that is held, and how many came

    def _planes(self, count: int, size: Sequence[int], dtype: object = np.float32) -> Planes:
        return Planes((count, size[0], size[1]), dtype, self.folder)

    def put(self, logits: Tensor, head: Tensor) -> None:
        """Take further rows of logits (C, r, u) and of scores at the head (S, r, u)."""
        rows = slice(self._count, self._count + logits.shape[1])
        if self.image.logits.dtype == np.float16 and not fits_half(*map(float, torch.aminmax(logits))):
            self.image.logits = self.image.logits.widened(np.float32)
        self.image.logits.put(rows, logits.cpu().numpy())
        self.image.head.put(rows, head.cpu().numpy())
        self._held.append(logits)
        self._count = rows.stop
        while self._lines:
            band = Band(self._lines[0], self.grid[0])
            needed = band.rows(self.size[0], self.image.align_corners)
            if needed.stop > self._count:
                break
            held = self._held[0] if len(self._held) == 1 else torch.cat(self._held, 1)
            self._held, self._first = [held[:, needed.start - self._first :]], needed.start
            self._score(replace(band, first=needed.start), self._held[0][:, : needed.stop - needed.start])
            del self._lines[0]

    def _score(self, band: Band, logits: Tensor) -> None:
        lines, image = band.lines, self.image
        label = None if self.label is None else self.label[lines]
        found = self.scorer.of_band(replace(self.head, logits=logits[None]), self.size, band, label, self.frame_id)
        scores = found.scores[0].cpu().numpy()
        image.pixel.put(lines, scores[:-1])
        image.prediction.put(lines, found.prediction.cpu().numpy())
        if image.errors is not None and found.probability_error is not None and found.nll is not None:
            errors = [1 - scores[-1], found.probability_error[0].cpu().numpy(), found.nll[0].cpu().numpy()]
            image.errors.put(lines, np.stack(errors))
