"""Files of `torch.export.save`, looked at before PyTorch reads them.

`torch.export.load` unpickles what does not load as plain tensors, evaluates the expressions of dynamic sizes as Python,
and loads compiled code that lies in the archive. A file in which there is any of these is refused here.
"""

from __future__ import annotations

import ast
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ...schema.errors import ModelError, brief

__all__ = ["check_program_file"]

_OBJECTS = ("custom_obj", "opaque_obj")


def check_program_file(file: str | Path) -> Path:
    """The path of a program's file, if reading it runs no code.

    Raises
    ------
    ModelError
        If there is no such file, it is no archive of a program, or it holds compiled code, pickled objects, or
        expressions that are more than arithmetic.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise ModelError(f"model file {file} {'is no file' if path.exists() else 'does not exist'}")
    if not zipfile.is_zipfile(path):
        raise ModelError(f"{file} is no archive: expected a program written by torch.export.save")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if any("/constants.pkl" in name or name == "constants.pkl" for name in names):
            raise ModelError(f"{file} is TorchScript: expected a program of torch.export; load it as torchscript:FILE")
        if not any("/models/" in name or name == "serialized_exported_program.json" for name in names):
            raise ModelError(f"{file} holds no program: expected one written by torch.export.save")
        for name in names:
            last = name.rpartition("/")[2]
            if "data/aotinductor/" in name:
                raise _refusal(file, f"compiled code ({name})")
            if last.startswith(_OBJECTS):
                raise _refusal(file, f"a pickled object ({name})")
            if name.endswith(".pt"):
                _check_plain(file, name, archive.read(name))
            elif name.endswith(".json"):
                _check_json(file, name, archive)
    return path


def _refusal(file: str | Path, what: str) -> ModelError:
    return ModelError(
        f"{file} holds {what}, and reading it could run code: refused; load it where you trust it, and give "
        "gv.load_model the program"
    )


def _check_plain(file: str | Path, name: str, content: bytes) -> None:
    if not content:
        return
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except Exception as error:  # a damaged one too
        raise _refusal(file, f"more than tensors in {name}") from error


def _check_json(file: str | Path, name: str, archive: zipfile.ZipFile) -> None:
    try:
        content = json.loads(archive.read(name))
    except ValueError as error:
        raise ModelError(f"{file}: {name} is damaged ({brief(error)})") from error
    for key, value in _entries(content):
        if key == "use_pickle" and value:
            raise _refusal(file, f"pickled weights ({name})")
        if key == "expr_str" and not _is_arithmetic(value):
            raise _refusal(file, f"the expression {str(value)[:60]!r} in {name}")
    # names of sizes are evaluated likewise
    for ranges in (value for key, value in _entries(content) if key == "range_constraints"):
        if any(not str(symbol).isidentifier() for symbol in ranges):
            raise _refusal(file, f"the name {str(list(ranges))[:60]!r} of a size in {name}")


def _entries(content: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(content, dict):
        yield from content.items()
    for part in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
        yield from _entries(part)


_ARITHMETIC = (
    ast.Expression, ast.Call, ast.keyword, ast.Name, ast.Load, ast.Constant, ast.BinOp, ast.UnaryOp, ast.BoolOp,
    ast.Compare, ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
)  # fmt: skip


def _is_arithmetic(text: Any) -> bool:
    """Whether an expression is made of numbers, names of sizes and SymPy's operations, all of which are capitalised."""
    try:
        nodes = list(ast.walk(ast.parse(str(text), mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(isinstance(node, _ARITHMETIC) for node in nodes) and all(
        (isinstance(node.func, ast.Name) and node.func.id[:1].isupper())
        if isinstance(node, ast.Call)
        else node.value.isidentifier()
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        else True
        for node in nodes
    )
