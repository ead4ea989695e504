r"""Query models: networks that return classes and masks of queries instead of logits of pixels.

MaskFormer, Mask2Former, OneFormer, EoMT and what follows them give Q queries a class each, with probabilities
:math:`P_{qk}`, the last of which, "no object", is left out, and a mask each, with logits
:math:`a_q(x) = \langle m_q, \psi(x) \rangle`. A pixel has the class scores
:math:`S_k(x) = \sum_q P_{qk} \sigma(a_q(x))` and the class of the largest.

There is no last layer. What stands in its place is the product of mask embeddings M and pixel embeddings
:math:`\psi`. Neither is known by its name: the forward pass is watched, as `gradunc_viz.networks.head` says, until the
operation is found whose result the mask logits are; its operands are M and :math:`\psi` if, multiplied once more, they
give these mask logits. The last linear layer of the mask embedding is the one whose output M is, and the pixel
decoder's last layer the one whose output :math:`\psi` is. What is not found is said when somebody asks for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..kernels.geometry import Geometry
from ..schema.errors import HeadError
from .head import Head, geometry_of, kind_of
from .operations import KERNELS, LAYOUT, RESIZE, SAME, Operation
from .outputs import QueryLogits, query_logits
from .tracing import Watch, unlike_plain

__all__ = ["LAYERS", "MaskProduct", "Queries", "QueryHead", "QueryLayer", "query_head"]

LAYERS: Mapping[str, str] = {
    "masks": "the mask embeddings M",
    "embedding": "the last linear layer of the mask embedding",
    "decoder": "the last layer of the pixel decoder",
}
"""What gradients of a query model are taken with respect to."""


class MaskProduct(nn.Module):
    """Stands where other networks have a last layer: the product of mask embeddings and pixel embeddings."""

    def __init__(self, queries: int, channels: int | None) -> None:
        super().__init__()
        self.queries, self.channels = queries, channels

    def extra_repr(self) -> str:
        """How many queries there are, and how long an embedding is."""
        return f"{self.queries} queries" if self.channels is None else f"{self.queries} queries x {self.channels}"


@dataclasses.dataclass(frozen=True, eq=False)
class QueryLayer:
    """A layer behind one of the factors of the mask logits.

    Attributes
    ----------
    name : str
    features : Tensor
        What entered it: (N, Q, D') for the mask embedding, (N, D', h', w') for the pixel decoder.
    geometry : Geometry
    """

    name: str
    features: Tensor
    geometry: Geometry

    def image(self, index: int) -> QueryLayer:
        """The same of one image of the batch."""
        return dataclasses.replace(self, features=self.features[index : index + 1])


@dataclasses.dataclass(frozen=True, eq=False)
class Queries:
    """Classes and masks of the queries of a batch, and what the masks are made of.

    Attributes
    ----------
    log_classes : Tensor (N, Q, K)
        ln P, without "no object".
    masks : Tensor (N, Q, h, w)
        Mask logits a, on the grid of the class scores.
    embeddings : Tensor (N, Q, D) or None
        M.
    pixels : Tensor (N, D, h', w') or None
        psi. On another grid than the masks, these are M psi resized bilinearly.
    embedding, decoder : QueryLayer or None
        The layers whose outputs M and psi are.
    align_corners : bool
        How M psi is resized.
    lacking : mapping of str to str
        Why something could not be found, by the names of `LAYERS`.
    """

    log_classes: Tensor
    masks: Tensor
    embeddings: Tensor | None = None
    pixels: Tensor | None = None
    embedding: QueryLayer | None = None
    decoder: QueryLayer | None = None
    align_corners: bool = False
    lacking: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def scores(self) -> Tensor:
        """S, (N, K, h, w): class scores, which are no logits and do not sum to one."""
        dtype = self.masks.dtype if self.masks.dtype == torch.float64 else torch.float32
        weights = self.log_classes.to(dtype).exp()
        return torch.einsum("nqk,nqhw->nkhw", weights, self.masks.to(dtype).sigmoid())

    def image(self, index: int) -> Queries:
        """The same of one image of the batch."""
        some = slice(index, index + 1)
        return dataclasses.replace(
            self,
            log_classes=self.log_classes[some],
            masks=self.masks[some],
            embeddings=None if self.embeddings is None else self.embeddings[some],
            pixels=None if self.pixels is None else self.pixels[some],
            embedding=None if self.embedding is None else self.embedding.image(index),
            decoder=None if self.decoder is None else self.decoder.image(index),
        )

    def only(self, channels: Tensor) -> Queries:
        """The same of some classes; the others count like "no object"."""
        return dataclasses.replace(self, log_classes=self.log_classes[:, :, channels.to(self.log_classes.device)])

    def require(self, layer: str) -> None:
        """Check that what a gradient is made of was found.

        Raises
        ------
        HeadError
            Saying why not.
        """
        if layer in self.lacking:
            raise HeadError(f"{LAYERS[layer]} of this query model could not be found: {self.lacking[layer]}")


class QueryHead(Head):
    """What a query model says of a batch: `logits` are the class scores S, `features` the pixel embeddings.

    Attributes
    ----------
    queries : Queries
    """

    def __init__(self, queries: Queries, name: str) -> None:
        self.queries, self.name, self.align_corners = queries, name, False
        self.logits = queries.scores()
        self.layer = MaskProduct(queries.masks.shape[1], None if queries.pixels is None else queries.pixels.shape[1])
        self.tail, self.layers = None, {}
        if queries.pixels is not None:
            self.features = queries.pixels

    def __repr__(self) -> str:
        return f"<QueryHead {self.name!r}, {self.layer}: class scores {tuple(self.logits.shape)}>"

    def _repr_html_(self) -> str:
        from ..schema.display import card, code

        n, _, height, width = self.logits.shape
        rows = {
            "masks": f"{n} × {self.queries.masks.shape[1]} × {height} × {width} (N, queries, h, w)",
            "class scores": f"{' × '.join(map(str, self.logits.shape))} (N, classes, h, w)",
            "product": code(str(self.layer)),
            **{
                what: f"not found: {self.queries.lacking[one]}"
                for one, what in LAYERS.items()
                if one in self.queries.lacking
            },
        }
        return card(f"Queries {self.name}", rows)


def query_head(net: nn.Module, x: Tensor, output: str | int | None = None) -> QueryHead | None:
    """Run a network once, and find what its query outputs are made of.

    Parameters
    ----------
    net
        In evaluation mode; nothing of it is changed.
    x
        Its input.
    output
        See `gradunc_viz.networks.outputs.query_logits`.

    Returns
    -------
    QueryHead or None
        None for a network that returns something else.

    Raises
    ------
    ModelError
        If what it returns looks like class and mask logits and is not.
    """
    watch = _Factors({one: name for name, one in nn.Module.named_modules(net) if kind_of(one)})
    handles = [one.register_forward_hook(watch.called, with_kwargs=True, prepend=True) for one in watch.layers]
    watch.running = True
    try:
        with watch:
            result = net(x)
        watch.running = False
        found = query_logits(result, output)
        return None if found is None else _head(found, watch, _read_at(net, x))
    finally:
        watch.running = False
        watch.forget()
        for handle in handles:
            handle.remove()


def _read_at(net: nn.Module, x: Tensor) -> tuple[int, int] | None:
    """Size that the library of a model resizes mask logits to before it makes classes of them; None: as they are.

    As `post_process_semantic_segmentation` of transformers does it: to 384 x 384 for Mask2Former, whatever the image's
    size, and to the size of the processor's output, which is the network's input, for EoMT.
    """
    # in a module of one's own, too, that passes its output on
    kinds = {getattr(getattr(one, "config", None), "model_type", None) for one in nn.Module.modules(net)}
    if "mask2former" in kinds:
        return 384, 384
    return (x.shape[2], x.shape[3]) if kinds & {"eomt", "eomt_dinov3"} else None


@dataclasses.dataclass(frozen=True, eq=False)
class _Product:
    """A result of multiplying two tensors."""

    operands: tuple[Tensor, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class _LayerCall:
    """An output of a layer, and what entered it, at the time of that version of the tensor."""

    name: str
    layer: nn.Module
    features: Tensor
    version: int
    output: Tensor


_JOINING = frozenset(("cat", "concat", "concatenate", "stack"))


@dataclasses.dataclass(frozen=True)
class _Before:
    """Size of a map before it was resized."""

    size: tuple[int, int]


class _Factors(Watch):
    """Marks every tensor with the product, the layer or the other operation that made its values."""

    def called(self, layer: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if self.running and isinstance(output, Tensor):
            features = args[0] if args else kwargs["input"]
            version = 0 if features.is_inference() else features._version
            call = _LayerCall(self.layers[layer], layer, features, version, output.detach())
            self.marks[output] = (call,)

    def passed(self, call: Operation, marked: list[tuple[Tensor, Any]], prepared: Any, outputs: list[Tensor]) -> None:
        mark: tuple[Any, ...]
        if call.plain_name in KERNELS:
            mark = (_Product(tuple(one for one in call.inputs if one.ndim > 1)),)
        elif marked and call.plain_name in LAYOUT | SAME | RESIZE:
            values = marked if call.plain_name in _JOINING else marked[:1]  # the others are indices, or sizes
            mark = tuple(dict.fromkeys(made for _, marks in values for made in marks))
            if call.plain_name in RESIZE and values[0][0].ndim == 4:
                mark = (*mark, _Before((values[0][0].shape[2], values[0][0].shape[3])))
        else:
            mark = (call.plain_name,)
        for output in outputs:
            self.marks[output] = mark


def _head(found: QueryLogits, watch: _Factors, read_at: tuple[int, int] | None) -> QueryHead:
    masks, log_classes = found.masks.detach(), _floating(found.classes.detach()).log_softmax(2)[:, :, :-1]
    lacking: dict[str, str] = {}
    embeddings = pixels = embedding = decoder = None
    align_corners, name = False, "masks of queries"
    try:
        factors = _factors(masks, watch.marks.get(found.masks, ()))
    except _Lacking as why:
        lacking = dict.fromkeys(LAYERS, str(why))
    else:
        embeddings, pixels, align_corners = factors.embeddings, factors.pixels, factors.align_corners
        try:
            embedding = _embedding_layer(factors, watch.marks.get(factors.embedding_operand, ()))
        except _Lacking as why:
            lacking["embedding"] = str(why)
        try:
            decoder = _decoder_layer(factors, watch.marks.get(factors.pixel_operand, ()))
        except _Lacking as why:
            lacking["decoder"] = str(why)
        name = " x ".join(one.name for one in (embedding, decoder) if one is not None) or name
    if read_at is not None and tuple(masks.shape[2:]) != read_at:
        # a bilinear resize of M psi is M times the resized psi
        masks, align_corners = F.interpolate(_floating(masks), read_at, mode="bilinear", align_corners=False), False
    return QueryHead(Queries(log_classes, masks, embeddings, pixels, embedding, decoder, align_corners, lacking), name)


class _Lacking(Exception):
    """Something could not be found; the text says why."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Found:
    """The factors of the mask logits, and the operands of the product that they are of."""

    embeddings: Tensor
    pixels: Tensor
    align_corners: bool
    embedding_operand: Tensor
    pixel_operand: Tensor


def _factors(masks: Tensor, made: tuple[Any, ...]) -> _Found:
    """M and psi whose product mask logits are.

    Raises
    ------
    _Lacking
        Naming the operation that made them, or how far off the nearest product is.
    """
    n, q = masks.shape[:2]
    products: list[tuple[Tensor, ...]] = []
    for one in reversed(made):  # the last of several is the one that counts
        if isinstance(one, _Product):
            products.append(one.operands)
        elif isinstance(one, _LayerCall):
            weight = getattr(one.layer, "weight", None)
            products.append((one.features, weight) if isinstance(weight, Tensor) else ())
    if not products:
        raise _Lacking(f"the mask logits are made by {_named(made)}, not by a product of embeddings")
    sizes = list(dict.fromkeys([tuple(masks.shape[2:]), *(one.size for one in made if isinstance(one, _Before))]))
    best, nearest = None, float("inf")
    for operands in products:
        for first, second in ((0, 1), (1, 0)):
            if len(operands) != 2:
                continue
            for m in _as_embeddings(operands[first].detach(), n, q):
                for psi in _as_pixels(operands[second].detach(), n, m.shape[2], sizes):
                    for corners in (False,) if psi.shape[2:] == masks.shape[2:] else (False, True):
                        error = _distance(m, psi, masks, corners)
                        if error < nearest:
                            best, nearest = _Found(m, psi, corners, operands[first], operands[second]), error
    rough = 3e-2 if masks.dtype in (torch.float16, torch.bfloat16) else 1e-3
    if best is None or nearest > rough:
        off = "" if best is None else f", the nearest off by {nearest:.1%}"
        raise _Lacking(f"the mask logits {tuple(masks.shape)} are no product of mask and pixel embeddings{off}")
    return best


_ROWS = 16  # at which a product is compared


def _distance(m: Tensor, psi: Tensor, masks: Tensor, align_corners: bool) -> float:
    """Largest difference of M psi from mask logits at some rows, as a share of the largest of these."""
    own = _floating(masks)
    m, psi = _floating(m), _floating(psi)
    if psi.shape[2:] == masks.shape[2:]:
        rows = torch.linspace(0, masks.shape[2] - 1, min(_ROWS, masks.shape[2]), device=masks.device).long()
        again, own = torch.einsum("nqd,ndhw->nqhw", m, psi[:, :, rows]), own[:, :, rows]
    else:
        again = torch.einsum("nqd,ndhw->nqhw", m, psi)
        again = F.interpolate(again, masks.shape[2:], mode="bilinear", align_corners=align_corners)
    scale = float(own.abs().amax())
    error = float((again - own).abs().amax()) / (scale or 1.0)
    return error if error == error else float("inf")


def _as_embeddings(tensor: Tensor, n: int, q: int) -> Iterator[Tensor]:
    """Ways to read a tensor as one row (D) for each query of each image, (N, Q, D); the last of several first."""
    if tensor.ndim == 4 and tensor.shape[2:] == (1, 1):  # a 1 x 1 kernel
        tensor = tensor[:, :, 0, 0]
    ways = [tensor]
    if tensor.ndim >= 2:
        ways.append(tensor.transpose(-1, -2))
    if tensor.ndim == 3:
        ways.append(tensor.transpose(0, 1))
    for way in ways:
        if way.ndim >= 2 and way.shape[-2] == q:
            yield from _batches(way.reshape(-1, q, way.shape[-1]), n)


def _as_pixels(tensor: Tensor, n: int, channels: int, sizes: Sequence[tuple[int, ...]]) -> Iterator[Tensor]:
    """Ways to read a tensor as a map (N, D, h, w) of so many channels; of `sizes` where it has no size of its own."""
    ways = []
    if tensor.ndim >= 3 and tensor.shape[-3] == channels:
        ways.append(tensor)
    if tensor.ndim >= 3 and tensor.shape[-1] == channels:
        ways.append(tensor.movedim(-1, -3))
    for size in sizes:
        if tensor.ndim >= 2 and tensor.shape[-2:] == (channels, size[0] * size[1]):
            ways.append(tensor.unflatten(-1, size))
        if tensor.ndim >= 2 and tensor.shape[-2:] == (size[0] * size[1], channels):
            ways.append(tensor.transpose(-1, -2).unflatten(-1, size))
    for way in ways:
        yield from _batches(way.reshape(-1, *way.shape[-3:]), n)


def _batches(tensor: Tensor, n: int) -> Iterator[Tensor]:
    """Parts of a tensor that hold one item for each image; one alone is of all images."""
    if len(tensor) == 1:
        yield tensor.expand(n, *tensor.shape[1:])
    elif len(tensor) % n == 0:
        yield from reversed(tensor.split(n))


def _embedding_layer(found: _Found, made: tuple[Any, ...]) -> QueryLayer:
    call = _only_call(made, "the mask embeddings are")
    weight, bias = getattr(call.layer, "weight", None), getattr(call.layer, "bias", None)
    kind = kind_of(call.layer)
    if kind is None or not kind.rows or not isinstance(weight, Tensor) or weight.ndim != 2:
        raise _Lacking(f"the mask embeddings are the output of {call.name!r}, {call.layer}, which is no linear layer")
    n, q, _ = found.embeddings.shape
    for features in _as_embeddings(call.features.detach(), n, q):
        if features.shape[2] != weight.shape[1]:
            continue
        again = F.linear(features.to(weight.dtype), weight, bias)
        if _alike(again, found.embeddings):
            return QueryLayer(call.name, features, geometry_of(call.layer))
    raise _Lacking(f"the mask embeddings are not the output of {call.name!r} alone")


def _decoder_layer(found: _Found, made: tuple[Any, ...]) -> QueryLayer:
    call = _only_call(made, "the pixel embeddings are")
    kind = kind_of(call.layer)
    assert kind is not None
    n, d, *size = found.pixels.shape
    geometry = geometry_of(call.layer)
    outputs = [call.output] if not kind.rows else list(_as_pixels(call.output, n, d, [tuple(size)]))
    if not any(one.shape == found.pixels.shape and _alike(one, found.pixels) for one in outputs):
        raise _Lacking(f"the pixel embeddings are not the output of {call.name!r} as it is")
    features = call.features.detach()
    maps = [features] if not kind.rows else list(_as_pixels(features, n, geometry.inputs, [tuple(size)]))
    for one in maps:
        if one.ndim == 4 and len(one) == n:
            return QueryLayer(call.name, one, geometry)
    raise _Lacking(f"what enters {call.name!r}, {tuple(features.shape)}, is no map of {n} images")


def _only_call(made: tuple[Any, ...], what: str) -> _LayerCall:
    """The call of a layer that made some values.

    Raises
    ------
    _Lacking
        If there is none, or its input is not any more what it was.
    """
    made = tuple(one for one in made if not isinstance(one, _Before))
    calls = [one for one in made if isinstance(one, _LayerCall)]
    if not calls or len(made) > len(calls):
        raise _Lacking(f"{what} made by {_named(made)}, not by a layer")
    call = calls[-1]
    unlike = unlike_plain(call.layer, call.features, call.output)
    if unlike:
        raise _Lacking(f"{what} the output of {call.name!r}, which {unlike}")
    if not call.features.is_inference() and call.features._version != call.version:
        raise _Lacking(f"the input of {call.name!r} is overwritten in place after the layer ran")
    return call


def _alike(one: Tensor, other: Tensor) -> bool:
    rough = 3e-2 if other.dtype in (torch.float16, torch.bfloat16) else 1e-3
    first, second = _floating(one), _floating(other)
    return first.shape == second.shape and bool((first - second).abs().amax() <= rough * second.abs().amax())


def _named(made: tuple[Any, ...]) -> str:
    names = dict.fromkeys(
        one if isinstance(one, str) else f"layer {one.name}" if isinstance(one, _LayerCall) else "a product"
        for one in made
        if not isinstance(one, _Before)
    )
    return ", ".join(map(repr, names)) or "something that is no operation of torch"


def _floating(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()
