"""Artifacts of models that take more than an image, or are called with keywords."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from support import models
from support.several_inputs import CASES, IMAGE, STEP, TinyUNet

import dcnify
from dcnify.artifact import Base, open_source, read_artifact, save
from dcnify.artifact.golden import Golden, golden_of
from dcnify.artifact.load import load_record
from dcnify.artifact.save import save_again
from dcnify.verify.verification import verify

IMAGES = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def _saved(case, place):
    make, role, example = case
    result = dcnify.convert(make().eval(), models.recipe(role), example, IMAGES)
    base = Base("python", f"support.several_inputs:{make.__name__}")
    return result, save(result, place, base=base)


@pytest.mark.parametrize("name", ["out", "out.pt"])
def test_the_call_is_stored_and_the_model_verified_with_it(case, tmp_path, name):
    result, out = _saved(case, tmp_path / name)
    done = verify(read_artifact(out), trust_code=True)
    assert [check.name for check in done.checks if check.passed is False] == []
    golden = read_artifact(out).golden()
    assert isinstance(golden, Golden)
    given, kept = result.example, golden.example()
    assert kept.shape == (1, 3, 16, 16)
    assert (kept.image, list(kept.kwargs)) == (given.image, list(given.kwargs))
    for mine, theirs in zip(given.args, kept.args, strict=True):
        if mine is not given.images:
            assert torch.equal(mine, theirs)


def test_a_changed_input_is_found_out(tmp_path):
    _, out = _saved(CASES["unet"], tmp_path / "out")
    stored = load_file(out / "golden.safetensors")
    assert torch.equal(stored["input.0"], STEP)
    golden = read_artifact(out).golden()
    model, _ = load_record(read_artifact(out), trust_code=True)
    with torch.no_grad():
        other = model(golden.input(), STEP + 1)["sample"].flatten()
        same = model(golden.input(), STEP)["sample"].flatten()
    assert torch.equal(same, golden.sample)
    assert not torch.allclose(other, golden.sample)


def test_fidelity_is_measured_again_with_the_stored_inputs(tmp_path):
    _, out = _saved(CASES["unet"], tmp_path / "out")
    source = open_source("python:support.several_inputs:TinyUNet")
    images = dcnify.data.ImageBatch(IMAGES, tuple("12345678"), (), "given")
    done = verify(read_artifact(out), against=source, images=images, trust_code=True)
    assert [check.name for check in done.checks if check.passed is False] == []
    assert done.fidelity.output.sqnr_db == pytest.approx(done.report["output"]["sqnr_db"], abs=0.1)


def test_every_row_of_the_other_inputs_is_stored_and_measured_again_with_its_image(tmp_path):
    steps = torch.tensor([3.0, 400.0, 900.0])
    example = (IMAGE.repeat(3, 1, 1, 1), steps)
    result = dcnify.convert(TinyUNet().eval(), models.recipe("depthwise_conv"), example, IMAGES)
    base = Base("python", "support.several_inputs:TinyUNet")
    record = read_artifact(save(result, tmp_path / "out", base=base))
    assert torch.equal(record.example().args[1], steps)
    assert torch.equal(record.golden().example().args[1], steps[:1])
    images = dcnify.data.ImageBatch(IMAGES, tuple("12345678"), (), "given")
    source = open_source("python:support.several_inputs:TinyUNet")
    done = verify(record, against=source, images=images, trust_code=True)
    assert [check.name for check in done.checks if check.passed is False] == []


def test_inputs_too_large_to_store_for_each_image_are_stored_for_one(monkeypatch):
    monkeypatch.setattr("dcnify.artifact.golden._MOST_BYTES", 7)
    golden = golden_of(TinyUNet().eval(), (IMAGE.repeat(3, 1, 1, 1), torch.ones(3)))
    assert golden.call.args[1].shape == (1,)


def test_an_artifact_that_is_saved_again_keeps_its_call(tmp_path):
    _, out = _saved(CASES["unet by keyword"], tmp_path / "out")
    record = read_artifact(out)
    model, _ = load_record(record, trust_code=True)
    again = read_artifact(save_again(record, model, record.plan, tmp_path / "again"))
    assert torch.equal(again.example().kwargs["timestep"], STEP)


def test_arguments_that_cannot_be_stored_leave_no_golden_output_and_say_why():
    class Options:
        pass

    class Net(TinyUNet):
        def forward(self, sample, timestep, options):
            return super().forward(sample, timestep)

    found = golden_of(Net().eval(), (IMAGE, STEP, Options()))
    assert "type Options cannot be stored" in found


@pytest.mark.parametrize(
    "change",
    [
        {"args": [{"tensor": "missing"}]},
        {"args": 3},
        {"image": 9},
        {"batch_axis": -1},
        {"code": "import os"},
        {"args": [{"tensor": {"tensor": "input"}}]},
    ],
)
def test_a_damaged_call_is_refused_in_one_line(tmp_path, change):
    from dcnify.artifact.golden import read_golden

    golden = golden_of(TinyUNet().eval(), (IMAGE, STEP))
    about = golden.about()
    assert read_golden(golden.tensors(), about, "here").example().args[1] == STEP
    with pytest.raises(dcnify.InputError, match="here: its golden output is damaged") as caught:
        read_golden(golden.tensors(), about | {"call": about["call"] | change}, "here")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("batch", [0, -1, 1 << 40, True, "2", None])
def test_a_damaged_batch_is_refused_before_anything_is_allocated(batch):
    from dcnify.artifact.golden import read_golden

    golden = golden_of(TinyUNet().eval(), (IMAGE, STEP))
    with pytest.raises(dcnify.InputError, match="here: its golden output is damaged"):
        read_golden(golden.tensors(), golden.about() | {"batch": batch}, "here")


def test_a_command_line_takes_the_example_beside_a_factory(tmp_path, monkeypatch, capfd):
    from dcnify.cli import main

    (tmp_path / "mynet.py").write_text(
        "import torch\nfrom support.several_inputs import TinyUNet\n"
        "def example_inputs():\n"
        "    return {'sample': torch.zeros(2, 3, 16, 16), 'timestep': torch.ones(2)}\n"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", "python:mynet:TinyUNet", "--json"]) in (0, None)
    shown = json.loads(capfd.readouterr().out)
    assert shown["input"] == [2, 3, 16, 16]
    assert [site["path"] for site in shown["sites"]] == ["mix"]


def test_a_detector_is_converted_in_its_backbone_and_loads_whole(tmp_path, capfd):
    from support.detectors import Detector, example_inputs

    from dcnify.cli import main

    source, out = "python:support.detectors:detector", str(tmp_path / "out")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(models.recipe("depthwise_conv").to_yaml())
    assert main(["convert", source, "-r", str(recipe), "-o", out]) in (0, None)
    assert "only backbone is looked at and measured, given 2x3x32x32" in capfd.readouterr().out
    assert main(["verify", out, "--against", source, "--trust-code", "--json"]) in (0, None)
    checks = json.loads(capfd.readouterr().out)["checks"]
    assert {check["name"]: check["passed"] for check in checks}["reported fidelity of the output"]
    loaded = dcnify.load(out, trust_code=True)
    assert type(loaded) is Detector
    assert "offset_mask" in str(loaded.backbone.mix.state_dict().keys())
    assert len(loaded(*example_inputs())) == 2
    assert main(["inspect", out, "--trust-code", "--json"]) in (0, None)
    assert json.loads(capfd.readouterr().out)["sites"] == []
    assert main(["inspect", out, "--trust-code", "--part", "backbone"]) == 2
    assert "--part is recorded in" in capfd.readouterr().err


def test_a_part_is_named_on_the_command_line(capfd):
    from dcnify.cli import main

    wanted = ["inspect", "python:support.detectors:detector", "--json", "--part"]
    assert main([*wanted, "backbone"]) in (0, None)
    assert [one["path"] for one in json.loads(capfd.readouterr().out)["sites"]] == ["backbone.mix"]
    assert main([*wanted, "bakbone"]) == 2
    assert "no part 'bakbone', did you mean 'backbone'?" in capfd.readouterr().err
