"""Images enter a model of transformers as its own image processor prepares them."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from gradunc_viz.networks.network import IMAGENET, Network
from gradunc_viz.networks.preprocessing import Preprocessing
from gradunc_viz.networks.processor import processor_preprocessing
from gradunc_viz.networks.runner import Inference

transformers = pytest.importorskip("transformers")
OPTIONS = {"local_files_only": True, "trust_remote_code": False}


def asked(folder: Path, kind: str, config: object = None, channels: int = 3, **settings: object) -> Preprocessing:
    content = {"image_processor_type": kind, **settings}
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    return processor_preprocessing(str(folder), config or SimpleNamespace(), channels, OPTIONS)


SEGFORMER = "SegformerImageProcessor"


@pytest.mark.parametrize(
    ("kind", "settings", "expected"),
    [
        (SEGFORMER, {"do_resize": False}, Preprocessing(IMAGENET)),
        (SEGFORMER, {"do_resize": False, "do_normalize": False}, Preprocessing()),
        (SEGFORMER, {"do_resize": False, "do_normalize": None}, Preprocessing()),
        (SEGFORMER, {"size": 64, "do_reduce_labels": True}, Preprocessing(IMAGENET, size=(64, 64), reduce_labels=True)),
        (SEGFORMER, {"size": {"height": 64, "width": 96}, "resample": 3}, Preprocessing(IMAGENET, "rgb", (64, 96), 3)),
        (
            SEGFORMER,
            {"do_resize": False, "image_mean": 0.5, "image_std": 0.25},
            Preprocessing(((0.5,) * 3, (0.25,) * 3)),
        ),
        (SEGFORMER, {"do_resize": False, "do_rescale": False}, None),
        (SEGFORMER, {"do_resize": False, "rescale_factor": 1 / 127.5}, None),
        ("BeitImageProcessor", {}, Preprocessing(((0.5,) * 3, (0.5,) * 3), size=(224, 224), resample=3)),
        (
            "BeitFeatureExtractor",
            {"do_resize": False, "do_center_crop": False},
            Preprocessing(((0.5,) * 3, (0.5,) * 3)),
        ),
        ("MobileViTImageProcessor", {"do_resize": False, "do_center_crop": False}, Preprocessing(None, "bgr")),
        # what its class passes over
        (
            "MobileViTImageProcessor",
            {"do_resize": False, "do_center_crop": False, "do_normalize": True, "image_mean": [0.1, 0.2, 0.3]},
            Preprocessing(None, "bgr"),
        ),
        (
            "MobileViTImageProcessor",
            {"do_resize": False, "do_center_crop": False, "do_flip_channel_order": False},
            Preprocessing(),
        ),
    ],
)
def test_images_enter_as_the_processor_prepares_them(
    tmp_path: Path, kind: str, settings: dict[str, object], expected: Preprocessing | None
) -> None:
    feature_extractor = {"feature_extractor_type": kind} if kind.endswith("Extractor") else {}
    kind = kind.replace("FeatureExtractor", "ImageProcessor")
    found = asked(tmp_path, kind, **settings, **feature_extractor)
    if expected is not None:
        assert found == expected
    image = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    wanted = processor(Image.fromarray(image), return_tensors="pt")["pixel_values"].float()
    ours = Inference(Network(nn.Conv2d(3, 2, 1), preprocessing=found), torch.device("cpu")).prepare(image, "it")
    torch.testing.assert_close(ours, wanted, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "settings", "text"),
    [
        ("MobileViTImageProcessor", {}, r"size \{'shortest_edge': 224\}, crop_size .*90x154 pixels become 256x256"),
        (SEGFORMER, {"size": {"shortest_edge": 64}}, "90x154 pixels become 64x109"),
        ("DPTImageProcessor", {"do_resize": False, "do_pad": True, "size_divisor": 14}, "90x154 pixels become 98x154"),
    ],
)
def test_a_size_that_is_not_followed_is_said(tmp_path: Path, kind: str, settings: dict[str, object], text: str) -> None:
    with pytest.warns(UserWarning, match=rf"{text}\), which is not followed: .* see --input-size"):
        assert asked(tmp_path, kind, **settings).size is None


@pytest.mark.parametrize(
    ("kind", "settings", "text"),
    [
        (SEGFORMER, {"image_mean": None, "image_std": None}, "must both be specified"),
        (SEGFORMER, {"image_mean": [0.5, 0.5]}, "mean must have 3 elements"),
        (SEGFORMER, {"do_resize": True, "resample": None}, "`resample` must be specified"),
        ("NoSuchImageProcessor", {}, "cannot be loaded"),
    ],
)
def test_a_processor_that_cannot_be_followed_says_why(
    tmp_path: Path, kind: str, settings: dict[str, object], text: str
) -> None:
    found = asked(tmp_path, kind, **{"do_resize": False, **settings})
    assert text in found.unknown
    assert "mend its preprocessor_config.json, or give mean and std" in found.unknown


def test_a_file_that_is_no_json_is_not_taken_for_none(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text("{")
    assert "cannot be loaded" in processor_preprocessing(str(tmp_path), SimpleNamespace(), 3, OPTIONS).unknown


def test_code_of_a_model_s_own_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')\n")
    found = asked(tmp_path, "Mine", auto_map={"AutoImageProcessor": "mine.Mine"})
    assert "cannot be loaded" in found.unknown
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (transformers.SegformerConfig(), Preprocessing(IMAGENET)),
        (transformers.BeitConfig(), Preprocessing(((0.5,) * 3, (0.5,) * 3))),
        (transformers.MobileViTConfig(), Preprocessing(None, "bgr")),
        (SimpleNamespace(), Preprocessing(IMAGENET)),
    ],
)
def test_without_a_file_colours_are_those_of_the_architecture(
    tmp_path: Path, config: object, expected: Preprocessing
) -> None:
    assert processor_preprocessing(str(tmp_path), config, 3, OPTIONS) == expected


def test_without_a_file_nothing_is_known_of_other_channels(tmp_path: Path) -> None:
    assert processor_preprocessing(str(tmp_path), transformers.SegformerConfig(), 5, OPTIONS) == Preprocessing()


@pytest.mark.parametrize("resize", [False, True])
def test_more_than_three_channels(tmp_path: Path, resize: bool) -> None:
    numbers = {"image_mean": [0.1, 0.2, 0.3, 0.4], "image_std": [0.5, 0.6, 0.7, 0.8]}
    size = {"height": 32, "width": 48}
    # Pillow, which resizes for the processor, takes the fourth channel for opacity
    said = pytest.warns(UserWarning, match="not followed") if resize else nullcontext()
    with said:
        found = asked(tmp_path, SEGFORMER, channels=4, do_resize=resize, size=size, **numbers)
    assert found == Preprocessing(tuple(map(tuple, numbers.values())))
