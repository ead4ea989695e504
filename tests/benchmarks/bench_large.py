"""Memory and time of `gradunc compute --tile` on a tiled TIFF of any size, each run in a process of its own.

Run with ``python tests/benchmarks/bench_large.py [--megapixels 25,50,100] [--bands 4] [--enet]``: of demo scenes side
by side with some noise, labels and anomaly masks as large (none beside bands). It takes minutes and is no row of ``make
bench``; it needs tifffile, and GRADUNC_REAL_DATA for ENet.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from gradunc_viz.datasets.catalog import data_path

TARGET_GB = 4

BANDS_NETWORK = """
import torch

def network():
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d({bands}, 32, 3, 2, 1), torch.nn.ReLU(), torch.nn.Conv2d(32, 48, 3, 2, 1)]
    return torch.nn.Sequential(*layers, torch.nn.ReLU(), torch.nn.Conv2d(48, 8, 1)).eval()
"""


def write_frame(folder: Path, side: int, bands: int) -> None:
    """A square image with its masks."""
    import tifffile

    noise = np.random.default_rng(0)
    for name in ("images", "labels", "anomalies"):
        (folder / name).mkdir(parents=True)
        first = np.array(Image.open(sorted(data_path(f"demo/{name}").iterdir())[0]))
        copies = (-(-side // first.shape[0]), -(-side // first.shape[1]), *(1,) * (first.ndim - 2))
        whole = np.ascontiguousarray(np.tile(first, copies)[:side, :side])
        if name != "images":
            if bands == 3:
                Image.fromarray(whole).save(folder / f"{name}/frame.png", compress_level=1)
            continue
        whole = np.minimum(whole, 243) + noise.integers(0, 12, whole.shape, dtype="u1")
        kind = "rgb"
        if bands != 3:
            kind, whole = "minisblack", (whole[:, :, np.arange(bands) % 3].astype("u2") << 8) | 128
        tifffile.imwrite(
            folder / "images/frame.tif", whole, tile=(256, 256), photometric=kind, planarconfig="contig", bigtiff=True
        )


def run(side: int, options: list[str], bands: int) -> tuple[float, float]:
    """Seconds, and GB of memory at most."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        write_frame(folder / "set", side, bands)
        if bands != 3:
            (folder / "net.py").write_text(BANDS_NETWORK.format(bands=bands))
            options = ["--model", f"{folder}/net.py:network", "--tile", "auto"]
        files = ["--data", str(folder / "set"), "--out", str(folder / "cache"), "--quiet"]
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", "gradunc_viz.cli", "compute", *options, *files])
        _, status, used = os.wait4(process.pid, 0)
        if status:
            raise SystemExit("gradunc compute failed")
        return time.perf_counter() - started, used.ru_maxrss / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", default="25,50,100")
    parser.add_argument("--bands", type=int, default=3, help="of 16 bits, unless 3")
    parser.add_argument("--enet", action="store_true", help="ENet in windows of 512x1024, not the demo network")
    given = parser.parse_args()
    options = ["--model", "demo", "--tile", "auto"]
    if given.enet:
        real = os.environ["GRADUNC_REAL_DATA"]
        options = ["--model", f"{real}/enet.py:load_enet", "--weights", f"{real}/enet_cityscapes.pth"]
        options += ["--drop-channels", "19", "--tile", "512x1024"]
    for megapixels in map(float, given.megapixels.split(",")):
        side = round((megapixels * 1e6) ** 0.5)
        seconds, memory = run(side, options, given.bands)
        print(
            f"{side} x {side} x {given.bands}: {memory:.2f} GB at most (target {TARGET_GB}), {seconds:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
