"""How long scores take, each alone and all together, beside the forward pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..schema.errors import GraduncError

__all__ = ["measured"]

_REPEATS = 3


def measured(
    forward: Callable[[], object],
    scored: Callable[[tuple[str, ...]], Callable[[], object]],
    scores: Sequence[str],
    device: torch.device,
) -> dict[str, Any]:
    """What `gradunc_viz.store.cost` keeps: milliseconds of the best of three runs, after one to warm up.

    Parameters
    ----------
    forward : callable
        Runs the forward pass.
    scored : callable
        From names of scores to what computes them.
    scores : sequence of str
    device : torch.device
    """

    def milliseconds(run: Callable[[], object]) -> float:
        times = []
        for _ in range(_REPEATS + 1):
            started = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - started)
        return 1e3 * min(times[1:])

    def alone(name: str) -> float | None:
        try:
            return milliseconds(scored((name,)))
        except GraduncError:  # of others that are computed with it
            return None

    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu(),
        "scores": {name: alone(name) for name in scores},
        "together": milliseconds(scored(tuple(scores))),
        "forward": milliseconds(forward),
    }


def _cpu() -> str:
    threads = torch.get_num_threads()
    return f"cpu, {threads} thread{'s' if threads > 1 else ''}"
