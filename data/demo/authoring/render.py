"""Render demo scenes with Cycles: photograph, class labels and map of unknown objects.

Run by a Python that has ``bpy``, ``numpy`` and ``pillow``; see ``README.md`` beside this file.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import bpy
import numpy as np
from materials import Graph
from PIL import Image
from scenes import UNKNOWN, build_scene
from street import SKY, Street
from weather import Weather

IGNORE = 255


def _settings(seed: int, width: int, height: int, samples: int, threads: int = 0) -> bpy.types.Scene:
    """Start from an empty session with the Cycles settings that all frames share."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.render.resolution_x, scene.render.resolution_y = width, height
    scene.render.resolution_percentage = 100
    scene.render.use_persistent_data = True
    scene.render.dither_intensity = 0.0
    if threads:
        scene.render.threads_mode, scene.render.threads = "FIXED", threads
    c = scene.cycles
    c.device, c.seed, c.samples = "CPU", seed, samples
    c.use_adaptive_sampling = False
    c.use_denoising, c.denoiser = True, "OPENIMAGEDENOISE"
    c.denoising_prefilter, c.denoising_quality = "FAST", "BALANCED"
    c.max_bounces, c.diffuse_bounces, c.glossy_bounces, c.transmission_bounces = 2, 1, 2, 1
    c.caustics_reflective = c.caustics_refractive = False
    c.sample_clamp_indirect = 4.0
    scene.view_settings.view_transform = "AgX"
    scene.view_settings.look = "AgX - Medium High Contrast"
    return scene


def _camera(scene: bpy.types.Scene, street: Street, rng: np.random.Generator, x: float, y: float) -> None:
    """Mount the dash camera."""
    data = bpy.data.cameras.new("camera")
    data.angle = np.radians(rng.uniform(58, 66))
    data.clip_end = 1000
    obj = bpy.data.objects.new("camera", data)
    obj.location = street.at(x, y, rng.uniform(1.35, 1.55))
    pitch, yaw = np.radians(rng.uniform(-3.0, 0.5)), np.radians(rng.normal(scale=3.0))
    obj.rotation_euler = (np.pi / 2 + pitch, 0, street.heading(y) - 12 * street.bend + yaw)
    scene.collection.objects.link(obj)
    scene.camera = obj


def _crop(scene: bpy.types.Scene, rng: np.random.Generator, size: tuple[int, int], window: tuple[int, int]) -> None:
    """Limit rendering to a random window of the frame."""
    left, low = (int(rng.integers(full - part + 1)) for full, part in zip(size, window, strict=True))
    r = scene.render
    r.use_border = r.use_crop_to_border = True
    r.border_min_x, r.border_max_x = left / size[0], (left + window[0]) / size[0]
    r.border_min_y, r.border_max_y = low / size[1], (low + window[1]) / size[1]


def _label_material() -> bpy.types.Material:
    """Make the material that writes each object's index."""
    material = bpy.data.materials.new("labels")
    material.use_nodes = True
    g = Graph(material.node_tree)
    glow = g.node("Emission", None, Color=(1, 1, 1, 1), Strength=g.node("ObjectInfo")["Object Index"])
    out = g.tree.nodes.new("ShaderNodeOutputMaterial")
    g.set(out.inputs["Surface"], glow[0])
    material.cycles.emission_sampling = "NONE"
    return material


def _read(path: Path) -> np.ndarray:
    """Read a float image, top row first."""
    image = bpy.data.images.load(str(path))
    image.colorspace_settings.name = "Non-Color"
    w, h = image.size
    out = np.empty(w * h * image.channels, dtype=np.float32)
    image.pixels.foreach_get(out)
    bpy.data.images.remove(image)
    return out.reshape(h, w, -1)[::-1, :, :3]


def _shoot(scene: bpy.types.Scene, stem: Path) -> np.ndarray:
    """Render to a float file and read it back."""
    scene.render.image_settings.file_format = "OPEN_EXR"
    scene.render.image_settings.color_depth = "32"
    scene.render.filepath = str(stem.with_suffix(".exr"))
    bpy.ops.render.render(write_still=True)
    return _read(stem.with_suffix(".exr"))


def _develop(scene: bpy.types.Scene, stem: Path, weather: Weather, linear: np.ndarray) -> np.ndarray:
    """Expose so that the ground half of the frame meets the weather's key, then apply the film curve."""
    lum = linear @ np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)
    part = lum[lum.shape[0] // 3 :]
    mean = float(np.exp(np.mean(np.log(np.maximum(part, 1e-3)))))
    gain = weather.key / mean
    # Bright sky must not wash out entirely, however dark the street is.
    gain = min(gain, 2.4 / float(np.quantile(lum, 0.97)))
    scene.view_settings.exposure = float(np.log2(gain))
    image = bpy.data.images.load(str(stem.with_suffix(".exr")))
    scene.render.image_settings.file_format = "PNG"
    scene.render.image_settings.color_mode = "RGB"
    scene.render.image_settings.color_depth = "8"
    image.save_render(str(stem.with_suffix(".png")), scene=scene)
    bpy.data.images.remove(image)
    with Image.open(stem.with_suffix(".png")) as png:
        return np.array(png.convert("RGB"))


def render_frame(
    seed: int,
    scratch: Path,
    size: tuple[int, int],
    samples: int = 32,
    kind: str | None = None,
    unknown: int = 0,
    views: int = 1,
    window: tuple[int, int] | None = None,
    threads: int = 0,
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Render a scene.

    Parameters
    ----------
    seed
        Seed of the scene, its camera and Cycles.
    scratch
        Stem of the intermediate files.
    size
        Width and height.
    samples
        Cycles samples per pixel.
    kind
        Weather, drawn where ``None``.
    unknown
        How many unknown objects to place.
    views
        How many camera positions to render along the street.
    window
        Render only a window of this size, placed by the seed, of the full frame. Training needs many scenes
        at the test frames' pixel density, but not their whole area.
    threads
        Cycles threads; all cores where 0.

    Returns
    -------
    list
        For every view the photograph, the class ids (255: none) and the map of unknown objects.
    """
    scene = _settings(seed, *size, samples, threads)
    street, weather = build_scene(seed, kind, unknown)
    world, black = scene.world, bpy.data.worlds.new("black")
    black.use_nodes = True
    black.node_tree.nodes.clear()
    labeller = _label_material()
    for obj in scene.objects:
        obj.pass_index += 1
    frames = []
    for view in range(views):
        rng = np.random.default_rng([seed, 2, view])
        y = 0.0
        x = street.lane / 2 + rng.uniform(-0.3, 0.3)
        if view:
            y = float(rng.uniform(14, 40))
            spots = np.linspace(-street.lane, street.lane, 9)
            room = [min(np.hypot(s - a, y + 1 - b) - r for a, b, r in street.taken) for s in spots]
            x = float(spots[int(np.argmax(room))])
        _camera(scene, street, rng, x, y)
        if window:
            _crop(scene, rng, size, window)
        stem = scratch.with_name(f"{scratch.name}_{view}")
        linear = _shoot(scene, stem)
        photo = _develop(scene, stem, weather, linear)
        c, layer = scene.cycles, bpy.context.view_layer
        kept = c.samples, c.filter_width
        scene.world, layer.material_override = black, labeller
        # One sample through the pixel's centre: a label must never be a blend of two classes.
        c.samples, c.filter_width, c.use_denoising = 1, 0.01, False
        ids = np.rint(_shoot(scene, stem)[..., 0]).astype(np.int32) - 1
        c.samples, c.filter_width, c.use_denoising = *kept, True
        scene.world, layer.material_override = world, None
        ids[ids < 0] = SKY
        odd = (ids == UNKNOWN).astype(np.uint8)
        frames.append((photo, np.where(ids == UNKNOWN, IGNORE, ids).astype(np.uint8), odd))
    return frames


def main() -> None:
    """Command line: render a run of seeds into a folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs=2, required=True, help="first seed and number of scenes")
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 512))
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--views", type=int, default=1)
    parser.add_argument("--weather")
    parser.add_argument("--window", type=int, nargs=2, help="render only a window of this size")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--unknown", type=int, default=0)
    args = parser.parse_args()
    for name in ("images", "labels", "anomalies", "scratch"):
        (args.out / name).mkdir(parents=True, exist_ok=True)
    for seed in range(args.seeds[0], args.seeds[0] + args.seeds[1]):
        if (args.out / "images" / f"{seed:05d}_{args.views - 1}.png").exists():
            continue
        start = time.perf_counter()
        frames = render_frame(
            seed,
            args.out / "scratch" / f"{seed:05d}",
            tuple(args.size),
            args.samples,
            args.weather,
            args.unknown,
            args.views,
            args.window and tuple(args.window),
            args.threads,
        )
        for view, (photo, label, odd) in enumerate(frames):
            stem = f"{seed:05d}_{view}.png"
            Image.fromarray(label).save(args.out / "labels" / stem)
            if odd.any():
                Image.fromarray(odd).save(args.out / "anomalies" / stem)
            # The photograph comes last and all at once: its presence says that the frame is done.
            part = args.out / "images" / f"{stem}.part"
            Image.fromarray(photo).save(part, format="PNG")
            part.rename(args.out / "images" / stem)
        for path in (args.out / "scratch").glob(f"{seed:05d}_*"):
            path.unlink()
        print(f"scene {seed}: {time.perf_counter() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
