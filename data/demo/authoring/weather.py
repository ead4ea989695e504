"""Light and weather of the demo scenes: sky, sun, haze, wetness and exposure."""

from __future__ import annotations

from dataclasses import dataclass

import bpy
import numpy as np
from materials import Graph

KINDS = ("clear", "overcast", "fog", "wet", "dusk")


@dataclass(frozen=True)
class Weather:
    """Everything about the air and the light that a scene's materials and exposure depend on."""

    kind: str
    horizon: tuple[float, float, float]
    zenith: tuple[float, float, float]
    cloud: float
    cloud_colour: tuple[float, float, float]
    sun: float
    sun_colour: tuple[float, float, float]
    elevation: float
    azimuth: float
    haze: float
    wet: float
    dusk: float
    key: float

    @property
    def haze_colour(self) -> tuple[float, float, float]:
        """Colour that distant things fade to: the horizon's, but bluer at dusk."""
        mix = 0.55 * self.dusk
        return tuple(float((1 - mix) * a + mix * b) for a, b in zip(self.horizon, (0.20, 0.24, 0.36), strict=True))


def draw_weather(rng: np.random.Generator, kind: str) -> Weather:
    """Draw a weather of the given kind."""
    azimuth = rng.uniform(0, 360)
    u = rng.random()
    if kind == "clear":
        elevation = rng.uniform(16, 58)
        warm = np.clip((40 - elevation) / 30, 0, 1)
        return Weather(
            kind,
            (0.64, 0.73, 0.86),
            (0.13, 0.27, 0.60),
            rng.uniform(0.1, 0.75),
            (1.15, 1.13, 1.1),
            rng.uniform(4.6, 6.2),
            (1.0, 0.93 - 0.14 * warm, 0.82 - 0.30 * warm),
            elevation,
            azimuth,
            rng.uniform(0.0008, 0.0022),
            0.0,
            0.0,
            0.19,
        )
    if kind == "overcast":
        grey = (0.80, 0.83, 0.88)
        return Weather(
            kind,
            grey,
            (0.55, 0.59, 0.66),
            1.0,
            (0.95, 0.96, 0.98),
            rng.uniform(0.0, 0.5),
            (1, 1, 1),
            50.0,
            azimuth,
            rng.uniform(0.002, 0.005),
            0.0,
            0.0,
            0.18,
        )
    if kind == "fog":
        pale = (0.78 + 0.04 * u, 0.80, 0.83 - 0.03 * u)
        return Weather(
            kind,
            pale,
            (0.74, 0.77, 0.82),
            0.0,
            pale,
            rng.uniform(0.0, 0.6),
            (1, 0.95, 0.88),
            35.0,
            azimuth,
            rng.uniform(0.012, 0.026),
            0.25,
            0.1,
            0.24,
        )
    if kind == "wet":
        return Weather(
            kind,
            (0.74, 0.78, 0.84),
            (0.42, 0.48, 0.58),
            0.9,
            (0.9, 0.91, 0.93),
            rng.uniform(0.0, 1.6),
            (1.0, 0.88, 0.72),
            rng.uniform(14, 35),
            azimuth,
            rng.uniform(0.003, 0.007),
            rng.uniform(0.35, 0.7),
            0.15,
            0.17,
        )
    glow = (0.66, 0.36 + 0.10 * u, 0.22 + 0.12 * u)
    return Weather(
        "dusk",
        glow,
        (0.11, 0.16, 0.36),
        rng.uniform(0.2, 0.7),
        (0.62, 0.36, 0.33),
        rng.uniform(0.3, 1.1),
        (1.0, 0.52, 0.25),
        rng.uniform(3, 8),
        azimuth,
        rng.uniform(0.0012, 0.003),
        rng.uniform(0.0, 0.4),
        1.0,
        0.105,
    )


def build_sky(rng: np.random.Generator, w: Weather) -> bpy.types.World:
    """Create the world background (gradient, sun glow, clouds) and the sun lamp."""
    world = bpy.data.worlds.new("sky")
    world.use_nodes = True
    g = Graph(world.node_tree)
    direction = g.node("TexCoord")["Generated"]
    x, y, z = g.node("SeparateXYZ", None, Vector=direction)
    height = g.math("POWER", g.ramp(z, 0.0, 1.0), 0.55)
    colour = plain = g.mix(height, (*w.horizon, 1), (*w.zenith, 1))
    az, el = np.radians(w.azimuth), np.radians(w.elevation)
    to_sun = (np.sin(az) * np.cos(el), np.cos(az) * np.cos(el), np.sin(el))
    facing = g.node("VectorMath", {"operation": "DOT_PRODUCT"})
    node = g.tree.nodes[-1]
    g.set(node.inputs[0], direction)
    g.set(node.inputs[1], to_sun)
    glow = g.math("POWER", g.math("MAXIMUM", facing["Value"], 0.0), 9.0)
    colour = g.mix(g.math("MULTIPLY", glow, min(0.75, 0.25 * w.sun)), colour, (*(1.3 * c for c in w.sun_colour), 1))
    if w.cloud > 0:
        # Clouds lie on a plane overhead, so they bunch up towards the horizon as real ones do.
        lift = g.math("ADD", g.math("MAXIMUM", z, 0.0), 0.12)
        plane = g.node(
            "CombineXYZ", None, X=g.math("DIVIDE", x, lift), Y=g.math("DIVIDE", y, lift), Z=rng.uniform(0, 50)
        )
        body = g.noise(plane[0], rng.uniform(0.5, 0.9), 6.0, 0.58)
        mask = g.ramp(body, 0.66 - 0.24 * w.cloud, 0.82 - 0.20 * w.cloud)
        mask = g.math("MULTIPLY", mask, g.ramp(z, 0.0, 0.10, 0.25, 0.95))
        shade = g.noise(plane[0], 1.7, 4.0, 0.6)
        dark = tuple(0.70 * c for c in w.cloud_colour)
        colour = g.mix(mask, colour, g.mix(g.ramp(shade, 0.35, 0.62), (*w.cloud_colour, 1), (*dark, 1)))
    # A plain band along the horizon, so that distant things fade into the sky and not into a hard edge.
    colour = g.mix(g.ramp(z, 0.0, min(0.9, 0.04 + 18 * w.haze), 0.9, 0.0), colour, (*w.horizon, 1))
    # Diffuse light cannot tell clouds from a plain gradient, and the gradient is far cheaper to evaluate.
    path = g.node("LightPath")
    sharp = g.math("MAXIMUM", path["Is Camera Ray"], path["Is Glossy Ray"])
    overcast = 1.0 + 0.25 * w.cloud
    mixer = g.tree.nodes.new("ShaderNodeMixShader")
    lights = (
        sharp,
        g.node("Background", None, Color=plain, Strength=overcast)[0],
        g.node("Background", None, Color=colour)[0],
    )
    for socket, value in zip(mixer.inputs, lights, strict=True):
        g.set(socket, value)
    out = g.tree.nodes.new("ShaderNodeOutputWorld")
    g.set(out.inputs["Surface"], mixer.outputs[0])
    world.cycles.sampling_method, world.cycles.sample_map_resolution = "MANUAL", 64
    if w.sun > 0.05:
        lamp = bpy.data.lights.new("sun", "SUN")
        lamp.energy, lamp.color = w.sun, w.sun_colour
        lamp.angle = np.radians(0.7 if w.kind == "clear" else 4.0)
        obj = bpy.data.objects.new("sun", lamp)
        obj.rotation_euler = (np.pi / 2 - el, 0, np.pi - az)
        bpy.context.scene.collection.objects.link(obj)
    return world
