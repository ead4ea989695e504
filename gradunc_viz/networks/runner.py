"""From a batch of images to what the head of a network says of it.

A `Runner` is all that a run asks of a network. `Inference` is the plain one: a forward pass with memory layout,
precision and compilation as asked for, and errors that name the frame.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..schema.errors import DeviceError, GraduncError, ModelError, SettingsError, brief, telling_line
from .head import Head, Plan, agrees
from .network import Network, network_input
from .outputs import logits_of
from .preprocessing import InputSize
from .tapped import TappedNetwork
from .traversal import evaluating, float_type, in_channels, modules_of

__all__ = [
    "AUTOCAST",
    "Inference",
    "Runner",
    "check_autocast",
    "check_input_size",
    "out_of_memory",
    "precision",
    "restored",
]

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Types that layers may be cast to while the network runs."""

_M = TypeVar("_M", bound=nn.Module)
_X = TypeVar("_X")


class Runner(Protocol[_X]):
    """Turns images into what the head of a network says of them: all that a run asks of a network.

    `prepare` makes the input of one image, in threads that read ahead; a call takes a batch of them, in one thread.
    How logits and features come about is the runner's own business: one forward pass (`Inference`), many on parts of
    the image or on flipped copies that are put together, masks and classes of queries multiplied out, or files that
    were written before, which `prepare` finds by the frame's id. Passes whose predictions are to be compared are kept
    apart, in a `gradunc_viz.networks.passes.JointHead`.

    Where it is more than a pass of one network over an image, it may say so:

    - ``kind``: what several passes are, see `gradunc_viz.schema.entries.passes.KINDS`; ``members``, the runners of an
      ensemble, and ``inference``, what runs one pass and so tells the classes;
    - ``largest_batch``: images that it takes at once, where not any number;
    - ``files(frame_id)`` and ``content(frame_id)``: what it reads instead of running a network, which frames of a cache
      then depend on, and the hash of that.

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

    def prepare(self, image: np.ndarray, frame_id: str) -> _X:
        """Input for one image, (y, x, channels) as `network` takes it: (1, ...) on the CPU.

        Those of one `shape` are batched: a tensor, or `gradunc_viz.networks.passes.Inputs` of several.
        """
        ...

    def __call__(self, x: _X, what: str) -> Head:
        """Logits and features (N, C or D, h, w) of a batch, and the layer between them.

        Parameters
        ----------
        x : Tensor (N, ...), or what else `prepare` returns
            A batch of it.
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
        Type that `torch.autocast` lets layers run in; nothing where the weights are of half precision already.
    input_size : (height, width) or "own", optional
        Size that images are resized to; by default what the network asks for, or each one's own.

    Attributes
    ----------
    size : (height, width) or None
        What came of it.
    largest_batch : int or None
        How many images the network takes at a time, where it was exported for one.

    Raises
    ------
    SettingsError
        If `autocast` or `input_size` is none of these, or the network does not run in torch and it is said how.

    Warns
    -----
    UserWarning
        Where `autocast` does nothing, or makes things slower.
    """

    network: Network
    device: torch.device
    compile: bool = False
    channels_last: bool = False
    autocast: str | None = None
    input_size: InputSize = None
    _compiled: Any = field(default=None, repr=False)
    _other_size_of: dict[tuple[int, ...], str] = field(default_factory=dict, repr=False)

    size_option: ClassVar[str] = "--input-size"
    """What says how large its inputs are."""

    def __post_init__(self) -> None:
        check_autocast(self.autocast)
        check_input_size(self.input_size)
        if isinstance(self.network.net, torch.jit.ScriptModule):
            raise ModelError(
                f"{self.network.name} is TorchScript, which shows nothing of its layers while it runs: expected what "
                "gv.load_model makes of it"
            )
        runtime = getattr(self.network.net, "runtime", None)
        asked = [name for name in ("compile", "channels_last", "autocast") if getattr(self, name)]
        if runtime is not None and asked:
            raise SettingsError(
                f"{asked[0]}={getattr(self, asked[0])!r} says how torch runs layers, and {runtime} runs those of "
                f"{self.network.name}: expected none"
            )
        self.size = self.network.preprocessing.chosen_size(self.input_size)
        self.largest_batch = getattr(self.network.net, "largest_batch", None)
        self.network.to(self.device)
        own = float_type(self.network.net)
        if self.autocast is not None and own in AUTOCAST.values():
            text = f"the weights of {self.network.name} are {own} already: autocast={self.autocast!r} is left out"
            warnings.warn(text, stacklevel=3)
            self.autocast = None
        if self.autocast == "fp16" and self.device.type == "cpu":
            text = "autocast='fp16' is several times slower than float32 on a CPU; expected 'bf16' or none there"
            warnings.warn(text, stacklevel=3)
        _ = self.network.in_channels  # found now: images are prepared in threads, while the network runs
        if self.channels_last:
            for parameter in self.network.parameters():
                if parameter.dim() == 4:
                    parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)

    def prepare(self, image: np.ndarray, frame_id: str) -> Tensor:
        """Input of the network for an image: resized, normalised, in memory that a GPU can read from."""
        x = network_input(image, self.network, self.size)
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
        with self._told(x, what):
            x = x.to(self.device, non_blocking=True)
            if self.channels_last:
                x = x.contiguous(memory_format=torch.channels_last)
            plan = self.network.plans.get(x.shape)
            if self.compile and plan is not None:
                if plan.simple:
                    return self._run_compiled(x, plan)
                self.compile = False
                warnings.warn(
                    f"the network runs without torch.compile: what it does behind {plan.name!r} is followed "
                    "operation by operation",
                    stacklevel=2,
                )
            with self._precision():
                head = self.network.infer(x)
            if self.compile and self.network.returns_queries:
                self.compile = False
                warnings.warn(
                    "the network runs without torch.compile: what the masks of its queries are made of is watched",
                    stacklevel=2,
                )
            return head

    def returned(self, x: Tensor, what: str) -> Tensor:
        """What the network itself returns for an input on the device, with a derivative by it where it asks for one.

        Raises
        ------
        ModelError
            As for a call.
        """
        with self._told(x, what), evaluating(self.network.net), self._precision():
            return logits_of(self.network.net(x), self.network.output, tuple(x.shape[2:]))

    @contextmanager
    def _told(self, x: Tensor, what: str) -> Iterator[None]:
        """Turn whatever a network raises into one line that says on which input."""
        size = f"{x.shape[-2]}x{x.shape[-1]}"
        try:
            with out_of_memory(f"{what}, an input of {x.shape[0]}x{size}", self.device):
                yield
        except GraduncError:
            raise
        except Exception as error:  # a network may raise anything
            size_taken = self._other_size(x)
            raise ModelError(
                f"{what}: the network cannot take an input of {size} ({telling_line(error)}); see "
                f"{self.size_option}, {size_taken} would do"
                if size_taken
                else f"{what}: the network failed on an input of {size}: {brief(error)}{self._other_channels(x)}"
            ) from error

    def _other_channels(self, x: Tensor) -> str:
        """What to say where a network takes another number of channels than it seemed to."""
        count = in_channels(self.network.net, x.shape[1], usual=False)
        if count == x.shape[1]:
            return ""
        return f"; it takes images of {count} channel{'s' if count > 1 else ', see --channels grey'}, not {x.shape[1]}"

    def _other_size(self, x: Tensor) -> str:
        """A size that the network takes where it does not take this one; empty if the size makes no difference."""
        shape = tuple(x.shape[1:])
        if shape not in self._other_size_of:
            own = (x.shape[-2], x.shape[-1])
            asked = self.network.preprocessing.size
            sizes = [*([asked] if asked not in (None, own) else []), *_other_sizes(own)]
            taken = None if self._runs(x, own) else next((one for one in sizes if self._runs(x, one)), None)
            self._other_size_of[shape] = f"{taken[0]}x{taken[1]}" if taken else ""
        return self._other_size_of[shape]

    def _runs(self, x: Tensor, size: tuple[int, int]) -> bool:
        try:
            with torch.no_grad(), evaluating(self.network.net), self._precision():
                self.network.net(x.new_zeros(1, *x.shape[1:-2], *size))
        except Exception:
            return False
        return True

    def _precision(self) -> AbstractContextManager[Any]:
        return precision(self.autocast, self.device)

    def _run_compiled(self, x: Tensor, plan: Plan) -> Head:
        """Run the network compiled, on an input whose head an earlier pass has found."""
        if self._compiled is None:
            twin = TappedNetwork(self.network.net, plan).eval()
            self._compiled = torch.compile(twin)
        try:
            with torch.no_grad(), self._precision():
                result, calls = self._compiled(x)
                features, logits, _ = calls[plan.name, plan.index]
        except Exception as error:
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            self.compile = False
            warnings.warn(f"the network runs without torch.compile: {_why_not(error)}", stacklevel=2)
            with self._precision():
                return self.network.infer(x)
        head = Head()
        head.fill(plan, features, logits)
        own = logits_of(result, self.network.output, tuple(x.shape[2:]))
        if agrees(head.logits, own, head.align_corners):
            return head
        with self._precision():
            return self.network.infer(x)


_STEPS = (32, 128)
_SIZES = (32, 64, 128, 224, 256, 384, 512, 640)


def _other_sizes(size: tuple[int, int]) -> list[tuple[int, int]]:
    """Sizes that a network may be able to take where it failed: rounded up, then squares that many are made for."""
    rounded = [(-(-size[0] // step) * step, -(-size[1] // step) * step) for step in _STEPS]
    return [other for other in dict.fromkeys([*rounded, *((side, side) for side in _SIZES)]) if other != size]


def _why_not(error: BaseException) -> str:
    """One line of what the compiler says, and what can be done about it."""
    text = str(error)
    if "InvalidCxxCompiler" in text or "No working C++ compiler" in text:
        return "it needs a C++ compiler on a CPU and found none; install g++, or name one in the variable CXX"
    return telling_line(error)


def check_input_size(size: object) -> None:
    """Check a size that images are resized to.

    Raises
    ------
    SettingsError
        If it is neither (height, width), nor ``"own"``, nor None.
    """
    pair = isinstance(size, Sequence) and len(size) == 2 and all(isinstance(n, int) and n > 0 for n in size)
    if size is not None and size != "own" and not pair:
        raise SettingsError(f"input_size is {size!r}; expected (height, width), each 1 or more, or 'own'")


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
    every module is in its own mode. What was moved is not copied back: the memory it was in is kept meanwhile. What the
    network itself makes in its first forward pass stays: shapes of lazy parameters, buffers that it replaces.
    """
    modules = list(modules_of(net))
    modes = [(module, module.training) for module in modules]
    tables: list[tuple[Any, dict[str, Any]]] = [
        (table, dict(table))
        for module in modules
        if not isinstance(module, torch.jit.ScriptModule)  # holds on to its own
        for table in (module._parameters, module._buffers)
    ]
    tensors = {tensor for _, content in tables for tensor in content.values() if tensor is not None}
    home = next((tensor.device for tensor in tensors), torch.device("cpu"))
    lazy = {tensor: tensor.device for tensor in tensors if is_lazy(tensor)}
    grads = {tensor: tensor.grad for tensor in tensors - lazy.keys() if tensor.is_leaf}
    contents = [(one, one.data) for one in (*(tensors - lazy.keys()), *grads.values()) if one is not None]
    try:
        yield net
    finally:
        for table, content in tables:
            for name, tensor in content.items():
                if table.get(name) is not tensor:
                    table[name] = _given_back(table.get(name), tensor, home)
        for tensor, data in contents:
            tensor.data = data
        for tensor, grad in grads.items():
            tensor.grad = grad
        for tensor, device in lazy.items():
            if not is_lazy(tensor):  # it got its shape meanwhile
                tensor.data = tensor.data.to(device)
        for module, training in modes:
            if module.training != training:
                module.training = training


def _given_back(tensor: Tensor | None, before: Tensor | None, home: torch.device) -> Tensor | None:
    """What was there before, where it was only moved or cast; else what the network has put in its place meanwhile."""
    if tensor is None or (
        before is not None
        and tensor.shape == before.shape
        and (tensor.is_meta or torch.equal(tensor, before.to(tensor.device, tensor.dtype)))
    ):
        return before
    return tensor.to(home)


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
