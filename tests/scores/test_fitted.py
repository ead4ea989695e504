"""Fitted scores against the same by scikit-learn, scipy, numpy and automatic differentiation, in float64."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.covariance import EmpiricalCovariance
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn
from torch.nn import functional as F

from gradunc_viz.run.fit import fitted_state
from gradunc_viz.schema.errors import FitError, HeadError
from gradunc_viz.schema.scores import SCORES, lookup
from gradunc_viz.scores.drawing import draw_pixels
from gradunc_viz.scores.fitted import DrawnPixels, class_kernel
from gradunc_viz.scores.knn import _kth_smallest
from gradunc_viz.scores.needs import ForwardPass, HeadOutput

C, D = 4, 9


CENTRES = 3 * torch.randn(C, D, generator=torch.Generator().manual_seed(0)) + 5


def layer_of() -> nn.Conv2d:
    """Predicts the class of the nearest centre."""
    layer = nn.Conv2d(D, C, 1)
    with torch.no_grad():
        layer.weight[:, :, 0, 0] = CENTRES / 4
        layer.bias.copy_(5 - CENTRES.square().sum(1) / 8)
    return layer


def drawn(n: int = 600, seed: int = 0, layer: nn.Module | None = None, **changes: object) -> DrawnPixels:
    """Pixels of classes that lie apart, of features that are correlated and not centred."""
    random = torch.Generator().manual_seed(seed)
    layer = layer or layer_of()
    mix = torch.randn(D, D, generator=random)
    features = CENTRES[torch.arange(n) % C] + torch.randn(n, D, generator=random) @ mix
    with torch.no_grad():
        logits = layer(features.T[None, :, :, None])[0, :, :, 0].T
    given = {"features": features, "logits": logits, "prediction": logits.argmax(1), "layer": layer, **changes}
    return DrawnPixels(classes=("road", "car", "tree", "sky"), **given)


def run_of(layer: nn.Module, seed: int = 1, size: tuple[int, int] = (5, 7)) -> ForwardPass:
    random = torch.Generator().manual_seed(seed)
    features = 4 * torch.randn(2, D, *size, generator=random) + 4
    with torch.no_grad():
        logits = layer(features)
    return ForwardPass(HeadOutput(logits, features, layer), (11, 15))


def scored(name: str, pixels: DrawnPixels, run: ForwardPass) -> np.ndarray:
    score = lookup(name)
    return score.function(run, fitted_state(score, pixels)).double().numpy()


def rows(run: ForwardPass) -> np.ndarray:
    return run.head.features.double().permute(0, 2, 3, 1).reshape(-1, D).numpy()


def close(values: np.ndarray, expected: np.ndarray, rtol: float = 1e-4) -> None:
    np.testing.assert_allclose(values.ravel(), np.asarray(expected).ravel(), rtol=rtol, atol=1e-4)


def test_mahalanobis_as_scikit_learn_has_it() -> None:
    pixels, run = drawn(), run_of(layer_of())
    x, group, psi = pixels.features.double().numpy(), pixels.prediction.numpy(), rows(run)
    means = {c: x[group == c].mean(0) for c in np.unique(group)}
    within = EmpiricalCovariance(assume_centered=True).fit(x - np.stack([means[c] for c in group]))
    nearest = np.min([within.mahalanobis(psi - mean) for mean in means.values()], axis=0)
    close(scored("mahalanobis", pixels, run), nearest)
    whole = EmpiricalCovariance().fit(x)
    close(scored("mahalanobis_rel", pixels, run), nearest - whole.mahalanobis(psi), 1e-3)


def test_mahalanobis_by_label() -> None:
    label = torch.arange(600) % C
    pixels, run = drawn(label=label, by="label"), run_of(layer_of())
    x, psi = pixels.features.double().numpy(), rows(run)
    means = np.stack([x[label == c].mean(0) for c in range(C)])
    inverse = np.linalg.inv(np.cov((x - means[label]).T, bias=True))
    close(
        scored("mahalanobis", pixels, run),
        np.min([np.einsum("nd,de,ne->n", psi - m, inverse, psi - m) for m in means], axis=0),
    )


def test_mahalanobis_keeps_its_digits_far_from_the_origin() -> None:
    pixels = drawn()
    far = DrawnPixels(
        pixels.features + 1000, pixels.logits, pixels.prediction, classes=pixels.classes, layer=pixels.layer
    )
    run = run_of(layer_of())
    moved = ForwardPass(HeadOutput(run.head.logits, run.head.features + 1000, run.head.layer), run.size)
    for name in ("mahalanobis", "mahalanobis_rel"):
        np.testing.assert_allclose(scored(name, far, moved), scored(name, pixels, run), rtol=2e-2, atol=2e-1)


def test_a_singular_covariance_is_told_and_inverted_where_it_can_be() -> None:
    pixels, run = drawn(), run_of(layer_of())
    features = pixels.features.clone()
    features[:, 2], features[:, 5] = 7.0, features[:, 4]
    flat = DrawnPixels(features, pixels.logits, pixels.prediction, classes=pixels.classes, layer=pixels.layer)
    with pytest.warns(UserWarning, match=r"'mahalanobis'.*singular, of rank 7 of 9; features 2 do not vary"):
        values = scored("mahalanobis", flat, run)
    x, group, psi = features.double().numpy(), pixels.prediction.numpy(), rows(run)
    means = np.stack([x[group == c].mean(0) for c in range(C)])
    kept = [d for d in range(D) if d not in (2, 5)]
    psi_kept = psi.copy()
    psi_kept[:, 4] = (psi[:, 4] + psi[:, 5]) / 2  # what is seen of two features that are one
    inverse = np.linalg.inv(np.cov((x - means[group])[:, kept].T, bias=True))
    differences = (psi_kept[:, None] - means)[..., kept]
    close(values, np.einsum("ncd,de,nce->nc", differences, inverse, differences).min(1), 1e-3)
    constant = DrawnPixels(torch.ones(50, D), pixels.logits[:50], pixels.prediction[:50], classes=pixels.classes)
    with pytest.raises(FitError, match="'mahalanobis': none of the 9 features varies"):
        scored("mahalanobis", constant, run)


def test_a_class_that_is_never_predicted_is_named() -> None:
    pixels = drawn()
    some = DrawnPixels(
        pixels.features, pixels.logits, pixels.prediction.clamp_max(2), classes=pixels.classes, layer=pixels.layer
    )
    with pytest.warns(UserWarning, match="'mahalanobis': no drawn pixel is predicted as 'sky'; left out"):
        scored("mahalanobis", some, run_of(layer_of()))
    logits = pixels.logits.clone()
    logits[:, 3] = -100
    never = DrawnPixels(pixels.features, logits, logits.argmax(1), classes=pixels.classes, layer=pixels.layer)
    run = run_of(layer_of())
    with pytest.warns(UserWarning, match="'sml'.*where 'sky' is predicted; mean and standard deviation of all"):
        state = fitted_state(lookup("sml"), never)
    largest = logits.double().amax(1)
    np.testing.assert_allclose(state["mean"][3], largest.mean(), rtol=1e-6)
    np.testing.assert_allclose(state["deviation"][3], largest.std(correction=0), rtol=1e-6)
    assert torch.isfinite(lookup("sml").function(run, state)).all()


@pytest.mark.parametrize(("name", "k"), [("knn", 50), ("knn_k1", 1), ("knn_k7", 7)])
def test_knn_as_scikit_learn_has_it(name: str, k: int) -> None:
    pixels, run = drawn(5000), run_of(layer_of())
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (pixels.features.double().numpy(), rows(run))]
    distances = NearestNeighbors(n_neighbors=k).fit(unit[0]).kneighbors(unit[1])[0][:, -1]
    close(scored(name, pixels, run), distances, 1e-3)


@pytest.mark.parametrize(("n", "k"), [(1000, 50), (2003, 50), (800, 1), (90, 60), (3217, 99)])
def test_the_kth_smallest_with_ties(n: int, k: int) -> None:
    values = torch.randint(0, 400, (30, n), generator=torch.Generator().manual_seed(n)).float()
    assert torch.equal(_kth_smallest(values, k), values.sort(1).values[:, k - 1])


def test_knn_takes_20000_of_all_frames_evenly() -> None:
    pixels = DrawnPixels(
        torch.arange(1, 30_001)[:, None].float() * torch.tensor([[1.0, 0.0]]) + 1,
        torch.zeros(30_000, 2),
        torch.zeros(30_000).long(),
    )
    bank = fitted_state(lookup("knn"), pixels)["bank"]
    assert bank.shape == (20_000, 2)
    assert torch.equal(bank[[0, -1]], F.normalize(pixels.features[[0, -1]].double()).float())


def test_vim_as_its_authors_compute_it() -> None:
    layer = layer_of()
    pixels, run = drawn(layer=layer), run_of(layer)
    w, b = layer.weight.detach().double().numpy()[:, :, 0, 0], layer.bias.detach().double().numpy()
    x, psi = pixels.features.double().numpy(), rows(run)
    u = np.linalg.lstsq(w, -b, rcond=None)[0]  # the shortest solution
    covariance = EmpiricalCovariance(assume_centered=True).fit(x - u).covariance_
    values, vectors = np.linalg.eig(covariance)
    outside = vectors[:, np.argsort(-values)[D // 2 :]]
    alpha = pixels.logits.amax(1).double().mean().item() / np.linalg.norm((x - u) @ outside, axis=1).mean()
    phi = run.head.logits.double().permute(0, 2, 3, 1).reshape(-1, C).numpy()
    expected = alpha * np.linalg.norm((psi - u) @ outside, axis=1) - np.log(np.exp(phi).sum(1))
    close(scored("vim", pixels, run), expected)


def test_neco_as_principal_components_have_it() -> None:
    pixels, run = drawn(), run_of(layer_of())
    pca = PCA(n_components=0.9, svd_solver="full").fit(pixels.features.double().numpy())
    psi = rows(run)
    ratio = np.linalg.norm(psi @ pca.components_.T, axis=1) / np.linalg.norm(psi, axis=1)
    close(scored("neco", pixels, run), -ratio)
    run.head.features[0, :, 0, 0] = 0
    assert scored("neco", pixels, run)[0, 0, 0] == 0


def test_gradorth_is_the_gradient_in_the_subspace() -> None:
    layer = layer_of().double()
    pixels = drawn()
    run = run_of(layer_of(), size=(2, 3))
    v = fitted_state(lookup("neco"), pixels)["directions"].double()
    values = scored("gradorth", pixels, run)
    for place in np.ndindex(values.shape):
        psi = run.head.features[place[0], :, place[1], place[2]].double()
        phi = layer(psi[None, :, None, None])[0, :, 0, 0]
        loss = F.cross_entropy(phi[None], phi.argmax()[None])
        (gradient,) = torch.autograd.grad(loss, layer.weight)
        assert values[place] == pytest.approx((gradient[:, :, 0, 0] @ v.T).norm().log2().item(), abs=1e-3)


def sml_by_loops(run: ForwardPass, pixels: DrawnPixels, suppressed: bool, smoothed: bool) -> np.ndarray:
    largest = pixels.logits.double().amax(1).numpy()
    y = pixels.prediction.numpy()
    maps = []
    for logits in run.resized.double().numpy():
        predicted, m = logits.argmax(0), np.zeros(logits.shape[1:])
        for c in range(C):
            at = predicted == c
            m[at] = -(logits.max(0)[at] - largest[y == c].mean()) / largest[y == c].std()
        if suppressed:
            boundary = ndimage.maximum_filter(predicted, 3, mode="nearest") != ndimage.minimum_filter(
                predicted, 3, mode="nearest"
            )
            for width in (3, 2, 1, 0):
                band = boundary if not width else ndimage.binary_dilation(boundary, iterations=width)
                before, outer = np.pad(m, 1, "edge"), np.pad(~band, 1, "edge")
                for i, j in np.argwhere(band):
                    near = before[i : i + 3, j : j + 3][outer[i : i + 3, j : j + 3]]
                    m[i, j] = near.mean() if near.size else m[i, j]
        if smoothed:
            taps = np.arange(-3, 4)
            kernel = np.exp(-(taps[:, None] ** 2 + taps**2) / 2)
            spread = np.zeros((37, 37))
            spread[::6, ::6] = kernel / kernel.sum()
            m = ndimage.correlate(m, spread, mode="nearest")
        maps.append(m)
    return np.stack(maps)


@pytest.mark.parametrize("name", ["sml", "sml_bs", "sml_ds", "sml_bs_ds"])
def test_sml_pixel_by_pixel(name: str) -> None:
    layer = layer_of()
    pixels, run = drawn(layer=layer), run_of(layer)
    blocks = torch.randn(2, C, 3, 4, generator=torch.Generator().manual_seed(3))
    logits = F.interpolate(blocks, (36, 48)) + 0.1 * torch.randn(
        2, C, 36, 48, generator=torch.Generator().manual_seed(4)
    )
    run = ForwardPass(HeadOutput(logits, None, layer), (36, 48))
    expected = sml_by_loops(run, pixels, "_bs" in name, "_ds" in name)
    close(scored(name, pixels, run), expected)


# --------------------------------------------------------------------------------------------------------------------
# kernels of heads of every kind, grids


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 4, 1),
        nn.Conv2d(6, 4, 3, padding=1),
        nn.Conv2d(6, 4, 3, padding=2, dilation=2, groups=2, bias=False),
        nn.Conv2d(6, 4, 3, stride=2, padding=1),
        nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1),
        nn.ConvTranspose2d(6, 4, 4, stride=2, padding=1, groups=2),
        nn.Linear(6, 4),
    ],
    ids=str,
)
def test_the_kernel_that_a_constant_map_meets(layer: nn.Module) -> None:
    psi = torch.randn(6, generator=torch.Generator().manual_seed(0))
    constant = psi if isinstance(layer, nn.Linear) else psi[None, :, None, None].expand(1, 6, 16, 16)
    with torch.no_grad():
        out = layer(constant)
    seen = out if out.ndim == 1 else out[0, :, 2:-2, 2:-2].mean((1, 2))  # without the edges
    pixels = DrawnPixels(torch.zeros(1, 6), torch.zeros(1, 4), torch.zeros(1).long(), layer=layer)
    kernel, bias = class_kernel(pixels, "vim")
    torch.testing.assert_close((kernel @ psi.double() + bias).float(), seen, rtol=1e-4, atol=1e-5)
    kept = torch.tensor([0, 2, 3])
    fewer = DrawnPixels(torch.zeros(1, 6), torch.zeros(1, 3), torch.zeros(1).long(), layer=layer, channels=kept)
    torch.testing.assert_close(class_kernel(fewer, "vim")[0], kernel[kept])


def test_a_kernel_that_cannot_be_had() -> None:
    other = drawn(source="layer:body")
    for name in ("vim", "gradorth"):
        with pytest.raises(
            FitError, match=f"'{name}' needs the head's kernel, and so its features, not those of 'layer:body'"
        ):
            fitted_state(lookup(name), other)
    wide = drawn(layer=nn.Conv2d(D, 7, 1), logits=torch.randn(600, C))
    with pytest.raises(FitError, match=r"'vim' needs the kernel of the network's 4 logits; .* makes 7"):
        fitted_state(lookup("vim"), wide)


def test_a_map_of_a_transposed_head_has_the_size_of_its_logits() -> None:
    layer = nn.ConvTranspose2d(D, C, 3, stride=2, padding=1, output_padding=1)
    pixels = drawn()
    features = torch.randn(1, D, 5, 7)
    with torch.no_grad():
        run = ForwardPass(HeadOutput(layer(features), features, layer))
    flat = nn.Conv2d(D, C, 1)
    with torch.no_grad():
        at_features = ForwardPass(HeadOutput(flat(features), features, flat))
    for name in ("mahalanobis", "knn", "neco"):
        small, large = scored(name, pixels, at_features), scored(name, pixels, run)
        assert large.shape == (1, 10, 14)
        expected = F.interpolate(torch.from_numpy(small)[None], (10, 14), mode="bilinear", align_corners=False)
        close(large, expected.numpy())


# --------------------------------------------------------------------------------------------------------------------
# too little, or too much, to fit on


@pytest.mark.parametrize("name", ["mahalanobis", "mahalanobis_rel", "vim", "neco", "gradorth"])
def test_fewer_pixels_than_features(name: str) -> None:
    with pytest.raises(FitError, match=f"score '{name}': 8 pixels were drawn for 9 features; expected 9 or more"):
        fitted_state(lookup(name), drawn(8))


def test_what_cannot_be_fitted() -> None:
    with pytest.raises(FitError, match="score 'knn': k is 50, but 49 pixels were drawn; expected 50 or more"):
        fitted_state(lookup("knn"), drawn(49))
    with pytest.raises(FitError, match=r"'vim': the mean of the largest logit is -.*expected more than 0"):
        fitted_state(lookup("vim"), drawn(logits=-torch.rand(600, C)))
    flat = drawn()
    flat.features[:, 4:] = 1.0
    zero = nn.Conv2d(D, C, 1, bias=False)
    with pytest.raises(FitError, match="'neco': none of the 9 features varies"):
        fitted_state(lookup("neco"), DrawnPixels(torch.ones(50, D), torch.ones(50, C), torch.zeros(50).long()))
    inside = torch.randn(600, 4) @ torch.randn(4, D)
    with pytest.raises(FitError, match="'vim': nothing of the 9 features is left outside their 4 principal"):
        fitted_state(lookup("vim"), drawn(layer=zero, features=inside, logits=torch.ones(600, C)))


# --------------------------------------------------------------------------------------------------------------------
# pixels


def run_with(size: tuple[int, int] = (6, 8), features: tuple[int, int] = (6, 8)) -> ForwardPass:
    """Logits and features that say where they are."""
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    logits = torch.stack([y, x, 0 * x])[None].float()
    v, u = torch.meshgrid(torch.arange(features[0]), torch.arange(features[1]), indexing="ij")
    return ForwardPass(HeadOutput(logits, torch.stack([v, u])[None].float(), nn.Conv2d(2, 3, 1)), (24, 32))


def test_pixels_belong_together_and_are_drawn_once() -> None:
    for features in ((6, 8), (3, 4), (12, 16)):
        part = draw_pixels(run_with(features=features), 20, 0, "f")
        assert len(torch.unique(part.logits, dim=0)) == 20
        scale = torch.tensor(features) / torch.tensor((6, 8))
        assert torch.equal(part.features, (part.logits[:, :2] * scale).floor())
        assert torch.equal(part.prediction, part.logits.argmax(1))
    assert len(draw_pixels(run_with(), 1000, 0, "f").label) == 48
    assert not torch.equal(draw_pixels(run_with(), 9, 0, "f").logits, draw_pixels(run_with(), 9, 0, "g").logits)
    assert not torch.equal(draw_pixels(run_with(), 9, 0, "f").logits, draw_pixels(run_with(), 9, 1, "f").logits)


def test_ignored_and_unknown_pixels_are_left_out() -> None:
    label = np.arange(24, dtype="u1")[:, None].repeat(32, 1) // 8
    label[:, :16] = 255
    anomaly = np.zeros((24, 32), "u1")
    anomaly[:12], anomaly[12:16] = 1, 255
    part = draw_pixels(run_with(), 1000, 0, "f", label, anomaly)
    assert sorted(map(tuple, part.logits[:, :2].int().tolist())) == [(y, x) for y in (4, 5) for x in range(4, 8)]
    assert part.label.tolist() == [2] * 8
    assert len(draw_pixels(run_with(), 9, 0, "f", np.full((24, 32), 255, "u1")).label) == 0


# --------------------------------------------------------------------------------------------------------------------
# the registry


def test_every_fitted_score_says_what_it_is() -> None:
    entries = [entry for entry in SCORES.values() if entry.family == "fitted"]
    assert len(entries) == 10
    for entry in entries:
        assert "fit" in entry.needs
        assert "arXiv:" in entry.source
        assert callable(entry.function)
    assert lookup("knn_k10").parameters == {"k": 10}


def test_features_that_nobody_kept() -> None:
    run = ForwardPass(HeadOutput(torch.zeros(1, 3, 4, 4), None, nn.Conv2d(2, 3, 1)))
    with pytest.raises(HeadError, match="not kept"):
        _ = run.features


def test_no_warning_where_all_is_well() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for entry in SCORES.values():
            if entry.family == "fitted":
                assert all(isinstance(part, Tensor) for part in fitted_state(entry, drawn(5000)).values())
