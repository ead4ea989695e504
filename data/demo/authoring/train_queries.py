"""Train the demo's query network on rendered windows, or measure it; see ``README.md`` beside this file.

Its encoder is that of the convolutional network, and stays as it is. A query is matched to each class that a window
shows, by the cost of its class and its mask, and learns both; the others learn to claim nothing (MaskFormer, Cheng et
al. 2021, for semantic segmentation).
"""

from __future__ import annotations

import time

import torch
from safetensors.torch import save_file
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional
from train import IGNORE, check, command_line, deterministic, drawn, load_pairs

from gradunc_viz.demo import CLASSES
from gradunc_viz.demo.network import load_demo_network
from gradunc_viz.demo.query_network import DemoQueryNet, encoder_weights, load_demo_query_network

CLASS, CROSS_ENTROPY, DICE = 2.0, 5.0, 5.0
"""Weights of the three losses, as in Mask2Former (Cheng et al. 2022)."""
NO_OBJECT = 0.1
"""Weight of queries that are to claim nothing."""


class Scores(torch.nn.Module):
    """What the queries of a network claim together: ``S_k = sum_q P_qk sigma(a_q)``."""

    def __init__(self, net: DemoQueryNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor:
        """Return the scores (N, classes, h, w) of an image."""
        claims = self.net(image)
        shares = claims["class_queries_logits"].softmax(-1)[..., :-1]
        return torch.einsum("bqk,bqhw->bkhw", shares, claims["masks_queries_logits"].sigmoid())


def class_masks(label: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """Masks of classes (N, classes, h, w) and of what is labelled (N, 1, h, w), smaller than the label by `factor`."""
    known = label != IGNORE
    masks = functional.one_hot(torch.where(known, label, 0), len(CLASSES)).movedim(-1, 1).float()
    masks = masks * known[:, None]
    return functional.avg_pool2d(masks, factor), functional.avg_pool2d(known[:, None].float(), factor)


def dice(claimed: Tensor, masks: Tensor) -> Tensor:
    """1 - Dice coefficient of masks (..., pixels), softened by one pixel."""
    return 1 - (2 * (claimed * masks).sum(-1) + 1) / (claimed.sum(-1) + masks.sum(-1) + 1)


@torch.no_grad()
def matched(claims: dict[str, Tensor], masks: Tensor, known: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Indices (image, query, class) of the assignment with the least cost."""
    logits, masks, known = claims["masks_queries_logits"].flatten(2), masks.flatten(2), known.flatten(2)
    # softplus(a) - a m is the cross-entropy of a mask logit a
    pixels = known.sum(-1)[..., None]
    entropy = (functional.softplus(logits) * known).sum(-1)[..., None] - logits @ masks.mT
    claimed = logits.sigmoid() * known
    overlap = -(2 * claimed @ masks.mT + 1) / (claimed.sum(-1)[..., None] + masks.sum(-1)[:, None] + 1)
    shares = claims["class_queries_logits"].softmax(-1)[..., :-1]
    cost = CROSS_ENTROPY * entropy / pixels + DICE * overlap - CLASS * shares
    triples = []
    for image, classes in enumerate(present):
        shown = classes.nonzero()[:, 0]
        queries, columns = linear_sum_assignment(cost[image][:, shown].numpy())
        triples += [(image, query, int(shown[column])) for query, column in zip(queries, columns, strict=True)]
    image, query, label = torch.tensor(triples).T
    return image, query, label


def loss(steps: list[dict[str, Tensor]], label: Tensor) -> Tensor:
    """Loss of all layers' claims: of their classes, and cross-entropy and Dice of their masks."""
    coarse = class_masks(label, 4)
    # Half of the image's size keeps thin poles in the loss; of the last layer alone, for the time that it takes.
    fine = class_masks(label, 2)
    present = fine[0].flatten(2).any(-1)
    weight = torch.ones(len(CLASSES) + 1)
    weight[-1] = NO_OBJECT
    total = torch.zeros(())
    for claims in steps:
        image, query, shown = matched(claims, *coarse, present)
        claimed = torch.full(claims["class_queries_logits"].shape[:2], len(CLASSES))
        claimed[image, query] = shown
        kind = functional.cross_entropy(claims["class_queries_logits"].flatten(0, 1), claimed.flatten(), weight)
        logits, (masks, known) = claims["masks_queries_logits"][image, query], coarse
        if claims is steps[-1]:
            logits, (masks, known) = functional.interpolate(logits[None], scale_factor=2.0, mode="bilinear")[0], fine
        logits, masks, counted = logits.flatten(1), masks[image, shown].flatten(1), known[image, 0].flatten(1)
        entropy = functional.binary_cross_entropy_with_logits(logits, masks, counted)
        overlap = dice(logits.sigmoid() * counted, masks).mean()
        total = total + CLASS * kind + CROSS_ENTROPY * entropy + DICE * overlap
    return total / len(steps)


def train(
    pairs: list[tuple[Tensor, Tensor]],
    steps: int,
    batch: int = 6,
    size: tuple[int, int] = (256, 384),
    seed: int = 0,
    rate: float = 1e-3,
) -> DemoQueryNet:
    """Train all but the encoder from scratch; the same arguments on the same machine give the same weights."""
    with deterministic():
        return _train(pairs, steps, batch, size, seed, rate)


def _train(
    pairs: list[tuple[Tensor, Tensor]], steps: int, batch: int, size: tuple[int, int], seed: int, rate: float
) -> DemoQueryNet:
    torch.manual_seed(seed)
    gen = torch.Generator().manual_seed(seed)
    net = DemoQueryNet().train().to(memory_format=torch.channels_last)
    net.load_state_dict(encoder_weights(), strict=False)
    trained = [weight for name, weight in net.named_parameters() if name not in encoder_weights()]
    trunk = load_demo_network()
    optimiser = torch.optim.AdamW(trained, lr=rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.1)
    batches = drawn(pairs, batch, size, gen)
    start, smooth = time.perf_counter(), 0.0
    for step in range(steps):
        x, y = next(batches)
        with torch.no_grad():
            levels = trunk.encode(x)
        value = loss(net.decode(*levels, x), y)
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        schedule.step()
        smooth = value.item() if step == 0 else 0.95 * smooth + 0.05 * value.item()
        if step % 25 == 0 or step == steps - 1:
            print(f"step {step}: loss {smooth:.4f}, {time.perf_counter() - start:.0f} s", flush=True)
    return net.eval()


def main() -> None:
    """Command line."""
    args = command_line(__doc__.splitlines()[0], steps=2000, batch=6).parse_args()
    torch.set_num_threads(args.threads)
    if args.train:
        pairs = [pair for folder in args.train for pair in load_pairs(folder)]
        net = train(pairs, args.steps, args.batch, seed=args.seed)
        state = {key: value.contiguous() for key, value in net.state_dict().items() if key not in encoder_weights()}
        save_file(state, args.weights)
    check(Scores(load_demo_query_network(args.weights)).eval(), args.check)


if __name__ == "__main__":
    main()
