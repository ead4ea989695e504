"""Commits all frames of a cache to another, under a limit.

``python writing.py CACHE OUT [fsize=N | nofile=N | user=N]``. Prints the error that a user would read.
"""

from __future__ import annotations

import os
import resource
import sys

from gradunc_viz.schema.errors import GraduncError
from gradunc_viz.store.cache import open_cache
from gradunc_viz.store.writer import CacheWriter


def main() -> int:
    source, out = open_cache(sys.argv[1]), sys.argv[2]
    frames = {frame_id: frame.load() for frame_id, frame in source.items()}
    for limit in sys.argv[3:]:
        name, _, value = limit.partition("=")
        if name == "user":
            os.setgroups([])
            os.setgid(int(value))
            os.setuid(int(value))
        else:
            resource.setrlimit(getattr(resource, f"RLIMIT_{name.upper()}"), (int(value), int(value)))
    try:
        with CacheWriter(out, source.key, source.classes, source.colors) as writer:
            for frame_id, frame in frames.items():
                if frame_id not in writer.existing:
                    writer.commit(frame)
        cache = open_cache(out)
        assert len(cache.summary["frame"]) == len(cache) == len(frames)
        for frame_id in cache:
            cache[frame_id].load()
    except GraduncError as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
