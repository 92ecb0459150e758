"""``inspect``, ``plan`` and ``convert`` as a person uses them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from support.model_verbs import ARCH, RECIPE, SMALL

import dcnify as api

QUICK = (*ARCH, *SMALL, "-r", "convnext", "--set", "swaps.dw7.init=paper")
"""Where neither the architecture of the checkpoint nor the new weights matter."""


def test_inspect_shows_every_site_and_totals(dcnify):
    code, out, _ = dcnify("inspect", "timm:test_convnext", *SMALL)
    assert code == 0
    assert "stages.3.blocks.1.conv_dw" in out
    assert "7x7" in out
    assert "9 depthwise_conv" in out


def test_inspect_as_json_is_nothing_but_json(dcnify):
    code, out, _ = dcnify("inspect", "timm:test_vit", "--json")
    data = json.loads(out)
    assert code == 0
    assert [site["role"] for site in data["sites"]] == ["attention"] * 6
    first = data["sites"][0]
    assert (first["path"], first["grid"], first["prefix_tokens"], first["heads"]) == (
        "blocks.0.attn",
        [10, 10],
        1,
        2,
    )


@pytest.mark.slow
def test_plan_times_every_swap_where_it_is_asked_to(dcnify):
    given = ("plan", "timm:test_convnext", *SMALL, "-r", "convnext")
    code, out, _ = dcnify(*given, "--time", "0.01", "--batch", "1", "--threads", "1", "--json")
    data = json.loads(out)
    assert code == 0
    swapped = [swap["site"]["path"] for swap in data["swaps"]]
    assert [one["path"] for one in data["timings"]["swaps"]] == swapped
    assert data["timings"]["shape"] == [1, 3, 64, 64]
    assert dcnify(*given, "--batch", "1")[0] == 2


@pytest.mark.slow
def test_inspect_names_near_misses(dcnify):
    code, out, _ = dcnify("inspect", "timm:resnext26ts", *SMALL)
    assert code == 0
    assert "depthwise_conv" not in out.partition("near miss")[0]
    assert "grouped, not depthwise" in out


def test_plan_writes_nothing_and_shows_costs_and_reasons(dcnify, tmp_path):
    code, out, _ = dcnify("plan", "timm:test_convnext", "-r", "convnext-late", *SMALL)
    assert code == 0
    assert "stages.3.blocks.1.conv_dw" in out
    assert "->" in out
    assert "not swapped" in out
    assert "stage 0" in out
    assert list(tmp_path.iterdir()) == []


def test_plan_says_which_part_of_a_recipe_touches_nothing(dcnify, tmp_path):
    (tmp_path / "r.yaml").write_text(RECIPE + '    exclude: ["stages.2.blocks.7.*"]\n')
    code, out, _ = dcnify("plan", "timm:test_convnext", "-r", "r.yaml", *SMALL)
    assert code == 0
    assert "r.yaml:7:15" in out
    assert "stages.2.blocks.7.*" in out


def test_convert_writes_an_artifact_that_loads_and_says_how_close_it_is(dcnify, checkpoint):
    code, out, err = dcnify("convert", checkpoint, "-r", "convnext", "-o", "out", *SMALL)
    assert code == 0
    assert "SQNR" in out
    assert "top-1 agreement" in out
    assert "test_convnext" in err, "what was inferred is said"
    model = api.load("out")
    assert type(model).__name__ == "ConvNeXt"
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)
    report = json.loads(Path("out/report.json").read_text(), parse_constant=pytest.fail)
    assert len(report["sites"]) == 9
    assert report["seed"] == 0


@pytest.mark.slow
def test_convert_as_json_is_nothing_but_json(dcnify, checkpoint):
    code, out, _ = dcnify("convert", checkpoint, "-o", "o", "--json", *QUICK)
    data = json.loads(out, parse_constant=pytest.fail)
    assert code == 0
    assert data["artifact"] == "o"
    assert len(data["plan"]["swaps"]) == len(data["report"]["sites"]) == 9


def test_a_perfect_layer_still_gives_valid_json(dcnify, monkeypatch, tmp_path):
    """Infinite SQNR is no number that JSON has."""
    (tmp_path / "perfect.py").write_text(
        "import torch\n"
        "def model():\n"
        "    conv = torch.nn.Conv2d(3, 3, 3, padding=1, groups=3, bias=False)\n"
        "    torch.nn.init.zeros_(conv.weight)\n"
        "    return torch.nn.Sequential(conv, torch.nn.Flatten())\n"
    )
    args = ("-r", "mobilenet", "-o", "out", "--input-size", "8", "--json")
    code, out, err = dcnify("convert", "python:perfect:model", *args)
    assert code == 0, err
    json.loads(out, parse_constant=pytest.fail)
    json.loads((tmp_path / "out" / "report.json").read_text(), parse_constant=pytest.fail)


@pytest.mark.slow
def test_a_second_conversion_builds_on_the_first(dcnify, checkpoint):
    late = ("-r", "convnext-late", "--set", "swaps.late.init=paper")
    assert dcnify("convert", checkpoint, *late, *ARCH, "-o", "one", *SMALL)[0] == 0
    code, out, err = dcnify("convert", "one", "-r", "convnext", "-o", "two", *SMALL, "--json")
    assert code == 0, err
    assert len(json.loads(out)["plan"]["swaps"]) == 3
    layers = [m for m in api.load("two").modules() if isinstance(m, api.nn.DCNv4)]
    assert len(layers) == 9


def test_overrides_reach_the_modules(dcnify, checkpoint):
    override = "swaps.dw7.replace.kernel_size=5"
    code, _, err = dcnify("convert", checkpoint, "-o", "out", "--set", override, *QUICK)
    assert code == 0, err
    kernels = {m.kernel_size for m in api.load("out").modules() if isinstance(m, api.nn.DCNv4)}
    assert kernels == {(5, 5)}


def test_own_images_are_used_and_broken_ones_are_told(dcnify, checkpoint, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.effect_noise((80, 60), 50).save(folder / "noise.png")
    (folder / "broken.jpg").write_bytes(b"not an image")
    code, out, err = dcnify("convert", checkpoint, "-o", "out", "--images", "photos", *QUICK)
    assert code == 0
    assert "broken.jpg" in err
    assert "photos" in out


@pytest.mark.slow
def test_a_file_artifact_is_replaced_when_asked(dcnify, checkpoint):
    args = ("convert", checkpoint, "-o", "out.pt", *QUICK)
    assert dcnify(*args)[0] == 0
    assert dcnify(*args)[0] == 2
    assert dcnify(*args, "--overwrite")[0] == 0


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
def test_every_part_of_an_artifact_can_be_read_by_the_same_people(dcnify, checkpoint, tmp_path):
    assert dcnify("convert", checkpoint, "-o", "out", *QUICK)[0] == 0
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()}
    assert len(modes) == 1


@pytest.mark.slow
def test_batches_with_labels_are_measured_on_their_images():
    model = timm.create_model("test_convnext")
    images = torch.randn(2, 3, 64, 64)
    pairs = [(images, torch.zeros(2))]
    recipe = api.Recipe.load("convnext", ["swaps.dw7.init=paper"])
    result = api.convert(model, recipe, images[:1], calibration=pairs)
    assert result.report.images["count"] == 2
    again = timm.create_model("test_convnext")
    with pytest.raises(api.InputError, match="must be tensors"):
        api.convert(again, recipe, images[:1], calibration=["photo.png"])
