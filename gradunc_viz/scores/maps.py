"""All requested scores of an image in one pass.

What all of them need is united, the kernels are asked once which of them they compute, and the functions of the
registry do the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..kernels.dispatch import kernels_on
from ..kernels.threads import empty
from ..networks.tail import moved
from ..schema.errors import GraduncError, NonFiniteError
from ..schema.scores import GradientScore, Score, lookup
from .behind_head import moved_log2
from .gradients import norms_and_softmax
from .needs import ForwardPass, HeadOutput, needs_of
from .pixelwise import PixelScores, asked_of_logits, class_of, labelled, pixel_scores_from
from .resized_logits import resized_pixel_scores
from .resizing import resize_log2_norms, resize_logits

__all__ = ["ScoreOptions", "ScoredImage", "Scorer", "check_finite", "own_map", "score_maps"]


@dataclass(frozen=True)
class ScoreOptions:
    """What is computed from logits and features, and how; `align_corners` None is as the network does."""

    scores: tuple[str, ...]
    align_corners: bool | None = None
    bias: bool = False


@dataclass
class ScoredImage:
    """Maps of one image on the device they were computed on.

    Attributes
    ----------
    prediction : LongTensor (y, x)
    oriented : Tensor (S, y, x), float32
        All scores at the image's resolution, larger is more uncertain, in the order they were asked for.
    head : Tensor (S_head, v, u) or None
        Scores at the head, not oriented, likewise; None where maps were computed elsewhere.
    pixel : Tensor (S_pixel, y, x) or None
        Scores of the resized logits, likewise.
    logits : Tensor (C, v, u) or None
        Of the classes; None for maps that others computed.
    confidence, brier, nll : Tensor (y, x) or None
        Largest probability, and how far the probabilities are from the label.
    """

    prediction: Tensor
    oriented: Tensor
    head: Tensor | None = None
    pixel: Tensor | None = None
    logits: Tensor | None = None
    confidence: Tensor | None = None
    brier: Tensor | None = None
    nll: Tensor | None = None


def check_finite(tensor: Tensor, what: str, frame_id: str) -> None:
    """Check that all values of a tensor are finite.

    Raises
    ------
    NonFiniteError
        Naming the frame and how many are not.
    """
    if not tensor.numel():
        return
    # min and max propagate NaN and infinity without a mask of the tensor's size
    low, high = torch.aminmax(tensor)
    if not (torch.isfinite(low) and torch.isfinite(high)):
        bad = int((~torch.isfinite(tensor)).sum())
        raise NonFiniteError(
            f"frame {frame_id!r}: {bad} of {tensor.numel()} {what} are NaN or infinite; expected finite numbers"
        )


class Scorer:
    """Computes a set of scores, image after image; what can be decided once is decided when it is made.

    Parameters
    ----------
    scores : sequence of str
    device : torch.device
        Where logits and features will be.

    Attributes
    ----------
    scores : tuple of Score
    needs : frozenset of str
        What the scores need of a forward pass, all together.

    Raises
    ------
    UnknownScoreError
        If there is no such score, no function that computes it, or nothing that gives what it needs.
    """

    def __init__(self, scores: Sequence[str], device: torch.device | str) -> None:
        self.scores = tuple(lookup(name) for name in scores)
        self.needs = needs_of(self.scores)
        self.kernels = kernels_on(device)
        self.at_head = tuple(score for score in self.scores if score.at_head)
        self.at_pixel = tuple(score for score in self.scores if not score.at_head)
        known = self.kernels.know
        self._norms = [score for score in self.at_head if isinstance(score, GradientScore) and known(score)]
        self._softmax = tuple(score.name for score in self.at_pixel if known(score))
        # norms stand together as a rule, and are resized where they are to stand
        first = self.scores.index(self._norms[0]) if self._norms else 0
        self._together = slice(first, first + len(self._norms))
        self._in_place = self.scores[self._together] == tuple(self._norms)
        self._by_sums = {score.name for score in self._norms}

    def __call__(
        self, head: HeadOutput, size: tuple[int, int], label: np.ndarray | None = None, frame_id: str = "image"
    ) -> ScoredImage:
        """All scores of one image, at its resolution.

        Parameters
        ----------
        head : HeadOutput
            Of one image.
        size : (height, width)
            Of the image.
        label : uint8 array (y, x), or uint16 of more than 255 classes, optional
            Class ids, the largest number of the type = ignore: with it the maps tell how far probabilities are from it.
        frame_id : str
            For errors.

        Raises
        ------
        NonFiniteError
            For NaN or infinity in what is needed of logits and features.
        GraduncError
            If a score's own function fails, or returns something else than finite numbers of the expected shape.
        """
        if "features" in self.needs and head.features is not None:
            check_finite(head.features, "features", frame_id)
        check_finite(head.logits, "logits", frame_id)
        target = None if label is None else torch.from_numpy(label).to(head.logits.device, torch.long)[None]
        norms, pixel = self._by_kernels(head, size, target)
        check_finite(pixel.scores, "scores", frame_id)
        if "hidden" in self.needs:
            check_finite(norms, "gradient norms", frame_id)
        if head.threshold is not None:
            predicted = head.predicted(resize_logits(head.logits, size, head.align_corners))
            pixel.prediction = pixel.prediction if predicted is None else predicted
        found = dict(zip((*self._softmax, "msp"), pixel.scores[0], strict=False))
        found |= dict(zip((score.name for score in self._norms), norms[0], strict=True))
        if any(score.name not in found for score in self.scores):
            found |= self._by_functions(head, size, found, frame_id)
        return ScoredImage(
            prediction=pixel.prediction[0],
            head=self._stack(self.at_head, self._norms, norms[0], found, head.logits.shape[2:]),
            pixel=self._stack(self.at_pixel, self._softmax, pixel.scores[0, : len(self._softmax)], found, size),
            oriented=self._oriented(norms[0], found, size, head.align_corners),
            logits=head.logits[0],
            confidence=1 - found["msp"],
            brier=None if pixel.probability_error is None else pixel.probability_error[0],
            nll=None if pixel.nll is None else pixel.nll[0],
        )

    def _by_kernels(self, head: HeadOutput, size: tuple[int, int], label: Tensor | None) -> tuple[Tensor, PixelScores]:
        """What the kernels know, by the fewest passes: norms at the head, and scores of the resized logits."""
        requests = [score.request for score in self._norms]
        names = self._softmax if "msp" in self._softmax else (*self._softmax, "msp")  # of which the confidence is made
        if tuple(head.logits.shape[2:]) == tuple(size):
            asked, known = asked_of_logits(names, label), labelled(label, head.logits.shape[1])
            norms, found = norms_and_softmax(head, requests, asked, class_of(label, known), self.kernels)
            return norms, pixel_scores_from(found, names, known)
        norms = norms_and_softmax(head, requests, kernels=self.kernels)[0]
        return norms, resized_pixel_scores(head.logits, size, names, label, head.align_corners, self.kernels)

    def _by_functions(
        self, head: HeadOutput, size: tuple[int, int], found: dict[str, Tensor], frame_id: str
    ) -> dict[str, Tensor]:
        """What no kernel knows, by the functions of the registry."""
        run = ForwardPass(head, size)
        maps = {}
        for score in self.scores:
            if score.name in found:
                continue
            if score.at_head:
                values = own_map(score, run, run.head.logits.shape[2:], frame_id)
                if head.tail is not None:
                    move = moved_log2 if score.is_log2 else moved
                    values = move(values[None, None], head.tail.steps)[0, 0]
                maps[score.name] = values
            else:
                maps[score.name] = own_map(score, run.resized if score.of_logits else run, size, frame_id)
        return maps

    @staticmethod
    def _stack(
        scores: Sequence[Score], known: Sequence[object], block: Tensor, found: dict[str, Tensor], size: Sequence[int]
    ) -> Tensor:
        """Maps of some scores in one tensor, which is `block` where the kernels computed all of them."""
        if len(known) == len(scores):
            return block
        return torch.stack([found[score.name] for score in scores]) if scores else block.new_empty((0, *size))

    def _oriented(self, norms: Tensor, found: dict[str, Tensor], size: tuple[int, int], align_corners: bool) -> Tensor:
        """All scores at the image's resolution, larger is more uncertain."""
        shape, device = (len(self.scores), *size), found["msp"].device
        oriented = empty(shape, torch.float32) if device.type == "cpu" else torch.empty(shape, device=device)
        out = oriented[self._together] if self._in_place else None
        resized = resize_log2_norms(norms, size, align_corners, out, self.kernels)
        maps = found | dict(zip((score.name for score in self._norms), resized, strict=True))
        for score, plane in zip(self.scores, oriented, strict=True):
            values = maps[score.name]
            if score.at_head and score.name not in self._by_sums:
                resize = resize_log2_norms if score.is_log2 else resize_logits
                values = resize(values[None, None], size, align_corners)[0, 0]
            if not (self._in_place and score.name in self._by_sums):
                torch.mul(values, score.orientation, out=plane)
            elif score.orientation != 1:
                plane.mul_(score.orientation)
        return oriented


def score_maps(
    head: HeadOutput,
    size: tuple[int, int],
    scores: Sequence[str],
    label: np.ndarray | None = None,
    frame_id: str = "image",
) -> ScoredImage:
    """All scores of one image at its resolution; for many images make a `Scorer` once."""
    return Scorer(scores, head.logits.device)(head, size, label, frame_id)


def own_map(score: Score, given: ForwardPass | Tensor, size: Sequence[int], frame_id: str) -> Tensor:
    """The map of a score by its own function, (y, x) float32 of one image.

    Raises
    ------
    GraduncError
        Naming score and frame, if the function fails, or returns something else than finite numbers of the shape.
    """
    try:
        values = score.function(given)
    except GraduncError:
        raise
    except Exception as error:  # a user's function may raise anything
        text = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise GraduncError(
            f"frame {frame_id!r}: score {score.name!r} failed ({type(error).__name__}: {text})"
        ) from error
    shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
    if shape != (1, *size):
        raise GraduncError(f"frame {frame_id!r}: score {score.name!r} returned {shape}; expected {(1, *size)}")
    values = values[0].detach().float()
    low, high = torch.aminmax(values)
    if not (torch.isfinite(low) and torch.isfinite(high)):
        bad = int((~torch.isfinite(values)).sum())
        raise NonFiniteError(
            f"frame {frame_id!r}: {bad} of {values.numel()} values of score {score.name!r} are NaN or infinite"
        )
    return values
