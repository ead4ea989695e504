"""Road Anomaly, https://www.epfl.ch/labs/cvlab/data/road-anomaly/."""

from __future__ import annotations

from pathlib import Path

from ...schema.errors import FrameError
from ...schema.file_names import natural_key
from ..conventions import ANOMALY_IDS, VOID, Conversion, read_json, some
from .files import anomaly_frames, images_in, masks_of
from .layout import FrameFiles, Layout

__all__ = ["LAYOUT"]

_ROAD_ANOMALY_IDS = Conversion(
    {0: 0, 1: 0, 2: 1, **VOID}, "0 (background), 1 (road), 2 (anomaly) or 255 (ignore)", grey_rgb=True
)


def _roadanomaly(root: Path, _split: str) -> list[FrameFiles]:
    if (root / "original").is_dir():
        images = images_in(root / "original") if (root / "labels").is_dir() else {}
        return anomaly_frames(images, root / "labels", {"{}.png": ANOMALY_IDS})
    images = images_in(root / "frames")
    masks = masks_of(images, root / "frames", {"{}.labels/labels_semantic.png": _ROAD_ANOMALY_IDS})
    index = root / "frame_list.json"
    if index.is_file():
        listed = read_json(index)
        if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
            raise FrameError(f"{index}: expected a list of file names")
        missing = [name for name in listed if Path(name).stem not in images]
        if missing:
            raise FrameError(f"{index}: lists {some('image', missing)}, not found in {root / 'frames'}")
        images = {Path(name).stem: images[Path(name).stem] for name in sorted(listed, key=natural_key)}
    return [FrameFiles(name, image, anomaly=masks.get(name)) for name, image in images.items()]


LAYOUT = Layout(
    "roadanomaly",
    "Road Anomaly (2019); 2 is an anomaly in the release, 1 in the copies with original/ and labels/",
    "frames/NAME.jpg|webp, frames/NAME.labels/labels_semantic.png, frame_list.json; "
    "or original/NAME.jpg, labels/NAME.png",
    _roadanomaly,
)
