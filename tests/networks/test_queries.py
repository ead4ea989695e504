"""Query models are recognised by what they return, and the factors of their masks by what they compute."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from query_zoo import CLASSES, QUERIES, OwnQueries
from torch import Tensor, nn
from torch.nn import functional as F

from gradunc_viz.networks.network import Network
from gradunc_viz.networks.outputs import logits_of, query_logits
from gradunc_viz.networks.queries import QueryHead
from gradunc_viz.networks.runner import Inference
from gradunc_viz.networks.tracing import capture
from gradunc_viz.schema.errors import HeadError, ModelError

CLS, MASKS = torch.randn(2, QUERIES, CLASSES + 1), torch.randn(2, QUERIES, 4, 5)
OTHER = torch.randn(2, QUERIES, 4, 5)


@dataclasses.dataclass
class Output:
    class_queries_logits: Tensor | None = None
    masks_queries_logits: Tensor | None = None
    hidden: Tensor | None = None


@pytest.mark.parametrize(
    ("output", "which"),
    [
        ({"class_queries_logits": CLS, "masks_queries_logits": MASKS, "hidden": OTHER}, None),
        (Output(CLS, MASKS, OTHER), None),
        (SimpleNamespace(pred_logits=CLS, pred_masks=MASKS), None),
        (
            {"pred_logits": CLS, "pred_masks": MASKS, "aux_outputs": [{"pred_logits": CLS, "pred_masks": OTHER}] * 2},
            None,
        ),
        (({"pred_logits": CLS, "pred_masks": MASKS}, {"loss": torch.zeros(())}), None),
        ({"result": Output(CLS, MASKS)}, None),
        ({"logits": CLS, "pred_masks": MASKS, "pred_boxes": torch.ones(2, QUERIES, 4)}, None),
        ([{"pred_logits": CLS, "pred_masks": OTHER}, {"pred_logits": CLS, "pred_masks": MASKS}], "1"),
        ((CLS, MASKS), "0,1"),
        ({"a": {"c": CLS}, "m": MASKS, "aux": OTHER}, "a.c, m"),
    ],
)
def test_class_and_mask_logits_are_found(output: object, which: str | None) -> None:
    found = query_logits(output, which)
    assert found is not None
    assert found.classes is CLS
    assert found.masks is MASKS
    with pytest.raises(ModelError, match="of queries, as MaskFormer does"):
        logits_of(output, which)


@pytest.mark.parametrize(
    "output",
    [
        MASKS,
        {"out": MASKS, "aux": {"pred_logits": CLS, "pred_masks": OTHER}},
        {"pred_logits": MASKS},
        (MASKS, torch.ones(2, 3, 7)),
        {"logits": MASKS, "pred_masks": OTHER},
    ],
)
def test_logits_of_pixels_stay_what_they_are(output: object) -> None:
    assert query_logits(output) is None
    assert logits_of(output) is MASKS


@pytest.mark.parametrize(
    ("output", "which", "text"),
    [
        ({"class_queries_logits": CLS}, None, "'class_queries_logits' .* without 'masks_queries_logits'"),
        (Output(masks_queries_logits=MASKS), None, "without 'class_queries_logits': .*output='masks_queries_logits'"),
        ({"pred_logits": CLS, "pred_boxes": CLS}, None, "'pred_logits' .* without 'pred_masks'"),
        ({"pred_logits": CLS, "pred_masks": MASKS[:1]}, None, r"\(2, 6, 5\) and mask logits \(1, 6, 4, 5\)"),
        ({"pred_logits": CLS[:, :5], "pred_masks": MASKS}, None, r"expected \(N, Q, K \+ 1\) and \(N, Q, h, w\)"),
        ({"pred_logits": CLS.long(), "pred_masks": MASKS}, None, "floating point"),
        ({"pred_logits": CLS, "pred_masks": MASKS[:, :, None]}, None, r"\(2, 6, 1, 4, 5\)"),
        ({"pred_logits": CLS[:, :, :2], "pred_masks": MASKS}, None, "two classes or more, and 'no object'"),
        ([{"pred_logits": CLS, "pred_masks": MASKS}] * 2, None, r"at 2 places: .*output='0' \(--output 0\)"),
        ((CLS, MASKS), None, "may be class and mask logits of queries: say so with output='0,1'"),
        ({"cls": CLS, "masks": MASKS}, None, r"may be class and mask .* output='cls,masks' \(--output cls,masks\)"),
        ({"a": {"cls": CLS, "masks": MASKS}}, None, r"--output a\.cls,a\.masks"),
        ((CLS, MASKS), "0,1,2", "'2' is not among|output"),
        ((CLS, MASKS), "0", "expected logits"),
        ({"pred_logits": CLS, "pred_masks": MASKS}, "pred_logits,masks", "output 'masks' is not among"),
    ],
)
def test_what_is_neither_is_told_in_a_line(output: object, which: str | None, text: str) -> None:
    with pytest.raises(ModelError, match=text) as caught:
        logits_of(output, which)
    assert "\n" not in str(caught.value)


class Product(OwnQueries):
    """Its masks are made of its factors by some function."""

    def __init__(self, masks: Callable[..., Tensor]) -> None:
        super().__init__()
        self.masks = masks

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        classes, embeddings, pixels = self.factors(x)
        return {"pred_logits": classes, "pred_masks": self.masks(embeddings, pixels)}


def _matmul(m: Tensor, psi: Tensor) -> Tensor:
    return (m @ psi.flatten(2)).unflatten(2, psi.shape[2:])


def _bmm(m: Tensor, psi: Tensor) -> Tensor:
    rows = psi.flatten(2).transpose(1, 2)
    return torch.bmm(rows, m.transpose(1, 2)).permute(0, 2, 1).reshape(len(m), -1, *psi.shape[2:])


def _queries_first(m: Tensor, psi: Tensor) -> Tensor:
    return torch.einsum("qbc,bchw->bqhw", m.transpose(0, 1), psi)


def _stacked(m: Tensor, psi: Tensor) -> Tensor:
    return torch.stack([torch.einsum("bqc,bchw->bqhw", one, psi) for one in (m.flip(1), m)])[-1].float()


def _upsampled(m: Tensor, psi: Tensor) -> Tensor:
    masks = torch.einsum("bqc,bchw->bqhw", m, psi)
    return F.interpolate(masks, scale_factor=2, mode="bilinear", align_corners=True)


def _upsampled_rows(m: Tensor, psi: Tensor) -> Tensor:
    return F.interpolate(_bmm(m, psi), (11, 17), mode="bilinear")


X = torch.rand(2, 3, 12, 20, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("masks", [_matmul, _bmm, _queries_first, _stacked, _upsampled, _upsampled_rows])
def test_factors_are_found_however_they_are_multiplied(masks: Callable[..., Tensor]) -> None:
    net = Product(masks)
    head = Network(net).infer(X)
    assert isinstance(head, QueryHead)
    queries = head.queries
    with torch.no_grad():
        _, embeddings, pixels = net.factors(X)
    torch.testing.assert_close(queries.embeddings, embeddings)
    torch.testing.assert_close(queries.pixels, pixels)
    assert queries.align_corners == (masks is _upsampled)
    assert not queries.lacking
    assert queries.embedding is not None
    assert queries.decoder is not None
    assert (queries.embedding.name, queries.decoder.name) == ("embed.2", "pixels")
    assert head.name == "embed.2 x pixels"
    assert head.logits.shape == (2, CLASSES, *queries.masks.shape[2:])


class Factors(OwnQueries):
    """Its factors are what some functions make of them."""

    def __init__(self, m: Callable[[Tensor], Tensor], psi: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.m, self.psi = m, psi

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        classes, embeddings, pixels = self.factors(x)
        masks = torch.einsum("bqc,bchw->bqhw", self.m(embeddings), self.psi(pixels))
        return {"pred_logits": classes, "pred_masks": masks}


def _same(x: Tensor) -> Tensor:
    return x


@pytest.mark.parametrize(
    ("m", "psi", "lacking"),
    [
        (torch.tanh, _same, {"embedding": "made by 'tanh'"}),
        (_same, torch.relu, {"decoder": "made by 'relu'"}),
        (_same, torch.relu_, {"decoder": "made by 'relu'"}),
        (lambda m: m + m.flip(1), _same, {"embedding": "made by 'add'"}),
        (lambda m: F.normalize(m, dim=2), lambda x: F.group_norm(x, 2), {"embedding": "normalize", "decoder": "norm"}),
    ],
)
def test_layers_that_are_not_there_say_why(
    m: Callable[[Tensor], Tensor], psi: Callable[[Tensor], Tensor], lacking: dict[str, str]
) -> None:
    head = Network(Factors(m, psi)).infer(X)
    assert isinstance(head, QueryHead)
    assert head.queries.pixels is not None
    assert head.queries.lacking.keys() == lacking.keys()
    for layer, text in lacking.items():
        with pytest.raises(HeadError, match=text):
            head.queries.require(layer)


@pytest.mark.parametrize(
    ("masks", "text"),
    [
        (lambda m, psi: (m[..., None, None] * psi[:, None]).sum(2), "made by 'sum', not by a product"),
        (lambda m, psi: torch.einsum("bqc,bchw->bqhw", m, psi).clamp(-1, 1), "made by 'clamp'"),
        (lambda m, psi: torch.einsum("bqc,bchw->bqhw", m, psi).mul_(2), "made by 'mul'"),
        (lambda m, psi: F.interpolate(_matmul(m, psi), scale_factor=2, mode="nearest"), "no product .*off by"),
    ],
)
def test_masks_that_are_no_product_have_scores_and_no_norms(masks: Callable[..., Tensor], text: str) -> None:
    head = Network(Product(masks)).infer(X)
    assert isinstance(head, QueryHead)
    assert head.queries.pixels is None
    assert head.name == "masks of queries"
    assert head.logits.shape[1] == CLASSES
    with pytest.raises(HeadError, match=text):
        head.queries.require("masks")
    assert (
        repr(head) == f"<QueryHead 'masks of queries', MaskProduct(6 queries): class scores {tuple(head.logits.shape)}>"
    )
    assert "not found: the mask logits" in head._repr_html_()


def test_an_input_overwritten_after_the_layer_ran_is_told() -> None:
    class Overwriting(OwnQueries):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            z = F.softplus(self.body(x))
            classes, embeddings, _ = self.factors(x)
            pixels = self.pixels(z)
            z.mul_(2)
            return {"pred_logits": classes, "pred_masks": torch.einsum("bqc,bchw->bqhw", embeddings, pixels)}

    head = Network(Overwriting()).infer(X)
    assert isinstance(head, QueryHead)
    with pytest.raises(HeadError, match="'pixels' is overwritten in place"):
        head.queries.require("decoder")


def test_scores_are_those_of_the_formula() -> None:
    net = OwnQueries()
    network = Network(net, drop_channels=(1,))
    head = network.infer(X)
    with torch.no_grad():
        found = net(X)
    expected = torch.einsum(
        "bqk,bqhw->bkhw", found["class_queries_logits"].softmax(2)[..., :-1], found["masks_queries_logits"].sigmoid()
    )
    torch.testing.assert_close(head.logits, expected)
    torch.testing.assert_close(network(X), expected)
    assert network.returns_queries
    assert network.class_channels(head.logits.shape[1]).tolist() == [0, 2, 3]
    assert not any(module._forward_hooks for module in net.modules())


def test_masks_of_half_precision() -> None:
    head = Network(OwnQueries().bfloat16()).infer(X.bfloat16())
    assert isinstance(head, QueryHead)
    assert not head.queries.lacking
    assert head.logits.dtype == torch.float32


def test_a_network_may_return_queries_for_one_image_alone() -> None:
    class Either(OwnQueries):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Conv2d(8, CLASSES, 1)

        def forward(self, x: Tensor) -> object:
            return super().forward(x) if x.mean() > 0 else self.last(self.body(x))

    network = Network(Either())
    for x, of_queries in ((X, True), (-X, False), (X, True), (X, True)):
        assert isinstance(network.infer(x), QueryHead) == of_queries
        assert network.returns_queries == of_queries


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"head": "pixels"}, "head='pixels' was given, but .* pgn_oh_p2_embedding"),
        ({"threshold": 0.3}, "threshold=0.3 .* 4 channels"),
        (
            {"classes": [f"thing {k}" for k in range(CLASSES + 1)]},
            "5 classes and .* 5 channels, the last .*'no object'",
        ),
    ],
)
def test_settings_without_a_meaning(options: dict, text: str) -> None:
    with pytest.raises(ModelError, match=text):
        Network(OwnQueries(), **options).infer(X)


def test_capture_says_that_there_are_no_logits() -> None:
    net = OwnQueries()
    with pytest.raises(ModelError, match=r"no logits of pixels; gv\.load_model\(net\)\.infer\(x\) finds"), capture(net):
        net(X)


def test_it_runs_without_compiling() -> None:
    inference = Inference(Network(OwnQueries()), torch.device("cpu"), compile=True)
    with pytest.warns(UserWarning, match="without torch.compile: what the masks of its queries"):
        inference(X, "x")
    assert not inference.compile
