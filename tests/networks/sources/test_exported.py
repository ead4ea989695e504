"""Programs of torch.export made of layers again: the numbers of the module that they were made of, or the reason."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import zoo
from compatibility import Plain
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

import gradunc_viz as gv
from gradunc_viz.networks.runner import Inference
from gradunc_viz.schema.errors import GraduncError, ModelError

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
SCORES = ["pgn_oh_p1", "pgn_uni_p0.5", "entropy"]


def image(*size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


def plain() -> nn.Module:
    torch.manual_seed(0)
    return Plain().eval()


def exported(net: nn.Module, *size: int, dynamic: bool = False) -> ExportedProgram:
    shapes = ({2: Dim("h", min=8, max=512), 3: Dim("w", min=8, max=512)},) if dynamic else None
    return torch.export.export(net, (torch.zeros(1, 3, *size),), dynamic_shapes=shapes)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("programs")
    torch.export.save(exported(plain(), 32, 48), folder / "fixed.pt2")
    torch.export.save(exported(plain(), 32, 48, dynamic=True), folder / "any.pt2")
    return folder


def test_a_program_of_any_size(files: Path) -> None:
    net, network = plain(), gv.load_model(f"export:{files / 'any.pt2'}")
    for size in ((40, 56), (32, 48)):
        x = torch.rand(2, 3, *size)[:1]
        found, expected = network.infer(x), gv.load_model(net).infer(x)
        assert (found.name, found.plan.simple) == ("head", True)
        assert torch.equal(found.logits, expected.logits)
        assert torch.equal(gv.gradient_norms(found, p=1), gv.gradient_norms(expected, p=1))
    assert network.net.state_dict().keys() == net.state_dict().keys()
    with pytest.raises(GraduncError, match="an input of 4x4"):
        gv.score_image(network, image(4, 4))


def test_a_program_of_one_size_is_given_images_of_it(files: Path) -> None:
    network = gv.load_model(f"export:{files / 'fixed.pt2'}")
    assert network.preprocessing.size == (32, 48)
    inference = Inference(network, torch.device("cpu"))
    assert inference.largest_batch == 1
    assert gv.score_image(network, image(50, 70)).sizes == {"y": 50, "x": 70}
    with pytest.raises(GraduncError, match=r"cannot take an input of 50x70 .*see --input-size, 32x48 would do"):
        gv.score_image(network, image(50, 70), input_size="own")


def test_frames_of_a_folder_are_not_batched_for_a_program_of_one(files: Path, tiny_set: Path, tmp_path: Path) -> None:
    frames = gv.open_frames(tiny_set)
    options = {"scores": ["msp"], "batch": 3, "progress": False}
    cache = gv.compute(f"export:{files / 'fixed.pt2'}", frames, tmp_path / "cache", **options)
    assert len(cache) == len(frames)


def test_weights_of_another_training(files: Path, tmp_path: Path) -> None:
    other = Plain().eval()
    torch.save(other.state_dict(), tmp_path / "w.pth")
    x = torch.rand(1, 3, 32, 48)
    assert torch.equal(gv.load_model(f"export:{files / 'any.pt2'}", tmp_path / "w.pth")(x), gv.load_model(other)(x))


@pytest.mark.parametrize(
    ("name", "core"),
    [
        ("weight norm", False),
        ("mixing by F.linear", False),
        ("divided by its length", False),
        ("weight norm", True),
        ("channels-last linear", True),
    ],
)
def test_ends_that_a_program_writes_otherwise(name: str, core: bool) -> None:
    """Kernels that are computed of weights are layers, fixed matrices are none."""
    net = zoo.made(name)
    program = exported(net, *zoo.SIZE)
    program = program.run_decompositions() if core else program
    expected, found = (gv.score_image(one, image(*zoo.SIZE), scores=SCORES) for one in (net, program))
    for score in SCORES:
        np.testing.assert_allclose(found[score], expected[score], atol=5e-3)


def test_the_module_of_a_program_is_taken_and_left_alone(files: Path) -> None:
    module = torch.export.load(files / "any.pt2").module()
    before = module.code
    x = torch.rand(1, 3, 32, 48)
    assert gv.load_model(module).infer(x).name == "head"
    assert module.code == before
    with pytest.raises(GraduncError, match="has no layers: expected what load_model makes of it"), gv.capture(module):
        module(x)


class Two(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: torch.export.export(Two(), (torch.zeros(1, 3, 8, 8),) * 2),
            "takes 2 inputs, .*: expected one, images",
        ),
        (lambda: torch.export.export(plain(), (torch.zeros(2, 3, 16, 16),)), "takes 2 images at a time"),
        (lambda: torch.export.export(nn.Linear(3, 4), (torch.zeros(5, 3),)), r"takes 1 inputs, \(5, 3\): expected one"),
    ],
)
def test_programs_that_take_something_else(make: Callable[[], ExportedProgram], text: str) -> None:
    with pytest.raises(ModelError, match=text):
        gv.load_model(make())


# --- files


class _Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch ran",)


def _changed(file: Path, change: Callable[[str, bytes], bytes], more: dict[str, bytes] | None = None) -> str:
    """A program's file with some of its members changed."""
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile("bad.pt2", "w") as bad:
        for name in archive.namelist():
            bad.writestr(name, change(name, archive.read(name)))
        for name, content in (more or {}).items():
            bad.writestr(archive.namelist()[0].partition("/")[0] + name, content)
    return "export:bad.pt2"


def _in_json(key: str, value: object) -> Callable[[str, bytes], bytes]:
    def change(name: str, content: bytes) -> bytes:
        if not name.endswith(".json"):
            return content
        text = json.loads(content)
        stack = [text]
        while stack:
            part = stack.pop()
            if isinstance(part, dict):
                part.update({key: value} if key in part else {})
                stack.extend(part.values())
            elif isinstance(part, list):
                stack.extend(part)
        return json.dumps(text).encode()

    return change


def _pickled(name: str, content: bytes) -> bytes:
    return pickle.dumps(_Malicious()) if name.endswith(".pt") else content


RUN = "__import__('os').system('touch ran')"
FACTORY = json.dumps([1, {"type": "x", "context": json.dumps({"default_factory_module": "antigravity"})}])


@pytest.mark.parametrize(
    ("change", "more", "text"),
    [
        (_pickled, {}, "more than tensors in .*sample_inputs"),
        (_in_json("use_pickle", True), {}, "pickled weights"),
        (_in_json("expr_str", RUN), {}, "the expression"),
        (_in_json("expr_str", "Symbol('s0').__class__"), {}, "the expression"),
        (_in_json("expr_str", "eval('1')"), {}, "the expression"),
        (_in_json("range_constraints", {RUN: {"min_val": 0, "max_val": 9}}), {}, "the name .* of a size"),
        (_in_json("guards_code", [f"{RUN} == 0"]), {}, "the condition"),
        (_in_json("guards_code", ["L['x'].__class__ == 1"]), {}, "the condition"),
        (_in_json("forward_arg_names", [f"x={RUN}"]), {}, "the name"),
        (_in_json("parameter_name", f'x"){RUN}("'), {}, "the name"),
        (_in_json("out_spec", FACTORY), {}, "a type of the module 'antigravity'"),
        (lambda name, content: content, {"/MODELS/model.json": b"{}"}, "two members of one name"),
        (lambda name, content: content, {"/data/aotinductor/model/it.so": b""}, "compiled code"),
        (lambda name, content: content, {"/data/constants/custom_obj_0": b""}, "a pickled object"),
    ],
)
def test_a_file_that_could_run_code_is_refused(
    change: Callable[[str, bytes], bytes],
    more: dict[str, bytes],
    text: str,
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=rf"bad\.pt2 holds {text}.*reading it could run code: refused") as error:
        gv.load_model(_changed(files / "any.pt2", change, more))
    assert "\n" not in str(error.value)
    assert not Path("ran").exists()


def test_functions_of_python_are_no_operators(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def change(name: str, content: bytes) -> bytes:
        return (
            content.replace(b"torch.ops.aten.softplus.default", b"torch.os.fspath")
            if name.endswith(".json")
            else content
        )

    with pytest.raises(ModelError, match=r"bad\.pt2 .*fspath.*operator"):
        gv.load_model(_changed(files / "any.pt2", change))


def test_files_that_hold_no_program(tmp_path: Path) -> None:
    torch.save(plain().state_dict(), tmp_path / "w.pth")
    (tmp_path / "text.pt2").write_text("nothing")
    for name, text in (("w.pth", "holds no program"), ("text.pt2", "is no archive"), ("gone", "does not exist")):
        with pytest.raises(ModelError, match=f"{name} {text}"):
            gv.load_model(f"export:{tmp_path / name}")


def test_one_exported_in_training_mode_is_told() -> None:
    with pytest.warns(UserWarning, match="ExportedProgram was made in training mode: its batch_norm depend"):
        gv.load_model(exported(Plain().train(), 16, 16))
