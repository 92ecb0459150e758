"""Exported models compute what the model does, at every size that was asked for."""

from __future__ import annotations

import json

import onnx
import pytest
import timm
import torch
from support import models
from support.detectors import detector, example_inputs
from support.two_inputs_for_export import TwoInputs
from torch import nn

import dcnify
from dcnify.artifact import read_artifact
from dcnify.errors import CheckError, InputError
from dcnify.export.onnx.file import Session
from dcnify.nn.static import fold_static

EXAMPLE = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))


def _entries(path):
    return {one.key: one.value for one in onnx.load(path).metadata_props}


def test_an_artifact_is_written_and_compared(artifact, tmp_path):
    done = dcnify.export(artifact, tmp_path / "m.onnx")
    assert [one.what for one in done.comparisons] == ["golden output", "photographs"]
    assert done.error < 1e-4
    assert done.comparisons[1].agreement == 1.0
    assert done.layers == {"DeformConv": 5}
    assert done.opset == 19
    assert (done.inputs, done.outputs) == ({"x": (1, 3, 64, 64)}, {"output": (1, 5)})
    assert done.bytes == (tmp_path / "m.onnx").stat().st_size
    assert [one.name for one in tmp_path.iterdir()] == ["m.onnx"]


def test_the_file_says_what_it_is(artifact, tmp_path):
    dcnify.export(artifact, tmp_path / "m.onnx")
    entries, record = _entries(tmp_path / "m.onnx"), read_artifact(artifact)
    assert json.loads(entries["dcnify.plan"]) == json.loads(record.plan.to_json())
    assert entries["dcnify.version"] == dcnify.__version__
    assert json.loads(entries["dcnify.mean"]) == [0.485, 0.456, 0.406]
    assert len(entries["dcnify.recipe.sha256"]) == 64


def test_no_path_of_the_exporting_machine_is_in_the_file(artifact, tmp_path):
    dcnify.export(artifact, tmp_path / "m.onnx")
    held = (tmp_path / "m.onnx").read_bytes()
    assert b".py" not in held
    assert b"site-packages" not in held


def test_any_batch_height_and_width(converted, tmp_path):
    path = tmp_path / "m.onnx"
    done = dcnify.export(converted, path, dynamic="batch,height,width")
    assert done.inputs == {"x": ("batch", 3, "height", "width")}
    assert done.outputs == {"output": ("batch", 5)}
    assert [one.size for one in done.comparisons[1:]] == [(96, 128), (93, 123), (32, 32)]
    session = Session(path)
    for shape in ((1, 3, 64, 64), (3, 3, 80, 48), (2, 3, 33, 70)):
        x = torch.randn(shape)
        with torch.no_grad():
            torch.testing.assert_close(session(x)[0], converted.model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("opset", [18, 20, 22])
def test_grid_sample_is_for_runtimes_without_deform_conv(converted, tmp_path, opset):
    done = dcnify.export(converted, tmp_path / "m.onnx", form="grid_sample", opset=opset)
    assert done.layers == {"GridSample": 5}
    assert done.error < 1e-4
    assert any("4813" in note for note in done.notes)


@pytest.mark.slow
@pytest.mark.parametrize("opset", range(19, 25))
def test_every_opset(converted, tmp_path, opset):
    assert dcnify.export(converted, tmp_path / "m.onnx", opset=opset).opset == opset


@pytest.mark.parametrize("form", ["deform_conv", "grid_sample"])
def test_half_precision(converted, tmp_path, form):
    before = {name: one.clone() for name, one in converted.model.state_dict().items()}
    done = dcnify.export(converted, tmp_path / "m.onnx", dtype="fp16", form=form)
    assert done.dtype == "float16"
    assert 1e-5 < done.error < 2e-2
    graph = onnx.load(tmp_path / "m.onnx").graph
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    after = converted.model.state_dict()
    assert all(torch.equal(one, after[name]) for name, one in before.items())


def test_bfloat16_weights_are_written_as_float32_alone(tmp_path):
    model = models.tiny_convnext().bfloat16()
    example = EXAMPLE.bfloat16()
    with pytest.raises(InputError, match="--dtype fp32"):
        dcnify.export(model, tmp_path / "m.onnx", example=example)
    done = dcnify.export(model, tmp_path / "m.onnx", example=example, dtype="fp32")
    assert done.error < 1e-5
    assert model.stem[0].weight.dtype == torch.bfloat16


def test_a_vit_with_prefix_tokens_of_any_size(tmp_path):
    model = models.tiny_vit(dynamic_img_size=True, img_size=64)
    result = dcnify.convert(model, models.recipe("attention"), EXAMPLE)
    done = dcnify.export(result, tmp_path / "m.onnx", dynamic=("height", "width"))
    assert done.layers == {"DeformConv": 2}
    assert done.error < 1e-4


@pytest.mark.parametrize("name", ["flash_intern_image_t", "intern_image_t"])
def test_internimage(tmp_path, name):
    model = timm.create_model(name, depths=(1, 1, 1, 1), num_classes=7).eval()
    done = dcnify.export(model, tmp_path / "m.onnx", example=EXAMPLE)
    assert done.layers == {"DeformConv": 4}
    assert done.error < 1e-4


def test_feature_maps(tmp_path):
    model = timm.create_model(
        *("convnext_atto",), features_only=True, depths=(1, 1, 1, 1), dims=(8, 16, 24, 32)
    )
    result = dcnify.convert(model.eval(), models.recipe("depthwise_conv"), EXAMPLE)
    done = dcnify.export(result, tmp_path / "m.onnx")
    assert [name for name in done.outputs] == [f"output_{index}" for index in range(4)]
    assert done.error < 1e-4


def test_several_inputs_and_named_outputs(tmp_path):
    model = TwoInputs().eval()
    example = dcnify.Example((EXAMPLE[:, :, :16, :16],), {"step": torch.tensor([3.0])})
    result = dcnify.convert(model, models.recipe("depthwise_conv"), example)
    done = dcnify.export(result, tmp_path / "m.onnx", example=example, dynamic="batch")
    assert done.inputs == {"x": ("batch", 3, 16, 16), "step": ("batch",)}
    assert list(done.outputs) == ["maps", "pooled"]
    assert done.error < 1e-4


def test_of_a_detector_the_part_is_exported(tmp_path):
    (images,) = example_inputs()
    result = dcnify.convert(detector().eval(), models.recipe("depthwise_conv"), (images,))
    done = dcnify.export(result, tmp_path / "m.onnx", (images,))
    assert done.inputs["x"][0] == len(images)
    assert done.layers == {"DeformConv": 1}
    assert done.error < 1e-4
    whole = dcnify.Example((images,), image="0.0")
    with pytest.raises(InputError, match="--part backbone"):
        dcnify.export(result, tmp_path / "n.onnx", whole)


def test_layers_with_fixed_points_are_convolutions(tmp_path):
    result = dcnify.convert(models.tiny_convnext(), models.recipe("depthwise_conv"), EXAMPLE)
    done = dcnify.export(result, tmp_path / "m.onnx", fold_static=True)
    assert len(done.folded) == 5
    assert done.layers == {}
    assert not any("points" in name for name, _ in result.model.named_modules())
    assert fold_static(result.model) == done.folded


def test_a_model_above_its_bound_is_not_written(converted, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_text("mine")
    with pytest.raises(CheckError, match=r"m\.onnx: .* more than 1e-12"):
        dcnify.export(converted, path, max_error=1e-12, overwrite=True)
    assert path.read_text() == "mine"
    assert [one.name for one in tmp_path.iterdir()] == ["m.onnx"]


def test_weights_beside_the_file(converted, tmp_path, monkeypatch):
    monkeypatch.setattr("dcnify.export.onnx.file.LARGEST", 1000)
    done = dcnify.export(converted, tmp_path / "m.onnx")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    assert done.bytes == sum(one.stat().st_size for one in tmp_path.iterdir())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            Session(tmp_path / "m.onnx")(x)[0], converted.model(x), rtol=1e-4, atol=1e-5
        )


def test_the_model_before_the_conversion_is_beside_it(converted, tmp_path):
    done = dcnify.export(converted, tmp_path / "m.onnx", against=models.tiny_convnext())
    assert done.against is not None
    assert done.against.error > done.error


class DecidesBySize(nn.Module):
    """Pads what its stride does not divide, and enlarges what is small."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.stem = kind, nn.Conv2d(3, 4, 8, 8)

    def forward(self, x):
        rows, columns = x.shape[2:]
        if self.kind == "pads" and (rows % 8 or columns % 8):
            x = nn.functional.pad(x, (0, -columns % 8, 0, -rows % 8))
        if self.kind == "enlarges" and rows < 48:
            x = nn.functional.interpolate(x, scale_factor=2.0)
        return self.stem(x).mean((2, 3))


@pytest.mark.parametrize(("kind", "size"), [("pads", "93x123"), ("enlarges", "32x32")])
def test_a_size_at_which_the_file_would_be_wrong_is_found(kind, size, tmp_path):
    model = DecidesBySize(kind).eval()
    with pytest.raises(CheckError, match=f"another size, 1x3x{size}"):
        dcnify.export(model, tmp_path / "m.onnx", EXAMPLE, dynamic="height,width")
    assert list(tmp_path.iterdir()) == []
    dcnify.export(model, tmp_path / "m.pt2", EXAMPLE, dynamic="height,width")
    program = torch.export.load(tmp_path / "m.pt2").module()
    rows, columns = map(int, size.split("x"))
    with pytest.raises(AssertionError, match="Guard failed"):
        program(torch.randn(1, 3, rows, columns))


def test_weights_of_somebody_else_beside_the_file_stay(converted, tmp_path):
    (tmp_path / "m.onnx.data").write_text("mine")
    with pytest.raises(InputError, match=r"m\.onnx\.data exists; pass --overwrite"):
        dcnify.export(converted, tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx.data").read_text() == "mine"
    assert not (tmp_path / "m.onnx").exists()


def test_whole_numbers_are_compared_too(tmp_path, monkeypatch):
    class Classes(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)).argmax(1)

    done = dcnify.export(Classes(), tmp_path / "m.onnx", example=EXAMPLE)
    assert done.error == 0
    prepared = Session.prepared
    monkeypatch.setattr(
        Session, "prepared", lambda *given: lambda: [one + 1 for one in prepared(*given)()]
    )
    with pytest.raises(CheckError):
        dcnify.export(Classes(), tmp_path / "n.onnx", example=EXAMPLE)


def test_a_model_needs_an_example(tmp_path):
    with pytest.raises(InputError, match="example="):
        dcnify.export(models.tiny_convnext(), tmp_path / "m.onnx")
