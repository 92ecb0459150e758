"""``dcnify export`` as a person uses it, and as a person misuses it."""

from __future__ import annotations

import json
from importlib import util

import pytest
import torch
from support import models

import dcnify as api
from dcnify.cli import main
from dcnify.surgery import handover


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """An artifact."""
    example = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    result = api.convert(models.tiny_vit(), models.recipe("attention"), example)
    return str(api.save(result, tmp_path_factory.mktemp("cli") / "out"))


@pytest.fixture
def source(tmp_path):
    """Options that name the model that the artifact was made from."""
    torch.save(models.tiny_vit().state_dict(), tmp_path / "model.pt")
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
    args = (("--model-arg", f"{key}={value}") for key, value in sizes.items())
    arch = ("--arch", "vit_tiny_patch16_224")
    return ("--against", "model.pt", *arch, *(word for pair in args for word in pair))


@pytest.fixture
def dcnify(capsys, monkeypatch, tmp_path):
    """Run the command line in an empty folder; gives (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*args: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(args)
        return (code, *capsys.readouterr())

    return run


def test_a_table_and_the_file(dcnify, out, tmp_path):
    code, said, _ = dcnify("export", out, "-o", "m.onnx")
    assert code == 0
    assert "golden output" in said
    assert "photographs" in said
    assert "input x: 1x3x32x32" in said
    assert "2 DeformConv" in said
    assert (tmp_path / "m.onnx").is_file()


def test_json(dcnify, out):
    code, said, _ = dcnify("export", out, "-o", "m.onnx", "--json", "--dynamic", "batch")
    data = json.loads(said)
    assert code == 0
    assert (data["path"], data["opset"], data["format"]) == ("m.onnx", 19, "onnx")
    assert data["inputs"] == {"x": ["batch", 3, 32, 32]}
    assert data["error"] < 1e-4


def test_the_original_beside_it(dcnify, out, source):
    code, said, error = dcnify("export", out, "-o", "m.onnx", *source)
    assert code == 0, error
    assert "the model it was converted from" in said
    code, _, error = dcnify("export", out, "-o", "n.onnx", "--against", "modell.pt")
    assert code == 2
    assert "did you mean 'model.pt'?" in error


def test_layers_with_fixed_points_are_counted(dcnify, out):
    code, said, _ = dcnify("export", out, "-o", "m.onnx", "--fold-static")
    assert code == 0
    assert "2 layers with fixed points" in said
    assert "DeformConv" not in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-o", "m"], ".onnx or .pt2"),
        (["-o", "m.onnx", "--format", "onx"], "did you mean 'onnx'?"),
        (["-o", "m.pt", "--format", "pt2"], "m.pt"),
        (["-o", "m.onnx", "--opset", "18"], "--form grid_sample needs 18"),
        (["-o", "m.onnx", "--opset", "99"], "19 to 24"),
        (["-o", "m.onnx", "--form", "deformconv"], "did you mean 'deform_conv'?"),
        (["-o", "m.onnx", "--dynamic", "batch,hight"], "did you mean 'height'?"),
        (["-o", "m.onnx", "--dtype", "int8"], "fp32 and fp16"),
        (["-o", "m.onnx", "--max-error", "0"], "--max-error"),
        (["-o", "m.pt2", "--opset", "20"], "--opset is for ONNX"),
        (["-o", "nowhere/m.onnx"], "nowhere"),
        (["-o", "m.onnx", "--dynamic", "batch,width"], "--dynamic batch"),
    ],
)
def test_what_cannot_work_is_one_line(dcnify, out, tmp_path, words, said):
    code, printed, error = dcnify("export", out, *words)
    assert code == 2
    assert printed == ""
    assert said in error
    assert len(error.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_stays(dcnify, out, tmp_path):
    (tmp_path / "m.onnx").write_text("mine")
    code, _, error = dcnify("export", out, "-o", "m.onnx")
    assert code == 2
    assert "--overwrite" in error
    assert (tmp_path / "m.onnx").read_text() == "mine"


def test_a_check_that_fails_is_exit_code_3(dcnify, out, tmp_path):
    code, _, error = dcnify("export", out, "-o", "m.onnx", "--max-error", "1e-15")
    assert code == 3
    assert "--max-error" in error
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_is_missing_is_named(dcnify, out, monkeypatch):
    known = util.find_spec
    monkeypatch.setattr(
        "dcnify.export.spec.find_spec",
        lambda name: None if name == "onnxruntime" else known(name),
    )
    code, _, error = dcnify("export", out, "-o", "m.onnx")
    assert code == 2
    assert "needs onnxruntime" in error
    assert "dcnify[export]" in error


def test_a_full_disk_leaves_nothing(dcnify, out, tmp_path, monkeypatch):
    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("onnxscript.ir.save", full)
    code, _, error = dcnify("export", out, "-o", "m.onnx")
    assert code == 1
    assert "No space left" in error
    assert list(tmp_path.iterdir()) == []


def test_an_operator_without_translation_is_named(tmp_path):
    class Odd(torch.nn.Module):
        def forward(self, x):
            return torch.special.airy_ai(x).mean((2, 3))

    with pytest.raises(api.InputError, match=r"airy_ai, which has no translation"):
        api.export(Odd(), tmp_path / "m.onnx", example=torch.rand(1, 3, 8, 8))
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_hands_over_is_refused(tmp_path):
    example = torch.randn(1, 3, 32, 32)
    result = api.convert(models.tiny_vit(), models.recipe("attention"), example)
    original = models.tiny_vit()
    for path in ("blocks.0.attn", "blocks.1.attn"):
        old = original.get_submodule(path)
        blended = api.nn.Handover(old, result.model.get_submodule(path), blend=0.5)
        result.model.set_submodule(path, blended)
    assert handover.handovers(result.model)
    with pytest.raises(api.InputError, match=r"2 layers still hand over"):
        api.export(result, tmp_path / "m.onnx")


def test_an_exported_file_is_timed_beside_the_models(dcnify, out, source, tmp_path):
    assert dcnify("export", out, "-o", "m.onnx", "--dynamic", "batch")[0] == 0
    code, said, error = dcnify(
        *("bench", "model", out, *source, "--onnx", "m.onnx", "--time", "0.01"),
        *("--batch", "2", "--json", "--csv", "t.csv", "--cpu"),
    )
    assert code == 0, error
    (forward,) = json.loads(said)["passes"]
    assert list(forward["timings"]) == ["original", "converted", "m.onnx"]
    assert forward["exported"]["m.onnx"]["p50"] > 0
    rows = (tmp_path / "t.csv").read_text().splitlines()
    assert len(rows) == 4


@pytest.mark.parametrize(
    ("batch", "file", "said"),
    [
        ("2", "m.onnx", "--batch 1"),
        ("1", "other.onnx", "export it again"),
        ("1", "x.onnx", "x.onnx"),
    ],
)
def test_a_file_that_cannot_be_timed(dcnify, out, source, tmp_path, batch, file, said):
    dcnify("export", out, "-o", "m.onnx")
    model = models.tiny_vit()
    torch.nn.init.normal_(model.head.weight)
    api.export(model, tmp_path / "other.onnx", example=torch.randn(1, 3, 32, 32))
    (tmp_path / "x.onnx").write_text("not ONNX")
    code, _, error = dcnify(
        *("bench", "model", out, *source, "--onnx", file, "--batch", batch),
        *("--time", "0.01", "--cpu"),
    )
    assert code == 2
    assert said in error
