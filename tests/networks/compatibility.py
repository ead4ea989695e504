"""The table of docs/networks.md: every kind of network, made small, really loaded and scored, its gradient compared.

``make compatibility`` brings the table up to date, and `test_compatibility` holds each of its rows to a fresh run. A
row has one of three states:

- *passed*: it loads, its head is found, and its gradient norms equal those of automatic differentiation;
- *refused*: an error says why;
- *not run*: a package cannot be imported. Nothing else is said of it.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zoo
from tiny_transformers import SEMANTIC, SIZES
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

import gradunc_viz as gv
from gradunc_viz.networks.head import Head
from gradunc_viz.networks.loaders import LOADERS
from gradunc_viz.networks.network import network_input
from gradunc_viz.networks.outputs import logits_of
from gradunc_viz.networks.traversal import evaluating
from gradunc_viz.schema.scores import LOG2_FLOOR

__all__ = ["DOCUMENT", "ROWS", "Outcome", "Row", "has_torchvision", "outcome", "section", "versions"]

DOCUMENT = Path(__file__).parents[2] / "docs" / "networks.md"
HEADER = "| network | head | gradient norms | to the image's size | state |\n|---|---|---|---|---|"
ELSEWHERE = "torchvision", "segmentation_models_pytorch", "timm"
"""Groups that need torchvision, which does not import beside every build of PyTorch."""

TOLERANCE = 1e-6
"""Of log2 norms, in float64."""


@dataclass(frozen=True)
class Given:
    """What is given to `load_model`: a specification or an object, its options, and the side of the image."""

    spec: Any
    options: Mapping[str, Any] = field(default_factory=dict)
    size: tuple[int, int] = (64, 64)


@dataclass(frozen=True)
class Row:
    """One kind of network.

    Attributes
    ----------
    group, name
        Heading and first column.
    make
        From an empty folder to what is loaded.
    needs
        Modules that have to be imported.
    """

    group: str
    name: str
    make: Callable[[Path], Given]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of a row: its columns."""

    state: str
    head: str = ""
    gradient: str = ""
    resized: str = ""

    def line(self, row: Row) -> str:
        """The row of the table."""
        return f"| {row.name} | {self.head} | {self.gradient} | {self.resized} | {self.state} |"


# --------------------------------------------------------------------------------------------------
# trying


def outcome(row: Row, folder: Path) -> Outcome:
    """Load a network of a row, run it, and compare its gradient norms with automatic differentiation."""
    for module in row.needs:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                importlib.import_module(module)
        except (ImportError, RuntimeError):
            return Outcome(f"not run: {module} does not import")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        given = row.make(folder)
        try:
            network = gv.load_model(given.spec, **given.options).double()
            image = np.random.default_rng(0).integers(0, 256, (*given.size, network.in_channels), dtype=np.uint8)
            x = network_input(image, network, network.preprocessing.size)
            head = _telling(network, x)
        except gv.GraduncError as error:
            return Outcome(f"refused: {_plain(str(error), folder)}")
        return Outcome("passed", _head_text(head), _compared(network, head, x, image), _resized_text(network, head, x))


def _plain(text: str, folder: Path) -> str:
    """An error as it is told anywhere."""
    return re.sub(r"\s+", " ", text.replace(str(folder), "DIR")).replace("|", r"\|")


def _telling(network: gv.Network, x: Tensor) -> Head:
    """The head in a pass with weights by which classes differ, but not so much that one is certain."""
    head = network.infer(x)
    weights = [layer.weight for layer in _layers(head).values()]
    with torch.no_grad():
        for number, weight in enumerate(weights):
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(number)))
        spread = network.infer(x).logits.std()
        for weight in weights:
            weight.div_(spread.clamp_min(1e-3))
    return network.infer(x)


def _layers(head: Head) -> dict[str, nn.Module]:
    if head.tail is not None:
        return {source.name: source.layer for source in head.tail.sources}
    return {} if head.layer is None else {head.name: head.layer}


def _head_text(head: Head) -> str:
    kinds = []
    for name, layer in _layers(head).items():
        size = getattr(layer, "kernel_size", None)
        kinds.append(f"`{name}` {type(layer).__name__}{f' {size[0]}x{size[1]}' if size else ''}")
    return " + ".join(kinds) or f"`{head.name}`"


def _resized_text(network: gv.Network, head: Head, x: Tensor) -> str:
    size = tuple(head.logits.shape[2:])
    if size == tuple(x.shape[2:]):
        return "same size"
    return "bilinear, `align_corners`" if head.align_corners else "bilinear"


def _compared(network: gv.Network, head: Head, x: Tensor, image: np.ndarray) -> str:
    """Compare gradient norms with automatic differentiation.

    Raises
    ------
    AssertionError
        Where they differ.
    """
    if getattr(head, "queries", None) is not None:
        return _of_queries(network, head, x)
    return _of_output(network, head, x, image) if head.tail is not None else _of_head(network, head, x)


def _pixels(size: tuple[int, ...]) -> list[tuple[int, int]]:
    height, width = size
    return [(0, 0), (height // 2, width - 1), (height - 1, width // 3)]


def _log2_norms(logits: Tensor, weights: list[Tensor], p: float) -> list[Tensor]:
    """Of the gradients of a pixel's cross-entropy, logits (C,), against the predicted class and no class."""
    found = []
    for loss in (-logits.log_softmax(0)[logits.argmax()], -logits.log_softmax(0).mean()):
        gradients = torch.autograd.grad(loss, weights, retain_graph=True)
        found.append(sum(gradient.double().abs().pow(p).sum() for gradient in gradients).log2() / p)
    return found


def _equal(found: Tensor, expected: list[Tensor], tolerance: float = TOLERANCE) -> None:
    wanted = torch.stack(expected).detach().clamp_min(LOG2_FLOOR)
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=tolerance)


def _of_head(network: gv.Network, head: Head, x: Tensor) -> str:
    """By the output of the head in a forward pass of the network, at three pixels of it."""
    norms = gv.gradient_norms(head, p=1, labels=("oh", "uni"))
    outputs: list[Tensor] = []
    layer: Any = head.layer
    hook = layer.register_forward_hook(lambda layer, args, output: outputs.append(output))
    nn.Module.requires_grad_(network.net, True)
    with evaluating(network.net), torch.enable_grad(), parametrize.cached():
        network.net(x)
        weights = [layer.weight]
    hook.remove()
    logits = head.plan.arrange(outputs[head.plan.index])
    for y, x_ in _pixels(tuple(logits.shape[2:])):
        _equal(norms[0, :, y, x_], _log2_norms(logits[0, :, y, x_], weights, 1))
    return "equal autograd's"


def _of_output(network: gv.Network, head: Head, x: Tensor, image: np.ndarray) -> str:
    """By the network's own output, at its corners: those that no resizing mixes with others."""
    scores = gv.score_image(network, image, scores=["pgn_oh_p1", "pgn_uni_p1"])
    weights = [layer.weight.requires_grad_(True) for layer in _layers(head).values()]
    with evaluating(network.net), torch.enable_grad():
        logits = logits_of(network.net(x), network.output, tuple(x.shape[2:]))
    if logits.shape[1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], 1)
    for y, x_ in ((0, 0), (0, -1), (-1, -1)):
        # against no class, a small norm is what is uncertain; maps are rounded
        found = torch.tensor([float(scores["pgn_oh_p1"][y, x_]), -float(scores["pgn_uni_p1"][y, x_])])
        _equal(found, _log2_norms(logits[0, :, y, x_], weights, 1), 5e-3)
    return "equal autograd's"


def _of_queries(network: gv.Network, head: Head, x: Tensor) -> str:
    """By the mask logits that a query model returns, of -log S_y."""
    from gradunc_viz.scores.query_norms import query_norms

    from gradunc_viz.schema.scores import NormRequest
    from gradunc_viz.scores.needs import HeadOutput

    output = HeadOutput(head.logits, None, head.layer, queries=head.queries)
    norms = query_norms(output, [NormRequest(label, 1.0, layer=1) for label in ("oh", "uni")])
    with evaluating(network.net), torch.no_grad():
        result = network.net(x)
    classes, masks = result["class_queries_logits"].double(), result["masks_queries_logits"].double()
    if masks.shape[2:] != norms.shape[2:]:
        masks = F.interpolate(masks, norms.shape[2:], mode="bilinear", align_corners=False)
    shares = classes.softmax(2)[0, :, :-1].log()
    for y, x_ in _pixels(tuple(norms.shape[2:])):
        mask = masks[0, :, y, x_].clone().requires_grad_()
        log_scores = (shares + F.logsigmoid(mask)[:, None]).logsumexp(0)
        expected = []
        for loss in (-log_scores.amax(), -log_scores.mean()):
            (gradient,) = torch.autograd.grad(loss, mask, retain_graph=True)
            expected.append(gradient.abs().sum().log2())
        _equal(norms[0, :, y, x_], expected)
    return "equal autograd's"


# --------------------------------------------------------------------------------------------------
# rows


def _saved(make: Callable[..., nn.Module], kind: str = "") -> Callable[[Path], Given]:
    """A model of transformers by its folder, with the configuration that its kind has."""

    def given(folder: Path) -> Given:
        from transformers.utils import logging

        logging.disable_progress_bar()
        make().save_pretrained(folder)
        side = SIZES.get(kind, 64)
        return Given(f"hf:{folder}", size=(side, side))

    return given


def _transformers() -> Iterator[Row]:
    for kind, make in SEMANTIC.items():
        yield Row("transformers", f"`hf:` {kind}", _saved(make, kind), ("transformers",))
    # those of Detr return boxes and masks of things, not of a scene
    if importlib.util.find_spec("query_zoo") is None:
        return
    kinds = importlib.import_module("query_zoo").KINDS
    for kind, make in kinds.items():
        yield Row(
            "Query models of transformers",
            f"`hf:` {kind}",
            _saved(make, "dpt" if kind == "eomt" else kind),
            ("transformers",),
        )


def _torchvision(name: str) -> Row:
    return Row("torchvision", f"`torchvision:{name}`", lambda folder: Given(f"torchvision:{name}"), ("torchvision",))


def _smp(architecture: str, encoder: str = "resnet18", options: str = "") -> Row:
    spec = f"smp:{architecture}/{encoder}?classes=4{options}"
    name = f"`smp:{architecture}/{encoder}`"
    return Row(
        "segmentation_models_pytorch",
        name,
        lambda folder: Given(spec, size=(128, 128)),
        ("segmentation_models_pytorch",),
    )


def _smp_folder(folder: Path) -> Given:
    import segmentation_models_pytorch as smp

    smp.FPN("resnet18", encoder_weights=None, classes=4).save_pretrained(folder)
    return Given(f"smp:{folder}")


def _timm(backbone: str, size: int = 64) -> Row:
    def given(folder: Path) -> Given:
        import timm

        net = timm.create_model(backbone, features_only=True)
        state = {f"backbone.{name}": value for name, value in net.state_dict().items()}
        state |= {"head.weight": torch.randn(4, net.feature_info.channels()[-1]), "head.bias": torch.zeros(4)}
        torch.save(state, folder / "probe.pth")
        return Given(f"timm:{backbone}", {"weights": folder / "probe.pth"}, (size, size))

    return Row("timm", f"`timm:{backbone}`", given, ("timm",))


class Plain(nn.Module):
    """A network that programs are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.head(F.softplus(self.norm(self.body(x))))
        return F.interpolate(logits, x.shape[-2:], mode="bilinear", align_corners=False)


class Branching(Plain):
    """A network whose way depends on the image and on its own settings."""

    def forward(self, x: Tensor) -> Tensor:
        z = self.body(x)
        if bool(z.mean() > 0):
            z = -z
        for _ in range(2):
            z = F.softplus(z)
        return self.head(z)


_EXAMPLE = torch.zeros(1, 3, 64, 64)


def _script(make: Callable[[], Any]) -> Callable[[Path], Given]:
    def given(folder: Path) -> Given:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch advises against TorchScript
            torch.jit.save(make(), folder / "net.pt")
        return Given(f"torchscript:{folder / 'net.pt'}")

    return given


def _export(
    *, dynamic: bool = False, core: bool = False, batch: int = 1, live: bool = False
) -> Callable[[Path], Given]:
    def given(folder: Path) -> Given:
        shapes = {2: torch.export.Dim("h", min=8, max=4096), 3: torch.export.Dim("w", min=8, max=4096)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            example = torch.zeros(batch, 3, 64, 64)
            program = torch.export.export(Plain().eval(), (example,), dynamic_shapes=(shapes,) if dynamic else None)
            program = program.run_decompositions() if core else program
            if not live:
                torch.export.save(program, folder / "net.pt2")
        return Given(program if live else f"export:{folder / 'net.pt2'}")

    return given


def _onnx(folder: Path) -> Given:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Plain().eval(), (_EXAMPLE,), folder / "net.onnx", dynamo=False)
    return Given(f"onnx:{folder / 'net.onnx'}")


def _programs() -> Iterator[Row]:
    scripted = {
        "traced": lambda: torch.jit.trace(Plain().eval(), _EXAMPLE),
        "scripted": lambda: torch.jit.script(Plain().eval()),
        "scripted, with branches and loops": lambda: torch.jit.script(Branching().eval()),
        "frozen": lambda: torch.jit.freeze(torch.jit.script(Plain().eval())),
        "optimised for inference": lambda: torch.jit.optimize_for_inference(torch.jit.script(Plain().eval())),
    }
    for name, make in scripted.items():
        yield Row("Programs", f"`torchscript:` {name}", _script(make))
    yield Row("Programs", "`export:` of one size", _export())
    yield Row("Programs", "`export:` of any size", _export(dynamic=True))
    yield Row("Programs", "`export:` of core operators", _export(core=True))
    yield Row("Programs", "`export:` of two images at a time", _export(batch=2))
    yield Row("Programs", "`torch.export.ExportedProgram`, as it is", _export(live=True))
    if "onnx" in LOADERS:
        yield Row("Programs", "`onnx:`", _onnx, ("onnx", "onnxruntime"))


_OWN = {
    "1x1 convolution": "plain",
    "3x3 convolution": "3 x 3",
    "dilated convolution": "dilated",
    "grouped convolution": "grouped",
    "reflecting border": "reflecting",
    "transposed convolution": "transposed",
    "linear layer on tokens": "tokens",
    "pixel shuffle": "pixel shuffle",
    "resized with corners": "bilinear with corners",
    "crop of what was padded": "pad to 32, crop",
    "temperature": "temperature",
    "softmax": "softmax",
    "one logit, of which a sigmoid is meant": "sigmoid head, logit",
    "sum of two branches": "FCN skip",
    "ensemble in one module": "ensemble of networks",
    "maximum over neighbours": "max pooling",
    "a sigmoid for each class": "sigmoid of every class",
    "kernel with a weight norm": "weight norm",
}
"""What a network of one's own ends in, and a specimen of the zoo that does."""


def _own(specimen: str) -> Callable[[Path], Given]:
    return lambda folder: Given(zoo.made(specimen), zoo.ZOO[specimen].options, zoo.SIZE)


def _rows() -> Iterator[Row]:
    yield from _transformers()
    for name in ("fcn_resnet50", "fcn_resnet101", "deeplabv3_resnet50", "deeplabv3_resnet101"):
        yield _torchvision(name)
    for name in ("deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"):
        yield _torchvision(name)
    for architecture in ("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus"):
        yield _smp(architecture)
    for architecture in ("PAN", "UPerNet"):
        yield _smp(architecture)
    yield _smp("Segformer", "mit_b0")
    yield _smp("DPT", "tu-test_vit", "&dynamic_img_size=True")
    yield _smp("Unet", "tu-test_resnet")
    yield Row("segmentation_models_pytorch", "`smp:DIR`", _smp_folder, ("segmentation_models_pytorch",))
    for backbone in ("test_resnet", "test_vit", "test_convnext"):
        yield _timm(backbone)
    yield from _programs()
    for name, specimen in _OWN.items():
        yield Row("Modules of one's own", name, _own(specimen))


ROWS = tuple(_rows())

# --------------------------------------------------------------------------------------------------
# the document


def has_torchvision() -> bool:
    """Whether torchvision, and with it smp and timm, can be imported."""
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError):
        return False
    return True


def versions(*packages: str) -> str:
    """``torch 2.13.0, transformers 5.23.0``."""
    return ", ".join(f"{name} {version(name).partition('+')[0]}" for name in packages)


def section(name: str, text: str) -> str:
    """What stands between the marks of a part of the document."""
    found = re.search(rf"(?s)<!-- {name} -->\n(.*?)<!-- end of {name} -->", text)
    assert found, f"{DOCUMENT} has no part {name!r}"
    return found[1]


def tables(groups: Callable[[str], bool]) -> str:
    """The tables of some groups, made anew."""
    text, group = "", ""
    for row in ROWS:
        if not groups(row.group):
            continue
        if row.group != group:
            group = row.group
            text += f"\n### {group}\n\n{HEADER}\n"
        with tempfile.TemporaryDirectory() as folder:
            text += outcome(row, Path(folder)).line(row) + "\n"
    return text


def main() -> None:
    """Print what became of each row here, or write it into the document."""
    if has_torchvision():
        part = "table with torchvision"
        found = f"{versions('torch', 'torchvision', 'segmentation-models-pytorch', 'timm')}\n"
        found += tables(ELSEWHERE.__contains__)
    else:
        part, found = "table", f"{versions('torch', 'transformers')}\n{tables(lambda group: True)}"
    print(found)
    if "--write" in sys.argv[1:]:
        before, text = DOCUMENT.read_text().split(f"<!-- {part} -->\n")
        after = text.partition(f"<!-- end of {part} -->")[2]
        DOCUMENT.write_text(f"{before}<!-- {part} -->\n{found}\n<!-- end of {part} -->{after}")


if __name__ == "__main__":
    main()
