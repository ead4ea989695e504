"""Semantic-segmentation models of transformers, tiny and of random weights: one of every architecture."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

CLASSES = 4


def segformer(**options: object) -> nn.Module:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    torch.manual_seed(0)
    config = SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 16],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=12,
        **options,
    )
    return SegformerForSemanticSegmentation(config).eval()


def _vision(**options: object) -> dict[str, object]:
    """Options of BEiT and what is made like it."""
    return {
        "image_size": 32,
        "patch_size": 4,
        "hidden_size": 16,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "out_indices": [1, 2, 3, 4],
        "pool_scales": [1, 2],
        "num_labels": CLASSES,
        "use_auxiliary_head": False,
    } | options


def beit() -> nn.Module:
    from transformers import BeitConfig, BeitForSemanticSegmentation

    return BeitForSemanticSegmentation(BeitConfig(**_vision())).eval()


def data2vec() -> nn.Module:
    from transformers import Data2VecVisionConfig, Data2VecVisionForSemanticSegmentation

    return Data2VecVisionForSemanticSegmentation(Data2VecVisionConfig(**_vision())).eval()


def dpt() -> nn.Module:
    from transformers import DPTConfig, DPTForSemanticSegmentation

    config = DPTConfig(
        image_size=32,
        patch_size=16,
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=16,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        num_labels=CLASSES,
        auxiliary_loss_weight=0.4,
        use_auxiliary_head=True,
        is_hybrid=False,
    )
    return DPTForSemanticSegmentation(config).eval()


def mobilenet_v2() -> nn.Module:
    from transformers import MobileNetV2Config, MobileNetV2ForSemanticSegmentation

    config = MobileNetV2Config(depth_multiplier=0.1, min_depth=4, depth_divisible_by=4, num_labels=CLASSES)
    return MobileNetV2ForSemanticSegmentation(config).eval()


def mobilevit() -> nn.Module:
    from transformers import MobileViTConfig, MobileViTForSemanticSegmentation

    config = MobileViTConfig(
        image_size=32,
        hidden_sizes=[8, 8, 8],
        neck_hidden_sizes=[4, 4, 8, 8, 8, 8, 8],
        num_attention_heads=2,
        mlp_ratio=1.0,
        expand_ratio=1.0,
        aspp_out_channels=8,
        atrous_rates=[1, 2, 3],
        num_labels=CLASSES,
    )
    return MobileViTForSemanticSegmentation(config).eval()


def mobilevitv2() -> nn.Module:
    from transformers import MobileViTV2Config, MobileViTV2ForSemanticSegmentation

    config = MobileViTV2Config(
        width_multiplier=0.1,
        n_attn_blocks=[1, 1, 1],
        base_attn_unit_dims=[64, 64, 64],
        expand_ratio=1.0,
        aspp_out_channels=8,
        atrous_rates=[1, 2, 3],
        num_labels=CLASSES,
    )
    return MobileViTV2ForSemanticSegmentation(config).eval()


def sapiens2() -> nn.Module:
    from transformers import Sapiens2Config, Sapiens2ForSemanticSegmentation

    config = Sapiens2Config(
        patch_size=8,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        num_register_tokens=1,
        num_key_value_attention_heads=1,
        num_first_full_attention_layers=1,
        num_last_full_attention_layers=1,
        head_config={"upsample_out_channels": [8], "conv_out_channels": [8]},
        num_labels=CLASSES,
    )
    return Sapiens2ForSemanticSegmentation(config).eval()


def tipsv2() -> nn.Module:
    from transformers import AutoConfig, Tipsv2DptConfig
    from transformers.models.tipsv2_dpt.modeling_tipsv2_dpt import Tipsv2DptForSemanticSegmentation

    backbone = AutoConfig.for_model(
        "tipsv2_vision_model",
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        out_indices=[1, 2, 3, 4],
        apply_layernorm=True,
        reshape_hidden_states=False,
    )
    config = Tipsv2DptConfig(
        backbone_config=backbone, neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8, num_labels=CLASSES
    )
    return Tipsv2DptForSemanticSegmentation(config).eval()


def upernet() -> nn.Module:
    from transformers import ConvNextConfig, UperNetConfig, UperNetForSemanticSegmentation

    backbone = ConvNextConfig(
        hidden_sizes=[4, 8, 8, 8], depths=[1, 1, 1, 1], out_features=["stage1", "stage2", "stage3", "stage4"]
    )
    config = UperNetConfig(
        backbone_config=backbone, hidden_size=8, pool_scales=[1, 2], auxiliary_channels=4, num_labels=CLASSES
    )
    config.auxiliary_in_channels = 8
    return UperNetForSemanticSegmentation(config).eval()


SEMANTIC: dict[str, Callable[[], nn.Module]] = {
    "beit": beit,
    "data2vec-vision": data2vec,
    "dpt": dpt,
    "mobilenet_v2": mobilenet_v2,
    "mobilevit": mobilevit,
    "mobilevitv2": mobilevitv2,
    "sapiens2": sapiens2,
    "segformer": segformer,
    "tipsv2_dpt": tipsv2,
    "upernet": upernet,
}
"""By the type that a configuration names."""

SIZES = {"beit": 32, "data2vec-vision": 32, "dpt": 32}
"""Side of the image, where not any will do."""
