"""What a score may ask of a network's forward pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from ..datasets.conventions import some
from ..networks.network import Network
from ..networks.queries import Queries
from ..networks.second_last import Hidden
from ..networks.tail import Resize, Tail, moved
from ..schema.entries.passes import KINDS, kind_needed
from ..schema.errors import HeadError, ModelError, UnknownScoreError
from ..schema.scores import GradientNorm, GradientScore, NormRequest, Score
from .resized_logits import resized_pixel_scores
from .resizing import resize_logits

if TYPE_CHECKING:
    from .mean_prediction import MeanPrediction

__all__ = [
    "LAYER",
    "NEEDS",
    "ForwardPass",
    "HeadOutput",
    "Rerun",
    "check_channels",
    "check_features",
    "check_passes",
    "check_queries",
    "needs_of",
    "refuse_for_queries",
]

NEEDS: Mapping[str, str] = {
    "logits": "what left the head, of the classes",
    "features": "what entered the head",
    "hidden": "what entered the convolution before the head, and the derivative of what stands between the two",
    "void": "what left the head in channels that are no class",
    "queries": "classes and masks of queries, whose scores S the logits are then",
    "fit": "what the score itself was fitted on, see `gradunc_viz.scores.fitted`",
    "input_grad": "derivatives by the network's input, and another pass on a changed one",
    **{f"passes:{kind}": f"several passes: {text}" for kind, text in KINDS.items()},
}
"""What a score may ask of a forward pass, and what that is; besides, ``layer:NAME``, the output of a layer."""

LAYER = "layer:"
"""Begins the need of the output of a layer that is not the head."""


class Rerun(Protocol):
    """The input of a network, and what lets it be changed.

    Attributes
    ----------
    input : Tensor (1, channels, h, w)
        As the network was given it: normalised, where it is.
    """

    @property
    def input(self) -> Tensor: ...  # noqa: D102

    def output(self, x: Tensor) -> HeadOutput:
        """What enters and leaves the head for another input."""
        ...

    def gradient(self, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """Derivative by the input of a number that is made of the network's own logits, of the classes."""
        ...


@dataclass(frozen=True)
class HeadOutput:
    """What entered and left the last layer of a network, for a batch of images.

    Attributes
    ----------
    logits : Tensor (N, C, h, w)
        Of the classes, channels that are none left out.
    features : Tensor (N, D, h', w') or None
        None where nobody needs them.
    layer : nn.Module
        The head. Its weights are not read.
    channels : LongTensor (C,) or None
        Which of the layer's output channels the logits are, where some were left out.
    align_corners : bool
        How logits are resized to the image.
    bias : bool
        Whether gradients are with respect to the layer's bias too.
    tail : Tail or None
        What makes the logits of the output of one or several heads, where it is more than resizing; `layer` and
        `features` are then those of the first.
    threshold : float or None
        Of two classes, made of one logit: probability from which on the second is predicted; None: the larger one.
    whole : HeadOutput or None
        The same of all channels, where some were left out.
    hidden : Hidden or None
        The layer before the head, where a score needs it.
    layers : mapping of str to Tensor (N, D, h, w)
        Outputs of other layers that a score asks for, by their dotted names.
    passes : tuple of HeadOutput
        Those of all passes, where there are several: everything else is then that of the first.
    kind : str
        What these passes are, see `gradunc_viz.schema.entries.passes.KINDS`.
    mirrored : bool
        Whether the image was mirrored, left to right: maps are to be mirrored back.
    rerun : Rerun or None
        Lets a score run the network on a changed input; None where nobody needs it.
    queries : Queries or None
        Of a query model, whose class scores S the logits are, and whose pixel embeddings are the features.
    """

    logits: Tensor
    features: Tensor | None
    layer: nn.Module
    channels: Tensor | None = None
    align_corners: bool = False
    bias: bool = False
    tail: Tail | None = None
    threshold: float | None = None
    whole: HeadOutput | None = None
    hidden: Hidden | None = None
    layers: Mapping[str, Tensor] = field(default_factory=dict)
    passes: tuple[HeadOutput, ...] = ()
    kind: str = ""
    mirrored: bool = False
    rerun: Rerun | None = None
    queries: Queries | None = None

    def predicted(self, logits: Tensor) -> Tensor | None:
        """Class of each pixel (N, h, w) where that is not simply the one of the largest logit."""
        if self.threshold is None:
            return None
        return (logits[:, 1] - logits[:, 0] > math.log(self.threshold / (1 - self.threshold))).long()

    def only(self, channels: Tensor | None) -> HeadOutput:
        """The same of some output channels of the layer; neighbours without a copy."""
        if channels is None:
            return self
        first, count = int(channels[0]), len(channels)
        if torch.equal(channels.cpu(), torch.arange(first, first + count)):
            logits = self.logits[:, first : first + count]
        else:
            logits = self.logits.index_select(1, channels.to(self.logits.device))
        tail = None if self.tail is None else self.tail.only(channels)
        queries = None if self.queries is None else self.queries.only(channels)
        return replace(self, logits=logits, channels=channels, tail=tail, whole=self, queries=queries)

    def on_grid(self) -> HeadOutput:
        """The same where the tail's logits are computed, features too: what a function of both is handed.

        Raises
        ------
        HeadError
            If there is more than one head.
        """
        if self.tail is None:
            return self
        source, *others = self.tail.sources
        if others:
            names = ", ".join(repr(one.name) for one in (source, *others))
            raise HeadError(f"the network's logits are made by several heads, {names}: name one of them as head")
        features = None if self.features is None else moved(source.features, source.steps)
        return replace(self, logits=self.tail.logits(), features=features, tail=None, hidden=None)

    def image(self, index: int) -> HeadOutput:
        """The same of one image of the batch."""
        if self.tail is not None:
            if len(self.logits) > 1:
                raise HeadError(
                    "what stands behind the head is replayed for one image at a time; expected a batch of 1"
                )
            return self
        some = slice(index, index + 1)
        features = None if self.features is None else self.features[some]
        layers = {name: values[some] for name, values in self.layers.items()}
        hidden = None if self.hidden is None else self.hidden.image(index)
        queries = None if self.queries is None else self.queries.image(index)
        return replace(self, logits=self.logits[some], features=features, layers=layers, hidden=hidden, queries=queries)


@dataclass(frozen=True)
class ForwardPass:
    """One pass of a network over an image, as scores are handed it that need more than logits.

    Attributes
    ----------
    output : HeadOutput
        As the network has it.
    size : (height, width), optional
        Of the image; that of the logits where none is given.
    source : str
        What `features` are of: ``"head"`` or ``"layer:NAME"``.
    mean : MeanPrediction, optional
        Of several passes.
    """

    output: HeadOutput
    size: tuple[int, int] | None = None
    source: str = "head"
    mean: MeanPrediction | None = None

    @cached_property
    def head(self) -> HeadOutput:
        """Logits and features where they belong to each other: before whatever the network does behind its head."""
        return self.output.on_grid()

    @cached_property
    def features(self) -> Tensor:
        """What fitted scores read, (N, D, h', w'): features of the head, or the output of the layer fitted on.

        Raises
        ------
        HeadError
            If nobody kept them, or the network puts pixels of the layer in other places.
        """
        if not self.source.startswith(LAYER):
            found = self.head.features
            if found is None and self.output.queries is not None:
                self.output.queries.require("masks")
            if found is None:
                raise HeadError("the features that enter the last layer were asked for, and not kept")
            return found
        tail = self.output.tail
        if tail is not None and not all(isinstance(step, Resize) for step in tail.steps):
            raise HeadError(f"the network puts the output of its head in other places than that of {self.source!r}")
        return self.layer(self.source.removeprefix(LAYER))

    @cached_property
    def largest(self) -> tuple[Tensor, Tensor]:
        """Largest logit at the image's resolution and its class, (N, y, x) each."""
        size = self.size or (self.output.logits.shape[2], self.output.logits.shape[3])
        found = resized_pixel_scores(self.output.logits, size, ("max_logit",), align_corners=self.output.align_corners)
        return found.scores[:, 0], found.prediction

    @cached_property
    def resized(self) -> Tensor:
        """Logits at the image's resolution, (N, C, y, x); of several passes the logarithm of their mean softmax."""
        return self.at_image(self.output) if self.mean is None else self.mean["logits"]

    @property
    def _rerun(self) -> Rerun:
        if self.output.rerun is None:
            raise HeadError("another pass on a changed input was asked for where the network is not at hand")
        return self.output.rerun

    @property
    def input(self) -> Tensor:
        """The network's input, (N, channels, h, w), for scores that need ``input_grad``."""
        return self._rerun.input

    def again(self, x: Tensor) -> ForwardPass:
        """Another pass of the same network, on another input of the same image."""
        return ForwardPass(self._rerun.output(x), self.size)

    def input_gradient(self, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """Derivative by the input of a number that `loss` makes of the network's own logits (N, C, y', x')."""
        return self._rerun.gradient(loss)

    def at_image(self, output: HeadOutput) -> Tensor:
        """Logits of an output of the same image at the image's resolution."""
        size = self.size or (output.logits.shape[2], output.logits.shape[3])
        return resize_logits(output.logits, size, output.align_corners)

    @property
    def all_channels(self) -> HeadOutput:
        """What left the head, those channels with it that are no class.

        Raises
        ------
        HeadError
            If there are none.
        """
        if self.output.whole is None:
            raise HeadError("no output channel is said to be no class; expected some that were left out")
        return self.output.whole

    def layer(self, name: str) -> Tensor:
        """Output of a layer, (N, D, h, w), that a score needs as ``layer:NAME``."""
        return self.output.layers[name]


def check_channels(scores: Iterable[Score], network: Network) -> None:
    """Check that a network has the channels that are no class where a score is made of them.

    Raises
    ------
    ModelError
        Naming the score and the network.
    """
    for score in scores:
        if "void" in score.needs and not network.drop_channels:
            raise ModelError(
                f"score {score.name!r} is made of output channels that are no class, and {network.name} is not said to "
                "have any: name them (--drop-channels 19, drop_channels=(19,)), or leave the score out"
            )


def check_features(scores: Iterable[Score], network: Network) -> None:
    """Check that it is known what enters the head of a network where scores are made of it.

    Raises
    ------
    HeadError
        Naming the scores and the network.
    """
    names = [score.name for score in scores if "features" in score.needs]
    if names and network.featureless:
        raise HeadError(
            f"{some('score', names)}: made of the features that enter the last layer of {network.name}, and "
            f"{network.featureless}"
        )


def needs_of(scores: Iterable[Score]) -> frozenset[str]:
    """All that some scores need.

    Raises
    ------
    UnknownScoreError
        If one needs what no forward pass provides, or has no function; the message names it.
    """
    needs: frozenset[str] = frozenset()
    for score in scores:
        missing = {need for need in score.needs - NEEDS.keys() if not need.startswith(LAYER)}
        if missing:
            raise UnknownScoreError(
                f"score {score.name!r} needs {', '.join(sorted(missing))}; a forward pass provides "
                f"{', '.join(sorted(NEEDS.keys() - {'fit'}))}"
            )
        score.function  # noqa: B018  says that there is none
        needs |= score.needs
    return needs


def check_passes(scores: Iterable[Score], kind: str | None, *, input_grad: bool = False) -> None:
    """Check that scores can be computed of the passes that there are.

    Parameters
    ----------
    scores : iterable of Score
    kind : str, optional
        What the passes of one image are, see `gradunc_viz.schema.entries.passes.KINDS`; None, where there is one.
    input_grad : bool
        Whether the network can be run on a changed input.

    Raises
    ------
    UnknownScoreError
        Naming the score, and what it needs.
    """
    given = f"several passes, {KINDS[kind]}" if kind else "one forward pass"
    for score in scores:
        needed = kind_needed(score)
        if needed is not None and needed != kind:
            raise UnknownScoreError(f"score {score.name!r} needs passes of {KINDS[needed]}; there is {given}")
        if kind is None and "input_grad" in score.needs and not input_grad:
            raise UnknownScoreError(
                f"score {score.name!r} needs {NEEDS['input_grad']}, which 'gradunc compute' provides; there is {given}"
            )
        if kind is None or needed is not None:
            continue
        if isinstance(score, GradientScore):
            label, p = score.request.label, score.request.p
            if label not in ("oh", "uni") or score.request != NormRequest(label, p):
                raise UnknownScoreError(
                    f"score {score.name!r} is defined for one forward pass; of the mean of several there are exact "
                    "norms for the labels oh and uni"
                )
        elif score.family != "softmax" or not score.of_logits:
            raise UnknownScoreError(
                f"score {score.name!r} is one of a single forward pass ({', '.join(sorted(score.needs))}, family "
                f"{score.family}), and this run has {given}: compute it in a run of its own"
            )


def check_queries(scores: Iterable[Score], head: HeadOutput) -> None:
    """Check that scores have a meaning for what a network returned, be it logits of pixels or masks of queries.

    Raises
    ------
    UnknownScoreError
        Naming the score, and why it has none.
    """
    if any(one.queries is not None for one in head.passes):
        refuse_for_queries(scores, head.kind)
    elif head.queries is not None:
        refuse_for_queries(scores)
    for score in scores:
        if head.queries is None and "queries" in score.needs:
            raise UnknownScoreError(
                f"score {score.name!r} is made of the classes and masks of queries, as MaskFormer returns them; "
                "this network returns logits of pixels"
            )


def refuse_for_queries(scores: Iterable[Score], kind: str | None = None) -> None:
    """Refuse what has no meaning for a query model.

    Raises
    ------
    UnknownScoreError
        Naming the score, or the kind of passes, and why it has none.
    """
    if kind:
        raise UnknownScoreError(
            f"the network returns classes and masks of queries, whose scores S are no logits: passes of "
            f"{KINDS[kind]} have no mean softmax; expected one pass of one network"
        )
    for score in scores:
        if why := _no_meaning(score):
            raise UnknownScoreError(
                f"score {score.name!r} has no meaning for a query model: {why}; 'queries' names scores that have"
            )


_NO_MEANING = {
    "hidden": "its layers before the last have names of their own, such as pgn_oh_p2_embedding and pgn_oh_p2_decoder",
    "void": "class scores S do not sum to one, and a class that is left out has no share in them",
    "input_grad": "its temperature is that of a softmax, and class scores S are no logits",
}


def _no_meaning(score: Score) -> str:
    """Why a score cannot be computed for any query model; empty if it can."""
    for need, why in _NO_MEANING.items():
        if need in score.needs:
            return why
    if isinstance(score, GradientScore) and "queries" not in score.needs:
        label, _, variant, part, _, layer = score.request
        if variant == "paper":
            return "the paper's formula is one of the softmax"
        if label == "exp":
            return "its label is drawn from the softmax, and class scores S are no logits"
        if layer == 1 and part == "norm" and not isinstance(score, GradientNorm):
            return f"it is defined for a softmax; pgn_{label}_p{score.request.p:g} is the norm for queries"
    if score.name in ("vim", "gradorth"):
        return "it is made of the kernel of a last layer, which query models have none of"
    return ""
