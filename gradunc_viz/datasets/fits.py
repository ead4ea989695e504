"""Which layouts a folder is arranged like."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import NamedTuple

from ..schema.errors import FrameError
from .layouts import EVERY, LAYOUTS, NoFramesError

__all__ = ["Fit", "fitting_layouts", "misfit"]

_SPLITS = ("val", "validation", "test", "train", "training")
"""Tried where a layout finds nothing in the split that it takes by itself."""


class Fit(NamedTuple):
    """What a layout finds in a folder.

    Attributes
    ----------
    layout : str
    split : str, optional
        The one it was found in, where it is not the layout's own.
    frames, masks : int
        How many frames there are, and how many masks of labels and anomalies.
    """

    layout: str
    split: str | None
    frames: int
    masks: int

    @property
    def options(self) -> str:
        """How the command line is told so."""
        return f"--layout {self.layout}" + (f" --split {self.split}" if self.split else "")


def fitting_layouts(root: Path) -> list[Fit]:
    """List the layouts that find frames in a folder, those first that find most masks.

    Of equals ``folder`` comes last, and first where there are no masks; layouts that find none are left out beside some
    that do.
    """
    fits = []
    for name, layout in LAYOUTS.items():
        for split in (None, *(() if layout.split in (None, EVERY) else _SPLITS)):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # told when the set is opened
                    files = layout.files(root, split)
            except FrameError:
                continue
            masks = sum((frame.label is not None) + (frame.anomaly is not None) for frame in files)
            fits.append(Fit(name, split, len(files), masks))
            break
    masked = [fit for fit in fits if fit.masks]
    if not masked:
        return sorted(fits, key=lambda fit: fit.layout != "folder")
    return sorted(masked, key=lambda fit: (-fit.masks, fit.layout == "folder"))


def misfit(root: Path) -> FrameError | None:
    """What keeps a layout from reading a folder that is arranged like it: masks of other images, say."""
    found = {}
    for name, layout in LAYOUTS.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                layout.files(root, None)
        except NoFramesError:
            continue
        except FrameError as error:
            found[name] = error
    return found.get("folder", next(iter(found.values()), None))
