"""Labels in the ids of the network: the image processor of a model may say that these are not the ids in masks."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

from ..datasets.conventions import CLASS_IDS, Conversion
from ..datasets.frames import Frame
from ..networks.network import Network
from ..schema.frame import IGNORE

__all__ = ["frames_as_trained"]

REDUCED_IDS = Conversion(
    {stored: IGNORE if stored in (0, IGNORE) else stored - 1 for stored in CLASS_IDS.table},
    f"ids 1..{IGNORE - 1} of class 0 and so on, or 0 or {IGNORE} (ignore)",
)
"""ADE20K and its like: masks store the class id and 1."""


def frames_as_trained(frames: Sequence[Frame], network: Network) -> tuple[Frame, ...]:
    """Frames whose labels are read as those that a network was trained on.

    Ids that are class ids because nobody said otherwise (no mapping, layout or class file) are reduced by one, if the
    network's image processor does so.

    Warns
    -----
    UserWarning
        If any were.
    """
    if not network.preprocessing.reduce_labels:
        return tuple(frames)
    followed = tuple(_reduced(frame) if _is_bare(frame) else frame for frame in frames)
    if any(map(_is_bare, frames)):
        warnings.warn(
            f"labels are read as the image processor of {network.name} does (do_reduce_labels): 0 is ignored, 1 is "
            "class 0 and so on; where masks hold class ids, name the classes in classes.json or map each id to itself "
            "with --labels",
            stacklevel=4,
        )
    return followed


def _is_bare(frame: Frame) -> bool:
    label = frame.files.label
    return label is not None and label.conversion == CLASS_IDS and frame.classes is None


def _reduced(frame: Frame) -> Frame:
    label = frame.files.label
    assert label is not None
    return replace(frame, files=replace(frame.files, label=label._replace(conversion=REDUCED_IDS)))
