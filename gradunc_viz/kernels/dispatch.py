"""Which kernels a tensor's device has: one pass over features and logits instead of one formula after the other.

A module of kernels has two functions, `feature_sums` and `label_pass`, with the arguments that those of
`gradunc_viz.kernels.torch_cpu` describe. On a CPU they are compiled by LLVM where that works on this
machine, else made of torch's operations; the environment variable ``GRADUNC_KERNELS=torch`` asks for the latter.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

__all__ = ["fast_kernels", "fast_resizing", "tallies_for"]


@cache
def _module(device: str) -> ModuleType | None:
    if device == "cuda" and importlib.util.find_spec("triton") is not None:
        return importlib.import_module(".cuda", __package__)
    return _for_cpu() if device == "cpu" else None


def _for_cpu() -> ModuleType:
    plain = importlib.import_module(".torch_cpu", __package__)
    if os.environ.get("GRADUNC_KERNELS") == "torch" or importlib.util.find_spec("llvmlite") is None:
        return plain
    try:
        importlib.import_module(".llvm.code", __package__).check()
        return importlib.import_module(".llvm.norms", __package__)
    except Exception as error:  # a library that does not load, a system that lets no program write code
        warnings.warn(f"scores take torch's operations, several times slower: llvmlite fails ({error})", stacklevel=4)
        return plain


def fast_kernels(*tensors: Tensor, wide: bool = False) -> ModuleType | None:
    """Kernels for these tensors, or None where plain torch has to do.

    That is so on other devices, for sums in float64 (`wide`) on CUDA, for tensors without elements, where a derivative
    is to be taken, and where torch records operations instead of running them (export, compile, transforms).
    """
    device = tensors[0].device.type
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return None
    for tensor in tensors:
        plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout == torch.strided and tensor.numel()
        if not plain or tensor.device.type != device or not tensor.dtype.is_floating_point:
            return None
        if tensor.requires_grad and torch.is_grad_enabled():
            return None
    if torch._C._functorch.maybe_current_level() is not None:
        return None
    return None if wide and device != "cpu" else _module(device)


def _is_compiled() -> bool:
    return getattr(_module("cpu"), "__name__", "").startswith(f"{__package__}.llvm.")


def fast_resizing(tensor: Tensor) -> ModuleType | None:
    """`gradunc_viz.kernels.llvm.resized`, or None where plain torch has to resize."""
    if tensor.device.type != "cpu" or fast_kernels(tensor) is None or not _is_compiled():
        return None
    return importlib.import_module(".llvm.resized", __package__)


def tallies_for(values: Tensor) -> ModuleType:
    """`gradunc_viz.kernels.llvm.tallies` where a CPU's kernels are compiled, else the plain one."""
    compiled = values.device.type == "cpu" and _is_compiled()
    return importlib.import_module(".llvm.tallies" if compiled else ".tallies", __package__)
