"""Evaluation from cached counts against scikit-learn on the same pixels, and memory over the number of frames.

Run with ``python tests/benchmarks/bench_evaluation.py [CACHE]``. Without a cache one of random scores is made. Prints
medians and their ratio, and the peak memory of pooling 10, 100 and 1,000 frames of simulated counts.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

TARGET = 50
SCORES = ("pgn_oh_p0.5", "pgn_oh_p1", "msp", "entropy")


def random_cache(path: Path, frames: int = 2, size: tuple[int, int] = (720, 1280), n_classes: int = 19):
    """A cache of smooth random logits with class and anomaly labels."""
    import torch

    import gradunc_viz as gv
    from gradunc_viz.run.assemble import frame_dataset
    from gradunc_viz.run.decode import DecodedFrame
    from gradunc_viz.schema.frame import SCHEMA_VERSION
    from gradunc_viz.scores.maps import ScoreOptions, score_maps
    from gradunc_viz.scores.needs import HeadOutput
    from gradunc_viz.store.writer import CacheWriter
    from gradunc_viz.style.palette import class_colors

    options = ScoreOptions(SCORES)
    names = tuple(f"class {i}" for i in range(n_classes))
    key = {
        "schema_version": SCHEMA_VERSION,
        "network": {"name": "random", "head": "head"},
        "settings": {"scores": list(SCORES)},
    }
    layer = torch.nn.Conv2d(32, n_classes, 1)
    with CacheWriter(path, key, names, tuple(class_colors(n_classes))) as writer:
        for i in range(frames):
            generator = torch.Generator().manual_seed(i)
            coarse = torch.randn((1, n_classes, size[0] // 16, size[1] // 16), generator=generator) * 4
            half = (size[0] // 2, size[1] // 2)
            logits = torch.nn.functional.interpolate(coarse, half, mode="bilinear")
            logits += torch.randn(logits.shape, generator=generator) * 0.2
            features = torch.rand((1, 32, *half), generator=generator) + 0.1
            label = torch.nn.functional.interpolate(coarse, size).argmax(1)[0].to(torch.uint8).numpy()
            unknown = (torch.rand(size, generator=generator) < 0.1).to(torch.uint8).numpy()
            frame = DecodedFrame(
                id=f"frame{i}",
                image=np.zeros((*size, 3), "u1"),
                label=label,
                anomaly=unknown,
                digest=f"{i:032x}",
                encoded=None,
                image_format="png",
                source=f"frame{i}",
            )
            with torch.inference_mode():
                maps = score_maps(HeadOutput(logits, features, layer), size, SCORES, label)
            writer.commit(frame_dataset(frame, maps, options, names, {"head": "head", "network": "random"}))
    return gv.open_cache(path)


def median_seconds(run: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def with_sklearn(pixels: dict[str, list[np.ndarray]], positive: list[np.ndarray]) -> dict[str, dict[str, float]]:
    """The four metrics of every score, pooled over all pixels."""
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

    truth = np.concatenate(positive)
    found = {}
    for score, parts in pixels.items():
        values = np.concatenate(parts)
        fpr, tpr, _ = roc_curve(truth, values, drop_intermediate=False)
        precision, recall, _ = precision_recall_curve(truth, values)
        found[score] = {
            "auroc": roc_auc_score(truth, values),
            "auprc": average_precision_score(truth, values),
            "fpr95": float(fpr[(tpr >= 0.95).argmax()]),
            "f1": float((2 * precision * recall / np.maximum(precision + recall, 1e-30)).max()),
        }
    return found


def raw_pixels(cache, task: str, scores) -> tuple[dict[str, list[np.ndarray]], list[np.ndarray]]:
    """Scores of the pixels that count, per frame, and which of them are positive."""
    import gradunc_viz as gv

    pixels: dict[str, list[np.ndarray]] = {score: [] for score in scores}
    positive = []
    for frame in cache.values():
        truth = frame["label" if task == "error" else "anomaly"].values
        known = truth != 255
        positive.append((frame["prediction"].values != truth)[known] if task == "error" else truth[known] == 1)
        for score in scores:
            pixels[score].append(gv.score(frame, score).values[known])
    return pixels, positive


def compare(cache, task: str) -> float:
    """Time both on the pixels of a cache and print how far apart they are; returns the ratio."""
    import gradunc_viz as gv
    from gradunc_viz.counts.pool import pool
    from gradunc_viz.metrics.arrays.thresholds import all_metrics
    from gradunc_viz.store.choice import Selection

    scores = [score for score in SCORES if score in cache.scores] or list(cache.scores[:4])
    pixels, positive = raw_pixels(cache, task, scores)

    def pooled() -> dict[str, dict[str, float]]:
        found = {}
        for score, h in pool(Selection.of(cache, task, scores=scores)).histograms.items():
            found[score] = all_metrics(*h.weights["counts"], h.tied)
        return found

    pooled()
    ours, theirs = median_seconds(pooled, 5), median_seconds(lambda: with_sklearn(pixels, positive), 3)
    table = median_seconds(lambda: gv.evaluate(cache, task, scores=scores, bootstrap=0), 3)
    full = median_seconds(lambda: gv.evaluate(cache, task, scores=scores), 3)
    count = sum(len(p) for p in positive)
    print(f"{len(cache)} frames, {count} pixels, {len(scores)} scores, task {task}, warm file cache")
    print(f"scikit-learn, maps in memory               {theirs:8.3f} s")
    print(f"pooled metrics from cached counts          {ours:8.3f} s   {theirs / ours:.0f} times faster")
    print(f"gv.evaluate without intervals              {table:8.3f} s   {theirs / table:.0f} times faster")
    print(f"gv.evaluate with 200 bootstrap samples     {full:8.3f} s   {theirs / full:.0f} times faster")
    mine, exact = pooled(), with_sklearn(pixels, positive)
    for name in ("auroc", "auprc", "fpr95", "f1"):
        # gradient norms are cached in steps of 2^-9 and the softmax family in float16; counts saw float32
        print(f"largest difference of {name:6s} {max(abs(mine[s][name] - exact[s][name]) for s in scores):.1e}")
    return theirs / ours


def rows(repeats: int):
    """See `harness`."""
    from harness import Row, medians

    import gradunc_viz as gv
    from gradunc_viz.counts.pool import pool
    from gradunc_viz.metrics.arrays.thresholds import all_metrics
    from gradunc_viz.store.choice import Selection

    with tempfile.TemporaryDirectory() as folder:
        cache = random_cache(Path(folder) / "cache")
        pixels, positive = raw_pixels(cache, "anomaly", SCORES)

        def pooled() -> None:
            for h in pool(Selection.of(cache, "anomaly", scores=SCORES)).histograms.values():
                all_metrics(*h.weights["counts"], h.tied)

        runs = {
            "sklearn": lambda: with_sklearn(pixels, positive),
            "pooled": pooled,
            "table": lambda: gv.evaluate(cache, "anomaly", scores=SCORES, bootstrap=0),
        }
        seconds = medians(runs, max(1, repeats // 2))
    for name, what in (("pooled", "evaluation from counts"), ("table", "evaluation with per-frame means")):
        ratio = seconds["sklearn"] / seconds[name]
        detail = f"{seconds['sklearn']:.2f} s / {seconds[name] * 1e3:.0f} ms"
        yield Row(what, "scikit-learn on the same pixels / cached counts", ratio, "x", TARGET, True, detail)
    few, many = (peak_in_a_process(frames) for frames in (30, 1000))
    detail = f"{many:.0f} MiB / {few:.0f} MiB"
    yield Row("evaluation memory", "peak of pooling 1,000 frames / 30 frames", many / few, "x", 1.2, False, detail)


def simulated_frame(i: int, classes: int = 19, bins: int = 3000):
    """Counts as a frame has them, on a window of its own."""
    from gradunc_viz.counts.histogram import Histogram

    random = np.random.default_rng(i)
    counts = random.integers(0, 20, (2, classes, bins)).astype("u4")
    start, level = int(random.integers(-500, 500)), int(random.integers(0, 2))
    low = (start + np.arange(-1, bins - 1)) * 2.0**level / 64
    return Histogram(start, level, {"counts": counts}, low, low + 0.001)


def simulated_cells(i: int, cells: int = 60_000):
    """Counts over all classes as a frame has them, in cells of its own."""
    from gradunc_viz.counts.cell_sums import CellCounts

    random = np.random.default_rng(i)
    number = np.unique(random.normal(0, 3e5, cells).astype("i4"))
    return CellCounts(number, int(random.integers(6, 8)), np.ones((2, len(number)), "u4"), np.ones(len(number), bool))


def peak_of_pooling(frames: int) -> float:
    """Peak memory in MiB that numpy takes to pool simulated frames, measured in this process."""
    import tracemalloc

    from gradunc_viz.counts.cell_sums import CellSum
    from gradunc_viz.counts.histogram import HistogramSum

    tracemalloc.start()
    bins, cells = HistogramSum(), CellSum()
    for i in range(frames):
        bins.add(simulated_frame(i))
        cells.add(simulated_cells(i))
    return tracemalloc.get_traced_memory()[1] / 2**20


def peak_in_a_process(frames: int) -> float:
    command = [sys.executable, __file__, "--peak", str(frames)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def memory() -> list[float]:
    peaks = []
    for frames in (30, 100, 1000):
        peaks.append(peak_in_a_process(frames))
        print(f"peak memory of pooling {frames:5d} frames, one score, 19 classes: {peaks[-1]:.1f} MiB")
    return peaks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cache", nargs="?", help="a cache; by default one of random scores is made")
    parser.add_argument("--task", choices=("error", "anomaly"))
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print(peak_of_pooling(options.peak))
        return
    import gradunc_viz as gv
    from gradunc_viz.store.choice import default_task

    with tempfile.TemporaryDirectory() as folder:
        cache = gv.open_cache(options.cache) if options.cache else random_cache(Path(folder) / "cache")
        task = options.task or default_task({"": cache})
        ratio = compare(cache, task)
    peaks = memory()
    grown = peaks[-1] / peaks[0]
    print(f"ratio {ratio:.0f} (target {TARGET}); memory from 30 to 1,000 frames grows by a factor of {grown:.2f}")
    if ratio < TARGET or grown > 1.2:
        sys.exit("target missed")


if __name__ == "__main__":
    main()
