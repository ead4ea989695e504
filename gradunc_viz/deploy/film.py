"""Films of image, prediction and score side by side: MP4 by PyAV, GIF by Pillow."""

from __future__ import annotations

import os
import uuid
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from PIL import GifImagePlugin, Image, ImageDraw, ImageFont

from ..schema.errors import GraduncError, SettingsError

__all__ = ["FILM_SUFFIXES", "Film", "check_film", "side_by_side"]

FILM_SUFFIXES = (".mp4", ".gif")

_WIDTH = {".mp4": 1920, ".gif": 960}
"""Pixels at most; a GIF has no compression to speak of."""

_NARROWEST = 160  # pixels of a panel on which its title can be read
_HEADER, _GAP = 20, 2  # pixels above the panels and between them
_PAPER, _INK = (255, 255, 255), (30, 30, 30)
_LOW, _HIGH = 0.01, 0.99  # quantiles that the palette spans
_SAMPLE = 10_000  # pixels of a frame that its quantiles are of


def check_film(path: Path, sources: Iterable[Path] = ()) -> None:
    """Check that a film can be written, before anything is computed for it.

    Parameters
    ----------
    path : Path
    sources : iterable of Path
        Files that its frames are read from.

    Raises
    ------
    SettingsError
        If it has another suffix, or there is no folder for it; if it is one of the sources, under whatever name; where
        nothing can write it, how to mend that.
    """
    suffix = path.suffix.lower()
    if suffix not in FILM_SUFFIXES:
        raise SettingsError(f"{path}: a film ends in {' or '.join(FILM_SUFFIXES)}, not in {suffix or 'nothing'!r}")
    if path.is_dir():
        raise SettingsError(f"{path}: is a folder; expected the name of a film")
    if not path.parent.is_dir():
        raise SettingsError(f"{path}: there is no folder {path.parent}; expected one")
    if path.exists():
        for source in dict.fromkeys(sources):
            if source.exists() and path.samefile(source):
                raise SettingsError(
                    f"{path}: the film would replace {source}, which its frames are read from; expected another name"
                )
    if suffix == ".mp4":
        try:
            import av  # noqa: F401
        except ImportError as error:
            raise SettingsError(f"{path}: MP4 needs PyAV: pip install av; or give a name that ends in .gif") from error


class Film:
    """Writes frame by frame; what there is when it ends, by an error too, is a whole film.

    Where it cannot be written, as on a full disk, nothing of it is left.

    Parameters
    ----------
    path
        Written under another name first, and not at all if there is no frame.
    rate
        Frames per second.
    colors
        RGB of the classes, 0..255.
    score
        Name of the score.
    limits
        Values of the score that are darkest and brightest. By default the mean of the 1 % and 99 % quantiles of the
        frames so far, which settles after some frames; the numbers beside the palette are those of each frame.

    Attributes
    ----------
    count : int
        Frames so far; one of another size than the first is resized to that.
    written : bool
        Whether it lies at `path`, whole.

    Raises
    ------
    SettingsError
        As `check_film`.
    GraduncError
        When a frame is added, or at the end: if it cannot be written.
    """

    def __init__(
        self,
        path: Path,
        rate: float,
        colors: Sequence[tuple[int, int, int]],
        score: str,
        limits: tuple[float, float] | None = None,
    ) -> None:
        check_film(path)
        self.path, self.count, self.written = path, 0, False
        self.limits = limits
        self._fixed, self._ends = limits is not None, np.zeros(2)
        self._colors, self._score = np.array(colors, "u1"), score
        self._staged = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
        self._writer: _Writer | None = None
        self._rate = rate
        self._size: tuple[int, int] | None = None

    def add(self, image: np.ndarray, prediction: np.ndarray, score: np.ndarray, title: str) -> None:
        """Add a frame: (y, x, 3) uint8, class ids, an oriented score, of any sizes; and what the image is called."""
        if not self._fixed:
            some = score.ravel()[:: max(1, score.size // _SAMPLE)]
            self._ends += np.quantile(some.astype("f8"), (_LOW, _HIGH))
            low, high = self._ends / (self.count + 1)
            self.limits = float(low), float(high)
        assert self.limits is not None
        suffix = self.path.suffix.lower()
        titles = title, "prediction", self._score
        picture = side_by_side(image, self._colors[prediction], score, titles, self.limits, _WIDTH[suffix])
        if self._size is None:
            self._size = picture.size
            self._writer = (_Mp4 if suffix == ".mp4" else _Gif)(self._staged, picture.size, self._rate)
        if self._writer is None:
            raise GraduncError(f"{self.path}: is given up; expected no more frames")
        with self._writing(self._writer):
            self._writer.add(picture if picture.size == self._size else picture.resize(self._size))
        self.count += 1

    @contextmanager
    def _writing(self, writer: _Writer) -> Iterator[None]:
        """Give up where writing fails: encoders crash when they are to go on."""
        try:
            yield
        except writer.errors as error:
            self._writer = None
            with suppress(*writer.errors):
                writer.give_up()
            self._staged.unlink(missing_ok=True)
            reason = getattr(error, "strerror", None) or error
            raise GraduncError(
                f"{self.path}: cannot be written ({reason}), after {self.count} frames; nothing is left of this film"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._writer is not None:
                with self._writing(self._writer):
                    self._writer.close()
                    os.replace(self._staged, self.path)
                    self.written = True
        except GraduncError as problem:
            if error is None:
                raise
            warnings.warn(str(problem), stacklevel=2)  # what ended the film says more
        finally:
            self._staged.unlink(missing_ok=True)


def side_by_side(
    image: np.ndarray,
    prediction: np.ndarray,
    score: np.ndarray,
    titles: tuple[str, str, str],
    limits: tuple[float, float],
    width: int = 1920,
) -> Image.Image:
    """One picture of an image, its prediction and a score.

    Parameters
    ----------
    image : array (y, x, 3) uint8
    prediction : array (y, x, 3) uint8
        In the colours of the classes, of any size.
    score : array (y, x)
        Of any size, in the colours of viridis.
    titles
        Of the three.
    limits
        Values of the score that are darkest and brightest.
    width
        Pixels of the picture at most.

    Returns
    -------
    PIL.Image.Image
        Width and height are even, as videos want it.
    """
    from bokeh.palettes import Viridis256

    height, wide = image.shape[:2]
    scale = min((width - 2 * _GAP) / 3 / wide, max(1, -(-_NARROWEST // wide)))
    panel = max(1, int(wide * scale)), max(1, int(height * scale))
    low, high = limits
    palette = np.array([tuple(bytes.fromhex(color[1:])) for color in Viridis256], "u1")
    shown = Image.fromarray(np.asarray(score, "f4")).resize(panel, Image.Resampling.BILINEAR)
    place = np.clip((np.asarray(shown) - low) / max(high - low, 1e-12), 0, 1)
    panels = (
        Image.fromarray(image).resize(panel, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST),
        Image.fromarray(prediction).resize(panel, Image.Resampling.NEAREST),
        Image.fromarray(palette[np.rint(place * 255).astype("u1")]),
    )
    total = 3 * panel[0] + 2 * _GAP, _HEADER + panel[1]
    picture = Image.new("RGB", (total[0] + total[0] % 2, total[1] + total[1] % 2), _PAPER)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(12)
    ends = f"{low:.3g}", f"{high:.3g}"
    for number, (part, title) in enumerate(zip(panels, titles, strict=True)):
        left = number * (panel[0] + _GAP)
        picture.paste(part, (left, _HEADER))
        while title and draw.textlength(title, font) > panel[0] - 6:  # the end of a long id tells more
            title = title[1:]
        draw.text((left + 3, 2), title, _INK, font)
    left = 2 * (panel[0] + _GAP) + 3 + round(draw.textlength(titles[2], font)) + 8
    first, last = (round(draw.textlength(end, font)) for end in ends)
    bar = total[0] - last - 6 - first - 6 - left - 4
    if bar >= 16:  # the title may take all
        draw.text((left, 2), ends[0], _INK, font)
        strip = Image.fromarray(palette[None, :].repeat(10, 0)).resize((bar, 10))
        picture.paste(strip, (left + first + 5, 6))
        draw.text((left + first + 5 + bar + 5, 2), ends[1], _INK, font)
    return picture


class _Writer(Protocol):
    errors: tuple[type[Exception], ...]

    def add(self, picture: Image.Image) -> None: ...

    def close(self) -> None: ...

    def give_up(self) -> None: ...


class _Mp4:
    """H.264 where the build of FFmpeg has it, else MPEG-4."""

    def __init__(self, path: Path, size: tuple[int, int], rate: float) -> None:
        import av

        self.errors: tuple[type[Exception], ...] = (OSError, av.error.FFmpegError)
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        try:
            self._container = av.open(str(path), "w", format="mp4")
            self._stream: Any = self._container.add_stream(codec, rate=Fraction(rate).limit_denominator(1001))
        except (*self.errors, ValueError) as error:
            raise GraduncError(f"{path.parent}: no film can be written ({error})") from error
        self._stream.width, self._stream.height = size
        self._stream.pix_fmt = "yuv420p"  # what every player shows
        if codec == "libx264":
            self._stream.options = {"crf": "18"}
        else:
            self._stream.bit_rate = 8 * size[0] * size[1]
        # said in the file, as players guess by its size otherwise
        self._stream.codec_context.colorspace = self._stream.codec_context.color_range = 1

    def add(self, picture: Image.Image) -> None:
        import av

        frame = av.VideoFrame.from_image(picture)
        self._container.mux(self._stream.encode(frame.reformat(format="yuv420p", dst_colorspace=1, dst_color_range=1)))

    def close(self) -> None:
        self._container.mux(self._stream.encode())
        self._container.close()

    def give_up(self) -> None:
        self._container.close()


class _Gif:
    """Frame by frame, each with colours of its own; Pillow by itself would hold all frames in memory."""

    errors: tuple[type[Exception], ...] = (OSError,)

    def __init__(self, path: Path, size: tuple[int, int], rate: float) -> None:
        try:
            self._file = path.open("wb")
        except OSError as error:
            raise GraduncError(f"{path.parent}: no film can be written ({error.strerror or error})") from error
        self._milliseconds = 1000 / rate
        self._count = 0

    def add(self, picture: Image.Image) -> None:
        colored = picture.quantize(256, dither=Image.Dither.NONE)
        if not self._count:
            self._file.writelines(GifImagePlugin.getheader(colored, info={"loop": 0})[0])
        # in hundredths of a second, whose errors do not add up
        ends = [round(number * self._milliseconds / 10) * 10 for number in (self._count, self._count + 1)]
        self._file.writelines(
            GifImagePlugin.getdata(colored, duration=max(ends[1] - ends[0], 10), include_color_table=True)
        )
        self._count += 1

    def close(self) -> None:
        self._file.write(b";")
        self._file.close()

    def give_up(self) -> None:
        self._file.close()
