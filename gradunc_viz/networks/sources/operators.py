"""Operators that a program out of a file may call: those that compute, and none that reach outside of it."""

from __future__ import annotations

__all__ = ["FILES", "NAMESPACES", "objection", "touches_files"]

NAMESPACES = frozenset(
    ("aten", "prim", "prims", "mkldnn", "quantized", "_quantized", "quantized_decomposed", "torchvision")
)
"""Of operators of tensors; ``image`` and ``video_reader`` of torchvision, ``c10d`` and others read files or send."""

FILES = frozenset(("from_file", "save"))
"""Names of those among them that read or write files."""

_CONTROL = frozenset(
    (
        "associative_scan",
        "auto_functionalized",
        "auto_functionalized_v2",
        "cond",
        "flex_attention",
        "hints_wrapper",
        "invoke_subgraph",
        "map_impl",
        "out_dtype",
        "scan",
        "strict_mode",
        "tag_activation_checkpoint",
        "while_loop",
        "wrap",
        "wrap_activation_checkpoint",
        "wrap_with_autocast",
        "wrap_with_set_grad_enabled",
    )
)
"""Operators of `torch.export` that run other graphs or operators, each of which the program holds or names."""


def touches_files(space: str, name: str) -> bool:
    """Whether an operator reads or writes files."""
    return space == "aten" and name in FILES


def objection(space: str, name: str) -> str:
    """What a program out of a file may not call, and why: the end of a sentence; empty where it may.

    Parameters
    ----------
    space, name
        Of the operator, as ``"aten"`` and ``"relu"``; the space ``"higher_order"`` is that of control flow.
    """
    if touches_files(space, name):
        return f"calls {space}::{name}, which reads or writes files"
    if space in NAMESPACES or (space == "higher_order" and name in _CONTROL):
        return ""
    return f"calls {space}::{name}, which is none of PyTorch's operators of tensors"
