"""Loading networks from every home, and running them."""

from __future__ import annotations

import json
import os
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tiny_transformers import beit, dpt, segformer, upernet
from torch import Tensor, nn

import gradunc_viz.networks.network
from gradunc_viz.networks.load import load_model
from gradunc_viz.networks.network import IMAGENET, Network, capture
from gradunc_viz.networks.preprocessing import Preprocessing
from gradunc_viz.networks.runner import Inference
from gradunc_viz.networks.weights import load_weights
from gradunc_viz.run.compute import score_image
from gradunc_viz.schema.errors import HeadError, ModelError

CLASSES = 4


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU())
        self.head = nn.Conv2d(6, CLASSES, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": F.interpolate(self.head(self.body(x)), size=x.shape[-2:], mode="bilinear")}


@pytest.fixture
def small() -> Small:
    torch.manual_seed(0)
    return Small()


@pytest.fixture
def x() -> Tensor:
    return torch.rand(1, 3, 16, 24)


# --------------------------------------------------------------------------------------------------
# Network


def test_a_module_is_wrapped_and_left_alone(small: Small, x: Tensor) -> None:
    small.train()
    small.head.eval()
    before = {name: value.clone() for name, value in small.state_dict().items()}
    net = load_model(small)
    logits = net(x)
    found = net.infer(x)
    assert logits.shape == (1, CLASSES, 16, 24)
    assert not logits.requires_grad
    assert found.name == "head"
    assert found.logits.shape == (1, CLASSES, 8, 12)
    assert found.features.shape == (1, 6, 8, 12)
    assert small.training
    assert small.body.training
    assert not small.head.training
    assert all(parameter.requires_grad for parameter in small.parameters())
    assert all(torch.equal(before[name], value) for name, value in small.state_dict().items())
    assert (net.name, net.classes, net.colors, net.normalize, net.drop_channels) == (
        "Small",
        None,
        None,
        None,
        (),
    )


def test_the_mode_comes_back_after_an_error(small: Small) -> None:
    small.train()
    with pytest.raises(RuntimeError):
        Network(small).infer(torch.rand(1, 5, 8, 8))
    assert small.training
    assert not small.head._forward_hooks


def test_capture_of_a_network_names_layers_as_the_network_does(small: Small, x: Tensor) -> None:
    net = Network(small)
    for head in (None, "head", small.head):
        with capture(net, head=head) as found:
            net(x)
        assert found.name == "head"


def test_the_search_runs_once_per_shape(small: Small, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    searches = []

    def counted(*args: object, **options: object) -> object:
        searches.append(args)
        return capture(*args, **options)

    monkeypatch.setattr(gradunc_viz.networks.network, "capture", counted)
    net = Network(small)
    first, second = net.infer(x), net.infer(x)
    assert len(searches) == 1
    assert torch.equal(first.logits, second.logits)
    assert torch.equal(first.features, second.features)
    assert net.infer(x[..., :16]).logits.shape[-1] == 8
    assert len(searches) == 2


def test_a_named_head_is_used(x: Tensor) -> None:
    class Fused(Small):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Conv2d(6, CLASSES, 1)

        def forward(self, x: Tensor) -> Tensor:
            z = self.body(x)
            return self.head(z) + self.other(z)

    fused = Fused()
    assert load_model(fused).infer(x).name == "head + other"
    assert load_model(fused, head="other").infer(x).layer is fused.other
    assert load_model(fused, head=fused.head).infer(x).layer is fused.head
    assert set(dict(load_model(fused, head=fused.head).named_modules())) == {
        "",
        *(f"net.{name}" if name else "net" for name, _ in fused.named_modules()),
    }
    with pytest.raises(HeadError, match="'nope' is no layer"):
        load_model(fused, head="nope")


def test_a_network_keeps_its_settings(small: Small) -> None:
    net = load_model(small, drop_channels=[1], classes="abcd", head="head", normalize="imagenet")
    again = load_model(net, normalize="none", drop_channels=[2])
    assert again.net is small
    assert (again.classes, again.head, again.name) == (("a", "b", "c", "d"), "head", "Small")
    assert (again.normalize, again.drop_channels) == (None, (2,))
    assert load_model(net).drop_channels == (1,)


def test_class_channels(small: Small) -> None:
    assert Network(small).class_channels(20) is None
    net = Network(small, drop_channels=[19, 19])
    assert net.class_channels(20).tolist() == list(range(19))
    assert Network(small, drop_channels=[1]).class_channels(4).tolist() == [0, 2, 3]
    for channel, count in ((19, 19), (-1, 4)):
        with pytest.raises(ModelError, match=f"cannot drop channel {channel}: Small has {count} channels"):
            Network(small, drop_channels=[channel]).class_channels(count)
    with pytest.raises(ModelError, match="leaves 1: expected at least two"):
        Network(small, drop_channels=[0, 2]).class_channels(3)


def test_class_names(small: Small) -> None:
    assert Network(small, drop_channels=[0]).class_names(3) == ("class 1", "class 2")
    assert Network(small, classes="abc", drop_channels=[1]).class_names(3) == ("a", "c")
    assert Network(small, classes="ac", drop_channels=[1]).class_names(3) == ("a", "c")
    with pytest.raises(ModelError, match="2 class names for Small: expected 4"):
        Network(small, classes="ab").class_names(4)


def test_normalize(small: Small, x: Tensor) -> None:
    assert Network(small, normalize="none").normalize is None
    assert torch.equal(Network(small).prepare(x), x)
    assert Network(small, normalize="imagenet").normalize == IMAGENET
    net = Network(small, normalize=([0.5] * 3, [0.25] * 3))
    torch.testing.assert_close(net.prepare(x), (x - 0.5) * 4)
    for wrong in ("cityscapes", (1, 2), ([0.5], [0]), ([0.5, 0.5], [1.0])):
        with pytest.raises(ModelError, match="expected 'none', 'imagenet' or"):
            Network(small, normalize=wrong)


def test_weights_digest(small: Small) -> None:
    digest = Network(small).weights_digest()
    assert digest == Network(small).weights_digest()
    assert len(digest) == 40
    assert Network(small.bfloat16()).weights_digest() != digest
    torch.manual_seed(0)
    again = Small()
    assert Network(again).weights_digest() == digest
    again.head.weight.data[0, 0] += 1
    assert Network(again).weights_digest() != digest
    other = nn.Sequential(nn.ReLU())
    assert Network(other).weights_digest() != Network(nn.Sequential(nn.Sigmoid())).weights_digest()


# --------------------------------------------------------------------------------------------------
# weights


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod."])
@pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
def test_weights_load(suffix: str, prefix: str, wrap: str | None, small: Small, tmp_path: Path) -> None:
    state = {prefix + name: value for name, value in small.state_dict().items()}
    path = tmp_path / f"w.{suffix}"
    if suffix == "pth":
        torch.save({wrap: state, "epoch": 3} if wrap else state, path)
    else:
        save_file(state, path)
    other = Small()
    assert Network(other).weights_digest() != Network(small).weights_digest()
    assert load_model(other, path).weights_digest() == Network(small).weights_digest()


def test_weights_that_do_not_fit_change_nothing(small: Small, tmp_path: Path) -> None:
    state = dict(Small().state_dict())
    state["head.weight"] = torch.zeros(7, 6, 1, 1)
    state["extra"] = torch.zeros(1)
    del state["body.0.weight"], state["body.0.bias"]
    torch.save(state, tmp_path / "w.pth")
    before = Network(small).weights_digest()
    with pytest.raises(
        ModelError,
        match=r"w.pth does not fit Small: 2 missing \(body.0.weight, body.0.bias\); 1 unexpected \(extra\); "
        r"1 of another shape \(head.weight \(7, 6, 1, 1\) for \(4, 6, 1, 1\)\)",
    ):
        load_weights(small, tmp_path / "w.pth")
    assert Network(small).weights_digest() == before


class _Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
@pytest.mark.parametrize("home", ["module", "file that loads", "file that does not"])
def test_pickled_code_is_never_run(writer: str, home: str, small: Small, tmp_path: Path) -> None:
    target, path = tmp_path / "owned", tmp_path / "w.pth"
    if writer == "torch":
        torch.save({"head.weight": _Malicious(target)}, path)
    else:
        # The protocol torch.load warns of, except where it is the user's file that calls it.
        path.write_bytes(pickle.dumps(_Malicious(target), protocol=2 if home == "file that loads" else 4))
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def loads(path):\n    torch.load(path, weights_only=True)\n"
        "def plain():\n    return nn.Conv2d(3, 4, 1)\n"
    )
    spec = {"module": small, "file that loads": f"{tmp_path}/net.py:loads"}.get(home, f"{tmp_path}/net.py:plain")
    with pytest.raises(ModelError, match=r"w\.pth holds more than tensors.*safetensors") as caught:
        load_model(spec, path)
    assert "\n" not in str(caught.value)
    assert not target.exists()


def test_unreadable_weights(small: Small, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no\.pth does not exist"):
        load_model(small, tmp_path / "no.pth")
    with pytest.raises(ModelError, match="is no file"):
        load_model(small, tmp_path)
    (tmp_path / "w.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="cannot be read as weights"):
        load_model(small, tmp_path / "w.safetensors")
    (tmp_path / "empty.pth").touch()
    with pytest.raises(ModelError, match=r"empty\.pth"):
        load_model(small, tmp_path / "empty.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ModelError, match="holds no state dict"):
        load_model(small, tmp_path / "list.pth")


# --------------------------------------------------------------------------------------------------
# FILE.py:FUNCTION

USER_FILE = """
import dataclasses
import neighbour
import torch
from torch import nn

@dataclasses.dataclass
class Config:
    classes: int = 4

def build():
    return nn.Conv2d(3, Config().classes, neighbour.KERNEL)

def build_with(path=None):
    net = build()
    net.path = path
    return net

def needs(path, more):
    return build()

def broken():
    raise ValueError("first line\\nsecond line")

def leaves():
    raise SystemExit(3)

def number():
    return 3

_hidden = build
"""


@pytest.fixture
def user_file(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text("KERNEL = 1\n")
    path = tmp_path / "user_net.py"
    path.write_text(USER_FILE)
    yield path
    sys.modules.pop("neighbour", None)


def test_a_function_of_a_file(user_file: Path, tmp_path: Path) -> None:
    paths = list(sys.path)
    net = load_model(f"{user_file}:build")
    assert net.name == f"{user_file}:build"
    assert isinstance(net.net, nn.Conv2d)
    torch.save(net.net.state_dict(), tmp_path / "w.pth")
    again = load_model(f"{user_file}:build", tmp_path / "w.pth")
    assert again.weights_digest() == net.weights_digest()
    assert load_model(f"{user_file}:build_with", tmp_path / "w.pth").net.path == str(tmp_path / "w.pth")
    assert load_model(f"{user_file}:build_with").net.path is None
    assert net.infer(torch.rand(1, 3, 4, 4)).name == ""
    assert sys.path == paths


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (
            "nope",
            "no function 'nope' in the file; it has Config, build, build_with, needs, broken, leaves, number",
        ),
        ("needs", r"needs\(path, more\) cannot be called, no weights were given"),
        ("broken", r"user_net.py:broken failed: ValueError: first line$"),
        ("leaves", "user_net.py:leaves failed: SystemExit: 3"),
        ("number", r"returned int: expected a torch.nn.Module"),
    ],
)
def test_a_function_that_gives_no_network(function: str, text: str, user_file: Path) -> None:
    with pytest.raises(ModelError, match=text):
        load_model(f"{user_file}:{function}")


def test_a_file_that_cannot_be_run(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model file .*gone\.py does not exist"):
        load_model(f"{tmp_path}/gone.py:build")
    (tmp_path / "bad.py").write_text("import no_such_module_at_all\n")
    before = set(sys.modules)
    with pytest.raises(ModelError, match=r"bad\.py:build failed: ModuleNotFoundError") as caught:
        load_model(f"{tmp_path}/bad.py:build")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)
    assert not [name for name in set(sys.modules) - before if name.startswith("gradunc_user")]
    with pytest.raises(ModelError, match=r"unknown model 'resnet': expected demo, demo-queries, hf:DIR_OR_ID"):
        load_model("resnet")


# --------------------------------------------------------------------------------------------------
# transformers


@pytest.mark.parametrize(
    ("make", "name", "size"),
    [
        (segformer, "decode_head.classifier", 64),
        (beit, "decode_head.classifier", 32),
        (dpt, "head.head.4", 32),
        (upernet, "decode_head.classifier", 64),
    ],
)
def test_heads_of_transformers(make: object, name: str, size: int) -> None:
    pytest.importorskip("transformers")
    net = Network(make())
    found = net.infer(torch.rand(1, 3, size, size))
    assert found.name == name
    torch.testing.assert_close(found.layer(found.features.clone()), found.logits)


def test_a_transformers_folder(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    names = {0: "road", 1: "sky", 2: "car"}
    model = segformer(id2label=names, label2id={v: k for k, v in names.items()})
    model.save_pretrained(tmp_path)
    net = load_model(f"hf:{tmp_path}", drop_channels=[1])
    assert net.classes == ("road", "sky", "car")
    assert net.class_names(3) == ("road", "car")
    assert net.normalize == IMAGENET
    assert net.weights_digest() == Network(model).weights_digest()
    found = net.infer(torch.rand(1, 3, 64, 64))
    assert found.name == "decode_head.classifier"
    assert found.logits.shape == (1, 3, 16, 16)
    assert found.features.shape == (1, 12, 16, 16)

    settings = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}
    cases = [
        ({}, settings["image_mean"], settings["image_std"]),
        ({"do_rescale": False}, [0.5 / 255] * 3, [0.25 / 255] * 3),
        ({"do_normalize": False, "rescale_factor": 2 / 255}, [0.0] * 3, [0.5] * 3),
    ]
    for more, mean, std in cases:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings | more))
        found = load_model(f"hf:{tmp_path}").normalize
        torch.testing.assert_close(torch.tensor(found), torch.tensor([mean, std]))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings | {"do_normalize": False}))
    assert load_model(f"hf:{tmp_path}").normalize is None
    assert load_model(f"hf:{tmp_path}", normalize="imagenet").normalize == IMAGENET

    # The weights may come from elsewhere, and then need not be in the folder.
    (tmp_path / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    again = load_model(f"hf:{tmp_path}", tmp_path / "elsewhere.safetensors")
    assert again.weights_digest() == net.weights_digest()
    with pytest.raises(ModelError, match=r"cannot be loaded: .*safetensors") as caught:
        load_model(f"hf:{tmp_path}")
    assert "\n" not in str(caught.value)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    assert load_model(f"hf:{tmp_path}", tmp_path / "w.pth").weights_digest() == net.weights_digest()
    torch.save({"other": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"weights are missing .*w\.pth"):
        load_model(f"hf:{tmp_path}", tmp_path / "w.pth")


def test_what_the_processor_of_a_transformers_folder_says(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = segformer().half()
    model.save_pretrained(tmp_path)
    processor = transformers.SegformerImageProcessor(
        image_mean=0.5, image_std=0.25, size={"height": 32, "width": 64}, do_reduce_labels=True
    )
    processor.save_pretrained(tmp_path)
    net = load_model(f"hf:{tmp_path}", channels="bgr")
    assert net.preprocessing == Preprocessing(((0.5,) * 3, (0.25,) * 3), "bgr", (32, 64), reduce_labels=True)
    x = Inference(net, torch.device("cpu")).prepare(np.zeros((20, 30, 3), np.uint8), "it")
    assert (x.shape, x.dtype) == ((1, 3, 32, 64), torch.float16)
    assert net.infer(x).logits.dtype == torch.float16

    # weights from a framework around it
    torch.save(
        {"state_dict": {f"model.{name}": value for name, value in model.state_dict().items()}}, tmp_path / "w.ckpt"
    )
    again = load_model(f"hf:{tmp_path}", tmp_path / "w.ckpt")
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.net.half().state_dict().items())

    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": None, "image_std": None}))
    with pytest.raises(ModelError, match=r"image processor fails .*must both be specified.* or give mean and std"):
        load_model(f"hf:{tmp_path}")
    assert load_model(f"hf:{tmp_path}", normalize="imagenet").normalize == IMAGENET


def test_transformers_folders_that_hold_no_segmentation_model(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(ModelError, match=r"model folder .*gone does not exist"):
        load_model(f"hf:{tmp_path}/gone")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(f"hf:{tmp_path}")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError, match=r"BertConfig is no semantic-segmentation model .*nor one of queries"):
        load_model(f"hf:{tmp_path}")
    model = segformer()
    model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    for content in (b"", whole[:100], whole[:-1000]):
        weights.write_bytes(content)
        with pytest.raises(ModelError, match=r"model\.safetensors: cannot be read .*; expected whole weights"):
            load_model(f"hf:{tmp_path}")
    weights.unlink()
    with pytest.raises(ModelError, match=r"holds config\.json, but no weights; expected model\.safetensors"):
        load_model(f"hf:{tmp_path}")
    model.segformer.save_pretrained(tmp_path)  # the backbone alone
    with pytest.raises(ModelError, match=r"weights are missing .*decode_head.*not a backbone"):
        load_model(f"hf:{tmp_path}")


def test_a_folder_that_is_not_there_beside_an_unreachable_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hf").mkdir()
    for source in ("hf/nope", "nobody/nope", "nope"):
        expected = f"hf:{source} cannot be loaded: no such folder, and the hub cannot be reached"
        with pytest.raises(ModelError, match=expected) as raised:
            load_model(f"hf:{source}")
        assert "\n" not in str(raised.value)


# --------------------------------------------------------------------------------------------------
# torchvision, demo, real data


def test_torchvision_that_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ModelError, match=r"needs torchvision: pip install 'gradunc-viz\[torchvision\]'"):
        load_model("torchvision:fcn_resnet50")


def test_torchvision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A stand-in with the three names that are used of it: the number of classes follows from the weights."""
    asked: dict[str, object] = {}

    def get_model(name: str, **options: object) -> nn.Module:
        asked.update(options, name=name)
        return nn.Sequential(
            __import__("collections").OrderedDict(
                backbone=nn.Conv2d(3, 8, 3), classifier=nn.Conv2d(8, options.get("num_classes", 21), 1)
            )
        )

    models = types.SimpleNamespace(
        segmentation=object(), list_models=lambda module: ["fcn_resnet50"], get_model=get_model
    )
    monkeypatch.setitem(sys.modules, "torchvision", types.SimpleNamespace(models=models))
    net = get_model("", num_classes=7)
    torch.save(net.state_dict(), tmp_path / "w.pth")
    loaded = load_model("torchvision:fcn_resnet50", tmp_path / "w.pth")
    assert loaded.weights_digest() == Network(net).weights_digest()
    assert loaded.normalize == IMAGENET
    assert asked["weights"] is None
    assert asked["weights_backbone"] is None
    assert asked["aux_loss"] is False
    with pytest.raises(ModelError, match="no segmentation model 'resnet': expected one of fcn_resnet50"):
        load_model("torchvision:resnet")


def test_demo() -> None:
    network = pytest.importorskip("gradunc_viz.demo.network", reason="the demo network is not there yet")
    assert network
    net = load_model("demo")
    assert len(net.classes) == len(net.colors)
    found = net.infer(torch.rand(1, 3, 64, 128))
    assert len(net.class_names(found.logits.shape[1])) == found.logits.shape[1]


REAL = os.environ.get("GRADUNC_REAL_DATA")


@pytest.mark.real
@pytest.mark.skipif(REAL is None, reason="GRADUNC_REAL_DATA is unset: no ENet")
def test_enet() -> None:
    net = load_model(f"{REAL}/enet.py:load_enet", f"{REAL}/enet_cityscapes.pth", drop_channels=[19])
    found = net.infer(torch.rand(1, 3, 512, 1024))
    assert found.name == "transposed_conv"
    assert found.features.shape == (1, 16, 256, 512)
    assert found.logits.shape == (1, 20, 512, 1024)
    assert torch.equal(net(torch.zeros(1, 3, 64, 64)), net.infer(torch.zeros(1, 3, 64, 64)).logits)
    assert net.class_channels(20).tolist() == list(range(19))


@pytest.mark.real
@pytest.mark.skipif(REAL is None, reason="GRADUNC_REAL_DATA is unset: no ESPNet")
def test_espnet_that_overwrites_modules() -> None:
    net = load_model(f"{REAL}/espnet/espnet.py:load_espnet", f"{REAL}/espnet/espnet_cityscapes.pth", drop_channels=[19])
    assert isinstance(net.net.modules, list)
    net.net.train()
    assert net.infer(torch.rand(1, 3, 64, 128)).name == "classifier"
    assert net.net.training
    assert score_image(net, np.zeros((64, 128, 3), np.uint8), scores="msp").sizes == {"y": 64, "x": 128}
