"""Patch and image size are the file's; what is resampled was asked for, and is named."""

import re

import pytest
import timm
import torch
from support.artifact_standin import assert_same

from dcnify.artifact import open_source
from dcnify.errors import InputError

VIT, SMALL = "vit_tiny_patch16_224", {"depth": 1}


def saved(tmp_path, state):
    torch.save(state, tmp_path / "m.pth")
    return tmp_path / "m.pth"


def of_its_paper(model):
    """The names of the repository of DeiT III, which timm's filter renames and resamples."""
    names = {name: re.sub(r"ls(\d)\.gamma", r"gamma_\1", name) for name in model.state_dict()}
    return {"model": {names[name]: value for name, value in model.state_dict().items()}}


@pytest.mark.parametrize(
    ("arch", "args", "told"),
    [
        (VIT, {"depth": 1, "patch_size": 8, "img_size": 64}, {}),
        (VIT, {"depth": 1, "patch_size": 8, "img_size": 64}, {"img_size": 64}),
        (VIT, {"depth": 1, "patch_size": 8, "img_size": (32, 64)}, {"img_size": [32, 64]}),
        ("test_convnext", {"patch_size": 2}, {}),
        (
            "swin_tiny_patch4_window7_224",
            {"depths": (1, 1, 1, 1), "window_size": 8, "img_size": 256},
            {},
        ),
    ],
)
def test_a_file_of_another_patch_size_opens_as_it_was_saved(tmp_path, arch, args, told):
    model = timm.create_model(arch, **args).eval()
    told |= {key: args[key] for key in ("depth", "depths") if key in args}
    source = open_source(saved(tmp_path, model.state_dict()), arch=arch, model_args=told)
    assert_same(model, source.model)
    images = torch.randn(1, *source.input_size)
    assert torch.equal(source.model(images), model(images))


def test_what_is_resampled_on_request_is_named_and_the_patches_stay(tmp_path):
    model = timm.create_model(VIT, depth=1, patch_size=8, img_size=64)
    path = saved(tmp_path, model.state_dict())
    asked = open_source(path, arch=VIT, model_args={**SMALL, "img_size": 96})
    assert asked.base.args["patch_size"] == 8
    assert "timm resampled pos_embed to the size that was asked for" in asked.notes
    both = open_source(path, arch=VIT, model_args={**SMALL, "img_size": 96, "patch_size": 16})
    assert any("pos_embed, patch_embed.proj.weight" in note for note in both.notes)


def test_an_original_repository_s_file_keeps_its_image_size(tmp_path):
    model = timm.create_model("deit3_small_patch16_224", depth=1, img_size=96).eval()
    named = {"arch": "deit3_small_patch16_224"}
    path = saved(tmp_path, of_its_paper(model))
    kept = open_source(path, **named, model_args=SMALL)
    assert_same(model, kept.model)
    assert kept.input_size == (3, 96, 96)
    asked = open_source(path, **named, model_args={**SMALL, "img_size": 224})
    assert "timm resampled pos_embed to the size that was asked for" in asked.notes


def test_a_grid_that_is_not_square_is_asked_for(tmp_path):
    model = timm.create_model(VIT, depth=1, img_size=(32, 64))
    path = saved(tmp_path, model.state_dict())
    with pytest.raises(InputError, match=r"pos_embed: file \[1, 9, .*--model-arg img_size=\[H,W\]"):
        open_source(path, arch=VIT, model_args=SMALL)
