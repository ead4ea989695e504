"""Image sequences through a scored network."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest
import torch
from foreign import litter
from PIL import Image
from tiny import TinyNet
from torch import nn
from videos import scenes, write_video

import gradunc_viz as gv
from gradunc_viz.cli.main import main as cli
from gradunc_viz.deploy.film import Film
from gradunc_viz.deploy.stream import Stream, stream
from gradunc_viz.networks.load import load_model
from gradunc_viz.networks.runner import Inference
from gradunc_viz.schema.errors import FrameError

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 16, 24, 3), "u1")


@pytest.fixture
def sequence(tmp_path):
    for i, image in enumerate(IMAGES):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_a_folder_is_read_in_the_order_of_names(sequence):
    np.testing.assert_array_equal(np.stack(list(Stream(sequence).images())), IMAGES)


def test_names_are_taken_as_people_count_and_foreign_files_passed_over(tmp_path):
    for name, image in zip(("1", "2", "9", "10", "11"), IMAGES, strict=True):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    litter(tmp_path)
    np.testing.assert_array_equal(np.stack(list(Stream(tmp_path).images())), IMAGES)


def test_a_file_of_several_images(tmp_path):
    pages = [Image.fromarray(image) for image in IMAGES]
    pages[0].save(tmp_path / "s.tiff", save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(np.stack(list(Stream(tmp_path / "s.tiff").images())), IMAGES)


def test_pages_are_decoded_as_images_of_a_folder_are(tmp_path):
    deep = [Image.fromarray(np.full((4, 6), grey, "u2")) for grey in (0, 32768, 65535)]
    deep[0].save(tmp_path / "deep.tif", save_all=True, append_images=deep[1:])
    assert [int(page.max()) for page in Stream(tmp_path / "deep.tif").images()] == [0, 128, 255]
    sideways = Image.Exif()
    sideways[0x0112] = 6
    Image.fromarray(IMAGES[0]).save(tmp_path / "sideways.png", exif=sideways)
    (page,) = Stream(tmp_path / "sideways.png").images()
    np.testing.assert_array_equal(page, np.rot90(IMAGES[0], -1))


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(FrameError, match=r"nothing: does not exist"):
        list(Stream(tmp_path / "nothing").images())
    with pytest.raises(FrameError, match="no images in this folder"):
        list(Stream(tmp_path).images())
    (tmp_path / "broken.gif").write_bytes(b"GIF89a and no more")
    with pytest.raises(FrameError, match=r"broken\.gif: cannot be decoded"):
        list(Stream(tmp_path / "broken.gif").images())


def test_a_video_without_a_reader_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "drive.mp4").write_bytes(b"")
    with pytest.raises(FrameError, match=r"drive\.mp4: videos need PyAV: pip install av"):
        list(Stream(tmp_path / "drive.mp4").images())


def test_videos_and_patterns(tmp_path, sequence):
    images = scenes(6)
    source = Stream(write_video(tmp_path / "drive.mp4", images))
    assert (source.count, source.rate) == (6, 10)
    assert all(abs(shown.astype(int) - image).mean() < 8 for shown, image in zip(source.images(), images, strict=True))
    assert len(list(source.images(range(1, 6, 2)))) == 3
    np.testing.assert_array_equal(np.stack(list(Stream(sequence / "%d.png").images())), IMAGES)


def test_a_film_beside_the_times(tmp_path):
    net = TinyNet().eval()
    with Film(tmp_path / "film.gif", 10, [(0, 0, 0), (80, 0, 0), (0, 80, 0), (0, 0, 80)], "entropy", (0, 1.4)) as film:
        stream(runner(net), iter(IMAGES), "msp,entropy", film=film, shown="entropy", numbers=range(5))
    whole = load_model(net)
    assert film.count == 5
    with Image.open(tmp_path / "film.gif") as gif:
        panel = np.asarray(gif.convert("RGB"))[20:, (gif.size[0] - 4) // 3 + 2 :][:, : (gif.size[0] - 4) // 3]
    expected = gv.score_image(whole, IMAGES[0], scores="entropy")["prediction"].values
    shown = np.where(panel.max(2) < 40, 0, panel.argmax(2) + 1)[4::9, 4::7][: expected.shape[0], : expected.shape[1]]
    assert (shown == expected[: shown.shape[0], : shown.shape[1]]).mean() > 0.9


def test_what_goes_wrong_later_keeps_what_was_before(tmp_path, capsys):
    for i, image in enumerate(IMAGES[:3]):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    (tmp_path / "3.png").write_bytes((tmp_path / "2.png").read_bytes()[:200])
    arguments = ["stream", str(tmp_path), "--model", "demo", "--input-size", "64x96", "--device", "cpu", "--quiet"]
    out = tmp_path / "film.gif"
    assert cli([*arguments, "--scores", "msp", "--out", str(out), "--fps", "4"]) == 1
    said = capsys.readouterr()
    assert "3 frames: " in said.out
    assert "film.gif: 3 frames with msp from" in said.out
    assert "3.png: cannot be decoded" in said.err
    with Image.open(out) as gif:
        assert (gif.n_frames, gif.info["duration"]) == (3, 250)


@pytest.mark.parametrize("step", ["add", "close"])
def test_times_are_told_where_no_film_can_be_written(tmp_path, capsys, monkeypatch, step):
    for i, image in enumerate(IMAGES[:2]):
        Image.fromarray(image).save(tmp_path / f"{i}.png")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"gradunc_viz.deploy.film._Gif.{step}", fail)
    arguments = ["stream", str(tmp_path), "--model", "demo", "--input-size", "64x96", "--device", "cpu", "--quiet"]
    assert cli([*arguments, "--scores", "msp", "--out", str(tmp_path / "film.gif")]) == 1
    said = capsys.readouterr()
    assert re.match(r"[12] frames: .* frames/s with 1 scores, .*\n$", said.out)
    assert re.match(r"gradunc: .*film\.gif: cannot be written \(No space left on device\), after .*\n$", said.err)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.png", "1.png"]


def runner(net: nn.Module, **options) -> Inference:
    return Inference(load_model(net), torch.device("cpu"), **options)


@pytest.mark.parametrize("autocast", [None, "bf16"])
def test_both_rates_are_taken(autocast):
    report = stream(runner(TinyNet().eval(), autocast=autocast), iter(IMAGES), "msp")
    assert len(report.with_scores) == len(report.without_scores) == len(report.means) == 5
    assert all(0 < mean < 0.75 for mean in report.means)
    assert min(report.rates()) > 0


@pytest.mark.parametrize("count", [1, 2])
def test_every_image_is_timed_however_few(count):
    report = stream(runner(TinyNet().eval()), iter(IMAGES[:count]), "msp")
    assert len(report.with_scores) == len(report.without_scores) == len(report.means) == count


def test_a_stream_of_nothing():
    with pytest.raises(FrameError, match="a stream without images"):
        stream(runner(TinyNet().eval()), iter(()))


def test_the_network_keeps_its_mode():
    net = TinyNet().train()
    stream(runner(net, input_size=(12, 20)), iter(IMAGES), "msp")
    assert all(module.training for module in net.modules())


@pytest.mark.parametrize(
    ("limit", "count"), [((), 5), (("--limit", "1"), 1), (("--limit", "3"), 3), (("--limit", "9"), 5)]
)
def test_on_the_command_line(sequence, capsys, limit, count):
    arguments = ["stream", str(sequence), "--model", "demo", "--input-size", "64x96", "--device", "cpu"]
    assert cli([*arguments, *limit]) == 0
    assert f"{count} frames: " in (out := capsys.readouterr().out)
    assert "frames/s with 6 scores" in out
