"""All requested scores of an image in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..kernels.threads import empty
from ..schema.errors import NonFiniteError
from ..schema.frame import IGNORE
from ..schema.scores import lookup
from .pixelwise import PixelScores, head_scores, pixel_scores, same_size_scores, split_scores
from .resized_logits import resized_pixel_scores
from .resizing import resize_log2_norms

__all__ = ["ScoreOptions", "check_finite", "image_scores", "score_maps"]


def image_scores(
    logits: Tensor,
    features: Tensor | None,
    layer: nn.Module,
    at_head: Sequence[str],
    at_pixel: Sequence[str],
    size: tuple[int, int],
    label: Tensor | None = None,
    *,
    align_corners: bool = False,
    bias: bool = False,
    channels: Tensor | None = None,
) -> tuple[Tensor, PixelScores]:
    """Scores at the head's resolution and those of the resized logits, each by the fewest passes.

    Parameters
    ----------
    logits, features, layer
        Output and input of the head, and the head.
    at_head, at_pixel : sequence of str
        Names of scores as `gradunc_viz.scores.pixelwise.split_scores` returns them.
    size : (height, width)
        Of the image.
    label, align_corners
        As for `resized_pixel_scores`.
    bias, channels
        As for `gradunc_viz.scores.gradients.gradient_norms`.

    Returns
    -------
    Tensor (N, len(at_head), h, w), PixelScores
    """
    same_size = tuple(logits.shape[2:]) == tuple(size)
    if features is None or not at_head:
        norms = logits.new_empty((len(logits), 0, *logits.shape[2:]))
        if same_size:
            return norms, pixel_scores(logits, at_pixel, label, IGNORE)
        return norms, resized_pixel_scores(logits, size, at_pixel, label, align_corners)
    if same_size:
        return same_size_scores(logits, features, layer, at_head, at_pixel, label, IGNORE, bias=bias, channels=channels)
    norms = head_scores(logits, features, layer, at_head, bias=bias, channels=channels)
    return norms, resized_pixel_scores(logits, size, at_pixel, label, align_corners)


@dataclass(frozen=True)
class ScoreOptions:
    """What is computed from logits and features, and how; `align_corners` None is as the network does."""

    scores: tuple[str, ...]
    align_corners: bool | None = None
    bias: bool = False


@dataclass
class ScoredImage:
    """Maps of one image on the device they were computed on."""

    logits: Tensor | None  # (C, v, u) without the channels that are no class; None for maps that others computed
    norms: Tensor  # (S_head, v, u) log2, not oriented
    prediction: Tensor  # (y, x)
    pixel: Tensor  # (S_pixel, y, x) not oriented
    oriented: Tensor  # (S, y, x) in the order of the options
    confidence: Tensor | None  # (y, x)
    brier: Tensor | None
    nll: Tensor | None


def _check_finite(tensor: Tensor, what: str, frame_id: str) -> None:
    # min and max propagate NaN and infinity without a mask of the tensor's size
    low, high = torch.aminmax(tensor)
    if not (torch.isfinite(low) and torch.isfinite(high)):
        bad = int((~torch.isfinite(tensor)).sum())
        raise NonFiniteError(
            f"frame {frame_id!r}: {bad} of {tensor.numel()} {what} are NaN or infinite; expected finite numbers"
        )


def _channels(logits: Tensor, channels: Tensor) -> Tensor:
    """Pick channels; neighbours without a copy."""
    first, count = int(channels[0]), len(channels)
    if torch.equal(channels.cpu(), torch.arange(first, first + count)):
        return logits[:, first : first + count]
    return logits.index_select(1, channels.to(logits.device))


def score_maps(
    logits: Tensor,
    features: Tensor | None,
    layer: nn.Module,
    size: tuple[int, int],
    options: ScoreOptions,
    *,
    channels: Tensor | None = None,
    label: np.ndarray | None = None,
    frame_id: str = "image",
) -> ScoredImage:
    """All scores of one image at the image's resolution.

    Parameters
    ----------
    logits, features : Tensor (1, C, v, u), (1, D, v', u')
        Output and input of the head `layer`; no features are needed where no score is one of the head.
    size : (height, width)
        Size of the image.
    channels : LongTensor, optional
        Output channels that are classes, where some are not.

    Raises
    ------
    NonFiniteError
        For NaN or infinity in logits or features.
    """
    if features is not None and any(lookup(name).at_head for name in options.scores):
        _check_finite(features, "features", frame_id)
    if channels is not None:
        logits = _channels(logits, channels)
    _check_finite(logits, "logits", frame_id)
    at_head, at_pixel = split_scores(options.scores)
    align = bool(options.align_corners)
    names = at_pixel if "msp" in at_pixel else (*at_pixel, "msp")
    target = None if label is None else torch.from_numpy(label).to(logits.device, torch.long)[None]
    head, found = image_scores(
        logits, features, layer, at_head, names, size, target, align_corners=align, bias=options.bias, channels=channels
    )
    norms = head[0]
    shape, device = (len(options.scores), *size), found.scores.device
    oriented = empty(shape, torch.float32) if device.type == "cpu" else torch.empty(shape, device=device)
    # norms stand together as a rule, and are resized where they are to stand
    first = options.scores.index(at_head[0]) if at_head else 0
    in_place = options.scores[first : first + len(at_head)] == at_head
    resized = resize_log2_norms(norms, size, align, oriented[first : first + len(at_head)] if in_place else None)
    maps = dict(zip(at_head, resized, strict=True)) | dict(zip(names, found.scores[0], strict=True))
    _check_finite(found.scores, "scores", frame_id)
    for name, plane in zip(options.scores, oriented, strict=True):
        orientation = lookup(name).orientation
        if not (in_place and name in at_head):
            torch.mul(maps[name], orientation, out=plane)
        elif orientation != 1:
            plane.mul_(orientation)
    return ScoredImage(
        logits=logits[0],
        norms=norms,
        prediction=found.prediction[0],
        pixel=found.scores[0, : len(at_pixel)],
        oriented=oriented,
        confidence=1 - maps["msp"],
        brier=None if found.probability_error is None else found.probability_error[0],
        nll=None if found.nll is None else found.nll[0],
    )


def check_finite(tensor: Tensor, what: str, frame: str) -> Tensor:
    """Return `tensor` if all its values are finite.

    Parameters
    ----------
    tensor
        Logits or features.
    what, frame
        What it is and which frame it belongs to, for the error.

    Raises
    ------
    NonFiniteError
        Naming the frame and how many values are NaN or infinite.
    """
    # The extremes are NaN if any value is, and need no memory; counting is left for where something is wrong.
    if tensor.numel() and not all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(tensor)):
        bad = tensor.numel() - int(torch.isfinite(tensor).sum())
        raise NonFiniteError(f"frame {frame!r}: {bad} of {tensor.numel()} values of the {what} are NaN or infinite")
    return tensor
