"""InternImage's weights as others hold them: in a segmenter, and in the Hugging Face port."""

import json

import pytest
import timm
import torch
from safetensors.torch import save_file
from support.artifact_standin import assert_same, converted
from support.internimage_files import TINY, VARIANTS, outputs, said_of, saved, tiny, unfilled

import dcnify
from dcnify.artifact import open_source
from dcnify.sources.construct import on_meta
from dcnify.sources.identify.search import identify
from dcnify.sources.state_dict import shapes_of


def ported(state):
    """Names as in the Hugging Face port."""
    return {"model." + name.replace("gamma", "layer_scale"): value for name, value in state.items()}


def in_a_segmenter(state, **others):
    """As mmcv writes a checkpoint; the backbone has no classifier."""
    head = ("conv_head", "head.", "dcnv3_head", "clip_projector", "fc_norm")
    held = {f"backbone.{k}": v for k, v in state.items() if not k.startswith(head)}
    for name, count in {"decode_head": 3, "neck": 2, **others}.items():
        held |= {f"{name}.convs.{i}.weight": torch.randn(2, 2) for i in range(count)}
    meta = {"epoch": 12, "config": "model = dict()", "CLASSES": ("wall", "sky")}
    return {"meta": meta, "state_dict": held, "optimizer": {"state": {}, "param_groups": []}}


@pytest.mark.slow
@pytest.mark.parametrize("neck", [2, 0], ids=["in a segmenter", "alone"])
@pytest.mark.parametrize("name", VARIANTS)
def test_every_published_backbone_is_told_by_its_shapes(name, neck):
    state = unfilled(on_meta(lambda: timm.create_model(name)))
    held = in_a_segmenter(state, neck=neck, decode_head=neck)["state_dict"]
    found = identify(shapes_of(held), {}, "model.pth")
    assert (found.candidate.name, found.candidate.args) == (name, {"features_only": True})
    assert not found.sizes


@pytest.mark.slow
def test_a_detector_s_tiny_model_has_layer_scales_and_the_published_size(tmp_path):
    """The published detection configurations give T a layer scale."""
    state = unfilled(on_meta(lambda: timm.create_model("intern_image_t", layer_scale=1.0)))
    found = identify(shapes_of(in_a_segmenter(state)["state_dict"]), {}, "model.pth")
    assert found.candidate.name == "intern_image_t"
    assert found.sizes == {"layer_scale": 1e-5}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["intern_image_t", "intern_image_s", "flash_intern_image_s"])
def test_a_segmentation_checkpoint_gives_its_backbone(tmp_path, name):
    model = tiny(name)
    source = open_source(saved(tmp_path, in_a_segmenter(model.state_dict())))
    assert source.base.args["features_only"] is True
    assert "left out 5 tensors beside it: 3 of decode_head, 2 of neck" in source.notes
    assert any("gives feature maps" in note for note in source.notes)
    with torch.no_grad():
        maps = model.forward_intermediates(torch.ones(1, 3, 64, 64), intermediates_only=True)
        for mine, other in zip(maps, source.model(torch.ones(1, 3, 64, 64)), strict=True):
            assert torch.equal(mine, other)


@pytest.mark.slow
def test_a_backbone_takes_the_architecture_that_is_named(tmp_path):
    path = saved(tmp_path, in_a_segmenter(tiny().state_dict()))
    source = open_source(path, arch="intern_image_t", model_args=TINY)
    assert source.base.args == {**TINY, "features_only": True}
    assert "--arch intern_image_t --model-arg channels=16" in said_of(path, arch="intern_image_s")


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["", "model.", "backbone."])
def test_a_backbone_alone_is_one_too(tmp_path, prefix):
    held = in_a_segmenter(tiny().state_dict(), decode_head=0, neck=0)["state_dict"]
    held = {prefix + name.removeprefix("backbone."): value for name, value in held.items()}
    assert open_source(saved(tmp_path, held)).base.args["features_only"] is True


@pytest.mark.slow
def test_a_detector_with_two_backbones_is_not_guessed_at(tmp_path):
    state = in_a_segmenter(tiny().state_dict())["state_dict"]
    both = {
        f"{who}.{name}": value for who in ("student", "teacher") for name, value in state.items()
    }
    said_of(saved(tmp_path, both))


@pytest.mark.parametrize(
    "name", ["test_convnext2", "test_resnet", "test_efficientnet", "convnext_atto"]
)
def test_other_architectures_backbones_are_found_the_same_way(tmp_path, name):
    model = timm.create_model(name, features_only=True)
    whole = timm.create_model(name)
    names = {own.replace(".", "_"): own for own in whole.state_dict()}
    state = {names[k.replace(".", "_")]: v for k, v in model.state_dict().items()}
    source = open_source(saved(tmp_path, in_a_segmenter(state)), arch=name)
    assert source.base.args == {"features_only": True}
    assert_same(model.eval(), source.model)


def test_a_backbone_goes_with_the_user_s_own_architecture(tmp_path, monkeypatch):
    (tmp_path / "my_backbone.py").write_text(
        "from torch import nn\ndef build():\n    return nn.Sequential(nn.Linear(3, 2))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    state = {"0.weight": torch.randn(2, 3), "0.bias": torch.randn(2)}
    path = saved(tmp_path, in_a_segmenter(state))
    source = open_source(path, arch="python:my_backbone:build")
    assert torch.equal(source.model[0].weight, state["0.weight"])
    assert any("left out 5 tensors" in note for note in source.notes)


@pytest.mark.slow
@pytest.mark.parametrize("output", ["out", "out.pt"])
@pytest.mark.parametrize("known", [True, False])
def test_a_backbone_is_saved_and_loaded(stand_in, tmp_path, output, known):
    source = open_source(saved(tmp_path, in_a_segmenter(tiny().state_dict())))
    result = converted(source.model)
    dcnify.save(result, tmp_path / output, source=source if known else None, base=source.base)
    loaded = dcnify.load(tmp_path / output)
    assert_same(source.model, loaded)
    for mine, other in zip(outputs(source.model), outputs(loaded), strict=True):
        assert torch.equal(mine, other)
    again = open_source(tmp_path / output)
    assert again.base == source.base
    assert again.input_size == (3, 224, 224)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("name", ["intern_image_t", "intern_image_s"])
def test_the_hugging_face_port_s_weights_are_read(tmp_path, file, name):
    model = tiny(name)
    write = save_file if file.endswith("safetensors") else torch.save
    write(ported(model.state_dict()), tmp_path / file)
    source = open_source(tmp_path / file)
    assert_same(model, source.model)
    assert torch.equal(outputs(model), outputs(source.model))
    assert any("Hugging Face port" in note for note in source.notes) == (name[-1] == "s")


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS[:7])
def test_every_model_of_the_hugging_face_port_is_told_by_its_shapes(tmp_path, name):
    state = ported(unfilled(on_meta(lambda: timm.create_model(name))))
    said = said_of(saved(tmp_path, state), arch="test_resnet")
    assert said.endswith(f"; did you mean --arch {name}?")


def hub_config(**args):
    """As `save_pretrained` writes it beside the port's weights."""
    return {
        "architectures": ["InternImageModelForImageClassification"],
        "auto_map": {"AutoModel": "modeling_internimage.InternImageModel"},
        "model_type": "internimage",
        "core_op": "DCNv3",
        **TINY,
        "mlp_ratio": 4.0,
        "layer_scale": None,
        "offset_scale": 1.0,
        "post_norm": False,
        "res_post_norm": False,
        "dw_kernel_size": None,
        "level2_post_norm": False,
        "level2_post_norm_block_ids": None,
        "center_feature_scale": False,
        "use_clip_projector": False,
        "remove_center": False,
        "num_classes": 1000,
        "cls_scale": 1.5,
        "norm_layer": "LN",
        "with_cp": False,
        **args,
    }


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"layer_scale": 1e-5, "post_norm": True, "offset_scale": 2.0, "num_classes": 5},
        {"depths": [1, 1, 4, 1], "post_norm_block_ids": [0, 2], "dw_kernel_size": 5},
    ],
    ids=["plain", "post norm", "further norms"],
)
def test_a_folder_of_the_hugging_face_port_is_a_source(tmp_path, args):
    model = tiny(**args)
    ids = args.get("post_norm_block_ids")
    config = hub_config(**args, level2_post_norm=bool(ids), level2_post_norm_block_ids=ids)
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(ported(model.state_dict()), tmp_path / "model.safetensors")
    source = open_source(tmp_path)
    assert source.base.name == "intern_image_t"
    assert_same(model, source.model)
    assert torch.equal(outputs(model), outputs(source.model))


@pytest.mark.slow
@pytest.mark.parametrize(
    "args", [{"depths": [10**6] * 4}, {"channels": 10**9}, {"groups": "all"}, {"depths": None}]
)
def test_an_absurd_folder_of_the_port_does_no_harm(tmp_path, args):
    (tmp_path / "config.json").write_text(json.dumps(hub_config(**args)))
    save_file(ported(tiny().state_dict()), tmp_path / "model.safetensors")
    said_of(tmp_path)
