"""Train the demo's convolutional network on rendered windows, or measure it; see ``README.md`` beside this file."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from gradunc_viz.demo import CLASSES
from gradunc_viz.demo.network import DemoNet, load_demo_network

IGNORE = 255


def load_pairs(folder: Path, suffix: str = "png") -> list[tuple[Tensor, Tensor]]:
    """Read every image of a folder with its labels, as uint8 tensors."""
    pairs = []
    for path in sorted((folder / "images").glob(f"*.{suffix}")):
        with Image.open(path) as image, Image.open(folder / "labels" / f"{path.stem}.png") as label:
            photo = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()
            pairs.append((photo, torch.from_numpy(np.array(label))))
    return pairs


def confusion(net: torch.nn.Module, pairs: list[tuple[Tensor, Tensor]]) -> np.ndarray:
    """Count true (row) against predicted (column) classes at full resolution."""
    n = len(CLASSES)
    counts = np.zeros((n, n), dtype=np.int64)
    with torch.inference_mode():
        for photo, label in pairs:
            logits = net(photo[None].float() / 255)
            logits = functional.interpolate(logits, size=label.shape, mode="bilinear", align_corners=False)
            guess = logits[0].argmax(0)
            known = label != IGNORE
            joint = label[known].long() * n + guess[known]
            counts += torch.bincount(joint, minlength=n * n).reshape(n, n).numpy()
    return counts


def class_iou(counts: np.ndarray) -> np.ndarray:
    """Intersection over union per class (NaN for a class that neither occurs nor is predicted)."""
    hit = np.diag(counts).astype(np.float64)
    union = counts.sum(0) + counts.sum(1) - hit
    return np.where(union > 0, hit / np.maximum(union, 1), np.nan)


def report(name: str, net: torch.nn.Module, pairs: list[tuple[Tensor, Tensor]]) -> float:
    """Print IoU per class and return the mean."""
    iou = class_iou(confusion(net, pairs))
    print(f"{name} ({len(pairs)} images): mIoU {np.nanmean(iou):.4f}")
    for (label, _), value in zip(CLASSES, iou, strict=True):
        print(f"  {label:14s} {value:.4f}")
    return float(np.nanmean(iou))


def _rand(gen: torch.Generator, low: float, high: float) -> float:
    return float(torch.empty(1).uniform_(low, high, generator=gen))


def augment(pair: tuple[Tensor, Tensor], gen: torch.Generator, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Scale, cut, mirror, recolour, blur and add noise."""
    photo, label = pair[0], pair[1]
    height, width = size
    zoom = max(_rand(gen, 0.75, 1.35), height / label.shape[0], width / label.shape[1])
    cut_h, cut_w = min(int(height / zoom), label.shape[0]), min(int(width / zoom), label.shape[1])
    top = int(_rand(gen, 0, label.shape[0] - cut_h + 0.999))
    left = int(_rand(gen, 0, label.shape[1] - cut_w + 0.999))
    x = photo[:, top : top + cut_h, left : left + cut_w].float()[None] / 255
    y = label[top : top + cut_h, left : left + cut_w]
    x = functional.interpolate(x, size=size, mode="bilinear", antialias=True)[0]
    y = functional.interpolate(y[None, None].float(), size=size, mode="nearest-exact")[0, 0].long()
    if _rand(gen, 0, 1) < 0.5:
        x, y = x.flip(-1), y.flip(-1)
    gain = torch.tensor([_rand(gen, 0.93, 1.07) for _ in range(3)])[:, None, None] * _rand(gen, 0.75, 1.25)
    x = x * gain
    grey = x.mean(0, keepdim=True)
    x = grey + (x - grey) * _rand(gen, 0.6, 1.35)
    mean = x.mean()
    x = mean + (x - mean) * _rand(gen, 0.75, 1.25)
    if _rand(gen, 0, 1) < 0.25:
        x = functional.avg_pool2d(x[None], 3, 1, 1, count_include_pad=False)[0]
    x = x + torch.randn(x.shape, generator=gen) * _rand(gen, 0.0, 0.025)
    return x.clamp(0, 1), y


def drawn(
    pairs: list[tuple[Tensor, Tensor]], batch: int, size: tuple[int, int], gen: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of augmented windows, without end; each window once before any again."""
    order: list[int] = []
    while True:
        while len(order) < batch:
            order += torch.randperm(len(pairs), generator=gen).tolist()
        chosen, order = order[:batch], order[batch:]
        xs, ys = zip(*(augment(pairs[i], gen, size) for i in chosen), strict=True)
        yield torch.stack(xs).to(memory_format=torch.channels_last), torch.stack(ys)


def class_weights(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Weights that fall gently with a class's share, so that thin classes count."""
    share = torch.zeros(len(CLASSES), dtype=torch.float64)
    for _, label in pairs:
        share += torch.bincount(label[label != IGNORE].flatten().long(), minlength=len(CLASSES))
    weight = (share / share.sum()).clamp_min(1e-4) ** -0.3
    return (weight / weight.mean()).float()


def train(
    pairs: list[tuple[Tensor, Tensor]],
    steps: int,
    batch: int = 8,
    size: tuple[int, int] = (256, 384),
    seed: int = 0,
    rate: float = 4e-3,
) -> DemoNet:
    """Train a network from scratch; the same arguments on the same machine give the same weights."""
    with deterministic():
        return _train(pairs, steps, batch, size, seed, rate)


@contextmanager
def deterministic() -> Iterator[None]:
    """Allow only deterministic algorithms, and leave torch as it was: other networks need the others."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _train(
    pairs: list[tuple[Tensor, Tensor]], steps: int, batch: int, size: tuple[int, int], seed: int, rate: float
) -> DemoNet:
    torch.manual_seed(seed)
    gen = torch.Generator().manual_seed(seed)
    net = DemoNet().train().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.15)
    weight = class_weights(pairs)
    batches = drawn(pairs, batch, size, gen)
    start, smooth = time.perf_counter(), 0.0
    for step in range(steps):
        x, y = next(batches)
        # Half resolution keeps thin poles in the loss at a quarter of full resolution's cost.
        logits = functional.interpolate(net(x), scale_factor=2.0, mode="bilinear", align_corners=False)
        loss = functional.cross_entropy(logits, y[:, ::2, ::2], weight, ignore_index=IGNORE)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        smooth = loss.item() if step == 0 else 0.95 * smooth + 0.05 * loss.item()
        if step % 25 == 0 or step == steps - 1:
            print(f"step {step}: loss {smooth:.4f}, {time.perf_counter() - start:.0f} s", flush=True)
    return net.eval()


def command_line(description: str, steps: int, batch: int) -> argparse.ArgumentParser:
    """Options of a training script."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--train", type=Path, nargs="*", default=[], help="folders of training windows")
    parser.add_argument("--check", type=Path, nargs="*", default=[], help="folders to measure mIoU on")
    parser.add_argument("--weights", type=Path, required=True, help="written by training, read otherwise")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    return parser


def check(net: torch.nn.Module, folders: list[Path]) -> None:
    """Print IoU per class for every folder."""
    for folder in folders:
        suffix = "jpg" if any((folder / "images").glob("*.jpg")) else "png"
        report(folder.name, net, load_pairs(folder, suffix))


def main() -> None:
    """Command line."""
    args = command_line(__doc__.splitlines()[0], steps=1500, batch=8).parse_args()
    torch.set_num_threads(args.threads)
    if args.train:
        pairs = [pair for folder in args.train for pair in load_pairs(folder)]
        net = train(pairs, args.steps, args.batch, seed=args.seed)
        state = {key: value.contiguous() for key, value in net.state_dict().items()}
        save_file(state, args.weights)
    check(load_demo_network(args.weights), args.check)


if __name__ == "__main__":
    main()
