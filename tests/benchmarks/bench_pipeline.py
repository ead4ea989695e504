"""Throughput of a whole run of `compute`, decode to commit, against the bare forward loop over preloaded tensors.

Run with ``python tests/benchmarks/bench_pipeline.py [--network segformer-b0] [--scores paper]``; the two take turns,
and the ratio is the median of theirs. SegFormers and the DeepLab have random weights; ENet and real frames need
GRADUNC_REAL_DATA, without which the frames are random JPEGs of 720 x 1280.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

import gradunc_viz as gv
from gradunc_viz.networks.network import network_input
from gradunc_viz.run.compute import compute_report

TARGET = 0.90
SIZE = (512, 1024)


def segformer(**options: object) -> nn.Module:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    torch.manual_seed(0)
    return SegformerForSemanticSegmentation(SegformerConfig(num_labels=19, **options)).eval()


class DeepLab(nn.Module):
    """A ResNet-50 of output stride 16 with atrous pyramid pooling, as DeepLabv3; random weights."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import ResNetConfig, ResNetModel

        self.body = ResNetModel(ResNetConfig())
        stage = self.body.encoder.stages[-1]
        for module in stage.modules():  # atrous in place of the last stride
            if isinstance(module, nn.Conv2d):
                module.stride = (1, 1)
                if module.kernel_size == (3, 3):
                    module.dilation = module.padding = (2, 2)
        self.branches = nn.ModuleList(
            [nn.Conv2d(2048, 256, 1)] + [nn.Conv2d(2048, 256, 3, padding=rate, dilation=rate) for rate in (6, 12, 18)]
        )
        self.project = nn.Conv2d(1024, 256, 1)
        self.classifier = nn.Conv2d(256, 19, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.body(x).last_hidden_state
        found = torch.relu(self.project(torch.cat([torch.relu(branch(found)) for branch in self.branches], 1)))
        return nn.functional.interpolate(self.classifier(found), x.shape[2:], mode="bilinear")


def network(name: str) -> gv.Network:
    if name == "enet":
        folder = Path(os.environ["GRADUNC_REAL_DATA"])
        return gv.load_model(f"{folder / 'enet.py'}:load_enet", folder / "enet_cityscapes.pth", drop_channels=[19])
    if name == "deeplab":
        torch.manual_seed(0)
        return gv.load_model(DeepLab().eval(), normalize="imagenet")
    larger = {"depths": [3, 4, 6, 3], "hidden_sizes": [64, 128, 320, 512], "decoder_hidden_size": 768}
    return gv.load_model(segformer(**(larger if name == "segformer-b2" else {})), normalize="imagenet")


def frames(count: int, folder: Path) -> gv.Frames:
    real = os.environ.get("GRADUNC_REAL_DATA")
    if real:
        return gv.open_frames(Path(real) / "dataset_AnomalyTrack", "smiyc")[:count]
    (folder / "images").mkdir()
    random = np.random.default_rng(0)
    for i in range(count):
        small = Image.fromarray(random.integers(0, 256, (45, 80, 3), "u1"))
        small.resize((1280, 720), Image.Resampling.BICUBIC).save(folder / f"images/f{i}.jpg", quality=90)
    return gv.open_frames(folder)


def measure(name: str, scores: str, count: int, repeats: int, **options: Any) -> dict[str, Any]:
    """Frames per second of both, and their ratio."""
    net = network(name)
    with tempfile.TemporaryDirectory() as folder:
        chosen = frames(count, Path(folder))
        tensors = [network_input(frame.image, net, SIZE) for frame in chosen]
        bare, whole, reports = [], [], []
        with torch.inference_mode():
            net.net(tensors[0])
        for repeat in range(repeats):
            start = time.perf_counter()
            with torch.inference_mode():
                for x in tensors:
                    net.net(x)
            bare.append(time.perf_counter() - start)
            out = Path(folder) / f"run{repeat}"
            report = compute_report(net, chosen, out, scores=scores, input_size=SIZE, progress=False, **options)
            reports.append(report)
            whole.append(report.seconds)
    bare_rate, whole_rate = (count / statistics.median(times) for times in (bare, whole))
    # of neighbours in time, as a machine's speed drifts
    ratio = statistics.median(forward / run for forward, run in zip(bare, whole, strict=True))
    return {
        "network": name,
        "scores": scores,
        "bare": bare_rate,
        "whole": whole_rate,
        "ratio": ratio,
        "stages": reports[int(np.argsort(whole)[len(whole) // 2])].stages,
    }


def rows(repeats: int) -> Iterator[Any]:
    """Rows of ``make bench``."""
    from harness import Row

    # enough frames that the start of a run does not count, few enough that slow networks end
    counts = {"segformer-b0": 6, "deeplab": 4, "segformer-b2": 2}
    if os.environ.get("GRADUNC_REAL_DATA"):
        counts = {"enet": 10, **counts}
    for name, count in counts.items():
        result = measure(name, "default", count, repeats)
        what = f"frames per second of compute over those of the bare forward pass, {name}, {SIZE[0]} x {SIZE[1]}"
        detail = f"{result['whole']:.2f} against {result['bare']:.2f} frames/s"
        yield Row(f"whole run {name}", what, result["ratio"], "x", TARGET, larger_is_better=True, detail=detail)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--network", choices=("enet", "deeplab", "segformer-b0", "segformer-b2"), default="segformer-b0"
    )
    parser.add_argument("--scores", default="default")
    parser.add_argument("--frames", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    result = measure(args.network, args.scores, args.frames, args.repeats)
    print(f"{args.network}, scores {args.scores}: bare forward {result['bare']:.2f} frames/s", end=", ")
    print(f"whole run {result['whole']:.2f} frames/s, ratio {result['ratio']:.2f} (target {TARGET})")
    for name, stage in result["stages"].items():
        wall, cpu = (seconds / args.frames * 1e3 for seconds in (stage.seconds, stage.cpu_seconds))
        print(f"  {name:18}{wall:9.1f} ms per frame, {cpu:9.1f} ms of its thread")


if __name__ == "__main__":
    main()
