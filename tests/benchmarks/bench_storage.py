"""Codec, chunking and precision of the cache on a frame of 1024 x 2048: bytes, time to encode and to read one map.

Run with ``python tests/benchmarks/bench_storage.py``. With GRADUNC_REAL_DATA the maps are those of ENet on a real
frame, enlarged to that size before the network sees it; without, of the demo network.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
from frame_files import members
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent))

import gradunc_viz as gv
from gradunc_viz.datasets.catalog import data_path
from gradunc_viz.run.compute import compute_report

numcodecs.blosc.use_threads = False  # as in the threads that write and serve

TARGET_MS = 20
SIZE = (1024, 2048)
SCORES = ("pgn_oh_p0.1", "pgn_oh_p1", "pgn_uni_p0.5", "msp", "entropy")


def cached_frame(folder: Path):
    """A frame of SIZE in a cache."""
    real = os.environ.get("GRADUNC_REAL_DATA")
    if real:
        net = gv.load_model(f"{real}/enet.py:load_enet", f"{real}/enet_cityscapes.pth", drop_channels=[19])
        source = next(iter(gv.open_frames(Path(real) / "dataset_AnomalyTrack", "smiyc"))).image
    else:
        net, source = gv.load_model("demo"), next(iter(gv.open_frames(data_path("demo"), "folder"))).image
    (folder / "set/images").mkdir(parents=True)
    Image.fromarray(source).resize(SIZE[::-1], Image.Resampling.BICUBIC).save(folder / "set/images/f.jpg", quality=92)
    compute_report(net, gv.open_frames(folder / "set"), folder / "cache", scores=SCORES, progress=False)
    return gv.open_cache(folder / "cache")


def best_ms(run: Callable[[], object], repeats: int = 9) -> float:
    """The shortest of some runs: others than this process may be busy on the machine."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def codecs() -> dict[str, numcodecs.abc.Codec | None]:
    blosc = numcodecs.Blosc
    return {
        "none": None,
        "zstd-1": numcodecs.Zstd(1),
        "blosc lz4-5 bitshuffle": blosc("lz4", 5, blosc.BITSHUFFLE),
        "blosc zstd-1 byte shuffle": blosc("zstd", 1, blosc.SHUFFLE),
        "blosc zstd-1 bitshuffle (chosen)": blosc("zstd", 1, blosc.BITSHUFFLE),
        "blosc zstd-3 bitshuffle": blosc("zstd", 3, blosc.BITSHUFFLE),
    }


def precisions(norms: np.ndarray) -> dict[str, np.ndarray]:
    """The ways to store log2 norms; the bound on the step is 2^-9."""
    return {
        "float32": norms,
        "multiples of 2^-9 as float32 (chosen)": np.rint(norms * 512).astype("f4") / np.float32(512),
        "multiples of 2^-9 as int32": np.rint(norms * 512).astype("i4"),
        "multiples of 2^-9 as int16": np.rint(norms * 512).clip(-32768, 32767).astype("i2"),
        "float16": norms.astype("f2"),
    }


def measure(content: np.ndarray, codec: numcodecs.abc.Codec | None) -> tuple[float, float, float]:
    """Bytes per value, milliseconds to encode and to decode one map."""
    content = np.ascontiguousarray(content)
    if codec is None:
        return content.itemsize, 0.0, 0.0
    encoded = codec.encode(content)
    encode, decode = best_ms(lambda: codec.encode(content)), best_ms(lambda: codec.decode(encoded))
    return len(encoded) / content.size, encode, decode


def read_latency(cache: gv.Cache, name: str) -> tuple[float, float]:
    """Milliseconds to read one stored map of an opened frame, and its oriented score at the image's size."""
    entry = gv.lookup(name)
    variable, dim = ("head_score", "score_head") if entry.at_head else ("pixel_score", "score_pixel")

    frame = cache[0]

    def read() -> np.ndarray:
        return frame[variable].isel({dim: list(frame[dim].values).index(name)}).values

    return best_ms(read), best_ms(lambda: gv.score(frame, name))


def rows(repeats: int) -> Iterator[Any]:
    """Rows of ``make bench``."""
    from harness import Row

    with tempfile.TemporaryDirectory() as folder:
        cache = cached_frame(Path(folder))
        for name in ("pgn_oh_p1", "msp"):
            read = statistics.median(read_latency(cache, name)[0] for _ in range(repeats))
            what = f"reading {name} of an opened frame of {SIZE[0]} x {SIZE[1]}"
            yield Row(f"read {name}", what, read, "ms", TARGET_MS)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        cache = cached_frame(Path(folder))
        frame = cache[0].load()
        print(f"{'variable':14}{'codec':36}{'bytes/value':>12}{'encode':>12}{'decode':>12}   one map or array")
        norms = frame["head_score"].values
        exact = norms + np.random.default_rng(0).uniform(-(2**-10), 2**-10, norms.shape).astype("f4")
        maps = {
            "head_score": norms[1],
            "pixel_score": frame["pixel_score"].values[0],
            "logits": frame["logits"].values,
            "prediction": frame["prediction"].values,
        }
        for name, content in maps.items():
            for title, codec in codecs().items():
                size, encode, decode = measure(content, codec)
                print(f"{name:14}{title:36}{size:12.2f}{encode:9.1f} ms{decode:9.1f} ms")
        print(f"\n{'precision of log2 norms':44}{'bytes/value':>12}{'largest error':>16}")
        chosen = codecs()["blosc zstd-1 bitshuffle (chosen)"]
        for title, content in precisions(exact[0]).items():  # p = 0.1, the widest range
            back = content.astype("f8") / (512 if content.dtype.kind == "i" else 1)
            size, _, _ = measure(content, chosen)
            print(f"{title:44}{size:12.2f}{np.abs(back - exact[0]).max():16.2e}")
        print(f"\n{'chunks of head_score':28}{'bytes/value':>12}{'decode one map':>18}")
        whole = chosen.encode(np.ascontiguousarray(norms))
        size, _, decode = measure(norms[1], chosen)
        print(f"{'one per score (chosen)':28}{size:12.2f}{decode:15.1f} ms")
        decode = best_ms(lambda: chosen.decode(whole))
        print(f"{'all scores in one':28}{len(whole) / norms.size:12.2f}{decode:15.1f} ms")
        rows_of = [norms[1, i : i + 256] for i in range(0, norms.shape[1], 256)]
        tiles = [np.ascontiguousarray(part[:, j : j + 256]) for part in rows_of for j in range(0, norms.shape[2], 256)]
        packed = [chosen.encode(tile) for tile in tiles]
        decode = best_ms(lambda: [chosen.decode(part) for part in packed])
        size = sum(map(len, packed)) / norms[1].size
        print(f"{'tiles of 256 x 256':28}{size:12.2f}{decode:15.1f} ms, {len(tiles)} files")
        print(f"\nopening a frame: {best_ms(lambda: cache[0]):.1f} ms")
        for name in ("pgn_oh_p1", "msp"):
            read, shown = read_latency(cache, name)
            print(f"{name}: reading the map {read:.1f} ms (target {TARGET_MS}), gv.score {shown:.1f} ms")
        for name in frame.variables:
            files = members(Path(folder) / "cache/frames/f").items()
            size = sum(len(content) for file, content in files if file.startswith(f"{name}/"))
            if size > 50_000:
                print(f"  {name:14}{size / 1e6:8.2f} MB")


if __name__ == "__main__":
    main()
