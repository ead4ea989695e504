"""What a command is: its name, its options and its function, side by side."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["COMMANDS", "Command", "command"]

Options = Callable[[argparse.ArgumentParser], object]
Run = Callable[[argparse.Namespace], int]


@dataclass(frozen=True)
class Command:
    """One command of ``gradunc``.

    Attributes
    ----------
    name
    text
        What it does, one line in lower case.
    options
        Functions that add options to its parser. They are called when the command is used, so that what they say may
        come from modules that are not loaded otherwise.
    run
        Does it, and returns the exit code.
    """

    name: str
    text: str
    options: tuple[Options, ...]
    run: Run


COMMANDS: dict[str, Command] = {}
"""Every command by name, in the order of the help."""


def command(name: str, text: str, *options: Options) -> Callable[[Run], Run]:
    """Make a function a command."""

    def add(run: Run) -> Run:
        COMMANDS[name] = Command(name, text, options, run)
        return run

    return add
