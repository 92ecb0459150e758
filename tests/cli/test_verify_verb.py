"""``verify`` as a person uses it, and ``--plot`` beside it and beside ``convert``."""

from __future__ import annotations

import importlib.util
import json
import shutil

import pytest
import timm
import torch
from PIL import Image

from dcnify.cli import main

ARCH = ("--arch", "test_convnext")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """model.pt, and what it was converted into."""
    place = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_convnext").state_dict(), place / "model.pt")
    for name in ("out", "out.pt"):
        args = ("-r", "convnext", "-o", str(place / name), "--input-size", "64", "--quiet")
        assert main(("convert", str(place / "model.pt"), *args, *ARCH)) == 0
    return place


@pytest.fixture
def dcnify(capsys, monkeypatch, tmp_path, made):
    """Run the command line in a folder of copies; gives (exit code, stdout, stderr)."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)

    def run(*args: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(args)
        return (code, *capsys.readouterr())

    return run


@pytest.mark.parametrize("name", ["out", "out.pt"])
def test_an_intact_artifact_is_a_table_of_passed_checks(dcnify, name):
    code, out, err = dcnify("verify", name)
    assert code == 0
    assert err == ""
    for check in ("hashes", "loading", "golden output", "operator", "operator's gradients"):
        (row,) = [line for line in out.splitlines() if line.startswith(f"{check} ")]
        assert "passed" in row


def test_a_failed_check_is_in_the_table_and_in_one_line_with_exit_code_3(dcnify, tmp_path):
    report = tmp_path / "out" / "report.json"
    report.write_text(report.read_text().replace('"seed": 0', '"seed": 1'))
    code, out, err = dcnify("verify", "out")
    assert code == 3
    assert "FAILED" in out
    (line,) = err.splitlines()
    assert line.startswith("error: out: 1 of 5 checks failed: hashes (")
    assert "report.json" in line


def test_all_checks_are_data(dcnify, tmp_path):
    code, out, _ = dcnify("verify", "out", "--against", "model.pt", *ARCH, "--json")
    data = json.loads(out, parse_constant=pytest.fail)
    assert code == 0
    assert data["passed"] is True
    for check in data["checks"]:
        assert set(check) == {"name", "passed", "value", "limit", "detail"}
        assert check["passed"] is True
    assert len(data["fidelity"]["sites"]) == len(data["reported"]["sites"]) == 9
    (tmp_path / "out" / "model.safetensors").write_bytes(b"cut")
    code, out, err = dcnify("verify", "out", "--json")
    data = json.loads(out, parse_constant=pytest.fail)
    assert code == 3
    assert data["passed"] is False
    assert [c["name"] for c in data["checks"] if c["passed"] is False] == ["hashes", "loading"]
    assert len(err.splitlines()) == 1


def test_against_its_source_the_numbers_stand_beside_those_of_the_report(dcnify):
    code, out, err = dcnify("verify", "out", "--against", "model.pt", *ARCH)
    assert code == 0, err
    (row,) = [line for line in out.splitlines() if line.startswith("stages.3.blocks.1.conv_dw")]
    _, was, now, cosine_was, cosine_now = row.split()
    assert was == now
    assert cosine_was == cosine_now
    assert "top-1 agreement" in out


def test_other_weights_are_a_warning(dcnify):
    code, _, err = dcnify("verify", "out", "--against", "timm:test_convnext")
    assert code == 0
    assert "warning: timm:test_convnext is not the source that was converted" in err


@pytest.mark.slow
def test_own_images_are_those_that_the_conversion_took(dcnify, tmp_path):
    (tmp_path / "photos").mkdir()
    for n in range(3):
        Image.effect_noise((80, 60), 50 + n).save(tmp_path / "photos" / f"{n}.png")
    images = ("--images", "photos")
    args = ("-r", "convnext-late", "-o", "own", "--input-size", "64", *images, *ARCH)
    assert dcnify("convert", "model.pt", *args)[0] == 0
    (tmp_path / "photos" / "1b.png").write_bytes(b"no image")
    code, out, err = dcnify("verify", "own", "--against", "model.pt", *images, *ARCH, "--json")
    assert code == 0, err
    assert "1b.png" in err
    assert all(check["passed"] for check in json.loads(out)["checks"])


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("missing", "missing does not exist"),
        ("model.pt", "is a weight file, not an artifact"),
        (".", "is not an artifact"),
        (
            "out --against timm:test_vit",
            "out was made from timm:test_convnext, not from timm:test_vit",
        ),
        ("out --against missing.pt", "missing.pt does not exist"),
        ("out --against out", "already"),
        ("out --against model.pt --arch test_convnext --images nowhere", "nowhere"),
        ("out --arch test_convnext", "--arch needs --against"),
        ("out --images photos", "--images needs --against"),
        ("out --plot plot.txt", "plot.txt"),
        ("out --plot nowhere/plot.png", "nowhere"),
        ("out --plot taken.png", "--overwrite"),
        ("out --agianst model.pt", "did you mean '--against'"),
    ],
)
def test_wrong_input_is_one_line(dcnify, tmp_path, args, words):
    (tmp_path / "taken.png").write_text("keep me")
    code, out, err = dcnify("verify", *args.split())
    assert code == 2
    assert out == ""
    assert words in err.splitlines()[-1]
    assert len([line for line in err.splitlines() if line.startswith("error:")]) == 1
    assert (tmp_path / "taken.png").read_text() == "keep me"


@pytest.mark.slow
def test_the_plot_of_a_verification_is_an_image(dcnify, tmp_path):
    args = ("verify", "out", "--against", "model.pt", "--plot", "plot.png", *ARCH)
    assert dcnify(*args)[0] == 0
    with Image.open(tmp_path / "plot.png") as image:
        assert min(image.size) > 300
    assert dcnify(*args)[0] == 2
    assert dcnify(*args, "--overwrite")[0] == 0
    assert dcnify("verify", "out", "--plot", "alone.png")[0] == 0
    assert (tmp_path / "alone.png").stat().st_size != (tmp_path / "plot.png").stat().st_size


@pytest.mark.slow
def test_convert_draws_what_it_measured(dcnify, tmp_path):
    args = ("convert", "model.pt", "-r", "convnext", "-o", "new", "--input-size", "64", *ARCH)
    assert dcnify(*args, "--plot", "plot.png")[0] == 0
    with Image.open(tmp_path / "plot.png") as image:
        assert min(image.size) > 300


@pytest.mark.parametrize("plot", ["plot.jpg", "nowhere/plot.png", "out"])
def test_a_plot_that_cannot_be_drawn_is_told_before_the_work(dcnify, tmp_path, monkeypatch, plot):
    monkeypatch.setattr("dcnify.artifact.open_source", lambda *a, **k: pytest.fail("too late"))
    args = ("convert", "model.pt", "-r", "convnext", "-o", "new", "--plot", plot)
    code, _, err = dcnify(*args)
    assert code == 2
    assert plot in err
    assert not (tmp_path / "new").exists()


def test_without_matplotlib_the_fix_is_named_before_the_work(dcnify, tmp_path, monkeypatch):
    real = importlib.util.find_spec
    hidden = {"matplotlib": None}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: hidden.get(name, real(name, *a))
    )
    args = ("convert", "model.pt", "-r", "convnext", "-o", "new", "--plot", "plot.png")
    code, _, err = dcnify(*args)
    assert code == 2
    assert "pip install 'dcnify[report]'" in err
    assert not (tmp_path / "new").exists()
