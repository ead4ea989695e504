"""Python files that a user hands over."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

__all__ = ["executed", "neighbours_importable"]


@contextmanager
def neighbours_importable(path: Path) -> Iterator[None]:
    """Let the neighbours of a file be imported meanwhile, as when the file is run as a script."""
    folder = str(path.parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def executed(path: Path, name: str) -> ModuleType:
    """Execute a file as the module `name`, which stays in `sys.modules` unless it fails.

    Raises
    ------
    ImportError
        If the file is none of Python's; besides, whatever the file raises.
    """
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up while they are being defined
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
