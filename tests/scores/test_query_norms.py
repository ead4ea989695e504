"""Norms of query models against automatic differentiation, in float64."""

from __future__ import annotations

import pytest
import torch
from query_zoo import KINDS, OwnQueries, telling
from torch import Tensor, nn
from torch.nn import functional as F

from gradunc_viz.networks.network import Network
from gradunc_viz.networks.queries import QueryHead
from gradunc_viz.schema.scores import NormRequest
from gradunc_viz.scores.needs import HeadOutput
from gradunc_viz.scores.query_norms import query_norms

PS = (0.5, 1.0, 2.0)
SIZES = {"own": (12, 20), "eomt": (32, 32)}  # EoMT takes squares of one size
LINEAR = {
    "own": "embed.2", "maskformer": "mask_embedder.2.0",
    "mask2former": "model.transformer_module.decoder.mask_predictor.mask_embedder.2.0",
    "oneformer": "net.model.transformer_module.decoder.mask_embed.layers.2.0", "eomt": "mask_head.fc3",
}  # fmt: skip
DECODER = "model.pixel_level_module.decoder.mask_projection"
CONVOLUTION = {"own": "pixels", "maskformer": DECODER, "mask2former": DECODER, "oneformer": f"net.{DECODER}"}


class Watched:
    """A network in float64, and what its forward pass says of two images, each part by a hook of its own."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.net = telling(kind).double()
        height, width = SIZES.get(kind, (36, 44))
        self.x = torch.rand(2, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        kept: dict[str, tuple[Tensor, Tensor]] = {}
        handles = [
            layer.register_forward_hook(
                lambda layer, args, output, name=name: kept.update({name: (args[0].detach(), output.detach())})
            )
            for name, layer in self.net.named_modules()
            if name in (LINEAR[kind], CONVOLUTION.get(kind, "upscale_block"))
        ]
        with torch.no_grad():
            found = self.net(self.x)
        for handle in handles:
            handle.remove()
        self.probabilities = found["class_queries_logits"].softmax(2)[:, :, :-1]
        self.before_linear, self.embeddings = kept[LINEAR[kind]]
        self.before_decoder, self.pixels = kept[CONVOLUTION.get(kind, "upscale_block")]
        self.linear = self.net.get_submodule(LINEAR[kind])
        self.head = Network(self.net).infer(self.x)

    def masks(self, embeddings: Tensor, pixels: Tensor) -> Tensor:
        """Mask logits of one image, (Q, h, w), where the library reads them."""
        masks = torch.einsum("qd,dhw->qhw", embeddings, pixels)
        size = {"mask2former": (384, 384), "eomt": (32, 32)}.get(self.kind)
        return masks if size is None else F.interpolate(masks[None], size, mode="bilinear", align_corners=False)[0]

    def gradient(self, image: int, y: int, x: int, label: str, by: str) -> Tensor:
        """The gradient of one pixel's loss, by automatic differentiation."""
        embeddings, pixels = self.embeddings[image], self.pixels[image]
        if by == "masks":
            variable = embeddings = embeddings.clone().requires_grad_()
        elif by == "embedding":
            variable = self.linear.weight.detach().clone().requires_grad_()
            embeddings = F.linear(self.before_linear[image], variable, self.linear.bias.detach())
        else:
            layer = self.net.get_submodule(CONVOLUTION[self.kind])
            variable = layer.weight.detach().clone().requires_grad_()
            bias = None if layer.bias is None else layer.bias.detach()
            pixels = F.conv2d(self.before_decoder[image : image + 1], variable, bias, padding=layer.padding)[0]
        # by logarithms: 1 - s of a pixel that is claimed with certainty has no digits left in float64
        log_s = F.logsigmoid(self.masks(embeddings, pixels)[:, y, x])
        log_scores = (self.probabilities[image].log() + log_s[:, None]).logsumexp(0)
        loss = -log_scores.amax() if label == "oh" else -log_scores.mean()
        return torch.autograd.grad(loss, variable)[0]


@pytest.fixture(scope="module", params=["own", *KINDS])
def watched(request: pytest.FixtureRequest) -> Watched:
    return Watched(request.param)


def test_norms_are_those_of_autograd(watched: Watched) -> None:
    layers = {"masks": 1, "embedding": "embedding", "decoder": "decoder"}
    if watched.kind == "eomt":  # whose pixel embeddings leave a layer norm
        del layers["decoder"]
    assert isinstance(watched.head, QueryHead)
    logits, queries, first = watched.head.logits, watched.head.queries, 0
    if watched.kind == "mask2former":  # which is read at 384 x 384: one image will do
        logits, queries, first = logits[1:], queries.image(1), 1
    requests = [NormRequest(label, p, layer=layer) for layer in layers.values() for label in ("oh", "uni") for p in PS]
    found = query_norms(HeadOutput(logits, None, watched.head.layer, queries=queries), requests)
    height, width = found.shape[2:]
    for place, y, x in ((0, 0, 0), (-1, height - 1, 1), (0, height // 2, width - 1), (-1, height // 3, width // 3)):
        image = range(first, 2)[place]
        expected = []
        for by in layers:
            for label in ("oh", "uni"):
                gradient = watched.gradient(image, y, x, label, by)
                expected += [gradient.abs().pow(p).sum().log2() / p for p in PS]
        torch.testing.assert_close(found[place, :, y, x], torch.stack(expected), rtol=1e-9, atol=1e-9)


class Odd(OwnQueries):
    """Groups in the pixel decoder's last layer, padding that repeats, and masks of a size of their own."""

    def __init__(self, size: tuple[int, int] | None) -> None:
        super().__init__()
        self.size = size
        self.pixels = nn.Conv2d(8, 8, 3, padding=1, groups=2, padding_mode="replicate")
        self.double()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found = super().forward(x)
        if self.size is not None:
            masks = F.interpolate(found["masks_queries_logits"], self.size, mode="bilinear", align_corners=True)
            found["masks_queries_logits"] = masks
        return found


@pytest.mark.parametrize("size", [None, (9, 31)])
@pytest.mark.parametrize("bias", [False, True])
def test_groups_biases_and_masks_that_are_resized(size: tuple[int, int] | None, bias: bool) -> None:
    net = Odd(size)
    x = torch.rand(1, 3, 12, 20, dtype=torch.float64)
    head = Network(net).infer(x)
    requests = [NormRequest("oh", p, layer=layer) for layer in ("embedding", "decoder") for p in (0.5, 1.0, 3.0)]
    assert isinstance(head, QueryHead)
    output = HeadOutput(head.logits, None, head.layer, queries=head.queries, bias=bias)
    found = query_norms(output, requests)
    z = F.softplus(net.body(x)).detach()
    before = F.relu(net.embed[0](net.queries + net.context(z.mean((2, 3)))[:, None])).detach()
    classes, embeddings, pixels = net.factors(x)
    for y, x_ in ((0, 0), (5, 7), (found.shape[2] - 1, found.shape[3] - 2)):
        expected = []
        for layer, m, psi in (
            (net.embed[2], net.embed[2](before), pixels.detach()),
            (net.pixels, embeddings.detach(), net.pixels(z)),
        ):
            masks = torch.einsum("bqc,bchw->bqhw", m, psi)
            if size is not None:
                masks = F.interpolate(masks, size, mode="bilinear", align_corners=True)
            scores = classes.softmax(2)[0, :, :-1].detach().T @ masks[0, :, y, x_].sigmoid()
            given = [layer.weight, layer.bias] if bias else [layer.weight]
            gradients = torch.autograd.grad(-scores.amax().log(), given)
            flat = torch.cat([one.flatten() for one in gradients]).abs()
            expected += [flat.pow(p).sum().log2() / p for p in (0.5, 1.0, 3.0)]
        torch.testing.assert_close(found[0, :, y, x_], torch.stack(expected), rtol=1e-6, atol=1e-6)
