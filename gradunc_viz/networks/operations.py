"""One call of a function of torch, seen as its author wrote it, and what is known of functions by their names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

__all__ = [
    "AFFINE",
    "KERNELS",
    "LAYOUT",
    "NORMALISERS",
    "RESIZE",
    "SAME",
    "SHAPE_ONLY",
    "Operation",
    "names",
    "tensors_in",
]


def names(text: str) -> frozenset[str]:
    """Words as a set."""
    return frozenset(text.split())


SAME = names("""
    alias bfloat16 clone contiguous cpu cuda data detach double float half lift_fresh positive requires_grad_ to to_copy
    type type_as
""")
"""Every value stays where it is, at most in another type or on another device."""

LAYOUT = names("""
    H T __getitem__ adjoint channel_shuffle chunk col2im concat concatenate cat constant_pad_nd expand expand_as
    flatten flip fliplr flipud fold hsplit index index_select mT moveaxis movedim narrow pad permute pixel_shuffle
    pixel_unshuffle ravel reflection_pad2d repeat repeat_interleave replication_pad2d reshape reshape_as roll rot90
    select slice split split_with_sizes squeeze stack swapaxes swapdims t tensor_split tile transpose unbind
    unflatten unfold unsafe_view unsqueeze view view_as vsplit
""")
"""Values are moved, copied or left out, never changed; where there are none, a constant is put."""

RESIZE = names("""
    adaptive_avg_pool2d avg_pool2d grid_sample grid_sampler grid_sampler_2d interpolate upsample upsample_bicubic2d
    upsample_bicubic2d_aa upsample_bilinear upsample_bilinear2d upsample_bilinear2d_aa upsample_nearest
    upsample_nearest2d upsample_nearest_exact2d
""")
"""Every channel of (N, C, h, w) is resampled alike, each pixel a weighted mean of others."""

NORMALISERS = names("softmax log_softmax sigmoid logsigmoid gumbel_softmax")
"""What turns logits into probabilities, or into their logarithms."""

AFFINE = (
    names("""
    add radd iadd sub subtract rsub isub mul rmul imul multiply div divide truediv itruediv true_divide idiv neg
    negative batch_norm linear conv2d conv1d matmul bmm einsum mean sum stack cat concat concatenate addcmul
""")
    | SAME
)
"""Of one operand with constants, or sums of several: a weighted mean of pixels may be taken before or after."""

KERNELS = names(
    "addmm bmm conv1d conv2d conv_transpose2d convolution convolution_mode einsum linear matmul mm tensordot"
)
"""A matrix is applied to the classes of each pixel."""

SHAPE_ONLY = names("""
    new_empty new_full new_ones new_tensor new_zeros empty_like full_like ones_like rand_like randn_like zeros_like
""")
"""What is made has the operand's shape or type, and nothing of its values."""

# A view needs strides that a broadcast stand-in may not have.
_ON_STAND_IN: Mapping[str, Callable[..., Any]] = {
    "view": Tensor.reshape,
    "_unsafe_view": Tensor.reshape,
    "view_as": Tensor.reshape_as,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Operation:
    """One call of a function of torch, and the tensors that it returned."""

    function: Any
    args: Any
    kwargs: Mapping[str, Any]
    outputs: list[Tensor] = dataclasses.field(default_factory=list)

    @property
    def name(self) -> str:
        """Name of the function as it stands in the code of a network; of a property, the property's.

        Of an operator of a graph, ``aten.slice.Tensor``, the name without that of its overload.
        """
        name = getattr(self.function, "__name__", "?").partition(".")[0]
        return getattr(self.function.__self__, "__name__", name) if name == "__get__" else name

    @property
    def plain_name(self) -> str:
        """The same of a method that changes its operand, or of an operator: ``add`` of ``add_`` and ``__add__``."""
        return self.name if self.name in ("__getitem__", "__setitem__") else self.name.strip("_")

    @property
    def operands(self) -> list[Tensor]:
        """The tensors whose values matter: not one whose shape alone is asked for."""
        if self.plain_name in SHAPE_ONLY:
            return []
        return self.inputs[:1] if self.plain_name.endswith("_as") else self.inputs

    @property
    def inputs(self) -> list[Tensor]:
        """All tensors among the arguments."""
        return list(tensors_in((self.args, tuple(self.kwargs.values()))))

    def exchanged(self, stand_ins: Mapping[int, Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Its arguments with other tensors in place of some, given by their identity."""

        def exchanged(value: Any) -> Any:
            if isinstance(value, Tensor):
                return stand_ins.get(id(value), value)
            if isinstance(value, tuple) and hasattr(value, "_fields"):
                return type(value)(*map(exchanged, value))
            if isinstance(value, tuple | list):
                return type(value)(map(exchanged, value))
            return value

        kwargs = {key: exchanged(value) for key, value in self.kwargs.items() if key != "out"}
        return tuple(map(exchanged, self.args)), kwargs

    def on(self, stand_ins: Mapping[int, Tensor]) -> list[Tensor]:
        """What it returns with other tensors in place of some arguments."""
        args, kwargs = self.exchanged(stand_ins)
        function = _ON_STAND_IN.get(self.name, self.function)
        return list(tensors_in((function(*args, **kwargs),)))

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        """An argument given by place or by name."""
        return self.kwargs.get(name, self.args[place] if len(self.args) > place else default)


def tensors_in(values: Iterable[Any]) -> Iterator[Tensor]:
    """All tensors in nested tuples and lists, in order."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from tensors_in(value)
