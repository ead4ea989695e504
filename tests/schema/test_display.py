"""What objects show of themselves in a notebook and as plain text."""

from __future__ import annotations

import re

import pytest
import torch
from frame_files import unpacked
from synthetic import new_writer, write_frame
from tiny import TinyNet

import gradunc_viz as gv
from gradunc_viz.store.cache import open_cache


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))


def test_cache_shows_frames_and_facts(tmp_path) -> None:
    path = tmp_path / "<b>cache"
    with new_writer(path) as writer:
        for seed in range(8):
            write_frame(writer, f"<i>{seed}", seed=seed)
    cache = open_cache(path)
    page = cache._repr_html_()
    assert page.count("data:image/jpeg;base64,") == 6
    assert "% wrong" not in page  # the table over frames is not made for a look
    assert "<i>0" not in page
    assert "<b>cache" not in page
    _ = cache.summary
    assert (
        re.findall(r"([\d.]+ % wrong)", cache._repr_html_())[0]
        == f"{100 * float(cache.summary.error_rate[0]):.1f} % wrong"
    )
    assert repr(cache).startswith(f"<Cache {path}: 8 frames, 4 scores")


def test_damaged_cache_still_shows_itself(tmp_path) -> None:
    with new_writer(tmp_path / "c") as writer:
        write_frame(writer, "a")
        write_frame(writer, "b")
    with unpacked(tmp_path / "c/frames/a") as files:
        (files / "thumbnail/zarr.json").write_text("no")
    assert open_cache(tmp_path / "c")._repr_html_().count("data:image") == 1


def test_head_before_and_after_a_forward_pass() -> None:
    net = TinyNet().eval()
    with gv.capture(net) as head:
        assert "nothing captured" in repr(head)
        assert "nothing captured" in head._repr_html_()
        net(torch.rand(1, 3, 8, 12))
    assert repr(head) == (
        "<Head 'classifier', Conv2d(6, 4, kernel_size=(1, 1), stride=(1, 1)): "
        "logits (1, 4, 4, 6), features (1, 6, 4, 6)>"
    )
    page = head._repr_html_()
    assert "1 × 4 × 4 × 6 (N, classes, h, w)" in text_of(page)
    assert "data:image/png;base64," in page


def test_network() -> None:
    net = gv.Network(TinyNet(), name="<b>", classes=["a", "<i>", "c", "d"], drop_channels=[3], normalize="imagenet")
    page = net._repr_html_()
    assert "<b><b>" not in page
    assert "&lt;i&gt;" in page
    assert "channels 3" in page
    assert (
        repr(net)
        == f"<Network <b>: 4 classes, {sum(p.numel() for p in net.parameters())} parameters, head found when it runs>"
    )
    assert "not named" in gv.Network(TinyNet())._repr_html_()


@pytest.mark.parametrize("name", gv.SCORES)
def test_score_entries(name: str) -> None:
    entry = gv.lookup(name)
    shown = text_of(entry._repr_html_())
    assert name in shown
    assert ("uncertain (large)" in shown) == (entry.orientation > 0)
    assert repr(entry).startswith(f"{type(entry).__name__}(name={name!r}")


def test_evaluation_reads_well(tiny_cache: gv.Cache) -> None:
    result = gv.evaluate(tiny_cache, "error", bootstrap=3)
    assert all(
        array.attrs.get("long_name") for array in result.data_vars.values() if array.name in ("auroc", "auroc_low")
    )
    assert result["n_pixels"].attrs["units"] == "px"
    shown = gv.tables.evaluation_table(result)
    assert "AuROC" in repr(shown)
    assert "<table" in shown._repr_html_()


@pytest.mark.parametrize("name", [n for n in gv.figures.__all__ if callable(getattr(gv.figures, n))])
def test_help_says_what_and_how(name: str) -> None:
    text = getattr(gv.figures, name).__doc__
    assert text
    assert len(text.splitlines()[0]) <= 120
