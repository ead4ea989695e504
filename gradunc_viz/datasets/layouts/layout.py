"""What a layout is: the files of each frame of a folder, and what the ids in its masks mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ...schema.errors import FrameError
from ...schema.file_names import is_foreign
from ..conventions import Conversion, some
from ..image_source import Readable

__all__ = ["EVERY", "FrameFiles", "Layout", "Mask", "NoFramesError", "entries"]

EVERY = "*"
"""The split of all sets that lie in one folder; a split is a pattern of their names then."""


class NoFramesError(FrameError):
    """A folder is not arranged like a layout."""


class Mask(NamedTuple):
    """A mask file and what its ids mean."""

    path: Readable
    conversion: Conversion


@dataclass(frozen=True)
class FrameFiles:
    """The files of one frame; `label` and `anomaly` are ``None`` where there is no such mask.

    Attributes
    ----------
    region
        Pixels that are 0 in it are ignored, whatever the masks say.
    ignore
        Pixels that are not 0 in it are ignored, whatever the masks say.
    anomaly_ids
        Ids, as they are stored in `label`, of unknown objects; there is no `anomaly` then.
    """

    id: str
    image: Readable
    label: Mask | None = None
    anomaly: Mask | None = None
    region: Readable | None = None
    ignore: Readable | None = None
    anomaly_ids: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Layout:
    """A convention for arranging images and masks in a folder.

    Attributes
    ----------
    name, description
        For lists of layouts; the description is one line and states the meaning of the ids.
    tree
        The files that are looked for, ``{split}`` standing for the split.
    find
        Lists the frames below a folder, of one split; nothing if the folder is arranged in another way.
    split
        The split that is taken if none is named, ``None`` if the layout has no splits; `EVERY` if it holds several
        sets, whose frames are called after them (see `gradunc_viz.schema.frame.nested_id`).
    classes
        Label convention of the catalogue that the class ids follow, ``None`` if there are no class labels or
        their meaning is not fixed.
    takes
        Whether a path that is no folder, such as that of a video, is a set of this layout.
    """

    name: str
    description: str
    tree: str
    find: Callable[[Path, str], list[FrameFiles]]
    split: str | None = None
    classes: str | None = None
    takes: Callable[[Path], bool] = field(default=lambda path: False)

    def files(self, root: Path, split: str | None = None) -> tuple[FrameFiles, ...]:
        """List the frames below `root`, sorted as people count, without opening an image.

        Raises
        ------
        NoFramesError
            If `root` is not arranged like this layout.
        FrameError
            If it is no folder, or `split` does not apply.
        """
        one_folder = split is None or (split != ".." and bool(split) and Path(split).name == split)
        if not one_folder or (split is not None and self.split is None):
            expected = "no split" if self.split is None else f"the name of one folder such as {self.split!r}"
            raise FrameError(f"{root}: split is {split!r}, layout {self.name!r} expects {expected}")
        if not root.is_dir() and not self.takes(root):
            problem = "is a file" if root.exists() else "does not exist"
            raise FrameError(f"{root}: {problem}, expected a folder of frames")
        split = split or self.split or ""
        try:
            frames = self.find(root, split)
            found = entries(root) if root.is_dir() else "none"
        except OSError as error:
            raise FrameError(f"{error.filename or root}: cannot be listed ({error.strerror or error})") from error
        if not frames:
            tree = self.tree.format(split=split)
            raise NoFramesError(f"{root}: no images in layout {self.name!r}, expected {tree}; found {found}")
        return tuple(frames)


def entries(folder: Path) -> str:
    """The first few files and folders in a folder, in words."""
    found = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir() if not is_foreign(entry.name))
    return some("entry", found) if found else "nothing"
