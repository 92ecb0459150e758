"""``inspect``, ``plan`` and ``convert`` as a person uses them, and as a person misuses them."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

import dcnify as api
from dcnify.cli import main

SMALL = ("--input-size", "64")
ARCH = ("--arch", "test_convnext")
QUICK = (*ARCH, *SMALL, "-r", "convnext", "--set", "swaps.dw7.init=paper")
"""Where neither the architecture of the checkpoint nor the new weights matter."""
RECIPE = """\
version: 1
name: mine
swaps:
  - name: late
    select: {role: depthwise_conv, stages: [2, 3]}
    replace: {with: dcnv4}
"""


@pytest.fixture
def dcnify(capsys, monkeypatch, tmp_path):
    """Run the command line in an empty folder; gives (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*args: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(args)
        return (code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(0)
    return timm.create_model("test_convnext").state_dict()


@pytest.fixture
def checkpoint(weights, tmp_path):
    torch.save(weights, tmp_path / "model.pt")
    return "model.pt"


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


def test_verbs_refuse_what_they_do_not_know(dcnify):
    code, _, err = dcnify("convrt", "model.pt")
    assert code == 2
    assert "did you mean 'convert'" in err
    code, _, err = dcnify("convert", "model.pt", "-r", "convnext")
    assert code == 2
    assert "--output" in err
