"""Component metrics of one 1920 x 1080 frame with 200 components, against the plain loop over components.

Run with ``python tests/benchmarks/bench_components.py``; prints medians and their ratio.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from component_loop import loop_component_metrics

from gradunc_viz.metrics.arrays.components import TRACKS, ComponentTable, component_metrics

TARGET = 20


def frame(size: tuple[int, int] = (1080, 1920), rows: int = 10, columns: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """A grid of round objects, each found by a disc that is off by a few pixels; a margin is ignored."""
    random = np.random.default_rng(0)
    height, width = size
    y, x = np.mgrid[:height, :width]
    cell = height / rows, width / columns

    def discs(jitter: float, radius: tuple[float, float]) -> np.ndarray:
        place = random.uniform(-jitter, jitter, (2, rows, columns))
        reach = random.uniform(*radius, (rows, columns))
        i, j = (y // cell[0]).astype(int), (x // cell[1]).astype(int)
        return (
            np.hypot(y - (i + 0.5) * cell[0] - place[0, i, j], x - (j + 0.5) * cell[1] - place[1, i, j]) < reach[i, j]
        )

    mask = discs(10, (15, 30)).astype("u1")
    predicted = discs(14, (18, 32))
    mask[:, :8] = 255
    return mask, predicted


def median_seconds(run: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def deviation(ours: ComponentTable, loop: ComponentTable) -> float:
    return max(float(np.abs(getattr(ours, name) - getattr(loop, name)).max()) for name in vars(ours))


def rows(repeats: int):
    """See `harness`."""
    from harness import Row

    mask, predicted = frame()
    limits = TRACKS["anomaly"]._asdict()
    fast = median_seconds(lambda: component_metrics(mask, predicted, **limits), repeats)
    slow = median_seconds(lambda: loop_component_metrics(mask, predicted, **limits), max(1, repeats // 3))
    detail = f"{slow * 1e3:.0f} ms / {fast * 1e3:.1f} ms"
    yield Row("component metrics", "loop over 200 components / one table", slow / fast, "x", TARGET, True, detail)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--loop-repeats", type=int, default=3)
    args = parser.parse_args()
    mask, predicted = frame()
    limits = TRACKS["anomaly"]._asdict()
    ours, loop = (run(mask, predicted, **limits) for run in (component_metrics, loop_component_metrics))
    fast = median_seconds(lambda: component_metrics(mask, predicted, **limits), args.repeats)
    slow = median_seconds(lambda: loop_component_metrics(mask, predicted, **limits), args.loop_repeats)
    print(f"{mask.shape[1]} x {mask.shape[0]}, {ours.n_truth} annotated and {ours.n_predicted} predicted components")
    print(f"{'':24}{'median':>12}{'repeats':>10}")
    print(f"{'one contingency table':24}{fast * 1e3:>9.1f} ms{args.repeats:>10}")
    print(f"{'loop over components':24}{slow * 1e3:>9.1f} ms{args.loop_repeats:>10}")
    print(f"{slow / fast:.0f} times faster (target: {TARGET}); largest deviation {deviation(ours, loop):.1e}")


if __name__ == "__main__":
    main()
