"""Ground, wall and plant surfaces of the demo scenes (asphalt, paving, facades, leaves, car paint)."""

from __future__ import annotations

from materials import Graph, Library


def _wetness(g: Graph, lib: Library, where):
    """Puddle mask in 0..1, growing with the library's wetness."""
    pools = g.noise(where, 0.35, 3.0, 0.5)
    return g.ramp(pools, 0.62 - 0.30 * lib.wet, 0.66 - 0.16 * lib.wet, 0.0, min(1.0, 1.4 * lib.wet))


def _road_colour(g: Graph, lib: Library):
    """Colour, roughness and height of asphalt."""
    pos = g.position()
    uv = g.node("TexCoord")["UV"]
    broad = g.noise(pos, 0.25, 3.0, 0.6)
    fine = g.noise(pos, 60.0, 1.0, 0.7)
    colour = g.mix(g.ramp(broad, 0.3, 0.7), (0.052, 0.050, 0.048, 1), (0.098, 0.093, 0.086, 1))
    colour = g.mix(g.ramp(fine, 0.45, 0.75, 0.0, 0.55), colour, (0.20, 0.195, 0.185, 1))
    # Repaired patches: blocky cells of a stretched Voronoi pattern, a few of them fresh and dark.
    cells = g.node("TexVoronoi", {"distance": "CHEBYCHEV"}, Vector=g.scale_vec(uv, (0.33, 0.14, 1)), Scale=1.0)
    fresh = g.math("GREATER_THAN", g.node("SeparateColor", None, Color=cells["Color"])[0], 0.82)
    colour = g.mix(g.math("MULTIPLY", fresh, 0.55), colour, (0.028, 0.028, 0.030, 1))
    # Wheel tracks polish two darker bands into each lane.
    lateral = g.node("SeparateXYZ", None, Vector=uv)[0]
    band = g.math("COSINE", g.math("MULTIPLY", lateral, 3.7))
    colour = g.mix(g.ramp(band, 0.2, 1.0, 0.0, 0.25), colour, (0.03, 0.03, 0.032, 1))
    cracks = g.node("TexVoronoi", {"feature": "DISTANCE_TO_EDGE"}, Vector=pos, Scale=0.45, Randomness=1.0)[0]
    warped = g.math("ADD", cracks, g.math("MULTIPLY", g.math("SUBTRACT", g.noise(pos, 4.0, 2.0), 0.5), 0.10))
    crack = g.math("MULTIPLY", g.ramp(warped, 0.0, 0.012, 1.0, 0.0), g.ramp(broad, 0.5, 0.6))
    colour = g.mix(crack, colour, (0.012, 0.012, 0.012, 1))
    # The bump node evaluates its height three times: give it the cheapest part only.
    return colour, g.ramp(fine, 0.3, 0.7, 0.75, 0.95), fine


def _finish_ground(g: Graph, lib: Library, colour, rough, height, bump: float):
    """Darken and smooth a ground surface where it is wet."""
    if lib.wet > 0:
        pool = _wetness(g, lib, g.position())
        damp = g.math("MAXIMUM", pool, 0.55 * lib.wet)
        colour = g.mix(g.math("MULTIPLY", damp, 0.55), colour, (0.012, 0.012, 0.014, 1))
        rough = g.math("ADD", g.math("MULTIPLY", rough, g.math("SUBTRACT", 1.0, damp)), 0.04)
        strength = g.math("MULTIPLY", g.math("SUBTRACT", 1.0, pool), bump)
    else:
        strength = bump
    normal = g.bump(height, strength)
    return g.node("BsdfPrincipled", None, Base_Color=colour, Roughness=rough, Normal=normal)[0]


def asphalt(g: Graph, lib: Library):
    """Carriageway."""
    return _finish_ground(g, lib, *_road_colour(g, lib), 0.5)


def paint(g: Graph, lib: Library):
    """Lane markings, worn through to the asphalt in places."""
    colour, rough, height = _road_colour(g, lib)
    wear = g.ramp(g.noise(g.position(), 7.0, 6.0, 0.7), 0.38, 0.56)
    colour = g.mix(g.math("MULTIPLY", wear, 0.92), colour, (0.62, 0.62, 0.58, 1))
    return _finish_ground(g, lib, colour, rough, height, 0.3)


def paving(g: Graph, lib: Library):
    """Sidewalk slabs."""
    pos = g.position()
    uv = g.node("TexCoord")["UV"]
    slabs = g.node(
        "TexBrick",
        {"offset": 0.5},
        Vector=uv,
        Scale=1.0,
        Color1=(0.30, 0.285, 0.265, 1),
        Color2=(0.22, 0.212, 0.20, 1),
        Mortar=(0.085, 0.08, 0.075, 1),
        Mortar_Size=0.012,
        Brick_Width=0.6,
        Row_Height=0.6,
    )
    stain = g.noise(pos, 1.1, 4.0, 0.65)
    colour = g.mix(g.ramp(stain, 0.4, 0.75, 0.0, 0.6), slabs["Color"], (0.12, 0.115, 0.105, 1))
    colour = g.mix(1.0, colour, g.tint(), "MULTIPLY")
    height = g.noise(pos, 40.0, 1.0)
    return _finish_ground(g, lib, colour, 0.85, height, 0.25)


def kerb(g: Graph, lib: Library):
    """Kerb stones with joints."""
    pos = g.position()
    along = g.node("SeparateXYZ", None, Vector=g.node("TexCoord")["UV"])[1]
    joint = g.math("LESS_THAN", g.math("FRACT", g.math("MULTIPLY", along, 0.8)), 0.02)
    grain = g.noise(pos, 25.0, 2.0, 0.7)
    colour = g.mix(g.ramp(grain, 0.3, 0.7), (0.24, 0.235, 0.225, 1), (0.40, 0.39, 0.37, 1))
    colour = g.mix(joint, colour, (0.05, 0.05, 0.05, 1))
    return _finish_ground(g, lib, colour, 0.8, grain, 0.3)


def grass(g: Graph, lib: Library):
    """Lawn and verge."""
    pos = g.position()
    broad, fine = g.noise(pos, 0.5, 3.0), g.noise(pos, 22.0, 3.0, 0.7)
    colour = g.mix(g.ramp(broad, 0.35, 0.65), (0.045, 0.085, 0.018, 1), (0.11, 0.125, 0.035, 1))
    colour = g.mix(g.ramp(fine, 0.4, 0.7), colour, (0.025, 0.05, 0.010, 1))
    colour = g.mix(0.8, colour, g.tint(), "MULTIPLY")
    return _finish_ground(g, lib, colour, 0.95, fine, 1.0)


def wall(kind: str):
    """Facade of the given kind, coloured by the object's tint."""

    def author(g: Graph, lib: Library):
        obj = g.node("TexCoord")["Object"]
        x, y, z = g.node("SeparateXYZ", None, Vector=obj)
        # Walls lie along x or y, so x + y runs along either kind without a seam in the pattern.
        flat = g.node("CombineXYZ", None, X=g.math("ADD", x, y), Y=z)[0]
        tint, streak = g.tint(), g.noise(g.scale_vec(flat, (1.2, 0.25, 1)), 1.0, 4.0, 0.65)
        if kind == "brick":
            cells = g.node(
                "TexBrick",
                None,
                Vector=flat,
                Scale=1.0,
                Color1=(0.92, 0.92, 0.92, 1),
                Color2=(0.55, 0.52, 0.50, 1),
                Mortar=(1.1, 1.15, 1.2, 1),
                Mortar_Size=0.008,
                Brick_Width=0.24,
                Row_Height=0.08,
                Bias=-0.2,
            )["Color"]
            colour, bump = g.mix(1.0, tint, cells, "MULTIPLY"), 0.25
            height = g.noise(flat, 30.0, 1.0)
        elif kind == "panel":
            cells = g.node(
                "TexBrick",
                {"offset": 0.0},
                Vector=flat,
                Scale=1.0,
                Color1=(1, 1, 1, 1),
                Color2=(0.86, 0.86, 0.86, 1),
                Mortar=(0.25, 0.25, 0.25, 1),
                Mortar_Size=0.012,
                Brick_Width=1.5,
                Row_Height=1.0,
            )["Color"]
            colour, height, bump = g.mix(1.0, tint, cells, "MULTIPLY"), g.noise(flat, 12.0, 1.0), 0.1
        elif kind == "boards":
            lap = g.math("FRACT", g.math("MULTIPLY", z, 6.0))
            colour = g.mix(g.ramp(lap, 0.0, 0.16, 0.6, 0.0), tint, (0.03, 0.03, 0.03, 1))
            height, bump = lap, 0.4
        else:
            height, bump = g.noise(flat, 9.0, 2.0, 0.7), 0.35
            colour = g.mix(g.ramp(g.noise(flat, 0.5, 3.0), 0.3, 0.7, 0.0, 0.35), tint, (0.30, 0.27, 0.23, 1))
        colour = g.mix(g.ramp(streak, 0.48, 0.8, 0.0, 0.55), colour, (0.06, 0.055, 0.05, 1))
        low = g.ramp(z, 0.0, 1.0, 0.35, 0.0)
        colour = g.mix(low, colour, (0.05, 0.047, 0.042, 1))
        return g.node("BsdfPrincipled", None, Base_Color=colour, Roughness=0.88, Normal=g.bump(height, bump))[0]

    return author


def window_glass(g: Graph, lib: Library):
    """Panes that mirror the street; some with curtains, some lit at dusk."""
    pick = g.node("NewGeometry")["Random Per Island"]
    curtain = g.math("GREATER_THAN", pick, 0.62)
    obj = g.node("TexCoord")["Object"]
    folds = g.noise(g.scale_vec(obj, (9, 9, 0.3)), 1.0)
    cloth = g.mix(folds, (0.10, 0.095, 0.085, 1), (0.42, 0.40, 0.36, 1))
    colour = g.mix(curtain, (0.015, 0.018, 0.022, 1), cloth)
    lit = g.math("LESS_THAN", g.math("FRACT", g.math("MULTIPLY", pick, 7.31)), 0.42)
    return g.node(
        "BsdfPrincipled",
        None,
        Base_Color=colour,
        Roughness=0.04,
        Specular_IOR_Level=0.9,
        Emission_Color=(1.0, 0.66, 0.32, 1),
        Emission_Strength=g.math("MULTIPLY", lit, 1.6 * lib.dusk),
    )[0]


def roof(g: Graph, lib: Library):
    """Roof tiles."""
    x, y, z = g.node("SeparateXYZ", None, Vector=g.node("TexCoord")["Object"])
    cells = g.node(
        "TexBrick",
        None,
        Vector=g.node("CombineXYZ", None, X=y, Y=g.math("ADD", z, g.math("MULTIPLY", x, 0.0)))[0],
        Scale=1.0,
        Color1=(0.20, 0.085, 0.055, 1),
        Color2=(0.11, 0.05, 0.04, 1),
        Mortar=(0.03, 0.02, 0.02, 1),
        Mortar_Size=0.015,
        Brick_Width=0.3,
        Row_Height=0.18,
    )
    return g.node("BsdfPrincipled", None, Base_Color=cells["Color"], Roughness=0.8)[0]


def leaf(g: Graph, lib: Library):
    """Leaves: each its own shade, with light coming through."""
    pick = g.node("NewGeometry")["Random Per Island"]
    colour = g.mix(pick, (0.45, 0.50, 0.40, 1), (1.25, 1.2, 0.9, 1))
    colour = g.mix(1.0, g.tint(), colour, "MULTIPLY")
    body = g.node("BsdfPrincipled", None, Base_Color=colour, Roughness=0.55)[0]
    through = g.node("BsdfTranslucent", None, Color=g.mix(0.5, colour, (0.25, 0.32, 0.04, 1)))[0]
    return _mix(g, 0.3, body, through)


def _mix(g: Graph, fac, a, b):
    """Mix two shaders."""
    node = g.tree.nodes.new("ShaderNodeMixShader")
    for socket, value in zip(node.inputs, (fac, a, b), strict=True):
        g.set(socket, value)
    return node.outputs[0]


def bark(g: Graph, lib: Library):
    """Tree trunk."""
    obj = g.scale_vec(g.node("TexCoord")["Object"], (9, 9, 1.5))
    rough = g.noise(obj, 1.5, 3.0, 0.7)
    colour = g.mix(g.ramp(rough, 0.35, 0.65), (0.035, 0.026, 0.018, 1), (0.14, 0.11, 0.085, 1))
    return g.node("BsdfPrincipled", None, Base_Color=colour, Roughness=0.95, Normal=g.bump(rough, 0.8, 0.05))[0]


def car_paint(front: float, rear: float, seams: tuple[float, ...], belt: float):
    """Lacquered body; wheel arches, sills and door seams are drawn from object coordinates."""

    def author(g: Graph, lib: Library):
        x, y, z = g.node("SeparateXYZ", None, Vector=g.node("TexCoord")["Object"])
        side = g.math("GREATER_THAN", g.math("ABSOLUTE", x), 0.5)

        def arch(centre: float):
            dy, dz = g.math("SUBTRACT", y, centre), g.math("SUBTRACT", z, 0.33)
            dist = g.math("SQRT", g.math("ADD", g.math("MULTIPLY", dy, dy), g.math("MULTIPLY", dz, dz)))
            return g.math("MULTIPLY", side, g.math("LESS_THAN", dist, 0.385))

        dark = g.math("MAXIMUM", arch(front), arch(rear))
        dark = g.math("MAXIMUM", dark, g.math("LESS_THAN", z, 0.29))
        for seam in seams:
            line = g.math("LESS_THAN", g.math("ABSOLUTE", g.math("SUBTRACT", y, seam)), 0.009)
            span = g.math("MULTIPLY", g.math("GREATER_THAN", z, 0.36), side)
            dark = g.math("MAXIMUM", dark, g.math("MULTIPLY", line, span))
        handle = g.math("LESS_THAN", g.math("ABSOLUTE", g.math("SUBTRACT", z, belt - 0.13)), 0.014)
        near = None
        for seam in seams[1:]:
            one = g.math("LESS_THAN", g.math("ABSOLUTE", g.math("SUBTRACT", y, seam + 0.16)), 0.09)
            near = one if near is None else g.math("MAXIMUM", near, one)
        if near is not None:
            dark = g.math("MAXIMUM", dark, g.math("MULTIPLY", g.math("MULTIPLY", handle, near), side))
        dust = g.ramp(g.math("ADD", z, g.math("MULTIPLY", g.noise(g.position(), 3.0), 0.5)), 0.4, 1.1, 0.35, 0.0)
        colour = g.mix(dust, g.tint(), (0.10, 0.09, 0.075, 1))
        lacquer = g.node(
            "BsdfPrincipled",
            None,
            Base_Color=colour,
            Roughness=0.35,
            Metallic=0.25,
            Coat_Weight=0.9,
            Coat_Roughness=0.04,
        )[0]
        rubber = g.node("BsdfPrincipled", None, Base_Color=(0.008, 0.008, 0.009, 1), Roughness=0.7)[0]
        return _mix(g, dark, lacquer, rubber)

    return author
