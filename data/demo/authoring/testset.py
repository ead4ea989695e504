"""Render the demo's test frames and write them in the layout that the toolkit reads."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from PIL import Image
from render import IGNORE, render_frame

from gradunc_viz.demo import CLASSES

SMALL, LARGE = (1024, 512), (1152, 576)

#: Seed, weather, number of unknown objects and size of every test frame.
FRAMES: tuple[tuple[int, str, int, tuple[int, int]], ...] = (
    (500, "clear", 2, SMALL), (501, "clear", 3, SMALL), (502, "overcast", 2, SMALL), (503, "wet", 2, SMALL),
    (504, "clear", 1, SMALL), (505, "dusk", 2, SMALL), (506, "fog", 2, SMALL), (507, "clear", 0, SMALL),
    (508, "overcast", 3, SMALL), (509, "wet", 3, SMALL), (510, "clear", 2, SMALL), (511, "clear", 3, SMALL),
    (512, "fog", 0, SMALL), (513, "dusk", 3, SMALL), (514, "overcast", 1, SMALL), (515, "clear", 2, SMALL),
    (516, "clear", 3, LARGE), (517, "wet", 2, LARGE), (518, "clear", 0, LARGE), (519, "overcast", 2, LARGE),
    (520, "dusk", 2, LARGE), (521, "clear", 3, LARGE), (522, "fog", 3, LARGE), (523, "wet", 0, LARGE),
)  # fmt: skip


def _grow(mask: np.ndarray) -> np.ndarray:
    """Dilate a mask by one pixel in every direction."""
    padded = np.pad(mask, 1)
    h, w = mask.shape
    return np.any([padded[i : i + h, j : j + w] for i in range(3) for j in range(3)], axis=0)


def anomaly_map(odd: np.ndarray) -> np.ndarray:
    """Turn an object mask into a map whose one-pixel blended outline is ignored."""
    mask = odd.astype(bool)
    out = mask.astype(np.uint8)
    out[_grow(mask) & ~mask] = IGNORE
    return out


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the data set's folder")
    parser.add_argument("scratch", type=Path, help="folder for intermediate files")
    parser.add_argument("--samples", type=int, default=9)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="*", help="positions of the frames to render (all)")
    args = parser.parse_args()
    args.scratch.mkdir(parents=True, exist_ok=True)
    for name in ("images", "labels", "anomalies"):
        (args.out / name).mkdir(parents=True, exist_ok=True)
    classes = [{"id": k, "name": name, "color": list(color)} for k, (name, color) in enumerate(CLASSES)]
    (args.out / "classes.json").write_text(json.dumps(classes, indent=1) + "\n")
    for k in range(len(FRAMES)) if args.only is None else args.only:
        seed, weather, unknown, size = FRAMES[k]
        start = time.perf_counter()
        scratch = args.scratch / f"city_{k:03d}"
        photo, label, odd = render_frame(seed, scratch, size, args.samples, weather, unknown, threads=args.threads)[0]
        stem = f"city_{k:03d}"
        Image.fromarray(photo).save(args.out / "images" / f"{stem}.jpg", quality=90, subsampling=0)
        Image.fromarray(label).save(args.out / "labels" / f"{stem}.png", optimize=True)
        Image.fromarray(anomaly_map(odd)).save(args.out / "anomalies" / f"{stem}.png", optimize=True)
        for path in args.scratch.glob(f"{stem}_*"):
            path.unlink()
        took = time.perf_counter() - start
        print(f"{stem}: seed {seed}, {weather}, {odd.sum()} unknown pixels, {took:.1f} s", flush=True)


if __name__ == "__main__":
    main()
