"""What a set holds, and what is odd about it, from one look at all of its files."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..schema.errors import FrameError, GraduncError
from ..schema.frame import ignored, set_of
from .bands import BANDS_SUFFIX
from .conventions import some
from .decoding import opened_image, read_bytes
from .fits import Fit
from .frames import Frame, Frames, checked_label, open_frames

__all__ = ["Finding", "SetCheck", "check_set", "readable_fit"]

_TRIED = 3  # frames whose masks are read to tell whether a layout means their ids


class Finding(NamedTuple):
    """Something odd about a set, and what to do about it."""

    problem: str
    remedy: str


@dataclass
class SetCheck:
    """What a set holds.

    Attributes
    ----------
    sizes : Counter
        Frames by (height, width) of their images.
    labels, anomalies : Counter
        Pixels by class id, and by 0 known, 1 unknown object; ignored ones under None.
    labelled, with_anomalies : int
        Frames with such a mask that can be read.
    findings : list of Finding
    broken : list of str
        What is wrong with each frame that cannot be read.
    """

    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    labels: Counter[int | None] = field(default_factory=Counter)
    anomalies: Counter[int | None] = field(default_factory=Counter)
    labelled: int = 0
    with_anomalies: int = 0
    findings: list[Finding] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def readable_fit(root: Any, fits: Sequence[Fit], **options: Any) -> Fit:
    """The first of the layouts that fit whose first masks can be read; the first of all if none can.

    Parameters
    ----------
    root
    fits
        At least one, from `gradunc_viz.datasets.fits.fitting_layouts`.
    **options
        As of `open_frames`.
    """
    for fit in fits:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                frames = open_frames(root, fit.layout, split=fit.split, **options)
            for frame in [frame for frame in frames if frame.label_path or frame.anomaly_path][:_TRIED]:
                _ = frame.label, frame.anomaly
        except GraduncError:
            continue
        return fit
    return fits[0]


def check_set(
    frames: Frames,
    said: Iterable[str] = (),
    n_classes: int | None = None,
    follow: Callable[[Sequence[Frame]], Iterable[Frame]] = iter,
) -> SetCheck:
    """Look at every file of a set once.

    Parameters
    ----------
    frames : Frames
    said : iterable of str
        What `open_frames` warned of.
    n_classes : int, optional
        Of the network, or of what is known of the labels; ids beyond are told.
    follow : callable
        Goes through the frames, and shows how far it is.

    Returns
    -------
    SetCheck
    """
    check = SetCheck()
    content: dict[str, list[str]] = {}
    constant: Counter[int | None] = Counter()
    empty: dict[str, list[str]] = {}
    masked: Counter[str] = Counter()
    for frame in follow(frames):
        try:
            check.sizes[frame.size] += 1
            _decoded(frame)
            content.setdefault(hashlib.blake2b(read_bytes(frame.image_path)).hexdigest(), []).append(frame.id)
            label, anomaly = frame.label, frame.anomaly
            if label is not None and n_classes is not None:
                label = checked_label(label, n_classes, frame)
        except FrameError as error:
            check.broken.append(str(error))
            continue
        if label is not None:
            check.labelled += 1
            found = _pixels(label)
            check.labels += found
            if len(found) == 1:
                constant.update(found.keys())
        if anomaly is not None:
            check.with_anomalies += 1
            masked[set_of(frame.id)] += 1
            found = _pixels(anomaly)
            check.anomalies += found
            if not found[1]:
                empty.setdefault(set_of(frame.id), []).append(frame.id)
    check.findings = [
        *(Finding(text, "rename or move what is to be read, or leave it") for text in said),
        *_bare(frames),
        *_constant(constant, check.labelled),
        *(_empty(name, ids, masked[name]) for name, ids in empty.items()),
        *(
            Finding(f"{some('frame', ids)}: images of the same content", "keep one: each counts in every average")
            for ids in content.values()
            if len(ids) > 1
        ),
    ]
    return check


def _decoded(frame: Frame) -> None:
    """Decode an image as far as Pillow can: one that is cut off has a whole header."""
    if frame.image_path.suffix.lower() not in (BANDS_SUFFIX, ".tif", ".tiff"):
        with opened_image(frame.image_path) as image:
            image.load()


def _pixels(ids: np.ndarray) -> Counter[int | None]:
    present, counts = np.unique(np.ma.masked_array(ids, ignored(ids)).compressed(), return_counts=True)
    found: Counter[int | None] = Counter(dict(zip(present.tolist(), counts.tolist(), strict=True)))
    if left := ids.size - int(counts.sum()):
        found[None] = left
    return found


def _bare(frames: Frames) -> list[Finding]:
    """Frames without a mask in a set in which others have one."""
    findings = []
    for what, paths in (
        ("class labels", [frame.label_path for frame in frames]),
        ("an anomaly mask", [frame.anomaly_path for frame in frames]),
    ):
        bare = [id for id, path in zip(frames.ids, paths, strict=True) if path is None]
        if bare and len(bare) < len(frames):
            findings.append(
                Finding(
                    f"{some('frame', bare)} without {what}", "they count nowhere in that task; look for their masks"
                )
            )
    if not any(frame.label_path or frame.anomaly_path for frame in frames):
        findings.append(
            Finding("no frame has labels or an anomaly mask", "scores can be looked at, not evaluated; see the layouts")
        )
    return findings


def _constant(constant: Counter[int | None], labelled: int) -> list[Finding]:
    findings = []
    for id, count in constant.items():
        what = "ignored" if id is None else f"class {id}"
        of = f"{count} of {labelled} labels are {what} throughout"
        if id in (0, None):
            findings.append(
                Finding(of, "placeholders, as test splits have them? Take a split whose labels are published")
            )
        else:
            findings.append(Finding(of, "look at one of them"))
    return findings


def _empty(name: str, ids: Sequence[str], masks: int) -> Finding:
    """Anomaly masks without an anomaly: frames without one in a set with some, placeholders where none has any."""
    where = f" of {name}" if name else ""
    if len(ids) == masks:
        return Finding(
            f"no anomaly mask{where} holds an unknown object ({masks} in all)",
            "placeholders, as test splits have them, or ids that mean something else, such as --anomalies FILE with "
            '{"0": 0, "255": 1} for black and white: scores cannot be evaluated on them',
        )
    return Finding(
        f"{len(ids)} of {masks} anomaly masks{where} hold no unknown object: {some('frame', ids)}",
        "right if nothing unknown is in the image; placeholders of a test split would lower AuPRC",
    )
