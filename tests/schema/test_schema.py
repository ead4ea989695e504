"""Names, entries and the form of a frame."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from gradunc_viz.schema.errors import GraduncError, SchemaError, UnknownScoreError
from gradunc_viz.schema.frame import SCHEMA_VERSION, VARIABLES, check_frame_id, id_type, ignore_id, ignored, validate
from gradunc_viz.schema.scores import (
    DEFAULT_SCORES,
    PAPER_NORMS,
    PAPER_SCORES,
    SCORES,
    GradientScore,
    lookup,
    resolve_scores,
)


def test_default_scores():
    assert DEFAULT_SCORES == ("pgn_oh_p0.5", "pgn_oh_p1", "pgn_oh_p2", "pgn_uni_p0.5", "msp", "entropy")


def test_paper_scores_are_ten_exact_and_ten_paper_norms_msp_and_entropy():
    norms = [f"pgn_{label}_p{p:g}" for label in ("oh", "uni") for p in PAPER_NORMS]
    assert (*norms, *(f"{name}_paper" for name in norms), "msp", "entropy") == PAPER_SCORES
    assert len(set(PAPER_SCORES)) == 22


def test_scores_are_keyed_by_their_names_and_fully_described():
    for name, entry in SCORES.items():
        assert entry.name == name
        assert entry.orientation in (-1, +1)
        assert entry.formula
        assert entry.units in ("log2", "nats", "1", "logit")
        assert entry.title
        if "fit" not in entry.needs and entry.family != "queries":
            assert entry.at_head == (entry.units == "log2") == isinstance(entry, GradientScore)
        assert entry.source


@pytest.mark.parametrize(
    ("name", "label", "p", "variant", "orientation"),
    [
        ("pgn_oh_p0.1", "oh", 0.1, "exact", 1),
        ("pgn_uni_p0.1", "uni", 0.1, "exact", -1),
        ("pgn_uni_p2", "uni", 2.0, "exact", -1),
        ("pgn_uni_p0.5_paper", "uni", 0.5, "paper", 1),
        ("pgn_uni_p1_paper", "uni", 1.0, "paper", -1),
        ("pgn_oh_p0.7", "oh", 0.7, "exact", 1),
        ("pgn_uni_p3_paper", "uni", 3.0, "paper", -1),
        ("pgn_oh_p20", "oh", 20.0, "exact", 1),
        ("pgn_oh_p0.1234567", "oh", 0.1234567, "exact", 1),
        ("pgn_exp_p0.1", "exp", 0.1, "exact", 1),
        ("pgn_exp_p3", "exp", 3.0, "exact", 1),
        ("pgn_oh_p0.0000001", "oh", 1e-7, "exact", 1),
        ("pgn_oh_p1000000", "oh", 1e6, "exact", 1),
    ],
)
def test_entry_of_any_gradient_norm(name, label, p, variant, orientation):
    entry = lookup(name)
    assert (entry.name, entry.label, entry.p, entry.variant) == (name, label, p, variant)
    assert (entry.orientation, entry.units, entry.at_head) == (orientation, "log2", True)


@pytest.mark.parametrize(
    ("name", "request_", "orientation", "needs"),
    [
        ("label_oh_p0.7", ("oh", 0.7, "exact", "label", 1, 1), 1, {"logits"}),
        ("label_uni_p1", ("uni", 1.0, "exact", "label", 1, 1), -1, {"logits"}),
        ("label_exp_p2", ("exp", 2.0, "exact", "label", 1, 1), 1, {"logits"}),
        ("feature_p0.5", ("", 0.5, "exact", "feature", 1, 1), -1, {"logits", "features"}),
        ("pgn2_oh_p2", ("oh", 2.0, "exact", "norm", 1, 2), 1, {"logits", "hidden"}),
        ("pgn2_uni_p3", ("uni", 3.0, "exact", "norm", 1, 2), -1, {"logits", "hidden"}),
        ("gradnorm", ("uni", 1.0, "exact", "norm", 1, 1), -1, {"logits", "features"}),
        ("expgrad", ("exp", 1.0, "exact", "norm", 1, 1), 1, {"logits", "features"}),
        ("fisher", ("exp", 2.0, "exact", "norm", 2, 1), 1, {"logits", "features"}),
    ],
)
def test_entry_of_what_is_made_of_a_gradient(name, request_, orientation, needs):
    entry = lookup(name)
    assert (entry.name, entry.request, entry.orientation, entry.needs) == (name, request_, orientation, needs)
    assert (entry.units, entry.at_head, entry.family) == ("log2", True, "gradient")
    assert entry.source


def test_orientation_of_the_softmax_family():
    signs = {name: lookup(name).orientation for name in ("msp", "entropy", "margin", "energy", "max_logit")}
    assert signs == {"msp": 1, "entropy": 1, "margin": 1, "energy": 1, "max_logit": -1}


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("entropie", "did you mean entropy"),
        ("pgn_oh_p.5", "pgn_oh_p0.5"),
        ("pgn_oh_0.5", "pgn_oh_p0.5"),
        ("pgn_oh_p1.0", "write it 'pgn_oh_p1'"),
        ("pgn_oh_p01", "write it 'pgn_oh_p1'"),
        ("pgn_oh_p0", "unknown score 'pgn_oh_p0'"),
        ("pgn_exp_p1_paper", "leaves out the class that is the label"),
        ("label_exp_p0.50", "write it 'label_exp_p0.5'"),
        ("feature_p0", "unknown score 'feature_p0'"),
        ("pgn2_exp_p1", "unknown score 'pgn2_exp_p1'"),
        ("pgn_oh_p" + "9" * 400, "unknown score"),
        ("xyz", "'gradunc scores' lists them all"),
        ("", "unknown score ''"),
    ],
)
def test_unknown_name_offers_the_nearest(name, hint):
    with pytest.raises(UnknownScoreError) as raised:
        lookup(name)
    assert hint in str(raised.value)
    assert isinstance(raised.value, GraduncError)
    assert isinstance(raised.value, KeyError)


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        (None, DEFAULT_SCORES),
        ("default", DEFAULT_SCORES),
        ("paper", PAPER_SCORES),
        ("all", tuple(name for name, score in SCORES.items() if score.needs <= {"logits", "features"})),
        ("fitted", tuple(name for name, entry in SCORES.items() if "fit" in entry.needs)),
        ("ens", tuple(name for name in SCORES if name.startswith("ens_"))),
        ("msp", ("msp",)),
        (" entropy , msp,entropy,", ("entropy", "msp")),
        (["pgn_oh_p0.7", "msp", "msp"], ("pgn_oh_p0.7", "msp")),
        ((name for name in ("margin", "energy")), ("margin", "energy")),
    ],
)
def test_resolve_scores(asked, names):
    assert resolve_scores(asked) == names


@pytest.mark.parametrize("asked", ["", " , ", [], "msp,nonsense", ["nonsense"]])
def test_resolve_scores_refuses(asked):
    with pytest.raises(UnknownScoreError):
        resolve_scores(asked)


@pytest.mark.parametrize(
    "frame_id", ["a", "frankfurt_000000_000294", "ä b (1).png", "a..b", "_a", "x" * 200, "ü" * 100, "-rf", "%2e%2e"]
)
def test_frame_id_that_can_name_a_group(frame_id):
    assert check_frame_id(frame_id) == frame_id


@pytest.mark.parametrize(
    "frame_id",
    ["", ".", "..", ".hidden", "a/b", "../a", "/a", "a\\b", "a\0b", "a\n", "\x7f", "__meta", "zarr.json", "x" * 201,
     "ü" * 101, "a\udc80"],
)  # fmt: skip
def test_frame_id_that_cannot_name_a_group(frame_id):
    with pytest.raises(SchemaError, match="cannot name a group"):
        check_frame_id(frame_id)


# --------------------------------------------------------------------------------------------------------------------
# validate

SIZES = {"score_head": 1, "score_pixel": 1, "score": 2, "class": 3, "label_class": 3, "quantile": 6}


def frame(**replaced) -> xr.Dataset:
    """Return a small frame with every variable."""
    arrays = {
        name: (
            spec.dims,
            np.zeros([SIZES.get(dim, 4) for dim in spec.dims], {"u": "u1", "i": "i4", "f": "f4"}[spec.kinds[0]]),
        )
        for name, spec in VARIABLES.items()
    } | replaced
    return xr.Dataset(
        {name: value for name, value in arrays.items() if value is not None},
        coords={
            "score": ["pgn_oh_p1", "msp"],
            "score_head": ["pgn_oh_p1"],
            "score_pixel": ["msp"],
            "class": ["a", "b", "c"],
        },
        attrs={"schema_version": SCHEMA_VERSION, "frame_id": "f7"},
    )


def test_whole_frame_is_returned_unchanged():
    dataset = frame()
    assert validate(dataset) is dataset


@pytest.mark.parametrize(
    "name", [name for name, spec in VARIABLES.items() if not spec.required and name != "head_score"]
)
def test_optional_variable_may_be_absent(name):
    validate(frame(**{name: None}))


@pytest.mark.parametrize("name", [name for name, spec in VARIABLES.items() if spec.required])
def test_required_variable_is_named_when_absent(name):
    with pytest.raises(SchemaError, match=f"'f7'.*'{name}' is missing"):
        validate(frame(**{name: None}))


@pytest.mark.parametrize("name", [name for name, spec in VARIABLES.items() if spec.dims])
def test_wrong_dims_are_named_with_the_expected_ones(name):
    spec = VARIABLES[name]
    wrong = (*spec.dims[:-1], "z")
    with pytest.raises(SchemaError) as raised:
        validate(frame(**{name: (wrong, np.zeros([SIZES.get(dim, 4) for dim in wrong], "f4"))}))
    for part in ("'f7'", f"'{name}'", f"{wrong}", f"expected {spec.dims}"):
        assert part in str(raised.value)


@pytest.mark.parametrize("name", VARIABLES)
def test_wrong_dtype_is_named(name):
    spec = VARIABLES[name]
    with pytest.raises(SchemaError, match=f"'{name}' has dtype bool, expected one of kind '{spec.kinds}'"):
        validate(frame(**{name: (spec.dims, np.zeros([SIZES.get(dim, 4) for dim in spec.dims], bool))}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.assign_attrs(schema_version=7), "schema version is 7, expected 3"),
        (lambda d: d.drop_attrs(), "schema version is None"),
        (lambda d: d.assign(extra=0), r"unknown variables \['extra'\]"),
        (lambda d: d.drop_vars("class"), "coordinate 'class' is missing"),
        (lambda d: d.drop_vars("score"), "coordinate 'score' is missing"),
        (lambda d: d.assign_coords({"class": ["a", "b", "a"]}), "'class' repeats a name"),
        (lambda d: d.assign_coords(score=["msp", "msp"]), "'score' repeats a name"),
        (lambda d: d.assign_coords(score=["pgn_oh_p2", "msp"]), "'pgn_oh_p2' is listed but 'score_head'"),
        (lambda d: d.assign_coords(score=["pgn_oh_p1", "entropy"]), "'entropy' is listed but 'score_pixel'"),
        (lambda d: d.assign_coords(score=["pgn_oh_p1", "nonsense"]), "unknown score 'nonsense'"),
    ],
)
def test_contradiction_is_named(change, message):
    with pytest.raises(GraduncError, match=message):
        validate(change(frame()))


@pytest.mark.parametrize(("n_classes", "dtype"), [(2, "u1"), (255, "u1"), (256, "u2"), (1000, "u2")])
def test_ids_leave_one_number_for_what_is_ignored(n_classes, dtype):
    assert id_type(n_classes) == dtype
    ignore = ignore_id(id_type(n_classes))
    assert ignore == np.iinfo(dtype).max
    ids = np.array([0, n_classes - 1, ignore], dtype)
    assert ignored(ids).tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("given", "near"),
    [("pgn_oh_p1_decodr", "pgn_oh_p1_decoder"), ("pgn_uni_p0.5_mask", "pgn_uni_p0.5_masks"), ("mspp", "msp")],
)
def test_names_of_patterns_are_offered(given, near):
    with pytest.raises(UnknownScoreError, match=f"did you mean {near}[,?]"):
        lookup(given)
