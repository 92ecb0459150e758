"""``convert --images``: whatever a person points it at."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image

import dcnify as api
from dcnify.cli import main

CONVERT = (
    "convert",
    "timm:test_convnext",
    "-r",
    "convnext-late",
    "--set",
    "swaps.late.init=paper",
    "-o",
    "out",
    "--input-size",
    "64",
)


@pytest.fixture
def dcnify(capsys, monkeypatch, tmp_path):
    """Run ``convert`` in an empty folder; gives (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*args: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main((*CONVERT, *args))
        return (code, *capsys.readouterr())

    return run


def class_folders(root: Path) -> None:
    for split in ("train", "val"):
        for kind in ("ant", "bee", "cat"):
            (root / split / kind).mkdir(parents=True)
            for index in range(2):
                Image.effect_noise((80, 60), 50).save(root / split / kind / f"{index}.png")


def test_a_folder_of_classes_is_measured_on(dcnify, tmp_path):
    class_folders(tmp_path / "photos")
    code, out, err = dcnify("--images", "photos", "--json")
    assert code == 0, err
    images = json.loads(out)["report"]["images"]
    assert images["count"] == 6
    assert images["origin"] == "photos/train"
    assert "warning" not in err
    assert api.load("out") is not None


def test_a_dataset_by_timms_name_and_another_split(dcnify, tmp_path):
    class_folders(tmp_path / "photos")
    args = (
        "--images",
        "ImageFolder",
        "--data-dir",
        "photos",
        "--split",
        "val",
        "--image-count",
        "4",
    )
    code, out, err = dcnify(*args)
    assert code == 0, err
    assert "on 4 images (ImageFolder in photos)" in out


def test_the_held_out_part_of_the_built_in_dataset(dcnify):
    args = ("--images", "builtin:cluttered-digits", "--split", "validation", "--image-count", "3")
    code, out, err = dcnify(*args)
    assert code == 0, err
    assert "3 images (builtin:cluttered-digits validation)" in out


def test_many_broken_files_are_summed_up_and_the_others_used(dcnify, tmp_path):
    (tmp_path / "photos").mkdir()
    Image.effect_noise((80, 60), 50).save(tmp_path / "photos" / "good.png")
    for index in range(40):
        (tmp_path / "photos" / f"{index}\n.png").write_bytes(b"")
    code, out, err = dcnify("--images", "photos")
    assert code == 0
    assert "on 1 images (photos)" in out
    lines = [line for line in err.splitlines() if "weights are random" not in line]
    assert len(lines) == 10
    assert all(line.startswith("warning: ") for line in lines)
    assert lines[-1] == "warning: photos: only 1 of the 41 images tried can be read"
    assert dcnify("--images", "photos", "--overwrite", "--quiet")[2] == ""


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--images", ""), "no folder ''"),
        (("--images", "empty"), "no image files in empty"),
        (("--images", "new\nline"), r"no folder new\nline"),
        (("--images", "hfds/owner/name"), "hfds/owner/name"),
        (("--images", "torch/cifar10"), "--data-dir"),
        (("--images", "torch/cifar10", "--data-dir", "empty"), "torch/cifar10 in empty"),
        (("--images", "empty", "--data-dir", "empty"), "--data-dir is for a dataset"),
        (("--images", "empty", "--split", "train"), "no split 'train' in empty"),
        (("--split", "train"), "name it with --images"),
        (("--data-dir", "empty"), "no images are named"),
        (("--image-count", "4096", "--input-size", "1024"), "GiB is the limit"),
    ],
)
def test_images_that_cannot_be_had_are_one_line_and_nothing_is_written(
    dcnify, tmp_path, args, words
):
    (tmp_path / "empty").mkdir()
    code, out, err = dcnify(*args)
    assert code == 2, err
    assert len(err.splitlines()) == 1
    assert words in err
    assert out == ""
    assert os.listdir(tmp_path) == ["empty"]
