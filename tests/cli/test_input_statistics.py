"""``--mean``, ``--std``, ``--interpolation``: asked for, recorded, and used from then on."""

import json

import pytest
import timm
import torch
from safetensors.torch import save_file

import dcnify
from dcnify.artifact import open_source, read_artifact
from dcnify.artifact.load import load_record
from dcnify.cli import main
from dcnify.finetune.session import _input_config
from dcnify.finetune.spec import Options

GIVEN = ("--mean", "0.1,0.2,0.3", "--std", "0.25", "--interpolation", "bilinear")
TIMM = ("--arch", "test_convnext", "-r", "convnext-late", "--input-size", "64")
OWN_CODE = """
from torch import nn

def build():
    return nn.Sequential(
        nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 7, padding=3, groups=8), nn.Flatten(),
        nn.Linear(8 * 64, 4)
    )
"""
OWN_RECIPE = """
version: 1
name: own
swaps: [{name: dw, select: {role: depthwise_conv}, replace: {with: dcnv4}}]
"""


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Run a verb in a folder with a state dict, ``weights.safetensors``; gives its JSON, stderr."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save_file(timm.create_model("test_convnext").state_dict(), "weights.safetensors")

    def run(*args: str) -> tuple[dict, str]:
        capsys.readouterr()
        code = main((*args, "--json"))
        out, err = capsys.readouterr()
        assert code == 0, err
        return json.loads(out), err

    return run


@pytest.mark.slow
def test_weights_without_statistics_are_shown_images_as_timm_has_it_and_a_line_says_so(run):
    data, err = run("convert", "weights.safetensors", *TIMM, "-o", "out")
    (line,) = [line for line in err.splitlines() if "assumed" in line]
    assert line == (
        "assumed mean 0.5, std 0.5 of images, from timm's test_convnext; give --mean and --std if "
        "the weights were trained with others"
    )
    images = data["report"]["images"]
    assert (images["mean"], images["std"]) == ([0.5] * 3, [0.5] * 3)
    assert images["interpolation"] == "bicubic"


@pytest.mark.slow
def test_what_is_given_is_used_recorded_and_found_again(run):
    data, err = run("convert", "weights.safetensors", *TIMM, "-o", "out", *GIVEN)
    assert "assumed" not in err
    images = data["report"]["images"]
    assert images["mean"] == [0.1, 0.2, 0.3]
    assert images["std"] == [0.25] * 3
    assert images["interpolation"] == "bilinear"
    loaded = dcnify.load("out")
    config = timm.data.resolve_model_data_config(loaded)
    assert (config["mean"], config["std"]) == ((0.1, 0.2, 0.3), (0.25,) * 3)
    assert config["interpolation"] == "bilinear"
    checked, _ = run("verify", "out", "--against", "weights.safetensors", "--arch", "test_convnext")
    reported = [one for one in checked["checks"] if one["name"].startswith("reported")]
    assert [one["passed"] for one in reported] == [True, True]


@pytest.mark.slow
def test_one_of_the_two_leaves_the_other_to_be_assumed(run):
    _, err = run("convert", "weights.safetensors", *TIMM, "-o", "out", "--mean", "0.25")
    (line,) = [line for line in err.splitlines() if "assumed" in line]
    assert line.startswith("assumed std 0.5 of images")
    assert "give --std if" in line


@pytest.mark.slow
def test_fine_tuning_reads_the_artifact_and_may_be_told_otherwise(run):
    run("convert", "weights.safetensors", *TIMM, "-o", "out", *GIVEN)
    record = read_artifact("out")
    model, _ = load_record(record)
    assert _input_config(model, record, Options())["mean"] == (0.1, 0.2, 0.3)
    told = _input_config(model, record, Options(mean="0.75", interpolation="nearest"))
    assert (told["mean"], told["std"]) == ((0.75,) * 3, (0.25,) * 3)
    assert model.pretrained_cfg["interpolation"] == told["interpolation"] == "nearest"


def test_a_factorys_model_is_assumed_imagenets_and_keeps_what_it_was_shown(run, tmp_path):
    (tmp_path / "own_statistics.py").write_text(OWN_CODE)
    (tmp_path / "own.yaml").write_text(OWN_RECIPE)
    source = ("python:own_statistics:build", "-r", "own.yaml", "--input-size", "32")
    _, err = run("convert", *source, "-o", "out")
    assert "assumed mean 0.485,0.456,0.406, std 0.229,0.224,0.225 of images, from ImageNet" in err
    _, err = run("convert", *source, "-o", "told", *GIVEN)
    assert "assumed" not in err
    model = dcnify.load("told", trust_code=True)
    assert model.pretrained_cfg["mean"] == (0.1, 0.2, 0.3)
    assert open_source("told", trust_code=True).interpolation == "bilinear"


def test_a_checkpoint_that_states_its_statistics_is_believed(run):
    model = timm.create_model("test_convnext")
    options = {"model": "test_convnext", "mean": [0.25], "std": [0.5], "interpolation": "bilinear"}
    torch.save({"state_dict": model.state_dict(), "args": options}, "trained.pt")
    source = open_source("trained.pt")
    assert source.assumed == ""
    assert source.model.pretrained_cfg["mean"] == source.mean == (0.25,) * 3
    assert source.interpolation == "bilinear"


@pytest.mark.slow
def test_images_normalised_otherwise_than_the_model_expects_are_worth_a_warning():
    model = timm.create_model("test_convnext")
    images = dcnify.data.load_images(
        None, count=4, size=(3, 64, 64), mean=(0.0,) * 3, std=(1.0,) * 3
    )
    recipe, example = dcnify.Recipe.load("convnext-late"), torch.randn(1, 3, 64, 64)
    result = dcnify.convert(model, recipe, example, calibration=images)
    (warning,) = result.report.warnings
    assert "normalised by mean 0, std 1" in warning
    assert "the model expects mean 0.5, std 0.5" in warning
    assert result.model.pretrained_cfg["mean"] == (0.5,) * 3
