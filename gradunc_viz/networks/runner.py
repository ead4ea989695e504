"""From a batch of images to what the head of a network says of it.

A `Runner` is all that a run asks of a network. `Inference` is the plain one: a forward pass with memory layout,
precision and compilation as asked for, and errors that name the frame.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ..schema.errors import DeviceError, GraduncError, ModelError, SettingsError
from .head import Head, Plan
from .network import Network, network_input
from .tapped import TappedNetwork

__all__ = ["AUTOCAST", "Inference", "Runner", "check_autocast", "out_of_memory", "precision", "restored"]

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Types that layers may be cast to while the network runs."""

_M = TypeVar("_M", bound=nn.Module)


class Runner(Protocol):
    """Turns images into what the head of a network says of them: all that a run asks of a network.

    `prepare` makes the input of one image, in threads that read ahead; a call takes a batch of them, in one thread.
    How logits and features come about is the runner's own business: one forward pass (`Inference`), many on parts of
    the image or on flipped copies that are put together, masks and classes of queries multiplied out, or files that
    were written before, which `prepare` finds by the frame's id.

    Attributes
    ----------
    network : Network
        Whose output it is: name, classes, channels that are none, digest of the weights.
    device : torch.device
        Where the output lies.
    """

    @property
    def network(self) -> Network: ...  # noqa: D102

    @property
    def device(self) -> torch.device: ...  # noqa: D102

    def prepare(self, image: np.ndarray, frame_id: str) -> Tensor:
        """Input for one image, (y, x, 3) uint8 RGB: (1, ...) on the CPU; those of one shape are batched."""
        ...

    def __call__(self, x: Tensor, what: str) -> Head:
        """Logits and features (N, C or D, h, w) of a batch, and the layer between them.

        Parameters
        ----------
        x : Tensor (N, ...)
            Inputs from `prepare`.
        what : str
            What they are of, for errors.

        Raises
        ------
        GraduncError
            In one line that says on which input: `DeviceError` if memory runs out, which a smaller batch may mend.
        """
        ...


@dataclass
class Inference:
    """Runs a network on batches and returns its head.

    Parameters
    ----------
    network : Network
        Moved to the device; `restored` gives it back.
    device : torch.device
    compile : bool
        Whether `torch.compile` is tried; what it cannot do is told in a warning and done without it.
    channels_last : bool
        Whether images and the weights of convolutions are laid out channels last. It is the network itself whose
        weights are, with the same values and names.
    autocast : "bf16", "fp16" or None
        Type that `torch.autocast` lets layers run in.
    input_size : (height, width), optional
        Size that images are resized to; by default each one's own.

    Raises
    ------
    SettingsError
        If `autocast` is none of these.
    """

    network: Network
    device: torch.device
    compile: bool = False
    channels_last: bool = False
    autocast: str | None = None
    input_size: tuple[int, int] | None = None
    _compiled: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_autocast(self.autocast)
        self.network.to(self.device)
        if self.channels_last:
            for parameter in self.network.net.parameters():
                if parameter.dim() == 4:
                    parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)

    def prepare(self, image: np.ndarray, frame_id: str) -> Tensor:
        """Input of the network for an image: resized, normalised, in memory that a GPU can read from."""
        x = network_input(image, self.network, self.input_size)
        return x.pin_memory() if self.device.type == "cuda" else x

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
                plan = self.network.plans.get(x.shape)
                if self.compile and plan is not None and plan.simple:
                    return self._run_compiled(x, plan)
                with self._precision():
                    return self.network.infer(x)
        except GraduncError:
            raise
        except Exception as error:  # a network may raise anything
            text = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
            raise ModelError(
                f"{what}: the network cannot take an input of {size} ({text}); see --input-size"
            ) from error

    def _precision(self) -> AbstractContextManager[Any]:
        return precision(self.autocast, self.device)

    def _run_compiled(self, x: Tensor, plan: Plan) -> Head:
        """Run the network compiled, on an input whose head an earlier pass has found."""
        if self._compiled is None:
            twin = TappedNetwork(self.network.net, plan).eval()
            self._compiled = torch.compile(twin)
        try:
            # not in inference mode, whose tensors compiled graphs are kept apart for
            with torch.no_grad(), self._precision():
                features, logits, _ = self._compiled(x)[1][plan.name, plan.index]
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


def check_autocast(autocast: str | None) -> None:
    """Check the name of a type that layers may be cast to.

    Raises
    ------
    SettingsError
        If it is neither None nor in `AUTOCAST`.
    """
    if autocast is not None and autocast not in AUTOCAST:
        raise SettingsError(f"autocast is {autocast!r}; expected one of {', '.join(AUTOCAST)} or None")


def precision(autocast: str | None, device: torch.device) -> AbstractContextManager[Any]:
    """Let layers run in half precision inside the context, or as they are where `autocast` is None."""
    check_autocast(autocast)
    return nullcontext() if autocast is None else torch.autocast(device.type, AUTOCAST[autocast])


@contextmanager
def restored(net: _M) -> Iterator[_M]:
    """Give a network back as it was, whatever is done to it inside the context and however that ends.

    Parameters, buffers and gradients are the same objects again, on their device, in their memory layout and type;
    every module is in its own mode. What was moved is not copied back: the memory it was in is kept meanwhile.
    """
    modules = list(net.modules())
    modes = [(module, module.training) for module in modules]
    tables: list[tuple[Any, dict[str, Any]]] = [
        (table, dict(table)) for module in modules for table in (module._parameters, module._buffers)
    ]
    tensors = {tensor for _, content in tables for tensor in content.values() if tensor is not None}
    grads = {tensor: tensor.grad for tensor in tensors if tensor.is_leaf}
    contents = [(one, one.data) for one in (*tensors, *grads.values()) if one is not None]
    try:
        yield net
    finally:
        for table, content in tables:
            table.update(content)
        for tensor, data in contents:
            tensor.data = data
        for tensor, grad in grads.items():
            tensor.grad = grad
        for module, training in modes:
            module.training = training


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
