"""Commits one frame again and again in processes of its own, killed at one system call after the other.

``python committing.py CACHE FRAME OUT STEP`` kills at every STEP-th call; prints how many there are, and in which
states the cache was found.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import sys
from collections import Counter
from pathlib import Path

TRACEME, SYSCALL = 0, 24

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def stopped(work, number: int) -> bool:
    """Do some work in a child, which is killed at its system call of a number; whether it came so far."""
    child = os.fork()
    if child == 0:
        libc.ptrace(TRACEME, 0, None, None)
        os.kill(os.getpid(), signal.SIGSTOP)
        work()
        os._exit(0)
    os.waitpid(child, 0)
    for _ in range(number):
        if libc.ptrace(SYSCALL, child, None, None):
            raise OSError(ctypes.get_errno(), "ptrace")
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            return False
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def main() -> None:
    import numcodecs

    from gradunc_viz.schema.errors import CacheError
    from gradunc_viz.store.cache import open_cache
    from gradunc_viz.store.writer import CacheWriter

    numcodecs.blosc.use_threads = False  # one thread is traced
    source, frame_id, out, step = open_cache(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
    dataset = source[frame_id].load()

    def commit() -> None:
        with CacheWriter(out, source.key, source.classes, source.colors) as writer:
            if frame_id not in writer.existing:
                writer.commit(dataset)

    def look() -> str:
        """What is there, which has to be right."""
        assert not (out.exists() and (out / "zarr.json").exists()) or json.loads((out / "zarr.json").read_text())
        try:
            cache = open_cache(out)
        except CacheError:
            if (out / "zarr.json").exists():
                raise
            return "no cache yet"
        for name in cache:
            assert (out / f"frames/{name}.zip").read_bytes() == wanted
        return "frame" if len(cache) else "cache without a frame"

    commit()  # caches of names and codecs are warm from here on, in every child
    wanted = (out / f"frames/{frame_id}.zip").read_bytes()
    states, number = Counter(), 1
    while True:
        shutil.rmtree(out)
        came = stopped(commit, number)
        states[look()] += 1
        commit()
        assert look() == "frame"
        left = {file.name for file in out.rglob("*")} - {"frames", "zarr.json", f"{frame_id}.zip"}
        assert not left, left
        if not came:
            break
        number += step
    print(json.dumps({"calls": number, **states}))


if __name__ == "__main__":
    main()
