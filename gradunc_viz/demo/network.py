"""The demo's convolutional network: an encoder, which the query network shares, a decoder and a 1x1 classifier head."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from ..datasets.catalog import data_path
from . import CLASSES

__all__ = ["DemoNet", "Encoder", "load_demo_network", "read_weights"]

_MEAN, _STD = 0.42, 0.24


class _Unit(nn.Sequential):
    """Convolution, batch norm and ReLU."""

    def __init__(self, cin: int, cout: int, size: int = 3, stride: int = 1, dilation: int = 1) -> None:
        super().__init__(
            nn.Conv2d(cin, cout, size, stride, dilation * (size // 2), dilation, bias=False),
            nn.BatchNorm2d(cout),
            nn.ReLU(),
        )


class _Residual(nn.Module):
    """Two convolutions added to their input."""

    def __init__(self, width: int, dilation: int = 1) -> None:
        super().__init__()
        self.first = _Unit(width, width, dilation=dilation)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.second(self.first(x)))


class Encoder(nn.Module):
    """Features of an image at a quarter, an eighth and a sixteenth of its size."""

    widths = (32, 48, 72)
    unit = _Unit

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(_Unit(3, 16, stride=2), _Unit(16, 32, stride=2))
        self.fine = _Residual(32)
        self.down8 = _Unit(32, 48, stride=2)
        self.middle = _Residual(48)
        self.down16 = _Unit(48, 72, stride=2)
        self.coarse = nn.Sequential(_Residual(72), _Residual(72, dilation=2), _Residual(72, dilation=4))

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the features of an RGB ``image`` with values in 0..1, padded to a multiple of 16."""
        height, width = image.shape[-2:]
        pad = (-width % 16, -height % 16)
        x = (image - _MEAN) / _STD
        if any(pad):
            x = functional.pad(x, (0, pad[0], 0, pad[1]), mode="replicate")
        x4 = self.fine(self.stem(x))
        x8 = self.middle(self.down8(x4))
        return x4, x8, self.coarse(self.down16(x8))

    @staticmethod
    def unpadded(y4: Tensor, image: Tensor) -> Tensor:
        """Cut features at a quarter of the size to what shows the image."""
        height, width = image.shape[-2:]
        if height % 16 or width % 16:
            y4 = y4[..., : -(-height // 4), : -(-width // 4)]
        return y4


class DemoNet(Encoder):
    """Convolutional segmentation network of the demo.

    Parameters
    ----------
    classes
        Number of classes.
    features
        Channels of the non-negative features that the classifier head reads.
    """

    def __init__(self, classes: int = len(CLASSES), features: int = 48) -> None:
        super().__init__()
        self.lift8 = _Unit(72, 48, 1)
        self.join8 = _Unit(48, 48)
        self.lift4 = _Unit(48, features, 1)
        self.skip4 = _Unit(32, features, 1)
        self.join4 = _Unit(features, features)
        self.head = nn.Conv2d(features, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits at a quarter of the size of an RGB ``image`` with values in 0..1."""
        x4, x8, x16 = self.encode(image)
        y8 = self.join8(x8 + functional.interpolate(self.lift8(x16), scale_factor=2.0, mode="bilinear"))
        y4 = self.skip4(x4) + functional.interpolate(self.lift4(y8), scale_factor=2.0, mode="bilinear")
        return self.head(self.unpadded(self.join4(y4), image))


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a safetensors file; floating-point values become float32."""
    state = load_file(str(path))
    return {key: value.to(torch.float32) if value.is_floating_point() else value for key, value in state.items()}


def load_demo_network(path: str | Path | None = None) -> DemoNet:
    """Load the trained convolutional network in evaluation mode.

    Parameters
    ----------
    path
        A safetensors file; the packed weights where ``None``.
    """
    net = DemoNet()
    net.load_state_dict(read_weights(path or data_path("demo/weights.safetensors")))
    return net.eval()
