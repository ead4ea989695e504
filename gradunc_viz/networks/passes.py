"""Several forward passes over one image, as one: their inputs, their heads.

What a run with several passes is, dropout switched on, several networks, or changed copies of the image, is said by its
*kind*; runners of each are in `gradunc_viz.networks.dropout`, `gradunc_viz.networks.ensemble` and
`gradunc_viz.networks.augmentation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .head import Head
from .network import Network

__all__ = ["Inputs", "JointHead", "Pass", "heads_of", "image_of", "joined"]


@dataclass(frozen=True)
class Inputs:
    """Input of several passes.

    Attributes
    ----------
    images : tuple of Tensor (N, channels, h, w)
        One for each way in which an image is prepared.
    ids : tuple of str
        Of the frames.
    """

    images: tuple[Tensor, ...]
    ids: tuple[str, ...]

    @property
    def shape(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of all images: what is alike can be batched."""
        return tuple(tuple(image.shape) for image in self.images)


def image_of(inputs: Tensor | Inputs) -> Tensor:
    """What the network sees in its first pass."""
    return inputs.images[0] if isinstance(inputs, Inputs) else inputs


def joined(inputs: Sequence[Any]) -> Any:
    """One batch of inputs of one shape."""
    if not isinstance(inputs[0], Inputs):
        return torch.cat(list(inputs))
    images = zip(*(one.images for one in inputs), strict=True)
    return Inputs(tuple(map(torch.cat, images)), tuple(name for one in inputs for name in one.ids))


@dataclass(frozen=True)
class Pass:
    """One of several passes.

    Attributes
    ----------
    head : Head
    network : Network
        Whose channels the logits are.
    mirrored : bool
        Whether the image was mirrored, left to right: maps are to be mirrored back.
    """

    head: Head
    network: Network
    mirrored: bool = False


class JointHead(Head):
    """What several passes say of one batch. As a head it is that of the first.

    Parameters
    ----------
    kind : str
        ``"dropout"``, ``"members"`` or ``"augmented"``.
    passes : sequence of Pass
    """

    def __init__(self, kind: str, passes: Sequence[Pass]) -> None:
        self.__dict__.update(vars(passes[0].head))
        self.kind, self.passes = kind, tuple(passes)
        self.name = " + ".join(dict.fromkeys(one.head.name for one in passes))
        self.tail = next((one.head.tail for one in passes if one.head.tail is not None), None)


def heads_of(head: Head) -> tuple[Head, ...]:
    """A head and those of all passes that it joins."""
    return (head, *(one.head for one in head.passes)) if isinstance(head, JointHead) else (head,)
