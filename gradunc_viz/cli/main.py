"""The command line: ``gradunc``. Parses, calls the library, prints; heavy modules are imported when needed."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from .. import __version__
from ..schema.errors import GraduncError
from . import options
from .command import COMMANDS, Command
from .values import DONE, ERROR, STDOUT, run_score_file

__all__ = ["main"]

for group in ("run", "compare", "data", "look"):  # modules of commands, in the order of the help
    import_module(f"{__package__}.{group}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    0 done, 1 error, 2 usage, 3 done but frames were skipped, 130 interrupted (Ctrl-C), 143 terminated (SIGTERM).
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # whatever it encodes, names of classes and files hold anything
            stream.reconfigure(errors="backslashreplace")
    arguments = _parser().parse_args(argv)
    for name, value in vars(arguments).items():
        setattr(arguments, name, _anchored(value))
    formatted, warnings.formatwarning = warnings.formatwarning, _warning
    try:
        with _ended_by_schedulers():
            for file in getattr(arguments, "score_files", ()):
                run_score_file(file)
            return int(arguments.run(arguments) or DONE)
    except GraduncError as error:
        if arguments.debug:
            traceback.print_exc()
        print(f"gradunc: error: {' '.join(str(error).split())}", file=sys.stderr)
        return ERROR
    except _Terminated:
        print("gradunc: terminated; finished frames are kept", file=sys.stderr)
        return 128 + signal.SIGTERM
    except KeyboardInterrupt:
        print("gradunc: interrupted; finished frames are kept", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader of our output, such as head, has gone
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return ERROR
    finally:
        warnings.formatwarning = formatted


class _Terminated(KeyboardInterrupt):
    """SIGTERM, handled as Ctrl-C is: whatever is open is closed, and what is staged removed."""


@contextmanager
def _ended_by_schedulers() -> Iterator[None]:
    """Let SIGTERM, which schedulers and containers send before they kill, end the command as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():  # others may not handle signals
        yield
        return

    def end(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # it is ending already
        raise _Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning for the user, without the place in our code that gives it."""
    place = "" if category is UserWarning else f"{filename}:{lineno}: {category.__name__}: "
    return f"gradunc: warning: {place}{' '.join(str(message).split())}\n"


def _anchored(value: Any) -> Any:
    """A path as it is meant now: files of the user's that are executed later may go to another folder."""
    if isinstance(value, list):
        return [_anchored(part) for part in value]
    return value.absolute() if isinstance(value, Path) and value != STDOUT else value


class _CommandParser(argparse.ArgumentParser):
    """Parser of one command; it gets its options when it is used, as they ask modules that take time to load."""

    def __init__(self, command: Command, **names: Any) -> None:
        # no abbreviations: `--repa` would take frames out
        super().__init__(description=f"{command.text[0].upper()}{command.text[1:]}.", allow_abbrev=False, **names)
        self.command: Command | None = command

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self.command is not None:
            command, self.command = self.command, None
            options.debug(self, default=argparse.SUPPRESS)  # as given before the command's name
            for add in command.options:
                add(self)
            self.set_defaults(run=command.run)
        return super().parse_known_args(args, namespace)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gradunc",
        description="Shows where a semantic-segmentation network should not be trusted.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"gradunc-viz {__version__}")
    options.debug(parser)
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_CommandParser)
    for command in COMMANDS.values():
        commands.add_parser(command.name, help=command.text, command=command)
    return parser
