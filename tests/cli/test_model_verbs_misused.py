"""``inspect``, ``plan`` and ``convert`` as a person misuses them."""

from __future__ import annotations

import os
import pickle

import pytest
import torch
from support.model_verbs import ARCH, RECIPE, SMALL


class Runs:
    """A pickle that runs code when it is read."""

    def __reduce__(self):
        return os.mkdir, ("owned",)


def _files(tmp_path, weights):
    whole = tmp_path / "good.pt"
    torch.save(weights, whole)
    (tmp_path / "html.pt").write_text("<!DOCTYPE html><html></html>")
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "half.pt").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    torch.save({"state_dict": Runs()}, tmp_path / "code.pt")
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps(Runs()))
    torch.save({"state_dict": {"no_model.has_this": torch.zeros(3)}}, tmp_path / "other.pt")
    (tmp_path / "head.safetensors").write_bytes(b"\xff" * 8 + b"x" * 64)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("keep me")
    (tmp_path / "typo.yaml").write_text(RECIPE.replace("stages:", "stagess:"))
    (tmp_path / "type.yaml").write_text(RECIPE.replace("[2, 3]", "late"))
    (tmp_path / "twice.yaml").write_text(RECIPE + "name: again\n")
    nothing = RECIPE.replace("stages: [2, 3]", 'modules: ["stages.*.conv"]')
    (tmp_path / "nothing.yaml").write_text(nothing)
    (tmp_path / "many.yaml").write_text(RECIPE + "    expect: {min: 50}\n")
    (tmp_path / "strict.yaml").write_text(RECIPE + "    require: {sqnr_db: 90}\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        ("good.pt -r convnxt", 2, "did you mean 'convnext'"),
        ("good.pt -r typo.yaml", 2, "typo.yaml:5:36: unknown key 'stagess', did you mean 'stages'"),
        ("good.pt -r type.yaml", 2, "type.yaml:5:44"),
        ("good.pt -r twice.yaml", 2, "twice.yaml:7:1: duplicate key 'name'"),
        ("good.pt -r nothing.yaml", 2, "conv_dw"),
        ("good.pt -r many.yaml", 3, "expected at least 50"),
        ("good.pt -r strict.yaml", 3, "below 90 dB"),
        ("good.pt -r convnext --set swaps.dw7.x=1", 2, "--set swaps.dw7.x=1"),
        ("missing.pt -r convnext", 2, "missing.pt"),
        ("half.pt -r convnext", 2, "half.pt is truncated"),
        ("html.pt -r convnext", 2, "web page"),
        ("empty.pt -r convnext", 2, "empty"),
        ("code.pt -r convnext", 2, "--trust-pickle"),
        ("pickle.pt -r convnext", 2, "pickle"),
        ("head.safetensors -r convnext", 2, "head.safetensors"),
        ("other.pt -r convnext --arch test_convnext", 2, "does not fit test_convnext"),
        ("timm:convnext_tinny -r convnext", 2, "convnext_tiny"),
        ("timm:test_vit -r vit --input-size 225", 2, "1x3x225x225"),
        ("good.pt -r convnext --input-size huge", 2, "--input-size huge"),
        ("good.pt -r convnext --images nowhere", 2, "nowhere"),
        ("good.pt -r convnext --model-arg depths", 2, "KEY=VALUE"),
        ("python:no_such_module:model -r convnext", 2, "no_such_module"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing_behind(
    dcnify, weights, tmp_path, args, code, words
):
    _files(tmp_path, weights)
    size = () if "--input-size" in args else SMALL
    arch = ARCH if args.startswith("good.pt") else ()
    seen, out, err = dcnify("convert", *args.split(), "-o", "out", *size, *arch)
    lines = [line for line in err.splitlines() if line.startswith("error:")]
    assert seen == code, err
    assert words in lines[0]
    assert len(err.strip().splitlines()) == 1
    assert out == ""
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "owned").exists(), "nothing in a file may run"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("-o", "taken"), "exists"),
        (("-o", "taken", "--overwrite"), "thesis.txt"),
        (("-o", "/proc/nothing/out"), "/proc/nothing/out"),
    ],
)
def test_an_output_that_cannot_be_written_is_told_before_the_work(
    dcnify, weights, tmp_path, monkeypatch, options, words
):
    _files(tmp_path, weights)
    monkeypatch.setattr("dcnify.artifact.open_source", lambda *a, **k: pytest.fail("too late"))
    code, _, err = dcnify("convert", "good.pt", "-r", "convnext", *options)
    assert code == 2
    assert words in err
    assert (tmp_path / "taken" / "thesis.txt").read_text() == "keep me"


@pytest.mark.parametrize("target", ["good.pt", "html.pt"])
def test_a_file_that_is_no_artifact_is_never_replaced(dcnify, weights, tmp_path, target):
    _files(tmp_path, weights)
    before = (tmp_path / target).read_bytes()
    args = ("convert", "good.pt", "-r", "convnext", "-o", target, "--overwrite", *SMALL)
    code, _, err = dcnify(*args)
    assert code == 2
    assert "not a dcnify artifact" in err
    assert (tmp_path / target).read_bytes() == before


@pytest.mark.parametrize(
    "option",
    [
        ("--set", "swaps.dw7.replace.kernel_size=99999"),
        ("--set", "input=[3, 999999, 999999]"),
        ("--seed", "99999999999999999999999"),
    ],
)
def test_absurd_numbers_are_refused_before_memory_is_asked_for(dcnify, checkpoint, option):
    size = () if "input" in option[1] else SMALL
    args = ("convert", checkpoint, "-r", "convnext", "-o", "out", *ARCH, *option, *size)
    code, _, err = dcnify(*args)
    assert code == 2, err


def test_verbs_refuse_what_they_do_not_know(dcnify):
    code, _, err = dcnify("convrt", "model.pt")
    assert code == 2
    assert "did you mean 'convert'" in err
    code, _, err = dcnify("convert", "model.pt", "-r", "convnext")
    assert code == 2
    assert "--output" in err
