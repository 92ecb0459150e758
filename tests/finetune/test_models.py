"""Models of every kind are trained, saved, loaded, verified, and trained again."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from support.finetune_cases import run, same, stages, weights

import dcnify
from dcnify.artifact import open_source, read_artifact, verify
from dcnify.errors import InputError

TWO = {"name": "s", "steps": 2, "batch_size": 16}
VIT = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "num_classes": 10,
}
INTERN = {"channels": 16, "depths": (1, 1, 1, 1), "groups": (1, 2, 4, 8), "num_classes": 10}
CONVNEXT = {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16], "patch_size": 2, "num_classes": 10}
VIT_RECIPE = (
    "version: 1\nname: v\nswaps:\n  - name: a\n    select: {role: attention}\n"
    "    replace: {with: dcnv4, group_channels: 8}\n    require: {sqnr_db: -50}\n"
)
CONV_RECIPE = (
    "version: 1\nname: c\nswaps:\n  - name: a\n    select: {role: depthwise_conv}\n"
    "    replace: {with: dcnv4, group_channels: 8}\n"
)


def made(folder: Path, name: str, args: dict, recipe, *, out="converted", dtype=None, channels=3):
    """An artifact, with its source beside it; returns that, opened."""
    torch.manual_seed(0)
    model = timm.create_model(name, **args)
    source = folder / "model.safetensors"
    save_file(model.state_dict(), source)
    opened = open_source(source, arch=name, model_args=args)
    opened.model.to(dtype)
    recipe = dcnify.Recipe.from_yaml(recipe) if isinstance(recipe, str) else recipe
    example = torch.randn(1, channels, 32, 32, dtype=dtype)
    result = dcnify.convert(opened.model, recipe, example)
    dcnify.save(result, folder / out, source=opened)
    return open_source(source, arch=name, model_args=args)


def verified(path, against=None):
    done = verify(read_artifact(path), against=against)
    assert not done.failed, done.failed
    return done


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "args", "recipe"),
    [
        ("vit_tiny_patch16_224", VIT, VIT_RECIPE),
        ("intern_image_t", INTERN, dcnify.Recipe.load("internimage-exact")),
        ("intern_image_t", INTERN, dcnify.Recipe.load("internimage-flash")),
    ],
    ids=["vit", "exact", "flash"],
)
def test_a_model_is_trained_saved_verified_and_trained_again(name, args, recipe, tmp_path):
    opened = made(tmp_path, name, args, recipe)
    plan = stages(tmp_path, TWO)
    run(tmp_path, "one", plan)
    assert not same(tmp_path / "one", tmp_path / "converted")
    done = verified(tmp_path / "one", opened)
    assert done.fidelity is not None
    (recipe_check,) = [check for check in done.checks if check.name == "recipe"]
    assert "trained since" in recipe_check.detail
    run(tmp_path, "two", plan, artifact=tmp_path / "one")
    again = read_artifact(tmp_path / "two")
    assert len(again.report["finetune"]) == 2
    assert again.report["conversion"] == read_artifact(tmp_path / "one").report["conversion"]
    assert "sites" in again.report["conversion"]
    verified(tmp_path / "two")


def test_a_file_is_an_artifact_too(tmp_path):
    made(tmp_path, "convnext_atto", CONVNEXT, CONV_RECIPE, out="file.pt")
    run(tmp_path, "out", stages(tmp_path, TWO), artifact=tmp_path / "file.pt")
    verified(tmp_path / "out")


def test_a_model_of_one_channel_sees_grey_images(tmp_path):
    made(tmp_path, "convnext_atto", {**CONVNEXT, "in_chans": 1}, CONV_RECIPE, channels=1)
    run(tmp_path, "out", stages(tmp_path, TWO))
    assert dcnify.load(tmp_path / "out")(torch.randn(1, 1, 32, 32)).shape == (1, 10)
    verified(tmp_path / "out")


@pytest.mark.slow
def test_weights_in_half_precision_are_trained_and_written_in_float32(tmp_path):
    made(tmp_path, "convnext_atto", CONVNEXT, CONV_RECIPE, dtype=torch.bfloat16)
    said = []
    run(tmp_path, "out", stages(tmp_path, TWO), say=said.append)
    assert "the weights are bfloat16: trained, and written, in float32" in said
    assert {one.dtype for one in weights(tmp_path / "out").values()} == {torch.float32}
    verified(tmp_path / "out")


@pytest.mark.slow
def test_a_model_without_a_classifier_learns_its_features(tmp_path):
    made(tmp_path, "convnext_atto", {**CONVNEXT, "num_classes": 0}, CONV_RECIPE)
    with pytest.raises(InputError, match=r"stage s: losses.labels: the model has no classifier"):
        run(tmp_path, "out", stages(tmp_path, TWO))
    assert not (tmp_path / "out").exists()
    learned = {**TWO, "losses": "{labels: 0, logits: 1, features: 1, layers: 1}"}
    summary = run(tmp_path, "out", stages(tmp_path, learned))
    assert summary.finetuned is None
    assert not same(tmp_path / "out", tmp_path / "converted")
    verified(tmp_path / "out")


@pytest.mark.slow
def test_another_size_of_model_is_no_teacher(tmp_path):
    made(tmp_path, "convnext_atto", CONVNEXT, CONV_RECIPE)
    other = tmp_path / "other"
    other.mkdir()
    wider = made(other, "convnext_atto", {**CONVNEXT, "dims": [8, 8, 16, 32]}, CONV_RECIPE)
    with pytest.raises(InputError, match=r"is not what .* was made from"):
        run(tmp_path, "out", stages(tmp_path, TWO), teacher=wider)
    assert not (tmp_path / "out").exists()
