"""The command line: ``gradunc``. Parses, calls the library, prints; heavy modules are imported when needed."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import __version__
from .schema.errors import GraduncError
from .schema.scores import SCORES

__all__ = ["main"]

DONE, ERROR, USAGE, SKIPPED = 0, 1, 2, 3


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: 0 done, 1 error, 2 usage, 3 done but frames were skipped."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments) or DONE)
    except GraduncError as error:
        if arguments.debug:
            traceback.print_exc()
        print(f"gradunc: error: {' '.join(str(error).split())}", file=sys.stderr)
        return ERROR
    except KeyboardInterrupt:
        print("gradunc: interrupted; finished frames are kept", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as head, has gone
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return ERROR


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gradunc", description="Shows where a semantic-segmentation network should not be trusted."
    )
    parser.add_argument("--version", action="version", version=f"gradunc-viz {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
        )
        sub.set_defaults(run=run)
        return sub

    demo = command("demo", _demo, "compute the embedded demo and show it in the dashboard")
    demo.add_argument("--out", type=Path, metavar="DIR", help="cache (default: runs/demo-VERSION)")
    _serving(demo)

    compute = command("compute", _compute, "score a folder of frames with a network and cache the result")
    _network_options(compute)
    compute.add_argument("--data", required=True, type=Path, metavar="DIR", help="folder of frames")
    compute.add_argument(
        "--layout", default="folder", metavar="NAME", help="see 'gradunc layouts' (default: %(default)s)"
    )
    compute.add_argument("--split", metavar="NAME", help="split of the data set, where its layout has any")
    compute.add_argument(
        "--out", required=True, type=Path, metavar="CACHE", help="folder of the cache; resumed if it exists"
    )
    compute.add_argument(
        "--scores", default="default", metavar="A,B", help="names, default, paper or all (see 'gradunc scores')"
    )
    compute.add_argument("--input-size", type=_size, metavar="HxW", help="resize images to this for the network")
    compute.add_argument("--labels", type=Path, metavar="FILE", help="JSON {id in label masks: class id}")
    compute.add_argument(
        "--classes", metavar="NAME|FILE", help="class names: cityscapes, camvid, or JSON as in classes.json"
    )
    compute.add_argument("--device", default="auto", help="auto, cpu or cuda (default: %(default)s)")
    compute.add_argument("--batch", type=_positive, metavar="N", help="frames per forward pass")
    compute.add_argument(
        "--on-error", choices=("stop", "skip"), default="stop", help="what a bad frame does (default: stop)"
    )
    compute.add_argument("--limit", type=_positive, metavar="N", help="only the first N frames")
    compute.add_argument("--no-images", action="store_true", help="leave the images out of the cache")
    compute.add_argument("--bias", action="store_true", help="include the head's bias in gradient norms")
    compute.add_argument("--compile", action="store_true", help="compile the network (torch.compile)")
    compute.add_argument("--channels-last", action="store_true", help="lay out images and weights channels last")
    compute.add_argument("--autocast", choices=("bf16", "fp16"), help="let layers run in half precision")
    compute.add_argument("--profile", action="store_true", help="say where the time went")
    compute.add_argument("--quiet", action="store_true", help="no progress bar")

    stream = command("stream", _stream, "time a video or an image sequence with and without scores")
    stream.add_argument("source", type=Path, metavar="SOURCE", help="folder of images, GIF, TIFF or video")
    _network_options(stream)
    stream.add_argument("--scores", default="default", metavar="A,B", help="see 'gradunc scores'")
    stream.add_argument("--input-size", type=_size, metavar="HxW", help="resize images to this for the network")
    stream.add_argument("--device", default="auto", help="auto, cpu or cuda (default: %(default)s)")
    stream.add_argument("--autocast", choices=("bf16", "fp16"), help="let layers run in half precision")
    stream.add_argument("--limit", type=_positive, metavar="N", help="only the first N frames")

    info = command("info", _info, "say what a cache holds")
    info.add_argument("cache", type=Path, metavar="CACHE")

    evaluate = command("evaluate", _evaluate, "say how well scores find mistakes or unknown objects")
    evaluate.add_argument("cache", type=Path, nargs="+", metavar="CACHE")
    evaluate.add_argument(
        "--task", choices=("error", "anomaly"), help="default: anomaly where there are anomaly labels"
    )
    evaluate.add_argument("--by", choices=("class", "label", "frame"), help="one row per class or frame")
    evaluate.add_argument("--scores", metavar="A,B", help="names (default: all that are cached)")
    evaluate.add_argument(
        "--metric", choices=("auroc", "auprc", "fpr95", "f1"), default="auprc", help="what --by shows (default: auprc)"
    )
    evaluate.add_argument(
        "--pooling", choices=("pixels", "frames"), default="pixels", help="all pixels at once, or mean over frames"
    )
    evaluate.add_argument(
        "--bootstrap", type=_natural, default=200, metavar="N", help="samples of frames for intervals (default: 200)"
    )
    evaluate.add_argument(
        "--components",
        choices=("anomaly", "obstacle"),
        metavar="TRACK",
        help="also sIoU, PPV and F1 per object at the best-F1 threshold, with the size limits of that track "
        "(anomaly or obstacle); reads the score maps",
    )
    evaluate.add_argument("--quiet", action="store_true", help="no progress bar")
    for name, text in (("json", "a list of records"), ("csv", "comma-separated values"), ("latex", "a booktabs table")):
        evaluate.add_argument(
            f"--{name}",
            nargs="?",
            type=Path,
            const=Path("-"),
            metavar="FILE",
            help=f"write {text} (default: to stdout)",
        )

    importing = command("import", _import, "make a cache of score maps that others computed")
    importing.add_argument(
        "maps", type=Path, metavar="MAPS", help="folder of FRAME_ID.npy, .npz, .hdf5, .h5, .tif or .tiff"
    )
    importing.add_argument("--data", required=True, type=Path, metavar="DIR", help="folder of frames")
    importing.add_argument(
        "--layout", default="folder", metavar="NAME", help="see 'gradunc layouts' (default: %(default)s)"
    )
    importing.add_argument("--split", metavar="NAME", help="split of the data set, where its layout has any")
    importing.add_argument(
        "--out", required=True, type=Path, metavar="CACHE", help="folder of the cache; resumed if it exists"
    )
    importing.add_argument("--name", metavar="NAME", help="the score is called ext:NAME (default: the folder's name)")
    importing.add_argument(
        "--smaller-is-uncertain", action="store_true", help="small values mean uncertain; turns the sign"
    )
    importing.add_argument(
        "--predictions", type=Path, metavar="DIR", help="folder of FRAME_ID.png with class ids, for the task error"
    )
    importing.add_argument("--labels", type=Path, metavar="FILE", help="JSON {id in label masks: class id}")
    importing.add_argument(
        "--classes", metavar="NAME|FILE", help="class names: cityscapes, camvid, or JSON as in classes.json"
    )
    importing.add_argument(
        "--on-error", choices=("stop", "skip"), default="stop", help="what a bad frame or map does (default: stop)"
    )
    importing.add_argument("--limit", type=_positive, metavar="N", help="only the first N frames")
    importing.add_argument("--no-images", action="store_true", help="leave the images out of the cache")
    importing.add_argument("--quiet", action="store_true", help="no progress bar")

    submit = command("submit", _submit, "write a score in the form of a SegmentMeIfYouCan submission")
    submit.add_argument("cache", type=Path, metavar="CACHE")
    submit.add_argument("--score", required=True, metavar="NAME", help="see 'gradunc scores'")
    submit.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="such as outputs/anomaly_p/METHOD/AnomalyTrack-all"
    )
    submit.add_argument("--quiet", action="store_true", help="no progress bar")

    figures = command("figures", _figures, "draw the figures and tables of caches for a paper, with a contact sheet")
    figures.add_argument("cache", type=Path, nargs="+", metavar="CACHE")
    figures.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder; index.html shows all of it")
    figures.add_argument(
        "--format", choices=("pdf", "svg", "png", "pgf"), default="pdf", help="of the figures (default: %(default)s)"
    )
    figures.add_argument("--scores", metavar="A,B", help="names (default: what suits each figure)")
    figures.add_argument(
        "--width", type=_width, metavar="NAME", help="cvpr-single, cvpr-double, neurips, ieee, ieee-double, or inches"
    )
    figures.add_argument("--style", type=Path, metavar="FILE", help="a .mplstyle file that replaces settings")
    figures.add_argument("--dpi", type=_positive, default=300, metavar="N", help="of images (default: %(default)s)")
    figures.add_argument(
        "--track",
        default="anomaly",
        metavar="TRACK|CACHE=TRACK,..",
        help="size limits of unknown objects: anomaly or obstacle, or one for each cache (default: %(default)s)",
    )
    figures.add_argument("--quiet", action="store_true", help="no progress bar")

    explore = command("explore", _explore, "show caches in the dashboard")
    explore.add_argument("cache", type=Path, nargs="+", metavar="CACHE")
    _serving(explore)

    command("scores", _scores, "list the scores")
    command("layouts", _layouts, "list the layouts of frame folders")
    return parser


def _network_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", required=True, metavar="SPEC", help="demo, hf:DIR_OR_ID, torchvision:NAME or FILE.py:FUNCTION"
    )
    parser.add_argument("--weights", type=Path, metavar="FILE", help="safetensors or a state dict")
    parser.add_argument("--normalize", choices=("none", "imagenet"), help="default: what the model says, else none")
    parser.add_argument(
        "--drop-channels", type=_integers, default=(), metavar="19,..", help="output channels that are no class"
    )
    parser.add_argument("--head", metavar="NAME", help="layer that produces the logits, where it cannot be found")


def _network(arguments: argparse.Namespace) -> Any:
    from .networks.load import load_model

    return load_model(
        arguments.model,
        arguments.weights,
        drop_channels=arguments.drop_channels,
        normalize=arguments.normalize,
        head=arguments.head,
    )


def _serving(parser: argparse.ArgumentParser) -> None:
    default = os.environ.get("PORT", "5006")
    parser.add_argument(
        "--port", type=_port, default=default, metavar="N", help="port on 127.0.0.1 (default: %(default)s)"
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")


# --------------------------------------------------------------------------------------------------------------------
# values


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) > 0 and int(width) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; expected HEIGHTxWIDTH such as 512x1024")
    return int(height), int(width)


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of channels; expected such as 19 or 0,19") from None


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive whole number")
    return int(text)


def _natural(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 0 or more")
    return int(text)


def _width(text: str) -> str | float:
    from .figures.style import width_inches

    try:
        width: str | float = float(text)
    except ValueError:
        width = text
    try:
        width_inches(width)
    except GraduncError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return width


def _port(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; expected 1 to 65535")
    return int(text)


def _class_table(spec: str | None) -> dict[str, Any]:
    """Names and colours from a convention's name or a JSON file like ``classes.json``."""
    if spec is None:
        return {}
    if not Path(spec).suffix:
        from .datasets.catalog import known_classes

        table = list(known_classes(spec))
    else:
        try:
            entries = json.loads(Path(spec).read_text())
            table = [(str(entry["name"]), tuple(entry["color"])) for entry in sorted(entries, key=lambda e: e["id"])]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise GraduncError(f"{spec}: cannot be read as a list of {{id, name, color}} ({error})") from error
    return {"classes": [name for name, _ in table], "colors": [color for _, color in table]}


def _bytes(path: Path) -> str:
    size = float(sum(file.stat().st_size for file in path.rglob("*") if file.is_file()))
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


# --------------------------------------------------------------------------------------------------------------------
# commands


def _compute(arguments: argparse.Namespace) -> int:
    from .datasets.frames import open_frames
    from .run.compute import compute_report

    frames = open_frames(arguments.data, arguments.layout, labels=arguments.labels, split=arguments.split)
    report = compute_report(
        _network(arguments),
        frames,
        arguments.out,
        scores=arguments.scores,
        input_size=arguments.input_size,
        device=arguments.device,
        batch=arguments.batch,
        on_error=arguments.on_error,
        limit=arguments.limit,
        images=not arguments.no_images,
        bias=arguments.bias,
        compile=arguments.compile,
        channels_last=arguments.channels_last,
        autocast=arguments.autocast,
        profile=arguments.profile,
        progress=not arguments.quiet,
        **_class_table(arguments.classes),
    )
    if arguments.profile and report.computed:
        _print_stages(report)
    return _print_report(report, arguments.out)


def _print_stages(report: Any) -> None:
    from rich.table import Table

    from .run.stages import STAGES

    title = f"{report.seconds:.1f} s for {len(report.computed)} frames; stages run side by side"
    table = Table(box=None, title=title, title_justify="left")
    for name in ("stage", "ms per frame", "share of the run", "what"):
        table.add_column(name, justify="left" if name in ("stage", "what") else "right", no_wrap=name != "what")
    for name, stage in report.stages.items():
        per_frame = 1e3 * stage.seconds / len(report.computed)
        table.add_row(name, f"{per_frame:.1f}", f"{stage.seconds / report.seconds:.0%}", STAGES[name])
    _console().print(table)


def _stream(arguments: argparse.Namespace) -> int:
    from itertools import islice

    from .deploy.stream import read_stream, stream
    from .run.settings import resolve_device
    from .schema.scores import resolve_scores

    scores = resolve_scores(arguments.scores)
    report = stream(
        _network(arguments),
        islice(read_stream(arguments.source), arguments.limit),
        scores=scores,
        input_size=arguments.input_size,
        device=resolve_device(arguments.device),
        autocast=arguments.autocast,
    )
    scored, bare = report.rates()
    count = len(report.with_scores)
    print(f"{count} frames: {scored:.2f} frames/s with {len(scores)} scores, {bare:.2f} without ({scored / bare:.0%})")
    return DONE


def _print_report(report: Any, out: Path) -> int:
    done = len(report.computed)
    rate = f" in {report.seconds:.1f} s ({done / report.seconds:.2f} frames/s)" if done and report.seconds else ""
    already = f", {len(report.existing)} were there already" if report.existing else ""
    print(f"{out}: computed {done} frames on {report.device}{rate}{already}; {_bytes(out)}")
    for frame_id, message in report.skipped:
        print(f"skipped {frame_id}: {' '.join(message.split())}", file=sys.stderr)
    if report.skipped:
        print(f"{len(report.skipped)} frames were skipped", file=sys.stderr)
        return SKIPPED
    print(f"look at it with: gradunc explore {out}")
    return DONE


def _demo(arguments: argparse.Namespace) -> int:
    from .datasets.catalog import data_path
    from .datasets.frames import open_frames
    from .networks.load import load_model
    from .run.compute import compute_report
    from .schema.frame import SCHEMA_VERSION

    started = time.perf_counter()
    network = load_model("demo")
    # a cache of an earlier version's network or layout is left alone rather than refused
    out = arguments.out or Path(f"runs/demo-{SCHEMA_VERSION}-{network.weights_digest()[:8]}")
    report = compute_report(network, open_frames(data_path("demo"), "folder"), out)
    print(f"{len(report.computed)} demo frames computed, {len(report.existing)} taken from {out}", end="; ")
    print(f"{time.perf_counter() - started:.1f} s", flush=True)
    arguments.cache = [out]
    return _explore(arguments)


def _import(arguments: argparse.Namespace) -> int:
    from .datasets.frames import open_frames
    from .exchange.imports import compute_maps_report

    frames = open_frames(arguments.data, arguments.layout, labels=arguments.labels, split=arguments.split)
    report = compute_maps_report(
        arguments.maps,
        frames,
        arguments.out,
        name=arguments.name,
        orientation=-1 if arguments.smaller_is_uncertain else +1,
        predictions=arguments.predictions,
        on_error=arguments.on_error,
        limit=arguments.limit,
        images=not arguments.no_images,
        progress=not arguments.quiet,
        **_class_table(arguments.classes),
    )
    if report.resized:
        print(f"{len(report.resized)} maps were resized to their image (bilinear), such as {report.resized[0]}")
    return _print_report(report, arguments.out)


def _submit(arguments: argparse.Namespace) -> int:
    from .exchange.submission import write_submission

    files = write_submission(arguments.cache, arguments.score, arguments.out, progress=not arguments.quiet)
    print(f"{arguments.out}: wrote {arguments.score} of {len(files)} frames; {_bytes(arguments.out)}")
    return DONE


def _explore(arguments: argparse.Namespace) -> int:
    from .explorer import serve

    serve(arguments.cache, port=arguments.port, open_browser=not arguments.no_browser)
    return DONE


def _figures(arguments: argparse.Namespace) -> int:
    from .figures import figure_set, style

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
    from .metrics import evaluate
    from .store.choice import named_caches
    from .store.progress import progress_bar

    caches = named_caches(arguments.cache)
    with progress_bar(not arguments.quiet):
        result = evaluate(
            caches,
            arguments.task,
            scores=None if arguments.scores is None else [part.strip() for part in arguments.scores.split(",")],
            by=arguments.by,
            bootstrap=arguments.bootstrap,
        )
    from .tables import evaluation as tables

    if arguments.components:
        if arguments.by or result.attrs["task"] != "anomaly":
            raise GraduncError("--components is for unknown objects of whole sets; expected task anomaly and no --by")
        from .metrics.objects import with_components

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


def _console() -> Any:
    """Tables as wide as the terminal; wide where the output goes to a file or another program."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=200)


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

    from .store.cache import open_cache

    cache = open_cache(arguments.cache)
    summary, network, settings = cache.summary, cache.key["network"], cache.key["settings"]
    sizes = sorted({(int(h), int(w)) for h, w in zip(summary["height"].values, summary["width"].values, strict=True)})
    pixels = int((summary["height"].astype("i8") * summary["width"]).sum())
    table = Table(show_header=False, box=None, title=str(cache.path), title_justify="left")
    rows = {
        "frames": f"{len(cache)}, {pixels / 1e6:.1f} million pixels",
        "sizes": ", ".join(f"{h} x {w}" for h, w in sizes),
        "class labels": f"{int(summary['has_label'].sum())} frames",
        "anomaly labels": f"{int(summary['has_anomaly'].sum())} frames",
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


def _scores(_: argparse.Namespace) -> int:
    from rich.table import Table
    from rich.text import Text

    from .schema.scores import DEFAULT_SCORES, PAPER_SCORES

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

    from .datasets.frames import LAYOUTS

    table = Table(box=None)
    for title in ("name", "what", "expected files"):
        table.add_column(title, no_wrap=title == "name")
    for name, layout in LAYOUTS.items():
        table.add_row(name, Text(layout.description), Text(layout.tree))
    _console().print(table)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
