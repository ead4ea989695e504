"""Whatever a network does behind its head: its scores are those of its own output, or an error says why there are none.

What is expected is computed here from the network alone, as anybody would with torch at hand: its output, resized to
the image where it has another size, the softmax of that, and gradients of one pixel's loss by automatic
differentiation in float64.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from torch import Tensor, nn
from torch.nn.utils import parametrize
from zoo import SIZE, ZOO, Padded, Specimen, made

import gradunc_viz as gv

NORMS = {"pgn_oh_p0.5": ("oh", 0.5), "pgn_oh_p1": ("oh", 1.0), "pgn_uni_p2": ("uni", 2.0)}
"""Label and p; the map of a uniform label is larger where the norm is smaller."""

SOFTMAX = ("msp", "entropy")
SCORES = (*NORMS, *SOFTMAX)

FLOOR = -100
"""log2 of a norm that is none: below what any of these networks has elsewhere."""

RANDOM = np.random.default_rng(1)
IMAGES = tuple(RANDOM.integers(0, top, (*SIZE, 3), dtype=np.uint8) for top in (256, 140))
"""One after another through the same network: what was found out with the first has to be right for the second."""

PIXELS = [(0, 0), (0, 39), (23, 0), (23, 39), *map(tuple, RANDOM.integers(0, SIZE, (8, 2)).tolist())]
"""Corners, where padding shows, and some others."""


def tensor_of(image: np.ndarray, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].to(dtype) / 255


@pytest.fixture
def specimen(name: str) -> Iterator[Specimen]:
    with warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning):  # what torch says of its own past
            warnings.simplefilter("ignore", category)
        if ZOO[name].warns:
            warnings.simplefilter("ignore", UserWarning)
        yield ZOO[name]


@pytest.mark.parametrize("name", ZOO)
def test_scores_are_those_of_the_networks_own_output(name: str, specimen: Specimen) -> None:
    try:
        network = gv.load_model(made(name), **specimen.options)
        found = [gv.score_image(network, image, scores=SCORES) for image in IMAGES]
    except gv.GraduncError as error:
        check_refusal(str(error), specimen)
        return
    assert specimen.kind != "refused", "scored"
    for ds, image in zip(found, IMAGES, strict=True):
        logits = own_logits(name, specimen, image)
        check_softmax(ds, logits)
        check_norms(ds, name, specimen, image, logits)


@pytest.mark.parametrize("name", [name for name, specimen in ZOO.items() if specimen.kind != "refused"])
def test_the_deployed_network_says_the_same(name: str, specimen: Specimen) -> None:
    """By the kernels, and by the expressions that can be differentiated and exported."""
    x = torch.cat([tensor_of(image) for image in IMAGES])
    try:
        network = gv.load_model(made(name), **specimen.options)
        expected = [gv.score_image(network, image, scores=SCORES) for image in IMAGES]
        model = gv.ScoredModel(network, SCORES, example=x[:1])
        for grad in (False, True):
            with torch.set_grad_enabled(grad):
                found = [model(one[None]).scores[0].detach().numpy() for one in x]
            for maps, ds in zip(found, expected, strict=True):
                for score, values in zip(SCORES, maps, strict=True):
                    atol = 1e-5 if score in SOFTMAX else 2 * specimen.tolerance
                    np.testing.assert_allclose(values, ds[score].values, rtol=0, atol=atol, err_msg=score)
    except gv.GraduncError as error:
        check_refusal(str(error), specimen)


def test_what_is_behind_the_head_may_depend_on_the_size() -> None:
    network, random = gv.load_model(made("padded", Padded)), np.random.default_rng(0)
    for size in ((32, 64), SIZE, (17, 33), (32, 64), SIZE):
        image = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        ds = gv.score_image(network, image, scores=SOFTMAX)
        with torch.no_grad():
            check_softmax(ds, made("padded", Padded)(tensor_of(image)))


def check_refusal(text: str, specimen: Specimen) -> None:
    assert specimen.refusal, f"refused: {text}"
    assert re.search(specimen.refusal, text, re.IGNORECASE), f"names no {specimen.refusal!r}: {text}"


def own_logits(name: str, specimen: Specimen, image: np.ndarray) -> Tensor:
    """What the network says, before it is resized to the image."""
    with torch.no_grad():
        return specimen.logits(made(name)(tensor_of(image))).float()


def at_image(maps: Tensor, size: tuple[int, ...] = SIZE) -> Tensor:
    return maps if maps.shape[2:] == size else F.interpolate(maps, size, mode="bilinear", align_corners=False)


def check_softmax(ds: xr.Dataset, logits: Tensor) -> None:
    logits = at_image(logits, ds.prediction.shape)[0].double()
    prediction = torch.from_numpy(ds.prediction.values)
    best, second = logits.topk(2, 0).values
    wrong = (prediction != logits.argmax(0)) & (best - second > 1e-5)  # of two that are equal either will do
    assert not wrong.any(), f"{int(wrong.sum())} of {wrong.numel()} predictions are not the network's"
    pi = logits.softmax(0)
    expected = {"msp": 1 - pi.amax(0), "entropy": -torch.special.xlogy(pi, pi).sum(0)}
    for score, map_ in expected.items():
        np.testing.assert_allclose(ds[score].values, map_.numpy(), rtol=0, atol=1e-5, err_msg=score)


def check_norms(ds: xr.Dataset, name: str, specimen: Specimen, image: np.ndarray, logits: Tensor) -> None:
    """Against each answer that can be defended: one of them it has to be."""
    if specimen.norms == "unchecked":
        assert all(np.isfinite(ds[score].values).all() for score in NORMS)
        return None
    if specimen.norms == "replayed":
        expected = replayed(name, specimen, image)
        check_close({score: ds[score].values for score in NORMS}, expected, 0.02)
        return None
    assert logits.shape[2:] == SIZE, "a norm at each pixel is expected of outputs of the image's size"
    labels = torch.from_numpy(ds.prediction.values)
    found = {score: np.array([ds[score].values[pixel] for pixel in PIXELS]) for score in NORMS}
    failures = []
    for kernels in specimen.kernels:
        try:
            return check_close(
                found, differentiated(name, specimen, kernels.split(), image, labels), specimen.tolerance
            )
        except AssertionError as failure:
            failures.append(failure)
    raise failures[0]


def check_close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerance: float) -> None:
    for score, (label, _) in NORMS.items():
        values = found[score] if label == "oh" else -found[score]
        zero = expected[score] < FLOOR
        assert (values[zero] < FLOOR).all(), f"{score}: {values[zero].max()} where the gradient is zero"
        np.testing.assert_allclose(values[~zero], expected[score][~zero], rtol=0, atol=tolerance, err_msg=score)


def loss_of(logits: Tensor, label: str, predicted: Tensor) -> Tensor:
    """Cross-entropy of logits (N, C) against a one-hot or uniform label."""
    if label == "oh":
        return F.cross_entropy(logits, predicted, reduction="none")
    return -logits.log_softmax(1).mean(1)


def differentiated(
    name: str, specimen: Specimen, kernels: list[str], image: np.ndarray, labels: Tensor
) -> dict[str, np.ndarray]:
    """log2 of the norm of the gradient of each pixel's loss, with respect to some kernels together."""
    net = made(name, specimen.reference).double().requires_grad_(True)
    with parametrize.cached():
        logits = specimen.logits(net(tensor_of(image, torch.float64)))
        weights = [net.get_submodule(kernel).weight for kernel in kernels]
    found: dict[str, list[float]] = {score: [] for score in NORMS}
    for y, x in PIXELS:
        for label in ("oh", "uni"):
            loss = loss_of(logits[:, :, y, x], label, labels[None, y, x].long())
            gradient = torch.cat([one.flatten() for one in torch.autograd.grad(loss, weights, retain_graph=True)])
            for score, (its_label, p) in NORMS.items():
                if its_label == label:
                    norm = gradient.norm(p).item()
                    found[score].append(math.log2(norm) if norm else -math.inf)
    return {score: np.array(values) for score, values in found.items()}


def replayed(name: str, specimen: Specimen, image: np.ndarray) -> dict[str, np.ndarray]:
    """log2 of the norms at the head, moved as the network moves its logits, at the size of the image.

    The head is one of a single tap: its norm is that of the gradient by its output, times that of its features.
    """
    net = made(name, specimen.reference).double()
    entered: list[tuple[Tensor, Tensor]] = []
    head = net.get_submodule(specimen.kernels[0])
    axis = -1 if isinstance(head, nn.Linear) else 1
    head.register_forward_hook(lambda layer, args, output: entered.append((args[0].detach(), output.detach())))
    with torch.no_grad():
        net(tensor_of(image, torch.float64))
    ((features, output),) = entered
    output.requires_grad_(True)
    logits = two_classes(specimen.value(output), axis).movedim(axis, 1)
    maps = {}
    for score, (label, p) in NORMS.items():
        (by_output,) = torch.autograd.grad(loss_of(logits, label, logits.argmax(1)).sum(), output, retain_graph=True)
        norms = by_output.norm(p, axis, keepdim=True) * features.norm(p, axis, keepdim=True)
        moved = specimen.moves(norms.expand_as(output).contiguous())[:, :1]
        maps[score] = at_image(moved)[0, 0].clamp_min(0).log2().numpy()
    return maps


def two_classes(logits: Tensor, axis: int) -> Tensor:
    """Logits of two classes where a sigmoid is meant, otherwise what is given."""
    return logits if logits.shape[axis] > 1 else torch.cat([torch.zeros_like(logits), logits], axis)
