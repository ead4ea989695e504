"""Commands that show: explore, figures, evaluate, info, upgrade, scores, layouts."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ..schema.errors import GraduncError
from ..schema.scores import SCORES
from ..schema.tasks import TASKS
from .values import DONE, _bytes, _console


def _explore(arguments: argparse.Namespace) -> int:
    from ..explorer import serve

    serve(arguments.cache, port=arguments.port, open_browser=not arguments.no_browser)
    return DONE


def _figures(arguments: argparse.Namespace) -> int:
    from ..figures import figure_set, style

    track = arguments.track
    if "=" in track:
        track = dict(part.strip().partition("=")[::2] for part in track.split(","))
    with style(arguments.width, arguments.style):
        done = figure_set(
            arguments.cache,
            arguments.out,
            format=arguments.format,
            dpi=arguments.dpi,
            scores=None if arguments.scores is None else [part.strip() for part in arguments.scores.split(",")],
            track=track,
            progress=not arguments.quiet,
        )
    for name, reason in done.skipped:
        print(f"left out {name}: {reason}", file=sys.stderr)
    print(f"{arguments.out}: {len(done.files)} files; look at {done.index}")
    return DONE


def _evaluate(arguments: argparse.Namespace) -> int:
    from ..metrics import evaluate
    from ..store.choice import named_caches
    from ..store.progress import progress_bar

    caches = named_caches(arguments.cache)
    with progress_bar(not arguments.quiet):
        result = evaluate(
            caches,
            arguments.task,
            scores=None if arguments.scores is None else [part.strip() for part in arguments.scores.split(",")],
            by=arguments.by,
            bootstrap=arguments.bootstrap,
        )
    from ..tables import evaluation as tables

    if arguments.components:
        if arguments.by or result.attrs["task"] != "anomaly":
            raise GraduncError("--components is for unknown objects of whole sets; expected task anomaly and no --by")
        from ..metrics.objects import with_components

        result = with_components(result, caches, arguments.components, progress=not arguments.quiet)
    written = False
    if arguments.json is not None:
        _put(arguments.json, json.dumps(tables.records(result), indent=1) + "\n")
        written = True
    if arguments.csv is not None:
        _put(arguments.csv, tables.to_csv(result))
        written = True
    if arguments.latex is not None:
        if arguments.by:
            raise GraduncError(f"--latex makes a table of scores; expected no --by, got --by {arguments.by}")
        _put(arguments.latex, tables.latex(result, pooling=arguments.pooling))
        written = True
    if written:
        return DONE
    console = _console()
    for table in tables.terminal_tables(result, metric=arguments.metric, pooling=arguments.pooling):
        console.print(table)
    pooling = arguments.by or arguments.pooling
    for line in [*tables.caption(result, pooling), *tables.comparison(result, pooling=arguments.pooling)]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return DONE


def _put(path: Path, text: str) -> None:
    """Write to a file, or to stdout for ``-``."""
    if str(path) == "-":
        sys.stdout.write(text)
        return
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise GraduncError(f"{path}: cannot be written ({error.strerror or error})") from error


def _info(arguments: argparse.Namespace) -> int:
    from rich.table import Table
    from rich.text import Text

    from ..store.cache import open_cache

    cache = open_cache(arguments.cache)
    summary, network, settings = cache.summary, cache.key["network"], cache.key["settings"]
    sizes = sorted({(int(h), int(w)) for h, w in zip(summary["height"].values, summary["width"].values, strict=True)})
    pixels = int((summary["height"].astype("i8") * summary["width"]).sum())
    table = Table(show_header=False, box=None, title=str(cache.path), title_justify="left")
    rows = {
        "frames": f"{len(cache)}, {pixels / 1e6:.1f} million pixels",
        "sizes": ", ".join(f"{h} x {w}" for h, w in sizes),
        **{task.needs: f"{int(summary[task.flag].sum())} frames" for task in TASKS.values()},
        "network": f"{network['name']} (weights {network['weights'][:12]}, head {network['head']})",
        "classes": f"{len(cache.classes)}: {', '.join(cache.classes)}",
        "scores": f"{len(cache.scores)}: {', '.join(cache.scores)}",
        "input size": "x".join(map(str, settings["input_size"])) if settings["input_size"] else "each image's own",
        "on disk": _bytes(cache.path),
    }
    for name, value in rows.items():
        table.add_row(name, Text(value))
    _console().print(table)
    return DONE


def _upgrade(arguments: argparse.Namespace) -> int:
    from ..schema.frame import SCHEMA_VERSION
    from ..store.upgrade import upgrade_cache

    done = upgrade_cache(arguments.cache)
    for line in done:
        print(f"{arguments.cache}: {line}")
    if not done:
        print(f"{arguments.cache}: schema version {SCHEMA_VERSION}, which is today's; nothing to do")
    return DONE


def _scores(_: argparse.Namespace) -> int:
    from rich.table import Table
    from rich.text import Text

    from ..schema.scores import DEFAULT_SCORES, PAPER_SCORES

    table = Table(box=None)
    for title in ("name", "family", "units", "uncertain if", "default", "paper", "formula"):
        table.add_column(title, no_wrap=title in ("name", "family"))
    for name, entry in SCORES.items():
        table.add_row(
            name,
            entry.family,
            entry.units,
            "large" if entry.orientation > 0 else "small",
            "x" if name in DEFAULT_SCORES else "",
            "x" if name in PAPER_SCORES else "",
            Text(entry.formula),
        )
    _console().print(table)
    print("Any other p > 0 has a gradient norm too: pgn_oh_p0.7, pgn_uni_p3_paper ...")
    return DONE


def _layouts(_: argparse.Namespace) -> int:
    from rich.table import Table
    from rich.text import Text

    from ..datasets.frames import LAYOUTS

    table = Table(box=None)
    for title in ("name", "what", "expected files"):
        table.add_column(title, no_wrap=title == "name")
    for name, layout in LAYOUTS.items():
        table.add_row(name, Text(layout.description), Text(layout.tree))
    _console().print(table)
    return DONE
