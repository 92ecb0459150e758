"""``dcnify offsets``: a picture of where the layers of an artifact sample."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from PIL import Image
from support.shown_artifact import shown_artifact

from dcnify.cli import main

__all__ = ["shown_artifact"]
PHOTO = ("out", "--image", "photo.png")


@pytest.fixture
def offsets(capsys, shown_artifact, tmp_path, monkeypatch):
    """Call the verb beside a link to the artifact: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").symlink_to(shown_artifact)
    noise = np.random.default_rng(0).integers(0, 255, (48, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.png")

    def run(*args):
        capsys.readouterr()
        code = main(("offsets", *args))
        return (code, *capsys.readouterr())

    return run


def test_the_last_site_of_each_stage_is_drawn(offsets, tmp_path):
    code, out, err = offsets(*PHOTO, "-o", "figure.svg", "--at", "0.5,0.4", "--at", "0.1,0.9")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "wrote figure.svg"
    drawn = (tmp_path / "figure.svg").read_text("utf-8")
    for words in ("stages.1.blocks.1.conv_dw", "cell 16x16 px", "90% of the weight", "query"):
        assert words in drawn


def test_json_holds_the_points_that_are_drawn(offsets):
    site = "stages.2.blocks.0.conv_dw"
    given = ("--site", site, "--at", "0.6,0.4", "--json")
    code, out, _ = offsets(*PHOTO, "-o", "figure.png", *given)
    assert code == 0
    told = json.loads(out)
    assert told["input_size"] == [64, 64]
    (one,) = [one for one in told["sites"] if one["queries"]]
    assert one["path"] == site
    assert one["grid"] == [4, 4]
    (query,) = one["queries"]
    assert (query["row"], query["column"]) == (1, 2)
    assert np.shape(query["points"]) == (one["groups"], 9, 2)
    assert np.shape(query["weights"]) == (one["groups"], 9)
    assert one["reach"]["0.5"] <= one["reach"]["0.9"]


def test_a_png_is_a_picture(offsets, tmp_path):
    assert offsets(*PHOTO, "-o", "figure.png", "-q")[0] == 0
    with Image.open(tmp_path / "figure.png") as image:
        assert min(image.size) > 400
    code, _, err = offsets(*PHOTO, "-o", "figure.png")
    assert code == 2
    assert "figure.png exists; pass --overwrite to replace it" in err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((*PHOTO, "-o", "figure.gif"), "figure.gif: a picture of offsets ends in .png or .svg"),
        ((*PHOTO, "-o", "f.png", "--at", "0.5"), "--at 0.5: expected two numbers from 0 to 1"),
        ((*PHOTO, "-o", "f.png", "--at", "2,0"), "--at 2,0: expected two numbers from 0 to 1"),
        (
            (*PHOTO, "-o", "f.png", "--site", "stages.2.block.0.conv_dw"),
            "no layer was swapped there, did you mean 'stages.2.blocks.0.conv_dw'?",
        ),
        (("out", "--image", "foto.png", "-o", "f.png"), "did you mean 'photo.png'?"),
        (("out", "--image", "text.png", "-o", "f.png"), "text.png: not an image"),
        (("photo.png", "--image", "photo.png", "-o", "f.png"), "photo.png"),
    ],
)
def test_what_cannot_be_drawn_is_one_line_and_leaves_nothing(offsets, tmp_path, args, words):
    (tmp_path / "text.png").write_text("no")
    before = sorted(tmp_path.iterdir())
    code, out, err = offsets(*args)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_a_missing_matplotlib_is_said_before_the_model_is_loaded(offsets, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, _, err = offsets(*PHOTO, "-o", "figure.png")
    assert code == 2
    assert "pip install 'dcnify[report]'" in err
