"""What is made of the class scores of query models, and what is refused for them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from query_zoo import CLASSES, QUERIES, OwnQueries
from tiny import TinyNet
from torch import Tensor, nn
from torch.nn import functional as F

import gradunc_viz as gv
from gradunc_viz.networks.network import Network
from gradunc_viz.networks.queries import Queries, QueryHead
from gradunc_viz.schema.errors import GraduncError, UnknownScoreError
from gradunc_viz.schema.scores import LOG2_FLOOR, SETS, NormRequest, lookup, resolve_scores
from gradunc_viz.scores.gradients import norms_and_softmax
from gradunc_viz.scores.maps import Scorer
from gradunc_viz.scores.needs import HeadOutput
from gradunc_viz.scores.query_norms import query_norms

SIZE = (23, 37)
IMAGE = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), "u1")


def output(masks: Tensor, classes: Tensor, *, psi: Tensor | None = None) -> HeadOutput:
    """That of a query model with some mask logits (N, Q, h, w) and class logits (N, Q, K + 1)."""
    log_classes = classes.log_softmax(2)[:, :, :-1]
    psi = torch.ones(len(masks), 2, *masks.shape[2:], dtype=masks.dtype) if psi is None else psi
    head = QueryHead(Queries(log_classes, masks, pixels=psi), "masks")
    return HeadOutput(head.logits, psi, head.layer, queries=head.queries)


def norms(head: HeadOutput, *requests: NormRequest) -> Tensor:
    return query_norms(head, requests)


@pytest.fixture(scope="module")
def given() -> tuple[Tensor, Tensor]:
    """S and P of an image, S resized to it."""
    net = OwnQueries().eval()
    x = torch.from_numpy(IMAGE).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        found = net(x)
    probabilities = found["class_queries_logits"].softmax(2)[..., :-1]
    s = found["masks_queries_logits"].sigmoid()
    scores = F.interpolate(torch.einsum("bqk,bqhw->bkhw", probabilities, s), SIZE, mode="bilinear")
    surest = torch.einsum("bq,bqhw->bhw", probabilities.amax(2), s)
    return scores[0], F.interpolate(surest[None], SIZE, mode="bilinear")[0, 0]


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("max_mask", lambda s: 1 - s.amax(0)),
        ("rba", lambda s: -s.tanh().sum(0)),
        ("neg_sum", lambda s: -s.sum(0)),
        ("mask_energy", lambda s: -s.exp().sum(0).log()),
        ("msp", lambda s: 1 - s.softmax(0).amax(0)),
        ("entropy", lambda s: -(s.softmax(0) * s.log_softmax(0)).sum(0)),
        ("max_logit", lambda s: -s.amax(0)),
        ("entropy_T0.1", lambda s: -((s / 0.1).softmax(0) * (s / 0.1).log_softmax(0)).sum(0)),
    ],
)
def test_scores_of_class_scores(given: tuple[Tensor, Tensor], name: str, formula: Callable[[Tensor], Tensor]) -> None:
    found = gv.score_image(OwnQueries(), IMAGE, scores=name)
    torch.testing.assert_close(torch.from_numpy(found[name].values), formula(given[0]), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["prediction"], given[0].argmax(0))


def test_eam(given: tuple[Tensor, Tensor]) -> None:
    found = gv.score_image(OwnQueries(), IMAGE, scores="eam")["eam"]
    torch.testing.assert_close(torch.from_numpy(found.values), 1 - given[1], rtol=1e-5, atol=1e-6)


def test_the_set_is_the_default_one_and_those_of_queries() -> None:
    names = resolve_scores("queries")
    assert names[:6] == tuple(name.replace("pgn_uni_p0.5", "pgn_uni_p0.5_masks") for name in gv.DEFAULT_SCORES)
    assert names[6:] == ("max_mask", "rba", "neg_sum", "mask_energy", "eam")
    assert "queries" in SETS
    found = gv.score_image(OwnQueries(), IMAGE, scores="queries,pgn_oh_p0.5_embedding,pgn_uni_p2_decoder")
    assert all(np.isfinite(found[name]).all() for name in names)


def test_the_uniform_norm_of_queries_is_large_where_all_reject_a_pixel() -> None:
    names = ["pgn_uni_p1", "pgn_uni_p1_masks", "pgn_uni_p1_embedding", "pgn_uni_p1_decoder"]
    found = gv.score_image(OwnQueries(), IMAGE, scores=names)
    np.testing.assert_array_equal(found["pgn_uni_p1_masks"], -found["pgn_uni_p1"])
    assert [lookup(name).orientation for name in names] == [-1, 1, 1, 1]
    with pytest.raises(UnknownScoreError, match=r"'pgn_uni_p1_masks'.*queries"):
        gv.score_image(TinyNet(), IMAGE, scores="pgn_uni_p1_masks")
    with pytest.raises(UnknownScoreError, match="pgn_oh_p1_masks"):  # which is pgn_oh_p1
        lookup("pgn_oh_p1_masks")


def test_classes_that_are_left_out_count_like_no_object() -> None:
    network = Network(OwnQueries(), drop_channels=(0,))
    few, all_of = (gv.score_image(net, IMAGE, scores="max_mask,pgn_uni_p1") for net in (network, OwnQueries()))
    assert few.attrs["classes"] == ["class 1", "class 2", "class 3"]
    assert (few["max_mask"] >= all_of["max_mask"] - 1e-6).all()
    x = network.prepare(torch.rand(1, 3, 8, 8))
    head = network.infer(x)
    assert isinstance(head, QueryHead)
    some = HeadOutput(head.logits, None, head.layer, queries=head.queries).only(torch.tensor([1, 2, 3]))
    assert some.queries is not None
    expected = output(head.queries.masks, torch.cat([head.queries.log_classes[:, :, 1:], _rest(head.queries)], 2))
    requests = [NormRequest(label, 1.0, part="label") for label in ("oh", "uni")]
    torch.testing.assert_close(norms(some, *requests), norms(expected, *requests))


def _rest(queries: Queries) -> Tensor:
    """ln of the probability of what is no class any more."""
    return (1 - queries.log_classes[:, :, 1:].exp().sum(2, keepdim=True)).log()


def test_the_label_part_does_not_vanish_where_every_query_rejects_the_pixel() -> None:
    generator = torch.Generator().manual_seed(0)
    classes = torch.randn(1, QUERIES, CLASSES + 1, generator=generator)
    masks = torch.randn(1, QUERIES, 3, 4, generator=generator)
    requests = [NormRequest(label, p, part="label") for label in ("oh", "uni") for p in (0.1, 1.0, 2.0, 4.0)]
    for shift in (-20.0, -100.0, -1e4, -torch.inf):
        found = norms(output(masks + shift, classes), *requests)
        assert torch.isfinite(found).all()
        torch.testing.assert_close(found[:, [1, 5]], torch.zeros(1, 2, 3, 4), atol=1e-6, rtol=0)  # log2 of 1
    shifted = masks - 20
    shifted.requires_grad_()
    scores = torch.einsum("bqk,bqhw->bkhw", classes.softmax(2)[..., :-1], shifted.sigmoid())
    F.cross_entropy(scores, scores.argmax(1), reduction="sum").backward()
    assert float(shifted.grad.abs().sum(1).amax()) < 1e-6  # that of softmax(S) does


def test_the_label_part_is_zero_where_a_query_claims_the_pixel_with_certainty() -> None:
    classes = torch.full((1, QUERIES, CLASSES + 1), -20.0)
    classes[:, :, 2] = 20
    masks = torch.full((1, QUERIES, 2, 2), -60.0)
    masks[:, 0] = 60
    sure = norms(output(masks, classes), NormRequest("oh", 1.0, part="label"), NormRequest("oh", 2.0))
    assert (sure[:, 0] < -80).all()
    masks[:, 0] = 1e4
    claimed = norms(output(masks, classes), NormRequest("oh", 1.0, part="label"), NormRequest("oh", 2.0))
    assert (claimed >= LOG2_FLOOR).all()
    assert (claimed[:, 0] < -80).all()


def test_a_norm_is_the_sum_of_its_factors_and_of_any_precision() -> None:
    generator = torch.Generator().manual_seed(1)
    classes = torch.randn(2, QUERIES, CLASSES + 1, generator=generator, dtype=torch.float64)
    masks = 5 * torch.randn(2, QUERIES, 5, 7, generator=generator, dtype=torch.float64)
    psi = torch.randn(2, 3, 5, 7, generator=generator, dtype=torch.float64)
    requests = [
        NormRequest(label if part != "feature" else "", p, part=part)
        for p in (0.1, 1.0, 2.0, 3.0)
        for label in ("oh", "uni")
        for part in ("norm", "label", "feature")
    ]
    wide = norms(output(masks, classes, psi=psi), *requests)
    whole, label, feature = wide.unflatten(1, (-1, 3)).unbind(2)
    torch.testing.assert_close(whole, label + feature)
    narrow = norms(output(masks.float(), classes.float(), psi=psi.float()), *requests)
    torch.testing.assert_close(narrow.double(), wide, rtol=1e-4, atol=1e-4)
    halves = norms(output(masks.bfloat16(), classes.float(), psi=psi.bfloat16()), *requests)
    assert halves.dtype == torch.float32
    torch.testing.assert_close(halves.double(), wide, rtol=0.1, atol=0.3)


def test_norms_with_bias() -> None:
    network = Network(OwnQueries())
    head = network.infer(torch.rand(1, 3, 8, 8))
    assert isinstance(head, QueryHead)
    plain, biased = (
        HeadOutput(head.logits, None, head.layer, queries=head.queries, bias=bias) for bias in (False, True)
    )
    requests = [NormRequest("oh", 1.0, layer=layer) for layer in ("embedding", "decoder")]
    assert (norms(biased, *requests) > norms(plain, *requests)).all()
    with pytest.raises(GraduncError, match="mask embeddings are multiplied without one"):
        norms(biased, NormRequest("oh", 1.0))


@pytest.mark.parametrize(
    ("scores", "text"),
    [
        ("pgn_exp_p1", "'pgn_exp_p1' has no meaning for a query model: its label is drawn from the softmax"),
        ("label_exp_p2", "drawn from the softmax"),
        ("pgn_oh_p1_paper", "the paper's formula is one of the softmax"),
        ("gradnorm", "defined for a softmax; pgn_uni_p1 is the norm for queries"),
        ("expgrad", "drawn from the softmax"),
        ("fisher", "drawn from the softmax"),
        ("odin", "its temperature is that of a softmax"),
        ("pgn2_oh_p2", "pgn_oh_p2_embedding"),
    ],
)
def test_scores_without_a_meaning_for_queries(scores: str, text: str) -> None:
    with pytest.raises(GraduncError, match=text) as caught:
        gv.score_image(OwnQueries(), IMAGE, scores=scores)
    assert "\n" not in str(caught.value)


def test_the_void_has_none_either() -> None:
    with pytest.raises(UnknownScoreError, match="'void' has no meaning for a query model"):
        gv.score_image(Network(OwnQueries(), drop_channels=(3,)), IMAGE, scores="void")


@pytest.mark.parametrize("scores", ["rba", "eam", "pgn_oh_p1_embedding"])
def test_scores_of_queries_need_queries(scores: str) -> None:
    with pytest.raises(UnknownScoreError, match=f"{scores}' is made of the classes and masks of queries"):
        gv.score_image(TinyNet(), IMAGE, scores=scores)
    with pytest.raises(GraduncError, match="queries"):
        Scorer((scores,), "cpu")(HeadOutput(torch.randn(1, 3, 4, 4), None, nn.Conv2d(2, 3, 1)), (4, 4))


def test_norms_of_a_layer_need_queries() -> None:
    head = HeadOutput(torch.randn(1, 3, 4, 4), torch.randn(1, 2, 4, 4), nn.Conv2d(2, 3, 1))
    with pytest.raises(GraduncError, match="layer of a query model"):
        norms_and_softmax(head, [NormRequest("oh", 1.0, layer="decoder")])


@pytest.mark.parametrize("scores", ["tta_entropy", "ens_msp"])
def test_several_passes_have_no_mean_softmax(scores: str) -> None:
    nets = [OwnQueries(), OwnQueries(1)] if scores == "ens_msp" else OwnQueries()
    with pytest.raises(GraduncError, match=r"class(es and masks|.*scores S are no logits)"):
        gv.score_image(nets, IMAGE, scores=scores)


def test_masks_that_are_no_product_have_all_but_norms() -> None:
    class Clamped(OwnQueries):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            found = super().forward(x)
            return {**found, "masks_queries_logits": found["masks_queries_logits"].clamp(-3, 3)}

    assert np.isfinite(gv.score_image(Clamped(), IMAGE, scores="rba,eam,msp,label_oh_p1")["rba"]).all()
    with pytest.raises(GraduncError, match=r"mask embeddings M of this query model .*made by 'clamp'"):
        gv.score_image(Clamped(), IMAGE, scores="pgn_oh_p2")


def test_gradient_norms_take_a_head() -> None:
    head = Network(OwnQueries()).infer(torch.rand(2, 3, 8, 8))
    found = gv.gradient_norms(head, p=(1, 2))
    assert found.shape == (2, 4, 4, 4)
    alone = HeadOutput(head.logits, None, head.layer, queries=head.queries)
    requests = [NormRequest(label, p) for label in ("oh", "uni") for p in (1.0, 2.0)]
    torch.testing.assert_close(found, norms(alone, *requests))
