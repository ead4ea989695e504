"""The mean of several passes' softmax at the image's size, and how far the passes are from it.

Each pass's logits are resized to the image, mirrored back where the image was, and given to a softmax; the run's
prediction and every score of the softmax family are of the mean p of these. Its logarithm takes the place of logits:
softmax(ln p) = p. All of it is computed a few rows at a time, so that no more than these are in memory of every pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..kernels.dispatch import Kernels, kernels_on
from .resized_logits import row_resizer
from .softmax import softmax_scores

if TYPE_CHECKING:
    from .needs import ForwardPass, HeadOutput

__all__ = ["STATISTICS", "MeanPrediction", "of_passes"]

STATISTICS = ("entropy", "expected_entropy", "mutual_information", "msp", "variance", "variation_ratio")
"""What `MeanPrediction` tells of several passes."""

_TILE = 1 << 19  # logits of all passes in a tile: a few float32 copies of it stay in a core's cache


def of_passes(run: ForwardPass, statistic: str) -> Tensor:
    """One of `STATISTICS` of a forward pass that joins several, (1, y, x): what its entry in the registry names."""
    assert run.mean is not None
    return run.mean[statistic]


class MeanPrediction:
    """Maps of the mean prediction of several passes over one image; each is computed once.

    Parameters
    ----------
    passes : sequence of HeadOutput
        Of one image, with the logits of the same classes.
    size : (height, width)
        Of the image.
    kernels : Kernels, optional
        Chosen by whoever scores many images; by default those of the device.
    """

    def __init__(self, passes: Sequence[HeadOutput], size: Sequence[int], kernels: Kernels | None = None) -> None:
        self.passes, self.size = tuple(passes), (int(size[0]), int(size[1]))
        self.device = passes[0].logits.device
        self.kernels = kernels or kernels_on(self.device)
        self.maps: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        """One map, see `sweep`."""
        if name not in self.maps:
            self.sweep([name])
        return self.maps[name]

    def sweep(self, names: Iterable[str], label: Tensor | None = None) -> None:
        """Go through the passes once for some maps.

        Parameters
        ----------
        names : iterable of str
            Of `STATISTICS`; what `gradunc_viz.scores.softmax.softmax_scores` knows, of the mean; or ``"logits"``, the
            logarithm of the mean, (1, C, y, x).
        label : LongTensor (1, y, x), optional
            Class ids, for the scores that need them.
        """
        wanted = [name for name in dict.fromkeys(names) if name not in self.maps]
        found: dict[str, list[Tensor]] = {name: [] for name in wanted}
        wide = any(one.logits.dtype == torch.float64 for one in self.passes)
        dtype = torch.float64 if wide else torch.float32
        rows_of = [row_resizer(one.logits.to(dtype), self.size, one.align_corners) for one in self.passes]
        n_passes, n_classes = len(self.passes), self.passes[0].logits.shape[1]
        height, width = self.size
        step = max(1, _TILE // (n_passes * n_classes * width)) if self.device.type == "cpu" else height
        logits = torch.empty((n_passes, n_classes, min(step, height), width), dtype=dtype, device=self.device)
        for start in range(0, height, step):
            rows = slice(start, min(start + step, height))
            tile = logits[:, :, : rows.stop - start]
            for part, resized, one in zip(tile, rows_of, self.passes, strict=True):
                given = resized(0, rows)
                part.copy_(given.flip(-1) if one.mirrored else given)
            truth = None if label is None else label[:, rows]
            for name, values in _tile_maps(tile, self.passes[0], wanted, truth, self.kernels).items():
                found[name].append(values)
        self.maps |= {name: torch.cat(tiles, -2) for name, tiles in found.items()}


def _tile_maps(
    logits: Tensor, first: HeadOutput, wanted: Sequence[str], label: Tensor | None, kernels: Kernels
) -> dict[str, Tensor]:
    """Maps of some rows, (1, rows, x), from the logits (M, C, rows, x) of all passes, which are overwritten."""
    maps: dict[str, Tensor] = {}
    n_passes = len(logits)
    if "variation_ratio" in wanted:
        predicted = first.predicted(logits)
        predicted = logits.argmax(1) if predicted is None else predicted
        votes = torch.zeros_like(logits[0]).scatter_add_(0, predicted, torch.ones_like(logits[:, 0]))
        maps["variation_ratio"] = 1 - votes.amax(0, keepdim=True).div_(n_passes)
    top = logits.amax(1, keepdim=True)
    shifted = logits.sub_(top)
    p = shifted.exp()
    total = p.sum(1, keepdim=True)
    if {"expected_entropy", "mutual_information"} & set(wanted):
        # H = ln Z - sum_c e_c s_c / Z with s = phi - max
        entropies = total.log() - shifted.mul_(p).sum(1, keepdim=True).div_(total)
        expected = entropies.mean(0).clamp_min_(0)
    p.div_(total)
    mean = p.mean(0, keepdim=True)
    if "variance" in wanted:
        # about the mean: a variance that is small beside the square of the mean keeps its digits
        maps["variance"] = p.sub_(mean).square_().sum((0, 1)).div_(n_passes)[None]
    log_mean = mean.clamp_min_(torch.finfo(mean.dtype).tiny).log_()
    if "logits" in wanted:
        maps["logits"] = log_mean
    known = [name for name in wanted if name not in maps and name not in ("expected_entropy", "mutual_information")]
    if "mutual_information" in wanted and "entropy" not in known:
        known.append("entropy")
    maps |= softmax_scores(log_mean, known, label, kernels)
    if "expected_entropy" in wanted:
        maps["expected_entropy"] = expected
    if "mutual_information" in wanted:
        maps["mutual_information"] = (maps["entropy"] - expected).clamp_min_(0)
    return {name: maps[name] for name in wanted}
