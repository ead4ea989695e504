"""No program out of a file reaches outside of itself: what its operators could read or write, and where they stand."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradunc_viz as gv
from gradunc_viz.networks.sources.exported import network_of_graph
from gradunc_viz.networks.sources.operators import FILES, NAMESPACES, objection
from gradunc_viz.schema.errors import ModelError

pytestmark = pytest.mark.filterwarnings("ignore:.*jit.*:DeprecationWarning", "ignore:.*LeafSpec.*:FutureWarning")


def test_every_operator_of_a_file_is_known() -> None:
    """Of all operators of the torch that is installed."""
    words = ("file", "path", "dir", "url")
    found = {
        schema.name.partition("::")[2]
        for schema in torch._C._jit_get_all_schemas()
        if schema.name.partition("::")[0] in NAMESPACES
        for argument in schema.arguments
        if str(argument.type) in ("str", "Optional[str]") and any(word in argument.name for word in words)
    }
    assert found == FILES


@pytest.mark.parametrize(
    ("space", "name", "allowed"),
    [
        ("aten", "relu", True),
        ("torchvision", "nms", True),
        ("higher_order", "cond", True),
        ("higher_order", "wrap_with_set_grad_enabled", True),
        ("aten", "from_file", False),
        ("aten", "save", False),
        ("image", "write_file", False),
        ("debugprims", "load_tensor", False),
        ("c10d", "send", False),
        ("higher_order", "call_torchbind", False),
        ("higher_order", "aoti_call_delegate", False),
        ("mine", "relu", False),
    ],
)
def test_namespaces(space: str, name: str, allowed: bool) -> None:
    assert (objection(space, name) == "") == allowed


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x).relu()


class Conditional(Net):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda x: self.head(x).relu(), lambda x: self.head(x), (x,))


class Ungraded(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = x.relu()
        return self.head(x)


def _nodes(content: Any) -> Iterator[dict[str, Any]]:
    if isinstance(content, dict):
        if "target" in content and "inputs" in content:
            yield content
        for part in content.values():
            yield from _nodes(part)
    elif isinstance(content, list):
        for part in content:
            yield from _nodes(part)


def _exported(net: nn.Module, path: Path, change: Callable[[dict[str, Any]], None]) -> str:
    """A program's file in which every ``relu`` is something else."""
    whole = io.BytesIO()
    torch.export.save(torch.export.export(net.eval(), (torch.rand(1, 3, 8, 8),)), whole)
    with zipfile.ZipFile(whole) as archive, zipfile.ZipFile(path, "w") as changed:
        for name in archive.namelist():
            content = archive.read(name)
            if name.endswith("models/model.json"):
                program = json.loads(content)
                relus = [node for node in _nodes(program) if node["target"] == "torch.ops.aten.relu.default"]
                assert relus
                for node in relus:
                    change(node)
                content = json.dumps(program).encode()
            changed.writestr(name, content)
    return f"export:{path}"


def _from_file(node: dict[str, Any], file: Path) -> None:
    node["target"] = "torch.ops.aten.from_file.default"
    given = {"filename": {"as_string": str(file)}, "shared": {"as_bool": True}, "size": {"as_int": 4}}
    node["inputs"] = [{"name": name, "arg": arg, "kind": 1} for name, arg in given.items()]


@pytest.mark.parametrize("make", [Net, Conditional, Ungraded])
def test_a_program_that_maps_a_file_is_refused(make: type[nn.Module], tmp_path: Path) -> None:
    spec = _exported(make(), tmp_path / "bad.pt2", lambda node: _from_file(node, tmp_path / "victim"))
    with pytest.raises(ModelError, match=r"bad\.pt2 calls aten::from_file, which reads or writes files: expected"):
        gv.load_model(spec)
    assert not (tmp_path / "victim").exists()
    (tmp_path / "bad.pt2").unlink()
    assert gv.load_model(_exported(make(), tmp_path / "good.pt2", lambda node: None))


def test_an_operator_that_is_handed_on_is_refused() -> None:
    graph = torch.fx.Graph()
    graph.placeholder("x").meta["val"] = torch.zeros(1, 3, 8, 8)
    handed = {"called": [torch.ops.aten.from_file.default], "device": torch.device("cpu")}
    graph.output(graph.call_function(torch.ops.higher_order.auto_functionalized, (), handed))
    with pytest.raises(ModelError, match="net calls aten::from_file, which reads"):
        network_of_graph(torch.fx.GraphModule(nn.Module(), graph), "net")


class Writing(Net):
    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = file

    def forward(self, x: Tensor) -> Tensor:
        if bool(x.sum() > 0):
            mapped = torch.from_file(self.file, shared=True, size=4)
            mapped.fill_(7.0)
            x = x + mapped[0]
        return self.head(x)


def test_a_script_that_maps_a_file_is_refused(tmp_path: Path) -> None:
    script = torch.jit.script(Writing(str(tmp_path / "victim")).eval())
    torch.jit.save(script, tmp_path / "bad.pt")
    for given in (script, f"torchscript:{tmp_path / 'bad.pt'}"):
        with pytest.raises(ModelError, match="calls aten::from_file, which reads or writes files"):
            gv.load_model(given)
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize("kind", ["export", "torchscript"])
@pytest.mark.parametrize("which", ["weight", "program", "directory"])
def test_a_damaged_member_is_told(kind: str, which: str, tmp_path: Path) -> None:
    """Of any member, of which PyTorch itself would read other weights without a word."""
    path = tmp_path / "net.pt2"
    net = Net().eval()
    if kind == "export":
        torch.export.save(torch.export.export(net, (torch.rand(1, 3, 8, 8),)), path)
    else:
        torch.jit.save(torch.jit.script(net), path)
    ends = {"weight": ("weight_0", "/data/0"), "program": ("model.json", ".py"), "directory": ("", "")}[which]
    with zipfile.ZipFile(path) as archive:
        member = next(one for one in archive.infolist() if one.filename.endswith(ends))
        start = archive.start_dir
    content = bytearray(path.read_bytes())
    if which == "directory":
        content[start] ^= 1
    else:
        head = member.header_offset
        size = sum(int.from_bytes(content[head + at : head + at + 2], "little") for at in (26, 28))
        content[head + 30 + size + 1] ^= 0x10
    path.write_bytes(content)
    named = "the archive" if which == "directory" else member.filename
    with pytest.raises(
        ModelError, match=rf"net\.pt2: {named} is damaged \(.*\); expected it as it was written"
    ) as error:
        gv.load_model(f"{kind}:{path}")
    assert "\n" not in str(error.value)
