"""Query models, tiny and of random weights: the four kinds of transformers, and one of one's own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES, QUERIES = 4, 6


class OwnQueries(nn.Module):
    """Queries that ask the mean of a feature map; masks are the product of an MLP's output and a convolution's."""

    def __init__(self, seed: int = 0, classes: int = CLASSES, queries: int = QUERIES, d: int = 8) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body = nn.Conv2d(3, d, 3, stride=2, padding=1)
            self.pixels = nn.Conv2d(d, d, 3, padding=1)
            self.queries = nn.Parameter(2 * torch.randn(queries, d))
            self.context = nn.Linear(d, d)
            self.embed = nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, d))
            self.classify = nn.Linear(d, classes + 1)
            nn.init.normal_(self.pixels.weight, std=0.4)
            nn.init.normal_(self.embed[2].weight, std=1.0)

    def factors(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Class logits, mask embeddings and pixel embeddings."""
        z = F.softplus(self.body(x))
        queries = self.queries + self.context(z.mean((2, 3)))[:, None]
        return 2 * self.classify(queries), self.embed(queries), self.pixels(z)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        classes, embeddings, pixels = self.factors(x)
        masks = torch.einsum("bqc,bchw->bqhw", embeddings, pixels)
        return {"class_queries_logits": classes, "masks_queries_logits": masks}


def _named() -> dict[str, object]:
    names = {number: f"thing {number}" for number in range(CLASSES)}
    return {"id2label": names, "label2id": {name: number for number, name in names.items()}}


def _swin() -> object:
    import transformers

    return transformers.SwinConfig(
        image_size=32, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=2, patch_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip


def maskformer(**options: object) -> nn.Module:
    import transformers

    decoder = transformers.DetrConfig(
        d_model=8, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=8, decoder_ffn_dim=8, num_queries=QUERIES,
        encoder_attention_heads=2, decoder_attention_heads=2,
    )  # fmt: skip
    config = transformers.MaskFormerConfig(
        fpn_feature_size=32, mask_feature_size=8, backbone_config=_swin(), decoder_config=decoder, **_named(), **options
    )
    return transformers.MaskFormerForInstanceSegmentation(config)


def mask2former(**options: object) -> nn.Module:
    import transformers

    config = transformers.Mask2FormerConfig(
        backbone_config=_swin(), feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=8,
        encoder_layers=1, decoder_layers=3, num_attention_heads=2, dim_feedforward=8, num_queries=QUERIES,
        **_named(), **options,
    )  # fmt: skip
    return transformers.Mask2FormerForUniversalSegmentation(config)


def oneformer(**options: object) -> nn.Module:
    import transformers

    config = transformers.OneFormerConfig(
        backbone_config=_swin(), num_queries=QUERIES, hidden_dim=32, mask_dim=32, conv_dim=32,
        encoder_feedforward_dim=8, dim_feedforward=8, encoder_layers=1, decoder_layers=3, query_dec_layers=1,
        num_attention_heads=2,
        text_encoder_width=32, text_encoder_num_layers=1, text_encoder_context_length=8,
        task_seq_len=8, max_seq_len=8, text_encoder_n_ctx=2, **_named(), **options,
    )  # fmt: skip
    return transformers.OneFormerForUniversalSegmentation(config)


def eomt(**options: object) -> nn.Module:
    import transformers

    config = transformers.EomtConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8, num_blocks=1,
        num_queries=QUERIES, num_register_tokens=1, num_upscale_blocks=1, **_named(), **options,
    )  # fmt: skip
    return transformers.EomtForUniversalSegmentation(config)


KINDS: dict[str, Callable[..., nn.Module]] = {
    "maskformer": maskformer,
    "mask2former": mask2former,
    "oneformer": oneformer,
    "eomt": eomt,
}
"""Those of transformers."""


class SemanticTask(nn.Module):
    """Tells a OneFormer its task, which is an input of its own."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.config = net, net.config

    def forward(self, x: Tensor) -> object:
        return self.net(x, torch.arange(8, dtype=x.dtype, device=x.device).expand(len(x), -1))


def telling(kind: str, seed: int = 0) -> nn.Module:
    """A network of a kind that takes an image alone, its weights large enough for its pixels to differ."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = OwnQueries(seed) if kind == "own" else KINDS[kind]()
        for name, weight in net.named_parameters():
            if "mask_embed" in name or "mask_head" in name or "class_" in name:
                weight.data = torch.randn(weight.shape) * (1.5 if weight.ndim == 1 else 3 * weight.shape[-1] ** -0.5)
    return (SemanticTask(net) if kind == "oneformer" else net).eval()
