"""A source of networks from outside the package: some ten lines, and models have names of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file
from tiny import TinyNet

import gradunc_viz as gv
from gradunc_viz.cli.main import main
from gradunc_viz.networks.loaders import LOADERS, Loader, find_loader, register_loader, sources
from gradunc_viz.schema.errors import ModelError

# --- what a user writes


def load(seed: str) -> gv.Network:
    return gv.Network(TinyNet(int(seed)).eval(), classes=["a", "b", "c", "d"], normalize="imagenet")


TINY = Loader("tiny", load, "SEED", "networks as small as they can be")

# ---


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LOADERS, "_items", dict(LOADERS._items))


def test_a_loader_of_ones_own(tiny_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    register_loader(TINY)
    net = gv.load_model("tiny:3")
    assert (net.name, net.classes) == ("tiny:3", ("a", "b", "c", "d"))
    assert net.normalize == gv.Network(TinyNet(), normalize="imagenet").normalize
    assert net.weights_digest() == gv.Network(TinyNet(3).eval()).weights_digest()
    given = gv.load_model("tiny:3", classes=list("wxyz"), normalize="none", drop_channels=[1], head="classifier")
    assert (given.classes, given.normalize) == (tuple("wxyz"), None)
    assert (given.drop_channels, given.head) == ((1,), "classifier")

    command = ["compute", "--model", "tiny:3", "--data", tiny_set, "--out", tmp_path / "cache", "--scores", "msp"]
    assert main(list(map(str, [*command, "--limit", 1, "--quiet"]))) == 0
    assert gv.open_cache(tmp_path / "cache").key["network"]["name"] == "tiny:3"
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["stream", "--help"])
    assert "tiny:SEED or FILE.py:FUNCTION" in " ".join(capsys.readouterr().out.split())


def test_weights_reach_a_loader_that_takes_them_and_the_network_of_one_that_does_not(tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    save_file(TinyNet(7).state_dict(), weights)
    seen: list[object] = []

    def takes_them(seed: str, weights: str | None = None) -> TinyNet:
        seen.append(weights)
        return TinyNet(int(seed))

    register_loader(TINY)
    register_loader(Loader("taking", takes_them, "SEED"))
    seventh = gv.Network(TinyNet(7).eval()).weights_digest()
    assert gv.load_model("tiny:3", weights).weights_digest() == seventh
    assert gv.load_model("taking:3", weights).weights_digest() != seventh
    assert seen == [str(weights)]
    demo = gv.load_model("demo")
    save_file(demo.net.state_dict(), weights)
    assert gv.load_model("demo", weights).weights_digest() == demo.weights_digest()
    with pytest.raises(ModelError, match=r"w\.safetensors does not fit TinyNet"):
        gv.load_model("tiny:3", weights)


@pytest.mark.parametrize(
    ("load", "text"),
    [
        (lambda name: int("x"), "odd:one failed: ValueError: invalid literal"),
        (lambda name: name, "odd:one returned str: expected a torch.nn.Module"),
        (lambda: None, r"odd:one: <lambda>\(\) cannot be called"),
        ("gradunc_viz.nowhere:load", "odd:one failed: ModuleNotFoundError"),
    ],
)
def test_whatever_goes_wrong_is_one_line_that_names_the_model(load: object, text: str) -> None:
    register_loader(Loader("odd", load, "NAME"))  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=f"^{text}") as error:
        gv.load_model("odd:one")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("spec", ["", "resnet", "hf", "hf:", "demo:", "demo:x", "tini:3", ".py", "net.py", ":demo"])
def test_names_that_are_no_model(spec: str) -> None:
    with pytest.raises(ModelError, match=f"^unknown model {spec!r}: expected .*{spec.partition(':')[0][:1]}"):
        gv.load_model(spec)


def test_every_source_says_what_it_loads() -> None:
    assert sources() == (
        "demo, demo-queries, hf:DIR_OR_ID, torchvision:NAME, smp:ARCH/ENCODER_OR_DIR, timm:BACKBONE, onnx:FILE.onnx, "
        "torchscript:FILE, export:FILE or FILE.py:FUNCTION"
    )
    assert all(loader.help and callable(loader.function) for loader in LOADERS.values())
    assert all(loader.form in str(gv.load_model.__doc__) for loader in LOADERS.values())
    assert find_loader("some/net.py:make") == (LOADERS[".py"], "some/net.py:make")
    with pytest.raises(ModelError, match="loader 'hf' is registered already"):
        register_loader(Loader("hf", load))


def test_listing_sources_loads_no_torch() -> None:
    code = "import sys, gradunc_viz.networks.loaders as l; l.sources(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("spec", [3, None, b"demo", ("demo",)])
def test_what_is_no_model_is_named(spec):
    expected = f"model {spec!r} is of type {type(spec).__name__}: expected a torch.nn.Module"
    with pytest.raises(ModelError, match=re.escape(expected)):
        gv.load_model(spec)


def test_an_installed_package_brings_its_own(tmp_path: Path) -> None:
    """As pip would leave it: a module, and metadata that names an entry point."""
    (tmp_path / "lab_networks.py").write_text(
        "from torch import nn\n"
        "from gradunc_viz.networks.loaders import Loader\n"
        "LAB = Loader('lab', lambda name: nn.Sequential(nn.Conv2d(3, 4, 1)), 'NAME', 'networks of the lab')\n"
    )
    info = tmp_path / "lab_networks-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lab-networks\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[gradunc_viz.loaders]\nlab = lab_networks:LAB\n")
    code = (
        "import gradunc_viz as gv; from gradunc_viz.networks.loaders import sources\n"
        "assert 'lab:NAME' in sources()\n"
        "assert gv.load_model('lab:first').name == 'lab:first'"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
