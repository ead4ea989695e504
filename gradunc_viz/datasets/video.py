"""Videos: frames in the order in which they are shown, decoded when they are asked for."""

from __future__ import annotations

import hashlib
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..schema.errors import FrameError
from .image_source import ImageSource

__all__ = ["VIDEO_SUFFIXES", "Video", "VideoFrame"]

VIDEO_SUFFIXES = frozenset((".avi", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ts", ".webm"))
"""Suffixes, in lower case, of the files that count as videos."""

_KEPT = 8  # decoded frames that are kept: threads that read ahead ask for neighbours, and for one frame several times


class Video:
    """Frames of a video file.

    Its packets are listed once, without decoding them; a frame is decoded from the keyframe before it, or from where
    the decoder stands. A frame that is damaged, and those up to the next keyframe, which are made of it, are errors:
    decoders would rather guess what they show.

    Parameters
    ----------
    path

    Raises
    ------
    FrameError
        If it cannot be read as a video, or holds no frame.

    Warns
    -----
    UserWarning
        If it ends before its header says.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Any] = OrderedDict()  # by time stamp, in its own units
        self._decoder: Iterator[tuple[int, Any]] | None = None
        self._at = -1  # the frame that the decoder gave last
        self._damage: dict[int, tuple[int, str]] = {}  # by keyframe: the first frame that cannot be decoded, and why
        with self._opened() as (container, stream):
            self._list(container, stream)

    def _list(self, container: Any, stream: Any) -> None:
        """List time stamps, in units of the stream, of all frames and of keyframes."""
        import av

        stamps, lengths, cut, keys, last, reason, packets = [], [], [], [], None, "", 0
        # AVI has no time stamps, and guesses are wrong where frames are stored in another order than shown
        self._counted = container.format.name == "avi" and stream.codec_context.name not in ("mjpeg", "mpeg4")
        try:
            for packet in container.demux(stream):
                if not packet.size:  # the end
                    continue
                if packet.is_corrupt:
                    reason = "a part of a frame is missing"
                    break
                packets += 1
                self._counted = self._counted or packet.pts is None
                last = packet.dts if packet.dts is not None else last
                if packet.is_discard:  # before the beginning that an edit list sets, and needed for what follows
                    cut.append(packet.pts)
                else:
                    stamps.append(packet.pts)
                    lengths.append(packet.duration or 0)
                if packet.is_keyframe:
                    keys.append(packet.pts)
        except av.error.FFmpegError as error:
            reason = _reason(error)
        if self._counted:
            stamps, lengths, cut, keys = [*range(len(stamps))], [0] * len(stamps), [], [0]
        every = np.unique(np.array(stamps, "i8"))
        step = int(np.median(np.diff(every))) if len(every) > 1 else 0
        start = every[0] if len(every) else 0
        # of streams for broadcast the length is that of the file, cut off or not
        if not reason and container.format.name not in ("mpegts", "mpeg"):
            first = max((stamp for stamp in cut if stamp < start), default=start)
            if _ends_early(stream, np.array([stamps, lengths], "i8"), first, packets):
                reason = "truncated"
        if reason:
            # later ones may be shown after some that are missing
            if last is not None and not self._counted and packets != stream.frames:
                every = every[every <= last]
            whole = f" of {stream.frames}" if stream.frames > len(every) else ""
            read = f"frames 0 to {len(every) - 1} are read" if len(every) else "no frame can be read"
            told = f"{self.path}: ends after {len(every)}{whole} frames ({reason}); {read}"
            if not len(every):
                raise FrameError(told)
            warnings.warn(told, stacklevel=6)
        if not len(every):
            raise FrameError(f"{self.path}: holds no frame, expected a video")
        self._stamps, self._keys = every, np.searchsorted(every, np.unique(np.array(keys, "i8")))
        rate = stream.average_rate or stream.guessed_rate
        self.rate = float(rate) if rate else (1 / (step * float(stream.time_base)) if step else 1.0)
        """Frames per second, on average."""
        self.seconds: np.ndarray = (every - start) * (1 / self.rate if self._counted else float(stream.time_base))
        """When each frame is shown."""

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, Any]]:
        try:
            import av
        except ImportError as error:
            raise FrameError(f"{self.path}: videos need PyAV: pip install av; or give a folder of images") from error
        try:
            container = av.open(str(self.path))
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise FrameError(f"{self.path}: cannot be decoded as a video ({_reason(error)})") from error
        with container:
            if not container.streams.video:
                kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
                raise FrameError(f"{self.path}: holds no video stream, only {kinds}")
            stream = container.streams.best("video")
            if stream.codec_context is None:
                raise FrameError(f"{self.path}: this build of PyAV cannot decode its video")
            # with more threads decoders do not say which frames they had to guess
            stream.codec_context.thread_count = 1
            yield container, stream

    def __len__(self) -> int:
        return len(self._stamps)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> np.ndarray:
        """A frame, (y, x, 3) uint8 RGB, upright as its metadata says.

        Raises
        ------
        IndexError
            If there is none.
        FrameError
            If it, or one that it is made of, cannot be decoded.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path}: frame {index}, expected 0 to {len(self) - 1}")
        with self._lock:
            frame = self._frame(index)
            pixels: np.ndarray = frame.to_ndarray(format="rgb24")
            return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))

    def _frame(self, index: int) -> Any:
        wanted = int(self._stamps[index])
        if wanted not in self._kept:
            before = self._keys[self._keys <= index]
            key = int(before[-1]) if len(before) else 0
            if key in self._damage and self._damage[key][0] <= index:
                self._fail(index, *self._damage[key])
            if not (self._decoder is not None and self._at < index and key <= self._at + 1 and self._decode_to(wanted)):
                # where time stamps of keyframes are inexact, one before leads there too
                starts = [*before[::-1][:3].tolist(), None]
                if not any(self._decode_to(wanted, start) for start in starts):
                    self._fail(index, *self._damage.get(key, (index, "the decoder gives no such frame")))
        return self._kept[wanted]

    def _decode_to(self, wanted: int, start: int | None = -1) -> bool:
        """Decode up to a time stamp, from a keyframe, the beginning (None) or where the decoder stands (-1)."""
        if start != -1:
            self._decoder = self._decoded(start)
        assert self._decoder is not None
        for stamp, frame in self._decoder:
            self._kept[stamp] = frame
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
            self._at = int(np.searchsorted(self._stamps, stamp))
            if stamp >= wanted:
                return wanted in self._kept
        self._decoder = None
        return False

    def _decoded(self, start: int | None) -> Iterator[tuple[int, Any]]:
        """Decode from a keyframe on, up to the first frame that cannot be; with time stamps."""
        import av

        first = -1 if start is None else int(self._stamps[start])
        good = -1  # the last frame that was decoded
        reason = ""
        with self._opened() as (container, stream):
            try:
                if start:
                    container.seek(first, stream=stream)
                numbers = count()
                for packet in container.demux(stream):
                    for frame in packet.decode():
                        stamp = next(numbers) if self._counted else frame.pts
                        # what is shown before a keyframe may be made of what lies before it, and is not asked for here
                        if stamp is None or stamp < first:
                            continue
                        if frame.is_corrupt:
                            raise av.error.InvalidDataError(0, "damaged")
                        yield stamp, frame
                        good = int(np.searchsorted(self._stamps, stamp))
            except av.error.FFmpegError as error:
                reason = _reason(error)
        if reason:
            broken = max(good + 1, start or 0)
            before = self._keys[self._keys <= broken]
            self._damage[int(before[-1]) if len(before) else 0] = broken, reason

    def _fail(self, index: int, broken: int, reason: str) -> None:
        what = f"frame {index} (at {self.seconds[index]:.2f} s) cannot be decoded"
        why = reason if broken == index else f"it is made of frame {broken}, which cannot be: {reason}"
        last = f"; the last one before it that can is {broken - 1}" if broken else ""
        raise FrameError(f"{self.path}: {what} ({why}){last}")

    @cached_property
    def digest(self) -> bytes:
        """Hash of the file."""
        try:
            with self.path.open("rb") as file:
                return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
        except OSError as error:
            raise FrameError(f"{self.path}: cannot be read ({error.strerror or error})") from error


class VideoFrame(ImageSource):
    """One frame of a video."""

    def __init__(self, video: Video, index: int) -> None:
        self.video, self.index = video, index

    def __str__(self) -> str:
        return f"{self.video.path}, frame {self.index}"

    @property
    def name(self) -> str:  # noqa: D102
        return f"{self.video.path.name}, frame {self.index}"

    @property
    def file(self) -> Path:  # noqa: D102
        return self.video.path

    @property
    def seconds(self) -> float:
        """When it is shown."""
        return float(self.video.seconds[self.index])

    def open(self) -> Image.Image:  # noqa: D102
        return Image.fromarray(self.video[self.index])

    def key(self) -> bytes:  # noqa: D102
        return self.video.digest + self.index.to_bytes(8, "big")


def _ends_early(stream: Any, shown: np.ndarray, start: int, packets: int) -> bool:
    """Whether frames end before the header says that the video does, or some are missing before that.

    Parameters
    ----------
    stream
    shown : array (2, frames)
        When each frame is shown, and for how long where that is known, else 0.
    start
        When that frame is shown which the video begins with; only a part of its time may be left.
    packets
        How many there are, with those of frames that are not shown.
    """
    duration = stream.duration
    text = stream.metadata.get("DURATION", "")  # of Matroska: 00:00:04.000000000
    if not duration and text:
        hours, minutes, seconds = map(float, text.split(":"))
        duration = (3600 * hours + 60 * minutes + seconds) / float(stream.time_base)
    if not duration or not shown.size:
        return bool(duration)
    gaps = np.diff(np.unique(shown[0]))
    # a video that was trimmed without being encoded anew lacks frames on purpose, and its time is that of the others
    if len(gaps) and packets < stream.frames and duration > (stream.frames - 1) * np.median(gaps):
        return True
    longest = gaps.max(initial=0)
    stamps, lengths = shown
    end = (stamps + np.where(lengths, lengths, longest)).max()  # as far as one can tell
    return bool(longest and duration - (end - start) > 0.5 * longest)


def _reason(error: Exception) -> str:
    """What FFmpeg says of a file, without its number and the file's name again."""
    log = getattr(error, "log", None)
    text = log[2].strip() if log else ""
    return text or getattr(error, "strerror", None) or " ".join(str(error).split())
