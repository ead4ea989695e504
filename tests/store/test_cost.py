"""What scores cost: bytes add up to what lies on disk, times are those that were measured, tables show both."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
import xarray as xr
from frame_files import members
from tiny import SCORES, TinyNet

import gradunc_viz as gv
from gradunc_viz.cli.main import main
from gradunc_viz.run import cost as run_cost
from gradunc_viz.run.cost import measured
from gradunc_viz.schema.errors import CacheError, GraduncError
from gradunc_viz.schema.frame import VARIABLES
from gradunc_viz.store.cost import measured_cost
from gradunc_viz.tables.cost import cost_table
from gradunc_viz.tables.evaluation import evaluation_table, records


@pytest.fixture(scope="module")
def profiled(tiny_set, tmp_path_factory) -> gv.Cache:
    out = tmp_path_factory.mktemp("cost") / "cache"
    net = TinyNet().eval()
    return gv.compute(net, gv.open_frames(tiny_set), out, scores=SCORES, profile=True, progress=False)


def test_profiling_changes_nothing_of_the_frames(profiled, tiny_cache):
    assert profiled.key == tiny_cache.key
    for frame in profiled.ids:
        xr.testing.assert_identical(profiled[frame].load(), tiny_cache[frame].load())
    assert measured_cost(tiny_cache) is None
    assert gv.open_cache(profiled.path).ids == profiled.ids


def test_every_score_is_measured(profiled):
    found = gv.cost(profiled)
    assert list(found["score"].values) == list(SCORES)
    assert (found["ms"] > 0).all()
    np.testing.assert_allclose(found["share_of_forward"], found["ms"] / found.attrs["forward_ms"])
    assert found.attrs["together_ms"] > 0
    assert (found.attrs["frame"], found.attrs["size"]) == ("f00", [48, 64])
    assert found.attrs["device"].startswith("cpu, 1 thread")


def test_bytes_add_up_to_what_belongs_to_scores(profiled):
    total = 0
    for frame in profiled.ids:
        for file, content in members(profiled.path / "frames" / frame).items():
            name = file.partition("/")[0]
            dims = VARIABLES[name].dims if name in VARIABLES else (name,)
            if name != "zarr.json" and {"score", "score_head", "score_pixel"} & set(dims):
                total += len(content)
    assert float(gv.cost(profiled)["bytes"].sum()) == pytest.approx(total / len(profiled))


def test_bytes_need_no_profile_and_follow_the_score(tiny_set, tmp_path):
    def of(*scores):
        cache = gv.compute(TinyNet().eval(), gv.open_frames(tiny_set), tmp_path / "-".join(scores), scores=scores,
                           progress=False)  # fmt: skip
        return cache, gv.cost(cache)["bytes"]

    _, one = of("entropy")
    cache, two = of("entropy", "pgn_oh_p1")
    assert float(two.sel(score="entropy")) < float(one.sel(score="entropy"))  # what is shared is split
    assert gv.cost(cache)["ms"].isnull().all()
    now = gv.combine(cache, progress=False, scores=("entropy", "pgn_oh_p1"))
    assert float(gv.cost(now)["bytes"].sel(score="rank:entropy+pgn_oh_p1")) > 0
    assert "not measured; compute with --profile" in repr(cost_table(gv.cost(now)))


def test_the_best_of_three_counts(monkeypatch):
    clock = iter(np.cumsum([0, 9, 0, 3, 0, 2, 0, 5] * 10).astype(float))
    monkeypatch.setattr(run_cost.time, "perf_counter", lambda: next(clock))

    def scored(names):
        if names == ("odd",):
            raise GraduncError("only together with others")
        return lambda: None

    found = measured(lambda: None, scored, ("a", "odd"), torch.device("cpu"))
    assert found["scores"] == {"a": 2000, "odd": None}
    assert (found["together"], found["forward"]) == (2000, 2000)


def test_tables_show_it_where_it_is_known(profiled, tiny_cache, tmp_path):
    cache = gv.open_cache(shutil.copytree(profiled.path, tmp_path / "cache"))
    now = gv.combine(cache, ("entropy", "pgn_oh_p1"), progress=False)
    result = gv.evaluate({"a": now, "b": tiny_cache}, "error", bootstrap=3)
    assert result["ms"].sel(cache="a", score="entropy") == gv.cost(now)["ms"].sel(score="entropy")
    assert result["ms"].sel(cache="b").isnull().all()
    assert result["ms"].sel(cache="a", score="rank:entropy+pgn_oh_p1").isnull()
    table = evaluation_table(result, metrics=["auroc"])
    assert [column.name for column in table.columns] == ["AuROC", "ms", "kB"] * 2
    assert not table.best()[:, 1:3].any()
    assert "–" in table.to_markdown()
    row = {r["score"]: r for r in records(result) if r["cache"] == "a"}["entropy"]
    assert row["ms"] > 0
    assert row["bytes"] > 0
    paper = gv.figures.pixel_table({"a": now}, scores=["entropy", "msp"])
    assert [column.name for column in paper.columns][-2:] == ["ms", "kB"]
    assert [c.name for c in gv.figures.ood_table(now, components=False).columns] == ["AuPRC", "FPR95", "ms", "kB"]
    assert "ms" not in gv.evaluate(tiny_cache, "error", bootstrap=0)
    assert "ms" not in gv.evaluate(now, "error", by="frame")


def test_from_the_command_line(tiny_set, tmp_path, capsys):
    out = str(tmp_path / "cache")
    command = ["compute", "--model", "demo", "--data", str(tiny_set), "--out", out, "--limit", "2", "--quiet"]
    assert main([*command, "--scores", "entropy,pgn_oh_p1", "--profile"]) == 0
    told = capsys.readouterr().out
    assert "What scores cost, per frame" in told
    assert "2 scores together" in told
    assert "kernels share work" in told
    assert main(["info", out]) == 0
    assert "forward pass" in capsys.readouterr().out
    assert main(["evaluate", out, "--bootstrap", "0", "--quiet", "--task", "error"]) == 0
    told = capsys.readouterr().out
    assert "kB" in told
    assert "ms, kB: per frame" in told
    assert main(["scores"]) == 0
    told = capsys.readouterr().out
    assert "cost" in told
    assert "none beyond the forward pass" in told


def test_damage_is_told(profiled, tmp_path):
    cache = gv.open_cache(shutil.copytree(profiled.path, tmp_path / "cache"))
    for content in ("{", "[]", json.dumps({"scores": {"a": "b"}}), json.dumps({"scores": {}})):
        (cache.path / "cost.json").write_text(content)
        with pytest.raises(CacheError, match=r"cost.json: cannot be read .*; remove it"):
            gv.cost(cache)
