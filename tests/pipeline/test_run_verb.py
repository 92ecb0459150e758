"""dcnify run: convert, fine-tune, time and report, and skip what is there."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from safetensors.torch import save_file
from support.pictures import class_folders

import dcnify
from dcnify.cli import main

ARGS = {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16], "num_classes": 10, "patch_size": 2}
RECIPE = """
version: 1
name: both
description: All of it.
swaps:
  - name: dw
    select: {role: depthwise_conv}
    replace: {with: dcnv4, group_channels: 8}
    init: [transfer, {method: calibrate, batches: 2, steps: 2, model_steps: 2}]
finetune:
  stages:
    - {use: align, steps: 2, batch_size: 16}
    - {use: recover, steps: 3, batch_size: 16, augment: none}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    save_file(timm.create_model("convnext_atto", **ARGS).state_dict(), folder / "m.safetensors")
    (folder / "both.yaml").write_text(RECIPE)
    class_folders(folder / "pictures")
    return folder


def call(folder, out="out", *more, recipe="both.yaml", data=None):
    """What ``dcnify run`` answers."""
    settings = [f"--model-arg={key}={value}" for key, value in ARGS.items()]
    source = ["--source", str(folder / "m.safetensors"), "--arch", "convnext_atto", *settings]
    if data is None:
        data = ["--data", str(folder / "pictures"), "--image-count", "64"]
    name = str(folder / recipe)
    timing = ["--batch", "2", "--time", "0.01", "--input-size", "32"]
    return main(["run", name, *source, *data, "-o", str(folder / out), *timing, *more])


@pytest.fixture(scope="module")
def done(folder):
    assert call(folder) == 0
    return folder / "out"


def test_everything_is_there(done):
    told = json.loads((done / "report.json").read_text())
    assert set(told["finetune"]["stages"]) == {"align", "recover"}
    (forward,) = told["bench"]["passes"]
    assert forward["timings"].keys() == {"original", "converted"}
    assert told["bench"]["shape"] == [2, 3, 32, 32]
    assert told["conversion"]["sites"]
    assert told["skipped"] == []
    page = (done / "report.md").read_text()
    assert "| after recover |" in page
    assert "](curve.png)" in page
    assert (done / "curve.png").stat().st_size > 1000
    model = dcnify.load(done / "finetuned")
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 10)


def test_a_second_call_does_nothing_again(folder, done, capsys):
    before = {p: p.stat().st_mtime_ns for p in done.rglob("*.safetensors")}
    assert call(folder, "out", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["skipped"] == ["converted", "finetuned", "bench.json"]
    assert before == {p: p.stat().st_mtime_ns for p in done.rglob("*.safetensors")}


def test_the_work_of_another_recipe_or_seed_is_not_taken_for_this_ones(folder, done, capsys):
    other = RECIPE.replace("group_channels: 8", "group_channels: 4")
    (folder / "other.yaml").write_text(other)
    assert call(folder, recipe="other.yaml") == 2
    assert "was made with another recipe: pass --overwrite" in capsys.readouterr().err
    assert call(folder, "out", "--seed", "1") == 2
    assert "was made with another seed" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_died_in_the_training_goes_on_there(folder, done, monkeypatch):
    from dcnify.cli.progress import Display

    class Died(Exception):
        pass

    step = Display.step

    def die(self, seen):
        step(self, seen)
        if seen.stage == "recover":
            raise Died

    with monkeypatch.context() as patch:
        patch.setattr(Display, "step", die)
        assert call(folder, "again") == 1
    assert (folder / "again" / "converted" / "config.json").exists()
    assert not (folder / "again" / "finetuned" / "config.json").exists()
    converted = (folder / "again" / "converted" / "model.safetensors").stat().st_mtime_ns
    assert call(folder, "again") == 0
    assert converted == (folder / "again" / "converted" / "model.safetensors").stat().st_mtime_ns
    mine, theirs = (dcnify.load(f / "finetuned").state_dict() for f in (folder / "again", done))
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--data", "nowhere/"], "error: data: there is no folder"),
        (["--images", "nowhere/"], "error: images: there is no folder"),
        (["--set", "finetune.stages.recover.steps=0"], "finetune.stages.recover.steps"),
        (["--set", "finetune.stages.recover.batch_size=640"], "is larger than the dataset"),
        (
            ["--set", "finetune.stages.recover.augment={auto: rand-q9}"],
            "stage recover: augment.auto 'rand-q9'",
        ),
        (["--time", "inf"], "--time is a number of seconds above 0, not inf"),
    ],
)
def test_what_cannot_work_is_told_and_nothing_is_written(folder, more, message, capsys):
    assert call(folder, "none", *more) == 2
    assert message in capsys.readouterr().err
    assert not (folder / "none").exists()


def test_a_folder_of_something_else_is_left_alone(folder, capsys):
    (folder / "mine").mkdir()
    (folder / "mine" / "thesis.txt").write_text("")
    assert call(folder, "mine", "--overwrite") == 2
    assert "holds something else (thesis.txt)" in capsys.readouterr().err
    assert (folder / "mine" / "thesis.txt").exists()


def test_other_stages_or_images_are_not_taken_for_those_that_were_trained(folder, done, capsys):
    assert call(folder, "out", "--set", "finetune.stages.recover.steps=4") == 2
    assert "finetuned was made with another fine-tuning: pass --over" in capsys.readouterr().err
    assert call(folder, "out", "--image-count", "80") == 2
    assert "finetuned was made with another dataset" in capsys.readouterr().err


@pytest.mark.parametrize("other", [("--batch", "3"), ("--time", "0.02")])
def test_what_is_timed_otherwise_is_timed_again_and_nothing_else(other, folder, done, capsys):
    assert call(folder, "out", *other, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["skipped"] == ["converted", "finetuned"]
    assert told["bench"]["shape"] == [3 if "--batch" in other else 2, 3, 32, 32]


def test_overwrite_takes_away_what_a_run_writes_and_nothing_else(folder, capsys):
    there = folder / "kept"
    (there / "converted").mkdir(parents=True)
    (there / ".git").mkdir()
    assert call(folder, "kept", "--overwrite") == 2
    assert "holds something else (.git)" in capsys.readouterr().err
    assert (there / ".git").is_dir()
    assert (there / "converted").is_dir()


def test_a_source_inside_the_output_is_refused_before_it_is_cleared(folder, capsys):
    (folder / "around").mkdir()
    (folder / "m.safetensors").rename(folder / "around" / "m.safetensors")
    (folder / "m.safetensors").symlink_to(folder / "around" / "m.safetensors")
    assert call(folder, "around", "--overwrite") == 2
    assert "lies in" in capsys.readouterr().err
    assert (folder / "around" / "m.safetensors").exists()


def test_without_labels_it_distils_and_reports_agreement_before_and_after(folder, capsys):
    from PIL import Image

    (folder / "photos").mkdir()
    for index in range(12):
        Image.new("RGB", (40, 32), (20 * index, 255 - 20 * index, 90)).save(
            folder / "photos" / f"{index}.png"
        )
    (folder / "distil.yaml").write_text(
        RECIPE.partition("finetune:")[0].replace("batches: 2, steps: 2", "batches: 1, steps: 0")
    )
    images = ["--images", str(folder / "photos")]
    for change in ("steps=2", "batch_size=4"):
        images += ["--set", f"finetune.stages.distil.{change}"]
    assert call(folder, "distilled", *images, "--json", recipe="distil.yaml", data=()) == 0
    told = json.loads(capsys.readouterr().out)["finetune"]
    assert told["measure"] == "agreement"
    assert told["distances"].keys() == {"converted", "distil"}
    assert told["data"] == f"{folder / 'photos'}: 10 images, without labels"
    assert "| model | agreement | KL divergence |" in (folder / "distilled/report.md").read_text()
    assert call(folder, "distilled", *images, "--json", recipe="distil.yaml", data=()) == 0
    assert "finetuned" in json.loads(capsys.readouterr().out)["skipped"]


def test_stages_that_need_labels_are_refused_before_the_conversion(folder, capsys):
    (folder / "more").mkdir()
    from PIL import Image

    for index in range(30):
        Image.new("RGB", (32, 32)).save(folder / "more" / f"{index}.png")
    assert call(folder, "none", "--images", str(folder / "more"), data=()) == 2
    words = capsys.readouterr().err
    assert "stage recover: losses.labels: the images have no labels" in words
    assert "--set finetune=distil" in words
    assert call(folder, "none", data=()) == 2
    assert "missing option '--data', or '--images'" in capsys.readouterr().err
    assert not (folder / "none").exists()


def test_a_source_that_is_code_is_imported_again_without_another_word(folder, capfd):
    (folder / "distil.yaml").write_text(
        RECIPE.split("finetune:")[0]
        + "finetune:\n  stages:\n    - {use: distil, steps: 1, batch_size: 4, augment: none}\n"
    )
    images = ["--images", str(folder / "pictures"), "--image-count", "16"]
    source = ["--source", "python:support.detectors:detector"]
    asked = ["run", str(folder / "distil.yaml"), *source, *images, "-o", str(folder / "code")]
    assert main([*asked, "--batch", "2", "--time", "0.01"]) == 0
    told = json.loads((folder / "code" / "report.json").read_text())
    assert told["bench"]["shape"] == [2, 3, 32, 32]
    artifact = str(folder / "code" / "converted")
    assert main(["inspect", artifact]) == 2
    assert "pass --trust-code" in capfd.readouterr().err
    # Code that somebody put into the folder since then was not named by the person.
    config = folder / "code" / "finetuned" / "config.json"
    config.write_text(config.read_text().replace("support.detectors:detector", "antigravity:it"))
    assert main([*asked, "--batch", "1", "--time", "0.01"]) == 2
    said = capfd.readouterr().err
    assert "python:antigravity:it: pass --trust-code" in said
