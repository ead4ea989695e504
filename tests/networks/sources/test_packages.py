"""Networks of segmentation_models_pytorch and of timm, for real where they import; and where they do not."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import gradunc_viz as gv
from gradunc_viz.networks.network import IMAGENET
from gradunc_viz.networks.sources.timm import LinearProbe
from gradunc_viz.schema.errors import ModelError

ABSENT = (ImportError, RuntimeError)
"""What importing them raises beside a build of PyTorch that torchvision does not fit."""


@pytest.fixture
def smp() -> ModuleType:
    return pytest.importorskip("segmentation_models_pytorch", exc_type=ABSENT)  # type: ignore[arg-type]


@pytest.fixture
def timm() -> ModuleType:
    return pytest.importorskip("timm", exc_type=ABSENT)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("module", "spec", "extra"),
    [
        ("segmentation_models_pytorch", "smp:Unet/resnet34", "smp"),
        ("timm", "timm:resnet18", "timm"),
        ("torchvision", "torchvision:fcn_resnet50", "torchvision"),
    ],
)
def test_what_is_absent_is_told_with_what_to_install(
    module: str, spec: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModelError, match=rf"^{spec} needs {module}: pip install 'gradunc-viz\[{extra}\]' \("):
        gv.load_model(spec)


def test_a_linear_probe_takes_maps_of_either_layout() -> None:
    class Backbone(torch.nn.Module):
        output_fmt = "Format.NHWC"

        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [x.permute(0, 2, 3, 1)]

    net = LinearProbe(Backbone(), 3, 5).eval()
    found = gv.load_model(net).infer(torch.rand(1, 3, 8, 12))
    assert (found.name, tuple(found.logits.shape)) == ("head", (1, 5, 8, 12))


def test_smp_architectures(smp: ModuleType, tmp_path: Path) -> None:
    net = smp.FPN("resnet18", encoder_weights=None, classes=4).eval()
    torch.save(net.state_dict(), tmp_path / "w.pth")
    network = gv.load_model("smp:FPN/resnet18", tmp_path / "w.pth")
    assert network.weights_digest() == gv.load_model(net).weights_digest()
    assert network.normalize == IMAGENET
    assert gv.load_model("smp:Unet/resnet18?in_channels=4&classes=2").in_channels == 4
    net.save_pretrained(tmp_path / "saved")
    assert gv.load_model(f"smp:{tmp_path / 'saved'}").weights_digest() == network.weights_digest()
    assert gv.load_model("smp:Unet/inceptionv4").normalize == ((0.5,) * 3, (0.5,) * 3)
    assert gv.load_model("smp:Unet/tu-test_resnet").normalize == ((0.5,) * 3, (0.5,) * 3)


@pytest.mark.filterwarnings("ignore:.timm-. encoders are deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("smp:Unet", "expected an encoder after the architecture"),
        ("smp:Unet/resnet9", "no encoder 'resnet9': expected one of its .* such as resnet"),
        ("smp:Unet/resnet18?x=3", "no option 'x': expected encoder_name"),
        ("smp:Unet/timm-tf_efficientnet_lite0", "nobody knows how images are prepared for the encoder"),
        ("smp:/gone/x", "neither a folder nor ARCH/ENCODER"),
        ("smp:DIR?classes=3", "options are those of an architecture"),
        ("smp:DIR", "names the architecture 'Foo': expected one of Unet"),
    ],
)
def test_what_smp_has_not(spec: str, text: str, smp: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"_model_class": "Foo"}))
    with pytest.raises(ModelError, match=text) as error:
        gv.load_model(spec.replace("DIR", str(tmp_path)))
    assert "\n" not in str(error.value)


def test_backbones_of_timm(timm: ModuleType, tmp_path: Path) -> None:
    backbone = timm.create_model("test_vit", features_only=True)
    net = LinearProbe(backbone, backbone.feature_info.channels()[-1], 6)
    state = net.state_dict()
    state["head.weight"] = state["head.weight"][:, :, 0, 0]  # of a linear layer
    torch.save(state, tmp_path / "w.pth")
    network = gv.load_model("timm:test_vit", tmp_path / "w.pth")
    assert network.weights_digest() == gv.load_model(net.eval()).weights_digest()
    assert network.infer(torch.rand(1, 3, 96, 64)).logits.shape == (1, 6, 6, 4)
    torch.save(backbone.state_dict(), tmp_path / "backbone.pth")
    for spec, weights, text in (
        ("timm:test_vit", None, "is a backbone, which has no classes: expected the weights of a linear head"),
        ("timm:resnet19x", None, "timm has no model 'resnet19x'"),
        ("timm:test_vit", tmp_path / "backbone.pth", "holds no head.weight"),
    ):
        with pytest.raises(ModelError, match=text):
            gv.load_model(spec, weights)
