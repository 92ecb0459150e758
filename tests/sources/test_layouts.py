"""Names of other libraries: opened where timm or torchvision has the model, named otherwise."""

import re

import pytest
import timm
import torch
import torchvision
from support.artifact_standin import assert_same, tiny

from dcnify.artifact import open_source
from dcnify.errors import InputError

SIZES = {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]}


def opened(tmp_path, held, **options):
    torch.save(held, tmp_path / "m.pt")
    return open_source(tmp_path / "m.pt", **options)


def of_mmpretrain(state):
    out = {}
    for name, value in state.items():
        name = name.replace("stem.", "downsample_layers.0.").replace("conv_dw", "depthwise_conv")
        name = re.sub(r"stages\.(\d)\.downsample\.", r"downsample_layers.\1.", name)
        name = re.sub(r"stages\.(\d)\.blocks\.", r"stages.\1.", name)
        name = name.replace("mlp.fc", "pointwise_conv").replace("head.norm", "norm3")
        out[name if name.startswith("head.") else f"backbone.{name}"] = (
            value[:, :, 0, 0] if "pointwise" in name and value.ndim == 4 else value
        )
    return {"state_dict": out, "meta": {}}


def test_a_convnext_of_mmpretrain_opens(tmp_path):
    model = tiny()
    named = {"arch": "convnext_atto", "model_args": SIZES}
    source = opened(tmp_path, of_mmpretrain(model.state_dict()), **named)
    assert_same(model, source.model)
    assert any("names of mmpretrain" in note for note in source.notes)


def test_a_vit_of_mmpretrain_opens(tmp_path):
    model = timm.create_model("vit_tiny_patch16_224", depth=2, num_classes=3).eval()
    out = {}
    for name, value in model.state_dict().items():
        name = re.sub(r"^blocks\.", "layers.", name)
        name = name.replace("norm1", "ln1").replace("norm2", "ln2")
        name = name.replace("mlp.fc1", "ffn.layers.0.0").replace("mlp.fc2", "ffn.layers.1")
        name = re.sub(r"^norm\.", "ln1.", name).replace(
            "patch_embed.proj", "patch_embed.projection"
        )
        name = re.sub(r"^head\.", "head.layers.head.", name)
        out[name if name.startswith("head") else f"backbone.{name}"] = value
    args = {"depth": 2}
    source = opened(tmp_path, {"state_dict": out}, arch="vit_tiny_patch16_224", model_args=args)
    assert_same(model, source.model)


def test_a_training_file_of_dinov2_opens(tmp_path):
    model = timm.create_model("vit_tiny_patch16_224", depth=4, num_classes=0, init_values=1).eval()
    chunks = {
        re.sub(r"^blocks\.(\d)", lambda m: f"blocks.{int(m[1]) // 2}.{m[1]}", name): value
        for name, value in model.state_dict().items()
    }
    held = {f"backbone.{name}": value for name, value in chunks.items()}
    held |= {"backbone.mask_token": torch.ones(1, 192), "dino_head.mlp.0.weight": torch.ones(3)}
    args = {"depth": 4, "init_values": 1}
    named = {"arch": "vit_tiny_patch16_224", "model_args": args}
    assert_same(model, opened(tmp_path, {"teacher": held}, **named).model)


def test_a_vit_inside_open_clip_opens(tmp_path):
    model = timm.create_model("vit_tiny_patch16_224", depth=1).eval()
    held = {f"visual.trunk.{name}": value for name, value in model.state_dict().items()}
    held |= {"transformer.resblocks.0.ln_1.weight": torch.ones(3), "logit_scale": torch.ones(())}
    named = {"arch": "vit_tiny_patch16_224", "model_args": {"depth": 1}}
    assert_same(model, opened(tmp_path, {"state_dict": held}, **named).model)


@pytest.mark.slow
def test_torchvision_s_weights_are_found_where_timm_has_none(tmp_path):
    model = torchvision.models.mobilenet_v3_small(num_classes=7).eval()
    held = {f"module.{name}": value for name, value in model.state_dict().items()}
    source = opened(tmp_path, {"state_dict": held})
    assert str(source.base) == "torchvision:mobilenet_v3_small"
    assert_same(model, source.model)


@pytest.mark.slow
def test_torchvision_s_weights_under_a_name_of_timm_are_told_their_own(tmp_path):
    model = torchvision.models.mobilenet_v3_small()
    with pytest.raises(InputError, match=r"did you mean --arch torchvision:mobilenet_v3_small\?"):
        opened(tmp_path, model.state_dict(), arch="mobilenetv3_small_100")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            "vit.encoder.layer.{}.attention.attention.query.weight",
            r"Hugging Face transformers: give",
        ),
        ("model.{}.conv.weight", r"ultralytics: build it there and give --arch python:"),
        ("backbone.stages.0.blocks.{}.attn.w_msa.qkv.weight", r"OpenMMLab: build it there"),
        ("backbone.bottom_up.res2.{}.conv1.weight", r"Detectron2: build it there"),
        ("wte.{}.weight", r"a text model"),
    ],
)
def test_names_of_other_libraries_are_known(tmp_path, names, said):
    held = {names.format(number): torch.ones(3) for number in range(12)}
    with pytest.raises(InputError, match=rf"the names are those of {said}"):
        opened(tmp_path, held, arch="test_convnext")
