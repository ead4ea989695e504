"""Pixels drawn from a frame, for scores to be fitted on."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

from ..networks.tail import moved
from ..schema.frame import ignored
from .maps import check_finite
from .needs import LAYER, ForwardPass

__all__ = ["FramePixels", "draw_pixels", "random_of"]


@dataclass(frozen=True, eq=False)
class FramePixels:
    """Pixels of one frame, on the CPU: see `gradunc_viz.scores.fitted.DrawnPixels`."""

    frame_id: str
    features: Tensor
    logits: Tensor
    prediction: Tensor
    label: Tensor


def draw_pixels(
    run: ForwardPass,
    count: int,
    seed: int,
    frame_id: str,
    label: np.ndarray | None = None,
    anomaly: np.ndarray | None = None,
    *,
    with_features: bool = True,
) -> FramePixels:
    """Draw pixels of the network's logits, each as likely as any other, none twice.

    Parameters
    ----------
    run : ForwardPass
        Of one image.
    count : int
        How many; all where there are not as many.
    seed : int
        Together with the frame's id it tells which, whatever else is drawn from.
    frame_id : str
    label : array (y, x), optional
        Class ids, the largest number of the type = ignore: such pixels are left out.
    anomaly : uint8 array (y, x), optional
        Where unknown objects are: only pixels that are known, 0, are drawn.
    with_features : bool
        If not, there are none, (n, 0).

    Returns
    -------
    FramePixels
        The features of a pixel are those at the nearest place of their own grid. They are not mixed, except where the
        network itself resizes behind its head, nor are labels.

    Raises
    ------
    NonFiniteError
        For NaN or infinity in features or logits.
    """
    logits, output = run.output.logits, run.output
    features = run.features if with_features else logits[:, :0]
    if with_features and output.tail is not None and not run.source.startswith(LAYER):
        features = moved(features, output.tail.steps)
    check_finite(features, "features", frame_id)
    check_finite(logits, "logits", frame_id)
    size = (logits.shape[2], logits.shape[3])
    masks = {"label": label, "anomaly": anomaly}
    at_logits = {name: _nearest(mask, size) for name, mask in masks.items() if mask is not None}
    known = np.ones(size, bool)
    if "label" in at_logits:
        known &= ~ignored(at_logits["label"])
    if "anomaly" in at_logits:
        known &= at_logits["anomaly"] == 0
    places = np.flatnonzero(known)
    places = random_of(seed, frame_id).choice(places, min(count, len(places)), replace=False)
    y, x = np.divmod(places, size[1])
    rows, columns = ((part * own) // whole for part, own, whole in zip((y, x), features.shape[2:], size, strict=True))
    on = logits.device
    own_logits = logits[0][:, torch.from_numpy(y).to(on), torch.from_numpy(x).to(on)].T.float()
    own_features = features[0][:, torch.from_numpy(rows).to(on), torch.from_numpy(columns).to(on)].T.float()
    predicted = output.predicted(own_logits.T[None, :, None])
    prediction = own_logits.argmax(1) if predicted is None else predicted.flatten()
    labels = np.full(len(places), -1) if label is None else at_logits["label"][y, x].astype("i8")
    return FramePixels(
        frame_id, own_features.cpu(), own_logits.cpu(), prediction.cpu(), torch.from_numpy(labels.astype("i8"))
    )


def random_of(seed: int, frame_id: str) -> np.random.Generator:
    """Random numbers of a frame, the same whatever other frames there are."""
    digest = blake2b(f"{seed} {frame_id}".encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def _nearest(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask at the places of a grid that covers the same."""
    rows, columns = (((np.arange(n) + 0.5) * whole / n).astype(int) for n, whole in zip(size, mask.shape, strict=True))
    return mask[rows[:, None], columns]
