"""Query models of transformers by the command line, from folders; and predictions as the library makes them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from query_zoo import KINDS, telling
from tiny import write_set

import gradunc_viz as gv
from gradunc_viz.cli.main import main
from gradunc_viz.networks.processor import processor_preprocessing
from gradunc_viz.networks.universal import SemanticTask, told_its_task
from gradunc_viz.schema.errors import ModelError
from gradunc_viz.scores.resizing import resize_logits

transformers = pytest.importorskip("transformers")

PROCESSORS = {
    "maskformer": "MaskFormerImageProcessorPil",
    "mask2former": "Mask2FormerImageProcessorPil",
    "oneformer": "OneFormerImageProcessorPil",
    "eomt": "EomtImageProcessorPil",
}
WIDE = {"height": 32, "width": 64}
SQUARE = {"height": 32, "width": 32}


def processor(kind: str, **options: object) -> object:
    return getattr(transformers, PROCESSORS[kind])(**{"size": SQUARE if kind == "eomt" else WIDE} | options)


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of each kind as its library saves it, in a folder of its name."""
    path = tmp_path_factory.mktemp("models") / request.param
    net = telling(request.param)
    (net.net if request.param == "oneformer" else net).save_pretrained(path)
    processor(request.param).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("frames") / "set", 2, ((40, 56), (41, 57)))


def test_a_folder_is_computed_and_evaluated(
    folder: Path, frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cache"
    assert main(["compute", "--model", f"hf:{folder}", "--data", str(frames), "--out", str(out)]) == 0
    assert "class scores S of queries stand for logits" in capsys.readouterr().out
    assert main(["evaluate", str(out)]) == 0
    assert "pgn_oh_p2" in capsys.readouterr().out
    cache = gv.open_cache(out)
    assert cache.classes == ("thing 0", "thing 1", "thing 2", "thing 3")
    assert cache.scores == gv.DEFAULT_SCORES
    frame = cache["f01"]
    assert frame.attrs["logits_are"] == "class scores S_k of queries"
    assert "no logits" in frame["logits"].attrs["long_name"]
    assert frame.attrs["head"].split(" x ")[0].endswith(("fc3", "2.0"))
    assert " ".join(frame.attrs["head_layer"].split()).startswith("MaskProduct(6 queries x ")


def test_predictions_are_those_of_the_library(folder: Path, frames: Path) -> None:
    kind = folder.name
    network = gv.load_model(f"hf:{folder}")
    image = gv.open_frames(frames)[1].image
    x = network.prepare(torch.from_numpy(_resized(image, SQUARE if kind == "eomt" else WIDE)))
    with torch.no_grad():
        outputs = network.net(x)
    read = processor(kind)
    options = {"size": {"shortest_edge": 32, "longest_edge": 32}} if kind == "eomt" else {}
    expected = read.post_process_semantic_segmentation(
        outputs, target_sizes=[image.shape[:2]], return_segmentation_scores=True, **options
    )[0]
    scores = resize_logits(network.infer(x).logits, image.shape[:2])[0]
    torch.testing.assert_close(scores, expected.segmentation_scores, rtol=1e-5, atol=1e-6)
    found = gv.score_image(network, image, scores="max_mask")
    np.testing.assert_array_equal(found["prediction"], expected.segmentation)
    torch.testing.assert_close(torch.from_numpy(found["max_mask"].values), 1 - scores.amax(0), rtol=1e-5, atol=1e-6)
    assert found["max_mask"].std() > 0.01


def _resized(image: np.ndarray, size: dict[str, int]) -> np.ndarray:
    from PIL import Image

    pixels = np.asarray(Image.fromarray(image).resize((size["width"], size["height"]), Image.Resampling.BILINEAR))
    return pixels.transpose(2, 0, 1)[None] / np.float32(255)


LOCAL = {"trust_remote_code": False, "local_files_only": True}


def test_the_task_of_a_oneformer_is_told_in_tokens_of_clip(tmp_path: Path) -> None:
    net = KINDS["oneformer"]()
    net.config.save_pretrained(tmp_path)
    told = told_its_task(net, str(tmp_path), LOCAL)
    assert isinstance(told, SemanticTask)
    assert told.tokens.tolist() == [[49406, 518, 10549, 533, 29119, 1550, 49407, 0]]
    assert told.config is net.config
    assert told_its_task(told) is told
    assert told_its_task(torch.nn.Identity()) is not told
    network = gv.load_model(net)  # from no folder
    assert isinstance(network.net, SemanticTask)
    assert torch.equal(network.net.tokens, told.tokens)
    assert network.name == "OneFormerForUniversalSegmentation"


def test_a_tokenizer_of_its_own_is_used(tmp_path: Path) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(f"{letter}</w>" for letter in letters), "is</w>", "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    transformers.CLIPTokenizer(vocab=vocabulary, merges=[("i", "s</w>")]).save_pretrained(tmp_path)
    net = KINDS["oneformer"]()
    net.config.task_seq_len = 30
    net.config.save_pretrained(tmp_path)
    told = told_its_task(net, str(tmp_path), LOCAL)
    assert isinstance(told, SemanticTask)
    ends = [vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]]
    spelled = [vocabulary[part] for word in ("th|e", "tas|k", "is", "semanti|c") for part in _parts(word)]
    assert told.tokens.tolist() == [[ends[0], *spelled, ends[1], *[0] * (28 - len(spelled))]]


def _parts(word: str) -> list[str]:
    start, _, end = word.partition("|")
    return [*start, f"{end}</w>"] if end else [f"{word}</w>"]


@pytest.mark.parametrize("options", [{"text_encoder_vocab_size": 64}, {"task_seq_len": 6}])
def test_a_task_that_cannot_be_told(tmp_path: Path, options: dict[str, int]) -> None:
    net = KINDS["oneformer"]()
    for name, value in options.items():
        setattr(net.config, name, value)
    net.config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="OneFormer is told its task in words, and there is no tokenizer") as caught:
        told_its_task(net, str(tmp_path), LOCAL)
    assert "\n" not in str(caught.value)


def test_names_of_classes_on_the_hub_are_not_loaded(tmp_path: Path) -> None:
    processor("oneformer").save_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"class_info_file": "ade20k_panoptic.json"}))
    found = processor_preprocessing(str(tmp_path), transformers.OneFormerConfig(), 3, LOCAL)
    assert found.size == (32, 64)
    assert not found.unknown


@pytest.mark.parametrize(
    ("size", "split"),
    [({"shortest_edge": 32, "longest_edge": None}, True), ({"shortest_edge": 32, "longest_edge": 32}, False)],
)
def test_eomt_takes_one_size(tmp_path: Path, size: dict[str, int | None], split: bool) -> None:
    config = transformers.EomtConfig(image_size=32)
    assert processor_preprocessing(str(tmp_path), config, 3, LOCAL).size == (32, 32)
    processor("eomt", size=size, do_split_image=split, do_pad=not split).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="not followed: images are resized to 32x32, the one size"):
        assert processor_preprocessing(str(tmp_path), config, 3, LOCAL).size == (32, 32)


@pytest.mark.parametrize("kind", ["maskformer", "mask2former", "eomt"])
def test_reduced_labels_are_seen(tmp_path: Path, kind: str) -> None:
    reduced = {"ignore_index": 255} if kind == "eomt" else {"do_reduce_labels": True, "ignore_index": 255}
    for options in ({}, reduced):
        processor(kind, **options).save_pretrained(tmp_path)
        config = transformers.EomtConfig(image_size=32) if kind == "eomt" else KINDS[kind]().config
        assert processor_preprocessing(str(tmp_path), config, 3, LOCAL).reduce_labels == bool(options)


def test_weights_of_a_file_and_no_backbone(folder: Path, tmp_path: Path) -> None:
    kept = tmp_path / folder.name
    kept.mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        (kept / name).write_bytes((folder / name).read_bytes())
    first, second = gv.load_model(f"hf:{folder}"), gv.load_model(f"hf:{kept}", folder / "model.safetensors")
    assert first.weights_digest() == second.weights_digest()
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        gv.load_model(f"hf:{kept}")
