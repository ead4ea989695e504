"""Files: widths, 8 pt text, embedded TrueType fonts, the same bytes twice, styles that users bring."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib.text import Text
from PIL import Image

import gradunc_viz as gv
from gradunc_viz import figures
from gradunc_viz.schema.errors import GraduncError

FIGURES = {
    "roc": lambda cache: figures.roc(cache, "anomaly"),
    "bars": lambda cache: figures.metric_bars(cache, bootstrap=5),
    "reliability": lambda cache: figures.reliability(cache),
    "distributions": lambda cache: figures.distributions(cache, min_pixels=1),
    "panel": lambda cache: figures.panel(cache, [0, 1]),
}


def needs_latex(*packages: str) -> None:
    """Skip unless a LaTeX engine with these packages is installed."""
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex")
    for package in packages:
        if not subprocess.run(["kpsewhich", f"{package}.sty"], capture_output=True, check=False).stdout:
            pytest.skip(f"LaTeX has no {package}")


@pytest.mark.parametrize("width", [*figures.WIDTHS, 4.2])
def test_page_is_as_wide_as_the_column(tiny_cache: gv.Cache, tmp_path: Path, width) -> None:
    inches = figures.WIDTHS.get(width, width)
    figure = figures.roc(tiny_cache, width=width)
    page = figures.save(figure, tmp_path / "a.pdf").read_bytes()
    box = [float(v) for v in re.search(rb"/MediaBox \[([^\]]*)\]", page)[1].split()]
    assert box[2] == pytest.approx(72 * inches, abs=1e-3)
    figures.save(figure, tmp_path / "a.png", dpi=200)
    with Image.open(tmp_path / "a.png") as image:
        assert image.width == pytest.approx(200 * inches, abs=1)


@pytest.mark.parametrize("name", FIGURES)
def test_text_is_8_pt_and_inside_the_page(tiny_cache: gv.Cache, name: str) -> None:
    for width in ("cvpr-single", "cvpr-double"):
        with figures.style(width):
            figure = FIGURES[name](tiny_cache)
        figure.savefig(io.BytesIO(), dpi=figure.dpi)  # leaves everything where it stands in the file
        page = figure.bbox
        texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
        assert {t.get_fontsize() for t in texts} == {8}
        assert {t.get_fontfamily()[0] for t in texts} == {"STIXGeneral"}
        # ticks outside of the range of an axis exist, but are not drawn
        ticks = {id(label) for tick in figure.findobj(mpl.axis.Tick) for label in (tick.label1, tick.label2)}
        drawn = [t for t in texts if id(t) not in ticks]
        assert drawn
        for text in drawn:
            box = text.get_window_extent()
            inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= page.x1 + 1 and box.y1 <= page.y1 + 1
            assert inside, (text, box, page.extents)
        for legend in figure.legends:
            taken = [axes.get_tightbbox() for axes in figure.axes]
            assert not legend.get_window_extent().count_overlaps(taken)


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_same_figure_same_bytes(tiny_cache: gv.Cache, tmp_path: Path, name: str) -> None:
    kinds = ("pdf", "svg", "png")
    digests: dict[str, set[str]] = {kind: set() for kind in kinds}
    for i in range(2):
        figure = FIGURES[name](tiny_cache)
        for kind in kinds:
            digests[kind] |= {
                hashlib.sha256(figures.save(figure, tmp_path / f"{i}.{kind}").read_bytes()).hexdigest(),
                # savefig of the figure itself is as good as save
                hashlib.sha256(_saved(figure, tmp_path / f"own{i}.{kind}")).hexdigest(),
            }
    assert {kind: len(found) for kind, found in digests.items()} == dict.fromkeys(kinds, 1)


def _saved(figure, path: Path) -> bytes:
    figure.savefig(path, dpi=300)
    return path.read_bytes()


@pytest.mark.slow
def test_same_bytes_in_another_process(tiny_cache: gv.Cache, tmp_path: Path) -> None:
    code = (
        "import sys, hashlib, pathlib, gradunc_viz as gv\n"
        "for kind in ('pdf', 'svg', 'png'):\n"
        "    path = gv.figures.save(gv.figures.roc(sys.argv[1]), f'{sys.argv[2]}/a.{kind}')\n"
        "    print(hashlib.sha256(path.read_bytes()).hexdigest())\n"
    )
    seen = set()
    for seed in ("1", "2"):
        arguments = [sys.executable, "-c", code, str(tiny_cache.path), str(tmp_path)]
        done = subprocess.run(arguments, env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path), "HOME": "/tmp"},
                              capture_output=True, text=True, check=True)  # fmt: skip
        seen.add(done.stdout)
    assert len(seen) == 1


@pytest.mark.parametrize("name", FIGURES)
def test_pdf_embeds_truetype(tiny_cache: gv.Cache, tmp_path: Path, name: str) -> None:
    page = figures.save(FIGURES[name](tiny_cache), tmp_path / "a.pdf").read_bytes()
    assert b"/Subtype /Type3" not in page
    assert page.count(b"/FontFile2") == page.count(b"/Type /FontDescriptor") > 0
    assert b"STIX" in page


def test_pdffonts_agrees(tiny_cache: gv.Cache, tmp_path: Path) -> None:
    if shutil.which("pdffonts") is None:
        pytest.skip("no pdffonts (poppler-utils)")
    path = figures.save(figures.roc(tiny_cache), tmp_path / "a.pdf")
    lines = subprocess.run(["pdffonts", str(path)], capture_output=True, text=True, check=True).stdout.splitlines()[2:]
    assert lines
    for text in lines:
        assert "TrueType" in text
        # emb, sub, uni stand before the object's two numbers
        assert text.split()[-5:-3] == ["yes", "yes"], text


def test_pictures_in_a_pdf_have_the_resolution_asked_for(tiny_cache: gv.Cache, tmp_path: Path) -> None:
    figure = figures.panel(tiny_cache, [0], columns=["entropy"])
    sizes = []
    for dpi in (100, 300):
        page = figures.save(figure, tmp_path / "a.pdf", dpi=dpi).read_bytes()
        widths = [int(w) for w in re.findall(rb"/Width (\d+)", page)]
        sizes.append(max(widths))
    assert sizes[0] == pytest.approx(100 * 6.875, abs=2)
    assert sizes[1] == pytest.approx(300 * 6.875, abs=2)
    streams = [zlib.decompress(s) for s in re.findall(rb"stream\n(.*?)\nendstream", page, re.DOTALL) if s[:1] == b"x"]
    assert any(b" Tf" in s for s in streams)  # text stays text


def test_pgf_compiles(tiny_cache: gv.Cache, tmp_path: Path) -> None:
    needs_latex("pgf", "scrextend", "underscore")
    figure = figures.metric_bars({"a_b & 50 % $x$ #1": tiny_cache}, bootstrap=0)
    figure.axes[0].set_title(r"a_b & 50 % \$x\$ #1 {~^}")
    figures.save(figure, tmp_path / "bars.pgf")
    figures.save(figures.panel(tiny_cache, [0]), tmp_path / "panel.pgf")
    assert figure.axes[0].get_title() == r"a_b & 50 % \$x\$ #1 {~^}"
    before = (tmp_path / "bars.pgf").read_bytes()
    assert figures.save(figure, tmp_path / "bars.pgf").read_bytes() == before
    (tmp_path / "main.tex").write_text(
        r"\documentclass{article}\usepackage{pgf,amsmath,amssymb}\begin{document}\input{bars.pgf}\input{panel.pgf}"
        r"\end{document}"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2000:]


def test_pgf_without_an_engine_says_so(tiny_cache: gv.Cache, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GraduncError, match="needs the LaTeX engine 'pdflatex'"):
        figures.save(figures.roc(tiny_cache), tmp_path / "a.pgf")


def test_save_makes_folders_and_refuses_what_it_cannot_write(tiny_cache: gv.Cache, tmp_path: Path) -> None:
    figure = figures.roc(tiny_cache)
    assert figures.save(figure, tmp_path / "new" / "a.png").is_file()
    with pytest.raises(GraduncError, match=r"ends in '\.jpg'; expected one of \.pdf"):
        figures.save(figure, tmp_path / "a.jpg")
    (tmp_path / "file").write_text("")
    with pytest.raises(GraduncError, match="cannot be written"):
        figures.save(figure, tmp_path / "file" / "a.png")


def test_style_of_ones_own(tiny_cache: gv.Cache, tmp_path: Path) -> None:
    sheet = tmp_path / "my.mplstyle"
    sheet.write_text("font.family: DejaVu Sans\nlines.linewidth: 2.5\n")
    with figures.style("neurips", sheet, **{"axes.grid": False}):
        assert mpl.rcParams["lines.linewidth"] == 2.5
        figure = figures.roc(tiny_cache)
        with figures.style(**{"lines.linewidth": 0.3}):
            inner = figures.roc(tiny_cache, width="ieee")
    assert figure.get_figwidth() == 5.5
    assert inner.get_figwidth() == 3.5
    assert figure.axes[0].lines[0].get_linewidth() == 2.5
    assert inner.axes[0].lines[0].get_linewidth() == 0.3
    assert inner.axes[0].xaxis.label.get_fontfamily() == ["DejaVu Sans"]
    page = figures.save(figure, tmp_path / "a.pdf").read_bytes()  # the style is the figure's own, long after
    assert b"DejaVuSans" in page
    assert b"/FontFile2" in page


def test_style_sheets_by_name_and_bad_ones(tmp_path: Path) -> None:
    with figures.style(sheet=["ggplot", {"axes.labelsize": 7}]):
        assert mpl.rcParams["axes.labelsize"] == 7
        assert mpl.rcParams["axes.facecolor"] == "#E5E5E5"
    for arguments, message in (
        ({"sheet": "nowhere.mplstyle"}, "no such style"),
        ({"width": "folio"}, "unknown width"),
        ({"no.such": 1}, "no.such"),
        ({"font.size": "much"}, "font.size|much"),
    ):
        with pytest.raises(GraduncError, match=message), figures.style(**arguments):
            pass


def test_settings_of_the_session_do_not_leak_in(tiny_cache: gv.Cache, tmp_path: Path) -> None:
    plain = figures.save(figures.roc(tiny_cache), tmp_path / "a.svg").read_bytes()
    with mpl.rc_context({"font.size": 20, "axes.facecolor": "red", "path.simplify": False}):
        assert figures.save(figures.roc(tiny_cache), tmp_path / "b.svg").read_bytes() == plain
        assert mpl.rcParams["font.size"] == 20


def test_notebook_shows_a_picture(tiny_cache: gv.Cache) -> None:
    data, size = figures.roc(tiny_cache)._repr_png_()
    assert data.startswith(b"\x89PNG")
    assert size["width"] == round(3.25 * 110)
