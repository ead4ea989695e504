"""The mean of several passes' softmax at the image's size, and how far the passes are from it.

Each pass's logits are resized to the image, mirrored back where the image was, and given to a softmax; the run's
prediction and every score of the softmax family are of the mean p of these. Its logarithm takes the place of logits:
softmax(ln p) = p. All of it is computed a few rows at a time, so that no more than these are in memory of every pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..kernels.dispatch import Kernels, kernels_on
from .resizing import row_resizer
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
        wide = any(one.logits.dtype == torch.float64 for one in self.passes)
        dtype = torch.float64 if wide else torch.float32
        logits = [one.logits.to(dtype) for one in self.passes]
        own_threshold = self.passes[0].threshold is not None and "variation_ratio" in wanted
        fast = None if own_threshold else self.kernels.passes_of(*logits)
        if fast is not None:
            given = [one.flip(-1) if of.mirrored else one for one, of in zip(logits, self.passes, strict=True)]
            corners = [one.align_corners for one in self.passes]
            found = _Found(*fast.mean_softmax(given, self.size, corners))
            self.maps |= found.maps(wanted, label, self.kernels)
            return
        tiles: dict[str, list[Tensor]] = {name: [] for name in wanted}
        rows_of = [row_resizer(one, self.size, of.align_corners) for one, of in zip(logits, self.passes, strict=True)]
        n_passes, n_classes, (height, width) = len(logits), logits[0].shape[1], self.size
        step = max(1, _TILE // (n_passes * n_classes * width)) if self.device.type == "cpu" else height
        room = torch.empty((n_passes, n_classes, min(step, height), width), dtype=dtype, device=self.device)
        for start in range(0, height, step):
            rows = slice(start, min(start + step, height))
            tile = room[:, :, : rows.stop - start]
            for part, resized, one in zip(tile, rows_of, self.passes, strict=True):
                some = resized(0, rows)
                part.copy_(some.flip(-1) if one.mirrored else some)
            truth = None if label is None else label[:, rows]
            for name, values in _mean_of(tile, self.passes[0]).maps(wanted, truth, self.kernels).items():
                tiles[name].append(values)
        self.maps |= {name: torch.cat(some, -2) for name, some in tiles.items()}


@dataclass
class _Found:
    """What was found of several passes.

    Attributes
    ----------
    logits : Tensor (1, C, y, x)
        ln of the mean.
    expected_entropy, variance : Tensor (1, y, x)
    predictions : integer Tensor (M, y, x)
        Of each pass.
    """

    logits: Tensor
    expected_entropy: Tensor
    variance: Tensor
    predictions: Tensor

    def maps(self, wanted: Sequence[str], label: Tensor | None, kernels: Kernels) -> dict[str, Tensor]:
        """Some maps, as of `MeanPrediction.sweep`."""
        maps = {
            "logits": self.logits,
            "expected_entropy": self.expected_entropy,
            "variance": self.variance,
        }
        known = [name for name in wanted if name not in (*maps, "mutual_information", "variation_ratio")]
        if "mutual_information" in wanted and "entropy" not in known:
            known.append("entropy")
        maps |= softmax_scores(self.logits, known, label, kernels)
        if "mutual_information" in wanted:
            maps["mutual_information"] = (maps["entropy"] - self.expected_entropy).clamp_min_(0)
        if "variation_ratio" in wanted:
            maps["variation_ratio"] = 1 - _agreeing(self.predictions).to(self.logits.dtype) / len(self.predictions)
        return {name: maps[name] for name in wanted}


def _agreeing(predictions: Tensor) -> Tensor:
    """How many of (M, y, x) predictions are the most frequent one, (1, y, x)."""
    most = torch.ones_like(predictions[:1])
    for number in range(len(predictions) - 1):  # those before it were counted with an earlier one
        alike = (predictions[number + 1 :] == predictions[number]).sum(0, keepdim=True, dtype=most.dtype)
        most = torch.maximum(most, alike.add_(1))
    return most


def _mean_of(logits: Tensor, first: HeadOutput) -> _Found:
    """The mean over passes of the softmax of logits (M, C, y, x), which are overwritten."""
    predictions = logits.argmax(1)
    predicted = first.predicted(logits)
    shifted = logits.sub_(logits.amax(1, keepdim=True))
    p = shifted.exp()
    # exp(phi - max) of the prediction is 1; the others are summed without it
    others = p.scatter(1, predictions[:, None], 0.0).sum(1, keepdim=True)
    total = others + 1
    # H = ln Z - sum_c e_c s_c / Z with s = phi - max
    entropies = others.log1p() - shifted.mul_(p).sum(1, keepdim=True).div_(total)
    p.div_(total)
    mean = p.mean(0, keepdim=True)
    # about the mean: a variance that is small beside the square of the mean keeps its digits
    variance = p.sub_(mean).square_().sum((0, 1)).div_(len(p))[None]
    log_mean = mean.clamp_min_(torch.finfo(mean.dtype).tiny).log_()
    expected = entropies.mean(0).clamp_min_(0)
    return _Found(log_mean, expected, variance, predictions if predicted is None else predicted)
