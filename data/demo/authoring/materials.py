"""Procedural materials of the demo scenes; every one fades into the scene's haze with distance."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import bpy

RGB = Sequence[float]


class Graph:
    """Shorthand for building a shader node tree."""

    def __init__(self, tree: bpy.types.NodeTree) -> None:
        self.tree = tree
        self.tree.nodes.clear()

    def set(self, socket, value) -> None:
        """Link a socket to ``value``, or set it where ``value`` is a constant."""
        if isinstance(value, bpy.types.NodeSocket):
            self.tree.links.new(value, socket)
        elif value is not None:
            if socket.type == "RGBA" and len(value) == 3:
                value = (*value, 1.0)
            socket.default_value = value

    def node(self, kind: str, props: dict | None = None, /, **inputs):
        """Add a node; input names use underscores for blanks. Returns its outputs."""
        node = self.tree.nodes.new("ShaderNode" + kind)
        for key, value in (props or {}).items():
            setattr(node, key, value)
        for key, value in inputs.items():
            self.set(node.inputs[key.replace("_", " ")], value)
        return node.outputs

    def math(self, op: str, a, b=None, clamp: bool = False):
        """Add a math node."""
        node = self.tree.nodes.new("ShaderNodeMath")
        node.operation, node.use_clamp = op, clamp
        self.set(node.inputs[0], a)
        self.set(node.inputs[1], b)
        return node.outputs[0]

    def mix(self, fac, a, b, blend: str = "MIX"):
        """Mix two colours."""
        node = self.tree.nodes.new("ShaderNodeMix")
        node.data_type, node.blend_type = "RGBA", blend
        self.set(node.inputs[0], fac)
        self.set(node.inputs[6], a)
        self.set(node.inputs[7], b)
        return node.outputs[2]

    def ramp(self, value, low: float, high: float, out_low: float = 0.0, out_high: float = 1.0):
        """Map ``low..high`` to ``out_low..out_high``, clamped."""
        return self.node("MapRange", None, Value=value, From_Min=low, From_Max=high, To_Min=out_low, To_Max=out_high)[0]

    def noise(self, vector, scale: float, detail: float = 4.0, rough: float = 0.55):
        """Fractal noise in 0..1."""
        return self.node("TexNoise", None, Vector=vector, Scale=scale, Detail=detail, Roughness=rough)[0]

    def scale_vec(self, vector, factors: Sequence[float]):
        """Multiply a vector componentwise."""
        return self.node("Mapping", None, Vector=vector, Scale=tuple(factors))[0]

    def bump(self, height, strength, distance: float = 0.02):
        """Surface normal bent by a height."""
        return self.node("Bump", None, Height=height, Strength=strength, Distance=distance)[0]

    def position(self):
        """World position of the shaded point."""
        return self.node("NewGeometry")["Position"]

    def tint(self):
        """The object's own colour."""
        return self.node("ObjectInfo")["Color"]


def make_haze(density: float, colour: RGB) -> bpy.types.NodeTree:
    """Create the node group through which every material's shader passes.

    Fading surfaces to the haze colour by camera distance is far cheaper than a volume, and unlike a fade done
    on the finished image it leaves object outlines anti-aliased.
    """
    tree = bpy.data.node_groups.new("Haze", "ShaderNodeTree")
    tree.interface.new_socket("Shader", in_out="INPUT", socket_type="NodeSocketShader")
    tree.interface.new_socket("Shader", in_out="OUTPUT", socket_type="NodeSocketShader")
    g = Graph(tree)
    source = g.tree.nodes.new("NodeGroupInput").outputs[0]
    distance = g.node("CameraData")["View Distance"]
    fade = g.math("SUBTRACT", 1.0, g.math("POWER", 2.718, g.math("MULTIPLY", distance, -density)))
    fade = g.math("MULTIPLY", fade, g.node("LightPath")["Is Camera Ray"])
    glow = g.node("Emission", None, Color=colour)[0]
    mixer = g.tree.nodes.new("ShaderNodeMixShader")
    for socket, value in zip(mixer.inputs, (fade, source, glow), strict=True):
        g.set(socket, value)
    sink = g.tree.nodes.new("NodeGroupOutput")
    g.set(sink.inputs[0], mixer.outputs[0])
    return tree


class Library:
    """Makes each named material once for the current scene."""

    def __init__(self, haze: bpy.types.NodeTree, wet: float = 0.0, dusk: float = 0.0) -> None:
        self.haze, self.wet, self.dusk = haze, wet, dusk
        self._made: dict[str, bpy.types.Material] = {}

    def get(self, name: str, author: Callable[[Graph, Library], object]) -> bpy.types.Material:
        """Return the material called ``name``, letting ``author`` build its shader the first time."""
        if name not in self._made:
            material = bpy.data.materials.new(name)
            material.use_nodes = True
            g = Graph(material.node_tree)
            shader = author(g, self)
            group = g.tree.nodes.new("ShaderNodeGroup")
            group.node_tree = self.haze
            g.set(group.inputs[0], shader)
            out = g.tree.nodes.new("ShaderNodeOutputMaterial")
            g.set(out.inputs["Surface"], group.outputs[0])
            # Haze is emission: without this every mesh in the scene would be sampled as a lamp.
            material.cycles.emission_sampling = "NONE"
            self._made[name] = material
        return self._made[name]

    def plain(self, name: str, colour: RGB | None, rough: float = 0.6, metal: float = 0.0, **more):
        """A principled material of one colour (``None``: the object's tint) with a little dirt."""

        def author(g: Graph, _: Library):
            base = g.tint() if colour is None else (*colour, 1.0)
            dirt = g.noise(g.position(), 3.0, 2.0)
            base = g.mix(g.ramp(dirt, 0.35, 0.75, 0.0, 0.28), base, (0.03, 0.028, 0.025, 1.0))
            return g.node("BsdfPrincipled", None, Base_Color=base, Roughness=rough, Metallic=metal, **more)[0]

        return self.get(name, author)

    def glow(self, name: str, colour: RGB, strength: float):
        """An emitting material (lamps, lights)."""
        return self.get(
            name,
            lambda g, _: g.node(
                "BsdfPrincipled",
                None,
                Base_Color=colour,
                Roughness=0.2,
                Emission_Color=colour,
                Emission_Strength=strength,
            )[0],
        )
