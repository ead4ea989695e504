"""Commands that set scores beside each other: fit, calibrate, compare, combine."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ..schema.tasks import TASKS
from . import options
from .command import command
from .data import opened_frames
from .given import network, networks, passes, running
from .values import DONE, check_folder, console, positive, put, write_forms


def _fit_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--scores",
        default="fitted",
        metavar="A,B",
        help="names, or 'fitted': all of them (default: %(default)s)",
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="FIT", help="safetensors file; an earlier fit there is replaced"
    )
    parser.add_argument(
        "--by",
        choices=("prediction", "label"),
        default="prediction",
        help="what class a pixel counts to (default: %(default)s)",
    )
    parser.add_argument(
        "--features",
        default="head",
        metavar="SOURCE",
        help="'head', or 'layer:NAME' for the output of a layer by its dotted name; beside --logits, the folder of "
        "features (default: %(default)s)",
    )


@command(
    "fit",
    "fit scores such as vim on in-distribution frames, for 'compute --fit'",
    options.network_or_logits,
    options.data,
    options.classes,
    _fit_options,
    options.batch,
    options.on_error,
    options.drawing,
    options.running,
    options.score_files,
    options.quiet,
)
def _fit(arguments: argparse.Namespace) -> int:
    from ..run.fit import fit
    from ..scores.fit import Fit

    if arguments.out.exists():
        Fit.load(arguments.out)  # anything else that lies there is not written over, which is said before the work
    check_folder(arguments.out)
    done = fit(
        network(arguments),
        opened_frames(arguments),
        pixels=arguments.pixels,
        seed=arguments.seed,
        by=arguments.by,
        features=arguments.features if arguments.logits is None else "head",
        progress=not arguments.quiet,
        scores=arguments.scores,
        batch=arguments.batch,
        **running(arguments),
    )
    done.save(arguments.out)
    told = done.provenance
    print(
        f"{arguments.out}: fitted {', '.join(done.scores)} on {told['pixels']} pixels of {len(told['frames'])} frames, "
        f"by {told['by']}, features of {done.source} ({told['dimensions']})"
    )
    print(f"score other frames with: gradunc compute --fit {arguments.out} --scores {','.join(done.scores)} ...")
    return DONE


def _compare_options(parser: argparse.ArgumentParser) -> None:
    from ..datasets.layouts import LAYOUTS
    from ..metrics.arrays.components import TRACKS

    parser.add_argument("--scores", metavar="A,B", help="names (default: every score that the network allows)")
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="DIR",
        help="folder of the table and of a cache for each run, resumed",
    )
    parser.add_argument(
        "--fit-data", type=Path, metavar="DIR", help="in-distribution frames to fit scores such as vim on"
    )
    parser.add_argument(
        "--fit-layout", default="folder", metavar="NAME", help=f"{', '.join(LAYOUTS)} (default: %(default)s)"
    )
    parser.add_argument("--fit-split", metavar="NAME", help="split of these frames")
    parser.add_argument("--task", choices=tuple(TASKS), help="default: anomaly where there are anomaly labels")
    parser.add_argument("--track", choices=tuple(TRACKS), default="anomaly", help="size limits of unknown objects")
    parser.add_argument("--no-cost", action="store_true", help="do not measure how long every score takes")


@command(
    "compare",
    "compute every score that a network allows, and the table of what they find and cost",
    options.network,
    options.data,
    options.classes,
    _compare_options,
    options.on_error,
    options.running,
    options.passes,
    options.score_files,
    options.quiet,
)
def _compare(arguments: argparse.Namespace) -> int:
    from ..comparison.compare import compare
    from ..datasets.frames import open_frames
    from ..run.settings import Settings

    fit_on = None
    if arguments.fit_data is not None:
        fit_on = open_frames(arguments.fit_data, arguments.fit_layout, split=arguments.fit_split)
    done = compare(
        networks(arguments),
        opened_frames(arguments),
        arguments.out,
        arguments.scores,
        settings=Settings(
            **running(arguments),
            **passes(arguments),
        ),
        fit_on=fit_on,
        task=arguments.task,
        track=arguments.track,
        cost=not arguments.no_cost,
        progress=not arguments.quiet,
    )
    print(done.table)
    print(f"{arguments.out}: comparison.txt, .md, .tex, .html and .csv")
    return DONE


def _calibrate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write all numbers: xarray.Dataset.from_dict")


@command(
    "calibrate",
    "fit a temperature on labelled frames, for scores such as entropy_T1.5",
    options.network_or_logits,
    options.data,
    options.classes,
    _calibrate_options,
    options.batch,
    options.on_error,
    options.drawing,
    options.running,
    options.quiet,
)
def _calibrate(arguments: argparse.Namespace) -> int:
    from ..run.calibrate import calibrate

    if arguments.out is not None:
        check_folder(arguments.out)  # before the work
    found = calibrate(
        network(arguments),
        opened_frames(arguments),
        pixels=arguments.pixels,
        seed=arguments.seed,
        progress=not arguments.quiet,
        batch=arguments.batch,
        **running(arguments),
    )
    if arguments.out is not None:
        put(arguments.out, json.dumps(found.to_dict(), indent=1))
    _print_calibration(found)
    temperature, scores = float(found["temperature"]), ", ".join(found.attrs["scores"])
    print(f"temperature {temperature:.4g}: ask for {scores}")
    none, scaled = (float(found["ece"].sel(part="held out", scaling=name)) for name in ("none", "temperature"))
    if scaled > none:
        print(f"on the frames that it was not fitted on the ECE grows by it, from {none:.2%} to {scaled:.2%}")
    print("vector scaling is for comparison: it changes predictions too, and no score takes it")
    return DONE


def _print_calibration(found: Any) -> None:
    from rich.table import Table

    (drawn, judged), (fitted_on, held_out) = found["pixels"].values, found["frames"].values
    title = f"fitted on {drawn} pixels of {fitted_on} frames, judged on {judged} of {held_out} others"
    table = Table(box=None, title=title, title_justify="left")
    table.add_column("scaling")
    for part in found["part"].values:
        for name in ("NLL", "ECE, %", "accuracy, %"):
            table.add_column(f"{name}\n{part}", justify="right", no_wrap=True)
    for scaling in found["scaling"].values:
        cells = []
        for part in found["part"].values:
            one = found.sel(part=part, scaling=scaling)
            cells += [f"{float(one['nll']):.4f}", f"{float(one['ece']):.2%}"[:-1], f"{float(one['accuracy']):.2%}"[:-1]]
        table.add_row(str(scaling), *cells)
    console().print(table)


def _combine_options(parser: argparse.ArgumentParser) -> None:
    from ..schema.entries.combined import HOW
    from ..schema.tasks import TASKS

    parser.add_argument(
        "--scores",
        default="entropy,pgn_oh_p2",
        metavar="A,B",
        help="two or more scores of the cache; what is made of them is compared with the first (default: %(default)s)",
    )
    parser.add_argument("--how", choices=tuple(HOW), default="rank", help="mean of ranks, or logistic regression")
    parser.add_argument("--task", choices=tuple(TASKS), help="default: anomaly where there are anomaly labels")
    parser.add_argument(
        "--folds", type=positive, default=5, metavar="N", help="a frame is combined by what was fitted on other folds"
    )
    parser.add_argument("--name", metavar="NAME", help="of the new score (default: such as rank:A+B)")
    options.table_forms(parser)


@command(
    "combine",
    "add a score to a cache that is made of others, and say whether that helps",
    options.cache,
    _combine_options,
    options.drawing,
    options.score_files,
    options.quiet,
)
def _combine(arguments: argparse.Namespace) -> int:
    from ..metrics.paired import paired_difference
    from ..run.combine import combine
    from ..schema.entries.combined import combined_score
    from ..schema.scores import split_names
    from ..store.choice import Selection
    from ..tables.paired import paired_records, paired_sentences, paired_table

    before = split_names(arguments.scores)
    cache = combine(
        arguments.cache,
        before,
        arguments.how,
        folds=arguments.folds,
        seed=arguments.seed,
        task=arguments.task,
        pixels=arguments.pixels,
        name=arguments.name,
        progress=not arguments.quiet,
    )
    made = arguments.name or combined_score(arguments.how, before).name
    print(f"{arguments.cache}: holds {made} of {len(cache)} frames", file=sys.stderr)
    if not Selection.of(cache, arguments.task).labelled:
        return DONE
    result = paired_difference(cache, before[0], arguments.task, scores=[made, *before])
    table = paired_table(result)
    if not write_forms(arguments, table, lambda: paired_records(result)):
        print(table)
        print("\n".join(paired_sentences(result, [made])))
    return DONE
