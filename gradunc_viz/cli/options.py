"""Options that several commands share, each said once."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ..schema.scores import SETS
from .values import (
    STDOUT,
    integers,
    limits,
    mapping_or_pattern,
    moment,
    names,
    natural,
    numbers,
    padding,
    pair,
    port,
    positive,
    rate,
    size,
)

__all__ = [
    "arrangement",
    "batch",
    "cache",
    "caches",
    "classes",
    "data",
    "debug",
    "drawing",
    "film",
    "frames",
    "network",
    "network_or_logits",
    "on_error",
    "part",
    "passes",
    "quiet",
    "running",
    "saved_features",
    "score_files",
    "scores_to_compute",
    "scores_to_show",
    "seed",
    "serving",
    "table_forms",
]


def debug(parser: argparse.ArgumentParser, default: bool | str = False) -> None:
    """What every command takes, before its name and after it."""
    parser.add_argument("--debug", action="store_true", default=default, help="show the traceback of an error")


def network(parser: argparse.ArgumentParser) -> None:
    """Which network."""
    from ..networks.loaders import sources

    parser.add_argument("--model", required=True, action="append", metavar="SPEC", help=sources())
    _network(parser)


def network_or_logits(parser: argparse.ArgumentParser) -> None:
    """Which network, or what somebody saved of one."""
    from ..networks.loaders import sources

    either = parser.add_mutually_exclusive_group(required=True)
    either.add_argument("--model", action="append", metavar="SPEC", help=sources())
    either.add_argument(
        "--logits",
        type=Path,
        metavar="DIR",
        help="in place of a network: folder of logits (C, h, w), FRAME_ID.npy, .npz, .safetensors or .zarr",
    )
    _network(parser)
    group = parser.add_argument_group(
        "saved logits",
        "Beside --logits, with --features DIR: the last layer, which makes logits of features, as the arguments of "
        "torch.nn.Conv2d say it (default: a convolution of 1 x 1).",
    )
    group.add_argument("--kernel", type=pair, metavar="HxW", help="size, such as 3x3 or 3")
    for name, what in (("stride", "such as 2"), ("dilation", "such as 2")):
        group.add_argument(f"--{name}", type=pair, metavar="N|HxW", help=f"{what} (default: 1)")
    group.add_argument("--padding", type=padding, metavar="N|HxW", help="such as 1, or 'same' (default: 0)")
    group.add_argument("--groups", type=positive, metavar="N", help="of channels (default: 1)")
    group.add_argument("--transposed", action="store_true", help="a transposed convolution (torch.nn.ConvTranspose2d)")
    group.add_argument("--probabilities", action="store_true", help="probabilities are saved, not logits")
    group.add_argument(
        "--align-corners",
        action="store_true",
        help="resize to the image with corners aligned (default: as the network does; of saved logits, not)",
    )


def saved_features(parser: argparse.ArgumentParser) -> None:
    """What somebody saved of the features."""
    parser.add_argument(
        "--features",
        type=Path,
        metavar="DIR",
        help="beside --logits: folder of what entered the last layer, (D, h, w) of each frame, for gradient norms "
        "(default: arrays called 'features' in the files of logits)",
    )


def _network(parser: argparse.ArgumentParser) -> None:
    """What has to be known of a network."""
    parser.add_argument(
        "--weights", type=Path, action="append", default=[], metavar="FILE", help="safetensors or a state dict"
    )
    parser.add_argument("--normalize", choices=("none", "imagenet"), help="default: what the model says, else none")
    for name, what in (("mean", "mean (default: 0)"), ("std", "standard deviation (default: 1)")):
        parser.add_argument(
            f"--{name}",
            type=numbers,
            metavar="A,B,..",
            help=f"{what} of each channel as the network orders them, or one for all; of images in 0..1, see --scale",
        )
    parser.add_argument(
        "--scale",
        type=positive,
        metavar="N",
        help="what white is where --mean and --std apply, such as 255 (default: 1)",
    )
    parser.add_argument(
        "--channels",
        choices=("rgb", "bgr", "grey"),
        help="what the network wants to see of colours (default: as it says itself)",
    )
    parser.add_argument(
        "--drop-channels", type=integers, default=(), metavar="19,..", help="output channels that are no class"
    )
    parser.add_argument(
        "--head", metavar="NAME", help="layer that produces the logits, where it cannot be found or is one of several"
    )
    parser.add_argument(
        "--output", metavar="NAME|N", help="which of several maps that the network returns holds the logits"
    )
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="P",
        help="of a network of one output channel: predict from this probability on (default: 0.5)",
    )


def running(parser: argparse.ArgumentParser) -> None:
    """How the network runs, and on how many frames."""
    parser.add_argument(
        "--input-size",
        type=size,
        metavar="HxW",
        help="resize images to this for the network; 'own': each image's, whatever the model asks for",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: %(default)s)")
    parser.add_argument("--autocast", choices=("bf16", "fp16"), help="let layers run in half precision")
    limit(parser)


def limit(parser: argparse.ArgumentParser) -> None:
    """How many frames."""
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N frames")


def batch(parser: argparse.ArgumentParser) -> None:
    """How much the network is given at once."""
    parser.add_argument(
        "--batch", type=positive, metavar="N", help="frames per forward pass, or windows of one where frames are tiled"
    )


def passes(parser: argparse.ArgumentParser) -> None:
    """Several passes over each frame."""
    group = parser.add_argument_group(
        "several passes",
        "A score mcd_... makes a run of passes with dropout on, tta_... one of passes over mirror images and copies of "
        "other sizes; several --model, or several --weights of one, make an ensemble, with scores ens_... Every other "
        "score of such a run is of the mean prediction.",
    )
    group.add_argument("--passes", type=positive, metavar="N", help="with dropout on (default: 8)")
    group.add_argument(
        "--dropout-layers",
        type=names,
        metavar="NAME,..",
        help="dropout layers, modules that hold some, or how their names begin (default: all)",
    )
    seed(group)
    group.add_argument(
        "--scales", type=numbers, metavar="S,..", help="sizes of augmented copies beside the usual one (default: 1)"
    )
    group.add_argument("--no-flips", action="store_true", help="augment without mirror images")


def data(parser: argparse.ArgumentParser) -> None:
    """Which frames, and what their labels mean."""
    parser.add_argument(
        "--data",
        required=True,
        type=Path,
        metavar="DIR",
        help="folder of frames; or a video, a table of paths (.csv), a pattern of numbered images (frame_%%05d.png)",
    )
    arrangement(parser, default="folder")


def arrangement(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """How the frames of a folder are arranged, and what their labels mean."""
    from ..datasets.layouts import LAYOUTS

    parser.add_argument(
        "--layout",
        default=default,
        metavar="NAME",
        help=f"{', '.join(LAYOUTS)}; see 'gradunc layouts' (default: {default or 'what fits'})",
    )
    parser.add_argument(
        "--split",
        metavar="NAME",
        help="split of the data set, where its layout has any; of the layout course, sets such as 'Road*'",
    )
    parser.add_argument(
        "--images",
        metavar="PATTERN",
        help="in place of a layout: paths of images in DIR, such as 'a/*/x_{id}.tif'; {id} is the frame's id, "
        "* any part of a name, ** any folders",
    )
    for name, what in (
        ("labels", "{id in label masks: class id}"),
        ("anomalies", "{id in anomaly masks: 0 known, 1 anomaly or null ignored}"),
    ):
        parser.add_argument(
            f"--{name}",
            type=mapping_or_pattern,
            action="append",
            default=[],
            metavar="FILE|PATTERN",
            help=f"JSON {what}, or beside --images where the masks are; twice for both",
        )
    parser.add_argument("--ignore-mask", metavar="PATTERN", help="beside --images: masks, not 0 where to ignore")
    parser.add_argument("--region", metavar="PATTERN", help="beside --images: masks, 0 where to ignore")
    parser.add_argument(
        "--anomaly-ids", type=integers, default=(), metavar="13,..", help="ids in label masks that mean anomalies"
    )
    parser.add_argument(
        "--reduce-zero-label",
        action="store_true",
        help="ids in label masks count from 1 and 0 is ignored, as in MMSegmentation",
    )
    part(parser)


def part(parser: argparse.ArgumentParser) -> None:
    """Which of the frames."""
    for name, what in (("start", "first frame"), ("stop", "frame before which to stop")):
        parser.add_argument(
            f"--{name}", type=moment, metavar="N|Ns", help=f"{what}, counted from 0; in seconds of a video such as 4.5s"
        )
    parser.add_argument("--every", type=positive, default=1, metavar="N", help="only every Nth frame")


def film(parser: argparse.ArgumentParser, name: str) -> None:
    """A film of image, prediction and score."""
    group = parser.add_argument_group(
        "film", f"Image, prediction and score side by side. Without {name} there is none."
    )
    group.add_argument(
        name,
        dest="film",
        type=Path,
        metavar="FILE",
        help=".mp4, which needs PyAV, or .gif; an existing one is replaced, but none of what is read",
    )
    group.add_argument("--show", metavar="SCORE", help="the score in it (default: the first of --scores)")
    group.add_argument(
        "--range",
        type=limits,
        metavar="LOW,HIGH",
        help="values that are darkest and brightest (default: 1 and 99 %% quantiles, of all frames or of those so far)",
    )
    group.add_argument(
        "--fps", type=rate, metavar="N", help="frames per second (default: as the source; 10 where it does not say)"
    )


def frames(parser: argparse.ArgumentParser) -> None:
    """Which frames, what their labels mean, and the cache that is made of them."""
    data(parser)
    classes(parser)
    parser.add_argument(
        "--out", required=True, type=Path, metavar="CACHE", help="folder of the cache; resumed if it exists"
    )
    on_error(parser)
    parser.add_argument("--no-images", action="store_true", help="leave the images out of the cache")


def on_error(parser: argparse.ArgumentParser) -> None:
    """What a frame that fails does."""
    parser.add_argument(
        "--on-error", choices=("stop", "skip"), default="stop", help="what a bad frame does (default: stop)"
    )


def classes(parser: argparse.ArgumentParser) -> None:
    """What classes are called."""
    from ..datasets.catalog import catalog

    parser.add_argument(
        "--classes",
        metavar="NAME|FILE",
        help=f"class names: {', '.join(catalog()['classes'])}, a .json, .csv or .txt file, or A,B,..",
    )


def drawing(parser: argparse.ArgumentParser) -> None:
    """Which pixels are drawn to fit on."""
    parser.add_argument(
        "--pixels",
        type=positive,
        default=100_000,
        metavar="N",
        help="how many pixels are drawn to fit on (default: %(default)s)",
    )
    seed(parser)


def seed(parser: argparse._ActionsContainer) -> None:
    """What is drawn from."""
    parser.add_argument(
        "--seed",
        type=natural,
        default=0,
        metavar="N",
        help="of whatever is drawn: the same number, the same pixels, folds and dropout (default: %(default)s)",
    )


def scores_to_compute(parser: argparse.ArgumentParser) -> None:
    """Which scores are computed."""
    parser.add_argument(
        "--scores", default="default", metavar="A,B", help=f"names, {', '.join(SETS)} (see 'gradunc scores')"
    )
    score_files(parser)


def scores_to_show(parser: argparse.ArgumentParser) -> None:
    """Which of the cached scores are looked at."""
    parser.add_argument("--scores", type=names, metavar="A,B", help="names (default: all that are cached and fit)")
    score_files(parser)


def score_files(parser: argparse.ArgumentParser) -> None:
    """Scores of one's own."""
    parser.add_argument(
        "--score-file",
        dest="score_files",
        action="append",
        default=[],
        type=Path,
        metavar="FILE.py",
        help="run a file that registers scores of your own; may be repeated",
    )


def table_forms(parser: argparse.ArgumentParser) -> None:
    """How a table is written, where not to the terminal."""
    forms = {
        "json": "a list of records",
        "csv": "comma-separated values",
        "latex": "a booktabs table",
        "markdown": "a pipe table",
        "html": "a table for a page",
    }
    for name, text in forms.items():
        parser.add_argument(
            f"--{name}",
            nargs="?",
            type=Path,
            const=STDOUT,
            metavar="FILE",
            help=f"write {text} (default: to stdout)",
        )


def cache(parser: argparse.ArgumentParser) -> None:
    """One cache."""
    parser.add_argument("cache", type=Path, metavar="CACHE")


def caches(parser: argparse.ArgumentParser) -> None:
    """One cache or several."""
    parser.add_argument("cache", type=Path, nargs="+", metavar="CACHE")


def serving(parser: argparse.ArgumentParser) -> None:
    """Where the dashboard is served."""
    default = os.environ.get("PORT", "5006")
    parser.add_argument(
        "--port", type=port, default=default, metavar="N", help="port on 127.0.0.1 (default: %(default)s)"
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    parser.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="where else browsers may show it, behind a tunnel or a proxy, such as https://hub.example.org or "
        "localhost:8888; may be repeated",
    )
    parser.add_argument(
        "--prefix", default="", metavar="/PATH", help="path in front of all addresses, where a proxy passes it on"
    )


def quiet(parser: argparse.ArgumentParser) -> None:
    """Without a progress bar."""
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
