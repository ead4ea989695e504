"""What starting costs: importing the package, ``gradunc --help``, and the first score against the second."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterable

from harness import Row, main

_COLD = """
import time, torch
from torch import nn
from gradunc_viz.scores.gradients import gradient_norms
layer, logits, features = nn.Conv2d(64, 19, 1), torch.randn(1, 19, 128, 256), torch.randn(1, 64, 128, 256)
times = []
for _ in range(2):
    start = time.perf_counter()
    gradient_norms(logits, features, layer)
    times.append(time.perf_counter() - start)
print(*times)
"""


def _wall(arguments: list[str], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def rows(repeats: int) -> Iterable[Row]:
    bare = _wall(["-c", "pass"], repeats)
    imported = _wall(["-c", "import gradunc_viz"], repeats)
    yield Row(
        "import gradunc_viz",
        "a fresh interpreter that imports it",
        imported,
        "s",
        0.3,
        detail=f"{bare:.3f} s of it Python",
    )
    told = _wall(["-m", "gradunc_viz.cli", "--help"], repeats)
    yield Row("gradunc --help", "a fresh interpreter", told, "s", 0.5)
    cold = []
    for _ in range(max(1, repeats // 2)):
        done = subprocess.run([sys.executable, "-c", _COLD], check=True, capture_output=True, text=True)
        first, second = map(float, done.stdout.split())
        cold.append((first - second, first, second))
    extra, first, second = statistics.median_low(cold)
    yield Row(
        "cold start",
        "first score minus second, nothing compiled on disk",
        extra,
        "s",
        1.0,
        detail=f"{first * 1e3:.0f} ms and {second * 1e3:.0f} ms",
    )


if __name__ == "__main__":
    main(["bench_import"])
