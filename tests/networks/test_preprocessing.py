"""Images as networks want them: order and number of channels, mean and deviation, size, type."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import gradunc_viz as gv
from gradunc_viz.networks.network import IMAGENET, Network, network_input
from gradunc_viz.networks.preprocessing import Preprocessing
from gradunc_viz.networks.runner import Inference
from gradunc_viz.schema.errors import FrameError, ModelError, SettingsError

CPU = torch.device("cpu")


def image_of(channels: int, dtype: str = "u1") -> np.ndarray:
    image = np.random.default_rng(channels).integers(0, 200, (20, 30, channels))
    return image.astype(dtype)


def test_colours_in_another_order_keep_their_numbers():
    network = gv.load_model(nn.Conv2d(3, 4, 1), channels="bgr", normalize="imagenet")
    image = image_of(3)
    rgb = Network(nn.Conv2d(3, 4, 1), normalize="imagenet")
    assert torch.equal(network_input(image, network, None), network_input(image, rgb, None).flip(1))
    assert network.normalize == tuple(numbers[::-1] for numbers in IMAGENET)
    assert gv.load_model(network, channels="rgb").normalize == IMAGENET
    assert gv.load_model(network, normalize="none").preprocessing == Preprocessing(channels="bgr")
    with pytest.raises(ModelError, match=r"channels='hsv': expected one of rgb, bgr, grey"):
        gv.load_model(network, channels="hsv")


def test_numbers_are_in_the_network_s_order():
    network = gv.load_model(nn.Conv2d(3, 4, 1), channels="bgr", normalize=((0.1, 0.2, 0.3), (1, 1, 2)))
    x = network_input(np.full((2, 2, 3), (255, 0, 0), "u1"), network, None)
    torch.testing.assert_close(x[0, :, 0, 0], torch.tensor([-0.1, -0.2, 0.35]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_networks_run_in_their_own_precision(dtype):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Softplus(), nn.Conv2d(8, 5, 1)).to(dtype)
    image = image_of(3)
    found = gv.score_image(gv.load_model(net, normalize="imagenet"), image, scores=["entropy", "pgn_oh_p0.5"])
    wide = torch.promote_types(dtype, torch.float32)
    x = torch.from_numpy(image).permute(2, 0, 1)[None].to(wide) / 255
    mean, std = (x.new_tensor(numbers).view(1, 3, 1, 1) for numbers in IMAGENET)
    with torch.no_grad():
        logits = net(((x - mean) / std).to(dtype)).double()[0]
    assert np.array_equal(found.prediction, logits.argmax(0))
    entropy = torch.special.entr(logits.softmax(0)).sum(0)
    np.testing.assert_allclose(found.entropy, entropy, atol=1e-5)
    assert {parameter.dtype for parameter in net.parameters()} == {dtype}


def test_weights_of_half_precision_need_no_autocast():
    with pytest.warns(UserWarning, match=r"are torch\.float16 already: autocast='bf16' is left out"):
        inference = Inference(gv.load_model(nn.Conv2d(3, 4, 1).half()), CPU, autocast="bf16")
    assert inference(torch.rand(1, 3, 8, 8).half(), "it").logits.dtype == torch.float16


@pytest.mark.parametrize(
    ("size", "expected"), [(None, (16, 24)), ("own", (20, 30)), ((8, 12), (8, 12))], ids=["asked", "own", "given"]
)
def test_the_size_that_a_network_asks_for(size, expected):
    network = Network(nn.Conv2d(3, 4, 1), preprocessing=Preprocessing(size=(16, 24), resample=Image.Resampling.BICUBIC))
    x = Inference(network, CPU, input_size=size).prepare(image_of(3), "it")
    assert x.shape[-2:] == expected
    if size is None:
        wanted = np.array(Image.fromarray(image_of(3)).resize((24, 16), Image.Resampling.BICUBIC))
        assert torch.equal(x[0], torch.from_numpy(wanted).permute(2, 0, 1) / 255)


@pytest.mark.parametrize("size", ["full", (8,), (8, 0), 8, (8.0, 8.0)])
def test_sizes_that_are_none(size):
    with pytest.raises(SettingsError, match=r"expected \(height, width\), each 1 or more, or 'own'"):
        Inference(gv.load_model(nn.Conv2d(3, 4, 1)), CPU, input_size=size)
    with pytest.raises(SettingsError, match="input_size is"):
        gv.Settings(input_size=size)


@pytest.mark.parametrize(("dtype", "top"), [("u1", 255), ("u2", 65535), ("f4", 1)])
@pytest.mark.parametrize("channels", [1, 2, 4, 13])
def test_any_number_of_channels(channels, dtype, top):
    network = gv.load_model(nn.Conv2d(channels, 4, 1), normalize=([0.1] * channels, [0.2] * channels))
    image = image_of(channels, dtype)
    x = network_input(image, network, None)
    expected = (torch.from_numpy(image.astype("f4")).permute(2, 0, 1)[None] / top - 0.1) / 0.2
    torch.testing.assert_close(x, expected)
    # one number for all channels; each channel is resized alone, opacity or not
    network = gv.load_model(nn.Conv2d(channels, 4, 1), normalize=([0.1], [0.2]))
    torch.testing.assert_close(network_input(image, network, None), expected)
    first = network_input(image, network, (10, 14))[:, :1]
    alone = network_input(image[:, :, :1], gv.load_model(nn.Conv2d(1, 4, 1), normalize=([0.1], [0.2])), (10, 14))
    assert torch.equal(first, alone)


def test_rgb_for_a_grey_network():
    image = image_of(3)
    grey = np.array(Image.fromarray(image).convert("L"))[:, :, None]
    network = gv.load_model(nn.Conv2d(1, 4, 1))
    assert torch.equal(network_input(image, network, None), network_input(grey, network, None))


def test_what_does_not_go_together_is_refused():
    with pytest.raises(FrameError, match="an image of 3 channels for Conv2d, which takes 4"):
        network_input(image_of(3), gv.load_model(nn.Conv2d(4, 4, 1)), None)
    with pytest.raises(ModelError, match=r"4 means and deviations for an input of 3 channels: expected 3, or one"):
        network_input(image_of(3), gv.load_model(nn.Conv2d(3, 4, 1), normalize=([0.1] * 4, [1] * 4)), None)
    caffe = ([104.0, 117.0, 123.0], [1.0] * 3)
    with pytest.raises(ModelError, match=r"a mean of 123 for images in \[0, 1\]: .* --scale 255"):
        network_input(image_of(3), gv.load_model(nn.Conv2d(3, 4, 1), normalize=caffe), None)
    unknown = Preprocessing(unknown="nobody knows")
    with pytest.raises(ModelError, match="nobody knows"):
        Network(nn.Conv2d(3, 4, 1), preprocessing=unknown).prepare(torch.rand(1, 3, 4, 4))
    with pytest.raises(ModelError, match="nobody knows"):
        gv.load_model(Network(nn.Conv2d(3, 4, 1), preprocessing=unknown))
    assert gv.load_model(Network(nn.Conv2d(3, 4, 1), preprocessing=unknown), normalize="none").normalize is None


def test_floating_point_images_have_means_of_their_own():
    network = gv.load_model(nn.Conv2d(1, 4, 1), normalize=([40.0], [80.0]))
    assert network_input(np.full((2, 2, 1), 120, "f4"), network, None).unique().tolist() == [1]


@pytest.mark.parametrize("channels", [1, 6])
def test_the_deployed_network_is_tried_on_as_many_channels(channels):
    model = gv.ScoredModel(nn.Conv2d(channels, 4, 1), "msp")
    assert model(torch.rand(1, channels, 8, 8)).scores.shape == (1, 1, 8, 8)
