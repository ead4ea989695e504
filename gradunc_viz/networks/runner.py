"""The forward pass of `compute`: memory layout, precision and compilation as asked for, errors that name the frame."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..schema.errors import DeviceError, GraduncError, ModelError
from .head import Head, Plan
from .network import Network
from .tapped import TappedNetwork

__all__ = ["AUTOCAST", "Inference", "out_of_memory"]

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Types that layers may be cast to while the network runs."""


@dataclass
class Inference:
    """Runs a network on batches and returns its head.

    Parameters
    ----------
    network : Network
        On its device already.
    device : torch.device
    compile : bool
        Whether `torch.compile` is tried; what it cannot do is told in a warning and done without it.
    channels_last : bool
        Whether images and the weights of convolutions are laid out channels last. It is the network itself whose
        weights are, with the same values and names: a second copy of them would take their memory twice.
    autocast : "bf16", "fp16" or None
        Type that `torch.autocast` lets layers run in.

    Raises
    ------
    ValueError
        If `autocast` is none of these.
    """

    network: Network
    device: torch.device
    compile: bool = False
    channels_last: bool = False
    autocast: str | None = None
    _plans: dict[torch.Size, Plan] = field(default_factory=dict, repr=False)
    _compiled: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.autocast is not None and self.autocast not in AUTOCAST:
            raise ValueError(f"autocast is {self.autocast!r}; expected one of {', '.join(AUTOCAST)} or None")
        if self.channels_last:
            for parameter in self.network.net.parameters():
                if parameter.dim() == 4:
                    parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)

    def __call__(self, x: Tensor, what: str) -> Head:
        """Run the network on a batch; whatever it raises becomes one line that says on which input.

        Parameters
        ----------
        x : Tensor (N, 3, h, w)
        what : str
            What it is of, for errors.

        Raises
        ------
        ModelError
            If the network cannot take the input; `DeviceError` if memory runs out.
        """
        size = f"{x.shape[-2]}x{x.shape[-1]}"
        try:
            with out_of_memory(f"{what}, an input of {x.shape[0]}x{size}", self.device):
                x = x.to(self.device, non_blocking=True)
                if self.channels_last:
                    x = x.contiguous(memory_format=torch.channels_last)
                plan = self._plans.get(x.shape)
                if self.compile and plan is not None:
                    return self._run_compiled(x, plan)
                with self._precision():
                    head = self.network.infer(x)
                self._plans[x.shape] = head.plan
                return head
        except GraduncError:
            raise
        except Exception as error:  # a network may raise anything
            text = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
            raise ModelError(
                f"{what}: the network cannot take an input of {size} ({text}); see --input-size"
            ) from error

    def _precision(self) -> AbstractContextManager[Any]:
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, AUTOCAST[self.autocast])

    def _run_compiled(self, x: Tensor, plan: Plan) -> Head:
        """Run the network compiled, on an input whose head an earlier pass has found."""
        if self._compiled is None:
            twin = TappedNetwork(self.network.net, plan).eval()
            self._compiled = torch.compile(twin)
        try:
            # not in inference mode, whose tensors compiled graphs are kept apart for
            with torch.no_grad(), self._precision():
                logits, features = self._compiled(x)
        except Exception as error:
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            self.compile = False
            warnings.warn(f"the network runs without torch.compile: {_why_not(error)}", stacklevel=2)
            with self._precision():
                return self.network.infer(x)
        head = Head()
        head.fill(plan, features, logits)
        return head


def _why_not(error: BaseException) -> str:
    """One line of what the compiler says, and what can be done about it."""
    text = str(error)
    if "InvalidCxxCompiler" in text or "No working C++ compiler" in text:
        return "it needs a C++ compiler on a CPU and found none; install g++, or name one in the variable CXX"
    return next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)


@contextmanager
def out_of_memory(what: str, device: torch.device) -> Iterator[None]:
    """Turn the ways in which memory runs out into one.

    Raises
    ------
    DeviceError
        Naming `what` and the device.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error).lower()
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and not any(
            phrase in text for phrase in ("out of memory", "can't allocate memory", "defaultcpuallocator")
        ):
            raise
        raise DeviceError(
            f"out of memory on {device} for {what}; use a smaller --input-size or another --device"
        ) from error
