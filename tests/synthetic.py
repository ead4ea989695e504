"""Small caches that look like real ones: a road scene of blocks, a network that is unsure at edges and on an object."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from gradunc_viz.run.assemble import frame_dataset
from gradunc_viz.run.decode import DecodedFrame
from gradunc_viz.schema.frame import SCHEMA_VERSION
from gradunc_viz.scores.maps import ScoreOptions, score_maps
from gradunc_viz.scores.needs import HeadOutput
from gradunc_viz.store.cache import Cache, open_cache
from gradunc_viz.store.writer import CacheWriter

CLASSES = ("road", "building", "sky", "car <b>& co</b>")
COLORS = ((128, 64, 128), (70, 70, 70), (70, 130, 180), (0, 0, 142))
SCORES = ("pgn_oh_p0.5", "pgn_uni_p2", "msp", "entropy")


def truth(size: tuple[int, int]) -> np.ndarray:
    """Class ids of the scene, (y, x)."""
    height, width = size
    label = np.zeros(size, "u1")
    label[: height // 2] = 1
    label[: height // 4] = 2
    label[height // 2 : 3 * height // 4, width // 8 : width // 3] = 3
    return label


def write_frame(
    writer: CacheWriter,
    frame_id: str,
    size: tuple[int, int] = (64, 128),
    *,
    label: bool = True,
    anomaly: bool = True,
    seed: int = 0,
    scores: Sequence[str] = SCORES,
) -> None:
    """Commit one frame, with a single-pixel anomaly beside a larger one."""
    random = np.random.default_rng(seed)
    height, width = size
    ids = truth(size)
    unknown = np.zeros(size, "u1")
    top, left = 5 * height // 8, width // 2 + 4 * seed
    unknown[top : top + height // 8, left : left + width // 10] = 1
    unknown[height - 3, 2] = 1
    unknown[:2] = 255
    shade = np.array(COLORS, "u1")[ids] + random.integers(0, 60, (*size, 1), "u1")
    shade[unknown == 1] = (230, 160, 40)
    buffer = io.BytesIO()
    Image.fromarray(shade).save(buffer, "PNG")

    generator = torch.Generator().manual_seed(seed)
    features = torch.rand((1, 8, height // 2, width // 2), generator=generator) + 0.1
    small = torch.from_numpy(ids[::2, ::2].astype("i8"))
    logits = nn.functional.one_hot(small, len(CLASSES)).permute(2, 0, 1)[None] * 4.0
    logits = logits + torch.randn(logits.shape, generator=generator)
    odd = torch.from_numpy(unknown[::2, ::2] == 1)
    logits = torch.where(odd, logits / 4, logits)
    ids[-2:] = 255

    frame = DecodedFrame(
        id=frame_id,
        image=shade,
        label=ids if label else None,
        anomaly=unknown if anomaly else None,
        digest=f"{seed:032x}",
        encoded=buffer.getvalue(),
        image_format="png",
        source=frame_id,
    )
    head = HeadOutput(logits, features, nn.Conv2d(8, len(CLASSES), 1))
    maps = score_maps(head, size, scores, frame.label)
    attrs = {"head": "classifier", "network": "synthetic"}
    writer.commit(frame_dataset(frame, maps, ScoreOptions(tuple(scores)), CLASSES, attrs))


def new_writer(path: Path, scores: Sequence[str] = SCORES) -> CacheWriter:
    """A writer of an empty cache."""
    key = {
        "schema_version": SCHEMA_VERSION,
        "network": {"name": "synthetic <i>net</i>", "head": "classifier"},
        "settings": {"scores": list(scores)},
    }
    return CacheWriter(path, key, CLASSES, COLORS)


def write_cache(path: Path, ids: Sequence[str], sizes: Sequence[tuple[int, int]] = ((64, 128),), **options) -> Cache:
    """A cache of frames `ids`, which take `sizes` in turn."""
    with new_writer(path, options.get("scores", SCORES)) as writer:
        for number, frame_id in enumerate(ids):
            write_frame(writer, frame_id, sizes[number % len(sizes)], seed=number, **options)
    return open_cache(path)
