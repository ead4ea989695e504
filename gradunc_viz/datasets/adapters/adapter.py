"""What an adapter is, and which parts of an item it takes for what."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ...schema.errors import FrameError
from ..conventions import some
from ..layouts import FrameFiles

__all__ = ["Adapter", "Found", "Parts", "is_a"]

_NAMES = {
    "image": ("image", "images", "img", "picture", "photo", "rgb"),
    "label": (
        *("label", "labels", "mask", "masks", "annotation", "annotations", "segmentation", "semantic_segmentation"),
        *("segmentation_mask", "semantic", "semantic_seg_gt", "sem_seg", "label_map", "seg_map", "gt_semantic_seg"),
        *("ground_truth", "gt", "target"),
    ),
    "anomaly": ("anomaly", "anomalies", "anomaly_mask", "ood", "ood_mask"),
}
"""What parts are called, where nobody says so."""


@dataclass(frozen=True)
class Parts:
    """Names of the parts of an item, where they were given.

    Attributes
    ----------
    image, label, anomaly, id
        Columns of a table, keys of an item, fields of a sample.
    root
        Folder below which paths lie.
    ignore_index
        Id in label masks that is ignored.
    """

    image: Any = None
    label: Any = None
    anomaly: Any = None
    id: Any = None
    root: Path | None = None
    ignore_index: int | None = None

    def named(self, where: str, what: str, names: Collection[Any], required: bool = False) -> Any:
        """The name of a part among those that there are; None where there is none.

        Raises
        ------
        FrameError
            If it was given and is not there, if it is required, or if it might be one of several.
        """
        given = getattr(self, what)
        if given is not None:
            if given not in names:
                raise FrameError(f"{where}: {what} is {given!r}, expected one of {', '.join(map(str, names))}")
            return given
        likely = [name for name in names if str(name).lower() in _NAMES[what]]
        if len(likely) > 1 or (required and not likely):
            found = some("part", likely or names) if names else "nothing"
            raise FrameError(f"{where}: no telling which is the {what} of {found}; say so: {what}=...")
        return likely[0] if likely else None

    def masks(self, where: str, names: Collection[Any]) -> tuple[Any, Any]:
        """The names of class labels and of the mask of unknown objects among those of parts that may be such.

        Warns
        -----
        UserWarning
            As `check_unused`, of the others.
        """
        found = self.named(where, "label", names), self.named(where, "anomaly", names)
        self.check_unused(where, "part", [name for name in names if name not in found])
        return found

    def check_unused(self, where: str, noun: str, names: Collection[Any], why: str = "") -> None:
        """Tell of parts, or whatever `noun` calls them, that are not used, unless it was said what both masks are.

        Warns
        -----
        UserWarning
            If there are any.
        """
        if names and (self.label is None or self.anomaly is None):
            told = f"{some(noun, names)} not used{why and f' ({why})'}"
            warnings.warn(f"{where}: {told}; say what is a mask: label=..., anomaly=...", stacklevel=5)

    def only(self, where: str, *used: str) -> None:
        """Check that nothing is said that an adapter has no use for."""
        odd = [name for name in vars(self) if getattr(self, name) is not None and name not in used]
        if odd:
            raise FrameError(f"{where}: {some('argument', odd)} given, expected only {', '.join(used)}")


class Found(NamedTuple):
    """Frames of an object, what messages call it, and names of the classes in its labels where it knows them."""

    name: str
    files: Sequence[FrameFiles]
    classes: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Adapter:
    """How frames are read from a kind of object.

    Attributes
    ----------
    name
    takes
        Whether an object is of this kind; it imports nothing.
    find
        Lists its frames, and reads none.
    """

    name: str
    takes: Callable[[Any], bool]
    find: Callable[[Any, Parts], Found]


def is_a(thing: Any, *classes: str) -> bool:
    """Whether an object is of one of these classes, ``"module.Class"``, none of which is imported for that."""
    names: Iterable[str] = (f"{each.__module__}.{each.__qualname__}" for each in type(thing).__mro__)
    return not set(classes).isdisjoint(names)
