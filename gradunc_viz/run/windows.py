"""Frames that a network is shown in windows: run, merged and scored from the first row of windows to the last."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..networks.head import Head
from ..networks.tiled import LARGE, Grid, Mosaic, TiledImage
from ..schema.errors import GraduncError, ModelError, SettingsError
from ..schema.scores import Score
from ..scores.maps import Scorer
from ..scores.needs import HeadOutput
from .stages import Stages
from .striped import StripedImage, StripedScorer

__all__ = ["check_scores", "scored_windows"]

_KEPT = frozenset({"logits", "queries", "fit"})
"""What scores at the image's resolution may need where windows are merged; of queries, that the logits are theirs."""

_T = TypeVar("_T")


class Run(Protocol):
    """Runs the network on some inputs, and a function of each one's head and of what scores are handed of it."""

    def __call__(self, inputs: Sequence[Tensor], function: Callable[[Head, HeadOutput], _T], /) -> Iterable[_T]: ...


def check_scores(scores: Iterable[Score]) -> None:
    """Check that scores can be computed of an image in windows.

    Raises
    ------
    SettingsError
        Naming one that cannot.
    """
    for score in scores:
        missing = score.needs - _KEPT
        if "input_grad" in missing or (missing and not score.at_head):
            raise SettingsError(
                f"score {score.name!r} needs {', '.join(sorted(missing))} of the whole image, which there is not where "
                "the network sees windows (tile): leave one of the two out"
            )


def scored_windows(
    image: TiledImage,
    size: tuple[int, int],
    label: np.ndarray | None,
    scorer: Scorer,
    run: Run,
    batch: Callable[[], int],
    folder: Path | None,
    stages: Stages,
) -> tuple[StripedImage, Head, str]:
    """Maps of an image, of which a few rows are in memory where it is large.

    Logits and scores at the head are those of each window, merged as `gradunc_viz.networks.tiled` says; scores of the
    resized logits are of the merged ones.

    Parameters
    ----------
    image : TiledImage
    size : (height, width)
        Of the image as it is scored, before it was resized for the network.
    label : array (y, x), optional
    scorer : Scorer
    run : callable
    batch : callable
        How many windows are to be run at once, now.
    folder : Path, optional
        Where maps of a large image are kept.

    Returns
    -------
    StripedImage, Head, str
        Head of the first window, without what entered and left it; how many windows of what size there are.
    """
    check_scores(scorer.scores)
    order = sorted(range(len(scorer.at_head)), key=lambda place: scorer.at_head[place].is_log2)
    log2 = [scorer.at_head[place].is_log2 for place in order]

    def maps_of(_: Head, window: HeadOutput) -> Tensor:
        return torch.cat([window.logits[0].float(), scorer.at_the_head(window, image.frame_id)[order].float()])

    def of_first(head: Head, window: HeadOutput) -> tuple[Head, HeadOutput, Tensor]:
        return *_without_maps(head, window), maps_of(head, window)

    ((head_alone, kept, *first),) = run([image.at(0, 0)], of_first)
    if image.refit(first[0].shape[1:]):
        ((head_alone, kept, *first),) = run([image.at(0, 0)], of_first)
    cells = first[0].shape[1:]
    n_classes = kept.logits.shape[1]
    grid = image.grid(cells)
    image.cut = _may_be_cut(image, grid, run)
    if image.cut and grid.visible(0, 0) != tuple(cells):
        height, width = image.image.shape[:2]
        image.window = min(image.window[0], height), min(image.window[1], width)
        ((head_alone, kept, *first),) = run([image.at(0, 0)], of_first)
    mosaic = Mosaic(grid, [False] * n_classes + log2, kept.logits.device)
    on_disk = max(size[0] * size[1], image.image.shape[0] * image.image.shape[1]) > LARGE
    strips = StripedScorer(scorer, kept, size, grid.size, label, image.frame_id, folder if on_disk else None)

    def maps_of_row(row: int) -> Iterator[Tensor]:
        places = list(grid.places(row))
        if first:  # known, and let go of
            del places[0]
            yield first.pop()
        while places:
            some, places = places[: batch()], places[batch() :]
            for _, alike in groupby([image.at(*place) for place in some], key=lambda x: x.shape):
                yield from run(list(alike), maps_of)

    def fitting(row: int) -> Iterator[Tensor]:
        for column, maps in enumerate(maps_of_row(row)):
            expected = grid.visible(row, column) if image.cut else cells
            if maps.shape[1:] != expected:
                raise ModelError(
                    f"frame {image.frame_id!r}: the head's output is {maps.shape[1]}x{maps.shape[2]} in one window and "
                    f"{cells[0]}x{cells[1]} in another of the same size; choose another --tile"
                )
            yield maps

    back = np.argsort(order)
    for row in range(len(grid.down.starts)):
        for rows in mosaic.put(row, fitting(row)):
            with stages("score"), torch.inference_mode():
                strips.put(rows[:n_classes], rows[n_classes:][back])
    count = len(grid.down.starts) * len(grid.across.starts)
    return strips.image, head_alone, f"{count} of {image.window[0]}x{image.window[1]}"


def _may_be_cut(image: TiledImage, grid: Grid, run: Run) -> bool:
    """Whether the network takes windows that end where the image does, and gives as many logits as lie within it."""
    row, column = len(grid.down.starts) - 1, len(grid.across.starts) - 1
    expected = grid.visible(row, column)
    corner = replace(image, cut=True).at(*list(grid.places(row))[column])
    size = corner.shape[-2], corner.shape[-1]
    if size == image.window:
        return False
    known = image.inference.logits_of_cut
    if size not in known:
        known[size] = None
        if image.inference.takes(corner):
            with suppress(GraduncError):  # told of windows that are not cut, where it is not the size that is wrong
                (known[size],) = run([corner], lambda _, output: (output.logits.shape[2], output.logits.shape[3]))
    return known[size] == expected


def _without_maps(head: Head, output: HeadOutput) -> tuple[Head, HeadOutput]:
    """What is to be known of the head of every window."""
    alone = Head()
    alone.name, alone.layer, alone.align_corners = head.name, head.layer, head.align_corners
    logits = output.logits
    none = logits.new_empty((1, logits.shape[1], 0, 0))
    kept = replace(output, logits=none, features=None, tail=None, whole=None, hidden=None, queries=None, layers={})
    return alone, kept
