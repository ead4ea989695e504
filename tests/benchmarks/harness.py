"""Rows of ``make bench``: what was measured, what it is compared with, and whether it got worse.

A benchmark is a file ``bench_*.py`` beside this one with a function ``rows(repeats) -> Iterable[Row]``; run as a
program it prints its own rows. Every row is a ratio of medians taken in one process in turns, because absolute times
are worth little on a shared machine. ``python tests/benchmarks/harness.py`` runs all of them, prints a table, writes
``.benchmarks/latest.json`` and marks rows that are worse than ``baseline.json`` by more than a quarter;
``--update`` makes the present values the baseline.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
BASELINE = HERE / "baseline.json"
RESULT = HERE.parents[1] / ".benchmarks" / "latest.json"
TOLERANCE = 1.25

for folder in (HERE, HERE.parent, HERE.parents[1]):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


@dataclass
class Row:
    """One line of the table.

    Attributes
    ----------
    name : str
        Short and lasting: the baseline knows the row by it.
    what : str
        What is divided by what.
    value : float or None
        The measured ratio or time; None where it was not run.
    unit : str
        ``"%"``, ``"x"``, ``"s"`` or ``"ms"``.
    target : float
    larger_is_better : bool
    detail : str
        Medians behind the ratio, or why it was not run.
    parts : dict of str -> float
        Numbers for the JSON.
    """

    name: str
    what: str
    value: float | None
    unit: str
    target: float
    larger_is_better: bool = False
    detail: str = ""
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where nothing was measured."""
        if self.value is None:
            return None
        return self.value >= self.target if self.larger_is_better else self.value <= self.target

    def worse_than(self, before: float | None) -> bool:
        """Whether the value is worse than the baseline's by more than the tolerance."""
        if self.value is None or before is None or before <= 0:
            return False
        change = before / self.value if self.larger_is_better and self.value > 0 else self.value / before
        return change > TOLERANCE


def medians(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of several functions, run in turns after one warm-up each, so that noise meets all alike."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def machine() -> dict[str, str]:
    """What the numbers depend on."""
    import torch

    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    device = "no CUDA device"
    if torch.cuda.is_available():
        device = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    return {
        "cpu": model,
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": device,
        "load": " ".join(f"{x:.1f}" for x in os.getloadavg()) if hasattr(os, "getloadavg") else "",
    }


def collect(names: Iterable[str], repeats: int) -> list[Row]:
    found: list[Row] = []
    for name in names:
        module = importlib.import_module(name)
        if hasattr(module, "rows"):
            found += module.rows(repeats)
    return found


def show(rows: list[Row], baseline: dict[str, float]) -> int:
    """Print the table; returns how many rows are worse than the baseline."""
    print("\n".join(f"{key}: {value}" for key, value in machine().items()))
    print(f"\n{'':36}{'measured':>12}{'target':>12}{'baseline':>12}")
    worse = 0
    for row in rows:
        sign = ">=" if row.larger_is_better else "<="
        value = "not run" if row.value is None else f"{row.value:.3g} {row.unit}"
        before = baseline.get(row.name)
        mark = "" if row.met is None else "met" if row.met else "MISSED"
        if row.worse_than(before):
            mark, worse = f"{mark}, WORSE THAN BASELINE", worse + 1
        known = "" if before is None else f"{before:.3g} {row.unit}"
        print(f"{row.name:36}{value:>12}{f'{sign} {row.target:g} {row.unit}':>12}{known:>12}  {mark}")
        print(f"    {row.what}{': ' if row.detail else ''}{row.detail}")
    return worse


def main(names: Iterable[str] | None = None) -> None:
    """Run benchmarks (by default all), print, write JSON, compare with the baseline."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--update", action="store_true", help="make the measured values the baseline")
    parser.add_argument("--only", nargs="*", help="benchmarks to run, as in bench_kernels")
    options = parser.parse_args()
    chosen = options.only or names or sorted(path.stem for path in HERE.glob("bench_*.py"))
    rows = collect(chosen, options.repeats)
    baseline = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    worse = show(rows, baseline)
    RESULT.parent.mkdir(exist_ok=True)
    result = {"machine": machine(), "rows": [asdict(row) for row in rows]}
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nwritten to {RESULT}")
    if options.update:
        baseline |= {row.name: float(f"{row.value:.4g}") for row in rows if row.value is not None}
        BASELINE.write_text(json.dumps(baseline, indent=1, sort_keys=True) + "\n")
    elif worse:
        print(f"{worse} of {len(rows)} rows are worse than the baseline by more than {TOLERANCE - 1:.0%}")


if __name__ == "__main__":
    main()
