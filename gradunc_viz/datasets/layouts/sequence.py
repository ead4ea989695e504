"""Numbered images: a printf or glob pattern of their paths."""

from __future__ import annotations

import glob
import re
from pathlib import Path

from ...schema.errors import FrameError
from ...schema.file_names import is_foreign, natural_key
from ...schema.frame import nested_id
from .files import IMAGE_SUFFIXES
from .layout import FrameFiles, Layout

__all__ = ["LAYOUT", "is_sequence", "sequence_files"]

_PLACE = re.compile(r"%(0(\d+))?d|[*?]")
"""Where the number stands, ``%d`` or ``%05d``, or ``*`` and ``?`` as a shell has them."""


def is_sequence(path: Path) -> bool:
    """Whether a path is a pattern of paths, and none that exists."""
    return _PLACE.search(str(path)) is not None and not path.exists()


def sequence_files(pattern: Path) -> list[Path]:
    """List the images that a pattern matches, as people count.

    Parameters
    ----------
    pattern
        ``frame_%05d.png``, ``frame_%d.png``, ``left/*.png``.

    Raises
    ------
    FrameError
        If it matches no image.
    """
    text = str(pattern)
    expression, wide, end = "", "", 0
    for place in _PLACE.finditer(text):
        between = text[end : place.start()]
        digits = r"\d+" if place[1] is None else rf"\d{{{place[2]},}}"
        expression += re.escape(between) + {"*": "[^/]*", "?": "[^/]"}.get(place[0], digits)
        wide += glob.escape(between) + (place[0] if place[0] in "*?" else "*")
        end = place.end()
    expression += re.escape(text[end:])
    found = [
        path
        for path in map(Path, glob.iglob(wide + glob.escape(text[end:])))
        if re.fullmatch(expression, str(path)) and not is_foreign(path.name) and path.suffix.lower() in IMAGE_SUFFIXES
    ]
    if not found:
        raise FrameError(f"{pattern}: no image is called so, expected some such as {_PLACE.sub('1', pattern.name)}")
    return sorted(found, key=lambda path: natural_key(path.as_posix()))


def _find(root: Path, _split: str) -> list[FrameFiles]:
    if root.is_dir():
        return []
    files = sequence_files(root)
    fixed = Path(_PLACE.split(str(root), maxsplit=1)[0] + "_").parent  # above all that the pattern leaves open
    return [FrameFiles(nested_id(path.relative_to(fixed).with_suffix("").as_posix()), path) for path in files]


LAYOUT = Layout(
    "sequence",
    "numbered images without masks, by a pattern of their paths",
    "a pattern such as frame_%05d.png or 'left/*.png'",
    _find,
    takes=is_sequence,
)
