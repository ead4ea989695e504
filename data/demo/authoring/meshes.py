"""A small mesh builder for the demo scenes: boxes, tubes, ellipsoids, lofts and street strips."""

from __future__ import annotations

from collections.abc import Sequence

import bpy
import numpy as np

_BOX_CORNERS = np.array([[x, y, z] for z in (-0.5, 0.5) for y in (-0.5, 0.5) for x in (-0.5, 0.5)])
_BOX_FACES = ((0, 2, 3, 1), (4, 5, 7, 6), (0, 1, 5, 4), (2, 6, 7, 3), (0, 4, 6, 2), (1, 3, 7, 5))


def turn(degrees: float, axis: str = "z") -> np.ndarray:
    """Return the 3x3 rotation about a coordinate axis."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    rot = np.eye(3)
    rot[i, i], rot[i, j], rot[j, i], rot[j, j] = c, -s, s, c
    return rot


class MeshBuilder:
    """Collects polygons with a material slot each and turns them into one Blender mesh."""

    def __init__(self) -> None:
        self.verts: list[np.ndarray] = []
        self.faces: list[tuple[int, ...]] = []
        self.slots: list[int] = []
        self.smooth: list[bool] = []
        self.uvs: list[np.ndarray] = []
        self.count = 0

    def add(
        self,
        verts: np.ndarray,
        faces: Sequence[Sequence[int]],
        slot: int = 0,
        smooth: bool = False,
        uv: np.ndarray | None = None,
    ) -> None:
        """Append polygons; ``slot`` may be one material slot or one per face."""
        verts = np.asarray(verts, dtype=np.float64)
        base = self.count
        self.verts.append(verts)
        self.uvs.append(np.zeros((len(verts), 2)) if uv is None else np.asarray(uv, dtype=np.float64))
        self.count += len(verts)
        self.faces.extend(tuple(base + i for i in face) for face in faces)
        self.slots.extend([slot] * len(faces) if isinstance(slot, int) else slot)
        self.smooth.extend([smooth] * len(faces))

    def quad(self, corners: Sequence[Sequence[float]], slot: int = 0) -> None:
        """Append one quad."""
        self.add(np.asarray(corners), [(0, 1, 2, 3)], slot)

    def box(
        self,
        centre: Sequence[float],
        size: Sequence[float],
        slot: int = 0,
        rot: np.ndarray | None = None,
    ) -> None:
        """Append a box of the given full size, optionally rotated about its centre."""
        pts = _BOX_CORNERS * np.asarray(size)
        if rot is not None:
            pts = pts @ rot.T
        self.add(pts + np.asarray(centre), _BOX_FACES, slot)

    def grid(self, points: np.ndarray, slot=0, smooth: bool = True, wrap: bool = True, uv=None) -> None:
        """Append the quads of an ``(n, m, 3)`` lattice, wrapping round the second axis if asked."""
        n, m = points.shape[:2]
        cols = m if wrap else m - 1
        faces = [
            (i * m + j, i * m + (j + 1) % m, (i + 1) * m + (j + 1) % m, (i + 1) * m + j)
            for i in range(n - 1)
            for j in range(cols)
        ]
        self.add(points.reshape(-1, 3), faces, slot, smooth, uv)

    def tube(
        self,
        path: Sequence[Sequence[float]],
        radii: Sequence,
        slot: int = 0,
        sides: int = 10,
        ref: Sequence[float] = (0, 1, 0),
        smooth: bool = True,
    ) -> None:
        """Append a closed tube along a path; a radius may be a pair (across, along ``ref``)."""
        path = np.asarray(path, dtype=np.float64)
        rad = np.array([r if np.ndim(r) else (r, r) for r in radii], dtype=np.float64)
        tangent = np.gradient(path, axis=0)
        tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-9
        u = np.cross(np.asarray(ref, dtype=np.float64)[None], tangent)
        u /= np.linalg.norm(u, axis=1, keepdims=True) + 1e-9
        v = np.cross(tangent, u)
        ang = np.linspace(0, 2 * np.pi, sides, endpoint=False)
        ring = (
            path[:, None]
            + u[:, None] * (rad[:, :1] * np.cos(ang))[..., None]
            + v[:, None] * (rad[:, 1:] * np.sin(ang))[..., None]
        )
        self.grid(ring, slot, smooth)
        for pts, order in ((ring[0], -1), (ring[-1], 1)):
            self.add(pts, [tuple(range(sides))[::order]], slot)

    def ellipsoid(
        self,
        centre: Sequence[float],
        radii: Sequence[float],
        slot: int = 0,
        sides: int = 12,
        rings: int = 8,
        rot: np.ndarray | None = None,
        cut: float = 1.0,
    ) -> None:
        """Append an ellipsoid; ``cut`` < 1 keeps only its upper part."""
        theta = np.linspace(0.02, np.pi * cut - 0.02, rings)
        phi = np.linspace(0, 2 * np.pi, sides, endpoint=False)
        pts = np.stack(
            [
                np.sin(theta)[:, None] * np.cos(phi),
                -np.sin(theta)[:, None] * np.sin(phi),
                np.cos(theta)[:, None] * np.ones_like(phi),
            ],
            axis=-1,
        ) * np.asarray(radii)
        if rot is not None:
            pts = pts @ rot.T
        self.grid(pts + np.asarray(centre), slot)

    def torus(self, centre, radius: float, thick: float, slot: int = 0, rot=None, flat: float = 1.0) -> None:
        """Append a ring about the local z axis."""
        a = np.linspace(0, 2 * np.pi, 28)
        b = np.linspace(0, 2 * np.pi, 10, endpoint=False)
        r = radius + thick * np.cos(b)[None]
        pts = np.stack(
            [
                np.cos(a)[:, None] * r,
                np.sin(a)[:, None] * r,
                np.broadcast_to(flat * thick * np.sin(b), (len(a), len(b))),
            ],
            axis=-1,
        )
        if rot is not None:
            pts = pts @ rot.T
        self.grid(pts + np.asarray(centre), slot)

    def strip(self, left: np.ndarray, right: np.ndarray, uv_left, uv_right, slot: int = 0) -> None:
        """Append a ribbon between two polylines, with texture coordinates in metres."""
        pts = np.stack([left, right], axis=1)
        uv = np.stack([uv_left, uv_right], axis=1).reshape(-1, 2)
        self.grid(pts, slot, smooth=False, wrap=False, uv=uv)

    def leaves(self, rng: np.random.Generator, points: np.ndarray, size: float, slot: int = 0) -> None:
        """Append a randomly tilted leaf-shaped quad at every point."""
        n = len(points)
        a = rng.normal(size=(n, 3))
        a /= np.linalg.norm(a, axis=1, keepdims=True)
        b = np.cross(a, rng.normal(size=(n, 3)))
        b /= np.linalg.norm(b, axis=1, keepdims=True)
        s = size * rng.uniform(0.6, 1.3, size=(n, 1))
        quads = np.stack([points - a * s, points - b * s * 0.55, points + a * s, points + b * s * 0.55], axis=1)
        idx = np.arange(4 * n).reshape(n, 4).tolist()
        self.add(quads.reshape(-1, 3), idx, slot)

    def mesh(self, name: str, materials: Sequence[bpy.types.Material]) -> bpy.types.Mesh:
        """Build the Blender mesh."""
        mesh = bpy.data.meshes.new(name)
        mesh.from_pydata(np.concatenate(self.verts).tolist(), [], self.faces)
        for material in materials:
            mesh.materials.append(material)
        mesh.polygons.foreach_set("material_index", np.array(self.slots, dtype=np.int32))
        mesh.polygons.foreach_set("use_smooth", np.array(self.smooth, dtype=bool))
        loops = np.empty(len(mesh.loops), dtype=np.int32)
        mesh.loops.foreach_get("vertex_index", loops)
        layer = mesh.uv_layers.new(name="UVMap")
        layer.data.foreach_set("uv", np.concatenate(self.uvs)[loops].astype(np.float32).ravel())
        mesh.update()
        return mesh


def place(
    mesh: bpy.types.Mesh,
    label: int,
    location: Sequence[float],
    heading: float = 0.0,
    scale: float | Sequence[float] = 1.0,
    tint: Sequence[float] = (1.0, 1.0, 1.0),
    tilt: Sequence[float] = (0.0, 0.0),
) -> bpy.types.Object:
    """Put an object that uses ``mesh`` into the scene; ``label`` is what the label pass writes for it."""
    obj = bpy.data.objects.new(mesh.name, mesh)
    obj.location = location
    obj.rotation_euler = (tilt[0], tilt[1], heading)
    obj.scale = (scale,) * 3 if np.isscalar(scale) else scale
    obj.color = (*tint, 1.0)
    obj.pass_index = label
    bpy.context.scene.collection.objects.link(obj)
    return obj
