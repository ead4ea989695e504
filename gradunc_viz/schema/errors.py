"""What goes wrong, as exceptions whose text is one line for the user."""

from __future__ import annotations

import difflib
import re
import traceback
from collections.abc import Iterable, Sequence

__all__ = [
    "CacheError",
    "CacheMismatchError",
    "DeviceError",
    "FitError",
    "FrameError",
    "GraduncError",
    "HeadError",
    "ModelError",
    "NonFiniteError",
    "SchemaError",
    "SettingsError",
    "UnknownFrameError",
    "UnknownScoreError",
    "brief",
    "nearest",
    "telling_line",
]


class GraduncError(Exception):
    """Base of every error that the user can mend; its text is one line naming file, value and expectation."""


class FrameError(GraduncError):
    """A frame, or a folder of frames, cannot be read or contradicts itself."""


class ModelError(GraduncError):
    """A network cannot be loaded or does not return logits."""


class HeadError(ModelError):
    """The layer that produces the logits is absent, ambiguous or of an unsupported kind."""


class NonFiniteError(GraduncError):
    """NaN or infinity in logits or features."""


class DeviceError(GraduncError):
    """The device that was asked for is absent."""


class FitError(GraduncError):
    """A score cannot be fitted, or what it was fitted on does not belong to what is asked for."""


class CacheError(GraduncError):
    """A cache cannot be opened, written or trusted."""


class CacheMismatchError(CacheError):
    """A cache was computed from another network, other frames or other settings."""


class SchemaError(GraduncError, ValueError):
    """A dataset does not follow the schema."""


class SettingsError(GraduncError, ValueError):
    """Something that was asked for makes no sense."""


class UnknownScoreError(GraduncError, KeyError):
    """No score has this name."""

    def __str__(self) -> str:  # KeyError would show the repr of the text
        return str(self.args[0])


class UnknownFrameError(GraduncError, KeyError):
    """A cache has no frame of this id."""

    def __init__(self, where: object, frame_id: object, ids: Sequence[str]) -> None:
        super().__init__(where, frame_id, ids)

    def __str__(self) -> str:  # looking for ids that are alike takes a while, and `Cache.get` has no use for them
        where, frame_id, ids = self.args
        near = difflib.get_close_matches(str(frame_id), ids, n=3)
        hint = f"; did you mean {', '.join(map(repr, near))}?" if near else ""
        return f"{where}: no frame {frame_id!r} among its {len(ids)} frames{hint}"


def nearest(given: object, known: Iterable[str]) -> str:
    """A hint at names like one that is unknown; empty where none is like it."""
    near = difflib.get_close_matches(str(given), list(known), n=3)
    return f"; did you mean {', '.join(near)}?" if near else ""


def brief(error: BaseException) -> str:
    """Type of an error and the line of its text that says something: ours are one line, whatever caused them."""
    line = telling_line(error)
    kind = type(error).__name__
    return line if line.startswith(kind) else f"{kind}: {line}"


def telling_line(error: BaseException) -> str:
    """The line of an error's text that says something.

    It is the last one of a traceback inside the text, as other interpreters and threads put there; otherwise the first,
    with the next where it only announces that. An error without text is told by the line of code that raised it.
    """
    lines = [line.strip() for line in str(error).splitlines() if re.search(r"\w", line)]
    if not lines:
        code = [frame.line for frame in traceback.extract_tb(error.__traceback__)[-1:] if frame.line]
        return f"{type(error).__name__} in {code[0]!r}" if code else type(error).__name__
    if any("Traceback" in line for line in lines[:-1]):
        raised = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt)\b", line)]
        return (raised or lines)[-1]
    told = lines.pop(0)
    while told.endswith(":") and lines:
        told = f"{told} {lines.pop(0)}"
    return told
