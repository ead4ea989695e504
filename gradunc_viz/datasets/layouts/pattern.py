"""Files of any names: images and masks by patterns of their paths."""

from __future__ import annotations

import glob
import os
import re
import warnings
from collections.abc import Iterable
from pathlib import Path

from ...schema.errors import FrameError
from ...schema.file_names import is_foreign, natural_key
from ..conventions import ANOMALY_IDS, CLASS_IDS, some
from .layout import FrameFiles, Layout, Mask

__all__ = ["pattern_layout"]

_ID = "{id}"


def pattern_layout(
    images: str,
    labels: str | None = None,
    anomalies: str | None = None,
    *,
    ignore: str | None = None,
    region: str | None = None,
) -> Layout:
    """Make a layout of patterns, for `open_frames`.

    Parameters
    ----------
    images : str
        Paths below the folder of the set, such as ``"a/*/x_{id}.tif"``. ``{id}`` stands for the id of the frame, in
        which there is no slash, ``*`` and ``?`` for anything within a name, ``**`` for any folders.
    labels, anomalies : str, optional
        Of masks, likewise: class ids as stored; 0 known, 1 anomaly, 255 ignore.
    ignore : str, optional
        Of masks whose pixels other than 0 are ignored.
    region : str, optional
        Of masks whose pixels of 0 are ignored, such as fields of view.

    Raises
    ------
    FrameError
        If a pattern has no ``{id}``, or something else in braces; when the set is opened, if it matches two files of
        one id, or no image's.
    """
    given = {"labels": labels, "anomalies": anomalies, "ignore": ignore, "region": region}
    masks = {what: pattern for what, pattern in given.items() if pattern is not None}
    for what, pattern in {"images": images, **masks}.items():
        odd = set(re.findall(r"\{[^}]*\}?|\}", pattern)) - {_ID}
        if odd or _ID not in pattern:
            problem = f"holds {some('placeholder', sorted(odd))}" if odd else "says nowhere where the frame's id stands"
            raise FrameError(f"pattern of {what} {pattern!r} {problem}, expected {_ID} such as 'a/*/x_{_ID}.tif'")

    def find(root: Path, _split: str) -> list[FrameFiles]:
        found = _matches(root, images)
        for id, paths in found.items():
            _single(root, images, id, paths)
        of = {what: _masks(root, pattern, found, what) for what, pattern in masks.items()} if found else {}
        frames = []
        for id in found:
            path = {what: files.get(id) for what, files in of.items()}
            label, anomaly = path.get("labels"), path.get("anomalies")
            frames.append(
                FrameFiles(
                    id,
                    found[id][0],
                    None if label is None else Mask(label, CLASS_IDS),
                    None if anomaly is None else Mask(anomaly, ANOMALY_IDS),
                    region=path.get("region"),
                    ignore=path.get("ignore"),
                )
            )
        return frames

    tree = ", ".join([images, *masks.values()]).replace("{", "{{").replace("}", "}}")
    return Layout("pattern", "files by patterns of their paths", tree, find)


def _matches(root: Path, pattern: str) -> dict[str, list[Path]]:
    """Files that a pattern matches, by id."""
    below = os.path.relpath(os.path.join(root, pattern), root)  # of one form, also if it is absolute or leads up
    expression = re.compile(_expression(below))
    found: dict[str, list[Path]] = {}
    for name in sorted(glob.iglob(below.replace("[", "[[]").replace(_ID, "*"), root_dir=root, recursive=True)):
        match = expression.fullmatch(name)
        path = Path(os.path.normpath(root / name))
        if match and path.is_file() and not any(part != ".." and is_foreign(part) for part in Path(name).parts):
            found.setdefault(match["id"], []).append(path)
    return {id: found[id] for id in sorted(found, key=natural_key)}


def _expression(pattern: str) -> str:
    parts = {_ID: "(?P<id>[^/]+)", "**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    split = re.split(r"(\{id\}|\*\*/|\*\*|\*|\?)", pattern.replace(os.sep, "/"))
    text, seen = "", False
    for part in split:
        text += "(?P=id)" if part == _ID and seen else parts.get(part, re.escape(part))
        seen = seen or part == _ID
    return text


def _single(root: Path, pattern: str, id: str, paths: list[Path]) -> Path:
    if len(paths) > 1:
        files = some("file", [os.path.relpath(path, root) for path in paths])
        raise FrameError(f"{root}: pattern {pattern!r} matches {files} for frame {id!r}, expected one")
    return paths[0]


def _masks(root: Path, pattern: str, ids: Iterable[str], what: str) -> dict[str, Path]:
    """The mask of each frame that has one."""
    found = _matches(root, pattern)
    masks = {id: _single(root, pattern, id, found[id]) for id in ids if id in found}
    if not masks:
        inside = f"found {some('id', found)}" if found else "it matches no file"
        first = next(iter(ids), "")
        raise FrameError(f"{root}: pattern of {what} {pattern!r} fits no image such as {first!r}; {inside}")
    others = [id for id in found if id not in masks]
    if others:
        warnings.warn(f"{root}: {what} {pattern!r}: {some('mask', others)} without an image not used", stacklevel=2)
    return masks
