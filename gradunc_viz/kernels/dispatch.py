"""Which kernels a device has: one pass over features and logits instead of one formula after the other.

They are chosen once, when a run begins. A module of sums has two functions, `feature_sums` and `label_pass`, with the
arguments that those of `gradunc_viz.kernels.torch_cpu` describe. On a CPU they are compiled by LLVM where that works on
this machine, else made of torch's operations; the environment variable ``GRADUNC_KERNELS=torch`` asks for the latter.
Kernels decline what they do not know: other scores, tensors and devices are left to plain torch.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from ..schema.scores import GradientScore, Score, SoftmaxScore
from . import tallies

__all__ = ["Kernels", "is_traced", "kernels_on"]


@dataclass(frozen=True)
class Kernels:
    """What computes scores on one kind of device.

    Attributes
    ----------
    sums : module or None
        `feature_sums` and `label_pass`, or None where plain torch has to do.
    resizing : module or None
        `resized_scores` and `resized_log2_norms`, likewise.
    tallies : module
        Pixels per bin, see `gradunc_viz.kernels.tallies`.
    passes : module or None
        `mean_softmax`, likewise.
    """

    sums: ModuleType | None
    resizing: ModuleType | None
    tallies: ModuleType
    passes: ModuleType | None = None

    @staticmethod
    def know(score: Score) -> bool:
        """Whether a score is one that they compute; all others are left to their own functions."""
        return isinstance(score, (GradientScore, SoftmaxScore))

    def sums_of(self, *tensors: Tensor, wide: bool = False) -> ModuleType | None:
        """Sums for these tensors, or None where plain torch has to do.

        That is so for sums in float64 (`wide`) on CUDA, for tensors without elements, where a derivative is to be
        taken, and where torch records operations instead of running them (export, compile, transforms).
        """
        return self.sums if self._take(*tensors) and not (wide and tensors[0].device.type != "cpu") else None

    def resizing_of(self, tensor: Tensor) -> ModuleType | None:
        """Resizing for this tensor, or None where plain torch has to resize."""
        return self.resizing if self.resizing is not None and self._take(tensor) else None

    def passes_of(self, *tensors: Tensor) -> ModuleType | None:
        """The mean of several passes, whose logits these float32 tensors are, or None where plain torch has to do."""
        fit = self.passes is not None and all(one.dtype == torch.float32 and self._take(one) for one in tensors)
        return self.passes if fit else None

    def _take(self, *tensors: Tensor) -> bool:
        if is_traced():
            return False
        device = tensors[0].device
        for tensor in tensors:
            plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout == torch.strided and tensor.numel()
            if not plain or tensor.device != device or not tensor.dtype.is_floating_point:
                return False
            if tensor.requires_grad and torch.is_grad_enabled():
                return False
        return torch._C._functorch.maybe_current_level() is None


RECORDED = Kernels(None, None, tallies)
"""Where torch records operations instead of running them, they have to be torch's."""


def is_traced() -> bool:
    """Whether operations are being recorded, for a compiler or an exporter, instead of run."""
    return torch.compiler.is_compiling() or torch.compiler.is_exporting() or torch.jit.is_tracing()


def kernels_on(device: torch.device | str) -> Kernels:
    """Choose the kernels of a device."""
    if is_traced():
        return RECORDED
    return _kernels(torch.device(device).type)


@cache
def _kernels(device: str) -> Kernels:
    if device == "cpu":
        sums = _for_cpu()
        if sums.__name__.startswith(f"{__package__}.llvm."):
            resizing, counting, passes = (
                importlib.import_module(f".llvm.{name}", __package__) for name in ("resized", "tallies", "passes")
            )
            return Kernels(sums, resizing, counting, passes)
        return Kernels(sums, None, tallies)
    if device == "cuda" and importlib.util.find_spec("triton") is not None:
        return Kernels(importlib.import_module(".cuda", __package__), None, tallies)
    return Kernels(None, None, tallies)


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
