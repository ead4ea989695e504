"""An ensemble: one pass of each of several networks.

Source: Lakshminarayanan et al., "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles"
(arXiv:1612.01474).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ..schema.errors import ModelError
from .network import Network
from .passes import Inputs, JointHead, Pass
from .runner import Inference
from .traversal import float_type

__all__ = ["Ensemble", "in_order"]


def in_order(networks: Sequence[Network]) -> list[Network]:
    """Members in an order that does not depend on how they are given.

    A network whose classes are named comes first: its names are those of the ensemble.

    Warns
    -----
    UserWarning
        If two of them are the same network.
    """
    digests = [one.weights_digest() for one in networks]
    pairs = sorted(
        zip(networks, digests, strict=True), key=lambda pair: (pair[0].classes is None, pair[0].name, pair[1])
    )
    for (one, digest), (other, again) in pairwise(pairs):
        if digest == again and one.preprocessing == other.preprocessing:
            warnings.warn(f"{one.name} and {other.name} have the same weights: an ensemble of copies", stacklevel=3)
    return [one for one, _ in pairs]


class Ensemble:
    """Runs several networks on every image; a `gradunc_viz.networks.runner.Runner`.

    Architecture, size of the input and normalisation are each member's own; classes are the same.

    Parameters
    ----------
    members : sequence of Inference
        Two or more.

    Raises
    ------
    ModelError
        If members differ in what they take or tell apart; the text names both.
    """

    kind = "members"

    def __init__(self, members: Sequence[Inference]) -> None:
        self.members = tuple(members)
        self.network, self.device = self.members[0].network, self.members[0].device
        first = self.network
        for other in (member.network for member in self.members[1:]):
            for what, mine, others in (
                ("image channels", first.in_channels, other.in_channels),
                ("threshold", first.threshold, other.threshold),
                ("reduce_labels", first.reduce_labels, other.reduce_labels),
            ):
                if mine != others:
                    raise ModelError(
                        f"{first.name} has {what} {mine} and {other.name} {others}: expected members of an ensemble "
                        "that are alike in it"
                    )
        # inputs that members share are made once
        ways = [(member.network.preprocessing, member.size, float_type(member.network.net)) for member in self.members]
        self._ways = list(dict.fromkeys(ways))
        self._input_of = [self._ways.index(way) for way in ways]
        self._makers = [self.members[self._input_of.index(number)] for number in range(len(self._ways))]
        self._agree = False
        batches = [member.largest_batch for member in self.members if member.largest_batch is not None]
        self.largest_batch = min(batches, default=None)

    def prepare(self, image: np.ndarray, frame_id: str) -> Inputs:
        """Input of the members, one for each way in which they are prepared."""
        return Inputs(tuple(maker.prepare(image, frame_id) for maker in self._makers), (frame_id,))

    def __call__(self, x: Inputs, what: str) -> JointHead:
        """Heads of all members; errors are those of `Inference`.

        Raises
        ------
        ModelError
            If members tell different classes apart.
        """
        passes = []
        for member, number in zip(self.members, self._input_of, strict=True):
            head = member(x.images[number], f"{what}, {member.network.name}")
            passes.append(Pass(head, member.network))
        if not self._agree:
            self._check([(one.network, one.head.logits.shape[1]) for one in passes])
            self._agree = True
        return JointHead(self.kind, passes)

    @staticmethod
    def _check(members: Sequence[tuple[Network, int]]) -> None:
        """Check that all have the same classes, by name where they have names."""
        (first, channels), *others = members
        mine = first.class_names(channels)
        for other, n in others:
            names = other.class_names(n)
            if len(mine) != len(names):
                raise ModelError(
                    f"{first.name} tells {len(mine)} classes apart and {other.name} {len(names)}: members of an "
                    "ensemble have the same classes; see --drop-channels for channels that are none"
                )
            if first.classes and other.classes and mine != names:
                place = next(i for i, (a, b) in enumerate(zip(mine, names, strict=True)) if a != b)
                raise ModelError(
                    f"class {place} is {mine[place]!r} for {first.name} and {names[place]!r} for {other.name}: members "
                    "of an ensemble have the same classes in the same order"
                )
