"""What is made of the class scores of query models, S_k = sum_q P_qk s_q, without a gradient.

Of the scores S at the head's resolution, resized bilinearly to the image; published code resizes mask logits, and takes
S of these. Values are as published, not oriented.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..schema.errors import HeadError
from .needs import ForwardPass

__all__ = ["eam", "mask_energy", "max_mask", "neg_sum", "rba"]


def max_mask(run: ForwardPass) -> Tensor:
    """1 minus the largest class score, 1 - max_k S_k, (N, y, x); larger is more uncertain.

    At most 1; below 0 where several queries of one class claim a pixel.
    """
    return 1 - run.resized.amax(1)


def rba(run: ForwardPass) -> Tensor:
    """Rejected by all, -sum_k tanh S_k, (N, y, x); larger is more uncertain.

    Source: Nayal et al., "RbA: Segmenting Unknown Regions Rejected by All" (arXiv:2211.14293).
    """
    return -run.resized.tanh().sum(1)


def neg_sum(run: ForwardPass) -> Tensor:
    """-sum_k S_k, (N, y, x); larger is more uncertain."""
    return -run.resized.sum(1)


def mask_energy(run: ForwardPass) -> Tensor:
    """Free energy of class scores, -ln sum_k exp S_k, (N, y, x); larger is more uncertain."""
    return -run.resized.logsumexp(1)


def eam(run: ForwardPass) -> Tensor:
    """Anomaly score of masks, 1 - sum_q s_q max_k P_qk, (N, h, w); larger is more uncertain.

    Source: Grcic et al., "On Advantages of Mask-level Recognition for Outlier-aware Segmentation" (arXiv:2301.03407).
    """
    queries = run.output.queries
    if queries is None:
        raise HeadError("classes and masks of queries were asked for, and this network returns logits of pixels")
    surest = queries.log_classes.amax(2).exp().to(queries.masks.dtype)
    return 1 - torch.einsum("nq,nqhw->nhw", surest, queries.masks.sigmoid())
