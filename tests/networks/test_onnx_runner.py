"""ONNX models: graphs made by hand beside the same network in torch, and one that torch has exported."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import TinyNet
from torch import Tensor, nn
from torch.nn import functional as F

import gradunc_viz as gv
from gradunc_viz.cli.main import main
from gradunc_viz.schema.errors import GraduncError, HeadError, ModelError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

SCORES = ("pgn_oh_p0.5", "pgn_oh_p2", "pgn_uni_p1", "feature_p1", "msp", "entropy")
SIZE = (20, 28)
IMAGE = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), "u1")
LAYERS = {
    "1x1": nn.Conv2d(5, 4, 1),
    "3x3": nn.Conv2d(5, 4, 3, stride=2, padding=1, dilation=2),
    "grouped": nn.Conv2d(6, 4, 3, padding=(0, 1), groups=2),
    "transposed": nn.ConvTranspose2d(5, 4, 4, stride=2, padding=1),
    "without a bias": nn.Conv2d(5, 4, 1, bias=False),
}


class Net(nn.Module):
    """Two convolutions, the second as it is asked for, and a resizing."""

    def __init__(self, last: nn.Module, channels: int = 3, align_corners: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, last.in_channels, 3, padding=1, stride=2)  # type: ignore[arg-type]
        self.last, self.align_corners = last, align_corners

    def forward(self, x: Tensor) -> Tensor:
        logits = self.last(F.softplus(self.first(x)))
        return F.interpolate(logits, x.shape[2:], mode="bilinear", align_corners=self.align_corners)


def graph(path: Path, *nodes: Any, weights: dict[str, Any], x: Any = None, y: Any = None, opset: int = 17) -> Path:
    """Write a model of nodes from `x` to `y`; each of these a type and a shape."""
    x, y = x or (TensorProto.FLOAT, ["n", 3, "h", "w"]), y or (TensorProto.FLOAT, ["n", 4, "H", "W"])
    made = helper.make_graph(
        list(nodes),
        "made by hand",
        [helper.make_tensor_value_info("x", *x)],
        [helper.make_tensor_value_info("y", *y)],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in weights.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.save(model, path)
    return path


def node(kind: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(kind, inputs.split(","), [output], name=f"the {output}", **attributes)


def weights_of(net: Net, dtype: str = "f4") -> dict[str, Any]:
    found = {name.replace(".", "_"): value.detach().numpy().astype(dtype) for name, value in net.state_dict().items()}
    return found | {"size": np.array(SIZE), "scales": np.array([1, 1, 2, 2], "f4"), "roi": np.array([], "f4")}


def body() -> list[Any]:
    """From the image to what enters the last layer."""
    first = node("Conv", "x,first_weight,first_bias", "first", pads=[1, 1, 1, 1], strides=[2, 2])
    return [first, node("Softplus", "first", "features")]


def last_of(layer: Any, made: str = "logits") -> Any:
    kind = "ConvTranspose" if isinstance(layer, nn.ConvTranspose2d) else "Conv"
    names = "features,last_weight" + (",last_bias" if layer.bias is not None else "")
    attributes = {"strides": layer.stride, "dilations": layer.dilation, "group": layer.groups}
    return node(kind, names, made, pads=[*layer.padding, *layer.padding], **attributes)


def resize(inputs: str = "logits", made: str = "y", **attributes: Any) -> list[Any]:
    """To the size of the image, which the graph looks up itself."""
    said = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"} | attributes
    return [
        node("Shape", "x", "whole", start=2),
        node("Shape", inputs, "before", end=2),
        node("Concat", "before,whole", "target", axis=0),
        node("Resize", f"{inputs},,,target", made, **said),
    ]


def same_scores(net: nn.Module, model: Path, scores: Any = SCORES, rough: float = 3e-5, **options: Any) -> None:
    """Compare scores of a module and of a graph."""
    ours = gv.score_image(gv.load_model(net, **options), IMAGE, scores=scores)
    theirs = gv.score_image(gv.load_model(f"onnx:{model}", **options), IMAGE, scores=scores)
    for name in ours:
        np.testing.assert_allclose(theirs[name], ours[name], atol=rough, rtol=rough, err_msg=str(name))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("places", ["half_pixel", "align_corners"])
def test_values_are_those_of_the_same_network_in_torch(name: str, places: str, tmp_path: Path) -> None:
    net = Net(LAYERS[name], align_corners=places == "align_corners").eval()
    nodes = [*body(), last_of(net.last), *resize(coordinate_transformation_mode=places)]
    model = graph(tmp_path / "net.onnx", *nodes, weights=weights_of(net))
    scores = [score for score in SCORES if name != "grouped" or not score.startswith("feature")]
    same_scores(net, model, scores)
    network = gv.load_model(f"onnx:{model}")
    with gv.capture(network) as head:
        network(torch.rand(2, 3, *SIZE))
    assert head.align_corners == net.align_corners
    assert tuple(head.features.shape[:2]) == (2, net.last.in_channels)  # type: ignore[union-attr]


ENDS: dict[str, tuple[Any, Any, Any]] = {
    "softmax": ([node("Softmax", "big", "y", axis=1)], lambda y: y.softmax(1), None),
    "argmax": ([node("ArgMax", "big", "y", axis=1, keepdims=0)], lambda y: y, (TensorProto.INT64, ["n", "H", "W"])),
    "cast": ([node("Cast", "big", "y", to=TensorProto.FLOAT)], lambda y: y, None),
    "last": (
        [node("Transpose", "big", "y", perm=[0, 2, 3, 1])],
        lambda y: y,
        (TensorProto.FLOAT, ["n", "H", "W", 4]),
    ),
    "softmax of channels last": (
        [node("Transpose", "big", "turned", perm=[0, 2, 3, 1]), node("Softmax", "turned", "y")],
        lambda y: y.softmax(1),
        (TensorProto.FLOAT, ["n", "H", "W", 4]),
    ),
}


@pytest.mark.parametrize("name", ENDS)
def test_what_stands_behind_the_last_layer_is_followed(name: str, tmp_path: Path) -> None:
    net = Net(LAYERS["1x1"]).eval()
    end, same, y = ENDS[name]
    model = graph(
        tmp_path / "net.onnx", *body(), last_of(net.last), *resize(made="big"), *end, weights=weights_of(net), y=y
    )

    class Ended(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return same(self.net(x))

    same_scores(Ended().eval(), model)


def test_one_channel_and_its_threshold(tmp_path: Path) -> None:
    net = Net(nn.Conv2d(5, 1, 1)).eval()
    nodes = [*body(), last_of(net.last), node("Sigmoid", "logits", "p"), *resize("p")]
    y = (TensorProto.FLOAT, ["n", 1, "H", "W"])
    model = graph(tmp_path / "net.onnx", *nodes, weights=weights_of(net), y=y)

    class Sigmoid(Net):
        def forward(self, x: Tensor) -> Tensor:
            p = self.last(F.softplus(self.first(x))).sigmoid()
            return F.interpolate(p, x.shape[2:], mode="bilinear")

    own = Sigmoid(net.last).eval()
    own.load_state_dict(net.state_dict())
    same_scores(own, model, ("msp", "pgn_oh_p1"), threshold=0.4)


def test_channels_last_with_a_matrix_and_a_bias_that_is_added(tmp_path: Path) -> None:
    net = Net(LAYERS["1x1"]).eval()
    weights = weights_of(net) | {"matrix": net.last.weight.detach().numpy()[:, :, 0, 0].T.copy()}  # type: ignore[union-attr]
    model = graph(
        tmp_path / "net.onnx",
        node("Transpose", "x", "first_x", perm=[0, 3, 1, 2]),
        node("Conv", "first_x,first_weight,first_bias", "first", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Softplus", "first", "features"),
        node("Transpose", "features", "rows", perm=[0, 2, 3, 1]),
        node("MatMul", "rows,matrix", "product"),
        node("Add", "last_bias,product", "sum"),
        node("Transpose", "sum", "logits", perm=[0, 3, 1, 2]),
        node("Resize", "logits,,scales", "big", mode="linear"),
        node("Transpose", "big", "y", perm=[0, 2, 3, 1]),
        weights=weights,
        x=(TensorProto.FLOAT, [1, *SIZE, 3]),
        y=(TensorProto.FLOAT, [1, *SIZE, 4]),
    )
    same_scores(net, model)
    network = gv.load_model(f"onnx:{model}")
    assert network.preprocessing.size == SIZE
    assert network(torch.rand(3, 3, *SIZE)).shape == (3, 4, *SIZE)  # one by one, as the graph wants them
    larger = gv.score_image(network, np.zeros((31, 47, 3), "u1"), scores="msp")
    assert larger["msp"].shape == (31, 47)
    with pytest.raises(ModelError, match="takes images of 20 x 28 alone, not 32 x 32"):
        gv.score_image(network, IMAGE, scores="msp", input_size=(32, 32))


@pytest.mark.parametrize(("pad", "bottom"), [("SAME_UPPER", True), ("SAME_LOWER", False)])
def test_automatic_padding(pad: str, bottom: bool, tmp_path: Path) -> None:
    class Padded(Net):
        def forward(self, x: Tensor) -> Tensor:
            edges = (0, 1, 0, 1) if bottom else (1, 0, 1, 0)
            return self.last(F.pad(F.softplus(self.first(x)), edges))

    net = Padded(nn.Conv2d(5, 4, 2)).eval()
    last = node("Conv", "features,last_weight,last_bias", "y", auto_pad=pad)
    same_scores(net, graph(tmp_path / "net.onnx", *body(), last, weights=weights_of(net)))


def test_half_precision(tmp_path: Path) -> None:
    net = Net(LAYERS["1x1"]).eval()
    half = {"x": (TensorProto.FLOAT16, ["n", 3, "h", "w"]), "y": (TensorProto.FLOAT16, ["n", 4, "H", "W"])}
    model = graph(tmp_path / "net.onnx", *body(), last_of(net.last), *resize(), weights=weights_of(net, "f2"), **half)
    same_scores(net, model, rough=3e-2)


def test_other_channels_than_three(tmp_path: Path) -> None:
    net = Net(LAYERS["1x1"], channels=1).eval()
    x = (TensorProto.FLOAT, ["n", 1, "h", "w"])
    model = graph(tmp_path / "net.onnx", *body(), last_of(net.last), *resize(), weights=weights_of(net), x=x)
    network = gv.load_model(f"onnx:{model}")
    assert network.in_channels == 1
    assert gv.score_image(network, IMAGE[..., 0], scores="pgn_oh_p1")["pgn_oh_p1"].shape == SIZE


UNKNOWN = {
    "cubic": ([last_of(LAYERS["1x1"]), *resize(mode="cubic")], "Resize 'the y' makes them"),
    "corner": (
        [last_of(LAYERS["1x1"]), *resize(coordinate_transformation_mode="asymmetric")],
        "Resize 'the y' makes them",
    ),
    "two heads": (
        [last_of(LAYERS["1x1"], "one"), last_of(LAYERS["1x1"], "two"), node("Add", "one,two", "logits"), *resize()],
        "Add 'the logits' makes them",
    ),
    "padding by size": (
        [node("Conv", "features,last_weight,last_bias", "y", auto_pad="SAME_UPPER", strides=[2, 2])],
        "Conv 'the y' has auto_pad SAME_UPPER and stride (2, 2)",
    ),
    "a kernel that is computed": (
        [node("Neg", "last_weight", "kernel"), node("Conv", "features,kernel,last_bias", "y")],
        "the kernel of Conv 'the y' is no constant",
    ),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_cannot_be_followed_has_logits_and_no_norms(name: str, tmp_path: Path) -> None:
    net = Net(LAYERS["1x1"]).eval()
    nodes, why = UNKNOWN[name]
    network = gv.load_model(f"onnx:{graph(tmp_path / 'net.onnx', *body(), *nodes, weights=weights_of(net))}")
    assert gv.score_image(network, IMAGE, scores="entropy,label_oh_p1")["entropy"].shape == SIZE
    with pytest.raises(HeadError, match="pgn_oh_p1") as caught:
        gv.score_image(network, IMAGE, scores="pgn_oh_p1")
    assert why in str(caught.value)
    with gv.capture(network) as head:
        network(torch.rand(1, 3, *SIZE))
    with pytest.raises(HeadError, match="need the features"):
        gv.gradient_norms(head)
    with pytest.warns(UserWarning, match=r"pgn_oh_p0\.5, .*: left out of the default"):
        assert "msp" in gv.score_image(network, IMAGE)


def test_probabilities_of_unknown_logits_are_refused(tmp_path: Path) -> None:
    net = Net(LAYERS["1x1"]).eval()
    share = [node("Exp", "logits", "e"), node("ReduceSum", "e,axes", "total"), node("Div", "e,total", "y")]
    weights = weights_of(net) | {"axes": np.array([1])}
    network = gv.load_model(f"onnx:{graph(tmp_path / 'n.onnx', *body(), last_of(net.last), *share, weights=weights)}")
    with pytest.raises(ModelError, match="'y' are probabilities, and it is not known of what logits"):
        gv.score_image(network, IMAGE, scores="msp")


def test_weights_in_eight_bits(tmp_path: Path) -> None:
    net = Net(nn.Conv2d(5, 4, 1)).eval()
    scale = np.array([0.01, 0.02, 0.03, 0.04], "f4")
    whole = np.random.default_rng(0).integers(-100, 100, (4, 5, 1, 1)).astype("i1")
    weights = weights_of(net) | {"eight": whole, "scale": scale, "zero": np.zeros(4, "i1")}
    widened = node("DequantizeLinear", "eight,scale,zero", "last_weight", axis=0)
    del weights["last_weight"]
    model = graph(tmp_path / "net.onnx", *body(), widened, last_of(net.last), *resize(), weights=weights)
    net.last.weight.data = torch.from_numpy(whole * scale[:, None, None, None])  # type: ignore[union-attr]
    same_scores(net, model)
    kernel = gv.load_model(f"onnx:{model}").net.head.weight  # type: ignore[union-attr]
    torch.testing.assert_close(kernel, net.last.weight.detach())


def test_a_softmax_over_anything_but_classes(tmp_path: Path) -> None:
    net = Net(LAYERS["1x1"]).eval()
    for opset, axis in ((11, 1), (13, 2)):
        plain = node("Conv", "x,first_weight,first_bias", "features", pads=[1, 1, 1, 1])
        nodes = [plain, last_of(net.last), node("Softmax", "logits", "y", axis=axis)]
        path = graph(tmp_path / "net.onnx", *nodes, weights=weights_of(net), opset=opset)
        with pytest.raises(ModelError, match=f"Softmax 'y' of the graph runs along axis {axis}, in opset {opset}"):
            gv.load_model(f"onnx:{path}")


def test_a_function_of_the_model_is_looked_into(tmp_path: Path) -> None:
    net = Net(LAYERS["1x1"]).eval()
    path = graph(tmp_path / "net.onnx", *body(), last_of(net.last), *resize(), weights=weights_of(net))
    model = onnx.load(path)
    last = model.graph.node[2]
    inner = helper.make_node("Conv", ["a", "b", "c"], ["d"], pads=[0, 0, 0, 0])
    imports = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("mine", "Last", ["a", "b", "c"], ["d"], [inner], imports))
    del last.attribute[:]
    last.op_type, last.domain = "Last", "mine"
    model.opset_import.append(helper.make_opsetid("mine", 1))
    onnx.save(model, path)
    same_scores(net, path)


def test_the_last_layer_by_name(tmp_path: Path) -> None:
    net = Net(LAYERS["1x1"]).eval()
    model = graph(tmp_path / "net.onnx", *body(), last_of(net.last), *resize(), weights=weights_of(net))
    for name in ("the logits", "logits"):
        assert not gv.load_model(f"onnx:{model}", head=name).featureless
    with pytest.raises(
        HeadError, match="'softmax' is no node and no tensor; the last candidates are the first, the lo"
    ):
        gv.load_model(f"onnx:{model}", head="softmax")
    with pytest.raises(HeadError, match="'first' does not make the logits of 'y'"):
        gv.load_model(f"onnx:{model}", head="first")


def test_several_outputs(tmp_path: Path) -> None:
    net = Net(LAYERS["1x1"]).eval()
    path = graph(tmp_path / "net.onnx", *body(), last_of(net.last), *resize(), weights=weights_of(net))
    model = onnx.load(path)
    model.graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 4, "u", "v"]))
    model.graph.output[0].name = model.graph.node[-1].output[0] = "big"
    onnx.save(model, path)
    assert gv.load_model(f"onnx:{path}").net._ending.output == "logits"
    assert gv.load_model(f"onnx:{path}", output="big").net._ending.output == "big"
    assert gv.load_model(f"onnx:{path}", output=0).net._ending.output == "big"
    with pytest.raises(ModelError, match="output 'aux' is not among those of the graph: big, logits"):
        gv.load_model(f"onnx:{path}", output="aux")


def test_files_that_are_no_models(tmp_path: Path) -> None:
    net = Net(LAYERS["1x1"]).eval()
    good = graph(tmp_path / "net.onnx", *body(), last_of(net.last), *resize(), weights=weights_of(net))
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(good.read_bytes()[:300])
    foreign = onnx.load(good)
    foreign.graph.node[1].op_type, foreign.graph.node[1].domain = "Special", "my.domain"
    foreign.opset_import.append(helper.make_opsetid("my.domain", 1))
    onnx.save(foreign, tmp_path / "foreign.onnx")
    integers = (TensorProto.UINT8, ["n", 3, "h", "w"])
    cast = [node("Cast", "x", "y", to=TensorProto.FLOAT)]
    y = (TensorProto.FLOAT, ["n", 3, "h", "w"])
    graph(tmp_path / "bytes.onnx", *cast, weights={}, x=integers, y=y)
    identity = node("Identity", "x", "y")
    graph(tmp_path / "four.onnx", identity, weights={}, x=(TensorProto.FLOAT, [4, 3, "h", "w"]), y=y)
    rows = (TensorProto.INT64, ["n", "c", "w"])
    graph(tmp_path / "rows.onnx", *body(), node("ArgMax", "features", "y", axis=2), weights=weights_of(net), y=rows)
    for name, expected in {
        "nowhere.onnx": "no such file; expected an ONNX model",
        "damaged.onnx": "is no valid ONNX model",
        "foreign.onnx": "onnxruntime cannot run it",
        "four.onnx": "takes batches of 4 images alone",
        "rows.onnx": "ArgMax 'y' of the graph runs along axis 2",
        "bytes.onnx": "its input 'x' is uint8 of 4 dimensions; expected floating point",
    }.items():
        with pytest.raises(ModelError, match=expected) as caught:
            gv.load_model(f"onnx:{tmp_path / name}")
        assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="holds its weights itself"):
        gv.load_model(f"onnx:{good}", damaged)


def test_weights_beside_the_graph(tmp_path: Path) -> None:
    net = Net(LAYERS["3x3"]).eval()
    path = graph(tmp_path / "net.onnx", *body(), last_of(net.last), *resize(), weights=weights_of(net))
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="net.weights", size_threshold=0)
    same_scores(net, path)
    digest = gv.load_model(f"onnx:{path}").weights_digest()
    changed = bytearray((tmp_path / "net.weights").read_bytes())
    changed[3] ^= 1
    (tmp_path / "net.weights").write_bytes(changed)
    assert gv.load_model(f"onnx:{path}").weights_digest() != digest
    (tmp_path / "net.weights").unlink()
    with pytest.raises(ModelError, match=r"net\.onnx: is no valid ONNX model"):
        gv.load_model(f"onnx:{path}")


def test_runs_like_any_network(tiny_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = Net(LAYERS["1x1"]).eval()
    model = graph(tmp_path / "net.onnx", *body(), last_of(net.last), *resize(), weights=weights_of(net))
    command = ["compute", "--model", f"onnx:{model}", "--data", str(tiny_set), "--limit", "2", "--quiet", "--out"]
    assert main([*command, str(tmp_path / "one"), "--scores", "pgn_oh_p1,msp"]) == 0
    assert main([*command, str(tmp_path / "several"), "--scores", "tta_entropy"]) == 0
    assert main([*command, str(tmp_path / "none"), "--scores", "odin"]) == 1
    assert "has no derivative by its input" in capsys.readouterr().err
    both = [f"onnx:{model}", Net(nn.Conv2d(5, 4, 1)).eval()]
    cache = gv.compute(both, gv.open_frames(tiny_set), tmp_path / "both", scores="ens_entropy", limit=1, progress=False)
    assert len(cache) == 1
    fit = gv.fit(gv.load_model(f"onnx:{model}"), gv.open_frames(tiny_set), scores="vim", pixels=200, progress=False)
    own = gv.fit(net, gv.open_frames(tiny_set), scores="vim", pixels=200, progress=False)
    for name, values in own.states["vim"].items():
        assert fit.states["vim"][name].shape == values.shape


@pytest.mark.slow
def test_a_network_that_torch_has_exported(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    net = TinyNet().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (torch.rand(1, 3, *SIZE),), tmp_path / "net.onnx", dynamo=True, verbose=False)
    same_scores(net, tmp_path / "net.onnx")


def test_without_onnx(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(GraduncError, match=r"pip install 'gradunc-viz\[onnx\]'"):
        gv.load_model(f"onnx:{tmp_path / 'net.onnx'}")
