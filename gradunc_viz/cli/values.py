"""From words of the command line to values, and exit codes."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ..schema.errors import GraduncError

DONE, ERROR, USAGE, SKIPPED = 0, 1, 2, 3


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) > 0 and int(width) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; expected HEIGHTxWIDTH such as 512x1024")
    return int(height), int(width)


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of channels; expected such as 19 or 0,19") from None


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive whole number")
    return int(text)


def _natural(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 0 or more")
    return int(text)


def _width(text: str) -> str | float:
    from ..figures.style import width_inches

    try:
        width: str | float = float(text)
    except ValueError:
        width = text
    try:
        width_inches(width)
    except GraduncError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return width


def _port(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; expected 1 to 65535")
    return int(text)


def _class_table(spec: str | None) -> dict[str, Any]:
    """Names and colours from a convention's name or a JSON file like ``classes.json``."""
    if spec is None:
        return {}
    if not Path(spec).suffix:
        from ..datasets.catalog import known_classes

        table = list(known_classes(spec))
    else:
        try:
            entries = json.loads(Path(spec).read_text())
            table = [(str(entry["name"]), tuple(entry["color"])) for entry in sorted(entries, key=lambda e: e["id"])]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise GraduncError(f"{spec}: cannot be read as a list of {{id, name, color}} ({error})") from error
    return {"classes": [name for name, _ in table], "colors": [color for _, color in table]}


def _bytes(path: Path) -> str:
    size = float(sum(file.stat().st_size for file in path.rglob("*") if file.is_file()))
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


def _console() -> Any:
    """Tables as wide as the terminal; wide where the output goes to a file or another program."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=200)
