"""A network and a folder of frames that are as small as they can be and still differ everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

SCORES = ("pgn_oh_p0.1", "pgn_oh_p1", "pgn_uni_p0.5", "pgn_uni_p2_paper", "msp", "entropy")
SIZES = ((48, 64), (41, 57))


class TinyNet(nn.Module):
    """Four classes; logits at half the size of the image, resized to it."""

    def __init__(self, seed: int = 0, classes: int = 4) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body = nn.Conv2d(3, 6, 3, stride=2, padding=1)
            self.classifier = nn.Conv2d(6, classes, 1)
            nn.init.normal_(self.classifier.weight, std=4)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.classifier(F.softplus(self.body(x)))
        return F.interpolate(logits, x.shape[-2:], mode="bilinear", align_corners=False)


def write_set(
    folder: Path,
    count: int = 4,
    sizes: Sequence[tuple[int, int]] = SIZES,
    *,
    labels: bool = True,
    anomalies: bool = True,
) -> Path:
    """A folder of frames f00, f01 ... that take `sizes` in turn; PNG, and JPEG every third time."""
    random = np.random.default_rng(count)
    for name, wanted in (("images", True), ("labels", labels), ("anomalies", anomalies)):
        if wanted:
            (folder / name).mkdir(parents=True)
    for i in range(count):
        size = sizes[i % len(sizes)]
        image = Image.fromarray(random.integers(0, 256, (*size, 3), "u1"))
        image.save(folder / f"images/f{i:02}.{'jpg' if i % 3 == 2 else 'png'}")
        if labels:
            ids = random.choice(np.array([0, 1, 2, 3, 255], "u1"), size)
            Image.fromarray(ids).save(folder / f"labels/f{i:02}.png")
        if anomalies:
            unknown = random.choice(np.array([0, 0, 0, 1, 255], "u1"), size)
            Image.fromarray(unknown).save(folder / f"anomalies/f{i:02}.png")
    return folder
