"""All requested scores of an image in one pass.

What all of them need is united, the kernels are asked once which of them they compute, and the functions of the
registry do the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..kernels.dispatch import kernels_on
from ..kernels.resize import Band
from ..kernels.threads import empty
from ..networks.runner import out_of_memory
from ..networks.tail import moved
from ..schema.entries.passes import PassesScore
from ..schema.errors import DeviceError, GraduncError, HeadError, NonFiniteError, brief
from ..schema.scores import GradientScore, Score, lookup
from .behind_head import moved_log2
from .fit import Fit, State, states_of
from .gradients import norms_and_softmax
from .mean_norms import mean_norms
from .mean_prediction import MeanPrediction
from .needs import LAYER, ForwardPass, HeadOutput, check_passes, check_queries, needs_of
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
        Of the classes; None for maps that others computed, and for several passes: the mean of their softmax is no
        softmax of logits that could be resized.
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
    fit : Fit, optional
        What scores that need one were fitted on.

    Attributes
    ----------
    scores : tuple of Score
    needs : frozenset of str
        What the scores need of a forward pass, all together.

    Raises
    ------
    UnknownScoreError
        If there is no such score, no function that computes it, or nothing that gives what it needs.
    FitError
        If one needs a fit, and it is not in the one that is given.
    """

    def __init__(self, scores: Sequence[str], device: torch.device | str, fit: Fit | None = None) -> None:
        self.scores = tuple(lookup(name) for name in scores)
        self.needs = needs_of(self.scores)
        self._states: Mapping[str, State] = states_of(self.scores, fit)
        self._source = "head"
        if fit is not None and self._states:
            self._states, self._source = fit.on(device).states, fit.source
            if self._source.startswith(LAYER):
                others = needs_of(score for score in self.scores if score.name not in self._states)
                self.needs = (self.needs - {"features"}) | others | {self._source}
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
        self._statistics = [score.statistic for score in self.at_pixel if isinstance(score, PassesScore)]

    def __call__(
        self, head: HeadOutput, size: tuple[int, int], label: np.ndarray | None = None, frame_id: str = "image"
    ) -> ScoredImage:
        """All scores of one image, at its resolution.

        Parameters
        ----------
        head : HeadOutput
            Of one image; of several passes over it all maps are of the mean prediction.
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
        check_queries(self.scores, head)
        check_passes(self.scores, head.kind or None, input_grad=head.rerun is not None)
        self._check_finite(head, frame_id)
        target = None if label is None else torch.from_numpy(label).to(head.logits.device, torch.long)[None]
        mean = MeanPrediction(head.passes, size, self.kernels) if head.passes else None
        run = ForwardPass(head, size, self._source, mean)
        norms, pixel = self._by_kernels(head, size, target) if run.mean is None else self._of_mean(run.mean, target)
        check_finite(pixel.scores, "scores", frame_id)
        if "hidden" in self.needs:
            check_finite(norms, "gradient norms", frame_id)
        if head.threshold is not None:
            predicted = head.predicted(run.resized)
            pixel.prediction = pixel.prediction if predicted is None else predicted
        found = dict(zip((*self._softmax, "msp"), pixel.scores[0], strict=False))
        found |= dict(zip((score.name for score in self._norms), norms[0], strict=True))
        if any(score.name not in found for score in self.scores):
            found |= self._by_functions(run, self.scores, size, found, frame_id)
        return ScoredImage(
            prediction=pixel.prediction[0],
            head=self._stack(self.at_head, self._norms, norms[0], found, head.logits.shape[2:]),
            pixel=self._stack(self.at_pixel, self._softmax, pixel.scores[0, : len(self._softmax)], found, size),
            oriented=self._oriented(norms[0], found, size, head.align_corners),
            logits=None if head.passes else head.logits[0],
            confidence=1 - found["msp"],
            brier=None if pixel.probability_error is None else pixel.probability_error[0],
            nll=None if pixel.nll is None else pixel.nll[0],
        )

    def at_the_head(self, head: HeadOutput, frame_id: str = "image") -> Tensor:
        """The scores at the head alone, (S_head, v, u), of an image or a window of one.

        Raises
        ------
        GraduncError
            As of a call.
        """
        check_queries(self.scores, head)
        self._check_finite(head, frame_id)
        norms, _ = norms_and_softmax(head, [score.request for score in self._norms], kernels=self.kernels)
        if "hidden" in self.needs:
            check_finite(norms, "gradient norms", frame_id)
        found = dict(zip((score.name for score in self._norms), norms[0], strict=True))
        size = (head.logits.shape[2], head.logits.shape[3])
        found |= self._by_functions(ForwardPass(head, size, self._source), self.at_head, size, found, frame_id)
        return self._stack(self.at_head, self._norms, norms[0], found, size)

    def of_band(
        self, head: HeadOutput, size: tuple[int, int], band: Band, label: np.ndarray | None, frame_id: str = "image"
    ) -> PixelScores:
        """The scores of resized logits, of some lines of an image.

        Parameters
        ----------
        head : HeadOutput
            Whose logits are those rows that the lines are made of; nothing else of it is read.
        size : (height, width)
            Of the whole image.
        band : Band
        label : array (lines, x), optional

        Returns
        -------
        PixelScores
            Whose last score is that of the softmax, whether or not it was asked for.

        Raises
        ------
        GraduncError
            As of a call; also if a score of a pixel depends on other lines than its own.
        """
        target = None if label is None else torch.from_numpy(label).to(head.logits.device, torch.long)[None]
        names = tuple(dict.fromkeys((*self._softmax, "msp")))
        pixel = resized_pixel_scores(head.logits, size, names, target, head.align_corners, self.kernels, band)
        check_finite(pixel.scores, "scores", frame_id)
        found = dict(zip(names, pixel.scores[0], strict=True))
        own = [score for score in self.at_pixel if score.name not in self._softmax]
        if own or head.threshold is not None:
            lines = replace(head, logits=resize_logits(head.logits, size, head.align_corners, band))
            predicted = head.predicted(lines.logits)
            pixel.prediction = pixel.prediction if predicted is None else predicted
        if own:
            found |= self._of_lines(own, lines, frame_id)
            if band.lines != slice(0, size[0]):
                self._check_pixelwise(own, lines, found, frame_id)
        pixel.scores = torch.stack([*(found[score.name] for score in self.at_pixel), found["msp"]])[None]
        return pixel

    def _of_lines(self, scores: Sequence[Score], lines: HeadOutput, frame_id: str) -> dict[str, Tensor]:
        size = (lines.logits.shape[2], lines.logits.shape[3])
        return self._by_functions(ForwardPass(lines, size), scores, size, {}, frame_id)

    def _check_pixelwise(
        self, scores: Sequence[Score], lines: HeadOutput, found: Mapping[str, Tensor], frame_id: str
    ) -> None:
        """Check that scores of some lines are what they would be beside others."""
        half = max(1, lines.logits.shape[2] // 2)
        part = self._of_lines(scores, replace(lines, logits=lines.logits[:, :, :half]), frame_id)
        for score in scores:
            whole = found[score.name][:half]
            if bool(((whole - part[score.name]).abs() > _SLACK * (1 + whole.abs().amax())).any()):
                raise GraduncError(
                    f"frame {frame_id!r}: score {score.name!r} of a pixel depends on logits of others, and an image as "
                    "large as this one is scored in strips: leave the score out, or give the network a smaller image "
                    "(--input-size)"
                )

    def _check_finite(self, head: HeadOutput, frame_id: str) -> None:
        """Check what the scores are made of."""
        for one in head.passes or (head,):
            if "features" in self.needs and one.features is not None:
                check_finite(one.features, "features", frame_id)
            for name, values in one.layers.items():
                check_finite(values, f"values of layer {name!r}", frame_id)
            check_finite(one.logits, "logits", frame_id)

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

    def _of_mean(self, mean: MeanPrediction, label: Tensor | None) -> tuple[Tensor, PixelScores]:
        """The same of the mean prediction of several passes."""
        names = self._softmax if "msp" in self._softmax else (*self._softmax, "msp")
        known = labelled(label, mean.passes[0].logits.shape[1])
        own = [score for score in self.at_pixel if score.of_logits and score.name not in self._softmax]
        more = (*self._statistics, *(("logits",) if own else ()))
        mean.sweep((*asked_of_logits(names, label), *more), class_of(label, known))
        try:
            norms = mean_norms(mean.passes, [(score.request.label, score.request.p) for score in self._norms])
        except HeadError as error:
            raise HeadError(f"score {self._norms[0].name!r}: {error}") from error
        return norms, pixel_scores_from(mean.maps, names, known)

    def _by_functions(
        self,
        run: ForwardPass,
        scores: Sequence[Score],
        size: tuple[int, int],
        found: dict[str, Tensor],
        frame_id: str,
    ) -> dict[str, Tensor]:
        """What no kernel knows of some scores, by the functions of the registry."""
        head, maps = run.output, {}
        for score in scores:
            if score.name in found:
                continue
            if score.at_head:
                values = own_map(score, run, run.head.logits.shape[2:], frame_id, self._states.get(score.name))
                if head.tail is not None:
                    move = moved_log2 if score.is_log2 else moved
                    values = move(values[None, None], head.tail.steps)[0, 0]
                maps[score.name] = values
            else:
                given = run.resized if score.of_logits else run
                maps[score.name] = own_map(score, given, size, frame_id, self._states.get(score.name))
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


def own_map(
    score: Score, given: ForwardPass | Tensor, size: Sequence[int], frame_id: str, state: State | None = None
) -> Tensor:
    """The map of a score by its own function, (y, x) float32 of one image; `state` is what it was fitted on.

    It lies where what the function was given lies.

    Raises
    ------
    GraduncError
        Naming score and frame, if the function fails, changes what it was given, or returns something else than finite
        real numbers of the shape, or numbers beyond what the score says of itself.
    """
    logits = given if isinstance(given, Tensor) else given.output.logits
    values = _returned(score, given, logits.device, frame_id, state)
    where = f"frame {frame_id!r}: score {score.name!r}"
    shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
    if shape != (1, *size):
        raise GraduncError(f"{where} returned {shape}; expected {(1, *size)}")
    if values.is_complex() or values.is_quantized or values.layout != torch.strided or values.is_meta:
        kind = "a meta tensor" if values.is_meta else f"{values.dtype} numbers, {values.layout}"
        raise GraduncError(f"{where} returned {kind}; expected a dense tensor of real numbers")
    wide = values[0].detach()
    values = wide.to(logits.device, torch.float32)
    if not values.numel():
        return values
    low, high = (float(end) for end in torch.aminmax(values))
    if not (math.isfinite(low) and math.isfinite(high)):
        bad = ~torch.isfinite(values)
        y, x = bad.nonzero()[0].tolist()
        raise NonFiniteError(
            f"frame {frame_id!r}: {int(bad.sum())} of {values.numel()} values of score {score.name!r} are NaN or "
            f"infinite as float32, such as {wide[y, x].item()} at y = {y}, x = {x}"
        )
    if score.upper:
        top = 1.0 if score.upper == "1" else math.log(max(logits.shape[1], 2))
        if low < -_SLACK or high > top * (1 + _SLACK):
            raise GraduncError(
                f"{where} returned values from {low:.6g} to {high:.6g}; expected 0 to {top:.6g}, as it has "
                f"upper={score.upper!r}"
            )
    return values


_SLACK = 1e-3
"""Share of its largest value by which rounding may carry a score beyond its ends."""


def _returned(
    score: Score, given: ForwardPass | Tensor, device: torch.device, frame_id: str, state: State | None
) -> Any:
    """What a score's function returns; other scores are made of the same tensors, which it has to leave as they are."""
    handed: list[Tensor | None] = (
        [given]
        if isinstance(given, Tensor)
        else [given.output.logits, given.output.features, *given.output.layers.values()]
    )
    shared = [tensor for tensor in handed if tensor is not None and not tensor.is_inference()]
    versions = [tensor._version for tensor in shared]
    built_in = isinstance(score.compute, str) and score.compute.startswith("gradunc_viz.")
    # tensors of inference mode cannot be changed outside of it
    mode = nullcontext() if built_in else torch.inference_mode(False)
    try:
        with out_of_memory(f"score {score.name!r} of frame {frame_id!r}", device), mode, torch.no_grad():
            function: Callable[..., Any] = score.function
            values = function(given) if state is None else function(given, state)
    except (Exception, SystemExit) as error:  # a user's function may raise anything
        if isinstance(error, DeviceError) or (isinstance(error, GraduncError) and built_in):
            raise
        raise GraduncError(f"frame {frame_id!r}: score {score.name!r} failed ({brief(error)})") from error
    if versions != [tensor._version for tensor in shared]:
        raise GraduncError(
            f"frame {frame_id!r}: score {score.name!r} changed the logits or features in place; expected a function "
            "that leaves them as they are"
        )
    return values
