"""Where the conventions of published data sets keep their files.

A `Layout` lists the files of each frame. Every mask comes with the `Conversion` that says what the ids stored in it
mean. Each layout has a file of its own here; one from elsewhere takes its place among them with `register_layout`.
"""

from __future__ import annotations

from operator import attrgetter

from ...schema.errors import FrameError
from ...schema.registry import Registry
from . import (
    ade20k,
    bdd100k,
    camvid,
    cityscapes,
    cocostuff,
    course,
    drive,
    fishyscapes,
    folder,
    kitti,
    lostandfound,
    loveda,
    mapillary,
    mmseg,
    muad,
    roadanomaly,
    sequence,
    smiyc,
    streethazards,
    table,
    video,
    voc,
)
from .files import IMAGE_SUFFIXES, MASK_SUFFIXES, images_in, masks_of
from .layout import EVERY, FrameFiles, Layout, Mask, NoFramesError
from .pattern import pattern_layout

__all__ = [
    "EVERY",
    "IMAGE_SUFFIXES",
    "LAYOUTS",
    "MASK_SUFFIXES",
    "FrameFiles",
    "Layout",
    "Mask",
    "NoFramesError",
    "images_in",
    "masks_of",
    "pattern_layout",
    "register_layout",
]

LAYOUTS: Registry[Layout] = Registry(
    Layout,
    attrgetter("name"),
    "layout",
    "gradunc_viz.layouts",
    (
        folder.LAYOUT,
        smiyc.LAYOUT,
        course.LAYOUT,
        camvid.LAYOUT,
        cityscapes.LAYOUT,
        lostandfound.LAYOUT,
        fishyscapes.LAYOUT,
        roadanomaly.LAYOUT,
        streethazards.LAYOUT,
        bdd100k.BDD_ANOMALY,
        muad.LAYOUT,
        bdd100k.BDD100K,
        kitti.LAYOUT,
        mapillary.MAPILLARY,
        mapillary.MAPILLARY_2,
        ade20k.LAYOUT,
        voc.LAYOUT,
        cocostuff.LAYOUT,
        loveda.LAYOUT,
        mmseg.LAYOUT,
        drive.LAYOUT,
        video.LAYOUT,
        sequence.LAYOUT,
        table.LAYOUT,
    ),
    FrameError,
)
"""Every layout by name, registered ones too."""


def register_layout(layout: Layout) -> Layout:
    """Add a layout: `open_frames` and the command line know it by its name from then on.

    Packages bring theirs through the entry point group ``gradunc_viz.layouts``.

    Raises
    ------
    FrameError
        If the name is taken.
    """
    return LAYOUTS.register(layout)
