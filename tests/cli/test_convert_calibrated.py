"""``convert`` with a recipe that calibrates: what a person sees of it, step by step."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from dcnify.cli import main

SIZES = {"depths": [1, 1, 1, 1], "dims": [8, 16, 16, 16], "patch_size": 2}
FEW = [f"--set=swaps.dw7.init.1.{key}=2" for key in ("batches", "steps", "model_steps")]


@pytest.fixture
def convert(capsys, monkeypatch, tmp_path):
    """Convert a small checkpoint of ten classes; gives (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = timm.create_model("convnext_atto", num_classes=10, ls_init_value=1.0, **SIZES)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    source = ["model.safetensors", "--arch", "convnext_atto", "--input-size", "32"]
    source += [f"--model-arg={key}={value}" for key, value in SIZES.items()]

    def run(*args: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["convert", *source, "-r", "convnext-calibrated", "-o", "out", *FEW, *args])
        return (code, *capsys.readouterr())

    return run


@pytest.mark.slow
def test_every_step_is_in_the_table_in_the_report_and_in_the_plot(convert, tmp_path):
    data = ("--images", "builtin:cluttered-digits", "--image-count", "12", "--plot", "seen.png")
    code, out, err = convert(*data)
    assert code == 0, err
    assert "calibrate: layers" in out.splitlines()[0]
    assert "output after fit:" in out
    assert "output after calibrate: layers:" in out
    assert "accuracy" in out.split("output: ")[1]
    assert "calibrated on 8 others of them" in out  # two batches of four
    report = json.loads((tmp_path / "out/report.json").read_text())
    steps = report["steps"]
    assert [step["step"] for step in steps] == ["fit", "calibrate: layers", "calibrate: model"]
    for step in steps:
        assert len(step["sites"]) == 4
        assert 0 <= step["output"]["accuracy"] <= 1
        assert step["output"]["original_accuracy"] == report["output"]["original_accuracy"]
    assert (tmp_path / "seen.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_with_one_broken_image_is_calibrated_on_without_it(convert, tmp_path):
    (tmp_path / "photos").mkdir()
    for index in range(8):
        pixels = (torch.rand(40, 40, 3) * 255).byte().numpy()
        Image.fromarray(pixels).save(tmp_path / f"photos/{index}.png")
    (tmp_path / "photos/3.png").write_bytes(b"\x89PNG and no more")
    code, out, err = convert("--images", "photos", "--json")
    assert code == 0
    assert "3.png" in err
    report = json.loads(out)["report"]
    assert report["images"]["count"] + report["images"]["calibrated_on"] == 7
    assert report["output"]["accuracy"] is None


def test_an_empty_folder_is_told_in_one_line(convert, tmp_path):
    (tmp_path / "photos").mkdir()
    code, out, err = convert("--images", "photos")
    assert (code, out) == (2, "")
    assert len(err.strip().splitlines()) <= 2
    assert "photos" in err.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()
