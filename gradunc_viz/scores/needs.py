"""What a score may ask of a network's forward pass."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..networks.tail import Tail, moved
from ..schema.errors import HeadError, UnknownScoreError
from ..schema.scores import Score

__all__ = ["NEEDS", "ForwardPass", "HeadOutput", "needs_of"]

NEEDS = frozenset({"logits", "features"})
"""What a forward pass provides: what left the head, and what entered it."""


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
    """

    logits: Tensor
    features: Tensor | None
    layer: nn.Module
    channels: Tensor | None = None
    align_corners: bool = False
    bias: bool = False
    tail: Tail | None = None
    threshold: float | None = None

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
        return replace(self, logits=logits, channels=channels, tail=tail)

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
        return replace(self, logits=self.tail.logits(), features=features, tail=None)

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
        return replace(self, logits=self.logits[some], features=features)


@dataclass(frozen=True)
class ForwardPass:
    """One pass of a network over a batch, as scores at the head are handed it.

    Attributes
    ----------
    head : HeadOutput
    """

    head: HeadOutput


def needs_of(scores: Iterable[Score]) -> frozenset[str]:
    """All that some scores need.

    Raises
    ------
    UnknownScoreError
        If one needs what no forward pass provides, or has no function; the message names it.
    """
    needs: frozenset[str] = frozenset()
    for score in scores:
        missing = score.needs - NEEDS
        if missing:
            raise UnknownScoreError(
                f"score {score.name!r} needs {', '.join(sorted(missing))}; a forward pass provides "
                f"{', '.join(sorted(NEEDS))}"
            )
        if not score.compute:
            score.function  # noqa: B018  says that it has none
        needs |= score.needs
    return needs
