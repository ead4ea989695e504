"""From words of the command line to values, and exit codes."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..schema.errors import GraduncError, brief
from ..schema.user_file import executed, neighbours_importable

DONE, ERROR, USAGE, SKIPPED = 0, 1, 2, 3

STDOUT = Path("-")
"""Stands for stdout where a file is asked for."""


def size(text: str) -> tuple[int, int] | str:
    """``HxW`` -> (height, width); ``own`` stays."""
    if text == "own":
        return text
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) > 0 and int(width) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; expected HEIGHTxWIDTH such as 512x1024, or own")
    return int(height), int(width)


def pair(text: str) -> tuple[int, int]:
    """``3`` or ``3x5`` -> (vertical, horizontal)."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdigit() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; expected such as 3 or 3x5")
    return int(parts[0]), int(parts[-1])


def padding(text: str) -> tuple[int, int] | str:
    """The same, or ``same``."""
    return text if text == "same" else pair(text)


def tile(text: str) -> tuple[int, int] | str:
    """``N`` -> (N, N), ``HxW`` -> (H, W); ``auto`` stays."""
    if text == "auto":
        return text
    try:
        found = size(f"{text}x{text}" if text.isdigit() else text)
    except argparse.ArgumentTypeError:
        found = "own"
    if found == "own":
        raise argparse.ArgumentTypeError(
            f"{text!r} is no size of windows; expected HEIGHTxWIDTH such as 512x1024, one number for both, or auto"
        )
    return found


def overlap(text: str) -> int | float:
    """Pixels, or a share of a window."""
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no overlap; expected a share of the window such as 0.25, or a number of pixels"
        ) from None


def integers(text: str) -> tuple[int, ...]:
    """``0,19`` -> (0, 19)."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of channels; expected such as 19 or 0,19") from None


def numbers(text: str) -> tuple[float, ...]:
    """``0.5,0.4`` -> (0.5, 0.4)."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no list of numbers; expected such as 0.5 or 0.4,0.5,0.6"
        ) from None


def normalization(arguments: argparse.Namespace) -> Any:
    """What a network's images are normalised with, from all options that say so.

    Raises
    ------
    GraduncError
        If two of them contradict each other.
    """
    mean, std, scale = arguments.mean, arguments.std, arguments.scale
    if mean is std is scale is None:
        return arguments.normalize
    if arguments.normalize is not None:
        raise GraduncError(
            f"--normalize {arguments.normalize} beside --mean, --std or --scale: expected one or the other"
        )
    mean, std = mean or (0.0,), std or (1.0,)
    n = max(len(mean), len(std))
    widened = (part * n if len(part) == 1 else part for part in (mean, std))
    return tuple(tuple(number / (scale or 1) for number in part) for part in widened)


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive whole number")
    return int(text)


def natural(text: str) -> int:
    """A whole number of 0 or more."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 0 or more")
    return int(text)


def moment(text: str) -> int | float:
    """``120`` -> frame 120; ``12.5s`` -> 12.5 seconds, as a float."""
    number = text.removesuffix("s")
    try:
        place = float(number) if text.endswith("s") else int(number)
    except ValueError:
        place = -1
    if not 0 <= place < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no moment; expected a frame such as 120, or seconds as 4.5s")
    return place


def limits(text: str) -> tuple[float, float]:
    """``-2,5`` -> (-2.0, 5.0)."""
    ends = numbers(text)
    if len(ends) != 2 or not ends[0] < ends[1]:
        raise argparse.ArgumentTypeError(f"{text!r} is no range; expected such as 0,1 or, as it begins in -, =-2,5")
    return ends[0], ends[1]


def rate(text: str) -> float:
    """A number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0
    if not 0 < number <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is no rate; expected frames per second such as 25")
    return number


def width(text: str) -> str | float:
    """The width of a figure: a name or inches."""
    from ..figures.style import width_inches

    try:
        given: str | float = float(text)
    except ValueError:
        given = text
    try:
        width_inches(given)
    except GraduncError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return given


def mapping_or_pattern(text: str) -> str | Path:
    """The path of a file, or a pattern of paths, which has ``{id}`` in it."""
    return text if "{" in text else Path(text)


def port(text: str) -> int:
    """A port that can be served on."""
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; expected 1 to 65535")
    return int(text)


def names(text: str) -> list[str]:
    """``A,B`` -> [A, B]."""
    return [part.strip() for part in text.split(",")]


def class_options(spec: str | None) -> dict[str, Any]:
    """Names and colours of classes as a run takes them, from a convention's name or a file."""
    if spec is None:
        return {}
    from ..datasets.class_files import find_classes

    named = find_classes(spec)
    return {"classes": named.names, "colors": named.colors}


def run_score_file(path: str | Path) -> None:
    """Execute a Python file, once, so that the scores that it registers exist.

    Parameters
    ----------
    path
        Its folder is importable meanwhile, as when the file is run as a script. A file that has been executed in this
        process is not executed again.

    Raises
    ------
    GraduncError
        If there is no such file, or it fails; the text names it and what it raised.
    """
    file = Path(path).expanduser().resolve()
    name = f"gradunc_score_file_{file.stem}_{hashlib.blake2b(str(file).encode(), digest_size=6).hexdigest()}"
    if name in sys.modules:
        return
    if not file.is_file():
        raise GraduncError(f"score file {path} {'is no file' if file.exists() else 'does not exist'}")
    try:
        with neighbours_importable(file):
            executed(file, name)
    except (Exception, SystemExit) as error:  # a user's file may raise anything
        raise GraduncError(f"score file {path} failed: {brief(error)}") from error


def write_forms(
    arguments: argparse.Namespace,
    table: Any,
    records: Callable[[], list[dict[str, Any]]],
    csv: Callable[[], str] | None = None,
) -> bool:
    """Write a table in the forms that were asked for, see `gradunc_viz.cli.options.table_forms`; whether any was."""
    forms: dict[str, Callable[[], str]] = {
        "json": lambda: json.dumps(records(), indent=1) + "\n",
        "csv": csv or (lambda: table.to_csv()),
        "latex": lambda: table.to_latex(),
        "markdown": lambda: table.to_markdown(),
        "html": lambda: table.to_html() + "\n",
    }
    asked = {name: path for name in forms if (path := getattr(arguments, name)) is not None}
    for name, path in asked.items():
        put(path, forms[name]())
    return bool(asked)


def check_folder(file: Path) -> None:
    """Check that there is a folder for a file that is written later.

    Raises
    ------
    GraduncError
        Naming both.
    """
    if not file.parent.is_dir():
        raise GraduncError(f"{file}: there is no folder {file.parent}; expected one")


def put(path: Path, text: str) -> None:
    """Write to a file, or to stdout."""
    if path == STDOUT:
        sys.stdout.write(text)
        return
    try:
        path.write_text(text, encoding="utf-8", errors="backslashreplace")  # names of files need not be text
    except OSError as error:
        raise GraduncError(f"{path}: cannot be written ({error.strerror or error})") from error


def size_on_disk(path: Path) -> str:
    """Bytes of all files in a folder, in words."""
    size = float(sum(file.stat().st_size for file in path.rglob("*") if file.is_file()))
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


def console() -> Any:
    """Tables as wide as the terminal; wide where the output goes to a file or another program."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=200)
