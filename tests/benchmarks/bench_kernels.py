"""The price of scores: ten gradient norms, 1 - max softmax and entropy against the network that they are about.

"at the head" is every score from the head's own logits and features, as
`gradunc_viz.scores.gradients.norms_and_softmax` computes them: all tensors are at hand, and the result is maps at the
head's resolution. "at the image" is what `compute` does with a frame: checks for NaN, norms at the head, their resizing
to the image, and prediction and softmax scores of the resized logits. The forward pass is the bare network without
hooks.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from harness import Row, main, medians
from torch import Tensor, nn

from gradunc_viz.kernels.dispatch import Kernels
from gradunc_viz.networks.load import load_model
from gradunc_viz.networks.second_last import SecondLast
from gradunc_viz.schema.scores import PAPER_NORMS, SCORES
from gradunc_viz.scores.gradients import gradient_norms, norms_and_softmax
from gradunc_viz.scores.maps import Scorer
from gradunc_viz.scores.needs import HeadOutput

SIZE = (512, 1024)
WANTED = [(label, p, "exact") for label in ("oh", "uni") for p in PAPER_NORMS]
SOFTMAX = ("msp", "entropy")
NAMES = (*(f"pgn_{label}_p{p:g}" for label, p, _ in WANTED), *SOFTMAX)
REAL = Path(os.environ.get("GRADUNC_REAL_DATA", ""))
NO_GPU = "not run: no CUDA device"


def plain(logits: Tensor, features: Tensor) -> Tensor:
    """The formulas as one would write them down: a norm over channels per p and label."""
    pi, n_classes = logits.softmax(1), logits.shape[1]
    one_hot = nn.functional.one_hot(pi.argmax(1), n_classes).movedim(-1, 1)
    norms = [
        torch.norm(pi - y, p, 1) * torch.norm(features, p, 1) for y in (one_hot, 1 / n_classes) for p in PAPER_NORMS
    ]
    return torch.stack(norms, 1).log2()


def segformer(variant: str = "b0") -> nn.Module:
    """SegFormer with random weights."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    options = {}
    if variant == "b5":
        options = {"depths": [3, 6, 40, 3], "hidden_sizes": [64, 128, 320, 512], "decoder_hidden_size": 768}
    return SegformerForSemanticSegmentation(SegformerConfig(num_labels=19, **options)).eval()


def _captured(net: nn.Module, layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    found = {}
    handle = layer.register_forward_hook(lambda _, args, out: found.update(features=args[0], logits=out))
    net(x)
    handle.remove()
    return found["logits"], found["features"]


def _synchronised(run: Callable[[], object], device: str) -> Callable[[], object]:
    if device == "cpu":
        return run

    def timed() -> None:
        run()
        torch.cuda.synchronize()

    return timed


def price(
    name: str, net: nn.Module, layer: nn.Module, x: Tensor, targets: tuple[float, float], repeats: int
) -> Iterable[Row]:
    """Scores against the forward pass, at the head and at the image."""
    logits, features = _captured(net, layer, x)
    channels = torch.arange(19, device=x.device) if logits.shape[1] > 19 else None
    head = HeadOutput(logits, features, layer).only(channels)
    device, size = x.device.type, (x.shape[2], x.shape[3])
    scorer = Scorer(NAMES, x.device)
    runs = {
        "forward": lambda: net(x),
        "head": lambda: norms_and_softmax(head, WANTED, SOFTMAX),
        "image": lambda: scorer(head, size),
    }
    found = medians({key: _synchronised(run, device) for key, run in runs.items()}, repeats)
    for (where, seconds), target in zip(list(found.items())[1:], targets, strict=True):
        detail = f"{seconds * 1e3:.1f} ms of {found['forward'] * 1e3:.0f} ms"
        yield Row(
            f"{name}, {where}",
            f"12 scores at the {where} / forward pass, {size[0]} x {size[1]}, logits {tuple(logits.shape[1:])}",
            100 * seconds / found["forward"],
            "%",
            target,
            detail=detail,
            parts=found,
        )


def everything(name: str, net: nn.Module, x: Tensor, before_head: bool, target: float, repeats: int) -> Row:
    """All gradient scores and those of logits against the forward pass, at the image, with what is kept for them."""
    network = load_model(net)
    labels = (*(f"label_{label}" for label in ("oh", "uni", "exp")), "feature")
    labels = (*labels, "pgn2_oh", "pgn2_uni") if before_head else labels
    factors = [f"{label}_p{p:g}" for label in labels for p in PAPER_NORMS]
    known = [entry.name for entry in SCORES.values() if Kernels.know(entry)]
    scorer, size = Scorer([*known, *factors], x.device), (x.shape[2], x.shape[3])
    keeps = SecondLast(network)

    def scored() -> None:
        head = keeps(lambda: network.infer(x)) if before_head else network.infer(x)
        output = HeadOutput(head.logits, head.features, head.layer, hidden=head.hidden)
        scorer(output.only(torch.arange(19) if head.logits.shape[1] > 19 else None), size)

    with torch.inference_mode(False), torch.no_grad():
        x = x.clone()
        found = medians({"forward": lambda: net(x), "bare": lambda: network.infer(x), "scored": scored}, repeats)
    seconds = found["scored"] - found["bare"]
    what = f"{len(scorer.scores)} scores of gradients and logits at the image / forward pass, {size[0]} x {size[1]}"
    detail = f"{seconds * 1e3:.1f} ms of {found['forward'] * 1e3:.0f} ms"
    return Row(f"{name}, all", what, 100 * seconds / found["forward"], "%", target, detail=detail, parts=found)


def kernel(device: str, target: float, repeats: int, dtype: torch.dtype = torch.float32) -> Row:
    """The norms alone against the plain formulation."""
    layer = nn.Conv2d(256, 19, 1)
    features = torch.randn(1, 256, 256, 512, device=device, dtype=dtype).relu_()
    logits = 4 * torch.randn(1, 19, 256, 512, device=device, dtype=dtype)
    runs = {"plain": lambda: plain(logits, features), "ours": lambda: gradient_norms(logits, features, layer)}
    found = medians({key: _synchronised(run, device) for key, run in runs.items()}, max(3, repeats // 2))
    return Row(
        f"kernel, {device}",
        "plain formulation / ten norms, features (1, 256, 256, 512), 19 classes",
        found["plain"] / found["ours"],
        "x",
        target,
        larger_is_better=True,
        detail=f"{found['plain'] * 1e3:.0f} ms / {found['ours'] * 1e3:.1f} ms",
        parts=found,
    )


def _peak() -> float:
    """Largest memory beside the inputs and the result, over the result; in a process of its own."""
    layer = nn.Conv2d(256, 19, 1)
    features, logits = torch.randn(1, 256, 256, 512), torch.randn(1, 19, 256, 512)
    gradient_norms(logits[:, :, :2], features[:, :, :2], layer)  # what torch itself takes at its first use
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    norms = gradient_norms(logits, features, layer)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (after - before) * 1024 / norms.nbytes - 1


def memory() -> Row:
    done = subprocess.run([sys.executable, __file__, "--peak"], check=True, capture_output=True, text=True)
    value = max(0.0, float(done.stdout))
    return Row("kernel memory", "extra memory / the result, features (1, 256, 256, 512)", value, "x", 2.0)


def bandwidth(repeats: int) -> Row:
    """Reading features and logits once at the measured speed of a copy, against the kernel, on a GPU."""
    name, what = "kernel bandwidth, cuda", "time to read the inputs at copy bandwidth / kernel, float16"
    if not torch.cuda.is_available():
        return Row(name, what, None, "%", 70, True, NO_GPU)
    layer = nn.Conv2d(768, 19, 1)
    features = torch.randn(4, 768, 256, 512, device="cuda", dtype=torch.float16)
    logits = torch.randn(4, 19, 256, 512, device="cuda", dtype=torch.float16)
    target = torch.empty_like(features)
    runs = {
        "copy": lambda: target.copy_(features),
        "ours": lambda: norms_and_softmax(HeadOutput(logits, features, layer), WANTED, SOFTMAX),
    }
    found = medians({key: _synchronised(run, "cuda") for key, run in runs.items()}, 10 * repeats)
    read = (features.nbytes + logits.nbytes) / (2 * features.nbytes / found["copy"])
    return Row(
        name, what, 100 * read / found["ours"], "%", 70, True, f"{read * 1e3:.2f} / {found['ours'] * 1e3:.2f} ms"
    )


def on_gpu(repeats: int) -> Iterable[Row]:
    """Networks of the size that is used, in half precision."""
    what = "12 scores / forward pass, 1024 x 2048, bf16 autocast"
    for name in ("segformer-b5, cuda", "deeplabv3, cuda"):
        if not torch.cuda.is_available():
            yield Row(name, what, None, "%", 1.0, detail=NO_GPU)
            continue
        try:
            if name.startswith("segformer"):
                net = segformer("b5")
                layer: nn.Module = net.decode_head.classifier
            else:
                from torchvision.models.segmentation import deeplabv3_resnet50

                net = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=19).eval()
                layer = net.classifier[-1]
        except ImportError as error:
            yield Row(name, what, None, "%", 1.0, detail=f"not run: {error}")
            continue
        x = torch.rand(1, 3, 1024, 2048, device="cuda")
        with torch.autocast("cuda", torch.bfloat16):
            yield from price(name, net.cuda(), layer.cuda(), x, (1.0, 1.0), repeats)


def rows(repeats: int) -> Iterable[Row]:
    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    net: nn.Module = segformer()  # not in inference mode, where nothing of it could be recorded
    with torch.inference_mode():
        x = torch.rand(1, 3, *SIZE)
        yield from price("segformer-b0", net, net.decode_head.classifier, x, (2.0, 2.0), repeats)
        yield everything("segformer-b0", net, x, True, 15.0, repeats)
        if (REAL / "enet.py").exists():
            import numpy as np
            from PIL import Image

            with torch.inference_mode(False):
                net = load_model(f"{REAL / 'enet.py'}:load_enet", weights=REAL / "enet_cityscapes.pth").net.eval()
            image = Image.open(min(REAL.glob("dataset_AnomalyTrack/images/*.jpg"))).resize(SIZE[::-1])
            frame = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
            yield from price("enet", net, net.transposed_conv, frame, (12.0, 12.0), repeats)
            yield everything("enet", net, frame, False, 60.0, repeats)
        else:
            why = "not run: GRADUNC_REAL_DATA does not name the folder of real networks"
            yield Row("enet, head", "12 scores at the head / forward pass", None, "%", 12.0, detail=why)
        yield kernel("cpu", 20, repeats)
        yield memory()
        what = "plain formulation / ten norms, features (1, 256, 256, 512), 19 classes"
        if torch.cuda.is_available():
            yield kernel("cuda", 15, 10 * repeats, torch.float16)
        else:
            yield Row("kernel, cuda", what, None, "x", 15, True, NO_GPU)
        yield bandwidth(repeats)
        yield from on_gpu(repeats)


if __name__ == "__main__":
    if sys.argv[1:] == ["--peak"]:
        print(_peak())
    else:
        main(["bench_kernels"])
