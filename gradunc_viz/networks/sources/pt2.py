"""Files of `torch.export.save`, looked at before PyTorch reads them.

`torch.export.load` unpickles what does not load as plain tensors, evaluates the expressions of dynamic sizes and the
conditions on them as Python, writes names into a function's text, imports modules that are named as the types of what a
program returns, and loads compiled code that lies in the archive. A file in which any of these is more than a program
needs is refused here. What a program calls is checked by `gradunc_viz.networks.sources.operators`, before it runs.
"""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ...schema.errors import ModelError
from .archives import damage, opened

__all__ = ["check_program_file"]

_OBJECTS = ("custom_obj", "opaque_obj")


def check_program_file(file: str | Path) -> Path:
    """The path of a program's file, if reading it runs no code; which operators it calls is not looked at here.

    Raises
    ------
    ModelError
        If there is no such file, it is no archive of a program, a part of it is damaged, or it holds compiled code,
        pickled objects, expressions that are more than arithmetic, or names that are none.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise ModelError(f"model file {file} {'is no file' if path.exists() else 'does not exist'}")
    if not zipfile.is_zipfile(path):
        raise ModelError(f"{file} is no archive: expected a program written by torch.export.save")
    with opened(file) as archive:
        names = archive.namelist()
        if len({name.lower() for name in names}) < len(names):  # PyTorch could read another one than is checked
            raise _refusal(file, "two members of one name")
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
    except (ValueError, RecursionError) as error:
        raise damage(file, name, error) from error
    for key, value in _entries(content):
        if key == "use_pickle" and value:
            raise _refusal(file, f"pickled weights ({name})")
        if key == "expr_str" and not _is_arithmetic(value):
            raise _refusal(file, f"the expression {str(value)[:60]!r} in {name}")
        if key == "guards_code" and (bad := [one for one in _listed(value) if not _is_condition(one)]):
            raise _refusal(file, f"the condition {str(bad[0])[:60]!r} in {name}")
        names = _listed(value) if key in ("name", "forward_arg_names") or key.endswith("_name") else []
        if bad := [one for one in names if isinstance(one, str) and _NO_NAME.search(one)]:
            raise _refusal(file, f"the name {bad[0][:60]!r} in {name}")
        if key in ("in_spec", "out_spec") and (module := _imported(value)):
            raise _refusal(file, f"a type of the module {module[:60]!r} in {name}")
    # names of sizes are evaluated likewise
    for ranges in (value for key, value in _entries(content) if key == "range_constraints"):
        if any(not str(symbol).isidentifier() for symbol in ranges or ()):
            raise _refusal(file, f"the name {str(list(ranges))[:60]!r} of a size in {name}")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _entries(content: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(content, dict):
        yield from content.items()
    for part in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
        yield from _entries(part)


_NO_NAME = re.compile(r"[\"'\\()=;#\s]")
"""What is in no name of a value or a weight; all of these are written into Python's text."""


def _imported(spec: Any) -> str:
    """The module that would be imported to read how inputs or outputs are nested; empty if none is."""
    if isinstance(spec, str):  # JSON in JSON
        try:
            spec = json.loads(spec)
        except (ValueError, RecursionError):
            return ""
    for key, value in _entries(spec):
        if key == "__enum__":
            return "enum"
        if key == "default_factory_module" and value not in ("builtins", "collections"):
            return str(value)
        if key == "context" and (module := _imported(value)):
            return module
    return ""


_ARITHMETIC = (
    ast.Expression, ast.Call, ast.keyword, ast.Name, ast.Load, ast.Constant, ast.BinOp, ast.UnaryOp, ast.BoolOp,
    ast.Compare, ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
)  # fmt: skip


def _is_arithmetic(text: Any) -> bool:
    """Whether an expression is made of numbers, names of sizes and SymPy's operations, all of which are capitalised."""
    return all(
        isinstance(node, _ARITHMETIC)
        and (not isinstance(node, ast.Call) or (isinstance(node.func, ast.Name) and node.func.id[:1].isupper()))
        for node in _nodes(text)
    )


def _is_condition(text: Any) -> bool:
    """Whether it compares sizes of inputs, such as ``L['x'].size()[2] % 8 == 0``, by functions of numbers."""
    functions = {"abs", "bool", "float", "int", "max", "min", "round"}
    return all(
        isinstance(node, (*_ARITHMETIC, ast.Subscript))
        or (isinstance(node, ast.Attribute) and (node.attr in _SHAPE or _of_math(node)))
        for node in _nodes(text)
    ) and all(
        node.func.attr in _SHAPE or _of_math(node.func)
        if isinstance(node.func, ast.Attribute)
        else isinstance(node.func, ast.Name) and (node.func.id[:1].isupper() or node.func.id in functions)
        for node in _nodes(text)
        if isinstance(node, ast.Call)
    )


_SHAPE = ("dim", "size", "storage_offset", "stride")


def _of_math(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id == "math" and not node.attr.startswith("_")


def _nodes(text: Any) -> list[ast.AST]:
    """Nodes of an expression; one that stands for none at all where it is no expression, or holds a text but a name."""
    try:
        nodes = list(ast.walk(ast.parse(str(text), mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return [ast.Pass()]
    texts = (node.value for node in nodes if isinstance(node, ast.Constant))
    return [ast.Pass()] if any(isinstance(one, str) and not one.isidentifier() for one in texts) else nodes
