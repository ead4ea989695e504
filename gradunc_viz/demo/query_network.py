"""The demo's query network: queries that each claim a class and a mask, on the convolutional network's encoder.

After MaskFormer (Cheng et al. 2021) and its masked attention in Mask2Former (Cheng et al. 2022), in small.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..datasets.catalog import data_path
from . import CLASSES
from .network import Encoder, read_weights

__all__ = ["DemoQueryNet", "encoder_weights", "load_demo_query_network"]


class DemoQueryNet(Encoder):
    """Query network of the demo.

    Parameters
    ----------
    classes
        Number of classes; "no object" is one more.
    queries
        Number of queries.
    features
        Channels of the pixel decoder, of the queries and of the mask embeddings.
    heads
        Heads of each attention.
    """

    def __init__(self, classes: int = len(CLASSES), queries: int = 16, features: int = 64, heads: int = 4) -> None:
        super().__init__()
        fine, middle, coarse = self.widths
        self.lift16 = self.unit(coarse, features, 1)
        self.skip8 = self.unit(middle, features, 1)
        self.join8 = self.unit(features, features)
        self.skip4 = self.unit(fine, features, 1)
        self.join4 = self.unit(features, features)
        self.mask_features = nn.Conv2d(features, features, 1)
        self.heads = heads
        self.queries = nn.Parameter(torch.randn(queries, features))
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(features, heads, 2 * features, dropout=0.0, batch_first=True) for _ in range(3)
        )
        self.class_head = nn.Linear(features, classes + 1)
        self.mask_embedding = nn.Sequential(
            nn.Linear(features, features), nn.ReLU(),
            nn.Linear(features, features), nn.ReLU(),
            nn.Linear(features, features),
        )  # fmt: skip

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return what the queries claim of an RGB ``image`` with values in 0..1.

        Returns
        -------
        dict
            ``class_queries_logits`` (N, queries, classes + 1), the last for "no object", and ``masks_queries_logits``
            (N, queries, h, w) at a quarter of the image's size.
        """
        return self.decode(*self.encode(image), image)[-1]

    def decode(self, x4: Tensor, x8: Tensor, x16: Tensor, image: Tensor) -> list[dict[str, Tensor]]:
        """Return what the queries claim before the first layer of the transformer and after each."""
        y16 = self.lift16(x16)
        y8 = self.join8(self.skip8(x8) + functional.interpolate(y16, scale_factor=2.0, mode="bilinear"))
        y4 = self.join4(self.skip4(x4) + functional.interpolate(y8, scale_factor=2.0, mode="bilinear"))
        y4 = self.unpadded(y4, image)
        psi = self.mask_features(y4)
        queries = self.queries.expand(len(image), -1, -1)
        claims = [self._claims(queries, psi)]
        for layer, seen in zip(self.layers, (y16, y8, y4), strict=True):
            unclaimed = self._unclaimed(claims[-1]["masks_queries_logits"], seen)
            queries = layer(queries, seen.flatten(2).mT, memory_mask=unclaimed)
            claims.append(self._claims(queries, psi))
        return claims

    def _claims(self, queries: Tensor, psi: Tensor) -> dict[str, Tensor]:
        masks = torch.einsum("bqc,bchw->bqhw", self.mask_embedding(queries), psi)
        return {"class_queries_logits": self.class_head(queries), "masks_queries_logits": masks}

    def _unclaimed(self, masks: Tensor, seen: Tensor) -> Tensor:
        """Say where a query is not to look: outside its mask, unless that is empty."""
        masks = functional.interpolate(masks.detach(), size=seen.shape[-2:], mode="bilinear")
        outside = masks.flatten(2) < 0
        outside = outside & ~outside.all(-1, keepdim=True)
        return outside.repeat_interleave(self.heads, 0)


def encoder_weights() -> dict[str, Tensor]:
    """Read the convolutional network's packed weights, of its encoder alone."""
    names = Encoder().state_dict().keys()
    trained = read_weights(data_path("demo/weights.safetensors"))
    return {name: value for name, value in trained.items() if name in names}


def load_demo_query_network(path: str | Path | None = None) -> DemoQueryNet:
    """Load the trained query network in evaluation mode; its encoder is that of the convolutional one.

    Parameters
    ----------
    path
        A safetensors file with all but the encoder; the packed weights where ``None``.
    """
    net = DemoQueryNet()
    net.load_state_dict(encoder_weights() | read_weights(path or data_path("demo/query_weights.safetensors")))
    return net.eval()
