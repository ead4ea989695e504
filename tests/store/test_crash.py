"""A run that is killed at any moment loses the frames in flight and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from soak import SOAK
from tiny import SCORES, TinyNet, write_set

import gradunc_viz as gv
from gradunc_viz.store.group import open_complete
from gradunc_viz.store.local import LocalBackend

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
]

KILLS = 20 * SOAK

# Imports once, then forks a process per line "OUT SECONDS" and kills it after so many seconds.
RUNNER = """
import os, signal, sys, time
import torch
torch.set_num_threads(1)
import gradunc_viz as gv
from gradunc_viz import compute, open_cache, open_frames
from tiny import SCORES, TinyNet

net, frames = TinyNet().eval(), open_frames(sys.argv[1])
for line in sys.stdin:
    out, seconds = line.split()
    child = os.fork()
    if child == 0:
        try:
            compute(net, frames, out, scores=SCORES, progress=False)
        except BaseException as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    started, limit = time.perf_counter(), float(seconds)
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        passed = time.perf_counter() - started
        if found:
            print("finished" if status == 0 else "failed", passed, flush=True)
            break
        if passed > limit:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            print("killed", passed, flush=True)
            break
        time.sleep(0.001)
"""


class Runner:
    def __init__(self, folder: Path) -> None:
        here = Path(__file__).resolve().parents[1]
        path = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUNNER, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )

    def __call__(self, out: Path, seconds: float) -> tuple[str, float]:
        self.process.stdin.write(f"{out} {seconds}\n")
        self.process.stdin.flush()
        how, passed = self.process.stdout.readline().split()
        return how, float(passed)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


@pytest.fixture
def runner(tmp_path):
    running = Runner(write_set(tmp_path / "set", 12, ((24, 32), (21, 33))))
    yield running
    running.close()


def files(cache: gv.Cache, frame_id: str) -> bytes:
    """Everything that a frame has on disk."""
    return (cache.path / "frames" / f"{frame_id}.zip").read_bytes()


def test_no_kill_damages_a_frame(runner, tmp_path):
    net = TinyNet().eval()
    whole = gv.compute(net, gv.open_frames(tmp_path / "set"), tmp_path / "whole", scores=SCORES, progress=False)
    reference = {frame_id: files(whole, frame_id) for frame_id in whole}

    def check(out: Path) -> int:
        """Whatever there is, is right to the last byte; how many frames there are."""
        if not out.exists():
            return 0
        cache = gv.open_cache(out)
        for frame_id in cache:
            assert files(cache, frame_id) == reference[frame_id]
        return len(cache)

    how, duration = runner(tmp_path / "timed", 120)
    assert how == "finished"
    assert check(tmp_path / "timed") == 12

    random = np.random.default_rng(0)
    moments = np.concatenate([random.uniform(0, 0.1, KILLS // 4), random.uniform(0, 0.7, KILLS - KILLS // 4)])
    outs, kills, partial = [tmp_path / "run0"], 0, set()
    for moment in random.permutation(moments):
        how, _ = runner(outs[-1], moment * duration)
        assert how in ("killed", "finished")
        kills += how == "killed"
        present = check(outs[-1])
        partial.add(present)
        if present == 12:
            outs.append(tmp_path / f"run{len(outs)}")
    assert kills >= KILLS // 2
    assert len(partial) > 1  # how many depends on what else the machine does

    for out in outs:
        assert runner(out, 120)[0] == "finished"
        assert check(out) == 12
        for frame_id, frame in gv.open_cache(out).items():
            xr.testing.assert_identical(frame.load(), whole[frame_id].load())
        xr.testing.assert_identical(gv.open_cache(out).summary, whole.summary)
        xr.testing.assert_identical(
            open_complete(LocalBackend(out), "summary").load().drop_attrs(deep=False),
            whole.summary.drop_attrs(deep=False),
        )
        assert sorted(entry.name for entry in out.iterdir()) == ["frames", "summary.zip", "zarr.json"]
        assert sorted(entry.name for entry in (out / "frames").iterdir()) == sorted(
            [*(f"{name}.zip" for name in reference), "zarr.json"]
        )
    assert not list(tmp_path.glob(".*"))
