"""The command line: ``gradunc``. Parses, calls the library, prints; heavy modules are imported when needed."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..metrics.metric import pixel_metrics
from ..schema.errors import GraduncError
from ..schema.tasks import TASKS
from .look import _evaluate, _explore, _figures, _info, _layouts, _scores, _upgrade
from .run import _compute, _demo, _import, _stream, _submit
from .values import (
    DONE,
    ERROR,
    _integers,
    _natural,
    _port,
    _positive,
    _size,
    _width,
)

__all__ = ["main"]


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

    upgrade = command("upgrade", _upgrade, "bring a cache up to today's layout without computing anew")
    upgrade.add_argument("cache", type=Path, metavar="CACHE")

    evaluate = command("evaluate", _evaluate, "say how well scores find mistakes or unknown objects")
    evaluate.add_argument("cache", type=Path, nargs="+", metavar="CACHE")
    evaluate.add_argument("--task", choices=tuple(TASKS), help="default: anomaly where there are anomaly labels")
    evaluate.add_argument("--by", choices=("class", "label", "frame"), help="one row per class or frame")
    evaluate.add_argument("--scores", metavar="A,B", help="names (default: all that are cached)")
    evaluate.add_argument(
        "--metric", choices=tuple(pixel_metrics()), default="auprc", help="what --by shows (default: auprc)"
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


def _serving(parser: argparse.ArgumentParser) -> None:
    default = os.environ.get("PORT", "5006")
    parser.add_argument(
        "--port", type=_port, default=default, metavar="N", help="port on 127.0.0.1 (default: %(default)s)"
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")


# --------------------------------------------------------------------------------------------------------------------
# values


# --------------------------------------------------------------------------------------------------------------------
# commands
